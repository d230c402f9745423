"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # the tensors from before the layer that later steps need; first its keys
    cut.keys(state)                         # the layer's input
    cut.output(state)                       # the layer's output
    cut.value(state, output)                # the value at the end of the layer's block (f in the paper)
    cut.logits(state, output)               # the logits

The state does not depend on the layer's weight, so another weight costs only the steps from the layer on.
`editable_layers` lists the layers that can be cut.
"""

import copy
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from edittools._checks import suggestion
from edittools._graph import LINEAR, ExportedModel, export_of, shape_of
from edittools._inference import without_autocast
from edittools._ledger import Weights
from edittools._positions import Place
from edittools.classifiers import Classifier, check_classifier, normalize_images

if TYPE_CHECKING:
    import pandas as pd

State = tuple[Tensor, ...]
"""The tensors from before a layer that later steps need: first the layer's keys, then, say, a residual branch."""


def rows(tensor: Tensor, linear: bool) -> Tensor:
    """Reshape keys, outputs, or values to rows `(P, C)`, one per position.

    Args:
        tensor: maps `(B, C, H, W)`, or tensors of a linear layer `(B, …, C)`.
        linear: whether it is a tensor of a linear layer.
    """
    return (tensor if linear else tensor.movedim(1, -1)).flatten(0, -2)


class Cut:
    """A classifier that is cut at one layer, so that the parts before and after it can be run separately.

    The part before the layer is computed in the precision of the model, the part from the layer on in the precision of
    the state. When the cut is made, the graph that it is a part of is compared with the model on two images, see
    `export_of`.

    Args:
        classifier: the classifier.
        layer: name of the layer, or the module.
        size: size (H, W) of the images in pixels; by default the classifier's.
        weights: a copy of the model's weights to compute with; by default, each computation takes those that the model
            has at that moment.
        exported: the exported model that is cut, for several cuts of one; by default the one that `export_of` returns.

    Raises:
        KeyError: if the model has no layer of that name.
        TypeError: if the module is not one of the model's.
        ValueError: if the layer cannot be edited, or if the model cannot be exported.
    """

    def __init__(
        self,
        classifier: Classifier,
        layer: str | nn.Module,
        size: tuple[int, int] | None = None,
        weights: Weights | None = None,
        exported: ExportedModel | None = None,
    ) -> None:
        self.classifier = check_classifier(classifier)
        self.model = classifier.model
        self.layer = find_layer(self.model, layer)
        self.weights = weights
        self._preprocessing = _preprocessing_of(classifier)
        self._exported = export_of(self.classifier, size) if exported is None else exported
        self.size = self._exported.size
        self._find()

    def _find(self) -> None:
        """Find the layer, its state and the end of its block in the graph."""
        exported = self._exported
        self._node = exported.layer_node(self.layer)
        self._value = exported.value_node(self._node)
        self._pre_activation = exported.pre_activation_node(self._node)
        self._grids = exported.grids[self._node]
        self.is_linear = self._node.target is LINEAR
        self.channels = -1 if self.is_linear else 1  # the dimension of the channels in keys, outputs and values
        keys = exported.keys_node(self._node)
        self._padding = None if keys is self._node.args[0] else self._node.args[0]
        before = exported.reached([keys], "all_input_nodes")
        parts = {user for node in before for user in node.users if user.target is operator.getitem}
        self._earlier = before | parts
        after = exported.image_dependent - self._earlier
        handed_on = [n for n in exported.nodes if n in exported.image_dependent - after and after.intersection(n.users)]
        self._state_nodes = list(dict.fromkeys([keys, *handed_on]))

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer by name: that of `weights`, or the one that the model has now."""
        if self.weights is not None and name in self.weights:
            return self.weights[name]
        return self._exported.tensor(name)

    @property
    def weight(self) -> Tensor:
        """The layer's own weight, `(out, in, kh, kw)` or, for a linear layer, `(out, in)`."""
        return self.tensor(f"{self.layer}.weight")

    @property
    def dilation(self) -> tuple[int, int]:
        """The distances of neighboring offsets of the layer's kernel, down and across, in keys."""
        given = tuple(self._node.args[5]) if len(self._node.args) > 5 else (1, 1)
        return (given[0], given[-1])

    @property
    def bias_name(self) -> str | None:
        """The name of the bias that the layer adds, or None. If layers are tied, it may belong to another module."""
        bias = self._node.args[2] if len(self._node.args) > 2 else None
        return None if bias is None or bias.op != "placeholder" else str(bias.target)

    @property
    def bias(self) -> Tensor | None:
        """The bias `(out,)` that the layer adds, or None."""
        return None if self.bias_name is None else self.tensor(self.bias_name)

    def project(self, keys: Tensor, basis: Tensor | None) -> Tensor:
        """Project keys onto the rows of a basis.

        Args:
            keys: keys of the layer.
            basis: directions `(rank, in)`; None returns the keys unchanged.

        Returns:
            The projected keys, with `rank` channels.
        """
        if basis is None:
            return keys
        basis = basis.to(keys)
        return keys @ basis.T if self.is_linear else torch.einsum("rn,bnhw->brhw", basis, keys)

    @without_autocast()
    def convolve(self, keys: Tensor, weight: Tensor) -> Tensor:
        """Run the layer's operation on keys with another weight, and without the bias.

        Args:
            keys: keys of any number of channels.
            weight: weight `(out, channels, kh, kw)`, for a linear layer `(out, channels)`, for these channels.
        """
        if self._padding is not None:
            keys = self._padding.target(keys, *self._padding.args[1:])
        return self._node.target(keys, weight, None, *self._node.args[3:])

    @torch.no_grad()
    def unfold(self, keys: Tensor) -> Tensor:
        """Return the keys under the layer's kernel at each position of its output.

        This is `F.unfold` with the layer's own stride, padding, and dilation, for maps and for tokens. The layer is run
        with one-hot kernels, each of which copies one channel at one offset.

        Args:
            keys: keys of the layer, which may be projected onto a basis.

        Returns:
            One row per position, `(positions, channels * kh * kw)` float64.
        """
        channels = keys.shape[self.channels]
        kernel = self.weight.shape[2:]
        one_hot_kernels = torch.eye(channels * kernel.numel()).to(keys).reshape(-1, channels, *kernel)
        return rows(self.convolve(keys, one_hot_kernels), self.is_linear).double()

    def pool_mask(self, masks: Tensor, at: Place = "keys") -> Tensor:
        """Compute the share of each position that a mask covers, in [0, 1].

        Args:
            masks: masks `(B, H, W)` of the image size that the layer is cut for.
            at: whose positions: "keys" (the layer's input), "output", or "value".

        Returns:
            `(B, h, w)` for maps, `(B, N)` for tokens, `(B,)` for vectors; 0 for a class token and for padding.
        """
        return self._grids[at].pool(masks)

    def to_image(self, values: Tensor, at: Place = "output") -> Tensor:
        """Map one number per position to the pixels of the images.

        Args:
            values: `(B, h, w)` for maps, `(B, N)` for tokens, `(B,)` for vectors.
            at: which positions, see `pool_mask`.

        Returns:
            `(B, H, W)`; 0 for pixels that belong to no position.
        """
        return self._grids[at].to_image(values, self.size)

    @property
    def is_bottleneck(self) -> bool:
        """Whether the logits depend on the images only through the layer's keys, not through a residual connection."""
        return len(self._state_nodes) == 1

    def with_weights(self, weights: Weights) -> "Cut":
        """Return the same cut, computing with a copy of the model's weights and with the present preprocessing."""
        cut = copy.copy(self)
        cut.weights = weights
        cut._preprocessing = _preprocessing_of(self.classifier)
        return cut

    def prefix(self, images: Tensor) -> State:
        """Run images `(B, 3, H, W)` in [0, 1] up to the layer, without recording gradients, and return the state."""
        return states_at({self.layer: self}, images)[self.layer]

    def keys(self, state: State) -> Tensor:
        """Return the layer's input: maps `(B, C, H, W)`, tokens `(B, …, C)`, or vectors `(B, C)`."""
        return state[0]

    def output(self, state: State) -> Tensor:
        """Run the layer alone on its keys, and return its output."""
        return self._run([self._node], {self._state_nodes[0]: self.keys(state)})[0]

    def value(self, state: State, output: Tensor | None = None) -> Tensor:
        """Compute the value (f in the paper), after norm, activation, and pooling, from an output of the layer.

        Args:
            state: the state at the layer.
            output: output of the layer; by default its output on this state.
        """
        return self._compute(self._value, state, output)

    def pre_activation(self, state: State, output: Tensor) -> Tensor:
        """Compute the pre-activation: the input of the activation, after operations that scale, shift, or add.

        Args:
            state: the state at the layer.
            output: output of the layer.
        """
        return self._compute(self._pre_activation, state, output)

    def logits(
        self,
        state: State,
        output: Tensor | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Compute the logits `(B, classes)` from the layer on.

        Args:
            state: the state at the layer.
            output: output of the layer; by default its output on this state.
            parameters: tensors to use instead of the model's own, by their names in the model, such as
                `f"{cut.layer}.weight"` for another weight.

        Returns:
            The logits, `(B, classes)`.

        Raises:
            KeyError: if the model reads no tensor of a name.
        """
        unknown = sorted(set(parameters or {}) - self._exported.tensor_names)
        if unknown:
            raise KeyError(
                f"{type(self.model).__name__} reads no tensor {unknown[0]!r}; the weight of this layer is "
                f"{self.layer + '.weight'!r}, and a shared tensor goes by the first of its names"
            )
        return self._compute(self._exported.logits, state, output, parameters)

    def _normalized(self, images: Tensor) -> Tensor:
        """Normalize images as the classifier does; with a copy of the weights, as it did when the cut got the copy."""
        if self.weights is None:
            return self.classifier.normalize(images)
        mean, std = self._preprocessing
        return normalize_images(images, mean, std, self.weight.device, self.weight.dtype)

    def _compute(
        self, node: fx.Node, state: State, output: Tensor | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Compute a node from a state, and from the layer's output if one is given."""
        inputs = dict(zip(self._state_nodes, state, strict=True))
        if output is not None:
            inputs = {self._node: output} | inputs  # the first input determines the precision and the number of images
        return self._run([node], inputs, parameters)[0]

    def _run(
        self,
        nodes: Sequence[fx.Node],
        inputs: Mapping[fx.Node, Tensor],
        parameters: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute nodes from others, with the cut's own weights where `parameters` has no others."""
        return self._exported.compute(nodes, inputs, {**(self.weights or {}), **(parameters or {})})

    @property
    def later_parameters(self) -> list[str]:
        """The names of all parameters after the layer or parallel to it, such as on a residual branch.

        The layer's own parameters are not among them.
        """
        own = {node.target for node in (*self._earlier, *self._node.all_input_nodes)}
        later = {node.target for node in self._exported.nodes} - own
        return [name for name, _ in self.model.named_parameters() if name in later]


def _preprocessing_of(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Copy the mean and the standard deviation of a classifier."""
    return classifier.mean.clone(), classifier.std.clone()


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """Return the name of a layer that is given by its name or as a module.

    Raises:
        KeyError: if the model has no layer of that name; the message suggests similar names.
        TypeError: if the module is not one of the model's.
    """
    modules = dict(model.named_modules())
    kind = type(model).__name__
    for name, module in modules.items():
        if layer is module or layer == name:
            return name
    if not isinstance(layer, str):
        raise TypeError(f"this {type(layer).__name__} is not a layer of the {kind}; pass a name or one of its modules")
    with_weight = [name for name, module in modules.items() if "weight" in module._parameters]
    hint = suggestion(layer, with_weight) or "see editable_layers(classifier)"
    raise KeyError(f"layer {layer!r} not found in {kind}; {hint}")


@torch.no_grad()
def states_at(cuts: Mapping[str, Cut], images: Tensor) -> dict[str, State]:
    """Run a batch of images up to several layers, in one pass.

    Args:
        cuts: cuts of one classifier, by the layer's name.
        images: `(B, 3, H, W)` in [0, 1], of the size that the cuts are for.

    Returns:
        The state at each layer, by the layer's name.

    Raises:
        ValueError: if the cuts are of several classifiers, or if the images have another size.
    """
    first_cut = next(iter(cuts.values()))
    if any(cut.classifier is not first_cut.classifier for cut in cuts.values()):
        raise ValueError("the cuts are of several classifiers; pass cuts of one classifier, such as those of cut_all")
    normalized = first_cut._normalized(images)
    size = tuple(normalized.shape[2:])
    for cut in cuts.values():
        if cut.size != size:
            raise ValueError(
                f"images of {size} pixels do not fit {cut.layer!r}, which is cut for {cut.size}; use "
                f"Cut(classifier, {cut.layer!r}, {size})"
            )
    wanted = list(dict.fromkeys(node for cut in cuts.values() for node in cut._state_nodes))
    computed = first_cut._run(wanted, {first_cut._exported.images: normalized})
    values = dict(zip(wanted, computed, strict=True))
    return {layer: tuple(values[node] for node in cut._state_nodes) for layer, cut in cuts.items()}


def editable_layers(classifier: Classifier) -> "pd.DataFrame":
    """List the layers that can be edited, from first to last.

    Args:
        classifier: the classifier.

    Returns:
        A table with one row per layer, which is printed as a whole, with the columns `layer` (its name), `kind`,
        `weight` (its shape), `value` (the operation with which its block ends), `in_paper` (whether the paper edits
        such layers: convolutions only), and `keys` and `output` (their shapes without the batch).
    """
    from edittools._layer_table import LayerTable

    exported = export_of(classifier)
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
                    "value": exported.value_node(node).name,
                    "in_paper": not is_linear,
                    "keys": shape_of(exported.keys_node(node)),
                    "output": shape_of(node),
                }
            )
    return LayerTable(table, columns=("layer", "kind", "weight", "value", "in_paper", "keys", "output"))


def cut_all(
    classifier: Classifier,
    layers: Sequence[str | nn.Module],
    size: tuple[int, int] | None = None,
    weights: Weights | None = None,
) -> dict[str, Cut]:
    """Cut a classifier at several layers, and return the cuts by the layer's name; the arguments are those of `Cut`.

    The graph that they are parts of is compared with the model once.
    """
    exported = export_of(classifier, size) if layers else None
    cuts = [Cut(classifier, layer, size, weights, exported) for layer in layers]
    return {cut.layer: cut for cut in cuts}
