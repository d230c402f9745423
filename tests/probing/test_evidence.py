"""The map of evidence: gradient × activation at a layer, of one class against another."""

import copy

import torch

import edittools as et
from edittools.classifiers import fingerprint
from edittools.cut import Cut
from edittools.metrics import predict
from edittools.probing.evidence import evidence_of_keys
from edittools_course.miniworld import scenes


def test_evidence_of_keys_leaves_the_model_as_it_was(tiny):
    weights = fingerprint(tiny)
    state = copy.deepcopy(tiny.model.state_dict())
    cut = Cut(tiny, "conv1")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    heat = evidence_of_keys(cut, cut.prefix(images), torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert heat.shape == (2, 32, 32) and not heat.requires_grad
    assert fingerprint(tiny) == weights and tiny.model.conv1.weight.grad is None
    assert all(torch.equal(state[name], tensor) for name, tensor in tiny.model.state_dict().items())


def test_evidence_for_a_polar_class_lies_on_the_snow_below_vehicles():
    """Snow was planted as a rule: it holds most of the evidence, and covers less than half of the images."""
    classifier = et.load_classifier("mini_vgg")
    on_snow = scenes(24, 2_600_000, ["tractor", "bus"] * 12, ground="snow")
    predicted = predict(classifier, on_snow).argmax(1)
    snow = on_snow.mask("snow")
    cut = Cut(classifier, "features.10")
    shares = []
    for index in (predicted != on_snow.labels).nonzero()[:, 0].tolist():
        state = cut.prefix(on_snow.images[index][None])
        [heat] = evidence_of_keys(cut, state, predicted[index][None], on_snow.labels[index][None]).clamp_min(0)
        shares.append(float((heat * snow[index]).sum() / heat.sum()))
    assert len(shares) > 3 and sum(shares) / len(shares) > 0.6 > snow.mean() + 0.1
