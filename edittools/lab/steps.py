"""The edits made at a desk: on or off, each with its strength, added up, taken back, and written down as code."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch

from edittools.edits import Edit
from edittools.lab.bench import Bench, Settings
from edittools.lab.masks import encode_runs
from edittools.lab.palette import Recipe

IMPORTS = """import torch

import edittools as et
from edittools import lab
from edittools.lab import masks"""
SETS = ("images", "everyday", "keep")


@dataclass(frozen=True, eq=False)
class Step:
    """One edit made at a desk: its `name`, `strength` α, whether it is `on`, and the `code` that makes it.

    `code` is some lines of Python that end with `{name} = …`; `drawn_on` are the images that it was made from. An edit
    that was searched for depends on the images' labels: `searched` are those it was searched with, `(N,)`.
    """

    name: str
    edit: Edit
    strength: float = 1.0
    on: bool = True
    code: str = field(default="", repr=False)
    drawn_on: tuple[int, ...] = ()
    about: str = ""
    searched: torch.Tensor | None = field(default=None, repr=False)


class Steps:
    """The steps of a desk in order; every change can be taken back."""

    def __init__(self) -> None:
        self.now: tuple[Step, ...] = ()
        self._past: list[tuple[Step, ...]] = []
        self._changing: tuple[str, ...] | None = None
        self._made = 0

    def named(self, name: str | None) -> Step | None:
        """The step of that name, if there is one now."""
        return next((step for step in self.now if step.name == name), None)

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._past)

    def new_name(self) -> str:
        """A name that no step had."""
        self._made += 1
        return f"edit_{self._made}"

    def put(self, step: Step) -> None:
        """Put a step in the place of the one of its name, with that one's strength, or at the end."""
        names = [one.name for one in self.now]
        if step.name in names:
            old = self.now[names.index(step.name)]
            step = replace(step, on=old.on, strength=old.strength)
        self._become(
            (
                *[step if name == step.name else one for name, one in zip(names, self.now, strict=True)],
                *([] if step.name in names else [step]),
            )
        )

    def change(self, name: str, **changes: float | bool) -> None:
        """Set the strength of a step, or whether it is on; what is set again and again is taken back at once."""
        again = self._changing == (name, *changes)
        self._become(tuple(replace(step, **changes) if step.name == name else step for step in self.now), again)
        self._changing = (name, *changes)

    def alone(self, name: str) -> None:
        """Switch a step on and all others off."""
        self._become(tuple(replace(step, on=step.name == name) for step in self.now))

    def remove(self, name: str) -> None:
        """Take a step away."""
        self._become(tuple(step for step in self.now if step.name != name))

    def move(self, name: str, by: int) -> None:
        """Move a step to an earlier or later place; the sum stays the same."""
        order = list(self.now)
        place = [step.name for step in order].index(name)
        order.insert(max(0, min(len(order) - 1, place + by)), order.pop(place))
        self._become(tuple(order))

    def undo(self) -> None:
        """Take the last change back."""
        if self._past:
            self.now, self._changing = self._past.pop(), None

    def _become(self, steps: tuple[Step, ...], again: bool = False) -> None:
        if not again:
            self._past.append(self.now)
        self.now, self._changing = steps, None


def total(steps: Sequence[Step]) -> Edit | None:
    """The sum of the steps that are on, each times its strength; None where there is none."""
    found = None
    for step in steps:
        if step.on and step.strength:
            scaled = step.edit if step.strength == 1 else step.strength * step.edit
            found = scaled if found is None else found + scaled
    return found


def drawn_on(steps: Sequence[Step]) -> set[int]:
    """The images that the steps which are on were made from."""
    return {index for step in steps if step.on for index in step.drawn_on}


def exemplar_code(bench: Bench, index: int, mask: torch.Tensor, recipe: Recipe, source: str | None = None) -> str:
    """The lines that make an exemplar as the desk does; `source` is what the other picture is called."""
    text, size = encode_runs(mask.numpy() > 0), tuple(mask.shape)
    return "\n".join(
        [
            f"picture, label = bench.images.images[{index}], {int(bench.images.labels[index])}",
            f'mask = torch.from_numpy(masks.decode_runs("{text}", {size})).float()',
            f"exemplar = {_recipe_code(recipe, source)}.exemplar(picture, mask, label)",
        ]
    )


def rewriting_code(name: str, settings: Settings) -> str:
    """The lines that rewrite by an exemplar as the desk does."""
    given = ", ".join(f"{one.name}={getattr(settings, one.name)!r}" for one in fields(settings))
    return (
        f"settings = lab.Settings({given})\n"
        f"{name} = et.rewrite(classifier, settings.layer, exemplar, **bench.arguments(settings))"
    )


def search_code(name: str, index: int) -> str:
    """The line that searches by an exemplar as the desk does, if nobody ends it."""
    return f"{name} = bench.repair(exemplar, drawn_on=[{index}]).edit"


def code(bench: Bench, steps: Sequence[Step]) -> str:
    """Python that makes the sum of the steps that are on; it runs where the desk's arguments have their names."""
    given = [name for name in SETS if bench.given[name] is not None]
    lines = [
        *IMPORTS.splitlines(),
        "",
        f"# classifier, {', '.join(given)}: what et.lab.Desk was given",
        f"bench = lab.Bench(classifier, {', '.join(name if name == 'images' else f'{name}={name}' for name in given)})",
    ]
    labels = bench.images.labels
    lines += _relabelled(bench, bench.first_labels, labels)
    on = [step for step in steps if step.on and step.strength]
    for step in on:
        lines += ["", f"# {' '.join(step.about.split())}" if step.about else ""]
        if step.searched is not None:
            lines += _relabelled(bench, labels, step.searched)
            labels = step.searched
        lines.append(step.code)
    parts = " + ".join(step.name if step.strength == 1 else f"{step.strength!r} * {step.name}" for step in on)
    lines += ["", f"edit = {parts or None}"]
    return "\n".join(lines) + "\n"


def _relabelled(bench: Bench, before: torch.Tensor, after: torch.Tensor) -> list[str]:
    """The lines that make the images' labels those after of those before."""
    places, classes = (before != after).nonzero()[:, 0].tolist(), bench.classifier.classes
    return [f"bench.relabel({i}, {classes[int(after[i])]!r})" for i in places]


def _recipe_code(recipe: Recipe, source: str | None) -> str:
    """The call that makes a recipe, of which only what its kind reads is written."""
    read = {
        "texture": ("style", "variant", "shading", "misread"),
        "patch": ("part", "shading", "misread"),
        "paint out": ("misread",),
        "word": ("text",),
        "blank": (),
    }[recipe.kind]
    words = [repr(recipe.kind), *(f"{name}={getattr(recipe, name)!r}" for name in read)]
    words += [f"source={source}"] if recipe.kind == "patch" else []
    return f"lab.Recipe({', '.join(words)})"
