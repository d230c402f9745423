"""Whether to use an edit: a checklist, whose worst check decides; docs/verdict.md explains it.

    search = EditSearch(classifier, exemplars, splits)
    best = search.select(search.candidates("rewrite"), cv=5)
    draws = {}
    for seed in range(5):
        candidates = search.candidates("random_direction", grid(seed=(seed,)))
        draws[f"random direction {seed}"] = search.select(candidates, cv=5)
    print(judge(search, best, draws))

From top to bottom: a check and the verdict, the checks before the search, what is measured on images that were not used
to select the edit, the checks of these measurements, and how many images would decide.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.metrics import Comparison, accuracy_interval, mcnemar, wilson
from edittools.moments import FEW_IMAGES
from edittools.selection.evaluation import CachedActivations, Constraints
from edittools.selection.label_errors import has_cleanlab
from edittools.selection.search import EditSearch, Selection

USE = "use"
UNCLEAR = "unclear"
DO_NOT_USE = "do not use"

WORDS = (DO_NOT_USE, UNCLEAR, USE)
"""The words of a verdict, the worst one first."""

SIGNIFICANCE = 0.05
"""The largest p-value at which the verdict can be "use", in the exact McNemar test against no edit and against the best
draw of random directions."""

POWER = 0.8
"""The number of images in the verdict "unclear" would give a significant result with this probability."""

MOST_IMAGES_NEEDED = 100_000
"""The largest number of images that is given in the verdict "unclear"."""

DRAWS = 5
"""The number of draws of random directions that the verdict "use" needs; each is selected like the edit."""

RANDOM = "random direction"
"""The beginning of the name of a control that is a draw of random directions; other controls are baselines."""

FEWEST_CLEAN = 50
"""With fewer held-out clean images, the accuracy counts as not measured."""

FEWEST_RETAINED = 20
"""With fewer held-out retained images that were correct, what an edit breaks there counts as not measured."""

FAR_BELOW = 0.5
"""The clean images' labels are doubted if the accuracy is less than this share of what is expected of it."""

COVERED = 0.9
"""The mask covers the change if at least this share of |x' − x| is inside of it."""

FEWEST_ERRORS = 6
"""With fewer misclassified images no edit reaches p ≤ 0.05, even if it corrects all: 2 · 0.5⁵ is 0.06."""

CLEAR_GAIN = 6
"""A constraint limits an edit if at least so many more images are corrected without it, and twice as many."""

FITTED = 0.5
"""An edit fits the exemplar if at most this share of the loss there is left."""

RETAINED = "retained images"
"""The name of a set of retained images that was given without a name."""

RELIABILITY = "x' is predicted as x with the edit"
"""The name of the check of reliability."""

GENERALITY = f"it corrects more than it breaks, with p ≤ {SIGNIFICANCE}"
"""The name of the check of generality."""

SWAPPED = "x is misclassified and x' is not: are they swapped?"
"""The advice if all is well with an exemplar but for the order of its images."""

LABELS = "Are the labels right?"
"""The advice if images are correct much less often than expected."""

OTHER_EXEMPLAR = "Try another exemplar, a mask that fits the concept, or other layers."
"""The advice if an edit corrects too few images."""


@dataclass(frozen=True)
class Check:
    """One check of the checklist.

    Attributes:
        name: what should hold.
        holds: whether it holds; None if it was not measured.
        figure: what was measured, as a clause without a period; may be empty.
        advice: what to do if it does not hold.
        at_best: the best verdict if it does not hold. "use" means that the check only informs.
    """

    name: str
    holds: bool | None
    figure: str = ""
    advice: str = ""
    at_best: str = USE

    @property
    def status(self) -> str:
        """The text "pass", "fail" or "not measured"."""
        if self.holds is None:
            return "not measured"
        return "pass" if self.holds else "fail"

    @property
    def allows(self) -> str:
        """The best verdict that it allows: `at_best` if it fails, and at worst "unclear" if it was not measured."""
        if self.holds:
            return USE
        if self.holds is None and self.at_best == DO_NOT_USE:
            return UNCLEAR
        return self.at_best

    def __str__(self) -> str:
        text = f"{self.status}: {self.name}"
        if self.figure:
            text += f" ({self.figure})"
        return text if self.holds or not self.advice else f"{text}. {self.advice}"


@dataclass(frozen=True)
class Verdict:
    """Whether to use an edit, and why.

    Attributes:
        word: "use", "unclear" or "do not use".
        reason: the figures of the checks that decided, as a clause without a period.
        advice: what to do next. For "use", it is empty unless a constraint limits the edit, see `limiting_constraint`.
        checks: the checklist.
    """

    word: str
    reason: str
    advice: str = ""
    checks: tuple[Check, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        text = f"{self.word}: {self.reason}."
        return f"{text} {self.advice}" if self.advice else text


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return the verdict of a checklist: the worst word that a check allows.

    Its reason has the figures of the checks that decided it, and its advice is that of the first of them. For "use",
    these are all checks that do not only inform.

    Args:
        checks: the checklist; at least one check.
    """
    word = min((check.allows for check in checks), key=WORDS.index)
    deciding = [check for check in checks if check.allows == word and check.at_best != USE]
    reason = "; ".join(check.figure for check in deciding if check.figure)
    advice = "" if word == USE else deciding[0].advice
    return Verdict(word, reason, advice, tuple(checks))


def judge(search: EditSearch, selection: Selection, controls: Mapping[str, Selection] | None = None) -> Verdict:
    """Judge an edit that was selected in a search.

    It is judged by the splits for evaluation. Without a split `target_test`, it is judged by the target images and
    cross-validation, for which the selection must be made with `cv=`.

    Args:
        search: the search.
        selection: the selection in this search.
        controls: selections in the same search, by name. Those whose names begin with "random direction" are draws of
            random directions, which the edit has to surpass; "use" needs five. The others are baselines, which must not
            be significantly better.

    Returns:
        The verdict, with the checklist.
    """
    evaluations = {name: evaluate(search, control) for name, control in (controls or {}).items()}
    checks = checklist(search, selection, evaluate(search, selection), evaluations)
    return with_limit(verdict_of(checks), search, selection)


def checklist(
    search: EditSearch,
    selection: Selection,
    evaluation: "Evaluation",
    controls: Mapping[str, "Evaluation"],
    complete: bool = True,
) -> list[Check]:
    """Make the checklist of a selected edit: the checks before the search first.

    Args:
        search: the search that it was selected in.
        selection: the selection.
        evaluation: what the edit does, see `evaluate`.
        controls: what each control does, by name.
        complete: whether the search was not interrupted.
    """
    used = used_exemplars(search, selection)
    errors = None if evaluation.target is None else int(evaluation.target.before.sum())
    checks = checks_before_search(search, errors, used)
    checks.append(completeness_check(selection.n_candidates, complete))
    checks.append(feasibility_check(search, selection))
    if not selection.feasible:
        return checks
    is_reliable = ~search.exemplar_activations.compare(selection.edit).after[used]
    checks.append(fit_check(selection.edit))
    checks.append(reliability_check(int(is_reliable.sum()), len(used)))
    return checks + evaluation_checks(evaluation, controls, search.constraints)


# --- what limits the edit ---------------------------------------------------------------------------------------------


def with_limit(verdict: Verdict, search: EditSearch, selection: Selection) -> Verdict:
    """Begin the advice of a verdict with the constraint that limits the edit, if one does."""
    limit = limiting_constraint(search, selection)
    return replace(verdict, advice=f"{limit} {verdict.advice}".strip()) if limit else verdict


def limiting_constraint(search: EditSearch, selection: Selection) -> str:
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
    found = search.select_on(outcomes, slice(None), without_retained)
    if found.scores["corrected"] >= enough and found.retain is not None:
        correct = int((~found.retain.before).sum())
        return (
            "On images used for selection, the retained images decide: without them, a candidate corrects "
            f"{found.scores['corrected']} of {errors} and breaks {found.retain.broken} of {correct}. If these images "
            "rely on the same rule, pass others that should keep their predictions."
        )
    found = search.select_on(outcomes, slice(None), without_accuracy)
    if found.scores["corrected"] >= enough:
        return (
            "On images used for selection, the accuracy on clean images decides: without that constraint, a candidate "
            f"corrects {found.scores['corrected']} of {errors} and changes the accuracy on {len(found.clean.before):,} "
            f"clean images by {found.accuracy_change:+.2f} points. If some of these show the concept, or are labeled "
            "wrongly, leave them out."
        )
    return ""


# --- before the search ------------------------------------------------------------------------------------------------


def checks_before_search(search: EditSearch, errors: int | None, used: Sequence[int] | None = None) -> list[Check]:
    """Make the checks of a checklist that need no selected edit.

    Args:
        search: the search.
        errors: number of misclassified images with the concept; None if none are held out.
        used: indices in `EditSearch.exemplar_members` of the exemplars to check; by default all of them.
    """
    splits = search.splits
    clean = sum(len(images) for images in (splits.reference, splits.clean, splits.clean_test) if images is not None)
    retained = sum(len(images) for images in (splits.retain, splits.retain_test) if images is not None)
    checks = exemplar_checks(search, used)
    checks += image_checks(clean, errors, retained)
    checks.append(labels_check(search.activations))
    return checks + label_error_checks(search)


def used_exemplars(search: EditSearch, selection: Selection) -> list[int]:
    """Return which of `EditSearch.exemplar_members` an edit was made from, as indices; all if it is not known."""
    sources = {selection.params.get(name) for name in ("exemplar", "second exemplar")}
    used = [index for index, (name, _) in enumerate(search.exemplar_members) if name in sources]
    return used or list(range(len(search.exemplar_members)))


def exemplar_checks(search: EditSearch, used: Sequence[int] | None = None) -> list[Check]:
    """Check that the exemplars show the mistake.

    Args:
        search: the search.
        used: indices of exemplars, all of which must pass; by default all exemplars of the search.
    """
    classes = search.classifier.classes
    cached = search.exemplar_activations
    members = search.exemplar_members
    used = list(range(len(members)) if used is None else used)
    names = [members[index][0] for index in used]
    exemplars = [members[index][1] for index in used]
    original = cached.labels[used].tolist()
    changed = cached.original[used].argmax(dim=1).tolist()
    is_alike = (~cached.before[used]).tolist()
    labeled = [pair for pair in zip(exemplars, original, strict=True) if pair[0].label is not None]
    inside_mask = min(change_inside_mask(exemplar) for exemplar in exemplars)
    is_swapped = []
    for exemplar, original_class, changed_class in zip(exemplars, original, changed, strict=True):
        is_swapped.append(exemplar.label is not None and original_class != exemplar.label == changed_class)
    advice = "Give the exemplar its label, Exemplar(image, changed, mask, label)."
    if labeled:
        advice = SWAPPED if any(is_swapped) else "Take an image that is classified correctly without the concept."
    change = _describe_classes("x'", names, [classes[index] for index in changed])
    if any(is_alike):
        alone = "so the exemplar does not show the mistake"
        change += f", as x is, {alone}" if len(used) == 1 else f"; {sum(is_alike)} of {len(used)} as x is"
    return [
        Check(
            "x is classified correctly",
            all(exemplar.label == index for exemplar, index in labeled) if labeled else None,
            _describe_classes("x", names, [classes[index] for index in original]),
            advice,
            DO_NOT_USE if all(is_swapped) else USE,
        ),
        Check(
            "x' is predicted otherwise than x",
            not any(is_alike),
            change,
            "Take an image and a change by which x is classified correctly and x' is not: mark all of what misleads, "
            "or replace it by another material.",
            DO_NOT_USE if all(is_alike) else USE,
        ),
        Check(
            "the mask covers the change",
            inside_mask >= COVERED,
            f"{inside_mask:.0%} of the difference between x and x' is inside the mask",
            "Pass a mask of all pixels that differ, or make x' by Exemplar.paste.",
        ),
    ]


def change_inside_mask(exemplar: Exemplar) -> float:
    """Compute the share of |x' − x| inside the mask; 0 if x and x' do not differ."""
    difference = (exemplar.changed - exemplar.image).abs().sum(dim=0)
    total = float(difference.sum())
    return float((difference * exemplar.mask).sum()) / total if total else 0.0


def _describe_classes(what: str, names: Sequence[str], classes: Sequence[str]) -> str:
    """Say what x or x' of each exemplar is predicted as."""
    if len(names) == 1:
        return f"{what} is predicted as {classes[0]}"
    pairs = [f"{name} as {predicted}" for name, predicted in zip(names, classes, strict=True)]
    listed = ", ".join(pairs[:5])
    return f"{what} is predicted: {listed}" + (", …" if len(pairs) > 5 else "")


def image_checks(clean: int, errors: int | None, retained: int) -> list[Check]:
    """Check that there are enough images.

    Args:
        clean: number of clean images, reference images included.
        errors: number of misclassified images with the concept; None if none are held out.
        retained: number of retained images.
    """
    return [
        Check(
            f"at least {FEW_IMAGES} clean images",
            clean >= FEW_IMAGES,
            f"{clean:,} images",
            "Pass more clean images, better hundreds; without labels, the current predictions serve.",
        ),
        Check(
            f"at least {FEWEST_ERRORS} misclassified images with the concept",
            None if errors is None else errors >= FEWEST_ERRORS,
            "" if errors is None else f"{errors:,} images",
            f"Pass more failing images: with fewer, no edit can reach p ≤ {SIGNIFICANCE}.",
        ),
        Check(
            "retained images are given",
            True if retained else None,
            f"{retained:,} images" if retained else "none",
            "Pass images that legitimately rely on the concept as retain=, so that their cost is known.",
        ),
    ]


def labels_check(activations: Mapping[str, CachedActivations]) -> Check:
    """Check that clean images are about as often correct as other images, and as their probabilities suggest.

    Images that were misclassified before an edit cannot break. So if labels are wrong, such as labels counted from 1
    instead of 0, any edit seems to cost nothing.

    Args:
        activations: the cached splits of a search, by name.
    """
    parts = [activations[name] for name in ("clean", "clean_test") if name in activations]
    is_wrong = torch.cat([part.before for part in parts])
    accuracy = 1 - float(is_wrong.float().mean())
    confidence = torch.cat([part.original.float().softmax(dim=1).amax(dim=1) for part in parts])
    expected = {f"while their predictions have a mean probability of {confidence.mean():.0%}": float(confidence.mean())}
    others = {"retained": ("retain", "retain_test"), "failing": ("target", "target_test")}
    for title, names in others.items():
        before = [activations[name].before for name in names if name in activations]
        if before:
            share = 1 - float(torch.cat(before).float().mean())
            expected[f"while {share:.0%} of the {title} images are"] = share
    most = max(expected, key=expected.__getitem__)
    is_plausible = accuracy >= FAR_BELOW * expected[most]
    figure = f"{accuracy:.0%} of {len(is_wrong):,} clean images are correct before the edit"
    return Check(
        "the labels of the clean images are plausible",
        is_plausible,
        figure if is_plausible else f"{figure}, {most}",
        f"{LABELS} If they are, pass the images without labels, so that the current predictions serve as labels.",
        USE if is_plausible else UNCLEAR,
    )


def label_error_checks(search: EditSearch) -> list[Check]:
    """Check that no label of a clean or retained image is likely wrong; it only informs.

    Args:
        search: the search.

    Returns:
        The check, if a label is likely wrong; none without cleanlab.
    """
    if not has_cleanlab() or not search.label_errors:
        return []
    return [
        Check(
            "no label of a clean or retained image is likely wrong",
            False,
            f"cleanlab doubts {len(search.label_errors)}, such as {search.label_errors[0]}",
            "Look at these images in the report; correct their labels, or leave them out.",
        )
    ]


def warn_about(checks: Sequence[Check]) -> None:
    """Warn about each check that fails, at the line that called the function which calls this one.

    Args:
        checks: the checks.

    Warns:
        UserWarning: for each check that fails, with its figure and advice.
    """
    for check in checks:
        if check.status == "fail":
            message = f"This does not hold: {check.name} ({check.figure}). {check.advice}"
            warnings.warn(message, stacklevel=3)


# --- what is measured on images that were not used to select the edit -------------------------------------------------


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
        """Tabulate the evaluation, as in `RepairResult.table`."""
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
            row |= {"retained": int((~retained.before).sum()), "retained broken": retained.broken}
        return row


def evaluate(search: EditSearch, selection: Selection, retained_sets: Mapping[str, Tensor] | None = None) -> Evaluation:
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
    elif retained_sets or search.splits.retain is not None:
        retained = dict.fromkeys(retained_sets or {RETAINED: None})
    return Evaluation(target, clean, retained)


# --- after the search -------------------------------------------------------------------------------------------------


def completeness_check(candidates: int, complete: bool) -> Check:
    """Check that the search was not interrupted.

    Args:
        candidates: number of candidates that were tried.
        complete: whether it was not interrupted.
    """
    figure = f"the search was interrupted after {candidates:,} candidates, perhaps before every control was tried"
    return Check(
        "the search is complete",
        complete,
        "" if complete else figure,
        "Let it run to its end: this is the best of what was tried.",
        UNCLEAR,
    )


def feasibility_check(search: EditSearch, selection: Selection) -> Check:
    """Check that in the selection a candidate corrects more than it breaks and satisfies the constraints."""
    name = "a candidate is feasible"
    if selection.feasible:
        return Check(name, True, at_best=DO_NOT_USE)
    figure = f"none of {selection.n_candidates:,} candidates corrects more than it breaks within the constraints"
    return Check(name, False, figure, _obstacle(search, selection), DO_NOT_USE)


def _obstacle(search: EditSearch, selection: Selection) -> str:
    """Say why no candidate is feasible: the fit at the exemplar, what the images show, or the constraints."""
    outcomes = selection.outcomes
    records = [candidate.edit.record for candidate in outcomes.candidates]
    shares = [record.share_left for record in records if record is not None and record.loss_before]
    left = min((share for share in shares if share is not None), default=0)
    if left > FITTED:
        return (
            f"No edit fits the exemplar: in no layer is more than {1 - left:.0%} of the loss there gone. Try other "
            "layers, a higher rank, or a mask that covers all of the change."
        )
    most = int(outcomes.net.max())
    if most <= 0:
        return (
            "No edit corrects more failing images than it breaks: what they show is not what the exemplar changes, or "
            "they are misclassified for another reason. Try another exemplar."
        )
    wrong = int(search.activations["target"].before.sum())
    return (
        f"Edits correct up to {most} of {wrong} misclassified images, but none costs at most "
        f"{search.constraints.max_accuracy_drop:.3g} points of accuracy and keeps the retained images. Try more clean "
        "and retained images, another exemplar, or a smaller change."
    )


def fit_check(edit: Edit) -> Check:
    """Check that an edit satisfies what the exemplar asks for."""
    name = "the edit fits the exemplar"
    record = edit.record
    left = None if record is None else record.share_left
    if left is None:
        return Check(name, None, "the loss at the exemplar is known for an edit of one layer only")
    return Check(
        name,
        left <= FITTED,
        f"{1 - left:.0%} of the loss at the exemplar is gone",
        "Try other layers, a higher rank, or a mask that covers all of the change.",
    )


def reliability_check(reliable: int, exemplars: int) -> Check:
    """Check that x' is predicted with the edit as x is without it; if no x' is, an edit cannot be trusted.

    Args:
        reliable: number of exemplars for which it is.
        exemplars: number of exemplars that the edit was made from.
    """
    figure = f"with the edit, x' is predicted as x for {reliable} of {exemplars} exemplars"
    advice = "Try more strength or a higher rank."
    return Check(RELIABILITY, reliable == exemplars, figure, advice, USE if reliable else UNCLEAR)


def evaluation_checks(
    evaluation: Evaluation, controls: Mapping[str, Evaluation], constraints: Constraints
) -> list[Check]:
    """Check what was measured on images that were not used to select the edit.

    Args:
        evaluation: what the edit does.
        controls: what each control does, by name.
        constraints: what the edit may cost.
    """
    draws = {name: control.target for name, control in controls.items() if name.startswith(RANDOM)}
    baselines = {name: control.target for name, control in controls.items() if not name.startswith(RANDOM)}
    checks = [
        generality_check(evaluation.target),
        random_check(evaluation.target, draws),
        baseline_check(evaluation.target, baselines),
        accuracy_check(evaluation.clean, constraints),
    ]
    for name, comparison in evaluation.retained.items():
        checks.append(retained_check(name, comparison, constraints))
    return checks


def describe_effect(target: Comparison, images: str) -> str:
    """Say how many images an edit corrects and breaks; `images` is what to call them."""
    total = len(target.before)
    errors = int(target.before.sum())
    text = f"it corrects {target.corrected} of {errors:,} misclassified"
    if total > errors:
        text += f" and breaks {target.broken} of {total - errors:,} correct"
    return f"{text} {images}"


def generality_check(target: Comparison | None) -> Check:
    """Check that the edit corrects more images with the concept than it breaks.

    Args:
        target: the comparison of these images; None if none was held out.
    """
    if target is None:
        figure = "no image with the concept was held out of the selection"
        advice = "Select by cross-validation, or pass images for evaluation only."
        return Check(GENERALITY, None, figure, advice, DO_NOT_USE)
    net = target.corrected - target.broken
    p = mcnemar(target.corrected, target.broken)
    figure = describe_effect(target, "held-out images")
    if target.before.any():
        low, high = target.corrected_interval()
        figure += f", net {target.errors_corrected:.0%} [{low:.0%}, {high:.0%}]"
    figure += f", p {p:.2g}"
    if net <= 0:
        advice = "Try another exemplar, a mask that fits the concept, or more failing images to select on."
        return Check(GENERALITY, False, figure, advice, DO_NOT_USE)
    if p <= SIGNIFICANCE:
        return Check(GENERALITY, True, figure, at_best=UNCLEAR)
    advice = _advise_images(images_needed(target.corrected, target.broken, len(target.before)))
    return Check(GENERALITY, False, f"{figure}, which so few images cannot tell from chance", advice, UNCLEAR)


def random_check(target: Comparison | None, draws: Mapping[str, Comparison | None]) -> Check:
    """Check that the edit corrects significantly more images, net, than the best draw of random directions.

    Args:
        target: the comparison of the images with the concept; None if none was held out.
        draws: that of each draw on the same images, by name.
    """
    name = f"it corrects more than random directions, with p ≤ {SIGNIFICANCE}"
    measured = {key: draw for key, draw in draws.items() if draw is not None}
    if target is None or not measured:
        figure = "no random direction was selected in the same way, so one may correct as much"
        if draws:
            figure = "no image was held out on which the edit and random directions can be compared"
        advice = f"Select {DRAWS} random directions in the same way (baselines=True)."
        return Check(name, None, figure, advice, DO_NOT_USE)
    best = measured[best_of(measured)]
    of_edit = target.corrected - target.broken
    of_best = best.corrected - best.broken
    gained, lost = paired_difference(target, best)
    p = mcnemar(gained, lost)
    figure = f"the best of {len(measured)} random directions corrects {of_best} net, and the edit {of_edit} (p {p:.2g})"
    if of_edit < of_best:
        return Check(name, False, figure, OTHER_EXEMPLAR, DO_NOT_USE)
    if len(measured) < DRAWS:
        advice = f"Select {DRAWS} random directions the same way."
        return Check(name, None, f"{figure}, but random directions differ", advice, DO_NOT_USE)
    if p <= SIGNIFICANCE:
        return Check(name, True, figure, at_best=DO_NOT_USE)
    advice = OTHER_EXEMPLAR
    if gained > lost:
        advice = _advise_images(images_needed(gained, lost, len(target.before)))
    return Check(name, False, f"{figure}, which so few images cannot tell from chance", advice, UNCLEAR)


def baseline_check(target: Comparison | None, baselines: Mapping[str, Comparison | None]) -> Check:
    """Check that no baseline corrects significantly more images, net; the best one is named in any case.

    Args:
        target: the comparison of the images with the concept; None if none was held out.
        baselines: that of each baseline on the same images, by name.
    """
    name = "no baseline corrects significantly more"
    measured = {key: baseline for key, baseline in baselines.items() if baseline is not None}
    if target is None or not measured:
        return Check(name, None, "", "Select baselines the same way (baselines=True).")
    best = best_of(measured)
    of_edit = target.corrected - target.broken
    of_best = measured[best].corrected - measured[best].broken
    p = mcnemar(*paired_difference(target, measured[best]))
    is_better = of_best > of_edit and p <= SIGNIFICANCE
    figure = f"{best}, the best baseline, corrects {of_best} net, and the edit {of_edit}"
    if of_best >= of_edit:
        figure += f" (p {p:.2g})"
    advice = f"Consider {best} itself, or try another exemplar, a mask that fits the concept, or other layers."
    return Check(name, not is_better, figure, advice, DO_NOT_USE)


def best_of(comparisons: Mapping[str, Comparison]) -> str:
    """Return the name of the first comparison with the most images corrected, minus images broken."""
    return max(comparisons, key=lambda name: comparisons[name].corrected - comparisons[name].broken)


def paired_difference(one: Comparison, other: Comparison) -> tuple[int, int]:
    """Count the images that are correct with one edit only, and with the other one only."""
    return int((~one.after & other.after).sum()), int((one.after & ~other.after).sum())


def accuracy_check(clean: Comparison | None, constraints: Constraints) -> Check:
    """Check that accuracy on clean images satisfies the constraint; one image may always be lost.

    Args:
        clean: the comparison of the clean images; None if none was held out.
        constraints: what the edit may cost.
    """
    name = "accuracy on clean images is kept"
    more = f"Pass at least {4 * FEWEST_CLEAN} clean images, a quarter of which repair holds out."
    if clean is None:
        figure = "accuracy was not measured on clean images that were not used for selection"
        return Check(name, None, figure, more, DO_NOT_USE)
    count = len(clean.before)
    low, high = clean.accuracy_interval()
    span = f"[{low:+.2f}, {high:+.2f}]"
    change = f"accuracy on {count:,} clean images changes by {clean.accuracy_change:+.2f} points {span}"
    if count < FEWEST_CLEAN:
        return Check(name, None, f"{change}, which so few images cannot measure", more, DO_NOT_USE)
    may_lose = max(constraints.max_accuracy_drop, 100 / count)  # no set can resolve less than one image
    allowed = f"{may_lose:.2g} points" if may_lose == constraints.max_accuracy_drop else "one image"
    figure = f"{change}, and {allowed} may be lost"
    advice = "Pass more clean images, or try lower strengths and a higher reference_weight."
    if clean.accuracy_change >= -may_lose - 1e-9:
        return Check(name, True, figure, at_best=DO_NOT_USE)
    if high < -may_lose:
        return Check(name, False, figure, advice, DO_NOT_USE)

    def would_decide(images: int) -> bool:
        corrected = clean.corrected / count * images
        broken = clean.broken / count * images
        most = accuracy_interval(corrected, broken, images)[1]
        return most < -max(constraints.max_accuracy_drop, 100 / images)

    needed = _advise_images(fewest_images(would_decide, count), "held-out clean images", None)
    return Check(name, False, f"{figure}, but the interval contains that limit", f"{needed} {advice}", UNCLEAR)


def retained_check(name: str, retained: Comparison | None, constraints: Constraints) -> Check:
    """Check that the edit breaks few of a set of retained images, of those that were correct before.

    Args:
        name: the name of the set.
        retained: the comparison of its images; None if it is too small to hold some out.
        constraints: what the edit may cost.
    """
    title = RETAINED if name == RETAINED else f"{RETAINED} {name!r}"
    keeps = f"predictions on the {title} are kept"
    more = f"Pass more retained images of that kind, at least {2 * FEWEST_RETAINED}, half of which repair holds out."
    if retained is None:
        figure = f"the {title} are too few to hold some out of the selection"
        return Check(keeps, None, figure, more, DO_NOT_USE)
    correct = int((~retained.before).sum())
    low, high = wilson(retained.broken, correct)
    share = retained.broken / max(correct, 1)
    broken = f"it breaks {retained.broken} of {correct:,} {title} that were correct before"
    if correct < FEWEST_RETAINED:
        is_doubtful = correct < FAR_BELOW * len(retained.before)
        advice = f"{LABELS} {more}" if is_doubtful else more
        figure = f"{broken}, which so few images cannot measure"
        return Check(keeps, None, figure, advice, DO_NOT_USE)
    limit = constraints.max_retain_broken / 100
    enough = constraints.retained_images_needed  # 99 for 3%: if none of them breaks, 0.97⁹⁹ is below 0.05
    may_break = int(limit * correct + 1e-9) if correct >= enough else 0
    figure = f"{broken}, {share:.1%} [{low:.1%}, {high:.1%}], and {may_break or 'none'} may break"
    advice = "Pass more retained images of that kind, or try lower strengths."
    if retained.broken <= may_break:
        return Check(keeps, True, figure, at_best=DO_NOT_USE)
    if low > limit:
        return Check(keeps, False, figure, advice, DO_NOT_USE)

    def would_decide(images: int) -> bool:
        if share <= limit:
            return images >= enough
        return wilson(round(share * images), images)[0] > limit

    needed = _advise_images(fewest_images(would_decide, correct), "held-out retained images", None)
    figure = f"{figure}, but the interval contains {constraints.max_retain_broken:g}%"
    return Check(keeps, False, figure, f"{needed} {advice}", UNCLEAR)


# --- how many images would decide -------------------------------------------------------------------------------------


def power(images: int, corrected_share: float, broken_share: float) -> float:
    """Compute the power of the exact McNemar test for an edit that corrects more images than it breaks.

    Each image is corrected with one probability and broken with another, independently of the others. The probability
    is summed over the number of images that change, which is binomial; of these, the number that is corrected is
    binomial as well.

    Args:
        images: number of images.
        corrected_share: probability that an image is corrected.
        broken_share: probability that an image is broken.

    Returns:
        The probability that p ≤ 0.05 and that more images are corrected than broken.
    """
    import numpy as np
    from scipy.stats import binom

    changed_share = min(corrected_share + broken_share, 1.0)
    if changed_share <= 0:
        return 0.0
    fewest, most = binom.ppf([1e-16, 1 - 1e-16], images, changed_share)
    changed = np.arange(fewest, most + 1)  # other numbers do not occur
    least_corrected = binom.isf(SIGNIFICANCE / 2, changed, 0.5) + 1  # the fewest at which p ≤ 0.05
    of_changed = binom.sf(least_corrected - 1, changed, corrected_share / changed_share)
    return float((binom.pmf(changed, images, changed_share) * of_changed).sum())


def images_needed(corrected: int, broken: int, images: int) -> int | None:
    """Compute about how many images the exact McNemar test needs for a power of 80%, if the shares stay as observed.

    Args:
        corrected: number of images that were corrected.
        broken: number of images that were broken.
        images: number of images that were measured.

    Returns:
        A number of images at which `power` is at least 0.8, while it is less for one image fewer. None if the edit does
        not correct more images than it breaks, or if more than 100,000 images would be needed.
    """
    if corrected <= broken or not images:
        return None
    shares = corrected / images, broken / images
    return fewest_images(lambda count: power(count, *shares) >= POWER)


def fewest_images(decides: Callable[[int], bool], too_few: int = 0) -> int | None:
    """Find the smallest number of images that decides; None if more than 100,000 images would be needed.

    Args:
        decides: tells whether a number of images decides. If a number does, so does each larger one.
        too_few: a number of images that does not decide.
    """
    enough = max(2 * too_few, 1)
    while not decides(enough):
        too_few = enough
        enough *= 2
        if enough > 2 * MOST_IMAGES_NEEDED:
            return None
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if decides(middle):
            enough = middle
        else:
            too_few = middle
    return enough if enough <= MOST_IMAGES_NEEDED else None


def _advise_images(
    needed: int | None, images: str = "images with the concept", probability: float | None = POWER
) -> str:
    """Say how many images would decide, and with which probability; `needed` is that of `fewest_images`."""
    count = f"about {needed:,}" if needed is not None else f"more than {MOST_IMAGES_NEEDED:,}"
    text = f"At these shares, {count} {images} would decide"
    return f"{text}." if probability is None else f"{text} with a probability of {probability:.0%}."
