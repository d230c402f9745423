"""The scenario of notebook 01, vehicles on snow (section 3.1 of the paper): an exemplar maps snow to road."""

from collections.abc import Callable
from functools import partial
from math import ceil

import torch
from torch import Tensor

from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar, paste_texture
from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.models.load import load_classifier
from edittools.probing.textures import restyle
from edittools_course.miniworld.contexts import SPLITS, contexts
from edittools_course.miniworld.scenes import scene
from edittools_course.scenarios import photos
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits, divided
from edittools_course.scenarios.tiers import MODELS, UNTUNED, SceneSet, current_tier

SNOW_EXEMPLARS = {
    "limousine": "n03670208_limousine",
    "streetcar": "n04335435_streetcar",
    "minivan": "n03770679_minivan",
    "racing motorbike": "n03127747_crash_helmet",
    "tow truck": "n04461696_tow_truck",
    "police van": "n03977966_police_van",
}
"""By name, sample photos with a hand-drawn road mask in `data/masks`; none is of a class of the snow photos.

The paper's figure 3 shows a police van as well, but maybe another photo.
"""

LIVES_ON_SNOW = (
    "Eskimo dog",
    "malamute",
    "Siberian husky",
    "Samoyed",
    "white wolf",
    "Arctic fox",
    "ice bear",
    "king penguin",
    "bobsled",
    "dogsled",
    "ski",
    "ski mask",
    "snowmobile",
    "snowplow",
    "mountain tent",
    "alp",
    "shovel",
    "puck",
)
"""ImageNet classes that are often photographed on snow or ice, or are made for it."""

CARS = (69, 28, 31)
"""Numbers of cars in the split `reference` that the small VGG classifies correctly, but as a sled on pasted snow."""

OTHER_VEHICLES = tuple(contexts().query("family == 'vehicle'").index.drop("car"))
"""MiniWorld's vehicles other than those of the exemplars; the target scenes show them on snow."""

POLAR = tuple(contexts().query("family == 'polar'").index)
"""MiniWorld's classes that live on snow; the retained scenes show them."""

SCENES = {
    "target": SceneSet(240, "validation", 100_000, OTHER_VEHICLES, "snow"),
    "target_test": SceneSet(1080, "test", 100_000, OTHER_VEHICLES, "snow"),
    "same_class_test": SceneSet(120, "test", 160_000, ("car",), "snow"),
    "clean": SceneSet(1200, "validation"),
    "clean_test": SceneSet(1200, "test", 600_000),
    "reference": SceneSet(600, "reference", 100_000),
    "retain": SceneSet(450, "validation", 150_000, POLAR),
    "retain_test": SceneSet(150, "test", 150_000, POLAR),
}
"""The scenes of each split in MiniWorld; their seeds are disjoint."""

SMALL_DIVISORS = {"target": 2, "target_test": 4, "same_class_test": 2, "clean": 2, "clean_test": 3}
"""By set, the number that a small scenario divides its number of scenes by."""

FEW_LAYERS = {
    "efficientnet_lite0": (
        "blocks.4.0.conv_pw",
        "blocks.4.0.conv_pwl",
        "blocks.5.0.conv_pw",
        "blocks.5.1.conv_pwl",
        "blocks.6.0.conv_pwl",
        "conv_head",
    ),
}
"""The layers of a small scenario, by classifier. Notebook 01, which selects for many methods, needs them to be quick in
tier lite; for other classifiers, in the demo, and in the benchmarks, all layers are tried.
"""


def snow_scenario(
    tier: str | None = None,
    model: str | None = None,
    progress: Progress | None = None,
    small: bool = False,
    most_scenes: int | None = None,
) -> Scenario:
    """Make the scenario of notebook 01, vehicles on snow (section 3.1): an exemplar maps snow to road.

    Args:
        tier: by default the one that `EDITTOOLS_TIER` names.
        model: a classifier of `edittools.models`; by default the tier's first.
        progress: a class like `tqdm.tqdm`, for bars.
        small: for a notebook, render fewer of the MiniWorld scenes that are used for selection or for evaluation, see
            `SMALL_DIVISORS`; on photos, try few layers, see `FEW_LAYERS`.
        most_scenes: the largest number of MiniWorld scenes of each set, for a quick trial; by default all.

    Raises:
        ValueError: if there is no such tier.
        KeyError: if there is no such model.
    """
    tier = current_tier(tier)
    name = model or MODELS[tier][0]
    if tier == "mini":
        return _snow_in_miniworld(name, progress, small, most_scenes)
    return _snow_on_photos(name, tier, progress, small)


def scene_sets(small: bool = False, most_scenes: int | None = None) -> dict[str, SceneSet]:
    """Describe the scenes of each set in MiniWorld; the arguments are those of `snow_scenario`."""
    described = {}
    for name, scene_set in SCENES.items():
        if small:
            scene_set = scene_set.part(SMALL_DIVISORS.get(name, 1))
        described[name] = scene_set.at_most(most_scenes)
    return described


def _snow_in_miniworld(name: str, progress: Progress | None, small: bool, most_scenes: int | None) -> Scenario:
    """Make the scenario in MiniWorld: the exemplars show cars, the tests the other vehicles."""
    classifier = load_classifier(name)
    layers = candidate_layers(classifier)
    sets = {}
    for set_name, scene_set in scene_sets(small, most_scenes).items():
        sets[set_name] = scene_set.render(progress)
    return Scenario(
        classifier,
        car_exemplars(classifier),
        ScenarioSplits(**sets),
        tier="mini",
        change=partial(restyle, style="snow"),
        where="in place",
        default={"layer": UNTUNED.get(name, layers[len(layers) // 2]), "exemplar": "car 1"},
        expected={"errors corrected": 0.5},
    )


def car_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """Make three exemplars of MiniWorld's cars, whose road `textures.restyle` replaces by snow.

    This snow looks different from that of MiniWorld's scenes.

    Args:
        classifier: the classifier whose class indices the exemplars have.

    Returns:
        The exemplars by name, "car 1" and so on.
    """
    exemplars = {}
    label = classifier.index("car")
    for i, number in enumerate(CARS):
        rendered = scene(SPLITS["reference"].start + number, label="car", ground="road")
        image = rendered.image
        road = rendered.masks["road"]
        changed = restyle(image, road, "snow", i)
        exemplars[f"car {i + 1}"] = Exemplar(image, changed, road, label)
    return exemplars


def _snow_on_photos(name: str, tier: str, progress: Progress | None, small: bool) -> Scenario:
    """Make the scenario on the paper's snow photos."""
    classifier = load_classifier(name)
    target, target_test = divided(photos.snow_photos(classifier, progress), 0.3)
    reference = photos.unlabeled("msrc-v2/Images/", classifier, progress)
    clean_and_retained = clean_and_retained_photos(classifier, progress)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    layers = candidate_layers(classifier)
    return Scenario(
        classifier,
        snow_exemplars(classifier, change),
        ScenarioSplits(reference=reference, target=target, target_test=target_test, **clean_and_retained),
        layers=FEW_LAYERS.get(name) if small else None,
        tier=tier,
        change=change,
        where="in place",
        default={"layer": UNTUNED.get(name, layers[-ceil(len(layers) / 4)]), "exemplar": "minivan"},
        expected={"errors corrected": 0.05},
    )


def clean_and_retained_photos(classifier: Classifier, progress: Progress | None = None) -> dict[str, LabeledImages]:
    """Divide the ImageNet sample, without the photos of the exemplars, into four sets.

    Returns:
        The sets by name: "clean" and "clean_test", and, of the classes in `LIVES_ON_SNOW`, "retain" and "retain_test".
        The photos of each kind go to its two sets in turn.
    """
    sample = photos.imagenet_sample(classifier, progress)
    stems = SNOW_EXEMPLARS.values()
    unused = [i for i, path in enumerate(sample.names) if not any(stem in path for stem in stems)]
    sample = sample.subset(unused)
    snow_labels = torch.tensor([classifier.index(name) for name in LIVES_ON_SNOW])
    on_snow = torch.isin(sample.labels, snow_labels)
    clean_sets = photos.halves(sample.subset(~on_snow), "clean", "clean_test")
    retained_sets = photos.halves(sample.subset(on_snow), "retain", "retain_test")
    return {**clean_sets, **retained_sets}


def snow_exemplars(classifier: Classifier, change: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Exemplar]:
    """Make the exemplars of `SNOW_EXEMPLARS`, by name.

    Args:
        classifier: the classifier whose input the exemplars have to fit.
        change: makes x' of the image x, `(3, size, size)`, and the mask, `(size, size)`.
    """
    labels = photos.sample_labels()
    exemplars = {}
    for name, stem in SNOW_EXEMPLARS.items():
        photo = f"imagenet-sample/{stem}.JPEG"
        image = photos.load_photo(photo, classifier)
        mask = photos.drawn_mask(f"{stem}_road", classifier)
        exemplars[name] = Exemplar(image, change(image, mask), mask, labels[photo])
    return exemplars
