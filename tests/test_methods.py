"""Methods: each against a small exact case, properties that all of them have, and the table."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import condition, make_exemplar
from torch import nn

from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, rows
from edittools.edits import Edit
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.moments import second_moments
from edittools.selection import States
from edittools.site import prepare
from edittools_course.methods import METHODS
from edittools_course.rivals import finetune, project_concept
from edittools_course.rivals.finetuning import SCOPES
from edittools_course.rivals.projection import DIRECTIONS

SETTINGS = {
    "projection": ("projection", {}),
    "leace": ("projection", {"direction": "leace"}),
}
OF_A_LAYER = ("projection", "leace")
UNCHANGED = replace(make_exemplar(), changed=make_exemplar().image)
of_all = pytest.mark.parametrize("name", SETTINGS)
of_a_layer = pytest.mark.parametrize("name", OF_A_LAYER)


def edit_by(name, classifier, exemplars, reference, layer="conv1", **settings):
    method, defaults = SETTINGS[name]
    return one_edit(METHODS[method].edits, classifier, layer, exemplars, reference, **(defaults | settings))


def one_edit(method, classifier, layer, exemplars, reference=None, **settings):
    [edit] = method(prepare(classifier, layer, exemplars, reference), **settings)
    return edit


@pytest.fixture
def double(tiny):
    """The small model in float64."""
    return tiny.double()


@pytest.fixture
def changing_exemplars(tiny):
    """Three exemplars whose x' is predicted as another class than x."""
    with torch.no_grad():
        tiny.model.head.bias.sub_(tiny(torch.stack([make_exemplar(s).image for s in range(20)])).mean(dim=0))
        changing = [
            e for e in map(make_exemplar, range(60)) if len(set(predicted_classes(tiny, e.image, e.changed))) == 2
        ]
    return changing[:3]


@torch.no_grad()
def predicted_classes(classifier, *images):
    return classifier(torch.stack(images)).argmax(dim=1).tolist()


# --- properties of all methods ---


@of_all
def test_method_leaves_classifier_unchanged(tiny, photos32, exemplar, name):
    tiny.model.train()
    tiny.model.norm.eval()
    tiny.model.conv1.weight.requires_grad_(False)
    before = condition(tiny)
    edit_by(name, tiny, exemplar, photos32)
    assert condition(tiny) == before and torch.is_grad_enabled()


@of_all
def test_method_edit_is_saved_and_undone(tiny, photos32, exemplar, name, tmp_path):
    before = copy.deepcopy(tiny.state_dict())
    edit = edit_by(name, tiny, [exemplar, make_exemplar(5)], LabeledImages(photos32, torch.zeros(40).long(), ["-"]))
    edit.save(tmp_path / "e.safetensors")
    loaded = Edit.load(tmp_path / "e.safetensors", tiny)
    assert loaded.record == edit.record and edit.record.steps >= 1
    assert all(torch.equal(loaded.changes[n].delta(), c.delta()) for n, c in edit.changes.items())
    assert all(c.delta().dtype == torch.float32 and c.delta().isfinite().all() for c in edit.changes.values())
    edit.apply_(tiny)
    assert any(c.delta().any() for c in edit.changes.values())
    loaded.undo_(tiny)
    assert all(torch.equal(before[n], tensor) for n, tensor in tiny.state_dict().items())


@of_all
def test_method_while_an_edit_is_applied(tiny, photos32, exemplar, name):
    """Its edit belongs to the weights with that edit, and can be applied only where they are."""
    below = edit_by("projection", tiny, make_exemplar(5), photos32, "conv2")
    with below.applied(tiny):
        edit = edit_by(name, tiny, exemplar, photos32)
        assert edit.fingerprint == fingerprint(tiny.model)
        with edit.applied(tiny):
            edit.check_fits(tiny)
    with pytest.raises(ValueError, match=edit.fingerprint[:12]):
        edit.apply_(tiny)


@of_all
def test_method_of_a_site_after_the_model_has_changed(tiny, photos32, exemplar, name):
    """The site holds a copy of the weights."""
    expected = edit_by(name, tiny, exemplar, photos32)
    site = prepare(tiny, "conv1", exemplar, photos32)
    tiny.model.stem.weight.data.mul_(2)
    tiny.model.head.weight.data.mul_(2)
    method, settings = SETTINGS[name]
    [edit] = METHODS[method].edits(site, **settings)
    assert (edit.digest, edit.fingerprint, edit.record) == (expected.digest, expected.fingerprint, expected.record)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_settings_of_the_table_give_edits(tiny, photos32, exemplar, method):
    site = prepare(tiny, "conv1", exemplar, photos32)
    assert len(method.settings) <= 12 and method.strengths
    for setting in method.settings:
        [edit] = method.edits(site, **setting)
        assert all(change.delta().isfinite().all() for change in edit.changes.values())


def test_projection_tries_several_settings():
    assert len(METHODS["projection"].settings) >= 4


@of_a_layer
@pytest.mark.parametrize("layer", ["conv1", "conv2", "head"])
def test_method_with_moment(tiny, photos32, exemplar, name, layer):
    exemplars = [exemplar, make_exemplar(5)]
    moment = second_moments(tiny, [layer], photos32)[layer]
    from_images, from_moment = (edit_by(name, tiny, exemplars, reference, layer) for reference in (photos32, moment))
    assert set(from_images.layers) == {layer} and from_images.changes.keys() == from_moment.changes.keys()
    assert all(torch.equal(c.delta(), from_moment.changes[n].delta()) for n, c in from_images.changes.items())
    assert from_images.record == from_moment.record


@of_all
def test_method_in_half_precision(tiny, photos32, exemplar, name):
    tiny.to(torch.bfloat16)
    edit = edit_by(name, tiny, exemplar, photos32)
    assert all(c.delta().dtype == torch.float32 and c.delta().isfinite().all() for c in edit.changes.values())


@pytest.mark.parametrize("scope", SCOPES)
def test_finetune_in_half_precision(tiny, exemplar, scope):
    """Each step alone is less than half precision resolves; together they are what float32 gives."""
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        model = Classifier(copy.deepcopy(tiny.model).to(dtype), tiny.classes, size=32)
        edit = one_edit(finetune, model, "conv1", exemplar, scope=scope, rate=1e-5, steps=50)
        moved.append(edit.changes["conv1.weight"].delta())
    full, half = moved
    assert half.dtype == torch.float32 and (half - full).norm() < 0.2 * full.norm()


@pytest.mark.parametrize(
    ("method", "options", "error", "pattern"),
    [
        (project_concept, {"direction": "up"}, ValueError, "direction 'up'"),
        (project_concept, {"ridge": -1}, ValueError, "ridge -1"),
        (project_concept, {"exemplars": UNCHANGED}, ValueError, "'conv1'"),
        (project_concept, {"direction": "leace", "reference": None}, ValueError, "(?i)reference"),
        (project_concept, {"layer": "conv9"}, KeyError, "conv9"),
        (finetune, {"exemplars": make_exemplar(label=None)}, ValueError, "label="),
        (finetune, {"exemplars": make_exemplar(label=9)}, ValueError, "label 9"),
    ],
)
def test_method_with_bad_settings(tiny, photos32, exemplar, method, options, error, pattern):
    arguments = {"layer": "conv1", "exemplars": exemplar, "reference": photos32}
    with pytest.raises(error, match=pattern):
        one_edit(method, tiny, **(arguments | options))


# --- concept projection ---


def masked_keys(classifier, layer, exemplar):
    """The keys of x and of x' at the mask, by their definition."""
    cut = Cut(classifier, layer)
    both = []
    for image in (exemplar.image, exemplar.changed):
        keys = cut.keys(cut.prefix(image[None]))
        both.append(rows(keys, False)[cut.pool_mask(exemplar.mask[None]).flatten() > 0])
    return both


def output_of(classifier, layer, keys, edit=None):
    cut = Cut(classifier, layer)
    with torch.no_grad():
        if edit is None:
            return cut.output((keys,))
        with edit.applied(classifier):
            return cut.output((keys,))


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
@pytest.mark.parametrize("direction", ["mean", "leace"])
def test_project_concept_removes_difference_of_means(double, photos32, exemplar, layer, direction):
    keys, changed_keys = masked_keys(double, layer, exemplar)
    edit = one_edit(project_concept, double, layer, exemplar, photos32, direction=direction)
    v = (changed_keys.mean(dim=0) - keys.mean(dim=0))[None, :, None, None]
    probe_keys = torch.rand(2, v.shape[1], 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        output_of(double, layer, probe_keys + 3 * v, edit), output_of(double, layer, probe_keys, edit)
    )
    assert not torch.allclose(output_of(double, layer, probe_keys + 3 * v), output_of(double, layer, probe_keys))
    assert edit.record.loss_before == pytest.approx(float(v.norm())) and edit.record.loss_after < 1e-9


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_project_concept_keeps_output_of_mean_key(double, photos32, exemplar, direction):
    keys, _ = masked_keys(double, "conv1", exemplar)
    edit = one_edit(project_concept, double, "conv1", exemplar, photos32, direction=direction)
    mean = keys.mean(dim=0)[None, :, None, None].expand(1, -1, 6, 6)
    inside = (..., slice(1, -1), slice(1, -1))  # no padding in the window
    before = output_of(double, "conv1", mean)
    after = output_of(double, "conv1", mean, edit)
    torch.testing.assert_close(after[inside], before[inside])
    assert set(edit.changes) == {"conv1.weight", "conv1.bias"}
    without_bias = one_edit(project_concept, double, "conv2", exemplar, photos32, direction=direction)
    assert set(without_bias.changes) == {"conv2.weight"}


class Tied(nn.Module):
    """The decoder is never called: its weight is read by the encoder, with the encoder's own bias."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.decoder = nn.Conv2d(8, 8, 1)
        self.encoder = nn.Conv2d(8, 8, 1)
        self.encoder.weight = self.decoder.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.encoder(self.stem(x)).relu().mean((2, 3)))


@pytest.fixture
def tied():
    torch.manual_seed(0)
    return Classifier(Tied().double(), list("abcde"), size=32)


def test_project_concept_with_tied_weight(tied, exemplar):
    edit = one_edit(project_concept, tied, "decoder", exemplar)
    assert set(edit.changes) == {"decoder.weight", "encoder.bias"}
    outputs = []
    hook = tied.model.encoder.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    with torch.no_grad():
        tied(exemplar.image[None])
        with edit.applied(tied):
            tied(exemplar.image[None])
    hook.remove()
    before, after = (output[0][:, exemplar.mask > 0].mean(dim=1) for output in outputs)
    torch.testing.assert_close(after, before)


def test_cached_states_logits_with_tied_weight(tied, exemplar, photos32):
    data = LabeledImages(photos32, torch.zeros(40).long(), tied.classes)
    states = States({"decoder": Cut(tied, "decoder")}, data)
    for edit in (
        one_edit(project_concept, tied, "decoder", exemplar),
        one_edit(finetune, tied, "decoder", exemplar, scope="global", rate=0.1, steps=2),
    ):
        assert "encoder.bias" in edit.changes and "decoder.bias" not in edit.changes
        with edit.applied(tied):
            expected = predict(tied, photos32)
        torch.testing.assert_close(states.logits(edit), expected)


def test_project_concept_with_probe(double, exemplar):
    keys_of_x, keys_of_changed = masked_keys(double, "conv1", exemplar)
    edit = one_edit(project_concept, double, "conv1", exemplar, direction="probe", ridge=0.1)
    keys = torch.cat([keys_of_x, keys_of_changed])
    keys = keys - keys.mean(dim=0)
    loading = 0.1 * keys.square().sum() / keys.shape[1]
    signs = torch.cat([-torch.ones(len(keys_of_x)), torch.ones(len(keys_of_changed))]).double()
    system = torch.cat([keys, loading.sqrt() * torch.eye(keys.shape[1])])
    weight = torch.linalg.lstsq(system, torch.cat([signs, torch.zeros(keys.shape[1])])[:, None]).solution[:, 0]
    direction = edit.changes["conv1.weight"].right[0]
    torch.testing.assert_close(direction / direction.norm(), weight / weight.norm())
    assert 0 < edit.record.loss_after < edit.record.loss_before
