"""A rehearsal of tier `paper`: each of its models, each of its stories, end to end, with nothing from outside.

    python benchmarks/paper_rehearsal.py --model resnet18 --story snow
    python benchmarks/paper_rehearsal.py --json --output docs/results/paper_rehearsal.json

Weights are random, saved in the original's format and loaded by the original's route from a hub on loopback; photos are
drawn (see stand_ins.py). So a story is run through with few images, layers and trials, and says nothing about how well
an edit does. Measured are seconds a step at 224 px, of this process on one core: a forward pass of one image up to the
layer and after it, and one solve, means over two layers. From them, and from how many images and trials a notebook
needs, comes the estimate of the first full run on one core: `ESTIMATED` says what is counted.
"""

import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import extra_memory, finish, parser, start
from stand_ins import CLIP, PLACES, Hub, rehearsing
from torch import Tensor
from typographic import figures, read_blurred, read_mirrored, read_with

from edittools.baselines import RIVALS, SCOPES
from edittools.choosing.choice import Choice
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.repair import repair
from edittools.choosing.trials import grid
from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all, sought_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.metrics import predict
from edittools.moments import SecondMoment, second_moments
from edittools.probing import Probe
from edittools.probing.finders import deeplab
from edittools.rewriting import rewrite
from edittools.stories import suites, synthetic_tables
from edittools.stories import synthetic as syn
from edittools.stories.cures import scenario_for, shown_rule
from edittools.stories.rules import Probing, probing_scenario
from edittools.stories.snow import snow_scenario
from edittools.stories.typographic import Scenario, last_convolutions, typographic_scenario
from edittools.zoo import downloads

ON_IMAGENET = ("snow", "synthetic", "cure")
MODELS = {
    **dict.fromkeys(("vgg16", "vgg16_bn", "resnet18", "resnet50"), ON_IMAGENET),
    PLACES: ("synthetic", "cure"),
    "clip_rn50": ("typographic",),
}
"""Which stories of the tier a model belongs to."""

_TUNING = {"rates": (1e-2,), "momenta": (0.9,), "steps": (2,), "localities": (1.0,), "top": 1, "long": (3,)}
PLAN = Plan(grid(objective=("least_squares",)) + grid(objective=("l1",), steps=(3,)), (1.0,), longest=1, **_TUNING)
"""Of every method next to nothing is tried."""


@dataclass
class Ran:
    """What a story that ran through leaves: what to time, and figures of its own."""

    classifier: Classifier
    layers: Sequence[str]
    exemplar: Exemplar
    reference: Tensor
    more: dict[str, float] = field(default_factory=dict)


def snow(model: str) -> Ran:
    """Notebook 01: every method chosen and reported, an edit saved and read again, a repair."""
    story = _few(snow_scenario("paper", model))
    chosen = _chosen(Protocol(story, story.layers))
    [exemplar], quick = story.exemplars.values(), {"layers": story.layers[-1:], "strengths": (1.0,), "folds": 2}
    fix = repair(story.classifier, exemplar, story.validation, story.budget, keep=story.keep, **quick)
    _check(str(fix.verdict), "a verdict")
    _saved(chosen["editing"].edit, story.classifier)
    return _ran(story)


def typographic(model: str) -> Ran:
    """Notebook 02 and `typographic.py`: every method chosen, words and real iPods reported."""
    story = _few(typographic_scenario("paper", model), last_convolutions)
    protocol = Protocol(story, story.layers)
    chosen, kept = _chosen(protocol), protocol.states
    reads = [read_with(chosen[name], kept) for name in ("editing", "closed_form")]
    for read in (*reads, read_mirrored(story, kept), read_blurred(story, kept)):
        _check(figures(read, kept, story), "figures")
    _saved(chosen["editing"].edit, story.classifier)
    return _ran(story, {"text": _seconds_a_text()})


def synthetic(model: str) -> Ran:
    """Notebook 03: a case of a folder whose concepts DeepLab finds, by every method."""
    whole = suites.suite("paper", "small", model)
    options = {**dict(whole.options), "per_class": 6, "clean": 6}
    few = {"styles": whole.styles[:1], "layers": whole.layers[-2:], "numbers": (1,), "strengths": (1.0,), "least": 1}
    few |= {"rates": (1e-2,), "steps": 2, "solver_steps": 3, "localities": (1.0,), "options": tuple(options.items())}
    suite = replace(whole, **few)
    try:
        cases, found = syn.cases(suite), syn.material(suite)
        table = syn.sweep(suite, cases[:1])
        _check((table.method != "undefined").any(), "a case with errors to correct")
        _check(len(synthetic_tables.summary(table)), "a summary")
        exemplar, picture = syn.parts(suite, cases[0]).exemplars(1)[0], found.images.images[:1]
        reference = found.reference.images[:]
        more = {"finder": _seconds(lambda: deeplab(wanted=suite.concepts)(picture))}
        return Ran(found.classifier, suite.layers, exemplar, reference, more)
    finally:
        for kept in (syn.material, syn.workbench, syn.group, syn._read_right):
            kept.cache_clear()


def cure(model: str) -> Ran:
    """Notebook 04: styles and materials probed, the strongest suspicion rewritten and probed again."""
    story = probing_scenario("paper", models=[model])
    story = replace(story, styles=story.styles[:1], styled=3)
    styled, probe = story.with_styles(), story.with_materials()
    rule = _suspicion(story, probe)
    scenario = _few(scenario_for(story, rule))
    edit = _chosen(Protocol(scenario, scenario.layers))["editing"].edit
    again = scenario.probe_again({"edited": edit}, scenario.numbers["test"])
    _check(len(again.changes()), "changes")
    readings = {"styled": len(styled.table) / story.styled, "probed": len(probe.table) / len(story.data)}
    return _ran(scenario, readings)


def _suspicion(story: Probing, probe: Probe) -> pd.Series:
    """The strongest suspicion; of drawn photos, which say nothing, also one whose effect goes the wrong way."""
    try:
        return shown_rule(story, probe)[0]
    except ValueError:
        return probe.rules(fdr=1, least_effect=-100.0).iloc[0]


STORIES: dict[str, Callable[[str], Ran]] = {story.__name__: story for story in (snow, typographic, synthetic, cure)}


def _few(story: Scenario, name: Callable[[Classifier], Sequence[str]] = sought_layers) -> Any:
    """The story in its default layer and the last one, with its default exemplar and few reference images."""
    layers = tuple(n for n in name(story.classifier) if n in (story.default["layer"], name(story.classifier)[-1]))
    one = story.default["exemplar"]
    few = {"exemplars": {one: story.exemplars[one]}, "reference": story.reference[:6]}
    return replace(story, layers=layers, shortlist=layers, **few)


def _chosen(protocol: Protocol) -> dict[str, Choice]:
    """Choose for every method among very few trials, and report all of them."""
    tried, chosen = (PLAN.settings, PLAN.strengths), {"untuned": protocol.untuned()}
    chosen["editing"] = protocol.choose(protocol.rewriting(*tried))
    chosen["random_direction"] = protocol.choose(protocol.random_directions(*tried))
    chosen |= {f"finetune_{scope}": protocol.choose_finetuning(scope, PLAN) for scope in SCOPES}
    chosen["interpolated"] = protocol.interpolated(chosen["finetune_local"], (0.5,))
    for name, (_, settings) in RIVALS.items():
        trials = protocol.rival(name, PLAN.strengths, settings=settings[:1])
        chosen |= {name: protocol.choose(trials)} if len(trials) else {}
    report = protocol.report({name: choice.edit for name, choice in chosen.items()})
    _check(len(report) == len(chosen), "a line for each method")
    return chosen


def _saved(edit: Edit, classifier: Classifier) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        edit.save(path)
        _check(Edit.load(path, classifier).layers == edit.layers, "the edit that was saved")


def _ran(story: Scenario, more: dict[str, float] | None = None) -> Ran:
    reference = getattr(story.reference, "images", story.reference)
    return Ran(story.classifier, story.layers, next(iter(story.exemplars.values())), reference, more or {})


def _check(found: Any, expected: str) -> None:
    if not found:
        raise AssertionError(f"{found!r}: expected {expected}")


# --- measured ----------------------------------------------------------------------------------------------------


def _seconds(work: Callable[[], Any], repeats: int = 2) -> float:
    """The least processor time of `work` in `repeats`: on one thread, whatever else the machine does."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def _seconds_a_text(count: int = 8) -> float:
    import open_clip

    clip, tokens = open_clip.create_model(CLIP).eval(), open_clip.get_tokenizer(CLIP)(["a photo of a van."] * count)
    with torch.no_grad():
        return _seconds(lambda: clip.transformer(clip.token_embedding(tokens))) / count


def measure(ran: Ran) -> dict[str, float]:
    """Seconds a step and MB of an image's state, means over the layers."""
    cuts = cut_all(ran.classifier, ran.layers)
    moments = second_moments(ran.classifier, list(cuts), ran.reference[:2], cache="")
    rows = [_steps(cut, ran.exemplar, moments[layer]) for layer, cut in cuts.items()]
    forward = _seconds(lambda: predict(ran.classifier, ran.exemplar.image[None]))
    return pd.DataFrame(rows).mean().to_dict() | {"forward": forward} | ran.more


@torch.no_grad()
def _steps(cut: Cut, exemplar: Exemplar, moment: SecondMoment) -> dict[str, float]:
    image = exemplar.image[None]
    state = cut.prefix(image)

    def solve(**settings: Any) -> float:
        with torch.enable_grad():
            return _seconds(lambda: rewrite(cut.classifier, cut, exemplar, moment, cache="", **settings))

    first, more = solve(steps=2), solve(steps=12)  # of 200
    return {
        "before": _seconds(lambda: cut.prefix(image)),
        "after": _seconds(lambda: cut.suffix(state)),
        "l1": first + 198 * max(more - first, 0) / 10,
        "least_squares": solve(objective="least_squares"),
        "state_mb": sum(part.nbytes for part in state.alive if isinstance(part, Tensor)) / 1e6,
    }


# --- estimated ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Full:
    """What a notebook needs in tier paper: how many of each step.

    `forwards` are images run as a whole, `read` readings of validation images after a layer, `checked` those of other
    sets, `tuned` of validation images with a gradient. Of `held` images pixels stay in memory, and states at `layers`
    layers: of the first `first` always, of the others where they fit. `texts` are prompts that are embedded, `found`
    images that the finder of concepts sees, `photos` the folders that are downloaded.
    """

    forwards: float
    held: int
    first: int
    layers: int
    l1: int
    least_squares: int
    read: int
    checked: int
    tuned: int
    texts: int = 0
    found: int = 0
    photos: tuple[str, ...] = ()


EVERYDAY, SNOW, WORDS = ("imagenet-sample/", "msrc-v2/"), "editing-classifiers/snow", "editing-classifiers/typographic"
RTA = "rta-100/"
SELECTED = 20
"""So many trials of a method are read on the budget images until one keeps the budget: a guess on the safe side."""


def full(story: str, model: str, more: Mapping[str, float]) -> Full:
    """Count the steps of a story's notebook, from the sizes of its sets, its grids and its layers."""
    if story == "snow":  # 127 photos, 38 to choose on; halves of 977 photos; 5 exemplars, 5 layers, 8 settings, 3 α
        edits, budget = 2 * 8 * 5 * 5, 489
        read, checked = 3 * 38 * edits + 2 * 38 * 11 * 25, 7 * SELECTED * budget + 9 * 1125 + 9 * 7 * 47
        halves = edits // 2
        return Full(1716, 1716, 38, 5, halves, halves, read, checked, 90 * 20, photos=(*EVERYDAY, SNOW))
    if story == "typographic":  # 334 photos read with 6 labels, 120 to choose on; 2 exemplars, 6 layers, 8 settings
        held, edits = 7 * 334 + 120 + 546 + 19, 2 * 8 * 2 * 6
        read, checked = 3 * 120 * edits + 2 * 120 * 11 * 12, 6 * SELECTED * 546 + 6 * held
        objectives, seen = (edits // 4, 3 * edits // 4), held + 591
        return Full(seen, seen, 120, 6, *objectives, read, checked, 72 * 20, 4000, photos=(*EVERYDAY, WORDS))
    if story == "synthetic":  # 7 of 10 images a class; 6 cases of 160 images, 48 to choose on, 4 layers, 3 α
        count, kept = 7 * (365 if model == PLACES else 1000), 400 + 320
        l1, closed, cases, runs = 4 * 19, 4 * 3, 6, 4 * 2 * (3 + 4)
        read = cases * (3 * 48 * (l1 + closed + runs) + 12 * SELECTED * 200 + 12 * 324)
        forwards, tuned = count + 400 + cases * 2 * 160, cases * runs * 20 * 3
        return Full(forwards, kept, kept, 4, cases * l1, cases * closed, read, 0, tuned, found=count)
    # 573 photos and their counterfactuals; 8 settings with 3 more terms, 6 exemplars, 3 layers, 2 α
    everyday = 591 + 500 + 1000
    forwards = everyday + more["styled"] * 120 + more["probed"] * 573 + 8 * 573
    edits = 6 * 3 * (2 * 2 + 2 * 5)
    read, checked = 2 * 300 * edits, 2 * SELECTED * 489 + 4 * 1200
    return Full(forwards, everyday + 500, 300, 3, 6 * 3 * 4, 6 * 3 * 10, read, checked, 0, photos=(*EVERYDAY, RTA))


PIXELS_MB = 3 * 224 * 224 * 4 / 1e6
IDLE_GB = 0.5
MACHINE_GB = 16
ESTIMATED = (
    "Counted are one run of the story's notebook without its figures, `repair` and corruptions, on one core of a "
    f"machine with {MACHINE_GB} GB: states may take half of it (`EDITTOOLS_MEMORY`), what does not fit is run anew. "
    "Memory is pixels and states at all layers, with what the layers make of them, the weights twice, and 0.5 GB."
)


def estimate(full: Full, measured: Mapping[str, float], weights_mb: float, photos: Mapping[str, float]) -> dict:
    """From seconds a step to a first full run: minutes, GB of memory, MB to download and on disk."""
    one, an_image = dict(measured), 2 * full.layers * measured["state_mb"]
    fits = full.held * an_image <= 1e3 * MACHINE_GB / 2
    kept = full.held if fits else full.first
    seconds = full.forwards * one["forward"] + (full.read + 3 * full.tuned) * one["after"]
    seconds += full.checked * one["after" if fits else "forward"]
    seconds += full.l1 * one["l1"] + full.least_squares * one["least_squares"]
    seconds += full.texts * one.get("text", 0) + full.found * one.get("finder", 0)
    masks = 2 * full.found * PIXELS_MB  # of three concepts, and the pixels that they are found in
    memory = full.held * PIXELS_MB + kept * an_image + 2 * weights_mb + masks
    megabytes = weights_mb + sum(photos.get(prefix, 0.0) for prefix in full.photos)
    found = full.found * 3 * 224 * 224 / 1e6  # masks of three concepts, a byte a pixel
    return {
        "minutes": seconds / 60,
        "memory_gb": memory / 1e3 + IDLE_GB,
        "download_mb": megabytes,
        "disk_mb": megabytes + found,
    }


def photo_megabytes() -> dict[str, float]:
    """By folder, the MB of all registered photos, as those in `EDITTOOLS_PHOTOS` say; nothing without such a folder."""
    folder, sizes = downloads.offline_folder(), {}
    if folder is None:
        return sizes
    for prefix in (*EVERYDAY, SNOW, WORDS, RTA):
        names = [name for name in downloads.registry() if name.startswith(prefix)]
        here = [(folder / name).stat().st_size for name in names if (folder / name).exists()]
        sizes[prefix] = len(names) * sum(here) / max(len(here), 1) / 1e6
    return sizes


# --- run ---------------------------------------------------------------------------------------------------------


def rehearse(model: str, story: str, hub: Hub, photos: Mapping[str, float]) -> dict[str, Any]:
    """Run one story through, and say what happened and what it took."""
    row: dict[str, Any] = {"model": model, "story": story, "outcome": "passed"}
    before, started = hub.sent, time.process_time()

    def work() -> None:
        try:
            row["ran"] = STORIES[story](model)
        except Exception as error:
            traceback.print_exc()
            row["outcome"] = f"{type(error).__name__}: {error}"

    row["peak_mb"] = extra_memory(work)
    row["seconds"] = time.process_time() - started
    row["download_mb"] = (hub.sent - before) / 1e6
    if ran := row.pop("ran", None):
        measured = measure(ran)
        weights = hub.megabytes(finder=story == "synthetic")
        row |= measured | {"full": estimate(full(story, model, measured), measured, weights, photos)}
    return row


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each model and story."""
    table = pd.DataFrame([{k: v for k, v in row.items() if k != "full"} for row in rows])
    table = table.join(pd.DataFrame([row.get("full", {}) for row in rows]).add_prefix("full "))
    columns = ["model", "story", "outcome", "before", "after", "l1", "least_squares", "peak_mb", "download_mb"]
    columns += [name for name in table if name.startswith("full ")]
    print(table.reindex(columns=columns).to_string(index=False, float_format="{:.4g}".format))
    print(f"\nseconds a step, MB; 'full' is an estimate of the first full run. {ESTIMATED}")


def main() -> None:
    """Rehearse the models and stories asked for; fail where one fails."""
    arguments = parser(__doc__.split("\n\n")[0])
    arguments.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    arguments.add_argument("--story", nargs="+", choices=STORIES, default=list(STORIES), metavar="NAME")
    arguments.add_argument("--images", type=int, default=7, help="drawn photos of each kind")
    arguments.set_defaults(threads=1)
    options = arguments.parse_args()
    start(options)
    rows, photos = [], photo_megabytes()
    for model in options.model:
        if stories := [story for story in MODELS[model] if story in options.story]:
            finder = "synthetic" in stories
            with tempfile.TemporaryDirectory() as at, rehearsing(model, Path(at), options.images, finder) as hub:
                rows += [rehearse(model, story, hub, photos) for story in stories]
    show(rows)
    finish(options, {"rows": rows, "images": options.images, "estimated": ESTIMATED, "photos_mb": photos})
    if failed := [f"{row['model']}, {row['story']}" for row in rows if row["outcome"] != "passed"]:
        raise SystemExit(f"{len(failed)} of {len(rows)} failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
