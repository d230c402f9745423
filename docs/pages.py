"""What the site is made of: pages of this repository under their own paths, and a reference page for each room."""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "data/README.md", "docs/*.md", "docs/*.png",
         "notebooks/[0-9]*.ipynb")  # fmt: skip
PACKAGE = ROOT / "edittools"


@event_priority(100)  # before the plugin that turns notebooks into pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's own pages in place of the folder's, and add the reference."""
    found = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    pages = [File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls) for path in found]
    rooms = {"top": PACKAGE} | {
        path.name: path for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").exists()
    }
    pages += [File.generated(config, f"api/{room}.md", content=reference(room, path)) for room, path in rooms.items()]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *pages])  # the theme's, then ours


def reference(room: str, folder: Path) -> str:
    """The page of a room: its first words, and every module's public names."""
    modules = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    name = "edittools" if room == "top" else f"edittools.{room}"
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    parts = "\n\n".join(f"::: {name}.{path.stem}" for path in modules)
    return f"# {name}\n\n{said}\n\n{parts}\n"
