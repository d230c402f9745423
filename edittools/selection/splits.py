"""Splits: the image sets of a repair, labeled, checked, and divided once. They share no image.

Images are compared by thumbnails, so the same photo in another size, precision or file counts as the same image.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from edittools._checks import one_of, warn
from edittools._progress import Progress
from edittools.classifiers import Classifier, check_size, remap_labels
from edittools.exemplars import Exemplar
from edittools.images import Images, LabeledImages, LazyImages, batches_of, pixels_of, stratified
from edittools.metrics import predict
from edittools.scenes import are_same, are_shared, first_of_each, scenes_of, scenes_of_thumbnails, thumbnails
from edittools.selection.hosts import FEWEST_IMAGES, check_ordinary, classes_of_marks
from edittools.verdict import RETAINED

MOST_NAMED = 3
"""The largest number of shared images that an error message names."""

ORDINARY_SHARE = 0.5
"""The share of the clean scenes that select, if no ordinary images are given."""

MOST_ORDINARY = 300
"""The largest number of clean scenes that select, if no ordinary images are given."""

SAMPLE, FAILURES = "sample", "failures"

SOURCES = (SAMPLE, FAILURES)
"""How images with the concept were chosen: any of them, right and wrong, or because they were misclassified."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Image sets that share no image: ordinary ones select, and labeled ones measure.

    Attributes:
        images: ordinary images without labels.
        concept: images that show the concept, of other classes than its own; None without labels.
        own_class: images that show the concept, of its own class; None if there are none.
        clean: images on which accuracy should not drop; None if there are none.
        retain: images that rely on the concept legitimately, by the name of the set.
        own_classes: the classes of the marks, what x' of the exemplars are predicted as: indices.
        scenes: number of each image's scene, `(N,)`, by the name of the set, see `labeled`.
        source: how the images with the concept were chosen, one of `SOURCES`.
    """

    images: Images = field(repr=False)
    concept: LabeledImages | None = field(default=None, repr=False)
    own_class: LabeledImages | None = field(default=None, repr=False)
    clean: LabeledImages | None = field(default=None, repr=False)
    retain: Mapping[str, LabeledImages] = field(default_factory=dict, repr=False)
    own_classes: tuple[int, ...] = ()
    scenes: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    source: str = SAMPLE

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        exemplars: Sequence[Exemplar],
        images: Images | None = None,
        concept: LabeledImages | None = None,
        clean: Images | None = None,
        retain: Images | Mapping[str, Images] | None = None,
        source: str = SAMPLE,
    ) -> "Splits":
        """Label sets of images, check them, and divide them.

        Args:
            classifier: the classifier.
            exemplars: all exemplars; only x of one may be among the images with the concept.
            images: ordinary images without labels. Without them, a part of the clean images is taken, by scene, and
                what is left measures.
            concept: labeled images that show the concept, right and wrong. If their class names are not those of the
                classifier, in the same order, labels are mapped by class name.
            clean: images whose accuracy should not drop; without labels, the current predictions serve as labels.
            retain: images that rely on the concept legitimately, or several such sets by name; labeled like `clean`.
            source: how the images with the concept were chosen, one of `SOURCES`.

        Raises:
            TypeError: if a set of images is of another type, or if `images` has labels.
            ValueError: if images do not have the size of the classifier's input, if a label is not one of its classes,
                if there are neither ordinary nor clean images, if two retained sets have the same name as text, or if
                two sets share an image.

        Warns:
            UserWarning: if a set holds an image more than once (it is used once), if a set is empty, or if two sets
                show the same scenes.
        """
        one_of(source, SOURCES, "source")
        if images is not None:
            check_ordinary(classifier, images)
        elif clean is None:
            raise ValueError(
                "neither images nor clean was given; pass ordinary images, which select an edit, as images="
            )
        retained = _named_retained(retain)
        given = {"concept": concept, "clean": clean, **dict(retained.values())}
        given = {title: data for title, data in given.items() if data is not None}
        labeled = _label_sets(given, classifier)
        if images is None:
            ordinary, labeled["clean"] = split_ordinary(labeled["clean"])
            images = ordinary.images
        _check_sets(images, labeled, exemplars)
        own_classes = tuple(sorted(set(classes_of_marks(classifier, exemplars))))
        others, own_class = _split_off_own_class(labeled.get("concept"), own_classes)
        sets = {name: labeled[title] for name, (title, _) in retained.items() if len(labeled[title])}
        measured = labeled.get("clean")
        if measured is not None and not len(measured):
            measured = None
        splits = cls(images, others, own_class, measured, sets, own_classes, source=source)
        return replace(splits, scenes={name: scenes_of(data) for name, data in splits.labeled.items()})

    @property
    def labeled(self) -> dict[str, LabeledImages]:
        """The labeled sets by name: "concept", "own_class", "clean", and the retained sets."""
        sets = {"concept": self.concept, "own_class": self.own_class, "clean": self.clean, **self.retain}
        return {name: data for name, data in sets.items() if data is not None and len(data)}

    @cached_property
    def digests(self) -> dict[str, str]:
        """A hash of the thumbnails and the labels of each labeled set, by its name, and of the ordinary "images".

        A reviewer sees by them when the same labels have judged several edits.
        """
        digests = {}
        for name, data in {**self.labeled, "images": self.images}.items():
            rounded = (255 * thumbnails(data)).round().to(torch.uint8)
            labels = data.labels.numpy().tobytes() if isinstance(data, LabeledImages) else b""
            digests[name] = hashlib.sha256(rounded.numpy().tobytes() + labels).hexdigest()
        return digests


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
    if isinstance(images, LabeledImages) and images.names:
        return images.names
    pixels = pixels_of(images)
    return tuple(os.fspath(path) for path in pixels.paths) if isinstance(pixels, LazyImages) else ()


def without_duplicates(name: str, data: LabeledImages) -> LabeledImages:
    """Drop repeated images from a set; the first one of each is kept.

    Args:
        name: name of the set, used in the warning.

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


def repeated(data: LabeledImages) -> Tensor:
    """Tell which images of a set occur in it before, `(N,)` booleans."""
    small = thumbnails(data)
    is_repeated = torch.zeros(len(small), dtype=torch.bool)
    for rows in batches_of(len(small), 1024):
        is_repeated[rows] = are_same(small[rows], small[: rows.stop]).tril(rows.start - 1).any(dim=1)
    return is_repeated


def label_by_prediction(images: Images, classifier: Classifier, progress: Progress | None = None) -> LabeledImages:
    """Label images by the current predictions of a classifier, which replace any labels that the images have.

    Args:
        images: `(N, 3, H, W)`, with or without labels.
        classifier: the classifier.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The images with their predicted labels.
    """
    labels = predict(classifier, images, progress=progress).argmax(dim=1)
    if isinstance(images, LabeledImages):
        return replace(images, labels=labels, classes=classifier.classes)
    return LabeledImages(images, labels, classifier.classes)


def split_ordinary(clean: LabeledImages) -> tuple[LabeledImages, LabeledImages]:
    """Divide clean images by scene, class by class, into ordinary ones, which select, and others, which measure.

    Raises:
        ValueError: if too few scenes would select.
    """
    scenes = scenes_of(clean)
    first = first_of_each(scenes)
    of_scenes = clean.labels[first]
    selects = stratified(of_scenes, min(ORDINARY_SHARE, MOST_ORDINARY / max(len(of_scenes), 1)))
    if int(selects.sum()) < FEWEST_IMAGES:
        raise ValueError(
            f"{len(clean)} clean images are too few: half of their scenes select an edit, at least {FEWEST_IMAGES}; "
            f"pass at least {2 * FEWEST_IMAGES} clean images of different scenes, better hundreds, or ordinary images "
            "of their own"
        )
    is_ordinary = selects[scenes]
    return clean.subset(is_ordinary), clean.subset(~is_ordinary)


# --- the sets of a repair ---------------------------------------------------------------------------------------------


def _named_retained(retain: Images | Mapping[str, Images] | None) -> dict[str, tuple[str, Images]]:
    """List the retained sets that are given by name, each with the title that messages use.

    Raises:
        ValueError: if two names are equal as text, or if one is that of another set.
    """
    sets = retain if isinstance(retain, Mapping) else {RETAINED: retain}
    named: dict[str, tuple[str, Images]] = {}
    for key, images in sets.items():
        name = str(key)
        if name in named:
            raise ValueError(f"Two retained sets are called {name!r}; give each a name of its own")
        if name in ("concept", "own_class", "clean"):
            raise ValueError(f"A retained set is called {name!r}, which is another set; give it another name")
        if images is not None:
            named[name] = ("retain" if name == RETAINED else f"retain[{name!r}]", images)
    return named


def _label_sets(given: Mapping[str, Images], classifier: Classifier) -> dict[str, LabeledImages]:
    """Label sets by the classifier's classes, and drop repeated images.

    Labels are mapped by name; sets without labels are labeled by the classifier's predictions. All sets are checked
    before anything is predicted.
    """
    if "concept" in given and not isinstance(given["concept"], LabeledImages):
        raise TypeError(
            f"The images with the concept are a {type(given['concept']).__name__}; pass LabeledImages(images, labels, "
            "classes)"
        )
    checked = {name: _checked(name, images, classifier) for name, images in given.items()}
    labeled = {}
    for name, images in checked.items():
        has_labels = isinstance(images, LabeledImages)
        labeled[name] = without_duplicates(name, images if has_labels else label_by_prediction(images, classifier))
    return labeled


def _checked(name: str, images: Images, classifier: Classifier) -> Images:
    """Return a set if its images have the size of the classifier's input; if it has labels, map them by name."""
    if not isinstance(images, Images):
        raise TypeError(
            f"The {name} images are a {type(images).__name__}; pass a tensor (N, 3, H, W), LazyImages or LabeledImages"
        )
    check_size(name, images, classifier)
    return remap_labels(name, images, classifier) if isinstance(images, LabeledImages) else images


def _check_sets(images: Images, sets: Mapping[str, LabeledImages], exemplars: Sequence[Exemplar]) -> None:
    """Check that the sets are not empty and share no image; warn about scenes that they share.

    Args:
        sets: "concept", "clean", and the retained sets, as far as they are given.
        exemplars: all exemplars; only x of one may be among the images with the concept.
    """
    for name, data in sets.items():
        if not len(data):
            warn(f"{name} has no images, so it is not measured; pass images")
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    original = torch.stack([exemplar.image for exemplar in exemplars])
    shown = {"exemplars": torch.cat([changed, original]), "x' of the exemplars": changed}
    pairs = [(name, "x' of the exemplars" if name == "concept" else "exemplars") for name in sets]
    pairs += combinations(["images", *sets], 2)
    check_disjoint({"images": images, **sets, **shown}, pairs)
    for one, other in combinations(sets, 2):
        _warn_about_shared_scenes(one, sets[one], other, sets[other])


def _warn_about_shared_scenes(name: str, data: LabeledImages, other_name: str, other: LabeledImages) -> None:
    """Warn if images of two sets show the same scenes, so that they are no independent evidence."""
    if not len(data) or not len(other):
        return
    scenes = scenes_of_thumbnails(torch.cat([thumbnails(data), thumbnails(other)]))
    shared = torch.isin(scenes[: len(data)], scenes[len(data) :])
    if shared.any():
        named = _named(shared, _file_names(data))
        warn(
            f"{int(shared.sum())} images of {name!r}{named} show the same scene as images of {other_name!r}, such as "
            "other frames of it; leave out those of one set"
        )


def _split_off_own_class(
    concept: LabeledImages | None, own_classes: Sequence[int]
) -> tuple[LabeledImages | None, LabeledImages | None]:
    """Divide the images with the concept into those of other classes and those of its own; None if there are none."""
    if concept is None or not len(concept):
        return None, None
    is_own = torch.isin(concept.labels, torch.tensor(list(own_classes), dtype=torch.long))
    others = concept.subset(~is_own) if not is_own.all() else None
    return others, concept.subset(is_own) if is_own.any() else None
