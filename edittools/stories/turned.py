"""A concept turned to a material, as a scenario: what an edit of such a rule is chosen on, and reported."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edittools.choosing.scenario import Scenario
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, resized, stratified
from edittools.metrics import predict
from edittools.probing.counterfactuals import LEAST_AREA, Concepts

SEVERAL = 3
"""So many variants of a material an image is turned to where an edit is chosen, if there are as many."""


def scenario_for(
    classifier: Classifier, concepts: Concepts, rule: Mapping[str, Any], everyday: Mapping[str, Any], exemplars: int = 3
) -> tuple[Scenario, dict[str, list[int]]]:
    """Make the scenario of a rule, and say which images, by number, its sets "validation", "test" and "own" show.

    `rule` is a row of `Probe.rules()`, or names a "class", a "concept", a "style" and as "evidence" images of the
    class. `everyday` holds what does not depend on it: the `reference`, `budget` and `layers` of a `Scenario`, and more
    of its fields. Images are turned to one half of the style's variants where an edit is made and chosen, to the other
    half where it is reported, see `Concepts.parted`.

    The first of the evidence are the `exemplars`, each also in several variants. All other images that show the concept
    and are read rightly are turned to the style: half of every class is `validation`, in several variants; of the
    others those of the rule's class are `own`, the rest the `test`. `keep` and `keep_report` are halves of the
    untouched images that show what the style is made of, not the concept, and are read rightly.

    Raises `KeyError` for an unknown class, concept or style, and `ValueError` when there is nothing to edit, choose on
    or report.
    """
    concept, style, target = rule["concept"], rule["style"], classifier.index(rule["class"])
    known, held_out = concepts.parted(concept, style)
    evidence, data = list(rule["evidence"][:exemplars]), at_size(concepts.data, classifier)
    right = predict(classifier, data).argmax(dim=1) == data.labels
    showing = right & (concepts.masks[concept].mean(dim=(1, 2)) >= LEAST_AREA)
    exceptions = right & ~showing
    exceptions &= concepts.masks[style].mean(dim=(1, 2)) >= LEAST_AREA if style in concepts.masks else False
    showing[evidence] = exceptions[evidence] = False
    numbers = showing.nonzero()[:, 0]
    first, same = stratified(data.labels[numbers], 0.5, 0), data.labels[numbers] == target
    parts = {"validation": first, "test": ~first & ~same, "own": ~first & same}
    parts = {name: numbers[part].tolist() for name, part in parts.items()}
    if not (evidence and parts["validation"] and parts["test"]):
        counts = {"exemplars": len(evidence), **{name: len(part) for name, part in parts.items()}}
        raise ValueError(
            f"rule {rule['class']!r} on {concept!r} → {style!r}: {counts}, expected at least one exemplar, validation "
            "and test image"
        )
    each = min(SEVERAL, len(known.styles[style]))
    several = {
        f"{rule['class']} {k + 1}": _exemplars(known, rule, k, each, classifier.size) for k in range(len(evidence))
    }
    sets = {"validation": at_size(known.turned(parts["validation"], concept, style, each), classifier)}
    for name in ("test", "own"):
        if parts[name]:
            sets[name] = at_size(held_out.turned(parts[name], concept, style), classifier)
    if exceptions.any():
        keep, sets["keep_report"] = data.subset(exceptions).split(0.5)
        sets |= {"keep": keep} if len(keep) else {}
    layers = everyday["layers"]
    default = {"layer": layers[len(layers) // 2], "rank": 1, "masked": True} | dict(everyday.get("default", {}))
    sets |= {"default": default | {"exemplar": next(iter(several))}}
    sets |= {"several": {f"{name} in {each} variants": some for name, some in several.items()}}
    singles = {name: some[0] for name, some in several.items()}
    return Scenario(classifier, singles, **dict(everyday) | sets), parts


def at_size(data: LabelledImages, classifier: Classifier) -> LabelledImages:
    """Resize images to what the classifier takes."""
    return replace(data, images=resized(data.images, classifier.size))


def _exemplars(known: Concepts, rule: Mapping[str, Any], place: int, count: int, size: int) -> list[Exemplar]:
    """Turn one image of a rule's evidence to several variants of the style, another one first for each place."""
    variants = len(known.styles[rule["style"]])
    return [known.exemplar(rule, (place + v) % variants, place).sized(size) for v in range(count)]
