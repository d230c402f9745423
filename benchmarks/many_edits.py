"""Claim: many edits in one classifier cost little if each is made on top of the others (MiniWorld).

Each rule that a probe finds in `mini_vgg` is rewritten by an edit of its own, selected on images of its class alone,
under the accuracy constraint and its own retained images: all other rules' images as they are, and those that show the
new material. The edits are made (a) each on the original network, and added up, (b) one on top of the other, each
selected on the network as the others left it, strongest rule first and weakest first. After 1, 2, 4, ... rules: errors
corrected of the rules' own test images, how much of what each single edit corrects is still correct, accuracy, and how
many of the test scenes as they are break. Rules are found and edits selected on validation scenes; all is evaluated on
test scenes.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import pandas as pd
import torch
from _lib.command import parser, run
from _lib.results import Results
from torch import Tensor
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.probing.counterfactuals import LEAST_AREA, Concepts
from edittools.probing.probe import probe
from edittools.scenarios.rules import probing_setup, scenario_for
from edittools.scenarios.scenario import Scenario
from edittools.selection import EditSearch, Selection, grid

SETTINGS = grid(rank=(1,), masked=(True,), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0))


def scenarios_for(
    classifier: Classifier,
    concepts: Concepts,
    report: Concepts,
    rules: pd.DataFrame,
    common_fields: Mapping[str, Any],
    exemplars: int = 3,
) -> dict[str, Scenario]:
    """Make a scenario for each row of `rules`, named "class: concept → style".

    Each changes the correct images of the rule's class that show the concept to the style, and retains those of all
    other rules' classes and those that show what the style is made of. Exemplars, `target` and `retain` are of
    the `concepts` that the rules were found in; `target_test`, in unseen variants, and `retain_test` are of `report`.
    So no scenario evaluates on what another selects on.

    Raises:
        ValueError: for a rule without images.
    """
    found, named = {}, torch.tensor(sorted({classifier.index(name) for name in rules["class"]}))
    for _, rule in rules.iterrows():
        concept, style = rule["concept"], rule["style"]
        made, _ = scenario_for(classifier, concepts, rule, common_fields, exemplars)
        known, held_out = concepts.parted(concept, style)[0], report.parted(concept, style)[1]
        used, several = list(rule["evidence"][:exemplars]), min(3, len(known.styles[style]))
        own, others = _parted(classifier, concepts, rule, named, used)
        reported, kept = _parted(classifier, report, rule, named, [])
        splits = replace(
            made.splits,
            target=known.turned(own, concept, style, several),
            retain=concepts.data.subset(others) if others else None,
            target_test=held_out.turned(reported, concept, style),
            retain_test=report.data.subset(kept),
            same_class_test=None,
        )
        found[f"{rule['class']}: {concept} → {style}"] = replace(made, splits=splits)
    return found


def _parted(
    classifier: Classifier, concepts: Concepts, rule: pd.Series, named: Tensor, used: list[int]
) -> tuple[list[int], list[int]]:
    """Number the class's images that show the concept, without the `used` ones; and the retained ones of others."""
    data = concepts.data
    right = predict(classifier, data).argmax(dim=1) == data.labels
    own = data.labels == classifier.index(rule["class"])
    shows, exceptions = (concepts.masks[rule[name]].mean(dim=(1, 2)) >= LEAST_AREA for name in ("concept", "style"))
    target = right & own & shows
    target[used] = False
    if not target.any():
        raise ValueError(f"rule {rule['class']!r} on {rule['concept']!r}: no image left that is classified correctly")
    kept = right & ~own & (torch.isin(data.labels, named) | exceptions)
    return target.nonzero()[:, 0].tolist(), kept.nonzero()[:, 0].tolist()


def select(scenario: Scenario) -> Selection:
    """Select the edit of one rule, on the network as it is now."""
    splits = replace(scenario.splits, target_test=None, clean_test=None, retain_test=None)
    search = EditSearch(scenario.classifier, scenario.exemplars, splits, scenario.layers)
    return search.select(search.candidates("rewrite", SETTINGS, (0.5, 1.0, 1.5)))


def counts(rules: int) -> list[int]:
    """Return 1, 2, 4, ..., and all."""
    return [*(2**i for i in range(rules.bit_length()) if 2**i < rules), rules]


def stacked(scenarios: Mapping[str, Scenario], selections: dict[str, Selection]) -> Iterator[int]:
    """Select edits one on top of the other; yields how many rules are in while their edits are applied."""
    classifier = next(iter(scenarios.values())).classifier
    with ExitStack() as applied:
        for name, scenario in tqdm(scenarios.items(), "on top", unit="rule", leave=False):
            selections[name] = select(scenario)
            if selections[name].feasible:
                applied.enter_context(selections[name].edit.applied(classifier))
            if len(selections) in counts(len(scenarios)):
                yield len(selections)


def errors_of(classifier: Classifier, sets: Mapping[str, LabelledImages]) -> dict[str, Tensor]:
    """Say which images of each set are misclassified now."""
    return {name: misclassified(predict(classifier, data), data.labels) for name, data in sets.items()}


def corrected(found: Comparison) -> Tensor:
    """Say which images were wrong and are correct now."""
    return found.before & ~found.after


def row(how: str, found: Mapping[str, Comparison], alone: Mapping[str, Comparison], edits: int) -> dict:
    """Say what is left of what each edit corrects `alone`, by the name of its rule, and what all of them cost."""
    pooled = Comparison(*(torch.cat([getattr(found[name], when) for name in alone]) for when in ("before", "after")))
    single = {name: int(corrected(one).sum()) for name, one in alone.items()}
    left = {name: int((corrected(one) & corrected(found[name])).sum()) for name, one in alone.items()}
    clean, kept = found["clean"], found["kept"]
    gain = {"errors": int(pooled.before.sum()), "corrected": pooled.corrected, "broken": pooled.broken}
    gain |= {"share": pooled.row()["errors corrected"]}
    gain |= dict(zip(("low", "high"), pooled.corrected_interval(), strict=True))
    gain |= {"alone": sum(single.values()), "left": sum(left.values()) / max(sum(single.values()), 1)}
    gain |= {"below half": sum(left[name] < count / 2 for name, count in single.items())}
    cost = {"budget change": found["budget"].accuracy_change, "clean change": clean.accuracy_change}
    cost |= dict(zip(("clean low", "clean high"), clean.accuracy_interval(), strict=True))
    cost |= {"kept": len(kept.before), "kept broken": kept.broken / len(kept.before)}
    return {"how": how, "rules": len(alone), "edits": edits, **gain, **cost}


def strongest(per_class: int, most: int | None) -> tuple[dict[str, Scenario], LabelledImages]:
    """Find rules on validation scenes, strongest first; return a scenario for each, and the unchanged test scenes."""
    (classifiers, concepts, settings, common_fields), (_, test, _, _) = (
        probing_setup("mini", split, per_class, True) for split in ("validation", "test")
    )
    classifier = next(iter(classifiers.values()))
    rules = probe(classifier, concepts, settings, progress=True).rules()
    rules = rules.sort_values("effect", ascending=False, kind="stable").head(most or len(rules))
    return scenarios_for(classifier, concepts, test, rules, common_fields, exemplars=2), test.data


def add_row(results: Results, row: dict[str, Any]) -> None:
    """Add a row of `row` to the results; the method says how the edits are combined."""
    where = {"network": "mini_vgg", "method": row["how"], "condition": f"{row['rules']} rules"}
    share = [row["low"], row["high"]]
    accuracy = [row["clean low"], row["clean high"]]
    results.add("rules", row["rules"], **where)
    results.add("edits", row["edits"], **where)
    results.add("errors before", row["errors"], split="target_test", **where)
    results.add("corrected", row["corrected"], split="target_test", **where)
    results.add("broken", row["broken"], split="target_test", **where)
    results.add("errors corrected", row["share"], split="target_test", interval=share, n=row["errors"], **where)
    results.add("still corrected", row["left"], split="target_test", n=row["alone"], **where)
    results.add("rules below half", row["below half"], split="target_test", **where)
    results.add("accuracy change", row["budget change"], split="clean", **where)
    results.add("accuracy change", row["clean change"], split="clean_test", interval=accuracy, **where)
    results.add("share broken", row["kept broken"], split="retain_test", n=row["kept"], **where)


def experiment(options: argparse.Namespace) -> Results:
    """Find the rules, rewrite each alone, combine, and evaluate."""
    found, exceptions = strongest(8 if options.quick else options.per_class, 2 if options.quick else options.rules)
    if options.quick:
        found = {name: replace(one, layers=(one.default["layer"],)) for name, one in found.items()}
    first = next(iter(found.values()))
    names = list(found)
    kept = exceptions.subset(~errors_of(first.classifier, {"kept": exceptions})["kept"])
    sets = {name: scenario.splits.target_test for name, scenario in found.items()}
    sets |= {"budget": first.splits.clean, "clean": first.splits.clean_test, "kept": kept}
    before = errors_of(first.classifier, sets)

    def compare(edit: Edit | None = None) -> dict[str, Comparison]:
        with edit.applied(first.classifier) if edit else nullcontext():
            after = errors_of(first.classifier, sets)
        return {name: Comparison(before[name], wrong) for name, wrong in after.items()}

    results = Results("many_edits", "MiniWorld")
    single = {name: select(scenario) for name, scenario in tqdm(found.items(), "alone", unit="rule", leave=False)}
    alone = {}
    for name, selection in tqdm(single.items(), "evaluated", unit="rule", leave=False):
        alone[name] = compare(selection.edit)[name]
        results.add_selected(str(selection), "mini_vgg", "edit", condition=name)
    for count in counts(len(names)):
        edits = [single[name].edit for name in names[:count] if single[name].feasible]
        now = compare(reduce(add, edits) if edits else None)
        add_row(results, row("added", now, dict(list(alone.items())[:count]), len(edits)))
    for how, order in {"on top, strongest first": names, "on top, weakest first": names[::-1]}.items():
        selections: dict[str, Selection] = {}
        for count in stacked({name: found[name] for name in order}, selections):
            edits = sum(selection.feasible for selection in selections.values())
            add_row(results, row(how, compare(), {name: alone[name] for name in order[:count]}, edits))
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--per-class", type=int, default=24, help="MiniWorld scenes of each class, of each split")
    arguments.add_argument("--rules", type=int, help="only the strongest rules, this many")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
