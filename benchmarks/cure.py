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
from methods import FAST, LOCALITY, RATES, SLOW, STRENGTHS, choose_all, effort, locality, with_near
from reactive import reacting

from edittools.probing.probe import probe
from edittools.scenarios.rules import probing_setup, scenario_for, shown_rule
from edittools.selection.search import Plan, Protocol


def main() -> None:
    """Probe, choose, report."""
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
    protocol = Protocol(with_near(cure), cure.layers, progress=True)
    slow = (
        {"tuned": cure.shortlist, "settings": FAST, "strengths": STRENGTHS, "rates": RATES, **SLOW}
        if options.tier != "mini"
        else {}
    )
    chosen = choose_all(protocol, Plan(edited=cure.shortlist, **slow))
    edits = {name: choice.edit for name, choice in chosen.items()}
    close = {name: protocol.states[name] for name in LOCALITY if name in protocol.states}
    local = lambda edit: locality({name: [states.compare(edit)] for name, states in close.items()})  # noqa: E731
    said = {name: effort(c, protocol) | local(c.edit) for name, c in chosen.items()}
    table = protocol.report(edits).join(pd.DataFrame.from_dict(said, orient="index"))
    _, unseen = concepts.parted(rule["concept"], rule["style"])
    reactive = edits.pop("reactive")
    named = {"before": classifier, "reactive": reacting(reactive, protocol.cuts[reactive.layers[0]])}
    named |= {name: edit.edited(classifier) for name, edit in edits.items()}
    again = probe(named, unseen.subset(numbers["test"]), replace(settings, labels="given"), progress=True).changes()
    print("\n" + table.T.to_string(float_format="{:.3f}".format))
    print("\nchange of the right class's probability, and its effect beyond the control, on the same images:")
    print(again.to_string(float_format="{:.3f}".format))
    rows = table.join(again.add_prefix("probed ")).to_dict(orient="index")
    rule = {"rule_found": found, "rule": f"{rule['class']}: {rule['concept']} -> {rule['style']}"}
    finish(options, rule | rows.pop("editing") | rows | {"budget": protocol.about_budget()})


if __name__ == "__main__":
    main()
