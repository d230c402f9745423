"""The tables of README.md and of the pages in docs, from what the benchmarks wrote.

    python benchmarks/snow_miniworld.py --output docs/results/snow_miniworld.json
    python benchmarks/tables.py            writes the tables of all pages, and docs/results.png
    python benchmarks/tables.py --check    fails where a page or the picture is not what the files say

Each file in docs/results holds the line that one benchmark printed, with its day and its call. A page has its table
between `<!-- table: name -->` and `<!-- end -->`; `headline` is the one of all stories.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1
from itertools import product
from pathlib import Path
from typing import Any

import columns
import pandas as pd
from columns import METHODS, Figures, cell, markdown, table
from PIL import Image

from edittools.images import atomic_path

FOLDER = Path(__file__).resolve().parent.parent / "docs"


def lines(found: Figures) -> dict[str, Figures]:
    """The figures by method: the edit's stand at the top of what a benchmark writes, the others by name."""
    return {"editing": found} | {name: figure for name, figure in found.items() if name in METHODS}


def points(value: float) -> str:
    """An accuracy change in points."""
    return cell("{value:+}", {"value": value})


def share(value: float, low: float, high: float) -> str:
    """A share in per cent, with its interval."""
    return cell("{value:%} [{low:n}, {high:n}]", {"value": value, "low": low, "high": high})


def by_method(shown: Mapping[str, str], methods: Mapping[str, Figures]) -> str:
    """A table with a row for each method."""
    named = (one | {"method": METHODS.get(name, name)} for name, one in methods.items())
    return table({"method": "{method}", **shown}, named)


def snow(found: Figures) -> str:
    """Vehicles on snow; of several networks together, then network by network."""
    body = by_method(columns.SNOW, lines(found) | {"editing": found | {"p_against_edit": None}})
    if "networks" not in found:
        return body
    said = "{corrected} / {broken} of {errors_before}, {accuracy_change_points_held_out:+}"
    said += f", {{choices}} of {found['folds']}" if "folds" in found else ""
    networks = found["networks"]
    names = dict.fromkeys(name for methods in networks.values() for name in methods)
    rows = [
        [METHODS[n], *(cell(said, methods[n]) if n in methods else "no such layer" for methods in networks.values())]
        for n in names
    ]
    heads = (network.removeprefix("efficientnet_") for network in networks)
    title = "By network, corrected / broken of all errors and the accuracy held out, in points"
    title += ", and how many different choices the folds made:" if "folds" in found else ":"
    return f"{body}\n\n{title}\n\n{markdown(('method', *heads), rows)}"


def typographic(found: Figures) -> str:
    """Typographic attacks."""
    return by_method(columns.TYPOGRAPHIC, lines(found))


def synthetic(found: Figures) -> str:
    """The synthetic benchmark, by method; of several networks the edit, the best fine-tuning, chance, one rival."""
    if "networks" not in found:
        named = {f"**{m}**" if m == "editing" else m: one for m, one in found["methods"].items()}
        return by_method(columns.SYNTHETIC | columns.TARGET | columns.PRICE, named)
    rows = []
    for network, one in found["networks"].items():
        best = best_finetuning(one["methods"])
        titles = {
            "editing": "**edit**",
            best: best,
            "random direction": "random direction",
            "closed form": "full closed form",
        }
        known = {"network": network, "cases": one["cases"]}
        rows += [known | {"method": t} | one["methods"][n] for n, t in titles.items() if n in one["methods"]]
    head = {"network": "{network}", "cases": "{cases}", "method": "{method}"}
    return table(head | columns.SYNTHETIC | columns.PRICE, rows)


def best_finetuning(methods: Figures) -> str:
    """Of the methods of a synthetic benchmark, the fine-tuning that corrects most on other classes."""
    tuned = [name for name in methods if "fine-tuning" in name or "locality" in name]
    return max(tuned, key=lambda name: methods[name]["other same"][0])


def cure(found: Figures) -> str:
    """From a found rule to its cure."""
    return by_method(columns.CURE, lines(found))


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


def finders(found: Figures) -> str:
    """What segmenters see in photos, against masks made by hand."""
    return table(columns.FINDERS, found["finders"])


def _by_concept(rows: list[Figures], least: float) -> str:
    """A row for each concept, the strongest first, a column for each network; bold where q is at most `least`."""
    known = pd.DataFrame(rows).dropna(subset="effect")
    signed = known[["effect", "low", "high"]].map(lambda x: f"{100 * x:+.0f}".replace("-", "−"))
    said = signed.effect + " % [" + signed.low + ", " + signed.high + "]"
    known["said"] = said.where(~(known.q.astype(float) <= least), "**" + said + "**")
    wide = known.pivot(index="concept", columns="classifier", values="said").fillna("")
    wide = wide.reindex(columns=list(dict.fromkeys(row["classifier"] for row in rows)))
    groups = known.groupby("concept", sort=False)
    order = groups.effect.mean().sort_values(ascending=False, kind="stable").index
    counts = groups.images.agg(lambda n: f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}")
    networks = (name.removeprefix("efficientnet_") for name in wide.columns)
    return markdown(("concept", "photos", *networks), ([c, counts[c], *wide.loc[c]] for c in order))


def robustness(found: Figures) -> str:
    """Mean error rates on corrupted copies of clean images, beside accuracy and errors with the concept."""
    curves = {one["method"]: one for one in found["curves"] if one["strength"] == 1}
    start = next(one for one in found["curves"] if one["strength"] == 0)
    chosen = found.get("chosen", {})
    rows = {
        name: {**curves.get(name, start), "corrupted": value, "chosen": chosen.get(name, "")}
        for name, value in found["corrupted_error_rate"].items()
    }
    return by_method(columns.ROBUSTNESS, rows)


def repair(found: Figures) -> str:
    """What one call finds."""
    words = "\n".join(f"> {line}" for line in found["verdict"].splitlines())
    test = share(found["test_errors_corrected"], *found["test_errors_corrected_interval"])
    body = by_method(columns.REPAIR, found["methods"])
    return f"{words}\n\n{body}\n\nThe edit on all test images of the story: {test} of their errors corrected."


def many_edits(found: Figures) -> str:
    """Edits of several rules, added up and one on top of the other."""
    return table(columns.MANY_EDITS, found["steps"])


def edit_speed(found: Figures) -> str:
    """The solvers against training the full weight, and one more edit against a forward pass."""
    rows = ([title, cell(text, found)] for title, text in columns.SPEED.items())
    return markdown(("what", "ratio"), (row for row in rows if row[1]))


def paper_rehearsal(found: Figures) -> str:
    """What tier paper costs."""
    return table(columns.REHEARSAL, found["rows"])


_SHOWN = (snow, typographic, synthetic, cure, probing, finders, robustness, repair, many_edits, edit_speed)
KINDS: dict[str, Callable[[Figures], str]] = {one.__name__: one for one in (*_SHOWN, paper_rehearsal)}


def headline() -> str:
    """The table of all stories: the edit of one exemplar beside the best of all other methods, by its name."""
    head = ["story", "misread", "edit", "best rival", "accuracy; must stay"]
    known = ((title, read, read_results(name)) for name, (title, read) in STORIES.items())
    return markdown(head, ((title, *read(found)) for title, read, found in known if found))


def _beside(methods: dict[str, Figures], fixed: Callable[[Figures], Sequence[float]]) -> list[str]:
    """The shares of the edit and, by its name, of the best other method of any exemplars."""
    rivals = {name: fixed(one) for name, one in methods.items() if not name.startswith(NO_RIVALS)}
    best = max(rivals, key=lambda name: rivals[name][0])
    named = METHODS.get(best, best).removesuffix(", one exemplar")
    return [share(*fixed(methods["editing"])), f"{named}: {share(*rivals[best])}"]


def _of_snow(found: Figures) -> list[str]:
    costs = found["keep_errors_before"], found["keep_errors_after"]
    return [
        f"{found['errors_before']}",
        *_beside(lines(found), lambda one: (one["errors_corrected"], *one["errors_corrected_interval"])),
        f"{points(found['accuracy_change_points_held_out'])}; {costs[0]} → {costs[1]}",
    ]


def _of_attacks(found: Figures) -> list[str]:
    fixed = ("attacks_fixed", "attacks_fixed_low", "attacks_fixed_high")
    return [
        f"{found['attacked']}",
        *_beside(lines(found), lambda one: tuple(one[name] for name in fixed)),
        f"{points(found['clean_accuracy_change_points'])}; iPods right "
        f"{100 * found['real_ipod_accuracy_before']:.0f} → {100 * found['real_ipod_accuracy_after']:.0f} %",
    ]


def _of_cases(found: Figures) -> list[str]:
    shown = _beside(found["methods"], lambda one: one["other same"])
    cost = points(found["methods"]["editing"]["accuracy_change_points"])
    return [f"{found['cases']} cases", *shown, cost]


def _of_cure(found: Figures) -> list[str]:
    costs = found["keep_report before"], found["keep_report after"]
    return [
        f"{found['errors before']:.0f}",
        *_beside(lines(found), lambda one: (one["errors corrected"], one["low"], one["high"])),
        f"{points(found['clean change'])}; {costs[0]:.0f} → {costs[1]:.0f}",
    ]


STORIES = {
    "snow_miniworld": ("vehicles on snow, MiniWorld", _of_snow),
    "snow_photos": ("vehicles on snow, photographs", _of_snow),
    "typographic_miniworld": ('an "iPod" label, MiniWorld', _of_attacks),
    "synthetic_miniworld": ("concepts × styles, MiniWorld", _of_cases),
    "synthetic_photos": ("concepts × styles, photographs", _of_cases),
    "cure_miniworld": ("a rule that a probe found, MiniWorld", _of_cure),
    "cure_photos": ("a rule that a probe found, photographs", _of_cure),
}
NO_RIVALS = ("editing", "untuned", "two_layers", "in_turn", "rank ", "least squares", "mirrored", "text_blurred")
"""What the table of all stories leaves out as a rival: edits, and what changes pictures in place of weights."""
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

    figures.methods_by_story(pd.DataFrame(rows)).savefig(PICTURE, dpi=100, metadata={"Rows": drawn(rows)})


TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n).*?\n*(<!-- end -->)", re.DOTALL)


def filled(name: str) -> str:
    """The table of the file of a name with its call and day, or that it is missing."""
    if name == "headline":
        return headline()
    found = read_results(name)
    if not found:
        return "*Not measured yet.*"
    kind = next(kind for kind in KINDS if name.startswith(kind))
    said = f"`{found['call']}`, {found['date']}"
    said += f", {found['seconds']:.0f} s" if "seconds" in found else ""
    said += f"; {found['budget']}." if "budget" in found else "."
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
        stale = [path.name for path, text in pages().items() if path.read_text() != text]
        if not PICTURE.exists() or Image.open(PICTURE).text.get("Rows") != drawn(dots()):
            stale.append(PICTURE.name)
        if stale:
            raise SystemExit(f"{', '.join(stale)}: not what docs/results says, run python benchmarks/tables.py")
        return
    for path, text in pages().items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    draw(dots())


if __name__ == "__main__":
    main()
