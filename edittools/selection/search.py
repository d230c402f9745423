"""Select an edit among candidates of every layer, exemplar, setting and strength, under the same constraints.

    search = Search(classifier, exemplars, splits, progress=tqdm)
    outcomes = search.score([METHODS["edit"].trying(grid(rank=(1, 3))), METHODS["random direction"]])
    best = search.select(outcomes.of("edit"))
    control = search.select(outcomes.of("random direction"))
    search.evaluate({"edit": best.edit, "random direction": control.edit})

Candidates are scored on the target images. Of those that correct more than they break and satisfy the `Constraints`,
the one with the lowest cross-entropy is selected. The splits for evaluation, such as `target_test`, are used by
`evaluate` only.

A search in many layers takes two passes. The first one tries the default settings in each layer, for each exemplar. The
second one tries the whole grid in the best layers of the first, see `Search.best_layers`. The candidates of both can be
selected. Every method gets the same two passes, unless it has so few candidates that all of them are tried
(`FEW_CANDIDATES`).
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import inf
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from edittools._checks import one_of
from edittools._inference import refuse_inference_mode
from edittools._progress import Progress, bar_of
from edittools.activations import CachedActivations, StateMemory, batch_size_of_states, bytes_of_states
from edittools.classifiers import Classifier, check_classifier, check_size
from edittools.edits import Edit
from edittools.exemplars import Exemplar, Exemplars, named_exemplars
from edittools.images import LabelledImages, pixels_of
from edittools.layers import check_layers
from edittools.methods import Method
from edittools.metrics import Comparison, misclassified
from edittools.selection.constraints import FEWEST_COMPARED, ConstraintCheck, Constraints
from edittools.selection.outcomes import (
    FIRST,
    LAYERS_THAT_GO_ON,
    SECOND,
    Candidate,
    Candidates,
    Outcome,
    Outcomes,
    describe_params,
)
from edittools.selection.split_activations import SplitActivations
from edittools.selection.splits import Splits
from edittools.site import Site, site_at

MOST_WEIGHED = 30
"""The number of candidates whose cost is measured in full for `Search.trade_off`."""

FEWEST_AT_ONCE = 4
"""The smallest number of images that the first pass runs up to all layers at once."""

KEPT_AT_THE_END = 3
"""The number of candidates that are scored on all images if the search is ended in its first pass."""

SCREENED_AT_ONCE = 16
"""The number of candidates that are screened together, layer by layer, if the states do not fit into the memory."""

ON_TOP = 10
"""Number of candidates of other layers that are tried on top of the best candidate."""

SECOND_LAYER = "second "
"""Prefix of the parameters of a second layer."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The candidate that was selected.

    Attributes:
        edit: the edit. If no candidate is feasible, it changes nothing.
        params: the parameters of the edit: method, layer, exemplar, settings and strength. Empty if no candidate is
            feasible.
        scores: the effect on the target images: the numbers `corrected` and `broken`, and the `loss` (mean
            cross-entropy).
        costs: comparison of the images before and after the edit on the splits `clean`, `retain` and `own_class`, by
            name, as far as there are such splits. All of their images are compared, with or without folds.
        outcomes: what each candidate does to the target images.
        n_candidates: number of candidates.
        seconds: time that scoring and selection took, in seconds.
        wrong: which target images are misclassified with the edit, `(N,)` booleans; None if no candidate is feasible.
        held_out: comparison of each image before and after the edit that was selected without it, by the name of the
            split: "target", and those of `costs`; empty without cross-validation.
        fold_selections: the selection without each fold; empty without cross-validation.
        going_on: the names of the layers in which the whole grid was tried; empty after a single pass.
    """

    edit: Edit
    params: Mapping[str, Any]
    scores: Mapping[str, float]
    costs: Mapping[str, Comparison] = field(repr=False)
    outcomes: Outcomes = field(repr=False)
    n_candidates: int
    seconds: float = float("nan")
    wrong: Tensor | None = field(default=None, repr=False)
    held_out: Mapping[str, Comparison] = field(default_factory=dict, repr=False)
    fold_selections: "tuple[Selection, ...]" = field(default=(), repr=False)
    going_on: Sequence[str] = ()

    @property
    def layers(self) -> pd.DataFrame:
        """The best candidate of the first pass in each layer, on the images that were used for selection.

        There is one row per layer, in the network's order, with the columns `layer`, `corrected`, `broken`, `loss` and
        `goes on`: whether the whole grid was tried there. It is empty after a single pass. Of several methods, it shows
        the first one.
        """
        columns = ["layer", "corrected", "broken", "loss", "goes on"]
        first = self.outcomes.tried_in(FIRST)
        if not len(first):
            return pd.DataFrame(columns=columns)
        table = first.of(first.methods[0]).table()
        best = table.loc[table.groupby("layer", sort=False).loss.idxmin()]
        return best.assign(**{"goes on": best.layer.isin(self.going_on)})[columns].reset_index(drop=True)

    @property
    def feasible(self) -> bool:
        """Whether a candidate corrects more than it breaks and satisfies the constraints."""
        return bool(self.params)

    @property
    def on_boundary(self) -> tuple[str, ...]:
        """The parameters whose selected value is the smallest or the largest that was tried.

        Values beyond the grid may be better. The value 0 and rank 1 do not count, since there is nothing below them.
        """
        names = []
        for name, value in self.params.items():
            tried = [candidate.params.get(name) for candidate in self.outcomes.candidates]
            numbers = {number for number in tried if isinstance(number, int | float) and not isinstance(number, bool)}
            is_outermost = len(numbers) > 1 and value in (min(numbers), max(numbers))
            is_rank_one = name.endswith("rank") and value == 1
            if is_outermost and value and not is_rank_one:
                names.append(name)
        return tuple(names)

    @property
    def clean(self) -> Comparison:
        """The comparison of the clean images before and after the edit."""
        return self.costs["clean"]

    @property
    def retain(self) -> Comparison | None:
        """The comparison of the retained images; None if there are none."""
        return self.costs.get("retain")

    @property
    def accuracy_change(self) -> float:
        """The change of accuracy on the clean images, in percentage points."""
        return self.clean.accuracy_change

    def __str__(self) -> str:
        if not self.feasible:
            return "nothing"
        text = describe_params({name: value for name, value in self.params.items() if name != "method"})
        return f"{text} (boundary of the grid: {', '.join(self.on_boundary)})" if self.on_boundary else text


class _Ended(Exception):
    """The update of a progress bar has ended the search."""


class Search:
    """Search candidate edits for the one with the lowest loss under constraints, in the same way for every method.

    Everything is computed with a copy of the weights that the classifier has when the search is made; an edit that
    someone applies to the classifier meanwhile does not concern the search.

    Ctrl-C, or a progress bar whose `update` raises an exception, ends the search: `score` returns what was scored until
    then, and scores nothing more.

    Attributes:
        classifier: the classifier.
        exemplars: the exemplars of each edit that is tried, by name.
        splits: the image sets.
        constraints: what a selected edit may cost.
        progress: a class like `tqdm.tqdm`, for bars.
        activations: the cached activations of the labeled splits at the layers, by the name of the split. Its
            attributes `cuts` and `reference` hold, by layer, the cut and what the reference images say.
        cuts: the cut at each layer, by the layer's name.
        methods: the methods that are tried, by name.
        is_ended: whether the search was ended early.
        seconds_per_image: about the time that an image takes to run through the network, in seconds.
    """

    def __init__(
        self,
        classifier: Classifier,
        exemplars: Exemplars,
        splits: Splits,
        layers: Sequence[str] | None = None,
        constraints: Constraints = Constraints(),  # noqa: B008
        progress: Progress | None = None,
        activations: SplitActivations | None = None,
    ) -> None:
        """Check that the splits are disjoint, and run each image once.

        Args:
            classifier: the classifier; it is not changed.
            exemplars: one or several. Each is tried alone; in a mapping, a sequence of exemplars goes into one edit.
            splits: the image sets.
            layers: names of the layers to edit; by default all of `candidate_layers`.
            constraints: what a selected edit may cost.
            progress: a class like `tqdm.tqdm`, for bars.
            activations: cached activations of another search at the same layers; image sets that they already hold are
                not run through the network again.

        Raises:
            KeyError: if the model has no layer of that name.
            RuntimeError: under `torch.inference_mode()`.
            ValueError: if images do not have the size of the classifier's input, if the label of an exemplar is not a
                class index, if two splits share an image, or if `activations` are of another classifier or of other
                layers.
        """
        refuse_inference_mode()
        self.classifier = check_classifier(classifier)
        self.exemplars = named_exemplars(exemplars, classifier)
        for name, images in {"reference": splits.reference, **splits.labeled}.items():
            check_size(name, images, classifier)
        layers = check_layers(classifier, layers)
        self.splits = splits
        self.constraints = constraints
        self.progress = progress
        splits.check_disjoint(chain.from_iterable(self.exemplars.values()))
        kept = layers if len(layers) <= LAYERS_THAT_GO_ON else ()
        started = time.perf_counter()
        self.activations = SplitActivations(classifier, layers, splits, progress, activations, kept)
        images = len(splits.reference) + sum(map(len, splits.labeled.values()))
        self.seconds_per_image = (time.perf_counter() - started) / images
        self.cuts = self.activations.cuts
        self.methods: dict[str, Method] = {}
        self.is_ended = False
        self._has_scored = False
        self._check = ConstraintCheck(self.activations, splits.folds, self.accuracy_without_concept)
        self._sites: dict[tuple, Site] = {}
        self._sums: dict[tuple[Edit, Edit, float], Outcome] = {}
        self._bar: Any = None

    # --- the images ---------------------------------------------------------------------------------------------------

    @property
    def target(self) -> CachedActivations:
        """The cached activations of the target images."""
        return self.activations["target"]

    @cached_property
    def without_concept(self) -> Tensor:
        """Which clean images of the concept's own classes are correct without an edit, `(n,)` booleans.

        The own classes are those of the split `own_class`; the clean images show them without the concept.
        """
        if "own_class" not in self.activations:
            return torch.zeros(0, dtype=torch.bool)
        own_classes = self.activations["own_class"].labels.unique()
        parts = [self.activations[name] for name in ("clean", "clean_test") if name in self.activations]
        correct = [~part.before[torch.isin(part.labels, own_classes)] for part in parts]
        return torch.cat(correct)

    @property
    def accuracy_without_concept(self) -> float | None:
        """The accuracy on clean images of the concept's own classes, in [0, 1]; None if there are too few images."""
        own = self.activations.get("own_class")
        if own is None or min(len(own.before), len(self.without_concept)) < FEWEST_COMPARED:
            return None
        return float(self.without_concept.float().mean())

    @property
    def exemplar_members(self) -> list[tuple[str, Exemplar]]:
        """The exemplars one by one, each with its name; several may go into one edit under one name."""
        return [(name, exemplar) for name, group in self.exemplars.items() for exemplar in group]

    @cached_property
    def exemplar_activations(self) -> CachedActivations:
        """x' of the exemplars, in the order of `exemplar_members`, labeled by what x is predicted as."""
        exemplars = [exemplar for _, exemplar in self.exemplar_members]
        original = torch.stack([exemplar.image for exemplar in exemplars])
        changed = torch.stack([exemplar.changed for exemplar in exemplars])
        classes = self.classifier.classes
        nothing_kept = StateMemory(0, ())  # states are computed again for the one edit that is compared
        unlabeled = LabelledImages.unlabeled(original, classes)
        labels = CachedActivations(self.cuts, unlabeled, memory=nothing_kept).original.argmax(dim=1)
        return CachedActivations(self.cuts, LabelledImages(changed, labels, classes), memory=nothing_kept)

    def site(self, layer: str, exemplars: Sequence[Exemplar]) -> Site:
        """Return the site of a layer and of the exemplars of one edit; they are run up to the layer once."""
        key = (layer, *map(id, exemplars))
        if key not in self._sites:
            self._sites[key] = site_at(self.cuts[layer], exemplars, self.activations.reference[layer])
        return self._sites[key]

    def keep_states(self, layers: Collection[str]) -> None:
        """Keep the states of all splits at some layers in memory; those at other layers leave when there is no room.

        If the search has only a few layers (`LAYERS_THAT_GO_ON`), the states at all of them are kept in any case.
        """
        if len(self.cuts) > LAYERS_THAT_GO_ON:
            self.activations.memory.keep([layer for layer in self.cuts if layer in layers])

    @cached_property
    def _bytes_of_states(self) -> dict[str, int]:
        """The bytes of the state of an image at each layer."""
        return bytes_of_states(self.cuts, pixels_of(self.splits.target)[:1])

    @property
    def _cost_images(self) -> int:
        """The number of images on which an edit may cost something."""
        return sum(len(split.before) for split in self._check.splits.values())

    def _fit_into_memory(self, layers: Iterable[str], images: int) -> bool:
        """Tell whether the states of so many images at some layers fit into the memory together."""
        return images * sum(self._bytes_of_states[layer] for layer in layers) <= self.activations.memory.limit

    # --- score --------------------------------------------------------------------------------------------------------

    def candidates(
        self, method: Method, exemplars: Exemplars | None = None, layers: Sequence[str] | None = None
    ) -> Candidates:
        """Make the candidates of a method: one edit for each layer, exemplar, setting and strength.

        Args:
            method: the method, with the settings and the strengths to try.
            exemplars: the exemplars; by default those of the search. In a mapping, a sequence of exemplars goes into
                one edit.
            layers: names of some of the search's layers; by default all of them.

        Returns:
            The candidates, which are made during iteration. For a method that changes the last layer, there are none if
            that layer is not linear.

        Raises:
            KeyError: if there is no layer of that name.
            ValueError: if a split holds an image of one of the `exemplars`; x may be a target image.
        """
        layers = list(self.cuts) if layers is None else list(layers)
        for layer in layers:
            one_of(layer, self.cuts, "layer", KeyError)
        if method.changes_head:
            layers = layers[-1:] if self._has_head(layers[-1]) else []
        named = self.exemplars
        if exemplars is not None:
            named = named_exemplars(exemplars, self.classifier)
            self.splits.check_disjoint(chain.from_iterable(named.values()))
        return Candidates(method.trying(), layers, named, self.site)

    def _has_head(self, layer: str) -> bool:
        """Tell whether the last layer of the network, seen from one of the search's layers, is linear."""
        try:
            self.cuts[layer].head  # noqa: B018
        except ValueError:
            return False
        return True

    def score(
        self,
        methods: Method | Iterable[Method],
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
    ) -> Outcomes:
        """Score the candidates of methods on the target images, in two passes if they are many.

        Args:
            methods: one or several methods, with the settings and the strengths to try.
            exemplars: see `candidates`.
            layers: see `candidates`.

        Returns:
            The outcomes, method by method. If the splits have folds, the layers that go on without one of them are
            tried as well.

        Raises:
            KeyboardInterrupt: if the search was ended before the first candidate was scored.
            TypeError: if one of the methods is not a `Method`.
        """
        methods = [methods] if isinstance(methods, Method | str) else list(methods)
        for method in methods:
            if not isinstance(method, Method):
                raise TypeError(f"{method!r} is no Method; pass one or several, such as METHODS['edit']")
        candidates = [self.candidates(method, exemplars, layers) for method in methods]
        outcomes = Outcomes.collected([], self.target.before)
        with self.one_bar(sum(of_method.expected_count for of_method in candidates)):
            for method, of_method in zip(methods, candidates, strict=True):
                if self.is_ended:
                    break
                self.methods[method.name] = method
                outcomes = outcomes.joined(self._score_in_passes(of_method))
        self._has_scored = self._has_scored or len(outcomes) > 0
        if self.is_ended and not self._has_scored:
            raise KeyboardInterrupt
        return outcomes

    def score_candidates(self, candidates: Iterable[Candidate]) -> Outcomes:
        """Score candidates that were made elsewhere on the target images, in a single pass.

        Raises:
            KeyboardInterrupt: if the search is ended before all of them were scored.
        """
        started = time.perf_counter()
        candidates = list(candidates)
        with self.one_bar(len(candidates)):
            outcomes = Outcomes.collected(self._score_each(candidates, "candidates"), self.target.before)
        if self.is_ended and len(outcomes) < len(candidates):
            raise KeyboardInterrupt
        return outcomes.timed(time.perf_counter() - started)

    @contextmanager
    def one_bar(self, total: int) -> Iterator[None]:
        """Show one bar for all candidates that are scored within a `with` block, `total` of them or about so many."""
        if self._bar is not None:  # that of an outer block counts these candidates as well
            yield
            return
        self._bar = bar_of(self.progress, total=total, desc="candidates", unit="candidate")
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None

    def _advance(self, what: str, best: Outcome | None = None) -> None:
        """Count a candidate that was scored.

        Args:
            what: what is scored.
            best: the best outcome so far.

        Raises:
            _Ended: if the `update` of the bar raises an exception.
        """
        self._bar.set_description(what, refresh=False)
        if best is not None:
            change = Comparison(self.target.before, best.wrong)
            self._bar.set_postfix({"corrected": change.corrected, "broken": change.broken}, refresh=False)
        self._update_bar(1)

    def _update_bar(self, count: int) -> None:
        """Count candidates that were scored; 0 only lets the bar end the search.

        Raises:
            _Ended: if the `update` of the bar raises an exception.
        """
        try:
            self._bar.update(count)
        except Exception as error:
            raise _Ended from error

    def _score_in_passes(self, candidates: Candidates) -> Outcomes:
        """Score the candidates of a method, in two passes if they need these, until the search is ended.

        Returns:
            The outcomes: those of the second pass, or of the only one, followed by those of the first.
        """
        started = time.perf_counter()
        first = Outcomes.collected([], self.target.before)
        outcomes: list[Outcome] = []
        best = None
        name = candidates.method.name
        try:
            if candidates.need_two_passes:
                first = self._first_pass(candidates.first_pass())
                if self.is_ended:
                    return first.timed(time.perf_counter() - started, name)
                candidates = candidates.second_pass(self._layers_that_go_on(first))
            for of_layers in self._kept_together(candidates):
                for outcome in self._scored(of_layers):
                    outcomes.append(outcome)
                    best = self._better(outcome, best)
                    self._advance(name, best)
        except (KeyboardInterrupt, _Ended):
            self.is_ended = True
        scored = Outcomes.collected(outcomes, self.target.before).joined(first)
        return scored.timed(time.perf_counter() - started, name)

    def _kept_together(self, candidates: Candidates) -> Iterator[Candidates]:
        """Divide candidates by layer if the states at all of their layers do not fit into the memory together.

        Otherwise, the states at some layers would be computed again for each candidate there.
        """
        groups = [candidates.layers]
        if not self._fit_into_memory(candidates.layers, len(self.splits.target)):
            groups = [[layer] for layer in candidates.layers]
        for layers in groups:
            self.keep_states(layers)
            yield replace(candidates, layers=layers)

    def _better(self, outcome: Outcome, best: Outcome | None) -> Outcome | None:
        """Return the better of two outcomes: that of the lowest loss, of those with a net gain."""
        if int(outcome.wrong.sum()) >= int(self.target.before.sum()):
            return best
        return outcome if best is None or outcome.losses.mean() < best.losses.mean() else best

    def _score_each(self, candidates: Iterable[Candidate], what: str) -> Iterator[Outcome]:
        """Score candidates one by one, until the search is ended."""
        try:
            for outcome in self._scored(candidates):
                yield outcome
                self._advance(what)
        except (KeyboardInterrupt, _Ended):
            self.is_ended = True

    def _scored(self, candidates: Iterable[Candidate], target: CachedActivations | None = None) -> Iterator[Outcome]:
        """Score candidates on the target images, or on some of them, one by one."""
        target = target or self.target
        for candidate in candidates:
            logits = target.logits(candidate.edit, candidate.strength)
            losses = F.cross_entropy(logits, target.labels, reduction="none").nan_to_num(nan=inf)
            yield Outcome(candidate, losses, misclassified(logits, target.labels))

    def _first_pass(self, candidates: Candidates) -> Outcomes:
        """Score the default settings in each layer on the target images.

        The images are run in small groups: up to all layers at once, and from each layer on with its candidates. So
        the states of few images, and their outputs at one layer, are in memory at a time.
        """
        tried = list(candidates)
        cuts = {layer: self.cuts[layer] for layer in candidates.layers}
        images = self.splits.target
        most_bytes = self.activations.memory.limit / 2
        size = int(most_bytes / sum(self._bytes_of_states[layer] for layer in candidates.layers))
        size = min(max(size, FEWEST_AT_ONCE), batch_size_of_states(self.classifier))
        groups = torch.arange(len(images)).split(size)
        self._bar.total += (len(groups) - 1) * len(tried)  # the bar counts a candidate once for each group
        finished: list[Outcomes] = []
        outcomes: list[Outcome] = []
        before = self.target.before[:0]
        try:
            for group in groups:
                outcomes = []
                before = self.target.before[group]
                part = CachedActivations(cuts, images.subset(group), len(group), memory=StateMemory(inf, cuts))
                for outcome in self._scored(tried, part):
                    outcomes.append(outcome)
                    self._advance(f"{candidates.method.name}, every layer")
                finished.append(Outcomes.collected(outcomes, before))
        except (KeyboardInterrupt, _Ended):
            self.is_ended = True
            return self._scored_in_full(_on_all_groups(finished or [Outcomes.collected(outcomes, before)]))
        return _on_all_groups(finished)

    def _scored_in_full(self, outcomes: Outcomes) -> Outcomes:
        """Score on all target images the candidates that are best on the images scored so far."""
        best = [outcomes.candidates[index] for index in outcomes.by_loss[:KEPT_AT_THE_END]]
        return Outcomes.collected(self._scored(best), self.target.before)

    def _layers_that_go_on(self, first: Outcomes) -> set[str]:
        """Name the layers that get the whole grid: the best ones on all images, and without each fold."""
        self.keep_states(self.cuts)  # at least those of the images that are screened, which come first
        return {layer for without in (None, *self.folds) for layer in self.best_layers(first, without, can_end=True)}

    @property
    def folds(self) -> list[int]:
        """The numbers of the folds of the target images; empty if the splits have none."""
        return self.splits.folds["target"].unique().tolist() if self.splits.folds else []

    def _counted(self, without: int | None) -> Tensor | slice:
        """Tell which target images count, `(N,)` booleans or a slice: all, or those outside of a fold."""
        return slice(None) if without is None else self.splits.folds["target"] != without

    def best_layers(self, first: Outcomes, without: int | None = None, *, can_end: bool = False) -> list[str]:
        """List the layers that go on after the first pass, `LAYERS_THAT_GO_ON` of them.

        One half are the layers with the lowest loss. The other half are the next ones in which a candidate corrects
        more than it breaks and seems to satisfy the constraints, see `ConstraintCheck.screen`. If these are too few,
        others follow by their loss.

        Args:
            first: the outcomes of the first pass.
            without: number of a fold whose images do not count; by default, all images do.
            can_end: let the bar end the search between two layers.

        Raises:
            _Ended: if the bar ends the search.
        """
        counted = first.on_images(self._counted(without))
        by_loss = [(index, counted.candidates[index]) for index in counted.by_loss]
        layers = list(dict.fromkeys(candidate.params["layer"] for _, candidate in by_loss))
        going_on = layers[: LAYERS_THAT_GO_ON // 2]
        for index, candidate in by_loss:
            layer = candidate.params["layer"]
            if len(going_on) == LAYERS_THAT_GO_ON:
                break
            if layer in going_on or counted.net[index] <= 0:
                continue
            if can_end:
                self._update_bar(0)
            if self._check.screen(candidate.edit, candidate.strength, self.constraints, without):
                going_on.append(layer)
        others = [layer for layer in layers if layer not in going_on]
        return going_on + others[: LAYERS_THAT_GO_ON - len(going_on)]

    # --- select -------------------------------------------------------------------------------------------------------

    def select(
        self,
        outcomes: Outcomes,
        without: int | None = None,
        *,
        second_layer: bool = False,
        constraints: Constraints | None = None,
    ) -> Selection:
        """Select the candidate with the lowest loss that corrects more than it breaks and satisfies the constraints.

        Candidates are ranked by their loss, not by the number of images that they correct: many candidates correct the
        same number, and of hundreds of candidates, the one that corrects the most may do so by chance.

        Args:
            outcomes: what the candidates do to all target images.
            without: number of a fold, on whose images nothing that is selected depends; by default, all images count.
            second_layer: add a candidate of another layer to the selected one, if that lowers the loss further.
            constraints: the constraints; by default those of the search.

        Returns:
            The selection, with the outcomes on these images. If no candidate is feasible, its edit changes nothing.

        Raises:
            TypeError: if these are no outcomes.
            ValueError: if there is no candidate.
        """
        started = time.perf_counter()
        if not isinstance(outcomes, Outcomes):
            raise TypeError(f"outcomes is of type {type(outcomes).__name__}; pass what search.score(method) returns")
        constraints = constraints or self.constraints
        finalists, going_on = self._finalists(outcomes, without)
        selection = self._best(finalists, without, constraints)
        if second_layer and selection.feasible and len(self.cuts) > 1 and not self.is_ended:
            sums = self._on_top(selection, finalists, without)
            if not self.is_ended:
                selection = self._best(finalists.joined(sums), without, constraints)
        seconds = sum(outcomes.seconds.values()) + time.perf_counter() - started
        return replace(selection, going_on=going_on, seconds=seconds)

    def cross_validated(self, outcomes: Outcomes, *, second_layer: bool = False) -> Selection:
        """Select on all images; for each fold, also select on the other images and evaluate on the fold.

        Args:
            outcomes: what the candidates do to all target images.
            second_layer: see `select`.

        Returns:
            The selection on all images, with `held_out` and `fold_selections`. If no candidate is feasible without a
            fold, the images of that fold count as unchanged.

        Raises:
            ValueError: if there is no candidate, or if the splits have no folds.
        """
        if not self.folds:
            raise ValueError("The splits have no folds; pass splits.with_folds() to Search")
        started = time.perf_counter()
        with_second_layer = second_layer and not self.is_ended

        def select(without: int | None) -> Selection:
            return self.select(outcomes, without, second_layer=with_second_layer and not self.is_ended)

        def select_in_folds() -> list[Selection]:
            return [select(without) for without in (*self.folds, None)]

        try:
            selections = select_in_folds()
        except KeyboardInterrupt:
            self.is_ended = True
            selections = select_in_folds()
        else:
            if with_second_layer and self.is_ended:  # a second layer was tried in some of the folds only
                selections = select_in_folds()
        *of_folds, selection = selections
        seconds = sum(outcomes.seconds.values()) + time.perf_counter() - started
        held_out = self._held_out(of_folds)
        return replace(selection, held_out=held_out, fold_selections=tuple(of_folds), seconds=seconds)

    def _held_out(self, selections: Sequence[Selection]) -> dict[str, Comparison]:
        """Compare each image before and after the edit that was selected without its fold, by the name of the split."""
        held_out = {}
        for name, folds in self.splits.folds.items():
            before = self.activations[name].before
            after = before.clone()
            for fold, selection in zip(self.folds, selections, strict=True):
                if selection.feasible:
                    in_fold = folds == fold
                    with_edit = selection.wrong if name == "target" else selection.costs[name].after
                    after[in_fold] = with_edit[in_fold]
            held_out[name] = Comparison(before, after)
        return held_out

    def _finalists(self, outcomes: Outcomes, without: int | None) -> tuple[Outcomes, list[str]]:
        """Leave out the candidates of second passes in layers that are not among the best of the first without a fold.

        Returns:
            The outcomes of the others; and for the first method with a second pass, the layers that go on.
        """
        indices: list[int] = []
        going_on: list[str] = []
        best: dict[str, list[str]] = {}
        first = outcomes.tried_in(FIRST)
        for method in first.methods:
            if len(outcomes.of(method).tried_in(SECOND)):
                best[method] = self.best_layers(first.of(method), without)
                going_on = going_on or best[method]
        for index, candidate in enumerate(outcomes.candidates):
            if candidate.tried_in != SECOND or candidate.params["layer"] in best[candidate.params["method"]]:
                indices.append(index)
        return outcomes.of_candidates(indices), going_on

    def _best(self, outcomes: Outcomes, without: int | None, constraints: Constraints) -> Selection:
        """Select among finalists, see `select`."""
        if not len(outcomes):
            raise ValueError(
                "No candidates: the grid or the strengths are empty, or every rank exceeds the number of independent "
                "keys at the mask; pass settings, strengths and lower ranks"
            )
        counted = outcomes.on_images(self._counted(without))
        for index in self._screened(counted, without, constraints):
            candidate = counted.candidates[index]
            costs = self._check.measure(candidate.edit, candidate.strength, constraints)
            if costs is None or not costs.satisfies(without):
                continue
            scores = {
                "corrected": int(counted.corrected[index]),
                "broken": int(counted.broken[index]),
                "loss": float(counted.loss[index]),
            }
            wrong = outcomes.wrong[index]
            params = candidate.params
            compared = costs.comparisons
            return Selection(candidate.scaled, params, scores, compared, counted, len(counted), wrong=wrong)
        scores = {"corrected": 0, "broken": 0, "loss": float("nan")}
        nothing = 0 * counted.candidates[0].edit
        return Selection(nothing, {}, scores, self._check.unedited(), counted, len(counted))

    def _screened(self, counted: Outcomes, without: int | None, constraints: Constraints) -> Iterator[int]:
        """Yield the indices of the candidates with a net gain that seem to satisfy the constraints, the best one first.

        If the states at all layers do not fit into the memory, candidates are screened in groups, ordered by layer, so
        that the states at a layer are computed once for each group.
        """
        gaining = [index for index in counted.by_loss if counted.net[index] > 0]
        layers = {candidate.params.get("layer") for candidate in counted.candidates if candidate.tried_in != FIRST}
        layers = layers.intersection(self.cuts)
        fit_together = self._fit_into_memory(layers, self._cost_images)
        self.keep_states(layers if fit_together else ())
        at_once = 1 if fit_together else SCREENED_AT_ONCE
        for first in range(0, len(gaining), at_once):
            best = gaining[first : first + at_once]
            seem_feasible = set()
            for index in sorted(best, key=lambda index: counted.candidates[index].edit.layers):
                candidate = counted.candidates[index]
                if not fit_together:
                    self.keep_states(candidate.edit.layers)
                if self._check.screen(candidate.edit, candidate.strength, constraints, without):
                    seem_feasible.add(index)
            for index in best:
                if index in seem_feasible:
                    if not fit_together:
                        self.keep_states(counted.candidates[index].edit.layers)
                    yield index

    def _on_top(self, first: Selection, outcomes: Outcomes, without: int | None) -> Outcomes:
        """Score the sums of the selected edit and the best candidates of other layers; each pair is scored once."""
        counted = outcomes.on_images(self._counted(without))
        others = []
        for index in counted.by_loss:
            candidate = counted.candidates[index]
            if counted.net[index] > 0 and candidate.params["layer"] not in first.edit.layers:
                others.append(candidate)
        sums = []
        with self.one_bar(len(others[:ON_TOP])):
            try:
                for other in others[:ON_TOP]:
                    sums.append(self._sum(first, other))
                    self._advance("second layer")
            except (KeyboardInterrupt, _Ended):
                self.is_ended = True
        return Outcomes.collected(sums, self.target.before)

    def _sum(self, first: Selection, other: Candidate) -> Outcome:
        """Score the sum of the selected edit and another candidate."""
        pair = (first.edit, other.edit, other.strength)
        if pair not in self._sums:
            second = {f"{SECOND_LAYER}{name}": value for name, value in other.params.items()}
            both = first.edit + other.scaled  # in this order, so that the edit map is of the first one's layer
            [self._sums[pair]] = self._scored([Candidate({**first.params, **second}, both)])
        return self._sums[pair]

    def is_feasible(self, edit: Edit, strength: float = 1.0, without: int | None = None) -> bool:
        """Return whether an edit, scaled by a strength, satisfies the constraints of this search.

        Args:
            edit: the edit.
            strength: factor α by which it is scaled.
            without: number of a fold whose images do not count; by default, all images do.
        """
        costs = self._check.measure(edit, strength, self.constraints)
        return costs is not None and costs.satisfies(without)

    def describe_constraints(self) -> str:
        """Describe the constraints, and how many images of this search an edit may lose or break."""
        retain = self.activations.get("retain")
        return self.constraints.describe(
            len(self.splits.clean), None if retain is None else int((~retain.before).sum())
        )

    # --- tables -------------------------------------------------------------------------------------------------------

    def evaluate(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits on all splits.

        Args:
            edits: the edits by name.

        Returns:
            One row per edit. If there is a split "target_test", its columns are those of `Comparison.row`, without the
            change of accuracy, and the 95% interval of the errors corrected (`low`, `high`). Each other split has
            columns with its name: its numbers of errors (`… before`, `… after`), and its change of accuracy in points
            with the 95% interval (`… change`, `… low`, `… high`).
        """
        rows = {name: _evaluation(edit, self.activations) for name, edit in edits.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def trade_off(self, outcomes: Outcomes, most: int = MOST_WEIGHED) -> pd.DataFrame:
        """Tabulate the candidates that no other one beats in what they correct, and in what they cost.

        The candidates with the lowest loss that correct more than they break are compared on all clean and retained
        images. If none of them is feasible, the next candidate that is feasible is compared as well. All of these
        images are used for selection, so the figures are too optimistic.

        Args:
            outcomes: what the candidates do to the target images.
            most: the number of candidates with the lowest loss that are compared.

        Returns:
            One row per candidate, the one that corrects the most first, with the columns `candidate` (its parameters in
            words), `corrected`, `broken`, `accuracy change` (points, on clean images), `retained broken` (number of
            images; 0 without retained images) and `feasible` (whether it satisfies the constraints). No other row has a
            higher `corrected` − `broken`, no lower accuracy and no more broken retained images at once.
        """
        gaining = [index for index in outcomes.by_loss if outcomes.net[index] > 0]
        weighed = gaining[:most]
        rows = {index: self._weigh(outcomes, index) for index in self._by_layer(outcomes, weighed)}
        if not any(row["feasible"] for row in rows.values()):
            for index in gaining[most:]:
                candidate = outcomes.candidates[index]
                if self.is_feasible(candidate.edit, candidate.strength):
                    rows[index] = self._weigh(outcomes, index)
                    weighed.append(index)
                    break
        columns = ["candidate", "corrected", "broken", "accuracy change", "retained broken", "feasible"]
        table = pd.DataFrame([rows[index] for index in weighed], columns=columns)
        gains = [table.corrected - table.broken, table["accuracy change"], -table["retained broken"]]
        is_beaten = _is_dominated(np.stack([gain.to_numpy(dtype=float) for gain in gains], axis=1))
        kept = table[~is_beaten].drop_duplicates(columns[1:])
        order = (kept.broken - kept.corrected).sort_values(kind="stable").index
        return kept.loc[order].reset_index(drop=True)

    def _by_layer(self, outcomes: Outcomes, indices: Sequence[int]) -> Iterator[int]:
        """Yield the indices of candidates layer by layer, while the states at the layers of each one are kept."""
        position = {layer: number for number, layer in enumerate(self.cuts)}

        def first_position(index: int) -> int:
            layers = outcomes.candidates[index].edit.layers
            return min((position[layer] for layer in layers if layer in position), default=len(position))

        for index in sorted(indices, key=first_position):
            self.keep_states(outcomes.candidates[index].edit.layers)
            yield index

    def _weigh(self, outcomes: Outcomes, index: int) -> dict[str, Any]:
        """Make the row of a candidate for `trade_off`."""
        candidate = outcomes.candidates[index]
        compared = {
            name: self.activations[name].compare(candidate.edit, candidate.strength)
            for name in ("clean", "retain")
            if name in self.activations
        }
        return {
            "candidate": describe_params(candidate.params),
            "corrected": int(outcomes.corrected[index]),
            "broken": int(outcomes.broken[index]),
            "accuracy change": compared["clean"].accuracy_change,
            "retained broken": compared["retain"].broken if "retain" in compared else 0,
            "feasible": self.is_feasible(candidate.edit, candidate.strength),
        }


def _on_all_groups(outcomes: Sequence[Outcomes]) -> Outcomes:
    """Join the outcomes of the same candidates on groups of images."""
    losses = torch.cat([group.losses for group in outcomes], dim=1)
    wrong = torch.cat([group.wrong for group in outcomes], dim=1)
    before = torch.cat([group.before for group in outcomes])
    return Outcomes(outcomes[0].candidates, losses, wrong, before)


def _is_dominated(gains: np.ndarray) -> np.ndarray:
    """Tell which rows of gains `(K, n)` another row surpasses in one column, and reaches in all, `(K,)` booleans."""
    reaches = (gains[None] >= gains[:, None]).all(axis=2)
    surpasses = (gains[None] > gains[:, None]).any(axis=2)
    return (reaches & surpasses).any(axis=1)


def _evaluation(edit: Edit, splits: Mapping[str, CachedActivations]) -> dict[str, float]:
    """Evaluate an edit on all splits, see `Search.evaluate`."""
    row = {}
    if "target_test" in splits:
        test = splits["target_test"].compare(edit)
        row = test.row()
        row["low"], row["high"] = test.corrected_interval()
        row.pop("accuracy change (points)")
    for name, split in splits.items():
        if name == "target_test":
            continue
        comparison = split.compare(edit)
        row[f"{name} before"] = int(comparison.before.sum())
        row[f"{name} after"] = int(comparison.after.sum())
        row[f"{name} change"] = comparison.accuracy_change
        row[f"{name} low"], row[f"{name} high"] = comparison.accuracy_interval()
    return row
