"""What an import loads, what the library says if a package is missing, and that all public names can be imported."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edittools

ROOT = Path(__file__).resolve().parents[2]
NAMES_THE_COURSE = ("cli.py", "models/zoo.py")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

IMPORTS = """
import sys, torch, torchvision
before = set(sys.modules)
import edittools
print(*sorted(set(sys.modules) - before))
import edittools.widgets.materials
print(*sorted(sys.modules))
sys.modules["ipywidgets"] = None
edittools.widgets.MaskEditor
"""


@pytest.fixture(scope="module")
def fresh_process():
    """Import the library in a process of its own: what that adds, all modules after the materials, the last error."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    added, loaded = (set(line.split()) for line in done.stdout.splitlines())
    return added, loaded, done.stderr


def test_import_loads_no_heavy_package_and_no_subpackage(fresh_process):
    added, _, _ = fresh_process
    heavy = {"pandas", "scipy", "matplotlib", "ipywidgets", "anywidget", "skimage", "pooch", "open_clip", "timm"}
    assert "edittools" in added
    assert not {name.split(".")[0] for name in added} & heavy
    assert not {f"edittools.{subpackage}" for subpackage in edittools.SUBPACKAGES} & added


def test_import_of_a_material_loads_no_widgets(fresh_process):
    _, loaded, _ = fresh_process
    assert "edittools.widgets.materials" in loaded
    assert not {"ipywidgets", "anywidget", "traitlets"} & loaded


def test_subpackage_without_its_packages(fresh_process):
    _, _, errors = fresh_process
    assert "edittools.widgets" in errors and "'ipywidgets'" in errors
    assert "pip install 'edittools[notebooks]'" in errors


WITHOUT_PACKAGES = """
import sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "numpy", "pandas", "scipy", "PIL"))
from edittools.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments, text",
    [(["--help"], "apply"), (["audit", "--help"], "--repair"), (["--version"], PROJECT["project"]["version"])],
)
def test_command_line_help_loads_no_packages(arguments, text):
    command = [sys.executable, "-c", WITHOUT_PACKAGES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout


def test_top_level_imports_its_modules_and_names_when_they_are_used():
    assert edittools.metrics.predict is edittools.predict
    assert set(edittools.__all__) <= set(dir(edittools))
    with pytest.raises(AttributeError, match="'fix'"):
        _ = edittools.fix


def test_public_names_can_be_imported():
    for package in (edittools, *(getattr(edittools, name) for name in edittools.SUBPACKAGES)):
        for name in package.__all__:
            assert getattr(package, name) is not None, f"{package.__name__}.{name}"


def test_only_the_zoo_and_the_demo_name_modules_of_the_course():
    """The contract of imports does not see the names by which modules are imported when they are used."""
    package = ROOT / "edittools"
    for path in package.rglob("*.py"):
        if path.relative_to(package).as_posix() in NAMES_THE_COURSE:
            continue
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        names = [text for text in constants if isinstance(text, str) and re.search(r"\bedittools_course[.:/]\w", text)]
        assert not names, f"{path.name}: {names}"


def test_extras_that_messages_and_pages_name_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "edittools").rglob("*.py"))
    pages = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    in_code = set(re.findall(r'\b(?:extra|lazy_names)\([^()]*"(\w+)"\)', code))
    in_pages = {name for names in re.findall(r"'(?:edittools|\.)\[([\w,]+)\]'", pages) for name in names.split(",")}
    assert "notebooks" in in_code & in_pages
    assert in_code | in_pages <= set(PROJECT["project"]["optional-dependencies"])
