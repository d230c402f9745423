"""How edits are tried and chosen: trials, the rule of choice, cross-validation, the protocol over a story's sets."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import make_exemplar

from edittools.baselines import BASELINES, rewrite_at_random
from edittools.cut import Cut, cut_all
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.moments import measure
from edittools.rewriting import rewrite
from edittools.selection import activations
from edittools.selection.activations import CachedStates, cache_states
from edittools.selection.constraints import Bounds, about_budget, cross_validated, folds_of
from edittools.selection.scenario import Scenario
from edittools.selection.search import Plan, Protocol
from edittools.selection.splits import check_splits
from edittools.selection.trials import Trials, counted, grid, sweep

LAYERS = ["stem", "conv1", "conv2"]


@pytest.fixture
def sets(tiny, photos32):
    """Half of the images labelled as they are read, half not."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(photos32, labels, tiny.classes)
    return {"validation": data.subset(range(20)), "clean": data.subset(range(20, 40))}


def test_a_sweep_has_one_row_a_trial_and_says_what_changed(tiny, photos32, sets, exemplar):
    cuts, kept = cache_states(tiny, LAYERS, **sets)
    moments = measure(tiny, LAYERS, photos32)
    settings = grid(rank=(1, 2), masked=(True, False), objective=("least_squares",))
    trials = Trials(rewrite, cuts, {"one": exemplar, "two": [exemplar, make_exemplar(8)]}, moments, settings)
    table = sweep(trials, kept["validation"])
    assert len(table) == len(trials) == 3 * 2 * 4 * 2
    row, some = table.iloc[17], torch.arange(20) % 3 > 0
    found = kept["validation"].compare(row.edit)
    assert (row.corrected, row.broken, row.net) == (found.corrected, found.broken, found.corrected - found.broken)
    assert torch.equal(row.wrong, found.after)
    logits = kept["validation"].logits(row.edit)
    assert row.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, sets["validation"].labels)))
    part, alone = counted(table, found.before, some), CachedStates(cuts, sets["validation"].subset(some))
    expected = sweep(zip(table.layer.map(lambda layer: {"layer": layer}), table.edit, strict=True), alone)
    assert part[["corrected", "broken", "net"]].equals(expected[["corrected", "broken", "net"]])
    assert part.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=1e-5)


def test_random_directions_are_the_same_each_time_and_of_the_same_rank(tiny, photos32, exemplar):
    given = tiny, "conv1", exemplar, measure(tiny, ["conv1"], photos32)["conv1"]
    one, same = (rewrite_at_random(*given, rank=2, objective="least_squares").changes["conv1.weight"] for _ in "ab")
    assert torch.equal(one.right, same.right)
    assert torch.allclose(one.right @ one.right.T, torch.eye(2), atol=1e-5)


def test_an_exemplar_is_run_up_to_a_layer_once_for_all_settings(tiny, photos32, exemplar, monkeypatch):
    cuts, moments, runs = cut_all(tiny, ["conv1", "conv2"]), measure(tiny, ["conv1", "conv2"], photos32), []
    prefix = Cut.prefix
    monkeypatch.setattr(Cut, "prefix", lambda cut, images: runs.append(cut.layer) or prefix(cut, images))
    settings = grid(rank=(1, 2), objective=("l1", "least_squares"), steps=(3,))
    tried = list(Trials(rewrite, cuts, {"one": exemplar}, moments, settings, (1.0,)))
    assert len(tried) == 8 and runs == ["conv1", "conv1", "conv2", "conv2"]  # x and x'
    alone = rewrite(tiny, "conv2", exemplar, moments["conv2"], **settings[-1])
    assert torch.allclose(tried[-1][1].changes["conv2.weight"].delta(), alone.changes["conv2.weight"].delta())


# --- the rule of choice ---


class _Images:
    """Stands for images that are all read rightly, of which edits break so many; counts what it was asked for."""

    def __init__(self, broken, count=400):
        self.broken, self.asked, self.before = broken, [], torch.zeros(count, dtype=torch.bool)
        self.applied = ()

    def compare(self, edit, stop=None):
        self.asked.append(edit)
        after = torch.arange(len(self.before)) < self.broken.get(edit, 0)
        return None if stop and stop(after) else Comparison(self.before, after)


def _table(**columns):
    return pd.DataFrame({"layer": "conv1", "net": 1, "corrected": 1, "broken": 0, **columns})


def test_selection_takes_the_lowest_loss_that_mends_more_than_it_breaks_within_the_bounds():
    table = _table(edit=list("abcde"), net=[4, 5, 4, 1, 0], loss=[0.9, 1.0, 1.1, 1.2, 0.1])
    chosen = Bounds(_Images({"a": 2, "b": 1})).choose(table)
    assert chosen.edit == "b" and chosen.accuracy_change == -0.25 and chosen.trials == 5
    assert Bounds(_Images({"a": 2})).choose(table, budget=0.5).edit == "a"
    assert Bounds(_Images({"a": 4, "b": 4, "c": 4})).choose(table).edit == "d"
    kept = _Images({"a": 2, "b": 1}, count=157)  # one may break
    assert Bounds(_Images({}), kept).choose(table).edit == "b" and kept.asked == ["a", "b"]


def test_when_nothing_helps_within_the_budget_the_selection_is_to_change_nothing(tiny, photos32, sets, exemplar):
    _, kept = cache_states(tiny, LAYERS, **sets)
    table = _table(edit=[rewrite(tiny, "conv1", exemplar, photos32)], net=0, loss=1.0)
    chosen = Bounds(kept["clean"]).choose(table)
    assert not chosen.found and chosen.accuracy_change == 0 and str(chosen) == "nothing"
    assert torch.equal(kept["clean"].logits(chosen.edit), kept["clean"].logits())
    with pytest.raises(ValueError, match="no trial: expected settings"):
        Bounds(kept["clean"]).choose(table.iloc[:0])


def test_a_choice_names_its_settings_and_those_on_the_edge_of_what_was_tried():
    tried = {"rate": [0.1, 0.2, 0.3], "rank": [2, 1, 3], "locality": [0.0, 1.0, 9.0], "strength": [1.0, 1.0, 0.5]}
    table = _table(edit=list("abc"), loss=[1.0, 2.0, 3.0], layer=["x", "y", "z"], **tried)
    chosen = Bounds(_Images({})).choose(table)
    assert chosen.edges == ("rate", "strength")  # rank 2 is inside, less than no locality cannot be tried
    assert str(chosen) == "x, rate 0.1, rank 2, locality 0, α 1 (edge of the grid: rate, strength)"
    assert not replace(chosen, settings={"rank": 1}).edges and replace(chosen, settings={"rank": 3}).edges == ("rank",)
    settings = {"layer": "x", "exemplar": "car", "direction": "leace", "ridge": 0.1, "masked": True}
    assert str(replace(chosen, settings=settings)) == "x, car, leace, ridge 0.1, mask"


@pytest.mark.parametrize(("best", "words"), [(None, "conv1, full rank"), (3, "conv1, rank 3 (edge of the grid: rank)")])
def test_a_choice_of_full_rank_says_so_and_can_be_repeated(best, words):
    rows = [{"layer": "conv1", "rank": r, "edit": str(r), "wrong": torch.zeros(1).bool()} for r in (1, 2, 3, None)]
    rows = [row | {"losses": torch.tensor([2.0 - (row["rank"] == best)])} for row in rows]
    chosen = Bounds(_Images({})).choose(counted(rows, torch.ones(1).bool()))
    assert chosen.settings == {"layer": "conv1", "rank": best} and type(chosen.settings["rank"]) is type(best)
    assert str(chosen) == words


def test_a_budget_says_how_many_images_it_is():
    assert about_budget(1200) == "budget of 0.25 points on 1,200 images: one is 0.08 points, 3 may be lost"
    assert about_budget(281).endswith("one is 0.36 points, none may be lost; fewer than 400, so it is coarse")


def test_an_edit_that_diverged_times_zero_changes_nothing(tiny, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, rank=None, steps=2)
    broken = replace(edit, changes={k: replace(c, left=c.left * float("inf")) for k, c in edit.changes.items()})
    assert all(not change.delta().any() for change in (0 * broken).changes.values())


# --- cross-validation ---

FOLDS = torch.tensor([0, 0, 1, 1])
RIGHT, WRONG = (2.0, 0.0), (0.0, 2.0)  # logits of an image of class 0


def _four(*edits):
    """A sweep of edits, named by their numbers, over four images of class 0; the logits that each gives are its own."""
    labels, rows = torch.zeros(4, dtype=torch.long), []
    for number, logits in enumerate(map(torch.tensor, edits)):
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        rows.append({"trial": number, "edit": number, "losses": losses, "wrong": misclassified(logits, labels)})
    return counted(rows, torch.ones(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool))


def _crossed(*edits, bounds=None):
    return cross_validated(_four(*edits), torch.ones(4, dtype=torch.bool), FOLDS, bounds or Bounds(_Images({})))


def test_what_a_fold_shows_is_read_by_the_edit_that_the_other_folds_chose():
    """By hand: without fold 0 only the second edit helps, without fold 1 the first; each fails where it is read."""
    found = _crossed((RIGHT, RIGHT, WRONG, WRONG), (WRONG, WRONG, RIGHT, (1.0, 0.0)))
    assert [choice.settings["trial"] for choice in found.folds] == [1, 0]
    assert [choice.validation["corrected"] for choice in found.folds] == [2, 2] and found.settings["trial"] == 0
    assert found.held_out.after.tolist() == [True] * 4 and found.held_out.corrected == 0 and found.trials == 2
    loss = float(torch.log1p(torch.exp(torch.tensor([-2.0, -1.0]))).mean())
    assert found.folds[0].validation["loss"] == pytest.approx(loss)


def test_a_fold_without_a_choice_is_held_out_as_it_was_before():
    found = _crossed((WRONG, RIGHT, WRONG, WRONG))
    assert [choice.found for choice in found.folds] == [False, True] and found.held_out.corrected == 0
    assert _crossed((WRONG, RIGHT, RIGHT, WRONG)).held_out.after.tolist() == [True, False, False, True]


def test_an_edit_beyond_a_bound_is_chosen_for_no_fold_and_each_is_measured_once():
    dear, costly = [(1.0, 0.0)] * 4, [RIGHT] * 4
    budget, kept = _Images({1: 10}), _Images({})
    found = _crossed(dear, costly, bounds=Bounds(budget, kept))
    assert {choice.edit for choice in found.folds} == {0} and found.held_out.corrected == 4
    assert budget.asked == kept.asked == [1, 0]
    budget, kept = _Images({}), _Images({1: 1}, count=9)
    assert _crossed(dear, costly, bounds=Bounds(budget, kept)).edit == 0
    assert kept.asked == [1, 0] and budget.asked == [0]


def test_folds_are_as_large_as_each_other_and_hold_every_class():
    labels = torch.tensor([0] * 12 + [1] * 5 + [2] * 3)[torch.randperm(20, generator=torch.Generator().manual_seed(4))]
    folds = folds_of(labels)
    assert folds.bincount().tolist() == [4] * 5 and torch.equal(folds, folds_of(labels))
    assert all(folds[labels == label].bincount().max() <= most for label, most in ((0, 3), (1, 2), (2, 1)))
    assert sorted(folds_of(labels[:2]).tolist()) == [0, 1]


# --- the protocol ---


@pytest.fixture
def story(tiny, photos32, sets, exemplar):
    named = {"validation": sets["validation"], "reference": 1 - photos32}
    named |= {"budget": sets["clean"].subset(range(10)), "test": sets["clean"].subset(range(10, 20))}
    default = {"layer": "conv2", "exemplar": "one", "rank": 1}
    return Scenario(tiny, {"one": exemplar}, **named, layers=("conv1", "conv2"), default=default)


def test_every_method_is_chosen_by_the_same_rule_within_the_budget_and_says_its_effort(story):
    from methods import choose_all

    protocol = Protocol(story)
    rounds = {"rates": (0.01, 0.1), "steps": (2, 3), "localities": (1.0, 5.0), "top": 1}
    chosen = choose_all(protocol, Plan(grid(rank=(1,), objective=("l1", "least_squares"), steps=(5,)), **rounds))
    edits = [f"{name}{suffix}" for suffix in ("", "_several") for name in ("editing", "random_direction")]
    tuned = [f"finetune_{scope}{suffix}" for scope in ("local", "global") for suffix in ("", "_several")]
    interpolated = ["interpolated_local", "interpolated_global"]
    assert list(chosen) == ["untuned", *edits, "two_layers", *tuned, *interpolated, *BASELINES, "reactive"]
    first, both = chosen["editing"], chosen.pop("two_layers")
    assert both.trials == first.trials + len(both.table)
    assert not first.found or (both.validation["loss"] <= first.validation["loss"] and str(first) in str(both))
    assert all(choice.seconds > 0 and choice.trials == len(choice.table) for choice in chosen.values())
    for name in (*edits, *BASELINES, "reactive"):
        helping = chosen[name].table.query("net > 0").sort_values("loss", kind="stable")
        changes = ((edit, protocol.states["budget"].compare(edit).accuracy_change) for edit in helping.edit)
        first = next((edit for edit, change in changes if change >= -0.25), None)
        assert chosen[name].found == (first is not None) and (first is None or chosen[name].edit is first)
    assert chosen["editing"].trials == chosen["random_direction"].trials == 2 * 1 * 2 * 3
    tried = chosen["finetune_local"].table
    first, again = tried[:8], tried[8:]
    best = first.loc[first.loss.idxmin()]
    assert [set(first[name]) for name in ("locality", "steps")] == [{0.0}, {2}]
    assert (again[["layer", "rate", "momentum"]] == best[["layer", "rate", "momentum"]]).all(axis=None)
    assert list(zip(again.locality, again.steps, strict=True)) == [(0, 3), (1, 2), (1, 3), (5, 2), (5, 3)]
    assert chosen["interpolated_local"].trials == 4 * len(tried)
    table = protocol.report({name: choice.edit for name, choice in chosen.items()})
    assert table.loc["untuned", "budget change"] == pytest.approx(chosen["untuned"].accuracy_change)


def test_a_protocol_takes_over_what_its_story_shares_with_that_of_another(story, photos32, exemplar, monkeypatch):
    first, runs, run = Protocol(story), [], activations.states_at
    monkeypatch.setattr(activations, "states_at", lambda cuts, data, *how: runs.append(data) or run(cuts, data, *how))
    test = replace(story.test, images=photos32.flip(2)[30:])
    other = replace(story, exemplars={"two": make_exemplar(8)}, test=test)
    second = Protocol(other, shared=first)
    assert [len(data) for data in runs] == [1, 10] and second.states["budget"] is first.states["budget"]
    assert all(second.cuts[layer] is cut for layer, cut in first.cuts.items())
    tried = grid(rank=(1,), objective=("least_squares",))
    alone, together = (p.choose(p.rewriting(tried)) for p in (Protocol(other), second))
    assert str(alone) == str(together) and alone.table.loss.equals(together.table.loss)
    assert torch.equal(Protocol(other).states["test"].original, second.states["test"].original)
    with pytest.raises(ValueError, match="another classifier or of other layers"):
        Protocol(other, ["conv1"], shared=first)


def test_everyday_keys_of_before_an_edit_or_of_another_layer_are_refused(story, tiny, photos32, exemplar):
    """Some settings need the second moment, some the sample of keys alone, some both."""
    protocol = Protocol(story)
    first, last = (rewrite(tiny, layer, exemplar, photos32) for layer in ("conv1", "head"))
    for rank, weight in ((1, 0), (None, 1), (1, 1)):
        setting = {"objective": "least_squares", "rank": rank, "reference_weight": weight}
        trials = protocol.rewriting([setting], (1.0,), layers=["conv2"])
        with first.applied(tiny), pytest.raises(ValueError, match="'conv2'.*'conv1'"):
            list(trials)
        with last.applied(tiny):
            assert len(list(trials)) == 1
        with pytest.raises(ValueError, match="'conv1'.*'head'"):
            rewrite(tiny, "head", exemplar, protocol.reference_moments["conv1"], **setting)


def test_budget_images_that_are_misread_most_easily_come_first(story):
    budget = Protocol(story).states["budget"]
    right, best = budget.original[range(10), budget.labels], budget.original.topk(2).values
    ahead = torch.where(budget.before, right - best[:, 0], right - best[:, 1])
    assert (ahead.diff() >= 0).all() and not torch.equal(budget.labels, story.budget.labels)
    assert sorted(budget.labels.tolist()) == sorted(story.budget.labels.tolist())


def test_budget_images_that_are_reference_images_are_refused(story):
    with pytest.raises(ValueError, match="10 images are both in reference and in budget"):
        Protocol(replace(story, reference=story.budget))


def _apart(count=13):
    """A story of as many sets of two images as there are duties; each image is of another brightness."""
    pairs = iter(torch.linspace(0, 1, 2 * count)[:, None, None, None].expand(-1, 3, 8, 8).split(2))
    some = lambda: LabelledImages(next(pairs), torch.zeros(2).long(), ["a", "b"])  # noqa: E731
    names = ("validation", "budget", "keep", "test", "clean", "keep_report", "own")
    exemplars = {"one": Exemplar(*next(pairs), torch.ones(8, 8))}
    several = {"all": [Exemplar(*next(pairs), torch.ones(8, 8))]}
    sets = {name: some() for name in names} | {"more": {"bare": some()}}
    return Scenario(None, exemplars, several=several, reference=some().images, layers=("x",), **sets)


def _with_first_of(story, name, image):
    data = story.more["bare"] if name == "bare" else getattr(story, name)
    changed = replace(data, images=torch.cat([image[None], data.images[1:]]))
    return replace(story, more={"bare": changed}) if name == "bare" else replace(story, **{name: changed})


SOLVED = {"reference": lambda s: s.reference[1], "x": lambda s: s.exemplars["one"].image}
SOLVED |= {"x'": lambda s: s.several["all"][0].changed}
BOUNDS, REPORTED = ("validation", "budget", "keep"), ("test", "clean", "keep_report", "own", "bare")


@pytest.mark.parametrize("other", [*BOUNDS, *REPORTED])
@pytest.mark.parametrize("one", [*SOLVED, *BOUNDS])
def test_an_image_has_one_duty(one, other):
    story = _apart()
    check_splits(story)
    if one == other:
        return
    image = SOLVED[one](story) if one in SOLVED else getattr(story, one).images[1]
    shared = _with_first_of(story, other, image)
    if (one, other) == ("x", "validation"):
        return check_splits(shared)
    words = {f"1 images are both in {a} and in {b}: expected each in one set" for a, b in ((one, other), (other, one))}
    with pytest.raises(ValueError, match="|".join(words)):
        check_splits(shared)
