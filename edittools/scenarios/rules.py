"""Notebook 04's story (section 5 of the paper): what is probed, and what an edit of a rule is chosen on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from edittools.classifiers import Classifier
from edittools.images import LabelledImages, resized, stratified
from edittools.metrics import predict
from edittools.miniworld.contexts import BEHIND, GROUNDS
from edittools.miniworld.scenes import CLASSES
from edittools.models.data import shipped
from edittools.models.imagenet import imagenet_classes
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, materials, with_materials
from edittools.probing.effects import LEAST_IMAGES, Probe
from edittools.probing.probe import ProbeSettings
from edittools.scenarios import photos
from edittools.scenarios.tiers import MODELS, UNTUNED, current_tier, painted
from edittools.selection.scenario import Scenario
from edittools.selection.trials import candidate_layers

ProbingSetup = tuple[dict[str, Classifier], Concepts, ProbeSettings, dict[str, Any]]

OF_THE_PROBE = 200_000
"""From this seed of a split on, MiniWorld's scenes are those of this story."""

SEVERAL = 3
"""So many variants of a material an image is turned to where an edit is chosen, if there are as many."""

BACKGROUNDS = (("grass", "road", "water"), ("sky", "building", "tree"))

SHORTLISTS = {
    "mini_vgg": ("features.10", "features.13", "features.15"),
    "efficientnet_lite0": ("blocks.4.0.conv_pwl", "blocks.5.0.conv_pw", "blocks.5.0.conv_pwl"),
}
"""The layers that validation images gave."""


def probing_setup(
    tier: str | None = None,
    split: str = "test",
    per_class: int = 20,
    progress: bool = False,
    models: Sequence[str] = (),
) -> ProbingSetup:
    """Give notebook 04's story: classifiers by name, concepts with materials, how to probe them, everyday images.

    The rules of the first classifier are looked for; the everyday images are its own, as `scenario_for` takes them.
    `models` of the zoo replace the tier's. Tier mini paints `per_class` scenes of each class; others take MSRC v2.
    """
    tier = current_tier(tier)
    classifiers = {name: load_classifier(name) for name in models or MODELS[tier]}
    name, first = next(iter(classifiers.items()))
    if tier == "mini":
        concepts, settings, common_fields = _in_miniworld(split, per_class, progress)
    else:
        concepts, settings, common_fields = _on_photos(list(classifiers.values()), progress)
    if tier == "lite" and photos.available(elsewhere := "editing-classifiers/snow/"):
        common_fields["more"] = photos.elsewhere(first, prefix=elsewhere)
    layers = candidate_layers(first)
    later = layers[len(layers) // 2 :]
    story = {"tier": tier, "layers": later, "shortlist": SHORTLISTS.get(name, later[-3:])}
    story["default"] = {"layer": UNTUNED.get(name, later[len(later) // 2])}
    return classifiers, concepts, settings, common_fields | story


def shown_rule(found: Probe, example: str = "car", pooled: bool = False) -> tuple[pd.Series, bool]:
    """Return the strongest rule of the class `example`, or of all, and whether it is one or only a suspicion.

    `pooled` is that of `rules`. Raises `ValueError` when there is not even a suspicion.
    """
    rules = found.rules(pooled=pooled)
    shown = found.rules(fdr=1, least_effect=0, pooled=pooled) if rules.empty else rules
    if shown.empty:
        raise ValueError(f"nothing with {found.least_images} images loses anything: expected a probe of more images")
    of_example = shown[shown["class"] == example]
    return (shown if of_example.empty else of_example).iloc[0], not rules.empty


def repainted(
    classifiers: Mapping[str, Classifier], concepts: Concepts, split: str = "test", least_images: int = LEAST_IMAGES
) -> Probe:
    """Paint each scene of the story in MiniWorld again on every ground and predict: what a probe estimates, exactly.

    With the same seed only the looks of the ground differ, so `rules()` gives the rules that a classifier has. Raises
    `ValueError` for other images than the story's with scenes of that `split`.
    """
    data, tables = concepts.data, []
    labels, grounds = [data.classes[i] for i in data.labels], [GROUNDS[i] for i in data.grounds]
    again = {ground: painted(len(data), split, OF_THE_PROBE, labels, ground=ground) for ground in GROUNDS}
    if not all(torch.equal(again[ground].images[i], data.images[i]) for i, ground in enumerate(grounds)):
        raise ValueError(f"these are not the story's scenes of {split!r}: expected all of its images")
    known = pd.DataFrame({"image": range(len(data)), "class": labels, "concept": grounds})
    known = known.assign(is_object=False, variant=0, control=None, p_control=float("nan"))
    for name, classifier in classifiers.items():
        before = predict(classifier, data)
        for ground, pictures in again.items():
            table = known.assign(classifier=name, style=ground)
            for when, logits in (("before", before), ("after", predict(classifier, pictures))):
                chances = logits.softmax(dim=1)
                table[when] = [classifier.classes[i] for i in chances.argmax(dim=1)]
                table[f"p_{when}"] = chances.gather(1, data.labels[:, None])[:, 0].tolist()
            tables.append(table)
    return Probe(pd.concat(tables, ignore_index=True), "in place", least_images)


def _in_miniworld(split: str, per_class: int, progress: bool) -> tuple[Concepts, ProbeSettings, dict[str, Any]]:
    """Paint as many scenes of each class; the classes come in turn, so that the first scenes are of all classes."""
    data = painted(per_class * len(CLASSES), split, OF_THE_PROBE, CLASSES, progress=progress)
    donors = painted(4 * len(CLASSES), "reference", 200_000, CLASSES, progress=progress)
    seen = (*GROUNDS, *BEHIND, "sky", "wall")
    masks = {concept: data.mask(concept) for concept in (*seen, "object")}
    given = materials(donors, {concept: donors.mask(concept) for concept in seen}, 8)
    concepts = Concepts(data, masks, given, {"object": CLASSES}, (GROUNDS, BEHIND))
    settings = ProbeSettings(variants_per_image=2, control="in place", least_images=min(LEAST_IMAGES, per_class // 2))
    common_fields = photos.halves(painted(1200, "reference", 300_000, progress=progress), "budget", "clean")
    return (
        concepts,
        settings,
        common_fields | {"reference": painted(400, "reference", 400_000, progress=progress).images},
    )


def _on_photos(classifiers: Sequence[Classifier], progress: bool) -> tuple[Concepts, ProbeSettings, dict[str, Any]]:
    """Load all photos at the largest classifier's size; those that show most of a background give the materials."""
    first, largest = classifiers[0], max(classifiers, key=lambda classifier: classifier.size)
    data, masks = photos.msrc(largest, progress=progress)
    data = replace(data, labels=predict(first, at_size(data, first), progress=progress).argmax(dim=1))
    objects = {}  # by concept, the ImageNet classes whose object it is
    for line in shipped("msrc_objects.txt").read_text().splitlines() if first.classes == imagenet_classes() else ():
        concept, *spans = line.split()
        ends = [[int(end) for end in span.split("-")] for span in spans]
        objects[concept] = [data.classes[i] for end in ends for i in range(end[0], end[-1] + 1)]
    backgrounds = [concept for group in BACKGROUNDS for concept in group]
    masks = {concept: masks[concept] for concept in (*backgrounds, *masks)}
    concepts = with_materials(data, masks, backgrounds, 3, objects=objects, groups=BACKGROUNDS)
    settings = ProbeSettings(variants_per_image=2, control="in place", labels="read", least_images=5)
    return concepts, settings, photos.clean_and_reference(first, progress)


def scenario_for(
    classifier: Classifier,
    concepts: Concepts,
    rule: Mapping[str, Any],
    common_fields: Mapping[str, Any],
    exemplars: int = 3,
) -> tuple[Scenario, dict[str, list[int]]]:
    """Make the scenario of a rule, and say which images, by number, its sets "validation", "test" and "own" show.

    `rule` is a row of `Probe.rules()`, or names a "class", a "concept", a "style" and as "evidence" images of the
    class; the first are the `exemplars`. `common_fields` holds the fields of the `Scenario` that do not depend on it.

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
    layers = common_fields["layers"]
    default = {"layer": layers[len(layers) // 2], "exemplar": next(iter(several))}
    sets |= {"default": default | dict(common_fields.get("default", {}))}
    sets |= {"several": {f"{name} in {each} variants": some for name, some in several.items()}}
    singles = {name: some[0] for name, some in several.items()}
    return Scenario(classifier, singles, **dict(common_fields) | sets), parts


def at_size(data: LabelledImages, classifier: Classifier) -> LabelledImages:
    """Resize images to what the classifier takes."""
    return replace(data, images=resized(data.images, classifier.size))
