"""Paths of version 0.2: each raises an error that names the new path, and each new path exists."""

import pkgutil

import pytest

import edittools
from edittools._moved import MOVED

STATEMENTS = {
    "import edittools.lab": "edittools.widgets",
    "from edittools.lab import plots": "edittools.plots",
    "from edittools.choosing import repair": "edittools.selection",
    "from edittools.choosing.choice import Bounds": "edittools.selection",
    "from edittools import stories": "edittools.scenarios",
    "from edittools.stories import photos": "edittools.scenarios",
    "import edittools.graph": "edittools._graph",
    "from edittools import caching": "edittools._caching",
    "from edittools.probing import finders": "edittools.probing.segmentation",
    "from edittools.world import scenes": "edittools.miniworld",
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_import_of_old_path(statement):
    with pytest.raises(ImportError, match=STATEMENTS[statement]):
        exec(statement, {})


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_new_path_exists(new):
    assert pkgutil.resolve_name(f"edittools.{new}")


@pytest.mark.parametrize("old", [name for name in MOVED if "." not in name])
def test_getattr_of_old_name(old):
    assert not hasattr(edittools, old)
    with pytest.raises(AttributeError, match=f"edittools.{old} .*edittools.{MOVED[old]}"):
        getattr(edittools, old)


def test_import_of_old_path_with_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "zoo").mkdir()
    monkeypatch.setattr(edittools, "__path__", [*edittools.__path__, str(tmp_path)])
    with pytest.raises(ImportError, match="edittools.zoo .*edittools.models"):
        exec("import edittools.zoo", {})
