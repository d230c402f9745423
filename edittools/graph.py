"""One graph under everything: what torch.export makes of a model, without writes, on the model's own weights.

    program = program_of(classifier, (224, 224))     # exported once, kept as long as the model lives
    call = program.call_of("features.28")            # the one operation that reads the layer's weight
    program.compute([call], {program.images: x})     # the values of any nodes from those of any others

Nodes are ATen operations. The model is read, never run in another mode, hooked or changed.
"""

import copy
import hashlib
import operator
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from edittools.caching import digest_tensors
from edittools.classifiers import Classifier, check_classifier
from edittools.tokens import TokenGrid, op_name, sizes, token_grids

_ATEN = torch.ops.aten
LINEAR = _ATEN.linear.default
_LAYERS = {_ATEN.conv2d.default, _ATEN.conv2d.padding, LINEAR}
_CHECKS = {_ATEN._assert_tensor_metadata.default, _ATEN._assert_scalar.default}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_CASTS = {_ATEN.to.dtype, _ATEN._to_copy.default}
_REASONS = {
    "data-dependent": "its forward pass branches on the values of tensors",
    "onstraints violated": "its forward pass fixes the number of images (as len(x), or a number in a reshape)",
}
_NOT_READ = {"training", "_edittools_applied"}
_PROGRAMS: WeakKeyDictionary[nn.Module, dict[tuple, "Program"]] = WeakKeyDictionary()
_EXPORTING = threading.RLock()
SLOW = 2.0
"""An export that takes more seconds says so."""


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute in the precision of what is given, also where the caller computes under autocast."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


class Program:
    """A model as one functional graph from normalised images `(B, 3, H, W)` to logits, for one image size."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        """Export `model` for images like these two and check it on them; raise `ValueError` where that fails."""
        self.name, self.marks = type(model).__name__, _marks(model)
        what = f"{self.name} for images of {images.shape[2]} × {images.shape[3]} pixels"
        slow = threading.Timer(SLOW, warnings.warn, (f"exporting {what}, once",))
        slow.start()
        try:
            self.module = _export(model, images)
        except Exception as error:  # models fail in any way on what they were not made for
            first, *_ = str(error).strip().splitlines() or ["no reason given"]
            known = next((reason for sign, reason in _REASONS.items() if sign in str(error)), None)
            raise ValueError(
                f"torch.export cannot read {what}: {known or f'{type(error).__name__}: {first}'}. Expected images of "
                "the model's size, Classifier(…, size=…), and steps that do not depend on the values of images or on "
                "their number"
            ) from error
        finally:
            slow.cancel()
        graph = self.module.graph
        self.nodes = list(graph.nodes)
        [self.images] = graph.find_nodes(op="placeholder")
        [self.logits] = graph.output_node().args[0]
        self._count = self.images.meta["val"].shape[0].node.expr
        self.seen = self.reached([self.images], "users")
        """What depends on the images, and not on their number alone."""
        self._parts: dict[tuple, fx.GraphModule] = {}
        check_logits(self.compute([self.logits], {self.images: images})[0], model, images, f"the graph of {self.name}")

    @without_autocast()
    def compute(
        self, nodes: Iterable[fx.Node], known: Mapping[fx.Node, Tensor], weights: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Compute nodes from the values of others, the first of which also says how many images there are.

        It is done in the precision of the first, with `weights`, by name, in place of the model's own.
        """
        part, (first, value) = self.part(tuple(known), tuple(nodes)), next(iter(known.items()))
        weights = dict(weights or {})
        if value.dtype != first.meta["val"].dtype:
            tensors = (*part.named_parameters(), *part.named_buffers())
            weights = {name: t.to(value.dtype) for name, t in tensors if t.is_floating_point()} | weights
        given = tuple(known.values())
        return torch.func.functional_call(part, weights, given) if weights else part(*given)

    def part(self, known: tuple[fx.Node, ...], nodes: tuple[fx.Node, ...]) -> fx.GraphModule:
        """Build the module that computes `nodes`, once."""
        if (known, nodes) not in self._parts:
            graph = fx.Graph()
            copied = {node: graph.placeholder(node.name) for node in known}
            first = copied[known[0]]
            count = graph.call_function(_ATEN.sym_size.int, (first, 0))

            def copy_of(node: fx.Node) -> fx.Node:
                times = self.times(node.meta.get("val"))
                return graph.call_function(operator.mul, (count, times)) if times else copied[node]

            wanted = self.reached(nodes, "all_input_nodes", known)
            for node in filter(wanted.__contains__, self.nodes):
                copied[node] = new = graph.node_copy(node, copy_of)
                if node.target in _CASTS and self.images.meta["val"].dtype in (*node.args, *node.kwargs.values()):
                    new.target, new.args, new.kwargs = _ATEN.type_as.default, (new.args[0], first), {}
            graph.output(tuple(copied[node] for node in nodes))
            graph.eliminate_dead_code()
            self._parts[known, nodes] = fx.GraphModule(self.module, graph)
        return self._parts[known, nodes]

    def times(self, size: Any) -> int:
        """Say how many times the number of images a size is; 0 of what is no such size."""
        times = size.node.expr / self._count if isinstance(size, torch.SymInt) else 0
        return int(times) if times and times.is_Integer else 0

    def reached(self, nodes: Iterable[fx.Node], step: str, stop: Collection[fx.Node] = ()) -> set[fx.Node]:
        """Give nodes and all that `step` leads to, "users" or "all_input_nodes"; sizes and `stop` are left out."""
        found, todo = set(stop), list(nodes)
        while todo:
            if (node := todo.pop()) not in found and not self.times(node.meta.get("val")):
                found.add(node)
                todo += getattr(node, step)
        return found.difference(stop)

    def call_of(self, layer: str) -> fx.Node:
        """Find the operation of a layer that can be edited; raise `ValueError` with the reason for any other.

        Its weight is read once, as it stands, by a convolution without groups or a linear step; its keys are
        `(B, C)`, maps `(B, C, H, W)` or tokens `(B, …, C)` whose places in the image are known.
        """
        name = f"{layer}.weight"
        readers = [u for node in self.module.graph.find_nodes(op="get_attr", target=name) for u in node.users]
        names = ", ".join(str(node.target).removeprefix("aten.") for node in readers)
        problem = None
        if not readers:
            problem = "its weight is not read as it stands: it is unused, or made from other tensors first"
        elif len(readers) > 1:
            problem = f"its weight is read {len(readers)} times (by {names}), so an edit would change each of them"
        elif (call := readers[0]).target not in _LAYERS or call.args[1].target != name:
            problem = f"its weight is read by {names}, not by a convolution or a linear step alone"
        elif (groups := call.args[6] if len(call.args) > 6 else 1) != 1:
            problem = f"it is a convolution with {groups} groups, each of which sees channels of its own"
        elif self.times(call.args[0].meta["val"].shape[0]) != 1:
            problem = f"its keys {shape_of(call.args[0])} do not hold one image after the other"
        elif self.grids[call] is None:
            problem = f"where its keys {shape_of(call.args[0])} stand in the image cannot be told"
        if problem:
            raise ValueError(f"layer {layer!r} of {self.name}: {problem}; see editable_layers(classifier)")
        return call

    @cached_property
    def grids(self) -> dict[fx.Node, TokenGrid | None]:
        """By convolution or linear step, where its keys stand in the image; None where that cannot be told."""
        return token_grids(self.module, [node for node in self.nodes if node.target in _LAYERS])


def program_of(classifier: Classifier, size: Sequence[int] | None = None) -> Program:
    """Give the program of a classifier for images of `size` (H, W), exported anew where the model is another now.

    Raises `ValueError` for a model that cannot be exported, or that gives no logits of one a class.
    """
    model = check_classifier(classifier).model
    size = tuple(size or (classifier.size, classifier.size))
    like = classifier.normalise(torch.zeros(0, 3, *size))
    with _EXPORTING:
        programs = _PROGRAMS.setdefault(model, {})
        program = programs.get(key := (size, like.dtype, like.device))
        if program is None or program.marks != _marks(model):
            program = programs[key] = Program(model, classifier.normalise(probe_images(size)))
    if (found := shape_of(program.logits)) != (wanted := (len(classifier.classes),)):
        raise ValueError(f"{program.name} gives logits {found} an image: expected {wanted}, one logit a class name")
    return program


def identity(classifier: Classifier, size: Sequence[int] | None = None) -> str:
    """Digest all that a classifier's readings of images of `size` depend on: its program, scaling and class names."""
    program = program_of(classifier, size)
    whole = program.part((program.images,), (program.logits,))
    tensors = dict(whole.named_parameters()) | dict(whole.named_buffers())
    values = digest_tensors(tensors.values(), (f"{name} " for name in tensors))
    scaling = classifier.mean.flatten().tolist(), classifier.std.flatten().tolist(), classifier.size
    return hashlib.sha256(f"{whole.code} {values} {scaling} {classifier.classes}".encode()).hexdigest()[:24]


@torch.no_grad()
@without_autocast()
def check_logits(found: Tensor, model: nn.Module, images: Tensor, what: str) -> None:
    """Raise `ValueError` unless logits are those of the model's own code, with its hooks and in eval mode.

    They are compared bit for bit, but to 1e-4 of the largest on a GPU and with the fast path of
    `nn.MultiheadAttention`, which round differently.
    """
    expected = _Logits(model)(images)
    rounded = found.is_cuda or any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    near = 1e-4 * float(expected.abs().max()) if rounded else 0.0
    if not torch.allclose(found, expected, rtol=0, atol=near, equal_nan=True):
        raise ValueError(
            f"{what} does not compute the model's own logits: expected a model without hooks that change what it "
            "computes, whose steps are the same each time"
        )


def probe_images(size: Sequence[int]) -> Tensor:
    """Make two images `(2, 3, H, W)` that differ, the same each time."""
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Give the shape of what a node computes, without the images' dimension."""
    return sizes(node.meta["val"])[1:]


def _marks(model: nn.Module) -> list:
    """Note what a program rests on: all that modules hold (tensors, modules, hooks, settings), numbers by value."""
    held = [vars(module)[name] for module in model.modules() for name in vars(module) if name not in _NOT_READ]
    parts = [part for one in held for part in (one.values() if isinstance(one, dict) else [one])]
    return [part if isinstance(part, int | float | str) else id(part) for part in parts]


class _Logits(nn.Module):
    """A copy of a model in eval mode that shares its tensors and gives logits alone, not a `ModelOutput`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())} | {id(t): t.detach() for t in held}
        self.model = copy.deepcopy(model, shared).eval()

    def forward(self, images: Tensor) -> Tensor:
        answer = self.model(images)
        logits = getattr(answer, "logits", answer)
        if isinstance(logits, Tensor):
            return logits
        raise TypeError(f"it gives {type(logits).__name__}: expected logits (B, classes), alone or as `.logits`")


@torch.inference_mode(False)
@torch.no_grad()
@without_autocast()
def _export(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """Export a copy without the user's hooks: exporting replaces methods of modules for all threads."""
    _Logits(model)(images)  # a size that the model does not take fails here, in the model's words
    copied, shapes = _Logits(model), ({0: torch.export.Dim("batch", min=2, max=2**20)},)
    for module in copied.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, hook in hooks.items() if not type(hook).__module__.startswith("torch.nn.utils")]:
                del hooks[key]
    program = torch.export.export(copied, (images,), dynamic_shapes=shapes, strict=False)
    functional = _replace_writes(program.graph)
    return _cleaned((program if functional else program.run_decompositions({})).module(), model)


def _replace_writes(graph: fx.Graph) -> bool:
    """Replace `op_` by `op` where nothing else reads its tensor; say whether no write and no region is left.

    Dropouts leave first: in eval mode they give back their input, which their schema does not say.
    """
    for node in graph.nodes:
        if (name := op_name(node).removesuffix("_")) in _DROPOUTS:
            node.replace_all_uses_with(node.args[0], lambda user: user.op != "output")
            if not node.users:
                graph.erase_node(node)
        elif op_name(node).endswith("_") and _is_fresh(node.args[0]):
            node.target = getattr(getattr(_ATEN, name, None), node.target._overloadname, node.target)
    steps = [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OperatorBase)]
    return not any(isinstance(step, torch._ops.HigherOrderOperator) or step._schema.is_mutable for step in steps)


def _is_fresh(node: fx.Node) -> bool:
    """Say whether what a step computes shares no memory with its arguments and has one reader."""
    computed = isinstance(node.target, torch._ops.OpOverload)
    return computed and len(node.users) == 1 and not any(one.alias_info for one in node.target._schema.returns)


def _cleaned(module: fx.GraphModule, model: nn.Module) -> fx.GraphModule:
    """Drop what only checks, and call tensors as the model does, by the first of their names."""
    own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    graph, held = module.graph, {}
    for node in graph.nodes:
        if op_name(node) in _DROPOUTS:  # the model's last step
            node.replace_all_uses_with(node.args[0])
        if node.op == "call_module" or node.target in _CHECKS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in graph.find_nodes(op="get_attr"):
        tensor = operator.attrgetter(node.target)(module)
        node.target = own.get(id(tensor), node.target.removeprefix("model."))
        held[node.target] = tensor
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(held, graph)
