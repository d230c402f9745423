"""Claim: a rule that a probe finds can be rewritten by one edit, and a second probe shows it (section 5).

The strongest rule that `probing` finds in the first classifier (of the tier's example class, where it has one) becomes
a scenario (`scenarios.scenario_for`). Layer, exemplar, rank, mask, objective and strength are selected as in
`snow_photos.py`, with the same accuracy constraint and next to the same baselines, and evaluated once, in variants of
the material that the selection has not seen. Errors are of images that are correct until the concept is changed; the
change in the probability of the right class is that of the same images as they are, at the control in place, and where
the concept is changed. Tier mini: MiniWorld; tiers lite and paper: MSRC v2 photos, whose labels are the classifier's
own predictions.
"""

import argparse
from dataclasses import replace

import pandas as pd
from _lib.command import add_methods, parser, run
from _lib.gated_projection import with_gated_projection
from _lib.methods import (
    FAST,
    ONE_EACH,
    QUICK,
    RATES,
    SLOW,
    STRENGTHS,
    Plan,
    add_effort,
    effort,
    search_of,
    select_all,
    small,
    with_near,
)
from _lib.results import Results, name_of

from edittools.metrics import Comparison
from edittools.probing.probe import probe
from edittools.scenarios.rules import probing_setup, scenario_for, shown_rule

EVALUATED = ("target", "clean", "retain", "clean_test", "retain_test", "same_class_test", "elsewhere")
"""Splits that are compared before and after, where a scenario has them."""


def add_comparison(results: Results, found: Comparison, network: str, method: str, split: str) -> None:
    """Add what a method did to a split."""
    where = {"network": network, "method": name_of(method), "split": split}
    results.add("errors before", int(found.before.sum()), n=len(found.before), **where)
    results.add("errors after", int(found.after.sum()), n=len(found.after), **where)
    interval = found.accuracy_interval()
    results.add("accuracy change", found.accuracy_change, interval=interval, n=len(found.before), **where)
    results.add_outcomes(found.before.int().tolist(), found.after.int().tolist(), **where)


def add_target(results: Results, found: Comparison, network: str, method: str) -> None:
    """Add what a method did to the test images of the rule."""
    where = {"network": network, "method": name_of(method), "split": "target_test"}
    row = found.row()
    interval = found.corrected_interval()
    results.add("errors before", row["errors before"], n=row["images"], **where)
    results.add("errors after", row["errors after"], n=row["images"], **where)
    results.add("corrected", row["corrected"], **where)
    results.add("broken", row["broken"], **where)
    results.add("errors corrected", row["errors corrected"], interval=interval, n=row["errors before"], **where)
    results.add("p", row["p"], **where)
    results.add_outcomes(found.before.int().tolist(), found.after.int().tolist(), **where)


def add_probability(results: Results, changes: pd.Series, network: str, method: str) -> None:
    """Add how the probability of the right class changed in the second probe."""
    where = {"network": network, "method": name_of(method)}
    interval = [changes["low"], changes["high"]]
    results.add(
        "probability change", changes["changed"], split="changed", interval=interval, n=changes["images"], **where
    )
    results.add("probability change", changes["untouched"], split="untouched", n=changes["images"], **where)
    results.add("probability change", changes["control"], split="control", n=changes["images"], **where)
    results.add("p", changes["p"], split="changed", **where)
    results.add("effect before", changes["effect before"], split="changed", **where)
    results.add("effect after", changes["effect after"], split="changed", **where)


def experiment(options: argparse.Namespace) -> Results:
    """Probe, select, evaluate, probe again."""
    per_class = 12 if options.quick else options.per_class
    given = probing_setup(options.tier, per_class=per_class, progress=True, models=options.models)
    classifiers, concepts, settings, common = given
    network, classifier = next(iter(classifiers.items()))
    rule, is_rule = shown_rule(probe(classifier, concepts, settings, progress=True))
    shown = rule[["class", "concept", "style", "images", "effect", "low", "high", "q"]].to_dict()
    print("rule found:" if is_rule else "no rule at this false-discovery rate; the strongest suspicion:", shown, "\n")
    whole, numbers = scenario_for(classifier, concepts, rule, common)
    _, unseen = concepts.parted(rule["concept"], rule["style"])
    images = unseen.subset(numbers["target_test"])
    plan = Plan()
    if options.tier != "mini":
        plan = Plan(settings=FAST, strengths=STRENGTHS, rates=RATES, **SLOW)
    scenario = with_near(small(whole) if options.quick else whole)
    search = search_of(scenario)
    plan = QUICK if options.quick else plan
    selections = select_all(scenario, search, plan, ONE_EACH if options.quick else None, options.methods)
    words = f"{rule['class']}: {rule['concept']} -> {rule['style']}"
    notes = {"constraints": search.describe_constraints(), "rule": words, "rule_found": bool(is_rule)}
    results = Results("found_rule", "MiniWorld" if options.tier == "mini" else "photos", notes=notes)
    named = {"before": classifier}
    for method, selection in selections.items():
        found = {name: states.compare(selection.edit) for name, states in search.activations.items()}
        add_target(results, found["target_test"], network, method)
        for split in EVALUATED:
            if split in found:
                add_comparison(results, found[split], network, method, split)
        row = effort(selection, scenario, search)
        near = {name: [comparison] for name, comparison in found.items()}
        add_effort(results, row, near, network=network, method=name_of(method))
        results.add_selected(row["settings"], network, name_of(method))
        if method == "reactive":
            named[method] = with_gated_projection(selection.edit, search.cuts[selection.edit.layers[0]])
        else:
            named[method] = selection.edit.edited(classifier)
    again = probe(named, images, replace(settings, labels="given"), progress=True).changes()
    for method, changes in again.iterrows():
        add_probability(results, changes, network, method)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__.split("\n\n")[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", default=(), metavar="NAME", help="of tiers lite and paper")
    arguments.add_argument("--per-class", type=int, default=40, help="MiniWorld scenes of each class")
    add_methods(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
