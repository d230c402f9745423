"""Claim: an edit of one rule makes a network rely on no other rule (Whac-A-Mole, CVPR 2023).

The strongest rule that a probe finds is edited as in `found_rule.py`, next to a random direction, an edit of full rank
and local fine-tuning, each selected under the same constraints. Then all rules of the network are found again. Tier
mini: each scene is rendered again on other grounds, so effects are exact. Tier lite: a probe of MSRC v2 photos; a class
has few photos there, so rules are those of all classes together.
"""

import argparse

import pandas as pd
from _lib.command import parser, run
from _lib.methods import FAST, FULL_RANK, QUICK, RATES, SLOW, STRENGTHS, Plan, search_of, small
from _lib.results import Results

from edittools.probing.effects import LEAST_IMAGES, Probe, bootstrap
from edittools.probing.probe import probe
from edittools.scenarios.finetuning import select_finetuning
from edittools.scenarios.rules import probing_setup, repainted, scenario_for, shown_rule
from edittools.scenarios.scenario import Scenario
from edittools.selection.search import Selection


def select(scenario: Scenario, quick: bool = False) -> dict[str, Selection]:
    """Select an edit and its baselines."""
    search = search_of(small(scenario) if quick else scenario)
    settings = QUICK.settings if quick else FAST
    return {
        "edit": search.select(search.candidates("rewrite", settings, STRENGTHS)),
        "random direction": search.select(search.candidates("random_direction", settings, STRENGTHS)),
        "full rank": search.select(search.candidates("rewrite", FULL_RANK, STRENGTHS)),
        "local fine-tuning": select_finetuning(search, "local", QUICK if quick else Plan(rates=RATES, **SLOW)),
    }


def side_effects(found: Probe, concept: str, pooled: bool) -> pd.DataFrame:
    """Compare the rules of each edited classifier with those of the one named "before", one row per classifier.

    Effects are in log-odds, means over classes: of the edited `concept` before and after, and how far those of other
    concepts moved, with the interval over classes and concepts and the largest rise.
    """
    keys = ["concept"] if pooled else ["class", "concept"]
    rules = {}
    effects = {}
    for name in found.table["classifier"].unique():
        part = found.where("classifier", name)
        rules[name] = set(part.rules(pooled=pooled)[keys].itertuples(index=False, name=None))
        effects[name] = part.effects(keys, "log-odds", least_images=LEAST_IMAGES).set_index(keys)["effect"]
    known = rules.pop("before")
    first = effects.pop("before")
    rows = {}
    for name in rules:
        is_edited = effects[name].index.get_level_values("concept") == concept
        moved = (effects[name] - first)[~is_edited]
        low, high = bootstrap(moved)
        rows[name] = {
            "rules before": len(known),
            "rules kept": len(rules[name] & known),
            "new rules": len(rules[name] - known),
            "effect before": first[is_edited].mean(),
            "effect after": effects[name][is_edited].mean(),
            "effect change": moved.mean(),
            "low": low,
            "high": high,
            "largest rise": moved.max(),
            "effects": len(moved),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def experiment(options: argparse.Namespace) -> Results:
    """Probe, edit, probe again."""
    is_mini = options.tier == "mini"
    given = probing_setup(options.tier, per_class=12, progress=True) if options.quick and is_mini else None
    classifiers, concepts, settings, common = given or probing_setup(options.tier, progress=True)
    network, classifier = next(iter(classifiers.items()))
    rule, is_rule = shown_rule(probe(classifier, concepts, settings, progress=True))
    scenario, _ = scenario_for(classifier, concepts, rule, common)
    selections = select(scenario, options.quick)
    named = {"before": classifier} | {name: one.edit.edited(classifier) for name, one in selections.items()}
    again = repainted(named, concepts) if is_mini else probe(named, concepts, settings, progress=True)
    table = side_effects(again, rule["concept"], pooled=not is_mini)
    words = f"{rule['class']}: {rule['concept']} -> {rule['style']}"
    print(f"edited {'rule' if is_rule else 'suspicion'}: {words}\n")
    notes = {"rule": words, "rule_found": bool(is_rule)}
    results = Results("side_effects", "MiniWorld" if is_mini else "photos", notes=notes)
    for method, row in table.iterrows():
        add_row(results, row, network, method)
        results.add("candidates", selections[method].n_candidates, network=network, method=method)
        results.add_selected(str(selections[method]), network, method)
    return results


def add_row(results: Results, row: pd.Series, network: str, method: str) -> None:
    """Add a row of `side_effects` to the results."""
    where = {"network": network, "method": method}
    for metric in ("rules before", "rules kept", "new rules"):
        results.add(metric, row[metric], split="all rules", **where)
    for metric in ("effect before", "effect after"):
        results.add(metric, row[metric], split="edited concept", **where)
    interval = [row["low"], row["high"]]
    where["split"] = "other concepts"
    results.add("effect change", row["effect change"], interval=interval, n=row.get("effects"), **where)
    results.add("largest rise", row["largest rise"], **where)


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    run(arguments, experiment)


if __name__ == "__main__":
    main()
