"""Folders of images as labeled images."""

import pytest
from conftest import noise, save_image

import edittools as et
from edittools.metrics import predict


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name, image in zip(("Bee/a.png", "bee/b.jpg", "3/c.png", "fox/d.png"), noise(4, 40), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(root / name, image)
    (root / "bee" / "broken.jpg").write_bytes(b"not an image")
    return root


def test_read_folder_labels_by_subfolder_and_names_files_that_are_left_out(folder, tiny):
    data, left_out = et.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg") and data.labels.tolist() == [3, 1, 1]
    assert left_out[0].startswith("bee/broken.jpg: ") and left_out[1].startswith("fox/d.png: ") and "5" in left_out[1]


def test_read_folder_follows_links_once_and_skips_hidden_files(folder, tiny, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save_image(tmp_path / "elsewhere" / "e.png", noise(1, seed=5)[0])
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "bee" / "round").symlink_to(folder)
    save_image(folder / "bee" / ".hidden.png", noise(1, seed=6)[0])
    (folder / ".trash").mkdir()
    save_image(folder / ".trash" / "f.png", noise(1, seed=7)[0])
    data, _ = et.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg", "cat/e.png")


def test_read_folder_predicts_labels_of_images_in_the_folder_itself(tmp_path, tiny):
    save_image(tmp_path / "a.png", noise(1)[0])
    data, left_out = et.read_folder(str(tmp_path), tiny)
    assert not left_out and data.labels.tolist() == predict(tiny, data).argmax(1).tolist()


def test_read_folder_without_a_readable_image_is_refused(tmp_path, tiny):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="a.png"):
        et.read_folder(tmp_path, tiny)
