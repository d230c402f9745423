"""What a desk computes, without widgets: pictures by how wrong they are, an edit from one of them, what it does.

    bench = Bench(classifier, images, everyday=everyday, keep=keep)
    picture = bench.images.images[bench.order[0]]                     # the one that is most wrong
    exemplar = Recipe("texture", style="gravel", misread=True).exemplar(picture, mask)
    edit = bench.rewrite(exemplar, Settings(bench.worth_trying[-1]))
    bench.readings(edit), bench.counts(edit)

Images are run up to a layer once, so one more edit of it costs what follows the layer. The classifier is not changed.
"""

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor

from edittools.choosing.repair import Repair, Told, repair
from edittools.choosing.states import CachedStates
from edittools.classifiers import Classifier, by_name, check_classifier, fingerprint
from edittools.cut import Cut, editable_layers, later_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, LazyImages, resized, stratified
from edittools.keys import LayerKeys
from edittools.lab.folders import pictures_in, read_folder
from edittools.metrics import Comparison, errors, predict
from edittools.rewriting import SAMPLE, rewrite

Source = LabelledImages | LazyImages | Tensor | str | os.PathLike
Given, Kept = TypeVar("Given"), TypeVar("Kept")
PIXELS = 20_000_000
"""A set is used up to so many pixels (400 images of 224 × 224), evenly spread over it: nobody waits for a desk."""
LAYERS_KEPT = 3
"""So many layers' states stay in memory."""


@dataclass(frozen=True)
class Settings:
    """How an edit is solved: `layer`, `rank`, at the mask only or everywhere (`masked`), and the `objective`.

    `spare` adds what it costs to move everyday images; without it only the direction avoids them.
    """

    layer: str
    rank: int = 1
    masked: bool = True
    objective: str = "least_squares"
    spare: bool = True


@dataclass(frozen=True)
class Counts:
    """What an edit did to the images, to the kept ones and to the everyday ones (None where there are none)."""

    images: Comparison = field(repr=False)
    keep: Comparison | None = field(default=None, repr=False)
    everyday: Comparison | None = field(default=None, repr=False)


class Bench:
    """A classifier, `images` to correct, and perhaps everyday images and images that must stay as they are.

    Each set is a `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder (see `read_folder`); without
    labels it is held to what is read now. Labels into other classes than the classifier's are taken by name. Of the
    everyday images a quarter, taken class by class, says which keys are everyday ones, the others are counted. `shown`
    is how many pictures are looked at with every edit. `notes` says what was left out, in words.

    One thread may compute while another relabels: a set is never changed, another takes its place, under `lock`.

    Raises `TypeError` or `ValueError` for sets that are none, and `FileNotFoundError` for a folder that is not there.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Source,
        everyday: Source | None = None,
        keep: Source | None = None,
        shown: int = 24,
    ) -> None:
        """Read the sets, and look at the images once."""
        self.classifier, self.notes = with_own_modules(check_classifier(classifier)), []
        self.given = {"images": images, "everyday": everyday, "keep": keep}
        self.images = self._taken("images", images)
        self.all_everyday = spare = None if everyday is None else self._taken("everyday", everyday)
        self.all_kept = kept = None if keep is None else self._taken("keep", keep)
        reference, self.everyday = (self.images, None) if spare is None else _parted(spare, 1 / 4)
        self.keep, self.reference = kept, reference.images
        self.logits, self._as_read = predict(classifier, self.images).float(), _identity(classifier)
        self.layers = editable_layers(classifier)
        self._cuts: dict[str, Cut] = {}
        self._remembered: OrderedDict[tuple[str, str], tuple[object, object]] = OrderedDict()
        self.lock, self._count = threading.Lock(), shown
        self.first_labels = self.images.labels  # as they were given, before anything was relabelled
        self.shown, self._some = self._looked_at()

    # --- the images ------------------------------------------------------------------------------------------------

    @property
    def order(self) -> list[int]:
        """The images by how wrong they are: by how far the class they show lies behind the best other one."""
        return margins(self.logits, self.images.labels).argsort(stable=True).tolist()

    @property
    def wrong(self) -> Tensor:
        """Which images are misread, `(N,)` booleans."""
        return errors(self.logits, self.images.labels)

    @property
    def same(self) -> bool:
        """Whether the classifier is as it was when its pictures were read: its weights, their precision and device."""
        return _identity(self.classifier) == self._as_read

    def relabel(self, index: int, name: str) -> None:
        """Say what an image shows, by the class's name; `KeyError` with near names where there is no such class."""
        labels = self.images.labels.clone()
        labels[index] = self.classifier.index(name)
        with self.lock:
            self.images = replace(self.images, labels=labels)
            self.shown, self._some = self._looked_at()

    def _taken(self, name: str, given: Source) -> LabelledImages:
        """A set as labelled images at the classifier's size, of no more than `PIXELS`, in memory."""
        if isinstance(given, str | os.PathLike):
            step = max(1, -(-len(pictures_in(given)) // self._most))
            data, left_out = read_folder(given, self.classifier, step)
            if step > 1:
                self.notes.append(f"{name}: one picture in {step} of the folder is used.")
            if left_out:
                first = "; ".join(left_out[:3]) + ("; …" if len(left_out) > 3 else "")
                self.notes.append(f"{name}: {len(left_out)} of {len(left_out) + len(data)} files left out ({first}).")
        elif isinstance(given, LabelledImages):
            data = by_name(name, given, self.classifier)
        elif isinstance(given, Tensor | LazyImages):
            data = LabelledImages.unlabelled(given, self.classifier.classes)
        else:
            kind = type(given).__name__
            raise TypeError(f"{name} are a {kind}: expected LabelledImages, a tensor (N, 3, H, W) or a folder's path")
        if not len(data):
            raise ValueError(f"no {name}: expected at least one")
        return self._sized(name, data, unlabelled=not isinstance(given, LabelledImages | str | os.PathLike))

    @property
    def _most(self) -> int:
        """So many images of a set are used."""
        return max(PIXELS // self.classifier.size**2, 1)

    def _sized(self, name: str, data: LabelledImages, unlabelled: bool) -> LabelledImages:
        size, lazy = self.classifier.size, isinstance(data.images, LazyImages)
        height, width = (data.images.size,) * 2 if lazy else data.images.shape[-2:]
        if (height, width) != (size, size):
            self.notes.append(
                f"{name} of {width} × {height} pixels are read at {size} × {size}, the classifier's size."
            )
        step = -(-len(data) // self._most)
        indices, pixels = self._readable(name, data, range(0, len(data), step))
        if step > 1:
            self.notes.append(f"{name}: {len(indices):,} of {len(data):,} are used, one in {step}.")
        labels = data.labels[indices].clone()
        if unlabelled:
            labels = predict(self.classifier, pixels).argmax(dim=1)
            self.notes.append(f"{name} have no labels: they are held to what is read now.")
        names = tuple(data.names[i] for i in indices) if data.names else ()
        return LabelledImages(pixels, labels, self.classifier.classes, names)

    def _readable(self, name: str, data: LabelledImages, chosen: Sequence[int]) -> tuple[list[int], Tensor]:
        """The images among the chosen ones that can be read, at the classifier's size."""
        if isinstance(data.images, Tensor):
            return list(chosen), resized(data.images[:: chosen.step], self.classifier.size)
        kept, pixels, broken = [], [], []
        for index in chosen:
            try:
                pixels.append(resized(data.images[index : index + 1], self.classifier.size))
                kept.append(index)
            except (ValueError, OSError) as error:
                broken.append(str(error))
        if not kept:
            raise ValueError(f"none of the {len(broken)} files of {name} can be read: {broken[0]}")
        if broken:
            self.notes.append(f"{name}: {len(broken)} files left out ({broken[0]}).")
        return kept, torch.cat(pixels)

    def _looked_at(self) -> tuple[list[tuple[str, int]], LabelledImages]:
        """Which pictures are looked at with every edit, by set and place: the most wrong, and some that must stay."""
        count = self._count
        others = {name: data for name, data in (("keep", self.keep), ("everyday", self.everyday)) if data is not None}
        each = min(count // 4, *(len(data) for data in others.values())) if others else 0
        places = [("images", i) for i in self.order[: count - each * len(others)]]
        for name, data in others.items():
            places += [(name, i * len(data) // each) for i in range(each)]
        sets = {"images": self.images, **others}
        pixels = torch.stack([sets[name].images[i] for name, i in places])
        labels = torch.stack([sets[name].labels[i] for name, i in places])
        return places, LabelledImages(pixels, labels, self.classifier.classes)

    # --- layers ----------------------------------------------------------------------------------------------------

    @property
    def worth_trying(self) -> list[str]:
        """Layers worth trying first: convolutions of the later half (of a transformer linear layers), ten at most."""
        return later_layers(self.layers)

    def cut(self, layer: str) -> Cut:
        """The classifier cut at a layer, kept."""
        if layer not in self._cuts:
            self._cuts[layer] = Cut(self.classifier, layer)
        return self._cuts[layer]

    def _once(self, kind: str, layer: str, data: Given, make: Callable[[Given], Kept]) -> Kept:
        """What `make` gives of `data` for a layer, kept for the few layers that were used last."""
        known = self._remembered
        if (kind, layer) not in known or known[kind, layer][0] is not data:
            known[kind, layer] = data, make(data)
        known.move_to_end((kind, layer))
        layers = list(dict.fromkeys(name for _, name in reversed(known)))
        for key in [key for key in known if key[1] in layers[LAYERS_KEPT:]]:
            del known[key]
        return known[kind, layer][1]

    def _states(self, layer: str, name: str, data: LabelledImages) -> CachedStates:
        return self._once(name, layer, data, lambda given: CachedStates({layer: self.cut(layer)}, given))

    def _first(self, edit: Edit) -> str:
        """The first of an edit's layers, in the network's order."""
        return next((name for name in self.layers.layer if name in edit.layers), edit.layers[0])

    # --- an edit ---------------------------------------------------------------------------------------------------

    def rewrite(self, exemplar: Exemplar, settings: Settings) -> Edit:
        """The edit of an exemplar: `edittools.rewrite` with `arguments`; it raises what that raises."""
        return rewrite(self.classifier, self.cut(settings.layer), exemplar, **self.arguments(settings))

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """What `edittools.rewrite` is given beside classifier, layer and exemplar."""
        layer, cut = settings.layer, self.cut(settings.layer)
        reference = self._once("reference keys", layer, self.reference, lambda images: _reference(cut, images))
        solve = {"reference": reference, "rank": settings.rank, "masked": settings.masked}
        solve |= {"objective": settings.objective}
        solve["reference_weight"] = 30.0 * (settings.spare and self.given["everyday"] is not None)
        return solve

    def readings(self, edit: Edit | None = None) -> Tensor:
        """What is read in the shown images with an edit: probabilities `(shown, classes)`."""
        if edit is None:
            return self._once("read", "", self._some, lambda some: self.read(some.images))
        layer = self._first(edit)
        return self._states(layer, "shown", self._some).logits(edit).float().softmax(dim=1)

    def counts(
        self, edit: Edit, drawn_on: Collection[int] = (), unwanted: Callable[[], bool] = lambda: False
    ) -> Counts | None:
        """What an edit did to all images without those that were drawn on, which no longer tell.

        `unwanted` is asked before each set; once it says True, None comes back.
        """
        layer, found = self._first(edit), []
        for name, data in (("images", self.images), ("keep", self.keep), ("everyday", self.everyday)):
            if unwanted():
                return None
            found.append(None if data is None else self._states(layer, name, data).compare(edit))
        left = torch.ones(len(self.images), dtype=torch.bool)
        left[list(drawn_on)] = False
        found[0] = Comparison(found[0].before[left], found[0].after[left])
        return Counts(*found)

    def repair(self, exemplar: Exemplar, drawn_on: Collection[int] = (), progress: bool | Told = False) -> Repair:
        """What `edittools.repair` finds on the images that were not drawn on; it raises what that raises.

        Raises `ValueError` without everyday images, which bound the choice.
        """
        if self.all_everyday is None:
            raise ValueError("no everyday images: expected some, which say what an edit may cost")
        left = [i for i in range(len(self.images)) if i not in set(drawn_on)]
        return repair(
            self.classifier,
            exemplar,
            self.images.subset(left),
            self.all_everyday,
            self.all_kept,
            layers=self.worth_trying,
            baselines=False,
            progress=progress,
        )

    def read(self, pictures: Tensor) -> Tensor:
        """What the classifier reads in `(B, 3, H, W)` pictures as it is: probabilities `(B, classes)`."""
        return predict(self.classifier, pictures).float().softmax(dim=1)

    def table(self) -> pd.DataFrame:
        """The layers, with `worth trying`."""
        return self.layers.assign(**{"worth trying": self.layers.layer.isin(self.worth_trying)})

    @property
    def some(self) -> Tensor:
        """The pictures that are shown, `(shown, 3, H, W)`; `shown` says of which set and place each is."""
        return self._some.images

    @property
    def looked_at(self) -> LabelledImages:
        """The pictures that are shown, with their labels."""
        return self._some

    @property
    def labels(self) -> Tensor:
        """The classes that the shown pictures show, `(shown,)`."""
        return self._some.labels


def with_own_modules(classifier: Classifier) -> Classifier:
    """A copy that shares all weights: running it in a thread never meets another thread that runs the original.

    Weights that are replaced for the length of a call are replaced in a module, which other threads would see.
    """
    weights = [*classifier.parameters(), *classifier.buffers()]
    return copy.deepcopy(classifier, {id(tensor): tensor for tensor in weights})


def _identity(classifier: Classifier) -> tuple[str, torch.device]:
    return fingerprint(classifier.model), classifier.device


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the right class's logit lies above the best other one, `(N,)`; below 0 the image is misread."""
    right = logits.gather(1, labels[:, None])[:, 0]
    if logits.shape[1] < 2:
        return torch.zeros_like(right)
    return right - logits.scatter(1, labels[:, None], float("-inf")).amax(dim=1)


def _parted(data: LabelledImages, share: float) -> tuple[LabelledImages, LabelledImages | None]:
    """About a `share` of the images, of each class, one at least; and the others, None where there are none."""
    first = stratified(data.labels, share, seed=0)
    first[0] |= not first.any()
    return data.subset(first), None if first.all() else data.subset(~first)


def _reference(cut: Cut, images: Tensor) -> LayerKeys:
    """Everyday keys: their second moment is that of all, a sample says what a kernel sees of them together."""
    everyone = LayerKeys(cut, images)
    return LayerKeys(cut, images[:: -(-len(images) // SAMPLE)], everyone.moment)
