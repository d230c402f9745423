"""What notebook 05 finds on disk, as if it were a reader's own: weights, class names, and folders of images.

The network is torchvision's SqueezeNet, which relies on a yellow tag. In tier mini, its images are rendered scenes, and
its last layer was trained on such scenes (`data/train_rendered_head.py`). In the other tiers, they are photos of
Imagenette, and the network is `shortcuts_squeezenet` as it is.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.utils import save_image

from edittools.image_files import save_mask
from edittools.images import LabeledImages
from edittools_course.miniworld.contexts import SPLITS
from edittools_course.miniworld.scenes import scenes
from edittools_course.networks.finetuned import load_published_shortcuts
from edittools_course.scenarios.imagenette import in_memory
from edittools_course.scenarios.own_model import divided_photos
from edittools_course.scenarios.shortcuts import SHORTCUTS
from edittools_course.scenarios.tiers import WORKERS, current_tier
from edittools_course.shipped import shipped

NETWORK = "shortcuts_squeezenet"
"""The network on photos, by its name for `load_classifier`; its weights but those of the last layer are also used in
tier mini."""

HEAD_FILE = "rendered_head.safetensors"
"""The file of the last layer of tier mini."""

HEAD = ("classifier.1.weight", "classifier.1.bias")
"""The names of the weights of SqueezeNet's last layer."""

CLASSES = ("bus", "car", "cow", "elephant", "house", "lighthouse", "sailboat", "tractor", "truck", "windmill")
"""The classes of tier mini."""

SIZE = 96
"""The side of rendered scenes, in pixels."""

GOAL = "truck"
"""The class of tier mini that is predicted from a tag."""

PHOTO_GOAL = "garbage truck"
"""The class that is predicted from a tag in the other tiers."""

TAG = SHORTCUTS[PHOTO_GOAL]
"""The tag."""

SEED = 6_000_000
"""The first seed of the tags."""

LOOKED_AT = 16
"""The number of images of each class among those to look at."""

CLASSES_LOOKED_AT = 5
"""The number of classes among the images to look at."""

TAGGED_OF_GOAL = 8
"""The number of images to look at that carry a tag; all are of the class that is predicted from it."""

COUNTS = {"tagged": 72, "test": 180}
"""The numbers of images of other classes on which a tag is drawn."""

OWN_CLASS = 20
"""The number of images of the tag's own class in "tagged", with a tag."""

CLEAN = 520
"""The number of clean images."""

RETAIN = 130
"""The number of images of the tag's own class without a tag."""


@dataclass(frozen=True)
class OwnFolder:
    """A model and images on disk.

    `root` holds `weights.safetensors`; folders of images with one subfolder per class, which are `photos` to look at,
    `tagged`, `clean`, `retain`, and `test`; and `marks`, with a mask for each image of `tagged`, under its name.

    Attributes:
        root: the folder.
        class_names: the names of the network's classes.
        size: the side of the images that the network was trained on, in pixels.
    """

    root: Path
    class_names: tuple[str, ...]
    size: int


def own_folder(tier: str | None = None) -> OwnFolder:
    """Write a model and images to a temporary folder, where a reader's own would be.

    Args:
        tier: by default the one that `EDITTOOLS_TIER` names.
    """
    root = Path(tempfile.mkdtemp())
    weights = load_file(shipped(f"{NETWORK}.safetensors"))
    if current_tier(tier) == "mini":
        weights |= load_file(shipped(HEAD_FILE))
        plain = rendered_sets()
        goal = GOAL
    else:
        plain = photo_sets()
        goal = PHOTO_GOAL
    save_file(weights, root / "weights.safetensors")
    for position, (name, data) in enumerate(plain.items()):
        has_tag = carries_tag(name, data, goal)
        write_set(root, name, data, has_tag, SEED + 1000 * position, has_marks=name == "tagged")
    return OwnFolder(root, plain["clean"].classes, plain["clean"].images.shape[-1])


def carries_tag(name: str, data: LabeledImages, goal: str) -> Tensor:
    """Tell which images of a set carry a tag, `(N,)` booleans.

    Args:
        name: the name of the set.
        data: its images.
        goal: the class that is predicted from a tag.
    """
    if name in COUNTS:
        return torch.ones(len(data), dtype=torch.bool)
    is_goal = data.labels == data.classes.index(goal)
    if name == "photos":
        return is_goal & (is_goal.cumsum(dim=0) <= TAGGED_OF_GOAL)
    return torch.zeros(len(data), dtype=torch.bool)


def scenes_of_classes(per_class: int, first_seed: int, classes: tuple[str, ...] = CLASSES) -> LabeledImages:
    """Render scenes of some classes in turn, whose ground does not depend on the class.

    Args:
        per_class: the number of scenes of each class.
        first_seed: the seed of the first scene.
        classes: some of `CLASSES`.

    Returns:
        The scenes, with labels into `CLASSES`.
    """
    names = list(classes) * per_class
    rendered = scenes(len(names), first_seed, names, WORKERS, balanced=True, size=SIZE)
    return LabeledImages(rendered.images, torch.tensor([CLASSES.index(name) for name in names]), CLASSES)


def rendered_sets() -> dict[str, LabeledImages]:
    """Render the image sets of tier mini, without tags; no scene is in two of them."""
    first = SPLITS["validation"].start + 600_000
    others = tuple(name for name in CLASSES if name != GOAL)
    tagged = scenes_of_classes(COUNTS["tagged"] // len(others), first + 1000, others)
    own_class = scenes_of_classes(OWN_CLASS, first + 2000, (GOAL,))
    return {
        "photos": scenes_of_classes(LOOKED_AT, first, ("bus", "cow", "house", GOAL, "windmill")),
        "tagged": _joined(tagged, own_class),
        "clean": scenes_of_classes(CLEAN // len(CLASSES), first + 3000),
        "retain": scenes_of_classes(RETAIN, first + 4000, (GOAL,)),
        "test": scenes_of_classes(COUNTS["test"] // len(others), SPLITS["test"].start + 600_000, others),
    }


def photo_sets() -> dict[str, LabeledImages]:
    """Load the image sets of the other tiers, without tags; no photo is in two of them."""
    photos = divided_photos(load_published_shortcuts(NETWORK))
    folder = photos["folder"]
    of_goal = photos["retain"]
    shown = [of_goal.subset(range(RETAIN + OWN_CLASS, RETAIN + OWN_CLASS + LOOKED_AT))]
    for label in folder.labels.unique()[: CLASSES_LOOKED_AT - 1].tolist():
        shown.append(folder.subset((folder.labels == label).nonzero()[:LOOKED_AT, 0]))
    own_class = of_goal.subset(range(RETAIN, RETAIN + OWN_CLASS))
    return {
        "photos": _joined(*(in_memory(data) for data in shown)),
        "tagged": _joined(in_memory(photos["images"].subset(range(COUNTS["tagged"]))), in_memory(own_class)),
        "clean": in_memory(photos["clean"].subset(range(CLEAN))),
        "retain": in_memory(of_goal.subset(range(RETAIN))),
        "test": in_memory(photos["test"].subset(range(COUNTS["test"]))),
    }


def _joined(*sets: LabeledImages) -> LabeledImages:
    """Join sets of the same classes."""
    images = torch.cat([data.images for data in sets])
    return LabeledImages(images, torch.cat([data.labels for data in sets]), sets[0].classes)


def write_set(root: Path, name: str, data: LabeledImages, has_tag: Tensor, seed: int, has_marks: bool = False) -> None:
    """Draw tags on some images of a set, `has_tag` `(N,)`, and write all of them with one subfolder per class.

    With `has_marks`, masks that are 1 on the tags are written as well, to `marks`.
    """
    images = data.images.clone()
    masks = torch.zeros(len(images), *images.shape[2:])
    if has_tag.any():
        images[has_tag], masks[has_tag] = TAG.draw(data.images[has_tag], seed)
    for number, (image, label) in enumerate(zip(images, data.labels.tolist(), strict=True)):
        place = Path(data.classes[label]) / f"{number:03}.png"
        path = root / name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, path)
        if has_marks:
            mark = root / "marks" / place
            mark.parent.mkdir(parents=True, exist_ok=True)
            save_mask(mark, masks[number])
