"""What the site is made of: pages of this repository under their own paths, and a reference page for each module.

Formulas become MathML here, so a page asks no other machine for a script.
"""

import ast
import json
import posixpath
import re
import tomllib
from html import escape, unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = "README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff NOTICE data/README.md docs/**/*.md".split()
PAGES += ["docs/*.csv", "docs/*.png", "docs/*.css"]
PAGES += ["benchmarks/README.md", "results/README.md", "notebooks/[0-9]*.ipynb"]
FIRST = {
    "rewriting": ["rewrite", "Problem", "pose", "solve_l1", "solve_least_squares"],
    "edits": ["Edit", "Record", "Change", "applied_edits"],
    "exemplars": [],
    "classifiers": [],
}
"""The modules that the reference begins with, and the names shown of each, in order; none named means all."""
PACKAGES = ("edittools", "edittools_course")
FOREIGN_SCRIPT = re.compile(r'<script[^>]*\bsrc="https?://[^>]*>\s*</script>')
MATHJAX = re.compile(r"<!-- MathJax configuration -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^>]*>|<link\b[^>]*\bhref="(?:https?:)?//[^>]*>'
)
FORMULA = re.compile(
    r"(<(pre|code|script|style)\b.*?</\2>|<[^>]*>)|\$\$(?P<block>[^$<]+)\$\$|\$(?P<inline>[^$<\n]+)\$", re.DOTALL
)
"""A tag, with all that is inside of it where that is code, or a formula."""
MINIMUM = re.compile(r"<msub>(<mo>min</mo><mi>[^<]*</mi>)</msub>")
"""A minimum whose variable stands next to it, where it would meet the limits of a sum; in a block it goes below."""
CELL = re.compile(r'(?=<div\b[^>]*\bid="cell-id=)')
"""The place before each cell of a notebook."""
FIGURE = re.compile(r'<img\b[^>]*?\bsrc="data:image/png;base64,(?P<picture>[^"]+)"[^>]*>')
ALT = re.compile(r'\s*\balt="[^"]*"')
INTERVAL_CELL = re.compile(r"<td>(?=(?:<strong>)?[−+\d.%]+ \[[^<\]]*\](?:</strong>)?</td>)")
"""The tag of a table's cell that holds a number and its interval."""
LINK = re.compile(r'(?<=href=")[^":#]+\.(?:ipynb|md)(?=["#])')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give each subpackage that the navigation names a section, its own page and one per module; link the repository.

    The repository is linked where pyproject.toml names its address.
    """
    config.nav = _with_modules(config.nav)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config.repo_url = settings["tool"]["edittools"]["repository"] or None
    return config


def _with_modules(nav: list | dict | str) -> list | dict | str:
    """Replace each page `api/PACKAGE.md` of the navigation by a section."""
    if isinstance(nav, list):
        return [_with_modules(entry) for entry in nav]
    if isinstance(nav, dict):
        return {title: _with_modules(entry) for title, entry in nav.items()}
    if not nav.startswith("api/"):
        return nav
    subpackage = nav.removeprefix("api/").removesuffix(".md")
    modules = [{name: f"api/{subpackage}/{name}.md"} for name in modules_of(subpackage)]
    return {_name(subpackage): [f"api/{subpackage}/index.md", *modules]}


@event_priority(100)  # before the plugin that turns notebooks into pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's own pages in place of the folder's, and add the reference."""
    found = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    pages = [File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls) for path in found]
    folders = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))
    for subpackage in [folder.relative_to(ROOT).as_posix() for folder in folders]:
        pages.append(File.generated(config, f"api/{subpackage}/index.md", content=overview(subpackage)))
        for module in modules_of(subpackage):
            page = File.generated(config, f"api/{subpackage}/{module}.md", content=reference(subpackage, module))
            pages.append(page)
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *pages])  # the theme's, then ours


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark cells that hold an interval; write a notebook's formulas as MathML, and lead its links to pages.

    MathML takes the place of scripts of other machines.
    """
    html = INTERVAL_CELL.sub('<td class="interval">', html)
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    folder = posixpath.dirname(page.file.src_uri)

    def linked(found: re.Match) -> str:
        target = files.get_file_from_path(posixpath.normpath(posixpath.join(folder, found[0])))
        if target is None:
            raise PluginError(f"{page.file.src_uri} links to {found[0]}, which is no page")
        return target.url_relative_to(page.file)

    html = LINK.sub(linked, html)
    html = described(html, Path(page.file.abs_src_path))
    html = "".join(_folded(cell) for cell in CELL.split(html))
    return FORMULA.sub(_mathml, FOREIGN_SCRIPT.sub("", MATHJAX.sub("", html)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that asks another machine for a script, a style or a picture."""
    if found := ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} asks another machine: {found[0]}")
    return output


def described(html: str, notebook: Path) -> str:
    """Give each figure of a notebook's page the text that the notebook has for it, which nbconvert leaves out."""
    texts = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            picture = "".join(output.get("data", {}).get("image/png", ""))
            texts[picture.strip()] = output.get("metadata", {}).get("image/png", {}).get("alt", "")

    def with_text(found: re.Match) -> str:
        text = texts.get(found["picture"].strip())
        if not text:
            return found[0]
        return ALT.sub("", found[0]).replace("<img", f'<img alt="{escape(text)}"', 1)

    return FIGURE.sub(with_text, html)


def _folded(cell: str) -> str:
    """Fold a cell that holds the solution of an exercise, with its outputs."""
    if "celltag_solution" not in cell.partition(">")[0]:
        return cell
    return f"<details><summary>Solution</summary>{cell}</details>"


def _mathml(found: re.Match) -> str:
    """A formula as MathML; tags and code stay as they are."""
    if found[1]:
        return found[1]
    block, inline = found["block"], found["inline"]
    if inline:
        return convert(unescape(inline).strip())
    wide = convert(unescape(block).strip(), display="block")
    wide = MINIMUM.sub(r'<munder>\1</munder><mspace width="0.4em" />', wide)
    return f'<span style="display: block; overflow-x: auto">{wide}</span>'


def modules_of(subpackage: str) -> list[str]:
    """Name the public modules of a subpackage; those in `FIRST` come first at the top."""
    modules = [path.stem for path in sorted(_folder(subpackage).glob("*.py")) if not path.stem.startswith("_")]
    first = list(FIRST) if subpackage == "edittools" else []
    return sorted(modules, key=lambda module: [*first, module].index(module))


def overview(subpackage: str) -> str:
    """The page of a subpackage: its first words, and a table of its modules."""
    said = _docstring(_folder(subpackage) / "__init__.py")
    rows = [
        f"| [{module}]({module}.md) | {_docstring(_folder(subpackage) / f'{module}.py').splitlines()[0]} |"
        for module in modules_of(subpackage)
    ]
    table = "\n".join(["| module | content |", "| --- | --- |", *rows])
    return f"# {_name(subpackage)}\n\n{said}\n\n{table}\n"


def reference(subpackage: str, module: str) -> str:
    """The page of a module: its public names."""
    name = f"{_name(subpackage)}.{module}"
    members = FIRST.get(module) if subpackage == "edittools" else None
    options = {"show_root_heading": "false", "show_root_toc_entry": "false"}
    if members:
        options |= {"group_by_category": "false", "members": members}
    lines = "".join(f"        {option}: {value}\n" for option, value in options.items())
    return f"# {name}\n\n::: {name}\n    options:\n{lines}"


def _folder(subpackage: str) -> Path:
    return ROOT / subpackage


def _name(subpackage: str) -> str:
    return subpackage.replace("/", ".")


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""
