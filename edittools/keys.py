"""The keys of images at one layer: how a change along some directions would move what the layer makes of them.

Reference images say which keys are seen every day. Their second moment says which directions are rare among them; how
far a change moves their outputs depends on what a kernel sees at once, since neighbours are alike.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from edittools.classifiers import marks_of
from edittools.cut import Cut, State, rows
from edittools.exemplars import Exemplar
from edittools.images import Images, in_batches, pixels_of
from edittools.moments import SecondMoment, second_moments


class LayerKeys(list[State]):
    """Images at a layer: a list of their states, and the second `moment` of their keys, or of more if given."""

    def __init__(self, cut: Cut, images: Images | Sequence[State], moment: SecondMoment | None = None) -> None:
        """Run images up to the layer, or take their states there; `ValueError` without any image."""
        if not len(images):
            raise ValueError(f"no images at layer {cut.layer!r}: expected at least one")
        known = isinstance(pixels_of(images)[0], State)
        super().__init__(images if known else map(cut.prefix, in_batches(images)))
        self.cut, self._sums = cut, _sums(cut)
        if moment is not None:
            self.moment = moment
        self._windows: list[tuple[Tensor, Tensor]] = []

    def check_at(self, cut: Cut) -> None:
        """Refuse a cut of another model or layer, and a model that was changed since."""
        if (self.cut.layer, self.cut.model) != (cut.layer, cut.model):
            found = f"{self.cut.layer!r} of {self.cut.classifier}"
            raise ValueError(f"keys at {found} for {cut.layer!r} of {cut.classifier}: expected those of the latter")
        if self._sums != _sums(cut):
            raise ValueError(f"the model was changed since its keys at {cut.layer!r} were run: run them again")

    @cached_property
    def moment(self) -> SecondMoment:
        """The uncentred second moment of the keys, or the one that was given."""
        keys = [rows(self.cut.keys(state), self.cut.is_linear).double() for state in self]
        return SecondMoment((sum(k.T @ k for k in keys) / sum(map(len, keys))).cpu())

    @torch.no_grad()
    def windows(self, basis: Tensor | None) -> Tensor:
        """Return the mean of w wᵀ over all positions, w what the kernel sees of the keys along `basis` (`Cut.windows`).

        `(rank * kh * kw,) * 2` float64. A change Λ along the basis moves the outputs by tr Λ (w wᵀ) Λᵀ in the mean
        square, summed over channels. Results for the last bases are cached: settings tried in turn share a basis.
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
    """Sum each parameter that keys depend on; an edit that is applied and undone leaves the sums as they were."""
    return [total for _, _, total in marks_of(cut.state_parameters.values())]


Reference = Images | SecondMoment | LayerKeys
"""What says which keys are everyday ones."""


class ExemplarStates(list[Exemplar]):
    """Exemplars at a layer: a list, their `masks` `(B, H, W)`, and the states of x and x', run when asked for."""

    def __init__(self, cut: Cut, exemplars: Exemplar | Sequence[Exemplar]) -> None:
        super().__init__([exemplars] if isinstance(exemplars, Exemplar) else exemplars)
        if not self:
            raise ValueError("no exemplar: expected at least one")
        for exemplar in self:
            if not isinstance(exemplar, Exemplar):
                raise TypeError(f"{type(exemplar).__name__} is no Exemplar: expected Exemplar(image, changed, mask)")
        if len(sizes := {tuple(exemplar.mask.shape) for exemplar in self}) > 1:
            raise ValueError(f"exemplars of different sizes {sorted(sizes)}: expected one size")
        self.cut, self.masks = cut, torch.stack([exemplar.mask for exemplar in self])

    @cached_property
    def image(self) -> State:
        """The state of the images x."""
        return self.cut.prefix(torch.stack([exemplar.image for exemplar in self]))

    @cached_property
    def changed(self) -> State:
        """The state of the changed images x'."""
        return self.cut.prefix(torch.stack([exemplar.changed for exemplar in self]))


def exemplars_at(cut: Cut, exemplars: Exemplar | Sequence[Exemplar]) -> ExemplarStates:
    """Take exemplars to a layer; refuse `ExemplarStates` at another one."""
    if not isinstance(exemplars, ExemplarStates):
        return ExemplarStates(cut, exemplars)
    if exemplars.cut is not cut and (exemplars.cut.layer, exemplars.cut.model) != (cut.layer, cut.model):
        raise ValueError(f"exemplars at layer {exemplars.cut.layer!r}: expected them at {cut.layer!r} of this model")
    return exemplars


def reference_moment(cut: Cut, reference: Reference | None) -> SecondMoment:
    """Give the second moment of a layer's reference keys, measured where it is not known; refuse another width."""
    if reference is None:
        raise ValueError("no reference images: expected images whose keys the edit shall spare, or a SecondMoment")
    if isinstance(reference, LayerKeys):
        reference.check_at(cut)
        return reference.moment
    if not isinstance(reference, SecondMoment):
        return second_moments(cut.classifier, [cut.layer], reference)[cut.layer]
    found, width = len(reference.matrix), cut.weight.shape[1]
    if found != width:
        raise ValueError(f"a second moment of {found} channels for layer {cut.layer!r}: expected {width}, its keys'")
    return reference


@torch.no_grad()
def response_at(cut: Cut, moved: Tensor, masks: Tensor) -> float:
    """Measure how far the layer's outputs `moved` at the masks: the root mean square over channels."""
    weight = cut.shares(masks.to(moved.device), moved)
    return float(((moved.square().mean(dim=cut.channels) * weight).sum() / weight.sum()).sqrt())
