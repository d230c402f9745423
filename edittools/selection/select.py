"""Select an edit without labels: the one with which the network predicts for hosts what it predicts without the mark.

    selection = select(classifier, exemplars, ordinary_images)
    selection.edit

First, one edit with default settings is made in each layer. The layers are ranked by two cheap numbers: how x' of the
exemplars comes to be predicted, and how a few hosts do. In the best layers, the edits are scored on the hosts that
select; in the best of these, edits are made from hosts as well, of several ranks. See `Scores` for the objective.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edittools._checks import one_of, warn
from edittools._inference import refuse_inference_mode, without_autocast
from edittools._ledger import Weights
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, cut_all
from edittools.edits import Edit, copied
from edittools.exemplars import PLACES, Exemplar, Exemplars, Pairs, all_exemplars, named_exemplars
from edittools.images import Images
from edittools.layers import check_layers
from edittools.metrics import predict
from edittools.moments import NoEditError, SecondMoment, measure
from edittools.rewriting import EDIT, rewrite_at
from edittools.selection.hosts import MOST_REFERENCE, Hosts, HostSet, divergence, sample_of
from edittools.selection.scores import Candidate, Scores
from edittools.site import LayerReference, site_at
from edittools.states import StateMemory, States

HOSTS, EXEMPLAR = "hosts", "exemplar"

SELECTORS = (HOSTS, EXEMPLAR)
"""What selects an edit, without labels: hosts, or the exemplar's own prediction."""

FIRST_LAYERS = 10
"""The number of layers in which edits with default settings are scored on hosts."""

BEST_LAYERS = 4
"""The number of layers in which edits are made from hosts as well."""

FEW_HOSTS = 12
"""The number of hosts by which layers are ranked; they are solved with later."""

RANKS = (1, 3, None)
"""The ranks of edits that are made from hosts."""

STRENGTHS = (1.0, 1.5)
"""The factors α by which edits are scaled."""

BATCH = 32
"""The number of hosts that run through a layer at once."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The edit that was selected, and from what.

    Attributes:
        candidate: the selected candidate.
        scores: the score table.
        hosts: the ordinary images, divided; None if the exemplar's own prediction selects.
        exemplars: the exemplars of each edit, by name.
        weights: the weights of the classifier that the edit was selected with.
    """

    candidate: Candidate
    scores: Scores
    hosts: Hosts | None
    exemplars: Mapping[str, Sequence[Exemplar]]
    weights: Weights

    @cached_property
    def edit(self) -> Edit:
        """The edit: that of the candidate, with its strength."""
        return self.candidate.scaled

    @property
    def selected_by(self) -> str:
        """What has selected the edit, one of `SELECTORS`."""
        return EXEMPLAR if self.hosts is None else HOSTS

    @property
    def lowers_objective(self) -> bool:
        """Whether the objective is lower with the edit than without one."""
        return float(self.scores.objective().min()) < self.scores.objective_before()


def select_edit(
    classifier: Classifier,
    exemplars: Exemplars,
    images: Images,
    *,
    layers: Sequence[str] | None = None,
    select_by: str = HOSTS,
    where: str = "anywhere",
    vary: bool = False,
    seed: int = 0,
    progress: Progress | None = tqdm,
) -> Edit:
    """Select an edit of one layer without labels: with the mark, the network should predict what it does without it.

    The mark of the exemplars, the masked area of x', is pasted on ordinary images. Edits are made from the exemplars or
    from such hosts, in several layers. The selected one is that with which the predictions for other hosts diverge
    least from the original ones, with the mark and, with twice the weight, without it.

    Examples:
        >>> edit = select_edit(classifier, exemplar, images)  # images (N, 3, H, W) in [0, 1], at least 50
        >>> with edit.applied(classifier):
        ...     logits = classifier(other_images)

    Args:
        classifier: the classifier, which is copied; changes during the call have no effect.
        exemplars: one or several. Each is tried alone, but those under one name in a mapping make one edit; every edit
            is judged on the marks of all. Their labels are not used.
        images: ordinary images without labels, at least 50, better 200 or more, some of the class that the mark stands
            for. They also define C.
        layers: names of the layers to edit; by default all of `candidate_layers`.
        select_by: "hosts"; or "exemplar": the edit with default settings, in the layer in which x' comes to be
            predicted most like x.
        where: where marks are pasted: "anywhere", or "in place" for a material that has its place in images. It is then
            rewritten where it belongs as well, which only labeled images show (`retain=` of `repair`).
        vary: whether pasted marks vary in light, size, and tilt, as those of new images may (`Exemplar.hosts`).
        seed: seed of the division of the images, of the places of marks, and of what varies.
        progress: a class like `tqdm.tqdm`, for a bar; None for no bar.

    Returns:
        The selected edit.

    Raises:
        KeyError: if the model has no layer of that name.
        RuntimeError: under `torch.inference_mode()`.
        TypeError: if an exemplar is not an `Exemplar`, or if the images have labels or are no set of images.
        ValueError: if images or exemplars do not have the size of the classifier's input, if the images show fewer than
            50 scenes, if a layer cannot be edited, or if no layer gives an edit.

    Warns:
        UserWarning: if the images or the mark are not what they should be (`Hosts.warn_about_images`), or if no edit
            lowers the objective.
    """
    refuse_inference_mode()
    one_of(select_by, SELECTORS, "select_by")
    one_of(where, PLACES, "where")
    selection = select(
        copied(check_classifier(classifier)),  # everything is of these weights, whatever happens to the classifier
        exemplars,
        images,
        layers=layers,
        select_by=select_by,
        where=where,
        vary=vary,
        seed=seed,
        progress=progress,
    )
    if not selection.lowers_objective:
        warn(
            "no edit makes predictions for images with the mark more like those without it; the selected one is the "
            "least bad. Is x' predicted otherwise than x?"
        )
    return selection.edit


@torch.no_grad()
@without_autocast()
def select(
    classifier: Classifier,
    exemplars: Exemplars,
    images: Images,
    *,
    layers: Sequence[str] | None = None,
    moments: Mapping[str, SecondMoment] | None = None,
    select_by: str = HOSTS,
    where: str = "anywhere",
    vary: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Selection:
    """Select an edit as `select_edit` does, and return the score table.

    `moments` are the second moments of ordinary images by layer, if they were measured before, as on the desk.
    """
    named = named_exemplars(exemplars, check_classifier(classifier))
    names = check_layers(classifier, layers)
    started = time.process_time()
    hosts = None
    if select_by == EXEMPLAR:
        ordinary = sample_of(classifier, named, images, seed)[:MOST_REFERENCE]
    else:
        hosts = Hosts.of(classifier, named, images, where, seed, vary)
        hosts.warn_about_images(classifier)
        ordinary = hosts.reference
    weights = Weights(classifier)
    cuts = cut_all(classifier, names, weights=weights)
    total = len(names) * len(named)
    if hosts is not None:
        edits = min(total, FIRST_LAYERS) + 2 * len(RANKS) * min(total, BEST_LAYERS)
        batches = 2 * ceil(len(hosts.select) / BATCH)
        total += len(STRENGTHS) * edits * batches
    with bar_of(progress, total=total, desc="selecting an edit", unit="step") as bar:
        references = references_at(cuts, ordinary, moments)
        ranking = rank(references, named, hosts, bar)
        if hosts is None:
            scores = _scores_at_exemplars(classifier, named, ranking)
        else:
            first = first_layers(ranking)
            scores = score(of_exemplars(first), cuts, hosts.select, bar)
            best = best_layers(first, scores)
            scores = scores.joined(score(of_hosts(references, best, hosts), cuts, hosts.select, bar))
    scores = replace(scores, seconds=time.process_time() - started)
    return Selection(scores.best(), scores, hosts, named, weights)


# --- the layers -------------------------------------------------------------------------------------------------------


def references_at(
    cuts: Mapping[str, Cut], ordinary: Tensor, moments: Mapping[str, SecondMoment] | None = None
) -> dict[str, LayerReference]:
    """Collect what ordinary images say about each layer; second moments that are missing are measured in one pass."""
    known = {layer: moment for layer, moment in (moments or {}).items() if layer in cuts}
    for layer, moment in known.items():
        moment.check_fits(cuts[layer])
    missing = {layer: cut for layer, cut in cuts.items() if layer not in known}
    if missing:
        known |= measure(missing, ordinary)
    return {layer: LayerReference(cut, ordinary, known[layer]) for layer, cut in cuts.items()}


@dataclass(frozen=True, eq=False)
class Ranked:
    """An edit with default settings in one layer, and what it is ranked by.

    Attributes:
        layer: the layer.
        exemplar: the name of the exemplars that the edit is made from.
        edit: the edit.
        at_exemplars: the divergence of x' of each exemplar from x, `(E,)`.
        at_few_hosts: the mean divergence of a few hosts; NaN without hosts.
    """

    layer: str
    exemplar: str
    edit: Edit
    at_exemplars: Tensor
    at_few_hosts: float

    @property
    def at_exemplar(self) -> float:
        """The mean divergence of x' of the exemplars from x."""
        return float(self.at_exemplars.mean())


def rank(
    references: Mapping[str, LayerReference],
    named: Mapping[str, Sequence[Exemplar]],
    hosts: Hosts | None,
    bar: Any,
) -> list[Ranked]:
    """Make an edit with default settings in each layer, and measure what it does to x' and to a few hosts.

    Args:
        references: what the ordinary images say about each layer.
        named: the exemplars of each edit, by name.
        hosts: the ordinary images, divided; None if the exemplars rank alone.
        bar: a progress bar.

    Raises:
        ValueError: if no layer gives an edit.
    """
    exemplar_pairs = {name: Pairs.of(group) for name, group in named.items()}
    count = sum(map(len, exemplar_pairs.values()))
    few: list[Pairs] = []
    if hosts is not None:
        of_each = -(-FEW_HOSTS // len(named))
        few = [of_name.first(of_each) for of_name in hosts.solve.values()]
    shown = Pairs.joined([*exemplar_pairs.values(), *few])
    cuts = {layer: reference.cut for layer, reference in references.items()}
    target = _original_log_probabilities(list(cuts.values())[-1], shown.images)
    states = States(cuts, shown.changed, batch_size=len(shown), memory=StateMemory(inf))
    ranking = []
    for name, pairs in exemplar_pairs.items():
        for layer, reference in references.items():
            with suppress(NoEditError):
                [edit] = rewrite_at(site_at(reference, pairs))
                [predicted] = _log_probabilities(states, edit, (1.0,))
                divergences = divergence(target, predicted)
                at_few_hosts = float(divergences[count:].mean()) if few else float("nan")
                ranking.append(Ranked(layer, name, edit, divergences[:count], at_few_hosts))
            bar.update()
    if not ranking:
        raise ValueError(f"none of {len(cuts)} layers gives an edit: mark a larger area")
    return ranking


def _original_log_probabilities(cut: Cut, images: Tensor) -> Tensor:
    """Compute the log-probabilities of images without an edit, on the CPU."""
    logits = [cut.logits(cut.prefix(batch)) for batch in images.split(BATCH)]
    return torch.cat(logits).float().log_softmax(dim=1).cpu()


def first_layers(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Return the edits that are scored on hosts: the best by one of the two numbers in turn, in the network's order."""
    by_exemplar = sorted(ranked, key=lambda one: one.at_exemplar)
    by_hosts = sorted(ranked, key=lambda one: one.at_few_hosts)
    in_turn = [one for pair in zip(by_hosts, by_exemplar, strict=True) for one in pair]
    first = list(dict.fromkeys(in_turn))[:FIRST_LAYERS]
    return [one for one in ranked if one in first]


def best_layers(first: Sequence[Ranked], scores: Scores) -> list[Ranked]:
    """Return the edits of the layers and exemplars that have the best scores, in the network's order."""
    table = scores.table().drop_duplicates(["layer", "exemplar"])[:BEST_LAYERS]  # the best ones come first
    best = set(zip(table.layer, table.exemplar, strict=True))
    return [one for one in first if (one.layer, one.exemplar) in best]


def _by_layer(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Sort edits by layer, so that one layer's states are in memory at a time."""
    layers = list(dict.fromkeys(one.layer for one in ranked))
    return sorted(ranked, key=lambda one: layers.index(one.layer))


# --- the candidates ---------------------------------------------------------------------------------------------------


def of_exemplars(ranked: Sequence[Ranked]) -> Iterator[list[Candidate]]:
    """Yield the edits with default settings, each with several strengths."""
    for one in _by_layer(ranked):
        params = {"method": EDIT, "layer": one.layer, "exemplar": one.exemplar, "solved with": "exemplar", "rank": 1}
        yield _scaled(one.edit, params, STRENGTHS)


def of_hosts(
    references: Mapping[str, LayerReference], ranked: Sequence[Ranked], hosts: Hosts
) -> Iterator[list[Candidate]]:
    """Yield edits that are made from hosts, of several ranks, each with several strengths.

    Args:
        references: what the ordinary images say about each layer.
        ranked: the layers and the names of the exemplars whose marks the hosts show.
        hosts: the ordinary images, divided.
    """
    for one in _by_layer(ranked):
        for solved_with, pairs in _solved_with(hosts, one.exemplar).items():
            site = site_at(references[one.layer], pairs)
            for rank in RANKS:
                with suppress(NoEditError):
                    [edit] = rewrite_at(site, rank=rank)
                    params = {"method": EDIT, "layer": one.layer, "exemplar": one.exemplar}
                    yield _scaled(edit, {**params, "solved with": solved_with, "rank": rank}, STRENGTHS)


def _scaled(edit: Edit, params: Mapping[str, Any], strengths: Sequence[float]) -> list[Candidate]:
    """Make a candidate of an edit with each strength."""
    return [Candidate(edit, {**params, "strength": strength}, strength) for strength in strengths]


def _solved_with(hosts: Hosts, name: str) -> dict[str, Pairs]:
    """List the hosts that an edit can be solved with: of other classes, and some of the mark's own class among them."""
    others = hosts.solve[name]
    own = hosts.solve_own[name]
    if not len(own):
        return {"hosts": others}
    mixed = Pairs.joined([others.first(len(others) - len(own)), own])
    return {"hosts": others, "hosts, some of the own class": mixed}


# --- the scores -------------------------------------------------------------------------------------------------------


def score(candidates: Iterable[Sequence[Candidate]], cuts: Mapping[str, Cut], hosts: HostSet, bar: Any) -> Scores:
    """Score candidates on hosts with the mark and without it; see `losses_of` for the arguments."""
    edits = list(candidates)
    marked = losses_of(edits, cuts, hosts.marked, hosts.original, divergence, bar)
    clean = losses_of(edits, cuts, hosts.images, hosts.original, divergence, bar)
    return table_of([candidate for of_edit in edits for candidate in of_edit], marked, clean, hosts)


def losses_of(
    candidates: Sequence[Sequence[Candidate]],
    cuts: Mapping[str, Cut],
    images: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    bar: Any,
) -> Tensor:
    """Compute the loss of each of N images with each of C candidates, `(C, N)`.

    Each image is run once up to all layers that are edited, and from there with each candidate.

    Args:
        candidates: edits of one layer, each with several strengths; those of one layer follow one another.
        cuts: the cut at each layer.
        images: the images, `(N, 3, H, W)`.
        target: what there should be, N rows.
        loss: computes the losses `(B,)` of a batch from its part of `target` and its log-probabilities `(B, classes)`.
        bar: a progress bar, with a step for each candidate and batch.
    """
    layers = {of_edit[0].params["layer"] for of_edit in candidates}
    edited = {layer: cut for layer, cut in cuts.items() if layer in layers}
    losses = torch.empty(sum(map(len, candidates)), len(images))
    for first in range(0, len(images) if edited else 0, BATCH):
        batch = slice(first, first + BATCH)
        states = States(edited, images[batch], batch_size=BATCH, memory=StateMemory(inf))
        row = 0
        for of_edit in candidates:
            strengths = [candidate.strength for candidate in of_edit]
            for predicted in _log_probabilities(states, of_edit[0].edit, strengths):
                losses[row, batch] = loss(target[batch], predicted)
                row += 1
                bar.update()
    return losses


def table_of(candidates: Sequence[Candidate], marked: Tensor, clean: Tensor, hosts: HostSet) -> Scores:
    """Make the score table of C candidates from their losses on hosts with the mark and without it, `(C, N)` each."""
    return Scores(candidates, marked, clean, before=hosts.before, is_own=hosts.is_own, is_counted=~hosts.shows_mark)


def _scores_at_exemplars(
    classifier: Classifier, named: Mapping[str, Sequence[Exemplar]], ranked: Sequence[Ranked]
) -> Scores:
    """Score the edits with default settings by how x' of the exemplars come to be predicted."""
    candidates = []
    for one in ranked:
        params = {"method": EDIT, "layer": one.layer, "exemplar": one.exemplar, "strength": 1.0}
        candidates.append(Candidate(one.edit, params))
    pairs = Pairs.of(all_exemplars(named))
    original = predict(classifier, pairs.images).log_softmax(dim=1)
    return Scores(
        candidates,
        torch.stack([one.at_exemplars for one in ranked]),
        torch.zeros(len(ranked), 0),
        before=divergence(original, predict(classifier, pairs.changed).log_softmax(dim=1)),
        is_own=torch.zeros(len(pairs), dtype=torch.bool),
        is_counted=torch.zeros(0, dtype=torch.bool),
    )


def _log_probabilities(states: States, edit: Edit, strengths: Sequence[float]) -> Tensor:
    """Compute the log-probabilities `(S, N, classes)` with an edit, scaled by each of S factors."""
    return states.scaled_logits(edit, strengths).float().log_softmax(dim=2)
