"""Claim: one edit corrects most errors on rendered vehicles on snow, and few on photos, next to what else one could do.

Tier mini: a thousand scenes of MiniWorld; nothing is downloaded. The exemplars are cars, the test classes are the other
vehicles.

Tier lite: labels select on composites (roads of MSRC photos replaced by snow), and all 126 of the paper's snow photos
are used for evaluation. Accuracy is measured on one half of the ImageNet sample. Needs photos (see docs/settings.md).

Each exemplar is used on its own. Without labels, an edit is selected by ordinary images with the snow of the exemplar
in place, and the network is fine-tuned on the same; with labels, each method is selected by its cross-entropy on images
with snow. All are evaluated once. The interval is Student's t over pairs of a network and an exemplar. With `--store
FOLDER` finished networks are kept, and an interrupted run continues where it was.

`--development` reads no image that the other results are measured on: methods are evaluated on validation scenes that
nothing else uses, or on composites of other photos than those that select. It asks how a material should select, so
nothing is fine-tuned without labels.
"""

import argparse
from dataclasses import replace
from functools import partial

from _lib.command import run
from _lib.composites import halves_by_photo, snow_from_composites
from _lib.networks import contest_results, first_exemplars, network_parser, photos, small
from _lib.results import Results
from tqdm.auto import tqdm

from edittools_course.scenarios.scenario import Scenario, ScenarioSplits
from edittools_course.scenarios.snow import OTHER_VEHICLES, POLAR, snow_scenario
from edittools_course.scenarios.tiers import SceneSet

VALIDATION = {
    "target_test": SceneSet(480, "validation", 700_000, OTHER_VEHICLES, "snow"),
    "same_class_test": SceneSet(120, "validation", 760_000, ("car",), "snow"),
    "clean_test": SceneSet(600, "validation", 800_000),
    "retain_test": SceneSet(300, "validation", 850_000, POLAR),
}
"""The scenes on which methods are evaluated during development; their seeds are disjoint from those of all others."""

NETWORKS = {"mini": ("mini_vgg", "mini_vit"), "lite": ("efficientnet_lite0", "squeezenet1_1")}
"""The networks of each tier."""


def scenario_of(tier: str, exemplars: int, quick: bool, development: bool, name: str) -> Scenario:
    """Make the scenario of a network."""
    if tier == "mini":
        scenario = snow_scenario("mini", name, progress=tqdm)
    else:
        scenario = snow_from_composites(name, progress=tqdm)
    if development:
        scenario = in_development(scenario)
    return small(scenario) if quick else first_exemplars(scenario, exemplars)


def in_development(scenario: Scenario) -> Scenario:
    """Replace what the other results are measured on; nothing is left of the photos that only evaluation may read."""
    if scenario.tier == "mini":
        sets = {name: scene_set.render(tqdm) for name, scene_set in VALIDATION.items()}
        return replace(scenario, splits=replace(scenario.splits, **sets))
    splits = scenario.splits
    selecting, evaluating = halves_by_photo(splits.target)
    sets = {"target_test": evaluating, "clean_test": splits.clean, "retain_test": splits.retain}
    return replace(scenario, splits=ScenarioSplits(splits.reference, selecting, **sets))


def experiment(options: argparse.Namespace) -> Results:
    """Select for each network, and evaluate once on the test images."""
    tier = options.tier
    dataset = "MiniWorld" if tier == "mini" else "photos"
    make_scenario = partial(scenario_of, tier, options.exemplars, options.quick, options.development)
    networks = options.networks or NETWORKS[tier]
    about = f"{tier} {options.exemplars} {options.development} {photos()}"
    finetuning = not (options.quick or options.development)
    return contest_results("snow", dataset, make_scenario, networks, options.store, about, None, finetuning)


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = network_parser(__doc__, ())
    arguments.add_argument("--tier", choices=tuple(NETWORKS), default="mini")
    arguments.add_argument("--development", action="store_true", help="evaluate on images of the development")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
