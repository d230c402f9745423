"""Hosts of an exemplar's mark, their division, and the selection of an edit by them."""

import pytest
import torch

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
    selection = select(classifier, exemplar, images, layers=["features.10"])
    hosts = selection.hosts.select
    with selection.edit.applied(classifier):
        predicted = et.predict(classifier, hosts.marked).log_softmax(dim=1)
    row = list(selection.scores.candidates).index(selection.candidate)
    expected = divergence(hosts.original, predicted)
    torch.testing.assert_close(selection.scores.marked[row], expected, atol=1e-3, rtol=1e-2)


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
