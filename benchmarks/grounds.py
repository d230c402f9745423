"""Every class on every ground: what one exemplar teaches a network of MiniWorld's rules, and what a hundred teach."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from edittools.checks import check_number
from edittools.choosing.scenario import Scenario
from edittools.choosing.trials import candidate_layers
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.world.contexts import GROUNDS, SPLITS, contexts
from edittools.world.miniworld import CLASSES, scene, scenes
from edittools.zoo.load import load_classifier

_FIRST = {split: seeds.start + 950_000 for split, seeds in SPLITS.items()}


def ground_exemplars(classifier: Classifier, count: int, seed: int = 0) -> list[Exemplar]:
    """The first `count` of 130 exemplars in an order drawn from `seed`: a class on a ground that is not its own.

    There are 26 classes with 5 such grounds each. x is a scene of the class on the ground where it mostly stands, x'
    the same scene on the other, and the mask covers the ground. Raises `ValueError` for a count beyond 1 to 130.
    """
    pairs = _pairs()
    check_number(count, 1, len(pairs), "count")
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [_exemplar(classifier, *pairs[k], _FIRST["reference"] + int(k)) for k in order[:count]]


@cache
def _pairs() -> tuple[tuple[str, str, str], ...]:
    """Each class with its own ground and another."""
    own = contexts()[list(GROUNDS)].idxmax(axis=1)
    return tuple((label, own[label], ground) for label in CLASSES for ground in GROUNDS if ground != own[label])


def _exemplar(classifier: Classifier, label: str, own: str, other: str, seed: int) -> Exemplar:
    usual, changed = (scene(seed, label, ground) for ground in (own, other))
    return Exemplar(usual.image, changed.image, usual.masks[own], classifier.index(label))


def balanced_scenario(
    counts: Sequence[int] = (1, 130),
    model: str = "mini_vgg",
    validation: int = 390,
    everyday: int = 1000,
    test: int = 1040,
    workers: int = 1,
    progress: bool = False,
) -> Scenario:
    """The natural MiniWorld is everyday; validation and test show the one in which class and ground are independent.

    `several` has an entry for each of `counts`, "… exemplars": the first so many of `ground_exemplars`, which go into
    one edit. There are so many `validation` and `test` scenes; `everyday` natural ones are the budget, as many are
    clean ones, half as many the reference.
    """
    classifier = load_classifier(model)
    layers, shown = candidate_layers(classifier), ground_exemplars(classifier, max(counts))

    def painted(images: int, split: str, skip: int, balanced: bool = False) -> LabelledImages:
        return scenes(images, _FIRST[split] + skip, balanced=balanced, workers=workers, progress=progress)

    sets = {"budget": painted(everyday, "validation", 20_000), "clean": painted(everyday, "test", 20_000)}
    sets["validation"] = painted(validation, "validation", 0, balanced=True)
    sets["test"] = painted(test, "test", 0, balanced=True)
    sets["reference"] = painted(everyday // 2, "reference", 20_000)
    several = {f"{n} exemplars": shown[:n] for n in counts}
    named = {"layers": layers, "shortlist": layers[len(layers) // 2 :], "several": several, "tier": "mini"}
    return Scenario(classifier, {"exemplar 1": shown[0]}, **sets, **named)
