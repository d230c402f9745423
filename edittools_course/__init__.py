"""What notebooks and benchmarks show: MiniWorld, scenarios, figures; of the rest, only `--demo` uses it."""

import importlib
from types import ModuleType

MODULES = ("miniworld", "networks", "plots", "rivals", "scenarios")
"""The modules and subpackages, which are imported when they are first used."""

__all__ = list(MODULES)


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first used (PEP 562).

    Raises:
        AttributeError: if there is no such module.
    """
    if name not in MODULES:
        raise AttributeError(f"module 'edittools_course' has no attribute {name!r}; it has {', '.join(MODULES)}")
    return importlib.import_module(f"edittools_course.{name}")
