"""Trials: every combination of layer, exemplar, settings and strength, and what its edit does on validation images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.cut import Cut, editable_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar, exemplars_at
from edittools.metrics import misclassified
from edittools.moments import RankError
from edittools.selection.activations import CachedStates

Trial = tuple[dict[str, Any], Edit]
Exemplars = Mapping[str, Exemplar | Sequence[Exemplar]]
Shown = Exemplars | None
SettingsGrid = Sequence[Mapping[str, Any]]
Strengths = Sequence[float]
Layers = Sequence[str] | None
USUAL = (0.5, 1.0)
"""Strengths of an edit to try."""

MEASURED = ("corrected", "broken", "net", "loss", "edit", "losses", "wrong")
"""Columns of a table of `sweep` that are no settings."""


def candidate_layers(classifier: Classifier) -> tuple[str, ...]:
    """Name the layers in which a rule is sought, from first to last: the convolutions, as in the paper.

    Of a model that has more linear layers on tokens or maps than convolutions, such as a transformer, it is those.
    """
    table = editable_layers(classifier)
    convolved, placed = table[table.in_paper], table[~table.in_paper & (table["keys"].map(len) > 1)]
    return tuple((placed if len(placed) > len(convolved) else convolved if len(convolved) else table).layer)


def later_layers(classifier: Classifier, most: int = 10) -> list[str]:
    """Name the later half of the candidate layers, evenly spread, the last one among them."""
    names = candidate_layers(classifier)
    later = list(names[len(names) // 2 :])
    return later[:: -max(1, -(-len(later) // most))][::-1]


def grid(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Combine the named choices in every way, such as `grid(rank=(1, 3), masked=(True, False))`."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


@dataclass(frozen=True)
class Trials(Iterable[Trial]):
    """Try `method(classifier, cut, exemplars, reference, **setting)` in each layer, at each strength α.

    `method` is `rewrite` or a baseline; `reference`, what it takes, goes by layer. Each iteration makes the edits anew,
    one by one; several `steps` in a setting are one run. The length is the most there can be: a rank that the keys at
    a small mask do not span gives no trial.
    """

    method: Callable[..., Edit | list[Edit]]
    cuts: Mapping[str, Cut]
    exemplars: Exemplars
    reference: Mapping[str, Any]
    settings: SettingsGrid
    strengths: Strengths = USUAL

    def __len__(self) -> int:
        edits = sum(len(_one_by_one(setting)) for setting in self.settings)
        return len(self.cuts) * len(self.exemplars) * edits * len(self.strengths)

    def __iter__(self) -> Iterator[Trial]:
        for (layer, cut), name in product(self.cuts.items(), self.exemplars):
            shown = exemplars_at(cut.classifier, cut, self.exemplars[name])  # run up to the layer once
            for setting in self.settings:
                try:
                    made = self.method(cut.classifier, cut, shown, self.reference[layer], **setting)
                except RankError:
                    continue
                edits = made if isinstance(made, list) else [made]
                for (one, edit), strength in product(zip(_one_by_one(setting), edits, strict=True), self.strengths):
                    yield {"layer": layer, "exemplar": name, **one, "strength": strength}, strength * edit


def _one_by_one(setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    steps = setting.get("steps")
    return [{**setting, "steps": stop} for stop in steps] if isinstance(steps, Sequence) else [dict(setting)]


def sweep(trials: Iterable[Trial], validation: CachedStates, progress: bool = False) -> pd.DataFrame:
    """Try each edit on the validation images.

    One row a trial: its settings, `corrected`, `broken`, `net` (corrected − broken), `loss` (mean cross-entropy), the
    `edit` itself, and of each image its cross-entropy (`losses`) and whether it is misread (`wrong`).
    """
    return counted(tried(trials, validation, "trials" if progress else ""), validation.before)


def tried(
    trials: Iterable[Trial],
    validation: CachedStates,
    bar: str = "",
    told: Callable[[int, int | None], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Try each edit on the validation images; `told`, before each, how many are done and how many there are."""
    total = len(trials) if hasattr(trials, "__len__") else None
    for done, (settings, edit) in enumerate(tqdm(trials, bar, total, unit="trial", disable=not bar, leave=False)):
        if told is not None:
            told(done, total)
        logits = validation.logits(edit, checked=done > 0)
        losses = F.cross_entropy(logits, validation.labels, reduction="none").nan_to_num(nan=float("inf"))
        yield {**settings, "edit": edit, "losses": losses, "wrong": misclassified(logits, validation.labels)}


def counted(
    trials: Iterable[Mapping[str, Any]] | pd.DataFrame, before: Tensor, images: Tensor | slice = slice(None)
) -> pd.DataFrame:
    """Tabulate what trials did to the validation images, or to some of them, `(N,)` booleans.

    Settings stay what they are, such as None among numbers; a setting that a trial has not is NaN.
    """
    table = pd.DataFrame(trials, dtype=object)
    if table.empty:
        return table
    right = int(before[images].sum())
    corrected = [int((before & ~wrong)[images].sum()) for wrong in table.wrong]
    net = [right - int(wrong[images].sum()) for wrong in table.wrong]
    figures = {"corrected": corrected, "broken": [c - n for c, n in zip(corrected, net, strict=True)], "net": net}
    return table.assign(**figures, loss=[float(losses[images].double().mean()) for losses in table.losses])
