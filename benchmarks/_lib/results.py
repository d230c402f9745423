"""Results in one schema: a long table of figures, what was selected, and the outcome of every image.

A run of a benchmark has a name, such as `snow_mini`, and three files:

- `results/NAME.csv`: one row per figure, with the columns `COLUMNS`;
- `results/runs/NAME.json`: command, date, seconds, and the selected settings of each method;
- `results/outcomes/NAME.csv`: what intervals and p-values are computed from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edittools._storage import atomic_path
from edittools.rewriting import EDIT, RANDOM

FOLDER = Path(__file__).resolve().parent.parent.parent / "results"

COLUMNS = ["experiment", "dataset", "network", "method", "split", "condition", "metric", "value", "low", "high", "n"]
"""The columns of the long table.

`network` is "all" for figures of several networks together. `split` is the set of images, by its name in
`ScenarioSplits`. `condition` tells apart rows that differ in one more thing: a strength, a seed, a concept. `low` and
`high` bound the 95% interval, `n` is the number of images, errors or cases behind the value. Shares are in [0, 1],
changes of accuracy in points. A value that is missing in a row is undefined, such as a share of no cases.
"""

SEVERAL = "edit, several exemplars"
FULL_RANK = "full rank"
PROJECTION = "concept projection"
ON_EXEMPLAR = "fine-tuning on the exemplar"
BY_HOSTS = "edit selected by hosts"
BY_VARIED_HOSTS = "edit selected by varied hosts"
BY_EXEMPLAR = "edit selected by the exemplar"
BY_LABELS = "edit selected by labels"
OF_EXEMPLAR_BY_HOSTS = "edit of the exemplar, selected by hosts"
OF_HOSTS_BY_OTHERS = "edit of hosts, selected by hosts of other classes"
LABEL_FREE = "label-free fine-tuning"
FIND_AND_FILL = "find and fill"
FIND_AND_FILL_VARIED = "find and fill, selected by varied hosts"
BY_PROJECTION = "projection at the keys"
BY_VARIED_PROJECTION = "projection at the keys, selected by varied hosts"
REMOVED = "the mark removed"
BLURRED = "blurred, its position given"
NO_EDIT = "no edit"
TWIN = "trained without sticker photos"

METHOD_NAMES = (
    BY_HOSTS,
    BY_VARIED_HOSTS,
    OF_HOSTS_BY_OTHERS,
    OF_EXEMPLAR_BY_HOSTS,
    BY_EXEMPLAR,
    LABEL_FREE,
    FIND_AND_FILL,
    FIND_AND_FILL_VARIED,
    BY_PROJECTION,
    BY_VARIED_PROJECTION,
    BY_LABELS,
    EDIT,
    SEVERAL,
    FULL_RANK,
    PROJECTION,
    ON_EXEMPLAR,
    RANDOM,
    BLURRED,
    REMOVED,
    NO_EDIT,
    TWIN,
)
"""The names of the methods in results and on pages."""

MINUS_EDIT, WITHIN = "minus the edit", "within the edit's limits"
PER_THOUSAND = "CPU seconds per 1,000 predictions"
"""Metrics of rivals: a share, whether it is so, and seconds."""


RIGHT, WRONG, CORRECTED, BROKEN = ".x+-"
"""An image that is classified correctly before and after, never, only after, and only before."""


def encode(before: Sequence[int], after: Sequence[int]) -> str:
    """Write one character per image: what the classifier made of it before and after, 1 where it was misclassified."""
    kinds = {(0, 0): RIGHT, (1, 1): WRONG, (1, 0): CORRECTED, (0, 1): BROKEN}
    return "".join(kinds[int(one), int(other)] for one, other in zip(before, after, strict=True))


def decode(outcomes: str) -> tuple[np.ndarray, np.ndarray]:
    """Read what `encode` wrote: which images were misclassified before and after, `(N,)` booleans each."""
    kinds = np.array(list(outcomes))
    return np.isin(kinds, [WRONG, CORRECTED]), np.isin(kinds, [WRONG, BROKEN])


@dataclass
class Results:
    """The results of one run.

    Args:
        experiment: what is measured, such as "snow".
        dataset: "MiniWorld" or "photos".
        rows: the rows of the long table.
        selected: what was selected, one entry per network and method.
        outcomes: outcomes of images, or of cases.
        notes: what else a page says about the run, such as the constraints.
        seconds: how long it took; by default what `command.run` measures.
    """

    experiment: str
    dataset: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    selected: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    def add(
        self,
        metric: str,
        value: float | None,
        *,
        network: str = "",
        method: str = "",
        split: str = "",
        condition: str = "",
        interval: Sequence[float] = (),
        n: float | None = None,
    ) -> None:
        """Add a row; a value of None, which was not measured, adds none."""
        if value is None:
            return
        low, high = interval or (None, None)
        row = {"network": network, "method": method, "split": split, "condition": condition, "metric": metric}
        row |= {"value": float(value), "low": low, "high": high, "n": None if n is None else int(n)}
        self.rows.append({"experiment": self.experiment, "dataset": self.dataset, **row})

    def add_selected(self, settings: str, network: str = "", method: str = "", **more: Any) -> None:
        """Add the settings of a method that were selected, in words."""
        self.selected.append({"network": network, "method": method, "settings": settings, **more})

    def add_outcomes(
        self,
        before: Sequence[int],
        after: Sequence[int],
        *,
        network: str = "",
        method: str = "",
        split: str = "",
    ) -> None:
        """Add the outcome of each image of a split, see `encode`."""
        row = {"network": network, "method": method, "split": split, "outcomes": encode(before, after)}
        self.outcomes.append(row)

    def frame(self) -> pd.DataFrame:
        """Return the long table."""
        table = pd.DataFrame(self.rows, columns=COLUMNS)
        return table.astype({"value": float, "low": float, "high": float, "n": "Int64"})

    def overview(self) -> str:
        """Return the values as text: one row per method, one column per split and metric, one block per network."""
        table = self.frame()
        blocks = []
        for network, part in table.groupby("network", sort=False):
            names = part.split.str.cat(part.condition, ", ").str.strip(", ").str.cat(part.metric, ": ").str.strip(": ")
            wide = part.assign(figure=names).pivot_table(
                index="method", columns="figure", values="value", sort=False, aggfunc="first"
            )
            text = wide.T.to_string(float_format="{:.4g}".format, na_rep="")
            blocks.append(f"{network}\n{text}" if network else text)
        return "\n\n".join(blocks)


def write_results(path: Path, results: Results, command: str, day: str) -> None:
    """Write the files of a run.

    Args:
        path: the file of the long table, `FOLDER/NAME.csv`; the other files are in folders next to it.
        results: what was measured.
        command: the command that measured it.
        day: when.
    """
    outcomes = pd.DataFrame(results.outcomes)
    run = {"command": command, "date": day, "seconds": results.seconds, **results.notes, "selected": results.selected}
    _write(path, results.frame().to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    if len(outcomes):
        text = outcomes.to_csv(index=False, float_format="%.10g", lineterminator="\n")
        _write(path.parent / "outcomes" / path.name, text)
    _write(path.parent / "runs" / f"{path.stem}.json", _lines(run))


def _write(path: Path, text: str) -> None:
    """Write a file at once, so that a run that is cut off leaves the previous one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _lines(run: Mapping[str, Any]) -> str:
    """Write a run as JSON, with one line per entry and per selection, so that differences can be read."""
    selected = ",\n".join("    " + json.dumps(one, ensure_ascii=False) for one in run["selected"])
    entries = [f"  {json.dumps(key)}: {json.dumps(run[key], ensure_ascii=False)}" for key in run if key != "selected"]
    return (
        "{\n"
        + ",\n".join([*entries, f'  "selected": [\n{selected}\n  ]' if selected else '  "selected": []'])
        + "\n}\n"
    )


def read_results(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read the long table of a run, by its name.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    table = pd.read_csv(folder / f"{name}.csv", keep_default_na=False, dtype=str)
    figures = ["value", "low", "high"]
    table[figures] = table[figures].replace("", np.nan).astype(float)
    table["n"] = pd.to_numeric(table.n.replace("", None)).astype("Int64")
    return table


def parts_of(experiment: str, folder: Path = FOLDER) -> list[str]:
    """List the runs that are parts of an experiment: `EXPERIMENT` and `EXPERIMENT_PART`."""
    names = sorted(path.stem for path in folder.glob("*.csv"))
    return [name for name in names if name == experiment or name.startswith(f"{experiment}_")]


def read_parts(experiment: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read all parts of an experiment as one table; the columns `run` and `part` have their names.

    Raises:
        FileNotFoundError: if there is none.
    """
    tables = []
    for name in parts_of(experiment, folder):
        part = name.removeprefix(experiment).removeprefix("_")
        tables.append(read_results(name, folder).assign(run=name, part=part))
    if not tables:
        raise FileNotFoundError(f"{folder} holds no {experiment}.csv; run benchmarks/{experiment}.py --output")
    return pd.concat(tables, ignore_index=True)


def read_run(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read the command, date, seconds and selections of a run."""
    return json.loads((folder / "runs" / f"{name}.json").read_text())


def read_outcomes(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read the outcomes of a run; empty where none are stored."""
    path = folder / "outcomes" / f"{name}.csv"
    return pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame()
