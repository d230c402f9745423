"""Cached activations while edits are applied and undone: "before" and "after" are under the same edits, or refused."""

import pytest
import torch
from conftest import make_exemplar

from edittools.cut import cut_all
from edittools.edits import Change, Edit, unedited_fingerprint
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import rewrite
from edittools.selection.activations import CachedActivations
from edittools.selection.constraints import ConstraintCheck, Constraints


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
