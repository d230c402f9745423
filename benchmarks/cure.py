"""From the diagnosis to the cure: a rule that a probe finds is rewritten by one edit, and probed again (section 5).

The strongest rule that `probing` finds in the first classifier (of the tier's example class, where it has one) becomes
a scenario (`cures.scenario_for`). Layer, exemplar, rank, mask, objective and strength are chosen as in
`snow_photos.py`, under the same accuracy budget and beside the same baselines, and reported once, in looks of the
material that the choice has not seen. Errors are of images that are read rightly until the concept is changed; then the
probability of the right class changes, for the same images as they are, at the control in place, and where the concept
is changed. Tier mini: MiniWorld; tier lite: MSRC v2 photos, whose labels are the classifier's own readings.
"""

import time

import pandas as pd
from common import finish, parser, start
from snow_photos import Line, choose

from edittools.benchmark import report
from edittools.counterfactuals import effect_changes
from edittools.cures import probe_again, scenario_for, shown_rule
from edittools.metrics import wilson
from edittools.probing import Probing, probing_scenario


def probed_again(story: Probing, rule: pd.Series, lines: dict[str, Line], images: list[int]) -> pd.DataFrame:
    """Probe the rule again with every line's edit; of several control edits take the means, which have no interval."""
    named = {f"{line} {k}": e for line, (_, edits) in lines.items() for k, e in enumerate(edits)}
    found = effect_changes(probe_again(story, rule, named, images, progress=True), "before", control="itself")
    line = found.index.str.rsplit(" ", n=1).str[0]
    means = found.groupby(line, sort=False).mean()
    means.loc[line.value_counts()[means.index] > 1, ["low", "high", "p"]] = float("nan")
    return means


def main() -> None:
    """Probe, choose, report."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    story = probing_scenario(options.tier, per_class=options.per_class, progress=True)
    rule, found = shown_rule(story, story.with_materials(names=[story.first], progress=True))
    shown = rule[["class", "concept", "style", "images", "effect", "low", "high", "q"]].to_dict()
    print("rule found:" if found else "no rule at this false-discovery rate; the strongest suspicion:", shown, "\n")
    cure = scenario_for(story, rule, progress=True)
    lines, kept = choose(cure)
    print("Images:", ", ".join(f"{name} {len(part.labels)}" for name, part in kept.items()), "\n")
    print("\n".join(f"  {name:<25}{words}" for name, (words, _) in lines.items()))
    table = report({name: edits for name, (_, edits) in lines.items()}, kept)
    spread = [wilson(round(count), len(kept["test"].labels)) for count in table["errors after"]]
    table = table.assign(**{"rate low": [low for low, _ in spread], "rate high": [high for _, high in spread]})
    table.loc[[name for name, (_, edits) in lines.items() if len(edits) > 1], "p"] = float("nan")  # a mean has none
    again = probed_again(story, rule, lines, [int(name) for name in cure.test.names])
    print("\n" + table.T.to_string(float_format="{:.3f}".format))
    print("\nchange of the right class's probability, and its effect beyond the control, on the same images:")
    print(again.to_string(float_format="{:.3f}".format))
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s in all")
    rows = table.join(again.add_prefix("probed ")).to_dict(orient="index")
    rule = {"rule_found": found, "rule": f"{rule['class']}: {rule['concept']} -> {rule['style']}"}
    finish(options, rule | rows.pop("editing") | rows | {"seconds": seconds})


if __name__ == "__main__":
    main()
