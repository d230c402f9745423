"""From the diagnosis to the cure: a rule that a probe finds is rewritten by one edit, and probed again (section 5).

The strongest rule that `probing` finds in the first classifier (of the tier's example class, where it has one) becomes
a scenario (`scenarios.scenario_for`). Layer, exemplar, rank, mask, objective and strength are chosen as in
`snow_photos.py`, under the same accuracy budget and beside the same baselines, and reported once, in variants of the
material that the choice has not seen. Errors are of images that are read rightly until the concept is changed; then the
probability of the right class changes, for the same images as they are, at the control in place, and where the concept
is changed. Tier mini: MiniWorld; tiers lite and paper: MSRC v2 photos, whose labels are the classifier's own readings.
"""

from dataclasses import replace

import pandas as pd
from common import finish, parser, start
from methods import FAST, LOCALITY, RATES, SLOW, STRENGTHS, Plan, effort, locality, search_of, select_all, with_near
from reactive import reacting

from edittools.probing.probe import probe
from edittools.scenarios.rules import probing_setup, scenario_for, shown_rule

COLUMNS = {
    "target": "validation",
    "clean": "budget",
    "retain": "keep",
    "clean_test": "clean",
    "retain_test": "keep_report",
    "same_class_test": "own",
}
"""Splits whose columns have another name in the results."""


def with_old_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Rename the columns of an evaluation to those in the results, such as "clean_test change" to "clean change"."""
    names = {}
    for column in table.columns:
        split, _, figure = column.rpartition(" ")
        if split in COLUMNS:
            names[column] = f"{COLUMNS[split]} {figure}"
    return table.rename(columns=names)


def main() -> None:
    """Probe, select, evaluate."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", default=(), metavar="NAME", help="of tiers lite and paper")
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    options = start(arguments)
    given = probing_setup(options.tier, per_class=options.per_class, progress=True, models=options.models)
    classifiers, concepts, settings, everyday = given
    classifier = next(iter(classifiers.values()))
    rule, found = shown_rule(probe(classifier, concepts, settings, progress=True))
    shown = rule[["class", "concept", "style", "images", "effect", "low", "high", "q"]].to_dict()
    print("rule found:" if found else "no rule at this false-discovery rate; the strongest suspicion:", shown, "\n")
    cure, numbers = scenario_for(classifier, concepts, rule, everyday)
    story = with_near(cure)
    search = search_of(story, cure.layers)
    slow = (
        {"tuned": cure.shortlist, "settings": FAST, "strengths": STRENGTHS, "rates": RATES, **SLOW}
        if options.tier != "mini"
        else {}
    )
    selections = select_all(story, search, Plan(edited=cure.shortlist, **slow))
    edits = {name: selection.edit for name, selection in selections.items()}
    close = {name: search.activations[name] for name in LOCALITY if name in search.activations}
    local = lambda edit: locality({name: [states.compare(edit)] for name, states in close.items()})  # noqa: E731
    said = {name: effort(one, story, search) | local(one.edit) for name, one in selections.items()}
    table = with_old_columns(search.evaluate(edits)).join(pd.DataFrame.from_dict(said, orient="index"))
    _, unseen = concepts.parted(rule["concept"], rule["style"])
    reactive = edits.pop("reactive")
    named = {"before": classifier, "reactive": reacting(reactive, search.cuts[reactive.layers[0]])}
    named |= {name: edit.edited(classifier) for name, edit in edits.items()}
    again = probe(
        named, unseen.subset(numbers["target_test"]), replace(settings, labels="given"), progress=True
    ).changes()
    print("\n" + table.T.to_string(float_format="{:.3f}".format))
    print("\nchange of the right class's probability, and its effect beyond the control, on the same images:")
    print(again.to_string(float_format="{:.3f}".format))
    rows = table.join(again.add_prefix("probed ")).to_dict(orient="index")
    rule = {"rule_found": found, "rule": f"{rule['class']}: {rule['concept']} -> {rule['style']}"}
    finish(options, rule | rows.pop("editing") | rows | {"budget": search.describe_constraints()})


if __name__ == "__main__":
    main()
