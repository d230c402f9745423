"""From a rule that a probe found to an edit of it, and back to the probe (section 5).

    rule, found = shown_rule(story, table)             # one of `counterfactuals.rules`
    scenario = scenario_for(story, rule)               # what `benchmark` chooses an edit on, and reports
    again = probe_again(story, rule, {"edited": edit}) # the probe once more
    effect_changes(again, "before", control="itself")

A scenario's images are turned to one half of the looks of the rule's material where an edit is made and chosen, and to
the other half where it is reported.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from edittools.checks import check_amount, check_number
from edittools.choosing.scenario import Scenario
from edittools.classifiers import Classifier
from edittools.cut import convolutions
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, resized, stratified
from edittools.metrics import predict
from edittools.pasting import paste_texture
from edittools.probing.counterfactuals import LEAST_AREA, exemplar_for, materials
from edittools.probing.effects import rules
from edittools.probing.probe import probe
from edittools.stories.rules import Probing

SEVERAL = 3
"""So many looks of a material an image is turned to where an edit is chosen, if there are as many."""


def shown_rule(story: Probing, table: pd.DataFrame) -> tuple[pd.Series, bool]:
    """Take one rule from a table of `Probing.with_materials`, and say whether it is one.

    It is the strongest of the story's example class, or of all where there is none of it. Where no rule is found, it
    is the strongest suspicion. Raises `ValueError` when there is not even that.
    """
    look = {"control": "itself", "least_images": story.least_images}
    found = rules(table, **look)
    suspects = rules(table, fdr=1, least_effect=0, **look) if found.empty else found
    if suspects.empty:
        raise ValueError(f"no class with {story.least_images} images loses anything: expected a table of more images")
    mine = suspects[suspects["class"] == story.example]
    return (suspects if mine.empty else mine).iloc[0], not found.empty


@dataclass(frozen=True)
class _Rule:
    """A row of `rules` in its story: the classifier, and the looks of the style to edit and to report with."""

    story: Probing
    rule: pd.Series
    classifier: Classifier
    known: Tensor
    held_out: Tensor

    @classmethod
    def of(cls, story: Probing, rule: pd.Series) -> "_Rule":
        missing = {"class", "concept", "style", "evidence"} - set(rule.index) if isinstance(rule, pd.Series) else ()
        if not isinstance(rule, pd.Series) or missing:
            lacks = f" without {', '.join(sorted(missing))}" if missing else ""
            raise TypeError(f"the rule is a {type(rule).__name__}{lacks}: expected a row of rules(table)")
        name, style = rule.get("classifier", story.first), rule["style"]
        if name not in story.classifiers:
            raise KeyError(f"a rule of classifier {name!r}: expected one of {', '.join(story.classifiers)}")
        if rule["concept"] not in story.masks:
            raise KeyError(f"a rule on {rule['concept']!r}: expected a concept of the story, {', '.join(story.masks)}")
        if style not in story.donor_masks or story.looks < 2:
            raise ValueError(
                f"rule {rule['class']!r} on {rule['concept']!r} → {style!r}: expected a material of the story in two "
                f"looks or more, one of {', '.join(story.donor_masks)}"
            )
        _check_images(story, rule["evidence"], "evidence")
        looks = materials(story.donors, story.donor_masks, [style], story.looks)[style]
        half = (len(looks) + 1) // 2
        return cls(story, rule, story.classifiers[name], looks[:half], looks[half:])

    def held(self, progress: bool) -> tuple[LabelledImages, Tensor]:
        """All images at the classifier's size with the labels it is held to, and which of them it reads so."""
        data = replace(self.story.data, images=resized(self.story.data.images, self.classifier.size))
        read = predict(self.classifier, data, progress=progress).argmax(dim=1)
        labels = read if self.story.against == "reading" else data.labels
        return replace(data, labels=labels), read == labels

    def exemplars(self, rank: int) -> list[Exemplar]:
        """Make exemplars of one image of the evidence, in several looks of the style."""
        count, looks = min(SEVERAL, len(self.known)), {self.rule["style"]: self.known}
        variants = [(rank + v) % len(self.known) for v in range(count)]
        made = [exemplar_for(self.rule, self.story.data, self.story.masks, looks, v, rank) for v in variants]
        return [exemplar.sized(self.classifier.size) for exemplar in made]

    def turned(self, untouched: LabelledImages, numbers: Sequence[int], looks: Tensor, count: int) -> LabelledImages:
        """Turn the concept in the images `numbers` to `count` of the `looks`, in rotation; their names are numbers."""
        pairs = [(i, (i + v) % len(looks)) for i in numbers for v in range(min(count, len(looks)))]
        data, masks = self.story.data, self.story.masks[self.rule["concept"]]
        pictures = [paste_texture(data.images[i], masks[i], looks[v])[None] for i, v in pairs]
        images = torch.cat([resized(picture, self.classifier.size) for picture in pictures])
        names, labels = tuple(str(i) for i, _ in pairs), untouched.labels[[i for i, _ in pairs]]
        return LabelledImages(images, labels, untouched.classes, names)


def _check_images(story: Probing, numbers: Sequence[int], name: str) -> list[int]:
    outside = [i for i in numbers if i not in range(len(story.data))]
    if outside:
        raise ValueError(f"{name} {outside[0]!r}: expected numbers of the story's images, 0 to {len(story.data) - 1}")
    return list(numbers)


def scenario_for(
    story: Probing,
    rule: pd.Series,
    share: float = 0.5,
    exemplars: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Scenario:
    """Make a scenario of a row of `rules`: what `benchmark` needs to choose an edit that weakens it, and to report.

    The first images of the rule's evidence, `exemplars` of them, are the exemplars, each also in several looks of the
    rule's style (`several`). All other images that show the concept and are read rightly are turned to the style: a
    `share` of every class is `validation`, in several looks; of the rest, in looks that neither an exemplar nor the
    validation has, the images of the rule's class are `own` and all others the `test`. Their names are their numbers in
    the story's data. `legitimate` are untouched images that show what the style is made of and are read rightly. Labels
    are those of the story, or what is read where it probes against readings.

    Raises `TypeError` for what is no row of `rules`, `KeyError` for a classifier, class or concept and `ValueError` for
    a material or image that is not of the story, and when there is no evidence, nothing to choose on, to report, or
    legitimate.
    """
    if check_amount(share, "share", 0) >= 1:
        raise ValueError(f"share {share}: expected a number from 0 up and below 1")
    meant = _Rule.of(story, rule)
    evidence = list(rule["evidence"][: check_number(exemplars, 0, None, "exemplars")])
    classifier = meant.classifier
    target = classifier.index(rule["class"])
    given = {f"{rule['class']} {k + 1}": meant.exemplars(k) for k in range(len(evidence))}
    untouched, right = meant.held(progress)
    showing, legitimate = (
        right & (story.masks[c].mean(dim=(1, 2)) >= LEAST_AREA) for c in (rule["concept"], rule["style"])
    )
    showing[evidence] = False
    numbers = _split(showing.nonzero()[:, 0], untouched.labels, target, share, seed)
    if not (given and numbers["validation"] and numbers["test"] and legitimate.any()):
        counts = {"exemplars": len(given), **{name: len(part) for name, part in numbers.items()}}
        raise ValueError(
            f"rule {rule['class']!r} on {rule['concept']!r} → {rule['style']!r}: {counts}, "
            f"{int(legitimate.sum())} legitimate; expected at least one exemplar, validation, test and legitimate image"
        )
    turned = partial(meant.turned, untouched)
    clean = replace(story.clean, images=resized(story.clean.images[:], classifier.size))
    halves = [clean.subset(range(start, len(clean), 2)) for start in (0, 1)]
    reference = resized(story.reference, classifier.size)
    layer, later, shortlist = _layers(story, classifier)
    return Scenario(
        classifier, {name: each[0] for name, each in given.items()},
        tier=story.tier, change=partial(paste_texture, texture_image=meant.known[0]),
        validation=turned(numbers["validation"], meant.known, SEVERAL), test=turned(numbers["test"], meant.held_out, 1),
        budget=halves[0], clean=halves[1], reference=reference, legitimate=untouched.subset(legitimate),
        layers=later, shortlist=shortlist, expected={},
        default={"layer": layer, "exemplar": next(iter(given)), "rank": 1, "masked": True},
        own=turned(numbers["own"], meant.held_out, 1) if numbers["own"] else None,
        several={f"{name} in {len(each)} looks": each for name, each in given.items()},
    )  # fmt: skip


def _split(numbers: Tensor, labels: Tensor, target: int, share: float, seed: int) -> dict[str, list[int]]:
    chosen, mine = stratified(labels[numbers], share, seed), labels[numbers] == target
    parts = {"validation": chosen, "test": ~chosen & ~mine, "own": ~chosen & mine}
    return {name: numbers[part].tolist() for name, part in parts.items()}


def _layers(story: Probing, classifier: Classifier) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The layer for an untuned edit, those of the second half, and the shortlist; the story's where it has them.

    The story names layers of its first classifier.
    """
    names = convolutions(classifier)
    later = names[len(names) // 2 :]
    if {story.layer, *story.shortlist} <= set(names):
        return story.layer, later, story.shortlist
    return later[len(later) // 2], later, later[-3:]


def probe_again(
    story: Probing,
    rule: pd.Series,
    edits: Mapping[str, Edit],
    images: Sequence[int] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Probe the concept of a row of `rules` in its style once more, "before" and with each of the `edits` applied.

    The table is that of `probe`, its classifiers are "before" and the names of the edits; all are held to the labels
    that the unedited classifier is held to. `images` are numbers in the story's data (default: all). The looks of the
    style are those that neither exemplars nor validation images of `scenario_for` have. Raises `ValueError` for an edit
    that is named "before", and as `scenario_for` does for a rule or an image that is not of the story.
    """
    if "before" in edits:
        raise ValueError("an edit named 'before': expected another name, this one is the unedited classifier's")
    for name, edit in edits.items():
        if not isinstance(edit, Edit):
            raise TypeError(f"edit {name!r} is a {type(edit).__name__}: expected an Edit, such as rewrite gives")
    meant, concept = _Rule.of(story, rule), rule["concept"]
    chosen = _check_images(story, range(len(story.data)) if images is None else images, "image")
    if not chosen:
        raise ValueError("no images to probe again: expected at least one number, or images=None for all")
    data = replace(story.data, labels=meant.held(progress)[0].labels).subset(chosen)
    masks = {name: mask[chosen] for name, mask in story.masks.items()}
    looks = materials(story.donors, story.donor_masks, [concept], story.looks) | {rule["style"]: meant.held_out}
    tables = []
    for name, edit in {"before": None, **edits}.items():
        with nullcontext() if edit is None else edit.applied(meant.classifier):
            tables.append(probe({name: meant.classifier}, data, masks, looks, own=story.own, only=[concept],
                                looks=2, control=False, progress=progress))  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    return table.assign(image=[chosen[i] for i in table["image"]])
