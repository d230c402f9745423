"""The tables of README.md and of the pages in docs, and the figures, from the files in results.

    python benchmarks/snow.py --output results/snow_miniworld.csv
    python benchmarks/tables.py            writes the tables of all pages, and the figures in docs
    python benchmarks/tables.py --check    fails where a page or a figure is not what the files say

A page has the table of a run between `<!-- table: NAME -->` and `<!-- end -->`. `headline` and `others` are tables of
all experiments; those in `SUMMARIES` compare the methods that matter to one question. Each function below makes the
table of one experiment: a pivot of the long table that `_lib.results` describes.
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any

import pandas as pd
from _lib.pivots import (
    LEAST,
    LOSS,
    RATIO,
    SHARE,
    Format,
    cells,
    counts,
    markdown,
    only,
    values,
    with_holm,
)
from _lib.results import FOLDER, FORMER_METHODS, METHODS, name_of, read_results, read_run
from PIL import Image

from edittools._caching import atomic_path

DOCS = FOLDER.parent / "docs"
EDIT, FULL_RANK, RANDOM = METHODS["editing"], METHODS["full_rank"], METHODS["random_direction"]
CLOSED_FORM = FORMER_METHODS[0]
NO_BASELINES = [METHODS[key] for key in ("untuned", "two_layers", "text_blurred", "mark_blurred")]
NO_BASELINES += [METHODS["mark_inpainted"]]
"""Methods that are no baseline of the edit: other edits, and those that change the image and no weight."""


# --- tables of one experiment ---


def by_method(table: pd.DataFrame, columns: dict[str, pd.Series]) -> str:
    """Write one row per method; the edit is bold."""
    methods = pd.Series({method: f"**{method}**" if method == EDIT else method for method in table.method.unique()})
    return markdown({"method": methods, **columns})


def arrow(table: pd.DataFrame, metric: str, split: str) -> pd.Series:
    """Write what a count was before and after."""
    return cells(table, f"{metric} before", split) + " → " + cells(table, f"{metric} after", split)


def slash(table: pd.DataFrame, split: str, index: str = "method") -> pd.Series:
    """Write how many errors were corrected, and how many correct images broke."""
    return cells(table, "corrected", split, index=index) + " / " + cells(table, "broken", split, index=index)


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Select the figures of all networks together, or of the only one."""
    return table[table.network == "all"] if (table.network == "all").any() else table


def by_network(table: pd.DataFrame, text: Callable[[pd.DataFrame], pd.Series]) -> str:
    """Write one row per method, one column per network."""
    table = table[table.network != "all"]
    columns = {short(network): text(part) for network, part in table.groupby("network", sort=False)}
    order = table.method.unique()
    filled = {title: column.reindex(order).fillna("no such layer") for title, column in columns.items()}
    return by_method(table, filled)


def short(network: str) -> str:
    """Shorten the name of a network."""
    return network.removeprefix("efficientnet_")


def snow(table: pd.DataFrame) -> str:
    """Write vehicles on snow; several networks together, then network by network."""
    table = table[table.condition == ""]
    together = with_holm(pooled(table))
    columns = {
        "errors corrected": cells(together, "errors corrected", "target_test"),
        "corrected / broken": slash(together, "target_test"),
        "accuracy": cells(together, "accuracy change", "clean_test"),
        "retained errors": arrow(together, "errors", "retain_test"),
        "changed elsewhere": cells(together, "predictions changed", "elsewhere"),
        "p against the edit": cells(together, "p against the edit", "target_test"),
        "candidates": cells(together, "candidates"),
    }
    text = by_method(together, columns)
    if together is table or table.network.nunique() == 1:
        return text
    title = "By network, corrected / broken of all errors and the change of accuracy on clean test images, in points:"

    def cell(part: pd.DataFrame) -> pd.Series:
        change = cells(part, "accuracy change", "clean_test", interval=False)
        return slash(part, "target_test") + " of " + cells(part, "errors before", "target_test") + ", " + change

    return f"{text}\n\n{title}\n\n{by_network(table, cell)}"


def typographic(table: pd.DataFrame) -> str:
    """Write typographic attacks."""
    columns = {
        "errors corrected": cells(table, "errors corrected", "target_test"),
        "corrected / broken": slash(table, "target_test"),
        "corrected of 'iPod' predictions": cells(table, "attacks corrected", "target_test"),
        "still predicted as iPod": cells(table, "attack success after", "target_test"),
        "other words corrected": cells(table, "attacks corrected", "other words"),
        "accuracy": cells(table, "accuracy change", "clean_test"),
        "real iPods correct": cells(table, "accuracy after", "retain_test"),
        "handwritten": cells(table, "accuracy after", "photos ipod", look=SHARE),
        "candidates": cells(table, "candidates"),
    }
    return by_method(table, columns)


def watermark(table: pd.DataFrame) -> str:
    """Write a watermark: all networks together, then mark by mark, then network by network."""
    run = read_run(table.run.iloc[0])
    together = with_holm(pooled(table))
    net = values(together, "corrected", "target_test") - values(together, "broken", "target_test")
    of_all_errors = net / values(together, "errors before", "target_test")
    columns = {
        "restored": cells(together, "restored", "target_test"),
        "restored, unseen marks": cells(together, "restored", "unseen marks"),
        "of all errors": of_all_errors.map(SHARE.value),
        "corrected / broken": slash(together, "target_test"),
        "accuracy": cells(together, "accuracy change", "clean_test"),
        "exemplar success": cells(together, "success", "exemplars"),
        "p against the edit": cells(together, "p against the edit", "target_test"),
        "candidates": cells(together, "candidates"),
    }
    marks = [split for split in together[together.metric == "restored"].split.unique() if split not in SHOWN]
    by_mark = {mark: cells(together, "restored", mark) for mark in marks}
    layers = pd.DataFrame(run["selected"]).set_index(["network", "method"]).layers.map(where)

    def cell(part: pd.DataFrame) -> pd.Series:
        change = cells(part, "accuracy change", "clean_test", interval=False)
        place = layers[part.network.iloc[0]]
        share = cells(part, "restored", "target_test", interval=False)
        return share + ", " + slash(part, "target_test") + ", " + change + "; " + place

    parts = [
        by_method(together, columns),
        "Restored, by the mark that no exemplar shows:",
        by_method(together, by_mark),
        "Restored, corrected / broken, accuracy and the layer, by network:",
        by_network(table, cell),
    ]
    return "\n\n".join(parts)


SHOWN = ("target_test", "unseen marks")


def where(layers: str) -> str:
    """Name the layers that an edit changes; of more than two, the first."""
    first, *others = layers.split(", ")
    return f"{first} and all later ones" if len(others) > 1 else layers


def synthetic(table: pd.DataFrame) -> str:
    """Write the synthetic benchmark, by method."""

    methods = table[table.method != ""]
    columns = {
        "other classes, same style": cells(methods, "errors corrected", "other classes, same style"),
        "other classes, held-out style": cells(methods, "errors corrected", "other classes, held-out style"),
        "target class": cells(methods, "errors corrected", "target class, same style"),
        "accuracy, points": cells(methods, "accuracy change", "clean_test"),
        "candidates": cells(methods, "candidates"),
    }
    return by_method(methods, columns)


def probing(table: pd.DataFrame) -> str:
    """Write rules found against those planted and those shown exactly; effects where no rules are known."""
    if (table.metric == "effect").any():
        methods = table.method.unique()
        return "\n\n".join(f"{REPLACED_BY[kind]}\n\n{by_concept(table[table.method == kind])}" for kind in methods)

    def text(metric: str, split: str) -> pd.Series:
        return cells(table, metric, split, index="network")

    columns = {
        "rules planted / found": text("rules", "planted") + " / " + text("rules", "found"),
        "precision, recall": text("precision", "planted") + ", " + text("recall", "planted"),
        "rules shown exactly": text("rules", "exact"),
        "precision, recall against these": text("precision", "exact") + ", " + text("recall", "exact"),
        "correlation of effects": text("correlation of effects", "exact"),
        "found where none were planted": text("rules", "found where none were planted"),
    }
    return markdown(columns, rows="network")


REPLACED_BY = {
    "styles": "Replaced by the paper's styles, minus the control elsewhere in the photo:",
    "materials": "Replaced by materials of other photos, minus another variant of its own material:",
}
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


def repair(table: pd.DataFrame) -> str:
    """Write what one call finds."""
    summary = "\n".join(f"> {line}" for line in read_run(table.run.iloc[0])["summary"].splitlines())
    columns = {
        "held out, corrected / broken": slash(table, "held out") + " of " + cells(table, "errors before", "held out"),
        "share": cells(table, "errors corrected", "held out"),
        "p, not corrected": cells(table, "p", "held out"),
        "accuracy": cells(table, "accuracy change", "clean"),
        "retained images broken": cells(table, "broken", "retain") + " of " + counts(table, "broken", "retain"),
        "candidates": cells(table, "candidates"),
    }
    share = cells(table, "errors corrected", "target_test")[EDIT]
    said = f"The edit on all test images of the scenario: {share} of their errors corrected."
    return f"{summary}\n\n{by_method(table, columns)}\n\n{said}"


def random_directions(table: pd.DataFrame) -> str:
    """Write one row per draw of random directions, then their mean and range."""
    order = table.condition.unique()

    def text(metric: str, split: str | None = None) -> pd.Series:
        return cells(table, metric, split, index="condition")

    columns = {
        "seed": pd.Series([condition.removeprefix("seed ") for condition in order], order),
        "errors corrected": text("errors corrected", "target_test"),
        "corrected / broken": slash(table, "target_test", "condition"),
        "accuracy": text("accuracy change", "clean_test"),
        "retained errors": text("errors before", "retain_test") + " → " + text("errors after", "retain_test"),
        "candidates": text("candidates"),
    }
    shares = values(table, "errors corrected", "target_test", "condition")
    mean, lowest, highest = (SHARE.value(value) for value in (shares.mean(), shares.min(), shares.max()))
    return f"{markdown(columns)}\n\nMean of the errors corrected: {mean}, from {lowest} to {highest}."


def null_audits(table: pd.DataFrame) -> str:
    """Write one row per control: the audits that find a rule of a class, and one of all classes."""
    rows = table.set_index(["condition", "split"])
    interval = rows.low.map("{:.0f}".format) + " to " + rows.high.map("{:.0f}".format)
    found = (rows.value.map("{:.0f}".format) + " [" + interval + "]").unstack("split")
    columns = {
        "audits": rows.n.unstack("split")["per class"].map(str),
        "with a rule of a class": found["per class"],
        "with a rule of all classes": found["all classes"],
    }
    return markdown(columns, rows="control")


def null_verdicts(table: pd.DataFrame) -> str:
    """Write one row per kind of failing images and exemplar: how often each verdict was given."""
    words = ["use", "unclear", "do not use"]
    counted = table.pivot(index="condition", columns="metric", values="value").loc[table.condition.unique()]
    columns = {word: counted[word].map("{:.0f}".format) for word in words}
    return markdown({**columns, "cases": counted[words].sum(axis=1).map("{:.0f}".format)}, rows="exemplar and images")


SAME_STYLE = ("other classes, same style", "target class, same style")
"""The splits of the experiment with several numbers of exemplars that its table and its figure show."""


def exemplar_count(table: pd.DataFrame) -> str:
    """Write one row per method, and one column per number of exemplars and split; then show the figure."""
    methods = table[table.method != ""]
    cases = cells(table, "cases", index="condition")
    columns = {}
    for split in SAME_STYLE:
        for condition, part in methods.groupby("condition", sort=False):
            title = f"{split.removesuffix(', same style')}, {condition}"
            columns[title] = cells(part, "errors corrected", split)
    for condition, part in methods.groupby("condition", sort=False):
        columns[f"accuracy, {condition}"] = cells(part, "accuracy change", "clean_test")
    numbers = ", ".join(f"{number} with {condition}" for condition, number in cases.items())
    picture = "![Errors corrected against the number of exemplars, one line per method](../exemplar_count.png)"
    return f"{by_method(methods, columns)}\n\nCases: {numbers}.\n\n{picture}"


DRAW = r"draw \d+"
"""What the condition of a row of a single draw holds."""


def of_held_out(table: pd.DataFrame, index: str | list[str]) -> pd.Series:
    """Write what cross-validation says."""
    return slash(table, "held out", index) + " of " + cells(table, "errors before", "held out", index=index)


def edit_speed(table: pd.DataFrame) -> str:
    """Write the solvers against training the full weight, and one more edit against a forward pass."""
    known = table.set_index("metric").value
    rows = {}
    for title, (metrics, look) in SPEED.items():
        if set(metrics) <= set(known.index):
            rows[title] = ", ".join(look.value(known[metric]) for metric in metrics)
    return markdown({"ratio": pd.Series(rows)}, rows="what")


SPEED: dict[str, tuple[list[str], Format]] = {
    "L1 over Λ alone, times faster than training the weight for 20,000 steps": (["l1 time ratio"], RATIO),
    "its loss, and that of the trained weight after projection": (["l1 loss", "naive loss projected"], LOSS),
    "least squares, times faster": (["least squares time ratio"], RATIO),
    "L1 to that loss at no larger movement of reference keys, times faster": (["l1 time ratio equal movement"], RATIO),
    "least squares to that loss, the same": (["least squares time ratio equal movement"], RATIO),
    "L1 to the lowest loss on the way of the training, the same": (["l1 time ratio lowest"], RATIO),
    "least squares to the lowest loss, the same": (["least squares time ratio lowest"], RATIO),
    "second moment, times faster than materialized outer products": (["second moment time ratio"], RATIO),
    "one more edit over cached states, of a forward pass": (["suffix time fraction"], LOSS),
}


def border_strip(table: pd.DataFrame) -> str:
    """Write one row per network: the strip's share of the mask and of the edit map, and what each part corrects."""
    order = table.network.unique()

    def corrected(part: str) -> pd.Series:
        return cells(table[table.condition == part], "errors corrected", index="network")

    columns = {
        "network": pd.Series([short(network) for network in order], order),
        "exemplars": table[table.metric == "share of the map"].set_index("network").n.astype(str),
        "strip, share of the mask": cells(table, "share of the mask", index="network"),
        "strip, share of the edit map": cells(table, "share of the map", index="network"),
        "errors": cells(table, "errors before", index="network"),
        "corrected, whole mask": corrected("whole mask"),
        "without the strip": corrected("without the strip"),
        "strip alone": corrected("strip alone"),
    }
    return markdown(columns)


def paper_rehearsal(table: pd.DataFrame) -> str:
    """Write which models of tier `paper` ran through which scenarios."""
    index = ["network", "condition"]
    passed = table[table.metric == "passed"].set_index(index).value
    columns = {
        "model": pd.Series([model for model, _ in passed.index], passed.index),
        "scenario": pd.Series([scenario for _, scenario in passed.index], passed.index),
        "outcome": passed.map({1.0: "passed", 0.0: "failed"}),
        "seconds": cells(table, "seconds", index=index),
    }
    return markdown(columns)


def learned_shortcut(table: pd.DataFrame) -> str:
    """Write what each method makes of photos with and without the shortcuts, network by network, then each shortcut."""
    parts = []
    for network, part in table[table.condition == ""].groupby("network", sort=False):
        draws = table[(table.network == network) & table.condition.str.contains(DRAW)]
        shares = draws.value.agg(["min", "max"]).map(SHARE.value)
        columns = {
            "correct with a shortcut": cells(part, "correct", "target_test"),
            "of what it breaks, restored": cells(part, "restored", "target_test"),
            "correct with another look": cells(part, "correct", "unseen"),
            "accuracy, points": cells(part, "accuracy change", "clean_test"),
            "edit − method, points": cells(part, "edit minus method", "target_test"),
            "p (Holm)": cells(part, "p, Holm", "target_test"),
            "pairs in which the edit leads": counted(part, "pairs in which the edit leads", "method"),
            "candidates": cells(part, "candidates"),
        }
        spread = f"with the edit, from {shares['min']} to {shares['max']} in single pairs of shortcut and draw"
        parts.append(f"{short(network)}, {spread}:\n\n{by_method(part, columns)}")
    return "\n\n".join([*parts, "The edit, by shortcut:", each_shortcut(table)])


def each_shortcut(table: pd.DataFrame) -> str:
    """Write what the edit makes of each shortcut."""
    whole = table[(table.method == EDIT) & table.condition.isin(["tag", "text", "border"])]
    unedited = table[(table.method == "no edit") & table.condition.isin(["tag", "text", "border"])]
    index = ["network", "condition"]
    rows = pd.MultiIndex.from_frame(whole[index].drop_duplicates())
    columns = {
        "network": pd.Series([short(network) for network, _ in rows], rows),
        "shortcut": pd.Series([condition for _, condition in rows], rows),
        "correct without an edit": cells(unedited, "correct", "target_test", index=index),
        "with the edit": cells(whole, "correct", "target_test", index=index),
        "restored": cells(whole, "restored", "target_test", index=index),
        "accuracy, points": cells(whole, "accuracy change", "clean_test", index=index),
        "accuracy of its class, points": cells(whole, "accuracy change", "retain_test", index=index),
    }
    return markdown(columns)


def audit_shortcuts(table: pd.DataFrame) -> str:
    """Write in how many audits a rule is found, and how often the maximum of the heat map lies on the shortcut."""
    parts = []
    for network, part in table.groupby("network", sort=False):
        columns = {
            "audits that find it": counted(part, "audits that find it"),
            "maximum of the heat map on it": cells(part, "maximum on it", index="condition"),
            "its share of the image": cells(part, "area", index="condition"),
            "audits with another rule": counted(part, "audits with another rule"),
            "audits with any rule": counted(part, "audits with a rule"),
        }
        text = markdown(columns, list(part.condition.unique()), rows="photos")
        parts.append(f"{short(network)}:\n\n{text}")
    return "\n\n".join(parts)


def shortcut_repair(table: pd.DataFrame) -> str:
    """Write what `repair` says of each shortcut, and what it costs."""
    index = ["network", "condition"]
    selected = table[table.method == METHODS["selected"]]
    said = {(one["network"], one["condition"]): one["verdict"] for one in read_run(table.run.iloc[0])["selected"]}
    rows = pd.MultiIndex.from_frame(selected[index].drop_duplicates())
    columns = {
        "network": pd.Series([short(network) for network, _ in rows], rows),
        "shortcut": pd.Series([condition for _, condition in rows], rows),
        "verdict": pd.Series([f"*{said[row]}*" for row in rows], rows),
        "held out, corrected / broken": of_held_out(selected, index),
        "best random direction": cells(table[table.method == RANDOM], "corrected", "held out", index=index),
        "CPU seconds": cells(selected, "CPU seconds", index=index),
        "MB added": cells(selected, "peak memory added", index=index),
    }
    return markdown(columns)


def counted(table: pd.DataFrame, metric: str, index: str = "condition") -> pd.Series:
    """Write a count and of how many it is."""
    rows = table[table.metric == metric].set_index(index)
    return rows.value.map("{:.0f}".format) + " of " + rows.n.astype(str)


TABLES = {
    function.__name__: function
    for function in (
        *(snow, typographic, watermark, synthetic, probing, repair),
        *(random_directions, edit_speed, paper_rehearsal),
        *(exemplar_count, border_strip, null_audits, null_verdicts),
        *(learned_shortcut, audit_shortcuts, shortcut_repair),
    )
}
"""What makes the table of a run, by its experiment."""


# --- tables and figures of all experiments ---


@dataclass(frozen=True)
class Headline:
    """A run in the tables and figures of all experiments.

    Args:
        run: name of the run.
        title: its name in tables.
        panel: its name in the figure.
        metric: the metric that methods are compared by.
        split: the split of it.
        errors: metric and split of the number of errors, or of cases.
        network: the network, for a run of several networks that are not pooled.
    """

    run: str
    title: str
    panel: str
    metric: str = "errors corrected"
    split: str = "target_test"
    errors: tuple[str, str] = ("errors before", "target_test")
    network: str = ""


HEADLINES = [
    Headline("snow_miniworld", "vehicles on snow, MiniWorld", "vehicles on snow, MiniWorld"),
    Headline("snow_photos", "vehicles on snow, photos", "vehicles on snow, photos"),
    Headline("typographic_miniworld", 'an "iPod" sticker, MiniWorld', 'an "iPod" sticker, MiniWorld'),
    Headline(
        "watermark_photos",
        "a watermark, photos",
        "a watermark, photos",
        metric="restored",
        errors=("broken by the mark", "target_test"),
    ),
    *(
        Headline(
            f"synthetic_{run}",
            f"concepts × styles, {dataset}",
            f"concepts × styles, {dataset}",
            split="other classes, same style",
            errors=("cases", ""),
        )
        for run, dataset in {"miniworld": "MiniWorld", "photos": "photos"}.items()
    ),
]
FIGURE_METHODS = [
    name_of(key)
    for key in (
        *("editing", "finetune_local", "finetune_global", "interpolated_local", "interpolated_global", "projection"),
        *("null_space", "full_rank", "closed_form", "last_layer", "logit_correction", "random_direction"),
    )
]
"""The methods in the figure of all experiments, where an experiment has them."""


def headline() -> str:
    """Write the table of all experiments: the edit next to fixed baselines, and the best fine-tuning of several."""
    rows = []
    full_rank_names = []
    for one in HEADLINES:
        table = main_rows(one)
        tuned = best(table, finetunings(table), one.metric, one.split)
        full_rank = FULL_RANK if FULL_RANK in set(table.method) else CLOSED_FORM
        full_rank_names.append(full_rank)
        named = only(table, [EDIT, full_rank, tuned, RANDOM])
        share = cells(named, one.metric, one.split)
        metric, split = one.errors
        errors = table[(table.metric == metric) & (table.split == split) & table.method.isin([EDIT, ""])]
        change = cells(named, "accuracy change", "clean_test", interval=False)[EDIT]
        row = {
            "experiment": one.title,
            "misclassified": f"{errors.value.iloc[0]:.0f}" + (" cases" if metric == "cases" else ""),
            "edit": share[EDIT],
            FULL_RANK: share[full_rank],
            "best fine-tuning": share[tuned],
            "random direction": share[RANDOM],
            "accuracy; retained errors (edit)": change + retained(named[named.method == EDIT]),
        }
        rows.append(row)
    columns = pd.DataFrame(rows).rename(columns={FULL_RANK: " or ".join(dict.fromkeys(full_rank_names))})
    return markdown({title: columns[title] for title in columns})


TUNED = "best fine-tuning"
NARROW = ",\u00a0"
"""A comma and a space that does not break, so that an interval stays on one line of a narrow column."""
SEVERAL, TWO_LAYERS, PROJECTION = (METHODS[key] for key in ("editing_several", "two_layers", "projection"))
BLURRED = [METHODS["text_blurred"], METHODS["mark_blurred"]]
TRANSFORMER = Headline("snow_miniworld_vit", "vehicles on snow, transformer", "vehicles on snow, transformer")
UNSEEN_MARKS = Headline("watermark_photos", "unseen marks", "unseen marks", metric="restored", split="unseen marks")
LEARNED = {
    title: Headline("learned_shortcut", title, title, metric="restored", network=network)
    for title, network in {
        "learned shortcuts, EfficientNet-Lite0": "shortcuts_lite0",
        "learned shortcuts, SqueezeNet": "shortcuts_squeezenet",
    }.items()
}
OTHER_WORDS = Headline(
    "typographic_miniworld", "other words", "other words", metric="attacks corrected", split="other words"
)


@dataclass(frozen=True)
class Summary:
    """The table of a page that answers one question: one row per experiment, one column per method.

    Args:
        rows: title of each row, and the experiment, metric and split that it shows.
        columns: title of each column, and the methods that it may show; an experiment has one of them at most.
    """

    rows: dict[str, Headline]
    columns: dict[str, list[str]]


def named(run: str) -> Headline:
    """Return the headline of a run."""
    return next(one for one in HEADLINES if one.run == run)


EDIT_ALONE = {"edit": [EDIT]}
CONTROLS = {FULL_RANK: [FULL_RANK, CLOSED_FORM], TUNED: [], "random direction": [RANDOM]}
SUMMARIES = {
    "summary": Summary(
        {
            **LEARNED,
            "a watermark, photos": named("watermark_photos"),
            "vehicles on snow, photos": named("snow_photos"),
            "vehicles on snow, rendered": named("snow_miniworld"),
            'an "iPod" sticker, rendered': named("typographic_miniworld"),
        },
        EDIT_ALONE | CONTROLS,
    ),
    "summary_shortcuts": Summary(
        LEARNED,
        EDIT_ALONE | {"concept projection": [PROJECTION], "last layer retrained": [METHODS["last_layer"]]} | CONTROLS,
    ),
    "summary_snow": Summary(
        {
            "photos, four networks": named("snow_photos"),
            "rendered scenes, small VGG": named("snow_miniworld"),
            "rendered scenes, transformer": TRANSFORMER,
        },
        EDIT_ALONE | {"edit of two layers": [TWO_LAYERS], "concept projection": [PROJECTION]} | CONTROLS,
    ),
    "summary_writing": Summary(
        {
            "a watermark, photos": named("watermark_photos"),
            "watermarks that no exemplar shows": UNSEEN_MARKS,
            'an "iPod" sticker, rendered': named("typographic_miniworld"),
            "words that no exemplar shows": OTHER_WORDS,
        },
        EDIT_ALONE | {SEVERAL: [SEVERAL]} | CONTROLS | {"blurred, its position given": BLURRED},
    ),
    "summary_concepts": Summary(
        {
            "concepts replaced, photos": named("synthetic_photos"),
            "concepts replaced, rendered": named("synthetic_miniworld"),
        },
        EDIT_ALONE | {"concept projection": [PROJECTION]} | CONTROLS,
    ),
}
"""The tables of the pages that answer one question each, and that of README."""


def summary(name: str) -> str:
    """Write errors corrected by the methods that matter, and what the edit costs in accuracy."""
    rows = []
    for title, one in SUMMARIES[name].rows.items():
        table = main_rows(one)
        share = cells(table, one.metric, one.split)
        row = {"errors corrected": title}
        for column, methods in SUMMARIES[name].columns.items():
            shown = [best(table, finetunings(table), one.metric, one.split)] if column == TUNED else methods
            method = next((method for method in shown if method in share.index), None)
            row[column] = "–" if method is None else share[method].replace(", ", NARROW)
        change = cells(table, "accuracy change", "clean_test", interval=False)
        rows.append(row | {"accuracy with the edit, points": change[EDIT]})
    return markdown(dict(pd.DataFrame(rows).items()))


def retained(table: pd.DataFrame) -> str:
    """Write what happened to the retained images, from the rows of one method; nothing where there are none."""
    errors = arrow(table, "errors", "retain_test")
    if len(errors):
        [number] = table[(table.metric == "errors before") & (table.split == "retain_test")].n
        return f"; {errors.iloc[0]}" + ("" if pd.isna(number) else f" of {number}")
    before, after = (table[(table.metric == f"accuracy {when}") & (table.split == "retain_test")] for when in WHEN)
    if not len(before):
        return ""
    return f"; iPods correct {100 * before.value.iloc[0]:.0f} → {SHARE.value(after.value.iloc[0])}"


WHEN = ("before", "after")


def main_rows(one: Headline) -> pd.DataFrame:
    """Read a run without its conditions, of its network, or of all networks together where there are several."""
    table = read_results(one.run).assign(run=one.run)
    table = table[table.condition == ""]
    return table[table.network == one.network] if one.network else pooled(table)


def finetunings(table: pd.DataFrame) -> list[str]:
    """Name the methods in competition that are fine-tuning, interpolated or not."""
    out_of_competition = METHODS["finetune_shown"]
    return [method for method in table.method.unique() if "fine-tuning" in method and method != out_of_competition]


def best(table: pd.DataFrame, methods: list[str], metric: str, split: str) -> str:
    """Name the method with the highest value."""
    return values(table, metric, split)[methods].idxmax()


def compared(table: pd.DataFrame, metric: str, split: str) -> list[str]:
    """Name the edit, its best baseline, the best fine-tuning and the random direction, each once."""
    names = [name for name in table.method.unique() if name]  # without one: figures of a network
    is_baseline = [name for name in names if not name.startswith("edit") and name not in NO_BASELINES]
    tuned = [name for name in is_baseline if "fine-tuning" in name]
    names = [EDIT, *(best(table, some, metric, split) for some in (is_baseline, tuned) if some)]
    return list(dict.fromkeys([*names, *([RANDOM] if RANDOM in is_baseline else [])]))


def others() -> str:
    """Write the table of standard editing metrics, and show the figure of the trade-off along the strength."""
    parts = []
    for one in HEADLINES:
        table = main_rows(one)
        table = table[table.method != ""]
        part = only(table, compared(table, one.metric, one.split))
        order = part.method.unique()
        columns = {
            "experiment": pd.Series(one.title, order),
            "method": pd.Series([f"**{name}**" if name == EDIT else name for name in order], order),
            "exemplar success": cells(part, "success", "exemplars"),
            "generalization": cells(part, one.metric, one.split),
            "locality": kept(part, "near"),
            "of the nearest": kept(part, "nearest"),
        }
        parts.append(pd.DataFrame({title: column.reindex(order) for title, column in columns.items()}).fillna("–"))
    frame = pd.concat(parts, ignore_index=True)
    picture = "![Errors corrected against locality, one line per method](../locality.png)"
    return markdown({title: frame[title] for title in frame}) + f"\n\n{picture}"


def kept(table: pd.DataFrame, split: str) -> pd.Series:
    """Write the share of predictions kept near the decision boundary, and of how many."""
    return cells(table, "predictions kept", split) + " of " + counts(table, "predictions kept", split)


def points() -> list[dict[str, Any]]:
    """Return a row for each point of the figure: experiment, method, share with its interval, constraints."""
    rows = []
    named = set()
    for one in HEADLINES:
        table = main_rows(one)
        methods = [method for method in FIGURE_METHODS if method in set(table.method)]
        named |= set(methods)
        shares = table[(table.metric == one.metric) & (table.split == one.split)].set_index("method")
        for method in methods:
            share = shares.loc[method, ["value", "low", "high"]]
            part = table[table.method == method]
            row = {"experiment": one.panel, "method": method, "share": share.value, "low": share.low}
            rows.append(row | {"high": share.high, "constraints": constraints(part)})
    if named & {FULL_RANK, CLOSED_FORM}:
        named |= {FULL_RANK, CLOSED_FORM}
    if missing := set(FIGURE_METHODS) - named:
        raise ValueError(f"No results of the methods {sorted(missing)} in any experiment of the figure")
    return rows


def constraints(table: pd.DataFrame) -> str:
    """Say whether a method satisfies both constraints on test images, from its rows: "yes", "no" or "unknown"."""
    change = table[table.metric == "accuracy change"].set_index("split").value
    if change["clean_test"] < -0.25 or change.get("retain_test", 0.0) < -3:
        return "no"
    return "yes" if "retain_test" in change else "unknown"


def curves() -> list[dict[str, Any]]:
    """Return every method on MiniWorld's snow at several strengths: what it corrects, and its locality."""
    table = read_results("snow_miniworld").assign(run="snow_miniworld")
    table = table[table.condition.str.startswith("strength ")]
    wide = table.pivot_table(index=["method", "condition"], columns="metric", values="value", sort=False).reset_index()
    strengths = wide.condition.str.removeprefix("strength ").astype(float)
    names = {"predictions kept": "locality"}
    return wide.assign(strength=strengths).drop(columns="condition").rename(columns=names).to_dict("records")


def by_exemplar_count() -> list[dict[str, Any]]:
    """Return a row per method, number of exemplars and split: the errors corrected with their interval."""
    table = read_results("exemplar_count")
    table = table[(table.metric == "errors corrected") & table.split.isin(SAME_STYLE)]
    counts = table.condition.str.extract(r"(\d+)", expand=False).astype(int)
    columns = ["method", "split", "exemplars", "value", "low", "high"]
    return table.assign(exemplars=counts)[columns].to_dict("records")


FIGURES = {
    "results.png": (points, "methods_by_experiment"),
    "locality.png": (curves, "generalization_by_locality"),
    "exemplar_count.png": (by_exemplar_count, "errors_by_exemplar_count"),
}
"""The figures in docs, which are marked with their rows: what makes the rows, and what draws them in `_lib.figures`."""


def digest(rows: list[dict[str, Any]]) -> str:
    """Return what the figure of these rows is marked with: pixels differ between versions of matplotlib."""
    return sha1(json.dumps(rows).encode()).hexdigest()


def is_stale(name: str) -> bool:
    """Say whether a figure is not that of its rows."""
    path = DOCS / name
    return not path.exists() or Image.open(path).text.get("Rows") != digest(FIGURES[name][0]())


def draw(name: str) -> None:
    """Draw a figure, marked with its rows."""
    from _lib import figures

    make_rows, function = FIGURES[name]
    rows = make_rows()
    figure = getattr(figures, function)(pd.DataFrame(rows))
    figure.savefig(DOCS / name, dpi=100, metadata={"Rows": digest(rows)})


# --- pages ---

TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n).*?\n*(<!-- end -->)", re.DOTALL)


def block(name: str) -> str:
    """Write the table of a run with its command and day; or a table of all experiments."""
    if name in ("headline", "others"):
        return headline() if name == "headline" else others()
    if name in SUMMARIES:
        return summary(name)
    run = read_run(name)
    said = f"{command(run)}; {run['constraints']}." if "constraints" in run else f"{command(run)}."
    table = read_results(name).assign(run=name)
    return f"{said}\n\n{TABLES[table.experiment.iloc[0]](table)}"


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


def pages() -> dict[Path, str]:
    """Return every page that has a table, as it should be."""
    texts = {path: path.read_text() for path in [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]}
    return {
        path: TABLE.sub(lambda found: f"{found[1]}{block(found[2])}\n\n{found[3]}", text)
        for path, text in texts.items()
        if "<!-- table: " in text
    }


def main() -> None:
    """Write the pages, or check that they are written."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="only compare the pages with the files")
    if arguments.parse_args().check:
        other = [path.name for path, text in pages().items() if path.read_text() != text]
        other += [name for name in FIGURES if is_stale(name)]
        if other:
            raise SystemExit(f"{', '.join(other)}: not what results says, run python benchmarks/tables.py")
        return
    for path, text in pages().items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    for name in FIGURES:
        if is_stale(name):
            draw(name)


if __name__ == "__main__":
    main()
