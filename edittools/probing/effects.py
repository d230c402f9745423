"""Evaluate a probe: the effect of each concept, compared with a control, and the rules (section 5 of the paper).

    probed = probe(classifier, concepts)  # its `table` has one row for each image, concept, material, and variant
    probed.effects(["class", "concept"])  # accuracy drops, compared with a control, with intervals and q-values
    rules = probed.rules()                # the concepts that each class relies on

Any change of an image may lower accuracy. So the effect of a concept is the drop when the concept is transformed, minus
the drop in a control, see `Probe`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit, stdtrit
from scipy.stats import false_discovery_control, rankdata, wilcoxon
from torch import Tensor

from edittools._checks import one_of
from edittools.probing.counterfactuals import Concepts
from edittools.stats import accuracy_interval

FALSE_DISCOVERY_RATE = 0.05
"""The expected share of false rules among those that `Probe.rules` lists, at most (Benjamini–Hochberg)."""
LEAST_EFFECT = 0.5
"""The concept of a rule has at least this effect on the log-odds of the correct class: the odds fall to 61% or less."""
LEAST_IMAGES = 10
"""The default of the smallest number of images that a rule is based on."""

SATURATED = 1e-3
"""Log-odds are computed from probabilities that are clipped to at least this distance from 0 and 1.

Closer to 0 and 1, log-odds are mostly noise.
"""

CONTROLS = ("elsewhere", "in place")
MEASURES = ("accuracy", "probability", "log-odds")


class View(NamedTuple):
    """One image `(3, H, W)` of a probe, its title, its predicted class, and the probability of the correct class."""

    title: str
    image: Tensor
    predicted: str
    probability: float


@dataclass(frozen=True, eq=False)
class Probe:
    """The predictions of classifiers on images in which one concept at a time is transformed.

    Args:
        table: one row for each classifier, image, concept, material, and variant, with these columns:
            `classifier`, `image` (its number in `concepts.data`), `concept`, `material`, `variant`;
            `class`: the correct class;
            `is_object`: whether the concept is the object of the class;
            `area`: share of the image that the concept covers;
            `before`, `after`, `control`: predicted class of the image, of the image with the concept transformed, and
            of the control;
            `p_before`, `p_after`, `p_control`: probability of `class` in each of these.
            The columns of the control hold None or NaN if no control was made.
        control: the kind of control. "elsewhere": the same area elsewhere in the image is transformed. "in place": the
            concept is transformed to the material with its own name; these are rows of their own. In place, textures
            are drawn like images, and `effects` uses each of them once.
        least_images: smaller groups of images are omitted from `rules`.
        concepts: the images, masks, and textures from which `views` makes images; None if the table was not made by
            pasting textures.
    """

    table: pd.DataFrame = field(repr=False)
    control: str = "elsewhere"
    least_images: int = LEAST_IMAGES
    concepts: Concepts | None = field(default=None, repr=False)

    def where(self, column: str, *values: Any) -> "Probe":
        """Select the rows that have one of several values in a column.

        Args:
            column: name of a column of the table.
            values: the values.

        Returns:
            A probe with these rows.

        Raises:
            KeyError: if there is no such column.
            ValueError: if no row has one of the values.
        """
        one_of(column, self.table, "column", KeyError)
        table = self.table[self.table[column].isin(values)]
        if table.empty:
            available = ", ".join(map(str, self.table[column].unique()[:20]))
            raise ValueError(f"no row has {column} {', '.join(map(str, values))}; choose among {available}")
        return replace(self, table=table)

    def effects(
        self,
        by: str | Sequence[str] = "concept",
        measure: str = "accuracy",
        least_effect: float = 0.0,
        least_images: int = 1,
    ) -> pd.DataFrame:
        """Tabulate drops and effects for groups of rows.

        With the control "in place", the change and the control differ in their textures, so images that share a texture
        are not independent. An effect therefore uses each texture in the first image of the group that was transformed
        to it, and a group has no more controls than there are textures of its concept.

        Args:
            by: columns of the table that define a group; with several classifiers, "classifier" is added.
            measure: the score of an image. "accuracy", as in the paper; "probability" of the correct class, which shows
                effects in fewer images; or its "log-odds" (see `SATURATED`), which make effects comparable between
                classes that are predicted with high and with low certainty.
            least_effect: the one-sided test is that the effect exceeds this value.
            least_images: smaller groups of images are omitted.

        Returns:
            One row for each group, with the columns of `by` and
            `images`, `before`: number of images, and their mean score without a change;
            `drop`, `drop low`, `drop high`: mean drop of the score when the concept is transformed, with its 95%
            interval: `mean_interval`, and for accuracies `accuracy_drop_interval`;
            `controlled`, `control drop`: number of images with a control, and their mean drop in the control;
            `effect`, `low`, `high`: mean difference of the two drops, paired by image, with its 95% interval;
            `p`: p-value of Wilcoxon's signed-rank test, one-sided;
            `q`: `p`, adjusted by Benjamini–Hochberg over the rows of the same classifier. It is NaN for groups with
            fewer than `least_images` controls, and for classes whose object is the concept.

        Raises:
            KeyError: if the table has no such column.
            ValueError: if `measure` has another value.
        """
        keys = [by] if isinstance(by, str) else list(by)
        for key in keys:
            one_of(key, self.table, "column", KeyError)
        if "classifier" not in keys and self.table["classifier"].nunique() > 1:
            keys = ["classifier", *keys]
        marks_objects = {"class", "concept"} <= set(keys)  # otherwise the rows of objects are left out
        table = self.table if marks_objects else self.table[~self.table["is_object"]]
        units = self._by_image(table, keys, measure)
        rows = []
        for group, scores in units.groupby(keys, sort=False):
            if len(scores) >= least_images:
                is_object = [scores["is_object"].any()] if marks_objects else []
                rows.append([*group, *is_object, *_effect(scores, measure, least_effect)])
        object_column = ["is_object"] if marks_objects else []
        result = pd.DataFrame(rows, columns=[*keys, *object_column, *_EFFECT]).assign(q=np.nan)
        is_tested = result["p"].notna() & (result["controlled"] >= least_images)
        if marks_objects:
            is_tested = is_tested & ~result["is_object"].astype(bool)
        families = [result[is_tested]]
        if "classifier" in keys:
            families = [family for _, family in result[is_tested].groupby("classifier")]
        for family in families:
            if len(family):
                result.loc[family.index, "q"] = false_discovery_control(family["p"])
        return result

    def _by_image(self, table: pd.DataFrame, keys: Sequence[str], measure: str) -> pd.DataFrame:
        """Average the scores of each image over its textures.

        With the control "in place", the textures to which an earlier image of the group was transformed are left out of
        `paired` and `controlled`, so that images are independent.

        Args:
            table: rows of the table.
            keys: columns of the table that define a group.
            measure: see `effects`.

        Returns:
            One row for each group and image, with the scores `untouched`, `changed`, `controlled`, and `paired`, which
            is the mean of `changed` over rows with a control.
        """
        one_of(measure, MEASURES, "measure")
        scores = _scores(table, measure)
        scored = table.assign(**scores)
        if self.control == "in place":
            in_place = table["material"] == table["concept"]
            is_used = _first_uses(table, keys)
            image_keys = [table[key] for key in ("classifier", "image", "concept")]
            control_scores = scores["changed"].where(in_place & is_used).groupby(image_keys)
            controlled = control_scores.transform("mean").where(is_used)
            scored = scored.assign(controlled=controlled)[~in_place]
        scored = scored.assign(paired=scored["changed"].where(scored["controlled"].notna()))
        group_keys = list(dict.fromkeys((*keys, "image")))
        groups = scored.groupby(group_keys, sort=False)
        return groups[[*scores, "paired", "is_object"]].mean().reset_index()

    def rules(self, fdr: float = FALSE_DISCOVERY_RATE, least_effect: float = LEAST_EFFECT) -> pd.DataFrame:
        """List the concepts that each class relies on.

        Args:
            fdr: false-discovery rate; a rule has q ≤ `fdr`.
            least_effect: the mean effect of a rule on the log-odds is at least this, and the test is that it exceeds
                this.

        Returns:
            One row for each rule, class by class, the class with the strongest rule first. The columns are those of
            `effects` and
            `material`: the material that lowers the probability of the class most;
            `evidence`: the numbers of the correctly classified images, those that lose the most probability first.
        """
        keys = ["classifier", "class", "concept"]
        effects = self.effects(keys, "log-odds", least_effect, self.least_images)
        rules = effects[(effects["q"] <= fdr) & (effects["effect"] >= least_effect)]
        materials = []
        evidence = []
        for _, rule in rules.iterrows():
            material, numbers = self._evidence(rule[keys])
            materials.append(material)
            evidence.append(numbers)
        rules = rules.assign(material=materials, evidence=evidence)
        rules = rules[[*keys, *_EFFECT, "q", "material", "evidence"]]
        rules["strongest"] = rules.groupby(["classifier", "class"])["effect"].transform("max")
        rules = rules.sort_values(
            ["classifier", "strongest", "class", "effect"],
            ascending=[True, False, True, False],
            kind="stable",
            ignore_index=True,
        )
        return rules.drop(columns="strongest")

    def strongest_rule(self, preferred: str | None = None) -> tuple[pd.Series, bool]:
        """Return the strongest rule of a class, or the strongest of all rules if that class has none.

        Args:
            preferred: the class whose rule is preferred; None prefers no class.

        Returns:
            The rule, and whether it is significant. If none is, it is the one with the largest measured effect.

        Raises:
            ValueError: if no concept has an effect at all.
        """
        significant = self.rules()
        rules = significant
        if significant.empty:
            rules = self.rules(fdr=1, least_effect=0)
        if rules.empty:
            raise ValueError(
                f"no concept that {self.least_images} images or more show has an effect on predictions; probe more "
                "images"
            )
        of_class = rules[rules["class"] == preferred]
        strongest = rules if of_class.empty else of_class
        return strongest.iloc[0], not significant.empty

    def _evidence(self, rule: pd.Series) -> tuple[str, tuple[int, ...]]:
        """Find the material that lowers the probability most, and the correctly classified images.

        Args:
            rule: the values of the columns that identify a rule.

        Returns:
            The material and the evidence, see `rules`.
        """
        is_of_rule = (self.table[rule.index] == rule).all(axis=1)
        rows = self.table[is_of_rule & (self.table["material"] != rule["concept"])]
        rows = rows[~rows["is_object"]]
        rows = rows.assign(lost=rows["p_before"] - rows["p_after"])
        correct = rows[rows["before"] == rows["class"]]
        lost_by_image = correct.groupby("image")["lost"].mean().sort_values(ascending=False)
        material = rows.groupby("material", sort=False)["lost"].mean().idxmax()
        return material, tuple(int(number) for number in lost_by_image.index)

    def views(self, row: pd.Series) -> list[View]:
        """Make the images of one row of the table: the original, the transformed one, and the control if there is one.

        Args:
            row: a row of the table.

        Returns:
            The images, each with its title, its predicted class, and the probability of the correct class.

        Raises:
            ValueError: if the probe has no `concepts` to make images from.
        """
        if self.concepts is None:
            raise ValueError(
                "the probe has concepts=None, so it cannot make images; use a probe that pasted textures, as probe() "
                "does"
            )
        number = int(row["image"])
        concept = row["concept"]
        material = row["material"]
        has_control = pd.notna(row["p_control"])
        texture = (material, int(row["variant"]))
        changed, elsewhere = self.concepts.counterfactual(number, concept, [texture], has_control)
        views = [
            View("original", self.concepts.data.images[number], row["before"], row["p_before"]),
            View(f"{concept} → {material}", changed[0], row["after"], row["p_after"]),
        ]
        if has_control:
            views.append(View(f"elsewhere → {material}", elsewhere[0], row["control"], row["p_control"]))
        else:
            views += self._view_in_place(row)
        return views

    def _view_in_place(self, row: pd.Series) -> list[View]:
        """Return a list with the control "in place" of a row; an empty list if there is none."""
        concept = row["concept"]
        image_columns = ["classifier", "image", "class", "concept"]
        is_of_image = (self.table[image_columns] == row[image_columns]).all(axis=1)
        in_place = self.table[is_of_image & (self.table["material"] == concept)]
        if in_place.empty:
            return []
        _, control = next(in_place.iterrows())
        texture = (concept, int(control["variant"]))
        images, _ = self.concepts.counterfactual(int(row["image"]), concept, [texture], control=False)
        return [View(f"another {concept}", images[0], control["after"], control["p_after"])]


def _scores(table: pd.DataFrame, measure: str) -> dict[str, pd.Series]:
    """Score the image (`untouched`), the transformed image (`changed`) and the control (`controlled`) of each row."""
    if measure == "accuracy":
        has_control = table["control"].notna()
        return {
            "untouched": (table["before"] == table["class"]).astype(float),
            "changed": (table["after"] == table["class"]).astype(float),
            "controlled": (table["control"] == table["class"]).astype(float).where(has_control),
        }
    scores = {
        "untouched": table["p_before"].astype(float),
        "changed": table["p_after"].astype(float),
        "controlled": table["p_control"].astype(float),
    }
    if measure == "log-odds":
        scores = {name: logit(probability.clip(SATURATED, 1 - SATURATED)) for name, probability in scores.items()}
    return scores


def _first_uses(table: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Return for each row whether no earlier image of its group was transformed to its texture."""
    texture_keys = list(dict.fromkeys((*keys, "material", "variant")))
    return table.groupby(texture_keys)["image"].transform("first") == table["image"]


_EFFECT = (
    "images",
    "before",
    "drop",
    "drop low",
    "drop high",
    "controlled",
    "control drop",
    "effect",
    "low",
    "high",
    "p",
)
"""The columns of `Probe.effects` that `_effect` computes, in its order."""


def _effect(scores: pd.DataFrame, measure: str, least_effect: float) -> list[float]:
    """Compute the drop and the effect of a group of images, see `Probe.effects`, in the order of `_EFFECT`."""
    interval = accuracy_drop_interval if measure == "accuracy" else mean_interval
    drop = (scores["untouched"] - scores["changed"]).to_numpy()
    drop_low, drop_high = interval(drop)
    controlled = scores.dropna(subset="controlled")
    effect = (controlled["controlled"] - controlled["paired"]).to_numpy()
    low, high = interval(effect)
    return [
        len(scores),
        scores["untouched"].mean(),
        drop.mean(),
        drop_low,
        drop_high,
        len(controlled),
        (controlled["untouched"] - controlled["controlled"]).mean(),
        effect.mean() if len(effect) else np.nan,
        low,
        high,
        signed_rank(effect - least_effect, "greater"),
    ]


def pairs(rules: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the pairs of class and concept in a table of rules."""
    return set(zip(rules["class"], rules["concept"], strict=True))


def mean_interval(values: Sequence[float] | NDArray) -> tuple[float, float]:
    """Compute the 95% interval of a mean: Student's.

    It covers the mean of few values as well, unlike a bootstrap, which covers that of five normal values in 84%.

    Returns:
        The lower and the upper limit; NaN for fewer than two values.
    """
    values = np.asarray(values, float)
    count = len(values)
    if count < 2:
        return float("nan"), float("nan")
    half_width = stdtrit(count - 1, 0.975) * values.std(ddof=1) / count**0.5
    return float(values.mean() - half_width), float(values.mean() + half_width)


def accuracy_drop_interval(drops: Sequence[float] | NDArray) -> tuple[float, float]:
    """Compute the 95% interval of a mean drop of accuracy, see `stats.accuracy_interval`.

    Args:
        drops: the drop of each image, in [-1, 1]; not a whole number if an image has several textures.

    Returns:
        The lower and the upper limit; NaN for an empty sample.
    """
    drops = np.asarray(drops, float)
    if not len(drops):
        return float("nan"), float("nan")
    # Of whole numbers, the sum of squares is the number of images that are lost or gained.
    lost = (np.square(drops).sum() + drops.sum()) / 2
    gained = (np.square(drops).sum() - drops.sum()) / 2
    low, high = accuracy_interval(lost, gained, len(drops))
    return low / 100, high / 100


def signed_rank(differences: Sequence[float] | NDArray, alternative: str = "two-sided") -> float:
    """Compute the p-value of Wilcoxon's signed-rank test that paired differences are symmetric about 0.

    Differences of 0 are ignored. For up to 50 other differences, the p-value is exact, even with ties (SciPy's exact
    method assumes that there are none); for more, it is asymptotic.

    Args:
        alternative: "two-sided", or "greater" (than 0).

    Returns:
        The p-value; 1 if all differences are 0, and NaN if there are no differences.
    """
    differences = np.asarray(differences, float)
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0 if len(differences) else float("nan")
    if len(nonzero) > 50:
        return float(wilcoxon(nonzero, alternative=alternative, method="asymptotic").pvalue)
    doubled_ranks = (2 * rankdata(np.abs(nonzero))).astype(int)  # whole numbers, since ties have half ranks
    # The distribution of the sum of the positive differences' ranks, when both signs are equally likely.
    distribution = np.ones(1)
    for rank in doubled_ranks:
        distribution = np.convolve(distribution, np.r_[0.5, np.zeros(rank - 1), 0.5])
    statistic = doubled_ranks[nonzero > 0].sum()
    at_least = float(distribution[statistic:].sum())
    at_most = float(distribution[: statistic + 1].sum())
    return at_least if alternative == "greater" else min(1.0, 2 * at_least, 2 * at_most)
