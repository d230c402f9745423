"""Select an edit without labels: the one with which the network predicts for hosts what it predicts without the mark.

    selection = select(classifier, exemplars, ordinary_images)
    selection.edit

First, one edit with default settings is made in each layer. The layers are ranked by two cheap numbers: how x' of the
exemplars comes to be predicted, and how a few hosts do. In the best layers, the edits are scored on the hosts that
select; in the best of these, edits are made from hosts as well, of several ranks. See `Scores` for the objective.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from edittools._checks import one_of, warn
from edittools._inference import refuse_inference_mode, without_autocast
from edittools._ledger import Weights
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier, check_classifier, remap_labels
from edittools.cut import Cut, cut_all
from edittools.edits import Edit, copied
from edittools.exemplars import PLACES, Exemplar, Exemplars, all_exemplars, named_exemplars
from edittools.images import Images, LabelledImages
from edittools.layers import check_layers
from edittools.methods import EDIT, METHODS, Method
from edittools.metrics import predict, predicted_classes
from edittools.moments import NoEditError, SecondMoment, measure
from edittools.selection.hosts import MOST_REFERENCE, Hosts, divergence, sample_of
from edittools.selection.scores import Candidate, Scores
from edittools.site import LayerReference, Site, site_at
from edittools.states import StateMemory, States

HOSTS, EXEMPLAR, LABELS = "hosts", "exemplar", "labels"

SELECTORS = (HOSTS, EXEMPLAR, LABELS)
"""What selects an edit: hosts or the exemplar's own prediction, without labels; or labeled images with the concept."""

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
        edit: the edit.
        candidate: the selected candidate.
        scores: the score table.
        hosts: the ordinary images, divided; None if the exemplar's own prediction selects.
        exemplars: the exemplars of each edit, by name.
        layers: how each layer was ranked, as dictionaries with `layer`, `exemplar`, `at the exemplar`, `at few hosts`.
    """

    edit: Edit
    candidate: Candidate
    scores: Scores
    hosts: Hosts | None
    exemplars: Mapping[str, Sequence[Exemplar]]
    layers: Sequence[Mapping[str, Any]]

    @property
    def selected_by(self) -> str:
        """What has selected the edit, one of `SELECTORS`."""
        if self.scores.predicted is not None:
            return LABELS
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
        seed: seed of the division of the images, and of the places of marks.
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
        UserWarning: if few images show the mark's class, or if no edit lowers the objective.
    """
    refuse_inference_mode()
    one_of(select_by, (HOSTS, EXEMPLAR), "select_by")
    one_of(where, PLACES, "where")
    selection = select(
        copied(check_classifier(classifier)),  # everything is of these weights, whatever happens to the classifier
        exemplars,
        images,
        layers=layers,
        select_by=select_by,
        where=where,
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
    seed: int = 0,
    progress: Progress | None = None,
    concept: LabelledImages | None = None,
    methods: Sequence[Method] | None = None,
) -> Selection:
    """Select an edit as `select_edit` does, by labels as well, and return the score table.

    With `select_by="labels"`, `concept` holds the labeled images with the concept that select: their mean cross-entropy
    takes the place of the divergence of hosts with the mark. `methods` are tried instead of edits that are selected
    from exemplars and hosts: all settings and strengths of each, in each layer, with the exemplars.

    `moments` are the second moments of ordinary images by layer, if they were measured before, as on the desk.
    """
    named = named_exemplars(exemplars, check_classifier(classifier))
    names = check_layers(classifier, layers)
    started = time.process_time()
    hosts = None if select_by == EXEMPLAR else Hosts.of(classifier, named, images, where, seed)
    reference = sample_of(classifier, named, images, seed)[:MOST_REFERENCE] if hosts is None else hosts.reference
    if select_by == HOSTS and methods is None:
        hosts.warn_about_own_class(classifier)
    selecting = Selecting.of(classifier, named, hosts, concept if select_by == LABELS else None)
    cuts = cut_all(classifier, names, weights=Weights(classifier))
    count = len(names) * len(named)
    total = count
    if hosts is not None:
        total += min(count, FIRST_LAYERS) * len(STRENGTHS) + min(count, BEST_LAYERS) * 2 * len(RANKS) * len(STRENGTHS)
    if methods is not None:
        total = count * sum(len(method.settings) * len(method.strengths) for method in methods)
    ranking: list[Ranked] = []
    with bar_of(progress, total=total, desc="selecting an edit", unit="step") as bar:
        scored = Scored(selecting, bar)
        sites = _Sites(cuts, reference, moments)
        if methods is not None:
            _score_methods(sites, named, methods, scored)
        else:
            ranking.extend(_rank(sites, named, hosts, scored))
            if hosts is None:
                _score_by_exemplar(ranking, scored)
            else:
                _score_by_images(sites, ranking, hosts, scored)
    scores = scored.table(time.process_time() - started)
    best = scores.best()
    return Selection(best.scaled, best, scores, hosts, named, [one.row for one in ranking])


# --- the layers -------------------------------------------------------------------------------------------------------


class _Sites:
    """The sites of the layers of a selection, with the second moments of all layers, measured in one pass."""

    def __init__(self, cuts: Mapping[str, Cut], reference: Tensor, moments: Mapping[str, SecondMoment] | None) -> None:
        self.cuts = cuts
        given = {layer: moment for layer, moment in (moments or {}).items() if layer in cuts}
        for layer, moment in given.items():
            moment.check_fits(cuts[layer])
        missing = {layer: cut for layer, cut in cuts.items() if layer not in given}
        measured = measure(missing, reference) if missing else {}
        self._reference = {
            layer: LayerReference(cut, reference, {**given, **measured}[layer]) for layer, cut in cuts.items()
        }

    def site(self, layer: str, exemplars: Sequence[Exemplar]) -> Site:
        """Return the site of exemplars at a layer."""
        return site_at(self.cuts[layer], exemplars, self._reference[layer])


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

    @property
    def row(self) -> dict[str, Any]:
        """What it is ranked by, as a row of a table."""
        numbers = {"at the exemplar": self.at_exemplar, "at few hosts": self.at_few_hosts}
        return {"layer": self.layer, "exemplar": self.exemplar, **numbers}


def _rank(
    sites: _Sites, named: Mapping[str, Sequence[Exemplar]], hosts: Hosts | None, scored: "Scored"
) -> Iterator[Ranked]:
    """Make an edit with default settings in each layer, and measure what it does to x' and to a few hosts."""
    members = all_exemplars(named)
    few: list[Exemplar] = []
    if hosts is not None:
        of_each = -(-FEW_HOSTS // len(named))
        few = [host for of_name in hosts.solve.values() for host in of_name[:of_each]]
    shown = [*members, *few]
    last_cut = list(sites.cuts.values())[-1]
    target = _original_log_probabilities(last_cut, torch.stack([one.image for one in shown]))
    changed = torch.stack([one.changed for one in shown])
    states = States(sites.cuts, changed, batch_size=len(changed), memory=StateMemory(inf))
    is_ranked = False
    for name, group in named.items():
        for layer in sites.cuts:
            try:
                [edit] = METHODS[EDIT].edits(sites.site(layer, group))
            except NoEditError:
                scored.step()
                continue
            [predicted] = _log_probabilities(states, edit, (1.0,))
            divergences = divergence(target, predicted)
            at_few_hosts = float(divergences[len(members) :].mean()) if few else float("nan")
            yield Ranked(layer, name, edit, divergences[: len(members)], at_few_hosts)
            is_ranked = True
            scored.step()
    if not is_ranked:
        raise ValueError(f"none of {len(sites.cuts)} layers gives an edit: mark a larger area")


def _original_log_probabilities(cut: Cut, images: Tensor) -> Tensor:
    """Compute the log-probabilities of images without an edit, on the CPU."""
    logits = [cut.logits(cut.prefix(batch)) for batch in images.split(BATCH)]
    return torch.cat(logits).float().log_softmax(dim=1).cpu()


def _first_layers(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Return the edits that are scored on hosts: the best by one of the two numbers in turn, in the network's order."""
    by_exemplar = sorted(ranked, key=lambda one: one.at_exemplar)
    by_hosts = sorted(ranked, key=lambda one: one.at_few_hosts)
    in_turn = [one for pair in zip(by_hosts, by_exemplar, strict=True) for one in pair]
    first = list(dict.fromkeys(in_turn))[:FIRST_LAYERS]
    return [one for one in ranked if one in first]


# --- the candidates ---------------------------------------------------------------------------------------------------


def _score_by_exemplar(ranked: Sequence[Ranked], scored: "Scored") -> None:
    """Score the edits with default settings by how x' of the exemplars come to be predicted."""
    for one in ranked:
        params = {"method": EDIT, "layer": one.layer, "exemplar": one.exemplar, "strength": 1.0}
        scored.add(Candidate(one.edit, params), one.at_exemplars, torch.zeros(0))


def _score_by_images(sites: _Sites, ranked: Sequence[Ranked], hosts: Hosts, scored: "Scored") -> None:
    """Score edits of the exemplars in the first layers, and edits that are made from hosts in the best of these."""
    first = _first_layers(ranked)
    for layer, of_layer in _by_layer(first):
        states = _SelectingStates(sites.cuts[layer], scored)
        for one in of_layer:
            params = {"method": EDIT, "layer": layer, "exemplar": one.exemplar, "solved with": "exemplar", "rank": 1}
            states.score(one.edit, params)
    table = scored.table().table().drop_duplicates(["layer", "exemplar"])[:BEST_LAYERS]  # the best ones come first
    best = list(zip(table.layer, table.exemplar, strict=True))
    for layer, of_layer in _by_layer([one for one in first if (one.layer, one.exemplar) in best]):
        states = _SelectingStates(sites.cuts[layer], scored)
        for one in of_layer:
            for solved_with, members in _solved_with(hosts, one.exemplar).items():
                site = sites.site(layer, members)
                for rank in RANKS:
                    try:
                        [edit] = METHODS[EDIT].edits(site, rank=rank)
                    except NoEditError:
                        continue
                    params = {"method": EDIT, "layer": layer, "exemplar": one.exemplar}
                    states.score(edit, {**params, "solved with": solved_with, "rank": rank})


def _score_methods(
    sites: _Sites, named: Mapping[str, Sequence[Exemplar]], methods: Sequence[Method], scored: "Scored"
) -> None:
    """Score all settings and strengths of methods in each layer, with the exemplars of each edit."""
    for layer, cut in sites.cuts.items():
        states = _SelectingStates(cut, scored)
        for name, group in named.items():
            site = sites.site(layer, group)
            for method in methods:
                for setting in method.settings:
                    params = {"method": method.name, "layer": layer, "exemplar": name, **setting}
                    try:
                        edits = method.edits(site, **setting)
                    except NoEditError:
                        continue
                    for edit in edits:
                        states.score(edit, params, method.strengths)


def _by_layer(ranked: Sequence[Ranked]) -> Iterator[tuple[str, list[Ranked]]]:
    """Group edits by layer, so that one layer's states are in memory at a time."""
    for layer in dict.fromkeys(one.layer for one in ranked):
        yield layer, [one for one in ranked if one.layer == layer]


def _solved_with(hosts: Hosts, name: str) -> dict[str, list[Exemplar]]:
    """List the hosts that an edit can be solved with: of other classes, and some of the mark's own class among them."""
    others = hosts.solve[name]
    own = hosts.solve_own[name]
    mixed = {"hosts, some of the own class": [*others[: len(others) - len(own)], *own]} if own else {}
    return {"hosts": others, **mixed}


# --- the scores -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Selecting:
    """The images that select, with what a candidate is scored by.

    Attributes:
        marked: the images with the mark, `(N, 3, H, W)`.
        clean: the images without it, `(M, 3, H, W)`.
        target: the original log-probabilities of the images with the mark, `(N, classes)`; None where labels select.
        labels: the labels of the images with the mark, `(N,)`; None without labels.
        original: the original log-probabilities of the images without the mark, `(M, classes)`.
        before: the losses of the images with the mark without an edit, `(N,)`.
        is_own: which images with the mark are of its own class, `(N,)` booleans.
        counts: which images without the mark count, `(M,)` booleans.
    """

    marked: Tensor
    clean: Tensor
    target: Tensor | None
    labels: Tensor | None
    original: Tensor
    before: Tensor
    is_own: Tensor
    counts: Tensor

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        named: Mapping[str, Sequence[Exemplar]],
        hosts: Hosts | None,
        concept: LabelledImages | None,
    ) -> "Selecting":
        """Collect the images that select: those of exemplars, hosts, or labeled images with the concept.

        Args:
            classifier: the classifier.
            named: the exemplars by name; they select without hosts.
            hosts: the ordinary images, divided.
            concept: labeled images with the concept; they select if they are given.
        """
        if hosts is None:
            members = all_exemplars(named)
            marked = torch.stack([one.changed for one in members])
            target = predict(classifier, torch.stack([one.image for one in members])).log_softmax(dim=1)
            before = divergence(target, predict(classifier, marked).log_softmax(dim=1))
            nothing = torch.zeros(0, dtype=torch.bool)
            is_own = torch.zeros(len(members), dtype=torch.bool)
            return cls(marked, marked[:0], target, None, target[:0], before, is_own, nothing)
        select = hosts.select
        counts = ~select.shows_mark
        if concept is None:
            before = divergence(select.original, select.with_mark)
            target = select.original
            return cls(select.marked, select.images, target, None, select.original, before, select.is_own, counts)
        data = remap_labels("concept", concept, classifier)
        pixels = data.images[:]
        before = cross_entropy(predict(classifier, pixels), data.labels, reduction="none")
        is_own = torch.isin(data.labels, torch.tensor(hosts.own_classes, dtype=torch.long))
        return cls(pixels, select.images, None, data.labels, select.original, before, is_own, counts)

    def loss(self, predicted: Tensor) -> Tensor:
        """Compute the loss of the images with the mark, `(N,)`, from log-probabilities `(N, classes)`."""
        if self.target is not None:
            return divergence(self.target, predicted)
        losses = cross_entropy(predicted, self.labels, reduction="none")
        return torch.where(losses.isfinite(), losses, torch.inf)


class _SelectingStates:
    """The states of the images that select at one layer."""

    def __init__(self, cut: Cut, scored: "Scored") -> None:
        self.cut = cut
        self.scored = scored
        memory = StateMemory(inf, output_limit=0)
        cuts = {cut.layer: cut}
        self.marked = States(cuts, scored.selecting.marked, batch_size=BATCH, memory=memory)
        self.clean = States(cuts, scored.selecting.clean, batch_size=BATCH, memory=memory)

    def score(self, edit: Edit, params: Mapping[str, Any], strengths: Sequence[float] = STRENGTHS) -> None:
        """Score an edit with each strength."""
        selecting = self.scored.selecting
        marked = _log_probabilities(self.marked, edit, strengths)
        clean = _log_probabilities(self.clean, edit, strengths)
        for strength, with_mark, without_mark in zip(strengths, marked, clean, strict=True):
            candidate = Candidate(edit, {**params, "strength": strength}, strength)
            changed = divergence(selecting.original, without_mark)
            self.scored.add(candidate, selecting.loss(with_mark), changed, predicted_classes(with_mark))
            self.scored.step()


def _log_probabilities(states: States, edit: Edit, strengths: Sequence[float]) -> Tensor:
    """Compute the log-probabilities `(S, N, classes)` with an edit, scaled by each of S factors."""
    return states.scaled_logits(edit, strengths).float().log_softmax(dim=2)


class Scored:
    """The candidates that were scored so far, and the bar that shows how far a selection is.

    Attributes:
        selecting: the images that select.
    """

    def __init__(self, selecting: Selecting, bar: Any) -> None:
        self.selecting = selecting
        self._rows: list[tuple[Candidate, Tensor, Tensor, Tensor | None]] = []
        self._bar = bar

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, candidate: Candidate, marked: Tensor, clean: Tensor, predicted: Tensor | None = None) -> None:
        """Add what a candidate does: the losses of images with and without the mark, and the classes of the former."""
        self._rows.append((candidate, marked, clean, predicted))

    def step(self) -> None:
        """Update the bar."""
        self._bar.update()

    def table(self, seconds: float = float("nan")) -> Scores:
        """Return the score table."""
        selecting = self.selecting
        candidates, marked, clean, predicted = zip(*self._rows, strict=True)
        return Scores(
            candidates,
            torch.stack(marked),
            torch.stack(clean),
            selecting.before,
            selecting.is_own,
            selecting.counts,
            torch.stack(predicted) if selecting.labels is not None else None,
            seconds,
        )
