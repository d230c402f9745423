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

from edittools._storage import atomic_path

PACKAGES = ("edittools", "torch", "torchvision", "numpy", "scipy", "safetensors")
"""The packages whose versions a report lists."""


def report_paths(path: str | PathLike) -> tuple[Path, Path]:
    """Return the paths of a report: that of its page, such as "report.html", and that of its data, "report.json".

    Raises:
        ValueError: if the path ends in ".json".
    """
    page_path = Path(path).expanduser()
    if page_path.suffix == ".json":
        raise ValueError(f"{str(path)!r} is the name of the data; pass the name of the page, such as 'report.html'")
    return page_path, page_path.with_suffix(".json")


def save_report(page: str, data: Mapping[str, Any], paths: tuple[Path, Path]) -> None:
    """Write a report as an HTML page, and next to it its data as JSON; each file in one step.

    Args:
        page: the page, see `render`.
        data: the data, of types that JSON has, see `plain`.
        paths: the paths of both, see `report_paths`.

    Raises:
        ValueError: if a number is not finite.
    """
    page_path, data_path = paths
    texts = {page_path: page, data_path: f"{json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)}\n"}
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


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
            versions[package] = "unknown (run from its sources)" if package == "edittools" else "not installed"
    return versions
