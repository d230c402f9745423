"""How an edit is selected: splits, candidates, constraints, cross-validation, and the search over all of them."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import make_exemplar

from edittools.baselines import BASELINES, rewrite_at_random
from edittools.classifiers import fingerprint
from edittools.cut import cut_all
from edittools.edits import Change, Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.moments import measure
from edittools.rewriting import rewrite
from edittools.selection.activations import CachedActivations, cache_activations
from edittools.selection.constraints import ConstraintCheck, Constraints
from edittools.selection.search import (
    Candidates,
    EditSearch,
    candidate_layers,
    cross_validate,
    grid,
    later_layers,
    select_best,
    stratified_folds,
    tabulate,
)
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean

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


def test_score_has_one_row_per_candidate_with_what_it_changes(tiny, photos32, sets, exemplar):
    both = {"one": exemplar, "two": [exemplar, make_exemplar(8)]}
    splits = Splits(reference=1 - photos32, **sets)
    search = EditSearch(tiny, both, splits, LAYERS)
    settings = grid(rank=(1, 2), masked=(True, False), objective=("least_squares",))
    candidates = search.candidates("rewrite", settings)
    table = search.score(candidates)
    assert len(table) == len(candidates) == 3 * 2 * 4 * 2
    row = table.iloc[17]
    target = search.activations["target"]
    compared = target.compare(row.edit)
    assert (row.corrected, row.broken) == (compared.corrected, compared.broken)
    assert row.net == compared.corrected - compared.broken
    assert torch.equal(row.wrong, compared.after)
    expected_loss = torch.nn.functional.cross_entropy(target.logits(row.edit), sets["target"].labels)
    assert row.loss == pytest.approx(float(expected_loss))


def test_tabulate_of_some_images_is_the_table_of_these_images_alone(tiny, photos32, sets, exemplar):
    search = EditSearch(tiny, exemplar, Splits(reference=1 - photos32, **sets), LAYERS)
    table = search.score(search.candidates("rewrite", EXACT))
    some = torch.arange(20) % 3 > 0
    part = tabulate(table, search.activations["target"].before, some)
    alone = Splits(reference=1 - photos32, target=sets["target"].subset(some), clean=sets["clean"])
    pairs = [({"layer": row.layer}, row.edit) for row in table.itertuples()]
    expected = EditSearch(tiny, exemplar, alone, LAYERS).score(pairs)
    assert part[["corrected", "broken", "net"]].equals(expected[["corrected", "broken", "net"]])
    assert part.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=1e-5)


def test_rewrite_at_random_is_the_same_each_time_and_orthonormal(tiny, photos32, exemplar):
    moment = measure(tiny, ["conv1"], photos32)["conv1"]
    settings = {"rank": 2, "objective": "least_squares"}
    first, second = (rewrite_at_random(tiny, "conv1", exemplar, moment, **settings) for _ in range(2))
    right = first.changes["conv1.weight"].right
    assert torch.equal(right, second.changes["conv1.weight"].right)
    assert torch.allclose(right @ right.T, torch.eye(2), atol=1e-5)


def test_candidates_of_several_settings_equal_edits_made_alone(tiny, photos32, exemplar):
    cuts = cut_all(tiny, ["conv1", "conv2"])
    moments = measure(tiny, ["conv1", "conv2"], photos32)
    settings = grid(rank=(1, 2), objective=("l1", "least_squares"), steps=(3,))
    candidates = list(Candidates(rewrite, cuts, {"one": exemplar}, moments, settings, (1.0,)))
    assert len(candidates) == 8
    alone = rewrite(tiny, "conv2", exemplar, moments["conv2"], **settings[-1])
    _, last = candidates[-1]
    assert torch.allclose(last.changes["conv2.weight"].delta(), alone.changes["conv2.weight"].delta())


def test_candidates_of_a_random_direction_have_no_full_rank(search):
    settings = [*EXACT, {"rank": None}]
    assert len(search.candidates("random_direction", settings)) == len(search.candidates("rewrite", EXACT))


def test_candidates_of_an_unknown_method_or_with_a_test_image_are_refused(search, splits):
    with pytest.raises(KeyError, match="rewrit'.*rewrite"):
        search.candidates("rewrit")
    leaked = replace(make_exemplar(), image=splits.target_test.images[0])
    with pytest.raises(ValueError, match="'x' and 'target_test' .* 1 "):
        search.candidates("rewrite", exemplars=leaked)


@pytest.mark.parametrize("method", BASELINES)
def test_candidates_of_each_baseline_are_scored_as_all_others(search, method):
    table = search.score(search.candidates(method, layers=["conv2"]))
    assert len(table)
    selection = search.select(table)
    assert not selection.feasible or selection.scores["loss"] >= table.loss[table.net > 0].min()


def test_score_of_an_edit_that_diverged_and_is_scaled_by_zero_is_finite(tiny, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, rank=None, steps=2)
    broken = replace(edit, changes={k: replace(c, left=c.left * float("inf")) for k, c in edit.changes.items()})
    assert all(not change.delta().any() for change in (0 * broken).changes.values())


# --- selection under constraints ---


class _Images:
    """Images that are all classified correctly, of which each edit breaks a given number."""

    def __init__(self, broken, count=400):
        self.broken = broken
        self.before = torch.zeros(count, dtype=torch.bool)
        self.applied = ()

    def check_model(self):
        """Nothing changes the model."""

    def compare(self, edit, stop=None, checked=False):
        after = torch.arange(len(self.before)) < self.broken.get(edit, 0)
        return None if stop and stop(after) else Comparison(self.before, after)


def _table(**columns):
    return pd.DataFrame({"layer": "conv1", "net": 1, "corrected": 1, "broken": 0, "wrong": None, **columns})


def _select(table, clean=None, retain=None, constraints=Constraints()):  # noqa: B008
    return select_best(table, ConstraintCheck(_Images(clean or {}), retain), constraints)


def test_select_best_takes_the_lowest_loss_with_a_net_gain_under_the_constraints():
    table = _table(edit=list("abcde"), net=[4, 5, 4, 1, 0], loss=[0.9, 1.0, 1.1, 1.2, 0.1])
    selection = _select(table, {"a": 2, "b": 1})
    assert selection.edit == "b"
    assert selection.accuracy_change == -0.25
    assert selection.n_candidates == 5
    assert _select(table, {"a": 2}, constraints=Constraints(max_accuracy_drop=0.5)).edit == "a"
    assert _select(table, {"a": 4, "b": 4, "c": 4}).edit == "d"
    retain = _Images({"a": 2, "b": 1}, count=157)  # one may break
    assert _select(table, retain=retain).edit == "b"


def test_select_best_without_a_feasible_candidate_changes_nothing(tiny, photos32, sets, exemplar):
    clean = CachedActivations(cut_all(tiny, LAYERS), sets["clean"])
    check = ConstraintCheck(clean)
    table = _table(edit=[rewrite(tiny, "conv1", exemplar, photos32)], net=0, loss=1.0)
    selection = select_best(table, check, Constraints())
    assert not selection.feasible
    assert selection.accuracy_change == 0
    assert str(selection) == "nothing"
    assert torch.equal(clean.logits(selection.edit), clean.logits())


def test_select_best_without_candidates_is_refused(sets, tiny):
    check = ConstraintCheck(CachedActivations(cut_all(tiny, ["conv1"]), sets["clean"]))
    with pytest.raises(ValueError, match="No candidates"):
        select_best(pd.DataFrame(), check, Constraints())


def test_selection_names_its_parameters_and_those_on_the_boundary():
    tried = {"rate": [0.1, 0.2, 0.3], "rank": [2, 1, 3], "locality": [0.0, 1.0, 9.0], "strength": [1.0, 1.0, 0.5]}
    table = _table(edit=list("abc"), loss=[1.0, 2.0, 3.0], layer=["x", "y", "z"], **tried)
    selection = _select(table)
    assert selection.on_boundary == ("rate", "strength")  # not rank 2, nor locality 0, below which there is nothing
    assert str(selection) == "x, rate 0.1, rank 2, locality 0, α 1 (boundary of the grid: rate, strength)"
    assert not replace(selection, params={"rank": 1}).on_boundary
    assert replace(selection, params={"rank": 3}).on_boundary == ("rank",)
    params = {"layer": "x", "exemplar": "car", "direction": "leace", "ridge": 0.1, "masked": True}
    assert str(replace(selection, params=params)) == "x, car, leace, ridge 0.1, mask"


@pytest.mark.parametrize(
    ("best", "words"), [(None, "conv1, full rank"), (3, "conv1, rank 3 (boundary of the grid: rank)")]
)
def test_selection_of_full_rank_keeps_none_among_numbers(best, words):
    rows = []
    for rank in (1, 2, 3, None):
        loss = torch.tensor([2.0 - (rank == best)])
        rows.append({"layer": "conv1", "rank": rank, "edit": str(rank), "wrong": torch.zeros(1).bool(), "losses": loss})
    selection = _select(tabulate(rows, torch.ones(1).bool()))
    assert selection.params == {"layer": "conv1", "rank": best}
    assert type(selection.params["rank"]) is type(best)
    assert str(selection) == words


@pytest.mark.parametrize(("images", "allowed"), [(1, 0), (50, 0), (98, 0), (99, 0), (157, 1), (300, 3)])
def test_may_break_is_what_the_exact_limit_allows(images, allowed):
    assert Constraints().may_break(images) == allowed


@pytest.mark.parametrize("images", [150, 300, 1000])
def test_may_break_keeps_its_confidence(images):
    """If 3 in 100 broke, so few would be seen in less than one case of twenty."""
    from scipy.stats import binom

    count = Constraints().may_break(images)
    assert binom.cdf(count, images, 0.03) <= 0.05 < binom.cdf(count + 1, images, 0.03)


def test_describe_says_how_many_images_the_constraints_are():
    assert "1,200 clean images: one is 0.08 points, 3 may be lost" in Constraints().describe(1200)
    few = Constraints().describe(281)
    assert "one is 0.36 points, none may be lost" in few and "fewer than 400" in few
    assert "3 of 300 retained images may break" in Constraints().describe(1200, 300)
    assert "cannot show" in Constraints().describe(1200, 8)


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_constraints_that_are_no_amounts_are_refused(wrong):
    with pytest.raises(ValueError, match="max_accuracy_drop"):
        Constraints(max_accuracy_drop=wrong)
    with pytest.raises(ValueError, match="max_retain_broken"):
        Constraints(max_retain_broken=wrong)


# --- cross-validation ---

FOLDS = torch.tensor([0, 0, 1, 1])
RIGHT, WRONG = (2.0, 0.0), (0.0, 2.0)  # logits of an image of class 0


def _crossed(*edits, clean=None, retain=None):
    """Cross-validate edits, named by their numbers, on four images of class 0; each edit gives them its own logits."""
    labels = torch.zeros(4, dtype=torch.long)
    before = torch.ones(4, dtype=torch.bool)
    rows = []
    for number, logits in enumerate(map(torch.tensor, edits)):
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        rows.append({"candidate": number, "edit": number, "losses": losses, "wrong": misclassified(logits, labels)})
    check = ConstraintCheck(clean or _Images({}), retain)
    return cross_validate(lambda some: select_best(tabulate(rows, before, some), check, Constraints()), before, FOLDS)


def test_cross_validate_evaluates_each_fold_with_the_edit_selected_on_the_others():
    """By hand: without fold 0 only the second edit helps, without fold 1 the first; each fails on its own fold."""
    crossed = _crossed((RIGHT, RIGHT, WRONG, WRONG), (WRONG, WRONG, RIGHT, (1.0, 0.0)))
    assert [fold.params["candidate"] for fold in crossed.folds] == [1, 0]
    assert [fold.scores["corrected"] for fold in crossed.folds] == [2, 2]
    assert crossed.params["candidate"] == 0
    assert crossed.held_out.after.tolist() == [True] * 4
    assert crossed.held_out.corrected == 0 and crossed.n_candidates == 2
    loss = float(torch.log1p(torch.exp(torch.tensor([-2.0, -1.0]))).mean())
    assert crossed.folds[0].scores["loss"] == pytest.approx(loss)


def test_cross_validate_leaves_a_fold_without_a_feasible_candidate_as_it_was():
    crossed = _crossed((WRONG, RIGHT, WRONG, WRONG))
    assert [fold.feasible for fold in crossed.folds] == [False, True]
    assert crossed.held_out.corrected == 0
    assert _crossed((WRONG, RIGHT, RIGHT, WRONG)).held_out.after.tolist() == [True, False, False, True]


def test_cross_validate_selects_no_edit_that_violates_a_constraint():
    feasible, costly = [(1.0, 0.0)] * 4, [RIGHT] * 4
    clean, retain = _Images({1: 10}), _Images({})
    crossed = _crossed(feasible, costly, clean=clean, retain=retain)
    assert {fold.edit for fold in crossed.folds} == {0}
    assert crossed.held_out.corrected == 4
    clean, retain = _Images({}), _Images({1: 1}, count=9)
    assert _crossed(feasible, costly, clean=clean, retain=retain).edit == 0


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
    table = search.score([({"label": label}, edit) for label, edit in enumerate(biases)])
    free = Constraints(100.0, 100.0)
    selection = search.select(table, cv, free)
    assert selection.feasible and len(selection.folds) == 4
    assert len(selection.held_out.before) == 20 and selection.held_out.before.all()
    alone = search.select(table, constraints=free)
    assert alone.edit is selection.edit and alone.held_out is None


# --- the search ---


def test_select_takes_the_first_by_loss_that_satisfies_the_constraints(search):
    for method in ("rewrite", "random_direction", "projection", "closed_form"):
        selection = search.select(search.candidates(method))
        helping = selection.results.query("net > 0").sort_values("loss", kind="stable")
        changes = ((edit, search.activations["clean"].compare(edit).accuracy_change) for edit in helping.edit)
        first = next((edit for edit, change in changes if change >= -0.25), None)
        assert selection.feasible == (first is not None)
        assert first is None or selection.edit is first
        assert selection.seconds > 0 and selection.n_candidates == len(selection.results)


def test_select_under_other_constraints_than_those_of_the_search(search):
    table = search.score(search.candidates("rewrite", EXACT))
    free = search.select(table, constraints=Constraints(100.0, 100.0))
    helping = table[table.net > 0]
    assert free.feasible == bool(len(helping))
    assert not free.feasible or free.scores["loss"] == helping.loss.min()


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


def test_search_with_activations_of_another_uses_them(tiny, search, splits, photos32):
    test = replace(splits.target_test, images=photos32.flip(2)[30:])
    others = {"two": make_exemplar(8)}, replace(splits, target_test=test), ["conv1", "conv2"]
    second = EditSearch(tiny, *others, activations=search.activations)
    assert second.activations["clean"] is search.activations["clean"]
    assert all(second.cuts[layer] is cut for layer, cut in search.cuts.items())
    fresh = EditSearch(tiny, *others)
    alone, together = (one.select(one.candidates("rewrite", EXACT)) for one in (fresh, second))
    assert str(alone) == str(together) and alone.results.loss.equals(together.results.loss)
    assert torch.equal(fresh.activations["target_test"].original, second.activations["target_test"].original)
    with pytest.raises(ValueError, match="'conv1'"):
        EditSearch(tiny, others[0], splits, ["conv1"], activations=search.activations)


def test_reference_keys_of_before_an_edit_or_of_another_layer_are_refused(search, tiny, photos32, exemplar):
    """Some settings need the second moment, some the sample of keys alone, some both."""
    first, last = (rewrite(tiny, layer, exemplar, photos32) for layer in ("conv1", "head"))
    for rank, weight in ((1, 0), (None, 1), (1, 1)):
        setting = {"objective": "least_squares", "rank": rank, "reference_weight": weight}
        candidates = search.candidates("rewrite", [setting], (1.0,), layers=["conv2"])
        with first.applied(tiny), pytest.raises(ValueError, match="'conv2'.*'conv1'"):
            list(candidates)
        with last.applied(tiny):
            assert len(list(candidates)) == 1
        with pytest.raises(ValueError, match="'conv1'.*'head'"):
            rewrite(tiny, "head", exemplar, search.activations.reference.moments["conv1"], **setting)


def test_clean_images_that_are_misclassified_most_easily_come_first(search, splits):
    clean = search.activations["clean"]
    labeled = clean.original[range(10), clean.labels]
    best = clean.original.topk(2).values
    ahead = torch.where(clean.before, labeled - best[:, 0], labeled - best[:, 1])
    assert (ahead.diff() >= 0).all()
    assert not torch.equal(clean.labels, splits.clean.labels)
    assert sorted(clean.labels.tolist()) == sorted(splits.clean.labels.tolist())


def test_trade_off_follows_each_edit_along_its_strength(search, tiny, photos32, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    table = search.trade_off({"edit": edit, "back": -edit}, (0, 1, 20), retain="clean")
    assert list(table.method) == ["edit"] * 3 + ["back"] * 3
    assert list(table.strength) == [0, 1, 20] * 2
    assert (table[table.strength == 0][["errors corrected", "broken"]] == 0).all(axis=None)
    assert table["broken"][2] == search.activations["clean"].compare(20 * edit).broken / 10


def test_cache_activations_with_early_stopping_uses_small_batches(tiny, sets):
    cached = cache_activations(cut_all(tiny, ["conv1"]), sets, early_stopping=("clean",))
    count = {name: len(part.states["conv1"]) for name, part in cached.items()}
    assert count == {"target": 1, "clean": 3}


def test_later_layers_are_the_later_half_evenly_spaced(tiny):
    names = candidate_layers(tiny)
    assert later_layers(tiny) == list(names[len(names) // 2 :])
    assert later_layers(tiny, most=1) == [names[-1]]


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


@pytest.mark.parametrize("other", [*SELECTING, *EVALUATING])
@pytest.mark.parametrize("one", [*SOLVED, *SELECTING])
def test_splits_that_share_an_image_are_refused(one, other):
    splits, exemplars = _disjoint()
    splits.check_disjoint(exemplars)
    if one == other:
        return
    image = SOLVED[one](splits, exemplars) if one in SOLVED else splits.labeled[one].images[1]
    shared = _with_first_of(splits, other, image)
    if (one, other) == ("x", "target"):
        return shared.check_disjoint(exemplars)
    with pytest.raises(ValueError, match=" 1 ") as caught:
        shared.check_disjoint(exemplars)
    assert repr(one) in str(caught.value) and repr(other) in str(caught.value)


def test_search_with_clean_images_among_the_reference_images_is_refused(tiny, exemplar, splits):
    with pytest.raises(ValueError, match="'reference' and 'clean' .* 10 "):
        EditSearch(tiny, exemplar, replace(splits, reference=splits.clean), ["conv1"])


def test_extra_split_with_the_name_of_another_is_refused(splits):
    with pytest.raises(ValueError, match="'clean_test'"):
        replace(splits, extra={"clean_test": splits.clean})


def test_check_disjoint_of_sets_compares_all_pairs(photos32):
    sets = {"a": photos32[:3], "b": photos32[3:6], "c": photos32[5:8]}
    with pytest.raises(ValueError, match="'b' and 'c' .* 1 "):
        check_disjoint(sets)
    check_disjoint(sets, [("a", "b"), ("a", "c")])


def test_check_disjoint_names_at_most_three_shared_images(photos32):
    names = tuple(f"photo {number}.jpg" for number in range(10))
    named = LabelledImages(photos32[:10], torch.zeros(10).long(), ["a"], names)
    with pytest.raises(ValueError, match=r" 2 .*\('photo 3.jpg', 'photo 4.jpg'\)"):
        check_disjoint({"one": named, "other": photos32[[3, 20, 4]]})
    with pytest.raises(ValueError, match=r" 10 .*\('photo 0.jpg', 'photo 1.jpg', 'photo 2.jpg', …\)"):
        check_disjoint({"one": photos32, "other": named})


def test_splits_that_share_a_named_image_name_it(splits):
    named = replace(splits.clean, names=tuple(f"{number}.jpg" for number in range(10)))
    with pytest.raises(ValueError, match=r"'0\.jpg'"):
        replace(splits, reference=splits.clean.images, clean=named).check_disjoint()


def test_label_by_prediction_replaces_labels_and_keeps_names(tiny, photos32):
    expected = predict(tiny, photos32).argmax(1)
    assert torch.equal(label_by_prediction(photos32, tiny).labels, expected)
    names = tuple(str(i) for i in range(40))
    labeled = LabelledImages(photos32, torch.zeros(40).long(), ["other"], names)
    again = label_by_prediction(labeled, tiny)
    assert torch.equal(again.labels, expected)
    assert again.names == names and again.classes == tiny.classes


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 160])
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
