"""The tables of docs/results.md, from what the benchmarks wrote.

    python benchmarks/snow_miniworld.py --output docs/results/snow_miniworld.json
    python benchmarks/tables.py            writes docs/results.md, its picture, the tables of README.md and tiers.md
    python benchmarks/tables.py --check    fails where a page or the picture is not what the files say

Each file in docs/results holds the line that one benchmark printed, with its day and its call. The words around the
tables stand in docs/results/page.md, where `{{name}}` is the table of the file of that name.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from hashlib import sha1
from itertools import product
from pathlib import Path
from typing import Any

import network_tables
import tier_tables
from PIL import Image
from table_cells import Figures, markdown, points, share

from edittools.images import atomic_path

FOLDER = Path(__file__).resolve().parent.parent / "docs"
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
    "null_space": "null-space rewriting",
    "closed_form": "full closed form",
    "last_layer": "last layer retrained",
    "logit_correction": "logit correction",
    "in_turn": "edits of several layers in turn",
    "finetune_local_locality": "local fine-tuning with locality",
    "finetune_global_locality": "global fine-tuning with locality",
    "mirrored": "read with its mirror image",
    "text_blurred": "word blurred, its place given",
}


def lines(found: Figures) -> dict[str, Figures]:
    """The figures by method: the edit's stand at the top of what a benchmark writes, the others by name."""
    return {"editing": found} | {name: figure for name, figure in found.items() if name in METHODS}


def table(rows: dict[str, dict[str, str]]) -> str:
    """A Markdown table with a row for each method."""
    named = ((METHODS.get(name, name), *row.values()) for name, row in rows.items())
    return markdown(("method", *next(iter(rows.values()))), named)


def snow(found: Figures) -> str:
    """Vehicles on snow; of several networks together, then network by network."""
    if "networks" not in found:
        return _snow(found)
    rows: dict[str, dict[str, str]] = {}
    for network, methods in found["networks"].items():
        for name, one in methods.items():
            change = points(one["accuracy_change_points_held_out"])
            said = f"{one['corrected']} / {one['broken']} of {one['errors_before']}, {change}"
            said += f", {one['choices']} of {found['folds']}" if "folds" in found else ""
            rows.setdefault(name, dict.fromkeys(found["networks"], "no such layer"))[network] = said
    chosen = "\n".join(f"- {name}: {methods['editing']['chosen']}" for name, methods in found["networks"].items())
    title = "By network, corrected / broken of all errors and the accuracy held out, in points"
    title += ", and how many different choices the folds made:" if "folds" in found else ":"
    return f"{_snow(found)}\n\n{title}\n\n{table(rows)}\n\nThe edits of one exemplar:\n\n{chosen}"


def _snow(found: Figures) -> str:
    rows = {}
    for name, one in lines(found).items():
        least, most = one["accuracy_change_points_held_out_interval"]
        rows[name] = {
            "corrected / broken": f"{one['corrected']} / {one['broken']}",
            "errors corrected": share(one["errors_corrected"], *one["errors_corrected_interval"]),
            "p": f"{one['p']:.2g}",
            "accuracy: budget": points(one["accuracy_change_points_budget"]),
            "held out": f"{points(one['accuracy_change_points_held_out'])} [{points(least)}, {points(most)}]",
            "kept report, errors": f"{one['keep_errors_before']:g} → {one['keep_errors_after']:g}",
            "trials": f"{one['trials']}",
            "seconds": f"{one['choice_seconds']:.0f}",
            "p against the edit": f"{one['p_against_edit']:.2g}" if name != "editing" else "",
            **({"chosen": one["chosen"]} if "chosen" in one else {}),
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
            rows[name]["handwritten"] = f"{one['paper_photos_right_ipod']} of {found['paper_photos']}"
        if "rta_photos" in found:
            rows[name] |= _of_written(one)
        rows[name] |= {"trials": f"{one['trials']}", "chosen": one["chosen"]}
    return table(rows)


def _of_written(one: Figures) -> dict[str, str]:
    """What became of RTA-100's photos: attacks read as their word, objects read rightly while that is no choice."""
    titles = {"attack_success": "RTA-100 read as the word", "right": "RTA-100's objects right"}
    shares = {
        title: f"{100 * one[f'rta_{name}_before']:.0f} % → {100 * one[f'rta_{name}_after']:.0f} %"
        for name, title in titles.items()
        if "rta_photos" in one
    }
    return dict.fromkeys(titles.values(), "not known") | shares


def synthetic(found: Figures) -> str:
    """The synthetic benchmark, by method or network by network."""
    if "networks" in found:
        return network_tables.synthetic(found)
    names = {"other same": "other classes, same style", "other held out": "other classes, held-out style"}
    names |= {"target same": "target class"}
    rows = {
        f"**{method}**" if method == "editing" else method: {title: share(*one[name]) for name, title in names.items()}
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
    """Rules found against those planted and those that painting again shows; effects where no rules are known."""
    if "effects" in found:
        return network_tables.probing_photos(found)
    if "networks" in found:
        return network_tables.probing_scored(found)
    rows = [
        ("rules planted / found", f"{found['rules_planted']} / {found['rules_found']}"),
        ("precision, recall against what was planted", f"{found['precision']:.2f}, {found['recall']:.2f}"),
        ("rules shown when scenes are painted again", f"{found['rules_exact']}"),
        ("precision, recall against these", f"{found['precision_exact']:.2f}, {found['recall_exact']:.2f}"),
        ("correlation of effects with the exact ones", f"{found['correlation_with_exact']:.2f}"),
        ("rules found in the network trained without them", f"{found['rules_found_in_balanced_model']}"),
    ]
    return markdown(("what", "figure"), rows)


def robustness(found: Figures) -> str:
    """Mean error rates on corrupted copies of clean images, beside accuracy and errors with the concept."""
    full = {one["method"]: one for one in found["curves"] if one["strength"] == 1}
    start = next(one for one in found["curves"] if one["strength"] == 0)
    rows = {}
    for name, value in found["corrupted_error_rate"].items():
        one = full.get(name, start)
        shown = [f"{100 * part:.1f} %" for part in (value, one["accuracy"], one["concept errors"])]
        rows[name] = dict(
            zip(("error rate, corrupted", "accuracy, clean", "errors with the concept"), shown, strict=True)
        )
        if "chosen" in found:
            rows[name]["chosen"] = found["chosen"].get(name, "")
    return table(rows)


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


def many_exemplars(found: Figures) -> str:
    """Balanced and natural accuracy by method, a pair of columns for each number of exemplars."""
    rows: dict[str, dict[str, str]] = {}
    for one in found["rows"]:
        seen = f"{one['balanced_accuracy']:.1f} / {one['natural_accuracy']:.1f}, {one['seconds']:.0f} s"
        rows.setdefault(one["method"], {})[f"{one['exemplars']:,}"] = seen
        rows[one["method"]]["trials each"] = f"{one['trials']}"
    counts = [*dict.fromkeys(f"{one['exemplars']:,}" for one in found["rows"]), "trials each"]
    before = f"{found['balanced_accuracy_before']:.1f} / {found['natural_accuracy_before']:.1f}"
    named = {"editing": "**edit of one layer**", "random_direction": "random direction"}
    body = table({named.get(name, name): {count: row.get(count, "") for count in counts} for name, row in rows.items()})
    words = "Accuracy (%) on balanced / on natural test scenes, and seconds, by number of exemplars."
    return f"{words} Without an edit {before}; natural accuracy may cost {found['budget_points']:g} points.\n\n{body}"


def many_edits(found: Figures) -> str:
    """Edits of several rules, added up and one on top of the other."""
    rows = [
        {
            "way": one["how"],
            "rules": f"{one['rules']}",
            "edits": f"{one['edits']}",
            "corrected / broken": f"{one['corrected']} / {one['broken']} of {one['errors']}",
            "errors corrected": share(one["share"], one["low"], one["high"]),
            "single edits' still right": f"{100 * one['left']:.0f} % of {one['alone']}",
            "rules below half": f"{one['below half']}",
            "accuracy: budget": points(one["budget change"]),
            "held out": f"{points(one['clean change'])} [{points(one['clean low'])}, {points(one['clean high'])}]",
            "kept report broken": f"{100 * one['kept broken']:.1f} % of {one['kept']}",
        }
        for one in found["steps"]
    ]
    return markdown(rows[0], (row.values() for row in rows))


def terms(found: Figures) -> str:
    """What an edit spares, by the terms of `rewrite`: a row for each set, for chosen edits and for single ones."""
    by_terms: dict[str, list[Figures]] = {}
    for one in found["rows"]:
        named = f"{one['reference_weight']:g} | {one['keep_share']:g} | {one['keep_weight']:g}"
        by_terms.setdefault(named, []).append(one)
    stories = [f"{one['story']} ({one['errors']} errors)" for one in next(iter(by_terms.values()))]
    chosen = _by_terms(by_terms, stories, lambda one: (one["net share"],))
    both = ("single net share", "single kept broken share")
    single = _by_terms(by_terms, stories, lambda one: [one[name] or 0 for name in both])
    return (
        f"Chosen within the bounds, net share:\n\n{chosen}\n\nSingle edits, net share / kept images broken:\n\n{single}"
    )


def _by_terms(
    by_terms: dict[str, list[Figures]], stories: Sequence[str], read: Callable[[Figures], Sequence[float]]
) -> str:
    """A row for each set of terms: what is read of each story, in percent, and the mean over stories."""
    rows = []
    for named, found in by_terms.items():
        values = [read(one) for one in found]
        values.append([sum(column) / len(column) for column in zip(*values, strict=True)])
        rows.append((*named.split(" | "), *(" / ".join(f"{100 * v:.0f}" for v in value) + " %" for value in values)))
    return markdown(("λ", "share", "μ", *stories, "mean"), rows)


def edit_speed(found: Figures) -> str:
    """The solvers against training the full weight, and one more edit against a forward pass."""
    losses = f"{found['l1_loss']:.3f}, {found['naive_loss_projected']:.3f}"
    rows = [
        ("L1 over Λ alone, times faster than training the weight for 20,000 steps", f"{found['l1_time_ratio']:,.0f}"),
        ("its loss, and that of the trained weight after projection", losses),
        ("least squares, times faster", f"{found['least_squares_time_ratio']:,.0f}"),
        ("second moment, times faster than materialised outer products", f"{found['second_moment_time_ratio']:.0f}"),
        ("one more edit over cached states, of a forward pass", f"{found['suffix_time_fraction']:.3f}"),
    ]
    for target, words in {"equal_movement": "that loss", "lowest": "the lowest loss on its way"}.items():
        for name, title in {"l1": "L1", "least_squares": "least squares"}.items():
            if f"{name}_time_ratio_{target}" in found:
                rows.insert(-2, _at_equal_movement(found, name, title, target, words))
    return markdown(("what", "ratio"), rows)


def _at_equal_movement(found: Figures, name: str, title: str, target: str, words: str) -> tuple[str, str]:
    """A row of `edit_speed`: how much faster a solver reaches a loss of the naive one."""
    ratio, most = found[f"{name}_time_ratio_{target}"], found[f"naive_movement_{target}"]
    steps = f", {found['naive_steps_to_lowest']:,} steps" if target == "lowest" else ""
    said = f"{title} to {words} ({found[f'naive_loss_{target}']:.3f}{steps}) at no larger movement of reference keys"
    if ratio is None:
        return f"{said} ({most:.2g})", "not reached"
    return f"{said} ({found[f'{name}_movement_{target}']:.2g} and {most:.2g}), times faster", f"{ratio:,.0f}"


_TABLES = (snow, typographic, synthetic, cure, probing, robustness, repair, spread, many_edits, many_exemplars, terms)
KINDS = {one.__name__: one for one in (*_TABLES, edit_speed, network_tables.style_transfer, network_tables.layers)}


def headline() -> str:
    """The table of README: a row for each story, the edit of one exemplar beside the best fine-tuning and chance."""
    head = ["story", "misread", "edit, one exemplar", "best fine-tuning", "random direction", "what the edit cost"]
    known = ((title, read, read_results(name)) for name, (title, read) in STORIES.items())
    return markdown(head, ((title, *read(found)) for title, read, found in known if found))


def _beside(found: Figures, fixed: Callable[[Figures], tuple[float, float, float]]) -> list[str]:
    """The shares of the edit, of the best fine-tuning, interpolated or not, and of the random direction."""
    methods = {name: fixed(one) for name, one in lines(found).items()}
    tunings = [value for name, value in methods.items() if name.startswith(("finetune", "interpolated"))]
    tuned = max(tunings, key=lambda value: value[0])
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
    names = ("editing", network_tables.best_finetuning(methods), "random direction")
    shown = [share(*methods[name][of]) for name in names]
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
    "synthetic_photos": ("concepts × styles, photographs", _of_cases),
    "cure_miniworld": ("a rule that a probe found, MiniWorld", _of_cure),
}
DOTS = {  # what the picture shows, by its name there: its names in the files
    "edit, one exemplar": ("editing",),
    "local fine-tuning": ("finetune_local", "local, locality"),
    "global fine-tuning": ("finetune_global", "global, locality"),
    "local, interpolated": ("interpolated_local",),
    "global, interpolated": ("interpolated_global",),
    "concept projection": ("projection",),
    "null-space rewriting": ("null_space", "null space"),
    "full closed form": ("closed_form", "closed form"),
    "last layer retrained": ("last_layer", "last layer"),
    "logit correction": ("logit_correction", "logit correction"),
    "random direction": ("random_direction", "random direction"),
}
TITLES = {"snow": "vehicles\non snow", "typographic": "an iPod label"}
TITLES |= {"synthetic": "concepts\n× styles", "cure": "a rule that\na probe found"}
PICTURE = FOLDER / "results.png"


def _of_picture(kind: str, one: Figures) -> tuple[list[float], float, float]:
    """Of a method: the share corrected with its interval, accuracy held out and kept in points, NaN for unknown."""
    if kind == "snow":
        kept = 100 * (one["keep_errors_before"] - one["keep_errors_after"]) / one["keep_images"]
        shares = [one["errors_corrected"], *one["errors_corrected_interval"]]
        return shares, one["accuracy_change_points_held_out"], kept
    if kind == "typographic":
        kept = 100 * (one["real_ipod_accuracy_after"] - one["real_ipod_accuracy_before"])
        shares = [one[name] for name in ("attacks_fixed", "attacks_fixed_low", "attacks_fixed_high")]
        return shares, one["clean_accuracy_change_points"], kept
    if kind == "cure":
        return [one[n] for n in ("errors corrected", "low", "high")], one["clean change"], one["keep_report change"]
    return one["other same"], one["accuracy_change_points"], float("nan")


def read_results(name: str) -> Figures:
    """What a benchmark wrote to the file of this name, nothing where there is no such file."""
    path = FOLDER / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def dots(read: Callable[[str], Figures] = read_results) -> list[dict[str, Any]]:
    """A row for each dot of the picture: story, method, share with its interval, and whether both bounds hold."""
    rows = []
    for (kind, title), (end, world) in product(TITLES.items(), {"miniworld": "MiniWorld", "photos": "photos"}.items()):
        found = read(f"{kind}_{end}")
        bare = {name: value for name, value in found.items() if name == "real_ipod_accuracy_before"}
        known = found.get("methods") or (lines(found) if found else {})
        for method, name in ((m, n) for m, names in DOTS.items() for n in names if n in known):
            (share, low, high), accuracy, kept = _of_picture(kind, bare | known[name])
            holds = "no" if accuracy < -0.25 or kept < -3 else "yes" if kept == kept else "unknown"
            dot = {"story": f"{title},\n{world}", "method": method, "share": share, "low": low, "high": high}
            rows.append(dot | {"holds": holds})
    return rows


def drawn(rows: list[dict[str, Any]]) -> str:
    """What the picture of these rows is marked with: a digest, since pixels differ between versions of matplotlib."""
    return sha1(json.dumps(rows).encode()).hexdigest()


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw the picture, marked with its rows."""
    import figures
    import pandas as pd

    figures.methods_by_story(pd.DataFrame(rows)).savefig(PICTURE, dpi=100, metadata={"Rows": drawn(rows)})


START, END = "<!-- table: python benchmarks/tables.py -->\n\n", "\n\n<!-- end -->"


def page() -> str:
    """The whole page: the words, and where they name a file, its table with its call and day, or that it is missing."""

    def filled(match: re.Match) -> str:
        found = read_results(match[1])
        if not found:
            return "*Not measured yet.*"
        kind = next(name for name in KINDS if match[1].startswith(name))
        said = f"`{found['call']}`, {found['date']}"
        said += f", {found['seconds']:.0f} s" if "seconds" in found else ""
        said += f"; {found['budget']}." if "budget" in found else "."
        return f"{said}\n\n{KINDS[kind](found)}"

    return re.sub(r"\{\{(\w+)\}\}", filled, (FOLDER / "results" / "page.md").read_text())


def readme() -> str:
    """README with its table."""
    return _with_table(FOLDER.parent / "README.md", headline())


def tiers() -> str:
    """The page of tiers with the costs of tier paper."""
    return _with_table(FOLDER / "tiers.md", tier_tables.paper(read_results("paper_rehearsal")))


def _with_table(path: Path, body: str) -> str:
    before, rest = path.read_text().split(START)
    return before + START + body + END + rest.split(END, 1)[1]


def main() -> None:
    """Write the pages, or check that they are written."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="only compare the pages with the files")
    check = arguments.parse_args().check
    pages = {FOLDER / "results.md": page(), FOLDER.parent / "README.md": readme(), FOLDER / "tiers.md": tiers()}
    if check:
        stale = [path.name for path, text in pages.items() if path.read_text() != text]
        if not PICTURE.exists() or Image.open(PICTURE).text.get("Rows") != drawn(dots()):
            stale.append(PICTURE.name)
        if stale:
            raise SystemExit(f"{', '.join(stale)}: not what docs/results says, run python benchmarks/tables.py")
        return
    for path, text in pages.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    draw(dots())


if __name__ == "__main__":
    main()
