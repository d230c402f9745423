"""How edits are tried and chosen: trials, the rule of choice, controls, and the protocol over a story's sets."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_exemplar

from edittools.baselines import RIVALS
from edittools.choosing import trials
from edittools.choosing.choice import Choice, about_budget, add_layer, select
from edittools.choosing.duties import check_duties
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import (
    Trials,
    best_runs,
    finetuning_trials,
    grid,
    random_trials,
    repeated_trials,
    rewriting_trials,
    sweep,
    table_of,
)
from edittools.cut import Cut, cut_all
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.keys import ExemplarStates
from edittools.metrics import Comparison, predict
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


def test_a_sweep_has_one_row_a_trial_and_counts_what_changed(tiny, photos32, sets, exemplar):
    cuts, kept = cache_states(tiny, LAYERS, **sets)
    moments = measure(tiny, LAYERS, photos32)
    settings = grid(rank=(1, 2), masked=(True, False))
    trials = rewriting_trials(cuts, {"one": exemplar, "two": [exemplar, make_exemplar(8)]}, moments, settings)
    table = sweep(trials, kept["validation"])
    assert len(table) == len(trials) == 3 * 2 * 4 * 2
    row = table.iloc[17]
    found = kept["validation"].compare(row.edit)
    assert (row.corrected, row.broken, row.net) == (found.corrected, found.broken, found.corrected - found.broken)


def test_ranks_may_be_numbers_of_numpy_and_none_is_left_out_without_a_word(tiny, photos32, exemplar):
    cuts, moments = cache_states(tiny, ["conv1"])[0], measure(tiny, ["conv1"], photos32)
    trials = rewriting_trials(cuts, {"one": exemplar}, moments, grid(rank=np.arange(1, 3), steps=(2,)))
    assert [s["rank"] for s, _ in trials] == [1, 1, 2, 2] and len(trials) == 4
    with pytest.raises(ValueError, match="rank 0"):
        list(rewriting_trials(cuts, {"one": exemplar}, moments, grid(rank=(0,))))


def test_trials_are_made_anew_each_time_they_are_iterated_and_add_up():
    one = Trials(lambda: [({"layer": "a"}, 1.0)], 1)
    both = one.at((0.5, 2.0)) + one
    expected = [({"layer": "a", "strength": 0.5}, 0.5), ({"layer": "a", "strength": 2.0}, 2.0), ({"layer": "a"}, 1.0)]
    assert len(both) == 3 and list(both) == expected == list(both)


class _Budget:
    """Stands for 400 budget images, of which edits break so many."""

    before = torch.zeros(400, dtype=torch.bool)

    def __init__(self, broken):
        self.broken = broken

    def within(self, edit, budget):
        return Comparison(self.before, torch.arange(400) < self.broken[edit])


def test_selection_takes_the_lowest_loss_that_mends_more_than_it_breaks_within_the_budget():
    table = pd.DataFrame(
        {
            "edit": list("abcde"),
            "net": [4, 5, 4, 1, 0],
            "loss": [0.9, 1.0, 1.1, 1.2, 0.1],
            "corrected": 5,
            "broken": 0,
            "layer": "conv1",
        }
    )
    chosen = select(table, _Budget({"a": 2, "b": 1, "c": 0, "d": 0, "e": 0}))
    assert chosen.edit == "b" and chosen.accuracy_change == -0.25 and chosen.trials == 5
    assert select(table, _Budget(dict.fromkeys("abcde", 2)), budget=0.5).edit == "a"
    assert select(table, _Budget({"a": 4, "b": 4, "c": 4, "d": 0, "e": 0})).edit == "d"


def test_ranked_by_net_gain_the_loss_settles_between_equals():
    table = pd.DataFrame({"edit": list("abc"), "net": [3, 5, 5], "loss": [0.1, 1.1, 1.0], "corrected": 5, "broken": 0})
    free = dict.fromkeys("abc", 0)
    by = [select(table, _Budget(free), rank_by=name).edit for name in ("loss", "net")]
    assert by == ["a", "c"] and select(table, _Budget(free | {"c": 2}), rank_by="net").edit == "b"
    with pytest.raises(ValueError, match="rank_by 'gain': expected 'loss' or 'net'"):
        select(table, _Budget(free), rank_by="gain")


def test_when_nothing_helps_within_the_budget_the_selection_is_to_change_nothing(tiny, photos32, sets, exemplar):
    _, kept = cache_states(tiny, LAYERS, **sets)
    edit = rewrite(tiny, "conv1", exemplar, photos32)
    table = pd.DataFrame({"layer": ["conv1"], "edit": [edit], "net": 0, "loss": 1.0, "corrected": 1, "broken": 1})
    chosen = select(table, kept["clean"])
    assert not chosen.found and chosen.accuracy_change == 0 and str(chosen) == "nothing"
    assert torch.equal(kept["clean"].logits(chosen.edit), kept["clean"].logits())
    with pytest.raises(ValueError, match="a table with no trial"):
        select(table.iloc[:0], kept["clean"])


def test_a_choice_names_the_settings_that_lie_on_the_edge_of_what_was_tried():
    table = pd.DataFrame(
        {
            "edit": list("abc"),
            "net": 1,
            "loss": [1.0, 2.0, 3.0],
            "corrected": 1,
            "broken": 0,
            "layer": ["x", "y", "z"],
            "rate": [0.1, 0.2, 0.3],
            "rank": [2, 1, 3],
            "locality": [0.0, 1.0, 9.0],
            "strength": [1.0, 1.0, 0.5],
        }
    )
    protocol = SimpleNamespace(states={"budget": _Budget(dict.fromkeys("abc", 0))}, rank_by="loss")
    chosen = Protocol.choose(protocol, table)
    assert chosen.edges == ("rate", "strength")  # rank 2 is inside, less than no locality cannot be tried
    assert str(chosen) == "x, rate 0.1, rank 2, locality 0, α 1 (edge of the grid: rate, strength)"
    assert not replace(chosen, settings={"rank": 1}).edges and replace(chosen, settings={"rank": 3}).edges == ("rank",)


def test_a_budget_says_how_many_images_it_is():
    assert about_budget(1200) == "budget of 0.25 points on 1,200 images: one is 0.08 points, 3 may be lost"
    assert about_budget(281).endswith("one is 0.36 points, none may be lost; fewer than 400, so it is coarse")


class _Counted:
    """Images, all misread, of which an edit of n layers corrects n; and budget images of which it breaks some."""

    labels, before = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)

    def __init__(self, costs=()):
        self.costs = costs

    def logits(self, edit):
        return torch.eye(2)[[0] * len(edit.layers) + [1] * (4 - len(edit.layers))]

    def within(self, edit, budget):
        right = torch.zeros(4, dtype=torch.bool)
        return Comparison(right, torch.arange(4) < self.costs[len(edit.layers)])


def test_a_second_layer_is_added_within_the_budget_else_the_first_stays_alone(tiny, photos32, exemplar):
    first, second = (rewrite(tiny, layer, exemplar, photos32) for layer in ("conv1", "conv2"))
    table = sweep([({"layer": "conv2"}, second), ({"layer": "conv1"}, first)], _Counted())
    costs = [(0, 0, 0), (0, 0, 1), (0, 1, 1)]
    both, alone, neither = (add_layer(first, table, _Counted(), _Counted(cost)) for cost in costs)
    assert both.settings["layer"] == "conv2" and set(both.edit.layers) == {"conv1", "conv2"}
    assert both.validation["corrected"] == 2
    assert alone.settings["layer"] == "" and alone.edit is first and alone.validation["corrected"] == 1
    assert not neither.found


def test_random_directions_are_the_same_trials_along_seeded_directions_of_the_same_rank(tiny, photos32, exemplar):
    cuts, moments = cache_states(tiny, LAYERS)[0], measure(tiny, LAYERS, photos32)
    settings = [*grid(rank=(1, 2), objective=("least_squares",)), {"rank": None}]
    trials, again, other = (random_trials(cuts, {"one": exemplar}, moments, settings, seed=seed) for seed in (0, 0, 1))
    edited = [s for s, _ in rewriting_trials(cuts, {"one": exemplar}, moments, settings) if s["rank"] is not None]
    assert [s for s, _ in trials] == edited and len(trials) == len(edited)
    for (one, a), (_, b), (_, c) in zip(trials, again, other, strict=True):
        [first], [same], [new] = (list(edit.changes.values()) for edit in (a, b, c))
        assert torch.equal(first.right, same.right) and not torch.equal(first.right, new.right)
        assert first.right.shape[0] == one["rank"]
        assert torch.allclose(first.right @ first.right.T, torch.eye(one["rank"]), atol=1e-5)


def test_the_best_fine_tunings_are_repeated_with_each_locality(tiny, photos32, sets, exemplar):
    cuts, kept = cache_states(tiny, LAYERS, **sets)
    settings = grid(scope=("local",), rate=(0.01, 0.1), steps=(2,))
    plain = sweep(finetuning_trials(cuts, {"one": exemplar}, settings), kept["validation"])
    ranked = plain.sort_values("loss", kind="stable")
    best = best_runs(plain, 2)
    assert best.layer.nunique() == 2 and all(
        row.loss == ranked[ranked.layer == row.layer].loss.min() for row in best.itertuples()
    )
    near = repeated_trials(best, cuts, {"one": exemplar}, (2, 3), (1.0, 5.0), photos32)
    found = [(s["layer"], s["rate"], s["locality"], s["steps"]) for s, _ in near]
    assert found == [(r.layer, r.rate, value, n) for r in best.itertuples() for value in (1.0, 5.0) for n in (2, 3)]
    assert len(near) == 8
    own = repeated_trials(best.assign(locality=3.0), cuts, {"one": exemplar}, (1,), reference=photos32)
    assert [s["locality"] for s, _ in own] == [3.0, 3.0]


def test_an_exemplar_is_run_up_to_a_layer_once_for_all_settings(tiny, photos32, exemplar, monkeypatch):
    cuts, moments, runs = cut_all(tiny, ["conv1", "conv2"]), measure(tiny, ["conv1", "conv2"], photos32), []
    prefix = Cut.prefix
    monkeypatch.setattr(Cut, "prefix", lambda cut, images: runs.append(cut.layer) or prefix(cut, images))
    settings = grid(rank=(1, 2), objective=("l1", "least_squares"), steps=(3,))
    tried = list(rewriting_trials(cuts, {"one": exemplar}, moments, settings, (1.0,)))
    assert len(tried) == 8 and runs == ["conv1", "conv1", "conv2", "conv2"]  # x and x'
    alone = rewrite(tiny, "conv2", exemplar, moments["conv2"], **settings[-1])
    assert torch.allclose(tried[-1][1].changes["conv2.weight"].delta(), alone.changes["conv2.weight"].delta())
    with pytest.raises(ValueError, match="exemplars at layer 'conv1': expected them at 'conv2'"):
        rewrite(tiny, cuts["conv2"], ExemplarStates(cuts["conv1"], exemplar), moments["conv2"])


def test_settings_that_differ_in_steps_alone_are_one_run(tiny, exemplar, monkeypatch):
    cuts, calls = cut_all(tiny, ["conv1"]), []
    path = trials.finetune_path
    monkeypatch.setattr(trials, "finetune_path", lambda *a, **k: calls.append(a[3]) or path(*a, **k))
    found = finetuning_trials(cuts, {"one": exemplar}, grid(steps=(3, 1), rate=(0.1, 0.2)))
    tried = list(found)
    assert calls == [[1, 3], [1, 3]] and len(found) == len(tried) == 4
    assert [(s["rate"], s["steps"], edit.record.steps) for s, edit in tried] == [
        (0.1, 1, 1),
        (0.1, 3, 3),
        (0.2, 1, 1),
        (0.2, 3, 3),
    ]


@pytest.fixture
def story(tiny, photos32, sets, exemplar):
    more = sets["clean"].subset(range(10)), sets["clean"].subset(range(10, 20))
    named = {"validation": sets["validation"], "budget": more[0], "test": more[1]}
    return SimpleNamespace(
        classifier=tiny,
        shortlist=("conv1", "conv2"),
        sets=named,
        reference=1 - photos32,
        exemplars={"one": exemplar},
        several={},
        default={"layer": "conv2", "exemplar": "one", "rank": 1},
        keep=None,
        **named,
    )


@pytest.mark.parametrize(("rank_by", "order"), [("loss", ["loss"]), ("net", ["lost", "loss"])])
def test_every_method_is_chosen_by_the_same_rule_within_the_budget_and_says_its_effort(story, rank_by, order):
    protocol = Protocol(story, rank_by=rank_by)
    plan = Plan(
        grid(rank=(1,), objective=("l1", "least_squares"), steps=(5,)),
        rates=(0.01, 0.1),
        steps=(2,),
        localities=(1.0,),
        top=1,
        long=(3,),
        longest=1,
    )
    chosen = protocol.choose_all(plan)
    assert list(chosen) == [
        "untuned",
        "editing",
        "random_direction",
        "editing_several",
        "random_direction_several",
        "two_layers",
        "finetune_local",
        "finetune_local_several",
        "finetune_global",
        "finetune_global_several",
        "interpolated_local",
        "interpolated_global",
        *RIVALS,
    ]
    assert all(choice.seconds > 0 for choice in chosen.values())
    for name, choice in chosen.items():
        if name in ("untuned", "two_layers"):
            continue
        helping = choice.table[choice.table.net > 0]
        ranked = helping.assign(lost=-helping.net).sort_values(order, kind="stable")
        kept = [
            row for row in ranked.itertuples() if protocol.states["budget"].compare(row.edit).accuracy_change >= -0.25
        ]
        assert choice.found == bool(kept) and choice.trials == len(choice.table)
        assert not kept or choice.edit is kept[0].edit
    assert chosen["editing"].trials == chosen["random_direction"].trials == 2 * 1 * 2 * 3
    assert chosen["finetune_local"].trials == 2 * 2 * 2 + 1 + 1
    table = protocol.report({name: choice.edit for name, choice in chosen.items()})
    assert table.loc["untuned", "budget change"] == pytest.approx(chosen["untuned"].accuracy_change)


def test_a_protocol_takes_over_what_its_story_shares_with_that_of_another(story, photos32, exemplar, monkeypatch):
    first, runs = Protocol(story), []
    run = CachedStates._run
    monkeypatch.setattr(CachedStates, "_run", lambda *given: runs.append(given[1]) or run(*given))
    other = SimpleNamespace(**vars(story) | {"exemplars": {"two": make_exemplar(8)}})
    other.sets = story.sets | {"test": replace(story.test, images=photos32.flip(2)[30:])}
    second = Protocol(other, shared=first)
    assert [len(data) for data in runs] == [10] and second.states["budget"] is first.states["budget"]
    assert all(second.cuts[layer] is cut for layer, cut in first.cuts.items())
    tried = grid(rank=(1,), objective=("least_squares",))
    alone, together = (p.choose(p.rewriting(tried)) for p in (Protocol(other), second))
    assert alone.table.drop(columns="edit").equals(together.table.drop(columns="edit"))
    assert torch.equal(Protocol(other).states["test"].original, second.states["test"].original)
    with pytest.raises(ValueError, match="another classifier or of other layers"):
        Protocol(other, ["conv1"], shared=first)


def test_budget_images_that_are_misread_most_easily_come_first(story):
    budget, logits = Protocol(story).states["budget"], predict(story.classifier, story.budget)
    labels = story.budget.labels
    right = logits[range(10), labels]
    ahead = right - logits.scatter(1, labels[:, None], float("-inf")).max(dim=1).values
    order = ahead.argsort(stable=True)
    assert torch.equal(budget.labels, labels[order]) and torch.equal(budget.before, ahead[order] < 0)
    torch.testing.assert_close(budget.original, logits[order])


def test_budget_images_that_cannot_be_put_in_order_stay_as_they_are(story, monkeypatch):
    def refuse(states):
        raise ValueError("no subset can be taken")

    monkeypatch.setattr(CachedStates, "fragile_first", refuse)
    assert torch.equal(Protocol(story).states["budget"].labels, story.budget.labels)


def test_budget_images_that_are_reference_images_are_refused(story):
    story.reference = story.sets["budget"]
    with pytest.raises(ValueError, match="10 of the 10 budget images are reference images"):
        Protocol(story)


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
    check_duties(story)
    if one == other:
        return
    image = SOLVED[one](story) if one in SOLVED else getattr(story, one).images[1]
    shared = _with_first_of(story, other, image)
    if (one, other) == ("x", "validation"):
        return check_duties(shared)
    pair = {one, other} if one in BOUNDS and other in BOUNDS else {other}
    with pytest.raises(ValueError, match=rf"1 of the 2 ({'|'.join(pair)}) images are ({one}|{other}) images"):
        check_duties(shared)


def test_reported_images_may_be_reported_twice():
    story = _apart()
    check_duties(replace(story, more={"bare": story.clean}))


def test_settings_stay_what_they_are_in_a_table():
    rows = [{"rank": 3, "α": 1.0}, {"rank": None, "α": 2.0}, {"α": 1.0, "steps": 20}, {"rank": 1, "α": 1, "steps": 40}]
    table = table_of(rows)
    assert table["rank"].tolist()[:2] == [3, None] and type(table["rank"][0]) is type(table["steps"][2]) is int
    assert table["rank"][2] != table["rank"][2] and table["α"].dtype == float
    whole = table_of([{"rank": 1}, {"rank": 3}])
    assert whole["rank"].dtype == int


@pytest.mark.parametrize(("best", "words"), [(None, "conv1, full rank"), (3, "conv1, rank 3 (edge of the grid: rank)")])
def test_a_choice_of_full_rank_says_so_and_can_be_repeated(best, words):
    rows = [{"layer": "conv1", "rank": r, "net": 1, "corrected": 1, "broken": 0} for r in (1, 2, 3, None)]
    table = table_of([row | {"loss": 2.0 - (row["rank"] == best), "edit": str(row["rank"])} for row in rows])
    chosen = select(table, _Budget(dict.fromkeys(table.edit, 0)))
    assert chosen.settings == {"layer": "conv1", "rank": best} and type(chosen.settings["rank"]) is type(best)
    assert str(replace(chosen, table=table)) == words


def test_words_among_the_settings_are_named():
    found = Choice(
        None, {"layer": "x", "exemplar": "car", "direction": "leace", "ridge": 0.1, "masked": True}, {}, None
    )
    assert str(found) == "x, car, mask, leace, ridge 0.1"


def test_edges_are_those_of_all_that_was_tried_though_few_edits_are_kept(story, monkeypatch):
    monkeypatch.setattr("edittools.choosing.protocol.SLIM", 2)
    protocol = Protocol(story)
    plan = Plan(rates=(1e-5, 1e-4, 1e-3, 1e-2), momenta=(0.0,), steps=(2,), localities=(), long=())
    chosen = protocol.choose_finetuning("local", plan)
    tried = chosen.trials
    assert len(chosen.table) == tried >= 8 and set(chosen.table.rate) == set(plan.rates)
    assert 2 <= chosen.table["edit"].notna().sum() <= 3
    between = protocol.interpolated(chosen, strengths=(0.5,), among=2)
    assert between.trials == len(between.table) == tried + 2


def test_an_edit_that_diverged_times_zero_changes_nothing(tiny, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, rank=None, steps=2)
    broken = replace(edit, changes={k: replace(c, left=c.left * float("inf")) for k, c in edit.changes.items()})
    assert all(not change.delta().any() and change.response == 0 for change in (0 * broken).changes.values())
