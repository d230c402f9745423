"""What the tables of the pages show: for each benchmark its columns, each a format of the figures in a row.

Formats are those of `str.format`, and four more: `%` and `n` are per cent with and without the sign, `%%` has one
digit, `+` is a change in points. A cell is empty where a figure of it is missing, and a column where all cells are.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

import numpy as np

Figures = dict[str, Any]

LEAST_CASES = 10
"""Intervals of fewer cases are not shown."""

METHODS = {
    "editing": "**edit, one exemplar**",
    "untuned": "edit, nothing tuned",
    "editing_several": "edit, several exemplars",
    "two_layers": "edit of two layers",
    "finetune_local": "local fine-tuning, one exemplar",
    "finetune_local_several": "local fine-tuning, several",
    "finetune_global": "global fine-tuning, one exemplar",
    "finetune_global_several": "global fine-tuning, several",
    "random_direction": "random direction, one exemplar",
    "random_direction_several": "random direction, several",
    "interpolated_local": "local fine-tuning, interpolated",
    "interpolated_global": "global fine-tuning, interpolated",
    "projection": "concept projection",
    "reactive": "gated projection, after R-ClArC",
    "null_space": "null-space rewriting",
    "closed_form": "full closed form",
    "last_layer": "last layer retrained",
    "logit_correction": "logit correction",
    "text_blurred": "word blurred, its place given",
    "mark_blurred": "mark blurred, its place given",
    "mark_inpainted": "mark inpainted, its place given",
}

REPORTED = {
    "success": "{success:%}",
    "generalisation": "{share:%} [{low:n}, {high:n}]",
    "locality": "{locality:%} of {near:g}",
    "of the nearest": "{locality_nearest:%} of {nearest:g}",
}
SNOW = {
    "errors corrected": "{errors_corrected:%} [{errors_corrected_interval[0]:n}, {errors_corrected_interval[1]:n}]",
    "corrected / broken": "{corrected} / {broken}",
    "accuracy": "{accuracy_change_points_held_out:+} [{accuracy_change_points_held_out_interval[0]:+}, "
    "{accuracy_change_points_held_out_interval[1]:+}]",
    "must stay, errors": "{keep_errors_before:g} → {keep_errors_after:g}",
    "changed elsewhere": "{changed_elsewhere:%%}",
    "p against the edit": "{p_holm:.2g}",
    "candidates": "{trials}",
}
RANDOM = {
    "seed": "{seed}",
    "errors corrected": "{errors corrected:%} [{low:n}, {high:n}]",
    "corrected / broken": "{corrected} / {broken}",
    "accuracy": "{accuracy:+}",
    "must stay, errors": "{retained_before} → {retained_after}",
    "candidates": "{candidates}",
}
WATERMARK = {
    "restored": "{share_restored:%} [{share_restored_interval[0]:n}, {share_restored_interval[1]:n}]",
    "restored, marks never shown": "{share_restored_unseen_marks:%} [{share_restored_unseen_marks_interval[0]:n}, "
    "{share_restored_unseen_marks_interval[1]:n}]",
    "of all errors": "{share_of_all_errors:%}",
    "corrected / broken": "{corrected} / {broken}",
    "accuracy": "{accuracy_change_points_held_out:+} [{accuracy_change_points_held_out_interval[0]:+}, "
    "{accuracy_change_points_held_out_interval[1]:+}]",
    "the exemplar right": "{success:%}",
    "p against the edit": "{p_holm:.2g}",
    "candidates": "{trials}",
}
TYPOGRAPHIC = {
    "errors corrected": "{errors_corrected:%} [{errors_corrected_interval[0]:n}, {errors_corrected_interval[1]:n}]",
    "corrected / broken": "{corrected} / {broken}",
    "fixed of 'iPod' predictions": "{attacks_fixed:%} [{attacks_fixed_low:n}, {attacks_fixed_high:n}]",
    "still read as iPod": "{attack_success_after:%%}",
    "other words fixed": "{other_words_fixed:%}",
    "accuracy": "{clean_accuracy_change_points:+} [{clean_accuracy_change_points_interval[0]:+}, "
    "{clean_accuracy_change_points_interval[1]:+}]",
    "real iPods right": "{real_ipod_accuracy_after:%%}",
    "handwritten": "{paper_photos_ipod_accuracy_after:%}",
    "candidates": "{trials}",
}
SYNTHETIC = {
    f"other classes, {style} style": "{other S[0]:%} [{other S[1]:n}, {other S[2]:n}]".replace("S", key)
    for key, style in {"same": "same", "held out": "held-out"}.items()
}
TARGET = {"target class": "{target same[0]:%} [{target same[1]:n}, {target same[2]:n}]"}
PRICE = {"accuracy, points": "{accuracy_change_points:+}", "candidates": "{candidates}"}
CURE = {
    "errors corrected": "{errors corrected:%} [{low:n}, {high:n}]",
    "corrected / broken": "{corrected:.0f} / {broken:.0f}",
    "probability": "{probed changed:+} [{probed low:+}, {probed high:+}] / {probed untouched:+}",
    "accuracy": "{clean change:+} [{clean low:+}, {clean high:+}]",
    "must stay, errors": "{keep_report before:.0f} → {keep_report after:.0f}",
    "changed elsewhere": "{elsewhere change:+}",
    "candidates": "{trials}",
}
REPAIR = {
    "held out, corrected / broken": "{corrected} / {broken} of {failing}",
    "share": "{share:%} [{low:n}, {high:n}]",
    "p, not corrected": "{p:.2g}",
    "accuracy": "{accuracy change:+} [{accuracy low:+}, {accuracy high:+}]",
    "must stay, broken": "{kept broken:.0f} of {kept:.0f}",
    "candidates": "{trials}",
}
ROBUSTNESS = {
    "error rate, corrupted": "{corrupted:%%}",
    "accuracy, clean": "{accuracy:%%}",
    "errors with the concept": "{concept errors:%%}",
    "candidates": "{candidates}",
}
MANY_EDITS = {
    "way": "{how}",
    "rules": "{rules}",
    "errors corrected": "{share:%} [{low:n}, {high:n}]",
    "corrected / broken": "{corrected} / {broken} of {errors}",
    "single edits' still right": "{left:%} of {alone}",
    "accuracy": "{clean change:+} [{clean low:+}, {clean high:+}]",
    "must stay, broken": "{kept broken:%%} of {kept}",
}
PROBING = {
    "rules planted / found": "{rules_planted} / {rules_found}",
    "precision, recall": "{precision:.2f}, {recall:.2f}",
    "rules shown exactly": "{rules_exact}",
    "precision, recall against these": "{precision_exact:.2f}, {recall_exact:.2f}",
    "correlation of effects": "{correlation_with_exact:.2f}",
    "found where none were planted": "{rules_found_in_balanced_model}",
}
FINDERS = {
    "finder": "{finder}",
    "concept": "{concept}",
    "IoU where shown, mean (median)": "{IoU:.2f} ({median:.2f})",
    "photos that show it": "{photos}",
    "seen in": "{seen}",
    "precision, recall": "{precision:.2f}, {recall:.2f}",
}
WOKEN = {
    "rules before": "{rules}",
    "still there": "{still there}",
    "woken": "{woken}",
    "effect of the edited concept": "{effect before:.2f} → {effect after:.2f}",
    "effects of others moved": "{others moved:+} [{low:+}, {high:+}]",
    "largest rise": "{largest rise:+}",
    "candidates": "{candidates}",
}
REHEARSAL = {
    "model": "{model}",
    "story": "{story}",
    "rehearsal": "{outcome}",
    "seconds": "{seconds:.0f}",
}
SPEED = {
    "L1 over Λ alone, times faster than training the weight for 20,000 steps": "{l1_time_ratio:,.0f}",
    "its loss, and that of the trained weight after projection": "{l1_loss:.3f}, {naive_loss_projected:.3f}",
    "least squares, times faster": "{least_squares_time_ratio:,.0f}",
    "L1 to that loss at no larger movement of reference keys, times faster": "{l1_time_ratio_equal_movement:,.0f}",
    "least squares to that loss, the same": "{least_squares_time_ratio_equal_movement:,.0f}",
    "L1 to the lowest loss on the way of the training, the same": "{l1_time_ratio_lowest:,.0f}",
    "least squares to the lowest loss, the same": "{least_squares_time_ratio_lowest:,.0f}",
    "second moment, times faster than materialised outer products": "{second_moment_time_ratio:.0f}",
    "one more edit over cached states, of a forward pass": "{suffix_time_fraction:.3f}",
}


class _Cells(Formatter):
    """Format the figures of a row; what is missing or unknown raises `KeyError`, a ratio of nothing is a dash."""

    def format_field(self, value: Any, spec: str) -> str:
        if value is None:
            raise KeyError("unknown")
        if value != value:
            return "–"
        shares = {"%": "{:.0f} %", "n": "{:.0f}", "%%": "{:.1f} %"}
        said = shares[spec].format(100 * value) if spec in shares else format(value, "+.2f" if spec == "+" else spec)
        return said.replace("-", "−") if spec == "+" or spec in shares else said


def cell(text: str, row: Figures) -> str:
    """Fill a format with the figures of a row; empty where one is missing."""
    try:
        return _Cells().vformat(text, (), row)
    except KeyError:
        return ""


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table of a head and rows of cells."""
    lines = [" | ".join(row) for row in (list(head), *rows)]
    rule = "|" + " --- |" * (lines[0].count(" | ") + 1)
    return "\n".join([f"| {lines[0]} |", rule, *(f"| {line} |" for line in lines[1:])])


def table(columns: Mapping[str, str], rows: Iterable[Figures], sample: str = "", sampled: Collection[str] = ()) -> str:
    """Return a Markdown table.

    Args:
        columns: formats by title; columns that no row can fill are left out.
        rows: figures.
        sample: the figure that counts a row's cases.
        sampled: titles of the columns whose intervals are over these cases; rows of fewer than `LEAST_CASES` get none.
    """
    cells = []
    for row in rows:
        hidden = sampled if sample and row[sample] < LEAST_CASES else ()
        texts = {title: without_interval(text) if title in hidden else text for title, text in columns.items()}
        cells.append({title: cell(text, row) for title, text in texts.items()})
    known = [title for title in columns if any(row[title] for row in cells)]
    return markdown(known, ([row[title] for title in known] for row in cells))


def without_interval(text: str) -> str:
    """Remove the interval from the format of a column."""
    return text.partition(" [{")[0]


def by_method(columns: Mapping[str, str], methods: Mapping[str, Figures]) -> str:
    """Return a Markdown table with one row per method; its p-values against the edit are corrected for their number."""
    compared = {
        name: one["p_against_edit"]
        for name, one in methods.items()
        if name != "editing" and one.get("p_against_edit") is not None
    }
    corrected = dict(zip(compared, holm(list(compared.values())), strict=True))
    rows = []
    for name, one in methods.items():
        rows.append(one | {"method": METHODS.get(name, name), "p_holm": corrected.get(name)})
    return table({"method": "{method}", **columns}, rows)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's step-down method: the family-wise error rate is controlled."""
    p_sorted = np.sort(p_values)
    remaining = np.arange(len(p_sorted), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(remaining * p_sorted), 1.0)
    return [float(adjusted[place]) for place in np.argsort(np.argsort(p_values, kind="stable"))]
