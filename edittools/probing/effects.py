"""What a prediction rests on: transform one concept at a time and see what the classifier loses (section 5).

    table = probe(classifier, data, masks)      # one row for each image, concept, style and variant
    effects(table, ["class", "concept"])        # accuracy drops, beside a control, with intervals and q-values
    found = rules(table)                        # the concepts that each class relies on
    exemplar_for(found.iloc[0], data, masks)    # what `rewrite` needs for the first of them

"Any disturbance hurts" is told from "this concept matters" by a control: the same area of the same image in the same
texture, where the concept is not. The effect of a concept is the drop at the concept minus the drop at the control.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import false_discovery_control

from edittools.metrics import bootstrap, signed_rank

FALSE_DISCOVERY_RATE = 0.05
"""Of the rules that `rules` reports, the share that may be false (Benjamini–Hochberg)."""
LEAST_EFFECT = 0.5
"""A rule lowers the log-odds of the right class by more than this, beyond the control: the odds fall to 0.6 of them."""
LEAST_IMAGES = 10
"""Comparisons of fewer images than this are not made."""

SATURATED = 1e-3
"""Log-odds are those of a probability kept this far from 0 and 1, where they would say more than is known."""


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
        means = [(second - first)[column].mean() for column in ("first", "beside", "changed")]
        effect = [(one["beside"] - one["changed"]).mean() for one in (first, second)]
        spread = bootstrap(gained, rng, resamples, confidence)
        found[name] = [len(images), *means, *spread, signed_rank(gained), *effect]
    columns = ["images", "untouched", "control", "changed", "low", "high", "p", "effect before", "effect after"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("classifier")


def _effect(found: pd.DataFrame, spread: partial, least: float) -> dict[str, float]:
    drop = (found["first"] - found["changed"]).to_numpy()
    both = found.dropna(subset="beside")
    effect = (both["beside"] - both["changed"]).to_numpy()
    values = [
        len(found), found["first"].mean(), drop.mean(), *spread(drop),
        len(both), (both["first"] - both["beside"]).mean(), effect.mean() if len(both) else np.nan, *spread(effect),
        signed_rank(effect - least, "greater"),
    ]  # fmt: skip
    return dict(zip(_EFFECT, values, strict=True))


def rules(
    table: pd.DataFrame,
    fdr: float = FALSE_DISCOVERY_RATE,
    least_effect: float | None = None,
    least_images: int = LEAST_IMAGES,
    measure: str = "log-odds",
    control: str = "elsewhere",
    evidence: int = 6,
) -> pd.DataFrame:
    """List the concepts that each class relies on, strongest first, class by class.

    A rule is a class and a concept, not its own object, whose `effect` (see `effects`) is more than `least_effect`: not
    only in the mean, the test with q ≤ `fdr` is against that effect, not against none. With images enough hardly any
    concept has none at all: the edge of a texture, or an object of the colour of its new ground, costs a little too.
    By default it is `LEAST_EFFECT` of log-odds, else what that takes from a probability of a half, 0.12.
    Beside the columns of `effects` it has the `classifier`, the `style` that hurts most and, as `evidence`, the numbers
    of the images (read rightly before) that lose most.
    """
    if least_effect is None:
        least_effect = LEAST_EFFECT if measure == "log-odds" else 0.5 - expit(-LEAST_EFFECT)
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
