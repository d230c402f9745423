"""The assessment of a search: what the selected edit does on other images, next to other methods, and a verdict.

    assessment = Assessment(search, {"selected": best, **draws})
    print(assessment.summary())

Table, verdict, summary, report, and data are derived from the selections.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from edittools._progress import Progress, bar_of
from edittools.edits import Edit
from edittools.methods import ALTERNATIVE, CONTROL, RANDOM
from edittools.metrics import Comparison, wilson
from edittools.reports import Page, report_paths, save_report
from edittools.rewriting import OBJECTIVES, losses, pose
from edittools.selection.checks import (
    best_of,
    checks_before_search,
    completeness_check,
    evaluation_checks,
    feasibility_check,
    fit_check,
    reliability_check,
    used_exemplars,
)
from edittools.selection.page import (
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
from edittools.selection.search import SECOND_LAYER, Search, Selection
from edittools.selection.splits import RETAINED
from edittools.selection.verdict import Check, Verdict, verdict_of

CLEAR_GAIN = 6
"""A constraint limits an edit if at least this many more images are corrected without it, and twice as many."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an edit does to images that were not used to select it.

    Attributes:
        target: comparison of the images with the concept; None if none was held out.
        clean: comparison of the clean images; None if there are none.
        retained: comparison of each retained set, by name; None where the set is too small to hold some out.
    """

    target: Comparison | None
    clean: Comparison | None
    retained: Mapping[str, Comparison | None] = field(default_factory=dict)

    @classmethod
    def of(cls, search: Search, selection: Selection) -> "Evaluation":
        """Measure a selected edit on images that were not used to select it.

        Those with the concept are the split `target_test`; without one, the target images by cross-validation, each
        with the edit that was selected without it.

        Args:
            search: the search.
            selection: the selection.
        """
        activations = search.activations
        splits = search.splits
        target = selection.held_out
        if "target_test" in activations:
            target = activations["target_test"].compare(selection.edit)
        clean = activations["clean_test"].compare(selection.edit) if "clean_test" in activations else None
        retained: dict[str, Comparison | None] = {}
        if "retain_test" in activations:
            whole = activations["retain_test"].compare(selection.edit)
            sets = splits.retain_test_sets or {RETAINED: torch.ones(len(whole.before), dtype=torch.bool)}
            for name, is_member in sets.items():
                member = Comparison(whole.before[is_member], whole.after[is_member])
                retained[name] = member if is_member.any() else None
        elif splits.retain_test_sets or splits.retain is not None:
            retained = dict.fromkeys(splits.retain_test_sets or {RETAINED: None})
        return cls(target, clean, retained)

    @property
    def all_retained(self) -> Comparison | None:
        """The comparison of all retained images; None if there are none."""
        measured = [comparison for comparison in self.retained.values() if comparison is not None]
        if not measured:
            return None
        before = torch.cat([comparison.before for comparison in measured])
        return Comparison(before, torch.cat([comparison.after for comparison in measured]))

    @property
    def locality(self) -> tuple[int, int]:
        """The number of clean and retained images that were correct and still are, and of those that were correct."""
        comparisons = [comparison for comparison in (self.clean, self.all_retained) if comparison is not None]
        correct = sum(int((~comparison.before).sum()) for comparison in comparisons)
        return correct - sum(comparison.broken for comparison in comparisons), correct

    def describe_locality(self) -> str:
        """Say how many correct images stay correct, with the interval of their share."""
        kept, correct = self.locality
        if not correct:
            return "not measured"
        low, high = wilson(kept, correct)
        share = f"{kept / correct:.1%} [{low:.1%}, {high:.1%}]"
        return f"{kept:,} of {correct:,} correct clean and retained images stay correct ({share})"

    def row(self) -> dict[str, Any]:
        """Tabulate the evaluation, as in `Assessment.table`."""
        row: dict[str, Any] = {}
        if self.target is not None:
            figures = self.target.row()
            low, high = self.target.corrected_interval()
            row["failing"] = figures["errors before"]
            row["corrected"] = self.target.corrected
            row["broken"] = self.target.broken
            row["share"] = figures["errors corrected"]
            row["low"] = low
            row["high"] = high
            row["p"] = figures["p"]
        if self.clean is not None:
            low, high = self.clean.accuracy_interval()
            row["accuracy change"] = self.clean.accuracy_change
            row["accuracy low"] = low
            row["accuracy high"] = high
        retained = self.all_retained
        if retained is not None:
            row["retained"] = int((~retained.before).sum())
            row["retained broken"] = retained.broken
        return row


@dataclass(frozen=True, eq=False)
class Assessment:
    """The assessment of an edit that was selected in a search.

    The edit is evaluated on the splits for evaluation. Without a split `target_test`, it is evaluated on the target
    images by cross-validation, see `Search.cross_validated`.

    Args:
        search: the search.
        selections: the selections in this search, by the name of the row; the first one is assessed. Those of methods
            that the search knows by this name are compared with it: draws of random directions, which the edit has to
            surpass ("use" needs five), and alternatives, which must not be significantly better.
        own_checks: checks that come before all others.

    Raises:
        TypeError: if the selections are not a mapping of names to selections.
        ValueError: if there are none.
    """

    search: Search = field(repr=False)
    selections: Mapping[str, Selection] = field(repr=False)
    own_checks: tuple[Check, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.selections, Mapping):
            raise TypeError(f"selections is of type {type(self.selections).__name__}; pass {{'selected': selection}}")
        if not self.selections:
            raise ValueError("selections is empty; pass at least {'selected': selection}")
        for name, selection in self.selections.items():
            if not isinstance(selection, Selection):
                raise TypeError(
                    f"selections[{name!r}] is of type {type(selection).__name__}; pass what search.select returns"
                )

    def __repr__(self) -> str:
        return f"Assessment({self.verdict.word!r}: {self.selection})"

    def with_check(self, check: Check) -> "Assessment":
        """Return this assessment with one more check, which comes before all others."""
        return replace(self, own_checks=(check, *self.own_checks))

    # --- what was selected --------------------------------------------------------------------------------------------

    @cached_property
    def selection(self) -> Selection:
        """The selection that is assessed; the record of its edit has the loss at the exemplar."""
        return _with_loss(next(iter(self.selections.values())), self.search)

    @cached_property
    def edit(self) -> Edit:
        """The selected edit, which holds the verdict. If no candidate is feasible, it changes nothing."""
        return replace(self.selection.edit, verdict=str(self.verdict))

    @property
    def complete(self) -> bool:
        """Whether everything was tried; False if the search was ended early."""
        return not self.search.is_ended

    @property
    def layers(self) -> pd.DataFrame:
        """What an edit with default settings corrects and breaks in each layer, see `Selection.layers`."""
        return self.selection.layers

    @cached_property
    def trade_off(self) -> pd.DataFrame:
        """The candidates that no other one beats, on images used for selection, see `Search.trade_off`."""
        return self.search.trade_off(self.selection.outcomes)

    @cached_property
    def inside_mask(self) -> float | None:
        """The share of the edit map of x' that lies inside the mask; None if no candidate is feasible."""
        return share_inside_mask(self.search, self.selection) if self.selection.feasible else None

    # --- what it does -------------------------------------------------------------------------------------------------

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """What each selected edit does to images that were not used to select it, by the name of the selection."""
        selected = [self.selection, *list(self.selections.values())[1:]]
        self.search.keep_states({layer for selection in selected for layer in selection.edit.layers})
        named = zip(self.selections, selected, strict=True)
        return {name: Evaluation.of(self.search, selection) for name, selection in named}

    @property
    def evaluation(self) -> Evaluation:
        """What the selected edit does to images that were not used to select it."""
        return next(iter(self.evaluations.values()))

    def compared(self, role: str) -> dict[str, Comparison | None]:
        """Return the comparisons of the images with the concept of the methods with a role, by name."""
        methods = self.search.methods
        names = [name for name in list(self.selections)[1:] if name in methods and methods[name].role == role]
        return {name: self.evaluations[name].target for name in names}

    @cached_property
    def rows(self) -> dict[str, str]:
        """The rows of the table, by name, and the selection that each shows: of all draws, the best one."""
        draws = self.compared(CONTROL)
        measured = {name: draw for name, draw in draws.items() if draw is not None}
        rows = {}
        for name in self.selections:
            if name not in draws:
                rows[name] = name
            elif measured:
                rows[RANDOM] = best_of(measured)
        return rows

    @property
    def compared_rows(self) -> list[str]:
        """The names of the rows of methods that the edit is compared with: random directions and alternatives."""
        others = {**self.compared(CONTROL), **self.compared(ALTERNATIVE)}
        return [name for name, shown in self.rows.items() if shown in others]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per method.

        The first row is the edit that is assessed. "random direction" is the best of all draws. Where they were
        measured, the columns are
        `failing`, `corrected`, `broken`: numbers of misclassified images with the concept before the edit, and of
        images that it corrects and breaks, each evaluated with an edit that was selected without it;
        `share`, `low`, `high`, `p`: share of these errors that is corrected, net, with its 95% interval, and the
        p-value of the exact McNemar test;
        `accuracy change`, `accuracy low`, `accuracy high`: change of accuracy on the clean images that were not used
        for selection, in points, with its 95% interval;
        `retained`, `retained broken`: number of the retained images that were not used for selection and were
        classified correctly, and of those that the edit breaks;
        `candidates`, `layer`: number of candidates, and the layer or layers that were selected.
        """
        rows = {}
        for name, shown in self.rows.items():
            selection = self.selections[shown]
            layers = [selection.params.get(key, "") for key in ("layer", f"{SECOND_LAYER}layer")]
            selected = {"candidates": selection.n_candidates, "layer": " + ".join(layer for layer in layers if layer)}
            rows[name] = {**self.evaluations[shown].row(), **selected}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    # --- the verdict --------------------------------------------------------------------------------------------------

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The checklist: each check with its status, "pass", "fail" or "not measured", its figure and advice."""
        search = self.search
        selection = self.selection
        evaluation = self.evaluation
        used = used_exemplars(search, selection)
        errors = None if evaluation.target is None else int(evaluation.target.before.sum())
        checks = [*self.own_checks, *checks_before_search(search, errors, used)]
        checks.append(completeness_check(selection.n_candidates, self.complete))
        checks.append(feasibility_check(search, selection))
        if not selection.feasible:
            return tuple(checks)
        is_reliable = ~search.exemplar_activations.compare(selection.edit).after[used]
        checks.append(fit_check(selection.edit))
        checks.append(reliability_check(int(is_reliable.sum()), len(used)))
        checks += evaluation_checks(
            evaluation.target,
            evaluation.clean,
            evaluation.retained,
            self.compared(CONTROL),
            self.compared(ALTERNATIVE),
            search.constraints,
        )
        return tuple(checks)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether to use the edit ("use", "unclear" or "do not use"), why, and what to do next.

        The advice begins with the constraint that limits the edit, if one does.
        """
        verdict = verdict_of(self.checks)
        limit = limiting_constraint(self.search, self.selection)
        return replace(verdict, advice=f"{limit} {verdict.advice}".strip()) if limit else verdict

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

    # --- the report ---------------------------------------------------------------------------------------------------

    def report(self, path: str | PathLike, title: str = "", progress: Progress | None = None) -> Path:
        """Write a report as one HTML page that can be read offline, and next to it its data as JSON.

        The page has the verdict, images before and after, cost, checks, settings and code; see `report_data` for the
        data. Each file is written in one step.

        Args:
            path: the page, such as "report.html"; the data are then in "report.json".
            title: the heading of the page.
            progress: a class like `tqdm.tqdm`, for a bar.

        Returns:
            The path of the page.

        Raises:
            ValueError: if the path ends in ".json".
        """
        paths = report_paths(path)
        with bar_of(progress, total=4, desc="report", unit="step") as bar:
            data = self.report_data(title)
            bar.update()
            _ = self.trade_off  # computed once, and needed by the page
            bar.update()
            content = self.page(title)
            bar.update()
            save_report(content, data, paths)
            bar.update()
        return paths[0]

    def report_data(self, title: str = "") -> dict[str, Any]:
        """Return what the report says for programs: the verdict, checks, methods, settings, versions, fingerprints.

        All values have types of JSON; what was not measured is None.
        """
        return make_data(self, title)

    def page(self, title: str = "") -> Page:
        """Collect the content of the report, with a heading."""
        return make_page(self, title)

    @cached_property
    def fingerprints(self) -> Mapping[str, Any]:
        """The fingerprints of the weights, the edit and the image sets."""
        return fingerprints_of(self.search, self.selection)

    def charts_html(self) -> str:
        """Return the charts of the report as a piece of HTML: each layer, and the trade-off.

        The trade-off takes some seconds; it is computed once.
        """
        return charts_html(self)


def limiting_constraint(search: Search, selection: Selection) -> str:
    """Say which constraint decides how many images an edit corrects.

    It is one without which at least twice as many images are corrected, and at least `CLEAR_GAIN` more. Everything is
    measured on images that were used for selection.

    Args:
        search: the search.
        selection: the selection in this search.

    Returns:
        What a candidate corrects and costs without that constraint, and what to do; empty if there is no such one.
    """
    corrected = int(selection.scores["corrected"])
    enough = max(2 * corrected, corrected + CLEAR_GAIN)
    outcomes = selection.outcomes
    if not len(outcomes) or int(outcomes.corrected.max()) < enough:
        return ""
    errors = int(outcomes.before.sum())
    without_retained = replace(search.constraints, max_retain_broken=100.0)
    without_accuracy = replace(search.constraints, max_accuracy_drop=100.0)
    found = search.select(outcomes, constraints=without_retained)
    if found.scores["corrected"] >= enough and found.retain is not None:
        correct = int((~found.retain.before).sum())
        return (
            "On images used for selection, the retained images decide: without them, a candidate corrects "
            f"{found.scores['corrected']} of {errors} and breaks {found.retain.broken} of {correct}. If these images "
            "rely on the same rule, pass others that should keep their predictions."
        )
    found = search.select(outcomes, constraints=without_accuracy)
    if found.scores["corrected"] >= enough:
        return (
            "On images used for selection, the accuracy on clean images decides: without that constraint, a candidate "
            f"corrects {found.scores['corrected']} of {errors} and changes the accuracy on {len(found.clean.before):,} "
            f"clean images by {found.accuracy_change:+.2f} points. If some of these show the concept, or are labeled "
            "wrongly, leave them out."
        )
    return ""


def _with_loss(selection: Selection, search: Search) -> Selection:
    """Measure the loss at the exemplar that a scaled edit of one layer leaves, and write it into the edit's record."""
    edit = selection.edit
    if not selection.feasible or edit.record is None or edit.record.loss_after is not None:
        return selection
    exemplar = selection.params.get("exemplar")
    if edit.record.objective not in OBJECTIVES or exemplar not in search.exemplars:
        return selection
    layer = selection.params["layer"]
    site = search.site(layer, search.exemplars[exemplar])
    problem = pose(site, None, bool(selection.params.get("masked", True)))
    _, left = losses(problem, edit.record.objective, edit.changes[f"{layer}.weight"].delta())
    return replace(selection, edit=replace(edit, record=replace(edit.record, loss_after=left)))
