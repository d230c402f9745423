"""A model's graph, traced by torch.fx: its layers by name, what comes before and after one, and parts of it."""

import copy
import difflib
import operator
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_ADDITIONS = {operator.add, operator.iadd, torch.add}
_PRODUCTS = {operator.mul, operator.imul, torch.mul}
_ACTIVATIONS = {F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.leaky_relu, F.elu, F.mish}
_ACTIVATIONS |= {torch.relu, torch.tanh, torch.sigmoid}
_OUT_OF_PLACE = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}
_VIEWS = {operator.getitem, torch.chunk, torch.split, torch.flatten, torch.transpose, torch.permute, torch.unbind}
_VIEWS |= {
    "chunk",
    "split",
    "view",
    "flatten",
    "transpose",
    "permute",
    "unbind",
    "narrow",
    "select",
    "squeeze",
    "unsqueeze",
}
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_NEUTRAL = ("Identity", "Dropout", "Dropout2d", "StochasticDepth", "DropPath")
_TRACING = threading.RLock()
"""While torch.fx traces, it replaces `nn.Module`'s methods for all threads: two traces at once would not undo that."""


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
    """The name of a layer named or passed as a module.

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
        near = difflib.get_close_matches(layer, [n for n, m in modules.items() if is_editable(m)], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see editable_layers(classifier)"
        raise KeyError(f"layer {layer!r} not found in {type(model).__name__}; {hint}")
    module = modules[layer]
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        raise ValueError(
            f"layer {layer!r} is a convolution with {module.groups} groups: each group sees its own channels, so a "
            "direction of keys is not one; choose a layer with groups=1, see editable_layers(classifier)"
        )
    if isinstance(module, nn.Conv2d | nn.Linear) and not is_editable(module):
        raise ValueError(
            f"layer {layer!r}, a {type(module).__name__}, does not use its weight as it stands but scales or makes it "
            "first (weight standardisation, weight norm, a parametrization): what an edit adds would be scaled as "
            "well; choose another layer, see editable_layers(classifier), or make its weight a plain one first"
        )
    if not is_editable(module):
        raise TypeError(f"layer {layer!r} is a {type(module).__name__}: expected a Conv2d or a Linear")
    if shared := sharing(modules, layer):
        raise ValueError(
            f"layer {layer!r} shares its weight with {', '.join(map(repr, shared))}: an edit would change all of them; "
            "choose another layer, or give each a weight of its own (weight = nn.Parameter(weight.clone()))"
        )
    return layer


def sharing(modules: dict[str, nn.Module], layer: str) -> list[str]:
    """Name the other modules that hold the weight of `layer`."""
    own = modules[layer]
    return [name for name, m in modules.items() if m is not own and getattr(m, "weight", None) is own.weight]


def is_editable(module: nn.Module) -> bool:
    """A convolution without groups, or a linear layer, whose output is linear in its weight."""
    known = (isinstance(module, nn.Conv2d) and module.groups == 1) or isinstance(module, nn.Linear)
    known = known and "weight" in module._parameters
    return known and (type(module) in (nn.Conv2d, nn.Linear) or _is_linear_in_weight(module))


@torch.no_grad()
def _is_linear_in_weight(module: nn.Conv2d | nn.Linear) -> bool:
    """Whether equal steps of the weight are equal steps of the output, on one small input."""
    state = {n: t.detach().double() if t.is_floating_point() else t for n, t in _own_tensors(module).items()}
    weight, generator = state["weight"], torch.Generator().manual_seed(0)
    shape = (1, module.in_features) if isinstance(module, nn.Linear) else (1, module.in_channels, *weight.shape[2:])
    inputs, step = (torch.randn(size, generator=generator).to(weight) for size in (shape, weight.shape))
    try:
        outputs = [torch.func.functional_call(module, state | {"weight": weight + a * step}, inputs) for a in range(3)]
    except (RuntimeError, TypeError, ValueError):
        return False
    bend = outputs[2] - 2 * outputs[1] + outputs[0]
    return bool(bend.abs().max() <= 1e-6 * max(float(out.abs().max()) for out in outputs))


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


class _Proxy(fx.Proxy):
    """A proxy that records `x += y` and its like as steps in place; torch.fx's own makes them `x + y`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.itruediv, other)

    def _changed(self, step: Callable, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", step, (self, other), {})


class _Tracer(fx.Tracer):
    """Trace with layers, norms and pools as leaves; a module that cannot be traced becomes a leaf as well.

    What other threads run meanwhile is theirs: it is no part of the trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.opaque: dict[str, str] = {}  # module that could not be traced -> why

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Pass images alone, as `Classifier` does: other arguments of the forward pass keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Steps in place are recorded as such."""
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, qualname: str) -> bool:
        layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
        return isinstance(m, layers) or super().is_leaf_module(m, qualname)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
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
        with _TRACING, evaluating(model):
            graph = fx.GraphModule(model, tracer.trace(model)).graph
    except Exception as error:  # proxies fail in any way the model's own code can fail
        raise ValueError(
            f"torch.fx cannot trace the forward pass of {type(model).__name__} ({type(error).__name__}: {error}). What "
            "branches on the values of tensors must stand in a module of its own, which is then kept whole"
        ) from error
    _read_what_was_changed(model, graph)
    graph.eliminate_dead_code()
    return graph, tracer.opaque


def _read_what_was_changed(model: nn.Module, graph: fx.Graph) -> None:
    """Let what reads a tensor after a step in place (`relu_`, `x += y`) read that step, which changed the tensor."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        changed = node.args[0] if node.args else None
        if not isinstance(changed, fx.Node) or not _is_in_place(model, node) or _is_number(changed):
            continue
        whole = _viewed(changed)
        if whole is not changed and any(order[user] > order[node] for user in whole.users):
            raise ValueError(
                f"the forward pass of {type(model).__name__} changes a view of a tensor in place and reads the whole "
                f"later ({node.name} changes {changed.name} of {whole.name}), which a cut cannot follow: expected a "
                "step that makes a new tensor"
            )
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _is_in_place(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(_module(model, node), "inplace", False))
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.startswith("_")
    return node.op == "call_function" and (node.target in _OUT_OF_PLACE or bool(node.kwargs.get("inplace")))


def _is_number(node: fx.Node) -> bool:
    """Sizes, and what is computed of them alone: they are never changed in place."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel", "item")
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    return bool(node.all_input_nodes) and all(_is_number(source) for source in node.all_input_nodes)


def _viewed(node: fx.Node) -> fx.Node:
    """The tensor of which a node is a view; itself where it is none."""
    views = node.target in _VIEWS if node.op in ("call_method", "call_function") else False
    return _viewed(node.args[0]) if views and isinstance(node.args[0], fx.Node) else node


def call_of(graph: fx.Graph, opaque: dict[str, str], layer: str) -> fx.Node:
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


def _is_scale(node: fx.Node) -> bool:
    """A product with a parameter or a number, such as layer scale."""
    product = node.target in _PRODUCTS or (node.op == "call_method" and node.target in ("mul", "mul_"))
    return product and sum(isinstance(one, fx.Node) and one.op != "get_attr" for one in node.args) == 1


def is_neutral(model: nn.Module, node: fx.Node) -> bool:
    """Dropout and the like, which do nothing in eval mode."""
    module = _module(model, node)
    return node.target is F.dropout or (module is not None and type(module).__name__ in _NEUTRAL)


def is_affine(model: nn.Module, node: fx.Node) -> bool:
    """A step that only scales and shifts each channel in eval mode: batch norm, layer scale, residual sum, dropout."""
    module = _module(model, node)
    if isinstance(module, nn.BatchNorm2d):
        return isinstance(getattr(module, "act", None), nn.Identity | None)  # timm's norm may hold an activation
    return is_neutral(model, node) or _is_addition(node) or _is_scale(node)


def is_in_block(model: nn.Module, node: fx.Node) -> bool:
    """What may stand between a layer and its value: norm, activation, residual sum, pooling."""
    module = _module(model, node)
    if module is None:
        return is_affine(model, node) or node.target in _ACTIVATIONS
    attends = isinstance(module, nn.MultiheadAttention)
    activation = type(module).__module__ == "torch.nn.modules.activation" and not attends
    return activation or isinstance(module, (nn.BatchNorm2d, *_POOLS)) or is_affine(model, node)


def follow(model: nn.Module, node: fx.Node, accepts: Any) -> fx.Node:
    """Walk on from `node` while its only user is a step that `accepts(model, user)`."""
    while len(node.users) == 1 and accepts(model, user := next(iter(node.users))):
        node = user
    return node


def descendants(node: fx.Node) -> set[fx.Node]:
    """A node and all that depends on it."""
    return {node} | _reached(node, lambda one: one.users)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """All that a node depends on, without itself."""
    return _reached(node, lambda one: one.all_input_nodes)


def _reached(node: fx.Node, step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    found, todo = set(), [node]
    while todo:
        new = set(step(todo.pop())) - found
        found |= new
        todo += new
    return found


def parameters_of(model: nn.Module, nodes: Iterable[fx.Node]) -> dict[str, nn.Parameter]:
    """The parameters that nodes use, by their first name in the model; one under several names comes once."""
    modules = [f"{node.target}." for node in nodes if node.op == "call_module"]
    attributes = {node.target for node in nodes if node.op == "get_attr"}
    used = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in attributes or name.startswith(tuple(modules))
    }
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in used}


def beside(model: nn.Module, before: list[fx.Node], earlier: set[fx.Node]) -> set[fx.Node]:
    """Steps that neither follow a layer nor feed it, such as a skip's downsampling; none if they have no parameters."""
    steps = {n for n in before if n not in earlier and n.op not in ("placeholder", "get_attr")}
    read = {source for step in steps for source in step.all_input_nodes if source.op == "get_attr"}
    return steps if parameters_of(model, steps | (read - earlier)) else set()


def subgraph(
    model: nn.Module, nodes: list[fx.Node], inputs: list[fx.Node], outputs: Any, recomputed: Collection[fx.Node] = ()
) -> fx.GraphModule:
    """Build a module of its own that computes `outputs` (nodes, or one node) from `inputs`, running `nodes` in order.

    Its modules are the model's own. What works in place is replaced by what does not, so that kept states stay whole.
    Inputs that are `recomputed` are taken and not used.
    """
    graph, copied = fx.Graph(), {}
    for node in inputs:
        placeholder = graph.placeholder(node.name)
        if node not in recomputed:
            copied[node] = placeholder
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
            module.inplace = module.training = False
            part.set_submodule(node.target, module)
    return part


def _make_out_of_place(node: fx.Node) -> None:
    node.target = _OUT_OF_PLACE.get(node.target, node.target) if node.op == "call_function" else node.target
    if node.op == "call_method" and node.target.endswith("_") and not node.target.startswith("_"):
        node.target = node.target.rstrip("_")
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
