"""Imagenette: the archive of its photos, their order, and their division into roles."""

import hashlib
import http.server
import io
import os
import tarfile
import threading

import pytest
import torch
from conftest import needs_imagenette

from edittools.images import LabeledImages
from edittools_course import downloads
from edittools_course.downloads import PhotoArchive, digest_photos, photo_folder
from edittools_course.scenarios.imagenette import CLASSES, TRAINING_PER_CLASS, TUNING_PER_CLASS, divide, training_roles


def packed(members):
    """Make a compressed archive of (path, content) pairs; a member without content is a link to /etc/passwd."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.SYMTYPE
                member.linkname = "/etc/passwd"
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


PHOTOS = {"train/n1/a.JPEG": b"one", "train/n2/b.JPEG": os.urandom(50_000), "val/n1/c.JPEG": b"three"}
OTHERS = [
    ("photos-1/README.md", b"text"),
    ("photos-1/train/README.md", b"text"),
    ("photos-1/docs/d.JPEG", b"four"),
    ("photos-1/train/n1/link.JPEG", None),
    ("photos-1/train/../../../out.JPEG", b"five"),
    ("/train/n1/absolute.JPEG", b"six"),
    ("photos-1/e.JPEG", b"seven"),
]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Serve a made-up archive on loopback: as it is, with other photos, cut off, or not at all, by address."""
    good = packed([*OTHERS, *((f"photos-1/{name}", content) for name, content in PHOTOS.items())])
    other = packed([(f"photos-1/{name}", content + b"!") for name, content in PHOTOS.items()])
    served = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            body = {"/good": good, "/other": other, "/cut": good, "/page": b"<html>"}.get(self.path)
            if body is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

        def log_message(self, *args):
            pass

    lines = [f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(PHOTOS.items())]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()

    def of(kind):
        return PhotoArchive("made-up", f"http://127.0.0.1:{httpd.server_port}/{kind}", ("train", "val"), digest)

    yield of, served, tmp_path / "cache" / "photos"
    httpd.shutdown()


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_photo_folder_downloads_once_and_unpacks_photos_only(archive, tmp_path):
    of, served, cache = archive
    folder = photo_folder(of("good"))
    assert folder == cache / "made-up"
    assert {name: (folder / name).read_bytes() for name in files_below(folder)} == PHOTOS
    assert files_below(cache) == {f"made-up/{name}" for name in PHOTOS}
    assert not list(tmp_path.rglob("out.JPEG"))
    assert photo_folder(of("good")) == folder
    assert served == ["/good"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [("other", ValueError), ("cut", FileNotFoundError), ("page", FileNotFoundError), ("none", FileNotFoundError)],
)
def test_photo_folder_damaged_download_leaves_nothing(archive, kind, error):
    of, _, cache = archive
    with pytest.raises(error, match=rf"127.0.0.1:\d+/{kind}"):
        photo_folder(of(kind))
    assert not list(cache.iterdir())


def test_photo_folder_interrupted_leaves_nothing(archive, monkeypatch):
    of, _, cache = archive

    def interrupted(folder, subfolders):
        assert files_below(folder) == set(PHOTOS)
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "digest_photos", interrupted)
    with pytest.raises(KeyboardInterrupt):
        photo_folder(of("good"))
    assert not list(cache.iterdir())


def test_photo_folder_offline_is_checked_and_never_written(archive, monkeypatch, tmp_path):
    of, served, cache = archive
    offline = tmp_path / "offline"
    offline.mkdir()
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(offline))
    with pytest.raises(FileNotFoundError, match=rf"'made-up'.*{offline}.*unset"):
        photo_folder(of("good"))
    for name, content in PHOTOS.items():
        path = offline / "made-up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (offline / "made-up" / "train" / "notes.txt").write_text("files that are no photos do not count")
    assert photo_folder(of("good")) == offline / "made-up"
    assert digest_photos(offline / "made-up", ("train", "val")) == of("good").digest
    assert served == []
    assert not cache.exists()


def test_photo_folder_with_a_changed_photo(archive):
    of, _, cache = archive
    path = cache / "made-up" / "train" / "n1" / "a.JPEG"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another photo")
    with pytest.raises(ValueError, match=rf"{cache}/made-up.*remove that folder"):
        photo_folder(of("good"))
    assert path.read_bytes() == b"another photo"


def test_divide_is_disjoint_and_deterministic():
    labels = torch.arange(2).repeat_interleave(torch.tensor([360, 400]))
    photos = LabeledImages(torch.rand(760, 3, 1, 1), labels, ("a", "b"), tuple(str(i) for i in range(760)))
    roles = divide(photos, seed=1)
    names = [name for role in roles.values() for name in role.names]
    assert sorted(names) == sorted(photos.names)
    assert roles["training"].labels.bincount().tolist() == [TRAINING_PER_CLASS] * 2
    assert roles["tuning"].labels.bincount().tolist() == [TUNING_PER_CLASS] * 2
    assert roles["left"].labels.bincount().tolist() == [10, 50]
    assert divide(photos, seed=1)["tuning"].names == roles["tuning"].names
    assert divide(photos, seed=2)["tuning"].names != roles["tuning"].names


@needs_imagenette
def test_training_roles_of_the_photos():
    roles = training_roles()
    assert sum(len(role) for role in roles.values()) == 9469
    names = [name for role in roles.values() for name in role.names]
    assert len(set(names)) == 9469
    assert all(name.startswith("train/") for name in names)
    assert roles["left"].classes == tuple(CLASSES.values())
    for role in roles.values():
        wnids = [name.split("/")[1] for name in role.names]
        assert wnids == [list(CLASSES)[label] for label in role.labels]
    assert roles["tuning"].images[:2].shape == (2, 3, 160, 160)
