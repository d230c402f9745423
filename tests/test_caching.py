"""Results on disk: a damaged file or an unwritable folder causes a warning and costs no result."""

import warnings

import pytest
import torch
from torch import nn

from edittools._caching import checksum_tensor
from edittools.models.zero_shot import ByteTokenizer, text_embeddings
from edittools.moments import second_moments
from edittools.probing.segmentation import cached


class Reader(nn.Module):
    """The text half of a CLIP: a text's embedding is the mean of its letters'."""

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(258, 4, _weight=torch.rand(258, 4, generator=torch.Generator().manual_seed(0)))

    def encode_text(self, tokens):
        return self.letters(tokens).mean(dim=1)


@pytest.fixture(params=["second_moments", "text", "concepts"])
def result(request, tiny, photos32, monkeypatch, tmp_path):
    """The folder of a kind of results, and a function that loads or computes one."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    images = photos32[:2]
    reader = Reader()

    def finder(images):
        return {"bright": (images.mean(dim=1) > 0.5).float()}

    load = {
        "second_moments": lambda: second_moments(tiny, ["conv1"], images)["conv1"].matrix,
        "text": lambda: text_embeddings(reader, ByteTokenizer(8), ["mug", "pot"], ["a {}"]),
        "concepts": lambda: cached(finder, "brighter than half")(images)["bright"],
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


CHECKED = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.int8,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", CHECKED)
def test_checksum_tensor_of_permuted_entries(dtype):
    tensor = torch.randn(3, 20_001, generator=torch.Generator().manual_seed(0)).mul(3)
    tensor = tensor > 0 if dtype == torch.bool else tensor.to(dtype)
    checksum = checksum_tensor(tensor)
    assert checksum == checksum_tensor(tensor.clone()) == checksum_tensor(tensor.T.contiguous().T)
    assert checksum != checksum_tensor(tensor.flip(0))
    assert checksum != checksum_tensor(tensor.flip(1))
    swapped = tensor.flatten()
    different = int((swapped != swapped[0]).nonzero()[-1])
    swapped[[0, different]] = swapped[[different, 0]]
    assert checksum != checksum_tensor(swapped.view_as(tensor))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2**14 + 1,)])
@pytest.mark.parametrize("bit", [0, 7])
def test_checksum_tensor_of_one_changed_bit(shape, bit):
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    checksum = checksum_tensor(tensor)
    contents = tensor.flatten().view(torch.uint8)
    for place in {0, len(contents) // 2, len(contents) - 1}:
        contents[place] ^= 1 << bit
        assert checksum_tensor(contents.view(torch.bfloat16).reshape(shape)) != checksum
        contents[place] ^= 1 << bit
    assert checksum_tensor(contents.view(torch.bfloat16).reshape(shape)) == checksum


def test_checksum_tensor_of_swapped_signs():
    """Plus and minus one differ in the highest bit alone, which multiples of 2 would lose."""
    tensor = torch.ones(50_000)
    tensor[::2] = -1
    for first, second in [(0, 1), (2**14 + 2, 2**15 + 1), (7, 2**15 + 8)]:
        swapped = tensor.clone()
        swapped[first] = -tensor[first]
        swapped[second] = -tensor[second]
        assert checksum_tensor(swapped) != checksum_tensor(tensor)


def test_checksum_tensor_of_empty_and_meta_tensors():
    assert checksum_tensor(torch.zeros(0)) == checksum_tensor(torch.zeros(0, 3))
    assert checksum_tensor(torch.zeros(2, 3, device="meta")) == 0
