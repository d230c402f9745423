"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # everything that is alive at the layer, its keys among them
    cut.keys(state)                         # what goes into the layer
    cut.output(state, weight)               # what the layer makes of it, with its own or another weight
    cut.block(state, weight)                # the value: the layer and what follows up to it (the paper's f)
    cut.suffix(state, weight)               # the logits

The state is kept, so one more weight of the layer costs the suffix only. `editable_layers` lists what can be cut.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edittools.classifiers import Classifier, check_classifier
from edittools.graph import (
    DIFFERS,
    LINEAR,
    Program,
    logits_now,
    op_name,
    probe_images,
    program_of,
    reached,
    run,
    same,
    shape_of,
    without_autocast,
)
from edittools.images import Images, in_batches

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("layer", "kind", "weight", "stride", "value", "position", "in_paper", "keys", "output")
"""Of `editable_layers`: what pandas leaves out where it has 80 characters stands in the middle."""
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
    """What is alive where a classifier was cut on images of `size`: the layer's keys first and, say, a skip."""

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
        self.earlier, behind = reached([self.call], program.sources), reached([self.call], program.users)
        before = [node for node in program.order if node in program.seen - behind]
        beside = {node for node in before if node not in self.earlier}
        read = any(source.op == "get_attr" for node in beside for source in node.all_input_nodes)
        self.beside = beside if read else set()
        crossing = [n for n in before if behind.intersection(n.users)]
        entering = [n for n in before if n not in self.beside and self.beside.intersection(n.users)]
        self.alive = list(dict.fromkeys([self.call.args[0], *crossing, *entering]))
        self.prefix = program.part([program.images], self.alive)
        self.own = program.part(self.alive[:1], [self.call])

    def onward(self, node: fx.Node) -> fx.GraphModule:
        """The part from the layer's output, and what is alive beside it, to a node."""
        return self.program.part([self.call, *self.alive], [node])

    def again(self, node: fx.Node) -> fx.GraphModule:
        """The part from what is alive to a node, with the layer and what runs beside it."""
        return self.program.part(self.alive, [node], self.beside)


class Cut:
    """A classifier cut at one layer, by name or module, for images of `size` (H, W) or any other.

    What follows the layer is computed in the precision of what it is given, images in the model's. The cut is checked
    on two images: it computes the model's logits bit for bit (to 1e-4 of the largest on a GPU and with the fast path of
    `nn.MultiheadAttention`, which rounds differently). Raises `KeyError`, `TypeError` or `ValueError` for no such
    layer, one that cannot be edited, a model that cannot be exported, or a cut that computes something else.
    """

    def __init__(
        self,
        classifier: Classifier,
        layer: str | nn.Module,
        size: Sequence[int] | None = None,
        logits: Tensor | None = None,
    ) -> None:
        """Cut `classifier` at `layer`; `logits` are what the model makes of `probe_images(size)`, where it is known."""
        self.classifier, self.model = check_classifier(classifier), classifier.model
        self.layer = find_layer(self.model, layer)
        self._sites: dict[tuple[int, int], _Site] = {}
        self.size = tuple(size or (classifier.size, classifier.size))
        self.known: tuple[list, str] = ([], "")
        """Marks of the weights and the fingerprint that went with them."""
        self._check(logits)
        self.is_linear = self._sites[self.size].call.target is LINEAR
        self.value_name = self._sites[self.size].value.name

    def _check(self, expected: Tensor | None) -> None:
        images = self.classifier.normalise(probe_images(self.size))
        expected = logits_now(self.model, images) if expected is None else expected
        for _ in range(2):
            site = self._site(self.size)
            with torch.no_grad():
                state = run(site.prefix, images)
                if same(run(site.onward(site.logits), *run(site.own, state[0]), *state)[0], expected, self.model):
                    return
            site.program.forget()  # what it holds was changed, as a scale in an attribute
        raise ValueError(DIFFERS.format(f"{type(self.model).__name__} cut at {self.layer!r}"))

    def _site(self, size: Sequence[int]) -> _Site:
        """The layer in the program for images of a size, which is exported anew where the model is another now."""
        program = program_of(self.classifier, size)
        site = self._sites.get(tuple(size))
        if site is None or site.program is not program:
            site = self._sites[tuple(size)] = _Site(program, self.layer)
        return site

    def _known_site(self, size: Sequence[int]) -> _Site:
        """The layer in the last program for images of a size, unchecked: solvers ask often."""
        return self._sites.get(tuple(size)) or self._site(size)

    @property
    def weight(self) -> nn.Parameter:
        """The layer's own weight, `(out, in, kh, kw)` or, for a linear layer, `(out, in)`."""
        return self.model.get_parameter(f"{self.layer}.weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The layer's own bias `(out,)`, where it has one."""
        return self.model.get_submodule(self.layer)._parameters.get("bias")

    @torch.no_grad()
    def prefix(self, images: Tensor) -> State:
        """Run `(B, 3, H, W)` images up to the layer; no gradient is recorded."""
        inputs = self.classifier.normalise(images)
        return State(run(self._site(images.shape[2:]).prefix, inputs), tuple(images.shape[2:]))

    def keys(self, state: State) -> Tensor:
        """What goes into the layer, as the layer takes it."""
        return state.alive[0]

    @property
    def channels(self) -> int:
        """The dimension of the channels in keys, outputs and values: 1 of maps, the last of a linear layer."""
        return -1 if self.is_linear else 1

    def output(self, state: State, weight: Tensor | None = None) -> Tensor:
        """What the layer alone makes of the keys, with its own weight or with `weight`."""
        part, keys = self._known_site(state.size).own, self.keys(state)
        parameters = self._in_precision(part, keys)
        if weight is not None:
            parameters[f"{self.layer}.weight"] = weight.to(keys.dtype)
        return run(part, keys, parameters=parameters)[0]

    def image_axes(self, state: State) -> list[int]:
        """Give the dimension of each part of a state that counts the images; raise `ValueError` where none does."""
        site = self._known_site(state.size)
        counts = site.program.counts_images
        axes = [[i for i, n in enumerate(x.meta["val"].shape) if counts(n)] for x in site.alive]
        if any(len(found) != 1 for found in axes):
            shapes = [tuple(part.shape) for part in state.alive]
            raise ValueError(f"states of shapes {shapes} at {self.layer!r} do not hold one image after the other")
        return [axis for [axis] in axes]

    def along(self, keys: Tensor, basis: Tensor | None) -> Tensor:
        """Keys seen along the rows of `basis` `(rank, in)`, as channels; all of them where there is no basis."""
        if basis is None:
            return keys
        basis = basis.to(keys)
        return keys @ basis.T if self.is_linear else torch.einsum("rn,bnhw->brhw", basis, keys)

    @without_autocast
    def convolve(self, keys: Tensor, weight: Tensor) -> Tensor:
        """What the layer makes of keys with `weight` in place of its own, for any number of channels, without bias."""
        call = self._sites[self.size].call
        return call.target(keys, weight, None, *call.args[3:])

    @torch.no_grad()
    def windows(self, keys: Tensor) -> Tensor:
        """What the layer's kernel sees at each position, `(positions, channels * kh * kw)` float64.

        `keys` may be those along a basis; stride, padding and dilation are the layer's.
        """
        channels, kernel = keys.shape[self.channels], self.weight.shape[2:]
        probes = torch.eye(channels * kernel.numel()).to(keys).reshape(-1, channels, *kernel)
        return rows(self.convolve(keys, probes), self.is_linear).double()

    def value(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the value."""
        return self._go_on(self._known_site(state.size), "value", state, output)

    def affine(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output through the steps that scale and shift each channel, up to the activation."""
        return self._go_on(self._known_site(state.size), "affine", state, output)

    def logits(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the logits `(B, classes)`."""
        return self._go_on(self._site(state.size), "logits", state, output)

    def logits_with(self, state: State, parameters: Mapping[str, Tensor]) -> Tensor:
        """Compute the logits with `parameters` (by name) in place of the model's own, from the layer on.

        What runs beside the layer (see `later_parameters`) is run again, so its parameters may be among them.
        """
        site = self._site(state.size)
        return run(site.again(site.logits), *state.alive, parameters=dict(parameters))[0]

    def keys_at(self, state: State, layer: str) -> Tensor:
        """Compute the keys of a later `layer` from a state."""
        site = self._site(state.size)
        return run(site.again(site.program.call_of(layer).args[0]), *state.alive)[0]

    def _go_on(self, site: _Site, name: str, state: State, output: Tensor) -> Tensor:
        part = site.onward(getattr(site, name))
        return run(part, output, *state.alive, parameters=self._in_precision(part, output))[0]

    def _in_precision(self, part: nn.Module, like: Tensor) -> dict[str, Tensor]:
        """The weights of a part of the model in the precision of `like`; none when that is the layer's own."""
        if like.dtype == self.weight.dtype:
            return {}
        weights = (*part.named_parameters(), *part.named_buffers())
        return {name: tensor.to(like.dtype) for name, tensor in weights if tensor.is_floating_point()}

    def block(self, state: State, weight: Tensor | None = None) -> Tensor:
        """The paper's f: the layer and what follows up to the value (norm, activation, residual sum, pooling)."""
        return self.value(state, self.output(state, weight))

    def suffix(self, state: State, weight: Tensor | None = None) -> Tensor:
        """The logits `(B, classes)`, from the layer on."""
        return self.logits(state, self.output(state, weight))

    @property
    def state_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters, by name, on which a state depends."""
        return self._named(name for name, _ in self._site(self.size).prefix.named_parameters())

    @property
    def later_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters, by name in the model, on which the layer's keys do not depend, without the layer's own.

        They are those of what follows the layer and of what runs beside it, such as a skip's downsampling.
        """
        site = self._site(self.size)
        own = {node.target for node in site.earlier if node.op == "get_attr"}
        return self._named(n for n, _ in site.again(site.logits).named_parameters() if n not in own)

    def _named(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        wanted = set(names)
        return {name: parameter for name, parameter in self.model.named_parameters() if name in wanted}

    def shares(self, masks: Tensor, like: Tensor) -> Tensor:
        """Pool masks `(B, H, W)` of image size to the positions of keys, outputs or values: shares in [0, 1].

        `(B, h, w)` of maps, `(B, N)` of tokens (0 for a class token), `(B,)` of vectors; 0 for padding.
        """
        if like.ndim == 2:
            return masks.mean(dim=(1, 2))
        site = self._known_site(masks.shape[1:])
        size, grid = self._positions(like), site.program.grids[site.call]
        if not self.is_linear and (size != shape_of(site.alive[0])[1:] or size == (grid.height, grid.width)):
            return mask_at(masks, size)
        return grid.tokens(mask_at(masks, (grid.height, grid.width))).unflatten(1, size)

    def maps(self, values: Tensor, images: Tensor) -> Tensor:
        """Lay out one number a position of the outputs of `(B, 3, H, W)` images, as in `shares`, as maps."""
        if values.ndim == 1:
            return values[:, None, None]
        site = self._known_site(images.shape[2:])
        return site.program.grids[site.call].cells(values.flatten(1)) if self.is_linear else values

    def _positions(self, tensor: Tensor) -> torch.Size:
        return tensor.shape[1:-1] if self.is_linear else tensor.shape[2:]


def _follow(program: Program, node: fx.Node, steps: Collection[str]) -> fx.Node:
    """Walk on while the only user is one of `steps`, or scales and shifts each channel."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if op_name(user) not in steps and not _is_affine(program, user):
            break
        node = user
    return node


def _is_affine(program: Program, node: fx.Node) -> bool:
    """A batch norm by its running statistics, a sum, or a product with what does not depend on the images."""
    name = op_name(node)
    if name == "mul":
        return sum(one in program.seen for one in node.args) == 1
    return (
        name == "add" or name == "_native_batch_norm_legit_no_training" or (name == "batch_norm" and not node.args[5])
    )


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
    first, size = cuts[0], tuple(images.shape[2:])
    if any(cut.classifier is not first.classifier for cut in cuts):
        raise ValueError("cuts of several classifiers: expected cuts of one, see cut_all")
    inputs, sites = first.classifier.normalise(images), [cut._site(size) for cut in cuts]
    wanted = list(dict.fromkeys(node for site in sites for node in site.alive))
    part = sites[0].program.part([sites[0].program.images], wanted)
    values = dict(zip(wanted, run(part, inputs), strict=True))
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
    program = program_of(classifier, (size, size) if size else None)
    layers, found = program.layers, []
    for i, (name, call) in enumerate(layers.items()):
        weight = program.module.get_parameter(f"{name}.weight")
        kind = "linear" if call.target is LINEAR else "conv {}x{}".format(*weight.shape[2:])
        stride = call.args[3][0] if len(call.args) > 3 else 1
        shapes = (shape_of(call.args[0]), shape_of(call))
        value, position = _follow(program, call, _IN_BLOCK).name, i / max(len(layers) - 1, 1)
        found.append((name, kind, tuple(weight.shape), stride, value, position, kind != "linear", *shapes))
    import pandas as pd

    return pd.DataFrame(found, columns=COLUMNS)


def cut_all(classifier: Classifier, layers: Sequence[str | nn.Module]) -> dict[str, Cut]:
    """Cut a classifier at several layers."""
    images = check_classifier(classifier).normalise(probe_images((classifier.size, classifier.size)))
    logits = logits_now(classifier.model, images)
    return {(cut := Cut(classifier, layer, logits=logits)).layer: cut for layer in layers}


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
