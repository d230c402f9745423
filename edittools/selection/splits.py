"""Splits: named image sets that share no image, so that an edit is not evaluated on images that selected it.

Images are compared by thumbnails, so the same photo in another size, precision or file counts as the same image.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch
from torch import Tensor

from edittools._checks import one_of, warn
from edittools._progress import Progress
from edittools.classifiers import Classifier, check_size, remap_labels
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages, LazyImages, check_images, pixels_of, stratified
from edittools.metrics import predict, predicted_classes
from edittools.scenes import are_same, are_shared, first_of_each, scenes_of, scenes_of_thumbnails, thumbnails

SELECTING = ("target", "retain", "own_class", "clean")
"""The labeled splits on which an edit is selected."""

EVALUATING = ("target_test", "clean_test", "retain_test", "same_class_test")
"""The labeled splits that are used for evaluation only, as are those in `Splits.extra`."""

MOST_NAMED = 3
"""The largest number of shared images that an error message names."""

REFERENCE_SHARE = 0.25
"""The share of the clean images that `split_clean` uses as reference images."""

RETAINED = "retained images"
"""The name of a set of retained images that was given without a name."""

FOLDS = 6
"""The number of folds of `Splits.with_folds`."""

SAMPLE = "sample"
FAILURES = "failures"

SOURCES = (SAMPLE, FAILURES)
"""How images with the concept were chosen: any of them, right and wrong, or because they were misclassified."""


@dataclass(frozen=True)
class Splits:
    """Image sets for selection and for evaluation; `check_disjoint` tells whether an image has two purposes.

    Args:
        reference: images whose keys define the second moment C; no labels are needed.
        target: images that show the concept; used for selection.
        clean: images on which accuracy must not drop; used for selection, by the accuracy constraint.
        retain: images that rely on the concept legitimately; used for selection, by the constraint on retained images.
        own_class: images that show the concept and belong to the class that the concept argues for; used for selection.
        target_test: images that show the concept; used for evaluation only, as are all following sets.
        clean_test: images on which accuracy is measured.
        retain_test: images that rely on the concept legitimately.
        same_class_test: images that show the concept, of the same class as the exemplars.
        extra: other sets, by name.
        retain_sets: if `retain` joins several sets, which of its images belong to each, `(N,)` booleans by name.
        folds: number of each image's fold for cross-validation, `(N,)`, by the name of the split, see `with_folds`.
        scenes: number of each target image's scene, `(N,)`, see `scenes_of`; None if each image counts alone.
        source: how the target images were chosen, one of `SOURCES`.

    Raises:
        TypeError: if a set is of another type.
        ValueError: if an extra set has the name of another split, if the folds are of other images, or if there is no
            such source.
    """

    reference: Images = field(repr=False)
    target: LabelledImages = field(repr=False)
    clean: LabelledImages = field(repr=False)
    retain: LabelledImages | None = field(default=None, repr=False)
    own_class: LabelledImages | None = field(default=None, repr=False)
    target_test: LabelledImages | None = field(default=None, repr=False)
    clean_test: LabelledImages | None = field(default=None, repr=False)
    retain_test: LabelledImages | None = field(default=None, repr=False)
    same_class_test: LabelledImages | None = field(default=None, repr=False)
    extra: Mapping[str, LabelledImages] = field(default_factory=dict, repr=False)
    retain_sets: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    folds: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    scenes: Tensor | None = field(default=None, repr=False)
    source: str = SAMPLE

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        exemplars: Sequence[Exemplar],
        concept: LabelledImages,
        clean: Images,
        retain: Images | Mapping[str, Images] | None = None,
        source: str = SAMPLE,
    ) -> "Splits":
        """Label sets of images, check them, and divide them.

        A quarter of the clean images are `reference`, the others `clean`. Images with the concept are `own_class` if
        they belong to the class that x' of an exemplar is predicted as, but x is not; the others are `target`. All of
        these but the reference images are divided into folds, see `with_folds`.

        Args:
            classifier: the classifier.
            exemplars: all exemplars; only x of one may be among the images with the concept.
            concept: labeled images that show the concept. If their class names are not those of the classifier, in the
                same order, labels are mapped by class name.
            clean: images whose accuracy must not drop; without labels, the current predictions serve as labels.
            retain: images that rely on the concept legitimately, or several such sets by name; labeled like `clean`.
            source: how the images with the concept were chosen, one of `SOURCES`.

        Raises:
            TypeError: if a set of images is of another type.
            ValueError: if images do not have the size of the classifier's input, if a label is not one of its classes,
                if there are fewer than two images with the concept or three clean images, if two retained sets have the
                same name as text, or if two sets share an image.

        Warns:
            UserWarning: if a set holds an image more than once (it is used once), if a retained set is empty, or if two
                sets show the same scenes.
        """
        retained = _named_retained(retain)
        given = {"concept": concept, "clean": clean, **dict(retained.values())}
        labeled = _label_sets(given, classifier)
        _check_sets(labeled, exemplars)
        reference, clean_images = split_clean(labeled["clean"])
        target, own_class = _split_off_own_class(labeled["concept"], classifier, exemplars)
        sets = {name: labeled[title] for name, (title, _) in retained.items()}
        return cls(
            reference=reference,
            target=target,
            clean=clean_images,
            retain=_joined([images for images in sets.values() if len(images)]),
            own_class=own_class,
            retain_sets=_members_of(sets),
            source=source,
        ).with_folds()

    def __post_init__(self) -> None:
        one_of(self.source, SOURCES, "source")
        taken = [name for name in ("reference", *SELECTING, *EVALUATING) if name in self.extra]
        if taken:
            raise ValueError(f"The extra split {taken[0]!r} has the name of another split; give it another name")
        check_images(self.reference, "reference")
        for name, data in self.labeled.items():
            if not isinstance(data, LabelledImages):
                raise TypeError(
                    f"The split {name!r} is a {type(data).__name__}; pass LabelledImages(images, labels, classes)"
                )
        for name, numbers in self.folds.items():
            count = len(self.labeled[name]) if name in self.labeled else 0
            if len(numbers) != count:
                raise ValueError(
                    f"There are {len(numbers)} numbers of folds for {count} {name} images; make them by "
                    "splits.with_folds()"
                )

    @property
    def labeled(self) -> dict[str, LabelledImages]:
        """The labeled splits by name: those used for selection first, then those used for evaluation."""
        splits = {name: getattr(self, name) for name in (*SELECTING, *EVALUATING)}
        given = {name: data for name, data in splits.items() if data is not None}
        return {**given, **self.extra}

    def with_folds(self, count: int = FOLDS) -> "Splits":
        """Divide the images for selection at random, class by class, into folds for cross-validation.

        Images of one scene are in one fold.

        Args:
            count: number of folds; at most one per scene of the target images is made.

        Raises:
            ValueError: if the target images show a single scene.
        """
        scenes = {name: scenes_of(data) for name, data in self.labeled.items() if name in SELECTING}
        folds = {"target": stratified_folds(self.target.labels, count, scenes["target"])}
        made = len(folds["target"].unique())
        if made < 2:
            raise ValueError(
                f"The {len(self.target)} images with the concept show a single scene; pass images of at least two "
                "scenes, better dozens"
            )
        for name, numbers in scenes.items():
            if name != "target":
                folds[name] = stratified_folds(getattr(self, name).labels, made, numbers)
        return replace(self, folds=folds, scenes=scenes["target"])

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
        is_shared = are_shared(small[one], small[other])
        count = int(is_shared.sum())
        if count:
            named = _named(is_shared, _file_names(sets[other]))
            if not named:
                named = _named(are_shared(small[other], small[one]), _file_names(sets[one]))
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
    warn(f"{name!r} holds {int(is_repeated.sum())} images more than once; each is used once")
    return data.subset(~is_repeated)


def repeated(data: LabelledImages) -> Tensor:
    """Tell which images of a set occur in it before, `(N,)` booleans."""
    small = thumbnails(data)
    is_repeated = torch.zeros(len(small), dtype=torch.bool)
    for start in range(0, len(small), 1024):
        rows = slice(start, start + 1024)
        is_repeated[rows] = are_same(small[rows], small[: start + 1024]).tril(start - 1).any(dim=1)
    return is_repeated


def label_by_prediction(images: Images, classifier: Classifier, progress: Progress | None = None) -> LabelledImages:
    """Label images by the current predictions of a classifier, which replace any labels that the images have.

    Args:
        images: `(N, 3, H, W)`, with or without labels.
        classifier: the classifier.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The images with their predicted labels.
    """
    labels = predict(classifier, images, progress=progress).argmax(dim=1)
    if isinstance(images, LabelledImages):
        return replace(images, labels=labels, classes=classifier.classes)
    return LabelledImages(images, labels, classifier.classes)


def split_clean(clean: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Split clean images at random, class by class, into reference images and others.

    A quarter of the images, but at least one, are reference images.

    Args:
        clean: the images.

    Returns:
        The reference images, and the others.
    """
    is_reference = stratified(clean.labels, REFERENCE_SHARE)
    if len(clean) and not is_reference.any():
        is_reference[0] = True
    return clean.subset(is_reference), clean.subset(~is_reference)


def stratified_folds(labels: Tensor, count: int = FOLDS, groups: Tensor | None = None) -> Tensor:
    """Divide images at random, class by class, into folds of about the same size.

    Args:
        labels: class of each image, `(N,)`.
        count: number of folds; at most one per image is made.
        groups: number of each image's group, `(N,)`, numbered from 0 in the order of their first images. A group is in
            one fold; its class is that of its first image. By default, each image is a group.

    Returns:
        The number of each image's fold, `(N,)`.
    """
    if groups is not None:
        return stratified_folds(labels[first_of_each(groups)], count)[groups]
    folds = torch.full((len(labels),), -1)
    count = min(count, len(labels))
    for number in range(count - 1):
        left = (folds < 0).nonzero()[:, 0]
        is_next = stratified(labels[left], 1 / (count - number))
        folds[left[is_next]] = number
    return torch.where(folds < 0, count - 1, folds)


# --- the sets of a repair ---------------------------------------------------------------------------------------------


def _named_retained(retain: Images | Mapping[str, Images] | None) -> dict[str, tuple[str, Images]]:
    """List the retained sets that are given by name, each with the title that messages use.

    Raises:
        ValueError: if two names are equal as text.
    """
    sets = retain if isinstance(retain, Mapping) else {RETAINED: retain}
    named = {}
    for key, images in sets.items():
        name = str(key)
        if name in named:
            raise ValueError(f"Two retained sets are called {name!r}; give each a name of its own")
        if images is not None:
            named[name] = ("retain" if name == RETAINED else f"retain[{name!r}]", images)
    return named


def _label_sets(given: Mapping[str, Images], classifier: Classifier) -> dict[str, LabelledImages]:
    """Label sets by the classifier's classes, and drop repeated images.

    Labels are mapped by name; sets without labels are labeled by the classifier's predictions. All sets are checked
    before anything is predicted.
    """
    if not isinstance(given["concept"], LabelledImages):
        raise TypeError(
            f"The images with the concept are a {type(given['concept']).__name__}; pass LabelledImages(images, labels, "
            "classes)"
        )
    checked = {name: _checked(name, images, classifier) for name, images in given.items()}
    labeled = {}
    for name, images in checked.items():
        has_labels = isinstance(images, LabelledImages)
        labeled[name] = without_duplicates(name, images if has_labels else label_by_prediction(images, classifier))
    return labeled


def _checked(name: str, images: Images, classifier: Classifier) -> Images:
    """Return a set if its images have the size of the classifier's input; if it has labels, map them by name."""
    if not isinstance(images, Images):
        raise TypeError(
            f"The {name} images are a {type(images).__name__}; pass a tensor (N, 3, H, W), LazyImages or LabelledImages"
        )
    check_size(name, images, classifier)
    return remap_labels(name, images, classifier) if isinstance(images, LabelledImages) else images


def _check_sets(sets: Mapping[str, LabelledImages], exemplars: Sequence[Exemplar]) -> None:
    """Check that the sets are large enough and share no image; warn about scenes that they share.

    Args:
        sets: "concept", "clean", and the retained sets.
        exemplars: all exemplars; only x of one may be among the images with the concept.
    """
    retained = [name for name in sets if name not in ("concept", "clean")]
    for name in retained:
        if not len(sets[name]):
            warn(f"{name} has no images, so it is not measured; pass images")
    if len(sets["concept"]) < 2:
        raise ValueError(
            f"{len(sets['concept'])} images with the concept were given; pass at least two, better hundreds, right and "
            "wrong"
        )
    if len(sets["clean"]) < 3:
        raise ValueError(f"{len(sets['clean'])} clean images were given; pass at least three, better hundreds")
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    original = torch.stack([exemplar.image for exemplar in exemplars])
    shown = {"exemplars": torch.cat([changed, original]), "x' of the exemplars": changed}
    pairs = [("clean", "exemplars"), ("concept", "clean"), ("concept", "x' of the exemplars")]
    for name in retained:
        pairs += [(name, other) for other in ("concept", "exemplars", "clean")]
    pairs += combinations(retained, 2)
    check_disjoint({**sets, **shown}, pairs)
    for one, other in combinations(sets, 2):
        _warn_about_shared_scenes(one, sets[one], other, sets[other])


def _warn_about_shared_scenes(name: str, data: LabelledImages, other_name: str, other: LabelledImages) -> None:
    """Warn if images of two sets show the same scenes, so that they are no independent evidence."""
    if not len(data) or not len(other):
        return
    thumbnails_of_both = torch.cat([thumbnails(data), thumbnails(other)])
    scenes = scenes_of_thumbnails(thumbnails_of_both)
    shared = torch.isin(scenes[: len(data)], scenes[len(data) :])
    if shared.any():
        named = _named(shared, _file_names(data))
        warn(
            f"{int(shared.sum())} images of {name!r}{named} show the same scene as images of {other_name!r}, such as "
            "other frames of it; leave out those of one set"
        )


def _split_off_own_class(
    concept: LabelledImages, classifier: Classifier, exemplars: Sequence[Exemplar]
) -> tuple[LabelledImages, LabelledImages | None]:
    """Split off the images of the classes that the concept argues for: those that x' is predicted as, but x is not.

    Returns:
        The images of other classes, and those of these classes; None if there are none.
    """
    changed = predicted_classes(predict(classifier, torch.stack([exemplar.changed for exemplar in exemplars])))
    original = predicted_classes(predict(classifier, torch.stack([exemplar.image for exemplar in exemplars])))
    own_classes = changed[changed != original]
    is_own = torch.isin(concept.labels, own_classes)
    others = concept.subset(~is_own)
    if len(others) < 2:
        names = ", ".join(repr(classifier.classes[index]) for index in own_classes.unique().tolist())
        raise ValueError(
            f"{len(others)} of {len(concept)} images with the concept are of other classes than {names}, which x' is "
            "predicted as; pass images of other classes, in which the concept misleads"
        )
    return others, concept.subset(is_own) if is_own.any() else None


def _members_of(sets: Mapping[str, LabelledImages]) -> dict[str, Tensor]:
    """Tell which images of joined sets belong to each of them, `(N,)` booleans by name."""
    members = {}
    for name in sets:
        of_each = [torch.full((len(images),), other == name) for other, images in sets.items()]
        members[name] = torch.cat(of_each)
    return members


def _joined(sets: Sequence[LabelledImages]) -> LabelledImages | None:
    """Join sets of images that have the same classes; None if there are none."""
    if len(sets) < 2:
        return sets[0] if sets else None
    labels = torch.cat([images.labels for images in sets])
    names = tuple(name for images in sets for name in images.names) if all(images.names for images in sets) else ()
    return LabelledImages(torch.cat([images.images[:] for images in sets]), labels, sets[0].classes, names)
