"""Claim: the default settings of `rewrite` correct about as many errors as the paper's, and cost less, unselected.

Five settings are compared: the paper's (the L1 objective without a penalty on moving reference outputs, λ) and least
squares with several λ. Every layer is edited from every exemplar, at full strength. Only images for
selection are evaluated.

The rule, fixed before the first run on typographic attacks, watermarks and rules found by probing: the default has rank
1, since a small mask may not span more directions. Of the settings of rank 1, those are eligible whose net share of
corrected target errors, averaged over the experiments, is at least nine tenths of the largest. Of these, the default is
the setting that loses the least accuracy, averaged over the clean and the retained images of all experiments.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from _lib.command import parser, run
from _lib.methods import search_of, small
from _lib.results import Results

from edittools.probing.probe import probe
from edittools.scenarios.rules import probing_setup, scenario_for, shown_rule
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.snow import snow_scenario
from edittools.scenarios.typographic import typographic_scenario
from edittools.scenarios.watermark import watermark_scenario
from edittools.selection.search import EditSearch

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "L1, λ 0, rank 1": {"objective": "l1", "reference_weight": 0.0, "rank": 1},
    "least squares, λ 0, rank 1": {"objective": "least_squares", "reference_weight": 0.0, "rank": 1},
    "least squares, λ 10, rank 1": {"objective": "least_squares", "reference_weight": 10.0, "rank": 1},
    "least squares, λ 30, rank 1": {"objective": "least_squares", "reference_weight": 30.0, "rank": 1},
    "least squares, λ 30, rank 3": {"objective": "least_squares", "reference_weight": 30.0, "rank": 3},
}
"""The settings to compare; the first is the paper's."""

ELIGIBLE = 0.9
"""Least share of the best setting's corrected errors that a default must correct."""


def found_rule() -> Scenario:
    """Make the scenario of the strongest rule that probing finds in MiniWorld."""
    classifiers, concepts, settings, clean = probing_setup("mini", progress=True)
    classifier = next(iter(classifiers.values()))
    rule, _ = shown_rule(probe(classifier, concepts, settings, progress=True))
    scenario, _ = scenario_for(classifier, concepts, rule, clean)
    return scenario


EXPERIMENTS: Mapping[str, Callable[[], Scenario]] = {
    "typographic attacks, mini_clip": lambda: typographic_scenario("mini", progress=True),
    "found rule, mini_vgg": found_rule,
    "watermark, EfficientNet-Lite0": lambda: watermark_scenario("efficientnet_lite0", progress=True),
    "snow, mini_vgg": lambda: snow_scenario("mini", "mini_vgg", progress=True),
    "snow, mini_vit": lambda: snow_scenario("mini", "mini_vit", progress=True),
}
"""The experiments by name."""


def for_selection(scenario: Scenario) -> EditSearch:
    """Make the search of a scenario without the splits that are used for evaluation only."""
    evaluated = {"target_test": None, "clean_test": None, "retain_test": None, "same_class_test": None, "extra": {}}
    splits = replace(scenario.splits, **evaluated)
    return search_of(replace(scenario, splits=splits))


def add_setting(results: Results, search: EditSearch, experiment: str, setting: str) -> None:
    """Average over layers and exemplars what a setting does to the images for selection."""
    scored = search.score(search.candidates("rewrite", [SETTINGS[setting]], strengths=(1.0,)))
    errors = int(search.activations["target"].before.sum())
    where = {"method": setting, "condition": experiment}
    results.add("candidates", len(scored), **where)
    results.add("errors before", errors, split="target", **where)
    results.add("corrected", float(scored.corrected.double().mean()), split="target", **where)
    results.add("broken", float(scored.broken.double().mean()), split="target", **where)
    results.add("errors corrected", float(scored.net.double().mean()) / errors, split="target", n=errors, **where)
    for split in ("clean", "retain"):
        if split in search.activations:
            compared = [search.activations[split].compare(candidate.edit) for candidate in scored.candidates]
            count = len(search.activations[split].labels)
            broken = sum(comparison.broken for comparison in compared) / len(compared)
            change = sum(comparison.accuracy_change for comparison in compared) / len(compared)
            results.add("broken", broken, split=split, n=count, **where)
            results.add("accuracy change", change, split=split, n=count, **where)


def recommend(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Average over the experiments, and select the default by the rule above.

    Args:
        table: the long table of the settings, see `Results.frame`.

    Returns:
        The average net share of corrected errors and change of accuracy, and whether it is eligible, by setting; and
        the default.
    """
    mean = table.groupby(["method", "metric"])["value"].mean().unstack()
    average = pd.DataFrame({"errors corrected": mean["errors corrected"], "accuracy change": mean["accuracy change"]})
    has_rank_1 = pd.Series({setting: SETTINGS[setting]["rank"] == 1 for setting in average.index})
    largest = average["errors corrected"][has_rank_1].max()
    average["eligible"] = has_rank_1 & (average["errors corrected"] >= ELIGIBLE * largest)
    return average, average["accuracy change"][average["eligible"]].idxmax()


def experiment(options: argparse.Namespace) -> Results:
    """Measure every setting in every experiment, average, and name the default."""
    results = Results("default_settings", "MiniWorld and photos")
    for name in options.experiments[:1] if options.quick else options.experiments:
        scenario = EXPERIMENTS[name]()
        search = for_selection(small(scenario) if options.quick else scenario)
        for setting in SETTINGS:
            add_setting(results, search, name, setting)
    average, default = recommend(results.frame())
    results.notes = {"recommended": default}
    print(f"{average.to_string(float_format='{:.3f}'.format)}\n\nrecommended: {default}\n")
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    run(arguments, experiment)


if __name__ == "__main__":
    main()
