"""Edits to try: every combination of layer, exemplar and settings, made one by one, and what each does on validation.

A trial is a pair: its settings, and the edit they give. `Trials` makes them when they are asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools.baselines.finetuning import STEPS, finetune_path
from edittools.choosing.states import CachedStates
from edittools.classifiers import Classifier
from edittools.cut import Cut, editable_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.keys import ExemplarStates
from edittools.metrics import errors
from edittools.moments import RankError

Trial = tuple[dict[str, Any], Edit]
Exemplars = Mapping[str, Exemplar | Sequence[Exemplar]]
Shown = Exemplars | None
Settings = Sequence[Mapping[str, Any]]
Strengths = Sequence[float]
Layers = Sequence[str] | None
Told = Callable[[int, int | None], None]
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


class Trials(Iterable[Trial]):
    """A sized iterable of trials. Each iteration makes the edits anew, so a sweep holds one at a time.

    The length is the most there can be: a rank that the keys of a small mask do not span gives no trial.
    """

    def __init__(self, make: Callable[[], Iterable[Trial]], count: int) -> None:
        self._make, self._count = make, count

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._make())

    def __len__(self) -> int:
        return self._count

    def at(self, strengths: Strengths) -> "Trials":
        """Try each edit at several strengths α: α times what it changes."""
        scaled = lambda: (({**s, "strength": a}, a * edit) for s, edit in self for a in strengths)  # noqa: E731
        return Trials(scaled, len(self) * len(strengths))


def grid(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Combine the named choices in every way, such as `grid(rank=(1, 3), masked=(True, False))`."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def method_trials(
    method: Callable[..., Edit],
    cuts: Mapping[str, Cut],
    exemplars: Exemplars,
    reference: Mapping[str, Any],
    settings: Settings,
    strengths: Strengths = USUAL,
) -> Trials:
    """Try `method(classifier, cut, exemplars, reference, **setting)` in each layer, at each strength α.

    `method` is `rewrite` or a baseline; `reference`, what it takes, goes by layer. What it finds no direction for, such
    as a rank above what the keys at a small mask span, gives no trial.
    """

    def make() -> Iterator[Trial]:
        for (layer, name, shown), setting in product(_at_layers(cuts, exemplars), settings):
            try:
                edit = method(shown.cut.classifier, shown.cut, shown, reference[layer], **setting)
            except RankError:
                continue
            yield {"layer": layer, "exemplar": name, **setting}, edit

    return Trials(make, len(cuts) * len(exemplars) * len(settings)).at(strengths)


def finetuning_trials(
    cuts: Mapping[str, Cut],
    exemplars: Exemplars,
    settings: Settings,
    reference: LabelledImages | CachedStates | None = None,
) -> Trials:
    """Fine-tune in each layer, with each exemplar and setting of `finetune`.

    Settings that differ in `steps` alone are one run, see `finetune_path`. `reference` images for the locality term may
    come as `CachedStates`; then they are not run up to the layer again.
    """
    runs: dict[tuple, set[int]] = {}
    for setting in settings:
        shared = tuple((name, value) for name, value in setting.items() if name != "steps")
        runs.setdefault(shared, set()).add(setting.get("steps", STEPS))

    def make() -> Iterator[Trial]:
        for (layer, name, shown), (setting, steps) in product(_at_layers(cuts, exemplars), runs.items()):
            near = reference.batches(layer) if isinstance(reference, CachedStates) else reference
            path = finetune_path(shown.cut.classifier, shown.cut, shown, sorted(steps), reference=near, **dict(setting))
            for count, edit in zip(sorted(steps), path, strict=True):
                yield {"layer": layer, "exemplar": name, **dict(setting), "steps": count}, edit

    return Trials(make, len(cuts) * len(exemplars) * sum(map(len, runs.values())))


def _at_layers(cuts: Mapping[str, Cut], exemplars: Exemplars) -> Iterator[tuple[str, str, ExemplarStates]]:
    """Pair each layer with each exemplar, run up to it once."""
    return ((layer, name, ExemplarStates(cuts[layer], exemplars[name])) for layer, name in product(cuts, exemplars))


def sweep(trials: Iterable[Trial], validation: CachedStates, progress: bool = False) -> pd.DataFrame:
    """Try each edit on the validation images.

    One row a trial: its settings, `corrected`, `broken`, `net` (corrected − broken), `loss` (mean cross-entropy), the
    `edit` itself, and of each image its cross-entropy (`losses`) and whether it is misread (`wrong`).
    """
    return counted(table_of(list(tried(trials, validation, "trials" if progress else ""))), validation.before)


def tried(
    trials: Iterable[Trial], validation: CachedStates, bar: str = "", told: Told | None = None
) -> Iterator[dict[str, Any]]:
    """Try each edit on the validation images, one after the other, beside a progress `bar` of that name.

    `told` is called before each with how many are done and how many there are.
    """
    total = len(trials) if hasattr(trials, "__len__") else None
    for done, (settings, edit) in enumerate(tqdm(trials, bar, total, unit="trial", disable=not bar, leave=False)):
        if told is not None:
            told(done, total)
        logits = validation.logits(edit)
        losses = F.cross_entropy(logits, validation.labels, reduction="none").nan_to_num(nan=float("inf"))
        yield {**settings, "edit": edit, "losses": losses, "wrong": errors(logits, validation.labels)}


def counted(table: pd.DataFrame, before: Tensor, images: Tensor | slice = slice(None)) -> pd.DataFrame:
    """Count and average what trials did to the validation images, or to some of them, `(N,)` booleans."""
    if table.empty:
        return table
    right = int(before[images].sum())
    corrected = [int((before & ~wrong)[images].sum()) for wrong in table.wrong]
    net = [right - int(wrong[images].sum()) for wrong in table.wrong]
    figures = {"corrected": corrected, "broken": [c - n for c, n in zip(corrected, net, strict=True)], "net": net}
    return table.assign(**figures, loss=[float(losses[images].double().mean()) for losses in table.losses])


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate trials; settings stay what they are: None among numbers, whole numbers where a row lacks one."""
    table = pd.DataFrame(rows)
    for name in table:
        known = [row[name] for row in rows if name in row]
        whole = all(one is None or isinstance(one, int) for one in known)
        if None in known or (whole and len(known) < len(rows)):
            values = [row.get(name, float("nan")) for row in rows]
            table[name] = pd.Series(values, index=table.index, dtype=object)
    return table
