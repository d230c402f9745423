"""The story of a watermark: where marks lie, that no photo has two duties, and how much of its harm is undone."""

import pytest
import torch
from conftest import needs_photos
from networks import together
from watermark import figures, inpainted, restored

from edittools.images import LabelledImages
from edittools.rewriting import rewrite
from edittools.scenarios.watermark import OPACITY, SHOWN_MARK, SPLIT_SIZES, UNSEEN, watermark_scenario


@pytest.mark.parametrize("name", ["shown", *UNSEEN])
def test_a_mark_covers_what_it_says(name):
    mark = UNSEEN.get(name, SHOWN_MARK)
    opacity, mask = mark.opacity(224), mark.mask(224)
    assert opacity.min() == 0 and opacity.max() == pytest.approx(OPACITY, abs=0.02)
    assert (mask[opacity > 0] == 1).all() and 0.01 < mask.mean() < 0.5
    rows, columns = (opacity.sum(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    assert (rows.min() + rows.max()) / 448 == pytest.approx(sum(mark.heights) / len(mark.heights), abs=0.01)
    assert (columns.min() + columns.max()) / 448 == pytest.approx(0.5, abs=0.01)
    assert opacity.sum() / mark.opacity(448).sum() == pytest.approx(0.25, rel=0.02)


def test_a_mark_lets_a_fifth_of_the_photo_through_and_leaves_the_rest():
    data = LabelledImages(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]), ("a", "b"))
    for mark in (SHOWN_MARK, UNSEEN["black"]):
        changed, opaque = mark.on(data).images, mark.opacity(224)
        assert torch.equal(changed[..., opaque == 0], data.images[..., opaque == 0])
        full = opaque == opaque.max()
        expected = 0.2 * data.images[..., full] + 0.8 * mark.brightness
        torch.testing.assert_close(changed[..., full], expected)


def test_inpainting_continues_what_lies_around_the_mark():
    slope = torch.linspace(0.1, 0.9, 40).expand(1, 3, 40, 40).contiguous()
    mask = torch.zeros(1, 40, 40)
    mask[:, 15:22, 12:30] = 1
    torch.testing.assert_close(inpainted(torch.where(mask > 0, 1.0, slope), mask), slope, atol=1e-3, rtol=0)


def row(job, method, bare, before, after):
    numbers = list(range(len(bare)))
    sets = {part: [before, after, numbers] for part in ("test", *UNSEEN)}
    effort = {"chosen": "x", "layer": "l", "trials": 3, "choice_seconds": 2.0, "success": 1.0}
    return {"job": job, "method": method, "clean": [bare, bare, numbers], **sets, **effort}


def test_restored_is_what_the_mark_broke_and_is_right_again_less_what_is_newly_broken():
    # photos: right again, still wrong, wrong without the mark too and right now, newly broken, never wrong, right again
    one = row("one", "editing", [0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0])
    found = restored([one], ["test"])
    assert (found["fooled"], found["share"]) == (3, pytest.approx(1 / 3))
    low, high = found["interval"]
    assert low < 1 / 3 < high <= 1 and found == restored([one], ["test"])
    assert restored([one, one], ["test", "black"])["fooled"] == 12
    figure = figures([one])
    assert (figure["corrected"], figure["broken"], figure["errors_before"], figure["success"]) == (3, 1, 4, 1)


def test_a_method_that_a_network_has_no_layer_for_changes_nothing_there():
    bare, before = [0, 0, 0], [1, 1, 0]
    made = [("a", "editing"), ("a", "other"), ("b", "editing")]
    pooled, networks = together([row(job, method, bare, before, bare) for job, method in made], figures)
    assert {m: one["share_restored"] for m, one in pooled.items()} == {"editing": 1.0, "other": 0.5}
    assert list(networks) == ["a", "b"] and list(networks["b"]) == ["editing"]


@needs_photos
def test_no_photo_has_two_duties_and_one_exemplar_can_be_solved_for():
    story = watermark_scenario("squeezenet1_1")
    assert {name: len(getattr(story, name)) for name in ("reference", "test", "budget")}.items() <= SPLIT_SIZES.items()
    seen = [name for data in (story.validation, story.budget, story.test) for name in data.names]
    assert len(set(seen)) == len(seen) == 856 - SPLIT_SIZES["candidates"] - SPLIT_SIZES["reference"]
    assert story.test.names == story.clean.names and len(story.exemplars) == 2
    assert all(set(data.names) < set(story.clean.names) for data in story.more.values())
    exemplar = next(iter(story.exemplars.values()))
    edit = rewrite(story.classifier, story.default["layer"], exemplar, reference=story.reference[:20])
    assert edit.record.share_left < 0.9
