"""How an edit is selected: splits, candidates, constraints, cross-validation, and the search over all of them."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import make_exemplar
from torch import nn

from edittools.baselines import BASELINES, rewrite_at_random
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import cut_all
from edittools.edits import Change, Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import rewrite
from edittools.scenarios.finetuning import FinetuningRounds, select_finetuning
from edittools.selection.evaluation import CachedActivations, ConstraintCheck, Constraints, cache_activations
from edittools.selection.search import (
    Candidate,
    EditSearch,
    Outcome,
    Outcomes,
    cross_validate,
    grid,
    select_best,
    stratified_folds,
)
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean, thumbnails
from edittools.site import prepare

LAYERS = ["stem", "conv1", "conv2"]
EXACT = grid(rank=(1,), objective=("least_squares",))


@pytest.fixture
def sets(tiny, photos32):
    """Half of the images labeled as they are predicted, half not."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(photos32, labels, tiny.classes)
    return {"target": data.subset(range(20)), "clean": data.subset(range(20, 40))}


@pytest.fixture
def splits(sets, photos32):
    clean = sets["clean"]
    return Splits(
        reference=1 - photos32,
        target=sets["target"],
        clean=clean.subset(range(10)),
        target_test=clean.subset(range(10, 20)),
    )


@pytest.fixture
def search(tiny, exemplar, splits):
    return EditSearch(tiny, {"one": exemplar}, splits, ["conv1", "conv2"])


# --- candidates and their scores ---


def test_score_of_each_candidate_is_what_it_changes(tiny, photos32, sets, exemplar):
    both = {"one": exemplar, "two": [exemplar, make_exemplar(8)]}
    splits = Splits(reference=1 - photos32, **sets)
    search = EditSearch(tiny, both, splits, LAYERS)
    settings = grid(rank=(1, 2), masked=(True, False), objective=("least_squares",))
    candidates = search.candidates("rewrite", settings)
    outcomes = search.score(candidates)
    assert len(outcomes) == len(candidates) == 3 * 2 * 4 * 2
    row = outcomes.table().iloc[16]
    candidate = outcomes.candidates[16]
    target = search.activations["target"]
    compared = target.compare(candidate.edit, candidate.strength)
    assert (row.layer, row.exemplar, row.strength) == ("conv1", "one", 0.5) and candidate.strength == 0.5
    assert (row.corrected, row.broken) == (compared.corrected, compared.broken)
    assert row.net == compared.corrected - compared.broken
    assert torch.equal(outcomes.wrong[16], compared.after)
    logits = target.logits(candidate.edit, candidate.strength)
    expected_loss = torch.nn.functional.cross_entropy(logits, sets["target"].labels)
    assert row.loss == pytest.approx(float(expected_loss))


def test_outcomes_on_some_images_are_those_of_these_images_alone(tiny, photos32, sets, exemplar):
    search = EditSearch(tiny, exemplar, Splits(reference=1 - photos32, **sets), LAYERS)
    outcomes = search.score(search.candidates("rewrite", EXACT))
    some = torch.arange(20) % 3 > 0
    part = outcomes.on_images(some)
    alone = Splits(reference=1 - photos32, target=sets["target"].subset(some), clean=sets["clean"])
    expected = EditSearch(tiny, exemplar, alone, LAYERS).score(outcomes.candidates)
    assert torch.equal(part.corrected, expected.corrected) and torch.equal(part.broken, expected.broken)
    torch.testing.assert_close(part.loss, expected.loss, rtol=1e-5, atol=0)


def test_rewrite_at_random_is_the_same_each_time_and_orthonormal(tiny, photos32, exemplar):
    site = prepare(tiny, "conv1", exemplar, 1 - photos32)
    [first], [second] = (rewrite_at_random(site, rank=2, objective="least_squares") for _ in range(2))
    right = first.changes["conv1.weight"].right
    assert torch.equal(right, second.changes["conv1.weight"].right)
    assert torch.allclose(right @ right.T, torch.eye(2), atol=1e-5)


def test_layers_of_a_search_are_in_the_order_of_the_network(tiny, exemplar, splits):
    search = EditSearch(tiny, exemplar, splits, ["conv2", "stem", "conv2"])
    assert list(search.cuts) == ["stem", "conv2"]


def test_candidates_are_the_edits_of_the_public_function(tiny, search, exemplar, splits):
    settings = grid(rank=(1, 2), objective=("l1", "least_squares"), steps=(3,))
    candidates = list(search.candidates("rewrite", settings, (1.0,)))
    assert len(candidates) == 8
    alone = rewrite(tiny, "conv2", exemplar, splits.reference, **settings[-1])
    delta = candidates[-1].edit.changes["conv2.weight"].delta()
    assert torch.allclose(delta, alone.changes["conv2.weight"].delta())


def test_candidates_of_a_random_direction_have_no_full_rank(search):
    settings = [*EXACT, {"rank": None}]
    assert len(search.candidates("random_direction", settings)) == len(search.candidates("rewrite", EXACT))


def test_candidates_of_an_unknown_method_or_with_a_test_image_are_refused(search, splits):
    with pytest.raises(KeyError, match="rewrit'.*rewrite"):
        search.candidates("rewrit")
    leaked = replace(make_exemplar(), image=splits.target_test.images[0])
    with pytest.raises(ValueError, match="'x' and 'target_test' share 1 images"):
        search.candidates("rewrite", exemplars=leaked)


@pytest.mark.parametrize("method", BASELINES)
def test_candidates_of_each_baseline_are_scored_as_all_others(search, method):
    outcomes = search.score(search.candidates(method, layers=["conv2"]))
    assert len(outcomes)
    selection = search.select(outcomes)
    assert not selection.feasible or selection.scores["loss"] >= float(outcomes.loss[outcomes.net > 0].min())


def test_score_of_an_edit_that_diverged_and_is_scaled_by_zero_is_finite(tiny, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, rank=None, steps=2)
    broken = replace(edit, changes={k: replace(c, left=c.left * float("inf")) for k, c in edit.changes.items()})
    assert all(not change.delta().any() for change in (0 * broken).changes.values())


# --- selection under constraints ---


COUNT = 400


@pytest.fixture(scope="module")
def threshold():
    """A classifier whose three logits are 0, red − 1 and green − 1: a bias raises a class above a number of images."""
    head = nn.Linear(3, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]))
        head.bias.copy_(torch.tensor([0.0, -1, -1]))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return Classifier(model, ("zero", "red", "green"), mean=(0, 0, 0), std=(1, 1, 1), size=4)


def _check(threshold, retained=0):
    """Make a constraint check of 400 clean images, all correct, and of some retained images."""

    def cached(channel, count):
        images = torch.zeros(count, 3, 4, 4)
        images[:, channel] = ((torch.arange(count) + 0.5) / count)[:, None, None]
        data = LabelledImages(images, torch.zeros(count).long(), threshold.classes)
        return CachedActivations(cut_all(threshold, ["2"]), data)

    return ConstraintCheck(cached(0, COUNT), cached(1, retained) if retained else None)


def _breaking(threshold, clean=0, retained=0.0):
    """Make an edit that breaks so many of the clean images, and this share of the retained images."""
    bias = torch.tensor([0.0, clean / COUNT, retained])
    return Edit({"2.bias": Change(bias)}, fingerprint(threshold.model))


def _outcomes(edits, losses, net=None, **params):
    """Make outcomes of candidates on ten images, all of which are misclassified without an edit."""
    net = [1] * len(edits) if net is None else net
    outcomes = []
    for number, edit in enumerate(edits):
        named = {"layer": "conv1", **{name: values[number] for name, values in params.items()}}
        wrong = torch.arange(10) >= net[number]
        outcomes.append(Outcome(Candidate(named, edit), torch.full((10,), float(losses[number])), wrong))
    return Outcomes.of(outcomes, torch.ones(10, dtype=torch.bool))


def test_select_best_takes_the_lowest_loss_with_a_net_gain_under_the_constraints(threshold):
    losses = [0.9, 1.0, 1.1, 1.2, 0.1]
    net = [4, 5, 4, 1, 0]

    def selected(check, constraints=Constraints(), **broken):  # noqa: B008
        edits = [_breaking(threshold, **broken.get(name, {})) for name in "abcde"]
        selection = select_best(_outcomes(edits, losses, net), check, constraints)
        return "abcde"[edits.index(selection.edit)], selection

    check = _check(threshold)
    name, selection = selected(check, a={"clean": 2}, b={"clean": 1})
    assert name == "b" and selection.accuracy_change == -0.25 and selection.n_candidates == 5
    assert selected(check, Constraints(max_accuracy_drop=0.5), a={"clean": 2})[0] == "a"
    assert selected(check, a={"clean": 4}, b={"clean": 4}, c={"clean": 4})[0] == "d"
    with_retained = _check(threshold, retained=157)  # one may break
    assert selected(with_retained, a={"retained": 2 / 157}, b={"retained": 1 / 157})[0] == "b"


def test_select_best_without_a_feasible_candidate_changes_nothing(threshold):
    check = _check(threshold)
    selection = select_best(_outcomes([_breaking(threshold, 3)], [1.0], [0]), check, Constraints())
    assert not selection.feasible
    assert selection.accuracy_change == 0
    assert str(selection) == "nothing"
    assert torch.equal(check.clean.logits(selection.edit), check.clean.logits())


def test_select_best_without_candidates_is_refused(threshold):
    with pytest.raises(ValueError, match="No candidates"):
        select_best(_outcomes([], []), _check(threshold), Constraints())


def test_selection_names_its_parameters_and_those_on_the_boundary(threshold):
    tried = {"rate": [0.1, 0.2, 0.3], "rank": [2, 1, 3], "locality": [0.0, 1.0, 9.0], "strength": [1.0, 1.0, 0.5]}
    outcomes = _outcomes([_breaking(threshold)] * 3, [1.0, 2.0, 3.0], layer=["x", "y", "z"], **tried)
    selection = select_best(outcomes, _check(threshold), Constraints())
    assert selection.on_boundary == ("rate", "strength")  # not rank 2, nor locality 0, below which there is nothing
    assert str(selection) == "x, rate 0.1, rank 2, locality 0, α 1 (boundary of the grid: rate, strength)"
    assert not replace(selection, params={"rank": 1}).on_boundary
    assert replace(selection, params={"rank": 3}).on_boundary == ("rank",)
    params = {"layer": "x", "exemplar": "car", "direction": "leace", "ridge": 0.1, "masked": True}
    assert str(replace(selection, params=params)) == "x, car, leace, ridge 0.1, mask"


@pytest.mark.parametrize(
    ("best", "words"), [(None, "conv1, full rank"), (3, "conv1, rank 3 (boundary of the grid: rank)")]
)
def test_selection_of_full_rank_keeps_none_among_numbers(threshold, best, words):
    ranks = [1, 2, 3, None]
    losses = [2.0 - (rank == best) for rank in ranks]
    outcomes = _outcomes([_breaking(threshold)] * 4, losses, rank=ranks)
    selection = select_best(outcomes, _check(threshold), Constraints())
    assert selection.params == {"layer": "conv1", "rank": best}
    assert selection.results["rank"].tolist() == ranks
    assert str(selection) == words


@pytest.mark.parametrize(("images", "allowed"), [(1, 0), (99, 0), (157, 1), (300, 3)])
def test_may_break_is_what_the_exact_limit_allows(images, allowed):
    assert Constraints().may_break(images) == allowed


@pytest.mark.parametrize("images", [150, 300, 1000])
def test_may_break_keeps_its_confidence(images):
    """If 3 in 100 broke, so few would be seen in less than one case of twenty."""
    from scipy.stats import binom

    count = Constraints().may_break(images)
    assert binom.cdf(count, images, 0.03) <= 0.05 < binom.cdf(count + 1, images, 0.03)


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_constraints_that_are_no_amounts_are_refused(wrong):
    with pytest.raises(ValueError, match="max_accuracy_drop"):
        Constraints(max_accuracy_drop=wrong)
    with pytest.raises(ValueError, match="max_retain_broken"):
        Constraints(max_retain_broken=wrong)


# --- cross-validation ---

FOLDS = torch.tensor([0, 0, 1, 1])
RIGHT, WRONG = (2.0, 0.0), (0.0, 2.0)  # logits of an image of class 0


def _crossed(check, *logits_of_each, edits=None):
    """Cross-validate candidates on four images of class 0; each candidate gives them its own logits."""
    labels = torch.zeros(4, dtype=torch.long)
    before = torch.ones(4, dtype=torch.bool)
    outcomes = []
    for number, logits in enumerate(map(torch.tensor, logits_of_each)):
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        edit = _breaking(check.clean.cuts["2"].classifier) if edits is None else edits[number]
        outcomes.append(Outcome(Candidate({"candidate": number}, edit), losses, misclassified(logits, labels)))
    all_outcomes = Outcomes.of(outcomes, before)
    return cross_validate(lambda some: select_best(all_outcomes, check, Constraints(), some), before, FOLDS)


def test_cross_validate_evaluates_each_fold_with_the_edit_selected_on_the_others(threshold):
    """By hand: without fold 0 only the second edit helps, without fold 1 the first; each fails on its own fold."""
    crossed = _crossed(_check(threshold), (RIGHT, RIGHT, WRONG, WRONG), (WRONG, WRONG, RIGHT, (1.0, 0.0)))
    assert [fold.params["candidate"] for fold in crossed.folds] == [1, 0]
    assert [fold.scores["corrected"] for fold in crossed.folds] == [2, 2]
    assert crossed.params["candidate"] == 0
    assert crossed.held_out.after.tolist() == [True] * 4
    assert crossed.held_out.corrected == 0 and crossed.n_candidates == 2
    loss = float(torch.log1p(torch.exp(torch.tensor([-2.0, -1.0]))).mean())
    assert crossed.folds[0].scores["loss"] == pytest.approx(loss)


def test_cross_validate_leaves_a_fold_without_a_feasible_candidate_as_it_was(threshold):
    check = _check(threshold)
    crossed = _crossed(check, (WRONG, RIGHT, WRONG, WRONG))
    assert [fold.feasible for fold in crossed.folds] == [False, True]
    assert crossed.held_out.corrected == 0
    assert _crossed(check, (WRONG, RIGHT, RIGHT, WRONG)).held_out.after.tolist() == [True, False, False, True]


@pytest.mark.parametrize("broken", [{"clean": 10}, {"retained": 1 / 9}])
def test_cross_validate_selects_no_edit_that_violates_a_constraint(threshold, broken):
    edits = [_breaking(threshold), _breaking(threshold, **broken)]
    crossed = _crossed(_check(threshold, retained=9), [(1.0, 0.0)] * 4, [RIGHT] * 4, edits=edits)
    assert {fold.edit for fold in crossed.folds} == {edits[0]} and crossed.edit is edits[0]
    assert crossed.held_out.corrected == 4


def test_stratified_folds_are_of_equal_size_and_hold_every_class():
    labels = torch.tensor([0] * 12 + [1] * 5 + [2] * 3)[torch.randperm(20, generator=torch.Generator().manual_seed(4))]
    folds = stratified_folds(labels)
    assert folds.bincount().tolist() == [4] * 5
    assert torch.equal(folds, stratified_folds(labels))
    for label, most in ((0, 3), (1, 2), (2, 1)):
        assert folds[labels == label].bincount().max() <= most
    assert sorted(stratified_folds(labels[:2]).tolist()) == [0, 1]


@pytest.mark.parametrize("cv", [4, torch.arange(20) % 4])
def test_select_with_cv_holds_each_fold_out(tiny, exemplar, splits, cv):
    labels = (predict(tiny, splits.target).argmax(1) + 1) % 5
    all_wrong = replace(splits, target=replace(splits.target, labels=labels))
    search = EditSearch(tiny, exemplar, all_wrong, ["conv1"])
    biases = [Edit({"head.bias": Change(1000 * torch.eye(5)[label])}, fingerprint(tiny.model)) for label in range(5)]
    outcomes = search.score([Candidate({"label": label}, edit) for label, edit in enumerate(biases)])
    free = Constraints(100.0, 100.0)
    selection = search.select(outcomes, cv, free)
    assert selection.feasible and len(selection.folds) == 4
    assert len(selection.held_out.before) == 20 and selection.held_out.before.all()
    alone = search.select(outcomes, constraints=free)
    assert alone.edit is selection.edit and alone.held_out is None


# --- the search ---


def test_select_takes_the_first_by_loss_that_satisfies_the_constraints(search):
    for method in ("rewrite", "random_direction", "projection"):
        selection = search.select(search.candidates(method))
        outcomes = selection.outcomes
        helping = [outcomes.candidates[index] for index in outcomes.by_loss if outcomes.net[index] > 0]
        clean = search.activations["clean"]
        changes = ((one, clean.compare(one.edit, one.strength).accuracy_change) for one in helping)
        first = next((one for one, change in changes if change >= -0.25), None)
        assert selection.feasible == (first is not None)
        assert first is None or selection.edit is first.scaled
        assert selection.seconds > 0 and selection.n_candidates == len(selection.results)


def test_select_under_other_constraints_than_those_of_the_search(search):
    outcomes = search.score(search.candidates("rewrite", EXACT))
    free = search.select(outcomes, constraints=Constraints(100.0, 100.0))
    helping = outcomes.loss[outcomes.net > 0]
    assert free.feasible == bool(len(helping))
    assert not free.feasible or free.scores["loss"] == float(helping.min())


def test_evaluate_agrees_with_the_comparisons(tiny, photos32, splits, exemplar):
    search = EditSearch(tiny, exemplar, splits, LAYERS)
    edit = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    row = search.evaluate({"edit": edit}).loc["edit"]
    test = search.activations["target_test"].compare(edit)
    assert row["errors after"] == int(test.after.sum())
    assert row["p"] == test.row()["p"]
    assert row["clean change"] == search.activations["clean"].compare(edit).accuracy_change
    assert row.notna().all()
    without_test = EditSearch(tiny, exemplar, replace(splits, target_test=None), LAYERS)
    assert "errors after" not in without_test.evaluate({"edit": edit})


def test_search_with_activations_of_another(tiny, search, splits, photos32):
    test = replace(splits.target_test, images=photos32.flip(2)[30:])
    others = {"two": make_exemplar(8)}, replace(splits, target_test=test), ["conv1", "conv2"]
    second = EditSearch(tiny, *others, activations=search.activations)
    assert second.activations["clean"] is search.activations["clean"]
    assert second.activations["target_test"] is not search.activations["target_test"]
    assert all(second.cuts[layer] is cut for layer, cut in search.cuts.items())
    fresh = EditSearch(tiny, *others)
    alone, together = (one.select(one.candidates("rewrite", EXACT)) for one in (fresh, second))
    assert str(alone) == str(together) and alone.results.loss.equals(together.results.loss)
    assert torch.equal(fresh.activations["target_test"].original, second.activations["target_test"].original)
    with pytest.raises(ValueError, match="'conv1'"):
        EditSearch(tiny, others[0], splits, ["conv1"], activations=search.activations)


def test_search_does_not_depend_on_edits_that_are_applied_meanwhile(tiny, search, splits, exemplar):
    expected = search.select(search.candidates("rewrite", EXACT))
    second = EditSearch(tiny, {"one": exemplar}, splits, ["conv1", "conv2"])
    shift = Edit({"stem.weight": Change(torch.ones(8, 3, 3, 3))}, fingerprint(tiny.model))
    with shift.applied(tiny):
        selection = second.select(second.candidates("rewrite", EXACT))
        table = second.evaluate({"edit": selection.edit})
    assert selection.edit.digest == expected.edit.digest
    assert table.equals(search.evaluate({"edit": expected.edit}))


def test_by_strength_follows_each_edit_along_its_strength(search, tiny, photos32, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    table = search.by_strength({"edit": edit, "back": -edit}, (0, 1, 20), retain="clean")
    assert list(table.method) == ["edit"] * 3 + ["back"] * 3
    assert list(table.strength) == [0, 1, 20] * 2
    assert (table[table.strength == 0][["errors corrected", "broken"]] == 0).all(axis=None)
    assert table["broken"][2] == search.activations["clean"].compare(edit, 20).broken / 10


def test_cache_activations_with_early_stopping_uses_small_batches(tiny, sets):
    cached = cache_activations(cut_all(tiny, ["conv1"]), sets, early_stopping=("clean",))
    edit = Edit({"head.bias": Change(torch.ones(5))}, fingerprint(tiny.model))
    for name, counts in {"target": [20], "clean": [8, 16, 20]}.items():
        seen = []
        cached[name].compare(edit, stop=lambda _, after, seen=seen: seen.append(len(after)))
        assert seen == counts


# --- two passes ---


@pytest.fixture
def curable(tiny, exemplar, splits):
    """Splits whose target images have the labels that an edit gives them, so that it corrects some and breaks none."""
    with torch.no_grad():
        tiny.model.head.bias -= predict(tiny, splits.target).mean(0)  # so that predictions differ
    edit = 4 * rewrite(tiny, "conv1", exemplar, splits.reference, rank=2, reference_weight=0.0)
    before, labels = (predict(classifier, splits.target).argmax(1) for classifier in (tiny, edit.edited(tiny)))
    assert (labels != before).sum() >= 3
    return replace(splits, target=replace(splits.target, labels=labels))


@pytest.fixture
def two_go_on(monkeypatch):
    """Let two layers go on to the second pass."""
    monkeypatch.setattr("edittools.selection.search.LAYERS_THAT_GO_ON", 2)
    monkeypatch.setattr("edittools.selection.search.FEW_CANDIDATES", 0)


WHOLE_GRID = grid(rank=(1, 2), objective=("least_squares",), reference_weight=(0.0, 100.0))


def test_first_pass_is_the_default_edit_in_each_layer(tiny, exemplar, splits, two_go_on):
    search = EditSearch(tiny, {"one": exemplar, "two": make_exemplar(8)}, splits, LAYERS)
    first = search.first_pass(search.candidates("rewrite", WHOLE_GRID, (0.5, 1.0)))
    assert len(first) == 3 * 2
    for index, candidate in enumerate(first.candidates):
        members = search.exemplars[candidate.params["exemplar"]]
        expected = rewrite(tiny, candidate.params["layer"], members, splits.reference)
        assert candidate.edit.digest == expected.digest and candidate.strength == 1
        compared = search.activations["target"].compare(expected)
        assert torch.equal(first.wrong[index], compared.after)
        labels = splits.target.labels
        losses = torch.nn.functional.cross_entropy(
            predict(expected.edited(tiny), splits.target), labels, reduction="none"
        )
        torch.testing.assert_close(first.losses[index], losses, rtol=1e-4, atol=1e-5)


def test_first_pass_in_small_groups_of_images_is_that_of_all_at_once(tiny, exemplar, splits, two_go_on, monkeypatch):
    at_once, in_groups = [], []
    for found, memory in ((at_once, ""), (in_groups, "0.000001")):
        monkeypatch.setenv("EDITTOOLS_MEMORY", memory)
        search = EditSearch(tiny, exemplar, splits, LAYERS)
        found.append(search.first_pass(search.candidates("rewrite", WHOLE_GRID)))
    torch.testing.assert_close(at_once[0].losses, in_groups[0].losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(at_once[0].wrong, in_groups[0].wrong)


@pytest.mark.parametrize(
    ("settings", "strengths", "expected"),
    [
        (grid(rank=(1, 3), masked=(False,)), (0.5, 1.0, 1.5), ([{"masked": False}], 1.0)),
        (grid(rank=(1, None), masked=(False,)), (1.0,), ([{"masked": False}, {"masked": False, "rank": None}], 1.0)),
        (grid(rank=(None,), reference_weight=(1.0, 10.0)), (1.0,), ([{"rank": None}], 1.0)),
        (grid(seed=(3,), rank=(1, 2)), (0.5, 0.7, 0.9), ([{"seed": 3}], 0.7)),
        (grid(steps=((20, 100),), rate=(0.1, 0.2)), (1.0,), ([{"steps": 20}], 1.0)),
        (grid(rank=(2,), reference_weight=(0.0,)), (0.5,), ([{"rank": 2, "reference_weight": 0.0}], 0.5)),
    ],
)
def test_coarse_candidates_keep_what_the_whole_grid_shares(search, settings, strengths, expected):
    candidates = search.candidates("rewrite", settings, strengths).coarse()
    assert (list(candidates.settings), list(candidates.strengths)) == (expected[0], [expected[1]])


def test_whole_grid_is_tried_in_the_best_layers(tiny, exemplar, splits, two_go_on):
    search = EditSearch(tiny, exemplar, splits, LAYERS)
    candidates = search.candidates("rewrite", WHOLE_GRID)
    first = search.first_pass(candidates)
    selection = search.select(candidates)
    in_order = [first.candidates[index] for index in first.by_loss]
    helpful = [first.candidates[index] for index in first.by_loss if first.net[index] > 0]
    lowest = in_order[0].params["layer"]
    feasible = [one.params["layer"] for one in helpful if search.is_feasible(one.edit, one.strength)]
    others = [layer for layer in (*feasible, *(one.params["layer"] for one in in_order)) if layer != lowest]
    best = {lowest, others[0]}
    assert set(selection.going_on) == best
    assert selection.n_candidates == len(selection.results) == 2 * len(WHOLE_GRID) * 2 + len(LAYERS)
    counts = selection.results["layer"].value_counts()
    assert {layer for layer in LAYERS if counts[layer] > 1} == best
    table = selection.layers
    assert list(table.layer) == LAYERS
    assert set(table[table["goes on"]].layer) == best
    assert table.loss.min() == pytest.approx(float(first.loss.min()))
    alone = EditSearch(tiny, exemplar, splits, [layer for layer in LAYERS if layer in best])
    same = alone.select(alone.candidates("rewrite", WHOLE_GRID))
    torch.testing.assert_close(selection.outcomes.losses[: len(same.outcomes)], same.outcomes.losses)
    assert same.layers.empty and not same.going_on


def candidate_with(layer, losses):
    """Make an outcome of a candidate in a layer that corrects all images; an edit is the name of its layer here."""
    return Outcome(Candidate({"layer": layer}, layer), torch.tensor(losses), torch.zeros(2, dtype=torch.bool))


def test_half_of_the_layers_that_go_on_satisfy_the_constraints(search, monkeypatch):
    monkeypatch.setattr("edittools.selection.search.LAYERS_THAT_GO_ON", 4)
    monkeypatch.setattr(search, "is_feasible", lambda edit, strength: edit in "ef")
    losses = {"a": [0.1, 0.9], "b": [0.2, 0.8], "c": [0.3, 0.7], "d": [0.4, 0.6], "e": [0.5, 0.5], "f": [0.6, 0.3]}
    first = Outcomes.of([candidate_with(*item) for item in losses.items()], torch.ones(2, dtype=torch.bool))
    assert search.best_layers(first, torch.tensor([True, False])) == ["a", "b", "e", "f"]
    assert search.best_layers(first, torch.tensor([False, True])) == ["f", "e", "d", "c"]


def test_select_finetuning_selects_in_the_layers_that_went_on(tiny, exemplar, curable, two_go_on, monkeypatch):
    """Let only the layer that is worst by loss satisfy the constraints, so that it goes on for that reason alone."""
    goal = (int(predict(tiny, curable.target).argmax(1)[0]) + 1) % 5
    target = replace(curable.target, labels=torch.full_like(curable.target.labels, goal))
    search = EditSearch(tiny, replace(exemplar, label=goal), replace(curable, target=target), LAYERS)
    first = search.first_pass(search.candidates("finetune", grid(scope=("local",), rate=(1.0,), steps=((2,),))))
    helpful = [index for index in first.by_loss if first.net[index] > 0]
    last = first.candidates[helpful[-1]].params["layer"]
    assert last != first.candidates[first.by_loss[0]].params["layer"]
    monkeypatch.setattr(search, "is_feasible", lambda edit, strength=1.0: f"{last}.weight" in edit.changes)
    rounds = FinetuningRounds(rates=(1.0,), momenta=(0.0,), steps=(2,), localities=(5.0,), top=1)
    selection = select_finetuning(search, "local", rounds)
    assert last in selection.going_on
    assert ((selection.results.layer == last) & (selection.results.locality > 0)).any()


def test_few_candidates_are_tried_in_all_layers(tiny, exemplar, splits, monkeypatch):
    monkeypatch.setattr("edittools.selection.search.LAYERS_THAT_GO_ON", 1)
    search = EditSearch(tiny, exemplar, splits, LAYERS)
    selection = search.select(search.candidates("rewrite", WHOLE_GRID))
    assert len(selection.results) == selection.n_candidates == len(LAYERS) * len(WHOLE_GRID) * 2
    assert selection.layers.empty


@pytest.mark.parametrize("method", ["rewrite", "projection", "random_direction", "finetune"])
def test_selection_without_a_fold_does_not_depend_on_its_images(tiny, photos32, exemplar, curable, method, monkeypatch):
    monkeypatch.setattr("edittools.selection.search.LAYERS_THAT_GO_ON", 1)
    monkeypatch.setattr("edittools.selection.search.FEW_CANDIDATES", 0)
    settings = {"finetune": grid(rate=(0.1, 1.0)), "projection": None}.get(method, grid(rank=(1, 2)))
    target = curable.target
    folds = torch.arange(20) % 4
    in_fold = (folds == 2)[:, None, None, None]
    others = replace(target, images=torch.where(in_fold, photos32[20:].flip(2), target.images))
    found = []
    for data in (target, others):
        search = EditSearch(tiny, exemplar, replace(curable, target=data), LAYERS)
        candidates = search.candidates(method, settings, (1.0, 4.0))
        found.append(search.select(candidates, cv=folds, constraints=Constraints(100, 100)))
    first, second = (selection.folds[2] for selection in found)
    assert first.params == second.params and first.edit.digest == second.edit.digest
    assert str(first.scores) == str(second.scores) and first.n_candidates == second.n_candidates
    assert first.layers.equals(second.layers) and first.results.equals(second.results)
    assert not found[0].layers.equals(found[1].layers)


# --- the trade-off ---


def test_trade_off_has_the_candidates_that_no_other_one_beats(tiny, exemplar, curable):
    search = EditSearch(tiny, exemplar, replace(curable, retain=curable.target_test, target_test=None), LAYERS)
    outcomes = search.score(search.candidates("rewrite", WHOLE_GRID, (0.5, 1.0, 4.0)))
    table = search.trade_off(outcomes, most=1000)
    assert len(table)
    rows = set()
    for index, candidate in enumerate(outcomes.candidates):
        if outcomes.net[index] > 0:
            clean = search.activations["clean"].compare(candidate.edit, candidate.strength)
            retain = search.activations["retain"].compare(candidate.edit, candidate.strength)
            rows.add((int(outcomes.net[index]), clean.accuracy_change, -retain.broken))

    def is_beaten(row):
        return any(other != row and all(a >= b for a, b in zip(other, row, strict=True)) for other in rows)

    shown = zip(table.corrected - table.broken, table["accuracy change"], -table["retained broken"], strict=True)
    assert set(shown) == {row for row in rows if not is_beaten(row)}
    allowed = search.constraints.may_break(10)
    is_feasible = (table["accuracy change"] >= -0.25) & (table["retained broken"] <= allowed)
    assert list(table.feasible) == list(is_feasible)


def test_trade_off_without_a_net_gain_is_empty(tiny, exemplar, splits):
    labels = predict(tiny, splits.target).argmax(1)
    search = EditSearch(tiny, exemplar, replace(splits, target=replace(splits.target, labels=labels)), LAYERS)
    assert search.trade_off(search.score(search.candidates("rewrite", EXACT))).empty


# --- splits ---


def _disjoint(count=13):
    """Splits of two images each, and exemplars; each image is of another brightness."""
    pairs = iter(torch.linspace(0, 1, 2 * count)[:, None, None, None].expand(-1, 3, 8, 8).split(2))

    def labeled():
        return LabelledImages(next(pairs), torch.zeros(2).long(), ["a", "b"])

    names = ("target", "clean", "retain", "target_test", "clean_test", "retain_test", "same_class_test")
    exemplars = [Exemplar(*next(pairs), torch.ones(8, 8)), Exemplar(*next(pairs), torch.ones(8, 8))]
    sets = {name: labeled() for name in names}
    return Splits(reference=labeled().images, extra={"bare": labeled()}, **sets), exemplars


def _with_first_of(splits, name, image):
    data = splits.labeled[name]
    changed = replace(data, images=torch.cat([image[None], data.images[1:]]))
    return replace(splits, extra={"bare": changed}) if name == "bare" else replace(splits, **{name: changed})


SOLVED = {
    "reference": lambda splits, exemplars: splits.reference[1],
    "x": lambda splits, exemplars: exemplars[0].image,
    "x'": lambda splits, exemplars: exemplars[1].changed,
}
SELECTING = ("target", "clean", "retain")
EVALUATING = ("target_test", "clean_test", "retain_test", "same_class_test", "bare")


def test_splits_that_share_an_image_are_refused():
    splits, exemplars = _disjoint()
    splits.check_disjoint(exemplars)
    for one, other in product([*SOLVED, *SELECTING], [*SELECTING, *EVALUATING]):
        if one == other or (one, other) == ("x", "target"):
            continue
        image = SOLVED[one](splits, exemplars) if one in SOLVED else splits.labeled[one].images[1]
        shared = _with_first_of(splits, other, image)
        with pytest.raises(ValueError, match="share 1 images") as caught:
            shared.check_disjoint(exemplars)
        assert repr(one) in str(caught.value) and repr(other) in str(caught.value)


def test_splits_may_have_x_among_the_target_images():
    splits, exemplars = _disjoint()
    _with_first_of(splits, "target", exemplars[0].image).check_disjoint(exemplars)


def test_search_with_clean_images_among_the_reference_images_is_refused(tiny, exemplar, splits):
    with pytest.raises(ValueError, match="'reference' and 'clean' share 10 images"):
        EditSearch(tiny, exemplar, replace(splits, reference=splits.clean), ["conv1"])


def test_extra_split_with_the_name_of_another_is_refused(splits):
    with pytest.raises(ValueError, match="'clean_test'"):
        replace(splits, extra={"clean_test": splits.clean})


def test_check_disjoint_of_sets_compares_all_pairs(photos32):
    sets = {"a": photos32[:3], "b": photos32[3:6], "c": photos32[5:8]}
    with pytest.raises(ValueError, match="'b' and 'c' share 1 images"):
        check_disjoint(sets)
    check_disjoint(sets, [("a", "b"), ("a", "c")])


def test_check_disjoint_names_at_most_three_shared_images(photos32):
    names = tuple(f"photo {number}.jpg" for number in range(10))
    named = LabelledImages(photos32[:10], torch.zeros(10).long(), ["a"], names)
    with pytest.raises(ValueError, match=r"share 2 images \('photo 3.jpg', 'photo 4.jpg'\)"):
        check_disjoint({"one": named, "other": photos32[[3, 20, 4]]})
    with pytest.raises(ValueError, match=r"share 10 images \('photo 0.jpg', 'photo 1.jpg', 'photo 2.jpg', …\)"):
        check_disjoint({"one": photos32, "other": named})


def test_splits_that_share_a_named_image_name_it(splits):
    named = replace(splits.clean, names=tuple(f"{number}.jpg" for number in range(10)))
    with pytest.raises(ValueError, match=r"'0\.jpg'"):
        replace(splits, reference=splits.clean.images, clean=named).check_disjoint()


def test_thumbnails_of_a_tensor_are_made_again_only_if_it_has_changed(photos32):
    images = photos32.clone()
    labeled = LabelledImages(images, torch.zeros(40).long(), ["a"])
    first = thumbnails(images)
    assert thumbnails(labeled) is first
    images[0] = 1 - images[0]
    changed = thumbnails(labeled)
    assert torch.equal(changed, thumbnails(images.clone()))
    assert not torch.equal(changed[0], first[0]) and torch.equal(changed[1:], first[1:])


def test_thumbnails_of_a_tensor_made_in_inference_mode(photos32):
    with torch.inference_mode():
        images = photos32.clone()
    assert torch.equal(thumbnails(images), thumbnails(photos32))


def test_label_by_prediction_replaces_labels_and_keeps_names(tiny, photos32):
    expected = predict(tiny, photos32).argmax(1)
    assert torch.equal(label_by_prediction(photos32, tiny).labels, expected)
    names = tuple(str(i) for i in range(40))
    labeled = LabelledImages(photos32, torch.zeros(40).long(), ["other"], names)
    again = label_by_prediction(labeled, tiny)
    assert torch.equal(again.labels, expected)
    assert again.names == names and again.classes == tiny.classes


@pytest.mark.parametrize("count", [1, 2, 5, 160])
@pytest.mark.parametrize("test_share", [0, 0.25])
def test_split_clean_gives_a_quarter_to_the_reference_and_no_image_twice(count, test_share):
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(-1, 3, 4, 4)
    for labels in (torch.arange(count) % 4, torch.zeros(count).long()):
        parts = split_clean(LabelledImages(images, labels, list("abcd")), test_share)
        sizes = [len(part) for part in parts]
        assert sum(sizes) == count and sizes[0] >= 1
        shares = (0.25, 0.75 - test_share, test_share)
        assert count < 3 or all(abs(size - share * count) <= 1 for size, share in zip(sizes, shares, strict=True))
        values = torch.cat([part.images[:, 0, 0, 0] for part in parts])
        assert torch.equal(values.sort().values, images[:, 0, 0, 0])


@pytest.mark.parametrize(("limit", "images", "allowed"), [(99.9, 10, 9), (100.0, 10, 10), (3.0, 0, 0)])
def test_may_break_with_other_limits(limit, images, allowed):
    assert Constraints(max_retain_broken=limit).may_break(images) == allowed


@pytest.mark.parametrize(("limit", "needed"), [(3.0, 99), (1.0, 299), (100.0, 0), (0.0, 0)])
def test_retained_images_needed(limit, needed):
    assert Constraints(max_retain_broken=limit).retained_images_needed == needed


def test_selection_on_boundary_leaves_out_booleans_and_rank_1_of_a_second_layer(threshold):
    tried = {"masked": [True, False, True], "second masked": [True, False, True], "second rank": [1, 3, 3]}
    outcomes = _outcomes([_breaking(threshold)] * 3, [1.0, 2.0, 3.0], **tried)
    assert not select_best(outcomes, _check(threshold), Constraints()).on_boundary
