"""Where the keys of a layer stand in the image: the cells of a grid, tokens in any order, padding, class tokens.

16 tokens are 4 × 4 or 2 × 8 cells, their number does not tell. So two images whose pixels hold their own places, one
down and one across, as shares of the image, are followed through the graph: views move places, steps that mix
neighbours average them, and what has no place (a class token, padding) is NaN.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

_MOVES = "reshape flatten unflatten permute transpose t movedim swapaxes squeeze unsqueeze expand expand_as repeat cat "
_MOVES += "stack slice select narrow split split_with_sizes chunk unbind roll flip index index_select clone contiguous "
_MOVES += "sym_size alias detach pixel_shuffle pixel_unshuffle channel_shuffle reflection_pad2d replication_pad2d pad"
_MOVES = {"", *_MOVES.split()}  # "": takes one of several results
_MIXES = {"linear", "matmul", "bmm", "scaled_dot_product_attention"}


@dataclass(frozen=True)
class TokenGrid:
    """A grid of `height` × `width` cells and the `places` `(N,)` of N keys: a cell, row by row, or -1 for none."""

    height: int
    width: int
    places: Tensor

    def tokens(self, cells: Tensor) -> Tensor:
        """Give each key what its cell has: `(B, h, w)` to `(B, N)`; a key without a cell gets 0."""
        padded = torch.cat([cells.flatten(1), cells.new_zeros(len(cells), 1)], dim=1)
        return padded[:, self.places.to(cells.device)]

    def cells(self, tokens: Tensor) -> Tensor:
        """Give each cell what its key has: `(B, N)` to `(B, h, w)`; a linear layer's keys have a cell of their own."""
        order = self.places.argsort()[-self.height * self.width :]  # those without a cell, -1, come first
        return tokens[:, order.to(tokens.device)].unflatten(1, (self.height, self.width))


@torch.no_grad()
def token_grids(module: fx.GraphModule, calls: Collection[fx.Node]) -> dict[fx.Node, TokenGrid | None]:
    """Find the grid of the keys that go into each of `calls`; None where places cannot be told."""
    [images] = module.graph.find_nodes(op="placeholder")
    shape, follower = sizes(images.meta["val"]), _Follower(module, calls)
    follower.run(_plain(shape[2:]).expand(shape))
    return {call: _grid(keys, op_name(call) == "linear") for call, keys in follower.found.items()}


def op_name(node: fx.Node) -> str:
    """Name the ATen operation of a node, without its overload; "" of any other node."""
    return node.target._schema.name.split("::")[1] if isinstance(node.target, torch._ops.OpOverload) else ""


def sizes(value: Any) -> tuple[int, ...]:
    """Give the shape of what stands for a tensor, for two images; () of anything else."""
    shape = value.shape if isinstance(value, Tensor) else ()
    return tuple(size.node.hint if isinstance(size, torch.SymInt) else size for size in shape)


def _plain(size: Sequence[int]) -> Tensor:
    """Make the places `(2, 1, h, w)` of a map that covers the image: down and across."""
    axes = [(torch.arange(count) + 0.5) / count for count in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[:, None]


def _grid(keys: Tensor, linear: bool) -> TokenGrid | None:
    """Make a grid of the places of keys."""
    if keys.ndim == 2:
        return TokenGrid(1, 1, torch.zeros(1, dtype=torch.long))
    places = _along(keys if linear else keys.movedim(1, -1)).flatten(1)
    known = places.isfinite().all(dim=0)
    if len(places) != 2 or not known.any():
        return None
    (ys, row), (xs, column) = ((axis * 4096).round().unique(return_inverse=True) for axis in places[:, known])
    cells, count = row * len(xs) + column, len(ys) * len(xs)
    if len(cells.unique()) < count or (count == 1 < len(known)) or (linear and count < len(cells)):
        return None
    numbers = torch.full((len(known),), -1)
    numbers[known] = cells
    return TokenGrid(len(ys), len(xs), numbers)


class _Follower(fx.Interpreter):
    """Run a graph on places and note those of the keys that go into `calls`."""

    def __init__(self, module: fx.GraphModule, calls: Collection[fx.Node]) -> None:
        super().__init__(module)
        self.found = dict.fromkeys(calls)

    def run_node(self, n: fx.Node) -> Any:
        """Move, pool or pass on places, as the operation does with values."""
        found = super().run_node(n) if n.op != "call_function" else None
        if n.op == "get_attr" and found.is_floating_point():
            found = torch.full(found.shape, torch.nan)
        if n.op == "call_function":
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if n in self.found:
                self.found[n] = args[0]
            try:
                found = _step(n, args, kwargs)
            except (IndexError, RuntimeError, TypeError):  # an operation that places alone do not suffice for
                found = torch.full(sizes(n.meta.get("val")), torch.nan)
        return found.cpu() if isinstance(found, Tensor) else found


def _step(node: fx.Node, args: tuple, kwargs: dict) -> Any:
    value, name = node.meta.get("val"), op_name(node)
    parts = [part for one in args for part in (one if isinstance(one, list | tuple) else [one])]
    places, shape = [one for one in parts if isinstance(one, Tensor) and one.is_floating_point()], sizes(value)
    if name == "constant_pad_nd" or (name == "pad" and args[2:3] in ((), ("constant",))):
        return F.pad(*args[:2], value=torch.nan)
    if name in ("view", "_unsafe_view"):  # what is expanded has no view
        return args[0].reshape(args[1])
    if name in _MOVES or not (places or (isinstance(value, Tensor) and value.is_floating_point())):
        return node.target(*args, **kwargs)
    if isinstance(value, tuple | list):
        return tuple(_passed(places, sizes(one)) for one in value)
    if len(shape) == 4 and any(kind in name for kind in ("conv", "pool", "upsample")):
        return _pooled(args[0], shape)
    if name in _MIXES:
        return _along(args[0])[..., None].expand(shape)
    if name == "mean" and args[1:]:
        return args[0].nanmean(*args[1:3])
    return _passed(places, shape)


def _along(places: Tensor) -> Tensor:
    """Give the mean place over the last dimension; NaN where what lies along it comes from far apart."""
    low, high = places.nan_to_num(torch.inf).amin(dim=-1), places.nan_to_num(-torch.inf).amax(dim=-1)
    cells = places[0].isfinite().any(dim=-1).sum().clamp_min(1)
    return torch.where(high - low <= 2 / cells.sqrt(), places.nanmean(dim=-1), torch.nan)


def _pooled(places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give a map of another size the places under each position, or those of its cells where it covers the image."""
    flat = _along(places.movedim(1, -1))[:, None]
    valid = F.adaptive_avg_pool2d(flat.isfinite().float(), shape[2:])
    pooled, plain = F.adaptive_avg_pool2d(flat.nan_to_num(0), shape[2:]) / valid, _plain(shape[2:])
    size = torch.tensor(shape[2:]).view(2, 1, 1, 1)
    covers = len(pooled) == 2 and bool(((pooled - plain).abs() * size <= 1).all())
    return (plain if covers else pooled).expand(shape)


def _passed(places: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Pass on the places of tensors of the result's shape; NaN where they contradict each other."""
    same = torch.stack([torch.full(shape, torch.nan), *(one for one in places if one.shape == shape)])
    mean = same.nanmean(dim=0)
    return torch.where((same - mean).abs().nan_to_num(0).amax(dim=0) < 1e-4, mean, torch.nan)
