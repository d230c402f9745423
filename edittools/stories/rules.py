"""Notebook 04's story (section 5 of the paper): classifiers, images with concepts, and materials to turn these to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from edittools.choosing.trials import candidate_layers
from edittools.classifiers import Classifier
from edittools.metrics import predict
from edittools.probing.counterfactuals import Concepts, materials, with_materials
from edittools.probing.effects import LEAST_IMAGES, Probe
from edittools.probing.probe import Settings
from edittools.stories import photos
from edittools.stories.tiers import UNTUNED, current_tier, painted
from edittools.stories.turned import at_size
from edittools.world.contexts import BEHIND, GROUNDS
from edittools.world.miniworld import CLASSES
from edittools.zoo.data import shipped
from edittools.zoo.load import load_classifier

Story = tuple[dict[str, Classifier], Concepts, Settings, dict[str, Any]]

OF_THE_PROBE = 200_000
"""From this seed of a split on, MiniWorld's scenes are those of this story."""

BACKGROUNDS = (("grass", "road", "water"), ("sky", "building", "tree"))

MODELS = {
    "mini": ("mini_vgg", "mini_resnet", "mini_vgg_balanced"),
    "lite": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    "paper": ("vgg16", "resnet50"),
}
"""What is probed by default; the rules of the first are looked for."""

SHORTLISTS = {
    "mini_vgg": ("features.10", "features.13", "features.15"),
    "efficientnet_lite0": ("blocks.4.0.conv_pwl", "blocks.5.0.conv_pw", "blocks.5.0.conv_pwl"),
}
"""The layers that validation images gave."""


def probing_story(
    tier: str | None = None,
    split: str = "test",
    per_class: int = 20,
    progress: bool = False,
    models: Sequence[str] = (),
) -> Story:
    """Give notebook 04's story: classifiers by name, concepts with materials, how to probe them, everyday images.

    The rules of the first classifier are looked for; the everyday images are its own, as `scenario_for` takes them.
    `models` of the zoo replace the tier's. Tier mini paints `per_class` scenes of each class; others take MSRC v2.
    """
    tier = current_tier(tier)
    classifiers = {name: load_classifier(name) for name in models or MODELS[tier]}
    name, first = next(iter(classifiers.items()))
    if tier == "mini":
        concepts, settings, everyday = _in_miniworld(split, per_class, progress)
    else:
        concepts, settings, everyday = _on_photos(list(classifiers.values()), progress)
    if tier == "lite":
        everyday["more"] = photos.elsewhere(first, prefix="editing-classifiers/snow/")
    layers = candidate_layers(first)
    later = layers[len(layers) // 2 :]
    story = {"tier": tier, "layers": later, "shortlist": SHORTLISTS.get(name, later[-3:])}
    story["default"] = {"layer": UNTUNED.get(name, later[len(later) // 2])}
    return classifiers, concepts, settings, everyday | story


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


def _in_miniworld(split: str, per_class: int, progress: bool) -> tuple[Concepts, Settings, dict[str, Any]]:
    """Paint as many scenes of each class; the classes come in turn, so that the first scenes are of all classes."""
    data = painted(per_class * len(CLASSES), split, OF_THE_PROBE, CLASSES, progress=progress)
    donors = painted(4 * len(CLASSES), "reference", 200_000, CLASSES, progress=progress)
    seen = (*GROUNDS, *BEHIND, "sky", "wall")
    masks = {concept: data.mask(concept) for concept in (*seen, "object")}
    given = materials(donors, {concept: donors.mask(concept) for concept in seen}, 8)
    concepts = Concepts(data, masks, given, {"object": CLASSES}, (GROUNDS, BEHIND))
    settings = Settings(variants_per_image=2, control="in place", least_images=min(LEAST_IMAGES, per_class // 2))
    everyday = photos.halves(painted(1200, "reference", 300_000, progress=progress), "budget", "clean")
    return concepts, settings, everyday | {"reference": painted(400, "reference", 400_000, progress=progress).images}


def _on_photos(classifiers: Sequence[Classifier], progress: bool) -> tuple[Concepts, Settings, dict[str, Any]]:
    """Load all photos at the largest classifier's size; those that show most of a background give the materials."""
    first, largest = classifiers[0], max(classifiers, key=lambda classifier: classifier.size)
    data, masks = photos.msrc(largest, progress=progress)
    data = replace(data, labels=predict(first, at_size(data, first), progress=progress).argmax(dim=1))
    objects = _imagenet_objects(data.classes) if photos.is_imagenet(first) else {}
    backgrounds = [concept for group in BACKGROUNDS for concept in group]
    masks = {concept: masks[concept] for concept in (*backgrounds, *masks)}
    concepts = with_materials(data, masks, backgrounds, 3, objects=objects, groups=BACKGROUNDS)
    settings = Settings(variants_per_image=2, control="in place", labels="read", least_images=5)
    return concepts, settings, photos.everyday(first, progress)


def _imagenet_objects(classes: Sequence[str]) -> dict[str, list[str]]:
    """Name, by concept of MSRC v2, the ImageNet classes whose object it is."""
    found = {}
    for line in shipped("msrc_objects.txt").read_text().splitlines():
        concept, *spans = line.split()
        ends = [[int(end) for end in span.split("-")] for span in spans]
        found[concept] = [classes[i] for end in ends for i in range(end[0], end[-1] + 1)]
    return found
