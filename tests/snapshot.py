"""Notes of a model, by which tests see that it was left as it was."""

import weakref
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

_IGNORED_ATTRIBUTES = {"training", "_edittools_applied", "_parameters", "_buffers", "_non_persistent_buffers_set"}
_BY_VALUE = {bool, int, float, str, bytes, type(None)}
_HOOKS = {dict, OrderedDict}


class _Reference:
    """Compare an object by identity, through a weak reference: a new object at the same address is another one."""

    def __init__(self, held: Any) -> None:
        try:
            self._held = weakref.ref(held)
        except TypeError:
            self._held = lambda: held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reference) and self._held() is not None and self._held() is other._held()

    __hash__ = None


def snapshot_of(model: nn.Module) -> list:
    """Note all of a model but the values of its tensors: modules, hooks, settings, and the kinds of its tensors."""
    state: list = []
    numbers: dict[int, int] = {}
    noted: set[int] = set()
    for module in model.modules():
        state.append(_Reference(module))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            kind = None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.device)
            state.append((name, kind, numbers.setdefault(id(tensor), len(numbers))))
        for name, value in vars(module).items():
            if name in _IGNORED_ATTRIBUTES:
                continue
            state.append(name)
            if type(value) in _BY_VALUE or (type(value) is tuple and _BY_VALUE.issuperset(map(type, value))):
                state.append(value)
            elif type(value) in _HOOKS and not value:
                state.append(())
            else:
                state.append(_noted(value, noted))
    return state


def _noted(value: Any, noted: set[int], depth: int = 3) -> Any:
    """Note a setting so that a change of it shows: numbers and text by value, containers by item, the rest by object.

    The attributes of an object that many modules hold, such as a configuration, are noted once.
    """
    if isinstance(value, int | float | str | bytes | type(None)):
        return value
    if isinstance(value, Tensor):
        return (_Reference(value), value.data_ptr())
    if not depth or isinstance(value, nn.Module | type) or callable(value) or id(value) in noted:
        return _Reference(value)
    if isinstance(value, dict):
        return [(str(key), _noted(item, noted, depth - 1)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_noted(item, noted, depth - 1) for item in value]
    noted.add(id(value))
    attributes = getattr(value, "__dict__", {})
    return (_Reference(value), [(name, _noted(item, noted, depth - 1)) for name, item in attributes.items()])
