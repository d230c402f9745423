"""From the diagnosis to the cure: a rule that a probe finds is rewritten by one edit, and probed again (section 5).

The strongest rule that `probing` finds in the first classifier (of the tier's example class, where it has one) becomes
a scenario (`Probing.cure`): some images that show the rule are the exemplars, half of all others are there to choose
on, the others are reported, once. Layer, exemplar, rank, mask, objective and strength are chosen as in
`snow_photos.py`, under the same accuracy budget and beside the same baselines. `errors` are images that are read
rightly until the concept is changed; `effect` is what the change costs of the right class's probability beyond the
control in place, for the same images. Tier mini: MiniWorld; tier lite: MSRC v2 photos, whose labels are the
classifier's own readings (see README, 'Tiers').
"""

import time

import pandas as pd
from common import finish, parser, start
from snow_photos import choose

from edittools.benchmark import report
from edittools.counterfactuals import effect_changes, rules
from edittools.edits import Edit
from edittools.metrics import mcnemar, wilson
from edittools.probing import Probing, probing_scenario

FEW = 3  # of several control edits, so many are probed again


def strongest(story: Probing, table: pd.DataFrame) -> tuple[pd.Series, bool]:
    """Take the strongest rule, of the example class if there is one; with none found, the strongest suspicion."""
    look = {"control": "itself", "least_images": story.least_images}
    found = rules(table, **look)
    suspects = rules(table, fdr=1, least_effect=0, **look) if found.empty else found
    mine = suspects[suspects["class"] == story.example]
    return (suspects if mine.empty else mine).iloc[0], not found.empty


def effects_after(story: Probing, rule: pd.Series, lines: dict, images: set[int]) -> pd.DataFrame:
    """Probe the rule again with every line's edit, on the reported images; of several control edits take the mean."""
    named: dict[str, Edit] = {f"{line} {k}": e for line, (_, edits) in lines.items() for k, e in enumerate(edits[:FEW])}
    again = story.probe_again(rule, named, progress=True)
    found = effect_changes(again[again["image"].isin(images)], "before", "probability", control="itself")
    return found.groupby(found.index.str.rsplit(" ", n=1).str[0], sort=False).mean()


def main() -> None:
    """Probe, choose, report."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    story = probing_scenario(options.tier, per_class=options.per_class, progress=True)
    rule, found = strongest(story, story.with_materials(names=[story.first], progress=True))
    shown = rule[["class", "concept", "style", "images", "effect", "low", "high", "q"]].to_dict()
    print("rule found:" if found else "no rule at this false-discovery rate; the strongest suspicion:", shown, "\n")
    cure = story.cure(rule)
    lines, kept = choose(cure)
    print("Images:", ", ".join(f"{name} {len(part.labels)}" for name, part in kept.items()), "\n")
    print("\n".join(f"  {name:<25}{words}" for name, (words, _) in lines.items()))
    table = report({name: edits for name, (_, edits) in lines.items()}, kept)
    spread = [wilson(round(count), len(kept["test"].labels)) for count in table["errors after"]]
    table = table.assign(
        p=[mcnemar(round(row["corrected"]), round(row["broken"])) for _, row in table.iterrows()],
        **{"rate low": [low for low, _ in spread], "rate high": [high for _, high in spread]},
    )
    again = effects_after(story, rule, lines, {int(name) for name in cure.test.names})
    print("\n" + table.T.to_string(float_format="{:.3f}".format))
    print("\neffect of the concept on the same images, as probability beyond the control, before and after:")
    print(again.to_string(float_format="{:.3f}".format))
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s in all")
    rows = table.join(again.add_prefix("effect ")).to_dict(orient="index")
    rule = {"rule_found": found, "rule": f"{rule['class']}: {rule['concept']} -> {rule['style']}"}
    finish(options, rule | rows.pop("editing") | rows | {"seconds": seconds})


if __name__ == "__main__":
    main()
