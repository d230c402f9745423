"""The map of evidence: gradient × activation at a layer, of one class against another."""

import copy

import pytest
import torch
from torch import nn

import edittools as et
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut
from edittools.metrics import predict
from edittools.probing import evidence_map
from edittools_course.miniworld import scenes


def image(size=4, seed=0):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))


def linear_classifier(bias=False):
    """A 1 × 1 convolution and a mean over the image: each class has one weight per color, all linear."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=bias), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])[:, :, None, None])
        if bias:
            model[0].bias.copy_(torch.tensor([5.0, -7.0]))
    return Classifier(model, ("red", "green"), size=4, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("bias", [False, True])
def test_evidence_map_of_a_linear_model_is_red_minus_twice_green(bias):
    """The logits are the means of red and of 2 · green, so a pixel adds (red − 2 · green) / 16 to their difference."""
    red, green, _ = image()
    cut = Cut(linear_classifier(bias), "0")
    heat = evidence_map(cut, image(), 0, 1)
    torch.testing.assert_close(heat, (red - 2 * green) / 16)
    torch.testing.assert_close(evidence_map(cut, image(), 1, 0), -heat)


def test_evidence_map_adds_up_to_the_margin_if_what_follows_is_linear():
    """Between the four positions of the layer's output the map is interpolated; its corners are those positions."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 2, stride=2), nn.Flatten(), nn.Linear(24, 3, bias=False)
    )
    with torch.no_grad():
        model[2].bias.zero_()
    classifier = Classifier(model, ("a", "b", "c"), size=4, mean=(0, 0, 0), std=(1, 1, 1))
    heat = evidence_map(Cut(classifier, "2"), image(), 0, 2)
    [logits] = predict(classifier, image()[None])
    torch.testing.assert_close(heat[::3, ::3].sum(), logits[0] - logits[2])


def test_evidence_map_of_tokens_is_that_of_each_patch():
    """A linear layer on four patches, their mean, and a head without bias: the evidence of each patch is its share."""

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 4, 2, stride=2)
            self.mix = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2, bias=False)

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(self.mix(tokens).mean(1))

    torch.manual_seed(0)
    model = Patches()
    classifier = Classifier(model, ("a", "b"), size=4, mean=(0, 0, 0), std=(1, 1, 1))
    tokens = model.patch(image()[None]).flatten(2).transpose(1, 2)[0].detach()
    mixed = tokens @ model.mix.weight.T
    expected = (mixed @ (model.head.weight[0] - model.head.weight[1]) / 4).detach().reshape(2, 2)
    heat = evidence_map(Cut(classifier, "mix"), image(), 0, 1)
    torch.testing.assert_close(heat[::3, ::3], expected)


def test_evidence_map_leaves_the_model_as_it_was(tiny):
    weights = fingerprint(tiny)
    state = copy.deepcopy(tiny.model.state_dict())
    heat = evidence_map(Cut(tiny, "conv1"), image(32), 0, 1)
    assert heat.shape == (32, 32) and not heat.requires_grad
    assert fingerprint(tiny) == weights and tiny.model.conv1.weight.grad is None
    assert all(torch.equal(state[name], tensor) for name, tensor in tiny.model.state_dict().items())


def test_evidence_map_of_a_class_against_itself_is_refused(tiny):
    with pytest.raises(ValueError, match="3"):
        evidence_map(Cut(tiny, "conv1"), image(32), 3, 3)


@pytest.mark.parametrize("favored", [-1, 5, "ant"])
def test_evidence_map_of_a_class_that_does_not_exist(tiny, favored):
    cut = Cut(tiny, "conv2")
    with pytest.raises(IndexError, match=f"class {favored!r}"):
        evidence_map(cut, torch.rand(3, 32, 32), favored, 0)
    with pytest.raises(IndexError, match=f"class {favored!r}"):
        evidence_map(cut, torch.rand(3, 32, 32), 0, favored)


def test_evidence_for_a_polar_class_lies_on_the_snow_below_vehicles():
    """Snow was planted as a rule: it holds most of the evidence, and covers less than half of the images."""
    classifier = et.load_classifier("mini_vgg")
    on_snow = scenes(24, 2_600_000, ["tractor", "bus"] * 12, ground="snow")
    predicted = predict(classifier, on_snow).argmax(1)
    snow = on_snow.mask("snow")
    cut = Cut(classifier, "features.10")
    shares = []
    for index in (predicted != on_snow.labels).nonzero()[:, 0].tolist():
        heat = evidence_map(cut, on_snow.images[index], int(predicted[index]), int(on_snow.labels[index]))
        heat = heat.clamp_min(0)
        shares.append(float((heat * snow[index]).sum() / heat.sum()))
    assert len(shares) > 3 and sum(shares) / len(shares) > 0.6 > snow.mean() + 0.1
