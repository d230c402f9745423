"""Claim: one edit from one exemplar corrects most errors of a typographic attack, an object with an "iPod" sticker.

The edit maps text to a blank sticker. Tier mini (default): the small CLIP of this project on MiniWorld. Tier paper:
CLIP RN50, on photos. Without labels, an edit is selected by ordinary images with the word of the exemplar, and the
network is fine-tuned on the same; with labels, each method is selected by its cross-entropy on the target images. All
are then evaluated once. Other sets for evaluation are real iPods, objects with a blank sticker, and those with other
words.

One method changes no weight: the word is blurred before the image is classified, at its exact place, as a detector that
never errs would give it.
"""

import argparse
from functools import partial

import torch
from _lib.blur import blurred
from _lib.command import run
from _lib.effects import TARGET, Sets
from _lib.networks import contest_results, first_exemplars, network_parser, small
from _lib.results import Results
from tqdm.auto import tqdm

from edittools.metrics import misclassified, predict
from edittools_course.miniworld.typography import grow
from edittools_course.scenarios.scenario import Scenario
from edittools_course.scenarios.typographic import OTHER_ATTACKS, typographic_scenario

NETWORKS = {"mini": "mini_clip", "paper": "clip_rn50"}
"""The network of each tier."""


def scenario_of(tier: str, exemplars: int, quick: bool, name: str) -> Scenario:
    """Make the scenario of a tier, which has one network."""
    scenario = typographic_scenario(tier, progress=tqdm)
    return small(scenario) if quick else first_exemplars(scenario, exemplars)


def with_blurred_words(scenario: Scenario) -> Sets:
    """Blur the words where an image differs from the same one with a blank sticker."""
    blank = scenario.splits.extra["blank"].images
    found = {}
    for name, data in scenario.splits.for_evaluation.items():
        before = misclassified(predict(scenario.classifier, data), data.labels)
        after = before
        if name == TARGET or name in OTHER_ATTACKS:
            written = (data.images != blank[: len(data)]).any(dim=1).float()
            masks = torch.stack([grow(mask, 2) for mask in written])
            after = misclassified(predict(scenario.classifier, blurred(data.images, masks)), data.labels)
        found[name] = [before.int().tolist(), after.int().tolist()]
    return found


def experiment(options: argparse.Namespace) -> Results:
    """Select for the network, and evaluate once on the test images."""
    tier = options.tier
    dataset = "MiniWorld" if tier == "mini" else "photos"
    make_scenario = partial(scenario_of, tier, options.exemplars, options.quick)
    about = f"{tier} {options.exemplars}"
    networks = [NETWORKS[tier]]
    finetuning = not options.quick
    blur = with_blurred_words
    joined = {"other words": OTHER_ATTACKS}
    return contest_results(
        "typographic", dataset, make_scenario, networks, options.store, about, blur, finetuning, joined
    )


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = network_parser(__doc__, ())
    arguments.add_argument("--tier", choices=tuple(NETWORKS), default="mini")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
