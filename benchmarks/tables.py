"""The tables of README.md and of the pages in docs, from what the benchmarks wrote.

    python benchmarks/snow_miniworld.py --output docs/results/snow_miniworld.json
    python benchmarks/tables.py            writes the tables of all pages, and the pictures in docs
    python benchmarks/tables.py --check    fails where a page or a picture is not what the files say

Each file in docs/results holds the line that one benchmark printed, with its day and its call. A page has its table
between `<!-- table: name -->` and `<!-- end -->`; `headline` is the one of all stories.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from hashlib import sha1
from itertools import product
from pathlib import Path
from typing import Any

import columns
import pandas as pd
from columns import LEAST_CASES, METHODS, Figures, by_method, cell, markdown, table
from PIL import Image

from edittools._caching import atomic_path

FOLDER = Path(__file__).resolve().parent.parent / "docs"


def lines(found: Figures) -> dict[str, Figures]:
    """The figures by method: the edit's stand at the top of what a benchmark writes, the others by name."""
    return {"editing": found} | {name: figure for name, figure in found.items() if name in METHODS}


def snow(found: Figures) -> str:
    """Vehicles on snow; of several networks together, then network by network."""
    body = by_method(columns.SNOW, lines(found))
    if "networks" not in found:
        return body
    said = "{corrected} / {broken} of {errors_before}, {accuracy_change_points_held_out:+}"
    title = "By network, corrected / broken of all errors and the accuracy held out, in points:"
    return f"{body}\n\n{title}\n\n{_by_network(found['networks'], said)}"


def _by_network(networks: dict[str, dict[str, Figures]], said: str) -> str:
    """A row for each method, a column for each network."""
    names = dict.fromkeys(name for methods in networks.values() for name in methods)
    rows = [
        [METHODS[n], *(cell(said, methods[n]) if n in methods else "no such layer" for methods in networks.values())]
        for n in names
    ]
    return markdown(("method", *(network.removeprefix("efficientnet_") for network in networks)), rows)


def watermark(found: Figures) -> str:
    """A watermark: methods on all networks together, then mark by mark, then network by network."""
    methods = {name: one | {"share_of_all_errors": of_all_errors(one)} for name, one in lines(found).items()}
    body = by_method(columns.WATERMARK, methods)
    marks = by_method({mark: "{marks[M]:%}".replace("M", mark) for mark in found["marks"]}, methods)
    said = "{share_restored:%}, {corrected} / {broken}, {accuracy_change_points_held_out:+}; {where}"
    networks = {
        network: {method: one | {"where": where(one["layers"][0])} for method, one in named.items()}
        for network, named in found["networks"].items()
    }
    by_network = _by_network(networks, said)
    titles = (
        "Restored, by the mark that was never shown:",
        "Restored, corrected / broken, accuracy and the layer, by network:",
    )
    return f"{body}\n\n{titles[0]}\n\n{marks}\n\n{titles[1]}\n\n{by_network}"


def where(layers: str) -> str:
    """Name the layers that an edit changes; of more than two, the first."""
    first, *others = layers.split(", ")
    return f"{first} and all later ones" if len(others) > 1 else layers


def of_all_errors(one: Figures) -> float:
    """Give corrected minus broken as a share of all misclassified images, whatever the concept has to do with them."""
    return (one["corrected"] - one["broken"]) / one["errors_before"]


def synthetic(found: Figures) -> str:
    """The synthetic benchmark, by method; of several networks those that are `compared`."""
    if "networks" not in found:
        named = {f"**{m}**" if m == "editing" else m: one for m, one in found["methods"].items()}
        return by_method(columns.SYNTHETIC | columns.TARGET | columns.PRICE, named)
    rows = []
    for network, one in found["networks"].items():
        known = {"network": network, "cases": one["cases"]}
        rows += [known | {"method": short(n)} | one["methods"][n] for n in compared(tidy("synthetic", one))]
    head = {"network": "{network}", "cases": "{cases}", "method": "{method}"}
    return table(head | columns.SYNTHETIC | columns.PRICE, rows, "cases", columns.SYNTHETIC)


def probing(found: Figures) -> str:
    """Rules found against those planted and those that painting again shows; effects where no rules are known."""
    if "effects" not in found:
        networks = found.get("networks", {"mini_vgg": found})
        named = [{"network": name, **one} for name, one in networks.items()]
        return table({"network": "{network}", **columns.PROBING}, named)
    titles = {
        "styles": "Turned to the paper's styles, beside the control elsewhere in the photo:",
        "materials": "Turned to materials of other photos, beside another look of its own material:",
        "made": "MSRC's photos, masks made by hand:",
        "found": "MSRC's photos and the ImageNet sample, masks found:",
        "found, MSRC alone": "Of these MSRC's photos alone:",
    }
    least = found["false_discovery_rate"]
    return "\n\n".join(f"{titles[kind]}\n\n{_by_concept(rows, least)}" for kind, rows in found["effects"].items())


def _by_concept(rows: list[Figures], least: float) -> str:
    """Make one row per concept, the strongest first, and one column per network; bold where q is at most `least`.

    The column of photos counts those that an effect rests on, which have a control; effects of fewer than `LEAST_CASES`
    are left out.
    """
    known = pd.DataFrame(rows).dropna(subset="effect")
    used = known["controlled"] if "controlled" in known else known["images"]  # in place, every photo has a control
    known = known.assign(used=used.astype(int))
    known = known[known.used >= LEAST_CASES]
    signed = known[["effect", "low", "high"]].map(lambda x: f"{100 * x:+.0f}".replace("-", "−"))
    said = signed.effect + " % [" + signed.low + ", " + signed.high + "]"
    known["said"] = said.where(~(known.q.astype(float) <= least), "**" + said + "**")
    wide = known.pivot(index="concept", columns="classifier", values="said").fillna("")
    wide = wide.reindex(columns=list(dict.fromkeys(row["classifier"] for row in rows)))
    groups = known.groupby("concept", sort=False)
    order = groups.effect.mean().sort_values(ascending=False, kind="stable").index
    counts = groups.used.agg(lambda n: f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}")
    networks = (name.removeprefix("efficientnet_") for name in wide.columns)
    return markdown(("concept", "photos", *networks), ([c, counts[c], *wide.loc[c]] for c in order))


def robustness(found: Figures) -> str:
    """Mean error rates on corrupted copies of clean images, beside accuracy and errors with the concept."""
    curves = {one["method"]: one for one in found["curves"] if one["strength"] == 1}
    start = next(one for one in found["curves"] if one["strength"] == 0)
    chosen = found.get("chosen", {})
    rows = {
        name: {**curves.get(name, start), "corrupted": value, **tried(chosen.get(name, ""))}
        for name, value in found["corrupted_error_rate"].items()
    }
    return by_method(columns.ROBUSTNESS, rows)


def tried(chosen: str) -> Figures:
    """Read the number of candidates from a selection in words."""
    count = re.search(r"; (\d+) trials$", chosen)
    return {"candidates": count[1]} if count else {}


def repair(found: Figures) -> str:
    """What one call finds."""
    words = "\n".join(f"> {line}" for line in found["verdict"].splitlines())
    shown = "{test_errors_corrected:%} [{test_errors_corrected_interval[0]:n}, {test_errors_corrected_interval[1]:n}]"
    said = f"The edit on all test images of the story: {cell(shown, found)} of their errors corrected."
    return f"{words}\n\n{by_method(columns.REPAIR, found['methods'])}\n\n{said}"


def random_directions(found: Figures) -> str:
    """Show one row per draw of random directions, then their mean and range."""
    said = "Mean of the errors corrected: {mean:%}, from {lowest:%} to {highest:%}."
    return f"{table(columns.RANDOM, found['draws'])}\n\n{cell(said, found)}"


def edit_speed(found: Figures) -> str:
    """The solvers against training the full weight, and one more edit against a forward pass."""
    rows = ([title, cell(text, found)] for title, text in columns.SPEED.items())
    return markdown(("what", "ratio"), (row for row in rows if row[1]))


KINDS: dict[str, Callable[[Figures], str]] = {
    "snow": snow,
    "typographic": lambda found: by_method(columns.TYPOGRAPHIC, lines(found)),
    "watermark": watermark,
    "synthetic": synthetic,
    "cure": lambda found: by_method(columns.CURE, lines(found)),
    "woken": lambda found: by_method(columns.WOKEN, found["methods"]),
    "probing": probing,
    "finders": lambda found: table(columns.FINDERS, found["finders"]),
    "robustness": robustness,
    "repair": repair,
    "many_edits": lambda found: table(columns.MANY_EDITS, found["steps"], "errors", ["errors corrected"]),
    "random_directions": random_directions,
    "edit_speed": edit_speed,
    "paper_rehearsal": lambda found: table(columns.REHEARSAL, found["rows"]),
}
"""What makes the table of a file, by the first words of its name."""


def headline() -> str:
    """Make the table of all experiments: the edit next to fixed baselines, and the best fine-tuning of several."""
    head = ["experiment", "misclassified", "edit", "closed form", "best fine-tuning", "random direction"]
    head.append("accuracy; retained errors (edit)")
    share = columns.REPORTED["generalisation"]
    rows = []
    for name, (title, misread) in STORIES.items():
        if found := read_results(name):
            methods = tidy(name, found)
            tuned = max(finetunings(methods), key=lambda method: methods[method]["share"])
            closed, random = (
                next(method for method in DOTS[title] if method in methods)
                for title in ("full closed form", "random direction")
            )
            cells = [cell(share, methods[method]) for method in ("editing", closed, tuned, random)]
            rows.append([title, cell(misread, found), *cells, cell("{accuracy:+}{stays}", methods["editing"])])
    return markdown(head, rows)


def short(method: str) -> str:
    """Name a method where the page says how many exemplars it has."""
    return METHODS.get(method, method).replace(", one exemplar", "")


def compared(methods: dict[str, Figures]) -> list[str]:
    """Name the edit, its best rival, the best fine-tuning and the random direction, each once."""
    rivals = [name for name in methods if not name.startswith(NO_RIVALS)]
    groups = (rivals, finetunings(methods))
    best = [max(names, key=lambda name: methods[name]["share"]) for names in groups if names]
    chance = [name for name in rivals if name in ("random_direction", "random direction")]
    return list(dict.fromkeys(["editing", *best, *chance]))


def finetunings(methods: Iterable[str]) -> list[str]:
    """Name the methods that are fine-tuning, interpolated or not."""
    rivals = [name for name in methods if not name.startswith(NO_RIVALS)]
    return [name for name in rivals if any(word in name for word in ("tun", "interpolated"))]


def others() -> str:
    """The table of what others report of a method, and the picture of the exchange along its strength."""
    head, rows = ["story", "method", *columns.REPORTED], []
    for name, (title, _) in STORIES.items():
        methods = tidy(name, read_results(name))
        for method in compared(methods) if methods else ():
            cells = [cell(text, methods[method]) or "–" for text in columns.REPORTED.values()]
            rows.append([title, short(method), *cells])
    picture = "![Errors corrected against locality, a line a method](../locality.png)"
    return markdown(head, rows) + (f"\n\n{picture}" if curve() else "")


def tidy(name: str, found: Figures) -> dict[str, Figures]:
    """What the table and the picture of all stories show of each method, under one set of names for all stories.

    They are the `share` corrected with its `low` and `high`, the change of `accuracy` held out and of what must stay
    (`kept`, NaN where nothing must), both in points, and the latter in words. What others report is as in the file.
    """
    read, names = TIDY[name.split("_")[0]], ("share", "low", "high", "accuracy", "kept", "stays")
    known = found.get("methods") or (lines(found) if found else {})
    return {method: one | dict(zip(names, read(found | one), strict=True)) for method, one in known.items()}


def _snow(one: Figures) -> tuple:
    before, after = one["keep_errors_before"], one["keep_errors_after"]
    kept, accuracy = 100 * (before - after) / one["keep_images"], one["accuracy_change_points_held_out"]
    return one["errors_corrected"], *one["errors_corrected_interval"], accuracy, kept, f"; {before} → {after}"


def _typographic(one: Figures) -> tuple:
    before, after = (100 * one[f"real_ipod_accuracy_{when}"] for when in ("before", "after"))
    shares = one["errors_corrected"], *one["errors_corrected_interval"]
    said = f"; iPods right {before:.0f} → {after:.0f} %"
    return *shares, one["clean_accuracy_change_points"], after - before, said


def _synthetic(one: Figures) -> tuple:
    return *one["other same"], one["accuracy_change_points"], float("nan"), ""


def _cure(one: Figures) -> tuple:
    said = f"; {one['keep_report before']:.0f} → {one['keep_report after']:.0f}"
    shares = [one[name] for name in ("errors corrected", "low", "high")]
    return *shares, one["clean change"], one["keep_report change"], said


def _watermark(one: Figures) -> tuple:
    shares = one["share_restored"], *one["share_restored_interval"]
    return *shares, one["accuracy_change_points_held_out"], float("nan"), ""


TIDY = {"snow": _snow, "typographic": _typographic, "watermark": _watermark, "synthetic": _synthetic, "cure": _cure}
STORIES = {  # the file: its title, and how many are misread
    "snow_miniworld": ("vehicles on snow, MiniWorld", "{errors_before}"),
    "snow_photos": ("vehicles on snow, photographs", "{errors_before}"),
    "typographic_miniworld": ('an "iPod" label, MiniWorld', "{errors_before}"),
    "watermark_photos": ("a watermark, photographs", "{broken_by_the_mark}"),
    "synthetic_miniworld": ("concepts × styles, MiniWorld", "{cases} cases"),
    "synthetic_photos": ("concepts × styles, photographs", "{cases} cases"),
    "cure_miniworld": ("a rule that a probe found, MiniWorld", "{errors before:.0f}"),
    "cure_photos": ("a rule that a probe found, photographs", "{errors before:.0f}"),
}
NO_RIVALS = ("editing", "untuned", "two_layers", "rank ", "reactive", "text_blurred", "mark_")
"""What the table of all stories leaves out as a rival: edits, and what changes no weights but how pictures are read."""
DOTS = {  # what the picture shows, by its name there: its names in the files (concepts × styles always interpolates)
    "edit": ("editing",),
    "local fine-tuning": ("finetune_local",),
    "global fine-tuning": ("finetune_global",),
    "local, interpolated": ("interpolated_local", "local fine-tuning"),
    "global, interpolated": ("interpolated_global", "global fine-tuning"),
    "concept projection": ("projection",),
    "null-space rewriting": ("null_space", "null space"),
    "full closed form": ("closed_form", "closed form"),
    "last layer retrained": ("last_layer",),
    "logit correction": ("logit_correction",),
    "random direction": ("random_direction", "random direction"),
}
TITLES = {"snow": "vehicles\non snow", "typographic": "an iPod label", "watermark": "a watermark"}
TITLES |= {"synthetic": "concepts\n× styles", "cure": "a rule that\na probe found"}


def read_results(name: str) -> Figures:
    """What a benchmark wrote to the file of this name, nothing where there is no such file."""
    path = FOLDER / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def dots(read: Callable[[str], Figures] = read_results) -> list[dict[str, Any]]:
    """A row for each dot of the picture: story, method, share with its interval, and whether both bounds hold."""
    rows = []
    for (kind, title), (end, world) in product(TITLES.items(), {"miniworld": "MiniWorld", "photos": "photos"}.items()):
        known = tidy(kind, read(f"{kind}_{end}"))
        for method, one in ((m, known[n]) for m, names in DOTS.items() for n in names if n in known):
            unknown = one["kept"] != one["kept"]
            holds = "no" if one["accuracy"] < -0.25 or one["kept"] < -3 else "unknown" if unknown else "yes"
            dot = {"story": f"{title},\n{world}", "method": method}
            rows.append(dot | {name: one[name] for name in ("share", "low", "high")} | {"holds": holds})
    return rows


def drawn(rows: list[dict[str, Any]]) -> str:
    """What the picture of these rows is marked with: a digest, since pixels differ between versions of matplotlib."""
    return sha1(json.dumps(rows).encode()).hexdigest()


def curve() -> list[dict[str, Any]]:
    """Give every method on MiniWorld's snow at several strengths: what it corrects, and its locality."""
    return [
        row | {"method": short(row["method"]).strip("*")} for row in read_results("snow_miniworld").get("curve", [])
    ]


PICTURES = {"results.png": (dots, "methods_by_story"), "locality.png": (curve, "generalisation_by_locality")}
"""The pictures in docs, which are marked with their rows: what reads the rows, and what draws them in `figures`."""


def stale(name: str) -> bool:
    """Say whether a picture is not that of its rows."""
    rows, path = PICTURES[name][0](), FOLDER / name
    return bool(rows) and not (path.exists() and Image.open(path).text.get("Rows") == drawn(rows))


def draw(name: str) -> None:
    """Draw a picture, marked with its rows."""
    import figures

    rows, made = PICTURES[name][0](), getattr(figures, PICTURES[name][1])
    made(pd.DataFrame(rows)).savefig(FOLDER / name, dpi=100, metadata={"Rows": drawn(rows)})


TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n).*?\n*(<!-- end -->)", re.DOTALL)


def filled(name: str) -> str:
    """The table of the file of a name with its call and day, or that it is missing."""
    if name in ("headline", "others"):
        return headline() if name == "headline" else others()
    found = read_results(name)
    if not found:
        return "*Not measured yet.*"
    kind = next(kind for kind in KINDS if name.startswith(kind))
    said = f"`{found['call']}`, {found['date']}"
    said += f", {found['seconds']:.0f} s" if "seconds" in found else ""
    said += f"; {found['budget']}." if "budget" in found else "."
    for later in filter(None, map(found.get, ("rerun", "evaluated_again", "counted"))):
        said += f" Then `{later['call']}`, {later['date']}, {later['seconds']:.0f} s."
    return f"{said}\n\n{KINDS[kind](found)}"


def pages() -> dict[Path, str]:
    """Every page that has a table, as it should be."""
    paths = [FOLDER.parent / "README.md", *sorted(FOLDER.rglob("*.md"))]
    texts = {path: path.read_text() for path in paths if path.exists()}
    return {
        path: TABLE.sub(lambda at: f"{at[1]}{filled(at[2])}\n\n{at[3]}", text)
        for path, text in texts.items()
        if "<!-- table: " in text
    }


def main() -> None:
    """Write the pages, or check that they are written."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="only compare the pages with the files")
    check = arguments.parse_args().check
    if check:
        other = [path.name for path, text in pages().items() if path.read_text() != text]
        if other := other + list(filter(stale, PICTURES)):
            raise SystemExit(f"{', '.join(other)}: not what docs/results says, run python benchmarks/tables.py")
        return
    for path, text in pages().items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    for name in filter(stale, PICTURES):
        draw(name)


if __name__ == "__main__":
    main()
