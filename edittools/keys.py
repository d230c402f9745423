"""The keys of images at one layer: how a change along some directions would move what the layer makes of them.

Reference images say which keys are seen every day; kept images are exceptions that count by themselves: a sled rightly
relies on the snow that an edit turns to road. The second moment says which directions are rare among them. How far a
change moves their outputs needs more: a kernel sees several keys at once, and neighbours are alike.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edittools.cut import Cut, State, prefixes, rows
from edittools.images import LabelledImages
from edittools.moments import SecondMoment


class LayerKeys:
    """Images at a layer: their `states`, and the second `moment` of their keys, or of more keys where it is given."""

    def __init__(
        self,
        cut: Cut,
        images: LabelledImages | Tensor | Sequence[State],
        moment: SecondMoment | None = None,
        batch_size: int = 64,
    ) -> None:
        """Run images up to the layer, or take their states there; `ValueError` without any image."""
        pixels = images.images if isinstance(images, LabelledImages) else images
        if not len(pixels):
            raise ValueError(f"no images at layer {cut.layer!r}: expected at least one")
        if not isinstance(pixels[0], State):
            pixels = [cut.prefix(pixels[i : i + batch_size]) for i in range(0, len(pixels), batch_size)]
        self.cut, self.states = cut, list(pixels)
        self._moment = moment
        self._mixed: dict[tuple[int, float], tuple[SecondMoment, SecondMoment]] = {}

    @property
    def moment(self) -> SecondMoment:
        """The uncentred second moment of the keys."""
        if self._moment is None:
            keys = [rows(self.cut.keys(state), self.cut.is_linear).double() for state in self.states]
            count = sum(map(len, keys))
            self._moment = SecondMoment((sum(k.T @ k for k in keys) / count).cpu(), count)
        return self._moment

    def mixed_into(self, moment: SecondMoment, share: float) -> SecondMoment:
        """The second moment of keys of which a `share` are these: (1 − share) C + share C of these. Made once."""
        if not share:
            return moment
        known = self._mixed.get((id(moment), share))
        if known is None or known[0] is not moment:
            matrix = (1 - share) * moment.matrix + share * self.moment.matrix.to(moment.matrix)
            known = self._mixed[id(moment), share] = moment, SecondMoment(matrix, moment.count, moment.clamp)
        return known[1]

    @torch.no_grad()
    def windows(self, basis: Tensor | None) -> Tensor:
        """The mean of w wᵀ over all positions, w what the kernel sees of the keys along `basis`, see `Cut.windows`.

        `(rank * kh * kw,) * 2` float64. A change Λ along the basis moves the outputs by tr Λ (w wᵀ) Λᵀ in the mean
        square, summed over channels.
        """
        seen = [self.cut.windows(self.cut.along(self.cut.keys(state), basis)) for state in self.states]
        return sum(one.T @ one for one in seen) / sum(map(len, seen))


def layer_keys(
    cuts: Mapping[str, Cut],
    images: LabelledImages | Tensor,
    moments: Mapping[str, SecondMoment] | None = None,
    batch_size: int = 64,
) -> dict[str, LayerKeys]:
    """The keys of images at layers, in one run; `cuts` come from one `cut_all`, `moments` may be of more keys."""
    pixels = images.images if isinstance(images, LabelledImages) else images
    found: dict[str, list[State]] = {layer: [] for layer in cuts}
    for start in range(0, len(pixels), batch_size):
        for layer, state in zip(cuts, prefixes(list(cuts.values()), pixels[start : start + batch_size]), strict=True):
            found[layer].append(state)
    return {layer: LayerKeys(cuts[layer], states, (moments or {}).get(layer)) for layer, states in found.items()}


def windows_of(moment: SecondMoment, basis: Tensor | None, kernel: int) -> Tensor:
    """What `LayerKeys.windows` gives, as far as a second moment tells: the keys under a window are taken as unrelated.

    `kernel` is how many places the window has.
    """
    matrix = moment.matrix
    if basis is not None:
        basis = basis.to(matrix)
        matrix = basis @ matrix @ basis.T
    return torch.kron(matrix, torch.eye(kernel).to(matrix))
