import copy
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import make_exemplar, randomise_norms
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from edittools._ledger import Weights
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import cut_all
from edittools.edits import Change, Edit, applied_edits
from edittools.images import LabeledImages
from edittools.metrics import error_rate, predict
from edittools.models import load_classifier
from edittools.rewriting import rewrite, rewrite_at
from edittools.site import prepare
from edittools.states import States
from edittools_course.miniworld import scenes
from edittools_course.rivals import finetune
from edittools_course.scenarios.snow import car_exemplars

SAVED = Path(__file__).parent / "saved_edit"
"""A network, edits of it, and their logits, as `Edit.save` wrote them."""


@pytest.fixture
def edit(tiny, photos32, exemplar):
    return rewrite(tiny, "conv1", exemplar, photos32)


@pytest.fixture
def other(tiny, photos32):
    return rewrite(tiny, "conv2", make_exemplar(7), photos32, rank=2)


def _finetuned(classifier, layer, exemplar, **settings):
    [edit] = finetune(prepare(classifier, layer, exemplar), **settings)
    return edit


def _weights(classifier):
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


def _has_weights(before, classifier):
    return all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())


def test_undo_restores_weights(tiny, edit):
    before = _weights(tiny)
    edit.apply_(tiny)
    assert not _has_weights(before, tiny) and applied_edits(tiny) == (edit,)
    edit.undo_(tiny)
    assert _has_weights(before, tiny) and applied_edits(tiny) == ()
    assert not [name for name in vars(tiny.model) if "edittools" in name]


def test_applied_after_exception(tiny, edit):
    before = _weights(tiny)
    with pytest.raises(RuntimeError, match="stop"), edit.applied(tiny):
        assert not _has_weights(before, tiny)
        raise RuntimeError("stop")
    assert _has_weights(before, tiny)


def test_apply_to_another_architecture_with_a_layer_of_that_shape(tiny, edit):
    deeper = copy.deepcopy(tiny)
    deeper.model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=f"{edit.fingerprint[:12]}.*another architecture"):
        edit.apply_(deeper)


def test_undo_in_reverse_order(tiny, edit, other):
    before = _weights(tiny)
    edit.apply_(tiny)
    only_edit = _weights(tiny)
    other.apply_(tiny)
    (0.5 * edit).apply_(tiny)
    applied_edits(tiny)[-1].undo_(tiny)
    other.undo_(tiny)
    assert _has_weights(only_edit, tiny) and applied_edits(tiny) == (edit,)
    edit.undo_(tiny)
    assert _has_weights(before, tiny)


def test_undo_of_edit_below_another_is_refused(tiny, edit, other):
    edit.apply_(tiny)
    other.apply_(tiny)
    both = _weights(tiny)
    with pytest.raises(ValueError, match=r"conv1\.weight.*TinyNet.*conv2\.weight.*undo_.*applied\(model\)"):
        edit.undo_(tiny)
    assert _has_weights(both, tiny) and applied_edits(tiny) == (edit, other)
    applied_edits(tiny)[-1].undo_(tiny)  # the remedy
    edit.undo_(tiny)
    assert applied_edits(tiny) == ()


@pytest.mark.parametrize("change", [lambda model: model.conv1.weight.data.add_(1), lambda model: model.half().float()])
def test_undo_after_other_change_of_weights(tiny, edit, photos32, change):
    edit.apply_(tiny)
    change(tiny.model)
    with pytest.raises(ValueError, match="'conv1.weight'"):
        edit.undo_(tiny)
    with pytest.raises(ValueError, match="'conv1.weight'"):
        rewrite(tiny, "conv2", make_exemplar(7), photos32)


LEDGER_CALLS = {
    "applied_edits": lambda classifier, edit, other, photos: applied_edits(classifier),
    "undo_": lambda classifier, edit, other, photos: edit.undo_(classifier),
    "apply_": lambda classifier, edit, other, photos: other.apply_(classifier),
    "rewrite": lambda classifier, edit, other, photos: rewrite(classifier, "conv2", make_exemplar(7), photos),
}


@pytest.mark.parametrize("module", [nn.Identity(), nn.Conv2d(8, 12, 3, padding=1)])
@pytest.mark.parametrize("call", LEDGER_CALLS)
def test_call_after_an_edited_layer_was_replaced(tiny, edit, other, photos32, call, module):
    before = _weights(tiny)
    edited_layer = tiny.model.conv1
    edit.apply_(tiny)
    tiny.model.conv1 = module
    with pytest.raises(ValueError, match="'conv1.weight'"):
        LEDGER_CALLS[call](tiny, edit, other, photos32)
    tiny.model.conv1 = edited_layer
    edit.undo_(tiny)
    assert _has_weights(before, tiny)


def _pickled(classifier):
    file = io.BytesIO()
    torch.save(classifier, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copy_classifier", [copy.deepcopy, _pickled])
def test_undo_in_copied_model(tiny, edit, other, photos32, copy_classifier):
    before = _weights(tiny)
    edit.apply_(tiny)
    edited = _weights(tiny)
    copied = copy_classifier(tiny)
    assert _has_weights(edited, copied) and len(applied_edits(copied)) == 1
    assert Weights(copied).fingerprints == (fingerprint(tiny.model), edit.fingerprint)
    rewrite(copied, "conv2", make_exemplar(7), photos32, steps=1).apply_(copied)
    applied_edits(copied)[-1].undo_(copied)
    edit.undo_(copied)
    with other.applied(copied):
        assert applied_edits(copied) == (other,)
    assert _has_weights(before, copied) and applied_edits(copied) == ()
    assert _has_weights(edited, tiny) and applied_edits(tiny) == (edit,)
    edit.undo_(tiny)
    assert _has_weights(before, tiny)


def test_undo_of_loaded_edit(tiny, edit, tmp_path):
    before = _weights(tiny)
    edit.save(tmp_path / "edit.safetensors")
    edit.apply_(tiny)
    with pytest.raises(ValueError, match="TinyNet"):
        (0.5 * edit).undo_(tiny)
    Edit.load(tmp_path / "edit.safetensors").undo_(tiny)
    assert _has_weights(before, tiny)


def test_load_state_dict_removes_edits(tiny, edit, other):
    before = _weights(tiny)
    with edit.applied(tiny), other.applied(tiny):
        tiny.load_state_dict(_weights(tiny))  # its own, as it is now
        assert applied_edits(tiny) == (edit, other)
        tiny.load_state_dict(before)
        assert applied_edits(tiny) == () and Weights(tiny).fingerprints == (edit.fingerprint,)
    assert _has_weights(before, tiny) and not [name for name in vars(tiny.model) if "edittools" in name]
    edit.apply_(tiny)
    tiny.load_state_dict(before)
    with other.applied(tiny):  # the first one does not come back
        assert applied_edits(tiny) == (other,)
        assert torch.equal(tiny.model.conv1.weight, before["model.conv1.weight"])
    assert _has_weights(before, tiny)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_undo_after_conversion(tiny, edit, other, precision):
    expected = {name: tensor.to(precision) for name, tensor in _weights(tiny).items() if tensor.is_floating_point()}
    unedited = fingerprint(copy.deepcopy(tiny).to(precision).model)
    edit.apply_(tiny)
    only_edit = fingerprint(copy.deepcopy(tiny).to(precision).model)
    other.apply_(tiny)
    tiny.to(precision)
    assert Weights(tiny).fingerprints == (fingerprint(tiny.model), unedited, only_edit)
    other.undo_(tiny)
    assert torch.equal(tiny.model.conv2.weight, expected["model.conv2.weight"]) and applied_edits(tiny) == (edit,)
    assert fingerprint(tiny.model) == only_edit
    edit.undo_(tiny)
    assert all(torch.equal(tensor, tiny.state_dict()[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_apply_of_edit_made_after_conversion_of_edited_model(tiny, edit, photos32, precision, layer, tmp_path):
    unedited = {name: tensor.to(precision) for name, tensor in _weights(tiny).items() if tensor.is_floating_point()}
    edit.apply_(tiny)
    tiny.to(precision)
    below = _weights(tiny)
    second = rewrite(tiny, layer, make_exemplar(7), photos32, rank=2)
    assert second.fingerprint == fingerprint(tiny.model)
    second.save(tmp_path / "second.safetensors")
    second.apply_(tiny)
    assert not torch.equal(tiny.model.get_submodule(layer).weight, below[f"model.{layer}.weight"])
    assert Weights(tiny).fingerprints[2] == second.fingerprint
    Edit.load(tmp_path / "second.safetensors", tiny).undo_(tiny)
    assert _has_weights(below, tiny)
    edit.undo_(tiny)
    assert all(torch.equal(tensor, tiny.state_dict()[name]) for name, tensor in unedited.items())
    with pytest.raises(ValueError, match=second.fingerprint[:12]):
        second.apply_(tiny)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_apply_of_an_edit_that_gives_infinite_weights_is_refused(tiny, precision):
    tiny.model.to(precision)
    tiny.model.conv1.weight.data[0, 0] = float("inf")  # what is infinite without the edit is not its fault
    before = _weights(tiny)
    change = Change(torch.full(tiny.model.conv1.weight.shape, 4e4))
    edit = Edit({"conv1.weight": change}, fingerprint(tiny.model))
    with edit.applied(tiny):
        assert not _has_weights(before, tiny)
    infinite = Edit({"conv1.weight": change * 1e35}, edit.fingerprint)
    too_large = 2 * edit if precision == torch.float16 else infinite
    for refused in (too_large, infinite, Edit({"conv1.weight": change * float("nan")}, edit.fingerprint)):
        with pytest.raises(ValueError, match=rf"conv1\.weight.*{precision}"):
            refused.apply_(tiny)
    assert _has_weights(before, tiny) and applied_edits(tiny) == ()


def test_scaled_and_added_edits(tiny, edit, other):
    base = tiny.model.conv1.weight.detach().clone()
    delta = edit.changes["conv1.weight"].delta()
    for alpha in (0.0, 0.5, -1.0):
        with (alpha * edit).applied(tiny):
            assert torch.allclose(tiny.model.conv1.weight, base + alpha * delta, atol=1e-6)
    with (edit + -edit).applied(tiny):
        assert torch.allclose(tiny.model.conv1.weight, base, atol=1e-7)
    both = edit + other
    assert set(both.layers) == {"conv1", "conv2"}
    with both.applied(tiny):
        together = _weights(tiny)
    edit.apply_(tiny)
    other.apply_(tiny)
    assert all(torch.allclose(together[name], tensor, atol=1e-6) for name, tensor in tiny.state_dict().items())


def test_add_of_full_change(tiny, edit, exemplar):
    full = _finetuned(tiny, "conv1", exemplar, rate=0.1, steps=3)
    [first], [second], [both] = (value.changes.values() for value in (edit, full, edit + full))
    assert torch.allclose(both.delta(), first.delta() + second.delta())


@pytest.mark.parametrize("factor", [0.5, -1.5, 0.0])
def test_record_of_scaled_edit(tiny, edit, factor, tmp_path):
    whole = edit.record
    scaled = factor * edit
    assert scaled.record == replace(whole, loss_after=None, response=abs(factor) * whole.response)
    assert (1 * edit).record == whole
    scaled.save(tmp_path / "scaled.safetensors")
    assert Edit.load(tmp_path / "scaled.safetensors", tiny).record == scaled.record


def test_verdict_of_an_edit_is_saved_and_not_that_of_a_multiple_or_sum(tiny, edit, other, tmp_path):
    judged = replace(edit, verdict="unclear: so few images")
    judged.save(tmp_path / "judged.safetensors")
    loaded = Edit.load(tmp_path / "judged.safetensors", tiny)
    assert loaded.verdict == judged.verdict and loaded.digest == edit.digest
    edit.save(tmp_path / "edit.safetensors")
    assert edit.verdict is None and Edit.load(tmp_path / "edit.safetensors").verdict is None
    assert (1.0 * judged).verdict == judged.verdict
    for changed in (0.5 * judged, -judged, judged + other, other + judged):
        assert changed.verdict is None


def test_save_and_load(tiny, edit, other, tmp_path):
    both = edit + 0.5 * other
    for value in (edit, both):
        value.save(tmp_path / "a.safetensors")
        with other.applied(tiny):  # the edit was made for the weights below it
            loaded = Edit.load(tmp_path / "a.safetensors", tiny)
        for part in ("digest", "fingerprint", "record"):
            assert getattr(loaded, part) == getattr(value, part)
    edit.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").stat().st_size < 6000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_edit_of_another_normalization_is_refused(tiny, edit, other, exemplar, photos32, tmp_path):
    other_mean = Classifier(tiny.model, tiny.classes, mean=(0.5, 0.5, 0.5), size=tiny.size)
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors", tiny)
    assert loaded.normalization == edit.normalization == (0.5 * edit).normalization == (edit + other).normalization
    calls = (
        lambda: Edit.load(tmp_path / "edit.safetensors", other_mean),
        lambda: edit.apply_(other_mean),
        lambda: (2 * edit).check_fits(nn.DataParallel(other_mean)),
        lambda: edit.export(other_mean, tmp_path / "weights.safetensors"),
        lambda: States(cut_all(other_mean, ["conv1"]), photos32).predictions([edit]),
        lambda: edit + rewrite(other_mean, "conv1", exemplar, photos32),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"0\.485.*0\.5, 0\.5"):
            call()
    with edit.applied(tiny.model), replace(other, normalization=None).applied(other_mean):  # one of two is not known
        assert len(applied_edits(tiny)) == 2


def test_edit_map_at_mask_and_elsewhere():
    classifier = load_classifier("mini_vgg")
    car = car_exemplars(classifier)["car 1"]
    for objective in ("l1", "least_squares"):
        reference = scenes(40, 3_100_000).images
        edit = rewrite(classifier, "features.10", car, reference, objective=objective)
        edit_map = edit.edit_map(classifier, car.changed)
        assert edit_map.shape == (64, 64) and float(edit_map.min()) >= 0
        inside = edit_map[car.mask > 0].square().mean().sqrt()
        outside = edit_map[car.mask == 0].mean()
        assert float(inside) == pytest.approx(1, abs=0.2) and float(outside) < 0.5 * float(inside)
        assert torch.allclose((0.5 * edit).edit_map(classifier, car.changed), edit_map, atol=1e-4)
        both = edit.edit_map(classifier, torch.stack([car.image, car.changed]))
        torch.testing.assert_close(both[0], edit.edit_map(classifier, car.image))
        torch.testing.assert_close(both[1], edit_map)


def test_rewrite_after_change_through_data(tiny, exemplar):
    first = rewrite(tiny, "conv1", exemplar, rank=None)
    assert first.fingerprint == fingerprint(tiny.model)
    tiny.model.head.weight.data[0, 0] += 1e-3  # in a way that torch's counter of changes does not see
    second = rewrite(tiny, "conv1", exemplar, rank=None)
    assert second.fingerprint == fingerprint(tiny.model) != first.fingerprint


@pytest.mark.parametrize("scope", ["local", "global"])
def test_finetune_against_sgd(tiny, exemplar, scope):
    edit = _finetuned(tiny, "conv1", exemplar, scope=scope, rate=0.05, steps=5)
    names = list(edit.changes)
    start = {name: tiny.model.get_parameter(name).detach().clone() for name in names}
    optimizer = torch.optim.SGD([tiny.model.get_parameter(name) for name in names], lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(tiny(exemplar.changed[None]), torch.tensor([1])).backward()
        optimizer.step()
    for name in names:
        moved = tiny.model.get_parameter(name).detach() - start[name]
        assert torch.allclose(edit.changes[name].delta(), moved, atol=1e-5), name


def test_finetune_of_resnet_against_sgd():
    """In plain words: in the order of the model's parameters all from the layer on, with its skip's downsampling."""
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(torchvision.models.resnet18(num_classes=5)), list("abcde"), size=32)
    exemplar = make_exemplar()
    names = [name for name, _ in classifier.model.named_parameters()]
    trained = names[names.index("layer3.0.conv2.weight") :]
    edit = _finetuned(classifier, "layer3.0.conv2", exemplar, scope="global", rate=0.01, steps=3)
    assert set(edit.changes) == set(trained) and "layer3.0.downsample.0.weight" in trained
    plain = copy.deepcopy(classifier)
    optimizer = torch.optim.SGD([plain.model.get_parameter(name) for name in trained], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(exemplar.changed[None]), torch.tensor([1])).backward()
        optimizer.step()
    images = torch.rand(8, 3, 32, 32)
    with edit.applied(classifier), torch.no_grad():
        torch.testing.assert_close(classifier(images).softmax(1), plain(images).softmax(1), rtol=0, atol=1e-5)


def test_finetune_for_several_numbers_of_steps(tiny, exemplar):
    site = prepare(tiny, "conv1", exemplar)
    together = finetune(site, steps=(5, 2), rate=0.1)
    for edit, steps in zip(together, (5, 2), strict=True):
        [edit_alone] = finetune(site, steps=steps, rate=0.1)
        assert torch.equal(edit.changes["conv1.weight"].delta(), edit_alone.changes["conv1.weight"].delta())
        assert edit.record == edit_alone.record and edit.record.steps == steps


def test_apply_on_top_of_other_edits(tiny, photos32, exemplar, tmp_path):
    """An edit is made for the weights as they are: with the edits that are applied then."""
    first = rewrite(tiny, "conv1", exemplar, photos32)
    with first.applied(tiny):
        second = rewrite(tiny, "conv2", exemplar, photos32)
        with second.applied(tiny):
            third = _finetuned(tiny, "conv2", exemplar, rate=0.1, steps=2)
            with third.applied(tiny):
                stacked = _weights(tiny)
                below = Weights(tiny).fingerprints[1:]
    assert below == (first.fingerprint, second.fingerprint, third.fingerprint)
    assert len(set(below)) == 3 and first.fingerprint == fingerprint(tiny.model)
    second.save(tmp_path / "second.safetensors")
    loaded = Edit.load(tmp_path / "second.safetensors")
    assert (loaded.digest, loaded.fingerprint) == (second.digest, second.fingerprint)
    before = _weights(tiny)
    for edit in (second, loaded, 0.5 * second, third):
        with pytest.raises(ValueError, match=edit.fingerprint[:12]):
            edit.apply_(tiny)
    assert _has_weights(before, tiny)
    with pytest.raises(ValueError, match=f"{first.fingerprint[:12]}.*{second.fingerprint[:12]}"):
        first + second
    with first.applied(tiny), loaded.applied(tiny), third.applied(tiny):
        assert _has_weights(stacked, tiny)
        second.check_fits(tiny)
    assert applied_edits(tiny) == ()


def test_apply_on_top_of_edit_below_a_third(tiny, edit, other, exemplar, photos32):
    """Other edits may have been applied since then; they may also be undone again."""
    with edit.applied(tiny):
        on_top = rewrite(tiny, "conv2", exemplar, photos32)
    with edit.applied(tiny), other.applied(tiny):
        weight = tiny.model.conv2.weight.detach().clone()
        with on_top.applied(tiny):
            assert torch.equal(tiny.model.conv2.weight, weight + on_top.changes["conv2.weight"].delta())
            on_top.check_fits(tiny)
    with other.applied(tiny), pytest.raises(ValueError, match=on_top.fingerprint[:12]):
        on_top.apply_(tiny)


def test_apply_of_independent_edits_in_any_order(tiny, edit, other):
    third = Edit({"head.bias": Change(torch.ones(5))}, edit.fingerprint)
    before = _weights(tiny)
    stacked = []
    for order in permutations((edit, other, third)):
        for each in order:
            each.apply_(tiny)
        assert applied_edits(tiny) == order
        stacked.append(_weights(tiny))
        for each in reversed(order):
            each.check_fits(tiny)
            each.undo_(tiny)
        assert _has_weights(before, tiny)
    for weights in stacked[1:]:
        assert all(torch.equal(weights[name], tensor) for name, tensor in stacked[0].items())


def test_apply_and_undo_under_autocast(tiny, edit, exemplar, photos32):
    before = _weights(tiny)
    low_rank = rewrite(tiny, "conv1", exemplar, photos32, rank=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_rank.apply_(tiny)
        assert applied_edits(tiny) == (low_rank,)
        edited = tiny.model.conv1.weight.detach().clone()
        low_rank.undo_(tiny)
    assert torch.equal(edited, before["model.conv1.weight"] + low_rank.changes["conv1.weight"].delta())
    assert _has_weights(before, tiny)


def test_load_with_flipped_bit(edit, tmp_path):
    """In the tensors every flip is refused; in the header, what loads is the same edit."""
    path = tmp_path / "edit.safetensors"
    edit.save(path)
    contents = path.read_bytes()
    start = 8 + int.from_bytes(contents[:8], "little")
    refused = []
    for number, place in enumerate([*range(8, start, 3), *range(start, len(contents), 29)]):
        damaged = bytearray(contents)
        damaged[place] ^= 1 << (number % 8)
        path.write_bytes(damaged)
        try:
            loaded = Edit.load(path)
        except ValueError as error:
            assert "edit.safetensors" in str(error)
            refused.append(place)
        else:
            assert place < start
            for part in ("digest", "fingerprint", "record"):
                assert getattr(loaded, part) == getattr(edit, part)
    assert set(range(start, len(contents), 29)) < set(refused)


def test_load_without_digest(edit, tmp_path):
    path = tmp_path / "edit.safetensors"
    edit.save(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    header.pop("digest")
    save_file(load_file(path), path, header)
    with pytest.raises(ValueError, match=r"edit\.safetensors'.*no digest.*Edit\.save"):
        Edit.load(path)


def _saved_network():
    """The network in `saved_edit`, to which the edits in that folder belong."""
    first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model.load_state_dict(load_file(SAVED / "network.safetensors"))
    return Classifier(model, ("ant", "bee", "cat"), size=16)


def _assert_saved_logits(classifier, name):
    """`logits.json` holds the logits of two images with each edit, as they were when its file was written."""
    expected = torch.tensor(json.loads((SAVED / "logits.json").read_text())[name])
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(predict(classifier, images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_saved_again", [False, True])
def test_load_of_committed_files(is_saved_again, tmp_path):
    """Every later version loads these files: an edit by `rewrite`, and fine-tuning on top of it."""
    classifier = _saved_network()
    before = _weights(classifier)
    edit, on_top = (Edit.load(SAVED / f"{name}.safetensors") for name in ("edit", "edit_on_top"))
    if is_saved_again:
        edit.save(tmp_path / "edit.safetensors")
        on_top.save(tmp_path / "edit_on_top.safetensors")
        edit, on_top = (Edit.load(tmp_path / f"{name}.safetensors") for name in ("edit", "edit_on_top"))
    assert edit.verdict == "unclear: so few images"
    assert edit.record.objective == "least_squares" and edit.record.response == pytest.approx(0.116, abs=1e-3)
    assert on_top.verdict is None and on_top.layers == ("2", "6") and edit.normalization is None
    with edit.applied(classifier):
        _assert_saved_logits(classifier, "edit")
        with on_top.applied(classifier):
            _assert_saved_logits(classifier, "edit_on_top")
    assert _has_weights(before, classifier)
    for refused in (on_top, 0.5 * on_top):
        with pytest.raises(ValueError, match=f"{on_top.fingerprint[:12]}.*{edit.fingerprint[:12]}"):
            refused.apply_(classifier)


def test_load_of_the_edit_of_0_4():
    """The lines of README saved this edit in 0.4, of a `mini_vgg` with other weights and zero padding."""
    classifier = load_classifier("mini_vgg")
    classifier.model.load_state_dict(load_file(SAVED / "mini_vgg_of_0.4.safetensors"))
    for module in classifier.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "zeros"
    edit = Edit.load(SAVED / "edit_of_0.4.safetensors", classifier)
    on_snow = scenes(100, "test", ["van", "bus", "tractor", "bicycle"] * 25, ground="snow")
    assert error_rate(classifier, on_snow) == pytest.approx(0.53, abs=0.02)
    with edit.applied(classifier):
        assert error_rate(classifier, on_snow) == pytest.approx(0.03, abs=0.02)


def test_apply_after_weights_were_permuted_through_data(tiny, edit):
    weight = tiny.model.conv2.weight
    weight.data.copy_(weight.data.flip(0))
    with pytest.raises(ValueError, match=f"{edit.fingerprint[:12]}.*{fingerprint(tiny.model)[:12]}"):
        edit.apply_(tiny)


def test_check_fits_after_one_small_change_through_data(tiny, edit):
    edit.check_fits(tiny)
    weight = tiny.model.conv2.weight
    value = weight.data[3, 2, 0, 0].clone()
    weight.data[3, 2, 0, 0] = torch.nextafter(value, torch.tensor(9.0))
    with pytest.raises(ValueError, match=edit.fingerprint[:12]):
        edit.check_fits(tiny)
    weight.data[3, 2, 0, 0] = value
    edit.check_fits(tiny)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_check_fits_with_all_kinds_of_buffers(precision):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).to(precision)
    model.register_buffer("flags", torch.tensor([True, False, True]))
    model.register_buffer("count", torch.tensor(3, dtype=torch.int16))
    model.register_buffer("empty", torch.zeros(0))
    edit = Edit({"0.weight": Change(torch.ones(3, 3, 1, 1))}, fingerprint(model))
    with edit.applied(model):
        edit.check_fits(model)
    model.flags.data[0] = False
    with pytest.raises(ValueError, match=edit.fingerprint[:12]):
        edit.check_fits(model)


def test_applied_in_two_threads(tiny, edit, other):
    """Both are applied in some order and undone; contexts that overlap see the weights of both."""
    before = _weights(tiny)

    def use(own_edit):
        for _ in range(40):
            with own_edit.applied(tiny):
                assert own_edit.digest in [applied_edit.digest for applied_edit in applied_edits(tiny)]

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(use, own_edit) for own_edit in (edit, other, -edit, 0.5 * other)]:
            done.result()
    assert _has_weights(before, tiny) and applied_edits(tiny) == ()


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_applied_in_overlapping_blocks(tiny, edit, photos32, layer):
    """The block that began first ends first, so its edit is taken out from below the other one."""
    second = rewrite(tiny, layer, make_exemplar(7), photos32, rank=2)
    before = _weights(tiny)
    with second.applied(tiny):
        only_second = _weights(tiny)
    is_first_applied, is_second_applied, is_first_undone = (threading.Event() for _ in range(3))

    def begin_first():
        with edit.applied(tiny):
            is_first_applied.set()
            assert is_second_applied.wait(60)
        is_first_undone.set()

    def end_last():
        assert is_first_applied.wait(60)
        with second.applied(tiny):
            assert applied_edits(tiny) == (edit, second)
            is_second_applied.set()
            assert is_first_undone.wait(60)
            assert applied_edits(tiny) == (second,)
            return _has_weights(only_second, tiny)

    with ThreadPoolExecutor(2) as pool:
        first, last = pool.submit(begin_first), pool.submit(end_last)
        first.result()
        assert last.result()
    assert _has_weights(before, tiny) and applied_edits(tiny) == ()


def test_applied_below_an_edit_that_stays(tiny, edit, other):
    before = _weights(tiny)
    with other.applied(tiny):
        only_other = _weights(tiny)
    with edit.applied(tiny):
        other.apply_(tiny)
    assert _has_weights(only_other, tiny) and applied_edits(tiny) == (other,)
    other.undo_(tiny)
    assert _has_weights(before, tiny)


def test_apply_to_shared_weight_by_two_names():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[2].weight = model[1].weight
    original = model[1].weight.detach().clone()
    first, second = (
        Edit({f"{n}.weight": Change(torch.full((3, 3, 1, 1), 2.0**n))}, fingerprint(model)) for n in (1, 2)
    )
    with first.applied(model):
        with second.applied(model):
            assert torch.equal(model[1].weight, original + 2 + 4)
            assert Weights(model).fingerprints[1] == first.fingerprint
        assert torch.equal(model[2].weight, original + 2)
    assert torch.equal(model[1].weight, original) and applied_edits(model) == ()


def test_apply_of_an_edit_that_is_applied_already_is_refused(tiny, edit, photos32, tmp_path):
    edit.save(tmp_path / "edit.safetensors")
    edit.apply_(tiny)
    once = _weights(tiny)
    loaded = Edit.load(tmp_path / "edit.safetensors", tiny)
    data = LabeledImages(photos32, torch.zeros(len(photos32), dtype=torch.long), tiny.classes)
    states = States(cut_all(tiny, ["conv1"]), data)
    calls = (
        lambda: edit.apply_(tiny),
        lambda: loaded.apply_(tiny),
        lambda: loaded.edited(tiny),
        lambda: states.logits(loaded),
        lambda: loaded.applied(tiny).__enter__(),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"conv1.*twice"):
            call()
        assert _has_weights(once, tiny) and applied_edits(tiny) == (edit,)
    with (0.5 * edit).applied(tiny):
        assert not _has_weights(once, tiny)
    assert _has_weights(once, tiny)


def test_add_keeps_the_order_of_layers(tiny):
    first = Edit({"conv2.weight": Change(torch.ones(8, 12, 1, 1))}, fingerprint(tiny.model))
    second = Edit({"conv1.weight": Change(torch.ones(12, 8, 3, 3))}, fingerprint(tiny.model))
    assert (first + second).layers == ("conv2", "conv1")


def test_edit_map_of_edit_without_weights(tiny, photos32):
    edit = Edit({"conv1.bias": Change(torch.ones(12))}, fingerprint(tiny.model))
    with pytest.raises(ValueError, match=r"conv1\.bias"):
        edit.edit_map(tiny, photos32[:2])


def test_edit_map_without_record(tiny, photos32):
    edit = Edit({"conv1.weight": Change(torch.ones(12, 8, 3, 3))}, fingerprint(tiny.model))
    together = edit.edit_map(tiny, photos32[:3])
    largest = together.flatten(1).amax(dim=1)
    assert len(largest.unique()) == 3 and largest.max() <= 1


def test_save_with_changes_that_share_memory(tiny, tmp_path):
    shared = torch.ones(12)
    edit = Edit({"conv1.bias": Change(shared), "conv1.other": Change(shared)}, fingerprint(tiny.model))
    edit.save(tmp_path / "edit.safetensors")
    assert Edit.load(tmp_path / "edit.safetensors").digest == edit.digest


def test_applied_after_the_edit_was_undone_inside(tiny):
    edit = Edit({"conv1.bias": Change(torch.ones(12))}, fingerprint(tiny.model))
    other = Edit({"conv2.weight": Change(torch.ones(8, 12, 1, 1))}, fingerprint(tiny.model))
    with other.applied(tiny), edit.applied(tiny):
        edit.undo_(tiny)
    assert applied_edits(tiny) == ()


# --- copies of the weights ---


def test_weights_after_changes_of_the_model(tiny, edit, other):
    edit.apply_(tiny)
    weights = Weights(tiny)
    copied = {name: tensor.clone() for name, tensor in weights.items()}
    expected = (fingerprint(tiny.model), edit.fingerprint)
    assert all(torch.equal(tiny.model.state_dict()[name], tensor) for name, tensor in copied.items())
    other.apply_(tiny)
    tiny.model.head.weight.data.mul_(2)
    tiny.model.norm.running_mean.add_(1)
    tiny.half()
    assert weights.fingerprints == expected and weights.fingerprint == expected[0]
    assert all(torch.equal(weights[name], tensor) for name, tensor in copied.items())
    other.check_fits_copy(weights, tiny)
    with pytest.raises(ValueError, match="twice"):
        edit.check_fits_copy(weights, tiny)
    with pytest.raises(ValueError, match=edit.fingerprint[:12]):
        edit.check_fits(tiny)


def test_edit_of_site_after_changes_of_the_model(tiny, exemplar, photos32):
    expected = rewrite(tiny, "conv1", exemplar, photos32)
    site = prepare(tiny, "conv1", exemplar, photos32)
    with expected.applied(tiny):
        [edit] = rewrite_at(site)
    assert edit.digest == expected.digest and edit.fingerprint == expected.fingerprint


# --- export -----------------------------------------------------------------------------------------------------------


def test_export_is_a_state_dict_of_the_edited_model(tiny, edit, tmp_path):
    before = fingerprint(tiny)
    edit.export(tiny, tmp_path / "weights.safetensors")
    assert fingerprint(tiny) == before and not applied_edits(tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    fresh = type(tiny.model)()
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with edit.applied(tiny):
        expected = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.state_dict().items())
    assert set(fresh.state_dict()) == set(expected)


def test_export_of_an_applied_edit_adds_it_once(tiny, edit, other, tmp_path):
    edit.export(tiny, tmp_path / "alone.safetensors")
    with edit.applied(tiny):
        edit.export(tiny, tmp_path / "applied.safetensors")
        other.export(tiny, tmp_path / "both.safetensors")
    alone, applied, both = (load_file(tmp_path / f"{name}.safetensors") for name in ("alone", "applied", "both"))
    assert all(torch.equal(alone[name], applied[name]) for name in alone)
    assert [name for name in alone if not torch.equal(alone[name], both[name])] == ["conv2.weight"]


def test_export_and_copy_of_a_model_with_a_weight_norm_hook(tmp_path, photos32, exemplar):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 4, 3), nn.utils.weight_norm(nn.Conv2d(4, 4, 3))]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    classifier = Classifier(model, ("ant", "bee"), size=32)
    edit = rewrite(classifier, "0", exemplar, photos32)
    edit.export(classifier, tmp_path / "weights.safetensors")
    before = predict(classifier, photos32)
    with edit.applied(classifier):
        expected = predict(classifier, photos32)
    copied = edit.edited(classifier)
    assert not torch.equal(expected, before)
    assert torch.equal(predict(copied, photos32), expected) and torch.equal(predict(classifier, photos32), before)
    model.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(predict(classifier, photos32), expected)


def test_export_writes_tied_weights_under_both_names(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    model[1].weight = model[0].weight
    change = Change(torch.ones(3, 3, 1, 1))
    Edit({"0.weight": change}, fingerprint(model)).export(model, tmp_path / "weights.safetensors")
    tensors = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(tensors["0.weight"], model[0].weight + 1) and torch.equal(*tensors.values())
    with pytest.raises(ValueError, match="fingerprint"):
        Edit({"0.weight": change}, "other").export(model, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
