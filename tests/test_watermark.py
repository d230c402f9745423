"""The watermark scenario: where marks lie, that its sets are disjoint, and how many broken predictions are restored."""

import pytest
import torch
from _lib.networks import add_networks
from _lib.results import Results
from conftest import needs_photos
from watermark import add_figures, inpainted, restored

from edittools.images import LabelledImages
from edittools.rewriting import rewrite
from edittools.scenarios.watermark import OPACITY, SHOWN_MARK, SPLIT_SIZES, UNSEEN, watermark_scenario


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
    data = LabelledImages(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]), ("a", "b"))
    for mark in (SHOWN_MARK, UNSEEN["black"]):
        marked = mark.on(data).images
        opacity = mark.opacity(224)
        assert torch.equal(marked[..., opacity == 0], data.images[..., opacity == 0])
        solid = opacity == opacity.max()
        expected = 0.2 * data.images[..., solid] + 0.8 * mark.brightness
        torch.testing.assert_close(marked[..., solid], expected)


def test_inpainted_continues_the_surroundings():
    slope = torch.linspace(0.1, 0.9, 40).expand(1, 3, 40, 40).contiguous()
    mask = torch.zeros(1, 40, 40)
    mask[:, 15:22, 12:30] = 1
    torch.testing.assert_close(inpainted(torch.where(mask > 0, 1.0, slope), mask), slope, atol=1e-3, rtol=0)


def row(job, method, bare, before, after):
    numbers = list(range(len(bare)))
    sets = {part: [before, after, numbers] for part in ("target_test", *UNSEEN)}
    effort = {"settings": "x", "layer": "l", "candidates": 3, "seconds": 2.0, "success": 1.0}
    return {"job": job, "method": method, "clean_test": [bare, bare, numbers], **sets, **effort}


def test_restored_subtracts_newly_broken_predictions():
    # photos: restored, still wrong, wrong also without the mark and now correct, newly broken, never wrong, restored
    network = row("one", "editing", [0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0])
    result = restored([network], ["target_test"])
    assert result["fooled"] == 3
    assert result["share"] == pytest.approx(1 / 3)
    low, high = result["interval"]
    assert low < 1 / 3 < high <= 1
    assert result == restored([network], ["target_test"])
    assert restored([network, network], ["target_test", "black"])["fooled"] == 12
    results = Results("watermark", "photos")
    add_networks(results, [network], add_figures)
    measured = results.keyed["one"]["editing"]
    assert [measured[name] for name in ("corrected", "broken", "errors_before", "success")] == [3, 1, 4, 1]


def test_add_networks_method_missing_for_a_network_changes_nothing_there():
    bare = [0, 0, 0]
    before = [1, 1, 0]
    runs = [("a", "editing"), ("a", "other"), ("b", "editing")]
    results = Results("watermark", "photos")
    add_networks(results, [row(job, method, bare, before, bare) for job, method in runs], add_figures)
    shares = {method: line["share_restored"] for method, line in results.keyed["all"].items()}
    assert shares == {"editing": 1.0, "other": 0.5}
    assert list(results.keyed) == ["all", "a", "b"] and list(results.keyed["b"]) == ["editing"]


@needs_photos
def test_watermark_scenario_sets_are_disjoint_and_an_exemplar_can_be_solved():
    scenario = watermark_scenario("squeezenet1_1")
    for name in ("reference", "clean_test", "clean"):
        assert len(getattr(scenario.splits, name)) == SPLIT_SIZES[name]
    names = [*scenario.splits.target.names, *scenario.splits.clean.names, *scenario.splits.target_test.names]
    assert len(set(names)) == len(names) == 856 - SPLIT_SIZES["candidates"] - SPLIT_SIZES["reference"]
    assert scenario.splits.target_test.names == scenario.splits.clean_test.names
    assert len(scenario.exemplars) == 2
    assert all(set(data.names) < set(scenario.splits.clean_test.names) for data in scenario.splits.extra.values())
    exemplar = next(iter(scenario.exemplars.values()))
    edit = rewrite(scenario.classifier, scenario.default["layer"], exemplar, reference=scenario.splits.reference[:20])
    assert edit.record.share_left < 0.9
