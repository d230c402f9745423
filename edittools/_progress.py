"""Progress bars of long computations, made by the class that is passed as `progress=`, such as `tqdm.tqdm`."""

from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

Progress = Callable[..., Any]
"""A class like `tqdm.tqdm`, such as `tqdm.auto.tqdm`."""

Tell = Callable[[str], None]
"""Is called with a description of each step, and with each file that is left out."""


def bar_of(progress: Progress | None, iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """Make a bar, which disappears at its end.

    Args:
        progress: a class like `tqdm.tqdm`; None for a bar that shows nothing.
        iterable: what the bar iterates over, if anything.
        options: arguments of `tqdm.tqdm`, such as `desc`, `total` and `unit`.

    Raises:
        TypeError: if it is not such a class.
    """
    if progress is None:
        return tqdm(iterable, disable=True, **options)
    if not callable(progress):
        raise TypeError(f"progress={progress!r} makes no bars; pass a class like tqdm.auto.tqdm, or None for no bars")
    return progress(iterable, leave=False, **options)
