"""Import the public names of a subpackage when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from edittools._checks import extra


def lazy_names(subpackage: str, modules: Mapping[str, str], needs: str | None = None) -> Callable[[str], Any]:
    """Make the function `__getattr__` of a subpackage.

    Args:
        modules: the module of each public name, below `edittools`.
        needs: the extra of `edittools` that the modules need; None if they need none.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            available = ", ".join(modules)
            raise AttributeError(f"module 'edittools.{subpackage}' has no attribute {name!r}; it has {available}")
        with extra(subpackage, needs) if needs else nullcontext():
            module = importlib.import_module(f"edittools.{modules[name]}")
        return getattr(module, name)

    return __getattr__
