"""Where the keys, the output and the value of a layer are in the image.

Sixteen tokens are 4 × 4 or 2 × 8 cells; their number does not tell. So the coordinates of the pixels are followed
through the graph, by an explicit list of operations whose effect on coordinates is known. Any other operation makes
positions unknown, and a layer behind it is refused with the name of that operation.

Coordinates are real numbers in pixels: row 0 of the image covers 0 to 1. A position without coordinates, such as a
class token or padding, holds NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx

_MOVES = set(
    """view _unsafe_view reshape _reshape_copy view_as reshape_as flatten unflatten ravel permute transpose t numpy_T mT
    matrix_H adjoint movedim moveaxis swapaxes swapdims squeeze unsqueeze expand expand_as broadcast_to repeat tile
    repeat_interleave cat concat concatenate stack hstack vstack slice select narrow split split_with_sizes
    tensor_split chunk unbind roll flip fliplr flipud rot90 index index_select gather take_along_dim scatter index_put
    index_copy slice_scatter select_scatter unfold clone contiguous alias detach lift_fresh_copy copy pixel_shuffle
    pixel_unshuffle channel_shuffle""".split()
)
"""They move, copy or leave out elements: what they do to an image, they do to coordinates."""

_ELEMENTWISE = set(
    """absolute divide multiply subtract negative rsub true_divide where masked_fill fill hardswish log_sigmoid prelu
    _prelu_kernel relu6 special_erf special_expit dropout feature_dropout alpha_dropout feature_alpha_dropout to
    _to_copy type_as batch_norm _native_batch_norm_legit_no_training layer_norm native_layer_norm group_norm
    native_group_norm instance_norm rms_norm _fused_rms_norm softmax _softmax log_softmax _log_softmax""".split()
)
"""Besides what torch tags as pointwise: each element of the result is where those of the arguments are."""

_WINDOWS = {"conv2d", "convolution", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d"}
_RESIZES = set(
    """adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d _upsample_nearest_exact2d
    upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa conv_transpose2d""".split()
)
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "linalg_vector_norm", "norm"}
_LINEAR = {"linear", "addmm", "matmul", "mm", "bmm", "scaled_dot_product_attention"}

_PADDINGS = {"constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d"}

_NEW = set("zeros_like ones_like empty_like full_like rand_like new_zeros new_ones new_empty new_full".split())
"""Their results have the shape of an image, but no coordinates."""

Place = Literal["keys", "output", "value"]
"""The tensor of a layer whose positions are meant."""

_FINENESS = 64
"""Coordinates that differ by less than 1/64 of a pixel are treated as equal."""


@dataclass(frozen=True)
class Unknown:
    """What stands for a tensor whose coordinates are not known, and the operation that made it so."""

    operation: str
    shape: tuple[int, ...]
    is_floating_point: bool


@dataclass(frozen=True)
class Grid:
    """A rectangle of the image divided into cells, and the cell of each position of a tensor.

    Args:
        top: upper edge of the rectangle in pixels; likewise `bottom`, `left` and `right`.
        height: number of rows of cells; `width` is that of columns.
        cells: the number of each position's cell, row by row, or -1 for a position without coordinates: `(h, w)` for
            maps, `(N,)` for tokens, `()` for vectors.
    """

    top: float
    bottom: float
    left: float
    right: float
    height: int
    width: int
    cells: Tensor

    def pool(self, masks: Tensor) -> Tensor:
        """Average masks over the cell of each position.

        Args:
            masks: masks `(B, H, W)`.

        Returns:
            `(B, h, w)` for maps, `(B, N)` for tokens, `(B,)` for vectors; 0 for a position without a cell.
        """
        means = self._average_pixels(masks).flatten(1)
        # Index -1, of positions without a cell, picks the zero at the end.
        padded = torch.cat([means, means.new_zeros(len(means), 1)], dim=1)
        return padded[:, self.cells.to(means.device)]

    def _average_pixels(self, masks: Tensor) -> Tensor:
        """Average masks `(B, H, W)` over each cell: `(B, height, width)`."""
        edges = (self.top, self.bottom, self.left, self.right)
        is_inside = min(edges) >= 0 and self.bottom <= masks.shape[1] and self.right <= masks.shape[2]
        if is_inside and all(float(edge).is_integer() for edge in edges):
            top, bottom, left, right = map(int, edges)
            return F.adaptive_avg_pool2d(masks[:, top:bottom, left:right], (self.height, self.width))
        down = _overlaps(self.top, self.bottom, self.height, masks.shape[1]).to(masks)
        across = _overlaps(self.left, self.right, self.width, masks.shape[2]).to(masks)
        return down @ masks @ across.T

    def to_image(self, values: Tensor, size: Sequence[int]) -> Tensor:
        """Lay one value per position over images, bilinearly between the cells.

        Args:
            values: values of the positions, of the shape that `pool` returns; a cell gets the mean of its positions.
            size: (H, W) of the images.

        Returns:
            `(B, H, W)`; 0 outside of the rectangle.
        """
        cells = self._average_positions(values.reshape(len(values), -1))
        if (self.top, self.left, self.bottom, self.right) == (0, 0, *size):
            return F.interpolate(cells[:, None], tuple(size), mode="bilinear")[:, 0]
        rows = (torch.arange(size[0], device=cells.device) + 0.5 - self.top) / (self.bottom - self.top)
        columns = (torch.arange(size[1], device=cells.device) + 0.5 - self.left) / (self.right - self.left)
        inside = ((rows > 0) & (rows < 1))[:, None] & ((columns > 0) & (columns < 1))
        points = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1) * 2 - 1
        points = points.to(cells).expand(len(cells), -1, -1, -1)
        return F.grid_sample(cells[:, None], points, padding_mode="border", align_corners=False)[:, 0] * inside

    def _average_positions(self, values: Tensor) -> Tensor:
        """Average values of positions `(B, N)` over each cell: `(B, height, width)`."""
        numbers = self.cells.flatten().to(values.device)
        has_cell = numbers >= 0
        sums = values.new_zeros(len(values), self.height * self.width)
        sums.index_add_(1, numbers[has_cell], values[:, has_cell])
        counts = torch.bincount(numbers[has_cell], minlength=self.height * self.width).clamp_min(1)
        return (sums / counts).unflatten(1, (self.height, self.width))


@dataclass(frozen=True)
class AxisWindow:
    """A convolution or pooling along one axis: output i sees inputs from `i * stride - padding` on.

    `padding` is that on the left or top. A resize has stride 0.
    """

    outputs: int
    kernel: int = 1
    stride: int = 0
    padding: int = 0
    dilation: int = 1

    def centers(self, first: int, last: int) -> list[Tensor]:
        """Return where the centers of the outputs may lie, as real input indices, the preferred ones first.

        With a stride, what an output sees drifts by up to a cell against an even division of the image: with kernel 3,
        stride 2 and padding 1, output i is centered at input 2 i, not at 2 i + 0.5. The drifts of several layers add
        up, and would leave a strip at the right and bottom edge without a position. So up to a drift of one cell, the
        outputs are taken to divide the image evenly, as resizing a mask to the size of a map does. Where such centers
        lie between several parts of the image, as behind circular padding, the exact ones are taken.

        Args:
            first: the first input that holds a part of the image.
            last: one after the last.
        """
        even = first + (torch.arange(self.outputs) + 0.5) * (last - first) / self.outputs - 0.5
        if self.stride == 0:
            return [even]
        exact = torch.arange(self.outputs) * self.stride - self.padding + self.dilation * (self.kernel - 1) / 2
        is_near = float((exact - even).abs().max()) <= (last - first) / self.outputs
        return [even, exact] if self.stride > 1 and is_near else [exact]


def _overlaps(start: float, end: float, count: int, pixels: int) -> Tensor:
    """Return the share `(count, pixels)` that pixel p, from p to p + 1, has of each of `count` cells."""
    edges = start + (end - start) * torch.arange(count + 1) / count
    left = torch.arange(pixels)
    common = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return common.clamp_min(0) / edges.diff()[:, None]


def windows_of(node: fx.Node) -> tuple[AxisWindow, AxisWindow]:
    """Read off a convolution, pooling or resize what it does along both axes of the image."""
    value = node.meta["val"]
    outputs = sizes(value[0] if isinstance(value, tuple | list) else value)[-2:]
    name = op_name(node)
    if name not in _WINDOWS or (name == "convolution" and node.args[6]):
        return tuple(map(AxisWindow, outputs))
    names = ("stride", "padding", "dilation")
    if name in ("conv2d", "convolution"):
        kernel = sizes(node.args[1].meta["val"])[-2:]
        default_stride = 1
        arguments = node.args[3:6]
    else:
        kernel = _pair(node.args[1])
        default_stride = kernel
        arguments = node.args[2:4] if name == "avg_pool2d" else node.args[2:5]
    settings = dict(zip(names, arguments, strict=False))
    stride = _pair(settings.get("stride") or default_stride)
    dilation = _pair(settings.get("dilation", 1))
    padding = settings.get("padding", 0)
    if padding == "same":
        padding = [step * (size - 1) // 2 for step, size in zip(dilation, kernel, strict=True)]
    padding = _pair(0 if padding == "valid" else padding)
    return tuple(map(AxisWindow, outputs, kernel, stride, padding, dilation))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return a setting of two axes that may be given as one number."""
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def op_name(node: fx.Node) -> str:
    """Name the ATen operation of a node, without its overload; "" of any other node."""
    return node.target._schema.name.split("::")[1] if isinstance(node.target, torch._ops.OpOverload) else ""


def sizes(value: Any) -> tuple[int, ...]:
    """Give the shape of a traced tensor, with the number of images that it was traced with; () of anything else."""
    shape = value.shape if isinstance(value, Tensor) else ()
    return tuple(size.node.hint if isinstance(size, torch.SymInt) else size for size in shape)


@torch.no_grad()
def grids_of(
    nodes: Sequence[fx.Node],
    images: fx.Node,
    tensor: Callable[[str], Tensor],
    layers: Mapping[fx.Node, Mapping[Place, fx.Node]],
) -> dict[fx.Node, dict[Place, Grid] | str]:
    """Find the grids of the keys, outputs and values of layers, in one pass over the graph.

    Args:
        nodes: the nodes of the graph in order.
        images: the node of the images.
        tensor: gives a tensor of the graph by name.
        layers: by convolution or linear layer among the nodes, the nodes of its keys, output and value.

    Returns:
        By layer its grids, or why one of them is unknown.
    """
    shape = sizes(images.meta["val"])
    rows = torch.arange(shape[2]) + 0.5
    columns = torch.arange(shape[3]) + 0.5
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[:, None].expand(shape)
    coordinates: dict[fx.Node, Any] = {images: pixels}
    for node in nodes:
        if node.op == "placeholder" and node is not images:
            coordinates[node] = _without_coordinates(tensor(node.target))
        elif node.op == "call_function":
            coordinates[node] = _followed(node, coordinates)
    grids: dict[fx.Node, dict[Place, Grid] | str] = {}
    for layer, places in layers.items():
        is_linear = op_name(layer) == "linear"
        shapes = {place: sizes(node.meta["val"])[1:] for place, node in places.items()}
        found = {place: _grid(coordinates[node], is_linear, shape[2:]) for place, node in places.items()}
        if isinstance(found["value"], str) and shapes["value"] == shapes["output"]:
            found["value"] = found["output"]  # whatever is added to an output, wherever it comes from, does not move it
        unknown = [place for place, grid in found.items() if isinstance(grid, str)]
        grids[layer] = found
        if unknown:
            place = unknown[0]
            grids[layer] = f"the positions of its {place} {shapes[place]} in the image are unknown: {found[place]}"
    return grids


def _without_coordinates(constant: Tensor) -> Tensor:
    """Return whole numbers, such as an index, as they are, and NaN for what is not of the image."""
    if constant.is_floating_point():
        return torch.full(constant.shape, torch.nan)
    return constant.detach().cpu()


def _followed(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Compute the coordinates that a node's result has; `Unknown` where the operation's effect on them is not known."""
    meta = node.meta.get("val")
    if isinstance(meta, torch.SymInt):
        return meta.node.hint
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    tensors = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Tensor | Unknown)]
    coordinates = [tensor for tensor in tensors if isinstance(tensor, Unknown) or tensor.is_floating_point()]
    if not coordinates and not _is_floating(meta):
        return _on_cpu(node, args, kwargs)
    try:
        result = _step(node, args, kwargs, coordinates)
    except (IndexError, RuntimeError, TypeError, ValueError):  # an operation that coordinates alone do not suffice for
        result = None
    if any(leaf is None for leaf in _leaves(result)):
        return _unknown(node, tensors)
    return result


def _step(node: fx.Node, args: tuple, kwargs: dict, coordinates: list[Tensor | Unknown]) -> Any:
    """Apply one operation to coordinates; None where its effect on them is not known."""
    name = op_name(node)
    meta = node.meta.get("val")
    if not name:  # not an ATen operation: takes one of several results, or computes with sizes
        return None if isinstance(args[0], Unknown) else node.target(*args, **kwargs)
    if name in _ELEMENTWISE or torch.Tag.pointwise in node.target.tags:
        # Before unknown arguments are refused: one of another shape, such as a gate of channels, moves no element.
        parts = args[1:] if name == "where" else args
        return _at_each(meta, lambda shape: _agreed(parts, shape))
    if name in _NEW or _are_constants(coordinates):
        return _at_each(meta, lambda shape: torch.full(shape, torch.nan))  # made of constants alone
    if any(isinstance(leaf, Unknown) for leaf in _leaves((args, kwargs))):
        return None
    if not _is_floating(meta):
        return None  # whole numbers that depend on the image
    if name in _PADDINGS:  # what reflects or repeats the border is no second place of it
        is_circular = args[2:3] == ("circular",)
        return node.target(*args, **kwargs) if is_circular else F.pad(args[0], args[1], value=torch.nan)
    if name in ("view", "_unsafe_view"):  # what is expanded has no view
        return args[0].reshape(args[1])
    if name in _MOVES:
        return node.target(*args, **kwargs)
    if name in _WINDOWS or name in _RESIZES:
        return _at_each(meta, lambda shape: _windowed(args[0], windows_of(node)).expand(shape))
    if name in _LINEAR:
        return _mixed(name, args, sizes(meta))
    if name in _REDUCTIONS and len(args) > 1:
        dims, keep = args[-2:] if isinstance(args[-1], bool) else (args[-1], False)
        if name in ("var", "std", "norm", "linalg_vector_norm"):
            dims, keep = _axes_left_out(args[0].shape, sizes(meta))
        if isinstance(meta, tuple | list):
            return None
        return args[0].nanmean(dims, keep)
    return None


def _are_constants(coordinates: Sequence[Tensor | Unknown]) -> bool:
    """Tell whether no argument has coordinates, known or unknown."""
    return not any(isinstance(tensor, Unknown) or _has_places(tensor) for tensor in coordinates)


def _axes_left_out(before: Sequence[int], after: Sequence[int]) -> tuple[list[int], bool]:
    """Tell which axes a reduction took, and whether it kept them with length 1, from the shapes."""
    if len(before) == len(after):
        return [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new], True
    taken = [axis for axis in range(len(before)) if (*before[:axis], *before[axis + 1 :]) == tuple(after)]
    if len(taken) != 1:
        raise ValueError("several axes could have been reduced")
    return taken, False


def _leaves(value: Any) -> Iterator[Any]:
    """List what stands in nested tuples, lists and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_floating(meta: Any) -> bool:
    """Tell whether a node's result, or the first of several, holds real numbers."""
    first = meta[0] if isinstance(meta, tuple | list) and meta else meta
    return isinstance(first, Tensor) and first.is_floating_point()


def _on_cpu(node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """Run an operation on whole numbers, such as the index of a permutation."""
    result = node.target(*args, **{name: value for name, value in kwargs.items() if name != "device"})
    return result.cpu() if isinstance(result, Tensor) else result


def _at_each(meta: Any, compute: Callable[[tuple[int, ...]], Tensor | None]) -> Any:
    """Compute coordinates for a result, or for each of several."""
    if isinstance(meta, tuple | list):
        return tuple(compute(sizes(result)) for result in meta)
    return compute(sizes(meta))


def _unknown(node: fx.Node, tensors: Sequence[Tensor | Unknown]) -> Any:
    """Say that coordinates are unknown from this operation on, or since an earlier one."""
    earlier = next((tensor.operation for tensor in tensors if isinstance(tensor, Unknown)), None)
    operation = earlier or op_name(node) or str(node.target)
    meta = node.meta.get("val")
    if isinstance(meta, tuple | list):
        return tuple(Unknown(operation, sizes(result), _is_floating(result)) for result in meta)
    return Unknown(operation, sizes(meta), _is_floating(meta))


def _agreed(parts: Sequence[Any], shape: tuple[int, ...]) -> Tensor | None:
    """Pass on the coordinates of arguments of the result's shape; None if they are of different places.

    What has no place, such as a bias or tokens that were mixed with all others, does not count: in a residual sum the
    other argument says what the place is. Places within half a cell of each other, as of branches with other paddings,
    agree.
    """
    tensors = [leaf for leaf in _leaves(list(parts)) if isinstance(leaf, Tensor | Unknown)]
    tensors = [tensor for tensor in tensors if tuple(tensor.shape) == shape]
    if any(isinstance(tensor, Unknown) and tensor.is_floating_point for tensor in tensors):
        return None
    places = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()]
    if not places:
        return torch.full(shape, torch.nan)
    if len(places) == 1:
        return places[0]
    stacked = torch.stack(torch.broadcast_tensors(*map(_without_repetitions, places)))
    mean = stacked.nanmean(dim=0)
    apart = float((stacked - mean).abs().nan_to_num(0).max())
    if apart > 1 / _FINENESS and apart >= _side_of_a_cell(mean) / 2:
        return None
    return mean.expand(shape)


def _side_of_a_cell(coordinates: Tensor) -> float:
    """Estimate the side of a cell: the extent of all coordinates divided by the square root of their number."""
    finite = coordinates[coordinates.isfinite()]
    if not len(finite):
        return 1.0
    count = int(coordinates[0].isfinite().sum())
    return float(finite.max() - finite.min() + 1) / max(count, 1) ** 0.5


def _without_repetitions(coordinates: Tensor) -> Tensor:
    """View a tensor with one copy of what `expand` has repeated, such as the same coordinates in all channels."""
    for axis, stride in enumerate(coordinates.stride()):
        if stride == 0 and coordinates.shape[axis] > 1:
            coordinates = coordinates.narrow(axis, 0, 1)
    return coordinates


def _has_places(coordinates: Tensor) -> bool:
    """Tell whether any element has coordinates."""
    return bool(_without_repetitions(coordinates).isfinite().any())


def _together(coordinates: Tensor) -> Tensor:
    """Average coordinates along the last axis; NaN where they are further apart than two cells.

    The side of a cell is estimated as in `_side_of_a_cell`, with one position per row.
    """
    if coordinates.stride(-1) == 0:
        return coordinates[..., 0]
    low = coordinates.nan_to_num(torch.inf).amin(dim=-1)
    high = coordinates.nan_to_num(-torch.inf).amax(dim=-1)
    count = coordinates[0].isfinite().any(dim=-1).sum().clamp_min(1)
    finite = coordinates[coordinates.isfinite()]
    extent = finite.max() - finite.min() + 1 if len(finite) else 1.0
    return torch.where(high - low <= 2 * extent / count.sqrt(), coordinates.nanmean(dim=-1), torch.nan)


def _mixed(name: str, args: tuple, shape: tuple[int, ...]) -> Tensor:
    """Follow a product that mixes channels: each row of the first factor, or column of the second, keeps its place."""
    first = args[1] if name == "addmm" else args[0]
    second = args[2] if name == "addmm" else args[1]
    if _has_places(first) or name in ("linear", "scaled_dot_product_attention"):
        return _together(first)[..., None].expand(shape)
    return _together(second.transpose(-1, -2))[..., None, :].expand(shape)


def _windowed(coordinates: Tensor, windows: tuple[AxisWindow, AxisWindow]) -> Tensor:
    """Follow a convolution, pooling or resize of maps `(2, C, h, w)`: `(2, 1, h', w')`."""
    maps = _together(coordinates.movedim(1, -1))
    for axis, window in zip((1, 2), windows, strict=True):
        maps = _sampled(maps, axis, window)
    return maps[:, None]


def _image_range(is_image: Tensor) -> tuple[int, int]:
    """Return the first index where a boolean vector is true, and one after the last; its whole range if none is."""
    indices = is_image.nonzero()[:, 0]
    if not len(indices):
        return 0, len(is_image)
    return int(indices[0]), int(indices[-1]) + 1


def _sampled(maps: Tensor, axis: int, window: AxisWindow) -> Tensor:
    """Take coordinates `(2, h, w)` at the centers of a window's outputs along one axis.

    Raises:
        ValueError: if an output lies between inputs of several parts of the image.
    """
    maps = maps.movedim(axis, 0)
    first, last = _image_range(maps.isfinite().flatten(1).any(dim=1))
    for centers in window.centers(first, last):
        sampled = _interpolated(maps[first:last], centers - first)
        if sampled is not None:
            return sampled.movedim(0, axis)
    raise ValueError("an output lies between inputs of several parts of the image")


def _interpolated(maps: Tensor, centers: Tensor) -> Tensor | None:
    """Interpolate coordinates along the first axis, NaN outside; None where neighbors are of several parts."""
    low = centers.floor().clamp(0, max(len(maps) - 2, 0)).long()
    high = (low + 1).clamp(max=len(maps) - 1)
    share = (centers - low).view(-1, 1, 1)
    step = maps[high] - maps[low]
    usual = maps.diff(dim=0).abs().amax(dim=1).nan_to_num(0).median() if len(maps) > 1 else torch.tensor(0.0)
    is_far = step.abs().amax(dim=1, keepdim=True) > 2 * usual + 1 / _FINENESS
    is_inside = ((centers >= -0.5) & (centers <= len(maps) - 0.5)).view(-1, 1, 1)
    if (is_inside & is_far & (share != 0) & (share != 1)).any():
        return None
    # At an input itself its neighbor does not count: 0 times the NaN of one without coordinates would be NaN.
    sampled = torch.where(share == 0, maps[low], torch.where(share == 1, maps[high], maps[low] + share * step))
    return torch.where(is_inside, sampled, torch.nan)


def _grid(coordinates: Tensor | Unknown, is_linear: bool, size: Sequence[int]) -> Grid | str:
    """Make a grid of the coordinates of keys, outputs or values, or say why there is none."""
    if len(coordinates.shape) == 2:
        return Grid(0, size[0], 0, size[1], 1, 1, torch.zeros((), dtype=torch.long))
    if isinstance(coordinates, Unknown):
        return f"the effect of the operation {coordinates.operation!r} on positions is not known"
    no_grid = "they are no grid of cells, such as tokens of several parts of the image"
    places = _together(coordinates if is_linear else coordinates.movedim(1, -1))
    has_place = places.isfinite().all(dim=0)
    if len(places) != 2 or not has_place.any():
        return no_grid
    rows = _axis_of(places[0, has_place], size[0])
    columns = _axis_of(places[1, has_place], size[1])
    if rows is None or columns is None:
        return no_grid
    count = rows.count * columns.count
    numbers = rows.index * columns.count + columns.index
    has_empty_cells = len(numbers.unique()) < count
    is_one_cell_for_all = count == 1 and len(numbers) > 1
    has_tokens_in_one_cell = is_linear and len(numbers) > count
    if has_empty_cells or is_one_cell_for_all or has_tokens_in_one_cell:
        return no_grid
    cells = torch.full(has_place.shape, -1)
    cells[has_place] = numbers
    return Grid(rows.start, rows.end, columns.start, columns.end, rows.count, columns.count, cells)


@dataclass(frozen=True)
class _Axis:
    """Evenly spaced coordinates: where their cells start and end, how many there are, and the `index` of each key."""

    start: float
    end: float
    count: int
    index: Tensor


def _axis_of(coordinates: Tensor, size: int) -> _Axis | None:
    """Number coordinates `(N,)` from low to high; None where they are not evenly spaced."""
    values, index = (coordinates * _FINENESS).round().unique(return_inverse=True)
    values = values / _FINENESS
    if len(values) == 1:
        half = min(float(values), size - float(values))
        return _Axis(float(values) - half, float(values) + half, 1, index)
    spacing = float(values[-1] - values[0]) / (len(values) - 1)
    if float((values.diff() - spacing).abs().max()) > 4 / _FINENESS:
        return None
    start = _whole_if_near(float(values[0]) - spacing / 2)
    end = _whole_if_near(float(values[-1]) + spacing / 2)
    if end - start == size and abs(start) <= spacing:
        start = 0.0  # after x[..., ::2, ::2] each cell that is left covers its neighbor as well
        end = float(size)
    return _Axis(start, end, len(values), index)


def _whole_if_near(value: float) -> float:
    """Round an edge that is a whole pixel but for rounding."""
    return float(round(value)) if abs(value - round(value)) < 2 / _FINENESS else value
