"""The probe: transform every concept of every image in several textures, and predict again (section 5 of the paper)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import torch

from edittools.classifiers import Classifier
from edittools.graph import identity
from edittools.images import digest_tensors, resized
from edittools.metrics import predict
from edittools.probing import jobs
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, Counterfactual
from edittools.probing.effects import CONTROLS, LEAST_IMAGES, Probe


@dataclass(frozen=True)
class Settings:
    """What a probe transforms, and what it compares.

    Every concept in `only` (default: all that have masks) is turned to every style. `groups`, instead of `only`, are
    concepts that may stand in for each other, such as grounds: each is turned to the styles named as its group is, so
    to itself as well. One image is turned to `variants_per_image` of each style (default: all), in rotation, so that no
    odd variant passes for an effect. Concepts that cover less than the share `least_area` of an image are left. A rule
    needs `least_images`; a job has `chunk` images.

    `control` is "elsewhere", the same change beside the concept, or "in place", the concept turned to itself: same
    area, same edges, half the work. The right class is the label "given", or what each classifier "read" in the
    untouched image (`labels`). Raises `ValueError` for other words, and for `only` with `groups`.
    """

    only: Sequence[str] | None = None
    groups: Sequence[Sequence[str]] = ()
    variants_per_image: int | None = None
    control: str = "elsewhere"
    labels: str = "given"
    least_area: float = LEAST_AREA
    least_images: int = field(default=LEAST_IMAGES, repr=False)
    chunk: int = 16

    def __post_init__(self) -> None:
        for name, words in {"control": CONTROLS, "labels": ("given", "read")}.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected {' or '.join(map(repr, words))}")
        if self.groups and self.only is not None:
            raise ValueError(f"only {self.only!r} with groups {self.groups!r}: expected one of the two")


DEFAULT = Settings()


def probe(
    classifiers: Classifier | Mapping[str, Classifier],
    concepts: Concepts,
    settings: Settings = DEFAULT,
    *,
    store: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Probe:
    """What every classifier makes of each image when each concept that is seen in it is transformed.

    `classifiers` are one, or several by name, which see the same pictures, resized to the size that each expects.
    `store`, `executor` and `progress` are those of `jobs.run`. Raises `KeyError` for a concept without masks, or of a
    group without a style, and `ValueError` when no image shows a concept.
    """
    named = classifiers if isinstance(classifiers, Mapping) else {"classifier": classifiers}
    groups = settings.groups or [tuple(concepts.masks if settings.only is None else settings.only)]
    wanted, parts = [concept for group in groups for concept in group], {}
    for known, what in ((concepts.masks, "masks"), (concepts.styles if settings.groups else wanted, "styles")):
        if missing := [concept for concept in wanted if concept not in known]:
            raise KeyError(f"no concept {missing[0]!r} among the {what}: expected some of {', '.join(known)}")
    for group in groups:
        needed = concepts.masks if settings.control == "elsewhere" else group  # which objects a control must spare
        part = replace(concepts, masks={concept: concepts.masks[concept] for concept in needed})
        for first in range(0, len(part.data), settings.chunk):
            images = range(first, min(first + settings.chunk, len(part.data)))
            parts[f"{', '.join(group)}: images from {first}"] = (first, group, part.subset(images))
    about = "" if store is None else f"probe {_identity(named, concepts)} {settings}"
    work = partial(_probe_images, classifiers=named, settings=settings)
    table = jobs.run(work, parts, store, executor, progress, about)
    if table.empty:
        share = f"{settings.least_area:.0%}"
        raise ValueError(f"no image shows one of {', '.join(wanted)} on {share} of its area or more")
    return Probe(table.drop(columns="job"), settings.control, settings.least_images, concepts)


def _identity(classifiers: Mapping[str, Classifier], concepts: Concepts) -> str:
    """Name what a probe depends on: classifiers, images, labels, masks, textures."""
    weights = ", ".join(f"{name} {identity(c)}" for name, c in classifiers.items())
    tensors = digest_tensors([concepts.data.labels, *concepts.masks.values(), *concepts.styles.values()])
    names = f"{list(concepts.masks)} {list(concepts.styles)} {dict(concepts.objects)} {concepts.data.classes}"
    return f"{weights}; {concepts.data.digest()[:12]} {tensors[:12]} {names}"


def _probe_images(
    part: tuple[int, Sequence[str], Concepts], classifiers: Mapping[str, Classifier], settings: Settings
) -> list[dict]:
    """The rows of some images; all pictures of an image go through each classifier in one batch."""
    first, group, concepts = part
    rows = []
    for i, image in enumerate(concepts.data.images):
        shown = [c for c in group if 0 < float(concepts.masks[c][i].mean()) >= settings.least_area]
        textures = concepts.textures(first + i, settings.variants_per_image, group if settings.groups else None)
        elsewhere = settings.control == "elsewhere"
        cases = {concept: concepts.counterfactual(i, concept, textures, elsewhere) for concept in shown}
        pictures = [part for case in cases.values() for part in (case.changed, case.control) if part is not None]
        for name, classifier in classifiers.items() if shown else ():
            batch = resized(torch.cat([image[None], *pictures]), classifier.size)
            chances = predict(classifier, batch).softmax(dim=1)
            read = [classifier.classes[k] for k in chances.argmax(dim=1).tolist()]
            label = read[0] if settings.labels == "read" else concepts.data.classes[int(concepts.data.labels[i])]
            known = {"classifier": name, "image": first + i, "class": label}
            readings = zip(read, chances[:, classifier.index(label)].tolist(), strict=True)
            for concept, row in _rows(cases, textures, readings):
                rows.append({**known, "concept": concept, "is_object": concepts.is_object(concept, label), **row})
    return rows


def _rows(
    cases: Mapping[str, Counterfactual], textures: Sequence[tuple[str, int]], readings: Iterator[tuple[str, float]]
) -> Iterator[tuple[str, dict]]:
    """Sort what is read (of the image, then for each concept its changed pictures and its controls) into rows."""
    before, p_before = next(readings)
    for concept, case in cases.items():
        changed = list(islice(readings, len(textures)))
        controls = [(None, None)] * len(textures) if case.control is None else list(islice(readings, len(textures)))
        for (style, variant), (after, p), (control, p_control) in zip(textures, changed, controls, strict=True):
            row = {
                "area": float(case.mask.mean()),
                "style": style,
                "variant": variant,
                "before": before,
                "after": after,
            }
            yield concept, row | {"control": control, "p_before": p_before, "p_after": p, "p_control": p_control}
