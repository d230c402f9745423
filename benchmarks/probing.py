"""Which concepts do predictions rest on? The rules that a probe finds, scored where they are known (section 5).

Tier mini: the rules of a small VGG against those that were planted, and none may be found in the same network trained
without them. Drops and effects are of log-odds. The measure, the least effect and the number of scenes were chosen on
`--split validation`; `test` is for once. A planted rule need not be learned: the rules found are also scored against
those that the network shows when each scene is painted again on other grounds (`Probing.repainted`). With `--models` in
tier mini the rules of each model are scored in both ways, and no network without rules is looked at.
Tier lite: EfficientNet-Lite0, -Lite1 and -Lite2 on MSRC v2 photos with hand-made masks (see README, 'Tiers'); tier
paper: VGG16 and ResNet-50. No rules are known there; the JSON line has each concept's effect on each network.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from common import finish, parser, start

from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, Probe, pairs, score
from edittools.stories.rules import Probing, probing_scenario
from edittools.world.contexts import GROUNDS, planted_rules
from edittools.zoo.load import load_classifier

SHOWN = ["class", "concept", "images", "before", "drop", "control drop", "effect", "low", "high", "q"]


def mini(story: Probing, probe: Probe) -> dict[str, float]:
    """Score the rules of the first classifier, and count those of the one that has none."""
    first, other = (probe.where("classifier", name) for name in (story.first, story.null))
    found, null = first.rules(), other.rules()
    usual, strict = score(found, story.planted), score(found, planted_rules(90))
    print(f"rules of {story.first} (planted: at least half of the class's scenes):")
    planted = [pair in story.planted for pair in zip(found["class"], found["concept"], strict=True)]
    print(found[SHOWN].assign(planted=planted).round(3).to_string(index=False))
    missed = sorted(story.planted - pairs(found))
    print(f"\nmissed: {missed or 'none'}\nrules of {story.null}: {len(null)}")
    print(null[SHOWN].round(3).to_string(index=False) if len(null) else "")
    for least in (0.0, 0.25, 0.5, 0.75, 1.0):
        figures, none = score(first.rules(least_effect=least), story.planted), len(other.rules(least_effect=least))
        scored = f"precision {figures['precision']:.2f}, recall {figures['recall']:.2f}"
        print(f"  least effect {least:4}: {scored}, {none} in {story.null}")
    known = exact(story, first)
    unscored = story.with_materials(story.unscored, [story.first], progress=True).rules()
    print(f"\nbeside the score, sky and wall (seen wherever the table is): {len(unscored)} rules")
    print(unscored[SHOWN].round(3).to_string(index=False) + "\n")
    counts = {"rules_found": usual["found"], "rules_planted": usual["planted"]}
    counts |= {"rules_found_in_balanced_model": len(null)}
    return counts | _rounded(usual) | _rounded(strict, "_at_90") | known


def _rounded(figures: dict[str, float], of: str = "") -> dict[str, float]:
    """Precision and recall for the JSON line."""
    return {f"{name}{of}": round(figures[name], 3) for name in ("precision", "recall")}


def exact(story: Probing, probe: Probe) -> dict[str, float]:
    """Score the rules of the first classifier, of grounds, against those that painting the scenes again shows."""
    both_painted = story.repainted(progress=True)
    painted, null = (both_painted.where("classifier", name) for name in story.searched)
    counts = {"rules_exact_in_balanced_model": len(null.rules())}
    return against_painted(story, probe, painted) | counts


def against_painted(story: Probing, probe: Probe, painted: Probe) -> dict[str, float]:
    """Score the rules of one classifier, of grounds, against those that it shows on scenes that are painted again."""
    found, learned = probe.rules(), pairs(painted.rules())
    figures = score(found[found["concept"].isin(GROUNDS)], learned)
    both = probe.agreement(painted)
    shown = both.assign(planted=both.index.isin(story.planted), rule=both.index.isin(learned))
    print("\neffect of a ground, as probed and exactly, painted again:")
    print(shown.sort_values("exact", ascending=False).round(2).to_string())
    print(f"planted but not learned: {sorted((story.planted - learned) & set(both.index)) or 'none'}")
    correlation = round(float(both.corr().iloc[0, 1]), 3)
    return _rounded(figures, "_exact") | {"rules_exact": len(learned), "correlation_with_exact": correlation}


def mini_networks(story: Probing, names: Sequence[str], store: str | None) -> dict[str, Any]:
    """Score the rules of several networks, each against what was planted and against what itself shows."""
    story = replace(story, classifiers={name: load_classifier(name) for name in names}, null=None)
    probe, painted = story.with_materials(store=store, progress=True), story.repainted(progress=True)
    networks = {}
    for name in names:
        mine, shown = (one.where("classifier", name) for one in (probe, painted))
        planted = score(mine.rules(), story.planted)
        print(f"\n{name}")
        counts = {"rules_found": planted["found"], "rules_planted": planted["planted"]}
        networks[name] = counts | _rounded(planted) | against_painted(story, mine, shown)
    print("\n" + pd.DataFrame(networks).T.to_string())
    return {"networks": networks}


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


def main() -> None:
    """Probe, print the tables, and the JSON line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", default=(), metavar="NAME", help="of the tier")
    arguments.add_argument("--split", default="test", choices=("validation", "test"), help="of MiniWorld's scenes")
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    arguments.add_argument("--styled", type=int, help="photos of tier lite that are probed with styles (default: all)")
    arguments.add_argument("--store", help="folder to keep finished jobs in, and to resume from")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    given = {"models": options.models} if options.tier != "mini" else {}
    story = probing_scenario(options.tier, options.split, options.per_class, True, **given)
    story = replace(story, styled=options.styled or len(story.data))
    print(f"false-discovery rate {FALSE_DISCOVERY_RATE}, least effect {LEAST_EFFECT}, {len(story.data)} images\n")
    if options.tier == "mini" and options.models:
        figures = mini_networks(story, options.models, options.store)
    else:
        probe = story.with_materials(names=story.searched, store=options.store, progress=True)
        print(f"{len(probe.table):,} counterfactual predictions\n")
        styled = None if options.tier == "mini" else story.with_styles(store=options.store, progress=True)
        figures = mini(story, probe) if styled is None else lite(probe, styled)
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    finish(options, {**figures, "images": len(story.data), "seconds": round(seconds, 1)})


if __name__ == "__main__":
    main()
