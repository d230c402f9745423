"""Finding a mark by its appearance: places, several examples, and the rectangle around a mark."""

import pytest
import torch

from edittools.cut import Cut
from edittools.locate import Box, find_alike


def test_find_alike_finds_a_patch_at_its_place(tiny):
    generator = torch.Generator().manual_seed(0)
    patch = torch.rand(3, 8, 8, generator=generator)
    images = 0.3 * torch.rand(30, 3, 32, 32, generator=generator)
    image = images[0].clone()
    image[:, 4:12, 8:16] = patch
    images[7, :, 16:24, 20:28] = patch
    mask = torch.zeros(32, 32)
    mask[4:12, 8:16] = 1
    found = find_alike(Cut(tiny, "conv1"), [(image, mask)], images).places
    assert found[0].index == 7 and len(found) == 30
    assert abs(found[0].box.top - 16) <= 1 and abs(found[0].box.left - 20) <= 1


@pytest.mark.parametrize(("box", "drawn"), [(Box(3, 5, 6, 9), 44), (Box(3, 5, 2, 9), 18), (Box(7, 7, 1, 1), 1)])
def test_outline_of_a_box_is_inside_it(box, drawn):
    changed = (box.outlined_on(torch.full((3, 20, 20), 0.5)) != 0.5).any(dim=0)
    assert Box.around(changed) == box and int(changed.sum()) == drawn


def test_find_alike_of_examples_of_different_sizes(tiny):
    generator = torch.Generator().manual_seed(0)
    patch = torch.rand(3, 12, 12, generator=generator)
    images = 0.3 * torch.rand(20, 3, 32, 32, generator=generator)
    images[0, :, 4:16, 8:20] = patch
    images[1, :, 10:18, 2:10] = patch[:, :8, :8]
    images[7, :, 16:28, 20:32] = patch
    examples = [(images[0], Box.square(4, 8, 12).mask(32, 32)), (images[1], Box.square(10, 2, 8).mask(32, 32))]
    found = find_alike(Cut(tiny, "conv1"), examples, images)
    assert {place.index for place in found.places[:3]} == {0, 1, 7} and len(found.places) == 20
    assert {place.box.width for place in found.places} <= {8, 12}
    assert found.likeness_of_examples.shape == (2,) and float(found.likeness_of_examples.min()) > 0.5


def test_box_around_its_mask_is_the_box():
    box = Box(3, 5, 6, 9)
    assert Box.around(box.mask(20, 20)) == box and box.mask(20, 20).sum() == 54
