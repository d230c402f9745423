"""What a prediction rests on: transform one concept at a time and see what the classifier loses (section 5).

    table = probe(classifier, data, masks)      # one row for each image, concept, style and variant
    effects(table, ["class", "concept"])        # accuracy drops, beside a control, with intervals and q-values
    found = rules(table)                        # the concepts that each class relies on
    exemplar_for(found.iloc[0], data, masks)    # what `rewrite` needs for the first of them

"Any disturbance hurts" is told from "this concept matters" by a control: the same area of the same image in the same
texture, where the concept is not. The effect of a concept is the drop at the concept minus the drop at the control.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.special import logit
from scipy.stats import false_discovery_control, wilcoxon
from torch import Tensor

from edittools import jobs
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, check_mask, digest_tensors, resized
from edittools.metrics import bootstrap, predict
from edittools.models import Classifier, fingerprint
from edittools.styles import STYLES, paste_texture, texture

FALSE_DISCOVERY_RATE = 0.05
"""Of the rules that `rules` reports, the share that may be false (Benjamini–Hochberg)."""
LEAST_EFFECT = 0.5
"""A rule lowers the log-odds of the right class by more than this, beyond the control: the odds fall to 0.6 of them."""
LEAST_IMAGES = 10
"""Comparisons of fewer images than this are not made."""
LEAST_AREA = 0.02
"""Concepts that cover less than this share of an image are not transformed."""

SATURATED = 1e-3
"""Log-odds are those of a probability kept this far from 0 and 1, where they would say more than is known."""

Styles = Sequence[str] | Mapping[str, Tensor]
Own = Mapping[str, Collection[str]]


def control_mask(mask: Tensor, avoid: Tensor | None = None) -> Tensor | None:
    """Place the shape of `mask` where neither it nor `avoid` is: a mask `(H, W)` of the same area, or None if too big.

    Of the mask turned over or moved by half an image the version with most free pixels is taken; what falls on the
    mask or on `avoid` goes to the nearest free pixels instead.
    """
    taken = mask.numpy() > 0
    blocked = taken if avoid is None else taken | (avoid.numpy() > 0)
    area = int(taken.sum())
    if (~blocked).sum() < area:
        return None
    placed = max((version & ~blocked for version in _versions(taken)), key=np.sum)
    if not placed.any():  # nothing of the shape fits: start from the pixel that is furthest from what is blocked
        placed.flat[distance_transform_edt(~blocked).argmax()] = True
    order = np.argsort(np.where(blocked, np.inf, distance_transform_edt(~placed)), axis=None, kind="stable")
    placed = np.zeros(taken.size, bool)
    placed[order[:area]] = True
    return torch.from_numpy(placed.reshape(taken.shape)).float()


def _versions(mask: NDArray[np.bool_]) -> Iterable[NDArray[np.bool_]]:
    half = [side // 2 for side in mask.shape]
    yield from (mask[::-1], mask[:, ::-1], mask[::-1, ::-1])
    yield from (np.roll(mask, half[0], 0), np.roll(mask, half[1], 1), np.roll(mask, half, (0, 1)))


@dataclass(frozen=True)
class Counterfactual:
    """An image with a concept transformed, and the same area elsewhere, each in several textures.

    `changed` and `control` are `(S, 3, H, W)`, `mask` and `elsewhere` `(H, W)` say where; `control` and `elsewhere` are
    None when no control is wanted or the same area does not fit elsewhere.
    """

    changed: Tensor
    mask: Tensor
    control: Tensor | None
    elsewhere: Tensor | None


@dataclass(frozen=True)
class Concepts:
    """Images with the masks of their concepts, and the textures that the concepts are turned to.

    `masks` are `(N, H, W)` of 0 and 1 by concept, all zero where it is not seen. `own` names, by concept, the classes
    whose own object it is: their images' controls avoid it. `styles` are names from `STYLES` (in `variants`), or
    textures `(V, 3, h, w)` by name. Raises `ValueError` when masks do not fit the images.
    """

    data: LabelledImages
    masks: Mapping[str, Tensor]
    own: Own
    textures: Mapping[tuple[str, int], Tensor]

    @classmethod
    def of(
        cls,
        data: LabelledImages,
        masks: Mapping[str, Tensor],
        styles: Styles = STYLES,
        variants: Sequence[int] = (0,),
        own: Own | None = None,
    ) -> "Concepts":
        """Check the masks and make the textures."""
        size = tuple(data.images[:1].shape[-2:])
        for concept, mask in masks.items():
            if tuple(mask.shape) != (len(data), *size):
                raise ValueError(
                    f"masks of {concept!r} of shape {tuple(mask.shape)}: expected {(len(data), *size)}, one an image"
                )
        if isinstance(styles, Mapping):
            made = {(style, v): pictures[v] for style, pictures in styles.items() for v in range(len(pictures))}
        else:
            made = {(style, v): texture(style, v, max(size)) for style in styles for v in variants}
        if not made:
            raise ValueError(f"styles {styles!r} in variants {variants!r}: expected at least one of each")
        return cls(data, masks, own or {}, made)

    def subset(self, indices: Sequence[int]) -> "Concepts":
        """Keep the images at `indices`."""
        masks = {concept: mask[list(indices)] for concept, mask in self.masks.items()}
        return Concepts(self.data.subset(indices), masks, self.own, self.textures)

    def owns(self, concept: str, name: str) -> bool:
        """Say whether `concept` is the own object of the class `name`."""
        return name in self.own.get(concept, ())

    def keys(self, number: int, looks: int | None) -> list[tuple[str, int]]:
        """Give the textures (style, variant) of image `number`: all, or `looks` variants of each style in rotation."""
        counts = pd.Series([style for style, _ in self.textures]).value_counts()
        return [
            (style, variant)
            for style, variant in self.textures
            if looks is None or (variant - number) % counts[style] < looks
        ]

    def counterfactual(
        self, index: int, concept: str, keys: Sequence[tuple[str, int]] | None = None, control: bool = True
    ) -> Counterfactual:
        """Transform a concept of one image, in all textures or in those of the `keys` (style, variant)."""
        mask = check_mask(self.masks[concept][index])
        name = self.data.classes[int(self.data.labels[index])]
        mine = [other for other in self.masks if other != concept and self.owns(other, name)]
        avoid = sum(self.masks[other][index] for other in mine).clamp(max=1) if mine else None
        textures = torch.stack([self.textures[key] for key in keys or self.textures])
        image, elsewhere = self.data.images[index], control_mask(mask, avoid) if control else None
        beside = None if elsewhere is None else paste_texture(image, elsewhere, textures)
        return Counterfactual(paste_texture(image, mask, textures), mask, beside, elsewhere)


def materials(
    data: LabelledImages, masks: Mapping[str, Tensor], concepts: Sequence[str], count: int = 2
) -> dict[str, Tensor]:
    """Cut textures from images: how each concept looks in the `count` images where it covers most.

    Gives `(count, 3, H, W)` by concept; beyond the concept's mask each is continued by the nearest pixels. A concept
    that is turned to such a material stays a thing that the classifier knows, which a fancy style is not. Raises
    `ValueError` for a concept that is seen in fewer images.
    """
    found = {}
    for concept in concepts:
        areas = masks[concept].flatten(1).mean(dim=1)
        if int((areas > 0).sum()) < count:
            raise ValueError(f"{concept!r} is seen in {int((areas > 0).sum())} images: expected at least {count}")
        chosen = areas.argsort(descending=True, stable=True)[:count].tolist()
        found[concept] = torch.stack([_continued(data.images[i], masks[concept][i]) for i in chosen])
    return found


def _continued(image: Tensor, mask: Tensor) -> Tensor:
    _, (rows, columns) = distance_transform_edt(mask.numpy() == 0, return_indices=True)
    return image[:, torch.from_numpy(rows), torch.from_numpy(columns)]


def probe(
    classifiers: Classifier | Mapping[str, Classifier],
    data: LabelledImages,
    masks: Mapping[str, Tensor],
    styles: Styles = STYLES,
    variants: Sequence[int] = (0,),
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
        data, masks, styles, variants, own: see `Concepts`.
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
    concepts = Concepts.of(data, masks, styles, variants, own)
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
    """Give the rows of one image: all its pictures go through each classifier in one batch."""
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


def effects(
    table: pd.DataFrame,
    by: str | Sequence[str] = "concept",
    measure: str = "accuracy",
    *,
    control: str = "elsewhere",
    least_effect: float = 0.0,
    least_images: int = 1,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Summarise a `probe` by one or several of its columns (and by classifier, where there are several).

    `measure` is "accuracy", the paper's, or of the right class the "probability", which shows more with few images, or
    the "log-odds" (see `SATURATED`), which compare classes that are read with more and with less certainty. One row a
    group of at least `least_images` images: `images`; `before`, the mean over them; `drop` when the concept is
    transformed, with a bootstrap interval `drop low` … `drop high`; `controlled`, the images that have a control; their
    mean `control drop`; and `effect`, the drop at the concept minus the drop at its control, paired image by image,
    with its interval `low` … `high`, the one-sided p of Wilcoxon's signed-rank test that the concept hurts no more than
    its control and `least_effect` together, and `q`, the p adjusted by Benjamini–Hochberg over all rows of the
    classifier. The unit is the image: its styles and variants are averaged first.

    Classes whose own object is the concept are marked (`own`) where `by` tells classes and concepts apart, and have no
    `q`; elsewhere they are left out.
    """
    keys = [by] if isinstance(by, str) else list(by)
    unknown = [key for key in keys if key not in table]
    if unknown:
        raise KeyError(f"no column {unknown[0]!r} in the table: expected some of {', '.join(table)}")
    if "classifier" not in keys and table["classifier"].nunique() > 1:
        keys = ["classifier", *keys]
    marked = {"class", "concept"} <= set(keys)
    units = _by_image(table if marked else table[~table["own"]], keys, measure, control)
    rng, rows = np.random.default_rng(seed), []
    for group, found in units.groupby(keys, sort=False):
        if len(found) >= least_images:
            own = {"own": bool(found["own"].any())} if marked else {}
            spread = partial(bootstrap, rng=rng, resamples=resamples, confidence=confidence)
            rows.append(dict(zip(keys, group, strict=True)) | own | _effect(found, spread, least_effect))
    result = pd.DataFrame(rows, columns=[*keys, *(["own"] if marked else []), *_EFFECT])
    tested = result["p"].notna() & (~result["own"].astype(bool) if marked else True)
    result["q"] = np.nan
    for _, rows_of in result[tested].groupby("classifier" if "classifier" in keys else lambda _: 0):
        result.loc[rows_of.index, "q"] = false_discovery_control(rows_of["p"])
    return result


_EFFECT = ("images", "before", "drop", "drop low", "drop high",
           "controlled", "control drop", "effect", "low", "high", "p")  # fmt: skip


def _by_image(table: pd.DataFrame, keys: Sequence[str], measure: str, control: str) -> pd.DataFrame:
    """Average each image's styles and variants: scores `first`, `changed`, `control` (NaN without one)."""
    if measure not in ("accuracy", "probability", "log-odds"):
        raise ValueError(f"measure {measure!r}: expected 'accuracy', 'probability' or 'log-odds'")
    if control not in ("elsewhere", "itself"):
        raise ValueError(f"control {control!r}: expected 'elsewhere' or 'itself'")
    if measure != "accuracy":
        chances = (table[when].astype(float) for when in ("p_before", "p_after", "p_control"))
        first, changed, beside = (_log_odds(chance) for chance in chances) if measure == "log-odds" else chances
    else:
        first, changed, beside = ((table[w] == table["class"]).astype(float) for w in ("before", "after", "control"))
        beside = beside.where(table["control"].notna())
    scored = table.assign(first=first, changed=changed, beside=beside)
    if control == "itself":
        itself = table["style"] == table["concept"]
        same = changed.where(itself).groupby([table[key] for key in ("classifier", "image", "concept")])
        scored = scored.assign(beside=same.transform("mean"))[~itself]
    groups = scored.groupby([*dict.fromkeys((*keys, "image"))], sort=False)
    return groups[["first", "changed", "beside", "own"]].mean().reset_index()


def _log_odds(chance: pd.Series) -> pd.Series:
    return chance.clip(SATURATED, 1 - SATURATED).transform(logit)


def effect_changes(
    table: pd.DataFrame,
    before: str,
    measure: str = "probability",
    *,
    control: str = "elsewhere",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each classifier of a `probe` with the one named `before`, such as edited ones with the unedited.

    One row each, over the `images` that both have: the change of the measure on the pictures as they are, `untouched`,
    at the `control` and where the concept is `changed`, the last with its bootstrap interval `low` … `high` and the
    two-sided p of Wilcoxon's signed-rank test; and the mean effect, `effect before` and `effect after`. An effect alone
    also falls when a classifier loses everything, so a rule is weaker where `changed` rises and the other two do not
    fall. `measure` and `control` are as in `effects`. Raises `KeyError` when `before` is not in the table, and
    `ValueError` when the classifiers have no image with that control in common, or are held to different classes.
    """
    names = list(table["classifier"].unique())
    if before not in names:
        raise KeyError(f"no classifier {before!r} in the table: expected one of {', '.join(names)}")
    rows = table[~table["own"]]
    if (rows.groupby("image")["class"].nunique() > 1).any():
        raise ValueError("classifiers held to different classes of an image: expected a probe against the same labels")
    units = _by_image(rows, ["classifier"], measure, control).dropna(subset="beside")
    units, rng, found = units.set_index(["classifier", "image"]), np.random.default_rng(seed), {}
    for name in [name for name in names if name != before]:
        pair = [units.loc[one] for one in (before, name) if one in units.index]
        images = pair[0].index.intersection(pair[-1].index) if len(pair) == 2 else []
        if not len(images):
            raise ValueError(f"{before!r} and {name!r} share no image with control={control!r}: expected the other one")
        first, second = (one.loc[images] for one in pair)
        gained = (second - first)["changed"].to_numpy()
        p = float(wilcoxon(gained, method="asymptotic").pvalue) if gained.any() else 1.0
        means = [(second - first)[column].mean() for column in ("first", "beside", "changed")]
        effect = [(one["beside"] - one["changed"]).mean() for one in (first, second)]
        found[name] = [len(images), *means, *bootstrap(gained, rng, resamples, confidence), p, *effect]
    columns = ["images", "untouched", "control", "changed", "low", "high", "p", "effect before", "effect after"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("classifier")


def _effect(found: pd.DataFrame, spread: partial, least: float) -> dict[str, float]:
    drop = (found["first"] - found["changed"]).to_numpy()
    both = found.dropna(subset="beside")
    effect = (both["beside"] - both["changed"]).to_numpy()
    values = [
        len(found), found["first"].mean(), drop.mean(), *spread(drop),
        len(both), (both["first"] - both["beside"]).mean(), effect.mean() if len(both) else np.nan, *spread(effect),
        _p_value(effect - least),
    ]  # fmt: skip
    return dict(zip(_EFFECT, values, strict=True))


def _p_value(differences: NDArray) -> float:
    if not len(differences):
        return np.nan
    return float(wilcoxon(differences, alternative="greater", method="asymptotic").pvalue) if differences.any() else 1.0


def rules(
    table: pd.DataFrame,
    fdr: float = FALSE_DISCOVERY_RATE,
    least_effect: float = LEAST_EFFECT,
    least_images: int = LEAST_IMAGES,
    measure: str = "log-odds",
    control: str = "elsewhere",
    evidence: int = 6,
) -> pd.DataFrame:
    """List the concepts that each class relies on, strongest first, class by class.

    A rule is a class and a concept, not its own object, whose `effect` (see `effects`) is more than `least_effect`: not
    only in the mean, the test with q ≤ `fdr` is against that effect, not against none. With images enough hardly any
    concept has none at all: the edge of a texture, or an object of the colour of its new ground, costs a little too.
    Beside the columns of `effects` it has the `classifier`, the `style` that hurts most and, as `evidence`, the numbers
    of the images (read rightly before) that lose most.
    """
    least = {"least_effect": least_effect, "least_images": least_images}
    found = effects(table, ["class", "concept"], measure, control=control, **least)
    found = found[(found["q"] <= fdr) & (found["effect"] >= least_effect)]
    shown = [_evidence(table, rule, evidence) for _, rule in found.iterrows()]
    found = found.drop(columns="own").assign(
        style=[style for style, _ in shown], evidence=[images for _, images in shown]
    )
    if "classifier" not in found:
        found.insert(0, "classifier", next(iter(table["classifier"]), None))
    strongest = found.groupby("class")["effect"].transform("max")
    order = found.assign(strongest=strongest).sort_values(
        ["classifier", "strongest", "class", "effect"], ascending=[True, False, True, False], kind="stable"
    )
    return found.loc[order.index].reset_index(drop=True)


def _evidence(table: pd.DataFrame, rule: pd.Series, count: int) -> tuple[str, tuple[int, ...]]:
    keys = [key for key in ("classifier", "class", "concept") if key in rule]
    rows = table[(table[keys] == rule[keys]).all(axis=1) & (table["style"] != rule["concept"])]
    lost = (rows["p_before"] - rows["p_after"]).groupby(rows["style"], sort=False).mean()
    right = rows[rows["before"] == rows["class"]]
    by_image = (right["p_before"] - right["p_after"]).groupby(right["image"]).mean().sort_values(ascending=False)
    return lost.idxmax(), tuple(int(image) for image in by_image.index[:count])


def agreement(
    table: pd.DataFrame, exact: pd.DataFrame, measure: str = "log-odds", control: str = "itself", **options: Any
) -> pd.DataFrame:
    """Put the effects of one classifier's concepts, class by class, in two tables next to each other.

    All options are those of `effects`. One row a class and concept that both have: the effects `probe` and `exact`.
    Raises `ValueError` for tables of several classifiers, or that have no such pair in common.
    """
    names = sorted({*table["classifier"], *exact["classifier"]})
    if len(names) > 1:
        raise ValueError(f"tables of the classifiers {', '.join(names)}: expected the rows of one")
    keys, options = ["class", "concept"], {"measure": measure, "control": control, **options}
    found = [effects(one, keys, **options).set_index(keys)["effect"] for one in (table, exact)]
    pairs = pd.concat(found, axis=1, keys=["probe", "exact"]).dropna()
    if pairs.empty:
        raise ValueError(f"no class and concept has an effect in both tables with {options}: expected at least one")
    return pairs


def score(found: pd.DataFrame, planted: Collection[tuple[str, str]]) -> dict[str, float]:
    """Compare the rules found with those `planted`, pairs of class and concept: precision, recall and the counts.

    Precision is NaN when nothing was found.
    """
    pairs, true = set(zip(found["class"], found["concept"], strict=True)), set(planted)
    hits = len(pairs & true)
    return {
        "precision": hits / len(pairs) if pairs else float("nan"),
        "recall": hits / len(true) if true else float("nan"),
        "found": len(pairs),
        "planted": len(true),
    }


@dataclass(frozen=True)
class View:
    """A picture `(3, H, W)` of a probe: what it is, what it is read as, and the probability of the right class."""

    title: str
    image: Tensor
    read: str
    chance: float


def views(table: pd.DataFrame, concepts: Concepts, row: pd.Series) -> list[View]:
    """Show one row of a probe: the original, the concept transformed, and the control.

    The control is the one elsewhere; where there is none, the one in place (the concept turned to another look of
    itself, if the table has it); where there is neither, two views come back.
    """
    index, concept, key = int(row["image"]), row["concept"], (row["style"], int(row["variant"]))
    has_control = pd.notna(row["p_control"])
    case = concepts.counterfactual(index, concept, [key], has_control)
    found = [
        View("original", concepts.data.images[index], row["before"], row["p_before"]),
        View(f"{concept} → {row['style']}", case.changed[0], row["after"], row["p_after"]),
    ]
    if has_control:
        return [*found, View(f"elsewhere → {row['style']}", case.control[0], row["control"], row["p_control"])]
    same = ["classifier", "image", "class", "concept"]
    itself = table[(table[same] == row[same]).all(axis=1) & (table["style"] == concept)]
    for _, other in itself.head(1).iterrows():
        picture = concepts.counterfactual(index, concept, [(concept, int(other["variant"]))], False).changed[0]
        found.append(View(f"another {concept}", picture, other["after"], other["p_after"]))
    return found


def exemplar_for(
    rule: pd.Series,
    data: LabelledImages,
    masks: Mapping[str, Tensor],
    styles: Styles = STYLES,
    variant: int = 0,
    rank: int = 0,
) -> Exemplar:
    """Turn a row of `rules` into what `rewrite` needs: the concept in the style that hurts shall be read as it was.

    x is the image of the rule's `evidence` at place `rank`, x' the same with the concept turned to the rule's `style`.
    """
    concepts = Concepts.of(data, masks, styles, (variant,))
    index = rule["evidence"][rank]
    image, mask = data.images[index], check_mask(concepts.masks[rule["concept"]][index])
    changed = paste_texture(image, mask, concepts.textures[rule["style"], variant])
    return Exemplar(image, changed, mask, list(data.classes).index(rule["class"]))
