import copy

import pytest
import torch
from methods import MARGIN, NEAREST, locality, near, success, with_near
from torch import nn

from edittools.baselines.finetuning import finetune
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import cut_all
from edittools.edits import Change, Edit, applied_edits
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.rewriting import rewrite
from edittools.selection import Scenario
from edittools.selection import activations as bench
from edittools.selection.activations import bytes_of_states, memory_for_states, report

LAYERS = ["stem", "conv1", "conv2"]


@pytest.fixture
def sets(tiny, photos32):
    """Half of the images labelled as they are read, half not."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(photos32, labels, tiny.classes)
    return {"validation": data.subset(range(20)), "clean": data.subset(range(20, 40))}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scope", [None, "local", "global"])
@pytest.mark.parametrize("memory", ["", "0"])
def test_kept_states_give_what_the_edited_model_gives(
    tiny, photos32, sets, exemplar, monkeypatch, layer, scope, memory
):
    monkeypatch.setenv("EDITTOOLS_MEMORY", memory)
    _, kept = bench.cache_states(tiny, LAYERS, **sets)
    assert (kept["validation"].states is None) == (memory == "0")
    edit = (
        finetune(tiny, layer, exemplar, scope=scope, rate=0.1, steps=3)
        if scope
        else rewrite(tiny, layer, exemplar, photos32, objective="least_squares")
    )
    with edit.applied(tiny):
        expected = predict(tiny, sets["validation"])
    assert torch.allclose(kept["validation"].logits(edit), expected, atol=1e-5)
    assert torch.equal(
        kept["validation"].before, misclassified(predict(tiny, sets["validation"]), sets["validation"].labels)
    )
    assert applied_edits(tiny) == ()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_comparison_is_that_of_all_images_or_is_given_up_when_told_to(tiny, sets, exemplar, scope):
    kept = bench.CachedStates(cut_all(tiny, LAYERS), sets["clean"], batch_size=3)
    edit = finetune(tiny, "conv1", exemplar, scope=scope, rate=0.3, steps=3)
    whole, told = kept.compare(edit), []
    assert torch.equal(whole.after, misclassified(kept.logits(edit), kept.labels))
    assert torch.equal(kept.compare(edit, lambda after: False).after, whole.after)
    assert kept.compare(edit, lambda after: told.append(after) or len(after) > 5) is None
    assert [len(after) for after in told] == [3, 6] and torch.equal(told[1], whole.after[:6])


def test_an_edit_of_two_layers_starts_at_the_first(tiny, photos32, sets, exemplar):
    _, kept = bench.cache_states(tiny, LAYERS, **sets)
    both = rewrite(tiny, "conv2", exemplar, photos32, objective="least_squares") + rewrite(
        tiny, "conv1", exemplar, photos32, objective="least_squares"
    )
    with both.applied(tiny):
        expected = predict(tiny, sets["clean"])
    assert torch.allclose(kept["clean"].logits(both), expected, atol=1e-5)


def test_an_edit_is_evaluated_on_top_of_one_that_is_applied_meanwhile(tiny, photos32, sets, exemplar):
    _, kept = bench.cache_states(tiny, LAYERS, **sets)
    first = finetune(tiny, "conv1", exemplar, rate=0.1, steps=3)
    second = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    alone = kept["clean"].logits(second)
    with first.applied(tiny):
        both = kept["clean"].logits(second)
    assert torch.allclose(both, kept["clean"].logits(first + second), atol=1e-5)
    assert torch.equal(kept["clean"].logits(second), alone) and not torch.equal(both, alone)


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_edit_is_evaluated_on_top_of_one_of_its_layers_bias(tiny, photos32, sets, exemplar, in_memory):
    kept = bench.CachedStates(cut_all(tiny, ["conv1"]), sets["clean"], in_memory=in_memory)
    edit = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    alone = kept.logits(edit)
    with Edit({"conv1.bias": Change(torch.linspace(-3, 3, 12))}, fingerprint(tiny.model)).applied(tiny):
        found = kept.logits(edit)
        with edit.applied(tiny):
            expected = predict(tiny, sets["clean"])
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, alone, atol=1e-2)
    assert torch.equal(kept.logits(edit), alone)


class OutOfOrder(nn.Module):
    """The layer that runs first is made last; another runs beside the one that is cut, after it."""

    def __init__(self):
        super().__init__()
        self.late, self.side = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.early, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.early(x))
        y = self.late(x)
        return self.head(torch.relu(y + self.side(x)).mean((2, 3)))


@pytest.mark.parametrize(("changed", "refused"), [("early", True), ("side", False), ("late", False), ("head", False)])
def test_states_are_refused_by_the_order_in_which_layers_run(photos32, sets, exemplar, changed, refused):
    torch.manual_seed(0)
    classifier = Classifier(OutOfOrder(), sets["clean"].classes, size=32)
    kept = bench.CachedStates(cut_all(classifier, ["late"]), sets["clean"])
    first, second = (
        rewrite(classifier, layer, exemplar, photos32, objective="least_squares") for layer in (changed, "late")
    )
    with first.applied(classifier):
        if refused:
            with pytest.raises(ValueError, match=f"'late'.*'{changed}'"):
                kept.logits(second)
            return
        found = kept.logits(second)
        with second.applied(classifier):
            assert torch.allclose(found, predict(classifier, sets["clean"]), atol=1e-5)


def test_states_beyond_an_edit_applied_since_are_refused(tiny, photos32, sets, exemplar):
    first = finetune(tiny, "conv1", exemplar, rate=0.1, steps=3)
    second = rewrite(tiny, "conv2", exemplar, photos32, objective="least_squares")
    _, plain = bench.cache_states(tiny, LAYERS, **sets)
    with first.applied(tiny):
        with pytest.raises(ValueError, match="'conv2'.*'conv1'"):
            plain["clean"].logits(second)
        torch.testing.assert_close(plain["clean"].logits(), predict(tiny, sets["clean"]))  # from conv1 on
        _, kept = bench.cache_states(tiny, LAYERS, **sets)
        both = kept["clean"].logits(second)
    assert torch.allclose(both, plain["clean"].logits(first + second), atol=1e-5)
    with pytest.raises(ValueError, match="applied or undone"):
        kept["clean"].logits(second)


@pytest.mark.parametrize("earlier", ["stem", "conv2"])
def test_an_edit_behind_the_layers_kept_is_read_from_the_last_of_them(tiny, photos32, sets, exemplar, earlier):
    """`conv2` stands in for a layer that is kept in vain: what an edit changes must be behind the first of its own."""
    first, second = (rewrite(tiny, layer, exemplar, photos32, objective="least_squares") for layer in (earlier, "head"))
    _, late = bench.cache_states(tiny, ["head"], **sets)
    for edit in (first, first + second):
        with pytest.raises(ValueError, match=rf"'{earlier}.weight'.*'head'"):
            late["clean"].logits(edit)
    _, kept = bench.cache_states(tiny, ["conv1", "conv2"], **sets)
    assert torch.allclose(late["clean"].logits(second), kept["clean"].logits(second), atol=1e-5)


def _step(model, optimizer):
    optimizer = optimizer(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _read_in_training(tiny):
    with torch.no_grad():
        tiny.train()(torch.rand(4, 3, 32, 32))
    tiny.eval()


CHANGES = {
    "a step of SGD": lambda tiny: _step(tiny.model, torch.optim.SGD),
    "a step of Adam": lambda tiny: _step(tiny.model, torch.optim.Adam),
    "a bias alone": lambda tiny: nn.init.constant_(tiny.model.stem.bias, 3.0),
    "statistics of batch norm": _read_in_training,
    "other weights loaded": lambda tiny: tiny.model.load_state_dict(
        {name: tensor + 1 for name, tensor in tiny.model.state_dict().items()}
    ),
    "other weights put in place": lambda tiny: tiny.model.load_state_dict(
        {name: tensor + 1 for name, tensor in tiny.model.state_dict().items()}, assign=True
    ),
    "a parameter replaced": lambda tiny: setattr(tiny.model.conv1, "weight", nn.Parameter(torch.rand(12, 8, 3, 3))),
    "half precision": lambda tiny: tiny.model.half(),
    "another normalisation": lambda tiny: tiny.mean.add_(0.1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_states_of_a_model_that_was_changed_in_place_are_refused_until_it_is_as_it_was(tiny, sets, exemplar, change):
    cuts, kept = bench.cache_states(tiny, LAYERS, **sets)
    clean, edit = kept["clean"], finetune(tiny, "conv1", exemplar, rate=0.1, steps=3)
    before, weights, mean = clean.logits(edit), copy.deepcopy(tiny.model.state_dict()), tiny.mean.clone()
    CHANGES[change](tiny)
    for use in (clean.logits, lambda: clean.compare(edit)):
        with pytest.raises(ValueError, match="of the TinyNet were changed"):
            use()
    tiny.float().model.load_state_dict(weights)
    tiny.mean.copy_(mean)
    assert torch.equal(clean.logits(edit), before)
    assert torch.equal(bench.CachedStates(cuts, sets["clean"]).logits(edit), before)


@pytest.mark.parametrize("layer", ["stem", "conv1"])
def test_a_change_in_place_under_an_applied_edit_is_refused_too(tiny, photos32, sets, exemplar, layer):
    rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares").apply_(tiny)
    _, kept = bench.cache_states(tiny, LAYERS, **sets)
    assert torch.equal(kept["clean"].logits(), kept["clean"].original)
    nn.init.constant_(tiny.model.get_submodule(layer).weight, 0.1)
    with pytest.raises(ValueError, match=r"changed.* by something else"):
        kept["clean"].logits()


def test_what_does_not_fit_into_memory_is_run_anew_those_read_most_often_last(tiny, sets, monkeypatch):
    cuts = cut_all(tiny, LAYERS)
    one = bytes_of_states(cuts, sets["clean"].images[:1])
    states = {layer: cut.prefix(sets["clean"].images[:1]) for layer, cut in cuts.items()}
    assert one >= sum(cuts[layer].output(state).nbytes for layer, state in states.items())
    both = 1e-9 * one * (len(sets["validation"]) + len(sets["clean"]))  # in GB
    for most, kinds in {both: (False, False), 0.99 * both: (False, True), 0.4 * both: (True, True)}.items():
        monkeypatch.setenv("EDITTOOLS_MEMORY", f"{most:.12f}")
        _, kept = bench.cache_states(tiny, LAYERS, **sets)
        assert [part.states is None for part in kept.values()] == list(kinds)
    monkeypatch.setenv("EDITTOOLS_MEMORY", "much")
    with pytest.raises(ValueError, match="EDITTOOLS_MEMORY 'much': expected a finite number from 0 up"):
        bench.cache_states(tiny, LAYERS, **sets)
    monkeypatch.delenv("EDITTOOLS_MEMORY")
    assert memory_for_states(torch.device("cpu")) > 1e8


def test_states_made_anew_keep_no_output_and_know_when_the_model_was_changed(tiny, sets, exemplar):
    cuts, edit = cut_all(tiny, LAYERS), finetune(tiny, "conv1", exemplar, scope="local", rate=0.1, steps=3)
    kept = bench.CachedStates(cuts, sets["clean"], batch_size=3, in_memory=False)
    kept.compare(edit)
    assert not kept._outputs
    with edit.applied(tiny), pytest.raises(ValueError, match="applied or undone"):
        kept.compare(finetune(tiny, "conv2", exemplar, rate=0.1, steps=1))
    nn.init.constant_(tiny.model.conv2.weight, 0.1)
    with pytest.raises(ValueError, match=r"changed.* by something else"):
        kept.compare(edit)


def test_no_images_cannot_be_kept(tiny, sets):
    with pytest.raises(ValueError, match="No images"):
        bench.cache_states(tiny, LAYERS, none=sets["clean"].subset([]))


def test_the_report_agrees_with_the_comparison(tiny, photos32, sets, exemplar):
    _, kept = bench.cache_states(tiny, LAYERS, **sets)
    kept["test"] = kept.pop("validation")
    edit = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    result = report({"edit": edit}, kept)
    found = kept["test"].compare(edit)
    assert result.loc["edit", "errors after"] == int(found.after.sum())
    assert result.loc["edit", "p"] == found.row()["p"] and result.loc["edit"].notna().all()


def test_near_the_boundary_are_right_images_whose_two_likeliest_classes_are_close_the_nearest_first():
    margins = torch.linspace(0.9, 0.001, 60)
    shares = torch.stack([(1 - margins) / 2, (1 + margins) / 2, torch.zeros(60)], dim=1)
    labels = torch.ones(60, dtype=torch.long)
    labels[-1] = 0  # the closest of all is wrong
    found = near(shares.log(), labels)
    assert found["near"].tolist() == [i for i in range(58, -1, -1) if margins[i] < MARGIN] != []
    assert found["nearest"].tolist() == list(range(58, 58 - NEAREST, -1))
    assert near(shares[-1:].log(), labels[-1:])["nearest"].tolist() == []


def test_locality_is_the_share_of_images_near_the_boundary_that_stay_right_on_all_networks_together():
    one, other = (Comparison(torch.zeros(len(after)).bool(), torch.tensor(after).bool()) for after in ([0, 1], [0] * 6))
    expected = {"near": 8, "locality": 7 / 8, "nearest": 0, "locality_nearest": None}
    assert locality({"near": [one, other]}) == expected


def test_success_is_the_share_of_the_exemplars_own_pictures_that_are_right_with_the_edit(tiny, photos32, sets):
    read = predict(tiny, photos32[:2]).argmax(1).tolist()
    labels, mask = {"right": read[0], "wrong": (read[1] + 1) % 5}, torch.ones(32, 32)
    shown = {name: Exemplar(photos32[2], photos32[i], mask, labels[name]) for i, name in enumerate(labels)}
    several, given = {"both": list(shown.values())}, {**sets, "budget": sets["clean"], "reference": photos32}
    story = Scenario(tiny, shown, several=several, layers=("conv1",), **given)
    cuts = cut_all(tiny, ["conv1"])
    none = Edit({"conv1.bias": Change(torch.zeros(12))}, fingerprint(tiny.model))
    assert [success(none, story, cuts, name) for name in ("right", "wrong", "both", None)] == [1, 0, 0.5, 0.5]
    blind = Edit({"head.bias": Change(1000 * torch.eye(5)[(read[0] + 1) % 5])}, fingerprint(tiny.model))
    assert success(blind, story, cuts, "right") == 0
    reported = with_near(story).more
    assert len(reported["nearest"]) == int((~misclassified(predict(tiny, sets["clean"]), sets["clean"].labels)).sum())


def test_what_others_report_stands_for_the_edit_its_best_rival_the_best_tuning_and_chance_each_once(monkeypatch):
    import tables

    shares = {"editing": 0.5, "two_layers": 0.9, "random_direction": 0.4, "projection": 0.3, "interpolated_local": 0.2}
    methods = {name: {"share": share} for name, share in shares.items()}
    assert tables.compared(methods) == ["editing", "random_direction", "interpolated_local"]
    methods["projection"]["share"] = 0.6
    assert tables.compared(methods) == ["editing", "projection", "interpolated_local", "random_direction"]
    figures = {"errors_corrected": 0.5, "errors_corrected_interval": [0.4, 0.6], "keep_images": 9}
    figures |= {"keep_errors_before": 1, "keep_errors_after": 1, "accuracy_change_points_held_out": 0}
    found = figures | {"success": 1, "near": 4, "locality": 0.75, "last_layer": figures}
    monkeypatch.setattr(tables, "read_results", lambda name: found if name == "snow_miniworld" else {})
    edit, rival = tables.others().splitlines()[2:]
    assert edit == "| vehicles on snow, MiniWorld | **edit** | 100 % | 50 % [40, 60] | 75 % of 4 | – |"
    assert rival.endswith("| last layer retrained | – | 50 % [40, 60] | – | – |")
