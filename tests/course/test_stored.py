"""Sets of rendered scenes on disk: the same numbers as without a file, and no set for another one's."""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edittools._storage import digest_tensors
from edittools_course import miniworld
from edittools_course.miniworld.attacks import attacks
from edittools_course.miniworld.scenes import scenes
from edittools_course.miniworld.stored import remove_least_recent, render_set, source_digest

SIZE = 16
SETS = {
    "labels drawn": partial(scenes, 50, "test", size=SIZE),
    "one class": partial(scenes, 50, "test", "car", size=SIZE),
    "classes in turn": partial(scenes, 50, "test", ["car", "cow"] * 25, size=SIZE),
    "another order": partial(scenes, 50, "test", ["cow", "car"] * 25, size=SIZE),
    "household": partial(scenes, 50, "test", "radio", size=SIZE),
    "on snow": partial(scenes, 50, "test", size=SIZE, ground="snow"),
    "balanced": partial(scenes, 50, "test", size=SIZE, balanced=True),
    "another seed": partial(scenes, 50, 2_000_001, size=SIZE),
    "another size": partial(scenes, 50, "test", size=SIZE + 1),
}


def digest(data):
    return digest_tensors([data.images, data.labels, data.things, data.grounds]), data.classes


def test_scenes_from_disk_are_those_rendered(tmp_path):
    rendered = {name: digest(render(cache="")) for name, render in SETS.items()}
    assert len(set(rendered.values())) == len(SETS)
    for _ in range(2):
        stored = {name: digest(render(cache=tmp_path)) for name, render in SETS.items()}
        assert stored == rendered
        assert len(list((tmp_path / "scenes").iterdir())) == len(SETS)


def test_attacks_from_disk_are_those_rendered(tmp_path):
    words = (None, "", "iPod")
    rendered = attacks(50, "validation", words, cache="")
    for _ in range(2):
        stored = attacks(50, "validation", words, cache=tmp_path)
        assert list(stored) == list(words)
        assert all(torch.equal(stored[word], rendered[word]) for word in words)
    assert not torch.equal(attacks(50, "validation", ("", "pizza"), cache=tmp_path)["pizza"], rendered["iPod"])


def numbered(seed, label):
    """A scene that is nothing but its seed and its label."""
    return np.full((2,), seed, np.uint8), len(label)


def zeros(seed, label):
    """A scene that shows that it was rendered again."""
    return np.zeros(2, np.uint8), 0


def test_render_set_reads_blocks_of_a_longer_set(tmp_path):
    labels = ["car", "lamp"] * 125
    numbers, lengths = render_set(numbered, "", range(250), labels, cache=tmp_path)
    assert numbers.tolist() == [[i % 256] * 2 for i in range(250)] and lengths.tolist() == [3, 4] * 125
    numbers, _ = render_set(zeros, "", range(220), labels[:220], cache=tmp_path)
    assert numbers[:, 0].tolist() == [*range(200), *[0] * 20]  # the last block is not a whole one


@pytest.mark.parametrize(("count", "cache"), [(49, None), (10_001, None), (60, "")])
def test_render_set_that_is_not_kept(count, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    for value in (1, 2):
        [values] = render_set(lambda seed, label, value=value: (value,), "", range(count), [None] * count, cache=cache)
        assert (values == value).all()
    assert not list(tmp_path.iterdir())


def test_scenes_from_several_processes(tmp_path):
    with ProcessPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        digests = list(pool.map(digest, pool.map(partial(scenes, size=SIZE, cache=tmp_path), [110] * 3, ["test"] * 3)))
    assert set(digests) == {digest(scenes(110, "test", size=SIZE, cache=""))}
    assert len(list(tmp_path.rglob("*"))) == 1 + 2


def test_source_digest_when_a_module_changes(tmp_path):
    folder = tmp_path / "miniworld"
    shutil.copytree(Path(miniworld.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = source_digest(folder)
    assert before == source_digest(Path(miniworld.__file__).parent)
    module = folder / "sketches.py"
    code = module.read_text()
    module.write_text(code.replace("0.5", "0.51", 1))
    assert source_digest(folder) != before
    module.write_text(code)
    assert source_digest(folder) == before
    (folder / "grounds.py").rename(folder / "more_grounds.py")
    assert source_digest(folder) != before


def test_remove_least_recent_until_the_rest_fits(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(5):
        path = folder / f"{number}.safetensors"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - number, 500))
    remove_least_recent("scenes", 250, tmp_path)
    assert sorted(path.stem for path in folder.iterdir()) == ["0", "1"]
    remove_least_recent("scenes", 250, tmp_path)
    assert len(list(folder.iterdir())) == 2
    remove_least_recent("nothing here", 0, tmp_path)
