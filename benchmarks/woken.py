"""Does the edit of one rule wake others (Whac-A-Mole, CVPR 2023)? All rules of a classifier before and after it.

The strongest rule that a probe finds is edited as in `cure.py`, beside a random direction, the closed form and local
fine-tuning, each chosen within the same bounds. Then the network is asked again what all its classes rely on. Tier
mini: each scene is painted again on other grounds, so effects are exact. Tier lite: a probe of MSRC v2 photos; a class
has few photos there, so rules are those of all classes together.
"""

from typing import Any

import pandas as pd
from common import finish, parser, start
from methods import FAST, RATES, SLOW, STRENGTHS

from edittools.probing.effects import LEAST_IMAGES, Probe, bootstrap
from edittools.probing.probe import probe
from edittools.scenarios.rules import probing_setup, repainted, scenario_for, shown_rule
from edittools.selection.search import Plan, Protocol


def edited(protocol: Protocol) -> dict[str, Any]:
    """Choose an edit and its rivals in the story's shortlist."""
    layers = protocol.story.shortlist
    tuned = protocol.choose_finetuning("local", Plan(tuned=layers, rates=RATES, **SLOW))
    return {
        "edit": protocol.choose(protocol.rewriting(FAST, STRENGTHS, layers=layers)),
        "random direction": protocol.choose(protocol.random_directions(FAST, STRENGTHS, layers=layers)),
        "closed form": protocol.choose(protocol.baseline("closed_form", STRENGTHS, layers=layers)),
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
    chosen = edited(Protocol(story, story.shortlist, progress=True))
    named = {"before": classifier} | {name: choice.edit.edited(classifier) for name, choice in chosen.items()}
    mini = options.tier == "mini"
    again = repainted(named, concepts) if mini else probe(named, concepts, settings, progress=True)
    table = woken(again, rule["concept"], pooled=not mini)
    words = f"{rule['class']}: {rule['concept']} -> {rule['style']}"
    print(f"edited {'rule' if is_rule else 'suspicion'}: {words}\n\n{table.T.to_string(float_format='{:.3f}'.format)}")
    table["chosen"] = [str(choice) for choice in chosen.values()]
    table["candidates"] = [choice.trials for choice in chosen.values()]
    finish(options, {"rule": words, "rule_found": is_rule, "methods": table.to_dict("index")})


if __name__ == "__main__":
    main()
