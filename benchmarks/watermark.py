"""Claim: one photo with a watermark and without it gives an edit that restores other photos, on four networks.

Layer, exemplar, λ and strength are selected on photos with the mark, with an accuracy constraint of 0.25 points on
photos without it, every method in the same way. Then each method is evaluated once on the test photos: with the mark,
without it, and with marks that no exemplar shows. *Restored* is the share of the predictions broken by the mark that is
correct again, minus what the method broke. Two methods change no weight: the mark's position is given, and blurred or
inpainted before a photo is classified.

Figures of all networks together have intervals over photos. Needs the photos (see docs/tiers.md). With `--store FOLDER`
finished networks are kept, and an interrupted run continues where it was.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from _lib.blur import blurred
from _lib.command import add_store, run
from _lib.methods import NOT_SELECTED, ONE_EACH, QUICK, Plan, effort, search_of, select_all, small
from _lib.networks import (
    Rows,
    add_networks,
    comparisons,
    network_parser,
    photos,
    pooled_row,
    sweep,
)
from _lib.results import Results
from torch import Tensor
from tqdm.auto import tqdm

from edittools.course.scenarios.watermark import SHOWN_MARK, SPLIT_SIZES, UNSEEN, watermark_scenario
from edittools.metrics import misclassified, predict
from edittools.selection import CachedActivations, Constraints, grid

NETWORKS = ("efficientnet_lite0", "squeezenet1_1", "efficientnet_lite1", "efficientnet_lite2")

TRIED: dict[str, Any] = {
    "settings": grid(rank=(1,), masked=(True,), objective=("least_squares",), reference_weight=(0.0, 30.0)),
    "strengths": (0.5, 1.0, 1.5, 2.0, 3.0),
}
TRIED |= {"rates": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1), "momenta": (0.0, 0.9)}
TRIED |= {"steps": (20,), "localities": (10.0,), "top": 1}
"""What every method may try, see `Plan`."""

FEWER = {"projection": slice(0, None, 4), "full_rank": slice(1, None, 2), "last_layer": slice(5, 7)}
"""Which settings of the baselines are tried: means and LEACE, three λ, two ridges."""

DRAWS = 2000
"""Samples of the photos for an interval."""


def network(name: str, quick: bool = False) -> Rows:
    """Make one row per method on a network: its effort; of each split, what was misclassified, and which photos."""
    started = time.perf_counter()
    scenario = watermark_scenario(name, progress=tqdm)
    if quick:
        fewer = small(scenario)
        scenario = replace(fewer, splits=replace(fewer.splits, clean_test=scenario.splits.clean_test))
    splits = scenario.splits
    clean = splits.clean_test
    for_selection = replace(scenario, splits=replace(splits, target_test=None, clean_test=None, extra={}))
    search = search_of(for_selection)
    plan = QUICK if quick else Plan(**TRIED)
    selections = select_all(for_selection, search, plan, ONE_EACH if quick else FEWER)
    rows = {method: effort(selection, for_selection, search) for method, selection in selections.items()}
    for method, selection in selections.items():
        rows[method]["layer"] = ", ".join(selection.edit.layers) if selection.feasible else "nothing"
    ways = {"mark_blurred": blurred, "mark_inpainted": inpainted}
    rows |= {way: NOT_SELECTED | {"layer": "none"} for way in ways}
    evaluated = {"clean_test": clean, "target_test": splits.target_test, **splits.extra}
    for split, data in evaluated.items():
        states = CachedActivations(search.cuts, data)  # all splits at once would not fit into memory
        edits = {method: selection.edit for method, selection in selections.items() if selection.feasible}
        after = {
            method: states.compare(edits[method]).after if method in edits else states.before for method in selections
        }
        masks = UNSEEN.get(split, SHOWN_MARK).mask(scenario.classifier.size).expand(len(data), -1, -1)
        for way, change in ways.items():
            seen = data if split == "clean_test" else replace(data, images=change(data.images, masks))
            after[way] = misclassified(predict(scenario.classifier, seen), data.labels)
        places = [clean.names.index(photo) for photo in data.names]
        for method, wrong in after.items():
            rows[method][split] = [states.before.int().tolist(), wrong.int().tolist(), places]
    seconds = time.perf_counter() - started
    return [{"method": method, **row, "network_seconds": seconds} for method, row in rows.items()]


def inpainted(images: Tensor, masks: Tensor) -> Tensor:
    """Fill images `(B, 3, H, W)` where `masks` `(B, H, W)` are 1 from around it, by the biharmonic equation."""
    from skimage.restoration import inpaint_biharmonic

    pairs = zip(images.permute(0, 2, 3, 1).numpy(), masks.numpy() > 0, strict=True)
    filled = np.stack([inpaint_biharmonic(image, hole, channel_axis=-1) for image, hole in pairs])
    return torch.from_numpy(filled).permute(0, 3, 1, 2).float().clamp(0, 1)


def restored(rows: Rows, splits: Sequence[str]) -> dict[str, Any]:
    """Count what the marks broke, and the share of it that is correct again minus what is newly broken.

    Predictions of several networks and marks are added up by photo; the interval is a bootstrap over photos.
    """
    count = len(rows[0]["clean_test"][0])
    gain = np.zeros(count)
    broken = np.zeros(count)
    for row in rows:
        wrong = np.array(row["clean_test"][0], bool)
        for split in splits:
            before, after, places = np.array(row[split], int)
            fooled = (before == 1) & ~wrong[places]
            gain[places] += (fooled & (after == 0)).astype(int) - (after > before)
            broken[places] += fooled
    if not broken.any():
        return {"fooled": 0, "share": float("nan"), "interval": [float("nan")] * 2}
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    gained = gain[draws].sum(axis=1)
    lost = broken[draws].sum(axis=1)
    interval = np.percentile(gained[lost > 0] / lost[lost > 0], [2.5, 97.5])
    return {"fooled": int(broken.sum()), "share": float(gain.sum() / broken.sum()), "interval": interval.tolist()}


def add_figures(results: Results, rows: Rows, *, network: str, method: str) -> None:
    """Add the figures of one method on one network, or on several together; those of a mark have it as split."""
    where = {"network": network, "method": method}
    test, clean = (pooled_row(comparisons(rows, split)) for split in ("target_test", "clean_test"))
    shown = restored(rows, ["target_test"])
    unseen = restored(rows, list(UNSEEN))
    results.add(
        "errors before", test["errors before"], split="target_test", n=test["images"], key="errors_before", **where
    )
    results.add("corrected", test["corrected"], split="target_test", key="corrected", **where)
    results.add("broken", test["broken"], split="target_test", key="broken", **where)
    add_restored(results, shown, "target_test", "broken_by_the_mark", "share_restored", where)
    add_restored(results, unseen, "unseen marks", "broken_by_unseen_marks", "share_restored_unseen_marks", where)
    results.add(
        "accuracy change",
        clean["accuracy change (points)"],
        split="clean_test",
        interval=(clean["accuracy low"], clean["accuracy high"]),
        key="accuracy_change_points_held_out",
        **where,
    )
    marks = {mark: restored(rows, [mark])["share"] for mark in UNSEEN}
    for mark, share in marks.items():
        results.add("restored", share, split=mark, **where)
    layers = [row.get("layer", "no such layer") for row in rows]
    results.add_keys(network, method, images=test["images"], marks=marks, layers=layers)


def add_restored(
    results: Results,
    found: dict[str, Any],
    split: str,
    broken_key: str,
    share_key: str,
    where: dict[str, str],
) -> None:
    """Add how many predictions marks broke, and the share of them that is restored."""
    results.add("broken by the mark", found["fooled"], split=split, key=broken_key, **where)
    interval = found["interval"]
    results.add("restored", found["share"], split=split, interval=interval, n=found["fooled"], key=share_key, **where)


def experiment(options: argparse.Namespace) -> Results:
    """Select for each network, evaluate once on the test photos, pool the networks."""
    about = f"watermark, rows 3 {photos('imagenet-sample/')} {TRIED} {FEWER} {SPLIT_SIZES} {SHOWN_MARK} {UNSEEN}"
    about += f" {options.quick}"
    work = partial(network, quick=options.quick)
    rows = sweep(work, options.networks[:1] if options.quick else options.networks, options.store, about)
    constraints = Constraints().describe(SPLIT_SIZES["clean"])
    seconds = sum(row["network_seconds"] for row in rows if row["method"] == "editing")
    results = Results("watermark", "photos", notes={"constraints": constraints}, seconds=seconds)
    add_networks(results, rows, add_figures)
    results.line = results.keyed_line() | {"budget": constraints}
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = network_parser(__doc__, NETWORKS)
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
