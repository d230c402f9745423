"""Tables of docs/results.md that show several networks, or sets of features, side by side."""

import re
from collections.abc import Iterable

from table_cells import Figures, markdown, points, share


def best_finetuning(methods: Figures) -> str:
    """Of the methods of a synthetic benchmark, the fine-tuning that corrects most on other classes."""
    tuned = [name for name in methods if "fine-tuning" in name or "locality" in name]
    return max(tuned, key=lambda name: methods[name]["other same"][0])


def synthetic(found: Figures) -> str:
    """The synthetic benchmark by network: the edit, the best fine-tuning, a random direction and the closed form."""
    rows = []
    for network, one in found["networks"].items():
        methods, best = one["methods"], best_finetuning(one["methods"])
        titles = {"editing": "**edit**", best: best, "random direction": "random direction"}
        titles |= {"closed form": "full closed form"} if "closed form" in methods else {}
        for name, title in titles.items():
            shares = [share(*methods[name][measure]) for measure in ("other same", "other held out")]
            change = points(methods[name]["accuracy_change_points"])
            rows.append((network, f"{one['cases']}", title, *shares, change))
    head = ("network", "cases", "method", "other classes, same style", "other classes, held-out style")
    return markdown((*head, "accuracy, points"), rows)


def layers(found: Figures) -> str:
    """In which layer a rule lives: a table for each network, a row for each block, a column for each of its layers."""
    parts = []
    for network in dict.fromkeys(one["network"] for one in found["rows"]):
        rows = [one for one in found["rows"] if one["network"] == network]
        said = {one["layer"]: f"{100 * one['net share']:.0f} / {100 * one['highest net share']:.0f} %" for one in rows}
        places = {layer: _place(layer) for layer in said}
        columns = sorted({part for _, part in places.values()}, key=[part for _, part in places.values()].index)
        grid = {block: dict.fromkeys(columns, "") for block, _ in places.values()}
        for layer, (block, part) in places.items():
            grid[block][part] = said[layer]
        head = (f"{network}, {rows[0]['errors']} errors", *(part or "net share" for part in columns))
        parts.append(markdown(head, ((block, *cells.values()) for block, cells in grid.items())))
    return "\n\n".join(parts)


def _place(layer: str) -> tuple[str, str]:
    """The block that a layer lies in and what it is there: `blocks.2.mlp.fc1` gives `blocks.2` and `mlp.fc1`."""
    found = re.fullmatch(r"(blocks\.\d+|layer\d+\.\d+)\.(.+)", layer)
    return (found[1], found[2]) if found else (layer, "")


def probing_scored(found: Figures) -> str:
    """Rules of several networks of MiniWorld, scored against what was planted and what each shows exactly."""
    rows = [
        (
            network,
            f"{one['rules_planted']} / {one['rules_found']}",
            f"{_ratio(one['precision'])}, {_ratio(one['recall'])}",
            f"{one['rules_exact']}",
            f"{_ratio(one['precision_exact'])}, {_ratio(one['recall_exact'])}",
            f"{one['correlation_with_exact']:.2f}",
        )
        for network, one in found["networks"].items()
    ]
    head = ("network", "rules planted / found", "precision, recall", "rules shown exactly")
    return markdown((*head, "precision, recall against these", "correlation of effects"), rows)


def _ratio(value: float) -> str:
    """Two digits; a dash where nothing was found or nothing is there (NaN)."""
    return f"{value:.2f}" if value == value else "–"


def probing_photos(found: Figures) -> str:
    """What each concept matters to each network: a table for styles and one for materials, strongest first."""
    least = found["false_discovery_rate"]
    titles = {
        "styles": "Turned to the paper's styles, beside the control elsewhere in the photo:",
        "materials": "Turned to materials of other photos, beside another look of its own material:",
    }
    parts = [f"{titles[kind]}\n\n{_by_concept(rows, least)}" for kind, rows in found["effects"].items()]
    return "\n\n".join(parts)


def _by_concept(rows: list[Figures], least: float) -> str:
    """A row for each concept, a column for each network: the effect, bold where q is at most `least`."""
    networks = list(dict.fromkeys(row["classifier"] for row in rows))
    by_concept: dict[str, dict[str, Figures]] = {}
    for row in rows:
        if row["effect"] is not None:
            by_concept.setdefault(row["concept"], {})[row["classifier"]] = row
    known = sorted(by_concept.items(), key=lambda item: -_mean(row["effect"] for row in item[1].values()))
    cells = [
        (concept, _span(row["images"] for row in found.values()), *(_effect(found.get(n), least) for n in networks))
        for concept, found in known
    ]
    return markdown(("concept", "photos", *networks), cells)


def _effect(row: Figures | None, least: float) -> str:
    if row is None:
        return ""
    said = share(row["effect"], row["low"], row["high"], signed=True)
    return f"**{said}**" if row["q"] is not None and row["q"] <= least else said


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def _span(values: Iterable[int]) -> str:
    """A number, or the least and the most of several."""
    known = sorted(set(values))
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
