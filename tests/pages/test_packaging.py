"""What a release and the site are made of: one address, absolute links, and links that lead somewhere."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = runpy.run_path(str(ROOT / ".ci" / "address.py"))
CHECK = runpy.run_path(str(ROOT / "docs" / "check_links.py"))


def with_address(monkeypatch, address):
    monkeypatch.setitem(ADDRESS["release"].__globals__, "repository", lambda: address)


def test_release_has_absolute_links_and_addresses(tmp_path, monkeypatch):
    with_address(monkeypatch, "https://example.org/edittools")
    ADDRESS["release"](tmp_path / "release")
    readme = (tmp_path / "release" / "README.md").read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", readme) + re.findall(r'src="([^"]+)"', readme)
    assert targets
    for target in targets:
        assert target.startswith(("https://", "#")), target
    files = [target.split("/main/")[1].partition("#")[0] for target in targets if "/main/" in target]
    assert files and all((ROOT / file).exists() for file in files)
    project = tomllib.loads((tmp_path / "release" / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Repository"] == "https://example.org/edittools"
    assert project["scripts"]


def test_release_without_an_address_is_refused(tmp_path, monkeypatch):
    with_address(monkeypatch, "")
    with pytest.raises(SystemExit, match="repository"):
        ADDRESS["release"](tmp_path / "release")
    assert not list(tmp_path.iterdir())


def test_broken_links_of_a_site(tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "index.html").write_text('<a href="page/#here"></a><a href="https://example.org"></a><img src="x.png">')
    (tmp_path / "page" / "index.html").write_text('<h1 id="here"></h1><a href="../#gone"></a><a href="../a.py"></a>')
    broken = CHECK["broken_links"](tmp_path)
    assert sorted(broken) == ["index.html: x.png", "page/index.html: ../#gone", "page/index.html: ../a.py"]
    (tmp_path / "x.png").touch()
    (tmp_path / "a.py").touch()
    (tmp_path / "page" / "index.html").write_text('<h1 id="here"></h1><a href="../a.py"></a>')
    assert CHECK["broken_links"](tmp_path) == []
