"""Splits: named image sets that share no image, so that an edit is not evaluated on images that selected it.

Images are compared by thumbnails, so the same photo in another size, precision or file counts as the same image.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.weak import WeakTensorKeyDictionary

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages, LazyImages, check_images, in_batches, pixels_of, stratified
from edittools.metrics import predict

SAME_IMAGE = 0.01
"""Two images are the same if their thumbnails differ by at most this much (root mean square).

Thumbnails of one photo in two sizes differ by 0.003; those of the two most similar of 4,000 MiniWorld scenes, by 0.04.
"""

SELECTING = ("target", "retain", "clean")
"""The labeled splits on which an edit is selected."""

EVALUATING = ("target_test", "clean_test", "retain_test", "same_class_test")
"""The labeled splits that are used for evaluation only, as are those in `Splits.extra`."""

MOST_NAMED = 3
"""The largest number of shared images that an error message names."""

REFERENCE_SHARE = 0.25
"""The share of the clean images that `split_clean` uses as reference images."""


@dataclass(frozen=True)
class Splits:
    """Image sets that share no image.

    Args:
        reference: images whose keys define the second moment C; no labels are needed.
        target: images that show the concept; used for selection.
        clean: images on which accuracy must not drop; used for selection, by the accuracy constraint.
        retain: images that rely on the concept legitimately; used for selection, by the constraint on retained images.
        target_test: images that show the concept; used for evaluation only, as are all following sets.
        clean_test: images on which accuracy is measured.
        retain_test: images that rely on the concept legitimately.
        same_class_test: images that show the concept, of the same class as the exemplars.
        extra: other sets, by name.

    Raises:
        TypeError: if a set is of another type.
        ValueError: if an extra set has the name of another split.
    """

    reference: Images = field(repr=False)
    target: LabelledImages = field(repr=False)
    clean: LabelledImages = field(repr=False)
    retain: LabelledImages | None = field(default=None, repr=False)
    target_test: LabelledImages | None = field(default=None, repr=False)
    clean_test: LabelledImages | None = field(default=None, repr=False)
    retain_test: LabelledImages | None = field(default=None, repr=False)
    same_class_test: LabelledImages | None = field(default=None, repr=False)
    extra: Mapping[str, LabelledImages] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        taken = [name for name in ("reference", *SELECTING, *EVALUATING) if name in self.extra]
        if taken:
            raise ValueError(f"The extra split {taken[0]!r} has the name of another split; give it another name")
        check_images(self.reference, "reference")
        for name, data in self.labeled.items():
            if not isinstance(data, LabelledImages):
                raise TypeError(
                    f"The split {name!r} is a {type(data).__name__}; pass LabelledImages(images, labels, classes)"
                )

    @property
    def labeled(self) -> dict[str, LabelledImages]:
        """The labeled splits by name: those used for selection first, then those used for evaluation."""
        splits = {name: getattr(self, name) for name in (*SELECTING, *EVALUATING)}
        given = {name: data for name, data in splits.items() if data is not None}
        return {**given, **self.extra}

    def check_disjoint(self, exemplars: Iterable[Exemplar] = ()) -> None:
        """Check that no image is used for two purposes.

        An edit is made from x, x' and the reference images; these must be used neither for selection nor for
        evaluation, and no image for both. There are two exceptions: x may be a target image, and splits for evaluation
        may share images.

        Args:
            exemplars: all exemplars from which edits are made.

        Raises:
            ValueError: if two splits share an image, or if a split holds x or x' of an exemplar.
        """
        exemplars = list(exemplars)
        sets = {"reference": self.reference, **self.labeled}
        selecting = [name for name in SELECTING if name in sets]
        evaluating = [name for name in sets if name not in ("reference", *selecting)]
        pairs = [("reference", name) for name in (*selecting, *evaluating)]
        if exemplars:
            sets["x"] = torch.stack([exemplar.image for exemplar in exemplars])
            sets["x'"] = torch.stack([exemplar.changed for exemplar in exemplars])
            pairs += [(one, name) for one in ("x", "x'") for name in (*selecting, *evaluating)]
            pairs.remove(("x", "target"))
        pairs += combinations(selecting, 2)
        pairs += [(name, other) for name in selecting for other in evaluating]
        check_disjoint(sets, pairs)


def check_disjoint(sets: Mapping[str, Images], pairs: Iterable[tuple[str, str]] | None = None) -> None:
    """Check that sets share no image, not even in another size.

    Args:
        sets: the images, by the name of the set.
        pairs: pairs of names of the sets to compare; by default all pairs.

    Raises:
        ValueError: if the sets of a pair share an image.
    """
    small = {name: thumbnails(images) for name, images in sets.items()}
    for one, other in combinations(sets, 2) if pairs is None else pairs:
        is_shared = _is_shared(small[one], small[other])
        count = int(is_shared.sum())
        if count:
            named = _named(is_shared, _file_names(sets[other]))
            if not named:
                named = _named(_is_shared(small[other], small[one]), _file_names(sets[one]))
            raise ValueError(f"{one!r} and {other!r} share {count} images{named}; the sets must be disjoint")


def _named(is_shared: Tensor, names: Sequence[str]) -> str:
    """List the names of the first shared images of a set in parentheses; empty if its images have no names."""
    shared = [repr(names[number]) for number in is_shared.nonzero()[:, 0].tolist()] if names else []
    if not shared:
        return ""
    more = [] if len(shared) <= MOST_NAMED else ["…"]
    return f" ({', '.join([*shared[:MOST_NAMED], *more])})"


def _file_names(images: Images) -> tuple[str, ...]:
    """Return the names of images, or the paths of their files; empty if they have none."""
    if isinstance(images, LabelledImages) and images.names:
        return images.names
    pixels = pixels_of(images)
    return tuple(os.fspath(path) for path in pixels.paths) if isinstance(pixels, LazyImages) else ()


def without_duplicates(name: str, data: LabelledImages) -> LabelledImages:
    """Drop repeated images from a set; the first one of each is kept.

    Args:
        name: name of the set, used in the warning.
        data: the images.

    Returns:
        The set without the repeated images.

    Warns:
        UserWarning: if an image occurs more than once.
    """
    is_repeated = repeated(data)
    if not is_repeated.any():
        return data
    count = int(is_repeated.sum())
    warnings.warn(f"{name!r} holds {count} images more than once; each is used once", stacklevel=5)
    return data.subset(~is_repeated)


def repeated(data: LabelledImages) -> Tensor:
    """Tell which images of a set occur in it before, `(N,)` booleans."""
    small = thumbnails(data)
    is_repeated = torch.zeros(len(small), dtype=torch.bool)
    for start in range(0, len(small), 1024):
        rows = slice(start, start + 1024)
        is_repeated[rows] = _is_same(small[rows], small[: start + 1024]).tril(start - 1).any(dim=1)
    return is_repeated


def label_by_prediction(images: Images, classifier: Classifier, progress: bool = False) -> LabelledImages:
    """Label images by the current predictions of a classifier, which replace any labels that the images have.

    Args:
        images: `(N, 3, H, W)`, with or without labels.
        classifier: the classifier.
        progress: show a progress bar.

    Returns:
        The images with their predicted labels.
    """
    labels = predict(classifier, images, progress=progress).argmax(dim=1)
    if isinstance(images, LabelledImages):
        return replace(images, labels=labels, classes=classifier.classes)
    return LabelledImages(images, labels, classifier.classes)


def split_clean(
    clean: LabelledImages, test_share: float = 0.25
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Split clean images at random, class by class, into the sets `reference`, `clean` and `clean_test`.

    A quarter of the images, but at least one, are reference images.

    Args:
        clean: the images.
        test_share: share of all images that is used for evaluation; 0 for none.

    Returns:
        The three sets, in this order, see `Splits`.
    """
    is_reference = stratified(clean.labels, REFERENCE_SHARE, seed=0)
    if len(clean) and not is_reference.any():
        is_reference[0] = True
    rest = clean.subset(~is_reference)
    clean_share = (1 - REFERENCE_SHARE - test_share) / (1 - REFERENCE_SHARE)
    is_clean = stratified(rest.labels, clean_share, seed=0)
    return clean.subset(is_reference), rest.subset(is_clean), rest.subset(~is_clean)


_THUMBNAILS = WeakTensorKeyDictionary()
"""The thumbnails of tensors of images, each with the tensor's version: how often it was changed in place."""


def thumbnails(images: Images) -> Tensor:
    """Shrink images to 16 × 16 pixels, as rows of `(N, 768)` numbers; the same set is shrunk once."""
    pixels = pixels_of(images)
    if isinstance(pixels, LazyImages):
        return _thumbnails_of_files(pixels)
    if pixels.is_inference():  # such a tensor does not count its changes
        return _shrink(pixels)
    version, small = _THUMBNAILS.get(pixels, (None, None))
    if version != pixels._version:
        small = _shrink(pixels)
        _THUMBNAILS[pixels] = (pixels._version, small)
    return small


def _shrink(pixels: Tensor | LazyImages) -> Tensor:
    batches = [interpolate(batch.float(), 16, mode="bilinear", antialias=True) for batch in in_batches(pixels)]
    return torch.cat(batches).flatten(1).cpu() if batches else torch.zeros(0, 768)


_thumbnails_of_files = lru_cache(16)(_shrink)  # so files are read only once for their thumbnails


def _is_same(one: Tensor, other: Tensor) -> Tensor:
    """Compare thumbnails `(N, n)` with others `(M, n)`: `(N, M)` booleans, True if both show the same image."""
    return torch.cdist(one, other) <= SAME_IMAGE * one.shape[1] ** 0.5


def _is_shared(one: Tensor, other: Tensor) -> Tensor:
    """Tell which thumbnails of `other` are also among those of `one`, `(M,)` booleans."""
    is_shared = torch.zeros(len(other), dtype=torch.bool)
    for batch in one.split(1024):
        is_shared = is_shared | _is_same(batch, other).any(dim=0)
    return is_shared
