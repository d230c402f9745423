"""The tables of README.md and of the pages in docs, from the files in results.

    python benchmarks/snow.py --output results/snow_mini.csv
    python benchmarks/tables.py            writes the tables of all pages
    python benchmarks/tables.py --check    fails where a page is not what the files say

A page has the table of an experiment between `<!-- table: NAME -->` and `<!-- end -->`. It shows all parts of the
experiment together: the files `NAME.csv` and `NAME_PART.csv`, each of which was made by one command, so that a long run
that was interrupted resumes with the part that is missing. The tables in `SUMMARIES` compare the methods that matter to
one question. Each function below makes the table of one experiment: a pivot of the long table that `_lib.results`
describes.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from _lib.cases_of_repair import quality_of
from _lib.pivots import LEAST, LOSS, RATIO, cells, markdown, values, with_holm
from _lib.results import FOLDER, METHODS, parts_of, read_parts, read_results, read_run

from edittools._caching import atomic_path

DOCS = FOLDER.parent / "docs"
EDIT, FULL_RANK, RANDOM = METHODS["editing"], METHODS["full_rank"], METHODS["random_direction"]
SELECTED = METHODS["selected"]


# --- tables of one experiment ---


def by_method(table: pd.DataFrame, columns: dict[str, pd.Series]) -> str:
    """Write one row per method, in the order of `METHODS`; the edit is bold."""
    known = list(METHODS.values())
    names = sorted(table.method.unique(), key=lambda name: known.index(name) if name in known else len(known))
    methods = pd.Series({name: f"**{name}**" if name == EDIT else name for name in names})
    return markdown({"method": methods, **columns})


def arrow(table: pd.DataFrame, metric: str, split: str) -> pd.Series:
    """Write what a count was before and after."""
    return cells(table, f"{metric} before", split) + " → " + cells(table, f"{metric} after", split)


def slash(table: pd.DataFrame, split: str, index: str | list[str] = "method") -> pd.Series:
    """Write how many errors were corrected, and how many correct images broke."""
    return cells(table, "corrected", split, index=index) + " / " + cells(table, "broken", split, index=index)


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Select the figures of all networks together, or of the only one."""
    return table[table.network == "all"] if (table.network == "all").any() else table


def short(network: str) -> str:
    """Shorten the name of a network."""
    return network.removeprefix("efficientnet_")


def draws_of_control(table: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of the control from one exemplar, one or several draws of random directions."""
    return table[table.method.str.fullmatch(rf"{RANDOM}( \d+)?")]


def shares(table: pd.DataFrame, metric: str, split: str) -> pd.Series:
    """Write a share of each method; that of several draws of the control as their mean and range, in one row."""
    text = cells(table, metric, split)
    draws = values(draws_of_control(table), metric, split)
    if len(draws) > 1:
        mean, lowest, highest = (100 * draws.mean(), 100 * draws.min(), 100 * draws.max())
        text[RANDOM] = f"{mean:.0f}% ({lowest:.0f} to {highest:.0f} in {len(draws)} draws)"
        text = text.drop([method for method in draws.index if method != RANDOM])
    return text


SNOW = {"mini_vgg": "small VGG", "mini_vit": "transformer", "all": "four networks, photos"}
"""The networks in the table of snow; all of them together are those of photos."""


def snow(table: pd.DataFrame) -> str:
    """Write vehicles on snow: errors corrected and costs, network by network."""
    columns = {}
    for network, title in SNOW.items():
        part = table[table.network == network]
        columns[title] = shares(part, "errors corrected", "target_test")
        change = cells(part, "accuracy change", "clean_test", interval=False)
        columns[f"{title}: accuracy; retained errors"] = change + "; " + arrow(part, "errors", "retain_test")
    is_further_draw = (table.method != RANDOM) & table.method.isin(draws_of_control(table).method)
    return by_method(table[~is_further_draw], columns)


def typographic(table: pd.DataFrame) -> str:
    """Write typographic attacks."""
    columns = {
        "errors corrected": cells(table, "errors corrected", "target_test"),
        "corrected / broken": slash(table, "target_test"),
        "other words corrected": cells(table, "attacks corrected", "other words"),
        "accuracy, points": cells(table, "accuracy change", "clean_test"),
        "real iPods correct": cells(table, "accuracy after", "retain_test"),
        "exemplar success": cells(table, "success", "exemplars"),
    }
    return by_method(table, columns)


def watermark(table: pd.DataFrame) -> str:
    """Write a watermark: all networks together, then what is restored in each."""
    together = with_holm(pooled(table))
    columns = {
        "restored": cells(together, "restored", "target_test"),
        "unseen marks": cells(together, "restored", "unseen marks"),
        "corrected / broken": slash(together, "target_test"),
        "accuracy, points": cells(together, "accuracy change", "clean_test"),
        "exemplar success": cells(together, "success", "exemplars"),
        "p against the edit": cells(together, "p against the edit", "target_test"),
    }
    for network, part in table[table.network != "all"].groupby("network", sort=False):
        columns[short(network)] = cells(part, "restored", "target_test", interval=False)
    return by_method(together, columns)


DATASETS = {"MiniWorld": "rendered", "photos": "photos"}


def synthetic(table: pd.DataFrame) -> str:
    """Write the synthetic benchmark, by method; then the errors corrected by the number of exemplars."""
    table = table[table.method != ""]
    columns = {}
    for dataset, title in DATASETS.items():
        part = table[(table.dataset == dataset) & (table.condition == "")]
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


WITHIN, WITHOUT = "within the limits", "without limits"
"""How a method was selected, in `learned_shortcut`."""

DEFAULT, FINETUNING, PASTED = METHODS["default"], METHODS["finetuning"], METHODS["finetuning_pasted"]

LABELS = {DEFAULT: "none", RANDOM: "none"}
"""Methods that need no labeled image."""


def learned_shortcut(table: pd.DataFrame) -> str:
    """Write what each method corrects within and without limits, and what it costs, as means over pairs."""
    everywhere = table[table.network == "all"]
    methods = [method for method in everywhere.method.unique() if method != "no edit"]
    columns = {"method": pd.Series({name: f"**{name}**" if name == EDIT else name for name in methods})}
    for limits in (WITHIN, WITHOUT):
        part = everywhere[everywhere.condition == limits]
        feasible = part[part.metric == "feasible"].set_index("method")
        if limits == WITHIN:
            columns["feasible"] = feasible.value.map("{:.0f}".format) + " of " + feasible.n.astype(str)
        columns[f"{limits}: errors corrected"] = cells(part, "errors corrected", "target_test")
        columns[f"{limits}: accuracy, points"] = cells(part, "accuracy change", "target_test")
        columns[f"{limits}: own class with the mark"] = cells(part, "own class correct", "target_test", interval=False)
    seconds = everywhere[everywhere.metric == "CPU seconds"].drop_duplicates("method").set_index("method").value
    columns["CPU seconds"] = seconds.map("{:.0f}".format)
    title = "Errors corrected, and change of accuracy in points, for each network and mark:"
    return f"{markdown(columns)}\n\n{title}\n\n{pairs_of_shortcuts(table)}"


def shortcuts() -> str:
    """Write what a reader of README wants to know of learned shortcuts: help, costs, and what a method needs."""
    table = read_results("learned_shortcut")
    everywhere = table[table.network == "all"]
    selected = {EDIT: WITHIN, FINETUNING: WITHIN, PASTED: WITHIN, DEFAULT: WITHOUT, RANDOM: WITHOUT}
    parts = [everywhere[(everywhere.method == name) & (everywhere.condition == how)] for name, how in selected.items()]
    part = pd.concat(parts)
    seconds = part[part.metric == "CPU seconds"].set_index("method").value
    columns = {
        "labeled images": pd.Series({name: LABELS.get(name, "about 1,000") for name in selected}),
        "errors corrected": cells(part, "errors corrected", "target_test"),
        "accuracy, points": cells(part, "accuracy change", "target_test"),
        "own class with the mark": cells(part, "own class correct", "target_test", interval=False),
        "CPU seconds": seconds.map("{:.3g}".format),
    }
    return markdown(columns, rows="method")


def pairs_of_shortcuts(table: pd.DataFrame) -> str:
    """Write, for each network and mark, the verdicts of `repair` on the edit, and what methods correct."""
    verdicts: dict[tuple[str, str], list[str]] = {}
    for entry in read_run("learned_shortcut")["selected"]:
        if "verdict" in entry:
            mark = entry["condition"].split(", ")[0]
            verdicts.setdefault((entry["network"], mark), []).append(f"*{entry['verdict']}*")
    rows = []
    for (network, mark), words in verdicts.items():
        row = {"network": short(network), "mark": mark, "verdict": ", ".join(words)}
        for method, limits in {EDIT: WITHIN, FINETUNING: WITHIN, PASTED: WITHIN, DEFAULT: WITHOUT}.items():
            part = table[(table.network == network) & (table.condition == f"{mark}, {limits}")]
            corrected = cells(part, "errors corrected", interval=False)
            accuracy = cells(part, "accuracy change", interval=False)
            row[method] = f"{corrected[method]}, {accuracy[method]}" if method in corrected.index else "–"
        rows.append(row)
    return markdown(dict(pd.DataFrame(rows).items()))


AUDITS = ("audits that find it", "audits with another rule", "audits with a rule")
"""The count of each kind of audit: of photos with a shortcut, of all shortcuts together, and with nothing drawn."""

MATERIALS = {"": "materials of the images", "elsewhere": "a photo as the material"}
"""What replaces a concept in each part of `audit_shortcuts`."""


def audit_shortcuts(table: pd.DataFrame) -> str:
    """Write in how many audits a rule is found, and how often the maximum of the heat map lies on the shortcut."""
    index = ["network", "condition"]
    rows = pd.MultiIndex.from_frame(table[index].drop_duplicates())
    names = {"drawn": "another rule", "nothing drawn": "any rule, nothing drawn"}
    columns = {
        "network": pd.Series([short(network) for network, _ in rows], rows),
        "what is looked for": pd.Series([names.get(condition, condition) for _, condition in rows], rows),
    }
    for part, of_part in table.groupby("part"):
        title = MATERIALS[part]
        counts = of_part[of_part.metric.isin(AUDITS)].set_index(index)
        columns[f"audits that find it, {title}"] = counts.value.map("{:.0f}".format) + " of " + counts.n.astype(str)
    columns["maximum of the heat map on it"] = cells(table, "maximum on it", index=index)
    columns["its share of the image"] = cells(table, "area", index=index)
    return markdown(columns)


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


def repair(table: pd.DataFrame) -> str:
    """Write what `repair` says of each rule, and what it costs."""
    index = ["network", "condition"]
    selected = table[table.method == SELECTED]
    control = table[table.method == RANDOM]
    verdicts = {}
    for run in table.run.unique():
        said = [entry for entry in read_run(run)["selected"] if "verdict" in entry]
        verdicts |= {(entry["network"], entry["condition"]): f"*{entry['verdict']}*" for entry in said}
    rows = pd.MultiIndex.from_frame(selected[index].drop_duplicates())
    errors = cells(selected, "errors before", "held out", index=index)
    columns = {
        "network": pd.Series([short(network) for network, _ in rows], rows),
        "rule": pd.Series([condition for _, condition in rows], rows),
        "verdict": pd.Series([verdicts[row] for row in rows], rows),
        "held out, corrected / broken": slash(selected, "held out", index) + " of " + errors,
        "net": cells(selected, "errors corrected", "held out", index=index),
        "random directions, net": cells(control, "errors corrected", "held out", index=index),
        "accuracy, points": cells(selected, "accuracy change", "clean", index=index),
        "retained, broken": cells(selected, "broken", "retain", index=index),
        "CPU seconds": cells(selected, "CPU seconds", index=index),
        "MB added": cells(selected, "peak memory added", index=index),
    }
    return markdown(columns)


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


WORDS = ("use", "unclear", "do not use")
QUALITIES = ("good", "between", "bad", "changes nothing")


def calibration_verdicts(table: pd.DataFrame) -> str:
    """Write one row per rule and quality of an edit on new images: how often each word was given."""
    cases = ["condition", "split"]
    figures = table[table.method == ""].pivot(index=cases, columns="metric", values="value")
    qualities = {}
    for case, row in figures.iterrows():
        changes_nothing = row["changed held-out predictions"] == 0
        qualities[case] = "changes nothing" if changes_nothing else quality_of(row.dropna().to_dict())
    words = table[table.metric.isin(WORDS)]
    quality = [qualities[case] for case in words[cases].itertuples(index=False, name=None)]
    counted = words.groupby([words.method, pd.Series(quality, words.index), words.metric]).size()
    wide = counted.unstack("metric", fill_value=0).reindex(columns=WORDS, fill_value=0)
    order = [row for row in product(words.method.unique(), QUALITIES) if row in wide.index]
    wide = wide.loc[order]
    columns = {
        "rule": pd.Series([rule for rule, _ in order], wide.index),
        "edit on new images": pd.Series([quality for _, quality in order], wide.index),
        "cases": wide.sum(axis=1).map(str),
        **{word: wide[word].map(str) for word in WORDS},
    }
    return markdown(columns)


SOLVERS = {"l1": "L1 over Λ", "least squares": "least squares"}


def edit_speed(table: pd.DataFrame) -> str:
    """Write how much faster the solvers are than training the full weight, to its last and to its best point."""
    known = table.set_index("metric").value
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
    return markdown(columns, rows="solver")


def paper_rehearsal(table: pd.DataFrame) -> str:
    """Write which models of tier `paper` ran through which scenarios."""
    passed = table[(table.metric == "passed") & (table.value == 1)].groupby("network", sort=False).condition
    seconds = table[table.metric == "seconds"].groupby("network", sort=False).value.sum()
    columns = {
        "scenarios that passed": passed.agg(lambda names: ", ".join(names).replace("_", " ")),
        "seconds": seconds.map("{:.0f}".format),
    }
    return markdown(columns, rows="model")


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    function.__name__: function
    for function in (
        *(snow, typographic, watermark, learned_shortcut, synthetic, probing, audit_shortcuts, contact_sheets, repair),
        *(calibration_audits, calibration_verdicts, edit_speed, paper_rehearsal),
    )
}
"""What makes the table of an experiment, by its name."""


# --- tables of several experiments ---


@dataclass(frozen=True)
class Row:
    """A row of a summary.

    Args:
        run: name of the run.
        metric: the metric that methods are compared by.
        split: the split of it.
        network: the network, for a run of several networks that are not pooled.
    """

    run: str
    metric: str = "errors corrected"
    split: str = "target_test"
    network: str = ""


@dataclass(frozen=True)
class Summary:
    """The table of a page that answers one question: one row per experiment, one column per method.

    Args:
        rows: the rows by title.
        columns: title of each column, and the methods that it may show; an experiment has one of them at most.
    """

    rows: dict[str, Row]
    columns: dict[str, list[str]]


TUNED = "fine-tuning on the exemplar"
NARROW = ",\u00a0"
"""A comma and a space that does not break, so that an interval stays on one line of a narrow column."""
SEVERAL, TWO_LAYERS, PROJECTION = (METHODS[key] for key in ("editing_several", "two_layers", "projection"))
BLURRED = [METHODS["text_blurred"], METHODS["mark_blurred"]]
WATERMARK = Row("watermark", metric="restored")
STICKER = Row("typographic_mini")
EDIT_ALONE = {"edit": [EDIT]}
PROJECTED = {"concept projection": [PROJECTION]}
CONTROLS = {TUNED: [], "random direction": [RANDOM]}
SUMMARIES = {
    "summary": Summary(
        {
            "a watermark, photos": WATERMARK,
            "vehicles on snow, photos": Row("snow_lite"),
            "vehicles on snow, rendered": Row("snow_mini"),
            'an "iPod" sticker, rendered': STICKER,
        },
        EDIT_ALONE | {FULL_RANK: [FULL_RANK]} | CONTROLS,
    ),
    "summary_snow": Summary(
        {
            "photos, four networks": Row("snow_lite"),
            "rendered scenes, small VGG": Row("snow_mini"),
            "rendered scenes, transformer": Row("snow_mini_vit"),
        },
        EDIT_ALONE | {"edit of two layers": [TWO_LAYERS], FULL_RANK: [FULL_RANK]} | PROJECTED | CONTROLS,
    ),
    "summary_writing": Summary(
        {
            "a watermark, photos": WATERMARK,
            "watermarks that no exemplar shows": Row("watermark", metric="restored", split="unseen marks"),
            'an "iPod" sticker, rendered': STICKER,
            "words that no exemplar shows": Row("typographic_mini", metric="attacks corrected", split="other words"),
        },
        EDIT_ALONE | {SEVERAL: [SEVERAL]} | PROJECTED | CONTROLS | {"blurred, its position given": BLURRED},
    ),
    "summary_concepts": Summary(
        {
            "concepts replaced, photos": Row("synthetic_lite", split="other classes, same style"),
            "concepts replaced, rendered": Row("synthetic_mini", split="other classes, same style"),
        },
        EDIT_ALONE | PROJECTED | CONTROLS,
    ),
}
"""The tables of the pages that answer one question each, and that of README."""


def summary(name: str) -> str:
    """Write errors corrected by the methods that matter, and what the edit costs; a dash for what was not measured."""
    rows = []
    for title, one in SUMMARIES[name].rows.items():
        table = main_rows(one)
        share = shares(table, one.metric, one.split)
        row = {"errors corrected": title}
        for column, methods in SUMMARIES[name].columns.items():
            shown = best_finetuning(table, one) if column == TUNED else methods
            method = next((method for method in shown if method in share.index), None)
            row[column] = "–" if method is None else share[method].replace(", ", NARROW)
        change = cells(table, "accuracy change", "clean_test", interval=False)
        rows.append(row | {"accuracy with the edit, points": change[EDIT]})
    return markdown(dict(pd.DataFrame(rows).items()))


def main_rows(one: Row) -> pd.DataFrame:
    """Read a run without its conditions, of its network, or of all networks together where there are several.

    Several draws of the control are in the parts of the run.
    """
    table = pd.concat([read_results(part).assign(run=part) for part in (one.run, *DRAWS_OF.get(one.run, ()))])
    table = table[table.condition == ""]
    return table[table.network == one.network] if one.network else pooled(table)


DRAWS_OF = {"snow_mini": ("snow_mini_draws",)}
"""The files that hold further draws of the control of a run."""


def best_finetuning(table: pd.DataFrame, one: Row) -> list[str]:
    """Name the fine-tuning in competition, interpolated or not, that does best; none if none was measured."""
    known = values(table, one.metric, one.split)
    tuned = [method for method in known.index if "fine-tuning" in method]
    return [known[tuned].idxmax()] if tuned else []


# --- pages ---

TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n).*?\n*(<!-- end -->)", re.DOTALL)


def block(name: str) -> str:
    """Write the table of an experiment with its commands, or a summary."""
    if name in SUMMARIES:
        return summary(name)
    if name == shortcuts.__name__:
        return shortcuts()
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
        if other:
            raise SystemExit(f"{', '.join(other)}: not what results says, run python benchmarks/tables.py")
        return
    for path, text in pages().items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
