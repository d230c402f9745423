"""The rule of choice: the best trial on validation images within an accuracy budget and a bound on kept images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from edittools.choosing.states import CachedStates
from edittools.choosing.trials import ranked, sweep
from edittools.edits import Edit
from edittools.metrics import Comparison

BUDGET = 0.25
"""Points of accuracy that a chosen edit may cost on the budget images (section 4.2)."""

FEW = 400
"""With fewer budget images, one image is more than `BUDGET` points."""

KEEP = 3.0
"""Points of the kept images that a chosen edit may break, at most, with 95 % confidence."""

_WORDS = ("batch_size", "scope", "masked")
_MEASURED = ("corrected", "broken", "net", "loss", "edit")


@dataclass(frozen=True, eq=False)
class Choice:
    """The trial that was chosen: its edit, settings, and what it did to the validation and the budget images.

    `validation` holds `corrected`, `broken` and `loss`. `budget` compares the budget images before and after, `kept`
    the kept ones that bound the choice. `trials` were tried in `seconds`; `table` has one row for each. Where no trial
    with a net gain kept the budget, the edit is scaled by 0 and there are no settings. Of many fine-tunings only the
    best keep their `edit` in the table.
    """

    edit: Edit
    settings: Mapping[str, Any]
    validation: Mapping[str, float]
    budget: Comparison = field(repr=False)
    kept: Comparison | None = field(default=None, repr=False)
    trials: int = 0
    seconds: float = float("nan")
    table: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """Whether any trial helped within the budget."""
        return bool(self.settings)

    @property
    def edges(self) -> tuple[str, ...]:
        """Name the settings whose value is the least or the largest that was tried; 0 and rank 1 have none below."""
        names = [n for n, v in self.settings.items() if isinstance(v, int | float) and n not in _WORDS]
        known = [] if self.table is None else [n for n in names if n in self.table]
        tried = {name: pd.to_numeric(self.table[name], errors="coerce").dropna() for name in known}
        found = {n: v for n, v in tried.items() if v.nunique() > 1 and self.settings[n] in (v.min(), v.max())}
        return tuple(name for name in found if self.settings[name] and (name, self.settings[name]) != ("rank", 1))

    @property
    def accuracy_change(self) -> float:
        """The accuracy change on the budget images, in points."""
        return self.budget.accuracy_change

    def row(self) -> pd.Series:
        """The choice as a table column: settings, validation figures, accuracy change with its 95 % interval."""
        low, high = self.budget.accuracy_interval()
        change = {"accuracy change": self.accuracy_change, "low": low, "high": high, "trials": self.trials}
        return pd.Series({**self.settings, **self.validation, **change}, dtype=object, name="chosen")

    def __str__(self) -> str:
        if not self.found:
            return "nothing"
        known = dict(self.settings)
        words = [str(known.pop(name)) for name in ("layer", "exemplar") if known.get(name)]
        if (masked := known.pop("masked", None)) is not None:
            words.append("mask" if masked else "no mask")
        if objective := known.pop("objective", None):
            words.append(objective)
        strength, rank = known.pop("strength", None), known.get("rank", 0)
        words += [v for n, v in known.items() if n not in _WORDS and isinstance(v, str) and v]
        words += ["full rank"] if rank is None else []
        words += [f"{n} {v:g}" for n, v in known.items() if n not in _WORDS and isinstance(v, int | float)]
        words += [] if strength is None else [f"α {strength:g}"]
        return ", ".join(words) + (f" (edge of the grid: {', '.join(self.edges)})" if self.edges else "")


def select(
    table: pd.DataFrame,
    budget_images: CachedStates,
    budget: float = BUDGET,
    kept_images: CachedStates | None = None,
    rank_by: str = "loss",
) -> Choice:
    """Choose the trial of lowest validation loss that corrects more than it breaks and costs at most `budget` points.

    Where there are `kept_images`, it may break at most `most_broken` of them. The loss ranks, not the count of
    corrections: among few validation images many trials have the same count, and the most fortunate of hundreds is not
    the best. `rank_by="net"` ranks by that count, and among equals by the loss. When no trial with a net gain keeps
    both bounds, the choice is the edit that changes nothing, so that a method that cannot help is reported as such.
    """
    return select_each(table, budget_images, [budget], kept_images, rank_by)[budget]


def select_each(
    table: pd.DataFrame,
    budget_images: CachedStates,
    budgets: Sequence[float],
    kept_images: CachedStates | None = None,
    rank_by: str = "loss",
) -> dict[float, Choice]:
    """Select as `select` does under each of several budgets; each trial is run on the budget images at most once."""
    if table.empty:
        raise ValueError("a table with no trial: expected at least one row, see sweep")
    order, found, kept = ranked(table, rank_by), {}, None
    most = most_broken(len(kept_images.labels)) if kept_images else 0
    for _, row in order[order.net > 0].iterrows():
        missing = [budget for budget in budgets if budget not in found]
        if not missing:
            break
        if kept_images and (kept := kept_images.sparing(row.edit, most)) is None:
            continue
        compared = budget_images.within(row.edit, max(missing))
        for budget in missing:
            if compared is not None and compared.accuracy_change >= -budget:
                found[budget] = choice_of(row, compared, kept, len(table))
    unchanged, kept = (one and Comparison(one.before, one.before) for one in (budget_images, kept_images))
    figures = {"corrected": 0, "broken": 0, "loss": float("nan")}
    nothing = Choice(0 * order.edit.iloc[0], {}, figures, unchanged, kept, len(table))
    return {budget: found.get(budget, nothing) for budget in budgets}


def most_broken(images: int, points: float = KEEP) -> int:
    """The most of so many kept images that an edit may break: at 95 % confidence no more than `points` in a hundred.

    The limit is Clopper and Pearson's, one-sided. Fewer than 99 images cannot show 3 points: there it is none.
    """
    from scipy.stats import beta

    counts = range(1, images)
    return next((count - 1 for count in counts if 100 * beta.ppf(0.95, count + 1, images - count) > points), 0)


def choice_of(row: pd.Series, compared: Comparison, kept: Comparison | None, trials: int) -> Choice:
    """A row of a table of `sweep` as the choice among so many `trials`."""
    settings = {name: value for name, value in row.items() if name not in _MEASURED and not _is_missing(value)}
    figures = {name: row[name] for name in ("corrected", "broken", "loss")}
    return Choice(row.edit, settings, figures, compared, kept, trials)


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and value != value


def add_layer(
    first: Edit,
    table: pd.DataFrame,
    validation: CachedStates,
    budget_images: CachedStates,
    kept_images: CachedStates | None = None,
    among: int = 40,
    progress: bool = False,
    rank_by: str = "loss",
) -> Choice:
    """Add to `first` the trial of `table`, in another layer, that helps most on top of it.

    The `among` best trials of other layers are tried, and `first` alone, whose layer is ""; the rule is `select`'s.
    """
    others = ranked(table[~table.layer.isin(first.layers) & (table.net > 0)], rank_by).head(among)
    found = others.columns.intersection(_MEASURED)
    trials = [(row.drop(found).to_dict(), first + row.edit) for _, row in others.iterrows()]
    tried = sweep([({"layer": ""}, first), *trials], validation, progress)
    return select(tried, budget_images, kept_images=kept_images, rank_by=rank_by)


def about_budget(images: int, budget: float = BUDGET) -> str:
    """Say how fine a budget of so many points is on so many images, and when they are too few to keep it."""
    coarse = f"; fewer than {FEW}, so it is coarse" if images < FEW else ""
    allowed = int(budget * images / 100 + 1e-9)
    return (
        f"budget of {budget:g} points on {images:,} images: one is {100 / max(images, 1):.2f} points, "
        f"{allowed or 'none'} may be lost{coarse}"
    )


def about_keep(images: int) -> str:
    """Say how many of so many kept images a chosen edit may break, and when they are too few to tell."""
    few = "" if images >= 99 else f", and so few cannot show that no more than {KEEP:g} in a hundred break"
    return f"{images:,} kept images: {most_broken(images) or 'none'} may break{few}"
