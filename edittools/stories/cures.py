"""From a rule that a probe found to an edit of it, and back to the probe (section 5).

    rule, is_found = shown_rule(story, probe)   # one of `probe.rules()`
    cure = scenario_for(story, rule)            # what `choosing` chooses an edit on, and reports
    again = cure.probe_again({"edited": edit})  # the probe once more
    again.changes()                             # what it gained

A scenario's images are turned to one half of the variants of the rule's material where an edit is made and chosen, and
to the other half where it is reported.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from edittools.choosing.scenario import Scenario
from edittools.choosing.trials import candidate_layers
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, resized, stratified
from edittools.metrics import predict
from edittools.pasting import paste_texture
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, turned
from edittools.probing.effects import Probe
from edittools.probing.probe import Settings, probe
from edittools.stories.photos import elsewhere
from edittools.stories.rules import Probing

SEVERAL = 3
"""So many variants of a material an image is turned to where an edit is chosen, if there are as many."""


def shown_rule(story: Probing, found: Probe) -> tuple[pd.Series, bool]:
    """Return one rule of `Probing.with_materials`, and whether it is one: where none is found, the strongest suspicion.

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

        All are held to the classes that the unedited classifier is held to. `images` are numbers in the story's data
        (default: all). Raises `ValueError` for an edit that is named "before".
        """
        if "before" in edits:
            raise ValueError("an edit named 'before': expected another name, this one is the unedited classifier's")
        chosen = list(range(len(self.concepts.data)) if images is None else images)
        named = {"before": self.classifier} | {name: copy.deepcopy(self.classifier) for name in edits}
        for name, edit in edits.items():
            edit.apply_(named[name])
        found = probe(named, self.concepts.subset(chosen), self.settings, progress=progress)
        table = pd.concat([found.table.query("classifier == @name") for name in named], ignore_index=True)
        return replace(found, table=table.assign(image=[chosen[i] for i in table["image"]]), concepts=self.concepts)


def scenario_for(story: Probing, rule: pd.Series, exemplars: int = 3, progress: bool = False) -> Cure:
    """Make the scenario of a row of `rules`: what `choosing` needs to choose an edit that weakens it, and to report.

    The first of the rule's evidence are the `exemplars`, each also in several variants of the rule's style. All other
    images that show the concept and are read rightly are turned to the style: half of every class is `validation`, in
    several variants; of the others, in variants not seen before, those of the rule's class are `own`, the rest the
    `test`. `keep` and `keep_report` are halves of the untouched images that show what the style is made of, not the
    concept, and are read rightly. Labels are those of the story, or what is read where it probes so.

    Raises `KeyError` for a classifier, class, concept or material that is not of the story, and `ValueError` when there
    is nothing to edit, choose on, report or keep.
    """
    classifier, concept, style = of_story(story, rule)
    evidence, target = list(rule["evidence"][:exemplars]), classifier.index(rule["class"])
    known, held_out = halves(story, style)
    data, images, right = as_read(story, classifier, progress)
    showing, exceptions = (right & (story.masks[c].mean(dim=(1, 2)) >= LEAST_AREA) for c in (concept, style))
    exceptions &= ~showing  # an image with both has one duty
    showing[evidence] = exceptions[evidence] = False
    numbers = _split(showing.nonzero()[:, 0], data.labels, target)
    if not (evidence and numbers["validation"] and numbers["test"] and exceptions.any()):
        counts = {"exemplars": len(evidence), **{name: len(part) for name, part in numbers.items()}}
        raise ValueError(
            f"rule {rule['class']!r} on {concept!r} → {style!r}: {counts}, {int(exceptions.sum())} to keep; "
            f"expected at least one exemplar, validation, test and kept image"
        )
    turn = partial(in_variants, data, story.masks[concept], classifier.size)
    kept = replace(data, images=images).subset(exceptions)
    keep, report = kept.split(0.5) if len(kept) > 1 else (None, kept)
    materials = {concept: story.concepts.styles[concept], style: held_out}
    return Cure(
        classifier,
        **shown(story, rule, exemplars),
        **everyday(story, classifier),
        more=elsewhere(classifier, prefix="editing-classifiers/snow/") if story.tier == "lite" else {},
        change=partial(paste_texture, texture_image=known[0]),
        validation=turn(known, numbers["validation"], min(SEVERAL, len(known))),
        test=turn(held_out, numbers["test"]),
        own=turn(held_out, numbers["target class"]) if numbers["target class"] else None,
        keep=keep,
        keep_report=report,
        numbers=numbers,
        concepts=Concepts(data, {concept: story.masks[concept]}, materials, story.concepts.objects),
        settings=replace(story.settings, only=[concept], variants_per_image=2, control="in place", labels="given"),
    )


def of_story(story: Probing, rule: pd.Series) -> tuple[Classifier, str, str]:
    """Return the classifier, concept and style of a rule; raise `KeyError` for one that is not of the story."""
    name, concept, style = rule.get("classifier", story.first), rule["concept"], rule["style"]
    known = {"classifier": (name, story.classifiers), "concept": (concept, story.masks)}
    for what, (given, expected) in {**known, "material": (style, story.concepts.styles)}.items():
        if given not in expected:
            raise KeyError(f"a rule of the {what} {given!r}: expected one of {', '.join(expected)}")
    return story.classifiers[name], concept, style


def halves(story: Probing, style: str) -> tuple[Tensor, ...]:
    """Part the variants of a material: to make and choose an edit, and to report it."""
    variants = story.concepts.styles[style]
    return variants.tensor_split([(len(variants) + 1) // 2])


def as_read(story: Probing, classifier: Classifier, progress: bool = False) -> tuple[LabelledImages, Tensor, Tensor]:
    """Return the data with the labels that count, its images as the classifier takes them, and which are right."""
    images = resized(story.data.images, classifier.size)
    read = predict(classifier, images, progress=progress).argmax(dim=1)
    data = replace(story.data, labels=read) if story.settings.labels == "read" else story.data
    return data, images, read == data.labels


def shown(story: Probing, rule: pd.Series, count: int) -> dict[str, Any]:
    """Make the exemplars of a rule, each also in several variants, and the settings of an untuned edit."""
    classifier, _, style = of_story(story, rule)
    known, _ = halves(story, style)
    concepts, each = Concepts(story.data, story.masks, {style: known}), min(SEVERAL, len(known))
    made: dict[str, list[Exemplar]] = {
        f"{rule['class']} {k + 1}": [
            concepts.exemplar(rule, (k + v) % len(known), k).sized(classifier.size) for v in range(each)
        ]
        for k in range(len(rule["evidence"][:count]))
    }
    several = {f"{name} in {each} variants": some for name, some in made.items()}
    default = {"layer": _layers(story, classifier)[0], "exemplar": next(iter(made)), "rank": 1, "masked": True}
    return {"exemplars": {name: some[0] for name, some in made.items()}, "several": several, "default": default}


def everyday(story: Probing, classifier: Classifier) -> dict[str, Any]:
    """Return what all scenarios of a classifier share: its everyday images at its size, its layers and the tier."""
    clean = replace(story.clean, images=resized(story.clean.images[:], classifier.size))
    sets = {name: clean.subset(range(first, len(clean), 2)) for first, name in enumerate(("budget", "clean"))}
    _, later, shortlist = _layers(story, classifier)
    reference = resized(story.reference, classifier.size)
    return {**sets, "reference": reference, "layers": later, "shortlist": shortlist, "tier": story.tier}


def in_variants(
    data: LabelledImages, masks: Tensor, size: int, textures: Tensor, numbers: Sequence[int], count: int = 1
) -> LabelledImages:
    """Turn what the masks cover in the images `numbers` to `count` of the textures, in rotation, at a size."""
    which = [(i, (i + v) % len(textures)) for i in numbers for v in range(count)]
    images = [i for i, _ in which]
    made = turned(data.subset(images), masks[images], [textures[v] for _, v in which])
    return replace(made, images=resized(made.images, size))


def _split(numbers: Tensor, labels: Tensor, target: int) -> dict[str, tuple[int, ...]]:
    chosen, same = stratified(labels[numbers], 0.5, 0), labels[numbers] == target
    parts = {"validation": chosen, "test": ~chosen & ~same, "target class": ~chosen & same}
    return {name: tuple(numbers[part].tolist()) for name, part in parts.items()}


def _layers(story: Probing, classifier: Classifier) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The layer for an untuned edit, those of the second half, and the shortlist; the story's where it has them."""
    names = candidate_layers(classifier)
    later = names[len(names) // 2 :]
    if {story.layer, *story.shortlist} <= set(names):  # of the story's first classifier
        return story.layer, later, story.shortlist
    return later[len(later) // 2], later, later[-3:]
