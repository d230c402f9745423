"""Registered photos: downloads, the cache, offline folders, and folders of validation images."""

import hashlib
import http.server
import os
import threading
import time

import numpy as np
import pytest
import torch
from conftest import needs_photos, save_image
from PIL import Image
from test_faults import in_child, quota

from edittools.classifiers import Classifier
from edittools.models.load import load_classifier
from edittools.selection.splits import without_duplicates
from edittools_course import downloads
from edittools_course.scenarios import photos
from edittools_course.scenarios.sample_photos import CREDITS, FILES, is_new_photo, sample_crops, sample_photo


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "made.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    return path.read_bytes()


@pytest.fixture
def server(picture):
    """A server on loopback that answers well, with another file, cut off, late or not at all, by path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if "missing" in self.path:
                return self.send_error(404)
            if "slow" in self.path:
                return time.sleep(1.5)
            served.append(self.path)
            body = {"corrupt": picture[:-4] + b"\0\0\0\0"}.get(self.path.strip("/"), picture)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:20] if "cut" in self.path else body)

        def log_message(self, *args):
            pass

    served = []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", served
    httpd.shutdown()


@pytest.fixture
def cache(monkeypatch, tmp_path, server, picture):
    """A photo cache of its own with some registered photos."""
    digest = hashlib.sha256(picture).hexdigest()
    names = ("a's good one.png", "corrupt", "cut", "missing", "slow")
    known = {name: (digest, f"{server[0]}/{name.replace(' ', '%20')}") for name in names}
    monkeypatch.setattr(downloads, "registry", lambda: known)
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    return tmp_path / "cache" / "photos"


def test_photo_downloads_once_and_checks(cache, server, picture):
    path = photos.photo("a's good one.png")
    assert path == cache / "a's good one.png"
    assert path.read_bytes() == picture
    photos.photo("a's good one.png")
    assert len(server[1]) == 1


@pytest.mark.parametrize("name", ["corrupt", "cut", "missing", "slow"])
def test_photo_broken_download_leaves_no_file(cache, name, monkeypatch):
    patient = downloads.pooch.HTTPDownloader
    monkeypatch.setattr(downloads.pooch, "HTTPDownloader", lambda timeout: patient(timeout=min(timeout, 0.5)))
    with pytest.raises(FileNotFoundError, match=rf"'{name}' .*http://127"):
        photos.photo(name)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_photo_two_processes_share_the_cache(cache, picture):
    def is_complete():
        return photos.photo("a's good one.png").read_bytes() == picture

    child = os.fork()
    if child == 0:
        os._exit(not is_complete())
    assert is_complete()
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert len(list(cache.iterdir())) == 1


def test_photo_full_disk_leaves_no_file(cache):
    cache.mkdir(parents=True)
    output, _ = in_child(lambda: photos.photo("a's good one.png"), lambda: quota(30))
    assert "FileNotFoundError" in output
    assert "File too large" in output
    assert "EDITTOOLS_PHOTOS" in output
    assert not list(cache.iterdir())


@pytest.mark.parametrize("name", ["../up.png", "/absolute.png", "a/../../up.png"])
def test_photo_name_outside_the_cache(cache, server, name, monkeypatch):
    entry = downloads.registry()["a's good one.png"]
    monkeypatch.setattr(downloads, "registry", lambda: {name: entry})
    with pytest.raises(ValueError, match=f"'{name}'"):
        photos.photo(name)
    assert server[1] == []
    assert not (cache.parent / "up.png").exists()


def test_photo_damaged_in_the_cache_is_downloaded_again(cache, picture):
    photos.photo("a's good one.png").write_bytes(b"damaged")
    assert photos.photo("a's good one.png").read_bytes() == picture


def test_photo_offline_folder_is_checked_and_never_written(cache, monkeypatch, tmp_path, picture):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(folder))
    with pytest.raises(FileNotFoundError, match=r"EDITTOOLS_PHOTOS=.* http://127"):
        photos.photo("a's good one.png")
    (folder / "a's good one.png").write_bytes(picture)
    assert photos.photo("a's good one.png").parent == folder
    assert photos.available("") == ["a's good one.png"]
    (folder / "a's good one.png").write_bytes(b"other")
    with pytest.raises(ValueError, match="a's good one.png.* SHA-256"):
        photos.photo("a's good one.png")
    assert (folder / "a's good one.png").read_bytes() == b"other"
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="EDITTOOLS_PHOTOS=.*absent"):
        photos.photo("a's good one.png")


def test_registry_is_complete():
    files = photos.registry()
    assert len(files) == 3386
    counts = {"imagenet-sample/": 1000, "rta-100/": 1000, "weights/squeezenet1_1/": 52, "weights/deeplab/": 2}
    assert {prefix: sum(name.startswith(prefix) for name in files) for prefix in counts} == counts
    assert "imagenet-sample/n03590841_jack-o'-lantern.JPEG" in files
    for digest, url in files.values():
        assert len(digest) == 64
        assert url.startswith("https://")
    with pytest.raises(KeyError, match=r"'a.jpg'"):
        photos.photo("a.jpg")


def test_validation_folder_reads_lazily_in_class_order(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_IMAGENET", str(tmp_path))
    for label, name in enumerate(["n01", "n02", "n03", "n04", "n05"]):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((40, 50, 3), 40 * label + i, np.uint8)).save(tmp_path / name / f"{i}.png")
        (tmp_path / name / "notes.txt").write_text("no image")
    data = photos.validation_folder(tiny, 2)
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert data.names[3] == "n02/1.png"
    images = data.images[:]
    assert images.shape == (10, 3, 32, 32)
    assert torch.allclose(images[5] * 255, torch.tensor(81.0))
    assert len(photos.validation_folder(tiny, per_class=1)) == 5
    (tmp_path / "n06").mkdir()
    with pytest.raises(ValueError, match="6 subfolders.* 5 classes"):
        photos.validation_folder(tiny, 2)


def test_validation_folder_sorts_numbers_as_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_IMAGENET", str(tmp_path))
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / str(number) / "a.png")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 8), torch.nn.Flatten())
    data = photos.validation_folder(Classifier(net, list("abcdefghijkl"), size=8), 2)
    assert dict(zip(data.names, data.labels.tolist(), strict=True)) == {f"{n}/a.png": n for n in range(12)}


def test_validation_folder_not_set_or_with_empty_subfolders(monkeypatch, tiny, tmp_path):
    monkeypatch.delenv("EDITTOOLS_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match="5 .*EDITTOOLS_IMAGENET"):
        photos.validation_folder(tiny, 2)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    for i in range(3):
        save_image(tmp_path / "2" / f"{i}.png", torch.rand(3, 40, 40))
    monkeypatch.setenv("EDITTOOLS_IMAGENET", str(tmp_path))
    data = photos.validation_folder(tiny, 2)
    assert data.labels.tolist() == [2, 2]
    assert data.images[:].shape == (2, 3, 32, 32)


@needs_photos
def test_snow_photos_are_distinct_and_of_seven_classes():
    data = photos.snow_photos(load_classifier("efficientnet_lite0"))
    counts = {data.classes[label]: int((data.labels == label).sum()) for label in data.labels.unique().tolist()}
    expected = {"car wheel": 20, "fire engine": 20, "motor scooter": 20, "racer": 19, "school bus": 22, "tank": 16}
    assert counts == expected | {"traffic light": 9}
    assert data.images.shape == (126, 3, 224, 224)
    assert without_duplicates("snow", data) is data


def test_sample_photo_needs_no_download(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **options: pytest.fail("a download"))
    for name in FILES:
        photo = sample_photo(name, 160)
        assert photo.shape == (3, 160, 160)
        assert photo.std() > 0.02, name


def test_sample_photos_are_free_to_show():
    assert CREDITS.keys() == FILES.keys()
    assert all(credit.endswith((", CC0", ", public domain")) for credit in CREDITS.values())


@pytest.mark.parametrize("size", [64, 224])
def test_every_sample_photo_may_be_new_but_not_twice(size):
    photos = torch.stack([sample_photo(name, size) for name in FILES])
    for number, photo in enumerate(photos):
        others = torch.cat([photos[:number], photos[number + 1 :]])
        assert is_new_photo(photo, others)
        almost = photo.clone()
        almost[:, 0, 0] = 1 - almost[:, 0, 0]
        assert not is_new_photo(almost, photos)


def test_noise_one_color_and_other_units_are_no_photos():
    cat = sample_photo("cat", 64)
    known = torch.zeros(1, 3, 64, 64)
    noise = torch.rand(cat.shape, generator=torch.Generator().manual_seed(0))
    for image in [noise, 0.5 + 0.1 * noise, torch.full_like(cat, 0.5), 255 * cat, cat - 0.5]:
        assert not is_new_photo(image, known)


def test_sample_crops_overlap_by_half():
    brick = sample_photo("brick")
    crops = sample_crops(["brick", "grass"], 256)
    assert crops.shape == (18, 3, 256, 256)
    assert torch.equal(crops[5], brick[:, 128:384, 256:512])
    assert torch.equal(crops[9], sample_photo("grass")[:, :256, :256])


def test_unknown_sample_photo_is_refused():
    with pytest.raises(ValueError, match="'lena'"):
        sample_photo("lena")
