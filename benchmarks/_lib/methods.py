"""Every method on the same images, selected by the same rule: an edit, what a user would do instead, and a control.

The rule is that of `repair`: the lowest cross-entropy on the images with the concept, of the candidates with a net gain
and costs within half of the limits. Each method is also selected whatever it costs. The edit with default settings and
the random directions need no labels, so nothing is selected for them.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from _lib.results import (
    DEFAULT,
    FINETUNING,
    FULL_RANK,
    LAST_LAYER,
    ON_EXEMPLAR,
    PASTED,
    PASTED_UNLABELED,
    PROJECTION,
)
from edittools._progress import bar_of
from edittools.classifiers import Classifier, fingerprint
from edittools.edits import Change, Edit, Record
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.layers import candidate_layers
from edittools.methods import EDIT, METHODS, RANDOM
from edittools.selection import CachedActivations, Constraints, Outcomes, Search, Selection, Splits, grid
from edittools.selection.finetuning import CHECKPOINTS, NO_LIMITS, finetune_network, train_network
from edittools.selection.outcomes import SECOND, SINGLE, Candidate
from edittools.selection.repair import SETTINGS
from edittools.selection.search import SECOND_LAYER
from edittools.selection.splits import FOLDS, stratified_folds
from edittools.site import site_at

WITHIN = "within the limits"
WITHOUT = "without limits"
"""How a method was selected."""

CONSTRAINTS = {WITHIN: None, WITHOUT: NO_LIMITS}
"""The constraints of each; None for those of the search."""

STRENGTHS = (0.5, 1.0, 1.5)
"""The strengths that `repair` tries."""

METHODS_OF_REPAIR = (METHODS[EDIT].trying(SETTINGS, STRENGTHS), METHODS["projection"])
"""The methods among whose candidates `repair` selects."""

RATES = (1e-4,)
"""The learning rate of fine-tuning, which was chosen on two pairs of a network and a learned shortcut."""

WEIGHT_WITHOUT_LABELS = 0.5
"""How far fine-tuning without labels moves from the original weights, chosen on these pairs, with 100 steps."""

RANDOM_DRAWS = 5
"""The number of random directions."""

SETTINGS_ON_EXEMPLAR = tuple(grid(scope=("global",), rate=(1e-4, 1e-3, 1e-2), steps=(20,)))
"""Settings of fine-tuning on the exemplar."""

LAYERS_ON_EXEMPLAR = 6
"""The number of layers from which on it trains, evenly spaced."""


@dataclass(frozen=True, eq=False)
class Entry:
    """The entry of a method in a contest: what was selected for it.

    Attributes:
        method: the name of the method.
        limits: how it was selected, `WITHIN` or `WITHOUT`.
        edit: the edit; None if no candidate was feasible.
        settings: what was selected, in words.
        candidates: the number of candidates.
        seconds: the CPU time that the selection took, in seconds.
        more: what else is stored of it.
    """

    method: str
    limits: str
    edit: Edit | None
    settings: str
    candidates: int
    seconds: float
    more: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return all but the edit, for a table."""
        row = {"method": self.method, "limits": self.limits, "settings": self.settings, "candidates": self.candidates}
        return {**row, "seconds": self.seconds, **self.more}


def entry_of(method: str, limits: str, selection: Selection, seconds: float, **more: Any) -> Entry:
    """Describe a selection."""
    edit = selection.edit if selection.feasible else None
    return Entry(method, limits, edit, str(selection), selection.n_candidates, seconds, more)


def select_edits(search: Search, exemplar: Exemplar, selection: Selection, seconds: float) -> list[Entry]:
    """Select for all methods that change one or two layers, given the selection of `repair`.

    Args:
        search: the search.
        exemplar: its exemplar.
        selection: what `repair` would select in this search.
        seconds: the CPU time that this took, in seconds.
    """
    outcomes = selection.outcomes
    selected = [entry_of(EDIT, WITHIN, selection, seconds)]
    selected.append(entry_of(EDIT, WITHOUT, search.select(outcomes, constraints=NO_LIMITS), seconds))
    for method, found, own_seconds in other_outcomes(search, outcomes):
        taken = seconds if own_seconds is None else own_seconds
        for limits, constraints in CONSTRAINTS.items():
            selected.append(entry_of(method, limits, search.select(found, constraints=constraints), taken))
    started = time.process_time()
    default = default_edit(search, exemplar)
    seconds = time.process_time() - started
    selected.append(Entry(DEFAULT, WITHOUT, default, default.layers[0], len(search.cuts), seconds))
    site = search.site(default.layers[0], [exemplar])
    for seed in range(RANDOM_DRAWS):
        [random] = METHODS[RANDOM].draw(seed).edits(site, seed=seed)
        selected.append(Entry(RANDOM, WITHOUT, random, random.layers[0], 1, seconds))
    return selected


def other_outcomes(search: Search, outcomes: Outcomes) -> Iterator[tuple[str, Outcomes, float | None]]:
    """Yield the outcomes of the candidates of the other methods, and the CPU seconds; None for those of `repair`."""
    of_one_layer = outcomes.where(lambda candidate: f"{SECOND_LAYER}layer" not in candidate.params)
    full_rank = of_one_layer.where(lambda candidate: candidate.params.get("rank", 1) is None)
    yield FULL_RANK, in_all_layers(full_rank), None
    yield PROJECTION, in_all_layers(of_one_layer.of("projection")), None
    started = time.process_time()
    layers = list(search.cuts)
    every = -(-len(layers) // LAYERS_ON_EXEMPLAR)
    tuned = METHODS["global fine-tuning"].trying(SETTINGS_ON_EXEMPLAR, (0.5, 1.0))
    found = search.score(tuned, layers=layers[::every])
    yield ON_EXEMPLAR, found, time.process_time() - started
    if len(search.candidates(METHODS["last layer"])):
        started = time.process_time()
        found = retrained_heads(search)
        yield LAST_LAYER, found, time.process_time() - started


def in_all_layers(outcomes: Outcomes) -> Outcomes:
    """Mark candidates of a second pass as those of a single one, so that they count wherever they were tried."""
    candidates = []
    for candidate in outcomes.candidates:
        tried_in = SINGLE if candidate.tried_in == SECOND else candidate.tried_in
        candidates.append(replace(candidate, tried_in=tried_in))
    return replace(outcomes, candidates=candidates)


def retrained_heads(search: Search) -> Outcomes:
    """Retrain the last layer on the images with the concept, as DFR does, while other predictions are kept."""
    layer = list(search.cuts)[-1]
    shown = []
    for name in ("target", "own_class"):
        if name in search.splits.labeled:
            data = search.splits.labeled[name]
            whole = torch.ones(data.images.shape[2:])
            for image, label in zip(data.images, data.labels.tolist(), strict=True):
                shown.append(Exemplar(image, image, whole, label))
    site = site_at(search.cuts[layer], shown, search.activations.reference[layer])
    candidates = []
    for setting in METHODS["last layer"].settings:
        [edit] = METHODS["last layer"].edits(site, **setting)
        candidates.append(Candidate({"layer": search.cuts[layer].head, **setting}, edit))
    return search.score_candidates(candidates)


def select_finetuned(
    classifier: Classifier, exemplar: Exemplar, splits: Splits, rates: Sequence[float] | None, is_pasted: bool
) -> list[Entry]:
    """Fine-tune the whole network on the images, and on clean images with pasted marks.

    Args:
        classifier: the network.
        exemplar: its exemplar, whose mark is pasted.
        splits: the image sets, with folds.
        rates: learning rates to try; None for those of `finetune_network`.
        is_pasted: whether the exemplar has a mark that can be pasted on other images.
    """
    last_layer = candidate_layers(classifier)[-1:]
    search = Search(classifier, exemplar, splits, last_layer, Constraints().halved)
    sources = {FINETUNING: None, PASTED: exemplar} if is_pasted else {FINETUNING: None}
    selected = []
    for method, pasted in sources.items():
        started = time.process_time()
        within = finetune_network(search, pasted, rates, progress=None)
        seconds = time.process_time() - started
        for limits, found in {WITHIN: within, WITHOUT: within.without_limits}.items():
            settings = json.dumps(dict(found.settings)) if found.settings else "nothing"
            selected.append(Entry(method, limits, found.edit, settings, found.candidates, seconds))
    return selected


def finetuned_without_labels(classifier: Classifier, exemplar: Exemplar, splits: Splits) -> Entry:
    """Fine-tune on clean images with pasted marks for a fixed number of steps, since there is nothing to select on.

    Args:
        classifier: the network.
        exemplar: its exemplar, whose mark is pasted.
        splits: the image sets, with folds; the labels of clean images may be predictions.
    """
    last_layer = candidate_layers(classifier)[-1:]
    search = Search(classifier, exemplar, splits, last_layer)
    [rate] = RATES
    started = time.process_time()
    with bar_of(None, total=max(CHECKPOINTS), desc="fine-tuning") as bar:
        *_, (steps, _, changes) = train_network(search, rate, exemplar, bar)
    seconds = time.process_time() - started
    record = Record("fine-tuning", float("nan"), None, steps)
    network = Edit({name: Change(change) for name, change in changes.items()}, fingerprint(classifier.model), record)
    settings = json.dumps({"rate": rate, "steps": steps, "weight": WEIGHT_WITHOUT_LABELS})
    return Entry(PASTED_UNLABELED, WITHOUT, WEIGHT_WITHOUT_LABELS * network, settings, 1, seconds)


def with_folds(splits: Splits) -> Splits:
    """Divide the images for selection as `repair` does, so that some of them can train and others judge.

    Images that were made from one photo are in one fold.
    """
    if splits.folds:
        return splits
    folded = splits.with_folds(FOLDS)
    if not splits.target.names:
        return folded
    numbers = {name: number for number, name in enumerate(dict.fromkeys(splits.target.names))}
    of_photo = torch.tensor([numbers[name] for name in splits.target.names])
    folds = stratified_folds(splits.target.labels, FOLDS, of_photo)
    return replace(folded, folds={**folded.folds, "target": folds}, scenes=of_photo)


# --- an edit without labels -------------------------------------------------------------------------------------------


def default_edits(search: Search, exemplar: Exemplar) -> dict[str, Edit]:
    """Edit with default settings in each layer of a search, by the name of the layer."""
    edits = {}
    for layer in search.cuts:
        [edit] = METHODS[EDIT].edits(search.site(layer, [exemplar]))
        edits[layer] = edit
    return edits


def losses_at_exemplar(search: Search, exemplar: Exemplar, edits: Mapping[str, Edit]) -> dict[str, float]:
    """Return how far the prediction of x' with each edit is from that of x, as a divergence, by layer."""
    images = torch.stack([exemplar.image, exemplar.changed])
    cached = CachedActivations(search.cuts, LabelledImages.unlabeled(images, search.classifier.classes))
    original = cached.original[0].log_softmax(dim=0)
    divergences = {}
    for layer, edit in edits.items():
        changed = cached.logits(edit)[1].log_softmax(dim=0)
        divergences[layer] = float((original.exp() * (original - changed)).sum())
    return divergences


def default_edit(search: Search, exemplar: Exemplar) -> Edit:
    """Edit with default settings in the layer in which x' comes to be predicted most like x.

    This rule was chosen on two pairs of a network and a learned shortcut, with their rate of fine-tuning.
    """
    edits = default_edits(search, exemplar)
    divergences = losses_at_exemplar(search, exemplar, edits)
    return edits[min(divergences, key=divergences.__getitem__)]
