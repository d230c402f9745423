"""Read the address of the repository, the one setting that its owner fills in; make what depends on it.

    python .ci/address.py                  print the address; nothing where it is empty
    python .ci/address.py --release DIR    copy what the wheel is built from to DIR, with links and metadata for PyPI

The address is `repository` in the section `[tool.edittools]` of pyproject.toml.
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("edittools", "data", "LICENSES", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
"""What the wheel is built from."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+")
"""The address of a link in Markdown that leads to a file of the repository."""

PICTURE = re.compile(r'(?<=src=")(?![a-z]+:)[^"]+')
"""The address of a picture that is a file of the repository."""


def repository() -> str:
    """Return the address of the repository, without a slash at its end; empty if its owner has not filled it in."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return settings["tool"]["edittools"]["repository"].rstrip("/")


def with_absolute_links(text: str, address: str) -> str:
    """Let links of a page in Markdown, which begin at the root of the repository, begin with an address."""
    text = LINK.sub(lambda found: f"{address}/blob/main/{found[0]}", text)
    return PICTURE.sub(lambda found: f"{address}/raw/main/{found[0]}", text)


def release(folder: Path) -> None:
    """Copy what the wheel is built from, with absolute links in README and the project's addresses in the metadata."""
    address = repository()
    if not address:
        sys.exit("repository is empty in [tool.edittools] of pyproject.toml; fill in the address of the repository")
    folder.mkdir(parents=True)
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    readme = folder / "README.md"
    readme.write_text(with_absolute_links(readme.read_text(), address))
    urls = [
        "[project.urls]",
        f'Repository = "{address}"',
        f'Issues = "{address}/issues"',
        f'Changelog = "{address}/blob/main/CHANGELOG.md"',
        "",
        "[project.scripts]",
    ]
    project = folder / "pyproject.toml"
    project.write_text(project.read_text().replace("[project.scripts]", "\n".join(urls), 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--release"]:
        release(Path(sys.argv[2]))
    else:
        print(repository())
