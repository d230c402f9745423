"""Every method on a story, chosen in the same way: an edit, its controls, fine-tuning and the rivals."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.rewriting import rewrite
from edittools.selection.activations import CachedStates
from edittools.selection.constraints import MEASURED, Choice
from edittools.selection.scenario import Scenario
from edittools.selection.search import Plan, Protocol
from edittools.selection.trials import Trials, grid

FAST = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 30.0))
"""Settings of an edit that is solved at once: the paper's, and those that spare everyday keys."""
STRENGTHS, RATES = (0.5, 1.0), (1e-4, 1e-3, 1e-2, 1e-1)
SLOW = {"steps": (20, 100), "localities": (1.0, 10.0, 100.0), "top": 2}
"""Rounds of fine-tuning on photographs, where a step takes a second."""
OTHERS = {name: (name, settings) for name, (_, settings) in BASELINES.items()} | {"reactive": (react, REACTIONS)}
"""The rivals of `baselines` and a reactive projection, each with settings to try."""
BETWEEN = (0.25, 0.5, 0.75)
"""Shares of fine-tuned weights that are interpolated with the original ones, see `Protocol.interpolated`."""
UNCHOSEN = {"chosen": "no weight", "trials": 1, "choice_seconds": 0.0, "success": None}
"""The effort of a way to read pictures that changes no weight."""
MARGIN, NEAREST = 0.05, 50
"""Near the boundary are images whose two likeliest classes differ by less than this share; the nearest are so many."""
LOCALITY = {"near": "locality", "nearest": "locality_nearest"}
"""Sets of clean images, and the share of each that is read as before."""


def choose_all(
    protocol: Protocol,
    plan: Plan | None = None,
    fewer: Mapping[str, slice] | None = None,
    only: Sequence[str] = (),
) -> dict[str, Choice]:
    """Choose for every method, by name, each in the same way, and print the sets, the budget and the choices.

    They are an edit that nobody tuned, one from one exemplar and its control along random directions, one from several
    exemplars and its control, an edit of two layers, local and global fine-tuning from one exemplar and from several,
    the first two also interpolated with the classifier (WiSE-FT, PAINT), and `OTHERS`, of whose settings `fewer` may be
    tried, by their name. With `only` names of methods, no others are selected.
    """
    plan, singles = plan or Plan(), protocol.story.exemplars
    several = {f"all {len(singles)}": list(singles.values()), **protocol.story.several}
    found, interpolated = {}, {}

    def wanted(*methods: str) -> bool:
        return not only or not set(methods).isdisjoint(only)

    if wanted("untuned"):
        found["untuned"] = choose_untuned(protocol)
    for suffix, exemplars in {"": singles, "_several": several}.items():
        tried = (plan.settings, plan.strengths, exemplars, plan.edited)
        if wanted(f"editing{suffix}", *(() if suffix else ("two_layers",))):
            found[f"editing{suffix}"] = protocol.choose(protocol.rewriting(*tried))
        if wanted(f"random_direction{suffix}"):
            found[f"random_direction{suffix}"] = protocol.choose(protocol.random_directions(*tried))
    if wanted("two_layers"):
        found["two_layers"] = choose_second_layer(protocol, found["editing"])
    for scope, (suffix, exemplars) in product(SCOPES, {"": singles, "_several": several}.items()):
        if not wanted(f"finetune_{scope}{suffix}", *(() if suffix else (f"interpolated_{scope}",))):
            continue
        tuned = protocol.choose_finetuning(scope, plan, exemplars)
        if not suffix and wanted(f"interpolated_{scope}"):
            interpolated[f"interpolated_{scope}"] = _light(protocol.interpolated(tuned))
        found[f"finetune_{scope}{suffix}"] = _light(tuned)
    found |= interpolated
    for name, (method, settings) in OTHERS.items():
        if not wanted(name):
            continue
        among = settings[(fewer or {}).get(name, slice(None))]
        trials = protocol.baseline(method, plan.strengths, layers=plan.edited, settings=among)
        found |= {name: protocol.choose(trials)} if len(trials) else {}
    sets = protocol.states.items()
    print("Images:", ", ".join(f"{name} {len(one.labels)} ({int(one.before.sum())} errors)" for name, one in sets))
    print(protocol.about_budget(), "\n")
    print("\n".join(f"  {name:<25}{choice}" for name, choice in found.items()))
    return found


def candidates(protocol: Protocol, plan: Plan, method: str, fewer: Mapping[str, slice] | None = None) -> Trials:
    """List the candidates of one method, without making an edit.

    Fine-tuning has the settings of both of its rounds, each with a single number of steps, and its interpolations.
    """
    singles = protocol.story.exemplars
    several = {f"all {len(singles)}": list(singles.values()), **protocol.story.several}
    name = method.removesuffix("_several")
    exemplars = singles if name == method else several
    kind, _, scope = name.partition("_")
    if kind in ("finetune", "interpolated"):
        rounds = {"locality": (0.0, *plan.localities), "steps": plan.steps}
        settings = grid(scope=(scope,), rate=plan.rates, momentum=plan.momenta, **rounds)
        return protocol.finetuning(settings, exemplars, plan.tuned, (1.0, *BETWEEN))
    if name in ("editing", "random_direction"):
        listed = protocol.rewriting if name == "editing" else protocol.random_directions
        return listed(plan.settings, plan.strengths, exemplars, plan.edited)
    made, settings = OTHERS[name]
    among = settings[(fewer or {}).get(name, slice(None))]
    return protocol.baseline(made, plan.strengths, layers=plan.edited, settings=among)


def remade(
    protocol: Protocol, plan: Plan, method: str, said: str, fewer: Mapping[str, slice] | None = None
) -> Choice | None:
    """Make again what was selected for a method before, from its settings in words; None where nothing was.

    Raises:
        ValueError: if no candidate of the plan has these settings.
    """
    if said == "nothing":
        return None
    if method == "untuned":
        return choose_untuned(protocol)
    if method == "two_layers":
        first, _, second = said.partition(" + ")
        parts = [remade(protocol, plan, "editing", words.removesuffix(", alone")) for words in (first, second) if words]
        return replace(parts[0], edit=sum((part.edit for part in parts[1:]), parts[0].edit), settings={"layer": said})
    words = sorted(said.partition(" (edge of the grid")[0].split(", "))
    listed = candidates(protocol, plan, method, fewer)
    for (layer, cut), exemplar, setting, strength in product(
        listed.cuts.items(), listed.exemplars, listed.settings, listed.strengths
    ):
        settings = {"layer": layer, "exemplar": exemplar, **setting, "strength": strength}
        if sorted(str(_unmeasured(settings)).split(", ")) == words:
            shown = {exemplar: listed.exemplars[exemplar]}
            single = {"cuts": {layer: cut}, "exemplars": shown, "settings": [setting], "strengths": (strength,)}
            [(_, edit)] = replace(listed, **single)
            return _unmeasured(settings, edit)
    raise ValueError(f"no candidate of {method!r} has the settings {said!r}; select all methods again")


def _unmeasured(settings: Mapping[str, Any], edit: Edit | None = None) -> Choice:
    """Describe a candidate that was not compared with others."""
    return Choice(edit, settings, {}, None, None, pd.DataFrame(), 1)


def effort(choice: Choice, protocol: Protocol) -> dict[str, Any]:
    """Say what was chosen, in words, among how many trials, in how many seconds, and its `success`."""
    said = {"chosen": str(choice), "trials": choice.trials, "choice_seconds": choice.seconds}
    return said | {"success": success(choice.edit, protocol.story, protocol.cuts, choice.settings.get("exemplar"))}


def success(edit: Edit, story: Scenario, cuts: Mapping[str, Cut], exemplar: str | None = None) -> float:
    """Give the share of its exemplars' own pictures x' that are right with an edit; unnamed, those of all single ones.

    "Learning Where to Edit Vision Transformers" (NeurIPS 2024) reports it beside generalisation and `locality`.
    """
    named = {name: [one] for name, one in story.exemplars.items()} | dict(story.several)
    shown = named.get(exemplar) or list(story.exemplars.values())
    pictures, labels = torch.stack([one.changed for one in shown]), torch.tensor([one.label for one in shown])
    found = CachedStates(cuts, LabelledImages(pictures, labels, story.classifier.classes)).compare(edit)
    return 1 - float(found.after.float().mean())


def near(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Number the images that are read rightly, but near the boundary, and the nearest, from logits `(N, classes)`."""
    first, second = logits.softmax(dim=1).topk(2).values.T
    margin = (first - second).where(~misclassified(logits, labels), float("inf"))
    order = margin.argsort(stable=True)[: int(margin.isfinite().sum())]
    return {"near": order[margin[order] < MARGIN], "nearest": order[:NEAREST]}


def with_near(story: Scenario) -> Scenario:
    """Let a story report the clean images near the boundary as well."""
    clean = remap_labels("clean images", story.clean, story.classifier)
    numbers = near(predict(story.classifier, clean), clean.labels)
    sets = {name: clean.subset(some) for name, some in numbers.items() if len(some)}
    return replace(story, more={**story.more, **sets})


def locality(found: Mapping[str, Sequence[Comparison]]) -> dict[str, float | None]:
    """Count the images of each of `LOCALITY`, on one network or on several, and give the share still read rightly."""
    figures = {}
    for name, share in LOCALITY.items():
        count = sum(len(one.before) for one in found.get(name, ()))
        broken = sum(one.broken for one in found.get(name, ()))
        figures |= {name: count, share: 1 - broken / count if count else None}
    return figures


def choose_untuned(protocol: Protocol) -> Choice:
    """Make the edit with the story's default settings, which nobody tuned."""
    settings, started = dict(protocol.story.default), time.perf_counter()
    layer, exemplar = settings.pop("layer"), protocol.story.exemplars[settings.pop("exemplar")]
    edit = rewrite(
        protocol.story.classifier, protocol.cuts[layer], exemplar, protocol.reference_moments[layer], **settings
    )
    table = protocol.sweep([(dict(protocol.story.default), edit)])
    budget, kept = (states and states.compare(edit) for states in map(protocol.states.get, ("budget", "keep")))
    figures = table[["corrected", "broken", "loss"]].iloc[0].to_dict()
    return Choice(edit, protocol.story.default, figures, budget, kept, table, 1, time.perf_counter() - started)


def choose_second_layer(protocol: Protocol, first: Choice, among: int = 40) -> Choice:
    """Add to a chosen edit the trial of another layer that helps most on top of it, of the best that were tried."""
    others = first.table[~first.table.layer.isin(first.edit.layers) & (first.table.net > 0)]
    best = others.sort_values("loss", kind="stable").head(among)
    words = best.drop(columns=best.columns.intersection(MEASURED)).to_dict("records")
    added = [(tried, first.edit + edit) for tried, edit in zip(words, best.edit, strict=True)]
    chosen = protocol.choose(protocol.sweep([({"layer": ""}, first.edit), *added]))
    layer = f"{first} + {chosen}" if chosen.settings.get("layer") else f"{first}, alone"
    effort = {"trials": first.trials + chosen.trials, "seconds": first.seconds + chosen.seconds}
    return replace(chosen, settings=chosen.settings and {"layer": layer}, **effort)


def _light(choice: Choice) -> Choice:
    """Leave hundreds of fine-tuned weights out of the table."""
    return replace(choice, table=choice.table.drop(columns=["edit", "losses", "wrong"]))
