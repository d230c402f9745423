"""Corrupted copies of images."""

import pytest
import torch
from _lib.corruptions import CORRUPTIONS, corrupt


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_stays_in_range_and_grows_with_severity(name):
    x = torch.linspace(0, 1, 32)
    disc = (((x[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) < 0.1).float() * 0.5 + 0.25
    smooth = torch.stack([(0.2 + 0.6 * x).expand(32, 32), disc, disc.flip(0)])[None]
    corrupted = [corrupt(smooth, name, strength) for strength in CORRUPTIONS[name]]
    distances = [float((images - smooth).abs().mean()) for images in corrupted]
    assert distances == sorted(distances)
    assert distances[0] > 0
    for images in corrupted:
        assert images.shape == smooth.shape
        assert images.min() >= 0
        assert images.max() <= 1
