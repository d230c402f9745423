"""The probe: transform every concept of every image in several textures, and predict again (section 5 of the paper)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import torch

from edittools._identity import identity
from edittools.checks import one_of
from edittools.classifiers import Classifier
from edittools.images import resized
from edittools.metrics import predict
from edittools.probing import jobs
from edittools.probing.counterfactuals import LEAST_AREA, Concepts
from edittools.probing.effects import CONTROLS, LEAST_IMAGES, Probe

CHUNK = 16
"""So many images are one job."""


@dataclass(frozen=True)
class Settings:
    """What a probe transforms, and what it compares.

    Where concepts have no groups, `only` some of them are transformed (default: all). Each image is turned to
    `variants_per_image` of each style (default: all), in rotation. `control` is "elsewhere", the same change beside the
    concept, or "in place", the concept turned to itself. The right class is the label "given", or what each classifier
    "read" in the untouched image (`labels`). A rule needs `least_images`.
    """

    only: Sequence[str] | None = None
    variants_per_image: int | None = None
    control: str = "elsewhere"
    labels: str = "given"
    least_images: int = field(default=LEAST_IMAGES, repr=False)

    def __post_init__(self) -> None:
        one_of(self.control, CONTROLS, "control")
        one_of(self.labels, ("given", "read"), "labels")


def probe(
    classifiers: Classifier | Mapping[str, Classifier],
    concepts: Concepts,
    settings: Settings | None = None,
    *,
    store: str | os.PathLike | None = None,
    progress: bool = False,
) -> Probe:
    """Ask what every classifier makes of each image when each concept that is seen in it is transformed.

    `classifiers` are one, or several by name, which see the same pictures, resized to the size that each expects.
    Concepts that cover less than the share `LEAST_AREA` of an image are left. Finished parts are kept in the folder
    `store`. Raises `ValueError` when no image shows a concept.
    """
    settings = settings or Settings()
    named = classifiers if isinstance(classifiers, Mapping) else {"classifier": classifiers}
    groups, parts = concepts.groups or [tuple(settings.only or concepts.masks)], {}
    wanted = [concept for group in groups for concept in group]
    for concept in wanted:
        one_of(concept, concepts.masks, "concept", KeyError)
    for group in groups:
        masks = concepts.masks if settings.control == "elsewhere" else group  # which objects a control must spare
        styles = group if concepts.groups else concepts.styles
        named_only = {"masks": {name: concepts.masks[name] for name in masks}, "groups": ()}
        part = replace(concepts, **named_only, styles={name: concepts.styles[name] for name in styles})
        for first in range(0, len(part.data), CHUNK):
            images = range(first, min(first + CHUNK, len(part.data)))
            parts[f"{', '.join(group)}: images from {first}"] = (first, group, part.subset(images))
    weights = {} if store is None else {name: identity(classifier) for name, classifier in named.items()}
    about = "" if store is None else f"probe {weights} {concepts.digest()} {settings}"
    work = partial(_probe_images, classifiers=named, settings=settings)
    table = jobs.run(work, parts, store, progress=progress, about=about)
    if table.empty:
        raise ValueError(f"no image shows one of {', '.join(wanted)} on {LEAST_AREA:.0%} of its area or more")
    return Probe(table.drop(columns="job"), settings.control, settings.least_images, concepts)


def _probe_images(
    part: tuple[int, Sequence[str], Concepts], classifiers: Mapping[str, Classifier], settings: Settings
) -> list[dict]:
    """Make the rows of some images; all pictures of an image go through each classifier in one batch."""
    first, group, concepts = part
    rows = []
    for i, image in enumerate(concepts.data.images):
        shown = [c for c in group if concepts.masks[c][i].mean() >= LEAST_AREA]
        textures = concepts.textures(first + i, settings.variants_per_image)
        elsewhere = settings.control == "elsewhere"
        cases = {concept: concepts.counterfactual(i, concept, textures, elsewhere) for concept in shown}
        pictures = [part for case in cases.values() for part in case if part is not None]
        for name, classifier in classifiers.items() if shown else ():
            batch = resized(torch.cat([image[None], *pictures]), classifier.size)
            chances = predict(classifier, batch).softmax(dim=1)
            read = [classifier.classes[k] for k in chances.argmax(dim=1).tolist()]
            label = read[0] if settings.labels == "read" else concepts.data.classes[int(concepts.data.labels[i])]
            known = {"classifier": name, "image": first + i, "class": label}
            readings = zip(read, chances[:, classifier.index(label)].tolist(), strict=True)
            before, p_before = next(readings)
            for concept, (_, control) in cases.items():
                known |= {"concept": concept, "is_object": label in concepts.objects.get(concept, ())}
                known |= {"area": float(concepts.masks[concept][i].mean()), "before": before, "p_before": p_before}
                after = list(islice(readings, len(textures)))
                beside = [(None, None)] * len(textures) if control is None else list(islice(readings, len(textures)))
                for texture, changed, controlled in zip(textures, after, beside, strict=True):
                    row = known | dict(zip(("style", "variant"), texture, strict=True))
                    row |= {"after": changed[0], "control": controlled[0]}
                    rows.append(row | {"p_after": changed[1], "p_control": controlled[1]})
    return rows
