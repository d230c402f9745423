"""Draw docs/snow_on_road.png: the example of README and what its edit does to other vehicles on snow.

    python docs/readme_picture.py

The picture has three columns, so that its titles are legible on a phone.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import edittools as et
from edittools.course.miniworld import restyle, scene, scenes
from edittools.course.plots import RIGHT
from edittools.course.plots.figures import WRONG

VEHICLES = ("tractor", "bicycle", "bus")


def main() -> None:
    """Make README's edit, and draw the example above one vehicle of each class that the edit corrects."""
    classifier = et.load_classifier("mini_vgg")
    car = scene(3_000_069, label="car", ground="road")
    road = car.masks["road"]
    exemplar = et.Exemplar(car.image, restyle(car.image, road, "snow"), road)
    edit = et.rewrite(classifier, "features.10", exemplar, scenes(200, "reference").images)
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 5.9), layout="constrained")
    edit_map = edit.edit_map(classifier, exemplar.changed)
    draw(axes[0, 0], exemplar.image, "x: car on road")
    draw(axes[0, 1], exemplar.changed, f"x': {predicted(classifier, exemplar.changed)}", WRONG)
    axes[0, 2].imshow(edit_map.cpu(), cmap="magma", interpolation="nearest")
    axes[0, 2].set_title("where the\nedit acts", fontsize=19)
    for axis, vehicle in zip(axes[1], VEHICLES, strict=True):
        on_snow = scenes(100, "test", vehicle, ground="snow")
        before = et.misclassified(et.predict(classifier, on_snow), on_snow.labels)
        with edit.applied(classifier):
            after = et.misclassified(et.predict(classifier, on_snow), on_snow.labels)
        first = int((before & ~after).nonzero()[0])
        image = on_snow.images[first]
        draw(axis, image, f"{predicted(classifier, image)}\n→ {vehicle}", RIGHT)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(Path(__file__).parent / "snow_on_road.png", dpi=100)


def predicted(classifier: et.Classifier, image: torch.Tensor) -> str:
    """Return the predicted class of an image."""
    return classifier.classes[int(et.predict(classifier, image[None]).argmax())]


def draw(axis: plt.Axes, image: torch.Tensor, title: str, color: str = "black") -> None:
    """Draw an image below its title."""
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1), interpolation="nearest")
    axis.set_title(title, fontsize=19, color=color)


if __name__ == "__main__":
    main()
