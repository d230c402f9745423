"""What is known about a selected edit: its effect on images that did not select it, a checklist, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from edittools.images import LabelledImages
from edittools.metrics import Comparison, wilson
from edittools.selection.diagnosis import (
    ExemplarDiagnosis,
    diagnose_exemplars,
    exemplar_conditions,
    image_conditions,
)
from edittools.selection.evaluation import CachedActivations, Constraints
from edittools.selection.search import EditSearch, Selection
from edittools.selection.verdict import (
    RETAINED,
    SIGNIFICANCE,
    Condition,
    Evidence,
    Verdict,
    condition,
    judge,
)

FITTED = 0.5
"""An edit fits the exemplar if at most this share of the loss there is left."""


@dataclass(frozen=True, eq=False)
class Effect:
    """What an edit does to images that were not used to select it.

    Attributes:
        target: comparison of the images with the concept; None if none was held out.
        clean: comparison of the clean images; None if there are none.
        retained: comparison of each retained set, by name; None where the set is too small to hold some out.
    """

    target: Comparison | None
    clean: Comparison | None
    retained: Mapping[str, Comparison | None] = field(default_factory=dict)

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
        comparisons = [one for one in (self.clean, self.all_retained) if one is not None]
        correct = sum(int((~one.before).sum()) for one in comparisons)
        return correct - sum(one.broken for one in comparisons), correct

    def row(self) -> dict[str, Any]:
        """Tabulate the effect, as in `RepairResult.table`."""
        row: dict[str, Any] = {}
        if self.target is not None:
            figures = self.target.row()
            low, high = self.target.corrected_interval()
            row |= {"failing": figures["errors before"], "corrected": self.target.corrected}
            row |= {"broken": self.target.broken, "share": figures["errors corrected"], "low": low, "high": high}
            row["p"] = figures["p"]
        if self.clean is not None:
            low, high = self.clean.accuracy_interval()
            row |= {"accuracy change": self.clean.accuracy_change, "accuracy low": low, "accuracy high": high}
        retained = self.all_retained
        if retained is not None:
            row |= {"retained": len(retained.before), "retained broken": retained.broken}
        return row


def measure_effect(
    search: EditSearch, selection: Selection, retained_sets: Mapping[str, Tensor] | None = None
) -> Effect:
    """Measure a selected edit on images that were not used to select it.

    Those with the concept are the split `target_test`; without one, the target images by cross-validation, each with
    the edit that was selected without it.

    Args:
        search: the search.
        selection: the selection.
        retained_sets: by name, which images of the split `retain_test` each retained set has, `(N,)` booleans; by
            default they are one set.
    """
    activations = search.activations
    target = selection.held_out
    if "target_test" in activations:
        target = activations["target_test"].compare(selection.edit)
    clean = activations["clean_test"].compare(selection.edit) if "clean_test" in activations else None
    retained: dict[str, Comparison | None] = {}
    if "retain_test" in activations:
        whole = activations["retain_test"].compare(selection.edit)
        sets = retained_sets or {RETAINED: torch.ones(len(whole.before), dtype=torch.bool)}
        for name, is_member in sets.items():
            member = Comparison(whole.before[is_member], whole.after[is_member])
            retained[name] = member if is_member.any() else None
    elif search.splits.retain is not None:
        retained = dict.fromkeys(retained_sets or {RETAINED: None})
    return Effect(target, clean, retained)


@dataclass(frozen=True, eq=False)
class Assessment:
    """What is known about a selected edit.

    Attributes:
        verdict: whether to use it, and why.
        conditions: the checklist: the diagnosis before the search first.
        effect: the effect on images that were not used to select the edit.
        controls: the effect of each control, by name.
        exemplars: what the exemplars that the edit was made from show before any edit.
        reliable: of each of these exemplars, whether x' is predicted with the edit as x is without it.
        constraints: what the edit may cost, on the images of the evaluation.
    """

    verdict: Verdict
    conditions: tuple[Condition, ...]
    effect: Effect
    controls: Mapping[str, Effect] = field(repr=False)
    exemplars: tuple[ExemplarDiagnosis, ...] = field(repr=False)
    reliable: tuple[bool, ...] = ()
    constraints: Constraints = Constraints()  # noqa: RUF009

    @property
    def measures(self) -> dict[str, tuple[str, str]]:
        """Reliability, generality and locality: by name, the figure and its definition."""
        target = self.effect.target
        kept, correct = self.effect.locality
        generality = "not measured"
        if target is not None:
            errors = int(target.before.sum())
            generality = f"{target.corrected} of {errors} corrected, {target.broken} broken"
            if errors:
                low, high = target.corrected_interval()
                generality += f" ({target.errors_corrected:.0%} [{low:.0%}, {high:.0%}])"
        locality = "not measured"
        if correct:
            low, high = wilson(kept, correct)
            locality = f"{kept:,} of {correct:,} ({kept / correct:.1%} [{low:.1%}, {high:.1%}])"
        count = len(self.reliable)
        return {
            "reliability": (
                f"{sum(self.reliable)} of {count}",
                "exemplars whose x' is predicted with the edit as x is without it",
            ),
            "generality": (
                generality,
                "misclassified images with the concept that were not used to select the edit",
            ),
            "locality": (
                locality,
                "correct clean and retained images, not used to select the edit, that stay correct",
            ),
        }


def assess(
    search: EditSearch,
    selection: Selection,
    controls: Mapping[str, Selection | Effect] | None = None,
    *,
    effect: Effect | None = None,
    diagnoses: Sequence[ExemplarDiagnosis] | None = None,
    exemplars: CachedActivations | None = None,
    retained_sets: Mapping[str, Tensor] | None = None,
    obstacle: str = "",
    complete: bool = True,
) -> Assessment:
    """Assess a selected edit: the checklist, reliability, generality and locality, and the verdict.

    Args:
        search: the search that it was selected in.
        selection: the selection.
        controls: selections in the same search that the edit has to surpass, such as that of a random direction, by
            name; or their effects.
        effect: see `measure_effect`; measured if it is not given.
        diagnoses: see `diagnose_exemplars`; made if they are not given.
        exemplars: see `cache_exemplars`; cached if they are not given.
        retained_sets: see `measure_effect`.
        obstacle: what stands in the way if no candidate is feasible.
        complete: whether the search was not interrupted.
    """
    if effect is None:
        effect = measure_effect(search, selection, retained_sets)
    effects = {}
    for name, control in (controls or {}).items():
        effects[name] = control if isinstance(control, Effect) else measure_effect(search, control, retained_sets)
    if diagnoses is None:
        diagnoses = diagnose_exemplars(search.classifier, search.exemplars)
    if exemplars is None:
        exemplars = cache_exemplars(search, diagnoses)
    correct = (~exemplars.compare(selection.edit).after).tolist()
    sources = {selection.params.get(name) for name in ("exemplar", "second exemplar")} - {None}
    indices = [index for index, one in enumerate(diagnoses) if one.name in sources] or range(len(diagnoses))
    used = tuple(diagnoses[index] for index in indices)
    reliable = tuple(correct[index] for index in indices)
    evidence = replace(_evidence(search, selection, effect, effects, used), obstacle=obstacle, complete=complete)
    splits = search.splits
    clean = len(splits.reference) + len(splits.clean) + len(splits.clean_test or ())
    retained = sum(len(images) for images in (splits.retain, splits.retain_test) if images is not None)
    errors = None if effect.target is None else int(effect.target.before.sum())
    conditions = [
        *exemplar_conditions(search.classifier, used),
        *image_conditions(clean, errors, retained or None),
        *_result_conditions(selection, effect, evidence, reliable),
    ]
    constraints = replace(search.constraints, max_accuracy_drop=evidence.accuracy_limit)
    return Assessment(judge(evidence), tuple(conditions), effect, effects, used, reliable, constraints)


def share_inside_mask(search: EditSearch, selection: Selection) -> float | None:
    """Compute the share of the edit map of x' that lies inside the mask; None if the edit has no map.

    Of several exemplars that went into one edit, the first counts.
    """
    group = search.exemplars[selection.params["exemplar"]] if "exemplar" in selection.params else None
    if group is None or not any(name.endswith(".weight") for name in selection.edit.changes):
        return None
    exemplar = group[0]
    edit_map = selection.edit.edit_map(search.classifier, exemplar.changed)
    return float((edit_map * exemplar.mask.to(edit_map)).sum() / edit_map.sum().clamp_min(1e-12))


def cache_exemplars(search: EditSearch, diagnoses: Sequence[ExemplarDiagnosis]) -> CachedActivations:
    """Cache x' of all exemplars of a search, labeled by what x is predicted as, in the order of their diagnoses."""
    members = [exemplar for group in search.exemplars.values() for exemplar in group]
    changed = torch.stack([exemplar.changed for exemplar in members])
    labels = torch.tensor([one.original for one in diagnoses])
    return CachedActivations(search.cuts, LabelledImages(changed, labels, search.classifier.classes))


def _evidence(
    search: EditSearch,
    selection: Selection,
    effect: Effect,
    controls: Mapping[str, Effect],
    diagnoses: Sequence[ExemplarDiagnosis],
) -> Evidence:
    """Collect the numbers that the verdict rests on.

    The accuracy constraint is that of the search, but as in the selection one image may always be lost: no set can
    resolve less than that.
    """
    limit = search.constraints.max_accuracy_drop
    if effect.clean is not None:
        limit = max(limit, 100 / len(effect.clean.before))
    net = {name: one.target.corrected - one.target.broken for name, one in controls.items() if one.target is not None}
    retained = {}
    for name, comparison in effect.retained.items():
        retained[name] = None if comparison is None else 100 * comparison.broken / len(comparison.before)
    target = effect.target
    return Evidence(
        corrected=0 if target is None else target.corrected,
        broken=0 if target is None else target.broken,
        images=0 if target is None else len(target.before),
        controls=net,
        accuracy_change=None if effect.clean is None else effect.clean.accuracy_change,
        accuracy_limit=limit,
        retained=retained,
        retained_limit=search.constraints.max_retain_broken,
        feasible=selection.feasible,
        alike=all(one.alike for one in diagnoses),
    )


def _result_conditions(
    selection: Selection, effect: Effect, evidence: Evidence, reliable: Sequence[bool]
) -> list[Condition]:
    """List the conditions on what was found."""
    conditions = [
        condition(
            "the search is complete",
            evidence.complete,
            f"{selection.n_candidates:,} candidates",
            "Let it run to its end: this is the best of what was tried.",
        ),
        condition(
            "a candidate is feasible",
            selection.feasible,
            f"{selection.n_candidates:,} candidates",
            evidence.obstacle or "Try other layers, another exemplar or another mask.",
        ),
    ]
    if not selection.feasible:
        return conditions
    record = selection.edit.record
    left = None if record is None else record.share_left
    best = evidence.best_control
    held_out = evidence.images > 0
    conditions += [
        condition(
            "the edit fits the exemplar",
            None if left is None else left <= FITTED,
            "" if left is None else f"{1 - left:.0%} of the loss at the exemplar is gone",
            "Try other layers, a higher rank, or a mask that covers all of the change."
            if left is not None
            else "It is known for an edit of one layer.",
        ),
        condition(
            "x' is predicted as x with the edit",
            all(reliable),
            f"{sum(reliable)} of {len(reliable)} exemplars",
            "Try more strength or a higher rank.",
        ),
        condition(
            f"it corrects more than it breaks (p ≤ {SIGNIFICANCE})",
            evidence.net > 0 and evidence.p <= SIGNIFICANCE if held_out else None,
            f"{evidence.corrected} corrected, {evidence.broken} broken of {evidence.images} held-out images, "
            f"p {evidence.p:.2g}"
            if held_out
            else "no image was held out",
            "Pass more failing images." if held_out else "Select by cross-validation, or pass images for evaluation.",
        ),
        condition(
            "it corrects more than every control",
            None if best is None or not held_out else evidence.net > evidence.controls[best],
            "no control was selected" if best is None else f"{evidence.net} net, {best} {evidence.controls[best]}",
            "Select controls the same way (baselines=True)."
            if best is None
            else "Try another exemplar, a mask that fits the concept, or other layers.",
        ),
        condition(
            f"at most {evidence.accuracy_limit:.2g} points of accuracy are lost on clean images",
            evidence.keeps_accuracy,
            "no image was held out" if effect.clean is None else _accuracy(effect.clean),
            "Pass more clean images, or try lower strengths and a higher reference_weight.",
        ),
    ]
    for name, comparison in effect.retained.items():
        what = RETAINED if name == RETAINED else f"{RETAINED} {name!r}"
        conditions.append(
            condition(
                f"at most {evidence.retained_limit:g}% of the {what} are broken",
                evidence.keeps_retained(name),
                "too few to hold some out" if comparison is None else _broken(comparison),
                "Pass more retained images of that kind, or try lower strengths.",
            )
        )
    return conditions


def _accuracy(clean: Comparison) -> str:
    """Say by how much accuracy changes, with its interval."""
    low, high = clean.accuracy_interval()
    return f"{clean.accuracy_change:+.2f} points [{low:+.2f}, {high:+.2f}] on {len(clean.before):,} images"


def _broken(retained: Comparison) -> str:
    """Say how many retained images are broken, with the interval of their share."""
    count = len(retained.before)
    low, high = wilson(retained.broken, count)
    return f"{retained.broken} of {count:,} ({retained.broken / count:.1%} [{low:.1%}, {high:.1%}])"
