"""Choosing on composites: what they show, what they are held to, and that no photo has two duties."""

from functools import cache
from pathlib import Path

import pytest
import torch
from composites import LEAST, SURE, composed, masked_photos, snow_from_composites
from conftest import needs_photos

from edittools.images import LabelledImages
from edittools.metrics import error_rate
from edittools.scenarios import photos
from edittools.scenarios.snow import SNOW_EXEMPLARS
from edittools.selection.splits import shared_images


def test_composites_show_each_look_at_the_mask_alone_and_are_labelled_as_the_photo(tiny, photos32):
    data = LabelledImages(photos32[:3], torch.tensor([2, 0, 4]), tiny.classes, ("a", "b", "c"))
    masks = torch.zeros(3, 32, 32)
    masks[:, 8:20] = 1
    white = lambda image, mask, i: torch.where(mask > 0, 1.0, image)  # noqa: E731
    numbered = lambda image, mask, i: torch.where(mask > 0, i / 255, image)  # noqa: E731
    made = composed(data.subset([2, 1]), masks[[2, 1]], [white, numbered])
    assert made.labels.tolist() == [4, 4, 0, 0] and made.names == ("c", "c", "b", "b")
    assert [image[:, 8:20].unique().tolist() for image in made.images] == [
        [1],
        [0],
        [1],
        [pytest.approx(1 / 255)],
    ]
    assert torch.allclose(made.images[0][:, :8], photos32[2][:, :8], atol=0.5 / 255 + 1e-6)


@pytest.fixture(scope="module")
def story():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "msrc", cache(photos.msrc))  # loaded once for all tests here
        yield snow_from_composites("squeezenet1_1")


@needs_photos
def test_the_story_chooses_on_composites_and_reports_every_photo_of_snow(story):
    assert len(story.more["elsewhere"]) == 250  # held to what is read: an error there is a changed reading
    assert error_rate(story.classifier, story.more["elsewhere"].subset(range(0, 250, 5))) == 0
    assert len(story.test) == 126 and len(story.validation) % 3 == 0 and len(story.validation) > 60
    assert all(name.startswith("msrc-v2/") for name in story.validation.names)
    roads = set(story.validation.names)
    assert len(story.reference) + len(roads) == len(photos.available("msrc-v2/Images/"))
    for data in (story.validation, story.budget, story.clean):
        assert not shared_images(data, story.reference)
    sets = (story.test, story.budget, story.clean, story.keep, story.keep_report)
    groups = [set(data.names) for data in sets]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert not any(stem in name for stem in SNOW_EXEMPLARS.values() for name in set.union(*groups))
    assert list(story.several["all 5"]) == list(story.exemplars.values())
    assert story.default["layer"] in story.layers and story.default["exemplar"] in story.exemplars


@needs_photos
def test_a_photo_is_taken_where_it_shows_the_concept_and_is_read_surely(story):
    classifier = story.classifier
    data, masks, other = masked_photos(classifier, "water")
    assert (masks.mean(dim=(1, 2)) >= LEAST).all()
    with torch.no_grad():
        sure, read = classifier(data.images).softmax(dim=1).max(dim=1)
    assert (sure >= SURE - 1e-5).all() and torch.equal(read, data.labels)
    assert not shared_images(data, other)


def test_networks_are_pooled_by_photo_and_a_method_without_a_layer_changes_nothing(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import networks as several
    import snow_photos
    import tables

    def row(job, method, before, after):
        sets = {name: [before, after] for name in ("test", "budget", "clean", "keep_report")}
        sets["elsewhere"] = [[0, 0, 0, 0], after]  # held to what is read before
        return {"job": job, "method": method, "chosen": "x", "trials": 3, "choice_seconds": 2.0, **sets}

    rows = [
        row("one", "editing", [1, 1, 0, 0], [0, 1, 0, 0]),
        row("one", "last_layer", [1, 1, 0, 0], [0, 0, 0, 1]),
        row("two", "editing", [1, 0, 1, 0], [0, 0, 1, 0]),
    ]
    found, networks = several.together(rows, snow_photos.figures)
    assert list(networks) == ["one", "two"] and "last_layer" not in networks["two"]
    counts = {
        name: [one[key] for key in ("errors_before", "corrected", "broken", "trials")] for name, one in found.items()
    }
    assert counts == {"editing": [4, 2, 0, 6], "last_layer": [4, 2, 1, 3]}
    assert {name: one["changed_elsewhere"] for name, one in found.items()} == {"editing": 0.25, "last_layer": 0.125}
    assert "| changed elsewhere |" in (said := tables.snow(found["editing"] | found)) and "| 12.5 % |" in said
    assert found["editing"]["p_against_edit"] == 1 and found["editing"]["errors_corrected"] == 0.5
    assert networks["one"]["editing"]["errors_corrected"] == 0.5 == networks["two"]["editing"]["errors_corrected"]
