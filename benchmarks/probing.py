"""Which concepts do predictions rest on? The rules that a probe finds, scored where they are known (section 5).

Tier mini: the rules of a small VGG against those that were planted, and none may be found in the same network trained
without them. Drops and effects are of log-odds. The measure, the least effect and the number of scenes were chosen on
`--split validation`; `test` is for once. A planted rule need not be learned: the rules found are also scored against
those that the network shows when each scene is painted again on other grounds (`scenarios.repainted`).
Tier lite: EfficientNet-Lite0, -Lite1 and -Lite2 on MSRC v2 photos with hand-made masks (see README, 'Tiers'); tier
paper: VGG16 and ResNet-50. No rules are known there; the JSON line has each concept's effect on each network. With
`--masks found` segmenters find the masks, in MSRC's photos and those of the ImageNet sample, beside the hand-made ones.
"""

import argparse
import json
import time
from dataclasses import replace
from datetime import date
from itertools import product
from typing import Any

import pandas as pd
import torch
from common import call, finish, parser, start, write_line

from edittools.classifiers import Classifier
from edittools.images import LabelledImages, resized
from edittools.metrics import predict
from edittools.miniworld.contexts import GROUNDS, planted_rules
from edittools.miniworld.textures import style_textures
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, with_materials
from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, LEAST_IMAGES, Probe, pairs, score
from edittools.probing.probe import ProbeSettings, probe
from edittools.probing.segmentation import GATING_VEHICLES, Gated, cached, deeplab
from edittools.scenarios import photos
from edittools.scenarios.rules import probing_setup, repainted
from edittools.scenarios.tiers import MODELS

SHOWN = ["class", "concept", "images", "before", "drop", "control drop", "effect", "low", "high", "q"]
BALANCED = "mini_vgg_balanced"
"""The network that saw class and surroundings independently of each other."""
FOUND = (("grass", "road"), ("sky", "building", "tree"))
"""Backgrounds that MSRC's hand-made masks and Cityscapes' network both have."""


def mini(probe: Probe, painted: Probe) -> dict[str, Any]:
    """Score the rules of each network against what was planted and what itself shows; count those without reason."""
    networks, planted, without = {}, planted_rules(), {}
    for name in probe.table["classifier"].unique():
        mine, shown = (one.where("classifier", name) for one in (probe, painted))
        found = mine.rules()
        known = [pair in planted for pair in zip(found["class"], found["concept"], strict=True)]
        print(f"\nrules of {name} (planted: at least half of the class's scenes):")
        print(found[SHOWN].assign(planted=known).round(3).to_string(index=False))
        if name == BALANCED:
            without = {"rules_found_in_balanced_model": len(found)}
            continue
        print(f"\nmissed: {sorted(planted - pairs(found)) or 'none'}")
        figures = score(found, planted)
        counts = {"rules_found": figures["found"], "rules_planted": figures["planted"]}
        networks[name] = counts | _rounded(figures) | against_painted(mine, shown)
    return {"networks": {name: counts | without for name, counts in networks.items()}}


def _rounded(figures: dict[str, float], of: str = "") -> dict[str, float]:
    """Precision and recall for the JSON line."""
    return {f"{name}{of}": round(figures[name], 3) for name in ("precision", "recall")}


def against_painted(probe: Probe, painted: Probe) -> dict[str, float]:
    """Score the rules of one classifier, of grounds, against those that it shows on scenes that are painted again."""
    found, learned = probe.rules(), pairs(painted.rules())
    figures = score(found[found["concept"].isin(GROUNDS)], learned)
    correlation = round(float(probe.agreement(painted).corr().iloc[0, 1]), 3)
    return _rounded(figures, "_exact") | {"rules_exact": len(learned), "correlation_with_exact": correlation}


def by_masks(size_of: Classifier) -> dict[str, Concepts]:
    """MSRC's photos with masks made by hand; these and the ImageNet sample with found ones."""
    concepts = [concept for group in FOUND for concept in group]
    msrc, made = photos.msrc(size_of, progress=True)
    sample = photos.imagenet_sample(size_of, progress=True)
    images = torch.cat([msrc.images, sample.images])
    found = cached(Gated(deeplab("cityscapes", concepts), deeplab("pascal", GATING_VEHICLES)))(images)
    both = LabelledImages(images, torch.cat([msrc.labels, sample.labels]), msrc.classes, (*msrc.names, *sample.names))
    return {
        kind: with_materials(data, {name: masks[name] for name in concepts}, variants=3, groups=FOUND)
        for kind, (data, masks) in {"made": (msrc, made), "found": (both, found)}.items()
    }


def lite(probes: dict[str, Probe]) -> dict[str, Any]:
    """Tabulate what each classifier loses, concept by concept: no rules are known here, so none are scored."""
    columns = ["classifier", "concept", "images", "controlled", "drop", "drop low", "drop high", "control drop"]
    columns, effects = [*columns, "effect", "low", "high", "q"], {}
    for kind, one in probes.items():
        table = one.effects(columns[:2], least_images=LEAST_IMAGES)[columns]
        print(f"{kind}, beside the control {one.control} (share of readings that change):")
        print(table.round(3).to_string(index=False))
        print(f"rules by class (at least {one.least_images} photos of it):")
        print(one.rules()[["classifier", *SHOWN]].round(3).to_string(index=False), "\n")
        rounded = table.round(5).astype(object)
        effects[kind] = rounded.where(table.notna(), None).to_dict("records")
    return {"false_discovery_rate": FALSE_DISCOVERY_RATE, "effects": effects}


def uncounted(classifiers: dict[str, Classifier], concepts: Concepts, settings: ProbeSettings) -> Probe:
    """Make the rows of a probe without predicting any transformed image: they tell which images it compares.

    The predictions on transformed images and controls are those on the untouched image.
    """
    groups = concepts.groups or [tuple(settings.only or concepts.masks)]
    count = len(concepts.data)
    shown = []  # number of the image, concept, textures, and whether there is room for a control
    for number, group in product(range(count), groups):
        textures = concepts.textures(number, settings.variants_per_image)
        if concepts.groups:
            textures = [texture for texture in textures if texture[0] in group]
        for concept in group:
            if concepts.masks[concept][number].mean() >= LEAST_AREA:
                _, control = concepts.counterfactual(number, concept, textures[:1], settings.control == "elsewhere")
                shown.append((number, concept, textures, control is not None))
    rows = []
    for name, classifier in classifiers.items():
        sized = torch.cat([resized(concepts.data.images[i][None], classifier.size) for i in range(count)])
        chances, read = (values.tolist() for values in predict(classifier, sized).softmax(dim=1).max(dim=1))
        for number, concept, textures, has_control in shown:
            predicted = classifier.classes[read[number]]
            row = {"classifier": name, "image": number, "class": predicted, "concept": concept, "area": 0.0}
            row["is_object"] = predicted in concepts.objects.get(concept, ())
            row["control"] = predicted if has_control else None
            row["p_control"] = chances[number] if has_control else float("nan")
            row |= {"before": predicted, "after": predicted, "p_before": chances[number], "p_after": chances[number]}
            rows += [row | {"style": style, "variant": variant} for style, variant in textures]
    return Probe(pd.DataFrame(rows), settings.control, settings.least_images, concepts)


def counted(stored: dict[str, Any], probes: dict[str, Probe]) -> dict[str, Any]:
    """Add to the effects of a results file the number of photos with a control, on which each effect rests.

    Raises:
        ValueError: if a concept is not in as many photos as in the file.
    """
    columns = ["classifier", "concept"]
    for kind, one in probes.items():
        counts = one.effects(columns, least_images=1).set_index(columns)
        for row in stored["effects"][kind]:
            count = counts.loc[(row["classifier"], row["concept"])]
            if int(count.images) != row["images"]:
                raise ValueError(f"{kind}: {row} is of {int(count.images)} photos now; probe again")
            row["controlled"] = int(count.controlled)
    return stored


def on_miniworld(options: argparse.Namespace) -> dict[str, Any]:
    """Probe scenes with materials, and paint them again."""
    names = options.models or ("mini_vgg", BALANCED)
    searched, concepts, settings, _ = probing_setup("mini", options.split, options.per_class, True, names)
    found = probe(searched, concepts, settings, store=options.store, progress=True)
    painted = repainted(searched, concepts, options.split, settings.least_images)
    print(f"{len(found.table):,} counterfactual predictions\n")
    return mini(found, painted) | {"images": len(concepts.data)}


def on_photos(options: argparse.Namespace) -> dict[str, Any]:
    """Probe photographs, by what their concepts are turned to, or by where their masks come from."""
    if options.masks == "made":
        classifiers, concepts, settings, _ = probing_setup(options.tier, progress=True, models=options.models)
        textures = style_textures(("snow", "wooden", "graffiti", "floral"), size=concepts.data.images.shape[-1])
        styled = replace(concepts, styles=textures, groups=())
        beside = replace(settings, control="elsewhere", variants_per_image=None)
        asked = {"materials": (concepts, settings), "styles": (styled, beside)}
    else:
        classifiers = {name: load_classifier(name) for name in options.models or MODELS[options.tier]}
        settings = ProbeSettings(variants_per_image=2, control="in place", labels="read", least_images=5)
        largest = max(classifiers.values(), key=lambda classifier: classifier.size)
        asked = {kind: (concepts, settings) for kind, concepts in by_masks(largest).items()}
    if options.count:
        stored = json.loads(options.output.read_text())
        unpredicted = {kind: uncounted(classifiers, *one) for kind, one in asked.items()}
        found = counted(stored, part_of_msrc(unpredicted))
        seconds = round(time.perf_counter() - options.started, 1)
        found["counted"] = {"call": call(), "date": str(date.today()), "seconds": seconds}
        write_line(options.output, json.dumps(found))
        return {}
    probes = {kind: probe(classifiers, *one, store=options.store, progress=True) for kind, one in asked.items()}
    return lite(part_of_msrc(probes)) | {"images": {kind: len(concepts.data) for kind, (concepts, _) in asked.items()}}


def part_of_msrc(probes: dict[str, Probe]) -> dict[str, Probe]:
    """Add, to a probe with masks that were found, the part of it in MSRC's photos."""
    if "found" not in probes:
        return probes
    names = probes["found"].concepts.data.names
    known = [number for number, name in enumerate(names) if name.startswith("msrc-v2/")]
    return probes | {"found, MSRC alone": probes["found"].where("image", *known)}


def main() -> None:
    """Probe, print the tables, and the JSON line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", default=(), metavar="NAME", help="of the tier")
    arguments.add_argument("--masks", default="made", choices=("made", "found"), help="of photographs")
    arguments.add_argument("--split", default="test", choices=("validation", "test"), help="of MiniWorld's scenes")
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    arguments.add_argument("--store", help="folder to keep finished jobs in, and to resume from")
    arguments.add_argument("--count", action="store_true", help="only add the photos used to --output (tier lite)")
    options = start(arguments)
    print(f"false-discovery rate {FALSE_DISCOVERY_RATE}, least effect {LEAST_EFFECT}\n")
    found = on_miniworld(options) if options.tier == "mini" else on_photos(options)
    if found:
        finish(options, found)


if __name__ == "__main__":
    main()
