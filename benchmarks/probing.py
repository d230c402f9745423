"""Claim: a probe finds the rules that were planted in a network, and nearly nothing that is not there (section 5).

Tier mini: the rules of a small VGG against those that were planted, and none may be found in the same network trained
without them. Drops and effects are of log-odds. The measure, the least effect and the number of scenes were selected on
`--split validation`; `test` is for once. A planted rule need not be learned: the rules found are also scored against
those that the network shows when each scene is rendered again on other grounds (`scenarios.repainted`).
Tier lite: EfficientNet-Lite0, -Lite1 and -Lite2 on MSRC v2 photos with hand-made masks (see docs/settings.md); tier
paper: VGG16 and ResNet-50. No rules are known there; the results have each concept's effect on each network.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from math import nan
from typing import Any

import pandas as pd
from _lib import jobs
from _lib.command import add_store, parser, run
from _lib.concepts import digest_of
from _lib.results import Results
from tqdm.auto import tqdm

from edittools.classifiers import Classifier, fingerprint
from edittools.probing.counterfactuals import Concepts
from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, LEAST_IMAGES, Probe, pairs
from edittools.probing.probe import ProbeSettings, probe
from edittools.probing.textures import style_textures
from edittools_course.miniworld.contexts import GROUNDS, planted_rules
from edittools_course.scenarios.rules import probing_setup, repainted

SHOWN = ["class", "concept", "images", "before", "drop", "control drop", "effect", "low", "high", "q"]
BALANCED = "mini_vgg_balanced"
"""The network whose training data showed each class on every ground."""


def probed(
    classifiers: Mapping[str, Classifier], concepts: Concepts, settings: ProbeSettings, store: str | os.PathLike | None
) -> Probe:
    """Probe each network as a job of its own, so that an interrupted run goes on with the next one."""

    def rows_of(name: str) -> list[dict[str, Any]]:
        table = probe({name: classifiers[name]}, concepts, settings, progress=tqdm).table
        return table.astype(object).where(table.notna(), None).to_dict("records")

    weights = {name: fingerprint(classifier) for name, classifier in classifiers.items()}
    about = f"probe of materials {weights} {digest_of(concepts)} {settings}"
    table = jobs.run(rows_of, {name: name for name in classifiers}, store, progress=tqdm, about=about)
    return Probe(table.drop(columns="job"), settings.control, settings.least_images, concepts)


def precision_and_recall(reported: set[tuple[str, str]], known: set[tuple[str, str]]) -> tuple[float, float]:
    """Compute the share of the reported rules that are known, and that of the known ones that are reported.

    They are NaN if nothing is reported, or known.
    """
    hits = len(reported & known)
    return hits / len(reported) if reported else nan, hits / len(known) if known else nan


def effects_by_pair(found: Probe) -> pd.Series:
    """Return the effects on the log-odds of one network, by class and concept."""
    effects = found.effects(["class", "concept"], "log-odds", least_images=found.least_images)
    return effects.set_index(["class", "concept"])["effect"]


def add_network(results: Results, name: str, found: Probe, rerendered: Probe) -> None:
    """Score the rules of a network against those planted, and those of grounds against those that it shows exactly."""
    rules = found.rules()
    planted = planted_rules()
    is_planted = [pair in planted for pair in zip(rules["class"], rules["concept"], strict=True)]
    print(f"\nrules of {name} (planted: at least half of the class's scenes):")
    print(rules[SHOWN].assign(planted=is_planted).round(3).to_string(index=False))
    print(f"\nmissed: {sorted(planted - pairs(rules)) or 'none'}")
    exact = pairs(rerendered.rules())
    of_grounds = rules[rules["concept"].isin(GROUNDS)]
    correlation = effects_by_pair(found).corr(effects_by_pair(rerendered))
    results.add("rules", len(rules), split="found", network=name)
    results.add("correlation of effects", correlation, split="exact", network=name)
    for split, known, mine in (("planted", planted, rules), ("exact", exact, of_grounds)):
        precision, recall = precision_and_recall(pairs(mine), known)
        results.add("rules", len(known), split=split, network=name)
        results.add("precision", precision, split=split, network=name)
        results.add("recall", recall, split=split, network=name)


def on_miniworld(options: argparse.Namespace) -> Results:
    """Probe scenes whose concepts are replaced by materials, and render them again."""
    names = options.models or ("mini_vgg", BALANCED)
    per_class = 12 if options.quick else options.per_class
    searched, concepts, settings, _ = probing_setup("mini", options.split, per_class, tqdm, names)
    found = probed(searched, concepts, settings, options.store)
    rerendered = repainted(searched, concepts, options.split, settings.least_images)
    print(f"{len(found.table):,} counterfactual predictions\n")
    results = Results("probing", "MiniWorld", notes={"images": len(concepts.data)})
    trained_with_rules = [name for name in names if name != BALANCED]
    for name in trained_with_rules:
        mine, shown = (one.where("classifier", name) for one in (found, rerendered))
        add_network(results, name, mine, shown)
    if BALANCED in names:
        without = len(found.where("classifier", BALANCED).rules())
        results.add("rules", without, split="found where none were planted", network=trained_with_rules[0])
    return results


def on_photos(options: argparse.Namespace) -> Results:
    """Probe photos, by what replaces their concepts."""
    classifiers, concepts, settings, _ = probing_setup(options.tier, progress=tqdm, models=options.models)
    textures = style_textures(("snow", "wooden", "graffiti", "floral"), size=concepts.data.images.shape[-1])
    styled = replace(concepts, materials=textures, groups=(), cut_variants={})
    elsewhere = replace(settings, control="elsewhere", variants_per_image=None)
    asked = {"materials": (concepts, settings), "styles": (styled, elsewhere)}
    if options.quick:
        classifiers = dict([next(iter(classifiers.items()))])
        asked = {
            kind: (concepts.subset(range(0, len(concepts.data), 10)), one) for kind, (concepts, one) in asked.items()
        }
    probes = {kind: probed(classifiers, *one, options.store) for kind, one in asked.items()}
    images = {kind: len(concepts.data) for kind, (concepts, _) in asked.items()}
    results = Results("probing", "photos", notes={"images": images})
    add_effects(results, probes)
    return results


def add_effects(results: Results, probes: dict[str, Probe]) -> None:
    """Add the effects of each concept on each network; the method says what replaces the concept."""
    columns = ["classifier", "concept", "images", "controlled", "drop", "drop low", "drop high", "control drop"]
    columns += ["effect", "low", "high", "q"]
    for kind, one in probes.items():
        table = one.effects(["classifier", "concept"], least_images=LEAST_IMAGES)[columns]
        print(f"{kind}, minus the control {one.control} (share of predictions that change):")
        print(table.round(3).to_string(index=False))
        print(f"rules by class (at least {one.least_images} photos of it):")
        print(one.rules()[["classifier", *SHOWN]].round(3).to_string(index=False), "\n")
        for row in table.astype(object).where(table.notna(), None).to_dict("records"):
            where = {"network": row["classifier"], "method": kind, "condition": row["concept"]}
            used = row.get("controlled", row["images"])  # in place, every photo has a control
            interval = [row["low"], row["high"]]
            results.add("photos", row["images"], **where)
            results.add("drop", row["drop"], interval=[row["drop low"], row["drop high"]], n=row["images"], **where)
            results.add("control drop", row["control drop"], n=used, **where)
            results.add("effect", row["effect"], interval=interval, n=used, **where)
            results.add("q", row["q"], **where)


def experiment(options: argparse.Namespace) -> Results:
    """Probe, and print the rules."""
    print(f"false-discovery rate {FALSE_DISCOVERY_RATE}, least effect {LEAST_EFFECT}\n")
    return on_miniworld(options) if options.tier == "mini" else on_photos(options)


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", default=(), metavar="NAME", help="classifiers of the tier")
    arguments.add_argument(
        "--split", default="test", choices=("validation", "test"), help="split of MiniWorld's scenes"
    )
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
