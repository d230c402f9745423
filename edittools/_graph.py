"""The graph that `torch.export` makes of a model, of which a `Cut` computes parts.

    exported = export_of(classifier, (224, 224))       # exported once, kept as long as the model lives
    layer = exported.layer_node("features.28")         # the one operation that reads the layer's weight
    exported.compute([layer], {exported.images: x})    # the values of some nodes from those of others

Nodes are ATen operations without side effects. Parameters, buffers and constants are inputs of the graph, called as the
model calls them (`node.target`). Each computation takes those that the model has at that moment, or others, so two
threads can compute with different weights of one layer.
"""

import operator
import threading
import warnings
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from edittools._inference import (
    NotLogitsError,
    eval_copy,
    logits_of,
    without_autocast,
)
from edittools._positions import Grid, Place, grids_of, op_name, sizes
from edittools.classifiers import Classifier, check_classifier

_ATEN = torch.ops.aten
LINEAR = _ATEN.linear.default
_LAYERS = {_ATEN.conv2d.default, _ATEN.conv2d.padding, LINEAR}
_CHECKS = {_ATEN._assert_tensor_metadata.default, _ATEN._assert_scalar.default}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_CASTS = {_ATEN.to.dtype, _ATEN._to_copy.default}
_POOLINGS = {"max_pool2d", "avg_pool2d"}
_ACTIVATIONS = set(
    """relu relu6 hardtanh gelu silu hardswish hardsigmoid leaky_relu elu selu celu mish tanh sigmoid prelu
    softplus""".split()
)
_REASONS = {
    "data-dependent": "its forward pass branches on the values of tensors",
    "constraints violated": "its forward pass fixes the number of images (as len(x), or a number in a reshape)",
}
_EXPORTED: WeakKeyDictionary[nn.Module, dict[tuple, "ExportedModel"]] = WeakKeyDictionary()
_EXPORTING = threading.RLock()
SLOW = 10.0
"""Seconds after which an export warns that it is still running."""


class ExportedModel:
    """A model as one functional graph from normalized images `(B, 3, H, W)` to logits, for one image size."""

    def __init__(self, model: nn.Module, images: Tensor, classes: int) -> None:
        """Export `model` for images like these two and check it on them; raise `ValueError` where that fails."""
        self.name = type(model).__name__
        self._model = weakref.ref(model)
        self.size = tuple(images.shape[2:])
        size_in_words = f"{self.size[0]} × {self.size[1]} pixels"
        text = f"torch.export still reads {self.name} for images of {size_in_words}; it does so once per size"
        slow = threading.Timer(SLOW, warnings.warn, (text,))
        slow.daemon = True
        slow.start()
        try:
            program = _export(model, images, classes)
        except NotLogitsError:
            raise
        except Exception as error:  # models fail in any way on what they were not made for
            raise ValueError(
                f"torch.export cannot read {self.name} for images of {size_in_words}: "
                f"{_reason_of(error)}. It cannot be edited; pass a model of images with 3 channels, its size, "
                "Classifier(…, size=…), and steps that do not depend on the values of images or on their number"
            ) from error
        finally:
            slow.cancel()
        [images_name] = program.graph_signature.user_inputs
        [self.images] = program.graph.find_nodes(op="placeholder", target=images_name)
        [self.logits] = program.graph.output_node().args[0]
        self._constants = _name_tensors(program, model)
        self.nodes = list(program.graph.nodes)
        self._count = self.images.meta["val"].shape[0].node.expr
        self.image_dependent = self.reached([self.images], "users")  # not on their number alone
        self._tensors = [node for node in self.nodes if node.op == "placeholder" and node is not self.images]
        self._subgraphs: dict[tuple, tuple[fx.GraphModule, tuple[str, ...]]] = {}
        self._grids: tuple[list, dict[fx.Node, dict[Place, Grid] | str]] | None = None
        for batch in (images, images[:1]):
            self._check(batch, classes)

    @property
    def tensor_names(self) -> set[str]:
        """The names of the tensors that the graph reads; a shared tensor has the first of its names."""
        return {node.target for node in self._tensors}

    def is_current(self, classes: int) -> bool:
        """Tell whether the graph, with the weights that the model has now, gives the logits of the model's own code.

        If not, something has changed that the graph does not read, such as a setting, a hook or a module.
        """
        like = self.images.meta["val"]
        images = probe_images(self.size).to(like.device, like.dtype)
        try:
            self._check(images, classes)
        except Exception:  # a stale graph fails in any way: its tensors are gone, or have other shapes
            return False
        return True

    @torch.no_grad()  # with gradients, attention is computed another way
    def _check(self, images: Tensor, classes: int) -> None:
        """Check that the graph gives the logits of the model's own code for normalized images."""
        [logits] = self.compute([self.logits], {self.images: images})
        check_logits(logits, self._model(), images, classes, f"the graph of {self.name} for {len(images)} image(s)")

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the graph by name: the model's own, as it is now, or a constant of its forward pass."""
        if name in self._constants:
            return self._constants[name]
        return operator.attrgetter(name)(self._model())

    @without_autocast()
    def compute(
        self, nodes: Iterable[fx.Node], inputs: Mapping[fx.Node, Tensor], weights: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Compute nodes from the values of others.

        Args:
            nodes: what is wanted.
            inputs: values of other nodes; the first also says how many images there are, and its precision is that of
                the computation.
            weights: tensors to take instead of the model's own, by name.
        """
        first, value = next(iter(inputs.items()))
        function, names = self._subgraph(tuple(inputs), tuple(nodes))
        weights = weights or {}
        tensors = [weights[name] if name in weights else self.tensor(name) for name in names]
        if value.dtype != first.meta["val"].dtype:
            tensors = [tensor.to(value.dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        return function(*inputs.values(), *tensors)

    def _subgraph(self, inputs: tuple[fx.Node, ...], nodes: tuple[fx.Node, ...]) -> tuple[fx.GraphModule, tuple]:
        """Build the function that computes `nodes` from `inputs` and from tensors, once; name the tensors."""
        with _EXPORTING:
            if (inputs, nodes) not in self._subgraphs:
                self._subgraphs[inputs, nodes] = self._build(inputs, nodes)
            return self._subgraphs[inputs, nodes]

    def _build(self, inputs: tuple[fx.Node, ...], nodes: tuple[fx.Node, ...]) -> tuple[fx.GraphModule, tuple]:
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in inputs}
        wanted = self.reached(nodes, "all_input_nodes", inputs)
        tensors = [node for node in self.nodes if node in wanted and node.op == "placeholder"]
        copies |= {node: graph.placeholder(node.name) for node in tensors}
        first = copies[inputs[0]]
        count = graph.call_function(_ATEN.sym_size.int, (first, 0))

        # The images need not be among the inputs, so their number is read from the first input.
        def copy_of(node: fx.Node) -> fx.Node:
            multiple = self.batch_multiple(node.meta.get("val"))
            return graph.call_function(operator.mul, (count, multiple)) if multiple else copies[node]

        for node in self.nodes:
            if node not in wanted or node in copies:
                continue
            copied = graph.node_copy(node, copy_of)
            copies[node] = copied
            # A cast to the precision of the export becomes one to that of the computation.
            if node.target in _CASTS and self.images.meta["val"].dtype in (*node.args, *node.kwargs.values()):
                copied.target = _ATEN.type_as.default
                copied.args = (copied.args[0], first)
                copied.kwargs = {}
        graph.output(tuple(copies[node] for node in nodes))
        graph.eliminate_dead_code()
        return fx.GraphModule(nn.Module(), graph), tuple(node.target for node in tensors)

    def batch_multiple(self, size: Any) -> int:
        """Return n if a symbolic size is n times the number of images, else 0."""
        if not isinstance(size, torch.SymInt):
            return 0
        ratio = size.node.expr / self._count
        return int(ratio) if ratio.is_Integer else 0

    def reached(self, nodes: Iterable[fx.Node], step: str, stop: Collection[fx.Node] = ()) -> set[fx.Node]:
        """Give nodes and all that `step` leads to, "users" or "all_input_nodes"; sizes and `stop` are left out."""
        reached = set(stop)
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if node not in reached and not self.batch_multiple(node.meta.get("val")):
                reached.add(node)
                todo += getattr(node, step)
        return reached.difference(stop)

    def layer_node(self, layer: str) -> fx.Node:
        """Find the operation of a layer that can be edited.

        Its weight is read once, as it is, by a convolution without groups or a linear layer; its keys are `(B, C)`,
        maps `(B, C, H, W)` or tokens `(B, …, C)`. The positions of its keys, output and value in the image are known.

        Raises:
            ValueError: for any other layer, with the reason.
        """
        name = f"{layer}.weight"
        readers = [user for node in self._tensors if node.target == name for user in node.users]
        operations = ", ".join(str(node.target).removeprefix("aten.") for node in readers)
        problem = None
        if not readers:
            problem = (
                "it has no weight that is read as it is: none at all, an unused one, or one made from other tensors"
            )
        elif len(readers) > 1:
            problem = f"its weight is read {len(readers)} times (by {operations}), so an edit would change each of them"
        elif readers[0].target not in _LAYERS or readers[0].args[1].target != name:
            problem = f"its weight is read by {operations}, not by a convolution or a linear layer alone"
        else:
            problem = self._problem_of(readers[0])
        if problem:
            raise ValueError(f"layer {layer!r} of {self.name}: {problem}; see editable_layers(classifier)")
        return readers[0]

    def _problem_of(self, node: fx.Node) -> str | None:
        """Say why a convolution or linear layer cannot be edited, if it cannot."""
        groups = node.args[6] if len(node.args) > 6 else 1
        if groups != 1:
            return f"it is a convolution with {groups} groups, each of which sees channels of its own"
        keys = self.keys_node(node)
        if self.batch_multiple(keys.meta["val"].shape[0]) != 1:
            return f"its keys {shape_of(keys)} do not hold one image after the other"
        grids = self.grids[node]
        return grids if isinstance(grids, str) else None

    @property
    def grids(self) -> dict[fx.Node, dict[Place, Grid] | str]:
        """By convolution or linear layer, the grids of its keys, output and value, or why there are none.

        They are computed again when whole numbers that the graph reads, such as an index, have changed.
        """
        tensors = [self.tensor(node.target) for node in self._tensors]
        versions = [(id(tensor), tensor._version) for tensor in tensors if not tensor.is_floating_point()]
        if self._grids is None or self._grids[0] != versions:
            layers = [node for node in self.nodes if node.target in _LAYERS]
            places = {}
            for node in layers:
                places[node] = {"keys": self.keys_node(node), "output": node, "value": self.value_node(node)}
            self._grids = versions, grids_of(self.nodes, self.images, self.tensor, places)
        return self._grids[1]

    def keys_node(self, layer: fx.Node) -> fx.Node:
        """Find the keys of a layer: its input, before it is padded by repeating, reflecting, or wrapping the border.

        PyTorch pads in a step of its own unless it pads with zeros. Padded keys would hold keys at the border twice.
        """
        keys = layer.args[0]
        is_padded_copy = op_name(keys) == "pad" and keys.args[2:] and keys.args[2] != "constant"
        return keys.args[0] if is_padded_copy else keys

    def value_node(self, layer: fx.Node) -> fx.Node:
        """Find the value of a layer (f in the paper), where its block ends, after norm, activation and pooling."""
        return self._follow(layer, _ACTIVATIONS | _POOLINGS)

    def pre_activation_node(self, layer: fx.Node) -> fx.Node:
        """Find what a layer's activation is applied to, after operations that scale, shift or add."""
        return self._follow(layer, ())

    def _follow(self, node: fx.Node, operations: Collection[str]) -> fx.Node:
        """Follow a node as long as its one user is in `operations`, or scales, shifts or adds."""
        # A result with a second reader, such as a skip that starts here, ends the block.
        while len(node.users) == 1:
            [user] = node.users
            if op_name(user) not in operations and not self._scales_or_shifts(user):
                break
            node = user
        return node

    def _scales_or_shifts(self, node: fx.Node) -> bool:
        """Tell whether a step scales, shifts or adds, or takes one of several results."""
        name = op_name(node)
        if name == "mul":
            image_dependent = [argument for argument in node.args if argument in self.image_dependent]
            return len(image_dependent) == 1
        if name == "batch_norm":
            is_training = node.args[5]
            return not is_training
        return name in ("add", "_native_batch_norm_legit_no_training") or node.target is operator.getitem


def export_of(classifier: Classifier, size: tuple[int, int] | None = None) -> ExportedModel:
    """Give the exported model of a classifier for images of a size, which gives the logits of the model's own code.

    It is exported once per size, precision and device, and again if its logits are no longer those of the model.

    Args:
        size: size (H, W) of the images in pixels; by default that of the classifier.

    Raises:
        ValueError: for a model that cannot be exported, or that does not give one logit per class, and for a size that
            is not two whole numbers.
    """
    model = check_classifier(classifier).model
    size = (classifier.size, classifier.size) if size is None else size
    if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise ValueError(f"size {size!r} is not allowed; pass a tuple (height, width) of two whole numbers")
    like = classifier.normalize(torch.zeros(0, 3, *size))
    key = (size, like.dtype, like.device)
    with _EXPORTING:
        exports = _EXPORTED.setdefault(model, {})
        exported = exports.get(key)
        if exported is None or not exported.is_current(len(classifier.classes)):
            images = classifier.normalize(probe_images(size))
            exported = ExportedModel(model, images, len(classifier.classes))
            exports[key] = exported
    return exported


@torch.no_grad()
@without_autocast()
def check_logits(logits: Tensor, model: nn.Module, images: Tensor, classes: int, what: str) -> None:
    """Check that logits are those of the model's own code, with its hooks and in eval mode.

    They are compared bit for bit, but to 1e-4 of the largest on a GPU and with the fast path of
    `nn.MultiheadAttention`, which round differently.

    Raises:
        ValueError: if they differ.
    """
    own = logits_of(eval_copy(model), images, classes)
    rounded = logits.is_cuda or any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    near = 1e-4 * float(own.abs().max()) if rounded else 0.0
    if logits.shape != own.shape or not torch.allclose(logits, own, rtol=0, atol=near, equal_nan=True):
        raise ValueError(
            f"{what} does not compute the model's own logits; pass a model without hooks that change what it "
            "computes, whose steps are the same each time and for any number of images"
        )


def probe_images(size: Sequence[int]) -> Tensor:
    """Make two images `(2, 3, H, W)` that differ, the same each time."""
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Give the shape of what a node computes, without the images' dimension."""
    return sizes(node.meta["val"])[1:]


def _reason_of(error: Exception) -> str:
    """Say in words why an export failed."""
    for sign, reason in _REASONS.items():
        if sign in str(error).lower():
            return reason
    first_line, *_ = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {first_line}"


def _is_of_torch(hook: Any) -> bool:
    """Tell whether a hook is one of torch's own, such as that of `weight_norm`, which makes a weight from others."""
    return type(hook).__module__.startswith("torch.nn.utils")


class _Logits(nn.Module):
    """A copy of a model in eval mode that shares its parameters and gives logits alone, not a `ModelOutput`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = eval_copy(model)

    def forward(self, images: Tensor) -> Tensor:
        answer = self.model(images)
        return getattr(answer, "logits", answer)


@torch.inference_mode(False)
@torch.no_grad()
@without_autocast()
def _export(model: nn.Module, images: Tensor, classes: int) -> torch.export.ExportedProgram:
    """Export a copy without the user's hooks: exporting replaces methods of modules for all threads."""
    logits_of(eval_copy(model), images, classes)  # what the model does not take fails here, in its own words
    copied = _Logits(model)
    for module in copied.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if not _is_of_torch(hook)]:
                del hooks[key]
    # torch.export treats sizes of 0 and 1 as constants, so the batch it is exported for has at least two images.
    shapes = ({0: torch.export.Dim("batch", min=2, max=2**20)},)
    program = torch.export.export(copied, (images,), dynamic_shapes=shapes, strict=False)
    if not _replace_writes(program.graph):
        program = program.run_decompositions({})
    _clean(program.graph)
    return program


def _replace_writes(graph: fx.Graph) -> bool:
    """Replace `op_` by `op` where nothing else reads its tensor; say whether none, and no higher-order op, is left.

    Dropouts leave first: in eval mode they give back their input, which their schema does not say. One that is the
    model's last step stays for now, since torch knows the output by its name.
    """
    for node in graph.nodes:
        name = op_name(node).removesuffix("_")
        if name in _DROPOUTS:
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
    return computed and len(node.users) == 1 and not any(result.alias_info for result in node.target._schema.returns)


def _clean(graph: fx.Graph) -> None:
    """Keep what leads to the logits, without steps that only check, and without a dropout as the last step."""
    for node in graph.nodes:
        if op_name(node) in _DROPOUTS:
            node.replace_all_uses_with(node.args[0])
        if node.target in _CHECKS:
            graph.erase_node(node)
    *_, logits = graph.output_node().args[0]  # before it come the buffers that the model writes
    graph.output_node().args = ((logits,),)
    graph.eliminate_dead_code()


def _name_tensors(program: torch.export.ExportedProgram, model: nn.Module) -> dict[str, Tensor]:
    """Call the tensors of a graph as the model does, by the first of their names, and drop those that nothing reads.

    Returns:
        The others, which are constants of the forward pass, by name.
    """
    signature = program.graph_signature
    inputs = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    first_names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    constants = {}
    for node in program.graph.find_nodes(op="placeholder"):
        exported_name = inputs.get(node.target)
        if exported_name is None:  # the images
            continue
        name = exported_name.removeprefix("model.")
        if not node.users:
            program.graph.erase_node(node)
        elif name in own:
            node.target = first_names[id(own[name])]
        else:
            node.target = name
            constants[name] = program.constants[exported_name]
    return constants
