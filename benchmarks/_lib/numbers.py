"""The numbers in the text of pages, from the files in results.

A page holds a number between `<!-- number: NAME -->` and `<!-- end -->`.
"""

from collections.abc import Callable, Iterable
from functools import cache

import pandas as pd
from scipy.stats import binomtest

from _lib import skin_figures
from _lib.cases_of_repair import quality_of
from _lib.comparisons import conditions_of, joined
from _lib.effects import CLEAN, CORRECT, CORRECTED, FLIPS, OWN_CLASS, OWN_CLEAN, TARGET, student_interval
from _lib.pairs import mean_of, nets_by_pair, outcomes_of, removals_of, times_better
from _lib.pivots import FINE_CHANGE, SHARE
from _lib.results import (
    BLURRED,
    BY_EXEMPLAR,
    BY_HOSTS,
    BY_LABELS,
    BY_PROJECTION,
    FOLDER,
    LABEL_FREE,
    MINUS_EDIT,
    NO_EDIT,
    SEVERAL,
    read_outcomes,
    read_results,
    read_run,
)
from _lib.varied_cases import VARIED
from edittools.rewriting import EDIT
from edittools.selection.finetuning import CHECKPOINTS, RATES

BY_USERS = "as users make them"
"""The condition of the exemplars of the gate that count."""

WATERMARKS = {
    "watermark": "SqueezeNet",
    "watermark_lite0": "EfficientNet-Lite0",
    "watermark_lite1": "EfficientNet-Lite1",
    "watermark_lite2": "EfficientNet-Lite2",
}
"""The network of each run of the watermark."""

RETAINED = "retain_test"
"""The images of classes where a background belongs."""

LIMIT_OF_ACCURACY = 0.25
"""The most points of accuracy that a good edit costs."""

Values = tuple[str, str]
"""A method, and the set of images on which it is measured."""


# --- reading results --------------------------------------------------------------------------------------------------


def figure(run: str, method: str, split: str, metric: str, condition: str = "", network: str = "all") -> float:
    """Read one value of a run."""
    return float(rows_of(run, method, split, metric).set_index(["network", "condition"]).value[network, condition])


def rows_of(run: str, method: str, split: str, metric: str) -> pd.DataFrame:
    """Read the rows of a run with one metric of one method."""
    table = read_results(run)
    return table[(table.method == method) & (table.split == split) & (table.metric == metric)]


def of_pairs(run: str, method: str, split: str, metric: str, condition: str = "") -> pd.Series:
    """Read the values of each network and mark, which are the rows within a condition, by network and mark."""
    rows = rows_of(run, method, split, metric)
    start = joined(condition, "")
    case = rows.condition.str.removeprefix(start)
    is_pair = (rows.network != "all") & rows.condition.str.startswith(start) & ~case.str.contains(", ")
    of_several = ["", condition, *conditions_of(read_results(run))]
    return rows[is_pair & ~rows.condition.isin(of_several)].set_index(["network", "condition"]).value


# --- writing numbers --------------------------------------------------------------------------------------------------


def share(value: float) -> str:
    """Write a share in percent."""
    return SHARE.value(value)


def range_of(values: Iterable[float]) -> str:
    """Write the range of some shares, as "35 to 84%"."""
    listed = list(values)
    return f"{share(min(listed)).removesuffix('%')} to {share(max(listed))}"


def points(value: float, bounds: Iterable[float]) -> str:
    """Write a difference of shares and its interval in points."""
    mean, low, high = (f"{100 * one:.1f}".replace("-", "−") for one in (value, *bounds))
    return f"{mean} points [{low}, {high}]"


def over_pairs(run: str, first: Values, second: Values, metric: str, condition: str = "") -> str:
    """Write Student's interval, over pairs, of the mean difference of two methods, in points.

    Args:
        run: the run.
        first: a method, and the set on which it is measured.
        second: what is subtracted.
        metric: the metric, a share.
        condition: the condition within which methods are compared.
    """
    differences = of_pairs(run, *first, metric, condition) - of_pairs(run, *second, metric, condition)
    interval = points(differences.mean(), student_interval(differences))
    return interval[interval.index("[") :]


def over_photos(run: str, first: str, second: str) -> str:
    """Write how much more a method corrects than another one, in points, with the interval over photos."""
    difference = mean_of(outcomes_of(run, first)).minus(mean_of(outcomes_of(run, second)))
    return points(difference.value, difference.interval)


def better(run: str, first: str, second: str) -> str:
    """Write in how many selections a method corrects significantly more than another one, as "2 of 6"."""
    count, of = times_better(run, first, second)
    return f"{count} of {of}"


# --- planted marks ----------------------------------------------------------------------------------------------------


def gate(method: str, split: str, metric: str) -> float:
    """Read a mean of the gate over all pairs."""
    return figure("gate", method, split, metric, BY_USERS)


def gains_of_own_class() -> pd.Series:
    """How much more often the mark's class is correct with the mark and the edit than without both, by pair."""
    without = of_pairs("gate", NO_EDIT, OWN_CLEAN, CORRECT, BY_USERS)
    return 100 * (of_pairs("gate", BY_HOSTS, OWN_CLASS, CORRECT, BY_USERS) - without)


def reach(run: str) -> pd.Series:
    """Compute which share of what removing the mark corrects the edit reaches, by pair."""
    return nets_by_pair(outcomes_of(run, BY_HOSTS)) / nets_by_pair(removals_of(run))


def corrected_though_wrong_unmarked() -> str:
    """Write how many of the photos that stay misclassified when the mark is removed the edit of the gate corrects."""
    corrected = photos = 0
    for one, removed in zip(outcomes_of("gate", BY_HOSTS), removals_of("gate"), strict=True):
        stays_wrong = one.before & removed.after
        photos += int(stays_wrong.sum())
        corrected += int((stays_wrong & ~one.after).sum())
    return f"{corrected} of {photos}"


def at_the_corner() -> str:
    """Write in how many selections on ImageNet networks fine-tuning has the lowest rate and the most steps tried."""
    runs = [*WATERMARKS, "snow_lite", "snow_lite0", "handwriting", "handwriting_lite0"]
    tuned = [one for run in runs for one in read_run(run)["selected"] if one["method"] == LABEL_FREE]
    corner = f"rate {min(RATES):g}, steps {max(CHECKPOINTS)}, "
    return f"{sum(one['settings'].startswith(corner) for one in tuned)} of {len(tuned)}"


def minus_edit(run: str, method: str, mark: str, split: str = TARGET) -> str:
    """Write by how much more a rival corrects than the edit that was selected with the same hosts, on its network."""
    rows = read_results(run).set_index(["method", "condition", "split", "metric"])
    row = rows.loc[(method, mark, split, MINUS_EDIT)]
    return points(row.value, (row.low, row.high))


# --- other marks ------------------------------------------------------------------------------------------------------


def sticker(method: str, split: str = TARGET, metric: str = CORRECTED) -> str:
    """Write a share of the errors under a sticker, or of the objects with an empty one."""
    return share(figure("typographic_mini", method, split, metric))


def snow(method: str, network: str) -> str:
    """Write what a method corrects of the errors on rendered snow."""
    return share(figure("snow_mini", method, TARGET, CORRECTED, network=network))


def retained_on_snow(method: str, network: str = "all") -> str:
    """Write which share of the classes that live on snow is correct after it."""
    return share(figure("snow_mini", method, RETAINED, CORRECT, network=network))


def changed_elsewhere(run: str) -> str:
    """Write how many of the other photos are predicted otherwise with the edit, over the exemplars of a run."""
    table = read_outcomes(run)
    of_edit = table[(table.method == BY_HOSTS) & table.split.str.startswith("elsewhere, ")]
    counts = of_edit.outcomes.str.count(r"[+-]")
    return " to ".join(map(str, sorted({counts.min(), counts.max()})))


TUNED_LOCALLY = "local fine-tuning"
"""The fine-tuning of one layer on the exemplars, in the synthetic benchmark."""


@cache
def common_cases() -> pd.DataFrame:
    """Read the cases on photos in which both the edit and the fine-tuning of one layer have a candidate."""
    table = read_outcomes("synthetic_lite").replace("", None)
    table["other same"] = table["other same"].astype(float)
    wide = table.pivot(index=["concept", "style", "target"], columns="method", values="other same")
    return wide[[EDIT, TUNED_LOCALLY]].dropna()


def concepts_rendered(method: str) -> str:
    """Write what a method corrects over rendered concepts, and at how many points of accuracy."""
    corrected = figure("synthetic_mini", method, "other classes, same style", CORRECTED, network="mini_vgg")
    cost = -figure("synthetic_mini", method, CLEAN, "accuracy change", network="mini_vgg")
    return f"{share(corrected)} at {cost:.1f} points of accuracy"


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judged_edits(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per repair of the calibration: the word, and the quality of the edit on new images.

    Args:
        table: the rows of the calibration.

    Returns:
        The effects on new images, the "word", and the "quality", indexed by the kind of case and its seed.
    """
    case = ["condition", "split"]
    effects = table[table.method == ""].pivot(index=case, columns="metric", values="value")
    is_word = (table.method == "verdict") & (table.split != "clean")
    words = table[is_word].set_index(case).metric
    qualities = [quality_of(row.dropna().to_dict()) for _, row in effects.iterrows()]
    return effects.assign(word=words, quality=qualities)


@cache
def verdicts() -> pd.DataFrame:
    """Read the edits of the calibration that were judged."""
    return judged_edits(read_results("calibration_verdicts"))


def count_of(word: str | None = None, quality: str | None = None) -> str:
    """Count the repairs with a word, of a quality."""
    table = verdicts()
    is_counted = pd.Series(data=True, index=table.index)
    if word is not None:
        is_counted &= table.word == word
    if quality is not None:
        is_counted &= table.quality == quality
    return str(int(is_counted.sum()))


def bound_of_bad_use() -> str:
    """Write the one-sided 95% bound, by Clopper and Pearson, on the share of bad edits that get "use"."""
    bad = int(count_of(quality="bad"))
    test = binomtest(int(count_of("use", "bad")), bad, alternative="less")
    return SHARE.bound(test.proportion_ci().high)


def losses_with_use() -> pd.Series:
    """Read the points of accuracy that edits with the word "use" lose on new images."""
    table = verdicts()
    return -table[table.word == "use"]["accuracy change"]


def nulls(word: str | None = None) -> str:
    """Count the repairs whose exemplar shows nothing of the mistake, with a word."""
    table = read_results("calibration_nulls")
    words = table[table.method == "verdict"].metric
    return str(len(words) if word is None else int((words == word).sum()))


# --- networks that were tried -----------------------------------------------------------------------------------------


def read_networks() -> pd.DataFrame:
    """Read one row per network that was tried, which `tests/slow/architectures.py` writes."""
    return pd.read_csv(FOLDER.parent / "docs" / "architectures.csv", keep_default_na=False, na_values={"off by": ""})


# --- by name ----------------------------------------------------------------------------------------------------------

_EDIT, _TUNED = (BY_HOSTS, TARGET), (LABEL_FREE, TARGET)

# --- stickers on skin -------------------------------------------------------------------------------------------------


def skin(metric: str, method: str) -> str:
    """Write a share on photos of skin with its interval, over the networks that count."""
    value, low, high = _of_skin(metric, method)
    return f"{share(value)} [{SHARE.bound(low)}, {SHARE.bound(high)}]"


def skin_points(metric: str, method: str) -> str:
    """Write a difference of shares on photos of skin, in points, with its interval."""
    value, *bounds = _of_skin(metric, method)
    return points(value, bounds)


def skin_auc(method: str) -> str:
    """Write a change of the AUC on photos of skin, with its interval."""
    value, low, high = _of_skin(skin_figures.AUC_CHANGE, method)
    return f"{FINE_CHANGE.value(value)} [{FINE_CHANGE.bound(low)}, {FINE_CHANGE.bound(high)}]"


def _of_skin(metric: str, method: str) -> tuple[float, float, float]:
    """Read a value over the networks that count, and its interval."""
    rows = read_results("skin").set_index(["network", "method", "condition", "metric"])
    row = rows.loc[(skin_figures.COUNTED, method, "", metric)]
    return row.value, row.low, row.high


NUMBERS: dict[str, Callable[[], str]] = {
    "networks_tried": lambda: str(len(read_networks())),
    "gate_edit": lambda: share(gate(BY_HOSTS, TARGET, CORRECTED)),
    "gate_reach": lambda: range_of(reach("gate")),
    "gate_tuned_minus": lambda: over_photos("gate", LABEL_FREE, BY_HOSTS),
    "gate_tuned_minus_pairs": lambda: over_pairs("gate", _TUNED, _EDIT, CORRECTED, BY_USERS),
    "gate_tuned_better": lambda: better("gate", LABEL_FREE, BY_HOSTS),
    "gate_edit_better": lambda: better("gate", BY_HOSTS, LABEL_FREE),
    "gate_changed": lambda: f"{100 * gate(BY_HOSTS, CLEAN, FLIPS):.1f}%",
    "gate_tuned_changed": lambda: f"{100 * gate(LABEL_FREE, CLEAN, FLIPS):.1f}%",
    "gate_own_before": lambda: share(gate(NO_EDIT, OWN_CLASS, CORRECT)),
    "gate_own_marked": lambda: share(gate(BY_HOSTS, OWN_CLASS, CORRECT)),
    "gate_own_unmarked": lambda: share(gate(NO_EDIT, OWN_CLEAN, CORRECT)),
    "gate_own_least": lambda: f"{-gains_of_own_class().min():.0f}",
    "gate_own_most": lambda: f"{gains_of_own_class().max():.0f}",
    "gate_tuned_own_marked": lambda: share(gate(LABEL_FREE, OWN_CLASS, CORRECT)),
    "gate_tuned_own_unmarked": lambda: share(gate(LABEL_FREE, OWN_CLEAN, CORRECT)),
    "gate_still_wrong": corrected_though_wrong_unmarked,
    "corner": at_the_corner,
    "rivals_tuned_tag": lambda: minus_edit("rivals", LABEL_FREE, "tag"),
    "rivals_tuned_text": lambda: minus_edit("rivals", LABEL_FREE, "text"),
    "rivals_projected": lambda: minus_edit("rivals_lite0", BY_PROJECTION, "tag"),
    "rivals_projected_varied": lambda: minus_edit("rivals_lite0", BY_PROJECTION, "tag", VARIED),
    "learned_tuned_minus": lambda: over_photos("learned_shortcut", LABEL_FREE, BY_HOSTS),
    "learned_tuned_minus_pairs": lambda: over_pairs("learned_shortcut", _TUNED, _EDIT, CORRECTED),
    "learned_tuned_better": lambda: better("learned_shortcut", LABEL_FREE, BY_HOSTS),
    "learned_edit_better": lambda: better("learned_shortcut", BY_HOSTS, LABEL_FREE),
    "watermark_reach": lambda: range_of(float(reach(run).mean()) for run in WATERMARKS),
    "watermark_edit_range": lambda: range_of(figure(run, BY_HOSTS, TARGET, CORRECTED) for run in WATERMARKS),
    "watermark_unseen": lambda: range_of(figure(run, BY_HOSTS, "unseen marks", CORRECTED) for run in WATERMARKS),
    "watermark_blurred": lambda: range_of(figure(run, BLURRED, TARGET, CORRECTED) for run in WATERMARKS),
    "sticker_edit": lambda: sticker(BY_HOSTS),
    "sticker_labels": lambda: sticker(BY_LABELS),
    "sticker_several": lambda: sticker(SEVERAL),
    "sticker_blurred": lambda: sticker(BLURRED),
    "sticker_blank": lambda: sticker(NO_EDIT, "blank", CORRECT),
    "sticker_blank_edit": lambda: sticker(BY_HOSTS, "blank", CORRECT),
    "sticker_blank_several": lambda: sticker(SEVERAL, "blank", CORRECT),
    "skin_edit": lambda: skin(skin_figures.NET, BY_HOSTS),
    "skin_tuned": lambda: skin(skin_figures.NET, LABEL_FREE),
    "skin_edit_kept": lambda: skin(skin_figures.NET_AT_KEPT, BY_HOSTS),
    "skin_tuned_kept": lambda: skin(skin_figures.NET_AT_KEPT, LABEL_FREE),
    "skin_gap": lambda: skin_points(skin_figures.GAP, LABEL_FREE),
    "skin_auc": lambda: skin_auc(BY_HOSTS),
    "skin_tuned_auc": lambda: skin_auc(LABEL_FREE),
    "skin_real": lambda: skin_points(skin_figures.REAL_CHANGE, BY_HOSTS),
    "snow_exemplar_vgg": lambda: snow(BY_EXEMPLAR, "mini_vgg"),
    "snow_exemplar_vit": lambda: snow(BY_EXEMPLAR, "mini_vit"),
    "snow_retained": lambda: retained_on_snow(NO_EDIT),
    "snow_retained_hosts_vgg": lambda: retained_on_snow(BY_HOSTS, "mini_vgg"),
    "snow_retained_hosts_vit": lambda: retained_on_snow(BY_HOSTS, "mini_vit"),
    "snow_retained_tuned_vgg": lambda: retained_on_snow(LABEL_FREE, "mini_vgg"),
    "snow_retained_tuned_vit": lambda: retained_on_snow(LABEL_FREE, "mini_vit"),
    "snow_retained_exemplar_vgg": lambda: retained_on_snow(BY_EXEMPLAR, "mini_vgg"),
    "snow_retained_exemplar_vit": lambda: retained_on_snow(BY_EXEMPLAR, "mini_vit"),
    "snow_elsewhere": lambda: changed_elsewhere("snow_lite"),
    "snow_elsewhere_lite0": lambda: changed_elsewhere("snow_lite0"),
    "snow_photos": lambda: share(figure("snow_lite", BY_HOSTS, TARGET, CORRECTED)),
    "snow_photos_lite0": lambda: share(figure("snow_lite0", BY_HOSTS, TARGET, CORRECTED)),
    "concepts_rendered": lambda: concepts_rendered(EDIT),
    "concepts_rendered_tuned": lambda: concepts_rendered(TUNED_LOCALLY),
    "concepts_common": lambda: " and ".join(map(share, common_cases().mean())),
    "concepts_common_cases": lambda: str(len(common_cases())),
    "verdicts": count_of,
    "verdicts_use": lambda: count_of("use"),
    "verdicts_use_most": lambda: f"{losses_with_use().max():.2f}",
    "verdicts_use_above": lambda: str(int((losses_with_use() > LIMIT_OF_ACCURACY).sum())),
    "verdicts_good": lambda: count_of(quality="good"),
    "verdicts_good_use": lambda: count_of("use", "good"),
    "verdicts_bad": lambda: count_of(quality="bad"),
    "verdicts_bad_use": lambda: count_of("use", "bad"),
    "verdicts_bad_bound": bound_of_bad_use,
    "verdicts_null": nulls,
    "verdicts_null_use": lambda: nulls("use"),
}
"""The text of each number, by name."""
