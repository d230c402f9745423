"""Run cases of the synthetic benchmark: every method on one case, restyled concepts, and numbers of exemplars."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from math import nan
from typing import Any

import torch
from torch import Tensor

from _lib.command import one_thread
from _lib.concepts import digest_of
from edittools._checks import one_of
from edittools._storage import digest_tensors
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.images import LabeledImages, pixels_of, resized
from edittools.metrics import Comparison, misclassified, predict
from edittools.models.load import load_classifier
from edittools.probing.textures import STYLES, style_textures
from edittools.states import States, states_of
from edittools_course.downloads import photo
from edittools_course.rivals.projection import PROJECTIONS
from edittools_course.scenarios.scenario import best_by_method
from edittools_course.scenarios.synthetic import (
    DEFAULT_SETTINGS,
    SMALL_STYLES,
    Case,
    CaseSettings,
    SetupSource,
    SyntheticSetup,
    case_scenario,
    fewer_images,
    generator_of,
    images_of_concepts,
    possible_targets,
    select_for_case,
    setup_of,
    synthetic_setup,
    synthetic_source,
)
from edittools_course.style_transfer import StyleTransfer

MEASURES = {
    "other same": "same",
    "other held out": "target_test",
    "target same": "own same",
    "target held out": "same_class_test",
}
"""The reported measures, and the split that each is computed on.

A measure is of other classes than the exemplars' or of their class (the target), in the same variant of the style as
the exemplars or in held-out ones.
"""

TRANSFORMS = ("paste", "transfer")
"""How a concept is transformed to a style: a texture is pasted over it, or it is restyled by style transfer."""

STYLE_MODELS = {"mini": "mini_vgg", "lite": "squeezenet1_1", "paper": "vgg16"}
"""The classifier on whose features style transfer compares images, by tier."""

TRANSFER_VARIANTS = 4
"""Number of variants of each style in style transfer."""

STYLE_FILES = {
    "snow": "snowy_ground",
    "graffiti": "graffiti",
    "floral": "colorful_flowers",
    "black and white": "black_and_white",
}
"""Four of the paper's eight styles, and the registered file of each one's style images."""


def exemplar_cases(source: SetupSource, counts: Sequence[int]) -> dict[int, list[Case]]:
    """List the cases that show what the number of exemplars changes.

    For each concept and style, a class is drawn at random that has more images than the largest number of exemplars.
    A smaller number of exemplars are the first ones of a larger number; all other images are the same, so that edits of
    any number of exemplars are selected and evaluated on the same images.

    Args:
        source: of the setup.
        counts: the numbers of exemplars.

    Returns:
        By number of exemplars, the cases in the same order; empty lists if no class has enough images.
    """
    setup = setup_of(source)
    data = setup.concepts.data
    most = max(counts)
    listed: dict[int, list[Case]] = {count: [] for count in counts}
    for concept, images in images_of_concepts(setup).items():
        labels = data.labels[images]
        for style in setup.concepts.materials:
            candidates = possible_targets(labels, most)
            if not len(candidates):
                continue
            label = generator_of(concept, style).permutation(candidates)[0]
            target = data.classes[label]
            of_target = images[labels == label].numpy()
            exemplars = generator_of(concept, style, target).permutation(of_target)[:most]
            others = images[~torch.isin(images, torch.from_numpy(exemplars))]
            others = fewer_images(others, data.labels[others])
            for count in counts:
                numbers = [*exemplars[:count].tolist(), *others.tolist()]
                listed[count].append(Case(concept, style, target, numbers, list(range(count))))
    return listed


def identity_of(source: SetupSource, settings: CaseSettings = DEFAULT_SETTINGS) -> str:
    """Identify what the rows of a case depend on: classifier, images, masks, styles and settings."""
    setup = setup_of(source)
    splits = setup.common_fields["splits"]
    clean = splits["clean"]
    clean_test = splits["clean_test"]
    images = digest_tensors(chain(pixels_of(clean), pixels_of(clean_test), pixels_of(splits["reference"])))
    labels = digest_tensors([clean.labels, clean_test.labels])
    layers = setup.common_fields["layers"]
    concepts = digest_of(setup.concepts)
    return f"{fingerprint(setup.classifier)} {concepts} {images} {labels} {layers} {settings} {PROJECTIONS}"


def source_of(tier: str, model: str, small: bool, styles: str) -> SetupSource:
    """Return the source of a tier's setup, with one of `TRANSFORMS`."""
    source = synthetic_source(tier, model, small)
    one_of(styles, TRANSFORMS, "styles")
    return source if styles == "paste" else replace(source, make=restyled_setup)


def restyled_setup(tier: str, model: str, small: bool) -> SyntheticSetup:
    """Make a tier's setup in which concepts are restyled, on the features of the tier's `STYLE_MODELS`.

    Each style has four variants, half of which are held out: rendered textures in tier mini, the paper's style images
    in the others.
    """
    setup = synthetic_setup(tier, model, small)
    size = setup.classifier.size
    if tier == "mini":
        textures = style_textures(SMALL_STYLES if small else STYLES, range(TRANSFER_VARIANTS), size)
    else:
        textures = style_images(SMALL_STYLES if small else tuple(STYLE_FILES), size, TRANSFER_VARIANTS)
    transform = StyleTransfer(load_classifier(STYLE_MODELS[tier]))
    return replace(setup, concepts=replace(setup.concepts, materials=textures, transform=transform))


def style_images(styles: Sequence[str] = tuple(STYLE_FILES), size: int = 224, most: int = 4) -> dict[str, Tensor]:
    """Load the paper's style images.

    Args:
        styles: some of `STYLE_FILES`.
        size: side in pixels.
        most: the largest number of images of each style; there are five.

    Returns:
        Images `(V, 3, size, size)` in [0, 1], by style.

    Raises:
        KeyError: if there is no such style.
        FileNotFoundError: if a file is not available.
    """
    loaded = {}
    for style in styles:
        one_of(style, STYLE_FILES, "style", KeyError)
        path = photo(f"editing-classifiers/styles/{STYLE_FILES[style]}.pt")
        images = torch.load(path, weights_only=True, map_location="cpu")["imgs"]
        loaded[style] = resized(images[:most].float().clamp(0, 1), size)
    return loaded


def run_case(
    source: SetupSource,
    case: Case,
    methods: Sequence[str] = (),
    settings: CaseSettings = DEFAULT_SETTINGS,
) -> list[dict[str, Any]]:
    """Try every method on one case: select edits on target images, and evaluate each once on the others.

    Args:
        source: of the setup.
        case: one of `cases`.
        methods: names of the methods to try; by default all.
        settings: what is tried.

    Returns:
        One row per method, with the change of accuracy in points and what `figures_of` returns. A case with too few
        errors has one row, of the method "undefined".
    """
    names = {"concept": case.concept, "style": case.style, "target": case.target}
    with one_thread():
        scenario = case_scenario(source, case, settings)
        splits = scenario.splits
        errors = {name: _errors(scenario.classifier, splits.labeled[name]) for name in ("target", "target_test")}
        if errors["target"] < settings.least_errors or not errors["target_test"]:
            return [{**names, "method": "undefined"}]
        best = best_by_method(select_for_case(scenario, settings, methods))
        sets = {name: splits.labeled[name] for name in MEASURES.values() if name in splits.labeled}
        cached = states_of(cut_all(scenario.classifier, scenario.layers), sets)
        cached["clean_test"] = _clean_test(source)
        rows = []
        for method, candidate in best.items():
            figures = figures_of(cached, candidate.scaled)
            rows.append({**names, "method": method, "layer": candidate.params["layer"], **figures})
    return rows


def _errors(classifier: Classifier, data: LabeledImages) -> int:
    """Count the images that are misclassified."""
    return int(misclassified(predict(classifier, data), data.labels).sum())


@lru_cache(maxsize=1)
def _clean_test(source: SetupSource) -> States:
    """Run the clean images for evaluation up to the layers: all cases share them."""
    setup = setup_of(source)
    cuts = cut_all(setup.classifier, setup.common_fields["layers"])
    return States(cuts, setup.common_fields["splits"]["clean_test"])


def figures_of(cached: Mapping[str, States], edit: Edit) -> dict[str, float]:
    """Evaluate an edit on the sets of a case.

    Args:
        cached: the sets by name, "clean_test" among them.
        edit: the edit.

    Returns:
        The `accuracy_change` on clean images, in points, and eq. (2) for each of `MEASURES`: NaN if the case lacks the
        set, or if the set has no error.
    """
    compared = {}
    for name, one in cached.items():
        compared[name] = Comparison(one.before, misclassified(one.logits(edit), one.labels))
    figures = {"accuracy_change": compared["clean_test"].accuracy_change}
    for measure, name in MEASURES.items():
        figures[measure] = compared[name].errors_corrected if name in compared else nan
    return figures
