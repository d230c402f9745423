"""`edittools desk --demo` and `edittools audit --demo`: rendered scenes, and the network that a tag misleads."""

import os

import pytest
from conftest import needs_browser
from desk_server import desk_page

import edittools as et
from edittools.cli import main
from edittools.folders import read_folder
from edittools.selection import check_disjoint
from edittools_course.scenarios import demo
from edittools_course.scenarios.demo import MODEL, demo_folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with the images of the demo."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDITTOOLS_CACHE", str(folder))
        demo_folder()
        yield folder


def test_demo_folder_holds_scenes_that_the_tag_misleads(cache):
    classifier = et.load_classifier(MODEL)
    sets = {name: read_folder(demo_folder() / name, classifier)[0] for name in ("photos", "tagged", "clean", "retain")}
    check_disjoint(sets)
    is_other = sets["tagged"].labels != classifier.index("truck")
    predicted = et.predict(classifier, sets["tagged"]).argmax(dim=1)[is_other]
    assert (predicted == classifier.index("truck")).float().mean() > 0.6
    assert et.error_rate(classifier, sets["clean"]) < 0.1


def test_demo_folder_is_rendered_once(cache):
    called = []
    assert demo_folder(lambda: called.append("again")).is_dir() and not called
    assert demo.FOLDER in os.listdir(cache) and not [name for name in os.listdir(cache) if name.startswith(".")]


def test_demo_folder_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "scenes_of_classes", interrupt)
    assert main(["audit", "--demo"]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["audit", "desk"])
def test_main_without_a_folder_or_with_two_sources(command, tmp_path, capsys):
    for arguments in (
        [],
        [str(tmp_path)],
        ["--model", "mini_vgg"],
        ["--demo", str(tmp_path)],
        ["--demo", "--model", "m"],
    ):
        assert main([command, *arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "--demo" in line


@needs_browser
def test_desk_demo_shows_its_images(cache, chromium, tmp_path):
    import web

    with desk_page(chromium, tmp_path, "--demo") as (page, _):
        images = page.locator(".et-pick [role=option]")
        assert web.wait_until(lambda: images.count() >= 60)
        page.screenshot(path=web.ARTEFACTS / "desk-demo.png", full_page=True)
