"""The methods that experiments compare: functions `edits(site, **settings)` that return a list of edits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edittools._checks import check_amount
from edittools.edits import Edit
from edittools.rewriting import EDIT, RANDOM, rewrite_at, rewrite_at_random
from edittools_course.rivals import PROJECTIONS, finetune, project_concept


@dataclass(frozen=True, eq=False)
class Method:
    """A way to make edits of a layer, with the settings that a search tries.

    Attributes:
        name: its name in tables.
        edits: a function `edits(site, **settings)` that returns a list of edits.
        settings: dictionaries of keyword arguments of `edits`, all of which are tried.
        strengths: factors α by which each edit is scaled.
    """

    name: str
    edits: Callable[..., list[Edit]]
    settings: Sequence[Mapping[str, Any]] = ({},)
    strengths: Sequence[float] = (0.5, 1.0)

    def trying(
        self, settings: Sequence[Mapping[str, Any]] | None = None, strengths: Sequence[float] | None = None
    ) -> "Method":
        """Return the method with other settings and strengths to try; by default, its own.

        Args:
            settings: see the attributes.
            strengths: see the attributes.

        Raises:
            TypeError: if the settings are a single dictionary.
            ValueError: if a strength is not a finite number, or if there is none.
        """
        if isinstance(settings, Mapping):
            raise TypeError(f"The settings {settings!r} are a single dictionary; pass a list of dictionaries")
        tried = self.settings if settings is None else list(settings)
        scales = self.strengths if strengths is None else [check_amount(value, "strength") for value in strengths]
        if not scales:
            raise ValueError(f"strengths={strengths!r} has no strength; pass at least one factor, such as (0.5, 1.0)")
        return replace(self, settings=tried, strengths=scales)


METHODS = {
    method.name: method
    for method in (
        Method(EDIT, rewrite_at),
        Method(RANDOM, rewrite_at_random),
        Method("projection", project_concept, PROJECTIONS),
        Method("local fine-tuning", finetune, ({"scope": "local"},), (1.0,)),
        Method("global fine-tuning", finetune, ({"scope": "global"},), (1.0,)),
    )
}
"""The edit, its control, and the rivals, by name."""
