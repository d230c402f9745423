"""Claim: one edit from one exemplar corrects most errors of a typographic attack, an object with an "iPod" label.

The edit maps text to a blank label. Tier mini (default): the small CLIP of this project on MiniWorld. Tier paper: CLIP
RN50, on photos. Layer (the last convolution of a residual block), exemplar, rank, mask, objective and strength are
selected on the target images, with an accuracy constraint of 0.25 points on images without a label; every method is
then evaluated once. Edits and random directions are tried in the scenario's shortlist of layers, fine-tuning in tier
mini in the last layer of each stage.

One method changes no weight, and nothing is selected for it: the word is blurred before the image is classified, at its
exact position, as a detector that never errs would give it.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import pandas as pd
import torch
from _lib.blur import blurred
from _lib.command import add_methods, parser, run
from _lib.methods import (
    LOCALITY,
    NOT_SELECTED,
    ONE_EACH,
    QUICK,
    SLOW,
    Plan,
    effort,
    locality,
    search_of,
    select_all,
    small,
    with_near,
)
from _lib.networks import edit_first
from _lib.results import COMMON, Figure, Results, name_of
from torch import Tensor

from edittools.metrics import Comparison, attack_row, misclassified, predict
from edittools.miniworld.typography import grow
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.typographic import ATTACK, OTHER_ATTACKS, typographic_scenario
from edittools.selection.evaluation import CachedActivations
from edittools.selection.search import REFERENCE_WEIGHTS, Selection, grid

LogitsOf = Callable[[str], Tensor]
"""The logits of a split by its name."""
CORRECT = {"retain_test": "real_ipod_accuracy", "blank": "blank_label_accuracy"}
CORRECT |= {f"photos {kind}": f"paper_photos_{kind}_accuracy" for kind in ("clean", "white", "ipod")}
"""Splits whose accuracy is reported before and after, and its key in the JSON line."""

FIGURES = {
    "errors_before": Figure("errors before", "target_test"),
    "corrected": Figure("corrected", "target_test"),
    "broken": Figure("broken", "target_test"),
    "errors_corrected": Figure("errors corrected", "target_test", "errors_before"),
    "clean_accuracy": Figure("accuracy before", "clean_test"),
    "attack_success_before": Figure("attack success before", "target_test"),
    "attack_success_after": Figure("attack success after", "target_test"),
    "attacks_fixed": Figure("attacks fixed", "target_test", "attacked"),
    "clean_accuracy_change_points": Figure("accuracy change", "clean_test"),
    "clean_accuracy_change_points_budget": Figure("accuracy change", "clean"),
    "other_words_success_before": Figure("attack success before", "other words"),
    "other_words_success_after": Figure("attack success after", "other words"),
    "other_words_fixed": Figure("attacks fixed", "other words"),
    "real_ipod_accuracy_change_points": Figure("accuracy change", "retain_test"),
    **{f"{key}_before": Figure("accuracy before", split) for split, key in CORRECT.items()},
    **{f"{key}_after": Figure("accuracy after", split) for split, key in CORRECT.items()},
    **COMMON,
}
"""What the figures of the JSON line are in the long table."""


def figures(logits_of: LogitsOf, cached: Mapping[str, CachedActivations], scenario: Scenario) -> dict[str, float]:
    """Evaluate once: the attack and how much of it is fixed, other words, objects without a label, real iPods."""
    attacks = {}
    for word in (ATTACK, *OTHER_ATTACKS):
        split = "target_test" if word == ATTACK else word
        goal = scenario.classifier.index(word)
        attacks[word] = attack_row(cached[split].original, logits_of(split), cached[split].labels, goal)
    attack = attacks[ATTACK]
    others = pd.DataFrame([attacks[word] for word in OTHER_ATTACKS])
    found = {split: compare(logits_of, cached, split) for split in evaluated(cached)}
    clean = found["clean_test"]
    test = found["target_test"]
    known = {
        "errors_before": int(test.before.sum()),
        "corrected": test.corrected,
        "broken": test.broken,
        "errors_corrected": test.errors_corrected,
        "errors_corrected_interval": test.corrected_interval(),
        "clean_accuracy": 1 - float(clean.before.float().mean()),
        "attack_success_before": attack["success before"],
        "attack_success_after": attack["success after"],
        "attacked": attack["fooled"],
        "attacks_fixed": attack["share fixed"],
        "attacks_fixed_low": attack["low"],
        "attacks_fixed_high": attack["high"],
        "clean_accuracy_change_points": clean.accuracy_change,
        "clean_accuracy_change_points_interval": clean.accuracy_interval(),
        "clean_accuracy_change_points_budget": found["clean"].accuracy_change,
        "other_words_success_before": others["success before"].mean(),
        "other_words_success_after": others["success after"].mean(),
        "other_words_fixed": others["fixed"].sum() / max(others["fooled"].sum(), 1),
        **locality({name: [found[name]] for name in LOCALITY if name in found}),
    }
    if "retain_test" in found:
        known["real_ipod_accuracy_change_points"] = found["retain_test"].accuracy_change
    for split, key in CORRECT.items():
        if split in found:
            known[f"{key}_before"] = 1 - float(found[split].before.float().mean())
            known[f"{key}_after"] = 1 - float(found[split].after.float().mean())
    return known


def evaluated(cached: Mapping[str, CachedActivations]) -> list[str]:
    """Name the splits whose images are compared before and after, other words excepted."""
    return [name for name in ("target_test", "clean", "clean_test", *CORRECT, *LOCALITY) if name in cached]


def compare(logits_of: LogitsOf, cached: Mapping[str, CachedActivations], split: str) -> Comparison:
    """Compare what is misclassified of a split before and after."""
    return Comparison(cached[split].before, misclassified(logits_of(split), cached[split].labels))


def logits_with(selection: Selection, cached: Mapping[str, CachedActivations]) -> LogitsOf:
    """Predict with the selected edit."""
    return lambda split: cached[split].logits(selection.edit)


def logits_blurred(scenario: Scenario, cached: Mapping[str, CachedActivations]) -> LogitsOf:
    """Predict with the word blurred where an image differs from the same one with a blank label."""
    sets = scenario.splits.labeled

    def logits_of(split: str) -> Tensor:
        if split != "target_test" and split not in OTHER_ATTACKS:
            return cached[split].original
        data = sets[split]
        written = (data.images != sets["blank"].images[: len(data)]).any(dim=1).float()
        masks = torch.stack([grow(mask, 2) for mask in written])
        return predict(scenario.classifier, replace(data, images=blurred(data.images, masks)))

    return logits_of


def experiment(options: argparse.Namespace) -> Results:
    """Select on the target images, evaluate once on the test images."""
    scenario = typographic_scenario(options.tier, progress=True)
    scenario = with_near(small(scenario) if options.quick else scenario)
    settings = grid(rank=(1, 3, 10), masked=(True,), objective=("least_squares",), reference_weight=REFERENCE_WEIGHTS)
    settings += grid(rank=(1,), masked=(True,), objective=("l1",), reference_weight=REFERENCE_WEIGHTS[::2])
    is_mini = options.tier == "mini"
    search = search_of(scenario, scenario.layers if is_mini else scenario.shortlist)
    tuned = scenario.layers[1::2] if is_mini else scenario.shortlist
    plan = Plan(settings=settings, edited=scenario.shortlist, tuned=tuned, **SLOW)
    plan = QUICK if options.quick else plan
    selections = select_all(scenario, search, plan, ONE_EACH if options.quick else None, options.methods)
    cached = search.activations
    logits: dict[str, LogitsOf] = {name: cache(logits_with(one, cached)) for name, one in selections.items()}
    if not options.methods or "text_blurred" in options.methods:
        logits["text_blurred"] = cache(logits_blurred(scenario, cached))
    constraints = search.describe_constraints()
    results = Results("typographic", "MiniWorld" if is_mini else "photos", notes={"constraints": constraints})
    network = "mini_clip" if is_mini else "clip_rn50"
    line = {}
    for method, logits_of in logits.items():
        selected = effort(selections[method], scenario, search) if method in selections else NOT_SELECTED
        line[method] = figures(logits_of, cached, scenario) | selected
        results.add_figures(line[method], FIGURES, network, name_of(method))
        results.add_selected(selected["chosen"], network, name_of(method))
        for split in evaluated(cached):
            found = compare(logits_of, cached, split)
            where = {"network": network, "method": name_of(method), "split": split}
            results.add_outcomes(found.before.int().tolist(), found.after.int().tolist(), **where)
    results.line = edit_first(line) | {"budget": constraints}
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "paper"), default="mini")
    add_methods(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
