import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from edittools._ledger import Weights
from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all
from edittools.images import LabeledImages
from edittools.moments import NoEditError, SecondMoment, directions, measure, offset_products, second_moments
from edittools.rewriting import rewrite


@torch.no_grad()
def _keys_of_conv1(tiny, photos):
    net = tiny.model
    return net.relu(net.norm(net.stem(tiny.normalize(photos)))).permute(0, 2, 3, 1).reshape(-1, 8).double()


def _moment_of_conv1(classifier, photos):
    return second_moments(classifier, ["conv1"], photos)["conv1"]


def test_second_moments_against_outer_products(tiny, photos32):
    keys = _keys_of_conv1(tiny, photos32)
    expected = torch.einsum("pi,pj->pij", keys, keys).mean(dim=0)
    moment = _moment_of_conv1(tiny, photos32)
    assert moment.matrix.dtype == torch.float64 and moment.layer == "conv1"
    assert torch.allclose(moment.matrix, expected, rtol=1e-9)


def test_second_moments_of_several_layers(tiny, photos32):
    labelled = LabeledImages(photos32, torch.zeros(40).long(), ["a"])
    together = second_moments(tiny, ["stem", tiny.model.conv1, "conv2", "head"], labelled)
    assert list(together) == ["stem", "conv1", "conv2", "head"]
    for layer, moment in together.items():
        alone = second_moments(tiny, [layer], photos32)[layer]
        assert torch.allclose(moment.matrix, alone.matrix, rtol=1e-9)
        assert (moment.layer, moment.fingerprint) == (layer, alone.fingerprint)
    assert second_moments(tiny, [], photos32) == {}


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), ((3, 2), 1), (3, (2, 1)), (1, 1)])
def test_offset_products_against_unfold(kernel, dilation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, kernel, padding=1, dilation=dilation), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cut = Cut(Classifier(model, list("abcd"), size=9), "0")
    keys = torch.rand(2, 3, 9, 7)
    height, width = cut.weight.shape[2:]
    margin = ((height - 1) * cut.dilation[0], (width - 1) * cut.dilation[1])  # so that each pair of keys is seen once
    windows = (
        nn.functional.unfold(keys, (height, width), cut.dilation, margin).unflatten(1, (3, height * width)).double()
    )
    expected = torch.einsum("bnop,bnqp->oq", windows, windows)
    torch.testing.assert_close(offset_products(cut, keys), expected)


def test_offsets_of_second_moments_are_relative_to_a_key_with_itself(tiny, photos32):
    moments = second_moments(tiny, ["conv1", "conv2", "head"], photos32)
    assert [len(moment.offsets) for moment in moments.values()] == [9, 1, 1]
    for moment in moments.values():
        torch.testing.assert_close(moment.offsets.diagonal(), torch.ones(len(moment.offsets)).double())
        assert float(torch.linalg.eigvalsh(moment.offsets)[0]) > -1e-9


def test_measure_computes_with_the_copied_weights(tiny, photos32):
    expected = second_moments(tiny, ["conv1", "conv2"], photos32)
    cuts = cut_all(tiny, ["conv1", "conv2"], weights=Weights(tiny))
    tiny.model.stem.weight.data.mul_(2)
    tiny.model.norm.running_mean.add_(1)
    measured = measure(cuts, photos32)
    for layer, moment in measured.items():
        torch.testing.assert_close(moment.matrix, expected[layer].matrix)
        assert moment.fingerprint == expected[layer].fingerprint
        assert moment.fingerprint != second_moments(tiny, [layer], photos32)[layer].fingerprint


def test_whitener_of_reference_keys(tiny, photos32):
    moment = _moment_of_conv1(tiny, photos32)
    keys = _keys_of_conv1(tiny, photos32)
    white = keys @ moment.whitener
    assert torch.allclose(white.T @ white / len(white), torch.eye(8, dtype=torch.float64), atol=1e-6)


def moment_with(matrix):
    return SecondMoment(matrix, "conv1", fingerprint="", offsets=torch.eye(9))


def test_whitener_with_small_eigenvalues():
    moment = moment_with(torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)))
    assert torch.allclose(moment.whitener.diagonal().sort().values, torch.tensor([0.5, 1.0, 50.0], dtype=torch.float64))


def test_directions_of_rank_one_and_four():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    moment = moment_with(root @ root.T + torch.eye(6))
    key = torch.randn(6, generator=generator, dtype=torch.float64)
    direction = directions(key[None].repeat(3, 1), torch.ones(3), 1, moment.whitener)[0]
    expected = torch.linalg.solve(moment.matrix, key)
    assert abs(direction @ expected / expected.norm()) == pytest.approx(1, abs=1e-6)
    basis = directions(torch.randn(20, 6, generator=generator, dtype=torch.float64), torch.ones(20), 4, moment.whitener)
    assert torch.allclose(basis @ basis.T, torch.eye(4, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("rank", [2, np.int64(7), 0, -1, 1.5, "1", True, None])
def test_directions_of_bad_rank(rank):
    """A sweep leaves out ranks that are too high (`NoEditError`); any other bad rank is an error of the caller."""
    whitener = torch.eye(6, dtype=torch.float64)
    with pytest.raises(ValueError, match=re.escape(f"rank {rank!r}")) as caught:
        directions(torch.ones(5, 6), torch.ones(5), rank, whitener)
    assert caught.type is (NoEditError if rank in (2, 7) else ValueError)


def _rewritten(classifier, exemplar, moment, layer="conv1"):
    return rewrite(classifier, layer, exemplar, moment)


@pytest.mark.parametrize(
    "name",
    [
        "stem.weight",
        "norm.weight",
        "norm.running_mean",
        "conv1.bias",
        "conv2.weight",
        "norm2.running_var",
        "head.weight",
        "offset",
    ],
)
def test_rewrite_with_moment_of_other_weights_or_buffers(tiny, photos32, exemplar, name):
    tiny.model.register_buffer("offset", torch.rand(4), persistent=False)
    moment = _moment_of_conv1(tiny, photos32)
    tensor = dict(tiny.model.named_parameters()) | dict(tiny.model.named_buffers())
    values = tensor[name].data
    before = values.clone()
    values.copy_(values.flip(0))
    with pytest.raises(ValueError, match="'conv1'.*TinyNet"):
        _rewritten(tiny, exemplar, moment)
    values.copy_(before)
    _rewritten(tiny, exemplar, moment)


@pytest.mark.parametrize("scaling", [{"mean": (0.0, 0.0, 0.0)}, {"std": (0.1, 0.2, 0.3)}])
def test_rewrite_with_moment_of_another_mean_or_std(tiny, photos32, exemplar, scaling):
    moment = _moment_of_conv1(tiny, photos32)
    rescaled = Classifier(tiny.model, tiny.classes, size=32, **scaling)
    with pytest.raises(ValueError, match="'conv1'.*mean.*std"):
        _rewritten(rescaled, exemplar, moment)
    _rewritten(Classifier(tiny.model, list("vwxyz"), size=32), exemplar, moment)


@pytest.mark.parametrize("layer", ["stem", "head"])
def test_rewrite_with_moment_of_other_applied_edits(tiny, photos32, exemplar, layer):
    """An edit of a later layer counts as well, and so does a multiple on top of it."""
    edit = rewrite(tiny, layer, exemplar, photos32)
    unedited = _moment_of_conv1(tiny, photos32)
    with edit.applied(tiny):
        with pytest.raises(ValueError, match="'conv1'.*edits"):
            _rewritten(tiny, exemplar, unedited)
        with (0.5 * edit).applied(tiny):
            moment = _moment_of_conv1(tiny, photos32)
            _rewritten(tiny, exemplar, moment)
        with pytest.raises(ValueError, match="'conv1'.*edits"):
            _rewritten(tiny, exemplar, moment)
        with (0.5 * edit).applied(tiny):
            _rewritten(tiny, exemplar, moment)
    _rewritten(tiny, exemplar, unedited)


def test_rewrite_with_moment_in_copied_classifier(tiny, photos32, exemplar):
    with rewrite(tiny, "stem", exemplar, photos32).applied(tiny):
        moment = _moment_of_conv1(tiny, photos32)
        copied = copy.deepcopy(tiny)
    _rewritten(copied, exemplar, moment)
    with pytest.raises(ValueError, match="'conv1'"):
        _rewritten(tiny, exemplar, moment)


def test_rewrite_with_moment_and_with_its_images(tiny, exemplar):
    images = torch.rand(130, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    from_images, from_moment = (
        _rewritten(tiny, exemplar, reference) for reference in (images, _moment_of_conv1(tiny, images))
    )
    assert from_images.digest == from_moment.digest and from_images.record == from_moment.record
