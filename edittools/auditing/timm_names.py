"""The names of timm's models, read from its files, so that a name is checked before torch and timm are imported."""

import importlib.util
import re
from pathlib import Path

from edittools._checks import suggestion

MODEL = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
"""The function of a model."""

FORMER_NAMES = re.compile(r"register_model_deprecations\(__name__, \{(.*?)\}\)", re.DOTALL)
"""A table of former names, which timm still loads."""

NAME_IN_TABLE = re.compile(r"""['"](\w+)['"]\s*:""")
"""A former name in a table."""


def check_timm_name(name: str) -> None:
    """Check that timm has a model of that name; folders and names with a library, such as "hf-hub:…", are not checked.

    Raises:
        KeyError: if it has none.
        ModuleNotFoundError: if timm is not installed.
    """
    if ":" in name or Path(name).expanduser().is_dir():
        return
    architecture = name.partition(".")[0]
    names, former_names = read_timm_names()
    if architecture in names or architecture in former_names:
        return
    remedy = suggestion(architecture, names) or (
        "pass one of timm.list_models(), or a folder in which timm has saved a model"
    )
    raise KeyError(f"timm has no model {name!r}; {remedy}")


def read_timm_names() -> tuple[list[str], list[str]]:
    """Read the names of all models, and former names, from the files of timm."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "models of timm need the package 'timm', which is not installed; run pip install 'edittools[notebooks]'",
            name="timm",
        )
    files = sorted(Path(found.origin).parent.glob("models/*.py"))
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    tables = "\n".join(FORMER_NAMES.findall(source))
    return MODEL.findall(source), NAME_IN_TABLE.findall(tables)
