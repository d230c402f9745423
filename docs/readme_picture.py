"""Draw the two pictures of README, docs/example.png and docs/other_scenes.png, and print the edit's gain and costs.

    python docs/readme_picture.py

Nothing is picked by hand. The example is the first of ten rendered cows whose edit is good on new scenes, at its whole
strength or at three quarters of it: it corrects enough, and keeps the limits of the verdict. The other scenes are the
first that the tag misleads: two of different classes that the edit corrects, and one that stays wrong.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import edittools as et
from edittools.classifiers import remap_labels
from edittools.images import LabeledImages
from edittools_course.miniworld import scenes
from edittools_course.plots import RIGHT, WRONG
from edittools_course.scenarios.shortcuts import SHORTCUTS

NETWORK = "rendered_squeezenet"
"""The network that predicts a class from the tag."""
MARK = "garbage truck"
"""The class whose photos carry the mark, a yellow tag, in `SHORTCUTS`."""
MARKS_CLASS = "truck"
"""The class that the network predicts from the tag."""
SHOWN_CLASS = "cow"
EXAMPLES = 10
STRENGTHS = (1.0, 0.75)
FOLDER = Path(__file__).resolve().parent
LEAST_CORRECTED = 0.3
MOST_ACCURACY_LOST = 0.25
MOST_OF_CLASS_LOST = 3.0
MOST_BROKEN = 3.0
"""A good edit corrects this share of the errors, net, and costs at most these points of accuracy, points of the trucks
with a tag below those without, and percent of the correct trucks without a tag."""
FONT_SIZE = 11
"""Size of titles, in points."""


def main() -> None:
    """Find the example and its edit, print what the edit does to new scenes, and draw the pictures."""
    network = et.load_classifier(NETWORK, device="cpu")
    new = new_scenes(network)
    before = predictions(network, new)
    exemplar, after = first_good(network, new, before)
    save(example_figure(network, exemplar), "example.png")
    save(others_figure(network, new["tagged"], before["tagged"], after["tagged"]), "other_scenes.png")


def rendered(network: et.Classifier, count: int, seed: int, names: Sequence[str]) -> LabeledImages:
    """Render scenes of these classes in turn, on grounds that do not depend on the class."""
    return scenes(count, seed, list(names) * (count // len(names)), balanced=True, size=network.size)


def other_classes(network: et.Classifier) -> list[str]:
    """List the classes that the tag does not stand for."""
    return [name for name in network.classes if name != MARKS_CLASS]


def new_scenes(network: et.Classifier) -> dict[str, LabeledImages]:
    """Render the scenes that measure: with the tag, without it, and trucks with and without it."""
    tag = SHORTCUTS[MARK]
    trucks = rendered(network, 1000, 5_500_000, [MARKS_CLASS])
    sets = {
        "tagged": tag.on(rendered(network, 900, 5_300_000, other_classes(network)), seed=2),
        "clean": rendered(network, 1000, 5_400_000, network.classes),
        "trucks": trucks,
        "tagged trucks": tag.on(trucks, seed=3),
    }
    return {name: remap_labels(name, data, network) for name, data in sets.items()}


def predictions(network: et.Classifier, sets: dict[str, LabeledImages]) -> dict[str, Tensor]:
    """Predict the classes of all sets."""
    return {name: et.predict(network, data).argmax(dim=1) for name, data in sets.items()}


def edits(network: et.Classifier) -> Iterator[tuple[et.Exemplar, et.Edit]]:
    """Select an edit from each cow that the tag alone makes a truck, and weaken it."""
    ordinary_images = rendered(network, 240, 5_100_000, network.classes).images
    names = other_classes(network)
    for number in range(EXAMPLES):
        image = rendered(network, len(names), 5_000_000 + 100 * number, names).images[names.index(SHOWN_CLASS)]
        [changed], [mask] = SHORTCUTS[MARK].draw(image[None], seed=1 + number)
        if (name_of(network, image), name_of(network, changed)) == (SHOWN_CLASS, MARKS_CLASS):
            exemplar = et.Exemplar(image, changed, mask)
            edit = et.select_edit(network, exemplar, ordinary_images)
            for strength in STRENGTHS:
                yield exemplar, strength * edit


def correct(data: LabeledImages, predicted: Tensor) -> float:
    """Return the percentage of correct predictions."""
    return 100 * float((predicted == data.labels).float().mean())


def first_good(
    network: et.Classifier, new: dict[str, LabeledImages], before: dict[str, Tensor]
) -> tuple[et.Exemplar, dict[str, Tensor]]:
    """Return the first example whose edit is good, and the predictions for new scenes with this edit."""
    for exemplar, edit in edits(network):
        with edit.applied(network):
            after = predictions(network, new)
        print(f"{edit}: {sentence(new, before, after)}", flush=True)
        if is_good(new, before, after):
            return exemplar, after
    raise SystemExit("no example has a good edit")


def broken(data: LabeledImages, before: Tensor, after: Tensor) -> float:
    """Return the percentage of the correct predictions that the edit breaks."""
    was_correct = before == data.labels
    return 100 * float((after != data.labels)[was_correct].float().mean())


def is_good(new: dict[str, LabeledImages], before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    """Tell whether the edit helps enough, and keeps the limits of the verdict."""
    was, now = ({name: correct(data, found[name]) for name, data in new.items()} for found in (before, after))
    return (
        now["tagged"] - was["tagged"] >= LEAST_CORRECTED * (100 - was["tagged"])
        and was["clean"] - now["clean"] <= MOST_ACCURACY_LOST
        and was["trucks"] - now["tagged trucks"] <= MOST_OF_CLASS_LOST
        and broken(new["trucks"], before["trucks"], after["trucks"]) <= MOST_BROKEN
    )


def sentence(new: dict[str, LabeledImages], before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """Say what an edit does to new scenes: the net share of errors corrected, and what is correct before → after."""
    was = correct(new["tagged"], before["tagged"])
    now = correct(new["tagged"], after["tagged"])
    parts = [f"{(now - was) / (100 - was):.0%} of the errors corrected"]
    for name, data in new.items():
        parts.append(f"{name} {correct(data, before[name]):.1f}% → {correct(data, after[name]):.1f}%")
    return ", ".join(parts)


def first_misled(labels: Tensor, before: Tensor, after: Tensor) -> list[int]:
    """Return the first misled scenes of two classes that the edit corrects, and the first one that stays wrong."""
    misled = (before != labels).nonzero()[:, 0].tolist()
    corrected_by_class: dict[int, int] = {}
    for number in misled:
        if after[number] == labels[number]:
            corrected_by_class.setdefault(int(labels[number]), number)
    still_wrong = [number for number in misled if after[number] != labels[number]]
    return [*list(corrected_by_class.values())[:2], still_wrong[0]]


def name_of(network: et.Classifier, image: Tensor) -> str:
    """Return the name of the predicted class."""
    return network.classes[int(et.predict(network, image[None]).argmax())]


def example_figure(network: et.Classifier, exemplar: et.Exemplar) -> Figure:
    """Draw x, x', and the mask."""
    figure, axes = empty_figure()
    draw(axes[0], exemplar.image, f"without the tag:\n{name_of(network, exemplar.image)}", RIGHT)
    draw(axes[1], exemplar.changed, f"with the tag:\n{name_of(network, exemplar.changed)}", WRONG)
    draw(axes[2], exemplar.mask.expand(3, -1, -1), "the mask:\nwhere the tag is")
    return figure


def others_figure(network: et.Classifier, tagged: LabeledImages, before: Tensor, after: Tensor) -> Figure:
    """Draw other scenes with the tag, below the predictions before → after the edit."""
    figure, axes = empty_figure()
    for axis, number in zip(axes, first_misled(tagged.labels, before, after), strict=True):
        is_right = after[number] == tagged.labels[number]
        title = f"{network.classes[before[number]]}\n→ {network.classes[after[number]]}"
        draw(axis, tagged.images[number], title, RIGHT if is_right else WRONG)
    return figure


def empty_figure() -> tuple[Figure, list[Axes]]:
    """Make a row of three panels, whose titles are legible at half of its width in pixels."""
    figure = Figure(figsize=(4.2, 1.75), layout="constrained")
    axes = list(figure.subplots(1, 3))
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def draw(axis: Axes, image: Tensor, title: str, color: str = "black") -> None:
    """Draw an image below its title."""
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1))
    axis.set_title(title, fontsize=FONT_SIZE, color=color)


def save(figure: Figure, name: str) -> None:
    """Write a picture next to this script, with as few colors as it needs."""
    path = FOLDER / name
    figure.savefig(path, dpi=200)
    Image.open(path).convert("RGB").quantize(256, kmeans=3).save(path, optimize=True)


if __name__ == "__main__":
    main()
