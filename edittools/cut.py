"""Cut an unmodified classifier at one layer.

    cut = Cut(classifier, "features.28")    # a name or a module
    state = cut.prefix(images)              # everything that is alive at the layer, its keys among them
    cut.keys(state)                         # what goes into the layer
    cut.output(state, weight)               # what the layer makes of it, with its own or another weight
    cut.block(state, weight)                # the value: the layer and what follows up to it (the paper's f)
    cut.suffix(state, weight)               # the logits

The state is kept, so one more weight of the layer costs the suffix only. `editable_layers` lists what can be cut.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edittools.classifiers import Classifier, check_classifier
from edittools.graph import (
    ancestors,
    beside,
    call_of,
    descendants,
    evaluating,
    find_layer,
    follow,
    is_affine,
    is_editable,
    is_in_block,
    parameters_of,
    sharing,
    subgraph,
    trace,
)
from edittools.images import Images, in_batches
from edittools.tokens import TokenGrid, token_grid

if TYPE_CHECKING:
    import pandas as pd


def rows(tensor: Tensor, linear: bool) -> Tensor:
    """See keys, outputs or values as rows `(P, C)`, one a position: of maps `(B, C, H, W)`, or of a linear layer."""
    return (tensor if linear else tensor.movedim(1, -1)).flatten(0, -2)


def mask_at(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Pool masks `(B, H, W)` to maps of `size` `(h, w)`: shares in [0, 1], `(B, h, w)`."""
    return F.adaptive_avg_pool2d(mask[:, None], tuple(size))[:, 0]


@dataclass(frozen=True)
class State:
    """What is alive where a classifier was cut: the layer's keys first and, say, the skip of a residual block."""

    alive: tuple[Any, ...]

    def to(self, dtype: torch.dtype) -> "State":
        """Give it in another precision; what holds no floating-point numbers stays as it is."""
        return State(tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in self.alive))


class Cut:
    """A classifier cut at one layer, by name or module. The classifier itself is neither copied nor changed.

    What follows the layer is computed in the precision of what it is given, images in the model's. Raises `KeyError`,
    `TypeError` or `ValueError` for no such layer, one that cannot be edited, or one that torch.fx cannot reach.
    """

    def __init__(self, classifier: Classifier, layer: str | nn.Module, traced: tuple | None = None) -> None:
        """Trace the classifier (or use `traced`, from `trace(classifier.model)`) and cut it at `layer`."""
        self.classifier, self.model = check_classifier(classifier), classifier.model
        self.layer = find_layer(self.model, layer)
        self.module = self.model.get_submodule(self.layer)
        self.is_linear = isinstance(self.module, nn.Linear)
        graph, opaque = traced or trace(self.model)
        call = call_of(graph, opaque, self.layer)
        behind = descendants(call)
        nodes = [node for node in graph.nodes if node.op != "output"]
        before = [n for n in nodes if n not in behind]
        after = [n for n in nodes if (n in behind and n is not call) or n.op == "get_attr"]
        [images] = [node for node in graph.nodes if node.op == "placeholder"]
        [logits] = graph.output_node().args
        if not isinstance(logits, fx.Node):
            raise ValueError(
                f"{type(self.model).__name__} gives {type(logits).__name__}: expected logits (B, classes) alone, "
                "by a small module around it, for example"
            )
        keys = call.args[0]
        alive = [keys] + [n for n in before if n not in (keys, *after) and any(user in behind for user in n.users)]
        value, affine = follow(self.model, call, is_in_block), follow(self.model, call, is_affine)
        self._beside = beside(self.model, before, ancestors(call))
        known = {*alive, *after, *self._beside}
        alive += [n for n in before if n not in known and any(user in self._beside for user in n.users)]
        placeholders = [call, *alive]
        self._prefix = subgraph(self.model, before, [images], alive)
        self._value = subgraph(self.model, after, placeholders, value)
        self._affine = subgraph(self.model, after, placeholders, affine)
        self._logits = subgraph(self.model, after, placeholders, logits)
        self.value_name = value.name
        self._graph, self._images, self._alive, self._call = graph, images, alive, call
        self._grids: dict[tuple[int, int], TokenGrid | None] = {}
        self._remembered: dict[str, tuple[Any, Any]] = {}

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
        """What goes into the layer, as the layer takes it."""
        return state.alive[0]

    @property
    def channels(self) -> int:
        """The dimension of the channels in keys, outputs and values: 1 of maps, the last of a linear layer."""
        return -1 if self.is_linear else 1

    def output(self, state: State, weight: Tensor | None = None) -> Tensor:
        """What the layer alone makes of the keys, with its own weight or with `weight`."""
        keys = self.keys(state)
        parameters = self._in_precision(self.module, keys)
        if weight is not None:
            parameters["weight"] = weight.to(keys.dtype)
        return torch.func.functional_call(self.module, parameters, (keys,)) if parameters else self.module(keys)

    def along(self, keys: Tensor, basis: Tensor | None) -> Tensor:
        """Keys seen along the rows of `basis` `(rank, in)`, as channels; all of them where there is no basis."""
        if basis is None:
            return keys
        basis = basis.to(keys)
        return keys @ basis.T if self.is_linear else torch.einsum("rn,bnhw->brhw", basis, keys)

    def convolve(self, keys: Tensor, weight: Tensor) -> Tensor:
        """What the layer makes of keys with `weight` in place of its own, for any number of channels, without bias."""
        bias = {} if self.module.bias is None else {"bias": weight.new_zeros(len(weight))}
        return torch.func.functional_call(self.module, {"weight": weight} | bias, (keys,))

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
        return self._go_on(self._value, state, output)

    def affine(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output through the steps that scale and shift each channel, up to the activation."""
        return self._go_on(self._affine, state, output)

    def logits(self, state: State, output: Tensor) -> Tensor:
        """Go on from the layer's output to the logits `(B, classes)`."""
        return self._go_on(self._logits, state, output)

    def _go_on(self, part: fx.GraphModule, state: State, output: Tensor) -> Tensor:
        inputs, parameters = (output, *state.alive), self._in_precision(part, output)
        with evaluating(self.model):
            return torch.func.functional_call(part, parameters, inputs) if parameters else part(*inputs)

    def _in_precision(self, part: nn.Module, like: Tensor) -> dict[str, Tensor]:
        """The weights of a part of the model in the precision of `like`; none when that is the layer's own."""
        if like.dtype == self.weight.dtype:
            return {}
        weights = itertools.chain(part.named_parameters(), part.named_buffers())
        return {name: tensor.to(like.dtype) for name, tensor in weights if tensor.is_floating_point()}

    def block(self, state: State, weight: Tensor | None = None) -> Tensor:
        """The paper's f: the layer and what follows up to the value (norm, activation, residual sum, pooling)."""
        return self.value(state, self.output(state, weight))

    def suffix(self, state: State, weight: Tensor | None = None) -> Tensor:
        """The logits `(B, classes)`, from the layer on."""
        return self.logits(state, self.output(state, weight))

    @torch.no_grad()
    def remembered(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed anew when a weight or buffer of the model has changed since."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        sums = torch.stack([t.sum(dtype=torch.float64).cpu() for t in tensors]).tolist()
        marks = [(id(t), t._version, total) for t, total in zip(tensors, sums, strict=True)]
        if name not in self._remembered or self._remembered[name][0] != marks:
            self._remembered[name] = marks, compute()
        return self._remembered[name][1]

    @cached_property
    def rest(self) -> fx.GraphModule:
        """What follows the layer, as a module `(output, *state.alive) -> logits` with the model's own parameters.

        What runs beside the layer (see `later_parameters`) is in it, so that its parameters can be changed as well.
        """
        behind, output = descendants(self._call), self._graph.output_node()
        wanted = (behind | self._beside) - {self._call, output}
        nodes = [node for node in self._graph.nodes if node in wanted or node.op == "get_attr"]
        return subgraph(self.model, nodes, [self._call, *self._alive], output.args[0], self._beside)

    @property
    def later_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters, by name in the model, on which the layer's keys do not depend, without the layer's own.

        They are those of what follows the layer and of what runs beside it, such as a skip's downsampling.
        """
        earlier = parameters_of(self.model, ancestors(self._call))
        own = {id(parameter) for parameter in self.module.parameters()} | {id(p) for p in earlier.values()}
        return {name: p for name, p in parameters_of(self.model, self._graph.nodes).items() if id(p) not in own}

    def shares(self, masks: Tensor, like: Tensor) -> Tensor:
        """Pool masks `(B, H, W)` of image size to the positions of keys, outputs or values: shares in [0, 1].

        `(B, h, w)` of maps, `(B, N)` of tokens (0 for a class token), `(B,)` of vectors. Raises `ValueError` where the
        places of tokens cannot be told.
        """
        if not self.is_linear or like.ndim == 4:
            shares = mask_at(masks, like.shape[1:3] if self.is_linear else like.shape[2:])
        elif like.ndim == 2:
            shares = masks.mean(dim=(1, 2))
        else:
            grid = self._grid(masks.shape[1:], like)
            shares = grid.tokens(mask_at(masks, (grid.height, grid.width)))
        if len(shares) != len(like):
            raise ValueError(self._no_grid(like))
        return shares

    def maps(self, values: Tensor, images: Tensor) -> Tensor:
        """Lay out one number a position of the outputs of `(B, 3, H, W)` images, as in `shares`, as maps `(B, h, w)`.

        Raises `ValueError` where the places of tokens cannot be told.
        """
        if len(values) != len(images):
            raise ValueError(self._no_grid(values))
        if values.ndim == 2 and self.is_linear:
            return self._grid(images.shape[2:], values).cells(values)
        return values[:, None, None] if values.ndim == 1 else values

    def _grid(self, size: Sequence[int], like: Tensor) -> TokenGrid:
        """Where the tokens of images of `size` stand; looked up once for each size."""
        size = tuple(size)
        if size not in self._grids:
            with evaluating(self.model):
                images = self.classifier.normalise(torch.zeros(1, 3, *size))
                self._grids[size] = token_grid(self._prefix, images)
        grid = self._grids[size]
        if grid is None or like.ndim not in (2, 3) or like.shape[1] != len(grid.places):
            raise ValueError(self._no_grid(like))
        return grid

    def _no_grid(self, like: Tensor) -> str:
        return (
            f"layer {self.layer!r} sees tokens of shape {tuple(like.shape)}, and where they stand in the image cannot "
            f"be told from the {type(self.model).__name__}: expected the cells of a patch convolution's grid, alone or "
            "with class and register tokens; choose a layer whose keys are a map, such as a convolution"
        )


@torch.no_grad()
def prefixes(cuts: Sequence[Cut], images: Tensor) -> list[State]:
    """Run `(B, 3, H, W)` images once and give the state at every cut; the cuts come from one `cut_all`."""
    first = cuts[0]
    if any(cut._graph is not first._graph for cut in cuts):
        raise ValueError("cuts of several traces: expected cuts made together by cut_all")
    wanted = list(dict.fromkeys(node for cut in cuts for node in cut._alive))
    nodes = [node for node in first._graph.nodes if node.op != "output"]
    together = subgraph(first.model, nodes, [first._images], wanted)
    with evaluating(first.model):
        values = dict(zip(wanted, together(first.classifier.normalise(images)), strict=True))
    return [State(tuple(values[node] for node in cut._alive)) for cut in cuts]


def states_at(
    cuts: Mapping[str, Cut], images: Images, batch_size: int = 64, progress: bool = False
) -> dict[str, list[State]]:
    """By layer the states of images, one a batch, in one run; the cuts come from one `cut_all`."""
    found: dict[str, list[State]] = {layer: [] for layer in cuts}
    for some in in_batches(images, batch_size, "states", progress):
        for layer, state in zip(cuts, prefixes(list(cuts.values()), some), strict=True):
            found[layer].append(state)
    return found


class _Shapes(fx.Interpreter):
    """Runs a graph and notes, for each module, the shapes that go in and come out.

    torch's own `ShapeProp` prints a traceback where a model fails.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(model, graph))
        self.shapes: dict[str, tuple] = {}

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        result = super().call_module(target, args, kwargs)
        if args and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            self.shapes[target] = tuple(args[0].shape[1:]), tuple(result.shape[1:])
        return result


@torch.no_grad()
def editable_layers(classifier: Classifier, size: int | None = None) -> "pd.DataFrame":
    """List the layers that can be edited, from first to last.

    One row a layer: `layer` (name), `kind`, `weight` (shape), `stride`, `keys` and `output` (shapes without the batch),
    `value` (the step where its block ends), `position` (0 first … 1 last), `in_paper` (true of convolutions alone).
    """
    model = check_classifier(classifier).model
    graph, _ = trace(model)
    shapes, modules = _Shapes(model, graph), dict(model.named_modules())
    size = size or classifier.size
    try:
        with evaluating(model):
            shapes.run(classifier.normalise(torch.zeros(1, 3, size, size)))
    except Exception as error:  # models fail in any way on what they were not made for
        raise ValueError(
            f"{type(model).__name__} fails on images of {size} × {size} pixels ({type(error).__name__}: {error}): "
            "expected another size, Classifier(model, classes, size=…)"
        ) from error
    calls = [n for n in graph.nodes if n.op == "call_module" and is_editable(model.get_submodule(n.target))]
    names = [n.target for n in calls]
    rows = []
    for i, node in enumerate(calls):
        if names.count(node.target) > 1 or sharing(modules, node.target):
            continue
        module = model.get_submodule(node.target)
        row = {
            "layer": node.target,
            "kind": "linear" if isinstance(module, nn.Linear) else "conv {}x{}".format(*module.kernel_size),
            "weight": tuple(module.weight.shape),
            "stride": getattr(module, "stride", (1, 1))[0],
            "keys": shapes.shapes[node.target][0],
            "output": shapes.shapes[node.target][1],
            "value": follow(model, node, is_in_block).name,
            "position": i / max(len(calls) - 1, 1),
            "in_paper": isinstance(module, nn.Conv2d),
        }
        rows.append(row)
    import pandas as pd

    return pd.DataFrame(rows)


def cut_all(classifier: Classifier, layers: Sequence[str | nn.Module]) -> dict[str, Cut]:
    """Cut a classifier at several layers, tracing it once."""
    traced = trace(check_classifier(classifier).model)
    return {(cut := Cut(classifier, layer, traced)).layer: cut for layer in layers}


def sought(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of `editable_layers` in which a rule is sought: the convolutions, as in the paper.

    Of a model that has more linear layers on tokens or maps than convolutions, such as a transformer, it is those.
    """
    placed = table[~table.in_paper & (table["keys"].map(len) > 1)]
    convolved = table[table.in_paper]
    return placed if len(placed) > len(convolved) else convolved if len(convolved) else table


def sought_layers(classifier: Classifier) -> tuple[str, ...]:
    """Name the layers in which a rule is sought, from first to last, see `sought`."""
    return tuple(sought(editable_layers(classifier)).layer)


def later_layers(table: "pd.DataFrame", most: int = 10) -> list[str]:
    """Of the layers in which a rule is `sought` the later half, evenly spread, the last one among them."""
    names = list(sought(table).layer)
    later = names[len(names) // 2 :]
    return later[:: -max(1, -(-len(later) // most))][::-1]


def cut_at(classifier: Classifier, layer: "str | nn.Module | Cut") -> Cut:
    """The cut of a classifier at a layer, by name or module; a `Cut` comes back as it is.

    Raises `ValueError` for a `Cut` of another classifier, and what `Cut` raises.
    """
    if not isinstance(layer, Cut):
        return Cut(classifier, layer)
    other = layer.classifier
    same = other.model is check_classifier(classifier).model
    same = same and all(getattr(other, n).tolist() == getattr(classifier, n).tolist() for n in ("mean", "std"))
    if not same:
        raise ValueError(
            f"a cut of {other} at {layer.layer!r} for another classifier, {classifier}: expected a cut of the latter, "
            f"Cut(classifier, {layer.layer!r}), or the layer's name"
        )
    return layer
