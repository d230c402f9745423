"""The watermark scenario: where marks lie, and that its sets are disjoint and its exemplars can be solved."""

import pytest
import torch
from _lib.watermark import OPACITY, SHOWN_MARK, SPLIT_SIZES, UNSEEN, watermark_scenario
from conftest import needs_photos

from edittools.images import LabeledImages
from edittools.rewriting import rewrite


@pytest.mark.parametrize("name", ["shown", "Latin letters", "three at once"])
def test_opacity_places_the_mark(name):
    mark = UNSEEN.get(name, SHOWN_MARK)
    opacity = mark.opacity(224)
    mask = mark.mask(224)
    assert opacity.min() == 0
    assert opacity.max() == pytest.approx(OPACITY, abs=0.02)
    assert (mask[opacity > 0] == 1).all()
    assert 0.01 < mask.mean() < 0.5
    rows = opacity.sum(dim=1).nonzero()[:, 0]
    columns = opacity.sum(dim=0).nonzero()[:, 0]
    assert (rows.min() + rows.max()) / 448 == pytest.approx(sum(mark.heights) / len(mark.heights), abs=0.01)
    assert (columns.min() + columns.max()) / 448 == pytest.approx(0.5, abs=0.01)
    assert opacity.sum() / mark.opacity(448).sum() == pytest.approx(0.25, rel=0.02)


def test_on_blends_under_the_mark_only():
    data = LabeledImages(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]), ("a", "b"))
    for mark in (SHOWN_MARK, UNSEEN["black"]):
        marked = mark.on(data).images
        opacity = mark.opacity(224)
        assert torch.equal(marked[..., opacity == 0], data.images[..., opacity == 0])
        solid = opacity == opacity.max()
        expected = 0.2 * data.images[..., solid] + 0.8 * mark.brightness
        torch.testing.assert_close(marked[..., solid], expected)


@needs_photos
def test_watermark_scenario_sets_are_disjoint_and_an_exemplar_can_be_solved():
    scenario = watermark_scenario("squeezenet1_1")
    assert len(scenario.splits.reference) == SPLIT_SIZES["reference"] + SPLIT_SIZES["more reference"]
    assert len(scenario.splits.clean_test) == SPLIT_SIZES["clean_test"]
    scenario.splits.check_disjoint(scenario.exemplars.values())
    names = [*scenario.splits.target.names, *scenario.splits.target_test.names]
    assert len(set(names)) == len(names) == 856 - SPLIT_SIZES["candidates"] - len(scenario.splits.reference)
    assert scenario.splits.target_test.names == scenario.splits.clean_test.names
    assert len(scenario.exemplars) >= 2
    assert all(set(data.names) < set(scenario.splits.clean_test.names) for data in scenario.splits.extra.values())
    exemplar = next(iter(scenario.exemplars.values()))
    edit = rewrite(scenario.classifier, scenario.default["layer"], exemplar, reference=scenario.splits.reference[:20])
    assert edit.record.loss_after < 0.9 * edit.record.loss_before
