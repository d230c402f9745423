from math import isnan

import pytest
import torch
from conftest import TinyNet, make_exemplar, randomise_norms
from safetensors.torch import save_file
from torch import nn

from edittools.edits import Change, Edit, applied_edits, unedited_fingerprint
from edittools.finetuning import finetune
from edittools.models import Classifier, fingerprint
from edittools.rewriting import rewrite


@pytest.fixture
def edit(tiny, photos32, exemplar):
    return rewrite(tiny, "conv1", exemplar, photos32, cache="")


@pytest.fixture
def other(tiny, photos32):
    return rewrite(tiny, "conv2", make_exemplar(7), photos32, rank=2, objective="least_squares", cache="")


def _weights(classifier):
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


def _same(before, classifier):
    return all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())


def test_undo_restores_the_weights_bit_for_bit(tiny, edit):
    before = _weights(tiny)
    edit.apply_(tiny)
    assert not _same(before, tiny) and applied_edits(tiny) == (edit,)
    edit.undo_(tiny)
    assert _same(before, tiny) and applied_edits(tiny) == ()
    assert not [name for name in vars(tiny.model) if "edittools" in name]


def test_applied_is_undone_also_after_an_exception(tiny, edit):
    before = _weights(tiny)
    with pytest.raises(RuntimeError, match="stop"), edit.applied(tiny):
        assert not _same(before, tiny)
        raise RuntimeError("stop")
    assert _same(before, tiny)


def test_edits_can_be_undone_in_any_order(tiny, edit, other):
    before = _weights(tiny)
    edit.apply_(tiny)
    only_edit = _weights(tiny)
    other.apply_(tiny)
    (0.5 * edit).apply_(tiny)
    half = applied_edits(tiny)[-1]
    half.undo_(tiny)
    other.undo_(tiny)
    assert _same(only_edit, tiny)
    edit.apply_(tiny)
    edit.undo_(tiny)
    edit.undo_(tiny)
    assert _same(before, tiny)


def test_undoing_what_is_not_applied_is_refused(tiny, edit, other):
    with pytest.raises(ValueError, match=r"Edit\(conv1.weight \(rank 1\)\) is not applied"):
        edit.undo_(tiny)
    other.apply_(tiny)
    with pytest.raises(ValueError, match="not applied"):
        edit.undo_(tiny)


def test_training_under_an_applied_edit_is_not_silently_lost(tiny, edit):
    edit.apply_(tiny)
    with torch.no_grad():
        tiny.model.conv1.weight.add_(1)
    with pytest.raises(ValueError, match=r"'conv1.weight' was changed by something else"):
        edit.undo_(tiny)


def test_scaling_and_adding_act_on_the_weights(tiny, edit, other):
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


def test_adding_a_full_change_to_a_low_rank_one_adds_them(tiny, edit, exemplar):
    full = finetune(tiny, "conv1", exemplar, rate=0.1, steps=3)
    total = (edit + full).changes["conv1.weight"].delta()
    assert torch.allclose(total, edit.changes["conv1.weight"].delta() + full.changes["conv1.weight"].delta())


def test_save_and_load_give_the_same_edit(tiny, edit, other, tmp_path):
    both = edit + 0.5 * other
    for value in (edit, both):
        value.save(tmp_path / "a.safetensors")
        loaded = Edit.load(tmp_path / "a.safetensors", tiny)
        assert loaded.fingerprint == value.fingerprint and loaded.record == value.record
        assert loaded.changes.keys() == value.changes.keys()
        for name, change in value.changes.items():
            assert torch.equal(loaded.changes[name].delta(), change.delta())
            assert loaded.changes[name].leverage == change.leverage
    edit.save(tmp_path / "one.safetensors")
    assert (tmp_path / "one.safetensors").stat().st_size < 6000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "one.safetensors"]


def test_an_edit_knows_its_model_also_while_edits_are_applied(tiny, edit, other, tmp_path):
    other.save(tmp_path / "other.safetensors")
    with edit.applied(tiny):
        Edit.load(tmp_path / "other.safetensors", tiny)
    assert edit.fingerprint == fingerprint(tiny.model)


def test_an_edit_made_on_top_of_another_adds_up_with_it(tiny, edit, photos32):
    plain = rewrite(tiny, "conv2", make_exemplar(7), photos32, cache="")
    with edit.applied(tiny):
        both = _weights(tiny)
        second = rewrite(tiny, "conv2", make_exemplar(7), photos32, cache="")
        tuned = finetune(tiny, "conv2", make_exemplar(7), scope="local", steps=1)
        for more in (second, tuned):
            with more.applied(tiny):
                assert not _same(both, tiny)
    assert second.fingerprint == tuned.fingerprint == edit.fingerprint == fingerprint(tiny.model)
    assert not torch.allclose(second.changes["conv2.weight"].delta(), plain.changes["conv2.weight"].delta())
    with edit.applied(tiny), second.applied(tiny), tuned.applied(tiny):
        stacked = _weights(tiny)
    with (edit + second + tuned).applied(tiny):
        for name, weight in _weights(tiny).items():
            torch.testing.assert_close(weight, stacked[name], rtol=0, atol=1e-6)


def test_an_edit_made_on_weights_that_something_else_changed_is_refused(tiny, edit, photos32):
    edit.apply_(tiny)
    with torch.no_grad():
        tiny.model.conv1.weight.add_(1)
    with pytest.raises(ValueError, match=r"'conv1.weight' was changed by something else"):
        rewrite(tiny, "conv2", make_exemplar(7), photos32, cache="")


def test_a_weight_that_two_layers_share_has_one_original():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[2].weight = model[1].weight
    edit = Edit({"1.weight": Change(torch.ones(3, 3, 1, 1))}, fingerprint(model))
    with edit.applied(model):
        assert unedited_fingerprint(model) == edit.fingerprint != fingerprint(model)


def test_an_unknown_leverage_does_not_hide_a_known_one(edit, exemplar, tiny):
    full = finetune(tiny, "conv1", exemplar, rate=0.1, steps=1)
    assert isnan(full.leverage)
    assert (edit + full).leverage == (full + edit).leverage == edit.leverage


def test_an_edit_of_another_model_is_refused_and_nothing_changes(tiny, edit, tmp_path):
    edit.save(tmp_path / "e.safetensors")
    torch.manual_seed(1)
    stranger = Classifier(randomise_norms(TinyNet(), 3), tiny.classes, size=32)
    before = _weights(stranger)
    with pytest.raises(ValueError, match="fingerprint .* same layers, other weights"):
        Edit.load(tmp_path / "e.safetensors", stranger)
    with pytest.raises(ValueError, match="same layers, other weights"):
        edit.apply_(stranger)
    with pytest.raises(ValueError, match=r"changes 'conv1.weight', which Linear has not"):
        edit.apply_(torch.nn.Linear(2, 2))
    stranger.model.conv1 = torch.nn.Conv2d(8, 13, 3)
    with pytest.raises(ValueError, match=r"shape \(12, 8, 3, 3\), here \(13, 8, 3, 3\)"):
        edit.apply_(stranger)
    stranger.model.conv1 = torch.nn.Conv2d(8, 12, 3)
    assert before.keys() == stranger.state_dict().keys()
    with pytest.raises(ValueError, match="edits of two models"):
        _ = edit + Edit(edit.changes, "0" * 64)


@pytest.mark.parametrize("damage", ["text", "truncated", "pickle", "no format", "nan"])
def test_a_file_that_is_no_edit_is_refused(tiny, edit, tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    edit.save(path)
    if damage == "text":
        path.write_text("hello")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "pickle":
        torch.save(edit.changes["conv1.weight"].left, path)
    elif damage == "no format":
        save_file({"x": torch.zeros(1)}, path)
    else:
        left = torch.full_like(edit.changes["conv1.weight"].left, float("nan"))
        Edit({"conv1.weight": Change(left, edit.changes["conv1.weight"].right)}, edit.fingerprint).save(path)
    with pytest.raises(ValueError, match=r"bad.safetensors' is no edit saved by edittools"):
        Edit.load(path, tiny)
    with pytest.raises(FileNotFoundError):
        Edit.load(tmp_path / "absent.safetensors")


def test_the_firing_map_is_strong_at_the_exemplars_mask_and_weak_elsewhere(tiny, photos32, exemplar):
    edit = rewrite(tiny, "stem", exemplar, photos32, cache="")
    firing = edit.firing_map(tiny, exemplar.changed)
    assert firing.shape == (32, 32) and float(firing.min()) >= 0
    inside, outside = firing[exemplar.mask > 0].square().mean().sqrt(), firing[exemplar.mask == 0].mean()
    assert float(inside) == pytest.approx(1, abs=0.2) and float(outside) < 0.8 * float(inside)
    assert torch.allclose((0.5 * edit).firing_map(tiny, exemplar.changed), firing, atol=1e-5)
    with pytest.raises(KeyError, match="does not change layer 'conv2'; it changes stem"):
        edit.firing_map(tiny, exemplar.changed, "conv2")


def test_local_finetuning_changes_one_weight_and_global_all_that_follow(tiny, exemplar):
    before = _weights(tiny)
    local = finetune(tiny, "conv1", exemplar, scope="local", rate=0.1, steps=20)
    glob = finetune(tiny, "conv1", exemplar, scope="global", rate=0.1, steps=20)
    assert _same(before, tiny)
    assert set(local.changes) == {"conv1.weight"}
    assert {"conv1.weight", "conv1.bias", "conv2.weight", "norm2.bias", "head.weight"} <= set(glob.changes)
    assert not any(name.startswith(("stem", "norm.")) for name in glob.changes)
    for edit in (local, glob):
        assert edit.record.loss_after < edit.record.loss_before
        with edit.applied(tiny):
            loss = torch.nn.functional.cross_entropy(tiny(exemplar.changed[None]), torch.tensor([1])).item()
        assert loss == pytest.approx(edit.record.loss_after, rel=1e-4)
    assert _same(before, tiny)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_finetuning_is_what_plain_sgd_on_the_model_does(tiny, exemplar, scope):
    edit = finetune(tiny, "conv1", exemplar, scope=scope, rate=0.05, steps=5)
    names = list(edit.changes)
    start = {name: tiny.model.get_parameter(name).detach().clone() for name in names}
    optimiser = torch.optim.SGD([tiny.model.get_parameter(name) for name in names], lr=0.05)
    for _ in range(5):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(tiny(exemplar.changed[None]), torch.tensor([1])).backward()
        optimiser.step()
    for name in names:
        moved = tiny.model.get_parameter(name).detach() - start[name]
        assert torch.allclose(edit.changes[name].delta(), moved, atol=1e-5), name


def test_a_locality_term_keeps_reference_predictions_nearer(tiny, photos32, exemplar):
    def drift(edit):
        with torch.no_grad():
            before = tiny(photos32).log_softmax(1)
            with edit.applied(tiny):
                return float((before.exp() * (before - tiny(photos32).log_softmax(1))).sum(1).mean())

    free = finetune(tiny, "conv1", exemplar, scope="global", rate=0.1, steps=40)
    kept = finetune(tiny, "conv1", exemplar, scope="global", rate=0.1, steps=40, locality=10, reference=photos32)
    assert drift(kept) < 0.5 * drift(free)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": "middle"}, "scope 'middle': expected one of local, global"),
        ({"locality": 1.0}, "locality=1.0 without reference images"),
        ({"exemplars": make_exemplar(label=None)}, "an exemplar without a label"),
    ],
)
def test_finetuning_refuses_bad_input(tiny, exemplar, options, words):
    with pytest.raises(ValueError, match=words):
        finetune(tiny, "conv1", **({"exemplars": exemplar} | options))
