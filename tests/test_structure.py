"""The shape of the library: each module imports only those above it, and every public function says what it is."""

import ast
from pathlib import Path

import pytest

import edittools

FOLDER = Path(edittools.__file__).parent
ORDER = (
    "checks", "masks", "images", "models", "cut", "moments", "painter", "sketches", "miniworld", "mini_models",
    "photos", "styles", "exemplars", "edits", "rewriting", "finetuning", "metrics", "jobs",
    "benchmark", "zero_shot", "typography", "mini_clip", "lite_clip", "concepts", "style_transfer", "synthetic",
    "counterfactuals", "corruptions", "scenarios", "probing", "cures", "plots", "widgets", "__init__",
)  # fmt: skip
LATE = {  # loaded only when a classifier of that name is asked for, so that nobody pays for the others
    "models": {"mini_models", "mini_clip", "zero_shot", "lite_clip"},
}
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imported(module, late):
    """Names of the library's modules that a module imports: at its top, or (`late`) inside its functions."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f) if n is not f}
    found = set()
    for node in ast.walk(tree):
        if (id(node) in inside) != late:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "edittools":
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edittools."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("edittools.")}
    return found


def test_the_order_names_every_module_once():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_those_above_it(module):
    above = set(ORDER[: ORDER.index(module)])
    assert imported(module, late=False) - above == set()
    assert imported(module, late=True) - above <= LATE.get(module, set())


@pytest.mark.parametrize("module", ORDER)
def test_computation_neither_prints_nor_plots(module):
    calls = [
        node.func for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())) if isinstance(node, ast.Call)
    ]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    text = (FOLDER / f"{module}.py").read_text()
    assert "pyplot" not in text or module == "plots"


@pytest.mark.parametrize("module", ORDER)
def test_no_module_loads_a_pickle(module):
    text = (FOLDER / f"{module}.py").read_text()
    assert "pickle.load" not in text and text.count("torch.load(") == text.count("weights_only=True")


def test_everything_exported_is_there_and_documented():
    assert sorted(set(edittools.__all__)) == sorted(edittools.__all__)
    for name in edittools.__all__:
        thing = getattr(edittools, name)
        assert not callable(thing) or (thing.__doc__ or "").strip(), name
