"""The checks of a verdict: of the exemplars, of the images, and of what a selected edit does to labeled ones.

All numbers count scenes: frames of one scene are one observation. `edittools.reports.words` says them in sentences.
"""

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

import torch

from edittools._checks import warn
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar, all_exemplars
from edittools.metrics import predict, predicted_classes
from edittools.reports.words import PYTHON, check_words
from edittools.selection.effects import Effect
from edittools.selection.splits import FAILURES, Splits
from edittools.stats import (
    FEWEST_CHANGED,
    SIGNIFICANCE,
    difference_interval,
    images_for_limit,
    images_for_mcnemar,
    mcnemar,
    probability_of_more,
    wilson,
)
from edittools.verdict import DO_NOT_USE, FINETUNE, UNCLEAR, USE, Check, Cost, Kind, judge

MAX_ACCURACY_DROP = 0.25
"""Points of accuracy that an edit may lose on clean images (section 4.2 of the paper)."""

MAX_RETAINED_BROKEN = 3.0
"""Percent of the retained scenes that an edit may break, of those that were correct before."""

MAX_OWN_DROP = 3.0
"""By how many points the accuracy of the mark's class may be lower with the mark than without it."""

FEWEST_CORRECT = 10
"""With fewer images with the mark that are correct without an edit, nothing can be seen to break."""

ENOUGH_OWN = 60
"""With this number of images of the mark's class with the mark, none of which is lost, the cost on it is known."""

NOTICE = 0.9
"""There are enough images to measure a cost if a loss well above its limit is noticed with this probability."""

NOTICED_DROP = 0.01
"""A loss of this share of the clean images should be noticed."""

ENOUGH_CLEAN = 388
"""With this number of clean images, and with more, it is."""

NOTICED_BREAK = 0.06
"""A loss of this share of a set of retained images should be noticed."""

ENOUGH_RETAINED = 110
"""With this number of retained images that are correct, and with more, it is."""

LEAST_ALIKE = 0.1
"""The mistakes are those of the exemplar if at least this share of them is predicted as x' is."""

FAR_BELOW = 0.5
"""Labels are doubted if the accuracy is less than this share of what is expected of it."""

COVERED = 0.9
"""The mask covers the change if at least this share of |x' − x| is inside of it."""

COVERED_CLASSES = 2 / 3
"""Clean images cover the classes if they show at least this share of those that a random sample would show."""


# --- the exemplars ----------------------------------------------------------------------------------------------------


def exemplar_checks(classifier: Classifier, exemplars: Mapping[str, Sequence[Exemplar]]) -> list[Check]:
    """Check that the exemplars show the mistake."""
    names = [name for name, group in exemplars.items() for _ in group]
    members = all_exemplars(exemplars)
    original = predicted_classes(predict(classifier, torch.stack([one.image for one in members]))).tolist()
    changed = predicted_classes(predict(classifier, torch.stack([one.changed for one in members]))).tolist()
    labeled = [(one.label, x) for one, x in zip(members, original, strict=True) if one.label is not None]
    is_alike = [x == changed_x for x, changed_x in zip(original, changed, strict=True)]
    is_swapped = []
    for one, x, changed_x in zip(members, original, changed, strict=True):
        is_swapped.append(one.label is not None and x != one.label == changed_x)
    inside = min(change_inside_mask(one) for one in members)
    of_original = {
        "names": names,
        "classes": [classifier.classes[index] for index in original],
        "is_labeled": bool(labeled),
        "is_swapped": any(is_swapped),
    }
    of_changed = {
        "names": names,
        "classes": [classifier.classes[index] for index in changed],
        "alike": sum(is_alike),
    }
    return [
        Check(
            Kind.ORIGINAL,
            all(label == index for label, index in labeled) if labeled else None,
            DO_NOT_USE if is_swapped and all(is_swapped) else USE,
            numbers=of_original,
        ),
        Check(Kind.CHANGED, not any(is_alike), DO_NOT_USE if all(is_alike) else USE, numbers=of_changed),
        Check(Kind.MASK_COVERS_CHANGE, inside >= COVERED, numbers={"inside": inside}),
    ]


def change_inside_mask(exemplar: Exemplar) -> float:
    """Compute the share of |x' − x| inside the mask; 0 if x and x' do not differ."""
    difference = (exemplar.changed - exemplar.image).abs().sum(dim=0)
    total = float(difference.sum())
    return float((difference * exemplar.mask).sum()) / total if total else 0.0


def warn_about(checks: Sequence[Check]) -> None:
    """Warn about each check that fails.

    Warns:
        UserWarning: for each check that fails, with what was found and what to do.
    """
    for check in checks:
        if check.holds is False:
            warn(str(check_words(check, PYTHON)))


# --- the images -------------------------------------------------------------------------------------------------------


def images_checks(classifier: Classifier, splits: Splits, effects: Mapping[str, Effect]) -> list[Check]:
    """Check the labeled images before an edit: their mistakes, their labels, and the classes that they cover."""
    checks = []
    if "concept" in effects:
        checks.append(_mistakes_check(classifier, splits, effects["concept"]))
    for name in ("clean", *splits.retain):
        if name in effects:
            checks.append(_labels_check(name, effects))
    if splits.clean is not None:
        checks.append(coverage_check(splits, classifier.classes))
    return checks


def _mistakes_check(classifier: Classifier, splits: Splits, concept: Effect) -> Check:
    """Check that images with the mark are mistaken for the class that x' is predicted as.

    Few of them are if labels are wrong, or if the images do not show the mark.
    """
    is_error = concept.before != concept.labels
    own = torch.tensor(splits.own_classes, dtype=torch.long)
    alike = int(torch.isin(concept.before[is_error], own).sum())
    errors = int(is_error.sum())
    numbers = {"alike": alike, "errors": errors, "classes": names_of(splits.own_classes, classifier.classes)}
    return Check(Kind.MISTAKES, alike >= LEAST_ALIKE * errors if errors else None, numbers=numbers)


def _labels_check(name: str, effects: Mapping[str, Effect]) -> Check:
    """Check that the images of a set are about as often correct as those of the other sets.

    Images that were misclassified before an edit cannot break. So if labels are wrong, such as labels counted from 1
    instead of 0, any edit seems to cost nothing.
    """
    shares = {other: float((effect.before == effect.labels).float().mean()) for other, effect in effects.items()}
    most = max((share for other, share in shares.items() if other != name), default=None)
    numbers = {"share": shares[name], "most": most, "count": len(effects[name])}
    if most is None:
        return Check(Kind.LABELS, None, about=name, numbers=numbers)
    return Check(Kind.LABELS, shares[name] >= FAR_BELOW * most, UNCLEAR, about=name, numbers=numbers)


def coverage_check(splits: Splits, classes: Sequence[str]) -> Check:
    """Check that clean images show the mark's class, those of the images with the mark, and a good part of all.

    Otherwise a cost on the other classes is not seen.
    """
    clean = splits.clean
    shown = set(clean.labels.tolist())
    scenes = len(splits.scenes["clean"].unique())
    expected = len(classes) * (1 - (1 - 1 / len(classes)) ** scenes)
    concept = set(splits.concept.labels.tolist()) if splits.concept is not None else set()
    of_concept = len(concept & shown) / len(concept) if concept else 1.0
    missing = [index for index in splits.own_classes if index not in shown]
    if of_concept < COVERED_CLASSES * expected / len(classes):
        missing += sorted(concept - shown)
    if len(shown) < COVERED_CLASSES * expected:
        missing += [index for index in range(len(classes)) if index not in shown]
    names = list(dict.fromkeys(classes[index] for index in missing))
    numbers = {"shown": len(shown), "classes": len(classes), "missing": names}
    return Check(Kind.COVERAGE, not missing, UNCLEAR, numbers=numbers)


def names_of(indices: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Return the names of classes."""
    return [classes[index] for index in indices]


# --- the selection ----------------------------------------------------------------------------------------------------


def objective_check(before: float, after: float, weaker: float | None = None) -> Check:
    """Check that the selected edit lowers the objective.

    Args:
        before: the objective without an edit.
        after: the objective with it.
        weaker: the weight of the images without the mark that selects a weaker edit; None if no weight does.
    """
    numbers = {"before": before, "after": after, "weaker": weaker}
    return Check(Kind.OBJECTIVE, after < before, DO_NOT_USE, numbers=numbers)


# --- helps ------------------------------------------------------------------------------------------------------------


def help_checks(concept: Effect | None, draws: Sequence[Effect], source: str) -> list[Check]:
    """Check that an edit helps on images with the mark of other classes than the mark's."""
    if concept is None:
        return [Check(Kind.GAIN, None, UNCLEAR)]
    return [gain_check(concept), breakable_check(concept, source), random_check(concept, draws)]


def gain_check(concept: Effect) -> Check:
    """Check that the edit corrects more scenes with the mark than it breaks, with p ≤ 0.05."""
    found = concept.by_scene
    p = mcnemar(found.corrected, found.broken)
    is_gain = found.corrected > found.broken
    low, high = found.corrected_interval()
    numbers = {
        **counts_of(concept),
        "share": found.errors_corrected,
        "low": low,
        "high": high,
        "p": p,
        "needed": images_for_mcnemar(found.corrected, found.broken, len(found.before)),
    }
    return Check(Kind.GAIN, is_gain and p <= SIGNIFICANCE, UNCLEAR if is_gain else DO_NOT_USE, numbers=numbers)


def counts_of(effect: Effect) -> dict[str, Any]:
    """Count what an edit corrects and breaks, of how many; "unit" says whether images or scenes are counted."""
    found = effect.by_scene
    errors = int(found.before.sum())
    return {
        "corrected": found.corrected,
        "errors": errors,
        "broken": found.broken,
        "correct": len(found.before) - errors,
        "unit": "images" if effect.scene_count == len(effect) else "scenes",
    }


def breakable_check(concept: Effect, source: str) -> Check:
    """Check that images with the mark can be seen to break: some are correct without an edit."""
    found = concept.by_scene
    correct = int((~found.before).sum())
    is_sample = source != FAILURES
    numbers = {"correct": correct, "total": len(found.before), "is_sample": is_sample, "fewest": FEWEST_CORRECT}
    return Check(Kind.BREAKABLE, is_sample and correct >= FEWEST_CORRECT, UNCLEAR, numbers=numbers)


def random_check(concept: Effect, draws: Sequence[Effect]) -> Check:
    """Check that the edit corrects more, net, than random directions do on average."""
    if not draws:
        return Check(Kind.RANDOM, None)
    found = concept.by_scene
    net = found.corrected - found.broken
    of_draws = [draw.by_scene for draw in draws]
    mean = sum(draw.corrected - draw.broken for draw in of_draws) / len(draws)
    return Check(Kind.RANDOM, net > mean, UNCLEAR, numbers={"net": net, "mean": mean, "draws": len(draws)})


# --- costs ------------------------------------------------------------------------------------------------------------


def cost_checks(splits: Splits, effects: Mapping[str, Effect], classes: Sequence[str]) -> list[Check]:
    """Check each cost of an edit: whether it is within its limit, and whether there are enough images to tell.

    Args:
        splits: the image sets.
        effects: what the edit does to each labeled set.
        classes: the class names of the classifier.
    """
    checks = [accuracy_check(effects.get("clean"))]
    checks += [retained_check(name, effects[name]) for name in splits.retain if name in effects]
    if not splits.retain:
        checks.append(Check(Kind.RETAINED, None))
    own_class = effects.get("own_class")
    names = names_of(splits.own_classes, classes)
    checks.append(own_class_check(own_class, clean_of_own_class(splits, effects), names))
    return checks


def clean_of_own_class(splits: Splits, effects: Mapping[str, Effect]) -> Effect | None:
    """Return what an edit does to clean images of the mark's class; None if there are none."""
    if "clean" not in effects:
        return None
    clean = effects["clean"]
    is_own = torch.isin(clean.labels, torch.tensor(splits.own_classes, dtype=torch.long))
    return clean.of(is_own) if is_own.any() else None


def is_within_limits(splits: Splits, effects: Mapping[str, Effect], classes: Sequence[str]) -> bool:
    """Tell whether no measured cost exceeds its limit; the arguments are those of `cost_checks`."""
    return all(check.holds is not False for check in cost_checks(splits, effects, classes))


def accuracy_limit(scenes: int) -> float:
    """Return how many clean scenes an edit may lose, net; no set can resolve less than one."""
    return max(scenes * MAX_ACCURACY_DROP / 100, 1.0)


def accuracy_check(clean: Effect | None) -> Check:
    """Check that accuracy on clean images is kept; one scene may be lost in any case."""
    if clean is None:
        return Check(Kind.ACCURACY, None, UNCLEAR)
    found = clean.by_scene
    total = len(found.before)
    limit = accuracy_limit(total)
    low, high = found.accuracy_interval()
    cost = Cost(
        before=int((~found.before).sum()),
        after=int((~found.after).sum()),
        total=total,
        images=len(clean),
        lost=found.broken - found.corrected,
        limit=limit,
        interval=(-high / 100 * total, -low / 100 * total),
        is_enough=probability_of_more(total, NOTICED_DROP, floor(limit + 1e-9)) >= NOTICE,
        needed=ENOUGH_CLEAN,
    )
    return judge(Kind.ACCURACY, cost, numbers={"changed": clean.changed_by_scene})


def retained_check(name: str, retained: Effect) -> Check:
    """Check that the edit breaks few of a set of retained images, of those that were correct before."""
    broken, correct = retained.broken_by_scene
    if not correct:
        return Check(Kind.RETAINED, None, UNCLEAR, about=name)
    limit = correct * MAX_RETAINED_BROKEN / 100
    low, high = wilson(broken, correct)
    cost = Cost(
        before=correct,
        after=correct - broken,
        total=correct,
        images=correct if retained.scene_count == len(retained) else len(retained),
        lost=broken,
        limit=limit,
        interval=(low * correct, high * correct),
        is_enough=probability_of_more(correct, NOTICED_BREAK, floor(limit + 1e-9)) >= NOTICE,
        needed=ENOUGH_RETAINED,
    )
    return judge(Kind.RETAINED, cost, about=name)


def own_class_check(own_class: Effect | None, without_mark: Effect | None, classes: Sequence[str]) -> Check:
    """Check that images of the mark's class with the mark are about as often correct as before, or as without the mark.

    An edit should take the mark's help from its class, and no more. So what counts as lost is what the edit changes,
    but only as far as the class is then correct less often than without the mark. The class is measured only if the
    interval of this loss is within the limit.

    Args:
        own_class: what the edit does to labeled images of this class with the mark; None if there are none.
        without_mark: what it does to clean images of this class; None if there are none.
        classes: the names of the class, or of the classes.
    """
    numbers: dict[str, Any] = {"classes": list(classes), "enough": ENOUGH_OWN}
    if own_class is None:
        return Check(Kind.OWN_CLASS, None, UNCLEAR, numbers=numbers)
    found = own_class.by_scene
    total = len(found.before)
    before, after = (int((~wrong).sum()) for wrong in (found.before, found.after))
    change = found.accuracy_interval()
    lost = [float(before - after)]
    intervals = [(-change[1] / 100 * total, -change[0] / 100 * total)]
    changed_share = (found.corrected + found.broken) / total
    needed = images_for_limit(lost[0] / total, changed_share - (lost[0] / total) ** 2, MAX_OWN_DROP / 100)
    needs_clean = needed is None
    if without_mark is not None:
        of_clean = without_mark.by_scene
        without = int((~of_clean.before).sum())
        count = len(of_clean.before)
        numbers |= {"without_correct": without, "without_total": count}
        lost.append(total * without / count - after)
        low, high = difference_interval(without, count, after, total)
        intervals.append((low * total, high * total))
        shares = (without / count, after / total)
        variance = sum(share * (1 - share) for share in shares)
        of_both = images_for_limit(shares[0] - shares[1], variance, MAX_OWN_DROP / 100)
        if needed is None or (of_both is not None and of_both < needed):
            needed = of_both
            needs_clean = True
    limit = total * MAX_OWN_DROP / 100 + 1  # no set can resolve less than one scene
    least, most = (min(ends) for ends in zip(*intervals, strict=True))
    numbers["needs_clean"] = needs_clean
    cost = Cost(
        before=before,
        after=after,
        total=total,
        images=len(own_class),
        lost=min(lost),
        limit=limit,
        interval=(least, most),
        is_enough=most <= limit,
        needed=None if needed is None else max(needed, total + 1),
    )
    return judge(Kind.OWN_CLASS, cost, numbers=numbers)


def own_hosts_check(own_hosts: Effect | None, classes: Sequence[str]) -> Check:
    """Check that ordinary images of the mark's class are predicted, with the mark, about as often as without it.

    A clear fall is a cost to this class that the labeled images with the mark may not show. Without a fall, nothing is
    known about images that really show the mark.

    Args:
        own_hosts: what the edit does to them, with their predictions without the mark as labels; None if there are no
            hosts.
        classes: the names of the class, or of the classes.
    """
    if own_hosts is None:
        return Check(Kind.OWN_HOSTS, None)
    found = own_hosts.by_scene
    alike_before, alike = (int((~differs).sum()) for differs in (found.before, found.after))
    numbers = {"classes": list(classes), "alike_before": alike_before, "alike": alike, "total": len(found.before)}
    if alike_before < FEWEST_CHANGED:
        return Check(Kind.OWN_HOSTS, None, numbers=numbers)
    falls = alike < alike_before and mcnemar(found.corrected, found.broken) < SIGNIFICANCE
    return Check(Kind.OWN_HOSTS, not falls, UNCLEAR, numbers=numbers)


# --- instead ----------------------------------------------------------------------------------------------------------


def instead_check(
    splits: Splits, effects: Mapping[str, Effect], finetuned: Mapping[str, Effect], classes: Sequence[str]
) -> Check:
    """Compare an edit with fine-tuning on the same labeled images.

    Args:
        splits: the image sets.
        effects: what the edit does to each labeled set.
        finetuned: what the fine-tuned network does to each labeled set; empty if it was not made.
        classes: the class names of the classifier.
    """
    if not finetuned or "concept" not in effects or effects["concept"].scene_count < FEWEST_CHANGED:
        return Check(Kind.FINETUNING, None, numbers={"is_made": bool(finetuned)})
    edited = effects["concept"]
    other = finetuned["concept"]
    between = Effect(edited.labels, edited.after, other.after, edited.scenes).by_scene
    p = mcnemar(between.corrected, between.broken)
    of_edit = counts_of(edited)
    of_other = counts_of(other)
    for numbers, effect in ((of_edit, effects.get("clean")), (of_other, finetuned.get("clean"))):
        if effect is not None:
            numbers |= {"changed": effect.changed_by_scene, "clean": effect.scene_count}
    is_within = is_within_limits(splits, finetuned, classes)
    more = of_other["corrected"] - of_other["broken"] - of_edit["corrected"] + of_edit["broken"]
    is_significant = p <= SIGNIFICANCE
    numbers = {
        "edit": of_edit,
        "finetuning": of_other,
        "p": p,
        "more": more,
        "is_significant": is_significant,
        "is_within_limits": is_within,
    }
    return Check(Kind.FINETUNING, not (more > 0 and is_significant and is_within), FINETUNE, numbers=numbers)
