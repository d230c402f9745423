"""Every method on a scenario, selected in the same way: an edit, its controls, fine-tuning and the baselines."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from reactive import REACTIONS, react
from torch import Tensor

from edittools.baselines import BASELINES, SCOPES
from edittools.classifiers import remap_labels
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, label_margins, misclassified, predict
from edittools.rewriting import rewrite
from edittools.scenarios.finetuning import (
    INTERPOLATION_WEIGHTS,
    FinetuningRounds,
    interpolate_finetuning,
    select_finetuning,
)
from edittools.scenarios.scenario import Scenario
from edittools.selection.activations import CachedActivations
from edittools.selection.search import (
    REFERENCE_WEIGHTS,
    SCORES,
    Candidates,
    EditSearch,
    Selection,
    describe_params,
    grid,
)

FAST = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 30.0))
"""Settings of an edit that is solved at once: the paper's, and those that spare everyday keys."""
STRENGTHS, RATES = (0.5, 1.0), (1e-4, 1e-3, 1e-2, 1e-1)
SLOW = {"steps": (20, 100), "localities": (1.0, 10.0, 100.0), "top": 2}
"""Rounds of fine-tuning on photographs, where a step takes a second."""
OTHERS = {name: (name, settings) for name, (_, settings) in BASELINES.items()} | {"reactive": (react, REACTIONS)}
"""The rivals of `baselines` and a reactive projection, each with settings to try."""
UNCHOSEN = {"chosen": "no weight", "trials": 1, "choice_seconds": 0.0, "success": None}
"""The effort of a way to read pictures that changes no weight."""
MARGIN, NEAREST = 0.05, 50
"""Near the boundary are images whose two likeliest classes differ by less than this share; the nearest are so many."""
LOCALITY = {"near": "locality", "nearest": "locality_nearest"}
"""Sets of clean images, and the share of each that is read as before."""


@dataclass(frozen=True, kw_only=True)
class Plan(FinetuningRounds):
    """What every method may try: settings of `rewrite`, strengths α and layers; two rounds of fine-tuning.

    `edited` and `tuned` are the layers tried by rewriting and by fine-tuning (default: all).
    """

    settings: Sequence[Mapping[str, Any]] = field(
        default_factory=lambda: [
            *grid(rank=(1, 3), masked=(True, False), objective=("l1",), reference_weight=REFERENCE_WEIGHTS[::2]),
            *grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=REFERENCE_WEIGHTS),
        ]
    )
    strengths: Sequence[float] = (0.5, 1.0, 1.5)
    edited: Sequence[str] | None = None


def search_of(story: Scenario, layers: Sequence[str] | None = None) -> EditSearch:
    """Make the search of a scenario, in its shortlist of layers or in others."""
    layers = story.shortlist if layers is None else layers
    return EditSearch(story.classifier, story.exemplars, story.splits, layers, progress=True)


def select_all(
    story: Scenario,
    search: EditSearch,
    plan: Plan | None = None,
    fewer: Mapping[str, slice] | None = None,
    only: Sequence[str] = (),
) -> dict[str, Selection]:
    """Select for every method, by name, each in the same way, and print the sets, the constraints and the selections.

    They are an edit that nobody tuned, one from one exemplar and its control along random directions, one from several
    exemplars and its control, an edit of two layers, local and global fine-tuning from one exemplar and from several,
    the first two also interpolated with the classifier (WiSE-FT, PAINT), and `OTHERS`, of whose settings `fewer` may be
    tried, by their name. With `only` names of methods, no others are selected.
    """
    plan = Plan() if plan is None else plan
    singles = story.exemplars
    several = exemplars_together(story)
    selections = {}
    interpolated = {}

    def is_wanted(*methods: str) -> bool:
        return not only or not set(methods).isdisjoint(only)

    if is_wanted("untuned"):
        selections["untuned"] = select_untuned(story, search)
    for suffix, exemplars in {"": singles, "_several": several}.items():
        tried = (plan.settings, plan.strengths, exemplars, plan.edited)
        needed = (f"editing{suffix}",) if suffix else ("editing", "two_layers")
        if is_wanted(*needed):
            selections[f"editing{suffix}"] = search.select(search.candidates("rewrite", *tried))
        if is_wanted(f"random_direction{suffix}"):
            selections[f"random_direction{suffix}"] = search.select(search.candidates("random_direction", *tried))
    if is_wanted("two_layers"):
        selections["two_layers"] = select_second_layer(search, selections["editing"])
    for scope, (suffix, exemplars) in product(SCOPES, {"": singles, "_several": several}.items()):
        needed = (f"finetune_{scope}{suffix}",) if suffix else (f"finetune_{scope}", f"interpolated_{scope}")
        if not is_wanted(*needed):
            continue
        tuned = select_finetuning(search, scope, plan, exemplars)
        if not suffix and is_wanted(f"interpolated_{scope}"):
            interpolated[f"interpolated_{scope}"] = _light(interpolate_finetuning(search, tuned))
        selections[f"finetune_{scope}{suffix}"] = _light(tuned)
    selections |= interpolated
    for name, (method, settings) in OTHERS.items():
        if not is_wanted(name):
            continue
        some = settings[(fewer or {}).get(name, slice(None))]
        of_method = search.candidates(method, some, plan.strengths, layers=plan.edited)
        if len(of_method):
            selections[name] = search.select(of_method)
    sets = search.activations.items()
    print("Images:", ", ".join(f"{name} {len(one.labels)} ({int(one.before.sum())} errors)" for name, one in sets))
    print(search.describe_constraints(), "\n")
    print("\n".join(f"  {name:<25}{selection}" for name, selection in selections.items()))
    return selections


def exemplars_together(story: Scenario) -> dict[str, Sequence[Exemplar]]:
    """Name the sets of exemplars that go into one edit: all single ones, and those of the scenario."""
    singles = story.exemplars
    return {f"all {len(singles)}": list(singles.values()), **story.several}


def candidates_of(
    story: Scenario, search: EditSearch, plan: Plan, method: str, fewer: Mapping[str, slice] | None = None
) -> Candidates:
    """List the candidates of one method, without making an edit.

    Fine-tuning has the settings of both of its rounds, each with a single number of steps, and its interpolations.
    """
    name = method.removesuffix("_several")
    exemplars = story.exemplars if name == method else exemplars_together(story)
    kind, _, scope = name.partition("_")
    if kind in ("finetune", "interpolated"):
        rounds = {"locality": (0.0, *plan.localities), "steps": plan.steps}
        settings = grid(scope=(scope,), rate=plan.rates, momentum=plan.momenta, **rounds)
        strengths = (1.0, *INTERPOLATION_WEIGHTS)
        return search.candidates("finetune", settings, strengths, exemplars, plan.tuned or None)
    if name in ("editing", "random_direction"):
        function = "rewrite" if name == "editing" else name
        return search.candidates(function, plan.settings, plan.strengths, exemplars, plan.edited)
    function, settings = OTHERS[name]
    some = settings[(fewer or {}).get(name, slice(None))]
    return search.candidates(function, some, plan.strengths, layers=plan.edited)


def remake(
    story: Scenario,
    search: EditSearch,
    plan: Plan,
    method: str,
    chosen: str,
    fewer: Mapping[str, slice] | None = None,
) -> Selection | None:
    """Make the stored selection of a method again, without a search.

    Args:
        story: the scenario.
        search: its search.
        plan: what every method may try.
        method: name of the method, see `select_all`.
        chosen: the stored selection in words.
        fewer: which settings of `OTHERS` may be tried.

    Returns:
        The selection, without scores and comparisons; None if `chosen` is "nothing".

    Raises:
        ValueError: if no candidate of the plan has these settings.
    """
    if chosen == "nothing":
        return None
    if method == "untuned":
        return select_untuned(story, search)
    if method == "two_layers":
        first, _, second = chosen.partition(" + ")
        selection = remake(story, search, plan, "editing", first.removesuffix(", alone"))
        if second:
            added = remake(story, search, plan, "editing", second)
            selection = replace(selection, edit=selection.edit + added.edit)
        return replace(selection, params={"layer": chosen})
    settings_in_words = re.split(r" \((?:boundary|edge) of the grid", chosen)[0]  # edge: files of earlier versions
    words = sorted(settings_in_words.split(", "))
    of_method = candidates_of(story, search, plan, method, fewer)
    grids = (of_method.cuts, of_method.exemplars, of_method.settings, of_method.strengths)
    for layer, exemplar, setting, strength in product(*grids):
        params = {"layer": layer, "exemplar": exemplar, **setting, "strength": strength}
        if sorted(describe_params(params).split(", ")) == words:
            candidate = replace(
                of_method,
                cuts={layer: of_method.cuts[layer]},
                exemplars={exemplar: of_method.exemplars[exemplar]},
                settings=[setting],
                strengths=(strength,),
            )
            [(_, edit)] = candidate
            return Selection(edit, params, {}, None, None, pd.DataFrame(), 1)
    raise ValueError(f"No candidate of {method!r} has the settings {chosen!r}; select all methods again")


def effort(selection: Selection, story: Scenario, search: EditSearch) -> dict[str, Any]:
    """Say what was selected, in words, among how many candidates, in how many seconds, and its `success`."""
    exemplar = selection.params.get("exemplar")
    return {
        "chosen": str(selection),
        "trials": selection.n_candidates,
        "choice_seconds": selection.seconds,
        "success": success(selection.edit, story, search.cuts, exemplar),
    }


def success(edit: Edit, story: Scenario, cuts: Mapping[str, Cut], exemplar: str | None = None) -> float:
    """Give the share of its exemplars' own pictures x' that are right with an edit; unnamed, those of all single ones.

    "Learning Where to Edit Vision Transformers" (NeurIPS 2024) reports it beside generalisation and `locality`.
    """
    named = {name: [one] for name, one in story.exemplars.items()} | dict(story.several)
    return success_of(edit, named.get(exemplar) or list(story.exemplars.values()), cuts)


def success_of(edit: Edit, exemplars: Iterable[Exemplar], cuts: Mapping[str, Cut]) -> float:
    """Give the share of the exemplars' images x' that are classified correctly with an edit."""
    exemplars = list(exemplars)
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    labels = torch.tensor([exemplar.label for exemplar in exemplars])
    classes = next(iter(cuts.values())).classifier.classes
    compared = CachedActivations(cuts, LabelledImages(changed, labels, classes)).compare(edit)
    return 1 - float(compared.after.float().mean())


def near(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Number the images that are read rightly, but near the boundary, and the nearest, from logits `(N, classes)`."""
    is_right = ~misclassified(logits, labels)
    margin = label_margins(logits.softmax(dim=1), labels).where(is_right, float("inf"))
    order = margin.argsort(stable=True)[: int(margin.isfinite().sum())]
    return {"near": order[margin[order] < MARGIN], "nearest": order[:NEAREST]}


def with_near(story: Scenario) -> Scenario:
    """Let a story report the clean images near the boundary as well."""
    clean = remap_labels("clean test images", story.splits.clean_test, story.classifier)
    numbers = near(predict(story.classifier, clean), clean.labels)
    sets = {name: clean.subset(some) for name, some in numbers.items() if len(some)}
    return replace(story, splits=replace(story.splits, extra={**story.splits.extra, **sets}))


def locality(found: Mapping[str, Sequence[Comparison]]) -> dict[str, float | None]:
    """Count the images of each of `LOCALITY`, on one network or on several, and give the share still read rightly."""
    figures = {}
    for name, share in LOCALITY.items():
        count = sum(len(one.before) for one in found.get(name, ()))
        broken = sum(one.broken for one in found.get(name, ()))
        figures |= {name: count, share: 1 - broken / count if count else None}
    return figures


def select_untuned(story: Scenario, search: EditSearch) -> Selection:
    """Make the edit with the scenario's default settings, which were not tuned."""
    started = time.perf_counter()
    settings = dict(story.default)
    layer = settings.pop("layer")
    exemplar = story.exemplars[settings.pop("exemplar")]
    moment = search.activations.reference.moments[layer]
    edit = rewrite(story.classifier, search.cuts[layer], exemplar, moment, **settings)
    table = search.score([(dict(story.default), edit)])
    clean = search.activations["clean"].compare(edit)
    retain = search.activations["retain"].compare(edit) if "retain" in search.activations else None
    scores = table[["corrected", "broken", "loss"]].iloc[0].to_dict()
    seconds = time.perf_counter() - started
    return Selection(edit, story.default, scores, clean, retain, table, 1, seconds, table.wrong[0])


def select_second_layer(search: EditSearch, first: Selection, among: int = 40) -> Selection:
    """Add to a selected edit the candidate of another layer that helps most on top of it, of the best ones."""
    others = first.results[~first.results.layer.isin(first.edit.layers) & (first.results.net > 0)]
    best = others.sort_values("loss", kind="stable").head(among)
    params = best.drop(columns=best.columns.intersection(SCORES)).to_dict("records")
    added = [(values, first.edit + edit) for values, edit in zip(params, best.edit, strict=True)]
    selection = search.select(search.score([({"layer": ""}, first.edit), *added]))
    layer = f"{first} + {selection}" if selection.params.get("layer") else f"{first}, alone"
    return replace(
        selection,
        params={"layer": layer} if selection.feasible else {},
        n_candidates=first.n_candidates + selection.n_candidates,
        seconds=first.seconds + selection.seconds,
    )


def _light(selection: Selection) -> Selection:
    """Leave hundreds of fine-tuned weights out of the table."""
    return replace(selection, results=selection.results.drop(columns=["edit", "losses", "wrong"]))
