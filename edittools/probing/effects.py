"""What a probe found: the effect of each concept beside a control, and the rules that follow (section 5).

    found = probe(classifier, concepts)  # its `table`: a row for each image, concept, style and variant
    found.effects(["class", "concept"])  # accuracy drops, beside a control, with intervals and q-values
    rules = found.rules()                # the concepts that each class relies on

The effect of a concept is the drop where it is changed minus the drop at a control of the same area: any change hurts.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit
from scipy.stats import false_discovery_control, rankdata, wilcoxon
from torch import Tensor

from edittools.checks import one_of
from edittools.probing.counterfactuals import Concepts

FALSE_DISCOVERY_RATE = 0.05
"""Of the rules that `Probe.rules` reports, the share that may be false (Benjamini–Hochberg)."""
LEAST_EFFECT = 0.5
"""A rule lowers the log-odds of the right class by more than this, beyond the control: the odds fall to 0.6 of them."""
LEAST_IMAGES = 10
"""Comparisons of fewer images than this are not made."""

SATURATED = 1e-3
"""Log-odds are those of a probability kept this far from 0 and 1, where they would say more than is known."""

CONTROLS = ("elsewhere", "in place")


class View(NamedTuple):
    """A picture `(3, H, W)` of a probe: what it is, what it is read as, and the probability of the right class."""

    title: str
    image: Tensor
    read: str
    chance: float


@dataclass(frozen=True, eq=False)
class Probe:
    """What classifiers make of images when one concept at a time is transformed.

    `table` has one row for each classifier, image (its number in `concepts.data`), concept, style and variant: `class`,
    `is_object` (the concept is the class's object), `area` (share of the image), what is read `before`, `after` the
    concept is transformed and after the `control` is, and the probability of `class` each time, `p_before`, `p_after`,
    `p_control`; what no control was made for is missing. The `control` is the same change "elsewhere" in the image, or
    "in place": the rows whose style is the concept itself. `concepts` make the pictures, if pasting did.
    """

    table: pd.DataFrame = field(repr=False)
    control: str = "elsewhere"
    least_images: int = LEAST_IMAGES
    concepts: Concepts | None = field(default=None, repr=False)

    def where(self, column: str, *values: Any) -> "Probe":
        """Keep the rows that have one of the `values` in a column; raise `ValueError` when none has."""
        one_of(column, self.table, "column", KeyError)
        table = self.table[self.table[column].isin(values)]
        if table.empty:
            known = ", ".join(map(str, self.table[column].unique()[:20]))
            raise ValueError(f"no row with {column} {', '.join(map(str, values))}: expected some of {known}")
        return replace(self, table=table)

    def effects(
        self,
        by: str | Sequence[str] = "concept",
        measure: str = "accuracy",
        least_effect: float = 0.0,
        least_images: int = 1,
    ) -> pd.DataFrame:
        """Tabulate drops and effects by columns of the table (and by classifier, where there are several).

        `measure` is "accuracy", the paper's, or of the right class the "probability", which shows more with few images,
        or the "log-odds" (see `SATURATED`), which compare classes read with more and with less certainty. A group of at
        least `least_images` images has a row: `before`, the mean of its `images`; `drop`, with its bootstrap interval;
        `control drop` of the `controlled` ones; `effect`, paired by image, with its interval; `p`, one-sided, of
        Wilcoxon's signed-rank test that the effect is no more than `least_effect`; and `q`, adjusted by
        Benjamini–Hochberg over the rows of a classifier. Classes whose object is the concept have no `q`.
        """
        keys = [by] if isinstance(by, str) else list(by)
        for key in keys:
            one_of(key, self.table, "column", KeyError)
        if "classifier" not in keys and self.table["classifier"].nunique() > 1:
            keys = ["classifier", *keys]
        marked = ["is_object"] if {"class", "concept"} <= set(keys) else []
        units = self._by_image(self.table if marked else self.table[~self.table["is_object"]], keys, measure)
        rng = np.random.default_rng(0)
        rows = [
            [*group, *(found[name].any() for name in marked), *_effect(found, rng, least_effect)]
            for group, found in units.groupby(keys, sort=False)
            if len(found) >= least_images
        ]
        result = pd.DataFrame(rows, columns=[*keys, *marked, *_EFFECT]).assign(q=np.nan)
        enough = result["p"].notna() & (result["controlled"] >= least_images)
        tested = result[enough & (~result["is_object"].astype(bool) if marked else True)]
        for _, family in tested.groupby("classifier" if "classifier" in keys else lambda _: 0):
            result.loc[family.index, "q"] = false_discovery_control(family["p"])
        return result

    def _by_image(self, table: pd.DataFrame, keys: Sequence[str], measure: str) -> pd.DataFrame:
        """Average each image's textures: scores `untouched`, `changed`, `controlled`, and `paired`, where both are."""
        one_of(measure, ("accuracy", "probability", "log-odds"), "measure")
        if measure == "accuracy":
            scores = [(table[when] == table["class"]).astype(float) for when in ("before", "after", "control")]
            scores[2] = scores[2].where(table["control"].notna())
        else:
            scores = [table[when].astype(float) for when in ("p_before", "p_after", "p_control")]
            if measure == "log-odds":
                scores = [logit(chance.clip(SATURATED, 1 - SATURATED)) for chance in scores]
        names = ("untouched", "changed", "controlled")
        scored = table.assign(**dict(zip(names, scores, strict=True)))
        if self.control == "in place":
            in_place = table["style"] == table["concept"]
            same = scores[1].where(in_place).groupby([table[key] for key in ("classifier", "image", "concept")])
            scored = scored.assign(controlled=same.transform("mean"))[~in_place]
        scored = scored.assign(paired=scored["changed"].where(scored["controlled"].notna()))
        groups = scored.groupby([*dict.fromkeys((*keys, "image"))], sort=False)
        return groups[[*names, "paired", "is_object"]].mean().reset_index()

    def rules(
        self, fdr: float = FALSE_DISCOVERY_RATE, least_effect: float = LEAST_EFFECT, pooled: bool = False
    ) -> pd.DataFrame:
        """List the concepts that each class relies on, strongest first, class by class.

        The `effect` of a rule on the log-odds (see `effects`) is more than `least_effect`, in the mean and by a test
        with q ≤ `fdr`. A rule also has the `style` that hurts most and, as `evidence`, the numbers of the rightly read
        images, those that lose most first. Where each class has few images, `pooled` rules are concepts that all
        classes together rely on; the `class` is then that of the first of the evidence.
        """
        keys = ["classifier", "concept"] if pooled else ["classifier", "class", "concept"]
        found = self.effects(keys, "log-odds", least_effect, self.least_images)
        found = found[(found["q"] <= fdr) & (found["effect"] >= least_effect)]
        shown = [self._evidence(rule[keys]) for _, rule in found.iterrows()]
        found = found.assign(**{name: [one[name] for one in shown] for name in ("class", "style", "evidence")})
        found = found[["classifier", "class", "concept", *_EFFECT, "q", "style", "evidence"]]
        found["strongest"] = found.groupby(["classifier", "class"])["effect"].transform("max")
        order, ascending = ["classifier", "strongest", "class", "effect"], [True, False, True, False]
        return found.sort_values(order, ascending=ascending, kind="stable", ignore_index=True).drop(columns="strongest")

    def _evidence(self, rule: pd.Series) -> dict[str, Any]:
        """Name the style that hurts most, the rightly read images, and the class of the first of these."""
        rows = self.table[(self.table[rule.index] == rule).all(axis=1) & (self.table["style"] != rule["concept"])]
        rows = rows[~rows["is_object"]].assign(lost=rows["p_before"] - rows["p_after"])
        right = rows[rows["before"] == rows["class"]].groupby("image")["lost"].mean().sort_values(ascending=False)
        style = rows.groupby("style", sort=False)["lost"].mean().idxmax()
        first = rows[rows["image"] == right.index[0]] if len(right) else rows
        return {"class": first["class"].iloc[0], "style": style, "evidence": tuple(map(int, right.index))}

    def views(self, row: pd.Series) -> list[View]:
        """Make the pictures of one row of the table: the original, the concept transformed, and the control if any."""
        concepts, table = self.concepts, self.table
        if concepts is None:
            raise ValueError("a probe without pictures: expected one that pasted textures, as probe() does")
        number, concept, style = int(row["image"]), row["concept"], row["style"]
        has_control = pd.notna(row["p_control"])
        changed, elsewhere = concepts.counterfactual(number, concept, [(style, int(row["variant"]))], has_control)
        found = [
            View("original", concepts.data.images[number], row["before"], row["p_before"]),
            View(f"{concept} → {style}", changed[0], row["after"], row["p_after"]),
        ]
        if has_control:
            return [*found, View(f"elsewhere → {style}", elsewhere[0], row["control"], row["p_control"])]
        same = ["classifier", "image", "class", "concept"]
        in_place = table[(table[same] == row[same]).all(axis=1) & (table["style"] == concept)]
        for _, other in in_place.head(1).iterrows():
            texture = [(concept, int(other["variant"]))]
            picture, _ = concepts.counterfactual(number, concept, texture, control=False)
            found.append(View(f"another {concept}", picture[0], other["after"], other["p_after"]))
        return found

    def changes(self, before: str = "before") -> pd.DataFrame:
        """Say what the probability of the right class gained in each classifier on the one named `before`.

        One row each, over the `images` that both have: the change on pictures as they are, `untouched`, at the
        `control` and where the concept is `changed` (with its interval and two-sided p), and the mean effects. A rule
        is weaker where `changed` rises and the others do not fall.
        """
        rows = self.table[~self.table["is_object"]]
        one_of(before, rows["classifier"].unique(), "classifier", KeyError)
        if (rows.groupby("image")["class"].nunique() > 1).any():
            raise ValueError("classifiers held to different classes of an image: expected a probe with the same labels")
        units = self._by_image(rows, ["classifier"], "probability").dropna(subset="controlled")
        if units.empty:
            raise ValueError(f"no image has a control {self.control!r}: expected the other kind of control")
        units, rng, found = units.set_index("image"), np.random.default_rng(0), {}
        first = units[units["classifier"] == before]
        for name, second in units[units["classifier"] != before].groupby("classifier", sort=False):
            images = first.index.intersection(second.index)
            both = [one.loc[images, ["untouched", "controlled", "paired"]] for one in (first, second)]
            gained = both[1] - both[0]
            effects = [(one["controlled"] - one["paired"]).mean() for one in both]
            test = *bootstrap(gained["paired"], rng, 1000), signed_rank(gained["paired"])
            found[name] = [len(images), *gained.mean(), *test, *effects]
        columns = ["images", "untouched", "control", "changed", "low", "high", "p", "effect before", "effect after"]
        return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("classifier")

    def agreement(self, exact: "Probe") -> pd.DataFrame:
        """Pair one classifier's effects on the log-odds, by class and concept, in this `probe` and an `exact` one."""
        names = {*self.table["classifier"], *exact.table["classifier"]}
        if len(names) > 1:
            raise ValueError(f"tables of the classifiers {', '.join(sorted(names))}: expected the rows of one")
        keys, least = ["class", "concept"], self.least_images
        found = [p.effects(keys, "log-odds", least_images=least).set_index(keys)["effect"] for p in (self, exact)]
        both = pd.concat(found, axis=1, keys=["probe", "exact"]).dropna()
        if both.empty:
            raise ValueError(f"no class and concept has an effect on {least} images in both tables: expected one")
        return both


_EFFECT = "images;before;drop;drop low;drop high;controlled;control drop;effect;low;high;p".split(";")


def _effect(found: pd.DataFrame, rng: np.random.Generator, least: float) -> list[float]:
    drop = (found["untouched"] - found["changed"]).to_numpy()
    both = found.dropna(subset="controlled")
    effect = (both["controlled"] - both["paired"]).to_numpy()
    drops = len(found), found["untouched"].mean(), drop.mean(), *bootstrap(drop, rng, 1000)
    control = len(both), (both["untouched"] - both["controlled"]).mean()
    mean = effect.mean() if len(both) else np.nan
    return [*drops, *control, mean, *bootstrap(effect, rng, 1000), signed_rank(effect - least, "greater")]


def pairs(rules: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the pairs of class and concept in a table of rules."""
    return set(zip(rules["class"], rules["concept"], strict=True))


def score(rules: pd.DataFrame, planted: Collection[tuple[str, str]]) -> dict[str, float]:
    """Give precision and recall of rules against pairs of class and concept that were planted; and the counts."""
    found, planted = pairs(rules), set(planted)
    hits, counts = len(found & planted), {"found": len(found), "planted": len(planted)}
    precision, recall = (hits / count if count else float("nan") for count in counts.values())
    return {"precision": precision, "recall": recall, **counts}


def bootstrap(
    values: Sequence[float] | NDArray, rng: np.random.Generator | int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean, drawn from `rng` or a seed; NaN without any value."""
    values, rng = np.asarray(values, float), np.random.default_rng(rng)
    if not len(values):
        return float("nan"), float("nan")
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def signed_rank(differences: Sequence[float] | NDArray, alternative: str = "two-sided") -> float:
    """Return the p-value of Wilcoxon's signed-rank test that differences lie about 0, zeros left out.

    Exact, also with ties, for up to 50, asymptotic for more; `alternative` is "two-sided", or "greater" than 0.
    """
    given = np.asarray(differences, float)
    moved = given[given != 0]
    if not len(moved):
        return 1.0 if len(given) else float("nan")
    if len(moved) > 50:
        return float(wilcoxon(moved, alternative=alternative, method="asymptotic").pvalue)
    ranks = (2 * rankdata(np.abs(moved))).astype(int)  # ties have half ranks
    chances = np.ones(1)  # of each sum of the ranks above 0, when every sign is as likely as its opposite
    for rank in ranks:
        chances = np.convolve(chances, np.r_[0.5, np.zeros(rank - 1), 0.5])
    total = ranks[moved > 0].sum()
    above, below = float(chances[total:].sum()), float(chances[: total + 1].sum())
    return above if alternative == "greater" else min(1.0, 2 * above, 2 * below)
