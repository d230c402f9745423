"""The keys of images at one layer: how a change along some directions would move what the layer makes of them.

Reference images say which keys are seen every day. Their second moment says which directions are rare among them; how
far a change moves their outputs depends on what a kernel sees at once, since neighbours are alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from edittools.classifiers import marks_of
from edittools.cut import Cut, State, rows, states_at
from edittools.edits import Change
from edittools.exemplars import Exemplar, stack
from edittools.images import Images, in_batches, pixels_of
from edittools.moments import SecondMoment, second_moments


class LayerKeys(list[State]):
    """Images at a layer: a list of their states, and the second `moment` of their keys, or of more if given."""

    def __init__(
        self,
        cut: Cut,
        images: Images | Sequence[State],
        moment: SecondMoment | None = None,
        batch_size: int = 64,
    ) -> None:
        """Run images up to the layer, or take their states there; `ValueError` without any image."""
        if not len(images):
            raise ValueError(f"no images at layer {cut.layer!r}: expected at least one")
        known = isinstance(pixels_of(images)[0], State)
        super().__init__(images if known else map(cut.prefix, in_batches(images, batch_size)))
        self.cut, self._moment, self._sums = cut, moment, _sums(cut)
        self._windows: list[tuple[Tensor, Tensor]] = []

    def check_at(self, cut: Cut) -> None:
        """Raise `ValueError` unless these are the keys of the model and layer of `cut`, as the model is now."""
        if (self.cut.layer, self.cut.model) != (cut.layer, cut.model):
            found = f"{self.cut.layer!r} of {self.cut.classifier}"
            raise ValueError(f"keys at {found} for {cut.layer!r} of {cut.classifier}: expected those of the latter")
        if self._sums != _sums(cut):
            raise ValueError(f"the model was changed since its keys at {cut.layer!r} were run: run them again")

    @property
    def moment(self) -> SecondMoment:
        """The uncentred second moment of the keys."""
        if self._moment is None:
            keys = [rows(self.cut.keys(state), self.cut.is_linear).double() for state in self]
            count = sum(map(len, keys))
            self._moment = SecondMoment((sum(k.T @ k for k in keys) / count).cpu(), count)
        return self._moment

    @torch.no_grad()
    def windows(self, basis: Tensor | None) -> Tensor:
        """The mean of w wᵀ over all positions, w what the kernel sees of the keys along `basis`, see `Cut.windows`.

        `(rank * kh * kw,) * 2` float64. A change Λ along the basis moves the outputs by tr Λ (w wᵀ) Λᵀ in the mean
        square, summed over channels. Those of the last bases are kept, since settings tried in turn share theirs.
        """
        for known, found in self._windows:
            if basis is not None and known.dtype == basis.dtype and torch.equal(known, basis.to(known.device)):
                return found
        seen = [self.cut.windows(self.cut.along(self.cut.keys(state), basis)) for state in self]
        found = sum(one.T @ one for one in seen) / sum(map(len, seen))
        if basis is not None:  # that of all of the keys' space is large
            self._windows = [*self._windows[-3:], (basis, found)]
        return found


def _sums(cut: Cut) -> list[float]:
    """Sum each parameter that keys depend on; an edit that was applied and undone leaves them as they were."""
    return [total for _, _, total in marks_of(cut.state_parameters.values())]


Reference = Images | SecondMoment | LayerKeys
"""What says which keys are everyday ones."""


class ExemplarStates(list[Exemplar]):
    """Exemplars at a layer: a list of them, with the states of x (`image`) and x' (`changed`), run when asked for.

    `masks` are `(B, H, W)`. Raises `ValueError` or `TypeError` for what `stack` refuses.
    """

    def __init__(self, cut: Cut, exemplars: Exemplar | Sequence[Exemplar]) -> None:
        super().__init__([exemplars] if isinstance(exemplars, Exemplar) else exemplars)
        self.cut, (self._images, self._changed, self.masks) = cut, stack(self)

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
    images: Images,
    moments: Mapping[str, SecondMoment] | None = None,
    batch_size: int = 64,
) -> dict[str, LayerKeys]:
    """The keys of images at layers, in one run; `cuts` come from one `cut_all`, `moments` may be of more keys."""
    found = states_at(cuts, images, batch_size)
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


def reference_moment(cut: Cut, reference: Reference | None, **how: Any) -> SecondMoment:
    """The second moment of a layer's reference keys: the one given, or that of images, measured as `how` says.

    `how` goes to `second_moments`. Raises `ValueError` without any, and for one of another width than the layer's keys.
    """
    if reference is None:
        raise ValueError("no reference images: expected images whose keys the edit shall spare, or a SecondMoment")
    if isinstance(reference, LayerKeys):
        reference.check_at(cut)
    moment, width = reference.moment if isinstance(reference, LayerKeys) else reference, cut.weight.shape[1]
    if not isinstance(moment, SecondMoment):
        return second_moments(cut.classifier, [cut.layer], moment, **how)[cut.layer]
    if len(moment.matrix) != width:
        found = f"a second moment of {len(moment.matrix)} channels for layer {cut.layer!r}"
        raise ValueError(f"{found}: expected {width}, its keys'")
    return moment


@torch.no_grad()
def described(
    cut: Cut, change: Change, moved: Tensor, keys: Tensor, masks: Tensor, moment: SecondMoment | None = None
) -> Change:
    """A change of the layer's weight with its `response`, by what it `moved`, and `leverage` where a moment tells it.

    `keys` are those of x', `masks` `(B, H, W)`.
    """
    weight = cut.shares(masks.to(moved.device), moved)
    strength = ((moved.square().mean(dim=cut.channels) * weight).sum() / weight.sum()).sqrt()
    if moment is None:
        return replace(change, response=float(strength))
    at_mask = cut.shares(masks.to(keys.device), keys).flatten() > 0
    leverage = moment.leverage(rows(keys, cut.is_linear)[at_mask]).mean()
    return replace(change, response=float(strength), leverage=float(leverage))
