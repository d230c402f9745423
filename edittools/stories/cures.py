"""From a rule that a probe found to an edit of it, and back to the probe (section 5).

    rule, is_found = shown_rule(story, probe)   # one of `probe.rules()`
    cure = scenario_for(story, rule)            # what `choosing` chooses an edit on, and reports
    again = cure.probe_again({"edited": edit})  # the probe once more
    again.changes()                             # what it gained
    cures_for(story, report, rules)             # of all rules, each with images of its own class

A scenario's images are turned to one half of the variants of the rule's material where an edit is made and chosen, and
to the other half where it is reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools.checks import check_amount, check_number
from edittools.choosing.scenario import Scenario
from edittools.classifiers import Classifier
from edittools.cut import sought_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, resized, stratified
from edittools.metrics import predict
from edittools.pasting import paste_texture
from edittools.probing.counterfactuals import LEAST_AREA, Concepts
from edittools.probing.effects import Probe
from edittools.probing.probe import Settings, probe
from edittools.stories.photos import elsewhere
from edittools.stories.rules import Probing

SEVERAL = 3
"""So many variants of a material an image is turned to where an edit is chosen, if there are as many."""


def shown_rule(story: Probing, found: Probe) -> tuple[pd.Series, bool]:
    """One rule of `Probing.with_materials`, and whether it is one: where none is found, it is the strongest suspicion.

    It is the strongest of the story's example class, or of all where there is none of it. Raises `ValueError` when
    there is not even a suspicion.
    """
    rules = found.rules()
    shown = found.rules(fdr=1, least_effect=0) if rules.empty else rules
    if shown.empty:
        raise ValueError(f"no class with {found.least_images} images loses anything: expected a probe of more images")
    of_example = shown[shown["class"] == story.example]
    return (shown if of_example.empty else of_example).iloc[0], not rules.empty


@dataclass(frozen=True, kw_only=True)
class Cure(Scenario):
    """A scenario made of a rule.

    `numbers` are those of the story's images that "validation", "test" and "target class" (`own`) are made of.
    `concepts` and `settings` are what is probed again: all of the story's images with the classes that are right, and
    of the rule's style the variants that neither exemplars nor validation images have.
    """

    numbers: Mapping[str, tuple[int, ...]] = field(repr=False)
    concepts: Concepts = field(repr=False)
    settings: Settings = field(repr=False)

    def probe_again(
        self, edits: Mapping[str, Edit], images: Sequence[int] | None = None, progress: bool = False
    ) -> Probe:
        """Probe the rule's concept in its style once more, "before" and with each of the `edits` applied.

        The classifiers of the probe are "before" and the names of the edits; all are held to the classes that the
        unedited classifier is held to. `images` are numbers in the story's data (default: all). Raises `ValueError` for
        an edit that is named "before" and for an image that is not of the story, `TypeError` for what is no edit.
        """
        if "before" in edits:
            raise ValueError("an edit named 'before': expected another name, this one is the unedited classifier's")
        for name, edit in edits.items():
            if not isinstance(edit, Edit):
                raise TypeError(f"edit {name!r} is a {type(edit).__name__}: expected an Edit, such as rewrite gives")
        everything = range(len(self.concepts.data))
        chosen = list(everything) if images is None else _check_images(images, everything, "image")
        if not chosen:
            raise ValueError("no images to probe again: expected at least one number, or images=None for all")
        named = {"before": self.classifier} | {name: edit.edited(self.classifier) for name, edit in edits.items()}
        found = probe(named, self.concepts.subset(chosen), self.settings, progress=progress)
        table = pd.concat([found.table.query("classifier == @name") for name in named], ignore_index=True)
        return replace(found, table=table.assign(image=[chosen[i] for i in table["image"]]), concepts=self.concepts)


def scenario_for(
    story: Probing, rule: pd.Series, share: float = 0.5, exemplars: int = 3, seed: int = 0, progress: bool = False
) -> Cure:
    """The scenario of a row of `rules`: what `choosing` needs to choose an edit that weakens it, and to report.

    The first of the rule's evidence are the `exemplars`, each also in several variants of the rule's style. All other
    images that show the concept and are read rightly are turned to the style: a `share` of every class is `validation`,
    in several variants; of the others, in variants not seen before, those of the rule's class are `own`, the rest the
    `test`. `keep` and `keep_report` are halves of the untouched images that show what the style is made of, not the
    concept, and are read rightly. Labels are those of the story, or what is read where it probes so.

    Raises `TypeError` for what is no row of `rules`, `KeyError` for a classifier, class or concept and `ValueError` for
    a material or image that is not of the story, or when there is nothing to edit, choose on, report or keep.
    """
    if check_amount(share, "share", 0) >= 1:
        raise ValueError(f"share {share}: expected a number from 0 up and below 1")
    classifier, concept, style = _checked(story, rule)
    evidence = list(rule["evidence"][: check_number(exemplars, 0, None, "exemplars")])
    target = classifier.index(rule["class"])
    materials = story.materials([concept, style])
    known, held_out = materials[style].tensor_split([(story.variants + 1) // 2])
    several = min(SEVERAL, len(known))
    made = _exemplars(Concepts(story.data, story.masks, {style: known}), rule, len(evidence), several, classifier.size)
    data, images, right = _read(story, classifier, progress)
    showing, exceptions = (right & (story.masks[c].mean(dim=(1, 2)) >= LEAST_AREA) for c in (concept, style))
    exceptions &= ~showing  # an image with both has one duty
    showing[evidence] = exceptions[evidence] = False
    numbers = _split(showing.nonzero()[:, 0], data.labels, target, share, seed)
    if not (made and numbers["validation"] and numbers["test"] and exceptions.any()):
        counts = {"exemplars": len(made), **{name: len(part) for name, part in numbers.items()}}
        raise ValueError(
            f"rule {rule['class']!r} on {concept!r} → {style!r}: {counts}, {int(exceptions.sum())} to keep; "
            f"expected at least one exemplar, validation, test and kept image"
        )
    turned = partial(_turned, data, story.masks[concept], classifier.size)
    keep, report = _halves(replace(data, images=images).subset(exceptions), seed)
    return Cure(
        classifier,
        **_shown(story, classifier, made),
        **_everyday(story, classifier),
        change=partial(paste_texture, texture_image=known[0]),
        validation=turned(known, numbers["validation"], several),
        test=turned(held_out, numbers["test"]),
        own=turned(held_out, numbers["target class"]) if numbers["target class"] else None,
        keep=keep,
        keep_report=report,
        numbers=numbers,
        concepts=Concepts(data, {concept: story.masks[concept]}, materials | {style: held_out}, story.objects),
        settings=replace(story.settings, only=[concept], variants_per_image=2, control="in place", labels="given"),
    )


def _shown(story: Probing, classifier: Classifier, made: Mapping[str, Sequence[Exemplar]]) -> dict[str, Any]:
    """The exemplars of a scenario, each also in several variants, and the settings of an untuned edit."""
    several = {f"{name} in {len(each)} variants": each for name, each in made.items()}
    default = {"layer": _layers(story, classifier)[0], "exemplar": next(iter(made)), "rank": 1, "masked": True}
    return {"exemplars": {name: each[0] for name, each in made.items()}, "several": several, "default": default}


def _everyday(story: Probing, classifier: Classifier) -> dict[str, Any]:
    """What all scenarios of a classifier share: its everyday images at its size, its layers and the tier."""
    clean = replace(story.clean, images=resized(story.clean.images[:], classifier.size))
    halves = {name: clean.subset(range(first, len(clean), 2)) for first, name in enumerate(("budget", "clean"))}
    _, later, shortlist = _layers(story, classifier)
    halves["reference"] = resized(story.reference, classifier.size)
    halves["more"] = elsewhere(classifier, prefix="editing-classifiers/snow/") if story.tier == "lite" else {}
    return {**halves, "layers": later, "shortlist": shortlist, "tier": story.tier}


def cures_for(story: Probing, report: Probing, rules: pd.DataFrame, exemplars: int = 3) -> dict[str, Scenario]:
    """A scenario for each row of `rules` of the story's first classifier, named "class: concept → style".

    Each turns the images of the rule's class that show the concept and are read rightly to the style, and keeps those
    of all other rules' classes and those that show what the style is made of. Exemplars, `validation` and `keep` are of
    the `story` that the rules were found in; `test`, in unseen variants, and `keep_report` are of `report`. So no
    scenario reports what another chose on. Raises what `scenario_for` does, and `ValueError` for a rule without images.
    """
    classifier = story.classifiers[story.first]
    shared = _everyday(story, classifier)
    named = torch.tensor(sorted({classifier.index(name) for name in rules["class"]}))
    parts = [_Part(one, *_read(one, classifier), named, classifier.size) for one in (story, report)]
    found = {}
    for _, rule in rules.iterrows():
        _, concept, style = _checked(story, rule)
        evidence = list(rule["evidence"][: check_number(exemplars, 1, None, "exemplars")])
        known, held_out = story.materials([style])[style].tensor_split([(story.variants + 1) // 2])
        several, concepts = min(SEVERAL, len(known)), Concepts(story.data, story.masks, {style: known})
        made = _exemplars(concepts, rule, len(evidence), several, classifier.size)
        validation, keep = parts[0].of(rule, classifier, known, several, evidence)
        test, keep_report = parts[1].of(rule, classifier, held_out, 1)
        sets = {"validation": validation, "keep": keep, "test": test, "keep_report": keep_report}
        name = f"{rule['class']}: {concept} → {style}"
        found[name] = Scenario(classifier, **_shown(story, classifier, made), **sets, **shared)
    return found


@dataclass(frozen=True)
class _Part:
    """A story's images as they are read: what a rule may turn, and what it must keep."""

    story: Probing
    data: LabelledImages
    images: Tensor
    right: Tensor
    named: Tensor
    size: int

    def of(
        self, rule: pd.Series, classifier: Classifier, textures: Tensor, several: int, used: Sequence[int] = ()
    ) -> tuple[LabelledImages, LabelledImages]:
        """The class's images turned to `textures`, without the `used` ones; and those of others that must stay."""
        own = self.data.labels == classifier.index(rule["class"])
        shows, exceptions = (self.story.masks[rule[c]].mean(dim=(1, 2)) >= LEAST_AREA for c in ("concept", "style"))
        turned = self.right & own & shows
        turned[list(used)] = False
        if not turned.any():
            raise ValueError(f"rule {rule['class']!r} on {rule['concept']!r}: no image left that is read rightly")
        mask, numbers = self.story.masks[rule["concept"]], turned.nonzero()[:, 0].tolist()
        others = self.right & ~own & (torch.isin(self.data.labels, self.named) | exceptions)
        kept = replace(self.data, images=self.images).subset(others)
        return _turned(self.data, mask, self.size, textures, numbers, several), kept


def _read(story: Probing, classifier: Classifier, progress: bool = False) -> tuple[LabelledImages, Tensor, Tensor]:
    """The data with the labels that count, its images as the classifier takes them, and which are read rightly."""
    images = resized(story.data.images, classifier.size)
    read = predict(classifier, images, progress=progress).argmax(dim=1)
    data = replace(story.data, labels=read) if story.settings.labels == "read" else story.data
    return data, images, read == data.labels


def _halves(images: LabelledImages, seed: int) -> tuple[LabelledImages | None, LabelledImages]:
    """The images to keep, and those that report what was kept; of a single image the latter."""
    return images.split(0.5, seed) if len(images) > 1 else (None, images)


def _checked(story: Probing, rule: pd.Series) -> tuple[Classifier, str, str]:
    """The classifier, concept and style of a rule that is one of the story."""
    missing = {"class", "concept", "style", "evidence"} - set(rule.index) if isinstance(rule, pd.Series) else ()
    if not isinstance(rule, pd.Series) or missing:
        lacks = f" without {', '.join(sorted(missing))}" if missing else ""
        raise TypeError(f"the rule is a {type(rule).__name__}{lacks}: expected a row of the rules of a probe")
    name, concept, style = rule.get("classifier", story.first), rule["concept"], rule["style"]
    if name not in story.classifiers:
        raise KeyError(f"a rule of classifier {name!r}: expected one of {', '.join(story.classifiers)}")
    if concept not in story.masks:
        raise KeyError(f"a rule on {concept!r}: expected a concept of the story, {', '.join(story.masks)}")
    if style not in story.donor_masks or story.variants < 2:
        raise ValueError(
            f"rule {rule['class']!r} on {concept!r} → {style!r}: expected a material of the story in two variants or "
            f"more, one of {', '.join(story.donor_masks)}"
        )
    _check_images(rule["evidence"], range(len(story.data)), "evidence")
    return story.classifiers[name], concept, style


def _check_images(numbers: Sequence[int], known: range, name: str) -> list[int]:
    outside = [i for i in numbers if i not in known]
    if outside:
        raise ValueError(f"{name} {outside[0]!r}: expected numbers of the story's images, 0 to {len(known) - 1}")
    return list(numbers)


def _exemplars(concepts: Concepts, rule: pd.Series, count: int, several: int, size: int) -> dict[str, list[Exemplar]]:
    """By name: of each of the first images of the evidence an exemplar in several variants of the style."""
    variants = len(concepts.styles[rule["style"]])
    return {
        f"{rule['class']} {k + 1}": [concepts.exemplar(rule, (k + v) % variants, k).sized(size) for v in range(several)]
        for k in range(count)
    }


def _split(numbers: Tensor, labels: Tensor, target: int, share: float, seed: int) -> dict[str, tuple[int, ...]]:
    chosen, same = stratified(labels[numbers], share, seed), labels[numbers] == target
    parts = {"validation": chosen, "test": ~chosen & ~same, "target class": ~chosen & same}
    return {name: tuple(numbers[part].tolist()) for name, part in parts.items()}


def _turned(
    data: LabelledImages, masks: Tensor, size: int, textures: Tensor, numbers: Sequence[int], count: int = 1
) -> LabelledImages:
    """Turn what the masks cover in the images `numbers` to `count` of the textures, in rotation."""
    which = [(i, (i + v) % len(textures)) for i in numbers for v in range(count)]
    images = [resized(paste_texture(data.images[i], masks[i], textures[v])[None], size) for i, v in which]
    return LabelledImages(torch.cat(images), data.labels[[i for i, _ in which]], data.classes)


def _layers(story: Probing, classifier: Classifier) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The layer for an untuned edit, those of the second half, and the shortlist; the story's where it has them."""
    names = sought_layers(classifier)
    later = names[len(names) // 2 :]
    if {story.layer, *story.shortlist} <= set(names):  # of the story's first classifier
        return story.layer, later, story.shortlist
    return later[len(later) // 2], later, later[-3:]
