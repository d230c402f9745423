import copy
import re

import numpy as np
import pytest
import torch

from edittools import moments
from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.moments import RankError, SecondMoment, directions, measure, second_moments
from edittools.rewriting import rewrite


@torch.no_grad()
def _keys_of_conv1(tiny, photos):
    net = tiny.model
    return net.relu(net.norm(net.stem(tiny.normalize(photos)))).permute(0, 2, 3, 1).reshape(-1, 8).double()


def test_measure_against_outer_products(tiny, photos32):
    keys = _keys_of_conv1(tiny, photos32)
    expected = torch.einsum("pi,pj->pij", keys, keys).mean(dim=0)
    moment = measure(tiny, ["conv1"], photos32, batch_size=7)["conv1"]
    assert moment.matrix.dtype == torch.float64
    assert torch.allclose(moment.matrix, expected, rtol=1e-9)


def test_measure_of_several_layers(tiny, photos32):
    together = measure(tiny, ["stem", "conv1", "conv2", "head"], photos32, batch_size=16)
    for layer, moment in together.items():
        assert torch.allclose(moment.matrix, measure(tiny, [layer], photos32, batch_size=16)[layer].matrix, rtol=1e-9)


def test_whitener_of_reference_keys(tiny, photos32):
    moment = measure(tiny, ["conv1"], photos32)["conv1"]
    keys = _keys_of_conv1(tiny, photos32)
    white = keys @ moment.whitener
    assert torch.allclose(white.T @ white / len(white), torch.eye(8, dtype=torch.float64), atol=1e-6)


def test_whitener_with_small_eigenvalues():
    moment = SecondMoment(torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)))
    assert torch.allclose(moment.whitener.diagonal().sort().values, torch.tensor([0.5, 1.0, 50.0], dtype=torch.float64))


def test_directions_of_rank_one_and_four():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    moment = SecondMoment(root @ root.T + torch.eye(6))
    key = torch.randn(6, generator=generator, dtype=torch.float64)
    direction = directions(key[None].repeat(3, 1), torch.ones(3), 1, moment)[0]
    expected = torch.linalg.solve(moment.matrix, key)
    assert abs(direction @ expected / expected.norm()) == pytest.approx(1, abs=1e-6)
    basis = directions(torch.randn(20, 6, generator=generator, dtype=torch.float64), torch.ones(20), 4, moment)
    assert torch.allclose(basis @ basis.T, torch.eye(4, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("rank", [2, np.int64(7), 0, -1, 1.5, "1", True, None])
def test_directions_of_bad_rank(rank):
    """A sweep leaves out ranks that are too high (`RankError`); any other bad rank is an error of the caller."""
    moment = SecondMoment(torch.eye(6, dtype=torch.float64))
    with pytest.raises(ValueError, match=re.escape(f"rank {rank!r}")) as caught:
        directions(torch.ones(5, 6), torch.ones(5), rank, moment)
    assert caught.type is (RankError if rank in (2, 7) else ValueError)


def test_second_moments_with_cache(tiny, photos32, tmp_path, monkeypatch):
    passes = []
    monkeypatch.setattr(moments, "measure", lambda *arguments, **options: passes.append(1) or measure(*arguments))
    first = second_moments(tiny, ["conv1", "conv2"], photos32, cache=tmp_path)
    computed = len(passes)
    again = second_moments(
        tiny, ["conv2", "conv1"], LabelledImages(photos32, torch.zeros(40).long(), ["a"]), cache=tmp_path
    )
    assert len(passes) == computed
    assert torch.equal(first["conv1"].matrix, again["conv1"].matrix)
    changed = photos32.clone()
    changed[0, 0, 0, 0] += 1e-3
    second_moments(tiny, ["conv1"], changed, cache=tmp_path)
    assert len(passes) == computed + 1
    with torch.no_grad():
        tiny.model.head.bias[0] += 1e-4
    second_moments(tiny, ["conv1"], photos32, cache=tmp_path)
    assert len(passes) == computed + 2
    second_moments(tiny, ["conv1", "head"], photos32, cache=tmp_path)
    assert len(passes) == computed + 3
    assert not list((tmp_path / "second_moments").glob(".*"))


def _rewritten(classifier, exemplar, moment):
    return rewrite(classifier, "conv1", exemplar, moment, objective="least_squares")


@pytest.mark.parametrize("cache", ["", None])
@pytest.mark.parametrize("name", ["stem.weight", "norm.weight", "norm.running_mean"])
def test_rewrite_after_earlier_weights_changed(tiny, photos32, exemplar, name, cache, tmp_path):
    folder = tmp_path if cache is None else cache
    moment = second_moments(tiny, ["conv1"], photos32, cache=folder)["conv1"]
    _rewritten(tiny, exemplar, moment)
    tensor = tiny.model.state_dict()[name]
    before = tensor.clone()
    tensor.copy_(tensor.flip(0))
    with pytest.raises(ValueError, match=name):
        _rewritten(tiny, exemplar, moment)
    tensor.copy_(before)
    _rewritten(tiny, exemplar, moment)


def test_rewrite_after_later_weights_changed(tiny, photos32, exemplar):
    moment = measure(tiny, ["conv1"], photos32)["conv1"]
    with torch.no_grad():
        tiny.model.conv1.weight.mul_(2)
        tiny.model.head.weight.mul_(2)
    _rewritten(tiny, exemplar, moment)


@pytest.mark.parametrize("scaling", [{"mean": (0.0, 0.0, 0.0)}, {"std": (0.1, 0.2, 0.3)}])
def test_rewrite_with_moment_of_another_mean_or_std(tiny, photos32, exemplar, scaling):
    moment = measure(tiny, ["conv1"], photos32)["conv1"]
    rescaled = Classifier(tiny.model, tiny.classes, size=32, **scaling)
    with pytest.raises(ValueError, match="'conv1'.*mean.*std"):
        _rewritten(rescaled, exemplar, moment)
    _rewritten(Classifier(tiny.model, list("vwxyz"), size=32), exemplar, moment)


def test_rewrite_with_moment_of_edit_applied_twice(tiny, photos32, exemplar):
    edit = rewrite(tiny, "stem", exemplar, photos32, objective="least_squares")
    with edit.applied(tiny):
        with edit.applied(tiny):
            moment = measure(tiny, ["conv1"], photos32)["conv1"]
            _rewritten(tiny, exemplar, moment)
        with pytest.raises(ValueError, match="'stem'"):
            _rewritten(tiny, exemplar, moment)


def test_rewrite_with_moment_in_copied_classifier(tiny, photos32, exemplar):
    """An applied edit is known by its digest, also where the copy holds a copy of it."""
    with rewrite(tiny, "stem", exemplar, photos32, objective="least_squares").applied(tiny):
        moment = measure(tiny, ["conv1"], photos32)["conv1"]
        copied = copy.deepcopy(tiny)
    _rewritten(copied, exemplar, moment)


def test_rewrite_with_bare_matrix(tiny, exemplar):
    with torch.no_grad():
        tiny.model.stem.weight.mul_(2)
    assert _rewritten(tiny, exemplar, SecondMoment(torch.eye(8).double())).layers == ("conv1",)
