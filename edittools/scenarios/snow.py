"""The story of notebooks 01 and 05, vehicles on snow (section 3.1 of the paper): an exemplar maps snow to road."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar, paste_texture
from edittools.images import LabelledImages
from edittools.miniworld.contexts import GROUNDS, SPLITS, contexts
from edittools.miniworld.scenes import scene
from edittools.miniworld.textures import restyle
from edittools.models.load import load_classifier
from edittools.probing.segmentation import GATING_VEHICLES, Finder, Gated, cached, deeplab
from edittools.scenarios import photos
from edittools.scenarios.tiers import MODELS, UNTUNED, current_tier, painted
from edittools.selection.scenario import Scenario
from edittools.selection.trials import candidate_layers

SNOW_EXEMPLARS = {
    "limousine": "n03670208_limousine",
    "streetcar": "n04335435_streetcar",
    "minivan": "n03770679_minivan",
    "racing motorbike": "n03127747_crash_helmet",
    "tow truck": "n04461696_tow_truck",
}
"""By name, sample photos with a hand-drawn road mask in `data/masks`; none is of a class of the snow photos."""

LIVES_ON_SNOW = ("Eskimo dog", "malamute", "Siberian husky", "Samoyed", "white wolf", "Arctic fox", "ice bear")
LIVES_ON_SNOW += ("king penguin", "bobsled", "dogsled", "ski", "ski mask", "snowmobile", "snowplow", "mountain tent")
LIVES_ON_SNOW += ("alp", "shovel", "puck")
"""ImageNet classes that are often photographed on snow or ice, or are made for it."""

OTHER_VEHICLES = tuple(contexts().query("family == 'vehicle'").index.drop("car"))
POLAR = tuple(contexts().query("family == 'polar'").index)
"""What MiniWorld shows on snow in the test, and what lives there."""

SCENES = {
    "validation": (240, "validation", 100_000, OTHER_VEHICLES, "snow"),
    "test": (1080, "test", 100_000, OTHER_VEHICLES, "snow"),
    "own": (120, "test", 160_000, ("car",), "snow"),
    "budget": (1200, "validation", 0, (), None),
    "clean": (1200, "test", 600_000, (), None),
    "reference": (600, "reference", 100_000, (), None),
    "keep": (450, "validation", 150_000, POLAR, None),
    "keep_report": (150, "test", 150_000, POLAR, None),
}
"""Of each set of MiniWorld how many scenes, their split and first seed in it, the classes in turn, and the ground."""

MANY, WRITING = 12, (".attn.proj", ".mlp.fc2")
"""Of more layers than these only the later half is tried; of the ViT all that its blocks write, in every block."""

_LITE0_SHORTLIST = ("blocks.4.0.conv_pw", "blocks.4.0.conv_pwl", "blocks.5.0.conv_pw", "blocks.5.1.conv_pwl")
_LITE0_SHORTLIST += ("blocks.6.0.conv_pwl", "conv_head")
"""The untuned layer, and those in which some edit corrected at least 3 net of the 11 errors on validation photos."""


def snow_scenario(
    tier: str | None = None, model: str | None = None, progress: bool = False, small: bool = False
) -> Scenario:
    """Make notebook 01's story, vehicles on snow (section 3.1): an exemplar maps snow to road.

    `tier` is that of `EDITTOOLS_TIER` by default; `model` names another classifier of the zoo than the tier's first.
    A `small` one has half as many of MiniWorld's scenes that choose or report.
    """
    tier = current_tier(tier)
    name = model or MODELS[tier][0]
    if tier == "mini":
        return _snow_in_miniworld(name, progress, small)
    return _snow_on_photos(name, tier, progress)


def _scenes(counts: Mapping[str, int], progress: bool) -> dict[str, LabelledImages]:
    """Paint so many scenes of the sets of `SCENES`; seeds of no set meet those of another."""
    sets = {}
    for name, count in counts.items():
        _, split, skip, shown, ground = SCENES[name]
        sets[name] = painted(count, split, skip, shown, ground=ground, progress=progress)
    return sets


def _snow_in_miniworld(name: str, progress: bool, small: bool) -> Scenario:
    """Cars in their MiniWorld are the exemplars, the other vehicles the test."""
    classifier = load_classifier(name)
    layers, parted = candidate_layers(classifier), ("validation", "test", "own", "clean")
    later = tuple(layer for layer in layers if layer.endswith(WRITING)) or layers[len(layers) // 2 :]
    counts = {name: count // 2 if small and name in parted else count for name, (count, *_) in SCENES.items()}
    story = {"tier": "mini", "change": partial(restyle, style="snow"), "expected": {"errors corrected": 0.5}}
    story |= {"layers": layers if len(layers) <= MANY else later, "shortlist": later}
    story["default"] = {"layer": UNTUNED.get(name, later[0]), "exemplar": "car 1"}
    return Scenario(classifier, car_exemplars(classifier), **_scenes(counts, progress), **story)


def car_exemplars(classifier: Classifier, count: int = 3) -> dict[str, Exemplar]:
    """Turn the road of some scenes with a car to snow by `textures.restyle`; the world's own snow is another."""
    exemplars = {}
    for i in range(count):
        picture = scene(SPLITS["reference"].start + i, label="car", ground="road")
        image, road = picture.image, picture.masks["road"]
        exemplars[f"car {i + 1}"] = Exemplar(image, restyle(image, road, "snow", i), road, classifier.index("car"))
    return exemplars


def _snow_on_photos(name: str, tier: str, progress: bool) -> Scenario:
    classifier = load_classifier(name)
    validation, test = photos.snow_photos(classifier, progress).split(0.3, seed=0)
    reference = photos.unlabeled("msrc-v2/Images/", classifier, progress)
    layers = candidate_layers(classifier)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    untuned = UNTUNED.get(name, layers[-len(layers) // 4])
    shortlist = _LITE0_SHORTLIST if name == "efficientnet_lite0" else tuple(dict.fromkeys((untuned, *layers[-4:])))
    sets = {
        "validation": validation,
        "test": test,
        "reference": reference,
        **clean_and_retained_photos(classifier, progress),
    }
    story = {"tier": tier, "change": change, "layers": layers[len(layers) // 2 :], "shortlist": shortlist}
    story["default"] = {"layer": untuned, "exemplar": "minivan"}
    story["expected"] = {"errors corrected": 0.05}
    return Scenario(classifier, snow_exemplars(classifier, change), **sets, **story)


def clean_and_retained_photos(classifier: Classifier, progress: bool = False) -> dict[str, LabelledImages]:
    """Part the ImageNet sample, without exemplars: "budget", "clean", and of what lives on snow "keep", "keep_report".

    Every second photo of each kind is of the other set.
    """
    sample = photos.imagenet_sample(classifier, progress)
    ours = [i for i, path in enumerate(sample.names) if not any(w in path for w in SNOW_EXEMPLARS.values())]
    sample, lives = sample.subset(ours), torch.tensor([classifier.index(word) for word in LIVES_ON_SNOW])
    on_snow = torch.isin(sample.labels, lives)
    clean_sets = photos.halves(sample.subset(~on_snow), "budget", "clean")
    return clean_sets | photos.halves(sample.subset(on_snow), "keep", "keep_report")


def snow_exemplars(classifier: Classifier, change: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Exemplar]:
    """Turn the road of the sample photos that have a hand-drawn mask in `data/masks` to snow."""
    labels, exemplars = photos.sample_labels(), {}
    for name, stem in SNOW_EXEMPLARS.items():
        photo = f"imagenet-sample/{stem}.JPEG"
        image, mask = photos.load_photo(photo, classifier), photos.drawn_mask(f"{stem}_road", classifier)
        exemplars[name] = Exemplar(image, change(image, mask), mask, labels[photo])
    return exemplars


def desk_setup(tier: str | None = None, progress: bool = False) -> tuple[Classifier, dict[str, LabelledImages]]:
    """Give notebook 05's story: a classifier and pictures for the desk, vehicles on snow.

    The sets are `images`, of which some are misread, `clean` ones, ones to `retain`, and `test` for later.
    """
    if current_tier(tier) == "mini":
        classifier = load_classifier("mini_vgg")
        sets = _scenes({"validation": 48, "budget": 240, "test": 120}, progress)
        sets["keep"] = painted(60, "validation", 50_000, POLAR, progress=progress)
    else:
        classifier = load_classifier("efficientnet_lite0")
        sets = clean_and_retained_photos(classifier, progress)
        sets["validation"], sets["test"] = photos.snow_photos(classifier, progress).split(0.5, seed=0)
    names = {"images": "validation", "clean": "budget", "retain": "keep", "test": "test"}
    return classifier, {name: sets[of] for name, of in names.items()}


def folder_setup(tier: str | None = None, progress: bool = False) -> tuple[LabelledImages, Finder]:
    """Give a folder's pictures for notebook 05, none of which the desk has, and a finder: exact masks in MiniWorld."""
    if current_tier(tier) == "mini":
        pictures = painted(240, "validation", 200_000, progress=progress)
        return pictures, lambda images: {ground: pictures.mask(ground) for ground in GROUNDS}
    street = deeplab("cityscapes", ("road", "grass", "sky", "building", "tree"))
    pictures = clean_and_retained_photos(load_classifier("efficientnet_lite0"), progress)["clean"]
    return pictures, cached(Gated(street, deeplab("pascal", GATING_VEHICLES)))
