"""The checks of a verdict: of the exemplars, of the images, and of what a selected edit does to labeled ones.

Each limit has one predicate. All shares count scenes: frames of one scene are one observation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor

import torch

from edittools._checks import warn
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar, all_exemplars
from edittools.metrics import Comparison, predict, predicted_classes
from edittools.selection.effects import Effect
from edittools.selection.finetuning import FINETUNING
from edittools.selection.splits import FAILURES, MOST_ORDINARY, RETAINED, Splits
from edittools.selection.verdict import (
    COSTS,
    DO_NOT_USE,
    FINETUNE,
    HELPS,
    INSTEAD,
    UNCLEAR,
    USE,
    Check,
    fewest_images,
    notices,
)
from edittools.stats import (
    POWER,
    SIGNIFICANCE,
    accuracy_interval,
    difference_interval,
    images_for_mcnemar,
    mcnemar,
    wilson,
)

MAX_ACCURACY_DROP = 0.25
"""Points of accuracy that an edit may lose on clean images (section 4.2 of the paper)."""

MAX_RETAINED_BROKEN = 3.0
"""Percent of the retained scenes that an edit may break, of those that were correct before."""

MAX_OWN_DROP = 3.0
"""By how many points the accuracy of the mark's own class may be lower with the mark than without it."""

FEWEST_COMPARED = 20
"""With fewer scenes of the mark's own class, the cost on it is not known."""

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

COVERED_CLASSES = 2 / 3
"""Clean images cover the classes if they show at least this share of those that a random sample would show."""

MOST_CLASSES_NAMED = 8
"""The largest number of missing classes that an advice names."""

WEAKER = "fix.reselect(clean_weight=8)"
"""How to get a weaker edit, if images without the mark have selected it."""

WEAKER_BY_EXEMPLAR = "0.5 * fix.edit, or let select_by='hosts' weigh the cost"
"""How to get a weaker edit, if the exemplar's own prediction has selected it."""

LABEL_DOUBT = "Are the labels right?"
"""The advice if images are correct much less often than expected."""


# --- the exemplars ----------------------------------------------------------------------------------------------------


def exemplar_checks(classifier: Classifier, exemplars: Mapping[str, Sequence[Exemplar]]) -> list[Check]:
    """Check that the exemplars show the mistake."""
    names = [name for name, group in exemplars.items() for _ in group]
    members = all_exemplars(exemplars)
    classes = classifier.classes
    original = predicted_classes(predict(classifier, torch.stack([one.image for one in members]))).tolist()
    changed = predicted_classes(predict(classifier, torch.stack([one.changed for one in members]))).tolist()
    covered = predicted_classes(predict(classifier, torch.stack([one.covered for one in members]))).tolist()
    labeled = [(one.label, x) for one, x in zip(members, original, strict=True) if one.label is not None]
    is_alike = [x == changed_x for x, changed_x in zip(original, changed, strict=True)]
    is_swapped = []
    for one, x, changed_x in zip(members, original, changed, strict=True):
        is_swapped.append(one.label is not None and x != one.label == changed_x)
    advice = "Give the exemplar its label, Exemplar(image, changed, mask, label)."
    if labeled:
        advice = "Take an image that is classified correctly without the concept."
    if any(is_swapped):
        advice = "x is misclassified and x' is not: are they swapped?"
    change = _describe_classes("x'", names, [classes[index] for index in changed])
    if any(is_alike):
        change += f"; {sum(is_alike)} of {len(members)} as x is, so the exemplar does not show the mistake"
    inside = min(change_inside_mask(one) for one in members)
    kept = sum(one == other for one, other in zip(covered, original, strict=True))
    return [
        Check(
            "x is classified correctly",
            all(label == index for label, index in labeled) if labeled else None,
            _describe_classes("x", names, [classes[index] for index in original]),
            advice,
            DO_NOT_USE if is_swapped and all(is_swapped) else USE,
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
            inside >= COVERED,
            f"{inside:.0%} of the difference between x and x' is inside the mask",
            "Pass a mask of all pixels that differ, or make x' by Exemplar.paste.",
        ),
        Check(
            "the mask does not cover the object",
            kept > 0,
            f"with the masked area in one color, {kept} of {len(members)} x are predicted as before",
            "Mark only what misleads: if the mask covers the object itself, x' shows no object.",
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
    return f"{what} is predicted: {', '.join(pairs[:5])}" + (", …" if len(pairs) > 5 else "")


# --- the images -------------------------------------------------------------------------------------------------------


def images_checks(classifier: Classifier, splits: Splits, effects: Mapping[str, Effect]) -> list[Check]:
    """Check the labeled images before an edit: their mistakes, their labels, and the classes that they cover."""
    checks = []
    if "concept" in effects:
        checks.append(_mistakes_check(splits, effects["concept"]))
    for name in ("clean", *splits.retain):
        if name in effects:
            checks.append(_labels_check(name, effects))
    if splits.clean is not None:
        checks.append(coverage_check(splits, classifier.classes))
    return checks


def _mistakes_check(splits: Splits, concept: Effect) -> Check:
    """Check that images with the concept are mistaken for the class that x' is predicted as.

    Few of them are if labels are wrong, or if the images do not show the concept.
    """
    is_error = concept.before != concept.labels
    own = torch.tensor(splits.own_classes, dtype=torch.long)
    alike = int(torch.isin(concept.before[is_error], own).sum())
    errors = int(is_error.sum())
    return Check(
        "images with the concept are mistaken for what x' is predicted as",
        alike >= LEAST_ALIKE * errors if errors else None,
        f"{alike:,} of {errors:,} misclassified images with the concept are predicted as x' is",
        "Do these images show what the exemplar changes? Are their labels right?",
    )


def _labels_check(name: str, effects: Mapping[str, Effect]) -> Check:
    """Check that the images of a set are about as often correct as those of the other sets.

    Images that were misclassified before an edit cannot break. So if labels are wrong, such as labels counted from 1
    instead of 0, any edit seems to cost nothing.
    """
    shares = {other: float((effect.before == effect.labels).float().mean()) for other, effect in effects.items()}
    most = max(shares.values())
    is_plausible = shares[name] >= FAR_BELOW * most
    count = len(effects[name])
    title = "clean images" if name == "clean" else _title(name)
    return Check(
        f"the labels of the {title} are plausible",
        is_plausible,
        f"{shares[name]:.0%} of {count:,} {title} are correct before the edit"
        + ("" if is_plausible else f", and up to {most:.0%} of other images"),
        f"{LABEL_DOUBT} If they are, pass the images without labels, so that the current predictions serve as labels.",
        USE if is_plausible else UNCLEAR,
    )


def coverage_check(splits: Splits, classes: Sequence[str]) -> Check:
    """Check that clean images show the mark's class, those of the images with the concept, and a good part of all.

    Otherwise a cost on the other classes is not seen.
    """
    name = "clean images cover the classes"
    clean = splits.clean
    shown = set(clean.labels.tolist())
    scenes = len(splits.scenes["clean"].unique())
    expected = len(classes) * (1 - (1 - 1 / len(classes)) ** scenes)
    concept = set(splits.concept.labels.tolist()) if splits.concept is not None else set()
    of_concept = len(concept & shown) / len(concept) if concept else 1.0
    missing_own = [index for index in splits.own_classes if index not in shown]
    covers_concept = of_concept >= COVERED_CLASSES * expected / len(classes)
    covers_all = len(shown) >= COVERED_CLASSES * expected
    missing = [*missing_own]
    if not covers_concept:
        missing += sorted(concept - shown)
    if not covers_all:
        missing += [index for index in range(len(classes)) if index not in shown]
    missing = list(dict.fromkeys(missing))
    figure = f"clean images show {len(shown)} of {len(classes)} classes"
    if not missing:
        return Check(name, True, figure, at_best=UNCLEAR)
    named = ", ".join(classes[index] for index in missing[:MOST_CLASSES_NAMED])
    more = ", …" if len(missing) > MOST_CLASSES_NAMED else ""
    figure += f", and none of {named}{more}, so a cost on {'them' if len(missing) > 1 else 'it'} is not seen"
    return Check(name, False, figure, f"Pass clean images of {named}{more} as well.", UNCLEAR, COSTS)


def warn_about(checks: Sequence[Check]) -> None:
    """Warn about each check that fails.

    Warns:
        UserWarning: for each check that fails, with its figure and advice.
    """
    for check in checks:
        if check.status == "fail":
            warn(f"This does not hold: {check.name} ({check.figure}). {check.advice}")


# --- the selection ----------------------------------------------------------------------------------------------------


def objective_check(before: float, after: float) -> Check:
    """Check that the selected edit lowers the objective."""
    return Check(
        "the edit makes predictions more alike with and without the mark",
        after < before,
        f"the objective of the selection is {after:.2f} with the edit, and {before:.2f} without it",
        "No edit removes what the exemplar shows. Try another exemplar, or a mask that fits the concept.",
        DO_NOT_USE,
    )


# --- helps ------------------------------------------------------------------------------------------------------------


def help_checks(concept: Effect | None, draws: Sequence[Effect], source: str) -> list[Check]:
    """Check that an edit helps on images with the concept of other classes than its own."""
    if concept is None:
        advice = "Pass labeled images with the concept of other classes, right and wrong, as concept=."
        in_words = "Find the images that show the mark, right and wrong ones, and label them."
        figure = "without labeled images with the concept, it is not known what the edit corrects"
        return [Check("it corrects more than it breaks", None, figure, advice, DO_NOT_USE, HELPS, in_words)]
    return [gain_check(concept), breakable_check(concept, source), random_check(concept, draws)]


def gain_check(concept: Effect) -> Check:
    """Check that the edit corrects more scenes with the concept than it breaks, with p ≤ 0.05."""
    name = f"it corrects more than it breaks, with p ≤ {SIGNIFICANCE}"
    found = concept.by_scene
    p = mcnemar(found.corrected, found.broken)
    what = "images" if concept.scene_count == len(concept) else "scenes"
    figure = f"it {describe_effect(found, f'{what} with the concept')}"
    if found.before.any():
        low, high = found.corrected_interval()
        figure += f", net {found.errors_corrected:.0%} [{low:.0%}, {high:.0%}] of the errors"
    figure += f" (p {p:.2g})"
    advice = "Try another exemplar, a mask that fits the concept, or other ordinary images."
    if found.corrected <= found.broken:
        return Check(name, False, figure, advice, DO_NOT_USE, HELPS)
    if p <= SIGNIFICANCE:
        return Check(name, True, figure, at_best=UNCLEAR, line=HELPS)
    needed = images_for_mcnemar(found.corrected, found.broken, len(found.before))
    if needed is not None:
        advice = (
            f"Collect about {needed:,} {what} with the concept: at these shares, so many in all would decide with a "
            f"probability of {POWER:.0%}."
        )
    return Check(name, False, f"{figure}, which may be chance", advice, UNCLEAR, HELPS)


def describe_effect(found: Comparison, images: str) -> str:
    """Say how many images an edit corrects and breaks; `images` is what to call them."""
    total = len(found.before)
    errors = int(found.before.sum())
    text = f"corrects {found.corrected} of {errors:,} misclassified"
    if total > errors:
        text += f" and breaks {found.broken} of {total - errors:,} correct"
    return f"{text} {images}"


def breakable_check(concept: Effect, source: str) -> Check:
    """Check that images with the concept can be seen to break: some are correct without an edit."""
    name = "some images with the concept are correct without the edit"
    advice = (
        "Only images that are right can break: pass a sample of all images with the concept, of which at least "
        f"{FEWEST_CORRECT} are right."
    )
    if source == FAILURES:
        figure = "the images with the concept were chosen because they fail, so what the edit breaks is not seen"
        return Check(name, False, figure, advice, UNCLEAR, HELPS)
    found = concept.by_scene
    correct = int((~found.before).sum())
    figure = f"of {len(found.before):,} images with the concept, {correct:,} are correct without the edit"
    if correct < FEWEST_CORRECT:
        return Check(name, False, f"{figure}, too few to see what it breaks", advice, UNCLEAR, HELPS)
    return Check(name, True, figure, at_best=UNCLEAR)


def random_check(concept: Effect, draws: Sequence[Effect]) -> Check:
    """Check that the edit corrects more, net, than random directions do on average."""
    name = "it corrects more than random directions"
    if not draws:
        return Check(name, None, "random directions were not measured", "", USE, HELPS)
    found = concept.by_scene
    net = found.corrected - found.broken
    of_draws = [draw.by_scene for draw in draws]
    mean = sum(draw.corrected - draw.broken for draw in of_draws) / len(draws)
    figure = f"random directions correct {mean:.1f} net (the mean of {len(draws)} draws), and the edit {net}"
    advice = "Try another exemplar, a mask that fits the concept, or other layers."
    return Check(name, net > mean, figure, advice, UNCLEAR, HELPS)


# --- costs ------------------------------------------------------------------------------------------------------------


def most_lost(scenes: int) -> int:
    """Return by how many clean scenes accuracy may be lower; no set can resolve less than one."""
    return max(floor(scenes * MAX_ACCURACY_DROP / 100 + 1e-9), 1)


def most_broken(correct: int) -> int:
    """Return how many retained scenes may break, of those that were correct."""
    return floor(correct * MAX_RETAINED_BROKEN / 100 + 1e-9)


def loses_too_much(clean: Effect) -> bool:
    """Tell whether the number of correct clean scenes drops by more than is allowed."""
    found = clean.by_scene
    return found.broken - found.corrected > most_lost(len(found.before))


def breaks_too_many(retained: Effect) -> bool:
    """Tell whether more retained scenes break than is allowed."""
    broken, correct = retained.broken_by_scene
    return broken > most_broken(correct)


def costs_own_class(own_class: Effect | None, without_mark: Effect | None) -> bool | None:
    """Tell whether the mark's own class is correct less often, with the mark and the edit, than is allowed.

    It is compared with clean images of this class. Without enough of them, it is compared with itself before the edit.

    Args:
        own_class: what the edit does to labeled images of this class with the mark; None if there are none.
        without_mark: what it does to clean images of this class; None if there are none.

    Returns:
        None if there are too few scenes with the mark to tell.
    """
    if own_class is None or own_class.scene_count < FEWEST_COMPARED:
        return None
    is_known = without_mark is not None and without_mark.scene_count >= FEWEST_COMPARED
    expected = _share_correct(without_mark if is_known else own_class, after=False)
    allowed = MAX_OWN_DROP / 100 + 1 / own_class.scene_count  # no set can resolve less than one scene
    return _share_correct(own_class, after=True) < expected - allowed - 1e-9


def _share_correct(effect: Effect, after: bool) -> float:
    """Return the share of scenes that are correct before or after."""
    found = effect.by_scene
    return float((~(found.after if after else found.before)).double().mean())


def cost_checks(splits: Splits, effects: Mapping[str, Effect], weaker: str = WEAKER) -> list[Check]:
    """Check each cost of an edit: whether it is within its limit, and whether there are enough images to tell."""
    checks = [accuracy_check(effects.get("clean"), weaker)]
    checks += [retained_check(name, effects[name], weaker) for name in splits.retain if name in effects]
    if not splits.retain:
        advice = "With retain=, pass images that legitimately rely on the concept."
        in_words = "Pass, as retained images, images that legitimately rely on the concept."
        name, figure = "retained images are given", "no retained images were given"
        checks.append(Check(name, None, figure, advice, line=COSTS, in_words=in_words))
    checks.append(own_class_check(effects.get("own_class"), clean_of_own_class(splits, effects), weaker))
    return checks


def clean_of_own_class(splits: Splits, effects: Mapping[str, Effect]) -> Effect | None:
    """Return what an edit does to clean images of the mark's own class; None if there are none."""
    if "clean" not in effects:
        return None
    clean = effects["clean"]
    is_own = torch.isin(clean.labels, torch.tensor(splits.own_classes, dtype=torch.long))
    return clean.of(is_own) if is_own.any() else None


def is_within_limits(splits: Splits, effects: Mapping[str, Effect]) -> bool:
    """Tell whether no measured cost exceeds its limit; the arguments are those of `cost_checks`."""
    if "clean" in effects and loses_too_much(effects["clean"]):
        return False
    if any(breaks_too_many(effects[name]) for name in splits.retain if name in effects):
        return False
    return not costs_own_class(effects.get("own_class"), clean_of_own_class(splits, effects))


def accuracy_check(clean: Effect | None, weaker: str = WEAKER) -> Check:
    """Check that accuracy on clean images is kept; one scene may be lost in any case."""
    name = "accuracy on clean images is kept"
    if clean is None:
        figure = "accuracy was not measured on labeled clean images"
        advice = "Pass labeled ordinary images as clean=."
        return Check(name, None, figure, advice, DO_NOT_USE, COSTS, "Pass clean images.")
    found = clean.by_scene
    count = len(found.before)
    allowed = most_lost(count)
    low, high = found.accuracy_interval()
    what = "images" if count == len(clean) else "scenes"
    figure = (
        f"accuracy on {count:,} clean {what} changes by {found.accuracy_change:+.2f} points [{low:+.2f}, {high:+.2f}] "
        f"(limit: a loss of {allowed:,}), and {clean.changed_by_scene / max(count, 1):.1%} of the predictions change"
    )
    if loses_too_much(clean):

        def would_decide(images: int) -> bool:
            interval = accuracy_interval(found.corrected / count * images, found.broken / count * images, images)
            return interval[1] < -100 * most_lost(images) / images

        is_certain = high < -100 * allowed / count
        return _exceeded(name, figure, is_certain, fewest_images(would_decide, count), f"clean {what}", weaker)
    if notices(count, NOTICED_DROP, allowed):
        return Check(name, True, figure, at_best=DO_NOT_USE, line=COSTS)
    needed = fewest_images(lambda images: notices(images, NOTICED_DROP, most_lost(images)), count)
    figure += f"; a loss of {NOTICED_DROP:.0%} would be noticed with {needed:,}"
    advice = f"Pass about {needed:,} labeled clean {what} that measure"
    in_all = needed + min(needed, MOST_ORDINARY)
    in_words = f"Pass about {in_all:,} clean {what} in all; half of them select, and at most {MOST_ORDINARY}."
    advice = f"{advice}; without images=, twice as many, since half select."
    return Check(name, False, figure, advice, UNCLEAR, COSTS, in_words)


def _exceeded(name: str, figure: str, is_certain: bool, needed: int | None, images: str, weaker: str) -> Check:
    """Return the check of a cost above its limit.

    Args:
        name: the name of the check.
        figure: what was measured, and the limit.
        is_certain: whether the 95% interval of the cost lies wholly above the limit.
        needed: the number of images with which it would, at the observed shares; None if there is no such number.
        images: what to call them.
        weaker: how to get a weaker edit.
    """
    advice = f"Try another exemplar, or a weaker edit: {weaker}."
    in_words = "Try another exemplar, or a lower strength."
    if is_certain:
        return Check(name, False, f"{figure}, which exceeds the limit", advice, DO_NOT_USE, COSTS, in_words)
    figure += ", which exceeds the limit, perhaps by chance"
    if needed is not None:
        would_tell = f" The cost may be chance: at these shares, about {needed:,} {images} would tell."
        advice += would_tell
        in_words += would_tell
    return Check(name, False, figure, advice, UNCLEAR, COSTS, in_words)


def _title(name: str) -> str:
    """Return what to call a set of retained images."""
    return RETAINED if name == RETAINED else f"{RETAINED} {name!r}"


def retained_check(name: str, retained: Effect, weaker: str = WEAKER) -> Check:
    """Check that the edit breaks few of a set of retained images, of those that were correct before."""
    title = _title(name)
    keeps = f"predictions on the {title} are kept"
    broken, correct = retained.broken_by_scene
    if not correct:
        return Check(keeps, None, f"none of the {title} is correct", f"{LABEL_DOUBT} Pass others.", DO_NOT_USE, COSTS)
    low, high = wilson(broken, correct)
    share = broken / correct
    limit = MAX_RETAINED_BROKEN / 100
    allowed = most_broken(correct)
    what = "" if retained.scene_count == len(retained) else " scenes of"
    figure = (
        f"it breaks {broken} of {correct:,}{what} {title} that were correct, {share:.1%} [{low:.1%}, {high:.1%}] "
        f"(limit: {allowed})"
    )
    if breaks_too_many(retained):

        def would_decide(images: int) -> bool:
            return wilson(round(share * images), images)[0] > limit

        needed = fewest_images(would_decide, correct)
        return _exceeded(keeps, figure, low > limit, needed, f"{title} that are classified correctly", weaker)
    if notices(correct, NOTICED_BREAK, allowed):
        return Check(keeps, True, figure, at_best=DO_NOT_USE, line=COSTS)
    needed = fewest_images(lambda images: notices(images, NOTICED_BREAK, most_broken(images)), correct)
    figure += f"; a loss of {NOTICED_BREAK:.0%} would be noticed with {needed:,}"
    advice = f"Pass, in all, about {needed:,} {title} that are classified correctly."
    if correct < FAR_BELOW * retained.scene_count:
        advice = f"{LABEL_DOUBT} {advice}"
    return Check(keeps, False, figure, advice, UNCLEAR, COSTS)


def own_class_check(own_class: Effect | None, without_mark: Effect | None, weaker: str = WEAKER) -> Check:
    """Check that images of the mark's own class are about as often correct with the mark as without it.

    The first arguments are those of `costs_own_class`; `weaker` says how to get a weaker edit.
    """
    name = "the mark's own class is kept"
    costs = costs_own_class(own_class, without_mark)
    count = 0 if own_class is None else own_class.scene_count
    others = 0 if without_mark is None else without_mark.scene_count
    what = "images" if own_class is None or count == len(own_class) else "scenes"
    if costs is None:
        figure = f"the cost on the mark's own class is not known ({count} labeled {what} of it with the mark)"
        advice = f"Pass at least {FEWEST_COMPARED} {what} with the mark of the class that x' is predicted as."
        return Check(name, None, figure, advice, USE, COSTS)
    found = own_class.by_scene
    correct, correct_before = (int((~wrong).sum()) for wrong in (found.after, found.before))
    figure = (
        f"in the mark's own class, {correct} of {count:,} {what} with the mark are correct with the edit, "
        f"{correct_before} before it"
    )
    advice = ""
    if others >= FEWEST_COMPARED:
        without = int((~without_mark.by_scene.before).sum())
        figure += f", and {without} of {others:,} without the mark (limit: {MAX_OWN_DROP:g} points fewer)"
        low, high = (100 * end for end in difference_interval(correct, count, without, others))
    else:
        low, high = found.accuracy_interval()
        figure += f" (limit: {MAX_OWN_DROP:g} points fewer)"
        advice = f" Pass at least {FEWEST_COMPARED} clean {what} of this class: fewer may be correct without the mark."
    if not costs:
        return Check(name, True, figure, at_best=DO_NOT_USE, line=COSTS)
    figure += f", a difference between {low:+.0f} and {high:+.0f} points"
    check = _exceeded(name, figure, high < -MAX_OWN_DROP, None, "", weaker)
    return replace(check, advice=check.advice + advice, in_words=check.in_words + advice)


def own_hosts_check(own_hosts: Comparison | None, weaker: str = WEAKER) -> Check:
    """Check that ordinary images of the mark's own class are predicted, with the mark, about as often as without it.

    A clear fall (exact McNemar test) is a cost to the own class that few labeled images with the mark may not show.

    Args:
        own_hosts: which of them are predicted otherwise than without the mark, before and with the edit; None if there
            are no hosts.
    """
    name = "ordinary images of the mark's own class keep their predictions with the mark"
    if own_hosts is None or not len(own_hosts.before):
        return Check(name, None)
    alike_before, alike = (int((~differs).sum()) for differs in (own_hosts.before, own_hosts.after))
    figure = (
        f"of {len(own_hosts.before)} ordinary images of the mark's own class, with the mark, {alike} are predicted as "
        f"without it with the edit, {alike_before} before it"
    )
    falls = alike < alike_before and mcnemar(own_hosts.corrected, own_hosts.broken) < SIGNIFICANCE
    if not falls:
        return Check(name, True, figure, at_best=UNCLEAR)
    advice = f"Pass more images with the mark of the class that x' is predicted as, or try a weaker edit: {weaker}."
    in_words = "Add images of the mark's own class that show it, or try a weaker edit."
    return Check(name, False, figure, advice, UNCLEAR, COSTS, in_words=in_words)


# --- instead ----------------------------------------------------------------------------------------------------------


def instead_check(
    splits: Splits, effects: Mapping[str, Effect], finetuned: Mapping[str, Effect], not_compared: str
) -> Check:
    """Compare an edit with fine-tuning on the same labeled images.

    Args:
        splits: the image sets.
        effects: what the edit does to each labeled set.
        finetuned: what the fine-tuned network does to each labeled set; empty if it was not made.
        not_compared: why fine-tuning was not compared, as a clause; may be empty.
    """
    if not_compared:
        return Check("fine-tuning is compared", None, not_compared, line=INSTEAD)
    if "concept" not in effects:
        figure = f"{FINETUNING} was made, but without labeled images with the concept it cannot be compared"
        return Check("fine-tuning is compared", None, figure, line=INSTEAD)
    edited = effects["concept"]
    other = finetuned["concept"]
    between = Effect(edited.labels, edited.after, other.after, edited.scenes).by_scene
    p = mcnemar(between.corrected, between.broken)
    of_edit = edited.by_scene
    found = other.by_scene
    is_within = is_within_limits(splits, finetuned)
    more = found.corrected - found.broken > of_edit.corrected - of_edit.broken
    is_better = more and p <= SIGNIFICANCE and is_within
    figure = f"{FINETUNING}: {_describe(splits, finetuned)}; the edit: {_describe(splits, effects)} (p {p:.2g})"
    if not is_within:
        figure += f"; {FINETUNING} exceeds a limit"
    advice = "Use fix.finetuned.edit, the fine-tuned network as an edit of all weights."
    in_words = "In Python, the outcome holds the fine-tuned network."
    title = f"{FINETUNING} does not correct significantly more"
    return Check(title, not is_better, figure, advice, FINETUNE, INSTEAD, in_words)


def _describe(splits: Splits, effects: Mapping[str, Effect]) -> str:
    """Say in a few words what an edit or the fine-tuned network corrects, and what it costs."""
    concept = effects["concept"].by_scene
    parts = [f"{concept.corrected} of {int(concept.before.sum()):,} corrected and {concept.broken} broken"]
    if "clean" in effects:
        parts.append(f"accuracy {effects['clean'].by_scene.accuracy_change:+.2f} points")
    for name in splits.retain:
        if name in effects:
            broken, correct = effects[name].broken_by_scene
            parts.append(f"{broken} of {correct:,} {_title(name)} broken")
    if "own_class" in effects:
        own = effects["own_class"].by_scene
        parts.append(f"{int((~own.after).sum())} of {len(own.after):,} of the mark's own class correct")
    return ", ".join(parts)
