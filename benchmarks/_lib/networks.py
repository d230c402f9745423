"""A scenario on several networks: each case is a network and an exemplar, and finished networks are kept in a store."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from _lib.command import add_store, code_digest, parser
from _lib.contest import CLEAN, TARGET, Sets, add_contest, evaluated
from _lib.methods import (
    CONSTRAINTS,
    METHODS_OF_REPAIR,
    WITHIN,
    Entry,
    entry_of,
    select_edits,
    select_finetuned,
    with_folds,
)
from _lib.results import BLURRED, SEVERAL, Results
from edittools import __file__ as package
from edittools.classifiers import fingerprint
from edittools.course.scenarios.scenario import Scenario
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.models.downloads import available, registry
from edittools.models.load import load_classifier
from edittools.probing import jobs
from edittools.selection import Constraints, Search, Splits
from edittools.selection.splits import EVALUATING

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


def for_selection(splits: Splits) -> Splits:
    """Leave out the images for evaluation."""
    left_out = dict.fromkeys(EVALUATING)
    return replace(splits, **left_out, extra={})


def select_for_exemplar(scenario: Scenario, name: str) -> list[Entry]:
    """Select for all methods that get one exemplar, by its name."""
    exemplar = scenario.exemplars[name]
    splits = for_selection(scenario.splits)
    search = Search(scenario.classifier, {name: exemplar}, splits, scenario.layers, Constraints().halved, tqdm)
    started = time.process_time()
    selection = search.select(search.score(METHODS_OF_REPAIR), second_layer=True)
    return select_edits(search, exemplar, selection, time.process_time() - started)


def select_for_several(scenario: Scenario, name: str) -> list[Entry]:
    """Select an edit that is made from several exemplars together, by their name."""
    splits = for_selection(scenario.splits)
    search = Search(
        scenario.classifier, {name: scenario.several[name]}, splits, scenario.layers, Constraints().halved, tqdm
    )
    started = time.process_time()
    outcomes = search.score(METHODS_OF_REPAIR)
    seconds = time.process_time() - started
    selected = []
    for limits, constraints in CONSTRAINTS.items():
        selection = search.select(outcomes, second_layer=constraints is None, constraints=constraints)
        selected.append(entry_of(SEVERAL, limits, selection, seconds))
    return selected


def select_without_exemplar(scenario: Scenario, exemplar: Exemplar) -> list[Entry]:
    """Fine-tune the whole network, which depends on no exemplar."""
    splits = with_folds(for_selection(scenario.splits))
    return select_finetuned(scenario.classifier, exemplar, splits, rates=None, is_pasted=False)


def contest(make_scenario: MakeScenario, blur: Blur | None, finetuning: bool, network: str) -> list[dict[str, Any]]:
    """Select for every method on a network, and evaluate what was selected once; one row per selection.

    Args:
        make_scenario: makes the scenario of the network.
        blur: evaluates the images with the concept blurred; None without such a method.
        finetuning: also fine-tune the whole network, which takes minutes.
        network: the name of the network.
    """
    with jobs.one_thread():
        scenario = make_scenario(network)
        names = list(scenario.exemplars)
        scenario.splits.check_disjoint(scenario.exemplars.values())
        selected = {name: select_for_exemplar(scenario, name) for name in names}
        selected |= {name: select_for_several(scenario, name) for name in scenario.several}
        if finetuning:
            selected[""] = select_without_exemplar(scenario, scenario.exemplars[names[0]])
        everything = [one for of_case in selected.values() for one in of_case]
        cases = [name for name, of_case in selected.items() for _ in of_case]
        found = evaluated(scenario.classifier, everything, sets_of(scenario.splits))
        if blur is not None:
            everything.append(Entry(BLURRED, WITHIN, None, "no weight", 1, 0.0))
            cases.append("")
            found.append(blur(scenario))
    rows = []
    for case, one, sets in zip(cases, everything, found, strict=True):
        rows.append({"network": network, "case": case, "draw": 0, **one.row(), "sets": sets})
    return rows


def sets_of(splits: Splits) -> dict[str, LabelledImages]:
    """Return the images for evaluation, by the name of the set."""
    named = {TARGET: splits.target_test, CLEAN: splits.clean_test, "retain_test": splits.retain_test, **splits.extra}
    return {name: data for name, data in named.items() if data is not None}


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
    add_contest(results, rows.assign(sets=[join_sets(sets, joined or {}) for sets in rows.sets]))
    return results


def join_sets(sets: Sets, joined: Mapping[str, Sequence[str]]) -> Sets:
    """Join some sets for evaluation into one, by its name; a method without a candidate has none."""
    members = [name for names in joined.values() for name in names]
    found = {name: wrong for name, wrong in sets.items() if name not in members}
    for title, names in joined.items():
        if sets:
            found[title] = [[one for name in names for one in sets[name][when]] for when in (0, 1)]
    return found


def small(scenario: Scenario, images: int = 120) -> Scenario:
    """Keep one exemplar, one layer, and of each split every n-th image, so that no split has more than `images`."""
    splits = scenario.splits
    step = max(1, *(-(-len(data) // images) for data in splits.labeled.values()))
    fewer = {name: data.subset(range(0, len(data), step)) for name, data in splits.labeled.items()}
    extra = {name: fewer.pop(name) for name in splits.extra}
    reference = splits.reference
    reference = reference.subset(range(40)) if isinstance(reference, LabelledImages) else reference[:40]
    name = scenario.default["exemplar"]
    layers = (scenario.default["layer"],)
    return replace(
        scenario,
        layers=layers,
        exemplars={name: scenario.exemplars[name]},
        several={},
        splits=Splits(reference, **fewer, extra=extra),
    )
