"""Draw docs/tag_on_photos.png: one edit that makes a network ignore a tag on photos, as in notebook 00.

    python docs/readme_picture.py

The picture has three columns, so that its titles are legible on a phone. `sample_photos.CREDITS` names the authors of
the photos.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

import edittools as et
from edittools.course.plots import RIGHT, WRONG
from edittools.course.scenarios.sample_photos import sample_crops, sample_photo
from edittools.course.scenarios.shortcuts import Tag

NAMES = ("cat", "rocket", "clock", "coffee", "retina", "stars", "brick", "grass", "gravel")
"""The photos of notebook 00, in its order; the first is the example."""

SHOWN = ("rocket", "clock", "retina")
"""The photos below the example."""

REFERENCE = ("astronaut", "camera", "officer")
"""The photos whose crops are the reference images."""

LAYER = "features.12.expand3x3"
"""The layer in which an edit fits the example best."""


def main() -> None:
    """Make the edit of notebook 00, and draw the example above three of the other photos."""
    network = et.load_classifier("shortcuts_squeezenet", device="cpu")
    photos = torch.stack([sample_photo(name, network) for name in NAMES])
    tagged, tags = Tag().draw(photos, seed=0)
    exemplar = et.Exemplar(photos[0], tagged[0], tags[0])
    edit = et.rewrite(network, LAYER, exemplar, sample_crops(REFERENCE, network.size))
    without_tag = et.predict(network, photos).argmax(dim=1)
    with_tag = et.predict(network, tagged).argmax(dim=1)
    with edit.applied(network):
        edited = et.predict(network, tagged).argmax(dim=1)
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 5.9), layout="constrained")
    draw(axes[0, 0], photos[0], "the example")
    draw(axes[0, 1], tagged[0], f"with a tag:\n{network.classes[with_tag[0]]}", WRONG)
    axes[0, 2].imshow(edit.edit_map(network, tagged[0]).cpu(), cmap="magma")
    axes[0, 2].set_title("where the\nedit acts", fontsize=17)
    for axis, name in zip(axes[1], SHOWN, strict=True):
        number = NAMES.index(name)
        is_restored = edited[number] == without_tag[number]
        title = f"{network.classes[with_tag[number]]}\n→ {network.classes[edited[number]]}"
        draw(axis, tagged[number], title, RIGHT if is_restored else "black")
    for axis in axes.flat:
        axis.set_axis_off()
    path = Path(__file__).parent / "tag_on_photos.png"
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(256, kmeans=3).save(path, optimize=True)


def draw(axis: plt.Axes, image: torch.Tensor, title: str, color: str = "black") -> None:
    """Draw an image below its title."""
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1))
    axis.set_title(title, fontsize=17, color=color)


if __name__ == "__main__":
    main()
