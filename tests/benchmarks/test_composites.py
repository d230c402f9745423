"""Selection on composites: what they show, which labels they have, and that their sets are disjoint."""

from functools import cache

import pytest
import torch
from _lib.composites import LEAST, SURE, composed, masked_photos, snow_from_composites
from conftest import needs_photos, shared_images

from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.metrics import error_rate
from edittools_course.scenarios import photos
from edittools_course.scenarios.snow import SNOW_EXEMPLARS


def test_composed_shows_each_look_at_the_mask_only(tiny, photos32):
    data = LabeledImages(photos32[:3], torch.tensor([2, 0, 4]), tiny.classes, ("a", "b", "c"))
    masks = torch.zeros(3, 32, 32)
    masks[:, 8:20] = 1

    def white(image, mask, i):
        return torch.where(mask > 0, 1.0, image)

    def numbered(image, mask, i):
        return torch.where(mask > 0, i / 255, image)

    composites = composed(data.subset([2, 1]), masks[[2, 1]], [white, numbered])
    assert composites.labels.tolist() == [4, 4, 0, 0]
    assert composites.names == ("c", "c", "b", "b")
    values = [image[:, 8:20].unique().tolist() for image in composites.images]
    assert values == [[1], [0], [1], [pytest.approx(1 / 255)]]
    assert torch.allclose(composites.images[0][:, :8], photos32[2][:, :8], atol=0.5 / 255 + 1e-6)


@pytest.fixture(scope="module")
def scenario():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "msrc", cache(photos.msrc))  # loaded once for all tests here
        yield snow_from_composites("squeezenet1_1")


@needs_photos
def test_snow_from_composites_sets_are_disjoint(scenario):
    assert (
        len(scenario.splits.extra["elsewhere"]) == 250
    )  # labeled with the current predictions: an error is a changed one
    assert error_rate(scenario.classifier, scenario.splits.extra["elsewhere"].subset(range(0, 250, 5))) == 0
    assert len(scenario.splits.target_test) == 126
    assert len(scenario.splits.target) % 3 == 0
    assert len(scenario.splits.target) > 60
    assert all(name.startswith("msrc-v2/") for name in scenario.splits.target.names)
    roads = set(scenario.splits.target.names)
    assert len(scenario.splits.reference) + len(roads) == len(photos.available("msrc-v2/Images/"))
    for data in (scenario.splits.target, scenario.splits.clean, scenario.splits.clean_test):
        assert not shared_images(data, scenario.splits.reference)
    sets = (
        scenario.splits.target_test,
        scenario.splits.clean,
        scenario.splits.clean_test,
        scenario.splits.retain,
        scenario.splits.retain_test,
    )
    names = set().union(*(data.names for data in sets))
    assert sum(map(len, sets)) == len(names)
    assert not any(stem in name for stem in SNOW_EXEMPLARS.values() for name in names)
    assert scenario.default["layer"] in candidate_layers(scenario.classifier)
    assert scenario.default["exemplar"] in scenario.exemplars


@needs_photos
def test_masked_photos_show_the_concept_and_are_confident(scenario):
    classifier = scenario.classifier
    data, masks, other = masked_photos(classifier, "water")
    assert (masks.mean(dim=(1, 2)) >= LEAST).all()
    with torch.no_grad():
        confidence, predictions = classifier(data.images).softmax(dim=1).max(dim=1)
    assert (confidence >= SURE - 1e-5).all()
    assert torch.equal(predictions, data.labels)
    assert not shared_images(data, other)
