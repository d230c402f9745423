"""Checks of plain values and of installed packages; errors quote the value and say what to pass instead."""

import difflib
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

PASSED_OVER = ("edittools", "contextlib", "torch")
"""The packages whose lines did not call this library: its own, and those of the decorators around its functions."""

MOST_SUGGESTED = 3
"""The largest number of similar names in an error message."""


def check_number(value: Any, name: str, low: int) -> int:
    """Return a whole number as an int.

    Args:
        name: what the error message calls the value.
        low: the smallest number that is allowed.

    Raises:
        ValueError: if it is not a whole number of at least `low`.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} {value!r} is not allowed; pass a whole number of at least {low}")
    return int(value)


def check_amount(value: Any, name: str, low: float = -inf) -> float:
    """Return a finite number as a float.

    Args:
        value: the value to check; numbers of torch and numpy are accepted.
        name: what the error message calls the value.
        low: the smallest number that is allowed.

    Raises:
        ValueError: if it is not a finite number of at least `low`.
    """
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, Real) or not isfinite(number) or number < low:
        remedy = f"pass a finite number of at least {low:g}" if low > -inf else "pass a finite number"
        raise ValueError(f"{name} {number!r} is not allowed; {remedy}")
    return float(number)


def one_of(value: Any, choices: Collection[str], name: str, error: type[Exception] = ValueError) -> Any:
    """Return a value that is one of several.

    Args:
        choices: the values that are allowed.
        name: what the error message calls the value.
        error: type of the exception.

    Raises:
        error: if the value is not among `choices`.
    """
    if value not in choices:
        raise error(f"{name} {value!r} is not available; pass one of {', '.join(choices)}")
    return value


def suggestion(value: Any, names: Iterable[str]) -> str:
    """Ask whether one of the names was meant that are most similar to a value; empty if none is similar.

    Args:
        value: the value that is not among the names.
        names: the names; their case is ignored.

    Returns:
        A question for the end of an error message, such as "did you mean 'tape player'?".
    """
    text = str(value).lower()
    by_lower = {name.lower(): name for name in names}
    similar = difflib.get_close_matches(text, by_lower, n=MOST_SUGGESTED)
    if text:
        similar += [lower for lower in by_lower if text in lower and lower not in similar]
    if not similar:
        return ""
    return f"did you mean {' or '.join(repr(by_lower[lower]) for lower in similar[:MOST_SUGGESTED])}?"


def warn(message: str) -> None:
    """Warn at the line that called this library, whichever of its functions found the reason.

    Warns:
        UserWarning: with the message.
    """
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in PASSED_OVER:
        level += 1
        frame = frame.f_back
    warnings.warn(message, stacklevel=level)


@contextmanager
def extra(subpackage: str, name: str) -> Iterator[None]:
    """Import a subpackage's modules inside this context, so that a missing package names the extra that brings it.

    Args:
        subpackage: the subpackage that is imported.
        name: the extra of `edittools` that its packages belong to.

    Raises:
        ModuleNotFoundError: if a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edittools"):
            raise
        raise ModuleNotFoundError(
            f"edittools.{subpackage} needs the package {error.name!r}, which is not installed; run pip install "
            f"'edittools[{name}]'",
            name=error.name,
        ) from error
