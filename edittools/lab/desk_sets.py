"""The pictures of a desk: sets with one duty each, kept at a layer, and what an edit does to them."""

import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch
from torch import Tensor

from edittools.choosing import BUDGET, CachedStates, Repair, cache_states, most_broken, repair
from edittools.choosing.duties import check_apart, distinct
from edittools.choosing.trials import later_layers
from edittools.classifiers import Classifier, by_name, check_classifier
from edittools.cut import Cut, editable_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, LazyImages, resized, spread, stratified
from edittools.lab.folders import pictures_in, read_folder
from edittools.metrics import Comparison, errors, predict
from edittools.moments import SecondMoment, keys_of, measure
from edittools.rewriting import SAMPLE, rewrite

Source = LabelledImages | LazyImages | Tensor | str | os.PathLike
PIXELS = 20_000_000
"""A set is used up to so many pixels (400 images of 224 × 224), evenly spread over it: nobody waits for a desk."""
SPARED = 30.0  # the `reference_weight` of a rewrite at the desk
LAYERS_KEPT = 3  # so many layers' states stay in memory


@dataclass(frozen=True, eq=False)
class Result:
    """What an `edit` does: to the misread `images`, to those to `keep` and to `everyday` ones (None: not given).

    `after` are the logits `(N, classes)` of all images. `held_out` says that the figures in the `verdict` are of
    pictures that did not choose the edit; those of the comparisons are of pictures that did.
    """

    edit: Edit
    after: Tensor = field(repr=False)
    images: Comparison = field(repr=False)
    keep: Comparison | None = field(repr=False)
    everyday: Comparison | None = field(repr=False)
    verdict: str = ""
    held_out: bool = False


class DeskSets:
    """A classifier, the images to correct, and perhaps everyday images and images to keep.

    Each set is `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder; see `Desk`. Of the everyday images
    a quarter says which keys are everyday ones, the others are counted; without any, the images themselves are spared.
    """

    def __init__(
        self, classifier: Classifier, images: Source, everyday: Source | None = None, keep: Source | None = None
    ) -> None:
        self.classifier, self.notes = check_classifier(classifier), []
        given = {"images": images, "everyday": everyday, "keep": keep}
        self.given = {n: read_set(n, one, classifier, self.notes) for n, one in given.items() if one is not None}
        check_apart(self.given, combinations(self.given, 2))
        self.images, self.keep, self.everyday = self.given["images"], self.given.get("keep"), None
        self.reference = self.images.images
        if "everyday" in self.given:
            spared = stratified(self.given["everyday"].labels, 1 / 4, seed=0)
            spared[0] |= not spared.any()
            self.reference = self.given["everyday"].images[spared]
            self.everyday = None if spared.all() else self.given["everyday"].subset(~spared)
        self.layers, self.later = tuple(editable_layers(self.classifier).layer), tuple(later_layers(self.classifier))
        self.read()

    def __repr__(self) -> str:
        wrong = sum(map(self.misread, range(len(self.images))))
        return f"{self.classifier}, {len(self.images)} images, {wrong} misread"

    @property
    def order(self) -> list[int]:
        """The images by how far the class they show lies behind the best other one, the most wrong first."""
        right = self.before.gather(1, self.images.labels[:, None])
        best = self.before.scatter(1, self.images.labels[:, None], float("-inf")).amax(dim=1)
        return (right[:, 0] - best).argsort(stable=True).tolist()

    def shows(self, index: int) -> str:
        """The name of the class that an image shows."""
        return self.classifier.classes[int(self.images.labels[index])]

    def misread(self, index: int) -> bool:
        """Say whether an image is read as another class than the one it shows."""
        return int(self.before[index].argmax()) != int(self.images.labels[index])

    def read(self) -> None:
        """Read the images."""
        self.before = predict(self.classifier, self.images).float()
        self._kept: dict[str, tuple[Cut, SecondMoment, dict[str, CachedStates]]] = {}

    def relabel(self, index: int, name: str) -> None:
        """Say what an image shows, by the class's name; `KeyError` with near names where there is no such class."""
        labels = self.images.labels.clone()
        labels[index] = self.classifier.index(name)
        self.images = replace(self.images, labels=labels)
        self._kept.clear()

    def add(self, picture: Tensor) -> int:
        """Add an image `(3, size, size)`, held to what is read now, and give its place; `ValueError` if it is there."""
        new = read_set("picture", picture[None], self.classifier, [])
        sets = {**self.given, "images": self.images, "picture": new}
        check_apart(sets, combinations(sets, 2))
        pixels, labels = (torch.cat([getattr(one, n) for one in (self.images, new)]) for n in ("images", "labels"))
        self.images = LabelledImages(pixels, labels, self.classifier.classes)
        self.read()
        return len(self.images) - 1

    def at(self, layer: str) -> tuple[Cut, SecondMoment, dict[str, CachedStates]]:
        """The sets at a layer: its cut, the keys that are spared, and the states by set. Those of a few layers stay."""
        if layer not in self._kept:
            sets = {"images": self.images, "keep": self.keep, "everyday": self.everyday}
            cuts, states = cache_states(self.classifier, [layer], **{n: one for n, one in sets.items() if one})
            moment = measure(self.classifier, [layer], self.reference)[layer]
            keys = replace(moment, sample=keys_of(cuts[layer], spread(self.reference, SAMPLE)))
            self._kept = dict(list(self._kept.items())[1 - LAYERS_KEPT :])
            self._kept[layer] = cuts[layer], keys, states
        return self._kept[layer]

    def rewrite(self, exemplar: Exemplar, layer: str, strength: float = 1.0) -> Edit:
        """Rewrite one layer by one exemplar, by least squares: exact, and in milliseconds."""
        cut, keys, _ = self.at(layer)
        weight = SPARED if "everyday" in self.given else 0.0
        edit = rewrite(self.classifier, cut, exemplar, keys, objective="least_squares", reference_weight=weight)
        return edit if strength == 1 else strength * edit

    def result(self, edit: Edit, drawn_on: Collection[int] = ()) -> Result:
        """Compare the sets before and after an edit; images that were drawn on do not count."""
        _, _, states = self.at(next((layer for layer in self.layers if layer in edit.layers), edit.layers[0]))
        after = states["images"].logits(edit)
        counted = [i for i in range(len(self.images)) if i not in drawn_on]
        images = Comparison(states["images"].before[counted], errors(after, self.images.labels)[counted])
        others = {name: states[name].compare(edit) if name in states else None for name in ("keep", "everyday")}
        found = Result(edit, after, images, **others)
        return replace(found, verdict=verdict(found))

    def search(self, exemplar: Exemplar, drawn_on: int, told: Callable[[str, int, int | None], None]) -> Repair:
        """Search with `repair` on the images without the one that was drawn on; `ValueError` without everyday ones."""
        if "everyday" not in self.given:
            raise ValueError("no everyday images: expected some, which say what an edit may cost")
        failing = self.images.subset([i for i in range(len(self.images)) if i != drawn_on])
        sets = failing, self.given["everyday"], self.keep
        return repair(self.classifier, exemplar, *sets, baselines=False, progress=told)


def read_set(name: str, given: Source, classifier: Classifier, notes: list[str]) -> LabelledImages:
    """Read a set at the classifier's size, each image once and no more than `PIXELS`; `notes` says what is left out."""
    if not isinstance(given, str | os.PathLike | LabelledImages | Tensor | LazyImages):
        kind = type(given).__name__
        raise TypeError(f"{name} are a {kind}: expected LabelledImages, a tensor (N, 3, H, W) or a folder's path")
    folder = isinstance(given, str | os.PathLike)
    step = max(1, -(-len(pictures_in(given) if folder else given) * classifier.size**2 // PIXELS))
    if step > 1:
        notes.append(f"{name}: one picture in {step} is used.")
    if folder:
        data, left_out = read_folder(given, classifier, step)
        if left_out:
            notes.append(f"{name}: {len(left_out)} files left out ({'; '.join(left_out[:3])}).")
    else:
        unlabelled = not isinstance(given, LabelledImages)
        data = LabelledImages.unlabelled(given, classifier.classes) if unlabelled else by_name(name, given, classifier)
        if not len(data):
            raise ValueError(f"no {name}: expected at least one")
        data = data.subset(range(0, len(data), step))
        data = replace(data, images=resized(data.images[:], classifier.size))
        if unlabelled:
            data = replace(data, labels=predict(classifier, data).argmax(dim=1))
            notes.append(f"{name} have no labels: they are held to what is read now.")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        data = distinct(name, data)
    notes += [f"{one.message}." for one in said]
    return data


def verdict(found: Result) -> str:
    """Say what an edit corrects, what it costs, and what to try next."""
    wrong, gained, lost = int(found.images.before.sum()), found.images.corrected, found.images.broken
    said, within = [f"{gained} of {wrong} misread pictures are corrected, {lost} of the others broke."], True
    if found.everyday is not None:
        count, change = len(found.everyday.before), found.everyday.accuracy_change
        allowed = max(BUDGET, 100 / count)
        within &= change >= -allowed - 1e-9
        said.append(f"{change:+.2f} points of accuracy on {count:,} everyday pictures ({allowed:.2g} may be lost).")
    if found.keep is not None:
        count, most = len(found.keep.before), most_broken(len(found.keep.before))
        within &= found.keep.broken <= most
        said.append(f"{found.keep.broken} of {count:,} pictures to keep broke ({most or 'none'} may).")
    if missing := [name for name in ("everyday", "keep") if getattr(found, name) is None]:
        said.append(f"What it costs elsewhere is not known: give {' and '.join(missing)} pictures.")
    if gained <= lost or not within:
        problem = "That is no gain." if gained <= lost else "That is too much: lower the strength."
        said.append(f"{problem} “Find the best” tries other layers, ranks and strengths.")
    return "\n".join(said)
