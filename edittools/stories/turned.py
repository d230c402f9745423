"""A concept turned to a material, as a scenario: what an edit of such a rule is chosen on, and reported."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edittools.choosing.scenario import Scenario
from edittools.classifiers import Classifier
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
    class; the first are the `exemplars`. `everyday` holds the fields of the `Scenario` that do not depend on it.

    All other images that show the concept and are read rightly are turned to the style: half of every class is
    `validation`, the others are `own` (the rule's class) or `test`. One half of the style's variants makes and chooses
    an edit, the other reports it. `keep` and `keep_report` are halves of the untouched images that show what the style
    is made of, not the concept. Raises `ValueError` when there is nothing to edit, choose on or report.
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
        said = f"rule {rule['class']!r} on {concept!r} → {style!r}: {counts}"
        raise ValueError(f"{said}, expected at least one exemplar, validation and test image")
    variants = len(known.styles[style])
    each, several = min(SEVERAL, variants), {}
    for place in range(len(evidence)):
        looks = [known.exemplar(rule, (place + v) % variants, place) for v in range(each)]
        several[f"{rule['class']} {place + 1}"] = [look.sized(classifier.size) for look in looks]
    sets = {"validation": at_size(known.turned(parts["validation"], concept, style, each), classifier)}
    for name in ("test", "own"):
        if parts[name]:
            sets[name] = at_size(held_out.turned(parts[name], concept, style), classifier)
    if exceptions.any():
        keep, sets["keep_report"] = data.subset(exceptions).split(0.5)
        sets |= {"keep": keep} if len(keep) else {}
    layers = everyday["layers"]
    default = {"layer": layers[len(layers) // 2], "exemplar": next(iter(several))}
    sets |= {"default": default | dict(everyday.get("default", {}))}
    sets |= {"several": {f"{name} in {each} variants": some for name, some in several.items()}}
    singles = {name: some[0] for name, some in several.items()}
    return Scenario(classifier, singles, **dict(everyday) | sets), parts


def at_size(data: LabelledImages, classifier: Classifier) -> LabelledImages:
    """Resize images to what the classifier takes."""
    return replace(data, images=resized(data.images, classifier.size))
