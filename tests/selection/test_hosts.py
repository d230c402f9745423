"""Hosts of an exemplar's mark, their division, and the selection of an edit by them."""

import warnings

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

import edittools as et
from edittools.exemplars import Exemplar
from edittools.selection.hosts import Hosts, divergence
from edittools.selection.select import select
from edittools_course.miniworld import restyle, scene, scenes


def marked_exemplar(mark, image=None):
    """Make an exemplar of 12 × 16 pixels whose mark fills rows 3 to 6 and columns 4 to 8."""
    image = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(1)) if image is None else image
    mask = torch.zeros(12, 16)
    mask[3:6, 4:8] = 1
    return Exemplar(image, torch.where(mask > 0, mark, image), mask)


def test_hosts_in_place_keep_the_mask():
    exemplar = marked_exemplar(torch.rand(3, 12, 16))
    hosts = exemplar.hosts(torch.rand(5, 3, 12, 16), where="in place")
    assert torch.equal(hosts.masks, exemplar.mask.expand(5, 12, 16))


def test_hosts_are_reproduced_by_their_seed():
    exemplar = marked_exemplar(torch.rand(3, 12, 16))
    images = torch.rand(30, 3, 12, 16)
    places = [exemplar.hosts(images, seed=seed).masks for seed in (4, 4, 5)]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


BLOCK = torch.zeros(40, 60)
BLOCK[10:20, 20:36] = 1
BLOCK[10:14, 20:26] = 0  # it is no rectangle


RED = torch.tensor([0.6, 0.1, 0.1])[:, None, None].expand(3, 40, 60)


def block(mark=RED, opacity=1.0):
    """Make an exemplar with a mark of BLOCK's shape."""
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    return Exemplar(image, torch.lerp(image, mark, opacity * BLOCK.expand_as(image)), BLOCK)


MARKS = {"red": block(), "translucent red": block(opacity=0.6), "noise": block(torch.rand(3, 40, 60))}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("where", ["anywhere", "in place"])
def test_masks_of_varied_hosts_cover_what_is_changed_and_nothing_else(where, mark):
    images = torch.rand(40, 3, 40, 60, generator=torch.Generator().manual_seed(2))
    hosts = MARKS[mark].hosts(images, where, vary=True)
    is_changed = (hosts.changed != images).any(dim=1)
    assert torch.equal(is_changed, hosts.masks > 0)
    assert torch.equal(hosts.images, images)
    assert hosts.changed.min() >= 0 and hosts.changed.max() <= 1


def test_size_and_light_of_varied_hosts_are_within_their_ranges():
    hosts = block().hosts(torch.zeros(200, 3, 40, 60), vary=True)
    sizes = (hosts.masks.sum(dim=(1, 2)) / BLOCK.sum()).sqrt()
    assert 0.72 < sizes.min() < 0.8 and 1.2 < sizes.max() < 1.33  # 0.75 and 1.3, but for pixels at the edge
    red = torch.stack([changed[0, mask > 0].max() for changed, mask in zip(hosts.changed, hosts.masks, strict=True)])
    light = red / 0.6
    assert 0.79 < light.min() < 0.82 and 1.18 < light.max() < 1.21
    places = hosts.masks.any(dim=0)
    assert places[:3].any() and places[-3:].any() and places[:, :3].any() and places[:, -3:].any()


def test_varied_hosts_in_place_vary_in_light_only():
    hosts = block().hosts(torch.zeros(30, 3, 40, 60), "in place", vary=True)
    assert torch.equal(hosts.masks, BLOCK.expand(30, -1, -1))
    red = hosts.changed[:, 0, 15, 30]
    assert red.min() < 0.52 and red.max() > 0.68


def test_varied_mark_that_spans_the_image_keeps_its_size():
    mask = torch.zeros(40, 60)
    mask[10:16] = 1
    image = torch.full((3, 40, 60), 0.5)
    hosts = Exemplar(image, torch.where(mask > 0, RED, image), mask).hosts(torch.zeros(50, 3, 40, 60), vary=True)
    assert hosts.masks.any(dim=2).sum(dim=1).unique().tolist() == [6]
    assert hosts.masks.all(dim=2).any(dim=0).sum() > 30  # at many heights
    assert len(hosts.changed[:, 0].amax(dim=(1, 2)).unique()) > 40


def test_varied_hosts_are_reproduced_by_their_seed():
    images = torch.rand(5, 3, 40, 60, generator=torch.Generator().manual_seed(2))
    first, second, other = (block().hosts(images, seed=seed, vary=True).changed for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_translucent_color_is_laid_over_hosts():
    image = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(1))
    color = torch.tensor([0.9, 0.2, 0.1])
    exemplar = marked_exemplar(torch.lerp(image, color[:, None, None].expand_as(image), torch.tensor(0.4)), image)
    found, opacity = exemplar.overlay
    torch.testing.assert_close(found, color, atol=0.01, rtol=0)
    torch.testing.assert_close(opacity, 0.4 * exemplar.mask, atol=0.01, rtol=0)
    host = exemplar.hosts(torch.zeros(1, 3, 12, 16))
    is_pasted = host.masks[0] > 0
    expected = 0.4 * color[:, None].expand(3, 12)
    torch.testing.assert_close(host.changed[0][:, is_pasted], expected, atol=0.01, rtol=0)


def test_colorful_mark_is_no_overlay():
    assert marked_exemplar(torch.rand(3, 12, 16)).overlay is None


def test_divergence_is_that_of_its_definition():
    target = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    predicted = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    expected = 0.9 * torch.tensor(0.9 / 0.5).log() + 0.1 * torch.tensor(0.1 / 0.5).log()
    torch.testing.assert_close(divergence(target, predicted), torch.stack([torch.zeros(()), expected]))


@pytest.fixture(scope="module")
def snow():
    """The small VGG, an exemplar of snow on a road, and ordinary scenes."""
    classifier = et.load_classifier("mini_vgg")
    car = scene(3_000_069, label="car", ground="road")
    exemplar = Exemplar(car.image, restyle(car.image, car.masks["road"], "snow"), car.masks["road"])
    return classifier, exemplar, scenes(240, "reference").images


def test_parts_of_the_hosts_share_no_image(snow):
    classifier, exemplar, images = snow
    hosts = Hosts.of(classifier, {"car": [exemplar]}, images)
    parts = [
        hosts.solve["car"].images,
        hosts.solve_own["car"].images,
        hosts.select.images,
        hosts.measure.images,
        hosts.reference,
    ]
    everything = torch.cat(parts).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything)
    predicted = et.predict(classifier, hosts.select.images).log_softmax(dim=1)
    torch.testing.assert_close(hosts.select.original, predicted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 20])
def test_too_few_ordinary_images_are_refused(snow, count):
    classifier, exemplar, images = snow
    with pytest.raises(ValueError, match=str(count)):
        et.select_edit(classifier, exemplar, images[:count], progress=None)


def test_frames_of_few_scenes_are_too_few_images(snow):
    classifier, exemplar, images = snow
    with pytest.raises(ValueError, match="20 scenes"):
        et.select_edit(classifier, exemplar, images[:20].repeat(10, 1, 1, 1), progress=None)


@pytest.mark.filterwarnings("ignore:.*ordinary images that select")
def test_selected_edit_corrects_new_images_and_its_seed_reproduces_it(snow):
    classifier, exemplar, images = snow
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    layers = ["features.5", "features.10"]
    first, second = (select(classifier, exemplar, images, layers=layers) for _ in range(2))
    assert first.edit.digest == second.edit.digest
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    on_snow = scenes(60, "test", ["van", "bus", "tractor", "bicycle"] * 15, ground="snow")
    errors = et.error_rate(classifier, on_snow)
    with first.edit.applied(classifier):
        assert et.error_rate(classifier, on_snow) < errors / 2


@pytest.mark.filterwarnings("ignore:.*ordinary images that select")
def test_scores_are_those_of_the_edited_model(snow):
    classifier, exemplar, images = snow
    selection = select(classifier, exemplar, images, layers=["features.5", "features.10"])
    hosts = selection.hosts.select
    of_layers = {one.params["layer"]: one for one in selection.scores.candidates}  # the last one of each layer
    assert list(of_layers) == ["features.5", "features.10"]
    for candidate in of_layers.values():
        row = list(selection.scores.candidates).index(candidate)
        for losses, shown in ((selection.scores.marked, hosts.marked), (selection.scores.clean, hosts.images)):
            with candidate.scaled.applied(classifier):
                predicted = et.predict(classifier, shown).log_softmax(dim=1)
            torch.testing.assert_close(losses[row], divergence(hosts.original, predicted), atol=1e-3, rtol=1e-2)


def test_selection_by_the_exemplar_takes_the_layer_with_the_smallest_divergence(snow):
    classifier, exemplar, images = snow
    selection = select(classifier, exemplar, images, select_by="exemplar")
    original = et.predict(classifier, exemplar.image[None]).log_softmax(dim=1)
    found = {}
    for candidate in selection.scores.candidates:
        with candidate.edit.applied(classifier):
            changed = et.predict(classifier, exemplar.changed[None]).log_softmax(dim=1)
        found[candidate.params["layer"]] = float(divergence(original, changed))
    assert selection.candidate.params["layer"] == min(found, key=found.__getitem__)


class BrightestQuarter(torch.nn.Module):
    """Predicts which quarter of a gray image is the brightest, and "tag" if any pixel is red."""

    def forward(self, images):
        quarters = adaptive_avg_pool2d(images[:, 1:2], 2).flatten(1)
        redness = (images[:, 0] - images[:, 1]).flatten(1).amax(dim=1, keepdim=True)
        return 10 * torch.cat([quarters, redness], dim=1)


def of_quarters(count, seed):
    """Make gray images of 16 × 16 pixels whose quarters differ in brightness."""
    levels = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    noise = 0.05 * torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed + 1))
    return (0.1 + 0.7 * interpolate(levels, (16, 16)) + noise).expand(-1, 3, -1, -1).clone()


def with_tags(images, every):
    """Color four pixels of some images red."""
    tagged = images.clone()
    tagged[::every, 0, 2:4, 2:4] = 1
    tagged[::every, 1:, 2:4, 2:4] = 0
    return tagged


MISTAKES = {
    "none": None,
    "swapped": "changes the predictions of",
    "mask elsewhere": "changes the predictions of",
    "noise": "predicted as a,",
    "half show the mark": "predicted as tag",
    "all show the mark": "predicted as tag",
}
"""What is wrong with the exemplar or the ordinary images, and what the warning says."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_warn_about_images_tells_each_mistake_once(mistake):
    classes = ["a", "b", "c", "d", "tag"]
    classifier = et.Classifier(BrightestQuarter(), classes, mean=(0, 0, 0), std=(1, 1, 1), size=16)
    image = of_quarters(1, 1)[0]
    changed = with_tags(image[None], every=1)[0]
    mask = torch.zeros(16, 16)
    mask[2:4, 2:4] = 1
    exemplar = Exemplar(image, changed, mask)
    images = with_tags(of_quarters(400, 10), every=6)
    if mistake == "swapped":
        exemplar = Exemplar(changed, image, mask)
    elif mistake == "mask elsewhere":
        exemplar = Exemplar(image, changed, mask.flip(0))
    elif mistake == "noise":
        images = 0.6 * torch.rand(400, 1, 16, 16, generator=torch.Generator().manual_seed(2)).repeat(1, 3, 1, 1)
        images[:, :, :8, :8] += 0.3  # as noise is on most networks, of one class
    elif mistake == "half show the mark":
        images = with_tags(images, every=2)
    elif mistake == "all show the mark":
        images = torch.cat([with_tags(images[:300], every=1), images[300:]])
    hosts = Hosts.of(classifier, {"tag": [exemplar]}, images)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hosts.warn_about_images(classifier)
    messages = [str(warning.message) for warning in caught]
    expected = MISTAKES[mistake]
    assert len(messages) == (expected is not None)
    assert all(expected in message for message in messages)
