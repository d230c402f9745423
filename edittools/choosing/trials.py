"""Edits to try: every combination of layer, exemplar and settings, made one by one, and what each does on validation.

A trial is a pair: its settings, and the edit they give. `Trials` makes them when they are asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Any

import pandas as pd
import torch
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
from edittools.keys import ExemplarStates, LayerKeys
from edittools.metrics import Comparison, errors
from edittools.moments import RankError, SecondMoment
from edittools.rewriting import rewrite

Trial = tuple[dict[str, Any], Edit]
Exemplars = Mapping[str, Exemplar | Sequence[Exemplar]]
Settings = Sequence[Mapping[str, Any]]
RANKS = {"loss": {"loss": True}, "net": {"net": False, "loss": True}}  # by what trials are ranked: columns, rising?


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

    def __add__(self, other: "Trials") -> "Trials":
        """Try these first, then `other`."""
        return Trials(lambda: chain(self, other), len(self) + len(other))

    def at(self, strengths: Sequence[float]) -> "Trials":
        """Try each edit at several strengths α: α times what it changes."""
        scaled = lambda: (({**s, "strength": a}, a * edit) for s, edit in self for a in strengths)  # noqa: E731
        return Trials(scaled, len(self) * len(strengths))


def grid(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Combine the named choices in every way, such as `grid(rank=(1, 3), masked=(True, False))`."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def baseline_trials(
    method: Callable[..., Edit],
    cuts: Mapping[str, Cut],
    exemplars: Exemplars,
    reference: Mapping[str, Any],
    settings: Settings,
    strengths: Sequence[float] = (0.5, 1.0),
) -> Trials:
    """Try `method(classifier, cut, exemplars, reference, **setting)` in each layer, at each strength α.

    `reference`, what the method takes, goes by layer. What a method finds no direction for, such as a rank above what
    the keys at a small mask span, gives no trial.
    """

    def make() -> Iterator[Trial]:
        for (layer, name, shown), setting in product(_at_layers(cuts, exemplars), settings):
            try:
                edit = method(shown.cut.classifier, shown.cut, shown, reference[layer], **setting)
            except RankError:
                continue
            yield {"layer": layer, "exemplar": name, **setting}, edit

    return Trials(make, len(cuts) * len(exemplars) * len(settings)).at(strengths)


def rewriting_trials(
    cuts: Mapping[str, Cut],
    exemplars: Exemplars,
    reference: Mapping[str, SecondMoment | LayerKeys],
    settings: Settings,
    strengths: Sequence[float] = (0.5, 1.0),
) -> Trials:
    """Rewrite with each layer, exemplar and setting of `rewrite`, at each strength α, see `baseline_trials`."""
    return baseline_trials(rewrite, cuts, exemplars, reference, settings, strengths)


def random_trials(
    cuts: Mapping[str, Cut],
    exemplars: Exemplars,
    reference: Mapping[str, SecondMoment | LayerKeys],
    settings: Settings,
    strengths: Sequence[float] = (0.5, 1.0),
    seed: int = 0,
) -> Trials:
    """The control of `rewriting_trials`: the same trials, solved in the same way along random directions.

    A direction depends on the seed, the layer's width and the rank. Settings without a rank are left out.
    """

    def rewrite_at_random(classifier: Classifier, cut: Cut, shown: ExemplarStates, *given: Any, **setting: Any) -> Edit:
        basis = random_basis(setting.get("rank", 1), cut.weight.shape[1], seed)
        return rewrite(classifier, cut, shown, *given, basis=basis.to(cut.weight), **setting)

    ranked = [setting for setting in settings if setting.get("rank", 1) is not None]
    return baseline_trials(rewrite_at_random, cuts, exemplars, reference, ranked, strengths)


def _at_layers(cuts: Mapping[str, Cut], exemplars: Exemplars) -> Iterator[tuple[str, str, ExemplarStates]]:
    """Each layer with each exemplar, run up to it once."""
    return ((layer, name, ExemplarStates(cuts[layer], exemplars[name])) for layer, name in product(cuts, exemplars))


def random_basis(rank: int, width: int, seed: int) -> Tensor:
    """Draw orthonormal rows `(rank, width)`."""
    noise = torch.randn((rank, width), generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise.T).Q.T


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
    runs = _runs(settings)

    def make() -> Iterator[Trial]:
        for (layer, name, shown), (setting, steps) in product(_at_layers(cuts, exemplars), runs):
            near = reference.batches(layer) if isinstance(reference, CachedStates) else reference
            path = finetune_path(shown.cut.classifier, shown.cut, shown, steps, reference=near, **setting)
            for count, edit in zip(steps, path, strict=True):
                yield {"layer": layer, "exemplar": name, **setting, "steps": count}, edit

    return Trials(make, len(cuts) * len(exemplars) * sum(len(steps) for _, steps in runs))


def _runs(settings: Settings) -> list[tuple[dict[str, Any], list[int]]]:
    """Put settings together that differ in their steps alone: what they share, and the rising steps."""
    runs: list[tuple[dict[str, Any], list[int]]] = []
    for setting in map(dict, settings):
        steps = setting.pop("steps", STEPS)
        same = next((known for shared, known in runs if shared == setting), None)
        if same is None:
            runs.append((setting, [steps]))
        elif steps not in same:
            same.append(steps)
    return [(shared, sorted(steps)) for shared, steps in runs]


def ranked(tried: pd.DataFrame, rank_by: str = "loss") -> pd.DataFrame:
    """The rows of a table of `sweep`, best first: by "loss" the lowest, by "net" the highest net gain, then the loss.

    Raises `ValueError` for another word.
    """
    if rank_by not in RANKS:
        raise ValueError(f"rank_by {rank_by!r}: expected 'loss' or 'net'")
    return tried.sort_values(list(RANKS[rank_by]), ascending=list(RANKS[rank_by].values()), kind="stable")


def best_runs(tried: pd.DataFrame, count: int, by: Sequence[str] = ("layer",), rank_by: str = "loss") -> pd.DataFrame:
    """Take the `count` best fine-tunings in a table of `sweep`, one for each value of the columns `by`."""
    return ranked(tried, rank_by).drop_duplicates(list(by)).head(count)


def repeated_trials(
    chosen: pd.DataFrame,
    cuts: Mapping[str, Cut],
    exemplars: Exemplars,
    steps: Sequence[int],
    localities: Sequence[float] = (),
    reference: LabelledImages | CachedStates | None = None,
    batch_size: int = 16,
) -> Trials:
    """Repeat fine-tunings, rows of a table of `sweep`, for other `steps`, and with each locality (default: their own).

    A locality is the weight of a term that keeps `reference` images as they are.
    """
    parts = []
    for row in chosen.itertuples():
        own = {"momentum": (getattr(row, "momentum", 0.0),), "locality": localities or (getattr(row, "locality", 0.0),)}
        settings = grid(scope=(row.scope,), rate=(row.rate,), **own, batch_size=(batch_size,), steps=steps)
        cut, exemplar = {row.layer: cuts[row.layer]}, {row.exemplar: exemplars[row.exemplar]}
        parts.append(finetuning_trials(cut, exemplar, settings, reference))
    return sum(parts, Trials(lambda: (), 0))


def sweep(trials: Iterable[Trial], validation: CachedStates, progress: bool = False) -> pd.DataFrame:
    """Try each edit on the validation images.

    One row a trial: its settings, `corrected`, `broken`, `net` (corrected − broken), `loss` (mean cross-entropy) and
    the `edit` itself.
    """
    rows, total = [], len(trials) if hasattr(trials, "__len__") else None
    for settings, edit in tqdm(trials, "trials", total, unit="trial", disable=not progress, leave=False):
        logits = validation.logits(edit)
        found = Comparison(validation.before, errors(logits, validation.labels))
        loss = float(F.cross_entropy(logits, validation.labels))
        counts = {"corrected": found.corrected, "broken": found.broken, "net": found.corrected - found.broken}
        rows.append({**settings, **counts, "loss": loss if loss == loss else float("inf"), "edit": edit})
    return table_of(rows)


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each trial; settings stay what they are: None among numbers, whole numbers where a row lacks one."""
    table = pd.DataFrame(rows)
    for name in table:
        known = [row[name] for row in rows if name in row]
        whole = all(one is None or isinstance(one, int) for one in known)
        if None in known or (whole and len(known) < len(rows)):
            values = [row.get(name, float("nan")) for row in rows]
            table[name] = pd.Series(values, index=table.index, dtype=object)
    return table
