"""The tables of README.md and of the pages in docs, from the files in results.

    python benchmarks/snow.py --output results/snow_mini.csv
    python benchmarks/tables.py            writes the tables of all pages
    python benchmarks/tables.py --check    fails where a page is not what the files say

A page has the table of an experiment between `<!-- table: NAME -->` and `<!-- end -->`, and a number in a sentence
between `<!-- number: NAME -->` and `<!-- end -->` (see `_lib.numbers`). A table shows all parts of the
experiment together: the files `NAME.csv` and `NAME_PART.csv`, each of which was made by one command, so that a long run
that was interrupted resumes with the part that is missing. The tables in `QUESTIONS` join several experiments. Each
other function makes the table of one experiment: a pivot of the long table that `_lib.results` describes.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from _lib import skin_figures
from _lib.cases_of_repair import KINDS
from _lib.comparisons import compared
from _lib.effects import ACCURACY, CLEAN, CORRECT, CORRECTED, FLIPS, OWN_CLASS, OWN_CLEAN, TARGET, student_interval
from _lib.faults import FAULTS, NOTHING
from _lib.numbers import BY_USERS, NUMBERS, WATERMARKS, judged_edits, read_networks
from _lib.pairs import Outcome, OverPhotos, mean_of, outcomes_of, removals_of
from _lib.pivots import (
    CHANGE,
    COUNT,
    DECIMAL,
    FINE_CHANGE,
    LEAST,
    LOSS,
    POINTS,
    PRECISE_SHARE,
    RATIO,
    SHARE,
    cells,
    markdown,
)
from _lib.results import (
    BY_EXEMPLAR,
    BY_HOSTS,
    BY_LABELS,
    FOLDER,
    LABEL_FREE,
    METHOD_NAMES,
    MINUS_EDIT,
    NO_EDIT,
    PER_THOUSAND,
    TWIN,
    WITHIN,
    decode,
    parts_of,
    read_outcomes,
    read_parts,
    read_results,
    read_run,
)
from _lib.shortcuts import NAMES
from _lib.skin_stickers import FILLS, STUCK, filled
from _lib.varied_cases import VARIED

from edittools._storage import atomic_path
from edittools.rewriting import EDIT

DOCS = FOLDER.parent / "docs"

# --- tables of one experiment ---


def by_method(table: pd.DataFrame, columns: dict[str, pd.Series]) -> str:
    """Write one row per method, in the order of `METHOD_NAMES`; the edit is bold."""
    known = list(METHOD_NAMES)
    names = sorted(table.method.unique(), key=lambda name: known.index(name) if name in known else len(known))
    methods = pd.Series({name: f"**{name}**" if name == EDIT else name for name in names})
    return markdown({"method": methods, **columns})


def short(network: str) -> str:
    """Shorten the name of a network."""
    return network.removeprefix("efficientnet_")


def compared_parts(table: pd.DataFrame) -> str:
    """Write what each method corrects and costs, for each part of an experiment."""
    parts = []
    for run, part in table.groupby("run", sort=False):
        title = f"`{read_run(run)['command']}`:\n\n" if table.run.nunique() > 1 else ""
        parts.append(f"{title}{compared(part)}")
    return "\n\n".join(parts)


def development(table: pd.DataFrame) -> str:
    """Write the means over the pairs of a network and a mark of the development, which two commands measured."""
    of_pairs = table[(table.network != "all") & table.condition.isin(NAMES.values())]
    grouped = of_pairs.groupby(["method", "split", "metric"], sort=False).value
    bounds = grouped.agg(student_interval)
    low, high = bounds.str[0].to_numpy(), bounds.str[1].to_numpy()
    means = grouped.mean().reset_index().assign(low=low, high=high, n=None)
    means["high"] = means.high.where(means.metric != CORRECT, means.high.clip(upper=1))
    columns = {
        "errors corrected": cells(means, "errors corrected", TARGET),
        "accuracy, points": cells(means, "accuracy change", CLEAN),
        "predictions changed": cells(means, "predictions changed", CLEAN, interval=False),
        "the mark's class with the mark": cells(means, "correct", OWN_CLASS),
        "without it": cells(means, "correct", OWN_CLEAN),
    }
    methods = [name for name in METHOD_NAMES if (means.method == name).any()]
    return markdown({name: column.reindex(methods) for name, column in columns.items()}, rows="method")


def materials(table: pd.DataFrame) -> str:
    """Write what each way to select a material corrects and costs, by network, on images of the development."""
    is_mean = (
        (table.network != "all")
        & (table.condition == "")
        & table.method.isin((BY_HOSTS, BY_EXEMPLAR, BY_LABELS, NO_EDIT))
    )
    part = table[is_mean]
    index = ["network", "method"]
    rows = pd.MultiIndex.from_frame(part[index].drop_duplicates().sort_values("network", kind="stable"))
    columns = {
        "network": pd.Series([network for network, _ in rows], rows),
        "method": pd.Series([method for _, method in rows], rows),
        "errors corrected": cells(part, "errors corrected", TARGET, index=index),
        "accuracy, points": cells(part, "accuracy change", CLEAN, index=index),
        "predictions changed": cells(part, "predictions changed", CLEAN, index=index),
        "retained images correct": cells(part, "correct", "retain_test", index=index),
    }
    return markdown(columns)


def objective(table: pd.DataFrame) -> str:
    """Write how alike the objective and labels rank the candidates of each network and mark."""
    index = ["network", "condition"]
    rows = pd.MultiIndex.from_frame(table[index].drop_duplicates())
    columns = {
        "network": pd.Series([network for network, _ in rows], rows),
        "mark": pd.Series([mark for _, mark in rows], rows),
        "rank correlation": cells(table, "rank correlation", index=index),
    }
    for title in ("selected by hosts", "median candidate", "best by labels"):
        columns[f"errors corrected, {title}"] = cells(table, f"errors corrected, {title}", index=index)
    return markdown(columns)


# --- other experiments ---

DATASETS = {"MiniWorld": "rendered", "photos": "photos"}


def synthetic(table: pd.DataFrame) -> str:
    """Write the synthetic benchmark, by method; then the errors corrected by the number of exemplars."""
    table = table[table.method != ""]
    columns = {}
    for dataset, title in DATASETS.items():
        part = table[(table.dataset == dataset) & (table.condition == "")]
        feasible = part[part.metric == "feasible"].set_index("method")
        if len(feasible):  # of a former search, within limits
            columns[f"{title}: feasible"] = feasible.value.map("{:.0f}".format) + " of " + feasible.n.astype(str)
        columns[f"{title}: other classes"] = cells(part, "errors corrected", "other classes, same style")
        columns[f"{title}: held-out style"] = cells(part, "errors corrected", "other classes, held-out style")
        columns[f"{title}: target class"] = cells(part, "errors corrected", "target class, same style")
        columns[f"{title}: accuracy, points"] = cells(part, "accuracy change", "clean_test")
    for condition, part in table[table.condition != ""].groupby("condition", sort=False):
        columns[f"rendered, {condition}: other classes"] = cells(part, "errors corrected", "other classes, same style")
    return by_method(table, columns)


def probing(table: pd.DataFrame) -> str:
    """Write rules found against those planted and those shown exactly, and effects on photos, where none are known."""
    is_effect = table.method == "materials"
    index = ["network", "split of the scenes"]
    scenes = table[table.dataset == "MiniWorld"]
    scenes = scenes.assign(**{index[1]: scenes.part.map({"mini": "test", "mini_networks": "validation"})})
    rows = pd.MultiIndex.from_frame(scenes[index].drop_duplicates())

    def text(metric: str, split: str) -> pd.Series:
        return cells(scenes, metric, split, index=index)

    columns = {
        "network": pd.Series([network for network, _ in rows], rows),
        "scenes": pd.Series([split for _, split in rows], rows),
        "rules planted / found": text("rules", "planted") + " / " + text("rules", "found"),
        "precision, recall": text("precision", "planted") + ", " + text("recall", "planted"),
        "rules shown exactly": text("rules", "exact"),
        "precision, recall against these": text("precision", "exact") + ", " + text("recall", "exact"),
        "found where none were planted": text("rules", "found where none were planted"),
    }
    return f"{markdown(columns)}\n\n{by_concept(table[is_effect])}"


FALSE_DISCOVERY_RATE = 0.05


def by_concept(table: pd.DataFrame) -> str:
    """Write one row per concept, the strongest first, and one column per network; bold where q is low enough.

    The column of photos counts those that an effect rests on, which have a control; effects of fewer than `LEAST` are
    left out.
    """
    effects = table[(table.metric == "effect") & (table.n >= LEAST)]
    index = ["condition", "network"]
    q = table[table.metric == "q"].set_index(index).value.reindex(pd.MultiIndex.from_frame(effects[index]))
    texts = cells(effects, "effect", index=index)
    texts = texts.where(~(q <= FALSE_DISCOVERY_RATE), "**" + texts + "**")
    wide = texts.unstack("network").reindex(columns=table.network.unique()).rename(columns=short)
    by_name = effects.groupby("condition", sort=False)
    order = by_name.value.mean().sort_values(ascending=False, kind="stable").index
    photos = by_name.n.agg(lambda n: f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}")
    return markdown({"photos": photos, **{name: wide[name] for name in wide}}, order, rows="concept")


def contact_sheets(table: pd.DataFrame) -> str:
    """Write which window names each learned shortcut, and how many marks that carry no class are confirmed."""
    is_null = table.split == "null"
    named = _named_shortcuts(table[~is_null])
    return f"{named}\n\n{_null_marks(table[is_null])}" if is_null.any() else named


def _named_shortcuts(table: pd.DataFrame) -> str:
    """Write one row per network and shortcut, one column per share of photos with it."""
    index = ["network", "condition"]
    marks = table[table.condition != ""]
    rows = pd.MultiIndex.from_frame(marks[index].drop_duplicates())
    columns = {
        "network": pd.Series([network for network, _ in rows], rows),
        "shortcut": pd.Series([mark for _, mark in rows], rows),
    }
    for split in marks.split.unique():
        texts = {}
        for row, values_of_row in marks[marks.split == split].groupby(index, sort=False):
            texts[row] = _named(values_of_row.set_index("metric").value)
        columns[split] = pd.Series(texts)
    return markdown(columns)


def _named(figures: pd.Series) -> str:
    """Say which window names a shortcut, the share of photos that it turns, and whether the test confirms it."""
    place = int(figures["first window that names it"])
    if not place:
        return f"not named (covers {figures['largest coverage']:.0%})"
    confirmed = "confirmed" if figures["confirmed"] else "not confirmed"
    return f"window {place}, turns {figures['share']:.0%}, {confirmed}"


def _null_marks(table: pd.DataFrame) -> str:
    """Write one row per network: of the marks that carry no class, how many are named, and how many are confirmed."""
    counts = {metric: cells(table, metric, index="network") for metric in table.metric.unique()}
    marks = table.drop_duplicates("network").set_index("network").n.astype(str)
    return markdown({"marks that carry no class": marks, **counts}, rows="network")


def selection_cost(table: pd.DataFrame) -> str:
    """Write what a selection takes: CPU seconds, those of its steps, and the memory that it adds."""
    steps = [metric for metric in table.metric.unique() if metric.startswith("CPU seconds, ")]
    costs = {"CPU seconds": "CPU seconds", **{step: step for step in steps}, "MB added": "peak memory added"}
    columns = {title: cells(table, metric, index="network") for title, metric in costs.items()}
    return markdown(columns, rows="network")


def varied_marks(table: pd.DataFrame) -> str:
    """Write what default and varied hosts correct and cost, the mean and the range over seeds, and the differences."""
    titles = ["network", "mark", "method"]
    named = table[(table.network != "all") & table.condition.str.contains(", ")]
    of_condition = named.condition.str.split(", ", n=1, expand=True)
    named = named.assign(mark=of_condition[0], statistic=of_condition[1])
    figures = {
        "errors corrected, marks as in training": (CORRECTED, TARGET, SHARE),
        "marks that vary": (CORRECTED, VARIED, SHARE),
        "accuracy, points": (ACCURACY, CLEAN, CHANGE),
        "predictions changed": (FLIPS, CLEAN, PRECISE_SHARE),
        "the mark's class with the mark": (CORRECT, OWN_CLASS, SHARE),
    }
    columns = {}
    for title, (metric, split, look) in figures.items():
        part = named[(named.metric == metric) & (named.split == split) & (named.method != NO_EDIT)]
        wide = part.pivot_table(index=titles, columns="statistic", values="value", sort=False)
        texts = {name: wide[name].map(look.value) for name in ("mean", "least", "largest")}
        columns[title] = texts["mean"] + " (" + texts["least"] + " to " + texts["largest"] + ")"
    columns["CPU seconds"] = cells(named, "CPU seconds", index=titles)
    rows = columns["CPU seconds"].index
    columns = {title: pd.Series(rows.get_level_values(title), rows) for title in titles} | columns
    return f"{markdown(columns)}\n\n{_gains_of_varied_hosts(named)}"


def _gains_of_varied_hosts(named: pd.DataFrame) -> str:
    """Write the paired differences, with an interval over seeds and one over photos."""
    titles = ["network", "mark", "split"]
    rows = pd.MultiIndex.from_frame(named[named.metric == "over seeds"][titles].sort_values("network", kind="stable"))
    marks = {TARGET: "as in training", VARIED: "vary"}
    columns = {
        "network": pd.Series(rows.get_level_values("network"), rows),
        "mark": pd.Series(rows.get_level_values("mark"), rows),
        "marks": pd.Series(rows.get_level_values("split").map(marks), rows),
    }
    for over in ("over seeds", "over photos"):
        part = named[named.metric == over].assign(n=None)  # intervals of six seeds are shown as well
        columns[f"varied minus default hosts, points, {over}"] = cells(part, over, index=titles, look=POINTS)
    return markdown(columns)


def rivals(table: pd.DataFrame) -> str:
    """Write what each method corrects and costs for each network and mark; then how rivals differ from the edit."""
    titles = ["network", "mark", "method"]
    part = table.rename(columns={"condition": "mark"})
    is_row = (part.metric == CORRECTED) & (part.split == TARGET)
    rows = pd.MultiIndex.from_frame(part[is_row][titles].sort_values("method", key=_order, kind="stable"))
    rows = rows.sortlevel(["network", "mark"], sort_remaining=False)[0]
    columns = {title: pd.Series(rows.get_level_values(title), rows) for title in titles}
    figures = {
        "errors corrected, marks as in training": (CORRECTED, TARGET),
        "marks that vary": (CORRECTED, VARIED),
        "accuracy, points": (ACCURACY, CLEAN),
        "predictions changed": (FLIPS, CLEAN),
        "the mark's class with the mark": (CORRECT, OWN_CLASS),
        "CPU seconds to select": ("CPU seconds", ""),
        "per 1,000 predictions without the mark": (PER_THOUSAND, CLEAN),
        "with it": (PER_THOUSAND, TARGET),
    }
    for title, (metric, split) in figures.items():
        columns[title] = cells(part, metric, split, index=titles)
    differences = part[part.metric == MINUS_EDIT]
    rows = rows[rows.isin(pd.MultiIndex.from_frame(differences[titles]))]
    compared_with_edit = {title: pd.Series(rows.get_level_values(title), rows) for title in titles}
    for split, marks in {TARGET: "marks as in training", VARIED: "marks that vary"}.items():
        gains = cells(differences, MINUS_EDIT, split, index=titles, look=POINTS)
        compared_with_edit[f"{marks}: minus the edit, points"] = gains
        within = part[(part.metric == WITHIN) & (part.split == split)].set_index(titles).value
        compared_with_edit[f"{marks}: within its limits"] = within.map({1.0: "yes", 0.0: "no"})
    return f"{markdown(columns)}\n\n{markdown(compared_with_edit)}"


def _order(methods: pd.Series) -> pd.Series:
    """Return the place of each method in `METHOD_NAMES`."""
    return methods.map(METHOD_NAMES.index)


def calibration_audits(table: pd.DataFrame) -> str:
    """Write one row per control: the audits that find a rule of a class, and one of all classes."""
    rows = table[table.metric == "audits with a rule"].set_index(["condition", "split"])
    interval = rows.low.map("{:.0f}".format) + " to " + rows.high.map("{:.0f}".format)
    found = (rows.value.map("{:.0f}".format) + " [" + interval + "]").unstack("split")
    columns = {
        "audits": rows.n.unstack("split")["per class"].map(str),
        "with a rule of a class": found["per class"],
        "with a rule of all classes": found["all classes"],
    }
    return markdown(columns, rows="control")


def calibration_nulls(table: pd.DataFrame) -> str:
    """Write one row per kind of folder: the words on repairs that cannot help, and the windows that were confirmed."""
    verdicts = table[table.method == "verdict"]
    words = pd.crosstab(verdicts.condition, verdicts.metric).reindex(columns=WORDS, fill_value=0)
    columns = {f"repairs: {word}": words[word].map(str) for word in WORDS}
    of_windows = table[table.metric == "windows confirmed"]
    for kind, of_kind in of_windows.groupby("method", sort=False):
        sums = of_kind.groupby("condition", sort=False)[["value", "n"]].sum()
        columns[f"windows {kind}: confirmed"] = sums.value.map("{:.0f}".format) + " of " + sums.n.map(str)
    return markdown(columns, of_windows.condition.unique(), rows="folder")


WORDS = ("use", "unclear", "do not use")
QUALITIES = ("good", "between", "bad")


def calibration_verdicts(table: pd.DataFrame) -> str:
    """Write how often each word was given, by the quality of the edit on new images, and *use* by the kind of case."""
    judged = judged_edits(table)
    words = pd.crosstab(judged.quality, judged.word).reindex(index=QUALITIES, columns=WORDS, fill_value=0)
    of_qualities = {"cases": words.sum(axis=1).map(str), **{word: words[word].map(str) for word in WORDS}}
    is_use = judged.word == "use"
    kinds = judged.index.get_level_values("condition")
    of_kinds = {}
    for quality in QUALITIES:
        of_quality = is_use.where(judged.quality == quality).groupby(kinds, sort=False)
        counts = of_quality.sum().map("{:.0f}".format) + " of " + of_quality.count().map(str)
        of_kinds[f"{quality}: *use*"] = counts
    order = [kind.name for kind in KINDS if kind.name in set(kinds)]
    return f"{markdown(of_qualities, rows='edit on new images')}\n\n{markdown(of_kinds, order, rows='kind of case')}"


def calibration_warnings(table: pd.DataFrame) -> str:
    """Write one row per fault: the pairs that are warned of, and what is said of them."""
    counts = pd.crosstab(table.condition, table.metric)
    said = counts.drop(columns=NOTHING, errors="ignore")
    columns = {"pairs": counts.sum(axis=1), "with a warning": said.sum(axis=1), **said}
    texts = {name: column.map(str) for name, column in columns.items()}
    return markdown(texts, list(FAULTS), rows="what is wrong")


SOLVERS = {"l1": "L1 over Λ", "least squares": "least squares"}

BUSY_WORK = {"predictions": "64 predictions of SqueezeNet", "rewrite": "one rewrite of it"}
"""What two threads do next to a busy core."""


def edit_speed(table: pd.DataFrame) -> str:
    """Write how much faster the solvers are than training the full weight, to its last and to its best point."""
    busy = table[table.part == "busy"]
    known = table[table.part == ""].set_index("metric").value
    steps = f"{known['naive steps to lowest']:.0f}"
    loop = {
        "times faster than the paper's loop, 20,000 steps": "{} time ratio",
        f"times faster than this loop to its best point, {steps} steps": "{} time ratio lowest",
    }
    columns = {}
    for title, metric in loop.items():
        texts = {}
        for key, name in SOLVERS.items():
            ratio = known.get(metric.format(key))
            texts[name] = "–" if ratio is None else RATIO.value(ratio)  # a dash where the loss was not reached
        columns[title] = pd.Series(texts)
    columns["loss"] = pd.Series({name: LOSS.value(known[f"{key} loss"]) for key, name in SOLVERS.items()})
    return f"{markdown(columns, rows='solver')}\n\n{next_to_a_busy_core(busy)}"


def next_to_a_busy_core(table: pd.DataFrame) -> str:
    """Write how long two threads take next to a busy core, by the way in which they wait."""
    columns = {}
    for policy, title in {"default": "seconds, threads spin", "passive": "seconds, threads sleep"}.items():
        known = table[table.condition == policy].set_index("metric").value
        columns[title] = pd.Series({name: f"{known[f'{key} seconds']:.2f}" for key, name in BUSY_WORK.items()})
    known = table.set_index("metric").value
    columns["ratio"] = pd.Series({name: f"{known[f'{key} time ratio']:.1f}" for key, name in BUSY_WORK.items()})
    return markdown(columns, rows="next to a busy core")


def skin(table: pd.DataFrame) -> str:
    """Write how much stickers mislead each network, what each method does on average, and with each exemplar."""
    return "\n\n".join([misled_by_stickers(table), methods_on_stickers(table), exemplars_of_stickers(table)])


def misled_by_stickers(table: pd.DataFrame) -> str:
    """Write the AUC and the misses of each network and of its twin, with a sticker and with each fill."""
    part = table[table.method.isin((NO_EDIT, TWIN)) & (table.condition == "")]
    index = ["network", "method"]
    rows = pd.MultiIndex.from_frame(part[index].drop_duplicates())
    shown = {"network": pd.Series([short(network) for network, _ in rows], rows)}
    shown["trained"] = pd.Series(["without stickers" if method != NO_EDIT else "" for _, method in rows], rows)
    shown["AUC"] = cells(part, skin_figures.AUC, index=index, look=DECIMAL)
    misses = {
        "missed: no sticker": skin_figures.MISSED_CLEAN,
        "with one": skin_figures.MISSED,
        **{f"in {fill}": filled(fill) for fill in FILLS},
        "with one minus in own skin": skin_figures.CAUSED,
    }
    for title, metric in misses.items():
        shown[title] = cells(part, metric, index=index, look=SHARE, interval=metric == skin_figures.CAUSED)
    counted = part[part.metric == "counts"].set_index(index).value
    shown["counts"] = counted.map({1.0: "yes", 0.0: "no"})
    return markdown(shown)


def methods_on_stickers(table: pd.DataFrame) -> str:
    """Write what the edit and fine-tuning correct and cost on average over networks and exemplars."""
    part = table[table.network.isin((skin_figures.COUNTED, skin_figures.ALL))]
    return markdown(columns_on_stickers(part, "method", interval=True), rows="method")


def exemplars_of_stickers(table: pd.DataFrame) -> str:
    """Write what the edit and fine-tuning correct and cost with each network and exemplar."""
    part = table[(table.condition != "") & (table.method != NO_EDIT)]
    index = ["network", "condition", "method"]
    rows = pd.MultiIndex.from_frame(part[index].drop_duplicates())
    titles = {
        "network": pd.Series([short(network) for network, _, _ in rows], rows),
        "exemplar": pd.Series([color for _, color, _ in rows], rows),
        "method": pd.Series([method for _, _, method in rows], rows),
    }
    return markdown({**titles, **columns_on_stickers(part, index, interval=False)})


def columns_on_stickers(part: pd.DataFrame, index: str | list[str], interval: bool) -> dict[str, pd.Series]:
    """Write the columns of what a method corrects and costs."""
    figures = {
        "errors corrected": (skin_figures.NET, SHARE),
        "edit minus this, points": (skin_figures.GAP, POINTS),
        "same color": (skin_figures.NET_SAME, SHARE),
        "other colors": (skin_figures.NET_OTHER, SHARE),
        "threshold kept": (skin_figures.NET_AT_KEPT, SHARE),
        "AUC": (skin_figures.AUC_CHANGE, FINE_CHANGE),
        "predictions changed": (skin_figures.FLIPS, PRECISE_SHARE),
        "benign sticker photos, points": (skin_figures.REAL_CHANGE, POINTS),
        "CPU seconds": (skin_figures.SECONDS, COUNT),
    }
    return {
        title: cells(part, metric, index=index, look=look, interval=interval and metric != skin_figures.SECONDS)
        for title, (metric, look) in figures.items()
    }


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    **dict.fromkeys(("learned_shortcut", "gate", "handwriting", "snow", "typographic", "watermark"), compared_parts),
    **{
        function.__name__: function
        for function in (
            *(development, materials, objective, synthetic, probing, contact_sheets, selection_cost),
            *(varied_marks, rivals),
            *(calibration_audits, calibration_nulls, calibration_verdicts, calibration_warnings),
            *(edit_speed, skin),
        )
    },
}
"""What makes the table of an experiment, by its name."""


# --- tables of several experiments ---


class Row(NamedTuple):
    """A row of the table of results.

    Attributes:
        run: the run.
        network: the network, if the run has several that are not averaged.
        condition: the condition of its means.
    """

    run: str
    network: str = "all"
    condition: str = ""


ROWS = {
    "planted in training; 2 networks × 3 marks, new to the method": Row("gate", condition=BY_USERS),
    "planted in training; 2 networks × 3 marks, used to design it": Row("learned_shortcut"),
    **{f"a watermark; {network}": Row(run) for run, network in WATERMARKS.items()},
    "a word on a sticker, rendered; a small CLIP": Row("typographic_mini"),
    "handwritten notes; SqueezeNet": Row("handwriting"),
    "handwritten notes; EfficientNet-Lite0": Row("handwriting_lite0"),
    "snow under vehicles, rendered; a small VGG": Row("snow_mini", "mini_vgg"),
    "snow under vehicles, rendered; a transformer": Row("snow_mini", "mini_vit"),
    "snow under vehicles; SqueezeNet": Row("snow_lite"),
    "snow under vehicles; EfficientNet-Lite0": Row("snow_lite0"),
}
"""The rows of the table of results: photos, unless they say that images are rendered."""


def results() -> str:
    """Write what the edit and fine-tuning correct and cost, and what removing the mark would correct."""
    rows = []
    for title, one in ROWS.items():
        removals = removals_of(one.run, one.network)
        edit, tuned = (mean_of(outcomes_of(one.run, method, one.network)) for method in (BY_HOSTS, LABEL_FREE))
        removed = mean_of(removals) if removals else None
        row = {
            "mark; network": title,
            "errors": errors_of(outcomes_of(one.run, BY_HOSTS, one.network)),
            "the mark removed": with_interval(removed) if removed else "",
            "edit": with_interval(edit),
            "of that": SHARE.value(edit.value / removed.value) if removed else "",
            "fine-tuning": with_interval(tuned),
            "accuracy: edit": cost(one, BY_HOSTS, "accuracy change"),
            "changed: edit": cost(one, BY_HOSTS, "predictions changed"),
            "changed: fine-tuning": cost(one, LABEL_FREE, "predictions changed"),
        }
        rows.append(row)
    rows.append(stickers())
    return markdown(dict(pd.DataFrame(rows).fillna("").items()))


def stickers() -> dict[str, str]:
    """Write the row of stickers on photos of skin, whose interval is over lesions, stickers, and exemplars."""
    table = read_results("skin")
    means = table[table.network == skin_figures.COUNTED]
    outcomes = read_outcomes("skin")
    missed, _ = decode(outcomes[outcomes.split.str.startswith(STUCK)].outcomes.iloc[0])
    corrected = cells(means, skin_figures.OF_ALL, look=SHARE)
    return {
        "mark; network": "stickers on skin, not planted; an EfficientNet-Lite0",
        "errors": str(missed.sum()),
        "the mark removed": cells(means, skin_figures.REMOVED, look=SHARE)[BY_HOSTS],
        "edit": corrected[BY_HOSTS],
        "of that": cells(means, skin_figures.NET, look=SHARE, interval=False)[BY_HOSTS],
        "fine-tuning": corrected[LABEL_FREE],
        "changed: edit": cells(means, skin_figures.FLIPS, look=PRECISE_SHARE, interval=False)[BY_HOSTS],
        "changed: fine-tuning": cells(means, skin_figures.FLIPS, look=PRECISE_SHARE, interval=False)[LABEL_FREE],
    }


def with_interval(mean: OverPhotos) -> str:
    """Write a share and its interval over photos, on one line of a narrow column."""
    low, high = (SHARE.bound(bound) for bound in mean.interval)
    return f"{SHARE.value(mean.value)} [{low},\u00a0{high}]"


def errors_of(outcomes: Sequence[Outcome]) -> str:
    """Write how many errors there are: of one set of images, or the fewest and the most of several."""
    counts = sorted({int(one.before.sum()) for one in outcomes})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def cost(row: Row, method: str, metric: str) -> str:
    """Write a cost of a method on images without the mark."""
    table = read_results(row.run)
    is_here = (table.network == row.network) & (table.condition == row.condition) & (table.method == method)
    return cells(table[is_here], metric, CLEAN, interval=False).iloc[0]


def at_a_glance() -> str:
    """Write README's table: the edit, fine-tuning, and the mark removed, in networks and with marks that are new."""
    row = Row("gate", condition=BY_USERS)
    removed = mean_of(removals_of(row.run))
    table = read_results(row.run)
    rows = []
    for method, title in {BY_HOSTS: "one edit", LABEL_FREE: "fine-tuning, same images"}.items():
        seconds = table[(table.method == method) & (table.metric == "CPU seconds")].value
        columns = {
            "": title,
            "errors corrected, net": with_interval(mean_of(outcomes_of(row.run, method))),
            "accuracy, points": cost(row, method, "accuracy change"),
            "other predictions changed": cost(row, method, "predictions changed"),
            "CPU seconds": f"{seconds.min():.0f} to {seconds.max():.0f}",
        }
        rows.append(columns)
    rows.append({"": "the mark removed", "errors corrected, net": with_interval(removed)})
    return markdown(dict(pd.DataFrame(rows).fillna("").items()))


def architectures() -> str:
    """Write how many networks of each package were tried, and how many of them can be edited."""
    table = read_networks()
    counts = table.assign(exact=table["off by"] == 0).groupby("package", sort=False)
    summary = counts.agg(tried=("network", "size"), exported=("off by", "count"), exact=("exact", "sum"))
    return markdown(dict(summary.astype(str).items()), rows="package")


QUESTIONS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (results, at_a_glance, architectures)
}
"""The tables that are not of one experiment, by name."""


# --- pages ---

TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n).*?\n*(<!-- end -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- number: (\w+) -->).*?(<!-- end -->)", re.DOTALL)


def block(name: str) -> str:
    """Write the table of an experiment with its commands, or one of several experiments."""
    if name in QUESTIONS:
        return QUESTIONS[name]()
    commands = [command(read_run(part)) for part in parts_of(name)]
    return f"{'; '.join(commands)}.\n\n{TABLES[name](read_parts(name))}"


def command(run: dict[str, Any]) -> str:
    """Write a command, the commit, its day and its seconds; of a former script or option, also the command of now."""
    text = f"`{run['command']}`"
    if "now" in run:
        text = f"`{run['command'].replace('python benchmarks/', '')}`"
    if "commit" in run:
        text += f" at commit {run['commit']}"
    if "now" in run:
        text += f" (now `{run['now']}`)"
    seconds = f", {run['seconds']:.0f} s" if run.get("seconds") is not None else ""
    return f"{text}, {run['date']}{seconds}"


def written(text: str) -> str:
    """Write the tables and the numbers of a page."""
    text = TABLE.sub(lambda found: f"{found[1]}{block(found[2])}\n\n{found[3]}", text)
    return NUMBER.sub(lambda found: f"{found[1]}{NUMBERS[found[2]]()}{found[3]}", text)


def pages() -> dict[Path, str]:
    """Return every page that has a table or a number, as it should be."""
    texts = {path: path.read_text() for path in [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]}
    return {path: written(text) for path, text in texts.items() if TABLE.search(text) or NUMBER.search(text)}


def main() -> None:
    """Write the pages, or check that they are written."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="only compare the pages with the files")
    if arguments.parse_args().check:
        other = [path.name for path, text in pages().items() if path.read_text() != text]
        if other:
            raise SystemExit(f"{', '.join(other)}: not what results says, run python benchmarks/tables.py")
        return
    for path, text in pages().items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
