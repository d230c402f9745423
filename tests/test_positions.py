"""Masks and edit maps follow what a model does to the positions of pixels, or the layer is refused by name."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut
from edittools.edits import Change, Edit
from edittools.exemplars import Exemplar
from edittools.moments import second_moments
from edittools.rewriting import rewrite

SIZE = 16
CELL = 4
ORDER = torch.randperm(SIZE * SIZE, generator=torch.Generator().manual_seed(3))


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def classifier_with(function, layer, size=SIZE):
    """A convolution, a step that moves positions, the layer, and a head."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Step(function), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(model.append(nn.Linear(8, 4)), list("abcd"), size=size)


def gathered(x):
    index = ORDER.expand(x.shape[0], x.shape[1], -1)
    return x.flatten(2).gather(2, index).unflatten(2, (SIZE, SIZE))


def scattered(x):
    index = ORDER.expand(x.shape[0], x.shape[1], -1)
    return torch.zeros_like(x.flatten(2)).scatter(2, index, x.flatten(2)).unflatten(2, (SIZE, SIZE))


def put(x):
    flat = torch.zeros_like(x.flatten(2))
    flat[:, :, ORDER] = x.flatten(2)
    return flat.unflatten(2, (SIZE, SIZE))


def assigned(x):
    swapped = torch.empty_like(x)
    swapped[:, :, :8] = x[:, :, 8:]
    swapped[:, :, 8:] = x[:, :, :8]
    return swapped


def circular(x):
    return F.pad(x, (8, 8, 8, 8), mode="circular")[:, :, :16, :16]


MOVES = {
    "transpose": lambda x: x.transpose(2, 3),
    "swapdims": lambda x: x.swapdims(2, 3),
    "moveaxis": lambda x: x.moveaxis(2, 3),
    "mT": lambda x: x.mT,
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "flip": lambda x: x.flip(2),
    "roll": lambda x: torch.roll(x, (5, 3), (2, 3)),
    "swapped halves": lambda x: torch.cat([x[:, :, 8:], x[:, :, :8]], dim=2),
    "gather": gathered,
    "scatter": scattered,
    "index_put": put,
    "index_copy": lambda x: torch.zeros_like(x.flatten(2)).index_copy(2, ORDER, x.flatten(2)).unflatten(2, (16, 16)),
    "sliced assignment": assigned,
    "crop": lambda x: x[:, :, 4:-4, 4:-4],
    "crop of a corner": lambda x: x[:, :, :8, :8],
    "negative padding": lambda x: F.pad(x, (-4, -4, -4, -4)),
    "circular padding": circular,
    "pixels into channels and back": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
}
LAYERS = {"1 x 1": lambda: nn.Conv2d(8, 8, 1), "2 x 2, stride 2": lambda: nn.Conv2d(8, 8, 2, stride=2)}


def moved_by(classifier, image, mask):
    """Where keys and outputs of layer 2 change when the pixels at the mask do, as a hook sees it: the oracle."""
    recorded = []
    handle = classifier.model[2].register_forward_hook(lambda module, args, output: recorded.append((args[0], output)))
    for pixels in (image, torch.where(mask > 0, 1 - image, image)):
        classifier(pixels[None])
    handle.remove()
    (keys, output), (changed_keys, changed_output) = recorded
    return (keys - changed_keys).abs().sum(1) > 1e-6, (output - changed_output).abs().sum(1) > 1e-6


def cell_masks(size=SIZE):
    for top in range(0, size, CELL):
        for left in range(0, size, CELL):
            mask = torch.zeros(size, size)
            mask[top : top + CELL, left : left + CELL] = 1
            yield mask


SHUFFLING = {"roll", "gather", "scatter", "index_put", "index_copy"}
"""Behind them, each output of a layer with a stride of 2 sees pixels of several parts of the image at once."""
FOLLOWED = [(move, kind) for move in MOVES for kind in LAYERS if kind == "1 x 1" or move not in SHUFFLING]


@pytest.mark.parametrize(("move", "kind"), FOLLOWED)
@torch.no_grad()
def test_pool_mask_behind_move(move, kind):
    classifier = classifier_with(MOVES[move], LAYERS[kind]())
    cut = Cut(classifier, "2")
    image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for mask in cell_masks():
        keys_moved, output_moved = moved_by(classifier, image, mask)
        assert torch.equal(cut.pool_mask(mask[None]) > 0, keys_moved)
        assert torch.equal(cut.pool_mask(mask[None], "output") > 0, output_moved)


@pytest.mark.parametrize("move", sorted(SHUFFLING))
def test_cut_of_strided_layer_behind_shuffled_pixels(move):
    classifier = classifier_with(MOVES[move], LAYERS["2 x 2, stride 2"]())
    with pytest.raises(ValueError, match="'2' of Sequential.*output.*'conv2d'"):
        Cut(classifier, "2")


@pytest.mark.parametrize("move", ["transpose", "gather", "crop of a corner", "circular padding"])
@torch.no_grad()
def test_edit_map_behind_move(move):
    """An edit of everything acts at a position as far as its key is long: over one bright cell, only there."""
    classifier = classifier_with(MOVES[move], LAYERS["1 x 1"]())
    classifier.model[0].bias.zero_()
    classifier.mean.zero_()
    cut = Cut(classifier, "2")
    edit = Edit({"2.weight": Change(torch.randn(cut.weight.shape))}, fingerprint(cut.model))
    for mask in cell_masks():
        image = mask.expand(3, -1, -1).contiguous()
        inner = F.avg_pool2d(mask[None], 3, 1, 1, count_include_pad=False)[0] == 1
        outer = F.max_pool2d(mask[None], 5, 1, 2)[0] == 0
        strength = edit.edit_map(classifier, image)
        if cut.pool_mask(mask[None]).sum() == 0:  # cropped away
            assert not strength.any()
            continue
        assert strength[inner].min() > 0.3
        assert strength[outer].abs().max() < 1e-4


UNKNOWN = {
    "grid_sampler": lambda x: F.grid_sample(x, torch.zeros(1, 16, 16, 2).expand(x.shape[0], -1, -1, -1)),
    "einsum": lambda x: torch.einsum("bchw->bcwh", x),
    "sort": lambda x: x.sort(dim=2).values,
    "cumsum": lambda x: x.cumsum(dim=2),
}


@pytest.mark.parametrize("operation", UNKNOWN)
def test_cut_behind_unknown_operation(operation):
    classifier = classifier_with(UNKNOWN[operation], nn.Conv2d(8, 8, 1))
    with pytest.raises(ValueError, match=f"'{operation}'"):
        Cut(classifier, "2")
    assert Cut(classifier, "0").layer == "0"


@pytest.mark.parametrize(
    ("layer", "center"),
    [
        (lambda: nn.Conv2d(8, 8, 3, padding=12), 11),
        (lambda: nn.Conv2d(8, 8, 3, dilation=6), -6),
        (lambda: nn.Conv2d(8, 8, 5), -2),
    ],
)
@torch.no_grad()
def test_pool_mask_of_shifted_output(layer, center):
    """With the central tap alone, output i sees input i - center."""
    classifier = classifier_with(nn.Identity(), layer(), size=32)
    weight = classifier.model[2].weight
    middle = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2].clone()
    weight.zero_()
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = middle
    cut = Cut(classifier, "2")
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    for mask in cell_masks(32):
        _, output_moved = moved_by(classifier, image, mask)
        shares = cut.pool_mask(mask[None], "output")
        assert torch.equal(shares > 0, output_moved)
        inside = F.pad(mask, [center] * 4)
        assert torch.equal(shares[0], inside)


@torch.no_grad()
def test_pool_mask_of_strided_output_behind_circular_padding():
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode="circular")
    classifier = classifier_with(nn.Identity(), layer)
    cut = Cut(classifier, "2")
    image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(SIZE // 2, SIZE // 2)
    for mask in cell_masks():
        _, output_moved = moved_by(classifier, image, mask)
        [shares] = cut.pool_mask(mask[None], "output")
        assert output_moved[0][shares > 0].all()
        total += shares
    assert total.min() > 0.5  # the cells at the border reach beyond the image


def test_pool_mask_behind_stride_on_small_padded_map():
    classifier = classifier_with(lambda x: F.avg_pool2d(F.pad(x, (1, 2, 1, 2)), 5, 2), nn.Conv2d(8, 8, 1), size=4)
    mask = torch.zeros(1, 4, 4)
    mask[0, :2, :2] = 1
    assert Cut(classifier, "2").pool_mask(mask).tolist() == [[[1, 0], [0, 0]]]


@torch.no_grad()
def test_pool_mask_of_value_that_is_added_to_unknown_positions():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(x) + torch.einsum("bchw->bcwh", x)

    cut = Cut(classifier_with(nn.Identity(), Parallel()), "2.conv")
    masks = torch.stack(list(cell_masks()))
    assert torch.equal(cut.pool_mask(masks, "value"), cut.pool_mask(masks, "output"))
    with pytest.raises(ValueError, match="'einsum'"):
        Cut(classifier_with(nn.Identity(), nn.Sequential(Parallel(), nn.Conv2d(8, 8, 1))), "2.1")


def test_rewrite_of_model_that_crops_its_images():
    """The edit is that of the same model on images that were cropped before."""

    def resnet():
        torch.manual_seed(0)
        return torchvision.models.resnet18(num_classes=4).eval()

    generator = torch.Generator().manual_seed(5)
    image, snow = F.interpolate(torch.rand(2, 3, 16, 16, generator=generator), 128)
    mask = torch.zeros(128, 128)
    mask[30:70, 60:100] = 1
    changed = torch.where(mask > 0, snow, image)
    reference = F.interpolate(torch.rand(8, 3, 12, 12, generator=generator), 128)

    def crop(x):
        return x[..., 16:112, 16:112].contiguous()

    whole = Classifier(nn.Sequential(torchvision.transforms.CenterCrop(96), resnet()), list("abcd"), size=128)
    cropped = Classifier(resnet(), list("abcd"), size=96)
    layer = "layer2.1.conv2"
    inner_moment = second_moments(whole, [f"1.{layer}"], reference)[f"1.{layer}"]
    outer_moment = second_moments(cropped, [layer], crop(reference))[layer]
    exemplar = Exemplar(image, changed, mask)
    inner = rewrite(whole, f"1.{layer}", exemplar, inner_moment, objective="least_squares")
    small = Exemplar(crop(image), crop(changed), crop(mask))
    outer = rewrite(cropped, layer, small, outer_moment, objective="least_squares")
    torch.testing.assert_close(
        inner.changes[f"1.{layer}.weight"].delta(), outer.changes[f"{layer}.weight"].delta(), rtol=1e-3, atol=1e-6
    )


def test_rewrite_with_mask_outside_of_crop():
    classifier = classifier_with(lambda x: x[:, :, 4:-4, 4:-4], nn.Conv2d(8, 8, 1))
    image, changed = torch.rand(2, 3, SIZE, SIZE)
    mask = torch.zeros(SIZE, SIZE)
    mask[:3] = 1
    exemplar = Exemplar(image, torch.where(mask > 0, changed, image), mask)
    with pytest.raises(ValueError, match="'2'"):
        rewrite(classifier, "2", exemplar, torch.rand(4, 3, SIZE, SIZE), objective="least_squares")
