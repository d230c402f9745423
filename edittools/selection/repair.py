"""Repair a classifier in one call: `print(repair(classifier, exemplar, failing, clean).summary())`.

There are two methods: the edit of `rewrite`, of low or full rank, and the projection of the concept. The best candidate
of both is selected, and an edit of a second layer is added if that lowers the loss further. Each method tries every
layer with its default settings, and all its settings in the best of them.

A dozen failing images are too few to divide into a set for selection and one for evaluation, so the evaluation is by
cross-validation. For each fold, the method, the layer, the settings and the second layer are selected on the images of
the other folds, and the selected edit is evaluated on the images of the fold. The edit that is returned is selected on
all failing images.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools._inference import refuse_inference_mode
from edittools.baselines import finetune
from edittools.classifiers import Classifier, check_classifier, check_size, remap_labels
from edittools.edits import Edit
from edittools.exemplars import Exemplar, Exemplars, named_exemplars
from edittools.images import Images, LabelledImages, pixels_of
from edittools.metrics import misclassified, predict
from edittools.reports import Page, report_paths, save_report
from edittools.rewriting import OBJECTIVES, losses, pose
from edittools.selection.evaluation import Constraints
from edittools.selection.judgment import (
    DRAWS,
    RANDOM,
    RETAINED,
    Check,
    Evaluation,
    Verdict,
    best_of,
    checklist,
    checks_before_search,
    evaluate,
    verdict_of,
    warn_about,
    with_limit,
)
from edittools.selection.label_errors import LabelError
from edittools.selection.report import (
    EDIT,
    SECOND,
    SELECTED,
    charts_html,
    describe_alternatives,
    describe_map,
    describe_selection,
    fingerprints_of,
    first_exemplar,
    make_data,
    make_page,
    share_inside_mask,
)
from edittools.selection.search import (
    Candidate,
    Candidates,
    EditSearch,
    Outcome,
    Outcomes,
    Scored,
    Selection,
    check_layers,
    cross_validate,
    grid,
    score_each,
    stratified_folds,
)
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean, without_duplicates
from edittools.site import site_at

SETTINGS = (
    *grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0)),
    *grid(rank=(None,), masked=(True,), objective=("least_squares",), reference_weight=(1.0, 10.0, 100.0, 1000.0)),
)
"""Settings of `rewrite` that `repair` tries; least squares, since it takes milliseconds."""

FINETUNING = tuple(grid(scope=("local",), rate=(1e-3, 1e-2), steps=(20,)))
"""Settings of `finetune` that `repair` tries as a control."""

FINETUNING_ON_FAILING = tuple(
    grid(scope=("global",), rate=(1e-4, 1e-3, 1e-2), momentum=(0.9,), locality=(1.0,), steps=(20,))
)
"""Settings of fine-tuning on the failing images, which `repair` compares with on request."""

METHODS = (EDIT, "projection")
"""The methods that `repair` selects from, by their names in its table."""

CONTROLS = (RANDOM, "local fine-tuning", "logit correction")
"""The controls, by their names in the table: the best of five draws of random directions, which the edit must surpass
for the verdict "use", and two baselines, which must not be significantly better."""

ON_FAILING = "fine-tuning on the failing images"
"""The name of the row of fine-tuning on the failing images, with which an edit is compared on request."""

NAMES_OF_ROWS = (SELECTED, *METHODS, *CONTROLS, ON_FAILING)
"""The rows of the table of `repair`, in their order."""

SECOND_LAYER = "second layer"
"""What `Progress` calls the search for an edit on top of the best one."""

ON_TOP = 10
"""Number of candidates of other layers that are tried on top of the best candidate."""


@dataclass(frozen=True)
class Progress:
    """How far `repair` has come.

    Attributes:
        method: what is tried at the moment.
        done: number of its candidates that were tried.
        total: number of its candidates; None if it is not known.
        share: share of all candidates of all methods that were tried, about, from 0 to 1.
        corrected: number of failing images that the best candidate so far corrects; None if none corrects more than it
            breaks. It is the one with the lowest loss, whatever it costs.
        broken: number of images that this candidate breaks.
    """

    method: str
    done: int
    total: int | None
    share: float
    corrected: int | None = None
    broken: int | None = None


Callback = Callable[[Progress], bool | None]


class _Stopped(Exception):
    """The callback has ended the search."""


@dataclass(frozen=True, eq=False)
class RepairResult:
    """The result of `repair`.

    Attributes:
        table: one row per method. "selected" is the whole procedure; "edit" and "projection" are its methods, each one
            alone; the others are controls, of which "random direction" is the best of five draws. Where they were
            measured, the columns are
            `failing`, `corrected`, `broken`: numbers of misclassified images with the concept before the edit, and of
            images that it corrects and breaks, each evaluated with an edit that was selected without it;
            `share`, `low`, `high`, `p`: share of these errors that is corrected, net, with its 95% interval, and the
            p-value of the exact McNemar test;
            `accuracy change`, `accuracy low`, `accuracy high`: change of accuracy on the clean images that were not
            used for selection, in points, with its 95% interval;
            `retained`, `retained broken`: number of the retained images that were not used for selection and were
            classified correctly, and of those that the edit breaks;
            `candidates`, `layer`: number of candidates, and the layer or layers that were selected.
        verdict: whether to use the edit ("use", "unclear" or "do not use"), why, and what to do next.
        search: the search, with the splits and their cached activations.
        selections: the selection in each row of the table, by the name of the row, with cross-validation.
        evaluation: what the selected edit does to images that were not used to select it.
        complete: whether everything was tried; False if the search was ended early.
        inside_mask: share of the edit map of x' that lies inside the mask; None if no candidate is feasible.
        settings: the arguments of `repair` that define the candidates, by name.
    """

    table: pd.DataFrame
    verdict: Verdict
    search: EditSearch = field(repr=False)
    selections: Mapping[str, Selection] = field(repr=False)
    evaluation: Evaluation = field(repr=False)
    complete: bool
    inside_mask: float | None = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def selection(self) -> Selection:
        """The selection of the whole procedure, by cross-validation."""
        return self.selections[SELECTED]

    @property
    def edit(self) -> Edit:
        """The selected edit. If no candidate is feasible, it changes nothing."""
        return self.selection.edit

    @property
    def layers(self) -> pd.DataFrame:
        """What an edit with default settings corrects and breaks in each layer, see `Selection.layers`."""
        return self.selection.layers

    @cached_property
    def trade_off(self) -> pd.DataFrame:
        """The candidates that no other one beats, on images used for selection, see `EditSearch.trade_off`."""
        return self.search.trade_off(self.selection.outcomes)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checklist: each check with its status, "pass", "fail" or "not measured", its figure and advice."""
        return self.verdict.checks

    @property
    def label_errors(self) -> pd.DataFrame:
        """Clean and retained images whose labels are likely wrong by their predictions, the clearest case first.

        The columns are `split`, the split that holds the image; `index`, its number there; its `name`, `label` and
        `prediction`; and `probability`, that of the predicted class. Clean images that serve as reference images are
        left out, since the search does not predict them, and so are failing images, whose mispredictions are the rule.

        Raises:
            ModuleNotFoundError: if cleanlab is not installed.
        """
        return pd.DataFrame(self.search.label_errors, columns=[column.name for column in fields(LabelError)])

    def summary(self) -> str:
        """Return the verdict, the selected edit, what other methods give, and the checklist with one check per line."""
        lines = [str(self.verdict)]
        if self.selection.feasible:
            candidates = f"the best of {self.selection.n_candidates:,} candidates"
            lines.append(f"Selected: {describe_selection(self.selection)}; {candidates}.")
            if self.inside_mask is not None:
                exemplar = first_exemplar(self.search, self.selection)
                lines.append(describe_map(self.inside_mask, float(exemplar.mask.mean())))
            lines.append(f"Locality: {self.evaluation.describe_locality()}.")
            lines += describe_alternatives(self.table)
        lines += [str(check) for check in self.checks]
        return "\n".join(lines)

    def report(self, path: str | PathLike, title: str = "", callback: Callable[[int, int], None] | None = None) -> Path:
        """Write a report as one HTML page that can be read offline, and next to it its data as JSON.

        The page has the verdict, images before and after, cost, checks, settings and code; see `report_data` for the
        data. Each file is written in one step.

        Args:
            path: the page, such as "report.html"; the data are then in "report.json".
            title: the heading of the page.
            callback: is called with the number of steps that are done, and that of all steps.

        Returns:
            The path of the page.

        Raises:
            ValueError: if the path ends in ".json".
        """
        paths = report_paths(path)
        report_step = callback or (lambda done, total: None)
        steps = 4
        report_step(0, steps)
        data = self.report_data(title)
        report_step(1, steps)
        _ = self.trade_off  # computed once, and needed by the page
        report_step(2, steps)
        page = self.page(title)
        report_step(3, steps)
        save_report(page, data, paths)
        report_step(4, steps)
        return paths[0]

    def report_data(self, title: str = "") -> dict[str, Any]:
        """Return what the report says for programs: the verdict, checks, methods, settings, versions, fingerprints.

        All values have types of JSON; what was not measured is None.
        """
        data = make_data(
            self.search,
            self.selection,
            self.verdict,
            self.table,
            settings=self.settings,
            fingerprints=self._fingerprints,
            title=title,
        )
        return {**data, "complete": self.complete}

    def page(self, title: str = "") -> Page:
        """Collect the content of the report, with a heading."""
        return make_page(
            self.search,
            self.selection,
            self.verdict,
            self.evaluation,
            self.table,
            [name for name in CONTROLS if name in self.table.index],
            trade_off=self.trade_off,
            fingerprints=self._fingerprints,
            settings=self.settings,
            title=title,
        )

    @cached_property
    def _fingerprints(self) -> Mapping[str, Any]:
        """The fingerprints of the weights, the edit and the image sets."""
        return fingerprints_of(self.search, self.selection)

    def charts_html(self) -> str:
        """Return the charts of the report as a piece of HTML: each layer, and the trade-off.

        The trade-off takes some seconds; it is computed once.
        """
        return charts_html(self.search, self.selection, self.trade_off)


def repair(
    classifier: Classifier,
    exemplars: Exemplars,
    failing: LabelledImages,
    clean: Images,
    retain: Images | Mapping[str, Images] | None = None,
    *,
    layers: Sequence[str] | None = None,
    settings: Sequence[Mapping[str, Any]] = SETTINGS,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    baselines: bool = True,
    finetuning: bool = False,
    callback: Callback | None = None,
    progress: bool = True,
) -> RepairResult:
    """Select an edit that corrects failing images, under constraints on clean and on retained images.

    The candidates are edits of low and of full rank and concept projections, in several layers. A candidate is feasible
    if it corrects more failing images than it breaks, loses at most 0.25 percentage points of accuracy (or one image)
    and, with 95% confidence, breaks at most 3% of the retained images. If fewer than 99 retained images are used for
    selection, they cannot show this, and the candidate must break none. Of the feasible candidates, the one with the
    lowest cross-entropy on the failing images is selected; an edit of a second layer is added if that lowers the
    cross-entropy further.

    Args:
        classifier: the classifier; it is not changed.
        exemplars: one or several. Each is tried alone, but those under one name in a mapping make one edit. Edits do
            not use their labels; the control by local fine-tuning does, and is left out unless each exemplar has one.
        failing: labeled images that show the concept, at least two. At least one of them must be misclassified; the
            others may be correct. If their class names are not those of the classifier, in the same order, labels are
            mapped by class name.
        clean: images whose accuracy must not drop, at least three; without labels, the current predictions serve as
            labels. A quarter of them serve as reference images, half are used for the accuracy constraint, and a
            quarter for evaluation.
        retain: images that rely on the concept legitimately, whose correct predictions must not change; or several such
            sets by name. Without labels, the current predictions serve as labels. Half of each set is used for
            selection, and half for evaluation. In the selection, one constraint applies to all sets together; in the
            verdict, one applies to each set.
        layers: names of the layers to edit; by default all of `candidate_layers`.
        settings: settings of `rewrite` to try.
        strengths: factors α by which edits are scaled.
        baselines: also select the controls: five draws of random directions, local fine-tuning and logit correction.
            They take most of the time, but without them the verdict is at best "unclear".
        finetuning: also fine-tune the later layers on the failing images, with the reference images as clean images,
            and compare. It informs, and does not change the verdict.
        callback: is called before each candidate with the `Progress`. The search ends when the callback returns False,
            or with Ctrl-C.
        progress: show progress bars.

    Returns:
        The result. If the search was ended early, it is the best of what was tried, and `complete` is False.

    Raises:
        KeyError: if the model has no layer of that name.
        RuntimeError: under `torch.inference_mode()`.
        TypeError: if a set of images is of another type.
        ValueError: if images or exemplars do not have the size of the classifier's input, if a label is not one of the
            classifier's classes, if there are fewer than two failing images or three clean images, if no failing image
            is misclassified, if two sets share an image (only x of an exemplar may be a failing image), or if there is
            no candidate.
        KeyboardInterrupt: if the search was ended before the first candidate.

    Warns:
        UserWarning: if a set holds an image more than once (it is used once), and for each of these conditions that
            holds before the search: x is misclassified, x' is predicted as x, the mask does not cover the change,
            fewer than 50 clean images are given, fewer than 6 failing images are misclassified, the clean images are
            correct much less often than other images, or, if cleanlab is installed, labels of clean or retained images
            are likely wrong.
    """
    refuse_inference_mode()
    named = named_exemplars(exemplars, check_classifier(classifier))
    layers = check_layers(classifier, layers)
    splits, retained_sets = _splits(classifier, named, failing, clean, retain)
    one_image = 100 / len(splits.clean)  # points; with few images, one may be lost
    constraints = Constraints(max_accuracy_drop=max(Constraints().max_accuracy_drop, one_image))
    search = EditSearch(classifier, named, splits, layers, constraints, progress)
    warn_about(checks_before_search(search, int(search.activations["target"].before.sum())))
    procedure = _Procedure(search, callback, progress)
    complete = procedure.run(_candidates(search, settings, strengths, baselines), finetuning)
    procedure.keep_selected_layers()
    draws = {name: evaluate(search, draw, retained_sets) for name, draw in procedure.draws.items()}
    if draws:
        best_draw = best_of({name: draw.target for name, draw in draws.items()})
        procedure.selections[RANDOM] = procedure.draws[best_draw]
    selections = {name: procedure.selections[name] for name in NAMES_OF_ROWS if name in procedure.selections}
    selections[SELECTED] = _with_loss(selections[SELECTED], search)
    evaluations = {name: evaluate(search, one, retained_sets) for name, one in selections.items()}
    controls = draws | {name: evaluations[name] for name in CONTROLS if name in evaluations and name != RANDOM}
    selection = selections[SELECTED]
    checks = checklist(search, selection, evaluations[SELECTED], controls, complete)
    verdict = with_limit(verdict_of(checks), search, selection)
    selection = replace(selection, edit=replace(selection.edit, verdict=str(verdict)))
    selections[SELECTED] = selection
    rows = {name: _row(one, evaluations[name]) for name, one in selections.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    inside = share_inside_mask(search, selection) if selection.feasible else None
    tried = {
        "layers": list(search.cuts),
        "settings": [dict(setting) for setting in settings],
        "strengths": tuple(strengths),
        "baselines": baselines,
    }
    return RepairResult(table, verdict, search, selections, evaluations[SELECTED], complete, inside, tried)


# --- the images -------------------------------------------------------------------------------------------------------


def _splits(
    classifier: Classifier,
    exemplars: Mapping[str, Sequence[Exemplar]],
    failing: LabelledImages,
    clean: Images,
    retain: Images | Mapping[str, Images] | None,
) -> tuple[Splits, dict[str, Tensor]]:
    """Label the sets of images, check them, and split them.

    Returns:
        The splits, and by the name of each retained set, which images of the split `retain_test` it has, `(N,)`
        booleans, see `evaluate`.
    """
    retained_sets = retain if isinstance(retain, Mapping) else {RETAINED: retain}
    names = [str(name) for name, images in retained_sets.items() if images is not None]
    titles = {name: "retain" if name == RETAINED else f"retain[{name!r}]" for name in names}
    given = {"failing": failing, "clean": clean}
    given |= {titles[str(name)]: images for name, images in retained_sets.items() if images is not None}
    labeled = _label_sets(given, classifier)
    _check_sets(labeled, [exemplar for group in exemplars.values() for exemplar in group], classifier)
    reference, clean_images, clean_test = split_clean(labeled["clean"])
    selecting, evaluating = _split_retained({name: labeled[titles[name]] for name in names})
    splits = Splits(
        reference=reference.images,
        target=labeled["failing"],
        clean=clean_images,
        retain=_joined(list(selecting.values())),
        clean_test=clean_test,
        retain_test=_joined(list(evaluating.values())),
    )
    return splits, _members_of(names, evaluating)


def _label_sets(given: Mapping[str, Images], classifier: Classifier) -> dict[str, LabelledImages]:
    """Label sets by the classifier's classes, and drop repeated images.

    Labels are mapped by name; sets without labels are labeled by the classifier's predictions. All sets are checked
    before anything is predicted.
    """
    if not isinstance(given["failing"], LabelledImages):
        raise TypeError(
            f"The failing images are a {type(given['failing']).__name__}; pass LabelledImages(images, labels, classes)"
        )
    checked = {name: _checked(name, images, classifier) for name, images in given.items()}
    labeled = {}
    for name, images in checked.items():
        has_labels = isinstance(images, LabelledImages)
        labeled[name] = without_duplicates(name, images if has_labels else label_by_prediction(images, classifier))
    return labeled


def _check_sets(sets: Mapping[str, LabelledImages], exemplars: Sequence[Exemplar], classifier: Classifier) -> None:
    """Check that the sets are large enough, share no image, and that a failing image is misclassified.

    Args:
        sets: "failing", "clean", and the retained sets.
        exemplars: all exemplars; only x of one may be a failing image.
        classifier: the classifier.
    """
    failing = sets["failing"]
    retained = [name for name in sets if name not in ("failing", "clean")]
    for name in retained:
        if not len(sets[name]):
            warnings.warn(f"{name} has no images, so it is not measured; pass images", stacklevel=4)
    if len(failing) < 2:
        raise ValueError(f"{len(failing)} failing images were given; pass at least two, better a dozen")
    if len(sets["clean"]) < 3:
        raise ValueError(f"{len(sets['clean'])} clean images were given; pass at least three, better hundreds")
    if not misclassified(predict(classifier, failing), failing.labels).any():
        raise ValueError(
            f"All {len(failing)} failing images are classified as labeled; pass images that are misclassified"
        )
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    original = torch.stack([exemplar.image for exemplar in exemplars])
    shown = {"exemplars": torch.cat([changed, original]), "x' of the exemplars": changed}
    pairs = [("clean", "exemplars"), ("failing", "clean"), ("failing", "x' of the exemplars")]
    for name in retained:
        pairs += [(name, other) for other in ("failing", "exemplars", "clean")]
    pairs += combinations(retained, 2)
    check_disjoint({**sets, **shown}, pairs)


def _members_of(names: Sequence[str], evaluating: Mapping[str, LabelledImages]) -> dict[str, Tensor]:
    """Tell which images of the joined sets `evaluating` belong to each retained set, `(N,)` booleans by name."""
    members = {}
    for name in names:
        of_each = [torch.full((len(images),), other == name) for other, images in evaluating.items()]
        members[name] = torch.cat(of_each) if of_each else torch.zeros(0, dtype=torch.bool)
    return members


def _split_retained(
    retained: Mapping[str, LabelledImages],
) -> tuple[dict[str, LabelledImages], dict[str, LabelledImages]]:
    """Split each retained set into halves for selection and for evaluation; a single image is used for selection."""
    selecting = {}
    evaluating = {}
    for name, images in retained.items():
        if len(images) > 1:
            selecting[name], evaluating[name] = images.split(0.5)
        elif len(images):
            selecting[name] = images
    return selecting, evaluating


def _joined(sets: Sequence[LabelledImages]) -> LabelledImages | None:
    """Join sets of images that have the same classes; None if there are none."""
    if len(sets) < 2:
        return sets[0] if sets else None
    labels = torch.cat([images.labels for images in sets])
    names = tuple(name for images in sets for name in images.names) if all(images.names for images in sets) else ()
    return LabelledImages(torch.cat([images.images[:] for images in sets]), labels, sets[0].classes, names)


def _checked(name: str, images: Images, classifier: Classifier) -> Images:
    """Return a set if its images have the size of the classifier's input; if it has labels, map them by name."""
    if not isinstance(images, Images):
        raise TypeError(
            f"The {name} images are a {type(images).__name__}; pass a tensor (N, 3, H, W), LazyImages or LabelledImages"
        )
    check_size(name, images, classifier)
    return remap_labels(name, images, classifier) if isinstance(images, LabelledImages) else images


# --- the search -------------------------------------------------------------------------------------------------------


def _candidates(
    search: EditSearch, settings: Sequence[Mapping[str, Any]], strengths: Sequence[float], baselines: bool
) -> dict[str, Candidates]:
    """List the candidates of each method, those to select from first, then the controls."""
    candidates = {
        EDIT: search.candidates("rewrite", settings, strengths),
        "projection": search.candidates("projection"),
    }
    if baselines:
        for seed in range(DRAWS):
            seeded = [{**setting, "seed": seed} for setting in settings]
            candidates[_draw(seed)] = search.candidates("random_direction", seeded, strengths)
        if all(exemplar.label is not None for group in search.exemplars.values() for exemplar in group):
            candidates["local fine-tuning"] = search.candidates("finetune", FINETUNING, strengths)
        candidates["logit correction"] = search.candidates("logit_correction")
    return candidates


def _draw(seed: int) -> str:
    """Name a draw of random directions."""
    return f"{RANDOM} {seed + 1}"


class _Procedure:
    """The selection of a method, a candidate and a second layer: on all failing images, and without each fold."""

    def __init__(self, search: EditSearch, callback: Callback | None, progress: bool) -> None:
        self.search = search
        self.callback = callback
        self.progress = progress
        self.target = search.activations["target"]
        self.folds = stratified_folds(self.target.labels)
        self.scored: dict[str, Scored] = {}
        self.selections: dict[str, Selection] = {}
        self.draws: dict[str, Selection] = {}
        self._best: Outcome | None = None
        self._tried = 0
        self._planned: dict[str, int] = {}
        self._sums: dict[tuple[Edit, Edit, float], Outcome] = {}

    def run(self, candidates: Mapping[str, Candidates], finetuning: bool) -> bool:
        """Score the candidates of all methods, and select; return False if the search was ended early.

        Args:
            candidates: the candidates by method.
            finetuning: also select among fine-tunings on the failing images.

        Raises:
            ValueError: if there is no candidate.
            KeyboardInterrupt: if the search was ended before the first candidate.
        """
        self._planned = {name: of_method.expected_count for name, of_method in candidates.items()}
        if len(self.search.cuts) > 1:
            self._planned[SECOND_LAYER] = ON_TOP * (len(self.folds.unique()) + 1)
        try:
            for name in METHODS:
                self._score(name, candidates[name])
            self._keep_scored_layers()
            self.selections[SELECTED] = self._select_of_all(with_second_layer=True)
            self._select_methods()
            for name in candidates:
                if name not in METHODS:
                    self._score(name, candidates[name])
                    self._select_control(name)
            if finetuning:
                self.selections[ON_FAILING] = self._finetune_on_failing()
        except (KeyboardInterrupt, _Stopped) as interrupt:
            if EDIT not in self.scored or not len(self.search.finalists(self.scored[EDIT])):
                raise KeyboardInterrupt from interrupt
            if SELECTED not in self.selections:
                self.selections[SELECTED] = self._select_of_all(with_second_layer=False)
            if EDIT not in self.selections:
                self.selections[EDIT] = self._cross_validated(self.scored[EDIT])
            return False
        return True

    def keep_selected_layers(self) -> None:
        """Keep the states at the layers of the selected edits in memory, since these are evaluated next."""
        selected = [*self.selections.values(), *self.draws.values()]
        self.search.keep_states({layer for selection in selected for layer in selection.edit.layers})

    def _keep_scored_layers(self) -> None:
        """Keep the states at the layers of all candidates so far in memory, since these are selected from next."""
        candidates = [one for scored in self.scored.values() for one in scored.outcomes.candidates]
        self.search.keep_states({candidate.params["layer"] for candidate in candidates})

    def _select_methods(self) -> None:
        """Select among the candidates of each method alone."""
        for name in METHODS:
            if name == EDIT or len(self.scored[name].outcomes):
                self.selections[name] = self._cross_validated(self.scored[name])

    def _select_control(self, name: str) -> None:
        """Select among the candidates of a control, if it has any."""
        if not len(self.scored[name].outcomes):
            return
        selections = self.draws if name.startswith(RANDOM) else self.selections
        selections[name] = self._cross_validated(self.scored[name])

    def _cross_validated(self, scored: Scored) -> Selection:
        """Select among the candidates of a method, on all failing images and without each fold."""

        def select(images: Tensor | slice) -> Selection:
            return self.search.select_on(scored, images)

        return cross_validate(select, self.target.before, self.folds)

    def _score(self, method: str, candidates: Candidates) -> None:
        """Score the candidates of a method in one or two passes, until the callback ends the search."""
        already_tried = self._tried
        first = self.search.first_pass(candidates, partial(self._tell, f"{method}, every layer"))
        if first is not None:
            first = replace(first, candidates=[_with_method(method, candidate) for candidate in first.candidates])
        outcomes: list[Outcome] = []
        tell = partial(self._tell, method)
        try:
            candidates = self.search.second_pass(candidates, first, self.folds)
            self._planned[method] = self._tried - already_tried + len(candidates)
            for outcome in score_each(candidates, self.target, method if self.progress else "", tell):
                outcomes.append(outcome._replace(candidate=_with_method(method, outcome.candidate)))
                if method in METHODS:
                    self._remember(outcome)
        finally:
            self.scored[method] = Scored(Outcomes.of(outcomes, self.target.before), first)

    def _remember(self, outcome: Outcome) -> None:
        """Remember an outcome if it is the best so far: that of the lowest loss with a net gain."""
        is_better = int(outcome.wrong.sum()) < int(self.target.before.sum())
        if is_better and (self._best is None or outcome.losses.mean() < self._best.losses.mean()):
            self._best = outcome

    def _tell(self, method: str, done: int, total: int | None) -> None:
        """Call the callback."""
        self._tried += 1
        if self.callback is None:
            return
        share = min((self._tried - 1) / max(sum(self._planned.values()), 1), 1.0)
        counts = ()
        if self._best is not None:
            before = self.target.before
            wrong = self._best.wrong
            counts = (int((before & ~wrong).sum()), int((~before & wrong).sum()))
        if self.callback(Progress(method, done, total, share, *counts)) is False:
            raise _Stopped

    def _select_of_all(self, with_second_layer: bool) -> Selection:
        """Select among the candidates of all methods, and a second layer on top, by cross-validation."""
        started = time.perf_counter()
        edits, *others = (self.scored[name] for name in METHODS if name in self.scored)

        def select(images: Tensor | slice) -> Selection:
            outcomes = self.search.finalists(edits, images)
            for scored in others:
                if len(scored.outcomes):
                    outcomes = outcomes.joined(self.search.finalists(scored, images))
            selection = self.search.select_on(outcomes, images)
            if with_second_layer and selection.feasible:
                selection = self._add_layer(selection, outcomes, images)
            return self.search.with_first_pass(selection, edits.first, images)

        selection = cross_validate(select, self.target.before, self.folds)
        return replace(selection, seconds=time.perf_counter() - started)

    def _finetune_on_failing(self) -> Selection:
        """Fine-tune the later layers on the failing images, on all of them and without each fold, and select."""
        data = self.search.splits.target

        def select(images: Tensor | slice) -> Selection:
            shown = data.subset(torch.arange(len(data))[images])
            tuned = finetunings(self.search, shown, FINETUNING_ON_FAILING)
            tell = partial(self._tell, ON_FAILING)
            scored = Outcomes.of(score_each(tuned, self.target, callback=tell), self.target.before)
            return self.search.select_on(scored, images)

        return cross_validate(select, self.target.before, self.folds)

    def _add_layer(self, first: Selection, outcomes: Outcomes, images: Tensor | slice) -> Selection:
        """Add a candidate of another layer to the selected one, if that lowers the loss within the constraints."""
        counted = outcomes.on_images(images)
        others = []
        for index in counted.by_loss:
            candidate = counted.candidates[index]
            if counted.net[index] > 0 and candidate.params["layer"] not in first.edit.layers:
                others.append(candidate)
        sums = []
        for done, other in enumerate(others[:ON_TOP]):
            self._tell(SECOND_LAYER, done, len(others[:ON_TOP]))
            sums.append(self._sum(first, other))
        return self.search.select_on(outcomes.joined(Outcomes.of(sums, self.target.before)), images)

    def _sum(self, first: Selection, other: Candidate) -> Outcome:
        """Score the sum of the selected edit and another candidate; each pair is scored once."""
        pair = (first.edit, other.edit, other.strength)
        if pair not in self._sums:
            params = dict(first.params) | {f"{SECOND}{name}": value for name, value in other.params.items()}
            both = first.edit + other.scaled  # in this order, so that the edit map is of the first one's layer
            [self._sums[pair]] = score_each([Candidate(params, both)], self.target)
        return self._sums[pair]


def _with_method(method: str, candidate: Candidate) -> Candidate:
    """Add the name of the method to the parameters of a candidate."""
    return replace(candidate, params={"method": method, **candidate.params})


def finetunings(
    search: EditSearch, images: LabelledImages, settings: Sequence[Mapping[str, Any]]
) -> Iterator[Candidate]:
    """Fine-tune the last quarter of a search's layers, and all that follows, on labeled images.

    Args:
        search: the search; its reference images serve a penalty on changed predictions.
        images: labeled images.
        settings: settings of `finetune`, one candidate each.
    """
    layers = list(search.cuts)
    layer = layers[3 * len(layers) // 4]
    labels = remap_labels("images to fine-tune on", images, search.classifier).labels.tolist()
    pixels = pixels_of(images)[:]
    whole = torch.ones(pixels.shape[2:])
    shown = [Exemplar(image, image, whole, label) for image, label in zip(pixels, labels, strict=True)]
    site = site_at(search.cuts[layer], shown, search.activations.reference[layer])
    for setting in settings:
        [edit] = finetune(site, **setting)
        yield Candidate({"layer": layer, **setting}, edit)


def _with_loss(selection: Selection, search: EditSearch) -> Selection:
    """Measure the loss at the exemplar that a scaled edit of one layer leaves, and write it into the edit's record."""
    edit = selection.edit
    if not selection.feasible or edit.record is None or edit.record.loss_after is not None:
        return selection
    if edit.record.objective not in OBJECTIVES:
        return selection
    layer = selection.params["layer"]
    site = search.site(layer, search.exemplars[selection.params["exemplar"]])
    problem = pose(site, None, bool(selection.params.get("masked", True)))
    _, left = losses(problem, edit.record.objective, edit.changes[f"{layer}.weight"].delta())
    return replace(selection, edit=replace(edit, record=replace(edit.record, loss_after=left)))


def _row(selection: Selection, evaluation: Evaluation) -> dict[str, Any]:
    """Return the row of the table: the effect of a method's edit on images that were not used to select it."""
    layers = [selection.params.get(name, "") for name in ("layer", f"{SECOND}layer")]
    selected = {"candidates": selection.n_candidates, "layer": " + ".join(layer for layer in layers if layer)}
    return {**evaluation.row(), **selected}
