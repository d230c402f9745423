"""What the site is made of: pages of this repository under their own paths, and a reference page for each subpackage.

Formulas become MathML here, so a page asks no other machine for a script.
"""

import ast
import posixpath
import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = "README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff data/README.md docs/**/*.md docs/*.png docs/*.css".split()
PAGES += ["benchmarks/README.md", "results/README.md", "notebooks/[0-9]*.ipynb"]
FIRST = {
    "rewriting": ["rewrite", "Problem", "pose", "solve_l1", "solve_least_squares"],
    "edits": ["Edit", "Record", "Change", "applied_edits"],
    "exemplars": [],
    "classifiers": [],
}
"""The modules that the reference begins with, and the names shown of each, in order; none named means all."""
PACKAGE = ROOT / "edittools"
FOREIGN_SCRIPT = re.compile(r'<script[^>]*\bsrc="https?://[^>]*>\s*</script>')
MATHJAX = re.compile(r"<!-- MathJax configuration -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^>]*>|<link\b[^>]*\bhref="(?:https?:)?//[^>]*>'
)
FORMULA = re.compile(
    r"(<(pre|code|script|style)\b.*?</\2>|<[^>]*>)|\$\$(?P<block>[^$<]+)\$\$|\$(?P<inline>[^$<\n]+)\$", re.DOTALL
)
"""A tag, with all that is inside of it where that is code, or a formula."""
LINK = re.compile(r'(?<=href=")[^":#]+\.(?:ipynb|md)(?=["#])')


@event_priority(100)  # before the plugin that turns notebooks into pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's own pages in place of the folder's, and add the reference."""
    found = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    pages = [File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls) for path in found]
    subpackages = {"top": PACKAGE} | {
        path.name: path for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").exists()
    }
    pages += [
        File.generated(config, f"api/{subpackage}.md", content=reference(subpackage, path))
        for subpackage, path in subpackages.items()
    ]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *pages])  # the theme's, then ours


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write a notebook's formulas as MathML, in place of scripts of other machines, and lead its links to pages."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    folder = posixpath.dirname(page.file.src_uri)

    def linked(found: re.Match) -> str:
        target = files.get_file_from_path(posixpath.normpath(posixpath.join(folder, found[0])))
        if target is None:
            raise PluginError(f"{page.file.src_uri} links to {found[0]}, which is no page")
        return target.url_relative_to(page.file)

    html = LINK.sub(linked, html)
    return FORMULA.sub(_mathml, FOREIGN_SCRIPT.sub("", MATHJAX.sub("", html)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that asks another machine for a script, a style or a picture."""
    if found := ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} asks another machine: {found[0]}")
    return output


def _mathml(found: re.Match) -> str:
    """A formula as MathML; tags and code stay as they are."""
    if found[1]:
        return found[1]
    block, inline = found["block"], found["inline"]
    if inline:
        return convert(unescape(inline).strip())
    wide = convert(unescape(block).strip(), display="block")
    return f'<span style="display: block; overflow-x: auto">{wide}</span>'


def reference(subpackage: str, folder: Path) -> str:
    """The page of a subpackage: its first words, and every module's public names."""
    modules = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    shown = FIRST if subpackage == "top" else {}
    modules.sort(key=lambda module: [*shown, module].index(module))
    name = "edittools" if subpackage == "top" else f"edittools.{subpackage}"
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    parts = "\n\n".join(f"::: {name}.{module}{_members(shown.get(module))}" for module in modules)
    return f"# {name}\n\n{said}\n\n{parts}\n"


def _members(names: list[str] | None) -> str:
    return f"\n    options: {{group_by_category: false, members: {names}}}" if names else ""
