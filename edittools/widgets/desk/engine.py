"""The engine of the desk: a model, images, and the answers to the questions that a state asks.

    engine = Engine(classifier, "photos/tagged")
    engine.complete("photos/clean")
    engine.answer(Question(QuestionKind.PAIR, marked))

An answer depends on its question only, and is kept until it is forgotten. The model is not changed.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools._ledger import Weights
from edittools._paths import image_files
from edittools._progress import Progress
from edittools.auditing.windows import key_layer
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, cut_all
from edittools.edits import Edit, copied
from edittools.exemplars import Exemplar
from edittools.folders import read_folder
from edittools.geometry import InputGeometry
from edittools.image_files import load_image
from edittools.images import LabeledImages, evenly_spaced
from edittools.layers import candidate_layers
from edittools.locate import find_alike
from edittools.metrics import leads_without_prediction, misclassified, predict
from edittools.moments import SecondMoment, measure
from edittools.probing.evidence import evidence_of_keys
from edittools.selection.assessment import Assessment
from edittools.selection.hosts import MOST_REFERENCE
from edittools.selection.select import EXEMPLAR, HOSTS, Selection, select
from edittools.selection.splits import Splits, check_disjoint, repeated, split_ordinary
from edittools.widgets.desk.state import Marked, MarkedArea, Question, QuestionKind, Rewriting
from edittools.widgets.materials import replace_by_material

MOST_BYTES = 1_500_000_000
"""The memory that the images of a folder may take, about 2,500 of 224 × 224; of more, only every second, … is read."""

BYTES_OF_PIXEL = 12
"""Three colors in float32."""

MOST_FOUND = 240
"""The largest number of images that are offered as showing a mark."""

MOST_OF_OWN_CLASS = 80
"""The number of those that are of the mark's class, if there are as many: the cost on it needs them."""

MOST_NAMED = 3
"""The largest number of files that a note names."""


@dataclass(frozen=True, eq=False)
class PredictedPair:
    """What x and x' are predicted as.

    Attributes:
        exemplar: x, the image with its mark replaced, and x', the image.
        original: the probabilities of x, `(classes,)`.
        changed: those of x', `(classes,)`.
    """

    exemplar: Exemplar = field(repr=False)
    original: Tensor = field(repr=False)
    changed: Tensor = field(repr=False)

    @property
    def shows_mistake(self) -> bool:
        """Whether x is predicted otherwise than x', so that the mark changes the prediction."""
        return int(self.original.argmax()) != int(self.changed.argmax())


@dataclass(frozen=True, eq=False)
class Seen:
    """An image that may show a mark.

    Attributes:
        name: its name.
        image: the image `(3, H, W)`, on which the place of the mark is outlined.
        label: the index of its class.
        probabilities: those of the image, `(classes,)`, without an edit.
    """

    name: str
    image: Tensor = field(repr=False)
    label: int
    probabilities: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Heat:
    """Where a layer argues for the prediction of an image, and against its label.

    Attributes:
        values: the map `(H, W)`, in the size of the photo.
        favored: the name of the class that it argues for.
        against: the name of the class that it argues against.
    """

    values: Tensor = field(repr=False)
    favored: str
    against: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an edit does.

    Attributes:
        edit: the edit.
        after: the probabilities `(M, classes)` of the mistakes of the folder, with the edit.
        selection: the selection that it came from; None for a first edit.
        fix: the assessment of it; None until it is measured.
    """

    edit: Edit
    after: Tensor = field(repr=False)
    selection: Selection | None = field(default=None, repr=False)
    fix: Assessment | None = field(default=None, repr=False)


class Engine:
    """A model and the images of a folder.

    Args:
        classifier: the classifier, which is not changed.
        folder: images, some of them misclassified, in one subfolder per class; those without a label are left out.
        progress: a class like `tqdm.tqdm`, for bars.

    Attributes:
        classifier: the classifier.
        images: the images, named by their files.
        before: the logits of the images `(N, classes)`, without an edit.
        mistakes: those of them that are misclassified; first those that would clearly be correct, but for the class
            that is predicted: something may mislead there.
        notes: what was left out, and how the clean images are divided, one sentence each.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if no image in it can be used.
    """

    def __init__(self, classifier: Classifier, folder: Path, progress: Progress | None = None) -> None:
        self.classifier = check_classifier(classifier)
        self.notes: list[str] = []
        images = self._read(folder, progress)
        labeled = images.subset(images.is_labeled)
        if len(labeled) < len(images):
            self._leave_out("images without a label", [images.names[i] for i in (~images.is_labeled).nonzero()[:, 0]])
        if not len(labeled):
            raise ValueError(f"no image in {str(folder)!r} has a label; put them in one subfolder per class")
        self.images = labeled
        self.before = predict(classifier, labeled, bar="classifying images", progress=progress).float()
        is_mistake = misclassified(self.before, labeled.labels)
        leads = leads_without_prediction(self.before, labeled.labels)
        order = leads.argsort(descending=True, stable=True).tolist()
        self.mistakes = labeled.subset([index for index in order if is_mistake[index]])
        self._index = {name: index for index, name in enumerate(labeled.names)}
        self._answers: dict[Question, Any] = {}
        self._ordinary = torch.zeros(0)
        self._clean: LabeledImages | None = None
        self._retain: LabeledImages | None = None
        self._moments: Mapping[str, SecondMoment] = {}

    def complete(self, clean: Path, retain: Path | None = None, progress: Progress | None = None) -> None:
        """Read what an edit is selected by and measured on, and prepare for the first one.

        Args:
            clean: ordinary images; half of them, at most 300, select an edit, and accuracy is measured on the others.
            retain: images whose predictions should not change.
            progress: a class like `tqdm.tqdm`, for bars.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if no image of a folder can be used, if there are too few clean images, or if two folders share
                an image.
        """
        sets = {"images": self.images, "clean": self._read(clean, progress)}
        if retain is not None:
            sets["retain"] = self._read(retain, progress)
        check_disjoint(sets)
        ordinary, measured = split_ordinary(sets["clean"])
        self.notes.append(
            f"Of {len(sets['clean']):,} clean images, {len(ordinary)} select an edit, and {len(measured)} measure it."
        )
        self._ordinary = ordinary.images
        self._clean = measured
        self._retain = sets.get("retain")
        cuts = cut_all(self.classifier, candidate_layers(self.classifier), weights=Weights(self.classifier))
        _ = self._key_cut
        # Last: it completes the engine.
        self._moments = measure(cuts, evenly_spaced(self._ordinary, MOST_REFERENCE), progress)

    @property
    def is_complete(self) -> bool:
        """Whether everything is read, so that edits can be made."""
        return bool(self._moments)

    # --- images -------------------------------------------------------------------------------------------------------

    def _read(self, folder: Path, progress: Progress | None) -> LabeledImages:
        """Read a folder; images are named by their files, and each is used once."""
        most = MOST_BYTES // (BYTES_OF_PIXEL * self.classifier.size**2)
        data, left_out = read_folder(folder, self.classifier, progress, most=most)
        names = tuple(_short(Path(folder) / name) for name in data.names)
        data = replace(data, names=names)
        is_repeated = repeated(data)
        self._leave_out("files that cannot be used", left_out)
        number = len(image_files(folder))
        if number > most:
            used = len(data) + len(left_out)
            self.notes.append(f"Of {number:,} images in {folder}, {used:,} are used, evenly spaced.")
        self._leave_out("images that are there more than once", [names[i] for i in is_repeated.nonzero()[:, 0]])
        return data.subset(~is_repeated)

    def _leave_out(self, what: str, names: Collection[str]) -> None:
        """Note that images are left out, and which."""
        if names:
            more = ", …" if len(names) > MOST_NAMED else ""
            self.notes.append(f"Left out: {len(names):,} {what} ({', '.join(list(names)[:MOST_NAMED])}{more}).")

    def probabilities(self, name: str) -> Tensor:
        """Return the probabilities `(classes,)` of an image of the folder, without an edit."""
        return self.before[self._index[name]].softmax(dim=0)

    def photo(self, name: str) -> Tensor:
        """Load an image of the folder in its own size, `(3, H, W)`.

        Raises:
            OSError: if the file is gone by now.
        """
        return load_image(name)

    def mask_of(self, mark: MarkedArea) -> Tensor:
        """Return what the network sees of a mark, `(size, size)` of 0 and 1; the same as `load_mask` of its file."""
        grays = Image.fromarray(mark.pixels.astype(np.uint8) * 255)
        seen = InputGeometry.of(self.classifier).crop(grays, Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.array(seen)) > 127).float()

    @property
    def offered_names(self) -> tuple[str, ...]:
        """The names of the images in which a mark is looked for."""
        is_labeled = self._clean.is_labeled.tolist()
        return (*self.images.names, *compress(self._clean.names, is_labeled))

    @property
    def _offered(self) -> LabeledImages:
        """The labeled images in which a mark is looked for: those of the folder, and the clean ones that measure."""
        clean = self._clean.subset(self._clean.is_labeled)
        return LabeledImages(
            torch.cat([self.images.images, clean.images]),
            torch.cat([self.images.labels, clean.labels]),
            self.classifier.classes,
            (*self.images.names, *clean.names),
        )

    @cached_property
    def _key_cut(self) -> Cut:
        """The model, cut at the layer whose keys tell where a mark is, and where to look for one."""
        return key_layer(self.classifier)

    # --- answers ------------------------------------------------------------------------------------------------------

    def answer(self, question: Question, progress: Progress | None = None) -> Any:
        """Answer a question; the answer is kept.

        Args:
            question: the question.
            progress: a class like `tqdm.tqdm`, for bars; what their `update` raises ends this.

        Raises:
            ValueError: if it has no answer; the message says why.
        """
        answer = self._answers.get(question)  # another thread may forget it meanwhile
        if answer is None:
            ask: dict[QuestionKind, Callable[[Any, Progress | None], Any]] = {
                QuestionKind.PAIR: self._pair,
                QuestionKind.HEAT: self._heat,
                QuestionKind.ELSEWHERE: self._elsewhere,
                QuestionKind.FIRST: self._first,
                QuestionKind.SELECTION: self._selected,
                QuestionKind.VERDICT: self._measured,
            }
            answer = ask[question.kind](question.about, progress)
            self._answers[question] = answer
        return answer

    def known(self, question: Question) -> Any:
        """Return the answer to a question; None if it is not known yet."""
        return self._answers.get(question)

    def forget_all_but(self, questions: Collection[Question]) -> None:
        """Forget the answers to all other questions."""
        for question in list(self._answers):  # another thread may add one meanwhile
            if question not in questions:
                self._answers.pop(question, None)

    def _pair(self, marked: Marked, progress: Progress | None = None) -> PredictedPair:
        mask = self.mask_of(marked.mark)
        if not mask.any():
            raise ValueError("The network does not see what is marked: it is too thin, or outside of the middle.")
        index = self._index[marked.image]
        image = self.images.images[index]
        original = replace_by_material(image, mask, marked.material)
        label = int(self.images.labels[index])
        exemplar = Exemplar(original, image, mask, label, (marked.image,))
        probabilities = predict(self.classifier, torch.stack([original, image])).float().softmax(dim=1)
        return PredictedPair(exemplar, probabilities[0], probabilities[1])

    def exemplar(self, marked: Marked) -> Exemplar:
        """Return the exemplar that a marked image makes.

        Raises:
            ValueError: if the network does not see what is marked.
        """
        return self.answer(Question(QuestionKind.PAIR, marked)).exemplar

    def _heat(self, name: str, progress: Progress | None = None) -> Heat:
        index = self._index[name]
        predicted = self.before[index].argmax()
        label = self.images.labels[index]
        state = self._key_cut.prefix(self.images.images[index][None])
        [seen] = evidence_of_keys(self._key_cut, state, predicted[None], label[None])
        height, width = self.photo(name).shape[1:]
        values = InputGeometry.of(self.classifier).on_photo(seen, height, width)
        return Heat(values, self.classifier.classes[int(predicted)], self.classifier.classes[int(label)])

    def _elsewhere(self, marked: Marked, progress: Progress | None = None) -> list[Seen]:
        pair = self.answer(Question(QuestionKind.PAIR, marked))
        data = self._offered
        data = data.subset([index for index, name in enumerate(data.names) if name != marked.image])
        places = find_alike(self._key_cut, [(pair.exemplar.changed, pair.exemplar.mask)], data.images, progress).places
        own_class = int(pair.changed.argmax())
        own = [rank for rank, place in enumerate(places) if data.labels[place.index] == own_class][:MOST_OF_OWN_CLASS]
        others = [rank for rank in range(len(places)) if rank not in own][: MOST_FOUND - len(own)]
        places = [places[rank] for rank in sorted([*own, *others])]
        found = data.subset([place.index for place in places])
        probabilities = predict(self.classifier, found).float().softmax(dim=1)
        return [
            Seen(name, place.box.outlined_on(image), int(label), of_image)
            for name, place, image, label, of_image in zip(
                found.names, places, found.images, found.labels, probabilities, strict=True
            )
        ]

    def _first(self, marked: Marked, progress: Progress | None = None) -> Outcome:
        exemplar = self.exemplar(marked)
        selection = select(
            self.classifier, exemplar, self._ordinary, moments=self._moments, select_by=EXEMPLAR, progress=progress
        )
        return Outcome(selection.edit, self._after(selection.edit))

    def _selected(self, marked: Marked, progress: Progress | None = None) -> Outcome:
        exemplar = self.exemplar(marked)
        selection = select(
            self.classifier, exemplar, self._ordinary, moments=self._moments, select_by=HOSTS, progress=progress
        )
        return Outcome(selection.edit, self._after(selection.edit), selection)

    def _measured(self, edit: Rewriting, progress: Progress | None = None) -> Outcome:
        if edit.weaker:
            stronger = self.answer(Question(QuestionKind.VERDICT, edit._replace(weaker=edit.weaker - 1)), progress)
            fix = replace(stronger.fix.reselect(stronger.fix.weaker), progress=progress)
        else:
            selection = self.answer(Question(QuestionKind.SELECTION, edit.marked), progress).selection
            fix = Assessment(copied(self.classifier), selection, self._splits(edit), progress=progress)
        _ = fix.verdict  # measures the images
        return Outcome(fix.edit, self._after(fix.selection.edit), fix.selection, fix)

    def _splits(self, edit: Rewriting) -> Splits:
        """Divide the images by what they measure: those that are checked show the mark, and are no longer clean."""
        offered = self._offered
        checked = edit.checked - {edit.marked.image}
        shows_mark = torch.tensor([name in checked for name in offered.names])
        is_clean = torch.tensor([name not in checked for name in self._clean.names])
        return Splits.of(
            self.classifier,
            [self.exemplar(edit.marked)],
            self._ordinary,
            offered.subset(shows_mark),
            self._clean.subset(is_clean),
            self._retain,
        )

    def _after(self, edit: Edit) -> Tensor:
        """Predict the probabilities of the mistakes with an edit, `(M, classes)`."""
        return predict(edit.edited(self.classifier), self.mistakes).float().softmax(dim=1)


def _short(path: Path) -> str:
    """Return a path as seen from the current folder if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
