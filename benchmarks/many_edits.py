"""Many edits in one classifier: what is left of each when others are in (MiniWorld).

Each rule that a probe finds in `mini_vgg` is cured by an edit of its own, chosen on images of its class alone, within
the accuracy budget and its own keep set: all other rules' images as they are, and those that show the new material. The
edits are made (a) each on the original network, and added up, (b) one on top of the other, each chosen on the network
as the others left it, strongest rule first and weakest first. After 1, 2, 4, ... rules: errors corrected of the rules'
own test images, how much of what each single edit corrects is still right (`left`), accuracy, and how many of the test
scenes as they are break. Rules are found and edits chosen on validation scenes; all is reported on test scenes.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import pandas as pd
import torch
from common import finish, parser, start
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


def cures_for(
    classifier: Classifier,
    concepts: Concepts,
    report: Concepts,
    rules: pd.DataFrame,
    everyday: Mapping[str, Any],
    exemplars: int = 3,
) -> dict[str, Scenario]:
    """A scenario for each row of `rules`, named "class: concept → style".

    Each turns the images of the rule's class that show the concept and are read rightly to the style, and keeps those
    of all other rules' classes and those that show what the style is made of. Exemplars, `target` and `retain` are of
    the `concepts` that the rules were found in; `target_test`, in unseen variants, and `retain_test` are of `report`.
    So no scenario evaluates on what another selects on. Raises `ValueError` for a rule without images.
    """
    found, named = {}, torch.tensor(sorted({classifier.index(name) for name in rules["class"]}))
    for _, rule in rules.iterrows():
        concept, style = rule["concept"], rule["style"]
        made, _ = scenario_for(classifier, concepts, rule, everyday, exemplars)
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
    """The class's images that show the concept, without the `used` ones; and those of others that must stay."""
    data = concepts.data
    right = predict(classifier, data).argmax(dim=1) == data.labels
    own = data.labels == classifier.index(rule["class"])
    shows, exceptions = (concepts.masks[rule[name]].mean(dim=(1, 2)) >= LEAST_AREA for name in ("concept", "style"))
    chosen = right & own & shows
    chosen[used] = False
    if not chosen.any():
        raise ValueError(f"rule {rule['class']!r} on {rule['concept']!r}: no image left that is read rightly")
    kept = right & ~own & (torch.isin(data.labels, named) | exceptions)
    return chosen.nonzero()[:, 0].tolist(), kept.nonzero()[:, 0].tolist()


def select(cure: Scenario) -> Selection:
    """The edit of one rule, on the network as it is now."""
    splits = replace(cure.splits, target_test=None, clean_test=None, retain_test=None)
    search = EditSearch(cure.classifier, cure.exemplars, splits, cure.shortlist)
    return search.select(search.candidates("rewrite", SETTINGS, (0.5, 1.0, 1.5)))


def counts(rules: int) -> list[int]:
    """1, 2, 4, ..., and all."""
    return [*(2**i for i in range(rules.bit_length()) if 2**i < rules), rules]


def stacked(cures: Mapping[str, Scenario], chosen: dict[str, Selection]) -> Iterator[int]:
    """Choose edits one on top of the other; gives how many rules are in while their edits are applied."""
    classifier = next(iter(cures.values())).classifier
    with ExitStack() as applied:
        for name, cure in tqdm(cures.items(), "on top", unit="rule", leave=False):
            chosen[name] = select(cure)
            if chosen[name].feasible:
                applied.enter_context(chosen[name].edit.applied(classifier))
            if len(chosen) in counts(len(cures)):
                yield len(chosen)


def misread(classifier: Classifier, sets: Mapping[str, LabelledImages]) -> dict[str, Tensor]:
    """Say which images of each set are misread now."""
    return {name: misclassified(predict(classifier, data), data.labels) for name, data in sets.items()}


def corrected(found: Comparison) -> Tensor:
    """Which images were wrong and are right."""
    return found.before & ~found.after


def row(how: str, found: Mapping[str, Comparison], alone: Mapping[str, Comparison], edits: int) -> dict:
    """What is left of what each edit corrects `alone`, by the name of its rule, and what all of them cost."""
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
    """Find rules on validation scenes, the strongest first: a scenario for each, and the test scenes as they are."""
    (classifiers, concepts, settings, everyday), (_, test, _, _) = (
        probing_setup("mini", split, per_class, True) for split in ("validation", "test")
    )
    classifier = next(iter(classifiers.values()))
    rules = probe(classifier, concepts, settings, progress=True).rules()
    rules = rules.sort_values("effect", ascending=False, kind="stable").head(most or len(rules))
    return cures_for(classifier, concepts, test, rules, everyday, exemplars=2), test.data


def main() -> None:
    """Find the rules, cure each alone, combine, and report."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--per-class", type=int, default=24, help="MiniWorld scenes of each class, of each split")
    arguments.add_argument("--rules", type=int, help="only so many of the strongest rules")
    options = start(arguments)
    found, exceptions = strongest(options.per_class, options.rules)
    first, names = next(iter(found.values())), list(found)
    kept = exceptions.subset(~misread(first.classifier, {"kept": exceptions})["kept"])
    sets = {name: cure.test for name, cure in found.items()}
    sets |= {"budget": first.budget, "clean": first.clean, "kept": kept}
    before = misread(first.classifier, sets)

    def compare(edit: Edit | None = None) -> dict[str, Comparison]:
        with edit.applied(first.classifier) if edit else nullcontext():
            after = misread(first.classifier, sets)
        return {name: Comparison(before[name], wrong) for name, wrong in after.items()}

    single = {name: select(cure) for name, cure in tqdm(found.items(), "alone", unit="rule", leave=False)}
    reported = tqdm(single.items(), "reported", unit="rule", leave=False)
    alone, rows = {name: compare(choice.edit)[name] for name, choice in reported}, []
    for count in counts(len(names)):
        edits = [single[name].edit for name in names[:count] if single[name].feasible]
        now = compare(reduce(add, edits) if edits else None)
        rows.append(row("added", now, dict(list(alone.items())[:count]), len(edits)))
    for how, order in {"on top, strongest first": names, "on top, weakest first": names[::-1]}.items():
        chosen: dict[str, Selection] = {}
        for count in stacked({name: found[name] for name in order}, chosen):
            edits = sum(choice.feasible for choice in chosen.values())
            rows.append(row(how, compare(), {name: alone[name] for name in order[:count]}, edits))
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))
    finish(options, {"steps": rows, "rules": {name: str(choice) for name, choice in single.items()}})


if __name__ == "__main__":
    main()
