"""Claim: more exemplars help methods differently: 1, 3 and 10 exemplars, as in the paper, on rendered scenes.

For each concept and style, edits are selected and evaluated on the same images, whatever the number of exemplars; a
smaller number of exemplars are the first ones of a larger number. With `--store FOLDER` finished cases are kept, and an
interrupted run continues where it was.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from _lib.command import add_store, parser, run
from _lib.results import Results, name_of
from synthetic import METHODS as NAMES
from synthetic import QUICK, SPLITS, at_most, evaluate, methods

from edittools.probing import jobs
from edittools.scenarios import synthetic as syn

METHODS = ("editing", "full rank", "local fine-tuning", "random direction")
"""The methods that are compared, as `syn.run_case` calls them."""

TITLES = {1: "1 exemplar", 3: "3 exemplars", 10: "10 exemplars"}
"""The condition of a row in the results, by the number of exemplars."""


def add_count(
    results: Results,
    source: syn.SetupSource,
    cases: Sequence[syn.Case],
    count: int,
    settings: syn.CaseSettings,
    options: argparse.Namespace,
) -> None:
    """Run all cases with a number of exemplars, and add the mean over cases of each method and split."""
    settings = replace(settings, exemplars=count)
    named = {f"{case.name}, {TITLES[count]}": case for case in cases}
    work = partial(syn.run_case, source, methods=METHODS, evaluate=evaluate, settings=settings)
    about = f"{syn.identity_of(source, settings)} {METHODS}"
    table = jobs.run(work, named, options.store, progress=True, about=about)
    scored = table[table.method != "undefined"]
    condition = {"condition": TITLES[count], "network": "mini_vgg"}
    results.add("cases", scored.job.nunique(), **condition)
    for key, row in methods(scored).items():
        where = {"method": NAMES.get(key, name_of(key.replace(" ", "_"))), **condition}
        for measure, split in SPLITS.items():
            share, *interval = row[measure]
            results.add("errors corrected", share, split=split, interval=interval, n=scored.job.nunique(), **where)
        results.add("accuracy change", row["accuracy_change_points"], split="clean_test", **where)


def experiment(options: argparse.Namespace) -> Results:
    """Run the cases with each number of exemplars."""
    results = Results("exemplar_count", "MiniWorld")
    source = syn.synthetic_source("mini", "mini_vgg", options.quick)
    settings = QUICK if options.quick else syn.DEFAULT_SETTINGS
    for count, cases in syn.exemplar_cases(source, tuple(TITLES)).items():
        cases = at_most(cases, 1 if options.quick else options.most_cases)
        add_count(results, source, cases, count, settings, options)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--most-cases", type=int, help="run this many of the cases, drawn at random")
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
