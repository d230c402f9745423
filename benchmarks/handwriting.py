"""Claim: an edit from one photo of an object with a word next to it corrects other objects with other words.

No one here designed or taught these marks: the photos are those of RTA-100, of objects with notes on which the name of
another object is written by hand. The networks were trained on ImageNet; the objects are those with classes there
(`_lib/rta_objects.csv`). A prediction is correct if it is one of the object's classes.

There are twelve photos whose note was outlined by hand, chosen among those that EfficientNet-Lite0 misclassifies with
at least 10% for the object. The exemplars are those of them that a network misclassifies and whose probability for the
object rises most if the note is inpainted. Methods select without labels, on half of the ImageNet sample; the other
half measures the cost. How many of the twelve photos are correct without the note tells how much can be corrected. All
other photos are used once, for evaluation.

Intervals are Student's t over pairs of a network and an exemplar, which share the photos for evaluation. With `--store
FOLDER` finished networks are kept. Needs the photos (see docs/settings.md).
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from _lib import effects, jobs, label_free
from _lib.command import add_store, code_digest, one_thread, parser, run
from _lib.label_free import finetune, random_directions, select_by_exemplar, select_by_hosts
from _lib.results import BY_HOSTS, NO_EDIT, Results
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from tqdm.auto import tqdm

from edittools.classifiers import Classifier, fingerprint
from edittools.exemplars import Exemplar
from edittools.geometry import InputGeometry
from edittools.images import LabeledImages
from edittools.metrics import predict, predicted_classes
from edittools.models import load_classifier
from edittools.widgets import inpaint
from edittools_course.downloads import available
from edittools_course.scenarios import photos

NETWORKS = ("squeezenet1_1", "efficientnet_lite0")

EXEMPLARS = 2
"""The number of exemplars of each network, each of which is used alone."""

UNIT = 224
"""The corners of notes are given as if each photo had this many pixels per side."""

NOTES = {
    "camera/tissue": ((53, 118), (156, 120), (152, 199), (45, 193)),
    "eraser/map": ((35, 107), (167, 87), (185, 187), (45, 209)),
    "glasses/mousepad": ((60, 50), (167, 50), (165, 127), (60, 125)),
    "cup/pillow": ((28, 118), (123, 118), (125, 190), (14, 190)),
    "mic/iPhone": ((12, 126), (122, 126), (124, 201), (0, 199)),
    "mug/ruler": ((59, 142), (142, 133), (154, 200), (66, 210)),
    "keyboard/slipper": ((102, 108), (195, 116), (192, 186), (94, 178)),
    "keyboard/guitar": ((61, 131), (139, 133), (138, 191), (60, 192)),
    "laptop/pen-case": ((63, 159), (130, 143), (146, 197), (80, 216)),
    "spoon/dish": ((28, 92), (128, 92), (126, 166), (24, 164)),
    "spoon/bookshelf": ((60, 129), (165, 125), (167, 208), (59, 208)),
    "ruler/pillow": ((97, 59), (187, 56), (189, 106), (95, 105)),
}
"""The corners of the note on photos that may become exemplars, by object and word."""


class Note(NamedTuple):
    """A photo whose note was outlined.

    Attributes:
        name: the object and the word.
        exemplar: x, with the note inpainted, x' with it, and its mask.
        before: whether x' is classified correctly.
        without: whether x is.
        gain: how much higher the probability of the object's classes is for x.
    """

    name: str
    exemplar: Exemplar
    before: bool
    without: bool
    gain: float


def classes_of_objects(classifier: Classifier) -> dict[str, list[int]]:
    """Return the indices of the classes of each object."""
    table = pd.read_csv(Path(__file__).parent / "_lib" / "rta_objects.csv")
    return {
        name: [classifier.index(one.strip()) for one in classes.split(";")]
        for name, classes in table.itertuples(index=False)
    }


def note_of(name: str, classifier: Classifier) -> Note:
    """Load a photo, and inpaint its note."""
    changed = photos.load_photo(f"rta-100/{name}.jpg", classifier)
    drawing = Image.new("L", (UNIT, UNIT))
    ImageDraw.Draw(drawing).polygon(NOTES[name], fill=255)
    mask = to_tensor(InputGeometry.of(classifier).crop(drawing, Image.Resampling.NEAREST))[0].round()
    image = inpaint(changed, mask)
    classes = classes_of_objects(classifier)[name.partition("/")[0]]
    logits = predict(classifier, torch.stack([image, changed]))
    without, before = predicted_classes(logits).tolist()
    of_object = logits.softmax(dim=1)[:, classes].sum(dim=1)
    gain = float(of_object[0] - of_object[1])
    return Note(name, Exemplar(image, changed, mask), before in classes, without in classes, gain)


def photos_with_notes(classifier: Classifier) -> tuple[LabeledImages, Tensor]:
    """Load the photos for evaluation, and tell which classes are correct, `(N, classes)` booleans."""
    objects = classes_of_objects(classifier)
    names = [name for name in available("rta-100/") if name.split("/")[1] in objects]
    names = [name for name in names if name.removeprefix("rta-100/").removesuffix(".jpg") not in NOTES]
    is_correct = torch.zeros(len(names), len(classifier.classes), dtype=torch.bool)
    for row, name in enumerate(names):
        is_correct[row, objects[name.split("/")[1]]] = True
    labels = {name: int(is_correct[row].int().argmax()) for row, name in enumerate(names)}
    return photos.load_photos(labels, classifier, None, "of RTA-100"), is_correct


def measured(exemplars: int, rates: tuple[float, ...], network: str) -> list[dict[str, Any]]:
    """Select for every method and exemplar, and evaluate; one row per selection."""
    with one_thread():
        classifier = load_classifier(network)
        sample = photos.halves(photos.imagenet_sample(classifier), "ordinary", effects.CLEAN)
        images = sample["ordinary"].images
        notes = [note_of(name, classifier) for name in NOTES]
        used = sorted((note for note in notes if not note.before), key=lambda note: -note.gain)[:exemplars]
        cases = {}
        for note in used:
            by_hosts, selection = select_by_hosts(classifier, note.exemplar, images)
            cases[note.name] = [by_hosts, select_by_exemplar(classifier, note.exemplar, images)]
            tuned = finetune(classifier, selection, rates)
            cases[note.name].append(tuned._replace(seconds=by_hosts.seconds + tuned.seconds))
            cases[note.name] += random_directions(classifier, note.exemplar, images, by_hosts.edit.layers[0])
        selected = [(case, one) for case, of_case in cases.items() for one in of_case]
        edits = {str(number): one.edit for number, (_, one) in enumerate(selected)}
        found = effects.evaluated(classifier, edits, {effects.CLEAN: sample[effects.CLEAN]})
        shown, is_correct = photos_with_notes(classifier)
        groups = [shown.subset(numbers) for numbers in torch.arange(len(shown)).split(effects.GROUP)]
        predicted = effects.predictions_with(classifier, edits, groups, "photos with notes")
    number_of = torch.arange(len(shown))
    wrong = {name: (~is_correct[number_of, classes]).int().tolist() for name, classes in predicted.items()}
    of_notes = {
        "misclassified": sum(not note.before for note in notes),
        "correct without the note": sum(one.without for one in notes),
    }
    return [
        {"network": network, "case": case, **one.row(), **of_notes}
        | {"sets": {effects.TARGET: [wrong[""], wrong[name]], **found[name]}}
        for name, (case, one) in zip(edits, selected, strict=True)
    ]


def experiment(options: argparse.Namespace) -> Results:
    """Measure each network."""
    networks = NETWORKS[:1] if options.quick else options.networks
    weights = " ".join(fingerprint(load_classifier(name)) for name in networks)
    code = code_digest(*label_free.CODE, Path(effects.__file__), Path(__file__))
    settings = (1, (1e-4,)) if options.quick else (EXEMPLARS, label_free.RATES)
    named = {name: name for name in networks}
    rows = jobs.run(partial(measured, *settings), named, options.store, progress=tqdm, about=f"{code} {weights}")
    results = Results("handwriting", "photos")
    rows = rows.assign(condition="")
    effects.add_means(results, rows, BY_HOSTS)
    for network, of_network in rows.groupby("network", sort=False):
        for metric in ("misclassified", "correct without the note"):
            results.add(metric, of_network[metric].iloc[0], network=network, method=NO_EDIT, n=len(NOTES))
    effects.add_outcomes(results, rows)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
