"""Weights in fewer bytes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edittools.zoo.packing import packed, unpacked


def test_a_row_is_whole_numbers_with_one_scale():
    state = {"w": torch.tensor([[127.0, -63.4], [0.0, 0.0]]), "b": torch.tensor([0.1]), "n": torch.tensor(3)}
    found = packed(state, lambda name: True)
    assert found["w"].tolist() == [[127, -63], [0, 0]] and found["w"].dtype == torch.int8
    assert found["w.scale"][0].item() == 1 and found["b"].dtype == torch.half and found["n"].item() == 3
    back = unpacked(found)
    assert set(back) == set(state) and back["w"].tolist() == [[127, -63], [0, 0]] and back["w"].dtype == torch.float32


def test_only_what_may_be_coarse_is_and_what_was_never_packed_comes_back():
    state = {"w": torch.tensor([[1.0, 0.3]])}
    assert packed(state, lambda name: name != "w")["w"].dtype == torch.half
    assert torch.equal(unpacked(state)["w"], state["w"])


@given(st.integers(0, 1000), st.floats(-2, 2))
def test_what_is_lost_is_small_and_is_lost_once(seed, size):
    weights = 10**size * torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    once = packed({"w": weights}, lambda name: True)
    lost = (unpacked(once)["w"] - weights).abs() / weights.abs().amax(dim=1, keepdim=True)
    assert lost.max() < 0.51 / 127 + 0.001
    again = packed(unpacked(once), lambda name: True)
    assert torch.equal(again["w"], once["w"]) and torch.equal(again["w.scale"], once["w.scale"])
