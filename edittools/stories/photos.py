"""Real photographs by what they show: the paper's snow photos, the ImageNet sample, MSRC v2 with its masks, folders."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import center_crop, resize
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.images import LabelledImages, LazyImages, load_image, load_mask, resized
from edittools.metrics import predict
from edittools.zoo.data import DATA
from edittools.zoo.downloads import available, offline_folder, photo, registry
from edittools.zoo.imagenet import imagenet_classes

SNOW_CLASSES = {
    "armytank": 847,
    "carwheel": 479,
    "firetruck": 555,
    "motorscooter": 670,
    "racingcar": 751,
    "schoolbus": 779,
    "trafficlight": 920,
}
"""Folders of the paper's snow photos and the ImageNet classes they show."""

SNOW_TWICE = "24738546165_59ac92b9c3_w.jpg"
"""The same racing car as `14820808994_e3e673e9f3_c.jpg`, smaller."""


def load_photo(name: str, classifier: Classifier) -> Tensor:
    """Load a registered photo as the classifier takes it, `(3, size, size)`."""
    return load_image(photo(name), classifier.size, classifier.resize_to)


def drawn_mask(pattern: str, classifier: Classifier) -> Tensor:
    """Load the hand-drawn mask of `data/masks` whose name fits a pattern, at the classifier's size."""
    [path] = (DATA / "masks").glob(pattern)
    return (resized(load_mask(path)[None, None], classifier.size)[0, 0] > 0.5).float()


def _load(known: Mapping[str, int], classifier: Classifier, progress: bool, kind: str) -> LabelledImages:
    """Load the photos that are `known` with their labels."""
    if not known:
        raise FileNotFoundError(f"no photo {kind}: expected at least one in EDITTOOLS_PHOTOS={str(offline_folder())!r}")
    bar = tqdm(known, desc="photos", unit="photo", disable=not progress, leave=False)
    images = torch.stack([load_photo(name, classifier) for name in bar])
    return LabelledImages(images, torch.tensor(list(known.values())), classifier.classes, tuple(known))


def snow_photos(classifier: Classifier, progress: bool = False) -> LabelledImages:
    """Load the paper's photos of vehicles and traffic lights on snow (section 3.1), at the classifier's size.

    Of the photo that is there in two sizes the larger one is taken.
    """
    found = available("editing-classifiers/snow/")
    names = [name for name in found if name.count("/") == 3 and not name.endswith(SNOW_TWICE)]
    known = {name: SNOW_CLASSES[name.split("/")[2]] for name in names}
    return _load(known, classifier, progress, "of vehicles on snow")


def snow_texture() -> Tensor:
    """Load the paper's snow texture, `(3, H, W)` in [0, 1]."""
    return load_image(photo("editing-classifiers/snow/snow_texture.jpg"))


def sample_labels() -> dict[str, int]:
    """Number the classes of the ImageNet sample's photos: the registry has one of each class, in their order."""
    return {name: i for i, name in enumerate(sorted(n for n in registry() if n.startswith("imagenet-sample/")))}


def imagenet_sample(classifier: Classifier, progress: bool = False) -> LabelledImages:
    """Load one photo of each ImageNet class (of those that can be had), at the classifier's size."""
    order = sample_labels()
    known = {name: order[name] for name in available("imagenet-sample/")}
    return _load(known, classifier, progress, "of the ImageNet sample")


def is_imagenet(classifier: Classifier) -> bool:
    """Say whether a classifier's classes are ImageNet's."""
    return tuple(classifier.classes) == imagenet_classes()


def halves(data: LabelledImages, first: str, second: str) -> dict[str, LabelledImages]:
    """Part images into two sets of these names: every second image goes to each."""
    return {name: data.subset(range(start, len(data), 2)) for start, name in enumerate((first, second))}


def everyday(classifier: Classifier, progress: bool = False) -> dict[str, LabelledImages | Tensor]:
    """Give everyday photos: halves of the ImageNet sample are "budget" and "clean", those of RTA-100 the "reference".

    For other classes than ImageNet's the sample is two photos a class of the user's own folder.
    """
    sample = (
        imagenet_sample(classifier, progress) if is_imagenet(classifier) else validation_folder(None, classifier, 2)
    )
    return {**halves(sample, "budget", "clean"), "reference": unlabelled("rta-100/", classifier, progress)}


def unlabelled(
    prefix: str, classifier: Classifier, progress: bool = False, most: int = 600, without: Collection[str] = ()
) -> Tensor:
    """Load the photos below `prefix` that can be had, `(N, 3, H, W)`, no labels; of more than `most`, every nth.

    Those named in `without` are left out.
    """
    names = [name for name in available(prefix) if name not in set(without)]
    known = dict.fromkeys(names[:: -(-len(names) // most) or 1], 0)
    return _load(known, classifier, progress, f"below {prefix!r}").images


def elsewhere(classifier: Classifier, progress: bool = False, prefix: str = "rta-100/") -> dict[str, LabelledImages]:
    """Load 250 photos that have no other duty, labelled with what is read now: each error on them is a changed reading.

    Gives the set "elsewhere", or none where there are no photos below `prefix`.
    """
    if not available(prefix):
        return {}
    images = unlabelled(prefix, classifier, progress, 250)
    labels = predict(classifier, images).argmax(dim=1)
    return {"elsewhere": LabelledImages(images, labels, classifier.classes)}


def sample_photo(word: str) -> str:
    """Find the one ImageNet sample photo whose name holds `word`, such as a WordNet id; else raise `KeyError`."""
    found = [name for name in sample_labels() if word in name]
    if len(found) != 1:
        raise KeyError(f"{word!r} fits {len(found)} sample photos: expected one, such as 'n04335435'")
    return found[0]


def validation_folder(
    folder: str | os.PathLike | None, classifier: Classifier, per_class: int | None = None
) -> LabelledImages:
    """Use a folder of validation images (None: that of `EDITTOOLS_IMAGENET`), one subfolder a class; read lazily.

    The classes are in the order of the subfolders' names; names that are all numbers count as numbers.
    """
    folder = folder or os.environ.get("EDITTOOLS_IMAGENET")
    if not folder:
        said = f"no labelled photos of {len(classifier.classes)} classes"
        raise FileNotFoundError(f"{said}: set EDITTOOLS_IMAGENET to a folder of images, one subfolder a class")
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"validation folder {str(root)!r} does not exist: expected one subfolder a class")
    groups = sorted(path for path in root.iterdir() if path.is_dir())
    if all(path.name.isdecimal() for path in groups):
        groups.sort(key=lambda path: int(path.name))
    if len(groups) != len(classifier.classes):
        raise ValueError(f"{str(root)!r} has {len(groups)} subfolders: expected {len(classifier.classes)}, one a class")
    paths, labels = [], []
    for label, group in enumerate(groups):
        files = sorted(path for path in group.iterdir() if path.suffix.lower() in IMG_EXTENSIONS)[:per_class]
        paths += files
        labels += [label] * len(files)
    names = tuple(f"{path.parent.name}/{path.name}" for path in paths)
    images = LazyImages(paths, classifier.size, classifier.resize_to)
    return LabelledImages(images, torch.tensor(labels, dtype=torch.long), classifier.classes, names)


MSRC = (
    "building grass tree cow horse sheep sky mountain aeroplane water face car bicycle flower sign bird book chair "
    "road cat dog body boat"
).split()
"""The classes of the hand-made MSRC v2 segmentations, in the order of their numbers."""


def fit_map(regions: np.ndarray, size: int, resize_to: int | None = None) -> np.ndarray:
    """Resize and crop a map of region numbers `(H, W)` uint8 as `load_image` does its photo; nearest neighbour."""
    picture = resize(Image.fromarray(regions), resize_to or round(size * 8 / 7), interpolation=Image.NEAREST)
    return np.asarray(center_crop(picture, [size, size]))


def msrc(
    classifier: Classifier, at_least: float = 0.0, progress: bool = False
) -> tuple[LabelledImages, dict[str, Tensor]]:
    """Load the MSRC v2 photos that can be had, and their hand-made masks `(N, H, W)` by concept.

    The label is the *classifier's own prediction* on the clean photo; only photos are kept where its probability is
    `at_least` so much.
    """
    names = available("msrc-v2/Images/")
    pixels, maps = [], []
    for name in tqdm(names, desc="photos", unit="photo", disable=not progress, leave=False):
        pixels.append(load_photo(name, classifier))
        truth = name.replace("Images/", "newsegmentations_mats/").replace(".bmp", "_GT.mat")
        maps.append(fit_map(msrc_classes(photo(truth)), classifier.size, classifier.resize_to))
    images, numbers = torch.stack(pixels), torch.from_numpy(np.stack(maps))
    confidence, labels = predict(classifier, images, progress=progress).softmax(dim=1).max(dim=1)
    sure = confidence >= at_least
    data = LabelledImages(images, labels, classifier.classes, tuple(names)).subset(sure)
    found = {concept: (numbers[sure] == number).float() for number, concept in enumerate(MSRC, start=1)}
    return data, {concept: masks for concept, masks in found.items() if masks.any()}


def msrc_classes(path: Path) -> np.ndarray:
    """Read the class number (1 … 23) of each pixel, 0 where nobody said, as in regions above the last label."""
    truth = loadmat(path)
    table = np.zeros(256, np.uint8)
    table[1 : truth["newlabels"].size + 1] = truth["newlabels"].ravel()
    return table[truth["newseg"]]
