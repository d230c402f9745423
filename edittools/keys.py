"""The keys of images at one layer: how a change along some directions would move what the layer makes of them.

Reference images say which keys are seen every day; kept images are exceptions that count by themselves: a sled rightly
relies on the snow that an edit turns to road. The second moment says which directions are rare among them. How far a
change moves their outputs needs more: a kernel sees several keys at once, and neighbours are alike.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from edittools.cut import Cut, State, prefixes, rows
from edittools.exemplars import Exemplar, stack
from edittools.images import LabelledImages
from edittools.moments import SecondMoment


class LayerKeys(Sequence[State]):
    """Images at a layer: a sequence of their `states`, and the second `moment` of their keys, or of more if given."""

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
        self._sums: dict[tuple[int, float, float], tuple[SecondMoment, SecondMoment]] = {}

    def __len__(self) -> int:
        """How many states there are, one a batch of images."""
        return len(self.states)

    def __getitem__(self, index: int | slice) -> State | list[State]:
        """The state of one batch, or of several."""
        return self.states[index]

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
        return self._sum(moment, 1 - share, share) if share else moment

    def beside(self, moment: SecondMoment) -> SecondMoment:
        """The second moment C plus that of these keys, scaled to C's trace. Made once."""
        trace = self.moment.matrix.trace().clamp_min(torch.finfo(torch.float64).tiny)
        return self._sum(moment, 1.0, float(moment.matrix.trace() / trace))

    def _sum(self, moment: SecondMoment, weight: float, own: float) -> SecondMoment:
        """`weight` times a second moment and `own` times that of these keys; it is kept with its eigenvectors."""
        known = self._sums.get((id(moment), weight, own))
        if known is None or known[0] is not moment:
            matrix = weight * moment.matrix.double() + own * self.moment.matrix.to(moment.matrix.device)
            known = self._sums[id(moment), weight, own] = moment, SecondMoment(matrix, moment.count, moment.clamp)
        return known[1]

    @torch.no_grad()
    def windows(self, basis: Tensor | None) -> Tensor:
        """The mean of w wᵀ over all positions, w what the kernel sees of the keys along `basis`, see `Cut.windows`.

        `(rank * kh * kw,) * 2` float64. A change Λ along the basis moves the outputs by tr Λ (w wᵀ) Λᵀ in the mean
        square, summed over channels.
        """
        seen = [self.cut.windows(self.cut.along(self.cut.keys(state), basis)) for state in self.states]
        return sum(one.T @ one for one in seen) / sum(map(len, seen))


class ExemplarStates(Sequence[Exemplar]):
    """Exemplars at a layer: a sequence of them, with the states of x (`image`) and x' (`changed`), run when asked for.

    `masks` are `(B, H, W)`. Raises `ValueError` or `TypeError` for what `stack` refuses.
    """

    def __init__(self, cut: Cut, exemplars: Exemplar | Sequence[Exemplar]) -> None:
        """Stack the exemplars."""
        self.cut, self.exemplars = cut, [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
        self._images, self._changed, self.masks = stack(exemplars)

    def __len__(self) -> int:
        """How many exemplars there are."""
        return len(self.exemplars)

    def __getitem__(self, index: int | slice) -> Exemplar | list[Exemplar]:
        """One exemplar, or several."""
        return self.exemplars[index]

    @cached_property
    def image(self) -> State:
        """The state of the images x."""
        return self.cut.prefix(self._images)

    @cached_property
    def changed(self) -> State:
        """The state of the changed images x'."""
        return self.cut.prefix(self._changed)


def exemplars_at(cut: Cut, exemplars: Exemplar | Sequence[Exemplar]) -> ExemplarStates:
    """Exemplars at a layer; `ExemplarStates` come back as they are. Raises `ValueError` for those at another layer."""
    if not isinstance(exemplars, ExemplarStates):
        return ExemplarStates(cut, exemplars)
    if exemplars.cut is not cut and (exemplars.cut.layer, exemplars.cut.model) != (cut.layer, cut.model):
        raise ValueError(f"exemplars at layer {exemplars.cut.layer!r}: expected them at {cut.layer!r} of this model")
    return exemplars


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
