"""A scenario on several networks: each case is a network and an exemplar, and finished networks are kept in a store."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from _lib import jobs
from _lib.command import add_store, code_digest, one_thread, parser
from _lib.effects import Sets, add_means, add_outcomes, evaluated
from _lib.label_free import Selected
from _lib.methods import select_for_exemplar, select_for_several
from _lib.results import BLURRED, BY_HOSTS, Results
from edittools import __file__ as package
from edittools.classifiers import fingerprint
from edittools.models.load import load_classifier
from edittools_course.downloads import available, registry
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits

MakeScenario = Callable[[str], Scenario]
"""Makes the scenario of a network, by its name."""

Blur = Callable[[Scenario], Sets]
"""Tells what blurring the concept, whose place is given, does to the images for evaluation."""


def network_parser(description: str, networks: Sequence[str]) -> argparse.ArgumentParser:
    """Make a command line with `--networks` and `--store`."""
    arguments = parser(description)
    arguments.add_argument("--networks", nargs="+", default=networks, metavar="NAME", help="names of classifiers")
    arguments.add_argument("--exemplars", type=int, default=2, help="number of exemplars, each of which is used alone")
    add_store(arguments)
    return arguments


def first_exemplars(scenario: Scenario, count: int) -> Scenario:
    """Keep the first exemplars of a scenario."""
    kept = list(scenario.exemplars)[:count]
    return replace(scenario, exemplars={name: scenario.exemplars[name] for name in kept})


def contest(make_scenario: MakeScenario, blur: Blur | None, finetuning: bool, network: str) -> list[dict[str, Any]]:
    """Select for every method on a network, and evaluate what was selected once; one row per selection.

    Args:
        make_scenario: makes the scenario of the network.
        blur: evaluates the images with the concept blurred; None without such a method.
        finetuning: also fine-tune the whole network, which takes minutes.
        network: the name of the network.
    """
    with one_thread():
        scenario = make_scenario(network)
        scenario.splits.check_disjoint(scenario.exemplars.values())
        of_cases = {name: select_for_exemplar(scenario, name, finetuning) for name in scenario.exemplars}
        of_cases |= {name: select_for_several(scenario, name) for name in scenario.several}
        cases = [name for name, of_case in of_cases.items() for _ in of_case]
        selected = [one for of_case in of_cases.values() for one in of_case]
        edits = {str(number): one.edit for number, one in enumerate(selected)}
        found = evaluated(scenario.classifier, edits, scenario.splits.for_evaluation)
        rows = [_row(network, *entry) for entry in zip(cases, selected, found.values(), strict=True)]
        if blur is not None:
            of_blur = {"method": BLURRED, "settings": "no weight", "candidates": 1, "seconds": 0.0, "run": ""}
            of_blur["sets"] = blur(scenario)
            rows += [{"network": network, "case": name, **of_blur} for name in scenario.exemplars]
    return rows


def _row(network: str, case: str, selected: Selected, sets: Sets) -> dict[str, Any]:
    """Return the row of a selection."""
    return {"network": network, "case": case, **selected.row(), "sets": sets}


def photos(prefix: str = "") -> list[tuple[str, str]]:
    """List the photos that are available, with their hashes, on which the results depend."""
    return [(name, registry()[name][0]) for name in available(prefix)]


def contest_results(
    experiment: str,
    dataset: str,
    make_scenario: MakeScenario,
    networks: Sequence[str],
    store: Path | None,
    about: str,
    blur: Blur | None = None,
    finetuning: bool = True,
    joined: Mapping[str, Sequence[str]] | None = None,
) -> Results:
    """Make the contest of each network after the other.

    Args:
        experiment: the name of the experiment.
        dataset: "MiniWorld" or "photos".
        make_scenario: makes the scenario of a network.
        networks: the names of the networks.
        store: where finished networks are kept.
        about: what the rows depend on, except for the network's weights and the code.
        blur: see `contest`.
        finetuning: see `contest`.
        joined: sets that are reported as one, by its name.
    """
    code = code_digest(Path(package).parent, Path(__file__).parent)
    about = f"{experiment} {about} {finetuning} {code}"
    work = partial(contest, make_scenario, blur, finetuning)
    parts = []
    for name in networks:
        weights = fingerprint(load_classifier(name))
        parts.append(jobs.run(work, {name: name}, store, about=f"{about} {weights}"))
        print(f"{name} is finished", flush=True)
    results = Results(experiment, dataset)
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.assign(condition="", sets=[join_sets(sets, joined or {}) for sets in rows.sets])
    add_means(results, rows, BY_HOSTS)
    add_outcomes(results, rows)
    return results


def join_sets(sets: Sets, joined: Mapping[str, Sequence[str]]) -> Sets:
    """Join some sets for evaluation into one, by its name."""
    members = [name for names in joined.values() for name in names]
    found = {name: wrong for name, wrong in sets.items() if name not in members}
    for title, names in joined.items():
        found[title] = [[one for name in names for one in sets[name][when]] for when in (0, 1)]
    return found


def small(scenario: Scenario, images: int = 120) -> Scenario:
    """Keep one exemplar, one layer, and of each set every n-th image, so that no set has more than `images`."""
    splits = scenario.splits
    step = max(1, *(-(-len(data) // images) for data in splits.labeled.values()))
    fewer = {name: data.subset(range(0, len(data), step)) for name, data in splits.labeled.items()}
    extra = {name: fewer.pop(name) for name in splits.extra}
    name = scenario.default["exemplar"]
    return replace(
        scenario,
        layers=(scenario.default["layer"],),
        exemplars={name: scenario.exemplars[name]},
        several={},
        splits=ScenarioSplits(splits.images[:images], **fewer, extra=extra),
    )
