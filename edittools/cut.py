"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # everything that is alive at the layer, its keys among them
    cut.keys(state)                         # what goes into the layer
    cut.output(state, weight)               # what the layer makes of it, with its own or another weight
    cut.value(state, output)                # the value: what follows the layer's output up to it (the paper's f)
    cut.suffix(state, weight)               # the logits

The state is kept, so one more weight of the layer costs the suffix only. `editable_layers` lists what can be cut.
"""

import difflib
import operator
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edittools.classifiers import Classifier, check_classifier
from edittools.graph import LINEAR, Program, check_logits, probe_images, program_of, shape_of, without_autocast
from edittools.images import Images, in_batches
from edittools.tokens import op_name

if TYPE_CHECKING:
    import pandas as pd

_IN_BLOCK = "relu relu6 hardtanh gelu silu hardswish hardsigmoid leaky_relu elu selu celu mish tanh sigmoid prelu "
_IN_BLOCK = {*(_IN_BLOCK + "softplus max_pool2d avg_pool2d").split()}
"""What may stand between a layer and its value, beside what scales and shifts: activations and pooling."""


def rows(tensor: Tensor, linear: bool) -> Tensor:
    """See keys, outputs or values as rows `(P, C)`, one a position: of maps `(B, C, H, W)`, or of a linear layer."""
    return (tensor if linear else tensor.movedim(1, -1)).flatten(0, -2)


def mask_at(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Pool masks `(B, H, W)` to maps of `size` `(h, w)`: shares in [0, 1], `(B, h, w)`."""
    return F.adaptive_avg_pool2d(mask[:, None], tuple(size))[:, 0]


@dataclass(frozen=True)
class State:
    """What the steps before a layer hand on for images of `size`: the layer's keys first and, say, a skip."""

    alive: tuple[Tensor, ...]
    size: tuple[int, int]

    def to(self, dtype: torch.dtype) -> "State":
        """Give it in another precision; what holds no floating-point numbers stays as it is."""
        return replace(self, alive=tuple(x.to(dtype) if x.is_floating_point() else x for x in self.alive))


class _Site:
    """One layer in a program: the nodes where it is cut."""

    def __init__(self, program: Program, layer: str) -> None:
        self.program, self.call, self.logits = program, program.call_of(layer), program.logits
        self.value, self.affine = (_follow(program, self.call, steps) for steps in (_IN_BLOCK, set()))
        self.earlier = program.reached(self.call.args[:1], "all_input_nodes")
        later = program.seen - self.earlier
        handed_on = [n for n in program.order if n in program.seen - later and later.intersection(n.users)]
        self.alive = list(dict.fromkeys([*self.call.args[:1], *handed_on]))

    def compute(
        self, node: fx.Node, state: State, output: Tensor | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Compute a node on from a state, and from the layer's `output` where it is known."""
        known = dict(zip(self.alive, state.alive, strict=True))
        known = known if output is None else {self.call: output} | known
        return self.program.compute([node], known, weights)[0]


class Layer:
    """One layer of a classifier, for images of `size` (H, W) or any other: what it makes of keys, and where they stand.

    Raises `KeyError`, `TypeError` or `ValueError` for no such layer, one that cannot be edited, or a model that cannot
    be exported.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, size: Sequence[int] | None = None) -> None:
        self.classifier, self.model = check_classifier(classifier), classifier.model
        self.layer = find_layer(self.model, layer)
        self.size = tuple(size or (classifier.size, classifier.size))
        self._sites: dict[tuple[int, ...], _Site] = {}
        self.is_linear = self._site(self.size).call.target is LINEAR
        self.channels = -1 if self.is_linear else 1
        """The dimension of the channels in keys, outputs and values."""

    def _site(self, size: Sequence[int], fresh: bool = False) -> _Site:
        """Find the layer in the last program for images of a size or, `fresh`, in that of the model as it is now."""
        site = self._sites.get(size := tuple(size))
        if site is None or fresh:
            program = program_of(self.classifier, size)
            if site is None or site.program is not program:
                site = self._sites[size] = _Site(program, self.layer)
        return site

    @property
    def weight(self) -> nn.Parameter:
        """The layer's own weight, `(out, in, kh, kw)` or, for a linear layer, `(out, in)`."""
        return self.model.get_parameter(f"{self.layer}.weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The layer's own bias `(out,)`, where it has one."""
        return self.model.get_submodule(self.layer)._parameters.get("bias")

    def along(self, keys: Tensor, basis: Tensor | None) -> Tensor:
        """Project keys on the rows of `basis` `(rank, in)`, which become their channels; without one, keep them."""
        if basis is None:
            return keys
        basis = basis.to(keys)
        return keys @ basis.T if self.is_linear else torch.einsum("rn,bnhw->brhw", basis, keys)

    @without_autocast
    def convolve(self, keys: Tensor, weight: Tensor) -> Tensor:
        """Run the layer on keys of any number of channels, with `weight` in place of its own and without bias."""
        call = self._site(self.size).call
        return call.target(keys, weight, None, *call.args[3:])

    @torch.no_grad()
    def windows(self, keys: Tensor) -> Tensor:
        """Give what the layer's kernel sees at each position, `(positions, channels * kh * kw)` float64.

        `keys` may be those along a basis; stride, padding and dilation are the layer's.
        """
        channels, kernel = keys.shape[self.channels], self.weight.shape[2:]
        probes = torch.eye(channels * kernel.numel()).to(keys).reshape(-1, channels, *kernel)
        return rows(self.convolve(keys, probes), self.is_linear).double()

    def shares(self, masks: Tensor, like: Tensor) -> Tensor:
        """Pool masks `(B, H, W)` of image size to the positions of keys, outputs or values: shares in [0, 1].

        `(B, h, w)` of maps, `(B, N)` of tokens (0 for a class token), `(B,)` of vectors; 0 for padding.
        """
        site, size = self._site(masks.shape[1:]), like.shape[1:-1] if self.is_linear else like.shape[2:]
        if not self.is_linear and size != shape_of(site.call.args[0])[1:]:
            return mask_at(masks, size)
        grid = site.program.grids[site.call]
        return grid.tokens(mask_at(masks, (grid.height, grid.width))).reshape(-1, *size)

    def maps(self, values: Tensor, images: Tensor) -> Tensor:
        """Lay out one number a position of the outputs of `(B, 3, H, W)` images, as in `shares`, as maps."""
        site = self._site(images.shape[2:])
        return site.program.grids[site.call].cells(values.reshape(len(values), -1)) if self.is_linear else values


class Cut(Layer):
    """A classifier cut at one layer, by name or module, for images of `size` (H, W) or any other.

    What follows the layer is computed in the precision of what it is given, images in the model's. The cut is checked
    on two images: it computes the model's logits bit for bit (to 1e-4 of the largest on a GPU and with the fast path of
    `nn.MultiheadAttention`, which rounds differently). Raises what `Layer` does, and `ValueError` for a cut that
    computes something else.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, size: Sequence[int] | None = None) -> None:
        super().__init__(classifier, layer, size)
        self.known: tuple[list, str] = ([], "")
        """Marks of the weights and the fingerprint that went with them."""
        try:
            self._check()
        except ValueError:  # what the program holds was changed, as a scale somewhere: exported anew
            self._site(self.size).program.marks = None
            self._check()

    @torch.no_grad()
    def _check(self) -> None:
        images, what = probe_images(self.size), f"{type(self.model).__name__} cut at {self.layer!r}"
        logits = self.suffix(self.prefix(images))
        check_logits(logits, self.model, self.classifier.normalise(images), what)

    def prefix(self, images: Tensor) -> State:
        """Run `(B, 3, H, W)` images up to the layer; no gradient is recorded."""
        return prefixes([self], images)[0]

    def keys(self, state: State) -> Tensor:
        """Give what goes into the layer, as the layer takes it."""
        return state.alive[0]

    def output(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Run the layer alone on its keys, with its own weight or with `weight`."""
        site, keys = self._site(state.size, fresh=True), self.keys(state)
        weights = {} if weight is None else {f"{self.layer}.weight": weight.to(keys)}
        return site.program.compute([site.call], {site.alive[0]: keys}, weights)[0]

    def value(self, state: State, output: Tensor | None = None) -> Tensor:
        """Go on from a layer's output (default: its own) to the value, the paper's f: norm, activation, pooling."""
        site = self._site(state.size)  # not fresh: it is asked for in every step of a solver
        return site.compute(site.value, state, output)

    def affine(self, state: State, output: Tensor | None = None) -> Tensor:
        """Go on from the output through the steps that scale and shift each channel, up to the activation."""
        site = self._site(state.size)
        return site.compute(site.affine, state, output)

    def logits(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the logits `(B, classes)`."""
        site = self._site(state.size, fresh=True)
        return site.compute(site.logits, state, output)

    def suffix(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Compute the logits `(B, classes)`, from the layer on, with its own weight or with `weight`."""
        return self.logits_with(state, {} if weight is None else {f"{self.layer}.weight": weight.to(state.alive[0])})

    def logits_with(self, state: State, parameters: Mapping[str, Tensor]) -> Tensor:
        """Compute the logits with `parameters` (by name) in place of the model's own: the layer's or later ones."""
        site = self._site(state.size, fresh=True)
        return site.compute(site.logits, state, weights=parameters)

    def keys_at(self, state: State, layer: str) -> Tensor:
        """Compute the keys of a later `layer` from a state."""
        site = self._site(state.size)
        return site.compute(site.program.call_of(layer).args[0], state)

    @property
    def state_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters, by name in the model, on which a state depends."""
        earlier = {node.target for node in self._site(self.size).earlier}
        return {name: parameter for name, parameter in self.model.named_parameters() if name in earlier}

    @property
    def later_parameters(self) -> dict[str, nn.Parameter]:
        """All other parameters that the logits depend on, but for the layer's own.

        They are those of what follows the layer and of what runs beside it, such as a skip's downsampling.
        """
        site = self._site(self.size)
        own = {node.target for node in (*site.earlier, *site.call.all_input_nodes)}
        later = {node.target for node in site.program.order} - own
        return {name: parameter for name, parameter in self.model.named_parameters() if name in later}

    def image_axes(self, state: State) -> list[int]:
        """Give the dimension of each part of a state that counts the images; raise `ValueError` where none does."""
        site = self._site(state.size)
        times = [[site.program.times(size) for size in node.meta["val"].shape] for node in site.alive]
        if any(counts.count(1) != 1 for counts in times):
            shapes = [tuple(part.shape) for part in state.alive]
            raise ValueError(f"states of shapes {shapes} at {self.layer!r} do not hold one image after the other")
        return [counts.index(1) for counts in times]


def _follow(program: Program, node: fx.Node, steps: Collection[str]) -> fx.Node:
    """Walk on while the only user is one of `steps`, or scales and shifts each channel."""
    while len(node.users) == 1:
        [user] = node.users
        name = op_name(user)
        scales = name == "mul" and sum(one in program.seen for one in user.args) == 1
        norm = name == "_native_batch_norm_legit_no_training" or (name == "batch_norm" and not user.args[5])
        if not (name in steps or name == "add" or scales or norm or user.target is operator.getitem):
            break
        node = user
    return node


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """Name a layer given by name or as a module; raise `KeyError` or `TypeError` for what is none of the model's."""
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        names = [name for name, module in modules.items() if module is layer]
        if not names:
            raise KeyError(f"this {type(layer).__name__} is no layer of the {type(model).__name__}")
        return names[0]
    if not isinstance(layer, str):
        raise TypeError(f"layer {layer!r} is a {type(layer).__name__}: expected a name or a module")
    if layer not in modules:
        near = difflib.get_close_matches(layer, [n for n, m in modules.items() if "weight" in m._parameters], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see editable_layers(classifier)"
        raise KeyError(f"layer {layer!r} not found in {type(model).__name__}; {hint}")
    return layer


@torch.no_grad()
def prefixes(cuts: Sequence[Cut], images: Tensor) -> list[State]:
    """Run `(B, 3, H, W)` images once and give the state at every cut; the cuts are of one classifier."""
    classifier, size = cuts[0].classifier, tuple(images.shape[2:])
    if any(cut.classifier is not classifier for cut in cuts):
        raise ValueError("cuts of several classifiers: expected cuts of one, see cut_all")
    inputs, sites = classifier.normalise(images), [cut._site(size, fresh=True) for cut in cuts]
    program, wanted = sites[0].program, list(dict.fromkeys(node for site in sites for node in site.alive))
    values = dict(zip(wanted, program.compute(wanted, {program.images: inputs}), strict=True))
    return [State(tuple(values[node] for node in site.alive), size) for site in sites]


def states_at(
    cuts: Mapping[str, Cut], images: Images, batch_size: int = 64, progress: bool = False
) -> dict[str, list[State]]:
    """By layer the states of images, one a batch, in one run; the cuts are of one classifier."""
    found: dict[str, list[State]] = {layer: [] for layer in cuts}
    for some in in_batches(images, batch_size, "states", progress):
        for layer, state in zip(cuts, prefixes(list(cuts.values()), some), strict=True):
            found[layer].append(state)
    return found


def editable_layers(classifier: Classifier, size: int | None = None) -> "pd.DataFrame":
    """List the layers that can be edited, from first to last.

    One row a layer: `layer` (name), `kind`, `weight` (shape), `stride`, `value` (the step where its block ends),
    `position` (0 first … 1 last), `in_paper` (true of convolutions alone), `keys` and `output` (shapes without the
    batch).
    """
    import pandas as pd

    program, calls = program_of(classifier, (size, size) if size else None), {}
    for call in program.grids:
        with suppress(ValueError):
            name = str(call.args[1].target).removesuffix(".weight")
            calls[name] = program.call_of(name)
    found = []
    for i, (name, call) in enumerate(calls.items()):
        weight = tuple(program.module.get_parameter(f"{name}.weight").shape)
        kind = "linear" if call.target is LINEAR else "conv {}x{}".format(*weight[2:])
        stride, value = call.args[3][0] if len(call.args) > 3 else 1, _follow(program, call, _IN_BLOCK).name
        shapes, position = (shape_of(call.args[0]), shape_of(call)), i / max(len(calls) - 1, 1)
        found.append((name, kind, weight, stride, value, position, kind != "linear", *shapes))
    columns = ("layer", "kind", "weight", "stride", "value", "position", "in_paper", "keys", "output")
    return pd.DataFrame(found, columns=columns)


def cut_all(classifier: Classifier, layers: Sequence[str | nn.Module]) -> dict[str, Cut]:
    """Cut a classifier at several layers."""
    return {(cut := Cut(classifier, layer)).layer: cut for layer in layers}


def cut_at(classifier: Classifier, layer: "str | nn.Module | Cut", size: Sequence[int] | None = None) -> Cut:
    """Cut a classifier at a layer for images of `size`; a `Cut` comes back as it is.

    Raises `ValueError` for a `Cut` of another classifier, and what `Cut` raises.
    """
    if not isinstance(layer, Cut):
        return Cut(classifier, layer, size)
    other = layer.classifier
    same_scale = all(getattr(other, n).tolist() == getattr(classifier, n).tolist() for n in ("mean", "std"))
    if other.model is not check_classifier(classifier).model or not same_scale:
        raise ValueError(
            f"a cut of {other} at {layer.layer!r} for another classifier, {classifier}: expected a cut of the latter, "
            f"Cut(classifier, {layer.layer!r}), or the layer's name"
        )
    return layer
