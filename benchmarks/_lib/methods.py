"""Every method on the same images: what is selected without labels, what labels select, and a control.

Without labels, an edit is selected by hosts, as `select_edit` does, or by the exemplar, and the whole network is
fine-tuned on the same hosts. Labeled images with the concept select by their cross-entropy, plus what else an edit
changes: the edit, and other methods in the layers that are the best for it. Random directions need no selection.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from edittools.methods import EDIT, METHODS
from edittools.selection import finetune_without_labels
from edittools.selection.select import BEST_LAYERS, EXEMPLAR, HOSTS, LABELS, Selection, select
from edittools_course.rivals import RIVALS
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
    replace(RIVALS["projection"].trying(strengths=STRENGTHS), name=PROJECTION),
    replace(
        RIVALS["global fine-tuning"].trying(
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
    by_hosts, selection = _timed(scenario, exemplars, BY_HOSTS, HOSTS)
    by_labels, of_labels = _timed(scenario, exemplars, BY_LABELS, LABELS)
    by_exemplar, _ = _timed(scenario, exemplars, BY_EXEMPLAR, EXEMPLAR)
    found = [by_hosts, by_labels, by_exemplar]
    found += _other_methods(scenario, exemplars, of_labels)
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
    selected, _ = _timed(scenario, {name: scenario.several[name]}, SEVERAL, HOSTS)
    return [selected]


def _timed(
    scenario: Scenario, exemplars: Mapping[str, Sequence[Exemplar]], method: str, select_by: str, **more: Any
) -> tuple[Selected, Selection]:
    """Select an edit, and describe it with the CPU time that the selection took."""
    started = time.process_time()
    selection = select(
        scenario.classifier,
        exemplars,
        scenario.splits.images,
        select_by=select_by,
        where=scenario.where,
        concept=scenario.splits.target if select_by == LABELS else None,
        **{"layers": scenario.layers, **more},
    )
    seconds = time.process_time() - started
    candidate = selection.candidate
    return Selected(method, selection.edit, str(candidate), len(selection.scores), seconds), selection


def _other_methods(
    scenario: Scenario, exemplars: Mapping[str, Sequence[Exemplar]], of_edit: Selection
) -> list[Selected]:
    """Select for the other methods, in the layers that are the best for the edit."""
    layers = list(of_edit.scores.table().layer.unique()[:BEST_LAYERS])  # the best candidates come first
    found = []
    for method in OTHER_METHODS:
        selected, _ = _timed(scenario, exemplars, method.name, LABELS, layers=layers, methods=[method])
        found.append(selected)
    return found
