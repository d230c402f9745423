"""The structure of the library: imports run downwards, without cycles, and load nothing heavy unasked."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import edittools

FOLDER = Path(edittools.__file__).parent
ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {
    ".".join(("edittools", *path.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(FOLDER.rglob("*.py"))
}
MAY_USE = {  # the top is the paper; scenarios use everything
    "top": set(),
    "baselines": {"top"},
    "probing": {"top", "models"},
    "miniworld": {"top"},
    "models": {"top", "miniworld"},
    "reports": {"top"},
    "selection": {"top", "baselines", "reports"},
    "plots": {"top"},
    "widgets": {"top", "selection", "probing", "miniworld", "plots"},
    "scenarios": {"top", "baselines", "probing", "miniworld", "models", "selection", "widgets"},
    "auditing": {"top", "models", "probing", "reports", "scenarios", "selection"},
}


def subpackage(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in edittools.SUBPACKAGES else "top"


def imported(module):
    """The library's modules that a module imports, also inside its functions."""
    modules = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edittools":
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            modules |= {name if name in MODULES else node.module for name in paths}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.split(".")[0] == "edittools"}
    return modules - {module}


def test_subpackages_are_folders():
    assert {subpackage(module) for module in MODULES} == set(MAY_USE) == {"top", *edittools.SUBPACKAGES}


def test_imports_run_downwards():
    for module in MODULES:
        allowed = MAY_USE[subpackage(module)] | {subpackage(module)}
        assert {name for name in imported(module) if subpackage(name) not in allowed} == set(), module


def test_imports_have_no_cycle():
    graph = {module: imported(module) - {"edittools"} for module in MODULES}
    for (
        package
    ) in edittools.SUBPACKAGES:  # a subpackage's list of names imports its modules, which do not import the list
        name = f"edittools.{package}"
        graph |= {m: graph[m] - {name} for m in MODULES if subpackage(m) == package}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


IMPORTS = """
import sys, torch, torchvision
before = set(sys.modules)
import edittools
print(*sorted(set(sys.modules) - before))
import edittools.widgets.session
print(*sorted(sys.modules))
sys.modules["ipywidgets"] = None
edittools.widgets.MaskEditor
"""


@pytest.fixture(scope="module")
def fresh_process():
    """Import the library in a process of its own: what that adds, all modules after the session, the last error."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    added, loaded = (set(line.split()) for line in done.stdout.splitlines())
    return added, loaded, done.stderr


def test_import_loads_no_heavy_package(fresh_process):
    added, _, _ = fresh_process
    heavy = ("pandas", "scipy", "matplotlib", "ipywidgets", "anywidget", "skimage", "pooch", "open_clip", "timm")
    assert "edittools" in added
    assert not {name.split(".")[0] for name in added} & set(heavy)
    assert not [name for name in added if name.startswith("edittools.") and subpackage(name) != "top"]


def test_import_of_the_session_loads_no_widgets(fresh_process):
    _, loaded, _ = fresh_process
    assert "edittools.widgets.session" in loaded
    assert not {"ipywidgets", "anywidget", "traitlets"} & loaded


WITHOUT_PACKAGES = """
import sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "numpy", "pandas", "scipy", "PIL"))
from edittools.auditing.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments, text",
    [(["--help"], "apply"), (["audit", "--help"], "--masks"), (["--version"], PROJECT["project"]["version"])],
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


def test_subpackage_without_its_packages(fresh_process):
    _, _, errors = fresh_process
    assert "edittools.widgets" in errors and "'ipywidgets'" in errors
    assert "pip install 'edittools[notebooks]'" in errors


def test_only_the_command_line_prints_and_only_figures_are_plotted():
    for module, path in MODULES.items():
        text = path.read_text()
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        prints = "print" in {call.id for call in calls if isinstance(call, ast.Name)}
        assert not prints or module == "edittools.auditing.cli", module
        assert "pyplot" not in text or module == "edittools.plots.figures", module


def test_modules_load_no_pickle():
    for module, path in MODULES.items():
        text = path.read_text()
        assert "pickle.load" not in text, module
        assert text.count("torch.load(") == text.count("weights_only=True"), module


def test_exported_names_are_documented():
    for package in (edittools, *(getattr(edittools, name) for name in edittools.SUBPACKAGES)):
        assert len(set(package.__all__)) == len(package.__all__), package.__name__
        for exported in package.__all__:
            value = getattr(package, exported)
            assert not callable(value) or (value.__doc__ or "").strip(), exported


# --- what is declared ---


def same_spelling(requirement):
    """The name of a requirement, without its version, as every index spells it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared(*extras):
    listed = list(PROJECT["project"]["dependencies"])
    optional = PROJECT["project"]["optional-dependencies"]
    for extra in extras:
        for requirement in optional[extra]:
            inner = re.fullmatch(r"edittools\[(.*)\]", requirement)  # "dev" names the others
            listed += [inside for name in inner[1].split(",") for inside in optional[name]] if inner else [requirement]
    return {same_spelling(requirement) for requirement in listed}


def sources(folder):
    """The code of a folder's modules and notebooks."""
    yield from (path.read_text() for path in (ROOT / folder).rglob("*.py"))
    for path in (ROOT / folder).glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        yield "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def third_party(text):
    """Top-level names of the third-party modules that code imports, also by `import_module` and `importorskip`."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "importorskip"):
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    ours = {path.stem for path in ROOT.glob("*/*.py")} | {"edittools", "_lib"}
    return {name.split(".")[0] for name in names} - ours - set(sys.stdlib_module_names)


EXTRAS = {
    "edittools": ("notebooks", "segmenters", "cluster"),
    "data": ("notebooks",),
    "benchmarks": ("dev",),
    "notebooks": ("dev",),
    "tests": ("dev",),
}
"""The extras that the code of a folder may import."""


def test_imports_are_declared():
    owners = packages_distributions()
    for folder, extras in EXTRAS.items():
        names = set().union(*map(third_party, sources(folder)))
        assert "torch" in names or folder == "notebooks"
        declared_names = declared(*extras)
        undeclared = {name for name in names if declared_names.isdisjoint(map(same_spelling, owners.get(name, [name])))}
        assert undeclared == set(), folder


def test_top_level_dependencies():
    top = [path for module, path in MODULES.items() if subpackage(module) == "top"]
    names = set().union(*(third_party(path.read_text()) for path in top))
    assert names <= {"torch", "torchvision", "numpy", "safetensors", "tqdm", "pandas", "scipy", "PIL"}
    assert names - {"PIL"} <= declared() and "pillow" in declared()


def test_wheel_contains_all_files():
    tools = PROJECT["tool"]["setuptools"]
    packaged = set()
    for package in tools["packages"]:
        folder = ROOT / tools["package-dir"].get(package, package.replace(".", "/"))
        for pattern in ["*.py", *tools["package-data"].get(package, ())]:
            packaged |= set(folder.glob(pattern))
    files = {path for folder in ("edittools", "data") for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert {path for path in files - packaged if path.parent.name != "__pycache__"} == set()
    assert (ROOT / "data" / "mini_vgg.safetensors") in packaged and "edittools.data" in tools["packages"]
