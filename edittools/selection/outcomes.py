"""Candidates, and what they do to the target images: losses and errors as tensors, from which selections are made."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.methods import Method
from edittools.moments import NoEditError
from edittools.site import Site

LAYERS_THAT_GO_ON = 4
"""The number of layers in which a search tries the whole grid."""

FEW_CANDIDATES = 100
"""So few candidates are tried in all layers, in a single pass."""

SINGLE = "single"
"""The pass of a candidate of a method that is tried in a single pass."""

FIRST = "first"
"""The pass of a candidate with default settings, which is tried in every layer."""

SECOND = "second"
"""The pass of a candidate of the whole grid, which counts only where its layer is among the best of the first pass."""


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one dictionary of settings for each combination of values, in the order given.

    Example: `grid(rank=(1, 3), masked=(True, False))` returns four dictionaries, the first one with rank 1 and a mask.
    """
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An edit to try.

    Attributes:
        params: its parameters by name: method, layer, exemplar, settings and strength.
        edit: the edit.
        strength: factor α by which the edit is scaled.
        tried_in: the pass in which it is tried: `SINGLE`, `FIRST` or `SECOND`.
    """

    params: Mapping[str, Any]
    edit: Edit
    strength: float = 1.0
    tried_in: str = SINGLE

    @cached_property
    def scaled(self) -> Edit:
        """The edit, scaled by the strength."""
        return self.strength * self.edit


@dataclass(frozen=True)
class Candidates(Iterable[Candidate]):
    """The edits of one method: for each layer, exemplar, setting and strength.

    Each iteration makes the edits again, one by one. If a setting has several `steps`, one run makes an edit for each
    number of steps. The length is an upper bound, since a rank that exceeds the number of independent keys at a small
    mask gives no candidate.

    Args:
        method: the method, with the settings and the strengths to try.
        layers: names of the layers.
        exemplars: the exemplars of each edit, by name.
        site: returns the site of a layer, by its name, and of the exemplars of one edit.
        tried_in: the pass of the candidates, see `Candidate`.
    """

    method: Method
    layers: Sequence[str]
    exemplars: Mapping[str, Sequence[Exemplar]]
    site: Callable[[str, Sequence[Exemplar]], Site]
    tried_in: str = SINGLE

    def __len__(self) -> int:
        edits = sum(len(_settings_of_run(setting)) for setting in self.method.settings)
        return len(self.layers) * len(self.exemplars) * edits * len(self.method.strengths)

    def __iter__(self) -> Iterator[Candidate]:
        for layer, (name, members) in product(self.layers, self.exemplars.items()):
            site = self.site(layer, members)
            for setting in self.method.settings:
                try:
                    edits = self.method.edits(site, **setting)
                except NoEditError:
                    continue
                for values, edit in zip(_settings_of_run(setting), edits, strict=True):
                    for strength in self.method.strengths:
                        where = {"method": self.method.name, "layer": layer, "exemplar": name}
                        yield Candidate({**where, **values, "strength": strength}, edit, strength, self.tried_in)

    @property
    def need_two_passes(self) -> bool:
        """Whether the candidates are so many that only some layers get the whole grid."""
        return len(self.layers) > LAYERS_THAT_GO_ON and len(self) > FEW_CANDIDATES

    @property
    def expected_count(self) -> int:
        """About how many candidates are scored, in one or two passes."""
        if not self.need_two_passes:
            return len(self)
        in_one_layer = len(self) // len(self.layers)
        return len(self.first_pass()) + LAYERS_THAT_GO_ON * in_one_layer

    def first_pass(self) -> "Candidates":
        """Return the candidates of a first pass: the default settings and a strength of 1, in each layer.

        Settings that have the same value in all of the grid keep it. If full rank is among the ranks of the grid, it is
        tried next to the default rank, since the two are at their best in different layers. Without a strength of 1,
        the middle one is taken.
        """
        tried = self.method.settings
        first, *others = tried or [{}]
        shared = {
            name: value
            for name, value in first.items()
            if all(name in other and other[name] == value for other in others)
        }
        if isinstance(shared.get("steps"), Sequence):
            shared["steps"] = shared["steps"][0]
        strengths = self.method.strengths
        strength = 1.0 if 1.0 in strengths else strengths[len(strengths) // 2]
        settings = [shared]
        if "rank" not in shared and any(setting.get("rank", 1) is None for setting in tried):
            settings.append({**shared, "rank": None})
        return replace(self, method=replace(self.method, settings=settings, strengths=(strength,)), tried_in=FIRST)

    def second_pass(self, layers: Collection[str]) -> "Candidates":
        """Return the candidates of a second pass: the whole grid in some of the layers."""
        return replace(self, layers=[layer for layer in self.layers if layer in layers], tried_in=SECOND)


def _settings_of_run(setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the settings of each edit that a run makes: one for each number of `steps`."""
    steps = setting.get("steps")
    if isinstance(steps, Sequence):
        return [{**setting, "steps": stop} for stop in steps]
    return [dict(setting)]


class Outcome(NamedTuple):
    """What a candidate does to N images.

    Attributes:
        candidate: the candidate.
        losses: the cross-entropy of each image, `(N,)`.
        wrong: which images are misclassified, `(N,)` booleans.
    """

    candidate: Candidate
    losses: Tensor
    wrong: Tensor


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What K candidates do to N target images.

    Attributes:
        candidates: the candidates, of one method or of several, one method after the other.
        losses: the cross-entropy of each image with each candidate, `(K, N)`.
        wrong: which images are misclassified with each candidate, `(K, N)` booleans.
        before: which images are misclassified without an edit, `(N,)` booleans.
        seconds: the time that scoring took, by the name of the method.
    """

    candidates: Sequence[Candidate]
    losses: Tensor = field(repr=False)
    wrong: Tensor = field(repr=False)
    before: Tensor = field(repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def collected(cls, outcomes: Iterable[Outcome], before: Tensor) -> "Outcomes":
        """Collect the outcomes of candidates; `before` is that of the attributes."""
        outcomes = list(outcomes)
        shape = (len(outcomes), len(before))
        losses = torch.stack([one.losses for one in outcomes]) if outcomes else torch.zeros(shape)
        wrong = torch.stack([one.wrong for one in outcomes]) if outcomes else torch.zeros(shape, dtype=torch.bool)
        return cls([one.candidate for one in outcomes], losses, wrong, before)

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def methods(self) -> list[str]:
        """The names of the methods, in the order of their candidates."""
        return list(dict.fromkeys(candidate.params.get("method", "") for candidate in self.candidates))

    def of(self, *methods: str) -> "Outcomes":
        """Return the outcomes of the candidates of some methods, which are given by their names."""
        outcomes = self.where(lambda candidate: candidate.params.get("method", "") in methods)
        return replace(outcomes, seconds={name: time for name, time in self.seconds.items() if name in methods})

    def tried_in(self, *passes: str) -> "Outcomes":
        """Return the outcomes of the candidates of some passes, see `Candidate`."""
        return self.where(lambda candidate: candidate.tried_in in passes)

    def where(self, is_wanted: Callable[[Candidate], bool]) -> "Outcomes":
        """Return the outcomes of the candidates that a function wants."""
        return self.of_candidates([index for index, one in enumerate(self.candidates) if is_wanted(one)])

    def on_images(self, images: Tensor | slice) -> "Outcomes":
        """Return the outcomes on some of the images, which are given as `(N,)` booleans, as indices or as a slice."""
        return replace(self, losses=self.losses[:, images], wrong=self.wrong[:, images], before=self.before[images])

    def of_candidates(self, indices: Sequence[int]) -> "Outcomes":
        """Return the outcomes of some of the candidates, which are given by their indices, in that order."""
        indices = list(indices)
        candidates = [self.candidates[index] for index in indices]
        return replace(self, candidates=candidates, losses=self.losses[indices], wrong=self.wrong[indices])

    def joined(self, other: "Outcomes") -> "Outcomes":
        """Return these outcomes and those of other candidates on the same images."""
        return replace(
            self,
            candidates=[*self.candidates, *other.candidates],
            losses=torch.cat([self.losses, other.losses]),
            wrong=torch.cat([self.wrong, other.wrong]),
            seconds={**self.seconds, **other.seconds},
        )

    def timed(self, seconds: float, method: str = "") -> "Outcomes":
        """Return the outcomes with the time that scoring them took."""
        return replace(self, seconds={method: seconds})

    @cached_property
    def corrected(self) -> Tensor:
        """The number of images that each candidate corrects, `(K,)`."""
        return (self.before & ~self.wrong).sum(dim=1)

    @cached_property
    def broken(self) -> Tensor:
        """The number of images that each candidate breaks, `(K,)`."""
        return (~self.before & self.wrong).sum(dim=1)

    @cached_property
    def net(self) -> Tensor:
        """The number of images that each candidate corrects, minus the number that it breaks, `(K,)`."""
        return self.corrected - self.broken

    @cached_property
    def loss(self) -> Tensor:
        """The mean cross-entropy with each candidate, `(K,)` float64."""
        return self.losses.double().mean(dim=1)

    @property
    def by_loss(self) -> list[int]:
        """The indices of the candidates, the one with the lowest loss first."""
        return self.loss.argsort(stable=True).tolist()

    def table(self) -> pd.DataFrame:
        """Tabulate the candidates.

        Returns:
            One row per candidate: its parameters; the numbers of images `corrected`, `broken` and `net` (corrected −
            broken); and the `loss` (mean cross-entropy). Parameters keep their types, such as None among numbers; one
            that a method does not have is empty.
        """
        table = pd.DataFrame([dict(candidate.params) for candidate in self.candidates], dtype=object)
        scores = {"corrected": self.corrected, "broken": self.broken, "net": self.net, "loss": self.loss}
        return table.assign(**{name: values.numpy() for name, values in scores.items()})


def describe_params(params: Mapping[str, Any]) -> str:
    """Describe the parameters of an edit in words, those with numbers last."""
    in_order = sorted(params.items(), key=lambda param: isinstance(param[1], int | float))
    words = [_describe(name, value) for name, value in in_order]
    return ", ".join(word for word in words if word)


def _describe(name: str, value: Any) -> str:
    """Describe one parameter in words."""
    if name == "masked":
        return "mask" if value else "no mask"
    if value is None:
        return f"full {name}"
    if isinstance(value, str):
        return value
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    return f"α {text}" if name == "strength" else f"{name} {text}"
