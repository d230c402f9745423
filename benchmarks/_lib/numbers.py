"""The numbers in the text of pages, from the files in results.

A page holds a number between `<!-- number: NAME -->` and `<!-- end -->`.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd

from _lib.comparisons import conditions_of, joined
from _lib.effects import CLEAN, CORRECT, CORRECTED, FLIPS, OWN_CLASS, OWN_CLEAN, TARGET, student_interval
from _lib.pivots import SHARE
from _lib.results import (
    BY_EXEMPLAR,
    BY_HOSTS,
    BY_LABELS,
    LABEL_FREE,
    NO_EDIT,
    OF_EXEMPLAR_BY_HOSTS,
    OF_HOSTS_BY_OTHERS,
    read_results,
)

BY_USERS = "as users make them"
"""The condition of the exemplars of the gate that count."""


Values = tuple[str, str]
"""A method, and the set of images on which it is measured."""


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


def difference(run: str, first: Values, second: Values, metric: str, condition: str = "") -> str:
    """Write the mean difference of two methods over pairs, in points, with Student's interval.

    Args:
        run: the run.
        first: a method, and the set on which it is measured.
        second: what is subtracted.
        metric: the metric, a share.
        condition: the condition within which methods are compared.
    """
    values = of_pairs(run, *first, metric, condition) - of_pairs(run, *second, metric, condition)
    mean, *bounds = (f"{100 * value:.0f}".replace("-", "−") for value in (values.mean(), *student_interval(values)))
    return f"{mean.replace('−0', '0')} points [{', '.join(bounds)}]"


def share(value: float) -> str:
    """Write a share in percent."""
    return SHARE.value(value)


def between(low: float, high: float) -> str:
    """Write a range of shares."""
    return f"{SHARE.value(low).removesuffix('%')} and {SHARE.value(high)}"


def own_class_gains() -> pd.Series:
    """How much more often the own class is correct with the mark and the edit than without both, in points by pair."""
    without = of_pairs("gate", NO_EDIT, OWN_CLEAN, CORRECT, BY_USERS)
    return 100 * (of_pairs("gate", BY_HOSTS, OWN_CLASS, CORRECT, BY_USERS) - without)


def learned(first: Values, second: Values, metric: str) -> str:
    """Write the mean difference of two methods on learned shortcuts, see `difference`."""
    return difference("learned_shortcut", first, second, metric)


def gate(method: str, split: str, metric: str) -> float:
    """Read a mean of the gate over all pairs."""
    return figure("gate", method, split, metric, BY_USERS)


RETAINED = "retain_test"
"""The images of classes where a material belongs."""


def snow(method: str) -> str:
    """Write what a method corrects of the errors on rendered snow."""
    return share(figure("snow_mini", method, TARGET, CORRECTED))


def retained_on_snow(method: str) -> str:
    """Write which share of the images where snow belongs is correct after it."""
    return share(figure("snow_mini", method, RETAINED, CORRECT))


WATERMARKS = {
    "watermark": "SqueezeNet",
    "watermark_lite0": "EfficientNet-Lite0",
    "watermark_lite1": "EfficientNet-Lite1",
    "watermark_lite2": "EfficientNet-Lite2",
}
"""The network of each run of the watermark."""


def under_a_watermark(run: str) -> float:
    """Read which share of the errors the edit selected by hosts corrects."""
    return figure(run, BY_HOSTS, TARGET, CORRECTED)


def removed(run: str) -> str:
    """Write which share of the errors under the watermark would be corrected by the same photos without it."""
    errors, others = (1 - figure(run, NO_EDIT, split, CORRECT) for split in (TARGET, CLEAN))
    return share((errors - others) / errors)


NUMBERS: dict[str, Callable[[], str]] = {
    "gate_edit": lambda: share(gate(BY_HOSTS, TARGET, CORRECTED)),
    "gate_edit_range": lambda: between(
        *of_pairs("gate", BY_HOSTS, TARGET, CORRECTED, BY_USERS).agg(["min", "max"]).to_list()
    ),
    "gate_tuned": lambda: share(gate(LABEL_FREE, TARGET, CORRECTED)),
    "gate_own_unmarked": lambda: share(gate(NO_EDIT, OWN_CLEAN, CORRECT)),
    "gate_own_marked": lambda: share(gate(BY_HOSTS, OWN_CLASS, CORRECT)),
    "gate_own_before": lambda: share(gate(NO_EDIT, OWN_CLASS, CORRECT)),
    "gate_own_least": lambda: f"{-own_class_gains().min():.0f}",
    "gate_own_most": lambda: f"{own_class_gains().max():.0f}",
    "gate_tuned_minus": lambda: difference("gate", (LABEL_FREE, TARGET), (BY_HOSTS, TARGET), CORRECTED, BY_USERS),
    "learned_edit": lambda: share(figure("learned_shortcut", BY_HOSTS, TARGET, CORRECTED)),
    "learned_tuned": lambda: share(figure("learned_shortcut", LABEL_FREE, TARGET, CORRECTED)),
    "learned_exemplar": lambda: share(figure("learned_shortcut", BY_EXEMPLAR, TARGET, CORRECTED)),
    "learned_tuned_minus": lambda: learned((LABEL_FREE, TARGET), (BY_HOSTS, TARGET), CORRECTED),
    "learned_selected": lambda: learned((OF_EXEMPLAR_BY_HOSTS, TARGET), (BY_EXEMPLAR, TARGET), CORRECTED),
    "learned_from_hosts": lambda: learned((BY_HOSTS, TARGET), (OF_EXEMPLAR_BY_HOSTS, TARGET), CORRECTED),
    "learned_others": lambda: learned((OF_HOSTS_BY_OTHERS, TARGET), (BY_HOSTS, TARGET), CORRECTED),
    "learned_others_own": lambda: learned((OF_HOSTS_BY_OTHERS, OWN_CLASS), (BY_HOSTS, OWN_CLASS), CORRECT),
    "learned_own": lambda: learned((BY_HOSTS, OWN_CLASS), (NO_EDIT, OWN_CLASS), CORRECT),
    "learned_tuned_own": lambda: learned((LABEL_FREE, OWN_CLASS), (BY_HOSTS, OWN_CLASS), CORRECT),
    "learned_clean_own": lambda: learned((BY_HOSTS, OWN_CLEAN), (NO_EDIT, OWN_CLEAN), CORRECT),
    "learned_tuned_clean_own": lambda: learned((LABEL_FREE, OWN_CLEAN), (NO_EDIT, OWN_CLEAN), CORRECT),
    "learned_tuned_changed": lambda: learned((LABEL_FREE, CLEAN), (BY_HOSTS, CLEAN), FLIPS),
    "snow_hosts": lambda: snow(BY_HOSTS),
    "snow_exemplar": lambda: snow(BY_EXEMPLAR),
    "snow_labels": lambda: snow(BY_LABELS),
    "snow_retained": lambda: retained_on_snow(NO_EDIT),
    "snow_retained_hosts": lambda: retained_on_snow(BY_HOSTS),
    "snow_retained_exemplar": lambda: retained_on_snow(BY_EXEMPLAR),
    "snow_retained_labels": lambda: retained_on_snow(BY_LABELS),
    "snow_photos": lambda: share(figure("snow_lite", BY_HOSTS, TARGET, CORRECTED)),
    "snow_photos_lite0": lambda: share(figure("snow_lite0", BY_HOSTS, TARGET, CORRECTED)),
    "snow_photos_lite0_exemplar": lambda: share(figure("snow_lite0", BY_EXEMPLAR, TARGET, CORRECTED)),
    "watermark_range": lambda: between(*pd.Series([under_a_watermark(run) for run in WATERMARKS]).agg(["min", "max"])),
    **{f"{run}_edit": partial(lambda run: share(under_a_watermark(run)), run) for run in WATERMARKS},
    **{f"{run}_removed": partial(removed, run) for run in WATERMARKS},
    "notes_edit": lambda: share(figure("handwriting", BY_HOSTS, TARGET, CORRECTED)),
}
"""The text of each number, by name."""
