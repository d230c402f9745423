"""The data of a report, for programs: what its page says, as a JSON file next to it."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

from edittools._caching import atomic_path
from edittools.reports.page import Page, save_page

PACKAGES = ("edittools", "torch", "torchvision", "numpy", "scipy", "safetensors")
"""The packages whose versions a report lists."""


def save_report(page: Page, data: Mapping[str, Any], path: str | PathLike) -> tuple[Path, Path]:
    """Write a report as an HTML page, and next to it its data as JSON; each file in one step.

    Args:
        page: the content of the page.
        data: the data, of types that JSON has, see `plain`.
        path: the page, such as "report.html"; the data are then in "report.json".

    Returns:
        The paths of the page and of the data.

    Raises:
        ValueError: if the path ends in ".json", or if a number is not finite.
    """
    data_path = Path(path).expanduser().with_suffix(".json")
    if data_path.name == Path(path).name:
        raise ValueError(f"{str(path)!r} is the name of the data; pass the name of the page, such as 'report.html'")
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    page_path = save_page(page, path)
    with atomic_path(data_path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return page_path, data_path


def plain(value: Any) -> Any:
    """Convert a value to types that JSON has; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if isfinite(value) else None
    return str(value)


def package_versions() -> dict[str, str]:
    """List the versions of Python and of the packages on which results depend."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
