"""Typographic attacks: an object with an "iPod" label, read as an iPod; one edit from one exemplar maps text to blank.

Tier mini (default): the small CLIP of this project on MiniWorld. Tier paper: CLIP RN50, on photographs. Layer (the
last convolution of a residual block), exemplar, rank, mask, objective and strength are chosen on the validation images,
under an accuracy budget of 0.25 points on bare ones; every line is then evaluated once. Edits and random directions are
tried in the scenario's shortlist of layers, fine-tuning in tier mini in the last layer of each stage.

One line changes no weight, and nothing is chosen for it: the word blurred before it is read, at its exact place, as a
detector that never errs would give it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import pandas as pd
import torch
from common import call, finish, parser, start, write_line
from methods import LOCALITY, SLOW, UNCHOSEN, Plan, effort, locality, remake, search_of, select_all, with_near
from networks import edit_first
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from edittools.metrics import Comparison, attack_row, misclassified, predict
from edittools.miniworld.typography import grow
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.typographic import ATTACK, OTHER_ATTACKS, typographic_scenario
from edittools.selection.activations import CachedActivations
from edittools.selection.search import REFERENCE_WEIGHTS, EditSearch, Selection, grid

Read = Callable[[str], Tensor]
"""The logits of a set by its name."""
RIGHT = {"retain_test": "real_ipod_accuracy", "blank": "blank_label_accuracy"}
RIGHT |= {f"photos {kind}": f"paper_photos_{kind}_accuracy" for kind in ("clean", "white", "ipod")}
"""Sets of which the accuracy is told before and after."""


def figures(read: Read, kept: dict[str, CachedActivations], story: Scenario) -> dict[str, float]:
    """Evaluate once: the attack and how much of it is fixed, other words, bare objects, real iPods."""
    found = {}
    for word in (ATTACK, *OTHER_ATTACKS):
        name = "target_test" if word == ATTACK else word
        one = kept[name]
        found[word] = attack_row(one.original, read(name), one.labels, story.classifier.index(word))
    attack, others = found[ATTACK], pd.DataFrame([found[word] for word in OTHER_ATTACKS])
    compare = lambda name: Comparison(kept[name].before, misclassified(read(name), kept[name].labels))  # noqa: E731
    clean = compare("clean_test")
    test = compare("target_test")
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
        "clean_accuracy_change_points_budget": compare("clean").accuracy_change,
        "other_words_success_before": others["success before"].mean(),
        "other_words_success_after": others["success after"].mean(),
        "other_words_fixed": others["fixed"].sum() / max(others["fooled"].sum(), 1),
        **locality({name: [compare(name)] for name in LOCALITY if name in kept}),
    }
    for name in (name for name in RIGHT if name in kept):
        one = compare(name)
        for when, wrong in {"before": one.before, "after": one.after}.items():
            known[f"{RIGHT[name]}_{when}"] = 1 - float(wrong.float().mean())
    return known


def read_with(selection: Selection, kept: dict[str, CachedActivations]) -> Read:
    """Predict with the selected edit."""
    return lambda name: kept[name].logits(selection.edit)


def blurred(images: Tensor, masks: Tensor) -> Tensor:
    """Blur images `(B, 3, H, W)` where `masks` `(B, H, W)` are 1; the deviation is a twentieth of the shorter side."""
    sigma = 0.05 * min(images.shape[2:])
    size = 2 * round(3 * sigma) + 1
    return images + masks[:, None] * (gaussian_blur(images, [size, size], [sigma, sigma]) - images)


def read_blurred(story: Scenario, kept: dict[str, CachedActivations]) -> Read:
    """Read with the word blurred where a picture differs from the same with a blank label; the rest as it is."""
    sets = story.splits.labeled

    def read(name: str) -> Tensor:
        if name != "target_test" and name not in OTHER_ATTACKS:
            return kept[name].original
        data = sets[name]
        written = (data.images != sets["blank"].images[: len(data)]).any(dim=1).float()
        masks = torch.stack([grow(mask, 2) for mask in written])
        return predict(story.classifier, replace(data, images=blurred(data.images, masks)))

    return read


def again(stored: dict[str, Any], story: Scenario, search: EditSearch, plan: Plan) -> dict[str, Any]:
    """Evaluate the selections of a results file again, without a search, and add what it does not hold.

    Raises:
        ValueError: if an edit that was made again does not fix the stored share of attacks.
    """
    kept = search.activations
    methods = {"editing": stored} | {name: one for name, one in stored.items() if isinstance(one, dict)}
    results: dict[str, Any] = {}
    for method, one in methods.items():
        if method == "text_blurred":
            read = cache(read_blurred(story, kept))
        else:
            selection = remake(story, search, plan, method, one["chosen"])
            read = read_with(selection, kept) if selection else lambda name: kept[name].original
        evaluated = figures(read, kept, story)
        print(method, evaluated["attacks_fixed"], one["attacks_fixed"], flush=True)
        if abs(evaluated["attacks_fixed"] - one["attacks_fixed"]) > 1e-6:
            raise ValueError(f"{method} fixes {evaluated['attacks_fixed']:.3f}, stored is {one['attacks_fixed']:.3f}")
        results[method] = {name: value for name, value in one.items() if not isinstance(value, dict)} | evaluated
    return edit_first(results)


def main() -> None:
    """Select on the target images, evaluate once on the test images; or evaluate a stored selection again."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "paper"), default="mini")
    arguments.add_argument("--again", action="store_true", help="evaluate the selections of --output, without a search")
    options = start(arguments)
    story = with_near(typographic_scenario(options.tier, progress=True))
    tried = grid(rank=(1, 3, 10), masked=(True,), objective=("least_squares",), reference_weight=REFERENCE_WEIGHTS)
    tried += grid(rank=(1,), masked=(True,), objective=("l1",), reference_weight=REFERENCE_WEIGHTS[::2])
    layers = story.layers if options.tier == "mini" else story.shortlist
    search = search_of(story, layers)
    tuned = story.layers[1::2] if options.tier == "mini" else story.shortlist
    slow = {"tuned": tuned, **SLOW, "steps": (20, 100)}
    plan = Plan(settings=tried, edited=story.shortlist, **slow)
    if options.again:
        stored = json.loads(options.output.read_text())
        evaluated = again(stored, story, search, plan)
        seconds = round(time.perf_counter() - options.started, 1)
        run = {"call": call(), "date": str(date.today()), "seconds": seconds}
        write_line(options.output, json.dumps(stored | evaluated | {"evaluated_again": run}))
        return
    selections = select_all(story, search, plan)
    kept = search.activations
    results = {}
    for name, selection in selections.items():
        results[name] = figures(read_with(selection, kept), kept, story) | effort(selection, story, search)
    results["text_blurred"] = figures(cache(read_blurred(story, kept)), kept, story) | UNCHOSEN
    print("\n" + pd.DataFrame(results).to_string(float_format="{:.3f}".format))
    finish(options, edit_first(results) | {"budget": search.describe_constraints()})


if __name__ == "__main__":
    main()
