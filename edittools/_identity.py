"""A content hash of a classifier, which is part of the key under which results are cached on disk."""

import functools
import hashlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edittools._caching import digest_tensors
from edittools._inference import eval_copy, is_filled, without_autocast
from edittools.classifiers import Classifier

_LIBRARIES = ("torch", "timm", "transformers", "open_clip", "numpy", "builtins")
_NOT_READ = {"training", "_edittools_applied", "_parameters", "_buffers", "_modules"}
_HOOKS = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}
"""Dictionaries whose keys are numbers that torch counts up, and differ where the hooks are the same."""
_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@torch.no_grad()
@without_autocast()
def identity(classifier: Classifier) -> str:
    """Digest everything that a classifier's predictions depend on; nothing is exported for it.

    These are its tensors, the settings and the code of its modules, its hooks, preprocessing and class names. A setting
    that none of these shows, such as a global variable, may still show in the logits of two images, of which three
    coarse statistics are part of the digest.
    """
    model = classifier.model
    parts: list[str] = [torch.__version__]
    for name, module in model.named_modules():
        parts.append(f"{name}: {_described(type(module), set())}")
        attributes = {key: value for key, value in vars(module).items() if key not in _NOT_READ}
        settings = {key: list(value.values()) if key in _HOOKS else value for key, value in attributes.items()}
        parts.append(_described(settings, {id(model)}))
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    parts.append(digest_tensors(tensors.values(), (f"{name} " for name in tensors)))
    parts.append(f"{classifier.mean.flatten().tolist()} {classifier.std.flatten().tolist()} {classifier.classes}")
    parts.append(f"{classifier.size} {classifier.channel_order} {_logit_statistics(classifier)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _logit_statistics(classifier: Classifier) -> str:
    """Summarize the logits of two images by three numbers, so coarse that rounding errors hardly ever show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, classifier.size, classifier.size, generator=generator)
    with eval_copy(classifier.model) as copied:
        answer = copied(classifier.normalize(images))
    logits = getattr(answer, "logits", answer).float()
    spread = float(logits.std())
    mean = round(float(logits.mean()) / max(spread, 1e-12), 2)
    return f"{mean + 0.0:.2f} {spread:.2e} {float(logits.abs().max()):.2e}"


def _described(value: Any, described: set[int], depth: int = 6) -> str:
    """Describe a setting so that it reads the same in another process, and differently where it has changed.

    Functions are described by their code, closure and defaults, objects by their kind and attributes, tensors and
    arrays by their contents. What was described before, or is nested too deeply, is described by its kind.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, _VALUES):
        return repr(value)
    if isinstance(value, Tensor):
        return digest_tensors([value])
    if isinstance(value, np.ndarray | np.generic):
        return f"{kind} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if depth == 0 or id(value) in described:
        return kind
    described = described | {id(value)}
    inner = functools.partial(_described, described=described, depth=depth - 1)
    if isinstance(value, Mapping):
        return f"{kind} {[(str(key), inner(item)) for key, item in value.items()]}"
    if isinstance(value, list | tuple):
        return f"{kind} {[inner(item) for item in value]}"
    if isinstance(value, set | frozenset):
        return f"{kind} {sorted(inner(item) for item in value)}"
    if isinstance(value, types.FunctionType):
        cells = [inner(cell.cell_contents) for cell in value.__closure__ or () if is_filled(cell)]
        defaults = inner((value.__defaults__, value.__kwdefaults__))
        return f"{value.__qualname__} {_code_of(value.__code__)} {cells} {defaults}"
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} {inner(value.__func__)}"
    if isinstance(value, functools.partial):
        return f"{inner(value.func)} {inner(value.args)} {inner(value.keywords)}"
    if isinstance(value, type):
        return _described_class(value, inner)
    if isinstance(value, types.BuiltinFunctionType | types.ModuleType):
        return f"{kind} {value.__name__}"
    if isinstance(value, nn.Module):
        state = {name: inner(item) for name, item in vars(value).items() if name != "training"}
        return f"{kind} {state}"
    attributes = {name: inner(item) for name, item in getattr(value, "__dict__", {}).items()}
    return f"{kind} {attributes}"


def _described_class(kind: type, inner: Callable[[Any], str]) -> str:
    """Describe a class by its name and, unless it belongs to a library, by its methods and attributes."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] not in _LIBRARIES]
    held = {
        f"{base.__qualname__}.{key}": item
        for base in bases
        for key, item in vars(base).items()
        if not key.startswith("__") or key in ("__call__", "__init__")
    }
    return f"{name} {[(key, inner(item)) for key, item in held.items()]}"


def _code_of(code: types.CodeType) -> str:
    """Describe compiled code by its instructions, names and constants, and those of functions within."""
    constants = [_constant(item) for item in code.co_consts]
    return f"{hashlib.sha256(code.co_code).hexdigest()} {code.co_names} {constants}"


def _constant(value: Any) -> str:
    """Describe a constant of compiled code; the order of a set differs from process to process."""
    if isinstance(value, types.CodeType):
        return _code_of(value)
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(_constant, value))}"
    if isinstance(value, tuple):
        return f"tuple {[_constant(item) for item in value]}"
    return repr(value)
