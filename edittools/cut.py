"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # everything that is alive at the layer, its keys among them
    cut.keys(state)                         # what goes into the layer
    cut.output(state, weight)               # what the layer makes of it, with its own or another weight
    cut.block(state, weight)                # the value: the layer and what follows up to it (the paper's f)
    cut.suffix(state, weight)               # the logits

The state is kept, so one more weight of the layer costs the suffix only. `editable_layers` lists what can be cut.
"""

import copy
import difflib
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edittools.models import Classifier, check_classifier

_ADDITIONS = {operator.add, operator.iadd, torch.add}
_ACTIVATIONS = {
    F.relu,
    F.relu6,
    F.gelu,
    F.silu,
    F.hardswish,
    F.leaky_relu,
    F.elu,
    F.mish,
    torch.relu,
    torch.tanh,
    torch.sigmoid,
}
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_NEUTRAL = ("Identity", "Dropout", "Dropout2d", "StochasticDepth", "DropPath")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into eval mode, and every module back into its own mode at the end, also after an exception."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """Give the name of a layer named or passed as a module.

    Editable are `nn.Conv2d` without groups and `nn.Linear`, which is a 1 × 1 convolution. Anything else
    raises `KeyError` (no such layer), `TypeError` or `ValueError`.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        names = [name for name, module in modules.items() if module is layer]
        if not names:
            raise KeyError(f"this {type(layer).__name__} is no layer of the {type(model).__name__}")
        layer = names[0]
    if not isinstance(layer, str):
        raise TypeError(f"layer {layer!r} is a {type(layer).__name__}: expected a name or a module")
    if layer not in modules:
        near = difflib.get_close_matches(layer, [n for n, m in modules.items() if _is_editable(m)], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see editable_layers(classifier)"
        raise KeyError(f"layer {layer!r} not found in {type(model).__name__}; {hint}")
    module = modules[layer]
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        raise ValueError(
            f"layer {layer!r} is a convolution with {module.groups} groups: each group sees its own channels, so a "
            "direction of keys is not one; choose a layer with groups=1, see editable_layers(classifier)"
        )
    if not _is_editable(module):
        raise TypeError(f"layer {layer!r} is a {type(module).__name__}: expected a Conv2d or a Linear")
    if shared := _sharing(modules, layer):
        raise ValueError(
            f"layer {layer!r} shares its weight with {', '.join(map(repr, shared))}: an edit would change all of them; "
            "choose another layer, or give each a weight of its own (weight = nn.Parameter(weight.clone()))"
        )
    return layer


def _sharing(modules: dict[str, nn.Module], layer: str) -> list[str]:
    """Name the other modules that hold the weight of `layer`."""
    own = modules[layer]
    return [name for name, m in modules.items() if m is not own and getattr(m, "weight", None) is own.weight]


def _is_editable(module: nn.Module) -> bool:
    return (isinstance(module, nn.Conv2d) and module.groups == 1) or isinstance(module, nn.Linear)


class _Tracer(fx.Tracer):
    """Trace with layers, norms and pools as leaves; a module that cannot be traced becomes a leaf as well."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, str] = {}  # module that could not be traced -> why

    def is_leaf_module(self, m: nn.Module, qualname: str) -> bool:
        layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
        return isinstance(m, layers) or super().is_leaf_module(m, qualname)

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # proxies fail in any way the module's own code can fail
            name = self.path_of_module(m)
            self.opaque[name] = f"{type(error).__name__}: {error}"
            return self.create_proxy("call_module", name, args, kwargs)


def trace(model: nn.Module) -> tuple[fx.Graph, dict[str, str]]:
    """Trace a model in eval mode into an fx graph; also give the modules that could not be traced, with the reason.

    Raises `ValueError` when the model's own forward pass cannot be traced.
    """
    tracer = _Tracer()
    try:
        with evaluating(model):
            graph = fx.GraphModule(model, tracer.trace(model)).graph
    except Exception as error:  # proxies fail in any way the model's own code can fail
        raise ValueError(
            f"torch.fx cannot trace the forward pass of {type(model).__name__} ({type(error).__name__}: {error}). What "
            "branches on the values of tensors must stand in a module of its own, which is then kept whole"
        ) from error
    graph.eliminate_dead_code()
    return graph, tracer.opaque


def _call_of(graph: fx.Graph, opaque: dict[str, str], layer: str) -> fx.Node:
    """Find the one node that calls `layer`; raise `ValueError` when it cannot be reached or runs more than once."""
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) == 1:
        return calls[0]
    if calls:
        raise ValueError(f"layer {layer!r} runs {len(calls)} times in one forward pass: expected once")
    for name, reason in opaque.items():
        if layer.startswith(f"{name}."):
            raise ValueError(f"layer {layer!r} lies inside {name!r}, which torch.fx cannot trace ({reason})")
    raise ValueError(
        f"layer {layer!r} is never called as a module in the forward pass (attention layers read their weights "
        "directly): expected one of editable_layers(classifier)"
    )


def _module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(node.target) if node.op == "call_module" else None


def _is_addition(node: fx.Node) -> bool:
    return node.target in _ADDITIONS or (node.op == "call_method" and node.target in ("add", "add_"))


def _is_neutral(model: nn.Module, node: fx.Node) -> bool:
    """Dropout and the like, which do nothing in eval mode."""
    module = _module(model, node)
    return node.target is F.dropout or (module is not None and type(module).__name__ in _NEUTRAL)


def _is_affine(model: nn.Module, node: fx.Node) -> bool:
    """A step that only scales and shifts each channel in eval mode: batch norm, the residual sum, dropout."""
    module = _module(model, node)
    if isinstance(module, nn.BatchNorm2d):
        return isinstance(getattr(module, "act", None), nn.Identity | None)  # timm's norm may hold an activation
    return _is_neutral(model, node) or _is_addition(node)


def _is_in_block(model: nn.Module, node: fx.Node) -> bool:
    """What may stand between a layer and its value: norm, activation, residual sum, pooling."""
    module = _module(model, node)
    if module is None:
        return _is_affine(model, node) or node.target in _ACTIVATIONS
    activation = type(module).__module__ == "torch.nn.modules.activation" and not isinstance(
        module, nn.MultiheadAttention
    )
    return activation or isinstance(module, (nn.BatchNorm2d, *_POOLS)) or _is_affine(model, node)


def _follow(model: nn.Module, node: fx.Node, accepts: Any) -> fx.Node:
    """Walk on from `node` while its only user is a step that `accepts(model, user)`."""
    while len(node.users) == 1 and accepts(model, user := next(iter(node.users))):
        node = user
    return node


def _descendants(node: fx.Node) -> set[fx.Node]:
    found, todo = {node}, [node]
    while todo:
        for user in todo.pop().users:
            if user not in found:
                found.add(user)
                todo.append(user)
    return found


def _subgraph(model: nn.Module, nodes: list[fx.Node], inputs: list[fx.Node], outputs: Any) -> fx.GraphModule:
    """Build a module of its own that computes `outputs` (nodes, or one node) from `inputs`, running `nodes` in order.

    Its modules are the model's own. What works in place is replaced by what does not, so that kept states stay whole.
    """
    graph, copied = fx.Graph(), {}
    for node in inputs:
        copied[node] = graph.placeholder(node.name)
    for node in nodes:
        if node not in copied:
            copied[node] = graph.node_copy(node, lambda n: copied[n])
            _make_out_of_place(copied[node])
    graph.output(tuple(copied[n] for n in outputs) if isinstance(outputs, list) else copied[outputs])
    part = fx.GraphModule(model, graph)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()
    for node in part.graph.nodes:
        if node.op == "call_module" and getattr(part.get_submodule(node.target), "inplace", False):
            module = copy.copy(part.get_submodule(node.target))
            module.inplace = False
            part.set_submodule(node.target, module)
    return part


def _make_out_of_place(node: fx.Node) -> None:
    node.target = _OUT_OF_PLACE.get(node.target, node.target) if node.op == "call_function" else node.target
    if node.op == "call_method" and node.target.endswith("_") and not node.target.startswith("_"):
        node.target = node.target.rstrip("_")
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}


def as_channels_first(tensor: Tensor, linear: bool) -> Tensor:
    """See keys or values as `(B, C, H, W)`: maps, vectors `(B, C)`, tokens `(B, N, C)` or `(B, H, W, C)`.

    Tokens on a square grid with an extra first token (class token) come as `(B, C, N, 1)`; see `mask_at`.
    """
    if not linear:
        return tensor
    if tensor.ndim == 2:
        return tensor[:, :, None, None]
    if tensor.ndim == 3:
        side = isqrt(tensor.shape[1])
        tensor = tensor.transpose(1, 2)
        return tensor.unflatten(2, (side, side)) if side * side == tensor.shape[2] else tensor.unsqueeze(3)
    return tensor.movedim(-1, 1)


def mask_at(mask: Tensor, like: Tensor) -> Tensor:
    """Pool masks `(B, H, W)` to the positions of `like` `(B, C, h, w)`: shares in [0, 1], `(B, h, w)`.

    For tokens `(B, C, N, 1)` with a class token in front, the mask covers the grid and is 0 at the class token.
    """
    height, width = like.shape[-2:]
    side = isqrt(height - 1) if width == 1 and height > 1 else 0
    if side and side * side == height - 1:
        grid = F.adaptive_avg_pool2d(mask[:, None], (side, side)).flatten(1)
        return F.pad(grid, (1, 0))[:, :, None]
    return F.adaptive_avg_pool2d(mask[:, None], (height, width))[:, 0]


@dataclass(frozen=True)
class State:
    """What is alive where a classifier was cut: the layer's keys and, say, the skip of a residual block."""

    alive: tuple[Any, ...]


class Cut:
    """A classifier cut at one layer, by name or module. The classifier itself is neither copied nor changed.

    Raises `KeyError`, `TypeError` or `ValueError` when there is no such layer, when it is no ungrouped convolution or
    linear layer, or when torch.fx cannot reach it.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, traced: tuple | None = None) -> None:
        """Trace the classifier (or use `traced`, from `trace(classifier.model)`) and cut it at `layer`."""
        self.classifier, self.model = check_classifier(classifier), classifier.model
        self.layer = find_layer(self.model, layer)
        self.module = self.model.get_submodule(self.layer)
        self.is_linear = isinstance(self.module, nn.Linear)
        graph, opaque = traced or trace(self.model)
        call = _call_of(graph, opaque, self.layer)
        behind = _descendants(call)
        nodes = [node for node in graph.nodes if node.op != "output"]
        before = [n for n in nodes if n not in behind]
        after = [n for n in nodes if (n in behind and n is not call) or n.op == "get_attr"]
        [images] = [node for node in graph.nodes if node.op == "placeholder"][:1]
        [logits] = graph.output_node().args
        if not isinstance(logits, fx.Node):
            raise ValueError(
                f"{type(self.model).__name__} gives {type(logits).__name__}: expected logits (B, classes) alone, "
                "by a small module around it, for example"
            )
        keys = call.args[0]
        alive = [keys] + [n for n in before if n not in (keys, *after) and any(user in behind for user in n.users)]
        value, affine = _follow(self.model, call, _is_in_block), _follow(self.model, call, _is_affine)
        placeholders = [call, *alive]
        self._prefix = _subgraph(self.model, before, [images], alive)
        self._value = _subgraph(self.model, after, placeholders, value)
        self._affine = _subgraph(self.model, after, placeholders, affine)
        self._logits = _subgraph(self.model, after, placeholders, logits)
        self.value_name = value.name
        self._graph, self._images, self._alive = graph, images, alive

    @property
    def weight(self) -> Tensor:
        """The layer's own weight, `(out, in, kh, kw)` or, for a linear layer, `(out, in)`."""
        return self.module.weight

    @torch.no_grad()
    def prefix(self, images: Tensor) -> State:
        """Run `(B, 3, H, W)` images up to the layer; no gradient is recorded."""
        with evaluating(self.model):
            return State(self._prefix(self.classifier.normalise(images)))

    def keys(self, state: State) -> Tensor:
        """Give what goes into the layer, as the layer takes it."""
        return state.alive[0]

    def output(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Give what the layer alone makes of the keys, with its own weight or with `weight`."""
        if weight is None:
            return self.module(state.alive[0])
        return torch.func.functional_call(self.module, {"weight": weight}, (state.alive[0],))

    def value(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the value."""
        with evaluating(self.model):
            return self._value(output, *state.alive)

    def affine(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output through the steps that scale and shift each channel, up to the activation."""
        with evaluating(self.model):
            return self._affine(output, *state.alive)

    def logits(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the logits `(B, classes)`."""
        with evaluating(self.model):
            return self._logits(output, *state.alive)

    def block(self, state: State, weight: Tensor | None = None) -> Tensor:
        """The paper's f: the layer and what follows up to the value (norm, activation, residual sum, pooling)."""
        return self.value(state, self.output(state, weight))

    def suffix(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Give the logits `(B, classes)`, from the layer on."""
        return self.logits(state, self.output(state, weight))

    @property
    def rest(self) -> fx.GraphModule:
        """What follows the layer, as a module `(output, *state.alive) -> logits` with the model's own parameters."""
        return self._logits


@torch.no_grad()
def prefixes(cuts: Sequence[Cut], images: Tensor) -> list[State]:
    """Run `(B, 3, H, W)` images once and give the state at every cut; the cuts come from one `cut_all`."""
    first = cuts[0]
    if any(cut._graph is not first._graph for cut in cuts):
        raise ValueError("cuts of several traces: expected cuts made together by cut_all")
    wanted = list(dict.fromkeys(node for cut in cuts for node in cut._alive))
    nodes = [node for node in first._graph.nodes if node.op != "output"]
    together = _subgraph(first.model, nodes, [first._images], wanted)
    with evaluating(first.model):
        values = dict(zip(wanted, together(first.classifier.normalise(images)), strict=True))
    return [State(tuple(values[node] for node in cut._alive)) for cut in cuts]


class _Shapes(fx.Interpreter):
    """Runs a graph and notes, for each module, the shapes that go in and come out."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(model, graph))
        self.shapes: dict[str, tuple] = {}

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        result = super().call_module(target, args, kwargs)
        if args and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            self.shapes[target] = tuple(args[0].shape[1:]), tuple(result.shape[1:])
        return result


@torch.no_grad()
def editable_layers(classifier: Classifier, size: int | None = None) -> pd.DataFrame:
    """List the layers that can be edited, from first to last.

    One row a layer: `layer` (name), `kind`, `weight` (shape), `stride`, `keys` and `output` (shapes without the batch),
    `value` (name of the step where its block ends), `position` (0 first … 1 last) and `in_paper`, true of convolutions:
    linear layers, such as the MLPs of a transformer, can be edited as well, but the paper edits none.
    """
    model = check_classifier(classifier).model
    graph, _ = trace(model)
    shapes, modules = _Shapes(model, graph), dict(model.named_modules())
    size = size or classifier.size
    try:
        with evaluating(model):
            shapes.run(classifier.normalise(torch.zeros(1, 3, size, size, device=classifier.device)))
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} fails on images of {size} × {size} pixels ({error}): expected another size, "
            "Classifier(model, classes, size=…)"
        ) from error
    calls = [n for n in graph.nodes if n.op == "call_module" and _is_editable(model.get_submodule(n.target))]
    names = [n.target for n in calls]
    rows = []
    for i, node in enumerate(calls):
        if names.count(node.target) > 1 or _sharing(modules, node.target):
            continue
        module = model.get_submodule(node.target)
        rows.append({
            "layer": node.target,
            "kind": "linear" if isinstance(module, nn.Linear) else "conv {}x{}".format(*module.kernel_size),
            "weight": tuple(module.weight.shape),
            "stride": getattr(module, "stride", (1, 1))[0],
            "keys": shapes.shapes[node.target][0],
            "output": shapes.shapes[node.target][1],
            "value": _follow(model, node, _is_in_block).name,
            "position": i / max(len(calls) - 1, 1),
            "in_paper": isinstance(module, nn.Conv2d),
        })  # fmt: skip
    return pd.DataFrame(rows)


def cut_all(classifier: Classifier, layers: Sequence[str | nn.Module]) -> dict[str, Cut]:
    """Cut a classifier at several layers, tracing it once."""
    traced = trace(check_classifier(classifier).model)
    return {(cut := Cut(classifier, layer, traced)).layer: cut for layer in layers}


def convolutions(classifier: Classifier) -> tuple[str, ...]:
    """Name the layers that the paper edits, from first to last: all convolutions that can be edited."""
    table = editable_layers(classifier)
    return tuple(table.layer[table.in_paper])
