"""Which concepts do predictions rest on? The rules that a probe finds, scored where they are known (section 5).

Tier mini: the rules of a small VGG against those that were planted, and none may be found in the same network trained
without them. Drops and effects are of log-odds. The measure, the least effect and the number of scenes were chosen on
`--split validation`; `test` is for once. A planted rule need not be learned: the rules found are also scored against
those that the network shows when each scene is painted again on other grounds (`Probing.repainted`).
Tier lite: EfficientNet-Lite0, -Lite1 and -Lite2 on MSRC v2 photos with hand-made masks (see README, 'Tiers').
"""

import time
from dataclasses import replace

import pandas as pd
from common import finish, parser, start

from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, agreement, effects, rules, score
from edittools.stories.rules import Probing, planted_pairs, probing_scenario
from edittools.world.contexts import GROUNDS

SHOWN = ["class", "concept", "images", "before", "drop", "control drop", "effect", "low", "high", "q"]


def of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Keep the rows of one classifier."""
    return table[table["classifier"] == name]


def mini(story: Probing, table: pd.DataFrame) -> dict[str, float]:
    """Score the rules of the first classifier, and count those of the one that has none."""
    look = {"control": "itself", "least_images": story.least_images}
    found = rules(of(table, story.first), **look)
    usual, strict = score(found, story.planted), score(found, planted_pairs(90))
    null = rules(of(table, story.null), **look)
    pairs = pd.Series(list(zip(found["class"], found["concept"], strict=True)), dtype=object, index=found.index)
    print(f"rules of {story.first} (planted: at least half of the class's scenes):")
    print(found[SHOWN].assign(planted=pairs.isin(story.planted)).round(3).to_string(index=False))
    missed = sorted(story.planted - set(pairs))
    print(f"\nmissed: {missed or 'none'}\nrules of {story.null}: {len(null)}")
    print(null[SHOWN].round(3).to_string(index=False) if len(null) else "")
    for least in (0.0, 0.25, 0.5, 0.75, 1.0):
        one, other = (rules(of(table, n), least_effect=least, **look) for n in (story.first, story.null))
        figures = score(one, story.planted)
        print(f"  least effect {least:4}: precision {figures['precision']:.2f}, recall {figures['recall']:.2f}, "
              f"{len(other)} in {story.null}")  # fmt: skip
    known = exact(story, table, found, look)
    other = rules(story.with_materials(story.aside, [story.first], progress=True), **look)
    print(f"\nbeside the score, sky and wall (seen wherever the table is): {len(other)} rules")
    print(other[SHOWN].round(3).to_string(index=False) + "\n")
    return {
        "precision": round(usual["precision"], 3), "recall": round(usual["recall"], 3),
        "rules_found_in_balanced_model": len(null), "rules_found": usual["found"], "rules_planted": usual["planted"],
        "precision_at_90": round(strict["precision"], 3), "recall_at_90": round(strict["recall"], 3), **known,
    }  # fmt: skip


def exact(story: Probing, table: pd.DataFrame, found: pd.DataFrame, look: dict) -> dict[str, float]:
    """Score the rules found, of grounds, against those that painting the scenes again shows."""
    painted = story.repainted(progress=True)
    true, null = (rules(of(painted, name), **look) for name in story.searched)
    pairs = set(zip(true["class"], true["concept"], strict=True))
    figures = score(found[found["concept"].isin(GROUNDS)], pairs)
    both = agreement(of(table, story.first), of(painted, story.first), **look)
    planted = both.assign(planted=both.index.isin(story.planted), rule=both.index.isin(pairs))
    print("\neffect of a ground, as probed and exactly, painted again:")
    print(planted.sort_values("exact", ascending=False).round(2).to_string())
    print(f"planted but not learned: {sorted((story.planted - pairs) & set(both.index)) or 'none'}")
    return {
        "precision_exact": round(figures["precision"], 3), "recall_exact": round(figures["recall"], 3),
        "rules_exact": len(pairs), "rules_exact_in_balanced_model": len(null),
        "correlation_with_exact": round(float(both.corr().iloc[0, 1]), 3),
    }  # fmt: skip


def lite(story: Probing, table: pd.DataFrame, styled: pd.DataFrame) -> dict[str, float | None]:
    """Tabulate what each classifier loses, concept by concept: no rules are known here, so none are scored."""
    columns = ["classifier", "concept", "images", "drop", "drop low", "drop high", "control drop", "effect", "low",
               "high", "q"]  # fmt: skip
    print("styles, beside the control elsewhere (share of readings that change):")
    print(effects(styled, least_images=10)[columns].round(3).to_string(index=False))
    print("\nmaterials of other photos, beside the control in place:")
    print(effects(table, control="itself", least_images=10)[columns].round(3).to_string(index=False))
    found = rules(styled, least_images=story.least_images)
    print(f"\nrules by class (styles; at least {story.least_images} photos of it): {len(found)}")
    print(found[["classifier", *SHOWN]].round(3).to_string(index=False) if len(found) else "", "\n")
    return {"precision": None, "recall": None, "rules_found_in_balanced_model": None, "rules_found": len(found)}


def styled(story: Probing, folder: str | None) -> pd.DataFrame:
    """Probe with the styles, resuming from `folder`."""
    return story.with_styles(store=None if folder is None else f"{folder}/styles.jsonl", progress=True)


def main() -> None:
    """Probe, print the tables, and the JSON line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    arguments.add_argument("--split", default="test", choices=("validation", "test"), help="of MiniWorld's scenes")
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    arguments.add_argument("--styled", type=int, help="photos of tier lite that are probed with styles (default: all)")
    arguments.add_argument("--store", help="folder to keep finished jobs in, and to resume from")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    story = probing_scenario(options.tier, options.split, options.per_class, progress=True)
    story = replace(story, styled=options.styled or len(story.data))
    table = story.with_materials(names=story.searched, store=options.store, progress=True)
    print(f"false-discovery rate {FALSE_DISCOVERY_RATE}, least effect {LEAST_EFFECT}, {len(story.data)} images, "
          f"{len(table):,} counterfactual predictions\n")  # fmt: skip
    figures = mini(story, table) if options.tier == "mini" else lite(story, table, styled(story, options.store))
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    finish(options, {**figures, "images": len(story.data), "seconds": round(seconds, 1)})


if __name__ == "__main__":
    main()
