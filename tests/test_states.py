"""States: edits are evaluated from their layer on, with the weights that the states were made with."""

from dataclasses import replace

import pytest
import torch
from conftest import make_exemplar
from torch import nn

from edittools._ledger import Weights
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, cut_all, states_at
from edittools.edits import Change, Edit
from edittools.images import LabeledImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import rewrite
from edittools.site import prepare
from edittools.states import (
    StateMemory,
    States,
    states_of,
)
from edittools_course.rivals import finetune


@pytest.fixture
def data(tiny, photos32):
    """Images of which two thirds are labeled as they are predicted."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::3] = (labels[::3] + 1) % 5
    return LabeledImages(photos32, labels, tiny.classes)


@pytest.fixture
def edit(tiny, photos32):
    return rewrite(tiny, "conv1", make_exemplar(), photos32, objective="least_squares")


@pytest.fixture
def late(tiny):
    """An edit of the last bias, behind all cached layers, that changes most predictions."""
    return Edit({"head.bias": Change(torch.tensor([-9.0, -0.5, 9.0, 0.0, 0.3]))}, fingerprint(tiny.model))


def _memory(keeps_states):
    """A memory for all states, or for none."""
    return None if keeps_states else StateMemory(0)


def _misclassified(classifier, data):
    return misclassified(predict(classifier, data), data.labels)


@pytest.mark.parametrize("in_memory", [True, False])
def test_compare_does_not_depend_on_what_happens_to_the_model(tiny, data, edit, late, in_memory):
    states = States(cut_all(tiny, ["conv1", "conv2"]), data, memory=_memory(in_memory))
    with edit.applied(tiny):
        expected = _misclassified(tiny, data)
    before = _misclassified(tiny, data)
    with late.applied(tiny), edit.applied(tiny), torch.no_grad():
        assert not torch.equal(_misclassified(tiny, data), expected)
        tiny.model.conv2.weight.mul_(2)
        tiny.model.norm.running_mean.add_(1)
        compared = states.compare(edit)
        tiny.model.conv2.weight.div_(2)
        tiny.model.norm.running_mean.sub_(1)
    assert torch.equal(compared.before, before) and torch.equal(compared.after, expected)


def test_images_are_normalized_as_when_they_were_cached(tiny, data, edit):
    cuts = cut_all(tiny, ["conv1"])
    edit = replace(edit, normalization=None)  # of a bare model
    tiny.mean.add_(0.3)  # between the cut and the cache
    with edit.applied(tiny):
        expected = predict(tiny, data)
    states = States(cuts, data, memory=StateMemory(0))
    tiny.mean.add_(0.3)
    torch.testing.assert_close(states.logits(edit), expected)


def test_compare_with_weights_copied_while_an_edit_was_applied(tiny, data, edit, late):
    with late.applied(tiny):
        states = States(cut_all(tiny, ["conv1"]), data)
        before = _misclassified(tiny, data)
        with edit.applied(tiny):
            expected = _misclassified(tiny, data)
    compared = states.compare(edit)  # it was made for the weights below the other edit
    assert torch.equal(compared.before, before) and torch.equal(compared.after, expected)


def test_compare_of_an_edit_of_other_weights(tiny, data, edit):
    states = States(cut_all(tiny, ["conv1"]), data)
    with edit.applied(tiny):
        on_top = rewrite(tiny, "conv1", make_exemplar(3), data.images, objective="least_squares")
    with pytest.raises(ValueError, match=on_top.fingerprint[:12]):
        states.compare(on_top)


def test_compare_with_labels_of_other_classes(tiny, data, late):
    states = States(cut_all(tiny, ["conv1"]), replace(data, labels=4 - data.labels, classes=tiny.classes[::-1]))
    compared = states.compare(late)
    assert torch.equal(compared.after, _misclassified(late.edited(tiny), data)) and compared.broken > 0


@pytest.mark.parametrize("in_memory", [True, False])
def test_logits_of_an_edit_at_several_strengths(tiny, data, edit, in_memory):
    states = States(cut_all(tiny, ["conv1"]), data, batch_size=7, memory=_memory(in_memory))
    for scaled in (0.5 * edit, -2 * edit):
        with scaled.applied(tiny):
            expected = predict(tiny, data)
        torch.testing.assert_close(states.logits(scaled), expected)


def test_logits_of_an_edit_of_two_layers(tiny, data, edit, photos32):
    states = States(cut_all(tiny, ["conv1", "conv2"]), data)
    both = edit + rewrite(tiny, "conv2", make_exemplar(7), photos32, objective="least_squares")
    with both.applied(tiny):
        expected = predict(tiny, data)
    torch.testing.assert_close(states.logits(both), expected)


class Branches(nn.Module):
    """Two parallel branches; the first one has two layers."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))
        self.right = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        both = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(both.relu().mean(dim=(2, 3)))


def test_logits_of_an_edit_that_also_changes_a_parallel_branch(photos32):
    torch.manual_seed(0)
    classifier = Classifier(Branches(), list("abcde"), size=32)
    data = LabeledImages(photos32[:12], torch.zeros(12).long(), list("abcde"))
    exemplar = replace(make_exemplar(), label=1)
    [edit] = finetune(prepare(classifier, "right", exemplar), scope="global", rate=0.1, steps=3)
    assert {"left.0.weight", "left.2.weight", "right.weight"} <= {*edit.changes}
    states = States(cut_all(classifier, ["left.2", "right"]), data)
    torch.testing.assert_close(states.logits(edit), predict(edit.edited(classifier), data))


def test_logits_of_an_edit_after_those_of_another_in_the_same_layer(tiny, data, edit):
    states = States(cut_all(tiny, ["conv1"]), data)
    original = states.logits()
    states.logits(edit)
    torch.testing.assert_close(states.logits(edit + -edit), original)


def test_cuts_keep_the_copy_that_they_were_made_with(tiny, data, edit):
    weights = Weights(tiny)
    with edit.applied(tiny):
        states = States(cut_all(tiny, ["conv1"], weights=weights), data)
    torch.testing.assert_close(states.original, predict(tiny, data))


# --- the memory ---


def _passes(monkeypatch):
    """Record the layers of each pass over images that computes states."""
    passes = []

    def recorded(cuts, images):
        passes.append(sorted(cuts))
        return states_at(cuts, images)

    monkeypatch.setattr("edittools.states.states_at", recorded)
    return passes


def test_states_at_all_kept_layers_are_computed_in_one_pass_and_once(tiny, data, edit, monkeypatch):
    passes = _passes(monkeypatch)
    states = States(cut_all(tiny, ["conv1", "conv2"]), data)
    states.compare(edit)
    states.compare(0.5 * edit)
    assert passes == [["conv1", "conv2"]]


def test_states_that_do_not_fit_are_computed_again(tiny, data, edit, monkeypatch):
    passes = _passes(monkeypatch)
    memory = StateMemory(20_000)  # of 40 states, each of 8 × 16 × 16 numbers, two fit
    states = States(cut_all(tiny, ["conv1"]), data, batch_size=1, memory=memory)
    states.run()
    assert memory.is_full and 0 < memory.used <= memory.limit
    passes.clear()
    with edit.applied(tiny):
        expected = predict(tiny, data)
    torch.testing.assert_close(states.logits(edit), expected)
    assert len(passes) == 38


def test_several_sets_share_a_memory_and_each_has_its_own_states(tiny, data, edit):
    sets = {"one": data.subset(range(20)), "other": data.subset(range(20, 40))}
    cached = states_of(cut_all(tiny, ["conv1"]), sets)
    assert cached["one"].memory is cached["other"].memory
    with edit.applied(tiny):
        expected = predict(tiny, data)
    torch.testing.assert_close(torch.cat([cached[name].logits(edit) for name in sets]), expected)


def test_outputs_of_another_layer_replace_those_that_are_kept(tiny, photos32, monkeypatch):
    cuts = cut_all(tiny, ["conv1", "conv2"])
    states = {layer: [cut.prefix(images) for images in photos32[:12].split(4)] for layer, cut in cuts.items()}
    expected = {layer: [cuts[layer].output(state) for state in of_layer] for layer, of_layer in states.items()}
    computed = []

    def recorded(cut, state, compute=Cut.output):
        computed.append(cut.layer)
        return compute(cut, state)

    monkeypatch.setattr(Cut, "output", recorded)
    memory = StateMemory(0, output_limit=2.5 * expected["conv1"][0].nbytes)
    for batch in [0, 1, 2, 0, 1, 2]:
        output = memory.output("a set", cuts["conv1"], batch, states["conv1"][batch])
        assert torch.equal(output, expected["conv1"][batch])
    assert computed == 4 * ["conv1"]  # the third one does not fit
    for layer in ["conv2", "conv1"]:
        memory.output("a set", cuts[layer], 0, states[layer][0])
    assert computed[4:] == ["conv2", "conv1"]


def test_predictions_with_several_edits_take_one_pass(tiny, data, edit, late, monkeypatch):
    passes = _passes(monkeypatch)
    states = States(cut_all(tiny, ["conv1"]), data, memory=StateMemory(0))
    found = states.predictions([None, edit, edit + late])
    assert len(passes) == len(data.images.split(states._batch_size))
    networks = [tiny, edit.edited(tiny), (edit + late).edited(tiny)]
    assert torch.equal(found, torch.stack([predict(network, data).argmax(dim=1) for network in networks]))


def test_scaled_logits_are_those_of_the_scaled_edit(tiny, data, edit, late):
    states = States(cut_all(tiny, ["conv1"]), data)
    for one in (edit, edit + late):
        found = states.scaled_logits(one, (0.5, 1.5))
        torch.testing.assert_close(found, torch.stack([states.logits(0.5 * one), states.logits(1.5 * one)]))


def test_labels_of_images_without_labels(tiny, photos32):
    with pytest.raises(ValueError, match="no labels"):
        _ = States(cut_all(tiny, ["conv1"]), photos32).before
