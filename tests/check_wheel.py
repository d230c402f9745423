"""Check the wheel as a stranger gets it: build it, install it without the checkout, use it from an empty folder.

    python tests/check_wheel.py        (or: make wheel)

The new environment borrows what edittools depends on from the Python that runs this; edittools itself comes from the
wheel only.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Do all of it in a temporary folder; any step that fails ends this with its error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build(folder)
        print(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        python = install(wheel, folder / "environment")
        (folder / "empty").mkdir()
        settings = {key: value for key, value in os.environ.items() if not key.startswith("EDITTOOLS_")}
        settings |= {"EDITTOOLS_CACHE": str(folder / "cache"), "HOME": str(folder)}
        subprocess.run([python, "-I", __file__, "--inside"], cwd=folder / "empty", env=settings, check=True)


def build(folder: Path) -> Path:
    """Build the wheel from a copy: what an earlier build left in the checkout can then not slip in."""
    source = folder / "source"
    for name in ("edittools", "data"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    shutil.rmtree(source)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Install the wheel in a new environment; then lend it the packages of this one, but not their `.pth` files."""
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    [packages] = environment.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "lent.pth").write_text("\n".join(lent))  # an editable install in there is a .pth file: it is not read
    return python


def pip(*arguments: str | Path) -> None:
    """Run pip quietly."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def inside() -> None:
    """In the new environment and an empty folder: README's lines, a question to `mini_clip`, the data."""
    import edittools as et
    from edittools import miniworld
    from edittools.models import data as models
    from edittools.scenarios import photos

    assert not list(Path().iterdir()), "expected to start in an empty folder"
    for path in (Path(et.__file__), models.DATA):
        assert path.is_relative_to(sys.prefix) and not path.is_relative_to(ROOT), f"{path} is not in {sys.prefix}"
    assert (Path(et.__file__).parent / "py.typed").is_file(), "type checkers would ignore the package: no py.typed"
    print("edittools is", Path(et.__file__).relative_to(sys.prefix))
    [code] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    exec(code, {})
    command = Path(sysconfig.get_path("scripts"), "edittools")
    weights = Path("weights.safetensors")
    edit = ["apply", "snow_is_road.safetensors", "--model", "mini_vgg", "--out", weights]
    subprocess.run([command, *edit], check=True)  # the console script, on the edit that these lines have saved
    assert weights.stat().st_size > 100_000
    clip = et.load_classifier("mini_clip")
    mugs = miniworld.scenes(20, "test", "mug", size=clip.size)
    predicted = et.predict(clip, mugs).argmax(dim=1)
    print(f"mini_clip: {int((predicted == clip.index('mug')).sum())} of {len(mugs)} mugs are mugs")
    shortcuts = et.load_classifier("shortcuts_squeezenet")
    print(f"shortcuts_squeezenet: {', '.join(shortcuts.classes)}")
    print(f"registry: {len(photos.registry()):,} photographs; masks: {len(list(models.DATA.glob('masks/*.png')))}")


if __name__ == "__main__":
    inside() if "--inside" in sys.argv else main()
