"""Where the tokens of a transformer stand in the image.

A linear layer of a transformer sees tokens `(B, N, C)`: the cells of a grid, often with a class token and registers. N
does not tell the grid: 16 tokens are 4 × 4 or 2 × 8 cells. So the positions of the last map are numbered and followed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

_MAPS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class TokenGrid:
    """A grid of `height` × `width` cells and the `places` `(N,)` of N tokens: a cell, row by row, or -1 for none."""

    height: int
    width: int
    places: Tensor

    def tokens(self, cells: Tensor) -> Tensor:
        """Each token what its cell has: `(B, h, w)` to `(B, N)`; a token without a cell gets 0."""
        padded = torch.cat([cells.flatten(1), cells.new_zeros(len(cells), 1)], dim=1)
        return padded[:, self.places.to(cells.device)]

    def cells(self, tokens: Tensor) -> Tensor:
        """Each cell what its token has: `(B, N)` to `(B, h, w)`."""
        order = self.places.argsort()[(self.places < 0).sum() :]  # the tokens in the order of their cells
        return tokens[:, order.to(tokens.device)].unflatten(1, (self.height, self.width))


class _Arrived(Exception):
    """The numbers have come to the first layer that mixes channels or tokens."""


class _Follower(fx.Interpreter):
    """Run a graph with every map replaced by the numbers 1, 2, … of its positions, or by 0, up to the first mixing.

    In between tokens are only moved, added to or joined; norms and activations are passed over. Float64 is exact.
    """

    def __init__(self, module: fx.GraphModule, numbered: bool) -> None:
        super().__init__(module)
        self.numbered, self.size, self.arrived = numbered, (0, 0), None

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, _MAPS):
            return self._numbers(module, args[0])
        if isinstance(module, nn.MultiheadAttention):
            self._arrive(args[0])
        if isinstance(module, _NORMS) or type(module).__module__ == "torch.nn.modules.activation":
            return args[0]
        if next(module.parameters(), None) is not None:
            self._arrive(args[0])
        return super().call_module(target, args, kwargs)

    def _arrive(self, tokens: Tensor) -> None:
        self.arrived = tokens
        raise _Arrived

    def _numbers(self, module: nn.Module, keys: Tensor) -> Tensor:
        dtype = next((p.dtype for p in module.parameters()), keys.dtype)
        shape = module(keys.to(dtype)).shape
        self.size = tuple(shape[-2:])
        numbers = torch.arange(1, self.size[0] * self.size[1] + 1, dtype=torch.float64, device=keys.device)
        return (numbers if self.numbered else 0 * numbers).view(self.size).expand(shape).clone()

    def follow(self, images: Tensor) -> Tensor:
        """What arrives at the first mixing or, when there is none, at the graph's first output."""
        try:
            return self.run(images)[0]
        except _Arrived:
            return self.arrived


@torch.no_grad()
def token_grid(prefix: fx.GraphModule, images: Tensor) -> TokenGrid | None:
    """Find the grid of the tokens that `prefix` makes of `(1, 3, H, W)` images; None where it cannot be told.

    `prefix` gives a tuple, the layer's keys first. Its tokens are taken to keep their order once they are mixed.
    """
    images = images.double()
    numbered = _Follower(prefix, True)
    try:
        found = numbered.follow(images) - _Follower(prefix, False).follow(images)
    except Exception:  # models fail in any way on what they were not made for
        return None
    height, width = numbered.size
    if found.ndim != 3 or len(found) != 1 or not height * width:
        return None
    places = found[0].mean(dim=1).round().long() - 1
    exact = (found[0] - (places[:, None] + 1)).abs().max() < 1e-3
    cells = places[places >= 0].sort().values
    if not exact or not torch.equal(cells, torch.arange(height * width, device=cells.device)):
        return None
    return TokenGrid(height, width, places.cpu())
