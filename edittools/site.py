"""A site: a layer of a classifier with everything that a method needs to edit it.

    site = prepare(classifier, "features.10", exemplars, reference)   # checks its arguments, and runs the images once
    [edit] = rewrite_at(site, rank=3)                                 # every method is called like this

A method is a function `edits(site, **settings)` that returns a list of edits, such as `rewrite_at`. It does not check
the contents of a site again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from edittools._inference import refuse_inference_mode
from edittools._ledger import Weights
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, State
from edittools.edits import Change, Edit, Record
from edittools.exemplars import Exemplar, Pairs, check_exemplars
from edittools.images import Images, size_of
from edittools.moments import Reference, SecondMoment, measure


class LayerReference:
    """Statistics of the reference images at a layer, computed when they are first needed.

    Args:
        cut: the classifier, cut at the layer, with a copy of its weights.
        images: the reference images; None if there are none.
        moment: the second moment of their keys, if it was measured before.
    """

    def __init__(self, cut: Cut, images: Images | None = None, moment: SecondMoment | None = None) -> None:
        self.cut = cut
        self.images = images
        self._measured = moment

    @property
    def is_given(self) -> bool:
        """Whether there are reference images, or their second moment."""
        return self.images is not None or self._measured is not None

    @cached_property
    def moment(self) -> SecondMoment:
        """The second moment of the reference keys.

        Raises:
            ValueError: if there are no reference images.
        """
        if self._measured is not None:
            return self._measured
        if self.images is None:
            raise ValueError(
                "No reference images were given; pass ordinary images, whose keys are typical, or their SecondMoment"
            )
        cut = self.cut
        size = size_of(self.images)
        if size not in (None, cut.size):
            cut = Cut(cut.classifier, cut.layer, size, cut.weights)
        return measure({cut.layer: cut}, self.images)[cut.layer]


@dataclass(frozen=True, eq=False)
class Site:
    """A layer of a classifier with everything that a method needs to edit it.

    The states were computed with a copy of the weights, so later changes of the model do not concern them.

    Attributes:
        cut: the classifier, cut at the layer, with a copy of its weights.
        pairs: the B pairs of x and x' that go into one edit.
        image: the states of the images x at the layer.
        changed: the states of the changed images x' at the layer.
        reference: statistics of the reference images at the layer.
    """

    cut: Cut
    pairs: Pairs
    image: State
    changed: State
    reference: LayerReference

    @property
    def masks(self) -> Tensor:
        """The masks of the pairs, `(B, H, W)`."""
        return self.pairs.masks

    @property
    def classifier(self) -> Classifier:
        """The classifier."""
        return self.cut.classifier

    def edit(self, changes: Mapping[str, Change], record: Record | None = None) -> Edit:
        """Make an edit of the weights that the site holds a copy of.

        Args:
            changes: the change of each parameter, by the parameter's name.
            record: how the edit was found.
        """
        weights = self.cut.weights
        return Edit(changes, weights.fingerprint, record, normalization=weights.normalization)

    @torch.no_grad()
    def response(self, delta_output: Tensor) -> float:
        """Measure how much the layer's outputs on x' change at the masks.

        Args:
            delta_output: what is added to the outputs, of the shape of the layer's output on x'.

        Returns:
            The root mean square over channels and masked positions.
        """
        weight = self.cut.pool_mask(self.masks.to(delta_output.device), "output")
        mean_square = delta_output.square().mean(dim=self.cut.channels)
        return float(((mean_square * weight).sum() / weight.sum()).sqrt())


def solver_precision(tensor: Tensor) -> torch.dtype:
    """Return the precision in which changes are computed: float32, or that of the tensor if it is higher."""
    return torch.promote_types(tensor.dtype, torch.float32)


def prepare(
    classifier: Classifier,
    layer: str | nn.Module,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
) -> Site:
    """Prepare to edit a layer: copy the weights, and run the exemplars up to the layer.

    Args:
        layer: name of the layer, or the module.
        exemplars: one or several, which go into one edit.
        reference: ordinary images, or the `SecondMoment` of their keys.

    Raises:
        KeyError: if the model has no layer of that name.
        RuntimeError: under `torch.inference_mode()`.
        TypeError: if an exemplar is not an `Exemplar`, or `reference` is neither images nor a `SecondMoment`.
        ValueError: if there is no exemplar, exemplars differ in size, a label is not a class index, a mask covers no
            key, the layer cannot be edited, or a `SecondMoment` was measured at another layer or with another
            classifier.
    """
    refuse_inference_mode()
    check_classifier(classifier)
    listed = check_exemplars(exemplars, classifier)
    pairs = Pairs.of(listed)
    cut = Cut(classifier, layer, listed[0].mask.shape, Weights(classifier))
    if isinstance(reference, SecondMoment):
        reference.check_fits(cut)
        return site_at(LayerReference(cut, moment=reference), pairs)
    if reference is not None:
        size_of(reference)  # refuses what is no set of images
    return site_at(LayerReference(cut, reference), pairs)


def site_at(reference: LayerReference, pairs: Pairs) -> Site:
    """Run pairs of x and x' up to a layer.

    Args:
        reference: statistics of the reference images at the layer, which is cut for images of the size of the pairs,
            with a copy of the weights.
        pairs: the pairs that go into one edit.

    Raises:
        ValueError: if a mask covers no key of the layer.
    """
    cut = reference.cut
    covered_keys = cut.pool_mask(pairs.masks).reshape(len(pairs), -1).sum(dim=1)
    for number, covered in enumerate(covered_keys, start=1):
        if covered == 0:
            raise ValueError(
                f"the mask of exemplar {number} covers no key of layer {cut.layer!r}, since the model crops that part "
                "of the image; mark something inside of the crop"
            )
    return Site(cut, pairs, cut.prefix(pairs.images), cut.prefix(pairs.changed), reference)
