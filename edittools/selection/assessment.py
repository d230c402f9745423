"""The assessment of a search: what the selected edit does on other images, next to alternatives, and a verdict.

    assessment = Assessment(search, search.cross_validated(outcomes))
    print(assessment.summary())

Table, verdict, summary, report, and data are derived from the selection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from edittools._progress import Progress, bar_of
from edittools.edits import Edit
from edittools.methods import RANDOM
from edittools.metrics import Comparison
from edittools.reports import Page, report_paths, save_report
from edittools.rewriting import OBJECTIVES, losses, pose
from edittools.selection.checks import (
    checks_before_search,
    completeness_check,
    cost_checks,
    feasibility_check,
    fit_check,
    help_checks,
    instead_checks,
    limiting_constraint,
    reliability_check,
    used_exemplars,
)
from edittools.selection.evaluation import Evaluation, random_directions
from edittools.selection.finetuning import Finetuned, judged_images
from edittools.selection.page import (
    describe_map,
    describe_selection,
    fingerprints_of,
    first_exemplar,
    layers_html,
    make_data,
    make_page,
    share_inside_mask,
)
from edittools.selection.search import SECOND_LAYER, Search, Selection
from edittools.selection.verdict import INSTEAD, Check, Verdict, verdict_of

SELECTED = "selected"
"""The name of the row of the selected edit in the table of an assessment."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """The assessment of an edit that was selected in a search.

    The edit is evaluated on the splits for evaluation. Without a split `target_test`, it is evaluated on the images for
    selection by cross-validation, see `Search.cross_validated`.

    Args:
        search: the search.
        selection: the selection in this search.
        finetuned: networks that were fine-tuned on the images of the search, by name; the first one is the rival that
            the edit is tested against.
        others: what other alternatives do, by name, see `Evaluation`; they inform.
        not_compared: which fine-tuning was not compared, and why, as a clause; may be empty.
        own_checks: checks that come before all others.

    Raises:
        TypeError: if the selection is none.
    """

    search: Search = field(repr=False)
    selection: Selection
    finetuned: Mapping[str, Finetuned] = field(default_factory=dict, repr=False)
    others: Mapping[str, Evaluation] = field(default_factory=dict, repr=False)
    not_compared: str = field(default="", repr=False)
    own_checks: tuple[Check, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.selection, Selection):
            raise TypeError(
                f"selection is of type {type(self.selection).__name__}; pass what search.select or "
                "search.cross_validated returns"
            )
        object.__setattr__(self, "selection", _with_loss(self.selection, self.search))

    def __repr__(self) -> str:
        return f"Assessment({self.verdict.word!r}: {self.selection})"

    def with_check(self, check: Check) -> "Assessment":
        """Return this assessment with one more check, which comes before all others."""
        return replace(self, own_checks=(check, *self.own_checks))

    # --- what was selected --------------------------------------------------------------------------------------------

    @cached_property
    def edit(self) -> Edit:
        """The selected edit, which holds the verdict. If no candidate is feasible, it changes nothing."""
        return replace(self.selection.edit, verdict=str(self.verdict))

    @property
    def alternatives(self) -> dict[str, Edit]:
        """The fine-tuned networks as edits of all weights, by name; those without a feasible candidate are left out."""
        return {name: network.edit for name, network in self.finetuned.items() if network.edit is not None}

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
    def evaluation(self) -> Evaluation:
        """What the selected edit does to images that were not used to select it."""
        self.search.keep_states(self.selection.edit.layers)
        return Evaluation.of(self.search, self.selection)

    @cached_property
    def random_directions(self) -> list[Comparison]:
        """What draws of random directions do to the same images with the concept, see `random_directions`."""
        return random_directions(self.search, self.selection)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per method: the selected edit, random directions, fine-tuned networks, and other alternatives.

        "random direction" is the mean of the draws. Where they were measured, the columns are
        `errors`, `corrected`, `broken`: numbers of misclassified images with the concept before the edit, and of images
        that it corrects and breaks, each evaluated with an edit that was selected without it;
        `share`, `low`, `high`: share of these errors that is corrected, net, with its 95% interval;
        `accuracy change`, `accuracy low`, `accuracy high`: change of accuracy on held-out clean images, in points, with
        its 95% interval;
        `retained`, `retained broken`: number of held-out retained images that were classified correctly, and of those
        that are broken;
        `candidates`, `layer`: number of candidates, and the layer or layers that were selected.
        Fine-tuned networks are evaluated on a third of the images, which did not train them.
        """
        params = self.selection.params
        layers = [params.get(key, "") for key in ("layer", f"{SECOND_LAYER}layer")]
        chosen = {"candidates": self.selection.n_candidates, "layer": " + ".join(layer for layer in layers if layer)}
        rows: dict[str, dict[str, Any]] = {SELECTED: {**self.evaluation.row(), **chosen}}
        draws = self.random_directions
        if draws:
            corrected = sum(draw.corrected for draw in draws) / len(draws)
            broken = sum(draw.broken for draw in draws) / len(draws)
            errors = int(draws[0].before.sum())
            share = (corrected - broken) / errors if errors else float("nan")
            rows[RANDOM] = {"errors": errors, "corrected": corrected, "broken": broken, "share": share}
        for name, network in self.finetuned.items():
            rows[name] = {**network.evaluation.row(), "candidates": network.candidates}
        for name, other in self.others.items():
            rows[name] = other.row()
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    # --- the verdict --------------------------------------------------------------------------------------------------

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The checklist: each check with its status, "pass", "fail" or "not measured", its figure and advice."""
        search = self.search
        selection = self.selection
        used = used_exemplars(search, selection)
        checks = [*self.own_checks, *checks_before_search(search, used)]
        checks.append(completeness_check(selection.n_candidates, self.complete))
        checks.append(feasibility_check(search, selection))
        found = self.evaluation
        without_concept = search.without_concept
        same_images = found.on(search, judged_images(search)) if self.finetuned else None
        instead = instead_checks(same_images, self.finetuned, self.others, without_concept, self.not_compared)
        if not selection.feasible:
            return (*checks, *instead)
        is_reliable = ~search.exemplar_activations.compare(selection.edit).after[used]
        checks.append(fit_check(selection.edit))
        checks.append(reliability_check(int(is_reliable.sum()), len(used)))
        checks += help_checks(found, self.random_directions, search.splits.source)
        checks += cost_checks(found, without_concept)
        return (*checks, *instead)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether to use the edit ("use", "unclear" or "do not use"), why, and what to do next.

        The advice begins with the constraint that limits the edit, if one does and everything was tried.
        """
        verdict = verdict_of(self.checks)
        if not self.complete or not self.selection.feasible:  # a check names the constraint of the latter
            return verdict
        limit = limiting_constraint(self.search, self.selection)
        return replace(verdict, advice=f"{limit} {verdict.advice}".strip()) if limit else verdict

    def summary(self) -> str:
        """Return the verdict, what helps, what it costs, and what else could be done; then the edit, and the checks."""
        lines = [str(self.verdict)]
        told = self.verdict.lines if self.selection.feasible else {INSTEAD: self.verdict.lines[INSTEAD]}
        lines += [f"{name}: {text}." for name, text in told.items()]
        if self.selection.feasible:
            candidates = f"the best of {self.selection.n_candidates:,} candidates"
            lines.append(f"Selected: {describe_selection(self.selection)}; {candidates}.")
            if self.inside_mask is not None:
                exemplar = first_exemplar(self.search, self.selection)
                lines.append(describe_map(self.inside_mask, float(exemplar.mask.mean())))
        lines += [str(check) for check in self.checks if not check.line]
        return "\n".join(lines)

    # --- the report ---------------------------------------------------------------------------------------------------

    def report(self, path: str | PathLike, progress: Progress | None = None) -> Path:
        """Write a report as one HTML page that can be read offline, and next to it its data as JSON.

        The page has the verdict, images before and after, cost, checks, settings and code; see `report_data` for the
        data. Each file is written in one step.

        Args:
            path: the page, such as "report.html"; the data are then in "report.json".
            progress: a class like `tqdm.tqdm`, for a bar.

        Returns:
            The path of the page.

        Raises:
            ValueError: if the path ends in ".json".
        """
        paths = report_paths(path)
        with bar_of(progress, total=4, desc="report", unit="step") as bar:
            data = self.report_data()
            bar.update()
            _ = self.trade_off  # computed once, and needed by the page
            bar.update()
            content = self.page()
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

    def layers_html(self) -> str:
        """Return the report's chart of the layers as a piece of HTML."""
        return layers_html(self.selection)


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
