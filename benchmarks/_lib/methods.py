"""Every method on the same images: what is selected without labels, what labels select, and a control.

Without labels, an edit is selected by hosts, as `select_edit` does, or by the exemplar, and the whole network is
fine-tuned on the same hosts. Labeled images with the concept select by their cross-entropy, plus what else an edit
changes: the edit, and other methods in the layers that are the best for it. Random directions need no selection.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from _lib.label_free import Selected, random_directions
from _lib.results import (
    BY_EXEMPLAR,
    BY_HOSTS,
    BY_LABELS,
    FULL_RANK,
    LABEL_FREE,
    ON_EXEMPLAR,
    PROJECTION,
    SEVERAL,
)
from edittools.exemplars import Exemplar
from edittools.rewriting import EDIT
from edittools.selection import finetune_without_labels
from edittools.selection.scores import Scores
from edittools.selection.select import BEST_LAYERS, EXEMPLAR, HOSTS, Selection, select
from edittools_course.by_labels import select_by_labels
from edittools_course.methods import METHODS, Method
from edittools_course.scenarios.scenario import Scenario

STRENGTHS = (0.5, 1.0, 1.5)
"""The strengths of edits of full rank, and of projections."""

WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
"""The penalties λ of edits of full rank."""

RATES = (1e-4, 1e-3, 1e-2)
"""The learning rates of fine-tuning on the exemplar."""

OTHER_METHODS = (
    replace(
        METHODS[EDIT].trying([{"rank": None, "reference_weight": weight} for weight in WEIGHTS], STRENGTHS),
        name=FULL_RANK,
    ),
    replace(METHODS["projection"].trying(strengths=STRENGTHS), name=PROJECTION),
    replace(
        METHODS["global fine-tuning"].trying(
            [{"scope": "global", "rate": rate, "steps": 20} for rate in RATES], (0.5, 1.0)
        ),
        name=ON_EXEMPLAR,
    ),
)
"""The other methods that labels select, each with its settings and strengths."""


def select_for_exemplar(scenario: Scenario, name: str, finetuning: bool) -> list[Selected]:
    """Select for all methods that get one exemplar.

    Args:
        scenario: the scenario.
        name: the name of the exemplar.
        finetuning: whether to fine-tune the whole network as well, which takes minutes.
    """
    exemplars = {name: [scenario.exemplars[name]]}
    by_hosts, selection = _select(scenario, exemplars, BY_HOSTS, HOSTS)
    by_labels, scores = _select_by_labels(scenario, exemplars, BY_LABELS, scenario.layers)
    by_exemplar, _ = _select(scenario, exemplars, BY_EXEMPLAR, EXEMPLAR)
    found = [by_hosts, by_labels, by_exemplar]
    layers = list(scores.table().layer.unique()[:BEST_LAYERS])  # the best candidates come first
    for method in OTHER_METHODS:
        selected, _ = _select_by_labels(scenario, exemplars, method.name, layers, [method])
        found.append(selected)
    if finetuning:
        started = time.process_time()
        finetuned = finetune_without_labels(scenario.classifier, selection)
        seconds = by_hosts.seconds + time.process_time() - started
        settings = ", ".join(f"{name} {value:g}" for name, value in finetuned.settings.items())
        found.append(Selected(LABEL_FREE, finetuned.edit, settings, len(finetuned.scores), seconds))
    [layer] = by_hosts.edit.layers
    found += random_directions(scenario.classifier, scenario.exemplars[name], scenario.splits.images, layer)
    return found


def select_for_several(scenario: Scenario, name: str) -> list[Selected]:
    """Select an edit without labels that is made from several exemplars together, by their name."""
    selected, _ = _select(scenario, {name: scenario.several[name]}, SEVERAL, HOSTS)
    return [selected]


def _select(
    scenario: Scenario, exemplars: Mapping[str, Sequence[Exemplar]], method: str, select_by: str
) -> tuple[Selected, Selection]:
    """Select an edit without labels, and describe it with the CPU time that the selection took."""
    started = time.process_time()
    images = scenario.splits.images
    selection = select(
        scenario.classifier, exemplars, images, select_by=select_by, where=scenario.where, layers=scenario.layers
    )
    return _described(method, selection.scores, started), selection


def _select_by_labels(
    scenario: Scenario,
    exemplars: Mapping[str, Sequence[Exemplar]],
    method: str,
    layers: Sequence[str] | None,
    methods: Sequence[Method] | None = None,
) -> tuple[Selected, Scores]:
    """Select an edit by labels, and describe it with the CPU time that the selection took."""
    started = time.process_time()
    splits = scenario.splits
    options = {"layers": layers, "where": scenario.where, "methods": methods}
    scores = select_by_labels(scenario.classifier, exemplars, splits.images, splits.target, **options)
    return _described(method, scores, started), scores


def _described(method: str, scores: Scores, started: float) -> Selected:
    """Describe the edit that was selected."""
    best = scores.best()
    return Selected(method, best.scaled, str(best), len(scores), time.process_time() - started)
