"""Every method on a scenario, selected in the same way: an edit, its controls, fine-tuning and the baselines."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from tqdm.auto import tqdm

from _lib.results import Results, key_of
from edittools.course.scenarios.finetuning import FinetuningRounds, interpolate_finetuning, select_finetuning
from edittools.course.scenarios.scenario import Scenario
from edittools.course.scenarios.synthetic import FULL_RANK
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.methods import EDIT, METHODS, RANDOM, SCOPES
from edittools.rewriting import rewrite_at
from edittools.selection import CachedActivations, Candidate, Search, Selection, Splits, grid
from edittools.selection.constraints import COST_SPLITS
from edittools.selection.splits import EVALUATING, SELECTING

FAST = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 30.0))
"""Settings of least-squares edits: without the penalty on reference keys, and with it."""
STRENGTHS, RATES = (0.5, 1.0), (1e-4, 1e-3, 1e-2, 1e-1)
SLOW = {"steps": (20, 100), "localities": (1.0, 10.0, 100.0), "top": 2}
"""Rounds of fine-tuning on photographs, where a step takes a second."""
OTHERS = {
    "full_rank": METHODS[EDIT].trying(FULL_RANK),
    "projection": METHODS["projection"],
    "last_layer": METHODS["last layer"],
    "logit_correction": METHODS["logit correction"],
}
"""The other methods, with the settings to try, by key."""
NOT_SELECTED = {"settings": "no weight", "candidates": 1, "seconds": 0.0, "success": None}
"""The effort of a method that changes the image and no weight."""


@dataclass(frozen=True, kw_only=True)
class Plan(FinetuningRounds):
    """What every method may try: settings of `rewrite` and strengths α; two rounds of fine-tuning."""

    settings: Sequence[Mapping[str, Any]] = field(
        default_factory=lambda: [
            *grid(
                rank=(1, 3),
                masked=(True, False),
                objective=("l1",),
                reference_weight=(0.0, 30.0),
            ),
            *grid(
                rank=(1, 3),
                masked=(True, False),
                objective=("least_squares",),
                reference_weight=(0.0, 10.0, 30.0, 100.0),
            ),
        ]
    )
    strengths: Sequence[float] = (0.5, 1.0, 1.5)


def search_of(scenario: Scenario, layers: Sequence[str] | None = None) -> Search:
    """Make the search of a scenario: in some layers, or else in those of the scenario, which are usually all."""
    layers = scenario.layers if layers is None else layers
    return Search(scenario.classifier, scenario.exemplars, scenario.splits, layers, progress=tqdm)


def select_all(
    scenario: Scenario,
    search: Search,
    plan: Plan | None = None,
    fewer: Mapping[str, slice] | None = None,
    draws: int = 1,
) -> dict[str, Selection]:
    """Select for every method, by name, each in the same way, and print the sets, the constraints and the selections.

    They are an edit in the paper's setting, one from one exemplar and its control along random directions, one from
    several exemplars and its control, an edit of two layers, local and global fine-tuning from one exemplar and from
    several, the first two also interpolated with the classifier (WiSE-FT, PAINT), and `OTHERS`.

    Args:
        scenario: the scenario.
        search: its search.
        plan: what every method may try.
        fewer: which settings of `OTHERS` may be tried, by key.
        draws: the number of draws of random directions from one exemplar, each of which is selected on its own.
    """
    plan = Plan() if plan is None else plan
    singles = scenario.exemplars
    several = exemplars_together(scenario)
    edit = METHODS[EDIT].trying(plan.settings, plan.strengths)
    random = METHODS[RANDOM].trying(plan.settings, plan.strengths)
    selections = {"untuned": select_untuned(scenario, search)}
    interpolated = {}
    for suffix, exemplars in {"": singles, "_several": several}.items():
        selections[f"editing{suffix}"] = search.select(search.score(edit, exemplars))
        selections[f"random_direction{suffix}"] = search.select(search.score(random, exemplars))
    for seed in range(1, draws):
        draw = random.draw(seed)
        selections[key_of(draw.name)] = search.select(search.score(draw, singles))
    selections["two_layers"] = select_second_layer(search, selections["editing"])
    for scope, (suffix, exemplars) in product(SCOPES, {"": singles, "_several": several}.items()):
        tuned = select_finetuning(search, scope, plan, exemplars)
        if not suffix:
            interpolated[f"interpolated_{scope}"] = _light(interpolate_finetuning(search, tuned))
        selections[f"finetune_{scope}{suffix}"] = _light(tuned)
    selections |= interpolated
    for name, method in OTHERS.items():
        tried = method.settings[(fewer or {}).get(name, slice(None))]
        outcomes = search.score(method.trying(tried, plan.strengths))
        if len(outcomes):
            selections[name] = search.select(outcomes)
    sets = search.activations.items()
    print("Images:", ", ".join(f"{name} {len(one.labels)} ({int(one.before.sum())} errors)" for name, one in sets))
    print(search.describe_constraints(), "\n")
    print("\n".join(f"  {name:<25}{selection}" for name, selection in selections.items()))
    return selections


def exemplars_together(scenario: Scenario) -> dict[str, Sequence[Exemplar]]:
    """Name the sets of exemplars that go into one edit: all single ones, and those of the scenario."""
    singles = scenario.exemplars
    return {f"all {len(singles)}": list(singles.values()), **scenario.several}


def effort(selection: Selection, scenario: Scenario, search: Search) -> dict[str, Any]:
    """Say what was selected, in words, among how many candidates, in how many seconds, and its `success`."""
    exemplar = selection.params.get("exemplar")
    return {
        "settings": str(selection),
        "candidates": selection.n_candidates,
        "seconds": selection.seconds,
        "success": success(selection.edit, scenario, search.cuts, exemplar),
    }


def add_effort(
    results: Results,
    row: Mapping[str, Any],
    p_against_edit: float | None = None,
    *,
    network: str,
    method: str,
) -> None:
    """Add the figures that every method has: its success, and the effort of its selection.

    Args:
        results: the results.
        row: what `effort` returns.
        p_against_edit: whether the method misclassifies other images than the edit.
        network: the name of the network, or "all".
        method: the name of the method.
    """
    where = {"network": network, "method": method}
    results.add("success", row["success"], split="exemplars", key="success", **where)
    if p_against_edit is not None:
        results.add("p against the edit", p_against_edit, split="target_test", key="p_against_edit", **where)
    results.add("candidates", row["candidates"], key="trials", **where)
    results.add("selection seconds", row["seconds"], key="choice_seconds", **where)
    results.add_keys(network, method, chosen=row["settings"])


def success(edit: Edit, scenario: Scenario, cuts: Mapping[str, Cut], exemplar: str | None = None) -> float:
    """Give the share of its exemplars' images x' that are classified correctly with an edit.

    Without the name of an exemplar, all single ones count.
    """
    named = {name: [one] for name, one in scenario.exemplars.items()} | dict(scenario.several)
    return success_of(edit, named.get(exemplar) or list(scenario.exemplars.values()), cuts)


def success_of(edit: Edit, exemplars: Iterable[Exemplar], cuts: Mapping[str, Cut]) -> float:
    """Give the share of the exemplars' images x' that are classified correctly with an edit."""
    exemplars = list(exemplars)
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    labels = torch.tensor([exemplar.label for exemplar in exemplars])
    classes = next(iter(cuts.values())).classifier.classes
    compared = CachedActivations(cuts, LabelledImages(changed, labels, classes)).compare(edit)
    return 1 - float(compared.after.float().mean())


def select_untuned(scenario: Scenario, search: Search) -> Selection:
    """Make the edit in the paper's setting, L1 without a penalty on reference keys; nothing is tuned."""
    started = time.perf_counter()
    settings = {**scenario.default, "objective": "l1", "reference_weight": 0.0}
    layer = settings.pop("layer")
    exemplar = scenario.exemplars[settings.pop("exemplar")]
    [edit] = rewrite_at(search.site(layer, [exemplar]), **settings)
    outcomes = search.score_candidates([Candidate(dict(scenario.default), edit)])
    names = [name for name in COST_SPLITS if name in search.activations]
    costs = {name: search.activations[name].compare(edit) for name in names}
    scores = outcomes.table()[["corrected", "broken", "loss"]].iloc[0].to_dict()
    seconds = time.perf_counter() - started
    return Selection(edit, scenario.default, scores, costs, outcomes, 1, seconds, outcomes.wrong[0])


def select_second_layer(search: Search, first: Selection, among: int = 40) -> Selection:
    """Add to a selected edit the candidate of another layer that helps most on top of it, of the best ones."""
    outcomes = first.outcomes
    best = [outcomes.candidates[index] for index in outcomes.by_loss if outcomes.net[index] > 0]
    others = [candidate for candidate in best if candidate.params["layer"] not in first.edit.layers][:among]
    added = [Candidate(candidate.params, first.edit + candidate.scaled) for candidate in others]
    selection = search.select(search.score_candidates([Candidate({"layer": ""}, first.edit), *added]))
    layer = f"{first} + {selection}" if selection.params.get("layer") else f"{first}, alone"
    return replace(
        selection,
        params={"layer": layer} if selection.feasible else {},
        n_candidates=first.n_candidates + selection.n_candidates,
        seconds=first.seconds + selection.seconds,
    )


def _light(selection: Selection) -> Selection:
    """Leave out hundreds of fine-tuned weights."""
    candidates = [replace(candidate, edit=selection.edit) for candidate in selection.outcomes.candidates]
    return replace(selection, outcomes=replace(selection.outcomes, candidates=candidates))


# --- a quick try ---

QUICK = Plan(
    settings=grid(rank=(1,), masked=(True,), objective=("least_squares",), reference_weight=(30.0,)),
    strengths=(0.5, 1.0),
    rates=(1e-2,),
    momenta=(0.0,),
    steps=(5,),
    localities=(),
    top=1,
)
"""What every method tries with `--quick`."""
ONE_EACH = dict.fromkeys(OTHERS, slice(1))
"""One setting of each of `OTHERS`."""


def small(scenario: Scenario, images: int = 120) -> Scenario:
    """Keep one exemplar, one layer, and of each split every n-th image, so that no split has more than `images`."""
    splits = scenario.splits
    step = max(1, *(-(-len(data) // images) for data in splits.labeled.values()))
    fewer = {name: data.subset(range(0, len(data), step)) for name, data in splits.labeled.items()}
    standard = {name: fewer.pop(name) for name in (*SELECTING, *EVALUATING) if name in fewer}
    reference = splits.reference
    reference = reference.subset(range(40)) if isinstance(reference, LabelledImages) else reference[:40]
    name = scenario.default["exemplar"]
    layers = (scenario.default["layer"],)
    return replace(
        scenario,
        layers=layers,
        exemplars={name: scenario.exemplars[name]},
        several={},
        splits=Splits(reference, **standard, extra=fewer),
    )
