"""Run a model's own forward pass in eval mode, and leave the model as it is.

    with eval_copy(model) as copied:   # a shallow copy that shares the model's parameters
        logits = copied(images)

A forward pass may write buffers, and a module in training mode behaves differently and updates statistics. Both happen
in a copy that is discarded afterwards, so the model never changes, and no copy outlives a change of the model.
"""

import functools
import re
import threading
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()
_MODULE_STORES = {"_parameters", "_buffers", "_modules"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), Tensor, torch.dtype, torch.device, type, types.ModuleType)

_CHANNELS = re.compile(r"to have (?P<channels>\d+) channels, but got (?P<given>\d+) channels")
"""What torch says when a convolution gets another number of channels than it takes."""

_SHARED_TYPES = {bool, int, float, str, type(None), Tensor, nn.Parameter}
"""Types of most attributes, which a copy shares with its model: a fast path before `_redirected`."""


def refuse_inference_mode() -> None:
    """Refuse to look for an edit under `torch.inference_mode()`, which forbids gradients.

    Raises:
        RuntimeError: if this mode is on.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() is on, which forbids the gradients that edits are found with; call this outside of "
            "it (torch.no_grad() is allowed)"
        )


class NotIsolatedError(ValueError):
    """A model whose forward pass reaches its modules through something that cannot be copied, such as a closure."""


class NotLogitsError(ValueError):
    """A model that does not take images of three channels, or does not return one logit per class."""


def lock_of(model: nn.Module) -> threading.RLock:
    """Return the one lock that guards the weights, buffers and modes of a model, and the edits applied to it."""
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute in the precision of the tensors, also where the caller computes under autocast."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def logits_of(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """Compute the logits `(B, classes)` of normalized images by the model's own forward pass.

    Raises:
        NotLogitsError: if the model takes images of another number of channels, or does not return logits, see
            `check_logits_shape`.
    """
    try:
        answer = model(images)
    except RuntimeError as error:
        wanted = _CHANNELS.search(str(error))
        if wanted is None or int(wanted["given"]) != images.shape[1]:
            raise
        raise NotLogitsError(
            f"{type(model).__name__} takes images of {wanted['channels']} channels, but images have "
            f"{images.shape[1]}; if it takes gray images, pass nn.Sequential(torchvision.transforms.Grayscale(), model)"
        ) from error
    return check_logits_shape(answer, len(images), classes, model)


def check_logits_shape(answer: Any, count: int, classes: int, model: nn.Module) -> Tensor:
    """Return the logits `(count, classes)` of a model's answer.

    The answer may be an object with `.logits`, as in `transformers`. The logits `(classes,)` of a single image, from a
    model that squeezes its batch, become `(1, classes)`.

    Raises:
        NotLogitsError: for an answer of another shape, or if it holds probabilities.
    """
    logits = getattr(answer, "logits", answer)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
    if count == 1 and shape == (classes,):
        return logits[None]
    if shape is None:
        raise NotLogitsError(
            f"{type(model).__name__} has returned a {type(logits).__name__}; pass a model that returns logits "
            "(B, classes), alone or as `.logits`"
        )
    if shape != (count, classes):
        raise NotLogitsError(
            f"{type(model).__name__} returned logits of shape {shape} for {count} images, but {classes} class names "
            "were given; pass one name per logit, and a model that returns one row of logits per image"
        )
    if _are_probabilities(logits):
        raise NotLogitsError(
            f"{type(model).__name__} returned probabilities: the {classes} values of each image are not negative and "
            "sum to 1; pass a model that returns logits, without its last softmax (nn.Identity() can replace it)"
        )
    return logits


def _are_probabilities(logits: Tensor) -> bool:
    """Tell whether each of several rows is not negative and sums to 1; a single row of logits may do so by chance."""
    if len(logits) < 2 or not (logits >= 0).all():
        return False
    largest_error = 1e-5 + torch.finfo(logits.dtype).eps
    return bool(((logits.double().sum(dim=1) - 1).abs() <= largest_error).all())


@contextmanager
def eval_copy(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a module that computes what `model` computes in eval mode; a forward pass changes nothing of `model`.

    It is a shallow copy in eval mode that shares the model's parameters and has copies of its buffers. A model that
    cannot be copied this way, since its forward pass is a closure over its own modules, is itself yielded, in eval
    mode and under a lock; its modes and buffers are restored at the end.
    """
    try:
        copied = shallow_copy(model)
    except NotIsolatedError:
        with _restored(model):
            yield model.eval()
        return
    yield copied.eval()


def shallow_copy(model: nn.Module) -> nn.Module:
    """Copy all modules of a model; parameters and plain tensors are shared, buffers are copied.

    References from one module to another are redirected to the copies, also inside lists, dictionaries, bound methods
    and `functools.partial`.

    Raises:
        NotIsolatedError: if a function or another object refers to a module of the model, which would be run
            instead of its copy.
    """
    modules = list(model.modules())
    copies = {id(module): object.__new__(type(module)) for module in modules}
    buffers: dict[int, Tensor] = {}
    for module in modules:
        state = dict(vars(module))
        for name, value in state.items():
            if name == "_buffers":
                state[name] = {key: _copied_buffer(buffer, buffers) for key, buffer in value.items()}
            elif name == "_compiled_call_impl":
                state[name] = None  # what torch.compile made of the module runs the module, not its copy
            elif name in _MODULE_STORES:
                state[name] = {key: copies.get(id(held), held) for key, held in value.items()}
            elif type(value) not in _SHARED_TYPES:
                state[name] = _redirected(value, copies, f"{type(module).__name__}.{name}")
        copies[id(module)].__dict__ = state
    return copies[id(model)]


def _copied_buffer(buffer: Tensor | None, copied: dict[int, Tensor]) -> Tensor | None:
    """Clone a buffer once, also if several modules share it."""
    if buffer is None:
        return None
    if id(buffer) not in copied:
        copied[id(buffer)] = buffer.detach().clone()
    return copied[id(buffer)]


def _redirected(value: Any, copies: dict[int, nn.Module], where: str) -> Any:
    """Return a value of a module's attribute with every module replaced by its copy."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) in (dict, OrderedDict):
        if not value:
            return type(value)()
        redirected = {key: _redirected(item, copies, where) for key, item in value.items()}
        return type(value)(redirected)
    if type(value) in (list, tuple, set):
        return type(value)(_redirected(item, copies, where) for item in value)
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _redirected(value.__self__, copies, where))
    if isinstance(value, functools.partial):
        arguments = _redirected(value.args, copies, where)
        keywords = _redirected(value.keywords, copies, where)
        return functools.partial(_redirected(value.func, copies, where), *arguments, **keywords)
    if _refers_to_a_module(value, copies):
        raise NotIsolatedError(
            f"{where} is a {type(value).__name__} that refers to modules of the model itself, so they cannot be "
            "copied; make them attributes of the module whose forward pass uses them"
        )
    return value


def _refers_to_a_module(value: Any, modules: dict[int, nn.Module], depth: int = 3) -> bool:
    """Tell whether a value refers to one of `modules`, through closures, defaults, globals, attributes or items."""
    if isinstance(value, _PLAIN):
        return False
    if isinstance(value, nn.Module):
        return id(value) in modules
    if depth == 0:
        return False
    return any(_refers_to_a_module(held, modules, depth - 1) for held in _references(value))


def _references(value: Any) -> Iterable[Any]:
    """List what a container, function or object refers to, one level deep."""
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [*value]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if is_filled(cell)]
        used_globals = [value.__globals__.get(name) for name in value.__code__.co_names]
        used_modules = [held for held in used_globals if isinstance(held, nn.Module | list | tuple | dict)]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*cells, *defaults, *used_modules]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return [*getattr(value, "__dict__", {}).values()]


def is_filled(cell: types.CellType) -> bool:
    """Tell whether a cell of a closure has a value: one that refers to itself may not have one yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Hold the model's lock; at the end give its modules their modes, and its buffers their values."""
    with lock_of(model):
        modes = [(module, module.training) for module in model.modules()]
        registered = [(module, dict(module._buffers)) for module in model.modules()]
        values = {buffer: buffer.detach().clone() for buffer in model.buffers()}
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, buffers in registered:
                module._buffers.update(buffers)
            with torch.no_grad():
                for buffer, value in values.items():
                    if not _same_values(buffer, value):
                        buffer.copy_(value)


def _same_values(tensor: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of one shape hold the same bits, NaN included."""
    return torch.equal(tensor.detach().flatten().view(torch.uint8), other.flatten().view(torch.uint8))
