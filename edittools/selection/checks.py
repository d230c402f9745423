"""The checks of a verdict: of the exemplars and the images before a search, and of what an edit does after it."""

from collections.abc import Mapping, Sequence

import torch

from edittools._checks import warn
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.metrics import Comparison, accuracy_interval, mcnemar, wilson
from edittools.moments import FEW_IMAGES
from edittools.selection.activations import CachedActivations
from edittools.selection.constraints import Constraints
from edittools.selection.search import SECOND_LAYER, Search, Selection
from edittools.selection.splits import RETAINED
from edittools.selection.verdict import (
    DO_NOT_USE,
    SIGNIFICANCE,
    UNCLEAR,
    USE,
    Check,
    advise_images,
    fewest_images,
    images_needed,
)

DRAWS = 5
"""The number of draws of random directions that the verdict "use" needs; each is selected like the edit."""

FEWEST_CLEAN = 50
"""With fewer held-out clean images, the accuracy counts as not measured."""

FEWEST_RETAINED = 20
"""With fewer held-out retained images that were correct, what an edit breaks there counts as not measured."""

FAR_BELOW = 0.5
"""Labels are doubted if the accuracy is less than this share of what is expected of it."""

COVERED = 0.9
"""The mask covers the change if at least this share of |x' − x| is inside of it."""

FEWEST_ERRORS = 6
"""With fewer misclassified images no edit reaches p ≤ 0.05, even if it corrects all: 2 · 0.5⁵ is 0.06."""

FITTED = 0.5
"""An edit fits the exemplar if at most this share of the loss there is left."""

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


# --- before the search ------------------------------------------------------------------------------------------------


def checks_before_search(search: Search, errors: int | None, used: Sequence[int] | None = None) -> list[Check]:
    """Make the checks of a checklist that need no selected edit.

    Args:
        search: the search.
        errors: number of misclassified images with the concept; None if it is not known.
        used: indices in `Search.exemplar_members` of the exemplars to check; by default all of them.
    """
    splits = search.splits
    clean = sum(len(images) for images in (splits.reference, splits.clean, splits.clean_test) if images is not None)
    retained = sum(len(images) for images in (splits.retain, splits.retain_test) if images is not None)
    checks = exemplar_checks(search, used)
    checks += image_checks(clean, errors, retained)
    return checks + labels_checks(search.activations)


def used_exemplars(search: Search, selection: Selection) -> list[int]:
    """Return which of `Search.exemplar_members` an edit was made from, as indices; all if it is not known."""
    sources = {selection.params.get(name) for name in ("exemplar", f"{SECOND_LAYER}exemplar")}
    used = [index for index, (name, _) in enumerate(search.exemplar_members) if name in sources]
    return used or list(range(len(search.exemplar_members)))


def exemplar_checks(search: Search, used: Sequence[int] | None = None) -> list[Check]:
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
        errors: number of misclassified images with the concept; None if it is not known.
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


def labels_checks(activations: Mapping[str, CachedActivations]) -> list[Check]:
    """Check that clean and retained images are about as often correct as other images, and as their probabilities say.

    Images that were misclassified before an edit cannot break. So if labels are wrong, such as labels counted from 1
    instead of 0, any edit seems to cost nothing.

    Args:
        activations: the cached splits of a search, by name.

    Returns:
        The check of the clean images; and that of the retained images, if it fails.
    """
    kinds = {
        "clean": ("clean", "clean_test"),
        "retained": ("retain", "retain_test"),
        "failing": ("target", "target_test"),
    }
    parts = {}
    for kind, names in kinds.items():
        cached = [activations[name] for name in names if name in activations]
        if cached:
            parts[kind] = cached
    accuracies = {}
    for kind, cached in parts.items():
        accuracies[kind] = 1 - float(torch.cat([part.before for part in cached]).float().mean())
    checks = []
    for kind in ("clean", "retained"):
        if kind in parts:
            check = _labels_check(kind, parts[kind], accuracies)
            if kind == "clean" or not check.holds:
                checks.append(check)
    return checks


def _labels_check(kind: str, parts: Sequence[CachedActivations], accuracies: Mapping[str, float]) -> Check:
    """Check the labels of one kind of images; `accuracies` are those of all kinds before the edit."""
    confidence = float(torch.cat([part.original.float().softmax(dim=1).amax(dim=1) for part in parts]).mean())
    expected = {f"while their predictions have a mean probability of {confidence:.0%}": confidence}
    for other, share in accuracies.items():
        if other != kind:
            expected[f"while {share:.0%} of the {other} images are"] = share
    most = max(expected, key=expected.__getitem__)
    is_plausible = accuracies[kind] >= FAR_BELOW * expected[most]
    count = sum(len(part.before) for part in parts)
    figure = f"{accuracies[kind]:.0%} of {count:,} {kind} images are correct before the edit"
    return Check(
        f"the labels of the {kind} images are plausible",
        is_plausible,
        figure if is_plausible else f"{figure}, {most}",
        f"{LABELS} If they are, pass the images without labels, so that the current predictions serve as labels.",
        USE if is_plausible else UNCLEAR,
    )


def warn_about(checks: Sequence[Check]) -> None:
    """Warn about each check that fails.

    Args:
        checks: the checks.

    Warns:
        UserWarning: for each check that fails, with its figure and advice.
    """
    for check in checks:
        if check.status == "fail":
            warn(f"This does not hold: {check.name} ({check.figure}). {check.advice}")


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


def feasibility_check(search: Search, selection: Selection) -> Check:
    """Check that in the selection a candidate corrects more than it breaks and satisfies the constraints."""
    name = "a candidate is feasible"
    if selection.feasible:
        return Check(name, True, at_best=DO_NOT_USE)
    figure = f"none of {selection.n_candidates:,} candidates corrects more than it breaks within the constraints"
    return Check(name, False, figure, _obstacle(search, selection), DO_NOT_USE)


def _obstacle(search: Search, selection: Selection) -> str:
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
    target: Comparison | None,
    clean: Comparison | None,
    retained: Mapping[str, Comparison | None],
    draws: Mapping[str, Comparison | None],
    alternatives: Mapping[str, Comparison | None],
    constraints: Constraints,
) -> list[Check]:
    """Check what was measured on images that were not used to select the edit.

    Args:
        target: the comparison of the images with the concept before and after the edit; None if none was held out.
        clean: that of the clean images; None if none was held out.
        retained: that of each retained set, by name.
        draws: that of the images with the concept with each draw of random directions, by name.
        alternatives: that of the images with the concept with each alternative, by name.
        constraints: what the edit may cost.
    """
    checks = [
        generality_check(target),
        random_check(target, draws),
        baseline_check(target, alternatives),
        accuracy_check(clean, constraints),
    ]
    for name, comparison in retained.items():
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
    advice = advise_images(images_needed(target.corrected, target.broken, len(target.before)))
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
        advice = advise_images(images_needed(gained, lost, len(target.before)))
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
    allowed_drop = max(constraints.max_accuracy_drop, 100 / count)  # no set can resolve less than one image
    allowed = f"{allowed_drop:.2g} points" if allowed_drop == constraints.max_accuracy_drop else "one image"
    figure = f"{change}, and {allowed} may be lost"
    advice = "Pass more clean images, or try lower strengths and a higher reference_weight."
    if clean.accuracy_change >= -allowed_drop - 1e-9:
        return Check(name, True, figure, at_best=DO_NOT_USE)
    if high < -allowed_drop:
        return Check(name, False, figure, advice, DO_NOT_USE)

    def would_decide(images: int) -> bool:
        corrected = clean.corrected / count * images
        broken = clean.broken / count * images
        most = accuracy_interval(corrected, broken, images)[1]
        return most < -max(constraints.max_accuracy_drop, 100 / images)

    needed = advise_images(fewest_images(would_decide, count), "held-out clean images", None)
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
    allowed_broken = int(limit * correct + 1e-9) if correct >= enough else 0
    figure = f"{broken}, {share:.1%} [{low:.1%}, {high:.1%}], and {allowed_broken or 'none'} may break"
    advice = "Pass more retained images of that kind, or try lower strengths."
    if retained.broken <= allowed_broken:
        return Check(keeps, True, figure, at_best=DO_NOT_USE)
    if low > limit:
        return Check(keeps, False, figure, advice, DO_NOT_USE)

    def would_decide(images: int) -> bool:
        if share <= limit:
            return images >= enough
        return wilson(round(share * images), images)[0] > limit

    needed = advise_images(fewest_images(would_decide, correct), "held-out retained images", None)
    figure = f"{figure}, but the interval contains {constraints.max_retain_broken:g}%"
    return Check(keeps, False, figure, f"{needed} {advice}", UNCLEAR)
