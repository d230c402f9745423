"""One graph under everything: what torch.export makes of a model, without writes, on the model's own weights.

    program = program_of(classifier, (224, 224))     # exported once, kept as long as the model lives
    call = program.call_of("features.28")            # the one operation that reads the layer's weight
    part = program.part([program.images], [call])    # a module from any nodes to any others

Nodes are ATen operations. The model is read, never run in another mode, hooked or changed.
"""

import copy
import hashlib
import itertools
import logging
import operator
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from edittools.caching import digest_tensors
from edittools.classifiers import Classifier, check_classifier
from edittools.tokens import TokenGrid, token_grids

_ATEN = torch.ops.aten
CONVOLUTIONS = {_ATEN.conv2d.default, _ATEN.conv2d.padding}
LINEAR = _ATEN.linear.default
_NOTES = {_ATEN._assert_tensor_metadata.default, _ATEN._assert_scalar.default}
_GIVE_BACK = {_ATEN.dropout.default, _ATEN.feature_dropout.default, _ATEN.alpha_dropout.default}
"""Dropouts give back their input in eval mode, which their schema does not say."""
DIFFERS = (
    "{} does not compute the model's own logits: expected a model without hooks that change what it computes, whose "
    "steps are the same each time"
)
_REASONS = {
    "data-dependent": "its forward pass branches on the values of tensors",
    "onstraints violated": "its forward pass fixes the number of images (as len(x), or a number in a reshape)",
}
_OUR_AND_TORCH_S = {*vars(nn.Module()), "_edittools_applied"}
"""What a module holds beside the settings of its own."""
_PROGRAMS: WeakKeyDictionary[nn.Module, dict[tuple, "Program"]] = WeakKeyDictionary()
_EXPORTING = threading.RLock()


class Program:
    """A model as one functional graph from normalised images `(B, 3, H, W)` to logits, for one image size."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        """Export `model` for images like these two and check it on them; raise `ValueError` where that fails."""
        logits = logits_now(model, images)
        self.name, self.marks = type(model).__name__, _marks(model)
        self.module = _cleaned(_export(model, images), model)
        self.order = {node: i for i, node in enumerate(self.module.graph.nodes)}
        self.images = next(node for node in self.order if node.op == "placeholder")
        self.logits = self.module.graph.output_node().args[0][0]
        self.count, self.dtype = self.images.meta["val"].shape[0], self.images.meta["val"].dtype
        self.readers: dict[str, list[fx.Node]] = {}
        for node in self.order:
            if node.op == "get_attr":
                self.readers.setdefault(node.target, []).extend(node.users)
        self.seen = reached([self.images], self.users)
        """What depends on the images, and not on their number alone."""
        self._parts: dict[tuple, fx.GraphModule] = {}
        self.whole = self.part([self.images], [self.logits])
        if not same(run(self.whole, images)[0], logits, model):
            raise ValueError(DIFFERS.format(f"the graph of {self.name}"))

    def part(
        self, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node], recomputed: Collection[fx.Node] = ()
    ) -> fx.GraphModule:
        """Build the module that computes `outputs`, a tuple, from `inputs`, with the model's own weights; once.

        The first input counts the images. Inputs that are `recomputed` are taken and not used.
        """
        key = tuple(inputs), tuple(outputs), bool(recomputed)
        if key not in self._parts:
            graph = fx.Graph()
            copied = {node: graph.placeholder(node.name) for node in inputs}
            first = copied[inputs[0]]
            count = graph.call_function(_ATEN.sym_size.int, (first, 0))
            known = {node: new for node, new in copied.items() if node not in recomputed}
            for node in sorted(reached(outputs, self.sources, known), key=self.order.get):
                if times := self.times(node):
                    known[node] = graph.call_function(operator.mul, (count, times))
                    continue
                known[node] = graph.node_copy(node, known.__getitem__)
                if node.target is _ATEN.to.dtype and node.args[1] is self.dtype:  # the precision of what is given
                    known[node].target, known[node].args = _ATEN.type_as.default, (known[node].args[0], first)
            graph.output(tuple(known[node] for node in outputs))
            graph.eliminate_dead_code()
            self._parts[key] = fx.GraphModule(self.module, graph)
        return self._parts[key]

    def counts_images(self, size: int | torch.SymInt) -> bool:
        """Say whether a size is the number of images, whatever that is."""
        return isinstance(size, torch.SymInt) and size.node.expr == self.count.node.expr

    def times(self, node: fx.Node) -> int:
        """Say how many times the number of images a size is; 0 of what is no such size."""
        size = node.meta.get("val")
        times = size.node.expr / self.count.node.expr if isinstance(size, torch.SymInt) else 0
        return int(times) if times and times.is_Integer else 0

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """List what a node is computed from; sizes are computed from the number of images."""
        return [] if self.times(node) else node.all_input_nodes

    def users(self, node: fx.Node) -> list[fx.Node]:
        """List what is computed from a node, beside sizes."""
        return [user for user in node.users if not self.times(user)]

    @property
    def layers(self) -> dict[str, fx.Node]:
        """The layers that can be edited, in the order in which they run, each with its operation."""
        found = {}
        for name in self.readers:
            with suppress(ValueError):
                layer = name.removesuffix(".weight")
                found[layer] = self.call_of(layer)
        return dict(sorted(found.items(), key=lambda item: self.order[item[1]]))

    def call_of(self, layer: str) -> fx.Node:
        """Find the operation of a layer that can be edited; raise `ValueError` with the reason for any other.

        Its weight is read once, as it stands, by a convolution without groups or a linear step; its keys are
        `(B, C)`, maps `(B, C, H, W)` or tokens `(B, …, C)` whose places in the image are known.
        """
        reading = self.readers.get(f"{layer}.weight", [])
        names = ", ".join(str(node.target).removeprefix("aten.") for node in reading)
        problem = None
        if not reading:
            problem = "its weight is not read as it stands: it is unused, or made from other tensors first"
        elif len(reading) > 1:
            problem = f"its weight is read {len(reading)} times (by {names}), so an edit would change each of them"
        elif reading[0].target not in {*CONVOLUTIONS, LINEAR} or reading[0].args[1].target != f"{layer}.weight":
            problem = f"its weight is read by {names}, not by a convolution or a linear step alone"
        elif groups_of(reading[0]) != 1:
            problem = f"it is a convolution with {groups_of(reading[0])} groups, each of which sees channels of its own"
        elif not self.counts_images(reading[0].args[0].meta["val"].shape[0]):
            problem = f"its keys {shape_of(reading[0].args[0])} do not hold one image after the other"
        elif self.grids[reading[0]] is None:
            problem = f"where its keys {shape_of(reading[0].args[0])} stand in the image cannot be told"
        if problem:
            raise ValueError(f"layer {layer!r} of {self.name}: {problem}; see editable_layers(classifier)")
        return reading[0]

    @cached_property
    def grids(self) -> dict[fx.Node, TokenGrid | None]:
        """By convolution or linear step, where its keys stand in the image; None where that cannot be told."""
        return token_grids(self.module, [n for n in self.order if n.target in {*CONVOLUTIONS, LINEAR}])

    @property
    def identity(self) -> str:
        """A digest of all that the logits depend on: the code, its constants and the tensors it reads, as now."""
        tensors = dict(itertools.chain(self.whole.named_parameters(), self.whole.named_buffers()))
        code = hashlib.sha256(self.whole.code.encode()).hexdigest()
        return f"{code} {digest_tensors(tensors.values(), (f'{name} ' for name in tensors))}"

    def forget(self) -> None:
        """Let the program be exported anew at its next use."""
        self.marks = None


def program_of(classifier: Classifier, size: tuple[int, int] | None = None) -> Program:
    """Give the program of a classifier for images of `size` (H, W), exported anew where the model is another now.

    Raises `ValueError` for a model that cannot be exported, or that gives no logits of one a class.
    """
    model = check_classifier(classifier).model
    size = tuple(size or (classifier.size, classifier.size))
    images = classifier.normalise(torch.zeros(0, 3, *size))
    key = (size, images.dtype, images.device)
    program = _PROGRAMS.get(model, {}).get(key)
    if program is None or program.marks != _marks(model):
        with _EXPORTING:
            program = _PROGRAMS.get(model, {}).get(key)
            if program is None or program.marks != _marks(model):
                images = classifier.normalise(probe_images(size))
                program = _PROGRAMS.setdefault(model, {})[key] = Program(model, images)
    if (found := shape_of(program.logits)) != (wanted := (len(classifier.classes),)):
        raise ValueError(f"{program.name} gives logits {found} an image: expected {wanted}, one logit a class name")
    return program


def identity(classifier: Classifier) -> str:
    """Digest all that a classifier's readings depend on: its program, scaling, size and class names."""
    scaling = f"{classifier.mean.flatten().tolist()} {classifier.std.flatten().tolist()} {classifier.size}"
    about = f"{program_of(classifier).identity} {scaling} {classifier.classes}"
    return hashlib.sha256(about.encode()).hexdigest()[:24]


def without_autocast(function: Callable) -> Callable:
    """Let a function compute in the precision of what it is given, also where its caller computes under autocast."""

    @wraps(function)
    def wrapped(*given: Any, **settings: Any) -> Any:
        with ExitStack() as stack:
            for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*given, **settings)

    return wrapped


@without_autocast
def run(part: fx.GraphModule, *inputs: Tensor, parameters: dict[str, Tensor] | None = None) -> tuple[Tensor, ...]:
    """Run a part of a program, with `parameters` by name in place of its own; autocast does not reach into it."""
    return torch.func.functional_call(part, parameters, inputs) if parameters else part(*inputs)


@torch.no_grad()
@without_autocast
def logits_now(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model by its own code, in eval mode; raise `ValueError` where it fails or gives no logits."""
    kind, size = type(model).__name__, " × ".join(map(str, images.shape[2:]))
    try:
        logits = _Logits(plain_copy(model, hooks=True))(images)
    except Exception as error:  # models fail in any way on what they were not made for
        raise ValueError(
            f"{kind} fails on images of {size} pixels ({type(error).__name__}: {error}): "
            "expected another size, Classifier(model, classes, size=…)"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{kind} gives {found}: expected logits (B, classes), alone or as `.logits`")
    return logits


def same(found: Tensor, expected: Tensor, model: nn.Module) -> bool:
    """Say whether logits are equal, bit for bit where hardware and attention's fast path allow it."""
    rounded = found.is_cuda or any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    near = 1e-4 * float(expected.abs().max()) if rounded else 0.0
    return torch.allclose(found, expected, rtol=0, atol=near, equal_nan=True)


def probe_images(size: Sequence[int]) -> Tensor:
    """Make two images `(2, 3, H, W)` that differ, the same each time."""
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def plain_copy(model: nn.Module, hooks: bool = False) -> nn.Module:
    """Copy a model in eval mode, all tensors shared; without `hooks` only those of torch that make weights stay."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    tensors = itertools.chain(model.parameters(), model.buffers())
    shared = {id(t): t for t in tensors} | {id(t): t.detach() for t in held}
    copied = copy.deepcopy(model, shared).eval()
    for held in (held for m in copied.modules() for held in (m._forward_hooks, m._forward_pre_hooks) if not hooks):
        for key in [key for key, hook in held.items() if not type(hook).__module__.startswith("torch.nn.utils")]:
            del held[key]
    return copied


def op_name(node: fx.Node) -> str:
    """Name the ATen operation of a node, without its overload; "" of any other node."""
    return node.target._schema.name.split("::")[1] if isinstance(node.target, torch._ops.OpOverload) else ""


def groups_of(call: fx.Node) -> int:
    """Give the groups of a convolution; 1 of a linear step."""
    return call.args[6] if len(call.args) > 6 else 1


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Give the shape of what a node computes, without the images' dimension."""
    return tuple(int(size) for size in node.meta["val"].shape[1:])


def reached(
    nodes: Sequence[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]], stop: Collection[fx.Node] = ()
) -> set[fx.Node]:
    """Give nodes and all that `step` leads to from them, but nothing of `stop`."""
    found, todo = set(), [node for node in nodes if node not in stop]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [other for other in step(node) if other not in stop]
    return found


def _marks(model: nn.Module) -> list:
    """Note what a program rests on: tensors, modules, hooks and what modules hold, numbers by value."""
    marks: list = [id(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())]
    for module in model.modules():
        marks += [id(module), *map(id, module._forward_hooks.values()), *map(id, module._forward_pre_hooks.values())]
        held = [value for name, value in vars(module).items() if name not in _OUR_AND_TORCH_S]
        marks += [value if isinstance(value, int | float | str) else id(value) for value in held]
    return marks


class _Logits(nn.Module):
    """A model that gives logits alone, also where its own answer holds more (`ModelOutput.logits`)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        found = self.model(images)
        return getattr(found, "logits", found)


@without_autocast
def _export(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """Export a copy of a model, since exporting replaces methods of its modules for all threads."""
    kind, size = type(model).__name__, " × ".join(map(str, images.shape[2:]))
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        _said_when_slow(f"exporting {kind} for images of {size} pixels, once"),
    ):
        try:
            forward, shapes = _Logits(plain_copy(model)), ({0: torch.export.Dim("batch", min=2, max=2**20)},)
            program = torch.export.export(forward, (images,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # code fails in any way on what stands for a tensor
            known = next((reason for sign, reason in _REASONS.items() if sign in str(error)), None)
            reason = known or f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            raise ValueError(
                f"torch.export cannot read {kind}: {reason}. Expected a model whose steps do not depend on the values "
                "of its images or on their number"
            ) from error
        for node in program.graph.nodes:
            if node.target in _GIVE_BACK:
                node.replace_all_uses_with(node.args[0], lambda user: user.op != "output")
                if not node.users:
                    program.graph.erase_node(node)
        module = program.module()
        return module if _replace_writes(module.graph) else program.run_decompositions({}).module()


def _cleaned(module: fx.GraphModule, model: nn.Module) -> fx.GraphModule:
    """Drop what only checks, and call tensors as the model does, one of several names by its first.

    Raises `ValueError` for regions with rules of their own, as under autocast.
    """
    own = {id(t): name for name, t in itertools.chain(model.named_parameters(), model.named_buffers())}
    graph, held = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "call_module" or node.target in _NOTES:
            graph.erase_node(node)
        elif node.target in _GIVE_BACK:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ValueError(f"{node.target} in {type(model).__name__}: expected a model that uses no autocast inside")
        if node.op == "get_attr":
            tensor = operator.attrgetter(node.target)(module)
            node.target = own.get(id(tensor), node.target.removeprefix("model."))
            held[node.target] = tensor
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(held, graph)


def _replace_writes(graph: fx.Graph) -> bool:
    """Replace `op_` by `op` where its tensor is fresh and no view of it is older; say whether no write is left."""
    order, clean = {node: i for i, node in enumerate(graph.nodes)}, True
    for node in graph.nodes:
        if not (places := _written(node)):
            continue
        source = node.args[places[0]] if places[0] < len(node.args) else None  # None: out=
        name, overload = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
        twin = getattr(getattr(_ATEN, name.removesuffix("_"), None), overload, None)
        fresh = source is not None and source.op == "call_function" and not _views(source) and not _written(source)
        viewed = source is not None and any(_views(user) and order[user] < order[node] for user in source.users)
        if not fresh or len(places) > 1 or twin is None or viewed:
            clean = False
            continue
        node.target = twin
        for user in [user for user in source.users if order[user] > order[node]]:
            user.replace_input_with(source, node)
    return clean


def _written(node: fx.Node) -> list[int]:
    """List the arguments that an operation writes, by its schema."""
    arguments = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
    return [i for i, argument in enumerate(arguments) if argument.alias_info and argument.alias_info.is_write]


def _views(node: fx.Node) -> bool:
    """Say whether a result may share memory with an argument that is not written."""
    arguments = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
    return node.target is operator.getitem or any(a.alias_info and not a.alias_info.is_write for a in arguments)


@contextmanager
def _said_when_slow(what: str, seconds: float = 2.0) -> Iterator[None]:
    """Log what is being done where it takes longer than `seconds`."""
    timer = threading.Timer(seconds, logging.getLogger("edittools").warning, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
