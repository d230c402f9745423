"""The checks of a verdict: of the exemplars and the images before a search, and of what an edit does after it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from edittools._checks import warn
from edittools.activations import CachedActivations
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.metrics import (
    Comparison,
    accuracy_interval,
    changed_scenes,
    difference_interval,
    mcnemar,
    predict,
    predicted_classes,
    wilson,
)
from edittools.selection.constraints import FEWEST_COMPARED, Constraints
from edittools.selection.evaluation import Evaluation
from edittools.selection.finetuning import NO_LIMITS, Finetuned
from edittools.selection.search import SECOND_LAYER, Search, Selection
from edittools.selection.splits import FAILURES, REFERENCE_SHARE, RETAINED
from edittools.selection.verdict import (
    COSTS,
    DO_NOT_USE,
    FINETUNE,
    HELPS,
    INSTEAD,
    POWER,
    SIGNIFICANCE,
    UNCLEAR,
    USE,
    Check,
    fewest_images,
    images_needed,
    notices,
)

LIMITS = Constraints()
"""What an edit may cost; a selection by `repair` asks for half of it."""

FEWEST_CORRECT = 10
"""With fewer images with the concept that are correct without an edit, nothing can be seen to break."""

NOTICED_DROP = 0.01
"""A loss of this share of the clean images should be noticed."""

NOTICED_BREAK = 0.06
"""A loss of this share of a set of retained images should be noticed."""

LEAST_ALIKE = 0.1
"""The mistakes are those of the exemplar if at least this share of them is predicted as x' is."""

FAR_BELOW = 0.5
"""Labels are doubted if the accuracy is less than this share of what is expected of it."""

COVERED = 0.9
"""The mask covers the change if at least this share of |x' − x| is inside of it."""

FITTED = 0.5
"""An edit fits the exemplar if at most this share of the loss there is left."""

CLEAR_GAIN = 6
"""A constraint limits an edit if at least this many more images are corrected without it, and twice as many."""

WEAKER = "repair(…, strengths=(0.25, 0.5), settings=et.selection.grid(reference_weight=(30.0, 100.0)))"
"""The call that the advice on an exceeded limit names: it tries edits that change other outputs less."""

SWAPPED = "x is misclassified and x' is not: are they swapped?"
"""The advice if all is well with an exemplar but for the order of its images."""

LABELS = "Are the labels right?"
"""The advice if images are correct much less often than expected."""


# --- before the search ------------------------------------------------------------------------------------------------


def checks_before_search(search: Search, used: Sequence[int] | None = None) -> list[Check]:
    """Make the checks of a checklist that need no selected edit.

    Args:
        search: the search.
        used: indices in `Search.exemplar_members` of the exemplars to check; by default all of them.
    """
    checks = exemplar_checks(search, used)
    return [*checks, mistakes_check(search, used), *labels_checks(search.activations)]


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
        _object_check(search, exemplars, original),
    ]


def _object_check(search: Search, exemplars: Sequence[Exemplar], original: Sequence[int]) -> Check:
    """Check that x is predicted alike without what the mask covers, so that the mask does not cover the object."""
    covered = torch.stack([exemplar.covered for exemplar in exemplars])
    predicted = predicted_classes(predict(search.classifier, covered)).tolist()
    kept = sum(one == other for one, other in zip(predicted, original, strict=True))
    return Check(
        "the mask does not cover the object",
        kept > 0,
        f"with the masked area in one color, {kept} of {len(covered)} x are predicted as before",
        "Mark only what misleads: if the mask covers the object itself, x' shows no object.",
    )


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


def mistakes_check(search: Search, used: Sequence[int] | None = None) -> Check:
    """Check that images with the concept are mistaken for the class that x' is predicted as.

    Few of them are if labels are wrong, or if the images do not show the concept.

    Args:
        search: the search.
        used: indices of exemplars; by default all exemplars of the search.
    """
    cached = search.exemplar_activations
    used = list(range(len(search.exemplar_members)) if used is None else used)
    shown = predicted_classes(cached.original[used]).unique()
    target = search.target
    predicted = predicted_classes(target.original)[target.before]
    alike = int(torch.isin(predicted, shown).sum())
    errors = len(predicted)
    return Check(
        "images with the concept are mistaken for what x' is predicted as",
        alike >= LEAST_ALIKE * errors if errors else None,
        f"{alike:,} of {errors:,} misclassified images with the concept are predicted as x' is",
        "Do these images show what the exemplar changes? Are their labels right?",
    )


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
        "concept": ("target", "target_test"),
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
            what = "images with the concept" if other == "concept" else f"{other} images"
            expected[f"while {share:.0%} of the {what} are"] = share
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
    return Check(
        "the search is complete",
        complete,
        "" if complete else f"the search was interrupted after {candidates:,} candidates",
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
            "No edit corrects more images with the concept than it breaks: what they show is not what the exemplar "
            "changes, or they are misclassified for another reason. Try another exemplar."
        )
    return limiting_constraint(search, selection) or (
        f"Edits correct up to {most} of {int(outcomes.before.sum())} misclassified images, net, but exceed a limit: "
        f"{search.describe_constraints()}. Try more clean and retained images, another exemplar, or a smaller change."
    )


def limiting_constraint(search: Search, selection: Selection) -> str:
    """Say which constraint decides how many images an edit corrects.

    It is the first one without which at least twice as many images are corrected, and at least `CLEAR_GAIN` more. If
    there is none, it may be several constraints together. Everything is measured on images that were used for
    selection.

    Args:
        search: the search.
        selection: the selection in this search.

    Returns:
        What the candidate that is selected without that constraint corrects and costs, and what to do; empty if no
        constraint decides.
    """
    corrected = int(selection.scores["corrected"])
    enough = max(2 * corrected, corrected + CLEAR_GAIN)
    outcomes = selection.outcomes
    if not len(outcomes) or int(outcomes.corrected.max()) < enough:
        return ""
    for decides, advice, constraints in _loosened_constraints(search):
        found = search.select(outcomes, constraints=constraints)
        if found.scores["corrected"] >= enough:
            effect = {"target": Comparison(outcomes.before, found.wrong), **found.costs}
            described = _describe(Evaluation.of_comparisons(search, effect))
            return f"On images used for selection, {decides}: {described}. {advice}"
    return ""


def _loosened_constraints(search: Search) -> list[tuple[str, str, Constraints]]:
    """List the constraints of a search without each of them, and without all: which one it is, and what to do."""
    limits = search.constraints
    loosened = []
    if "retain" in search.activations:
        decides = f"the limit on retained images ({limits.max_retain_broken:g}% broken) stands in the way. Without it"
        advice = "If these images rely on the same rule, pass others that should keep their predictions."
        loosened.append((decides, advice, replace(limits, max_retain_broken=NO_LIMITS.max_retain_broken)))
    decides = f"the limit on accuracy (a loss of {limits.max_accuracy_drop:g} points) stands in the way. Without it"
    advice = "If some of the clean images show the concept, or are labeled wrongly, leave them out."
    loosened.append((decides, advice, replace(limits, max_accuracy_drop=NO_LIMITS.max_accuracy_drop)))
    advice = "Try another exemplar, or a mask that fits the concept."
    if search.accuracy_without_concept is not None:
        decides = (
            f"the limit on the concept's own class ({limits.max_own_drop:g} points fewer correct than without the "
            "concept) stands in the way. Without it"
        )
        loosened.append((decides, advice, replace(limits, max_own_drop=NO_LIMITS.max_own_drop)))
    loosened.append(("no limit alone stands in the way. Without any", advice, NO_LIMITS))
    return loosened


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
    """Check that x' is predicted with the edit as x is without it.

    Args:
        reliable: number of exemplars for which it is.
        exemplars: number of exemplars that the edit was made from.
    """
    figure = f"with the edit, x' is predicted as x for {reliable} of {exemplars} exemplars"
    return Check(
        "x' is predicted as x with the edit", reliable == exemplars, figure, "Try more strength or a higher rank."
    )


def describe_effect(target: Comparison, images: str) -> str:
    """Say how many images an edit corrects and breaks; `images` is what to call them."""
    total = len(target.before)
    errors = int(target.before.sum())
    text = f"it corrects {target.corrected} of {errors:,} misclassified"
    if total > errors:
        text += f" and breaks {target.broken} of {total - errors:,} correct"
    return f"{text} {images}"


# --- helps ------------------------------------------------------------------------------------------------------------


def help_checks(found: Evaluation, draws: Sequence[Comparison], source: str) -> list[Check]:
    """Check that an edit helps on new images with the concept.

    Args:
        found: what the edit does to images that were not used to select it.
        draws: the comparisons of the same images with the concept with draws of random directions.
        source: how the images were chosen, one of `SOURCES`.
    """
    return [gain_check(found), breakable_check(found, source), random_check(found, draws)]


def gain_check(found: Evaluation) -> Check:
    """Check that the edit corrects more images with the concept than it breaks, with p ≤ 0.05.

    Images of one scene count as one in the test.
    """
    name = f"it corrects more than it breaks, with p ≤ {SIGNIFICANCE}"
    target = found.target
    if target is None:
        figure = "no image with the concept was held out of the selection"
        advice = "Select by cross-validation (splits.with_folds()), or pass images for evaluation only."
        return Check(name, None, figure, advice, DO_NOT_USE, HELPS)
    gained, lost = changed_scenes(target, found.scenes)
    p = mcnemar(gained, lost)
    figure = describe_effect(target, "held-out images")
    if target.before.any():
        low, high = target.corrected_interval()
        figure += f", net {target.errors_corrected:.0%} [{low:.0%}, {high:.0%}] of the errors"
    figure += f" (p {p:.2g})"
    scenes = len(target.before) if found.scenes is None else len(found.scenes.unique())
    what = "images with the concept"
    if scenes < len(target.before):
        figure += f"; the images show {scenes} scenes, which count as one each"
        what = "scenes with the concept"
    advice = "Try another exemplar, a mask that fits the concept, or more images with the concept to select on."
    if target.corrected <= target.broken:
        return Check(name, False, figure, advice, DO_NOT_USE, HELPS)
    if p <= SIGNIFICANCE:
        return Check(name, True, figure, at_best=UNCLEAR, line=HELPS)
    needed = images_needed(gained, lost, scenes)
    if needed is not None:
        advice = (
            f"Collect about {needed:,} {what}: at these shares, so many in all would decide with a probability of "
            f"{POWER:.0%}."
        )
    return Check(name, False, f"{figure}, which may be chance", advice, UNCLEAR, HELPS)


def breakable_check(found: Evaluation, source: str) -> Check:
    """Check that images with the concept can be seen to break: some are correct without an edit."""
    name = "some images with the concept are correct without the edit"
    advice = (
        "Only images that are right can break: pass a sample of all images with the concept, of which at least "
        f"{FEWEST_CORRECT} are right."
    )
    if source == FAILURES:
        figure = "the images with the concept were chosen because they fail, so what the edit breaks is not seen"
        return Check(name, False, figure, advice, UNCLEAR, HELPS)
    if found.target is None:
        return Check(name, None, "", advice, UNCLEAR, HELPS)
    correct = int((~found.target.before).sum())
    figure = f"of {len(found.target.before):,} images with the concept, {correct:,} are correct without the edit"
    if correct < FEWEST_CORRECT:
        return Check(name, False, f"{figure}, too few to see what it breaks", advice, UNCLEAR, HELPS)
    return Check(name, True, figure, at_best=UNCLEAR)


def random_check(found: Evaluation, draws: Sequence[Comparison]) -> Check:
    """Check that the edit corrects more images, net, than random directions do on average."""
    name = "it corrects more than random directions"
    if found.target is None or not draws:
        return Check(name, None, "random directions were not measured", "", USE, HELPS)
    net = found.target.corrected - found.target.broken
    mean = sum(draw.corrected - draw.broken for draw in draws) / len(draws)
    figure = f"random directions correct {mean:.1f} net (the mean of {len(draws)} draws), and the edit {net}"
    advice = "Try another exemplar, a mask that fits the concept, or other layers."
    return Check(name, net > mean, figure, advice, UNCLEAR, HELPS)


# --- costs ------------------------------------------------------------------------------------------------------------


def cost_checks(found: Evaluation, without_concept: torch.Tensor) -> list[Check]:
    """Check each cost of an edit: whether it is within its limit, and whether there are enough images to tell.

    Args:
        found: what the edit does to images that were not used to select it.
        without_concept: see `Search.without_concept`.
    """
    checks = [accuracy_check(found.clean)]
    if found.retained:
        checks += [retained_check(name, comparison) for name, comparison in found.retained.items()]
    else:
        advice = "With retain=, pass images that legitimately rely on the concept."
        checks.append(Check("retained images are given", None, "no retained images were given", advice, line=COSTS))
    checks.append(own_class_check(found.own_class, without_concept))
    return checks


def is_within_limits(found: Evaluation, without_concept: torch.Tensor) -> bool:
    """Return whether no measured cost exceeds its limit; the arguments are those of `cost_checks`."""
    if found.clean is not None and _loses_too_much(found.clean):
        return False
    if any(retained is not None and _breaks_too_many(retained) for retained in found.retained.values()):
        return False
    own_class = found.own_class
    if own_class is None or min(len(own_class.before), len(without_concept)) < FEWEST_COMPARED:
        return True
    accuracy = float(without_concept.float().mean())
    return int(own_class.after.sum()) <= LIMITS.most_wrong("own_class", own_class.before, accuracy)


def _loses_too_much(clean: Comparison) -> bool:
    """Return whether the number of correct clean images drops by more than is allowed."""
    return clean.broken - clean.corrected > _most_lost(len(clean.before))


def _breaks_too_many(retained: Comparison) -> bool:
    """Return whether more retained images break than is allowed, of those that were correct."""
    return retained.broken > LIMITS.may_break(int((~retained.before).sum()))


def accuracy_check(clean: Comparison | None) -> Check:
    """Check that accuracy on clean images is kept; one image may be lost in any case.

    Args:
        clean: the comparison of the clean images; None if none was held out.
    """
    name = "accuracy on clean images is kept"
    if clean is None:
        figure = "accuracy was not measured on clean images that were not used for selection"
        return Check(name, None, figure, "Pass clean images for evaluation.", DO_NOT_USE, COSTS)
    count = len(clean.before)
    allowed = _most_lost(count)
    low, high = clean.accuracy_interval()
    of_images = "one image" if allowed == 1 else f"{allowed:,} images"
    figure = (
        f"accuracy on {count:,} clean images changes by {clean.accuracy_change:+.2f} points [{low:+.2f}, {high:+.2f}] "
        f"(limit: a loss of {of_images})"
    )
    if _loses_too_much(clean):
        is_certain = high < -100 * allowed / count
        return _exceeded(name, figure, is_certain, _fewest_clean(count, clean), "held-out clean images")
    if notices(count, NOTICED_DROP, allowed):
        return Check(name, True, figure, at_best=DO_NOT_USE, line=COSTS)
    needed = fewest_images(lambda images: notices(images, NOTICED_DROP, _most_lost(images)), count)
    figure += f"; a loss of {NOTICED_DROP:.0%} would be noticed with {needed:,} held-out images"
    advice = f"Pass about {_in_all(needed):,} clean images in all; a quarter of them serve as reference images."
    return Check(name, False, figure, advice, UNCLEAR, COSTS)


def _most_lost(count: int) -> int:
    """Return by how many images accuracy may be lower; no set can resolve less than one image."""
    return max(LIMITS.may_lose(count), 1)


def _in_all(held_out: int | None) -> int:
    """Return how many clean images leave a number of them held out, when some serve as reference images."""
    return -(-int(held_out or 0) * 100 // int(100 * (1 - REFERENCE_SHARE)))


def _fewest_clean(count: int, clean: Comparison) -> int | None:
    """Return about how many clean images would show a loss at the observed shares."""

    def would_decide(images: int) -> bool:
        high = accuracy_interval(clean.corrected / count * images, clean.broken / count * images, images)[1]
        return high < -100 * _most_lost(images) / images

    return fewest_images(would_decide, count)


def _exceeded(name: str, figure: str, is_certain: bool, needed: int | None, images: str) -> Check:
    """Return the check of a cost above its limit.

    Args:
        name: the name of the check.
        figure: what was measured, and the limit.
        is_certain: whether the 95% interval of the cost lies wholly above the limit.
        needed: the number of images with which it would, at the observed shares; None if there is no such number.
        images: what to call them.
    """
    advice = f"Try another exemplar, or weaker edits: in Python, {WEAKER}."
    if is_certain:
        return Check(name, False, f"{figure}, which exceeds the limit", advice, DO_NOT_USE, COSTS)
    figure += ", which exceeds the limit, perhaps by chance"
    if needed is not None:
        advice += f" The cost may be chance: at these shares, about {needed:,} {images} would tell."
    return Check(name, False, figure, advice, UNCLEAR, COSTS)


def retained_check(name: str, retained: Comparison | None) -> Check:
    """Check that the edit breaks few of a set of retained images, of those that were correct before.

    Args:
        name: the name of the set.
        retained: the comparison of its images; None if there are none.
    """
    title = RETAINED if name == RETAINED else f"{RETAINED} {name!r}"
    keeps = f"predictions on the {title} are kept"
    if retained is None:
        return Check(keeps, None, f"there are no {title}", "Pass images of that kind.", DO_NOT_USE, COSTS)
    correct = int((~retained.before).sum())
    low, high = wilson(retained.broken, correct)
    share = retained.broken / max(correct, 1)
    allowed = LIMITS.may_break(correct)
    limit = LIMITS.max_retain_broken / 100
    figure = (
        f"it breaks {retained.broken} of {correct:,} {title} that were correct, {share:.1%} [{low:.1%}, {high:.1%}] "
        f"(limit: {allowed})"
    )
    if _breaks_too_many(retained):

        def would_decide(images: int) -> bool:
            return wilson(round(share * images), images)[0] > limit

        needed = fewest_images(would_decide, correct)
        return _exceeded(keeps, figure, low > limit, needed, f"{title} that are classified correctly")
    if notices(correct, NOTICED_BREAK, allowed):
        return Check(keeps, True, figure, at_best=DO_NOT_USE, line=COSTS)
    needed = fewest_images(lambda images: notices(images, NOTICED_BREAK, LIMITS.may_break(images)), correct)
    figure += f"; a loss of {NOTICED_BREAK:.0%} would be noticed with {needed:,}"
    advice = f"Pass, in all, about {needed:,} {title} that are classified correctly."
    if correct < FAR_BELOW * len(retained.before):
        advice = f"{LABELS} {advice}"
    return Check(keeps, False, figure, advice, UNCLEAR, COSTS)


def own_class_check(own_class: Comparison | None, without_concept: torch.Tensor) -> Check:
    """Check that images of the concept's own class are about as often correct with the concept as without it.

    Args:
        own_class: the comparison of its images with the concept; None if there are none.
        without_concept: which images of this class without the concept are correct without an edit, `(n,)` booleans.
    """
    name = "the concept's own class is kept"
    count = 0 if own_class is None else len(own_class.before)
    others = len(without_concept)
    if own_class is None or min(count, others) < FEWEST_COMPARED:
        figure = f"the cost on the concept's own class is not known ({count} images of it with the concept"
        if count:
            correct, correct_before = (int((~wrong).sum()) for wrong in (own_class.after, own_class.before))
            figure += f", of which {correct} are correct with the edit and {correct_before} without it"
            figure += f", {others} without the concept"
        figure += ")"
        advice = (
            f"Pass at least {FEWEST_COMPARED} images with the concept of the class that x' is predicted as, and as "
            "many clean images of this class."
        )
        return Check(name, None, figure, advice, USE, COSTS)
    correct = int((~own_class.after).sum())
    correct_before = int((~own_class.before).sum())
    correct_without = int(without_concept.sum())
    low, high = difference_interval(correct, count, correct_without, others)
    figure = (
        f"in the concept's own class, {correct / count:.0%} of {count:,} images with the concept are "
        f"correct ({correct_before / count:.0%} before the edit), and {correct_without / others:.0%} of {others:,} "
        f"without the concept (limit: {LIMITS.max_own_drop:g} points fewer)"
    )
    most_wrong = LIMITS.most_wrong("own_class", own_class.before, correct_without / others)
    if count - correct <= most_wrong:
        return Check(name, True, figure, at_best=DO_NOT_USE, line=COSTS)
    figure += f", a difference of {100 * (correct / count - correct_without / others):+.0f} points "
    figure += f"[{100 * low:+.0f}, {100 * high:+.0f}]"

    def would_decide(images: int) -> bool:
        of_images = round(correct / count * images)
        of_others = round(correct_without / others * images)
        return 100 * difference_interval(of_images, images, of_others, images)[1] < -LIMITS.max_own_drop

    needed = fewest_images(would_decide, min(count, others))
    is_certain = 100 * high < -LIMITS.max_own_drop
    images = "held-out images of the concept's own class with the concept, and as many without it"
    return _exceeded(name, figure, is_certain, needed, images)


# --- instead ----------------------------------------------------------------------------------------------------------


def instead_checks(
    same_images: Evaluation | None,
    finetuned: Mapping[str, Finetuned],
    others: Mapping[str, Evaluation],
    without_concept: torch.Tensor,
    not_compared: str = "",
) -> list[Check]:
    """Compare with what a user would do instead: fine-tune, which is tested; and others, which are listed.

    Args:
        same_images: what the edit does to the images that did not train the fine-tuned networks; None without such
            networks.
        finetuned: fine-tuned networks by name; the first one is tested.
        others: what other alternatives do, by name.
        without_concept: see `Search.without_concept`.
        not_compared: which fine-tuning was not compared, and why, as a clause; may be empty.
    """
    checks = []
    if finetuned and same_images is not None:
        name, rival = next(iter(finetuned.items()))
        checks.append(finetuning_check(name, rival.evaluation, same_images, without_concept))
    else:
        not_compared = not_compared or "fine-tuning was not compared"
    if not_compared:
        checks.append(Check("fine-tuning is compared", None, not_compared, line=INSTEAD))
    listed = {name: one.evaluation for name, one in list(finetuned.items())[1:]}
    for name, other in {**listed, **others}.items():
        checks.append(Check(f"{name} is compared", True, f"{name}: {_describe(other)}", line=INSTEAD))
    return checks


def finetuning_check(name: str, rival: Evaluation, edit: Evaluation, without_concept: torch.Tensor) -> Check:
    """Check that fine-tuning does not correct significantly more within the limits than the edit on the same images."""
    title = f"{name} does not correct significantly more"
    if rival.target is None or edit.target is None:
        return Check(title, None, "", "", USE, INSTEAD)
    difference = Comparison(edit.target.after, rival.target.after)
    p = mcnemar(*changed_scenes(difference, rival.scenes))
    of_rival = rival.target.corrected - rival.target.broken
    of_edit = edit.target.corrected - edit.target.broken
    is_within = is_within_limits(rival, without_concept)
    is_better = of_rival > of_edit and p <= SIGNIFICANCE and is_within
    figure = (
        f"{name}: {_describe(rival)}; the edit on the same images: {_describe(edit)} (p {p:.2g} for the difference)"
    )
    if not is_within:
        figure += f"; {name} exceeds a limit"
    advice = f"Use fix.alternatives[{name!r}], or train a network yourself and pass it as alternatives=."
    return Check(title, not is_better, figure, advice, FINETUNE, INSTEAD)


def _describe(found: Evaluation) -> str:
    """Say in a few words what an edit or an alternative corrects, and what it costs."""
    parts = []
    if found.target is not None:
        errors = int(found.target.before.sum())
        parts.append(f"{found.target.corrected} of {errors:,} corrected and {found.target.broken} broken")
    if found.clean is not None:
        parts.append(f"accuracy {found.clean.accuracy_change:+.2f} points")
    retained = found.all_retained
    if retained is not None:
        parts.append(f"{retained.broken} of {int((~retained.before).sum()):,} retained images broken")
    own_class = found.own_class
    if own_class is not None:
        correct = int((~own_class.after).sum())
        parts.append(f"{correct} of {len(own_class.after):,} images of the concept's own class correct")
    return ", ".join(parts)
