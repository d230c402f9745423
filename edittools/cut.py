"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # what the steps before the layer hand on: its keys and, say, a skip
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


State = tuple[Tensor, ...]
"""What the steps before a layer hand on: the layer's keys first and, say, a skip."""


def rows(tensor: Tensor, linear: bool) -> Tensor:
    """See keys, outputs or values as rows `(P, C)`, one a position: of maps `(B, C, H, W)`, or of a linear layer."""
    return (tensor if linear else tensor.movedim(1, -1)).flatten(0, -2)


class Layer:
    """One layer of a classifier, for images of one `size` (H, W): what it makes of keys, and where they stand."""

    def __init__(self, classifier: Classifier, layer: str | nn.Module, size: Sequence[int] | None = None) -> None:
        self.classifier, self.model = check_classifier(classifier), classifier.model
        self.layer = find_layer(self.model, layer)
        self.size = tuple(size or (classifier.size, classifier.size))
        self._find()
        self.is_linear = self._call.target is LINEAR
        self.channels = -1 if self.is_linear else 1
        """The dimension of the channels in keys, outputs and values."""

    def _find(self) -> Program:
        """Find the layer, and where its block ends, in the program of the model as it is now."""
        program = program_of(self.classifier, self.size)
        if program is not getattr(self, "_program", None):
            self._program, self._call = program, program.call_of(self.layer)
            self._grid, keys = program.grids[self._call], self._call.args[0]
            self._value, self._affine = (_follow(program, self._call, steps) for steps in (_IN_BLOCK, set()))
            earlier = program.reached([keys], "all_input_nodes")
            self._earlier = earlier | {u for n in earlier for u in n.users if u.target is operator.getitem}
            later = program.seen - self._earlier
            handed_on = [n for n in program.nodes if n in program.seen - later and later.intersection(n.users)]
            self._alive = list(dict.fromkeys([keys, *handed_on]))
        return program

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

    @without_autocast()
    def convolve(self, keys: Tensor, weight: Tensor) -> Tensor:
        """Run the layer on keys of any number of channels, with `weight` in place of its own and without bias."""
        return self._call.target(keys, weight, None, *self._call.args[3:])

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
        size = like.shape[1:-1] if self.is_linear else like.shape[2:]
        if not self.is_linear and size != shape_of(self._call.args[0])[1:]:
            return F.adaptive_avg_pool2d(masks, size)
        cells = F.adaptive_avg_pool2d(masks, (self._grid.height, self._grid.width))
        return self._grid.tokens(cells).reshape(-1, *size)

    def maps(self, values: Tensor) -> Tensor:
        """Lay out one number a position of keys or outputs, as in `shares`, as maps `(B, h, w)`."""
        return self._grid.cells(values.reshape(len(values), -1)) if self.is_linear else values


class Cut(Layer):
    """A classifier cut at one layer, by name or module, for images of one `size` (H, W), by default the classifier's.

    What follows the layer is computed in the precision of what it is given, images in the model's. The cut is checked
    on two images, see `check_logits`. Raises `KeyError` or `TypeError` for no such layer, and `ValueError` for one that
    cannot be edited, a model that cannot be exported, or a cut that computes something else.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, size: Sequence[int] | None = None) -> None:
        super().__init__(classifier, layer, size)
        try:
            self._check()
        except ValueError:  # what the program holds was changed, as a scale somewhere: exported anew
            self._program.marks = None
            self._check()

    @torch.no_grad()
    def _check(self) -> None:
        images, what = probe_images(self.size), f"{type(self.model).__name__} cut at {self.layer!r}"
        logits = self.suffix(self.prefix(images))
        check_logits(logits, self.model, self.classifier.normalise(images), what)

    def prefix(self, images: Tensor) -> State:
        """Run `(B, 3, H, W)` images up to the layer; no gradient is recorded."""
        return states_at({self.layer: self}, images, len(images))[self.layer][0]

    def keys(self, state: State) -> Tensor:
        """Give what goes into the layer, as the layer takes it."""
        return state[0]

    def output(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Run the layer alone on its keys, with its own weight or with `weight`."""
        program, keys = self._find(), self.keys(state)
        return program.compute([self._call], {self._alive[0]: keys}, self._named(weight, keys))[0]

    def value(self, state: State, output: Tensor | None = None) -> Tensor:
        """Go on from the layer's output (default: its own) to the value, the paper's f: norm, activation, pooling."""
        return self._compute(self._value, state, output)

    def affine(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the pre-activation: what scales, shifts and adds, such as norm and skip."""
        return self._compute(self._affine, state, output)

    def logits(
        self, state: State, output: Tensor | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Go on from the layer's output to the logits `(B, classes)`, maybe with other `parameters`, by name."""
        return self._compute(self._find().logits, state, output, parameters)

    def suffix(self, state: State, weight: Tensor | None = None) -> Tensor:
        """Compute the logits `(B, classes)`, from the layer on, with its own weight or with `weight`."""
        return self.logits(state, parameters=self._named(weight, self.keys(state)))

    def _named(self, weight: Tensor | None, like: Tensor) -> dict[str, Tensor]:
        return {} if weight is None else {f"{self.layer}.weight": weight.to(like)}

    def _compute(
        self, node: fx.Node, state: State, output: Tensor | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Compute a node on from a state, and from the layer's `output` where it is known."""
        known = dict(zip(self._alive, state, strict=True))
        known = known if output is None else {self._call: output} | known
        return self._program.compute([node], known, weights)[0]

    def keys_at(self, state: State, layer: str) -> Tensor:
        """Compute the keys of a later `layer` from a state."""
        return self._compute(self._program.call_of(layer).args[0], state)

    @property
    def state_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters, by name in the model, on which a state depends."""
        earlier = {node.target for node in self._earlier}
        return {name: parameter for name, parameter in self.model.named_parameters() if name in earlier}

    @property
    def later_parameters(self) -> dict[str, nn.Parameter]:
        """The others, but for the layer's own: of what follows it and runs beside it, such as a skip's downsampling."""
        own = {node.target for node in (*self._earlier, *self._call.all_input_nodes)}
        later = {node.target for node in self._program.nodes} - own
        return {name: parameter for name, parameter in self.model.named_parameters() if name in later}


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
    modules, kind = dict(model.named_modules()), type(model).__name__
    for name, module in modules.items():
        if layer is module or layer == name:
            return name
    if not isinstance(layer, str):
        raise TypeError(f"this {type(layer).__name__} is no layer of the {kind}: expected a name or one of its modules")
    near = difflib.get_close_matches(layer, [n for n, m in modules.items() if "weight" in m._parameters], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see editable_layers(classifier)"
    raise KeyError(f"layer {layer!r} not found in {kind}; {hint}")


@torch.no_grad()
def states_at(
    cuts: Mapping[str, Cut], images: Images, batch_size: int = 64, progress: bool = False
) -> dict[str, list[State]]:
    """Run images `(N, 3, H, W)` once; give by layer their states, one a batch. The cuts are of one classifier."""
    classifier, found = next(iter(cuts.values())).classifier, {layer: [] for layer in cuts}
    if any(cut.classifier is not classifier for cut in cuts.values()):
        raise ValueError("cuts of several classifiers: expected cuts of one, see cut_all")
    for some in in_batches(images, batch_size, "states", progress):
        size = tuple(some.shape[2:])
        for cut in cuts.values():
            if cut.size != size:
                raise ValueError(f"images of {size} pixels, {cut.layer!r} cut for {cut.size}: expected Cut(…, {size})")
            program = cut._find()
        wanted = list(dict.fromkeys(node for cut in cuts.values() for node in cut._alive))
        values = program.compute(wanted, {program.images: classifier.normalise(some)})
        values = dict(zip(wanted, values, strict=True))
        for layer, cut in cuts.items():
            found[layer].append(tuple(values[node] for node in cut._alive))
    return found


def editable_layers(classifier: Classifier, size: int | None = None) -> "pd.DataFrame":
    """List the layers that can be edited, from first to last.

    One row a layer: `layer` (name), `kind`, `weight` (shape), `value` (the step where its block ends), `in_paper` (true
    of convolutions alone), `keys` and `output` (shapes without the batch).
    """
    import pandas as pd

    program, found = program_of(classifier, (size, size) if size else None), []
    for node in program.grids:
        with suppress(ValueError):
            name = str(node.args[1].target).removesuffix(".weight")
            call = program.call_of(name)
            weight = tuple(program.module.get_parameter(f"{name}.weight").shape)
            kind = "linear" if call.target is LINEAR else "conv {}x{}".format(*weight[2:])
            value, shapes = _follow(program, call, _IN_BLOCK).name, (shape_of(call.args[0]), shape_of(call))
            found.append((name, kind, weight, value, kind != "linear", *shapes))
    return pd.DataFrame(found, columns=("layer", "kind", "weight", "value", "in_paper", "keys", "output"))


def cut_all(classifier: Classifier, layers: Sequence[str | nn.Module]) -> dict[str, Cut]:
    """Cut a classifier at several layers."""
    return {(cut := Cut(classifier, layer)).layer: cut for layer in layers}
