"""Typographic attacks: an object with an "iPod" label, read as an iPod; one edit from one exemplar maps text to blank.

Tier mini (default): the small CLIP of this project on MiniWorld. Tier paper: CLIP RN50, on photographs. Layer (the
last convolution of a residual block), exemplar, rank, mask, objective and strength are chosen on the validation images,
under an accuracy budget of 0.25 points on bare ones; every line is then evaluated once. Edits and random directions are
tried in the scenario's shortlist of layers, fine-tuning in tier mini in the last layer of each stage.

One line changes no weight, and nothing is chosen for it: the word blurred before it is read, at its exact place, as a
detector that never errs would give it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pandas as pd
import torch
from common import finish, parser, start
from methods import LOCALITY, SLOW, UNCHOSEN, Plan, effort, locality, search_of, select_all, with_near
from networks import edit_first
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from edittools.metrics import Comparison, attack_row, misclassified, predict
from edittools.miniworld.typography import grow
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.typographic import ATTACK, OTHER_ATTACKS, typographic_scenario
from edittools.selection.activations import CachedActivations
from edittools.selection.search import REFERENCE_WEIGHTS, Selection, grid

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
    known = {
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


def main() -> None:
    """Select on the target images, evaluate once on the test images."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "paper"), default="mini")
    options = start(arguments)
    story = with_near(typographic_scenario(options.tier, progress=True))
    tried = grid(rank=(1, 3, 10), masked=(True,), objective=("least_squares",), reference_weight=REFERENCE_WEIGHTS)
    tried += grid(rank=(1,), masked=(True,), objective=("l1",), reference_weight=REFERENCE_WEIGHTS[::2])
    layers = story.layers if options.tier == "mini" else story.shortlist
    search = search_of(story, layers)
    tuned = story.layers[1::2] if options.tier == "mini" else story.shortlist
    slow = {"tuned": tuned, **SLOW, "steps": (20, 100)}
    selections = select_all(story, search, Plan(settings=tried, edited=story.shortlist, **slow))
    kept = search.activations
    results = {}
    for name, selection in selections.items():
        results[name] = figures(read_with(selection, kept), kept, story) | effort(selection, story, search)
    results["text_blurred"] = figures(cache(read_blurred(story, kept)), kept, story) | UNCHOSEN
    print("\n" + pd.DataFrame(results).to_string(float_format="{:.3f}".format))
    finish(options, edit_first(results) | {"budget": search.describe_constraints()})


if __name__ == "__main__":
    main()
