"""Cached activations while edits are applied and undone: "before" and "after" are under the same edits, or refused."""

from functools import partial

import pytest
import torch
from conftest import TinyNet, make_exemplar
from torch import nn

from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all
from edittools.edits import Change, Edit, unedited_fingerprint
from edittools.images import LabelledImages
from edittools.metrics import label_margins, misclassified, predict
from edittools.rewriting import rewrite
from edittools.selection.activations import CachedActivations
from edittools.selection.constraints import ConstraintCheck, Constraints
from edittools.selection.search import later_layers


@pytest.fixture
def data(tiny, photos32):
    """Images of which two thirds are labeled as they are predicted."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::3] = (labels[::3] + 1) % 5
    return LabelledImages(photos32, labels, tiny.classes)


@pytest.fixture
def edit(tiny, photos32):
    return rewrite(tiny, "conv1", make_exemplar(), photos32, objective="least_squares")


@pytest.fixture
def late(tiny):
    """An edit of the last bias, behind all cached layers, that changes most predictions."""
    return Edit({"head.bias": Change(torch.tensor([-9.0, -0.5, 9.0, 0.0, 0.3]))}, unedited_fingerprint(tiny))


def _misclassified(classifier, data):
    return misclassified(predict(classifier, data), data.labels)


def test_compare_after_another_edit_was_applied(tiny, data, edit, late):
    states = CachedActivations(cut_all(tiny, ["stem", "conv1"]), data)
    unedited = states.before
    with late.applied(tiny):
        nothing = states.compare(0 * edit)
        assert nothing.corrected == nothing.broken == 0
        assert torch.equal(states.before, _misclassified(tiny, data))
        assert not torch.equal(states.before, unedited)
        torch.testing.assert_close(states.original, predict(tiny, data))
        compared = states.compare(edit)
        assert torch.equal(compared.before, _misclassified(tiny, data))
        with edit.applied(tiny):
            assert torch.equal(compared.after, _misclassified(tiny, data))
    assert torch.equal(states.before, unedited)


def test_compare_after_an_edit_between_the_cached_layers_was_applied(tiny, data, edit):
    """States at conv2 are those of before; both sides are computed from conv1 on."""
    states = CachedActivations(cut_all(tiny, ["conv1", "conv2"]), data)
    with edit.applied(tiny):
        nothing = states.compare(0 * edit)
        assert nothing.corrected == nothing.broken == 0
        assert torch.equal(nothing.before, _misclassified(tiny, data))


def test_compare_of_an_edit_that_was_compared_before(tiny, data, edit, late):
    states = CachedActivations(cut_all(tiny, ["conv1"]), data)
    first = states.compare(edit)
    assert states.compare(edit) is first
    assert states.compare(edit, stop=lambda after: True) is None
    with late.applied(tiny):
        second = states.compare(edit)
        assert torch.equal(second.before, _misclassified(tiny, data))
        with edit.applied(tiny):
            assert torch.equal(second.after, _misclassified(tiny, data))
    with torch.no_grad():
        tiny.model.head.bias.add_(1)
    with pytest.raises(ValueError, match="TinyNet"):
        states.compare(edit)


def test_constraint_check_after_another_edit_was_applied(tiny, data, edit, late):
    loose = Constraints(max_accuracy_drop=200.0)
    states = CachedActivations(cut_all(tiny, ["conv1"]), data)
    check = ConstraintCheck(states)
    first, _ = check.measure(edit, loose)
    with late.applied(tiny):
        second, _ = check.measure(edit, loose)
        fresh, _ = ConstraintCheck(CachedActivations(states.cuts, data)).measure(edit, loose)
        assert torch.equal(second.before, fresh.before) and torch.equal(second.after, fresh.after)
        assert not torch.equal(second.before, first.before)
        assert check.measure(edit, loose)[0] is second
    assert check.measure(edit, loose)[0] is first


def test_logits_after_one_of_two_applications_was_undone(tiny, data, edit):
    with edit.applied(tiny):
        with edit.applied(tiny):
            states = CachedActivations(cut_all(tiny, ["conv2"]), data)
        with pytest.raises(ValueError, match="'conv2'.*'conv1'"):
            states.logits()
        with edit.applied(tiny):
            torch.testing.assert_close(states.logits(), predict(tiny, data))


def test_logits_after_a_loaded_copy_of_the_edit_was_applied_instead(tiny, data, edit, tmp_path):
    edit.save(tmp_path / "edit.safetensors")
    with edit.applied(tiny):
        states = CachedActivations(cut_all(tiny, ["conv2"]), data)
    with Edit.load(tmp_path / "edit.safetensors").applied(tiny):
        torch.testing.assert_close(states.logits(), predict(tiny, data))


def test_logits_after_edits_of_two_layers_were_applied_in_another_order(tiny, data, edit, photos32):
    """The order matters for edits of one weight, by rounding, and for no others."""
    other = rewrite(tiny, "stem", make_exemplar(7), photos32, objective="least_squares")
    with edit.applied(tiny), other.applied(tiny):
        states = CachedActivations(cut_all(tiny, ["conv2"]), data)
    with other.applied(tiny), edit.applied(tiny):
        torch.testing.assert_close(states.logits(), predict(tiny, data))
    same = 0.3 * edit
    with edit.applied(tiny), same.applied(tiny):
        states = CachedActivations(cut_all(tiny, ["conv2"]), data)
    with same.applied(tiny), edit.applied(tiny), pytest.raises(ValueError, match="'conv1'"):
        states.logits()


def test_logits_after_an_edit_was_applied_in_inference_mode(tiny, data, edit):
    """There torch does not count that a weight was written."""
    states = CachedActivations(cut_all(tiny, ["conv1"]), data)
    states.logits(edit)
    with torch.inference_mode():
        (3 * edit).apply_(tiny)
    with edit.applied(tiny):
        expected = predict(tiny, data)
    torch.testing.assert_close(states.logits(edit), expected)


def test_logits_after_weights_were_permuted_through_data(tiny, data, edit):
    states = CachedActivations(cut_all(tiny, ["conv2"]), data)
    weight = tiny.model.conv1.weight
    weight.data.copy_(weight.data.flip(0))
    with pytest.raises(ValueError, match="TinyNet"):
        states.logits()


@pytest.mark.parametrize("in_memory", [True, False])
def test_logits_of_multiples_of_an_edit(tiny, data, edit, in_memory):
    states = CachedActivations(cut_all(tiny, ["conv1"]), data, batch_size=7, in_memory=in_memory)
    states.compare(edit, stop=lambda after: len(after) > 7)  # only some batches are computed
    for strength in (0.5, 1, -2, 0):
        multiple = strength * (2 * edit)
        with multiple.applied(tiny):
            expected = predict(tiny, data)
        torch.testing.assert_close(states.logits(multiple), expected)
    other = -edit + edit  # of another rank, so it is no multiple
    torch.testing.assert_close(states.logits(other), predict(tiny, data))


class SideBranch(nn.Module):
    """A network that hands on a tensor besides the keys of its second layer, with the images in another place."""

    def __init__(self, is_split):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.is_split = is_split

    def aside(self, maps):
        """Split each image into two, or put the images last."""
        return maps.reshape(-1, 4, *maps.shape[2:]) if self.is_split else maps.permute(1, 2, 3, 0)

    def back(self, branch):
        return branch.reshape(-1, 8, *branch.shape[2:]) if self.is_split else branch.permute(3, 0, 1, 2)

    def forward(self, images):
        maps = self.first(images)
        branch = self.aside(maps).tanh()
        after = self.aside(self.second(maps + self.back(branch))) * branch
        return self.head(self.back(after).mean(dim=(2, 3)))


def test_image_dimensions():
    for model, dimensions in ((TinyNet(), (0, 0)), (SideBranch(False), (0, 3)), (SideBranch(True), (0, None))):
        classifier = Classifier(model, ("ant", "bee", "cat", "dog", "elk"), size=32)
        layer = "conv2" if isinstance(model, TinyNet) else "second"
        assert Cut(classifier, layer).image_dimensions == dimensions


@pytest.mark.parametrize("make", [TinyNet, partial(SideBranch, False), partial(SideBranch, True)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_fragile_images_first(make, in_memory, photos32):
    torch.manual_seed(0)
    classifier = Classifier(make(), ("ant", "bee", "cat", "dog", "elk"), size=32)
    images = photos32[:12]
    data = LabelledImages(images, torch.arange(12) % 5, classifier.classes)
    layers = later_layers(classifier)[-2:]
    states = CachedActivations(cut_all(classifier, layers), data, 5, in_memory=in_memory, fragile_first=True)
    margins = label_margins(predict(classifier, data), data.labels)
    order = margins.argsort()
    assert not torch.equal(order, torch.arange(12))
    ordered = data.subset(order)
    assert torch.equal(states.labels, ordered.labels)
    torch.testing.assert_close(states.original, predict(classifier, ordered))
    for layer in layers:
        weight = classifier.model.get_parameter(f"{layer}.weight")
        change = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        edit = Edit({f"{layer}.weight": Change(change)}, unedited_fingerprint(classifier))
        with edit.applied(classifier):
            expected = predict(classifier, ordered)
        torch.testing.assert_close(states.logits(edit), expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(expected, states.original)
