"""Does the edit of one rule wake others (Whac-A-Mole, CVPR 2023)? All rules of a classifier before and after it.

The strongest rule that a probe finds is edited as in `cure.py`, beside a random direction, the closed form and local
fine-tuning, each chosen within the same bounds. Then the network is asked again what all its classes rely on. Tier
mini: each scene is painted again on other grounds, so effects are exact. Tier lite: a probe of MSRC v2 photos; a class
has few photos there, so rules are those of all classes together.
"""

import pandas as pd
from common import finish, parser, start
from methods import FAST, RATES, SLOW, STRENGTHS, Plan, search_of

from edittools.probing.effects import LEAST_IMAGES, Probe, bootstrap
from edittools.probing.probe import probe
from edittools.scenarios.finetuning import select_finetuning
from edittools.scenarios.rules import probing_setup, repainted, scenario_for, shown_rule
from edittools.scenarios.scenario import Scenario
from edittools.selection.search import Selection


def edited(story: Scenario) -> dict[str, Selection]:
    """Select an edit and its baselines in the scenario's shortlist."""
    search = search_of(story)
    tuned = select_finetuning(search, "local", Plan(rates=RATES, **SLOW))
    return {
        "edit": search.select(search.candidates("rewrite", FAST, STRENGTHS)),
        "random direction": search.select(search.candidates("random_direction", FAST, STRENGTHS)),
        "closed form": search.select(search.candidates("closed_form", strengths=STRENGTHS)),
        "local fine-tuning": tuned,
    }


def woken(found: Probe, concept: str, pooled: bool) -> pd.DataFrame:
    """Compare the rules of each edited classifier with those of the one named "before", a row each.

    Effects are in log-odds, means over classes: of the edited `concept` before and after, and how far those of other
    concepts moved, with the interval over classes and concepts and the largest rise.
    """
    keys, parts = ["concept"] if pooled else ["class", "concept"], {}
    for name in found.table["classifier"].unique():
        mine = found.where("classifier", name)
        rules = set(mine.rules(pooled=pooled)[keys].itertuples(index=False, name=None))
        parts[name] = rules, mine.effects(keys, "log-odds", least_images=LEAST_IMAGES).set_index(keys)["effect"]
    known, first = parts.pop("before")
    rows = {}
    for name, (rules, effects) in parts.items():
        of_concept = effects.index.get_level_values("concept") == concept
        moved = (effects - first)[~of_concept]
        low, high = bootstrap(moved)
        rows[name] = {"rules": len(known), "still there": len(rules & known), "woken": len(rules - known)}
        rows[name] |= {"effect before": first[of_concept].mean(), "effect after": effects[of_concept].mean()}
        rows[name] |= {"others moved": moved.mean(), "low": low, "high": high, "largest rise": moved.max()}
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    """Probe, edit, probe again."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    options = start(arguments)
    classifiers, concepts, settings, everyday = probing_setup(options.tier, progress=True)
    classifier = next(iter(classifiers.values()))
    rule, is_rule = shown_rule(probe(classifier, concepts, settings, progress=True))
    story, _ = scenario_for(classifier, concepts, rule, everyday)
    chosen = edited(story)
    named = {"before": classifier} | {name: choice.edit.edited(classifier) for name, choice in chosen.items()}
    mini = options.tier == "mini"
    again = repainted(named, concepts) if mini else probe(named, concepts, settings, progress=True)
    table = woken(again, rule["concept"], pooled=not mini)
    words = f"{rule['class']}: {rule['concept']} -> {rule['style']}"
    print(f"edited {'rule' if is_rule else 'suspicion'}: {words}\n\n{table.T.to_string(float_format='{:.3f}'.format)}")
    table["chosen"] = [str(choice) for choice in chosen.values()]
    table["candidates"] = [selection.n_candidates for selection in chosen.values()]
    finish(options, {"rule": words, "rule_found": is_rule, "methods": table.to_dict("index")})


if __name__ == "__main__":
    main()
