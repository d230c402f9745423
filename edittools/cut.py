"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # what later steps need from before the layer: its keys first
    cut.keys(state)                         # the layer's input
    cut.output(state, weight)               # the layer's output, with its own or another weight
    cut.value(state, output)                # the value: what follows the output up to the end of the block (paper: f)
    cut.suffix(state, weight)               # the logits

The state is kept, so one more weight of the layer costs the suffix only. `editable_layers` lists what can be cut.
"""

import difflib
import operator
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, fx, nn

from edittools._graph import (
    LINEAR,
    ExportedModel,
    Size,
    check_logits,
    export_of,
    height_and_width,
    probe_images,
    shape_of,
)
from edittools._inference import without_autocast
from edittools._positions import Window, image_range, op_name, windows_of
from edittools.classifiers import Classifier, check_classifier
from edittools.images import Images, in_batches

if TYPE_CHECKING:
    import pandas as pd

_POOLINGS = {"max_pool2d", "avg_pool2d"}
_ACTIVATIONS = set(
    """relu relu6 hardtanh gelu silu hardswish hardsigmoid leaky_relu elu selu celu mish tanh sigmoid prelu
    softplus""".split()
)
_IN_BLOCK = _ACTIVATIONS | _POOLINGS
"""What may be between a layer and its value, besides operations that scale and shift: activations and pooling."""

State = tuple[Tensor, ...]
"""The tensors from before a layer that later steps need: the layer's keys first and, say, a residual branch."""

Ranges = tuple[tuple[int, int], tuple[int, int]]
"""The rows and the columns that hold parts of the image: the first, and one after the last."""

Place = Literal["keys", "output", "value"]
"""Where positions are counted: in the layer's input, in its output, or in the value."""


def rows(tensor: Tensor, linear: bool) -> Tensor:
    """See keys, outputs or values as rows `(P, C)`, one per position: of maps `(B, C, H, W)`, or of a linear layer."""
    return (tensor if linear else tensor.movedim(1, -1)).flatten(0, -2)


class Layer:
    """One layer of a classifier, for images of one `size` (H, W): what it makes of keys, and where they are.

    Args:
        classifier: the classifier.
        layer: name of the layer, or the module.
        size: of the images, (H, W) or one number for both, by default the classifier's.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, size: Size | None = None) -> None:
        self.classifier = check_classifier(classifier)
        self.model = classifier.model
        self.layer = find_layer(self.model, layer)
        self.size = height_and_width(size or classifier.size)
        self._exported: ExportedModel | None = None
        self._find()
        self.is_linear = self._node.target is LINEAR
        self.channels = -1 if self.is_linear else 1  # the dimension of the channels in keys, outputs and values

    def _find(self) -> ExportedModel:
        """Find the layer, and where its block ends, in the graph of the model as it is now."""
        exported = export_of(self.classifier, self.size)
        if exported is self._exported:
            return exported
        node = exported.layer_node(self.layer)
        keys = node.args[0]
        before = exported.reached([keys], "all_input_nodes")
        parts = {user for node in before for user in node.users if user.target is operator.getitem}
        self._node = node
        self._earlier = before | parts
        after = exported.image_dependent - self._earlier
        handed_on = [n for n in exported.nodes if n in exported.image_dependent - after and after.intersection(n.users)]
        self._state_nodes = list(dict.fromkeys([keys, *handed_on]))
        path = _follow(exported, node, _IN_BLOCK)
        self._value = path[-1]
        self._pre_activation = _follow(exported, node, set())[-1]
        self._grid = exported.grids[node]
        poolings = [step for step in path[1:] if op_name(step) in _POOLINGS]
        self._windows = {"output": [windows_of(node)], "value": [windows_of(step) for step in (node, *poolings)]}
        self._exported = exported
        return exported

    @property
    def weight(self) -> nn.Parameter:
        """The layer's own weight, `(out, in, kh, kw)` or, for a linear layer, `(out, in)`."""
        return self.model.get_parameter(f"{self.layer}.weight")

    @property
    def bias_name(self) -> str | None:
        """The name of the bias that the layer adds, which a tied layer may have from another module."""
        bias = self._node.args[2] if len(self._node.args) > 2 else None
        return None if bias is None or bias.op != "get_attr" else str(bias.target)

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias `(out,)` that the layer adds, where it has one."""
        return None if self.bias_name is None else self._exported.tensor(self.bias_name)

    def project(self, keys: Tensor, basis: Tensor | None) -> Tensor:
        """Project keys onto the rows of `basis` `(rank, in)`, which become their channels; without one, keep them."""
        if basis is None:
            return keys
        basis = basis.to(keys)
        return keys @ basis.T if self.is_linear else torch.einsum("rn,bnhw->brhw", basis, keys)

    @without_autocast()
    def convolve(self, keys: Tensor, weight: Tensor) -> Tensor:
        """Run the layer on keys of any number of channels, with `weight` instead of its own and without bias."""
        return self._node.target(keys, weight, None, *self._node.args[3:])

    @torch.no_grad()
    def unfold(self, keys: Tensor) -> Tensor:
        """Return what the layer's kernel sees at each position, `(positions, channels * kh * kw)` float64.

        The layer is run with one-hot kernels, each of which copies one channel at one offset: this is `F.unfold` for
        maps and tokens alike, with the layer's own stride, padding and dilation. `keys` may be projected onto a basis.
        """
        channels = keys.shape[self.channels]
        kernel = self.weight.shape[2:]
        one_hot_kernels = torch.eye(channels * kernel.numel()).to(keys).reshape(-1, channels, *kernel)
        return rows(self.convolve(keys, one_hot_kernels), self.is_linear).double()

    def pool_mask(self, masks: Tensor, at: Place = "keys") -> Tensor:
        """Pool masks `(B, H, W)` of image size to positions: the share of each that the mask covers, in [0, 1].

        Args:
            masks: of images of the size that the layer is cut for.
            at: the positions: those of the keys, of the layer's output, or of its value. For a linear layer they are
                the same.

        Returns:
            `(B, h, w)` for maps, `(B, N)` for tokens, `(B,)` for vectors; 0 for a class token and for padding.
        """
        keys_shape = shape_of(self._node.args[0])
        if self.is_linear:
            return self._grid.at_positions(self._grid.pool(masks)).reshape(-1, *keys_shape[:-1])
        if at == "keys":
            return self._grid.at_positions(self._grid.pool(masks)).reshape(-1, *keys_shape[1:])
        windows = self._windows[at]
        if self._divides_evenly(windows):
            return self._grid.pool(masks, tuple(window.outputs for window in windows[-1]))
        shares = self.pool_mask(masks)
        for window, ranges in zip(windows, self._ranges(windows), strict=True):
            down, across = _overlaps_of(window, ranges)
            shares = down.to(shares) @ shares @ across.to(shares).T
        return shares

    def to_image(self, values: Tensor) -> Tensor:
        """Lay out one number per position of the layer's output over the images: `(B, H, W)`, 0 where there is none.

        Args:
            values: `(B, h, w)` for maps, `(B, N)` for tokens, `(B,)` for vectors.
        """
        windows = self._windows["output"]
        if not self.is_linear and self._divides_evenly(windows):
            return self._grid.to_image(values, self.size)
        if not self.is_linear:
            [window] = windows
            [ranges] = self._ranges(windows)
            down, across = (overlaps.to(values) for overlaps in _overlaps_of(window, ranges))
            covered = down.T @ torch.ones_like(values) @ across
            values = down.T @ values @ across / covered.clamp_min(1e-12)
        return self._grid.to_image(self._grid.at_cells(values.reshape(len(values), -1)), self.size)

    def _ranges(self, windows: Sequence[tuple[Window, Window]]) -> list[Ranges]:
        """Say, for each of several windows in turn, which of its input rows and columns hold parts of the image."""
        is_image = (self._grid.cells >= 0).reshape(shape_of(self._node.args[0])[1:])
        ranges = []
        for window in windows:
            row_range = image_range(is_image.any(dim=1))
            column_range = image_range(is_image.any(dim=0))
            ranges.append((row_range, column_range))
            down, across = _overlaps_of(window, ranges[-1])
            is_image = down @ is_image.float() @ across.T > 0
        return ranges

    def _divides_evenly(self, windows: Sequence[tuple[Window, Window]]) -> bool:
        """Whether each of several windows in turn divides all of its input evenly, and keys are in order."""
        if not self._grid.in_order:
            return False
        ranges = self._ranges(windows)
        pairs = [pair for window, ends in zip(windows, ranges, strict=True) for pair in zip(window, ends, strict=True)]
        return all(window.tiles(*end) and end == (0, window.inputs) for window, end in pairs)


def _overlaps_of(window: tuple[Window, Window], ranges: Ranges) -> tuple[Tensor, Tensor]:
    """Return the `Window.overlaps` of rows and of columns, whose `ranges` hold parts of the image."""
    down, across = window
    row_range, column_range = ranges
    return down.overlaps(*row_range), across.overlaps(*column_range)


class Cut(Layer):
    """A classifier cut at one layer.

    What follows the layer is computed in the precision of the state, images in the model's. The cut is checked on two
    images when it is made, see `check_logits`.

    Args:
        classifier: the classifier.
        layer: name of the layer, or the module.
        size: of the images, (H, W) or one number for both, by default the classifier's.

    Raises:
        KeyError: if the model has no layer of that name.
        TypeError: if the module is none of the model's.
        ValueError: for a layer that cannot be edited, a model that cannot be exported, or a cut that does not reproduce
            the model's logits.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, size: Size | None = None) -> None:
        super().__init__(classifier, layer, size)
        try:
            self._check()
        except ValueError:  # the graph is stale: something changed that cannot be compared, such as a class attribute
            self._exported.invalidate()
            self._check()

    @torch.no_grad()
    def _check(self) -> None:
        images = probe_images(self.size)
        logits = self.suffix(self.prefix(images))
        what = f"{type(self.model).__name__} cut at {self.layer!r}"
        check_logits(logits, self.model, self.classifier.normalize(images), len(self.classifier.classes), what)

    def prefix(self, images: Tensor) -> State:
        """Run images `(B, 3, H, W)` up to the layer; no gradient is recorded."""
        return states_at({self.layer: self}, images, len(images))[self.layer][0]

    def keys(self, state: State) -> Tensor:
        """Return the layer's input, as the layer takes it: maps `(B, C, H, W)`, tokens `(B, …, C)` or `(B, C)`."""
        return state[0]

    def output(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Run the layer alone on its keys, with its own weight or with `weight`."""
        exported = self._find()
        keys = self.keys(state)
        return exported.compute([self._node], {self._state_nodes[0]: keys}, self._named(weight, keys))[0]

    def value(self, state: State, output: Tensor | None = None) -> Tensor:
        """Continue from the layer's output (default: its own) to the value (paper: f): norm, activation, pooling."""
        return self._compute(self._value, state, output)

    def pre_activation(self, state: State, output: Tensor) -> Tensor:
        """Continue from the layer's output up to the activation: through what scales, shifts and adds."""
        return self._compute(self._pre_activation, state, output)

    def logits(
        self,
        state: State,
        output: Tensor | None = None,
        parameters: Mapping[str, Tensor] | None = None,
        checked: bool = False,
    ) -> Tensor:
        """Continue from the layer's output to the logits.

        Args:
            state: the state at the layer.
            output: the layer's output, by default its own.
            parameters: tensors to take instead of the model's own, by name.
            checked: the graph was compared with the model a moment ago, as for the batch before; do not compare again.

        Returns:
            The logits, `(B, classes)`.
        """
        exported = self._exported if checked else self._find()
        return self._compute(exported.logits, state, output, parameters)

    def suffix(self, state: State, weight: Tensor | None = None, checked: bool = False) -> Tensor:
        """Compute the logits `(B, classes)` from the layer on, with its own weight or with `weight`; see `logits`."""
        return self.logits(state, parameters=self._named(weight, self.keys(state)), checked=checked)

    def _named(self, weight: Tensor | None, like: Tensor) -> dict[str, Tensor]:
        return {} if weight is None else {f"{self.layer}.weight": weight.to(like)}

    def _compute(
        self, node: fx.Node, state: State, output: Tensor | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Compute a node from a state, and from the layer's `output` if one is given."""
        inputs = dict(zip(self._state_nodes, state, strict=True))
        if output is not None:
            inputs = {self._node: output} | inputs
        return self._exported.compute([node], inputs, weights)[0]

    def keys_at(self, state: State, layer: str) -> Tensor:
        """Compute the keys of a later `layer` from a state."""
        return self._compute(self._exported.layer_node(layer).args[0], state)

    @property
    def state_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters, by name in the model, on which a state depends."""
        earlier = {node.target for node in self._earlier}
        return {name: parameter for name, parameter in self.model.named_parameters() if name in earlier}

    @property
    def later_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters that act after or parallel to the layer, such as on a residual branch, without its own."""
        own = {node.target for node in (*self._earlier, *self._node.all_input_nodes)}
        later = {node.target for node in self._exported.nodes} - own
        return {name: parameter for name, parameter in self.model.named_parameters() if name in later}


def _follow(exported: ExportedModel, node: fx.Node, operations: Collection[str]) -> list[fx.Node]:
    """List a node and those after it, while the only user is one of `operations`, or scales and shifts each channel."""
    path = [node]
    while len(path[-1].users) == 1:
        [user] = path[-1].users
        name = op_name(user)
        scales = name == "mul" and sum(argument in exported.image_dependent for argument in user.args) == 1
        norm = name == "_native_batch_norm_legit_no_training" or (
            name == "batch_norm" and not user.args[5]
        )  # args[5]: training
        if not (name in operations or name == "add" or scales or norm or user.target is operator.getitem):
            break
        path.append(user)
    return path


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """Name a layer given by name or as a module; raise `KeyError` or `TypeError` for what is none of the model's."""
    modules = dict(model.named_modules())
    kind = type(model).__name__
    for name, module in modules.items():
        if layer is module or layer == name:
            return name
    if not isinstance(layer, str):
        raise TypeError(f"this {type(layer).__name__} is not a layer of the {kind}; pass a name or one of its modules")
    near = difflib.get_close_matches(layer, [n for n, m in modules.items() if "weight" in m._parameters], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see editable_layers(classifier)"
    raise KeyError(f"layer {layer!r} not found in {kind}; {hint}")


@torch.no_grad()
def states_at(
    cuts: Mapping[str, Cut], images: Images, batch_size: int = 64, progress: bool = False
) -> dict[str, list[State]]:
    """Run images `(N, 3, H, W)` once, up to several layers.

    Args:
        cuts: by layer, all of one classifier.
        images: of the size that the cuts are for.
        batch_size: images per batch.
        progress: show a progress bar.

    Returns:
        By layer the states, one per batch.

    Raises:
        ValueError: for cuts of several classifiers, and images of another size.
    """
    classifier = next(iter(cuts.values())).classifier
    states: dict[str, list[State]] = {layer: [] for layer in cuts}
    if any(cut.classifier is not classifier for cut in cuts.values()):
        raise ValueError("the cuts are of several classifiers; pass cuts of one, as cut_all makes them")
    for batch in in_batches(images, batch_size, "states", progress):
        size = tuple(batch.shape[2:])
        for cut in cuts.values():
            if cut.size != size:
                raise ValueError(
                    f"images of {size} pixels do not fit {cut.layer!r}, which is cut for {cut.size}; use "
                    f"Cut(classifier, {cut.layer!r}, {size})"
                )
            exported = cut._find()
        wanted = list(dict.fromkeys(node for cut in cuts.values() for node in cut._state_nodes))
        computed = exported.compute(wanted, {exported.images: classifier.normalize(batch)})
        values = dict(zip(wanted, computed, strict=True))
        for layer, cut in cuts.items():
            states[layer].append(tuple(values[node] for node in cut._state_nodes))
    return states


def editable_layers(classifier: Classifier, size: Size | None = None) -> "pd.DataFrame":
    """List the layers that can be edited, from first to last.

    Args:
        classifier: the classifier.
        size: of the images, (H, W) or one number for both, by default the classifier's.

    Returns:
        One row per layer: `layer` (name), `kind`, `weight` (shape), `value` (the step where its block ends), `in_paper`
        (True for convolutions only), `keys` and `output` (shapes without the batch).
    """
    import pandas as pd

    exported = export_of(classifier, size)
    table = []
    for node in exported.grids:
        with suppress(ValueError):
            name = str(node.args[1].target).removesuffix(".weight")
            exported.layer_node(name)
            weight = tuple(exported.tensor(f"{name}.weight").shape)
            is_linear = node.target is LINEAR
            table.append(
                {
                    "layer": name,
                    "kind": "linear" if is_linear else "conv {}x{}".format(*weight[2:]),
                    "weight": weight,
                    "value": _follow(exported, node, _IN_BLOCK)[-1].name,
                    "in_paper": not is_linear,
                    "keys": shape_of(node.args[0]),
                    "output": shape_of(node),
                }
            )
    return pd.DataFrame(table, columns=("layer", "kind", "weight", "value", "in_paper", "keys", "output"))


def cut_all(classifier: Classifier, layers: Sequence[str | nn.Module]) -> dict[str, Cut]:
    """Cut a classifier at several layers: cuts by name of the layer."""
    cuts = [Cut(classifier, layer) for layer in layers]
    return {cut.layer: cut for cut in cuts}
