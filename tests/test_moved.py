"""Paths of 0.2: each raises an error that names the new one, and each new one is there."""

import pkgutil
import subprocess
import sys

import pytest

import edittools
from edittools._moved import MOVED

STATEMENTS = {
    "import edittools.lab": "edittools.lab is now edittools.widgets",
    "from edittools.lab import plots": "edittools.plots",
    "from edittools.choosing import repair": "edittools.choosing is now edittools.selection",
    "from edittools.choosing.choice import Bounds": "edittools.choosing is now edittools.selection",
    "from edittools import stories": "edittools.stories is now edittools.scenarios",
    "from edittools.stories import photos": "edittools.stories is now edittools.scenarios",
    "import edittools.graph": "edittools.graph is now edittools._graph .private.",
    "from edittools import caching": "edittools.caching is now edittools._caching",
    "from edittools.probing import finders": "edittools.probing.finders is now edittools.probing.segmentation",
    "from edittools.world import scenes": "edittools.world is now edittools.miniworld",
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_import_of_an_old_path_names_the_new_one(statement):
    with pytest.raises(ImportError, match=STATEMENTS[statement]):
        exec(statement, {})


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_new_path_is_there(new):
    assert pkgutil.resolve_name(f"edittools.{new}")


@pytest.mark.parametrize("old", [name for name in MOVED if "." not in name])
def test_attribute_of_an_old_name_names_the_new_one(old):
    assert not hasattr(edittools, old)
    with pytest.raises(AttributeError, match=f"edittools.{old} is now edittools.{MOVED[old]}"):
        getattr(edittools, old)


def test_an_empty_folder_of_an_old_name_does_not_hide_the_error(tmp_path):
    (tmp_path / "zoo").mkdir()
    code = f"import edittools; edittools.__path__.append({str(tmp_path)!r}); import edittools.zoo"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: edittools.zoo is now edittools.models" in run.stderr
