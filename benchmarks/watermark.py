"""A watermark on real photographs that four networks misread: an edit beside its controls and all rivals.

Layer, exemplar, λ and strength are chosen on photos with the mark, under an accuracy budget of 0.25 points on photos
without it, every method in the same way. Then each method reads the test photos once: with the mark, without it, and
with marks that no exemplar shows. *Restored* is the share of what the mark broke that is right again, less what the
method broke. Two lines change no weight: the mark's place is given, and blurred or inpainted before a photo is read.

The tables pool the networks, intervals are over photos. Needs the photographs (see README, 'Tiers'). With `--store
FOLDER` finished networks are kept: a run that was cut off goes on where it was.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from columns import WATERMARK
from common import finish, start
from methods import LOCALITY, UNCHOSEN, Plan, effort, remake, search_of, select_all, select_untuned, with_near
from networks import Rows, comparisons, options, photos, pooled_row, reported, rerun, sweep
from torch import Tensor
from typographic import blurred

from edittools.metrics import misclassified, predict
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.watermark import SHOWN_MARK, SPLIT_SIZES, UNSEEN, watermark_scenario
from edittools.selection.activations import CachedActivations
from edittools.selection.constraints import Constraints
from edittools.selection.search import EditSearch, Selection, grid

NETWORKS = ("efficientnet_lite0", "squeezenet1_1", "efficientnet_lite1", "efficientnet_lite2")

TRIED: dict[str, Any] = {
    "settings": grid(rank=(1,), masked=(True,), objective=("least_squares",), reference_weight=(0.0, 30.0)),
    "strengths": (0.5, 1.0, 1.5, 2.0, 3.0),
}
TRIED |= {"rates": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1), "momenta": (0.0, 0.9)}
TRIED |= {"steps": (20,), "localities": (10.0,), "top": 1}
"""What every method may try, see `Plan`; fine-tuning in every second layer."""

FEWER = {"projection": slice(0, None, 4), "closed_form": slice(1, None, 2), "null_space": slice(3, 4)}
FEWER |= {"last_layer": slice(5, 7), "reactive": slice(0, None, 2)}
"""Which of the rivals' settings are tried: means and LEACE, three weights, full rank of the null space, two ridges."""

UNKNOWN = float("nan")
DRAWS = 2000
"""Samples of the photos for an interval."""


def network(
    name: str, methods: Sequence[str] = (), stored: Mapping[str, Any] | None = None, again: bool = False
) -> Rows:
    """Make one row per method on a network: its effort; of each set, what was misclassified, and which photos.

    Args:
        name: the network.
        methods: select only these; by default all.
        stored: earlier results of the network. The row of the edit is then of its stored selection.
        again: evaluate the stored selections of `methods` as well, without a search.
    """
    started = time.perf_counter()
    story = with_near(watermark_scenario(name, progress=True))
    splits = story.splits
    clean = splits.clean_test
    for_selection = replace(story, splits=replace(splits, target_test=None, clean_test=None, extra={}))
    search = search_of(for_selection)
    plan = Plan(tuned=story.layers[1::2], **TRIED)
    chosen = {}
    if stored:
        for method in ("editing", *(methods if again else ())):
            remade = remake(for_selection, search, plan, method, stored[method]["chosen"], FEWER)
            chosen[method] = nothing(for_selection, search) if remade is None else remade
    if not again:
        chosen |= select_all(for_selection, search, plan, FEWER, methods)
    rows = {method: effort(selection, for_selection, search) for method, selection in chosen.items()}
    for method in stored or ():
        if method == "editing" or (again and method in methods):
            rows[method] |= {name: stored[method][name] for name in ("chosen", "trials", "choice_seconds")}
    for method, selection in chosen.items():
        rows[method]["layer"] = ", ".join(selection.edit.layers) if selection.feasible else "nothing"
    ways = {} if methods else {"mark_blurred": blurred, "mark_inpainted": inpainted}
    rows |= {way: UNCHOSEN | {"layer": "none"} for way in ways}
    for part, data in {"clean": clean, "test": splits.target_test, **splits.extra}.items():
        states = CachedActivations(search.cuts, data)  # all sets at once would not fit into memory
        edits = {method: choice.edit for method, choice in chosen.items() if choice.feasible}
        after = {method: states.compare(edits[method]).after if method in edits else states.before for method in chosen}
        masks = UNSEEN.get(part, SHOWN_MARK).mask(story.classifier.size).expand(len(data), -1, -1)
        for way, repair in ways.items():
            seen = data if part in ("clean", *LOCALITY) else replace(data, images=repair(data.images, masks))
            after[way] = misclassified(predict(story.classifier, seen), data.labels)
        numbers = [clean.names.index(photo) for photo in data.names]
        for method, wrong in after.items():
            rows[method][part] = [states.before.int().tolist(), wrong.int().tolist(), numbers]
    seconds = time.perf_counter() - started
    return [{"method": method, **row, "network_seconds": seconds} for method, row in rows.items()]


def nothing(story: Scenario, search: EditSearch) -> Selection:
    """Describe that no candidate was selected: an edit that changes nothing."""
    untuned = select_untuned(story, search)
    return replace(untuned, edit=0 * untuned.edit, params={})


def inpainted(images: Tensor, masks: Tensor) -> Tensor:
    """Fill images `(B, 3, H, W)` where `masks` `(B, H, W)` are 1 from around it, by the biharmonic equation."""
    from skimage.restoration import inpaint_biharmonic

    pairs = zip(images.permute(0, 2, 3, 1).numpy(), masks.numpy() > 0, strict=True)
    filled = np.stack([inpaint_biharmonic(image, hole, channel_axis=-1) for image, hole in pairs])
    return torch.from_numpy(filled).permute(0, 3, 1, 2).float().clamp(0, 1)


def restored(rows: Rows, parts: Sequence[str]) -> dict[str, Any]:
    """Count what the marks broke, and the share of it that is right again less what is newly broken.

    Readings of several networks and marks are added up by photo; the interval is a bootstrap over photos.
    """
    gain, broken = np.zeros((2, len(rows[0]["clean"][0])))
    for row in rows:
        wrong = np.array(row["clean"][0], bool)
        for part in parts:
            before, after, numbers = np.array(row[part], int)
            fooled = (before == 1) & ~wrong[numbers]
            gain[numbers] += (fooled & (after == 0)).astype(int) - (after > before)
            broken[numbers] += fooled
    draws = np.random.default_rng(0).integers(len(gain), size=(DRAWS, len(gain)))
    gained, lost = gain[draws].sum(axis=1), broken[draws].sum(axis=1)
    interval = np.percentile(gained[lost > 0] / lost[lost > 0], [2.5, 97.5]) if broken.any() else np.full(2, UNKNOWN)
    share = float(gain.sum() / broken.sum()) if broken.any() else UNKNOWN
    return {"fooled": int(broken.sum()), "share": share, "interval": interval.tolist()}


def figures(rows: Rows) -> dict[str, Any]:
    """The figures of one method on one network, or on several together."""
    test, clean = (pooled_row(comparisons(rows, part)) for part in ("test", "clean"))
    shown, unseen = restored(rows, ["test"]), restored(rows, list(UNSEEN))
    return {
        "layers": [row.get("layer", "no such layer") for row in rows],
        **{name.replace(" ", "_"): test[name] for name in ("images", "errors before", "corrected", "broken")},
        "broken_by_the_mark": shown["fooled"],
        "share_restored": shown["share"],
        "share_restored_interval": shown["interval"],
        "broken_by_unseen_marks": unseen["fooled"],
        "share_restored_unseen_marks": unseen["share"],
        "share_restored_unseen_marks_interval": unseen["interval"],
        "marks": {mark: restored(rows, [mark])["share"] for mark in UNSEEN},
        "accuracy_change_points_held_out": clean["accuracy change (points)"],
        "accuracy_change_points_held_out_interval": (clean["accuracy low"], clean["accuracy high"]),
        **reported(rows),
    }


def main() -> None:
    """Select for each network, evaluate once on the test photos, pool the networks; or run some methods again."""
    arguments = options(__doc__, NETWORKS)
    arguments.add_argument("--methods", nargs="+", help="run only these again and merge them into --output")
    arguments.add_argument("--again", nargs="+", default=(), help="networks whose stored selections are only evaluated")
    given = start(arguments)
    about = f"watermark {photos('imagenet-sample/')} {TRIED} {FEWER} {SPLIT_SIZES} {SHOWN_MARK} {UNSEEN}"
    if given.methods:
        rerun(network, figures, given, about)
        return
    _, found = sweep(network, figures, WATERMARK, given, about)
    finish(given, found | {"budget": Constraints().describe(SPLIT_SIZES["clean"])})


if __name__ == "__main__":
    main()
