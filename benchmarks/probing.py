"""Which concepts do predictions rest on? The rules that a probe finds, scored where they are known (section 5).

Tier mini: the rules of a small VGG against those that were planted, and none may be found in the same network trained
without them. Drops and effects are of log-odds. The measure, the least effect and the number of scenes were chosen on
`--split validation`; `test` is for once. A planted rule need not be learned: the rules found are also scored against
those that the network shows when each scene is painted again on other grounds (`stories.repainted`). With `--models` in
tier mini the rules of each model are scored in both ways, and no network without rules is looked at.
Tier lite: EfficientNet-Lite0, -Lite1 and -Lite2 on MSRC v2 photos with hand-made masks (see README, 'Tiers'); tier
paper: VGG16 and ResNet-50. No rules are known there; the JSON line has each concept's effect on each network.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import pandas as pd
from common import finish, parser, start

from edittools.probing.counterfactuals import Concepts
from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, Probe, pairs, score
from edittools.probing.probe import Settings, probe
from edittools.stories.rules import probing_story, repainted
from edittools.world.contexts import GROUNDS, planted_rules
from edittools.world.textures import style_textures
from edittools.zoo.load import load_classifier

SHOWN = ["class", "concept", "images", "before", "drop", "control drop", "effect", "low", "high", "q"]
BALANCED = "mini_vgg_balanced"
"""The network that saw class and surroundings independently of each other."""


def mini(probe: Probe, painted: Probe) -> dict[str, float]:
    """Score the rules of the first classifier, and count those of the one that has none."""
    first = probe.table["classifier"].iloc[0]
    one, other = (probe.where("classifier", name) for name in (first, BALANCED))
    found, null, planted = one.rules(), other.rules(), planted_rules()
    usual, strict = score(found, planted), score(found, planted_rules(90))
    print(f"rules of {first} (planted: at least half of the class's scenes):")
    known = [pair in planted for pair in zip(found["class"], found["concept"], strict=True)]
    print(found[SHOWN].assign(planted=known).round(3).to_string(index=False))
    print(f"\nmissed: {sorted(planted - pairs(found)) or 'none'}\nrules of {BALANCED}: {len(null)}")
    print(null[SHOWN].round(3).to_string(index=False) if len(null) else "")
    for least in (0.0, 0.25, 0.5, 0.75, 1.0):
        figures, none = score(one.rules(least_effect=least), planted), len(other.rules(least_effect=least))
        scored = f"precision {figures['precision']:.2f}, recall {figures['recall']:.2f}"
        print(f"  least effect {least:4}: {scored}, {none} in {BALANCED}")
    counts = {"rules_found": usual["found"], "rules_planted": usual["planted"]}
    counts |= {"rules_found_in_balanced_model": len(null)}
    counts |= _rounded(usual) | _rounded(strict, "_at_90") | against_painted(one, painted.where("classifier", first))
    return counts | {"rules_exact_in_balanced_model": len(painted.where("classifier", BALANCED).rules())}


def _rounded(figures: dict[str, float], of: str = "") -> dict[str, float]:
    """Precision and recall for the JSON line."""
    return {f"{name}{of}": round(figures[name], 3) for name in ("precision", "recall")}


def against_painted(probe: Probe, painted: Probe) -> dict[str, float]:
    """Score the rules of one classifier, of grounds, against those that it shows on scenes that are painted again."""
    found, learned, planted = probe.rules(), pairs(painted.rules()), planted_rules()
    figures = score(found[found["concept"].isin(GROUNDS)], learned)
    both = probe.agreement(painted)
    shown = both.assign(planted=both.index.isin(planted), rule=both.index.isin(learned))
    print("\neffect of a ground, as probed and exactly, painted again:")
    print(shown.sort_values("exact", ascending=False).round(2).to_string())
    print(f"planted but not learned: {sorted((planted - learned) & set(both.index)) or 'none'}")
    correlation = round(float(both.corr().iloc[0, 1]), 3)
    return _rounded(figures, "_exact") | {"rules_exact": len(learned), "correlation_with_exact": correlation}


def mini_networks(probe: Probe, painted: Probe) -> dict[str, Any]:
    """Score the rules of several networks, each against what was planted and against what itself shows."""
    networks = {}
    for name in probe.table["classifier"].unique():
        mine, shown = (one.where("classifier", name) for one in (probe, painted))
        planted = score(mine.rules(), planted_rules())
        print(f"\n{name}")
        counts = {"rules_found": planted["found"], "rules_planted": planted["planted"]}
        networks[name] = counts | _rounded(planted) | against_painted(mine, shown)
    print("\n" + pd.DataFrame(networks).T.to_string())
    return {"networks": networks}


def styled(concepts: Concepts, settings: Settings) -> tuple[Concepts, Settings]:
    """The same photos, to be turned to some of the paper's styles, beside the control elsewhere."""
    textures = style_textures(("snow", "wooden", "graffiti", "floral"), size=concepts.data.images.shape[-1])
    asked = Settings(labels=settings.labels, least_images=settings.least_images)
    return replace(concepts, styles=textures, groups=()), asked


def lite(probe: Probe, styled: Probe) -> dict[str, Any]:
    """Tabulate what each classifier loses, concept by concept: no rules are known here, so none are scored."""
    columns = ["classifier", "concept", "images", "drop", "drop low", "drop high", "control drop"]
    columns += ["effect", "low", "high", "q"]
    probes = {"styles": styled, "materials": probe}
    effects = {kind: one.effects(columns[:2], least_images=10)[columns] for kind, one in probes.items()}
    print("styles, beside the control elsewhere (share of readings that change):")
    print(effects["styles"].round(3).to_string(index=False))
    print("\nmaterials of other photos, beside the control in place:")
    print(effects["materials"].round(3).to_string(index=False))
    found = styled.rules()
    print(f"\nrules by class (styles; at least {styled.least_images} photos of it): {len(found)}")
    print(found[["classifier", *SHOWN]].round(3).to_string(index=False) if len(found) else "", "\n")
    known = {"precision": None, "recall": None, "rules_found_in_balanced_model": None, "rules_found": len(found)}
    by_kind = {kind: records(table) for kind, table in effects.items()}
    return {**known, "false_discovery_rate": FALSE_DISCOVERY_RATE, "effects": by_kind}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON has them: five decimals, None for what is not known."""
    rounded = table.round(5).astype(object)
    return rounded.where(table.notna(), None).to_dict("records")


def on_miniworld(options: argparse.Namespace) -> dict[str, Any]:
    """Probe scenes with materials, and paint them again."""
    classifiers, concepts, settings, _ = probing_story("mini", options.split, options.per_class, True)
    names = options.models or ("mini_vgg", BALANCED)
    searched = {name: classifiers.get(name) or load_classifier(name) for name in names}
    found = probe(searched, concepts, settings, store=options.store, progress=True)
    painted = repainted(searched, concepts, options.split, settings.least_images)
    print(f"{len(found.table):,} counterfactual predictions\n")
    return (mini_networks if options.models else mini)(found, painted) | {"images": len(concepts.data)}


def main() -> None:
    """Probe, print the tables, and the JSON line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", default=(), metavar="NAME", help="of the tier")
    arguments.add_argument("--split", default="test", choices=("validation", "test"), help="of MiniWorld's scenes")
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    arguments.add_argument("--store", help="folder to keep finished jobs in, and to resume from")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    print(f"false-discovery rate {FALSE_DISCOVERY_RATE}, least effect {LEAST_EFFECT}\n")
    if options.tier == "mini":
        figures = on_miniworld(options)
    else:
        classifiers, concepts, settings, _ = probing_story(options.tier, progress=True, models=options.models)
        asked = {"materials": (concepts, settings), "styles": styled(concepts, settings)}
        found = {kind: probe(classifiers, *one, store=options.store, progress=True) for kind, one in asked.items()}
        figures = lite(found["materials"], found["styles"]) | {"images": len(concepts.data)}
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    finish(options, {**figures, "seconds": round(seconds, 1)})


if __name__ == "__main__":
    main()
