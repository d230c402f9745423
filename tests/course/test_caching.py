"""Results on disk: a damaged file or an unwritable folder causes a warning and costs no result."""

import warnings

import pytest
import torch
from torch import nn

from edittools_course.networks.zero_shot import ByteTokenizer, text_embeddings
from edittools_course.segmenters import Segmenter, cached


class Reader(nn.Module):
    """The text half of a CLIP: a text's embedding is the mean of its letters'."""

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(258, 4, _weight=torch.rand(258, 4, generator=torch.Generator().manual_seed(0)))

    def encode_text(self, tokens):
        return self.letters(tokens).mean(dim=1)


@pytest.fixture(params=["text", "concepts"])
def result(request, photos32, monkeypatch, tmp_path):
    """The folder of a kind of results, and a function that loads or computes one."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    images = photos32[:2]
    reader = Reader()

    find = Segmenter(lambda images: images.mean(dim=1) > 0.5, {"bright": (1,)}, "brighter than half")
    load = {
        "text": lambda: text_embeddings(reader, ByteTokenizer(8), ["mug", "pot"]),
        "concepts": lambda: cached(find)(images)["bright"],
    }[request.param]
    return tmp_path / request.param, load


DAMAGES = {
    "emptied": lambda raw: b"",
    "cut in its header": lambda raw: raw[:20],
    "one byte short": lambda raw: raw[:-1],
    "a byte of the header flipped": lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
    "something else": lambda raw: b"not a file of tensors",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_or_compute_with_damaged_file(result, damage):
    folder, load = result
    expected = load()
    [path] = folder.iterdir()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=path.name):
        assert torch.equal(load(), expected)
    written = path.stat().st_mtime_ns
    with warnings.catch_warnings(action="error"):
        assert torch.equal(load(), expected)
    assert list(folder.iterdir()) == [path] and path.stat().st_mtime_ns == written  # read, and not written again


@pytest.mark.parametrize("blocked", ["the cache", "its subfolder"])
def test_load_or_compute_in_unwritable_folder(result, blocked, monkeypatch, tmp_path):
    folder, load = result
    expected = load()
    blocking_file = tmp_path / "blocked" if blocked == "the cache" else tmp_path / "blocked" / folder.name
    blocking_file.parent.mkdir(exist_ok=True)
    blocking_file.write_text("a file where a folder is expected")
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "blocked"))
    with pytest.warns(UserWarning, match="blocked") as caught:
        assert torch.equal(load(), expected)
    assert len(caught) == 1
    assert blocking_file.read_text() == "a file where a folder is expected"
