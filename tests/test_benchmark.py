import pandas as pd
import pytest
import torch
from conftest import make_exemplar

from edittools import benchmark as bench
from edittools.edits import applied_edits
from edittools.finetuning import finetune
from edittools.images import LabelledImages
from edittools.metrics import errors, predict
from edittools.moments import measure
from edittools.rewriting import rewrite

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
def test_kept_states_give_what_the_edited_model_gives(tiny, photos32, sets, exemplar, layer, scope):
    _, kept = bench.prepare(tiny, LAYERS, **sets)
    edit = finetune(tiny, layer, exemplar, scope=scope, rate=0.1, steps=3) if scope else rewrite(
        tiny, layer, exemplar, photos32, cache="")  # fmt: skip
    with edit.applied(tiny):
        expected = predict(tiny, sets["validation"])
    assert torch.allclose(kept["validation"].logits(edit), expected, atol=1e-5)
    assert torch.equal(kept["validation"].before, errors(predict(tiny, sets["validation"]), sets["validation"].labels))
    assert applied_edits(tiny) == ()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_an_accuracy_change_is_that_of_all_images_or_is_given_up_when_sure_to_be_too_low(tiny, sets, exemplar, scope):
    cuts = bench.cut_all(tiny, LAYERS)
    kept = bench.Kept(cuts, sets["clean"], batch_size=3)
    for rate in (0.01, 0.3, 3.0):
        edit = finetune(tiny, "conv1", exemplar, scope=scope, rate=rate, steps=3)
        whole = kept.compare(edit).row()["accuracy change (points)"]
        assert kept.accuracy_change(edit) == pytest.approx(whole)
        assert kept.accuracy_change(edit, whole) == pytest.approx(whole)
        assert not kept.accuracy_change(edit, whole + 1e-6) >= whole + 1e-6
        assert kept.fragile_first().accuracy_change(edit) == pytest.approx(whole)
    assert applied_edits(tiny) == ()


def test_an_edit_of_two_layers_starts_at_the_first(tiny, photos32, sets, exemplar):
    _, kept = bench.prepare(tiny, LAYERS, **sets)
    both = rewrite(tiny, "conv2", exemplar, photos32, cache="") + rewrite(tiny, "conv1", exemplar, photos32, cache="")
    with both.applied(tiny):
        expected = predict(tiny, sets["clean"])
    assert torch.allclose(kept["clean"].logits(both), expected, atol=1e-5)


def test_an_edit_is_evaluated_on_top_of_one_that_is_applied_meanwhile(tiny, photos32, sets, exemplar):
    _, kept = bench.prepare(tiny, LAYERS, **sets)
    first = finetune(tiny, "conv1", exemplar, rate=0.1, steps=3)
    second = rewrite(tiny, "conv1", exemplar, photos32, cache="")
    alone = kept["clean"].logits(second)
    with first.applied(tiny):
        both = kept["clean"].logits(second)
    assert torch.allclose(both, kept["clean"].logits(first + second), atol=1e-5)
    assert torch.equal(kept["clean"].logits(second), alone) and not torch.equal(both, alone)


def test_states_beyond_an_edit_applied_since_are_refused(tiny, photos32, sets, exemplar):
    first = finetune(tiny, "conv1", exemplar, rate=0.1, steps=3)
    second = rewrite(tiny, "conv2", exemplar, photos32, cache="")
    _, plain = bench.prepare(tiny, LAYERS, **sets)
    with first.applied(tiny):
        for edit in (second, None):
            with pytest.raises(ValueError, match=r"kept at 'conv2' before Edit\(conv1.*changes 'conv1'"):
                plain["clean"].logits(edit)
        _, kept = bench.prepare(tiny, LAYERS, **sets)
        both = kept["clean"].logits(second)
    assert torch.allclose(both, plain["clean"].logits(first + second), atol=1e-5)
    with pytest.raises(ValueError, match="keep them again"):
        kept["clean"].logits(second)


def test_an_edit_of_a_layer_that_is_not_kept_is_refused(tiny, photos32, sets, exemplar):
    _, kept = bench.prepare(tiny, ["conv2"], **sets)
    with pytest.raises(KeyError, match="changes none of the layers kept here: conv2"):
        kept["clean"].logits(rewrite(tiny, "stem", exemplar, photos32, cache=""))


def test_a_sweep_has_one_row_a_trial_and_counts_what_changed(tiny, photos32, sets, exemplar):
    cuts, kept = bench.prepare(tiny, LAYERS, **sets)
    moments = measure(tiny, LAYERS, photos32)
    settings = bench.grid(rank=(1, 2), masked=(True, False))
    trials = bench.rewriting_trials(cuts, {"one": exemplar, "two": [exemplar, make_exemplar(8)]}, moments, settings)
    table = bench.sweep(trials, kept["validation"])
    assert len(table) == 3 * 2 * 4 * 2
    row = table.iloc[17]
    found = kept["validation"].compare(row.edit)
    assert (row.corrected, row.broken, row.net) == (found.corrected, found.broken, found.corrected - found.broken)


class _Fixed:
    """Stands for clean images on which each edit has a known accuracy change."""

    def __init__(self, changes):
        self.changes = changes

    def accuracy_change(self, edit, at_least):
        return self.changes[edit]


def test_selection_takes_the_lowest_loss_that_mends_more_than_it_breaks_within_the_budget():
    table = pd.DataFrame({
        "edit": list("abcde"), "net": [4, 5, 4, 1, 0], "loss": [0.9, 1.0, 1.1, 1.2, 0.1], "corrected": 5, "broken": 0
    })  # fmt: skip
    chosen = bench.select(table, _Fixed({"a": -0.3, "b": -0.25, "c": 0.0, "d": 0.0, "e": 0.0}))
    assert chosen.edit == "b" and chosen.accuracy_change == -0.25
    assert bench.select(table, _Fixed(dict.fromkeys("abcde", -0.3)), budget=0.3).edit == "a"
    assert bench.select(table, _Fixed({"a": -1, "b": -1, "c": -1, "d": 0.0, "e": 0.0})).edit == "d"


def test_when_nothing_helps_within_the_budget_the_selection_is_to_change_nothing(tiny, photos32, sets, exemplar):
    _, kept = bench.prepare(tiny, LAYERS, **sets)
    edit = rewrite(tiny, "conv1", exemplar, photos32, cache="")
    table = pd.DataFrame({"layer": ["conv1"], "edit": [edit], "net": 0, "loss": 1.0, "corrected": 1, "broken": 1})
    chosen = bench.select(table, kept["clean"])
    assert chosen.net == 0 and chosen.strength == 0
    assert torch.equal(kept["clean"].logits(chosen.edit), kept["clean"].logits())


class _Counted:
    """Stands for images, all misread, of which an edit of n layers corrects n and costs `costs[n]` points elsewhere."""

    labels, before = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)

    def __init__(self, costs=()):
        self.costs = costs

    def logits(self, edit):
        return torch.eye(2)[[0] * len(edit.layers) + [1] * (4 - len(edit.layers))]

    def accuracy_change(self, edit, at_least):
        return -self.costs[len(edit.layers)]


def test_a_second_layer_is_added_within_the_budget_else_the_first_stays_alone(tiny, photos32, exemplar):
    first, second = (rewrite(tiny, layer, exemplar, photos32, cache="") for layer in ("conv1", "conv2"))
    table = bench.sweep([({"layer": "conv2"}, second), ({"layer": "conv1"}, first)], _Counted())
    costs = [(0, 0, 0), (0, 0, 1), (0, 1, 1)]
    both, alone, neither = (bench.add_layer(first, table, _Counted(), _Counted(cost)) for cost in costs)
    assert both.layer == "conv2" and set(both.edit.layers) == {"conv1", "conv2"} and both.net == 2
    assert alone.layer == "" and alone.edit is first and alone.net == 1
    assert neither.net == 0 and neither.strength == 0


def test_random_directions_keep_the_rank_and_are_seeded(tiny, photos32, exemplar):
    moment = measure(tiny, ["conv1"], photos32)["conv1"]
    edit = rewrite(tiny, "conv1", exemplar, moment, rank=2)
    solve = lambda basis: rewrite(tiny, "conv1", exemplar, rank=2, basis=basis)  # noqa: E731
    first, again = (bench.random_direction(edit, solve, seeds=range(3)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        right = a.changes["conv1.weight"].right
        assert torch.equal(right, b.changes["conv1.weight"].right) and right.shape == (2, 8)
        assert torch.allclose(right @ right.T, torch.eye(2), atol=1e-5)
    assert not torch.equal(first[0].changes["conv1.weight"].right, first[1].changes["conv1.weight"].right)


def test_the_report_and_the_strength_curve_agree_with_the_comparison(tiny, photos32, sets, exemplar):
    _, kept = bench.prepare(tiny, LAYERS, **sets)
    kept["test"] = kept.pop("validation")
    edit = rewrite(tiny, "conv1", exemplar, photos32, cache="")
    result = bench.report({"edit": edit, "several": [edit, 0 * edit]}, kept)
    found = kept["test"].compare(edit)
    assert result.loc["edit", "errors after"] == int(found.after.sum())
    assert result.loc["several", "errors after"] == (int(found.after.sum()) + int(found.before.sum())) / 2
    curve = bench.strength_curve(edit, (0, 1), kept["test"], kept["clean"])
    assert curve.loc[0, "errors corrected"] == 0 and curve.loc[0, "accuracy change (points)"] == 0
    assert curve.loc[1, "errors corrected"] == result.loc["edit", "errors corrected"]
    assert curve.loc[1, "accuracy change (points)"] == result.loc["edit", "clean change"]
