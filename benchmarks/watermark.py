"""A watermark on real photographs that four networks misread: an edit beside its controls and all rivals.

Layer, exemplar, λ and strength are chosen on photos with the mark, under an accuracy budget of 0.25 points on photos
without it, every method in the same way. Then each method reads the test photos once: with the mark, without it, and
with marks that no exemplar shows. *Restored* is the share of what the mark broke that is right again, less what the
method broke. Two lines change no weight: the mark's place is given, and blurred or inpainted before a photo is read.

The tables pool the networks, intervals are over photos. Needs the photographs (see README, 'Tiers'). With `--store
FOLDER` finished networks are kept: a run that was cut off goes on where it was.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from columns import WATERMARK, by_method
from common import finish, parser, show_choices, start
from methods import choose_all
from snow_photos import effort, pooled_row
from torch import Tensor
from typographic import UNCHOSEN, blurred

from edittools.choosing.choice import Choice, about_budget
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates
from edittools.choosing.trials import grid
from edittools.graph import identity
from edittools.metrics import Comparison, errors, predict
from edittools.probing.effects import signed_rank
from edittools.probing.jobs import run
from edittools.stories.watermark import DUTIES, SHOWN, UNSEEN, watermark_scenario
from edittools.zoo.downloads import available, registry
from edittools.zoo.load import load_classifier

NETWORKS = ("efficientnet_lite0", "squeezenet1_1", "efficientnet_lite1", "efficientnet_lite2")

TRIED: dict[str, Any] = {
    "settings": grid(rank=(1,), masked=(True,), objective=("least_squares",), reference_weight=(0.0, 30.0)),
    "strengths": (0.5, 1.0, 1.5, 2.0, 3.0),
}
TRIED |= {"rates": (1e-3, 1e-2, 1e-1), "momenta": (0.9,), "steps": (20,), "localities": (10.0,), "top": 1}
"""What every method may try, see `Plan`; fine-tuning in every second layer."""

FEWER = {"projection": slice(0, None, 4), "closed_form": slice(1, None, 2), "null_space": slice(3, 4)}
FEWER |= {"last_layer": slice(5, 7)}
"""Which of the rivals' settings are tried: means and LEACE, three weights, full rank of the null space, two ridges."""

UNKNOWN = float("nan")
DRAWS = 2000
"""Samples of the photos for an interval."""

Rows = Sequence[dict[str, Any]]


def network(name: str) -> Rows:
    """One row a method on a network: its effort; of each set who was misread before and after, and which photos."""
    started = time.perf_counter()
    story = watermark_scenario(name, progress=True)
    protocol = Protocol(replace(story, test=None, clean=None, more={}), progress=True)
    chosen = choose_all(protocol, Plan(tuned=story.layers[1::2], **TRIED), FEWER)
    show_choices(protocol, chosen)
    rows = {method: effort(choice) | made(choice, story) for method, choice in chosen.items()}
    ways = {"mark_blurred": blurred, "mark_inpainted": inpainted}
    rows |= {way: UNCHOSEN | {"layer": "none", "exemplar_right": UNKNOWN} for way in ways}
    for part, data in {"clean": story.clean, "test": story.test, **story.more}.items():
        states = CachedStates(protocol.states["validation"].cuts, data)  # all sets at once would not fit into memory
        edits = {method: choice.edit for method, choice in chosen.items() if choice.found}
        after = {method: states.compare(edits[method]).after if method in edits else states.before for method in chosen}
        masks = UNSEEN.get(part, SHOWN).mask(story.classifier.size).expand(len(data), -1, -1)
        for way, repair in ways.items():
            seen = data if part == "clean" else replace(data, images=repair(data.images, masks))
            after[way] = errors(predict(story.classifier, seen), data.labels)
        numbers = [story.clean.names.index(photo) for photo in data.names]
        for method, wrong in after.items():
            rows[method][part] = [states.before.int().tolist(), wrong.int().tolist(), numbers]
    seconds = time.perf_counter() - started
    return [{"method": method, **row, "network_seconds": seconds} for method, row in rows.items()]


def made(choice: Choice, story: Scenario) -> dict[str, Any]:
    """Say in which layer a method was chosen, and which share of its exemplars' own photos is right with it."""
    named = choice.settings.get("exemplar")
    shown = [story.exemplars[named]] if named in story.exemplars else list(story.exemplars.values())
    with choice.edit.applied(story.classifier):
        logits = predict(story.classifier, torch.stack([one.changed for one in shown]))
    right = ~errors(logits, torch.tensor([one.label for one in shown]))
    layer = ", ".join(choice.edit.layers) if choice.found else "nothing"
    return {"layer": layer, "exemplar_right": float(right.float().mean())}


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
    compared = {part: [Comparison(*torch.tensor(row[part][:2]).bool()) for row in rows] for part in ("test", "clean")}
    test, clean = map(pooled_row, compared.values())
    shown, unseen = restored(rows, ["test"]), restored(rows, list(UNSEEN))
    success = [right for row in rows if (right := row["exemplar_right"]) == right]
    return {
        "chosen": "; ".join(row["chosen"] for row in rows),
        "layers": [row["layer"] for row in rows],
        "trials": sum(row["trials"] for row in rows),
        "choice_seconds": sum(row["choice_seconds"] for row in rows),
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
        "exemplar_right": float(np.mean(success)) if success else None,
    }


def together(rows: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of each method on all networks, and by network; one that a network has no layer for changes nothing.

    `p_against_edit` is Wilcoxon's that a photo is misread by as many networks with the edit as with the method.
    """
    names, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("job", "method"))
    known, found = {(row["job"], row["method"]): row for row in rows}, {}
    edited = {name: known[name, "editing"] for name in names}
    for method in methods:
        ones = [known.get((name, method)) or unchanged(edited[name]) for name in names]
        apart = sum(np.subtract(one["test"][1], edited[one["job"]]["test"][1]) for one in ones)
        found[method] = figures(ones) | {"p_against_edit": signed_rank(apart)}
    return found, {name: {m: figures([known[name, m]]) for m in methods if (name, m) in known} for name in names}


def unchanged(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a method that changes nothing, made from that of another one."""
    parts = {part: [row[part][0], *row[part][::2]] for part in ("test", "clean", *UNSEEN)}
    return row | UNCHOSEN | parts | {"layer": "no such layer", "exemplar_right": UNKNOWN}


def main() -> None:
    """Choose for each network, report the test photos once, pool the networks."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="classifiers of the zoo")
    arguments.add_argument("--store", type=Path, help="folder for finished networks")
    options = arguments.parse_args()
    start(options)
    known = [(name, registry()[name][0]) for name in available("imagenet-sample/")]  # fewer photos are another sweep
    about, rows = f"watermark {known} {TRIED} {FEWER} {DUTIES} {SHOWN} {UNSEEN}", []
    for name in options.networks:
        weights = identity(load_classifier(name))
        rows += run(network, {name: name}, options.store, about=f"{about} {weights}").to_dict("records")
        pooled, networks = together(rows)
        print(f"\n{', '.join(networks)}\n\n{by_method(WATERMARK, pooled)}", flush=True)
    seconds = sum(row["network_seconds"] for row in rows if row["method"] == "editing")
    print(f"\n{seconds:.0f} s in all")
    others = {method: one for method, one in pooled.items() if method != "editing"}
    run_as = {"networks": networks, "seconds": seconds, "budget": about_budget(DUTIES["budget"])}
    finish(options, pooled["editing"] | others | run_as)


if __name__ == "__main__":
    main()
