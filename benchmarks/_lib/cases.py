"""Cases of the synthetic benchmark that differ in the number of exemplars, and what the rows of a case depend on."""

from collections.abc import Sequence
from itertools import chain

import torch

from edittools._caching import digest_tensors
from edittools.classifiers import fingerprint
from edittools.course.scenarios.synthetic import (
    DEFAULT_SETTINGS,
    Case,
    CaseSettings,
    SetupSource,
    fewer_images,
    generator_of,
    images_of_concepts,
    possible_targets,
    setup_of,
)
from edittools.images import pixels_of
from edittools.methods.projection import PROJECTIONS


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
        for style in setup.concepts.styles:
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
    return (
        f"{fingerprint(setup.classifier)} {setup.concepts.digest()} {images} {labels} {layers} {settings} {PROJECTIONS}"
    )
