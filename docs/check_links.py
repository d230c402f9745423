"""Check that each link and picture of the built site leads to a file of it, and each anchor to a place on its page.

    python docs/check_links.py out/site        (`make docs` calls it)

mkdocs checks the links of pages in Markdown only: not those of notebooks, of HTML within Markdown, or to files that are
no pages.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}
"""The attribute of each tag that holds an address."""


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the address and the anchors of a tag."""
        attributes = dict(attrs)
        self.anchors |= {value for value in (attributes.get("id"), attributes.get("name")) if value}
        address = attributes.get(LINKS.get(tag, ""))
        if address:
            self.links.add(address)


def broken_links(site: Path) -> list[str]:
    """List the links that lead nowhere, as "PAGE: LINK"; those to other sites are not followed."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # it is shown at any address, so its links begin at the root of a server
            continue
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent.joinpath(unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            has_anchor = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
            if not target.is_file() or not has_anchor:
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


def main(site: Path) -> int:
    """Print the broken links of a site; return 1 if there are any, and if there is no site."""
    if not (site / "index.html").is_file():
        print(f"{site} holds no site: there is no index.html; run make docs")
        return 1
    broken = broken_links(site)
    for line in broken:
        print(line)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
