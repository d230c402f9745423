"""Claim: one edit from one exemplar corrects most errors of a typographic attack, an object with an "iPod" sticker.

The edit maps text to a blank sticker. Tier mini (default): the small CLIP of this project on MiniWorld. Tier paper:
CLIP RN50, on photos. Layer, exemplar, rank, mask, objective and strength are selected on the target images, with an
accuracy constraint of 0.25 points on images without a sticker; every method is then evaluated once.

One method changes no weight, and nothing is selected for it: the word is blurred before the image is classified, at its
exact position, as a detector that never errs would give it.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import torch
from _lib.blur import blurred
from _lib.command import parser, run
from _lib.methods import (
    NOT_SELECTED,
    ONE_EACH,
    QUICK,
    SLOW,
    Plan,
    add_effort,
    effort,
    search_of,
    select_all,
    small,
)
from _lib.results import Results, name_of
from torch import Tensor
from tqdm.auto import tqdm

from edittools.course.miniworld.typography import grow
from edittools.course.scenarios.scenario import Scenario
from edittools.course.scenarios.typographic import ATTACK, OTHER_ATTACKS, typographic_scenario
from edittools.metrics import Comparison, attack_row, misclassified, predict
from edittools.selection import CachedActivations, Selection, grid

LogitsOf = Callable[[str], Tensor]
"""The logits of a split by its name."""
CORRECT = {"retain_test": "real_ipod_accuracy", "blank": "blank_sticker_accuracy"}
CORRECT |= {f"photos {kind}": f"paper_photos_{kind}_accuracy" for kind in ("clean", "white", "ipod")}
"""Splits whose accuracy is reported before and after, and its key in the JSON line."""


def add_figures(
    results: Results,
    logits_of: LogitsOf,
    cached: Mapping[str, CachedActivations],
    scenario: Scenario,
    selected: Mapping[str, Any],
    *,
    network: str,
    method: str,
) -> None:
    """Evaluate once: the attack and its correction, other words, objects without a sticker, real iPods.

    Args:
        results: the results.
        logits_of: the logits of each split with the method.
        cached: the images.
        scenario: the scenario.
        selected: what was selected, see `effort`.
        network: the name of the network.
        method: the name of the method.
    """
    where = {"network": network, "method": method}
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
    of_test = {"split": "target_test", **where}
    errors = int(test.before.sum())
    results.add("errors before", errors, key="errors_before", **of_test)
    results.add("corrected", test.corrected, key="corrected", **of_test)
    results.add("broken", test.broken, key="broken", **of_test)
    results.add(
        "errors corrected",
        test.errors_corrected,
        interval=test.corrected_interval(),
        n=errors,
        key="errors_corrected",
        **of_test,
    )
    results.add("accuracy before", accuracy(clean.before), split="clean_test", key="clean_accuracy", **where)
    results.add("attack success before", attack["attack success before"], key="attack_success_before", **of_test)
    results.add("attack success after", attack["attack success after"], key="attack_success_after", **of_test)
    interval = (attack["low"], attack["high"])
    results.add("attacks corrected", attack["share corrected"], interval=interval, n=attack["fooled"], **of_test)
    results.add_keys(
        network,
        method,
        attacked=attack["fooled"],
        attacks_corrected=attack["share corrected"],
        attacks_corrected_low=attack["low"],
        attacks_corrected_high=attack["high"],
    )
    results.add(
        "accuracy change",
        clean.accuracy_change,
        split="clean_test",
        interval=clean.accuracy_interval(),
        key="clean_accuracy_change_points",
        **where,
    )
    change = found["clean"].accuracy_change
    results.add("accuracy change", change, split="clean", key="clean_accuracy_change_points_budget", **where)
    of_others = {"split": "other words", **where}
    before, after = (others[f"attack success {when}"].mean() for when in ("before", "after"))
    results.add("attack success before", before, key="other_words_success_before", **of_others)
    results.add("attack success after", after, key="other_words_success_after", **of_others)
    share_corrected = others["corrected"].sum() / max(others["fooled"].sum(), 1)
    results.add("attacks corrected", share_corrected, key="other_words_corrected", **of_others)
    if "retain_test" in found:
        change = found["retain_test"].accuracy_change
        key = "real_ipod_accuracy_change_points"
        results.add("accuracy change", change, split="retain_test", key=key, **where)
    for split, key in CORRECT.items():
        if split in found:
            results.add("accuracy before", accuracy(found[split].before), split=split, key=f"{key}_before", **where)
    for split, key in CORRECT.items():
        if split in found:
            results.add("accuracy after", accuracy(found[split].after), split=split, key=f"{key}_after", **where)
    add_effort(results, selected, **where)
    results.add_selected(selected["settings"], **where)


def accuracy(wrong: Tensor) -> float:
    """Return the share of images that are classified correctly."""
    return 1 - float(wrong.float().mean())


def evaluated(cached: Mapping[str, CachedActivations]) -> list[str]:
    """Name the splits whose images are compared before and after, other words excepted."""
    return [name for name in ("target_test", "clean", "clean_test", *CORRECT) if name in cached]


def compare(logits_of: LogitsOf, cached: Mapping[str, CachedActivations], split: str) -> Comparison:
    """Compare what is misclassified of a split before and after."""
    return Comparison(cached[split].before, misclassified(logits_of(split), cached[split].labels))


def logits_with(selection: Selection, cached: Mapping[str, CachedActivations]) -> LogitsOf:
    """Predict with the selected edit."""
    return lambda split: cached[split].logits(selection.edit)


def logits_blurred(scenario: Scenario, cached: Mapping[str, CachedActivations]) -> LogitsOf:
    """Predict with the word blurred where an image differs from the same one with a blank sticker."""
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
    scenario = typographic_scenario(options.tier, progress=tqdm)
    scenario = small(scenario) if options.quick else scenario
    settings = grid(
        rank=(1, 3, 10),
        masked=(True,),
        objective=("least_squares",),
        reference_weight=(0.0, 10.0, 30.0, 100.0),
    )
    settings += grid(rank=(1,), masked=(True,), objective=("l1",), reference_weight=(0.0, 30.0))
    is_mini = options.tier == "mini"
    search = search_of(scenario)
    plan = QUICK if options.quick else Plan(settings=settings, **SLOW)
    selections = select_all(scenario, search, plan, ONE_EACH if options.quick else None)
    cached = search.activations
    logits: dict[str, LogitsOf] = {name: cache(logits_with(one, cached)) for name, one in selections.items()}
    logits["text_blurred"] = cache(logits_blurred(scenario, cached))
    constraints = search.describe_constraints()
    results = Results("typographic", "MiniWorld" if is_mini else "photos", notes={"constraints": constraints})
    network = "mini_clip" if is_mini else "clip_rn50"
    for method, logits_of in logits.items():
        selected = effort(selections[method], scenario, search) if method in selections else NOT_SELECTED
        where = {"network": network, "method": name_of(method)}
        add_figures(results, logits_of, cached, scenario, selected, **where)
        for split in evaluated(cached):
            found = compare(logits_of, cached, split)
            results.add_outcomes(found.before.int().tolist(), found.after.int().tolist(), split=split, **where)
    results.line = results.keyed_line() | {"budget": constraints}
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "paper"), default="mini")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
