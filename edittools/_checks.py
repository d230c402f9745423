"""Checks of plain values and of what is installed; the error quotes what was given and says what would be right."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any


def check_number(value: Any, low: int, name: str) -> int:
    """Return a whole number from `low` up; raise `ValueError` otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} {value!r}: expected a whole number from {low} up")
    return int(value)


def check_amount(value: Any, name: str, low: float = -inf) -> float:
    """Return a finite number of at least `low` as a float; raise `ValueError` otherwise."""
    given = value.item() if hasattr(value, "item") else value  # numbers of torch and numpy
    if not isinstance(given, Real) or not isfinite(given) or given < low:
        raise ValueError(f"{name} {given!r}: expected a finite number{f' from {low:g} up' if low > -inf else ''}")
    return float(given)


def one_of(value: Any, known: Collection[str], name: str, error: type[Exception] = ValueError) -> Any:
    """Return a value that is one of those `known`; raise `error` otherwise."""
    if value not in known:
        raise error(f"{name} {value!r}: expected one of {', '.join(known)}")
    return value


@contextmanager
def extra(subpackage: str, name: str) -> Iterator[None]:
    """Name the extra that brings a missing package, where a subpackage is imported without it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edittools"):
            raise
        raise ModuleNotFoundError(
            f"edittools.{subpackage} needs the package {error.name!r}: pip install 'edittools[{name}]'", name=error.name
        ) from error
