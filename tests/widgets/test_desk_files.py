"""The files of the desk: marks as PNG files, the names of the checked images, and the exemplar for the shell."""

import pytest
import torch
from conftest import make_exemplar, noise, save_image
from PIL import Image

import edittools as et
from edittools.auditing.from_files import load_exemplar
from edittools.widgets.desk.files import CHECKED, MarkFiles, write_exemplar
from edittools.widgets.desk.state import MarkedArea, State


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two photos of 40 × 30 pixels with one name, in two subfolders of a folder in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/bus/1.png", "photos/van/1.jpg"):
        save_image(name, noise(1, 40)[0, :, :30])
    return MarkFiles(tmp_path / "marks", tmp_path / "photos")


def mark(top=4):
    mask = torch.zeros(30, 40)
    mask[top:9, 5:20] = 1
    return MarkedArea.of(mask)


def test_mark_is_a_file_in_the_subfolder_of_its_image(files, tmp_path):
    marks = {"photos/bus/1.png": mark(), "photos/van/1.jpg": mark(6)}
    files.write(State(), State(marks=marks))
    of_bus = tmp_path / "marks" / "bus" / "1.png"
    assert torch.equal(et.load_mask(of_bus), mark().mask)
    assert sorted(Image.open(of_bus).convert("L").getcolors()) == [(75, 255), (1125, 0)]
    assert (tmp_path / "marks" / "van" / "1.jpg.png").is_file()
    assert files.read(marks) == (marks, [])


def test_mark_that_is_gone_has_no_file(files, tmp_path):
    marked = State(marks={"photos/bus/1.png": mark()})
    files.write(State(), marked)
    files.write(marked, State())
    assert not list(tmp_path.glob("marks/*/*.png")) and files.read(["photos/bus/1.png"]) == ({}, [])


def test_mark_of_another_size_than_its_photo_is_left_out_and_kept(files, tmp_path):
    et.image_files.save_mask(tmp_path / "other.png", torch.ones(5, 5))
    path = files.path("photos/bus/1.png")
    path.parent.mkdir(parents=True)
    (tmp_path / "other.png").rename(path)
    marks, [line] = files.read(["photos/bus/1.png"])
    assert not marks and str(path) in line and path.exists()


def test_mark_that_cannot_be_written_is_an_error(files, tmp_path):
    (tmp_path / "marks").write_text("a file")
    with pytest.raises(OSError, match="marks"):
        files.write(State(), State(marks={"photos/bus/1.png": mark()}))


def test_checked_names_of_images_that_are_gone_are_left_out(files, tmp_path):
    assert files.read_checked(["photos/bus/1.png"]) == frozenset()
    files.write(State(), State(checked=frozenset(["photos/bus/1.png", "photos/bus/2.png"])))
    assert (tmp_path / "marks" / CHECKED).read_text("utf-8") == "photos/bus/1.png\nphotos/bus/2.png\n"
    assert files.read_checked(["photos/bus/1.png", "photos/van/1.jpg"]) == {"photos/bus/1.png"}


def test_exemplar_that_was_written_is_read_by_the_repair_command(tiny, tmp_path):
    exemplar = make_exemplar()
    write_exemplar(exemplar, tmp_path, tiny)
    read = load_exemplar(tmp_path / "x.png", tmp_path / "x_marked.png", tmp_path / "mask.png", tiny)
    assert torch.equal(read.mask, exemplar.mask)
    for one, other in ((read.image, exemplar.image), (read.changed, exemplar.changed)):
        assert (one - other).abs().max() < 1 / 255
