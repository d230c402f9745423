"""The tables of docs/results.md, from what the benchmarks wrote.

    python benchmarks/snow_miniworld.py --output docs/results/snow_miniworld.json
    python benchmarks/tables.py            writes docs/results.md and the table of README.md
    python benchmarks/tables.py --check    fails where a page is not what the files say

Each file in docs/results holds the line that one benchmark printed, with its day and its call. The words around the
tables stand in docs/results/page.md, where `{{name}}` is the table of the file of that name.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edittools.images import atomic_path

FOLDER = Path(__file__).resolve().parent.parent / "docs"
METHODS = {
    "editing": "**edit, one exemplar**", "untuned": "edit, nothing tuned", "editing_several": "edit, several exemplars",
    "two_layers": "edit of two layers", "finetune_local": "local fine-tuning, one exemplar",
    "finetune_local_several": "local fine-tuning, several", "finetune_global": "global fine-tuning, one exemplar",
    "finetune_global_several": "global fine-tuning, several", "random_direction": "random direction, one exemplar",
    "random_direction_several": "random direction, several", "interpolated_local": "local fine-tuning, interpolated",
    "interpolated_global": "global fine-tuning, interpolated", "projection": "concept projection",
    "null_space": "null-space rewriting", "closed_form": "full closed form", "last_layer": "last layer retrained",
    "logit_correction": "logit correction",
}  # fmt: skip
Figures = dict[str, Any]


def points(value: float) -> str:
    """An accuracy change in points."""
    return f"{value:+.2f}".replace("-", "−")


def share(value: float, low: float, high: float, signed: bool = False) -> str:
    """A share in per cent, with its interval."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.0f} % [{100 * low:{sign}.0f}, {100 * high:{sign}.0f}]".replace("-", "−")


def lines(found: Figures) -> dict[str, Figures]:
    """The figures by method: the edit's stand at the top of what a benchmark writes, the others by name."""
    return {"editing": found} | {name: figure for name, figure in found.items() if name in METHODS}


def table(rows: dict[str, dict[str, str]]) -> str:
    """A Markdown table with a row for each method."""
    columns = list(next(iter(rows.values())))
    head = [f"| method | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    return "\n".join([*head, *(f"| {METHODS.get(n, n)} | {' | '.join(row.values())} |" for n, row in rows.items())])


def snow(found: Figures) -> str:
    """Vehicles on snow."""
    rows = {}
    for name, one in lines(found).items():
        least, most = one["accuracy_change_points_held_out_interval"]
        rows[name] = {
            "corrected / broken": f"{one['corrected']} / {one['broken']}",
            "errors corrected": share(one["errors_corrected"], *one["errors_corrected_interval"]),
            "p": f"{one['p']:.2g}",
            "accuracy: budget": points(one["accuracy_change_points_budget"]),
            "held out": f"{points(one['accuracy_change_points_held_out'])} [{points(least)}, {points(most)}]",
            "kept report, errors": f"{one['keep_errors_before']} → {one['keep_errors_after']}",
            "trials": f"{one['trials']}",
            "seconds": f"{one['choice_seconds']:.0f}",
            "p against the edit": f"{one['p_against_edit']:.2g}" if name != "editing" else "",
            "chosen": one["chosen"],
        }
    return table(rows)


def typographic(found: Figures) -> str:
    """Typographic attacks."""
    rows, before = {}, found["attack_success_before"]
    for name, one in lines(found).items():
        least, most = one["clean_accuracy_change_points_interval"]
        rows[name] = {
            "read as iPod": f"{100 * before:.1f} % → {100 * one['attack_success_after']:.1f} %",
            "fixed": share(one["attacks_fixed"], one["attacks_fixed_low"], one["attacks_fixed_high"]),
            "other words fixed": f"{100 * one['other_words_fixed']:.0f} %",
            "accuracy: budget": points(one["clean_accuracy_change_points_budget"]),
            "held out": f"{points(one['clean_accuracy_change_points'])} [{points(least)}, {points(most)}]",
            "real iPods right": f"{100 * one['real_ipod_accuracy_after']:.1f} %",
        }
        if "paper_photos_right_ipod" in one:
            rows[name]["handwritten"] = f"{one['paper_photos_right_ipod']} of 6"
        rows[name] |= {"trials": f"{one['trials']}", "chosen": one["chosen"]}
    return table(rows)


def synthetic(found: Figures) -> str:
    """The synthetic benchmark."""
    names = {"other same": "other classes, same style", "other held out": "other classes, held-out style",
             "target same": "target class"}  # fmt: skip
    rows = {
        method: {title: share(*one[name]) for name, title in names.items()}
        | {"accuracy, points": points(one["accuracy_change_points"])}
        for method, one in found["methods"].items()
    }
    return table(rows)


def cure(found: Figures) -> str:
    """From a found rule to its cure."""
    rows = {}
    for name, one in lines(found).items():
        low, high = points(one["probed low"]), points(one["probed high"])
        rows[name] = {
            "corrected / broken": f"{one['corrected']:.0f} / {one['broken']:.0f}",
            "errors corrected": share(one["errors corrected"], one["low"], one["high"]),
            "p": f"{one['p']:.2g}",
            "probability": f"{points(one['probed changed'])} [{low}, {high}] / {points(one['probed untouched'])}",
            "accuracy: budget": points(one["budget change"]),
            "held out": f"{points(one['clean change'])} [{points(one['clean low'])}, {points(one['clean high'])}]",
            "show the material, errors": f"{one['keep_report before']:.0f} → {one['keep_report after']:.0f}",
            "trials": f"{one['trials']}",
            "chosen": one["chosen"],
        }
    return table(rows)


def probing(found: Figures) -> str:
    """Rules found against those planted, and against those that painting again shows."""
    rows = [
        ("rules planted / found", f"{found['rules_planted']} / {found['rules_found']}"),
        ("precision, recall against what was planted", f"{found['precision']:.2f}, {found['recall']:.2f}"),
        ("rules shown when scenes are painted again", f"{found['rules_exact']}"),
        ("precision, recall against these", f"{found['precision_exact']:.2f}, {found['recall_exact']:.2f}"),
        ("correlation of effects with the exact ones", f"{found['correlation_with_exact']:.2f}"),
        ("rules found in the network trained without them", f"{found['rules_found_in_balanced_model']}"),
    ]
    return "\n".join(["| what | figure |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def robustness(found: Figures) -> str:
    """Mean error rates on corrupted copies of clean images."""
    means = found["corrupted_error_rate"]
    rows = [f"| {name} | {100 * value:.1f} % |" for name, value in means.items()]
    return "\n".join(["| edit | mean error rate, six corruptions at three severities |", "| --- | --- |", *rows])


def repair(found: Figures) -> str:
    """What one call finds."""
    rows = {}
    for name, one in found["methods"].items():
        least, most = one["accuracy low"], one["accuracy high"]
        rows[name] = {
            "held out, corrected / broken": f"{one['corrected']} / {one['broken']} of {one['failing']}",
            "share": share(one["share"], one["low"], one["high"]),
            "p": f"{one['p']:.2g}",
            "accuracy": f"{points(one['accuracy change'])} [{points(least)}, {points(most)}]",
            "kept broken": f"{one['kept broken']:.0f} of {one['kept']:.0f}",
            "trials": f"{one['trials']}",
        }
    words = "\n".join(f"> {line}" for line in found["verdict"].splitlines())
    test = share(found["test_errors_corrected"], *found["test_errors_corrected_interval"])
    return f"{words}\n\n{table(rows)}\n\nThe edit on all test images of the story: {test} of their errors corrected."


def spread(found: Figures) -> str:
    """How much the exemplar and the seed matter."""
    rows = {}
    for name, one in found["methods"].items():
        mine = [row for row in found["rows"] if row["method"] == name]
        rows[name] = {
            "errors corrected, mean ± deviation": f"{100 * one['share mean']:.0f} ± {100 * one['share std']:.0f} %",
            "least, most": f"{100 * one['share min']:.0f}, {100 * one['share max']:.0f} %",
            "held out, mean, least": f"{points(one['held out mean'])}, {points(one['held out min'])}",
            "kept broken, mean, most": f"{one['keep broken mean']:.1f}, {one['keep broken max']:.0f}",
            "seconds": f"{one['seconds mean']:.0f}",
            "runs": f"{len(mine)}",
        }
    return table(rows)


def edit_speed(found: Figures) -> str:
    """The solvers against training the full weight, and one more edit against a forward pass."""
    rows = [
        ("L1 over Λ alone, times faster than training the weight for 20,000 steps", f"{found['l1_time_ratio']:,.0f}"),
        ("its loss, and that of the trained weight after projection",
         f"{found['l1_loss']:.3f}, {found['naive_loss_projected']:.3f}"),
        ("least squares, times faster", f"{found['least_squares_time_ratio']:,.0f}"),
        ("second moment, times faster than materialised outer products", f"{found['second_moment_time_ratio']:.0f}"),
        ("one more edit over cached states, of a forward pass", f"{found['suffix_time_fraction']:.3f}"),
    ]  # fmt: skip
    return "\n".join(["| what | ratio |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


KINDS = {
    "snow": snow, "typographic": typographic, "synthetic": synthetic, "cure": cure, "probing": probing,
    "robustness": robustness, "repair": repair, "spread": spread,
    "edit_speed": edit_speed,
}  # fmt: skip


def headline() -> str:
    """The table of README: a row for each story, the edit of one exemplar beside the best fine-tuning and chance."""
    head = ["story", "misread", "edit, one exemplar", "best fine-tuning", "random direction", "what the edit cost"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, (title, read) in STORIES.items():
        path = FOLDER / "results" / f"{name}.json"
        if path.exists():
            rows.append(f"| {title} | " + " | ".join(read(json.loads(path.read_text()))) + " |")
    return "\n".join(rows)


def _beside(found: Figures, fixed: Callable[[Figures], tuple[float, float, float]]) -> list[str]:
    """The shares of the edit, of the fine-tuning that corrects most, and of the random direction."""
    methods = {name: fixed(one) for name, one in lines(found).items()}
    tuned = max((value for name, value in methods.items() if name.startswith("finetune")), key=lambda value: value[0])
    return [share(*value) for value in (methods["editing"], tuned, methods["random_direction"])]


def _of_snow(found: Figures) -> list[str]:
    costs = found["keep_errors_before"], found["keep_errors_after"]
    return [
        f"{found['errors_before']}",
        *_beside(found, lambda one: (one["errors_corrected"], *one["errors_corrected_interval"])),
        f"{points(found['accuracy_change_points_held_out'])} points; live on snow {costs[0]} → {costs[1]} errors",
    ]


def _of_attacks(found: Figures) -> list[str]:
    fixed = ("attacks_fixed", "attacks_fixed_low", "attacks_fixed_high")
    return [
        f"{found['attacked']}",
        *_beside(found, lambda one: tuple(one[name] for name in fixed)),
        f"{points(found['clean_accuracy_change_points'])} points; real iPods right "
        f"{100 * found['real_ipod_accuracy_before']:.0f} → {100 * found['real_ipod_accuracy_after']:.0f} %",
    ]


def _of_cases(found: Figures) -> list[str]:
    methods, of = found["methods"], "other same"
    tuned = max((m for m in methods if "fine-tuning" in m or "locality" in m), key=lambda m: methods[m][of][0])
    shown = [share(*methods[name][of]) for name in ("editing", tuned, "random direction")]
    return [f"{found['cases']} cases", *shown, f"{points(methods['editing']['accuracy_change_points'])} points"]


def _of_cure(found: Figures) -> list[str]:
    costs = found["keep_report before"], found["keep_report after"]
    return [
        f"{found['errors before']:.0f}",
        *_beside(found, lambda one: (one["errors corrected"], one["low"], one["high"])),
        f"{points(found['clean change'])} points; show the material {costs[0]:.0f} → {costs[1]:.0f} errors",
    ]


STORIES = {
    "snow_miniworld": ("vehicles on snow, MiniWorld", _of_snow),
    "snow_photos": ("vehicles on snow, photographs", _of_snow),
    "typographic_miniworld": ('an "iPod" label, MiniWorld', _of_attacks),
    "synthetic_miniworld": ("concepts × styles, MiniWorld", _of_cases),
    "cure_miniworld": ("a rule that a probe found, MiniWorld", _of_cure),
}
START, END = "<!-- table: python benchmarks/tables.py -->\n\n", "\n\n<!-- end -->"


def page() -> str:
    """The whole page: the words, and where they name a file, its table with its call and day."""

    def filled(match: re.Match) -> str:
        found = json.loads((FOLDER / "results" / f"{match[1]}.json").read_text())
        kind = next(name for name in KINDS if match[1].startswith(name))
        said = f"`{found['call']}`, {found['date']}"
        said += f", {found['seconds']:.0f} s" if "seconds" in found else ""
        said += f"; {found['budget']}." if "budget" in found else "."
        return f"{said}\n\n{KINDS[kind](found)}"

    return re.sub(r"\{\{(\w+)\}\}", filled, (FOLDER / "results" / "page.md").read_text())


def readme() -> str:
    """README with its table."""
    text = (FOLDER.parent / "README.md").read_text()
    before, rest = text.split(START)
    return before + START + headline() + END + rest.split(END, 1)[1]


def main() -> None:
    """Write the pages, or check that they are written."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="only compare the pages with the files")
    check = arguments.parse_args().check
    pages = {FOLDER / "results.md": page(), FOLDER.parent / "README.md": readme()}
    if check:
        stale = [path.name for path, text in pages.items() if path.read_text() != text]
        if stale:
            raise SystemExit(f"{', '.join(stale)}: not what docs/results says, run python benchmarks/tables.py")
        return
    for path, text in pages.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
