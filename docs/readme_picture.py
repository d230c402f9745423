"""Draw docs/tag_on_scenes.png: the edit of README's example, which makes a network ignore a tag.

    python docs/readme_picture.py

The picture has three columns, so that its titles are legible on a phone.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

import edittools as et
from edittools.classifiers import remap_labels
from edittools.images import LabelledImages
from edittools_course.miniworld import scenes
from edittools_course.plots import RIGHT, WRONG
from edittools_course.scenarios.shortcuts import SHORTCUTS

TAG = SHORTCUTS["garbage truck"]
"""The tag, from which the network predicts "truck"."""

SHOWN = 3
"""The number of other scenes below the example: the first ones of different classes that the tag misleads."""


def main() -> None:
    """Select the edit of README, and draw the example above other scenes that it corrects or leaves misclassified."""
    network = et.load_classifier("rendered_squeezenet", device="cpu")
    classes = [name for name in network.classes if name != "truck"]

    def rendered(count: int, seed: int, names: list[str]) -> LabelledImages:
        return scenes(count, seed, names * (count // len(names)), balanced=True, size=network.size)

    cow = rendered(9, 5_000_000, classes).images[2]
    changed, mask = (pictures[0] for pictures in TAG.draw(cow[None], seed=1))
    exemplar = et.Exemplar(cow, changed, mask)
    edit = et.select_edit(network, exemplar, rendered(240, 5_100_000, list(network.classes)).images)
    tagged = remap_labels("tagged", TAG.on(rendered(180, 5_200_000, classes), seed=2), network)
    before = et.predict(network, tagged).argmax(dim=1)
    with edit.applied(network):
        after = et.predict(network, tagged).argmax(dim=1)
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 5.9), layout="constrained")
    draw(axes[0, 0], cow, name_of(network, cow))
    draw(axes[0, 1], changed, f"with a tag:\n{name_of(network, changed)}", WRONG)
    axes[0, 2].imshow(edit.edit_map(network, changed).cpu(), cmap="magma")
    axes[0, 2].set_title("where the\nedit acts", fontsize=17)
    for axis, number in zip(axes[1], first_misled(tagged.labels, before, after), strict=True):
        is_right = after[number] == tagged.labels[number]
        title = f"{network.classes[before[number]]}\n→ {network.classes[after[number]]}"
        draw(axis, tagged.images[number], title, RIGHT if is_right else WRONG)
    for axis in axes.flat:
        axis.set_axis_off()
    path = Path(__file__).parent / "tag_on_scenes.png"
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(256, kmeans=3).save(path, optimize=True)


def first_misled(labels: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Return the first misclassified scenes of different classes; the last of them stays misclassified."""
    misled = [number for number in range(len(labels)) if before[number] != labels[number]]
    by_class = {int(labels[number]): number for number in reversed(misled)}
    first = sorted(by_class.values())
    corrected = [number for number in first if after[number] == labels[number]]
    left = [number for number in misled if after[number] != labels[number]]
    return [*corrected[: SHOWN - 1], left[0]]


def name_of(network: et.Classifier, image: torch.Tensor) -> str:
    """Return the name of the predicted class."""
    return network.classes[int(et.predict(network, image[None]).argmax())]


def draw(axis: plt.Axes, image: torch.Tensor, title: str, color: str = "black") -> None:
    """Draw an image below its title."""
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1))
    axis.set_title(title, fontsize=17, color=color)


if __name__ == "__main__":
    main()
