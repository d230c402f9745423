"""Run a model's own forward pass in eval mode, and leave the model as it is.

    logits = eval_copy(model)(images)   # a copy that shares the model's parameters

A forward pass may write buffers, and a module in training mode behaves differently and updates statistics. Both happen
in a copy that is discarded afterwards, so the model never changes, and no copy outlives a change of the model.
"""

import functools
import threading
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


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


class NotLogitsError(ValueError):
    """A model that does not return one logit per class."""


def lock_of(model: nn.Module) -> threading.RLock:
    """Return the one lock that guards the weights of a model, and the edits applied to it."""
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
        NotLogitsError: if the model does not return logits, see `check_logits_shape`.
    """
    return check_logits_shape(model(images), len(images), classes, model)


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


def eval_copy(model: nn.Module) -> nn.Module:
    """Copy a model in eval mode; running the copy changes nothing of the model.

    The copy shares the parameters of the model, and has copies of its modules and buffers. References from one module
    to another lead to the copies, also inside lists, dictionaries, bound methods and `functools.partial`. Other objects
    are shared; what a function refers to, such as a module in a closure, is run itself.
    """
    modules = list(model.modules())
    copies = {id(module): object.__new__(type(module)) for module in modules}
    buffers = {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    for module in modules:
        state = {name: _redirected(value, copies) for name, value in vars(module).items()}
        state["_buffers"] = {name: buffers.get(id(buffer)) for name, buffer in module._buffers.items()}
        state.pop("_compiled_call_impl", None)  # what torch.compile made of the module runs the module, not its copy
        copies[id(module)].__dict__ = state
    return copies[id(model)].eval()


def _redirected(value: Any, copies: Mapping[int, nn.Module]) -> Any:
    """Return a value with every module in it replaced by its copy."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _redirected(item, copies)) for key, item in value.items())
    if type(value) in (list, tuple, set):
        return type(value)(_redirected(item, copies) for item in value)
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _redirected(value.__self__, copies))
    if isinstance(value, functools.partial):
        arguments = _redirected(value.args, copies)
        keywords = _redirected(value.keywords, copies)
        return functools.partial(_redirected(value.func, copies), *arguments, **keywords)
    return value
