"""The probe: transform every concept of every image in every look, and predict again (section 5 of the paper)."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools import jobs
from edittools.classifiers import Classifier, fingerprint
from edittools.images import LabelledImages, digest_tensors, resized
from edittools.metrics import predict
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, Counterfactual, Own, Styles, materials


def probe(
    classifiers: Classifier | Mapping[str, Classifier],
    data: LabelledImages,
    masks: Mapping[str, Tensor],
    styles: Styles,
    *,
    own: Own | None = None,
    only: Collection[str] | None = None,
    looks: int | None = None,
    control: bool = True,
    against: str = "labels",
    least_area: float = LEAST_AREA,
    chunk: int = 16,
    store: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Transform each concept in each image where it is seen, and tabulate what every classifier makes of it.

    Args:
        classifiers: one, or several by name, which see the same pictures (resized to the size that each expects).
        data, masks, styles, own: see `Concepts`.
        only: the concepts to transform, if not all that have masks.
        looks: variants of each style that one image is turned to, in rotation from image to image; all if None.
        control: make the control elsewhere, which doubles the work.
        against: "labels", or "reading" to hold each classifier to what it reads in the untouched image.
        least_area: concepts that cover less than this share of an image are not transformed.
        chunk: images in a job; `store`, `executor` and `progress` are those of `jobs.run`.

    One row for each classifier, image (its number in `data`), concept, style and variant: `class`, `own` (the concept
    is the class's own object), `area` (share of the image), what is read `before`, `after` the concept is transformed
    and after the `control` is, and the probability of `class` each time, `p_before`, `p_after`, `p_control`. The
    control is missing (None, NaN) without `control`, and where the same area does not fit beside the concept.
    """
    if against not in ("labels", "reading"):
        raise ValueError(f"against={against!r}: expected 'labels' or 'reading'")
    named = classifiers if isinstance(classifiers, Mapping) else {"classifier": classifiers}
    concepts = Concepts.of(data, masks, styles, own)
    only = tuple(masks) if only is None else tuple(only)
    for concept in only:
        if concept not in masks:
            raise KeyError(f"no concept {concept!r} among the masks: expected some of {', '.join(masks)}")
    settings = {"only": only, "looks": looks, "control": control, "against": against, "least_area": least_area}
    work = partial(_probe_chunk, classifiers=named, **settings)
    starts = range(0, len(data), chunk)
    parts = {f"images from {i}": (i, concepts.subset(range(i, min(i + chunk, len(data))))) for i in starts}
    about = "" if store is None else f"probe {_identity(named, concepts)} {settings} {chunk}"
    table = jobs.run(work, parts, store, executor, progress, about)
    if table.empty:
        raise ValueError(f"no image shows one of {', '.join(only)} on {least_area:.0%} of its area or more")
    return table.drop(columns="job")


def probe_swaps(
    classifiers: Classifier | Mapping[str, Classifier],
    data: LabelledImages,
    masks: Mapping[str, Tensor],
    groups: Sequence[Sequence[str]],
    donors: LabelledImages,
    donor_masks: Mapping[str, Tensor],
    count: int = 8,
    looks: int = 2,
    store: str | os.PathLike | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Probe with `materials` from `donors` as styles: each concept becomes each other of its group, and itself.

    `groups` are concepts that may stand in for each other, such as grounds. Turning a concept to another look of itself
    is the control in place (`effects(..., control="itself")`): same area, same edges, same handling. Each material has
    `count` looks, from as many images, of which an image is turned to `looks`, in rotation: with few looks for all
    images, an odd one among them would pass for an effect. `options` are those of `probe`; `store` is a folder, with a
    file a group.
    """
    tables = []
    for number, group in enumerate(groups):
        file = None if store is None else os.path.join(store, f"swaps-{number}.jsonl")
        made = materials(donors, donor_masks, group, count)
        tables.append(probe(classifiers, data, masks, made, only=group, looks=looks, store=file, **options))
    return pd.concat(tables, ignore_index=True)


def _identity(classifiers: Mapping[str, Classifier], concepts: Concepts) -> str:
    """Name what a probe depends on: weights, images, labels, masks, textures."""
    weights = ", ".join(f"{name} {fingerprint(c.model)[:12]}" for name, c in classifiers.items())
    tensors = [concepts.data.labels, *concepts.masks.values(), *concepts.textures.values()]
    own = {concept: sorted(names) for concept, names in concepts.own.items()}
    names = f"{list(concepts.masks)} {list(concepts.textures)} {own}"
    return f"{weights}; {concepts.data.digest()[:12]} {digest_tensors(tensors)[:12]} {names}"


def _probe_chunk(
    part: tuple[int, Concepts],
    classifiers: Mapping[str, Classifier],
    only: Sequence[str],
    looks: int | None,
    control: bool,
    against: str,
    least_area: float,
) -> list[dict]:
    first, concepts = part
    rows = []
    for i in range(len(concepts.data)):
        areas = {concept: float(concepts.masks[concept][i].mean()) for concept in only}
        seen = [concept for concept, area in areas.items() if area >= least_area and area]
        if seen:
            keys = concepts.keys(first + i, looks)
            cases = {concept: concepts.counterfactual(i, concept, keys, control) for concept in seen}
            rows += _probe_image(first + i, i, cases, keys, concepts, classifiers, against)
    return rows


def _probe_image(
    number: int,
    i: int,
    cases: Mapping[str, Counterfactual],
    keys: Sequence[tuple[str, int]],
    concepts: Concepts,
    classifiers: Mapping[str, Classifier],
    against: str,
) -> list[dict]:
    """The rows of one image: all its pictures go through each classifier in one batch."""
    pictures = [concepts.data.images[i][None]]
    for case in cases.values():
        pictures += [case.changed, *([] if case.control is None else [case.control])]
    batch, rows = torch.cat(pictures), []
    for name, classifier in classifiers.items():
        chances = predict(classifier, resized(batch, classifier.size)).softmax(dim=1)
        read = [classifier.classes[k] for k in chances.argmax(dim=1).tolist()]
        label = read[0] if against == "reading" else concepts.data.classes[int(concepts.data.labels[i])]
        right = chances[:, classifier.index(label)].tolist()
        rows += _rows(name, number, label, cases, keys, concepts, read, right)
    return rows


def _rows(
    name: str,
    number: int,
    label: str,
    cases: Mapping[str, Counterfactual],
    keys: Sequence[tuple[str, int]],
    concepts: Concepts,
    read: Sequence[str],
    right: Sequence[float],
) -> Iterable[dict]:
    """Sort the predictions of one batch (the image; for each concept the changed pictures, the controls) into rows."""
    at, count = 1, len(keys)
    for concept, case in cases.items():
        step = 0 if case.control is None else count
        same = {
            "classifier": name, "image": number, "class": label, "concept": concept,
            "own": concepts.owns(concept, label), "area": float(case.mask.mean()),
        }  # fmt: skip
        for k, (style, variant) in enumerate(keys, start=at):
            yield {
                **same, "style": style, "variant": variant,
                "before": read[0], "after": read[k], "control": read[k + step] if step else None,
                "p_before": right[0], "p_after": right[k], "p_control": right[k + step] if step else None,
            }  # fmt: skip
        at += count + step
