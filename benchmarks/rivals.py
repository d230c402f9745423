"""Claim: at equal cost, three rivals that know the same exemplar and images correct no more than an edit.

For one of three pairs, the claim is false.

An edit is selected by hosts, and so is each rival, by the same objective: the divergence of hosts with the mark, plus
twice that of the same images without it. Ordinary images have no labels.

- Label-free fine-tuning with a larger grid: of all layers, or of the last block; 100, 200, 400, and 800 steps; a run
  ends at the first of these at which its objective has risen. Two rates are tried first, then lower or higher ones,
  until the selected rate is neither the lowest nor the highest that was tried.
- Find and fill, without a change of weights: the mark is found by its keys at one layer, and its place is filled from
  the surroundings (`_lib.find_and_fill`). It takes its time with each prediction.
- Projection at the keys: the direction from the keys of hosts without the mark to those with it is projected out,
  around the mean without it, along the difference of means (P-ClArC), or as LEACE does (`_lib.projected`).

The edit, find and fill, and the projection are selected with default hosts, and with hosts whose marks vary;
fine-tuning with default hosts. There is one exemplar of each mark, and one seed. All photos are those of the
development (`_lib.varied_cases`); no image of a test is read. To save time, edits and projections of EfficientNet-Lite0
are tried in three layers.

The criterion, written down before any rival was run. For each network and mark, and both for marks as in training and
for marks that vary, a rival is compared with the edit that was selected with the same hosts. It wins if it stays within
the edit's limits (at most one point more clean predictions changed; the mark's class with the mark correct at most 3
points less often), and if the net share of errors corrected is higher, with a 95% lower bound of the paired difference
over photos above 0. It loses if it does not stay within them, or if the upper bound is below 0.

`--store FOLDER` is required: it keeps what was selected, and an interrupted run continues where it was.
"""

import argparse
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from _lib import effects, find_and_fill, jobs, label_free, projected, tuning, varied_cases
from _lib.command import add_store, code_digest, one_thread, parser, run
from _lib.effects import (
    CHANGED,
    CLEAN,
    CORRECT,
    CORRECTED,
    FLIPS,
    OWN_CLASS,
    TARGET,
    Sets,
    metrics_of,
    net_share,
)
from _lib.find_and_fill import Finder, predict_filled, select_setting
from _lib.label_free import Selected, save_edits
from _lib.pairs import gain_over_photos
from _lib.projected import select_projection
from _lib.results import (
    BY_HOSTS,
    BY_PROJECTION,
    BY_VARIED_HOSTS,
    BY_VARIED_PROJECTION,
    FIND_AND_FILL,
    FIND_AND_FILL_VARIED,
    LABEL_FREE,
    MINUS_EDIT,
    PER_THOUSAND,
    REMOVED,
    WITHIN,
    Results,
)
from _lib.tuning import ALL_LAYERS, LAST, LAST_BLOCK, next_rate, tuned
from _lib.varied_cases import LAYERS, OWN_VARIED, VARIED, WORD, Case, Pair, case_of
from tqdm.auto import tqdm

from edittools._varied import SCALE
from edittools.classifiers import fingerprint
from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.exemplars import Pairs
from edittools.layers import candidate_layers
from edittools.metrics import predict, predicted_classes
from edittools.models import load_classifier
from edittools.selection.select import Selection, select

PAIRS = [pair for pair in varied_cases.PAIRS if pair.mark != WORD]
"""The cases. No ordinary image is predicted as the class of the word, so no host measures the cost on this class."""

METHODS = {
    False: (BY_HOSTS, BY_PROJECTION, FIND_AND_FILL),
    True: (BY_VARIED_HOSTS, BY_VARIED_PROJECTION, FIND_AND_FILL_VARIED),
}
"""The edit, the projection, and find and fill, by whether marks vary on hosts."""

EDIT_OF = {rival: edit for edit, *rivals in METHODS.values() for rival in rivals} | {LABEL_FREE: BY_HOSTS}
"""The edit that each rival is compared with: the one that was selected with the same hosts."""

OWN_WITH = {TARGET: OWN_CLASS, VARIED: OWN_VARIED}
"""The images of the mark's class with the same kind of marks."""

MOST_MORE_FLIPS, LARGEST_OWN_DROP = 0.01, 0.03
"""The limits of the criterion."""

ROUNDING = 1e-9
"""A difference of two shares that equals a limit is within it, however it is rounded."""

STEPS = (100, 200, 400, 800)
"""The numbers of steps of fine-tuning."""

FIRST_RATES = {ALL_LAYERS: (3e-5, 1e-4), LAST: (1e-4, 3e-4)}
"""The rates that are tried first, by what is trained."""

SHARES_OF_DEPTH = (0.2, 0.4, 0.6, 0.8)
"""How deep in the network the layers are at which the mark is looked for."""


# --- selection --------------------------------------------------------------------------------------------------------


@cache
def known(pair: Pair, quick: bool) -> Case:
    """Collect a case, or return it again."""
    return case_of(*pair, quick)


@cache
def divided(pair: Pair, quick: bool) -> Selection:
    """Divide the ordinary images of a case as for the edit, whatever layers are tried: only one is."""
    case = known(pair, quick)
    return select(case.classifier, case.exemplar, case.images, layers=candidate_layers(case.classifier)[-1:])


def selected_with_hosts(folder: Path, pair: Pair, quick: bool, vary: bool) -> list[dict[str, Any]]:
    """Select an edit, a projection, and what finds and fills; one row each."""
    case = known(pair, quick)
    layers = LAYERS.get(pair.network, candidate_layers(case.classifier))
    layers = layers[-2:] if quick else layers
    by_edit, by_projection, by_filling = METHODS[vary]
    started = time.process_time()
    selection = select(case.classifier, case.exemplar, case.images, layers=layers, vary=vary)
    seconds = time.process_time() - started
    edits = [Selected(by_edit, selection.edit, str(selection.candidate), len(selection.scores), seconds)]
    started = time.process_time()
    candidate, count = select_projection(case.classifier, selection, layers)
    seconds = time.process_time() - started
    edits.append(Selected(by_projection, candidate.scaled, str(candidate), count, seconds))
    rows = save_edits(folder, {"network": pair.network, "case": pair.mark}, edits)
    return [*rows, filling(case, pair, selection, by_filling, quick)]


def filling(case: Case, pair: Pair, selection: Selection, method: str, quick: bool) -> dict[str, Any]:
    """Select what finds and fills, and measure it."""
    started = time.process_time()
    hosts = selection.hosts
    layers = candidate_layers(case.classifier)
    named = [layers[int(share * len(layers))] for share in (SHARES_OF_DEPTH[:1] if quick else SHARES_OF_DEPTH)]
    shown = Pairs.joined([*hosts.solve.values(), *hosts.solve_own.values()])
    sizes = (SCALE[0], 1.0, SCALE[1]) if hosts.vary else (1.0,)
    finders = {}
    for layer, cut in cut_all(case.classifier, named).items():
        finders[layer] = Finder.of(cut, case.exemplar, shown, hosts.reference, sizes)
    setting, count = select_setting(case.classifier, finders, hosts)
    seconds = time.process_time() - started
    sets: dict[str, list[list[int]]] = {}
    per_thousand = {}
    for split, data in case.sets.items():
        before = predicted_classes(predict(case.classifier, data))
        started = time.process_time()
        after = predicted_classes(predict_filled(case.classifier, finders[setting.layer], setting, data.images))
        per_thousand[split] = (time.process_time() - started) / len(data) * 1000
        sets[split] = [(one != data.labels).int().tolist() for one in (before, after)]
        if split == CLEAN:
            sets[CHANGED] = [torch.zeros_like(before).tolist(), (before != after).int().tolist()]
    row = {"network": pair.network, "case": pair.mark, "method": method, "settings": str(setting), "candidates": count}
    print(row, seconds, flush=True)
    return {**row, "seconds": seconds, "sets": sets, "per_thousand": per_thousand}


def run_of_training(folder: Path, pair: Pair, quick: bool, setting: tuple[str, float]) -> list[dict[str, Any]]:
    """Fine-tune at one rate; one row."""
    part, rate = setting
    case = known(pair, quick)
    begins = ("",) if part == ALL_LAYERS else LAST_BLOCK[pair.network]
    best = tuned(case.classifier, divided(pair, quick), begins, rate, (1, 2) if quick else STEPS)
    settings = f"{part}, rate {rate:g}, steps {best.steps}, weight {best.weight:g}"
    one = Selected(LABEL_FREE, best.edit, settings, best.candidates, best.seconds)
    [row] = save_edits(folder, {"network": pair.network, "case": pair.mark}, [one])
    return [{**row, "rate": rate, "steps": best.steps, "objective": best.objective}]


def fine_tuned(folder: Path, store: Path, pair: Pair, quick: bool, parts: Sequence[str], about: str) -> dict[str, Any]:
    """Fine-tune parts of the network at several rates; the row of what the objective selects.

    Its settings say at which corners of the grid it is, and its seconds are those of the whole grid.
    """
    tables = []
    for part in parts:
        rates = list(FIRST_RATES[part][: 1 if quick else 2])
        while True:
            named = {f"{pair.name}, {part}, rate {rate:g}": (part, rate) for rate in rates}
            runs = jobs.run(partial(run_of_training, folder, pair, quick), named, store, about=about)
            rate = next_rate(dict(zip(runs.rate, runs.objective, strict=True)))
            if rate is None or quick:
                break
            rates.append(rate)
        tables.append(runs)
    best = min((runs.loc[runs.objective.idxmin()] for runs in tables), key=lambda row: row.objective)
    own = next(runs for runs in tables if best["job"] in set(runs["job"]))
    corners = ["rate"] if best.rate in (own.rate.min(), own.rate.max()) else []
    corners += ["steps"] if best.steps == max(STEPS) else []
    together = pd.concat(tables)
    return {
        **{name: best[name] for name in ("network", "case", "method", "edit")},
        "settings": f"{best.settings}; at the corner of the grid: {', '.join(corners) or 'no'}",
        "candidates": int(together.candidates.sum()),
        "seconds": float(together.seconds.sum()),
    }


def measured(
    folder: Path, store: Path, quick: bool, parts: Sequence[str], about: str, pair: Pair
) -> list[dict[str, Any]]:
    """Select and evaluate all methods for a case; one row each."""
    with one_thread():
        case = known(pair, quick)
        work = partial(selected_with_hosts, folder, pair, quick)
        table = jobs.run(work, {f"{pair.name}, vary={vary}": vary for vary in METHODS}, store, about=about)
        rows = table.drop(columns="job").to_dict("records")
        rows += [fine_tuned(folder, store, pair, quick, parts, about)] if parts else []
        of_weights = [row for row in rows if row["method"] not in (FIND_AND_FILL, FIND_AND_FILL_VARIED)]
        edits = {row["edit"]: Edit.load(folder / row["edit"], case.classifier.model) for row in of_weights}
        found = effects.evaluated(case.classifier, edits, case.sets)
        for row in of_weights:
            row["sets"] = found[row["edit"]]
        started = time.process_time()
        predict(case.classifier, case.sets[CLEAN])
        plain = (time.process_time() - started) / len(case.sets[CLEAN]) * 1000
        clean = case.sets[CLEAN]
        is_other = clean.labels != case.sets[OWN_CLASS].labels[0]
    kept = ("network", "case", "method", "settings", "candidates", "seconds", "sets", "per_thousand")
    more = {"is_other": is_other.int().tolist(), "plain": plain}
    return [{**{name: row[name] for name in kept if name in row}, **more} for row in rows]


# --- results ----------------------------------------------------------------------------------------------------------


def add_figures(results: Results, rows: pd.DataFrame) -> None:
    """Add the metrics and the seconds of each method, and what removing the mark would correct."""
    for row in rows.to_dict("records"):
        where = {"network": row["network"], "method": row["method"]}
        for (split, metric), value in metrics_of(row["sets"]).items():
            results.add(metric, value, split=split, condition=row["case"], **where)
        results.add("CPU seconds", row["seconds"], condition=row["case"], **where)
        is_filled = row["method"] in (FIND_AND_FILL, FIND_AND_FILL_VARIED)
        costs = row["per_thousand"] if is_filled else {CLEAN: row["plain"]}
        for split in (CLEAN, TARGET):
            results.add(PER_THOUSAND, costs.get(split), split=split, condition=row["case"], **where)
        if row["method"] == BY_HOSTS:
            add_removed(results, row)


def add_removed(results: Results, row: dict[str, Any]) -> None:
    """Add what removing the mark would correct: the same images without it."""
    is_other = torch.tensor(row["is_other"]) > 0
    unmarked = torch.tensor(row["sets"][CLEAN][0])[is_other].numpy()
    for split in (TARGET, VARIED):
        value = net_share(torch.tensor(row["sets"][split][0]).numpy(), unmarked)
        results.add(CORRECTED, value, network=row["network"], method=REMOVED, split=split, condition=row["case"])


def is_within_limits(edit: Sets, rival: Sets, split: str) -> bool:
    """Say whether a rival stays within the edit's limits, with the kind of marks of a set."""
    of_edit, of_rival = metrics_of(edit), metrics_of(rival)
    more_flips = of_rival[CLEAN, FLIPS] - of_edit[CLEAN, FLIPS]
    own_drop = of_edit[OWN_WITH[split], CORRECT] - of_rival[OWN_WITH[split], CORRECT]
    return more_flips <= MOST_MORE_FLIPS + ROUNDING and own_drop <= LARGEST_OWN_DROP + ROUNDING


def decide(results: Results, rows: pd.DataFrame) -> None:
    """Compare each rival with the edit by the criterion, and note how often it wins and loses."""
    outcomes: dict[str, list[str]] = {}
    for (network, mark), of_pair in rows.groupby(["network", "case"], sort=False):
        sets = dict(zip(of_pair.method, of_pair.sets, strict=True))
        for rival, edit in EDIT_OF.items():
            for split in (TARGET, VARIED) if rival in sets else ():
                gain = gain_over_photos([sets[edit][split]], [sets[rival][split]])
                low, high = gain.interval
                within = is_within_limits(sets[edit], sets[rival], split)
                outcome = "wins" if within and low > 0 else "loses" if not within or high < 0 else "neither"
                outcomes.setdefault(rival, []).append(outcome)
                where = {"network": network, "method": rival, "split": split, "condition": mark}
                results.add(MINUS_EDIT, gain.value, interval=(low, high), n=len(gain.influence), **where)
                results.add(WITHIN, float(within), **where)
    for rival, found in outcomes.items():
        results.notes[rival] = f"wins {found.count('wins')}, loses {found.count('loses')} of {len(found)}"
    print(f"{results.notes}\n")


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Select and evaluate for each case after the other."""
    folder = options.store / "edits"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [pair for pair in PAIRS if pair.name in options.pairs]
    todo = pairs[:1] if options.quick else pairs
    places = [Path(module.__file__) for module in (effects, find_and_fill, projected, tuning, varied_cases)]
    code = code_digest(*label_free.CODE, *places)
    weights = " ".join(fingerprint(load_classifier(name)) for name in dict.fromkeys(pair.network for pair in PAIRS))
    about = f"rivals {options.quick} {STEPS} {FIRST_RATES} {LAYERS} {code} {weights}"
    parts = []
    for pair in todo:
        tuned_parts = options.parts if pair.name in options.tuned else []
        work = partial(measured, folder, options.store, options.quick, tuned_parts, about)
        named = {pair.name: pair}
        parts.append(jobs.run(work, named, options.store, progress=tqdm, about=f"{about} fine-tuning {tuned_parts}"))
    rows = pd.concat(parts, ignore_index=True)
    results = Results("rivals", "photos", seconds=round(float(rows.seconds.sum()), 1))
    add_figures(results, rows)
    decide(results, rows)
    effects.add_outcomes(results, rows.assign(condition="", run=""))
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    names = [pair.name for pair in PAIRS]
    arguments.add_argument("--pairs", nargs="+", default=names, choices=names, metavar="PAIR", help="which to measure")
    arguments.add_argument(
        "--tuned", nargs="*", default=names, choices=names, metavar="PAIR", help="those on which to fine-tune as well"
    )
    whole = list(FIRST_RATES)
    arguments.add_argument(
        "--parts", nargs="+", default=whole, choices=whole, metavar="PART", help="what is fine-tuned"
    )
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the selected edits are kept")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
