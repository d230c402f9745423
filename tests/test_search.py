"""How an edit is selected: candidates, outcomes, constraints, cross-validation, and the search over all of them."""

from dataclasses import replace

import pytest
import torch
from conftest import bars_that_call, let_layers_go_on, make_exemplar
from torch import nn
from torch.nn.functional import cross_entropy

from edittools.activations import CachedActivations
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import cut_all
from edittools.edits import Change, Edit, Record
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.methods import METHODS, Method, rewrite_at_random
from edittools.metrics import misclassified, predict
from edittools.rewriting import rewrite, rewrite_at
from edittools.selection import Assessment, Constraints, Search, Splits, cache_activations, grid
from edittools.selection import search as search_module
from edittools.selection.constraints import ConstraintCheck
from edittools.selection.outcomes import FIRST, SECOND, SINGLE, Candidate, Outcome, Outcomes
from edittools.selection.search import KEPT_AT_THE_END
from edittools.site import prepare

LAYERS = ["stem", "conv1", "conv2"]
EDIT = METHODS["edit"]
EXACT = EDIT.trying(grid(rank=(1,), objective=("least_squares",)))


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
    return Search(tiny, {"one": exemplar}, splits, ["conv1", "conv2"])


# --- candidates and their scores ---


def test_score_of_each_candidate_is_what_it_changes(tiny, photos32, sets, exemplar):
    both = {"one": exemplar, "two": [exemplar, make_exemplar(8)]}
    splits = Splits(reference=1 - photos32, **sets)
    search = Search(tiny, both, splits, LAYERS)
    settings = grid(rank=(1, 2), masked=(True, False), objective=("least_squares",))
    outcomes = search.score(EDIT.trying(settings))
    assert len(outcomes) == len(search.candidates(EDIT.trying(settings))) == 3 * 2 * 4 * 2
    row = outcomes.table().iloc[16]
    candidate = outcomes.candidates[16]
    target = search.activations["target"]
    compared = target.compare(candidate.edit, candidate.strength)
    assert (row.method, row.layer, row.exemplar, row.strength) == ("edit", "conv1", "one", 0.5)
    assert candidate.strength == 0.5
    assert (row.corrected, row.broken) == (compared.corrected, compared.broken)
    assert row.net == compared.corrected - compared.broken
    assert torch.equal(outcomes.wrong[16], compared.after)
    logits = target.logits(candidate.edit, candidate.strength)
    expected_loss = cross_entropy(logits, sets["target"].labels)
    assert row.loss == pytest.approx(float(expected_loss))


def test_outcomes_on_some_images_are_those_of_these_images_alone(tiny, photos32, sets, exemplar):
    search = Search(tiny, exemplar, Splits(reference=1 - photos32, **sets), LAYERS)
    outcomes = search.score(EXACT)
    some = torch.arange(20) % 3 > 0
    part = outcomes.on_images(some)
    alone = Splits(reference=1 - photos32, target=sets["target"].subset(some), clean=sets["clean"])
    expected = Search(tiny, exemplar, alone, LAYERS).score_candidates(outcomes.candidates)
    assert torch.equal(part.corrected, expected.corrected) and torch.equal(part.broken, expected.broken)
    torch.testing.assert_close(part.loss, expected.loss, rtol=1e-5, atol=0)


def _same_outcomes(one, other):
    assert [candidate.params for candidate in one.candidates] == [candidate.params for candidate in other.candidates]
    digests = [[candidate.edit.digest for candidate in outcomes.candidates] for outcomes in (one, other)]
    assert digests[0] == digests[1]
    assert torch.equal(one.losses, other.losses) and torch.equal(one.wrong, other.wrong)
    assert torch.equal(one.before, other.before)


def test_outcomes_of_several_methods_are_those_of_each_alone(tiny, exemplar, splits, two_go_on):
    methods = [WHOLE, METHODS["projection"], METHODS["random direction"].draw(1), METHODS["last layer"]]
    search = Search(tiny, exemplar, splits, LAYERS)
    outcomes = search.score(methods)
    names = ["edit", "projection", "random direction 2", "last layer"]
    assert outcomes.methods == list(search.methods) == list(outcomes.seconds) == names
    for method in methods:
        alone = Search(tiny, exemplar, splits, LAYERS).score(method)
        of_method = outcomes.of(method.name)
        _same_outcomes(of_method, alone)
        assert of_method.methods == list(of_method.seconds) == [method.name]
    _same_outcomes(outcomes.of("edit", "last layer"), outcomes.of("edit").joined(outcomes.of("last layer")))


def test_bar_of_two_passes_ends_at_its_total(tiny, exemplar, splits, two_go_on, monkeypatch):
    """In the first pass, the 20 images are run in three groups; each candidate counts in each of them."""
    monkeypatch.setattr("edittools.selection.search.batch_size_of_states", lambda classifier: 7)
    counted = []
    bars = bars_that_call(lambda bar: counted.append((bar.n, bar.total)))
    Search(tiny, exemplar, splits, LAYERS, progress=bars).score(WHOLE)
    total = 3 * len(LAYERS) + 2 * len(WHOLE_GRID) * len(WHOLE.strengths)
    assert counted == [(count, total) for count in range(1, total + 1)]


def test_outcomes_of_a_pass_are_those_of_its_candidates(tiny, exemplar, splits, two_go_on):
    outcomes = Search(tiny, exemplar, splits, LAYERS).score([WHOLE, METHODS["last layer"]])
    assert len(outcomes.tried_in(FIRST)) == len(LAYERS)
    assert len(outcomes.tried_in(SECOND)) == 2 * len(WHOLE_GRID) * 2
    assert outcomes.tried_in(SINGLE).methods == ["last layer"]
    assert len(outcomes.tried_in(FIRST, SECOND, SINGLE)) == len(outcomes)
    in_stem = outcomes.where(lambda candidate: candidate.params["layer"] == "stem")
    indices = [index for index, one in enumerate(outcomes.candidates) if one.params["layer"] == "stem"]
    _same_outcomes(in_stem, outcomes.of_candidates(indices))


def test_assessment_of_a_method_that_is_not_the_edit(tiny, exemplar, curable, tmp_path):
    """Nothing is held out, no edit of `rewrite` was scored, and a setting of the method is a tuple."""

    def rewrite_scaled(site, scale=(1.0, 1.0)):
        return [scale[0] * scale[1] * rewrite_at(site, rank=2, reference_weight=0.0)[0]]

    method = Method("scaled", rewrite_scaled, ({"scale": (2.0, 2.0)}, {"scale": (2.0, 1.0)}))
    splits = replace(curable, target_test=None)
    search = Search(tiny, exemplar, splits, ["conv1"], Constraints(100.0, 100.0))
    best = search.select(search.score(method))
    assert best.feasible and "scale (2.0, " in str(best) and "strength" in best.on_boundary
    assessment = Assessment(search, best)
    assert "scaled" in assessment.summary() and "(2.0, " in assessment.report(tmp_path / "report.html").read_text()
    of_finetuning = search.select(search.score_candidates([Candidate({"layer": "conv1"}, best.edit)]))
    assert Assessment(search, of_finetuning).page()


def test_method_of_ones_own_is_scored_as_those_of_the_table(search):
    def shift_bias(site, amount=1.0):
        shift = Change(amount * torch.eye(5)[0])
        return [site.edit({"head.bias": shift}, Record("shift", 1.0, 0.0, 1))]

    outcomes = search.score(Method("shift bias", shift_bias, grid(amount=(1.0, 5.0)), (0.5, 2.0)), layers=["conv2"])
    assert [one.params["amount"] for one in outcomes.candidates] == [1.0, 1.0, 5.0, 5.0]
    assert outcomes.methods == ["shift bias"]
    for index, candidate in enumerate(outcomes.candidates):
        assert torch.equal(outcomes.wrong[index], search.target.compare(candidate.scaled).after)


def test_rewrite_at_random_is_the_same_each_time_and_orthonormal(tiny, photos32, exemplar):
    site = prepare(tiny, "conv1", exemplar, 1 - photos32)
    [first], [second] = (rewrite_at_random(site, rank=2, objective="least_squares") for _ in range(2))
    right = first.changes["conv1.weight"].right
    assert torch.equal(right, second.changes["conv1.weight"].right)
    assert torch.allclose(right @ right.T, torch.eye(2), atol=1e-5)


def test_layers_of_a_search_are_in_the_order_of_the_network(tiny, exemplar, splits):
    search = Search(tiny, exemplar, splits, ["conv2", "stem", "conv2"])
    assert list(search.cuts) == ["stem", "conv2"]


def test_candidates_are_the_edits_of_the_public_function(tiny, search, exemplar, splits):
    settings = grid(rank=(1, 2), objective=("l1", "least_squares"), steps=(3,))
    candidates = list(search.candidates(EDIT.trying(settings, (1.0,))))
    assert len(candidates) == 8
    alone = rewrite(tiny, "conv2", exemplar, splits.reference, **settings[-1])
    delta = candidates[-1].edit.changes["conv2.weight"].delta()
    assert torch.allclose(delta, alone.changes["conv2.weight"].delta())


def test_candidates_of_a_random_direction_have_no_full_rank(search):
    random = METHODS["random direction"].trying([*EXACT.settings, {"rank": None}])
    assert len(search.candidates(random)) == len(search.candidates(EXACT))


def test_candidates_in_an_unknown_layer_or_with_a_test_image_are_refused(search, splits):
    with pytest.raises(KeyError, match="'stem'.*conv1"):
        search.candidates(EDIT, layers=["stem"])
    leaked = replace(make_exemplar(), image=splits.target_test.images[0])
    with pytest.raises(ValueError, match="'x' and 'target_test' share 1 images"):
        search.candidates(EDIT, leaked)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_candidates_of_each_method_are_scored_as_all_others(search, method):
    outcomes = search.score(method, layers=["conv2"])
    assert len(outcomes) == len(method.settings) * len(method.strengths)
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


def _images(channel, count, blue):
    """Make images of all brightnesses of a channel; images of another amount of blue are other images."""
    images = torch.zeros(count, 3, 4, 4)
    images[:, channel] = ((torch.arange(count) + 0.5) / count)[:, None, None]
    images[:, 2] = blue
    return images


def _search(threshold, retained=0, targets=10, own=0, folds=None):
    """Search with 400 clean images, some retained and own-class images, all correct, and wrong target images."""

    def labeled(images, label):
        return LabelledImages(images, torch.full((len(images),), label), threshold.classes)

    splits = Splits(
        reference=_images(0, 10, 0.2),
        target=labeled(_images(0, targets, 0.4), 1),
        clean=labeled(_images(0, COUNT, 0.0), 0),
        retain=labeled(_images(1, retained, 0.6), 0) if retained else None,
        own_class=labeled(_images(1, own, 0.9), 0) if own else None,
        folds=folds or {},
    )
    [image], [changed] = _images(0, 1, 0.8), _images(0, 1, 1.0)
    return Search(threshold, Exemplar(image, changed, torch.ones(4, 4)), splits, ["2"])


def _breaking(threshold, clean=0, green=0.0):
    """Make an edit that breaks the last ones of the clean images, and this share of the retained and own-class images.

    These are the brightest ones.
    """
    bias = torch.tensor([0.0, clean / COUNT, green])
    return Edit({"2.bias": Change(bias)}, fingerprint(threshold.model))


def _outcomes(edits, losses, net=None, **params):
    """Make outcomes of candidates on ten images, all of which are misclassified without an edit."""
    net = [1] * len(edits) if net is None else net
    outcomes = []
    for number, edit in enumerate(edits):
        named = {"layer": "conv1", **{name: values[number] for name, values in params.items()}}
        wrong = torch.arange(10) >= net[number]
        outcomes.append(Outcome(Candidate(named, edit), torch.full((10,), float(losses[number])), wrong))
    return Outcomes.collected(outcomes, torch.ones(10, dtype=torch.bool))


def test_select_takes_the_lowest_loss_with_a_net_gain_under_the_constraints(threshold):
    losses = [0.9, 1.0, 1.1, 1.2, 0.1]
    net = [4, 5, 4, 1, 0]

    def selected(search, constraints=None, **broken):
        edits = [_breaking(threshold, **broken.get(name, {})) for name in "abcde"]
        selection = search.select(_outcomes(edits, losses, net), constraints=constraints)
        return "abcde"[edits.index(selection.edit)], selection

    search = _search(threshold)
    name, selection = selected(search, a={"clean": 2}, b={"clean": 1})
    assert name == "b" and selection.accuracy_change == -0.25 and selection.n_candidates == 5
    assert selected(search, Constraints(max_accuracy_drop=0.5), a={"clean": 2})[0] == "a"
    assert selected(search, a={"clean": 4}, b={"clean": 4}, c={"clean": 4})[0] == "d"
    with_retained = _search(threshold, retained=40)  # one may break
    assert selected(with_retained, a={"green": 2 / 40}, b={"green": 1 / 40})[0] == "b"
    with_own_class = _search(threshold, own=40)  # one may be misclassified
    assert selected(with_own_class, a={"green": 2 / 40}, b={"green": 1 / 40})[0] == "b"
    assert selected(_search(threshold, own=19), a={"green": 1.0})[0] == "a"  # too few to measure
    assert selected(_search(threshold, retained=19), a={"green": 1.0}, b={"green": 1 / 19})[0] == "c"


def test_select_without_a_feasible_candidate_changes_nothing(threshold):
    search = _search(threshold)
    selection = search.select(_outcomes([_breaking(threshold, 3)], [1.0], [0]))
    assert not selection.feasible
    assert selection.accuracy_change == 0
    assert str(selection) == "nothing"
    clean = search.activations["clean"]
    assert torch.equal(clean.logits(selection.edit), clean.original)


def test_select_without_candidates_is_refused(threshold):
    with pytest.raises(ValueError, match="No candidates"):
        _search(threshold).select(_outcomes([], []))


def test_selection_names_its_parameters_and_those_on_the_boundary(threshold):
    tried = {"rate": [0.1, 0.2, 0.3], "rank": [2, 1, 3], "locality": [0.0, 1.0, 9.0], "strength": [1.0, 1.0, 0.5]}
    outcomes = _outcomes([_breaking(threshold)] * 3, [1.0, 2.0, 3.0], layer=["x", "y", "z"], **tried)
    selection = _search(threshold).select(outcomes)
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
    selection = _search(threshold).select(outcomes)
    assert selection.params == {"layer": "conv1", "rank": best}
    assert selection.outcomes.table()["rank"].tolist() == ranks
    assert str(selection) == words


def test_selection_on_boundary_leaves_out_booleans_and_rank_1_of_a_second_layer(threshold):
    tried = {"masked": [True, False, True], "second masked": [True, False, True], "second rank": [1, 3, 3]}
    outcomes = _outcomes([_breaking(threshold)] * 3, [1.0, 2.0, 3.0], **tried)
    assert not _search(threshold).select(outcomes).on_boundary


@pytest.mark.parametrize(
    ("limit", "images", "allowed"),
    [
        (3.0, 0, 0),
        (3.0, 33, 0),
        (3.0, 34, 1),
        (3.0, 67, 2),
        (3.0, 100, 3),
        (3.0, 200, 6),
        (99.9, 10, 9),
        (100.0, 10, 10),
    ],
)
def test_may_break_is_the_largest_number_within_the_limit(limit, images, allowed):
    assert Constraints(max_retain_broken=limit).may_break(images) == allowed


@pytest.mark.parametrize(
    ("split", "images", "errors", "accuracy", "most"),
    [
        ("clean", 400, 30, 1.0, 31),  # net: one more than before
        ("clean", 399, 30, 1.0, 30),
        ("retain", 100, 33, 1.0, 2),  # of 67 that were correct
        ("own_class", 100, 50, 1.0, 3),  # not compared with the errors before
        ("own_class", 100, 50, 0.9, 13),
        ("own_class", 20, 0, 0.95, 1),  # 8% of 20
    ],
)
def test_most_wrong_of_each_split(split, images, errors, accuracy, most):
    before = torch.arange(images) < errors
    assert Constraints().most_wrong(split, before, accuracy) == most


def test_halved_constraints():
    assert Constraints(1.0, 2.0, 4.0).halved == Constraints(0.5, 1.0, 2.0)


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_constraints_that_are_no_amounts_are_refused(wrong):
    with pytest.raises(ValueError, match="max_accuracy_drop"):
        Constraints(max_accuracy_drop=wrong)
    with pytest.raises(ValueError, match="max_retain_broken"):
        Constraints(max_retain_broken=wrong)
    with pytest.raises(ValueError, match="max_own_drop"):
        Constraints(max_own_drop=wrong)


# --- constraints outside of each fold ---


def _last(count, images):
    """Number the folds of images: 0 for every second image and the last ones, 1 for the others."""
    numbers = torch.arange(images)
    return ((numbers % 2 == 1) & (numbers < images - count)).long()


TWO_FOLDS = torch.tensor([0] * 5 + [1] * 5)


@pytest.mark.parametrize(
    ("broken", "is_within"),
    [
        (0, [True, True, True]),
        (1, [True, True, False]),  # one of 400, but also of the 202 outside of fold 1, of which none may break
        (4, [False, True, False]),  # all of them are in fold 0
        (5, [False, False, False]),  # the fifth is in fold 1, and none of the 198 of it may break
    ],
)
def test_costs_on_clean_images_outside_of_each_fold(threshold, broken, is_within):
    search = _search(threshold, folds={"target": TWO_FOLDS, "clean": _last(4, COUNT)})
    assert search.splits.folds["clean"].bincount().tolist() == [202, 198]
    edit = _breaking(threshold, clean=broken)
    costs = ConstraintCheck(search.activations, search.splits.folds).measure(edit, 1.0, search.constraints)
    if not any(is_within):
        assert costs is None
    else:
        assert costs.is_within.tolist() == is_within
        assert [costs.satisfies(), costs.satisfies(0), costs.satisfies(1)] == is_within
        assert costs.comparisons["clean"].broken == broken and costs.comparisons["clean"].corrected == 0
    assert [search.is_feasible(edit, 1.0, without) for without in (None, 0, 1)] == is_within


@pytest.mark.parametrize("split", ["retain", "own_class"])
def test_costs_on_green_images_outside_of_each_fold(threshold, split):
    """Of 60, one may break: of the 32 and 28 outside of the folds, none may."""
    folds = {"target": TWO_FOLDS, split: _last(4, 60)}
    search = _search(threshold, folds=folds, **{{"retain": "retained", "own_class": "own"}[split]: 60})
    for broken, is_within in ((1, [True, True, False]), (4, [False, True, False]), (5, [False] * 3)):
        edit = _breaking(threshold, green=broken / 60)
        assert [search.is_feasible(edit, 1.0, without) for without in (None, 0, 1)] == is_within


@pytest.mark.parametrize("broken", [0, 1, 4, 5])
def test_screen_rejects_what_breaks_too_much_of_its_share_and_no_feasible_edit(threshold, broken):
    search = _search(threshold, folds={"target": TWO_FOLDS, "clean": _last(4, COUNT)})
    edit = _breaking(threshold, clean=broken)
    check = ConstraintCheck(search.activations, search.splits.folds)
    screened = [check.screen(edit, 1.0, search.constraints, without) for without in (None, 0, 1)]
    wrong = search.activations["clean"].wrong_among_first(COUNT // 8, edit, 1.0, lambda wrong: False)
    assert int(wrong.sum()) == broken  # the images that an edit breaks first are in that share
    assert screened == [search.is_feasible(edit, 1.0, without) for without in (None, 0, 1)]


def test_images_on_which_a_part_is_screened_do_not_depend_on_those_outside(threshold):
    search = _search(threshold, folds={"target": TWO_FOLDS, "clean": _last(4, COUNT)})
    clean = search.activations["clean"]
    screened = ConstraintCheck(search.activations, search.splits.folds).screened["clean"]
    in_fold = search.splits.folds["clean"] == 0
    logits = clean.original.clone()
    logits[in_fold] *= 1e-3  # these images are now nearest to the boundary
    clean.original = logits
    changed = ConstraintCheck(search.activations, search.splits.folds).screened["clean"]
    assert torch.equal(changed[1], screened[1]) and not screened[1][in_fold].any()
    assert not torch.equal(changed[0], screened[0])


def test_costs_of_splits_without_folds_count_everywhere(threshold):
    search = _search(threshold, retained=60, folds={"target": TWO_FOLDS, "clean": _last(4, COUNT)})
    edit = _breaking(threshold, clean=4, green=1 / 60)
    assert [search.is_feasible(edit, 1.0, without) for without in (None, 0, 1)] == [False, True, False]
    edit = _breaking(threshold, green=2 / 60)
    assert not any(search.is_feasible(edit, 1.0, without) for without in (None, 0, 1))


def test_a_fold_has_to_satisfy_the_constraints_on_every_split(threshold):
    """Outside of fold 0 the clean images are kept, outside of fold 1 the retained ones: nowhere both."""
    folds = {"target": TWO_FOLDS, "clean": _last(4, COUNT), "retain": 1 - _last(4, 60)}
    search = _search(threshold, retained=60, folds=folds)
    check = ConstraintCheck(search.activations, folds)
    assert check.measure(_breaking(threshold, clean=4), 1.0, search.constraints).is_within.tolist() == [0, 1, 0]
    assert check.measure(_breaking(threshold, green=4 / 60), 1.0, search.constraints).is_within.tolist() == [0, 0, 1]
    assert check.measure(_breaking(threshold, clean=4, green=4 / 60), 1.0, search.constraints) is None


def _sizes_of_batches(monkeypatch):
    """Record the size of each batch that is compared."""
    sizes = []

    def recorded(logits, labels):
        sizes.append(len(labels))
        return misclassified(logits, labels)

    monkeypatch.setattr("edittools.activations.misclassified", recorded)
    return sizes


def _is_within(name, comparison, part, accuracy):
    """Say by the definitions whether some images of a split satisfy the default constraints."""
    before = comparison.before[part].double()
    after = comparison.after[part].double()
    if name == "clean":
        return 100 * (after.sum() - before.sum()) <= 0.25 * len(before) + 1e-6
    if name == "retain":
        return 100 * (after * (1 - before)).sum() <= 3 * (1 - before).sum() + 1e-6
    return accuracy is None or 100 * (accuracy - 1 + after.mean()) <= 3 + 1e-6


@pytest.mark.parametrize("accuracy", [None, 0.55])
def test_early_stopping_gives_the_costs_that_all_images_have(threshold, accuracy, monkeypatch):
    """Labels are random in part, so edits correct and break; each is compared with comparisons of all images."""
    generator = torch.Generator().manual_seed(5)
    sizes = {"clean": 300, "retain": 70, "own_class": 40}
    sets = {}
    folds = {"target": torch.arange(12) % 6}
    for name, size in sizes.items():
        images = torch.rand(size, 3, 1, 1, generator=generator).expand(-1, -1, 4, 4)
        labels = torch.randint(3, (size,), generator=generator) * (torch.rand(size, generator=generator) < 0.3)
        sets[name] = LabelledImages(images, labels, threshold.classes)
        folds[name] = torch.randint(6, (size,), generator=generator)
    cuts = cut_all(threshold, ["2"])
    whole = cache_activations(cuts, sets)
    stopping = ConstraintCheck(cache_activations(cuts, sets, early_stopping=tuple(sets)), folds, accuracy)
    run = _sizes_of_batches(monkeypatch)
    found = []
    for _ in range(200):
        change = 0.1 * torch.rand(1, generator=generator) ** 2 * torch.randn(3, generator=generator)
        edit = Edit({"2.bias": Change(change)}, fingerprint(threshold.model))
        expected = torch.ones(7, dtype=torch.bool)
        comparisons = {name: whole[name].compare(edit) for name in sets}
        for part in range(7):
            for name, comparison in comparisons.items():
                images = torch.ones(len(comparison.before), dtype=torch.bool) if part == 0 else folds[name] != part - 1
                expected[part] &= bool(_is_within(name, comparison, images, accuracy))
        run.clear()
        costs = stopping.measure(edit, 1.0, Constraints())
        if expected.any():
            assert torch.equal(costs.is_within, expected)
            assert all(torch.equal(costs.comparisons[name].after, one.after) for name, one in comparisons.items())
        else:
            assert costs is None
        found.append((int(expected.sum()), sum(run)))
    assert {0, 7} < {parts for parts, _ in found}  # some satisfy them in some folds only
    assert all(images == sum(sizes.values()) for parts, images in found if parts)
    assert sum(images for parts, images in found if not parts) < 0.5 * sum(sizes.values()) * len(found)


def test_accuracy_without_the_concept_is_that_of_clean_images_of_the_own_class(threshold):
    search = _search(threshold, own=20)
    labels = torch.where(torch.arange(COUNT) < 100, 1, 0)  # these 100 are misclassified as "zero"
    mixed = replace(search.splits, clean=replace(search.splits.clean, labels=labels))
    of_both = replace(mixed.own_class, labels=torch.arange(20) % 2)
    for splits, count, accuracy in ((mixed, 300, 1.0), (replace(mixed, own_class=of_both), 400, 0.75)):
        found = Search(threshold, search.exemplars, splits, ["2"])
        assert len(found.without_concept) == count and found.accuracy_without_concept == accuracy
    few = replace(mixed, own_class=mixed.own_class.subset(range(19)))
    assert Search(threshold, search.exemplars, few, ["2"]).accuracy_without_concept is None
    alone = Search(threshold, search.exemplars, replace(mixed, own_class=None), ["2"])
    assert alone.accuracy_without_concept is None and len(alone.without_concept) == 0


# --- cross-validation ---

FOLDS = torch.tensor([0, 0, 1, 1])
RIGHT, WRONG = (2.0, 0.0), (0.0, 2.0)  # logits of an image of class 0


def _crossed(search, *logits_of_each, edits=None):
    """Cross-validate candidates on four images of class 0; each candidate gives them its own logits."""
    labels = torch.zeros(4, dtype=torch.long)
    before = torch.ones(4, dtype=torch.bool)
    outcomes = []
    for number, logits in enumerate(map(torch.tensor, logits_of_each)):
        losses = cross_entropy(logits, labels, reduction="none")
        edit = _breaking(search.classifier) if edits is None else edits[number]
        outcomes.append(Outcome(Candidate({"candidate": number}, edit), losses, misclassified(logits, labels)))
    return search.cross_validated(Outcomes.collected(outcomes, before))


def test_cross_validated_evaluates_each_fold_with_the_edit_selected_on_the_others(threshold):
    """By hand: without fold 0 only the second edit helps, without fold 1 the first; each fails on its own fold."""
    search = _search(threshold, targets=4, folds={"target": FOLDS})
    crossed = _crossed(search, (RIGHT, RIGHT, WRONG, WRONG), (WRONG, WRONG, RIGHT, (1.0, 0.0)))
    assert [fold.params["candidate"] for fold in crossed.fold_selections] == [1, 0]
    assert [fold.scores["corrected"] for fold in crossed.fold_selections] == [2, 2]
    assert crossed.params["candidate"] == 0
    assert crossed.held_out["target"].after.tolist() == [True] * 4
    assert crossed.held_out["target"].corrected == 0 and crossed.n_candidates == 2
    loss = float(torch.log1p(torch.exp(torch.tensor([-2.0, -1.0]))).mean())
    assert crossed.fold_selections[0].scores["loss"] == pytest.approx(loss)


def test_cross_validated_leaves_a_fold_without_a_feasible_candidate_as_it_was(threshold):
    search = _search(threshold, targets=4, folds={"target": FOLDS})
    crossed = _crossed(search, (WRONG, RIGHT, WRONG, WRONG))
    assert [fold.feasible for fold in crossed.fold_selections] == [False, True]
    assert crossed.held_out["target"].corrected == 0
    both = _crossed(search, (WRONG, RIGHT, RIGHT, WRONG))
    assert both.held_out["target"].after.tolist() == [True, False, False, True]


@pytest.mark.parametrize("broken", [{"clean": 10}, {"green": 1 / 9}])
def test_cross_validated_selects_no_edit_that_violates_a_constraint(threshold, broken):
    edits = [_breaking(threshold), _breaking(threshold, **broken)]
    search = _search(threshold, retained=9, targets=4, folds={"target": FOLDS})
    crossed = _crossed(search, [(1.0, 0.0)] * 4, [RIGHT] * 4, edits=edits)
    assert {fold.edit for fold in crossed.fold_selections} == {edits[0]} and crossed.edit is edits[0]
    assert crossed.held_out["target"].corrected == 4


def test_cross_validated_counts_what_an_edit_costs_in_the_fold_that_did_not_select_it(threshold):
    """The second edit breaks four retained images, all in fold 0: it is selected without that fold only."""
    folds = {"target": FOLDS, "clean": torch.arange(COUNT) % 2, "retain": _last(4, 60)}
    edits = [_breaking(threshold), _breaking(threshold, green=4 / 60)]
    search = _search(threshold, retained=60, targets=4, folds=folds)
    crossed = _crossed(search, [(1.0, 0.0)] * 4, [RIGHT] * 4, edits=edits)
    assert [fold.edit for fold in crossed.fold_selections] == [edits[1], edits[0]] and crossed.edit is edits[0]
    assert crossed.held_out["target"].after.tolist() == [False, False, False, False]
    assert set(crossed.held_out) == {"target", "clean", "retain"}
    broken = crossed.held_out["retain"].after.nonzero()[:, 0].tolist()
    assert broken == [56, 57, 58, 59]
    assert crossed.retain.broken == 0  # with the edit that was selected on all images
    assert not crossed.held_out["clean"].after.any()


def test_cross_validated_holds_each_fold_out(tiny, exemplar, splits):
    labels = (predict(tiny, splits.target).argmax(1) + 1) % 5
    all_wrong = replace(splits, target=replace(splits.target, labels=labels)).with_folds(4)
    search = Search(tiny, exemplar, all_wrong, ["conv1"], Constraints(100.0, 100.0))
    biases = [Edit({"head.bias": Change(1000 * torch.eye(5)[label])}, fingerprint(tiny.model)) for label in range(5)]
    outcomes = search.score_candidates([Candidate({"label": label}, edit) for label, edit in enumerate(biases)])
    selection = search.cross_validated(outcomes)
    assert selection.feasible and len(selection.fold_selections) == 4
    assert set(selection.held_out) == {"target", "clean"}
    for name, held_out in selection.held_out.items():
        assert torch.equal(held_out.before, search.activations[name].before)
        for fold, selected in enumerate(selection.fold_selections):
            is_held_out = all_wrong.folds[name] == fold
            after = search.activations[name].compare(selected.edit).after
            assert is_held_out.any() and torch.equal(held_out.after[is_held_out], after[is_held_out])
    alone = search.select(outcomes)
    assert alone.edit is selection.edit and not alone.held_out and not alone.fold_selections


def test_cross_validated_without_folds_is_refused(search):
    with pytest.raises(ValueError, match=r"no folds.*with_folds\(\)"):
        search.cross_validated(search.score(EXACT))


# --- the search ---


def test_select_takes_the_first_by_loss_that_satisfies_the_constraints(search):
    for method in ("edit", "random direction", "projection"):
        selection = search.select(search.score(METHODS[method]))
        outcomes = selection.outcomes
        helping = [outcomes.candidates[index] for index in outcomes.by_loss if outcomes.net[index] > 0]
        clean = search.activations["clean"]
        changes = ((one, clean.compare(one.edit, one.strength).accuracy_change) for one in helping)
        first = next((one for one, change in changes if change >= -0.25), None)
        assert selection.feasible == (first is not None)
        assert first is None or selection.edit is first.scaled
        assert selection.seconds > 0 and selection.n_candidates == len(selection.outcomes.table())


def test_select_among_several_methods_takes_the_best_of_all(tiny, exemplar, curable, two_go_on):
    """Each method goes on in its own layers, as if it were alone."""
    search = Search(tiny, exemplar, curable, LAYERS, Constraints(100.0, 100.0))
    outcomes = search.score([WHOLE, METHODS["projection"]])
    alone = {name: search.select(outcomes.of(name)) for name in outcomes.methods}
    best = min((one for one in alone.values() if one.feasible), key=lambda one: one.scores["loss"])
    selection = search.select(outcomes)
    assert selection.params == best.params and selection.edit is best.edit
    assert selection.n_candidates == sum(one.n_candidates for one in alone.values())
    assert selection.layers.equals(alone["edit"].layers) and len(selection.layers) == len(LAYERS)


def test_select_with_a_second_layer_lowers_the_loss_within_the_constraints(tiny, exemplar, curable):
    one, other = (4 * rewrite(tiny, layer, exemplar, curable.reference, reference_weight=0.0) for layer in LAYERS[1:])
    target = replace(curable.target, labels=predict((one + other).edited(tiny), curable.target).argmax(1))
    search = Search(tiny, exemplar, replace(curable, target=target), LAYERS, Constraints(100.0, 100.0))
    outcomes = search.score(EDIT.trying(WHOLE_GRID, (2.0,)))
    first = search.select(outcomes)
    both = search.select(outcomes, second_layer=True)
    assert first.feasible and "second layer" in both.params
    assert both.scores["loss"] < first.scores["loss"]
    assert both.params["layer"] != both.params["second layer"] and len(both.edit.layers) == 2
    assert torch.equal(both.wrong, search.target.compare(both.edit).after)


def test_select_under_other_constraints_than_those_of_the_search(search):
    outcomes = search.score(EXACT)
    free = search.select(outcomes, constraints=Constraints(100.0, 100.0))
    helping = outcomes.loss[outcomes.net > 0]
    assert free.feasible == bool(len(helping))
    assert not free.feasible or free.scores["loss"] == float(helping.min())


def test_evaluate_agrees_with_the_comparisons(tiny, photos32, splits, exemplar):
    search = Search(tiny, exemplar, splits, LAYERS)
    edit = rewrite(tiny, "conv1", exemplar, photos32, objective="least_squares")
    row = search.evaluate({"edit": edit}).loc["edit"]
    test = search.activations["target_test"].compare(edit)
    assert row["errors after"] == int(test.after.sum())
    assert row["p"] == test.row()["p"]
    assert row["clean change"] == search.activations["clean"].compare(edit).accuracy_change
    assert row.notna().all()
    without_test = Search(tiny, exemplar, replace(splits, target_test=None), LAYERS)
    assert "errors after" not in without_test.evaluate({"edit": edit})


def test_search_with_activations_of_another(tiny, search, splits, photos32):
    test = replace(splits.target_test, images=photos32.flip(2)[30:])
    others = {"two": make_exemplar(8)}, replace(splits, target_test=test), ["conv1", "conv2"]
    second = Search(tiny, *others, activations=search.activations)
    assert second.activations["clean"] is search.activations["clean"]
    assert second.activations["target_test"] is not search.activations["target_test"]
    assert all(second.cuts[layer] is cut for layer, cut in search.cuts.items())
    fresh = Search(tiny, *others)
    alone, together = (one.select(one.score(EXACT)) for one in (fresh, second))
    assert str(alone) == str(together) and alone.outcomes.table().loss.equals(together.outcomes.table().loss)
    assert torch.equal(fresh.activations["target_test"].original, second.activations["target_test"].original)
    with pytest.raises(ValueError, match="'conv1'"):
        Search(tiny, others[0], splits, ["conv1"], activations=search.activations)


def test_search_does_not_depend_on_edits_that_are_applied_meanwhile(tiny, search, splits, exemplar):
    expected = search.select(search.score(EXACT))
    second = Search(tiny, {"one": exemplar}, splits, ["conv1", "conv2"])
    shift = Edit({"stem.weight": Change(torch.ones(8, 3, 3, 3))}, fingerprint(tiny.model))
    with shift.applied(tiny):
        selection = second.select(second.score(EXACT))
        table = second.evaluate({"edit": selection.edit})
    assert selection.edit.digest == expected.edit.digest
    assert table.equals(search.evaluate({"edit": expected.edit}))


def test_cache_activations_with_early_stopping_uses_small_batches(tiny, sets, monkeypatch):
    cached = cache_activations(cut_all(tiny, ["conv1"]), sets, early_stopping=("clean",))
    edit = Edit({"head.bias": Change(torch.ones(5))}, fingerprint(tiny.model))
    seen = _sizes_of_batches(monkeypatch)
    for name, counts in {"target": [20], "clean": [8, 8, 4]}.items():
        seen.clear()
        cached[name].compare(edit)
        assert seen == counts


# --- a search that is ended early ---


def _ending_after(count):
    def end(bar):
        if bar.n == count:
            raise InterruptedError

    return bars_that_call(end)


def test_score_that_is_ended_returns_what_was_scored(tiny, exemplar, splits):
    whole = Search(tiny, exemplar, splits, LAYERS).score([EXACT, METHODS["projection"]])
    for count in (1, 4, len(whole.of("edit")) + 2):
        search = Search(tiny, exemplar, splits, LAYERS, progress=_ending_after(count))
        outcomes = search.score([EXACT, METHODS["projection"], METHODS["last layer"]])
        assert search.is_ended
        _same_outcomes(outcomes, whole.of_candidates(range(count)))
        assert not len(search.score(METHODS["projection"]))


def test_score_candidates_that_is_ended_raises(tiny, exemplar, splits):
    candidates = list(Search(tiny, exemplar, splits, LAYERS).candidates(EXACT))
    search = Search(tiny, exemplar, splits, LAYERS, progress=_ending_after(2))
    with pytest.raises(KeyboardInterrupt):
        search.score_candidates(candidates)
    assert search.is_ended


def test_score_that_is_ended_in_its_first_pass_keeps_the_best_of_what_was_tried(tiny, exemplar, splits, two_go_on):
    """The first pass runs some of the images with every candidate; what is kept is scored on all of them."""
    whole = Search(tiny, exemplar, splits, LAYERS).score(WHOLE).tried_in(FIRST)
    search = Search(tiny, exemplar, splits, LAYERS, progress=_ending_after(1))
    _same_outcomes(search.score(WHOLE), whole.of_candidates(range(1)))
    assert search.is_ended
    search = Search(tiny, exemplar, splits, LAYERS, progress=_ending_after(len(whole)))
    [best, *_] = whole.by_loss
    kept = search.score(WHOLE)
    assert len(kept) == min(len(whole), KEPT_AT_THE_END)
    _same_outcomes(kept.of_candidates([0]), whole.of_candidates([best]))


@pytest.mark.parametrize(("owner", "name"), [(CachedActivations, "logits"), (search_module, "CachedActivations")])
def test_score_that_is_ended_before_the_first_candidate_raises(
    tiny, exemplar, splits, two_go_on, monkeypatch, owner, name
):
    search = Search(tiny, exemplar, splits, LAYERS)
    monkeypatch.setattr(owner, name, _interrupt)
    with pytest.raises(KeyboardInterrupt):
        search.score(WHOLE)


def _interrupt(*_, **__):
    raise KeyboardInterrupt


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
    let_layers_go_on(monkeypatch, 2)


WHOLE_GRID = grid(rank=(1, 2), objective=("least_squares",), reference_weight=(0.0, 100.0))
WHOLE = EDIT.trying(WHOLE_GRID)


def test_first_pass_is_the_default_edit_in_each_layer(tiny, exemplar, splits, two_go_on):
    search = Search(tiny, {"one": exemplar, "two": make_exemplar(8)}, splits, LAYERS)
    first = search.score(EDIT.trying(WHOLE_GRID, (0.5, 1.0))).tried_in(FIRST)
    assert len(first) == 3 * 2
    for index, candidate in enumerate(first.candidates):
        members = search.exemplars[candidate.params["exemplar"]]
        expected = rewrite(tiny, candidate.params["layer"], members, splits.reference)
        assert candidate.edit.digest == expected.digest and candidate.strength == 1
        compared = search.activations["target"].compare(expected)
        assert torch.equal(first.wrong[index], compared.after)
        labels = splits.target.labels
        losses = cross_entropy(predict(expected.edited(tiny), splits.target), labels, reduction="none")
        torch.testing.assert_close(first.losses[index], losses, rtol=1e-4, atol=1e-5)


def test_first_pass_in_small_groups_of_images_is_that_of_all_at_once(tiny, exemplar, splits, two_go_on, monkeypatch):
    at_once, split_into_groups = [], []
    for found, memory in ((at_once, ""), (split_into_groups, "0.000001")):
        monkeypatch.setenv("EDITTOOLS_MEMORY", memory)
        search = Search(tiny, exemplar, splits, LAYERS)
        found.append(search.score(WHOLE).tried_in(FIRST))
    torch.testing.assert_close(at_once[0].losses, split_into_groups[0].losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(at_once[0].wrong, split_into_groups[0].wrong)


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
def test_first_pass_keeps_what_the_whole_grid_shares(search, settings, strengths, expected):
    tried = search.candidates(EDIT.trying(settings, strengths)).first_pass().method
    assert (list(tried.settings), list(tried.strengths)) == (expected[0], [expected[1]])


def test_whole_grid_is_tried_in_the_best_layers(tiny, exemplar, splits, two_go_on):
    search = Search(tiny, exemplar, splits, LAYERS)
    outcomes = search.score(WHOLE)
    first = outcomes.tried_in(FIRST)
    selection = search.select(outcomes)
    in_order = [first.candidates[index] for index in first.by_loss]
    helpful = [first.candidates[index] for index in first.by_loss if first.net[index] > 0]
    lowest = in_order[0].params["layer"]
    feasible = [one.params["layer"] for one in helpful if search.is_feasible(one.edit, one.strength)]
    others = [layer for layer in (*feasible, *(one.params["layer"] for one in in_order)) if layer != lowest]
    best = {lowest, others[0]}
    assert set(selection.going_on) == best
    assert selection.n_candidates == len(selection.outcomes.table()) == 2 * len(WHOLE_GRID) * 2 + len(LAYERS)
    counts = selection.outcomes.table()["layer"].value_counts()
    assert {layer for layer in LAYERS if counts[layer] > 1} == best
    table = selection.layers
    assert list(table.layer) == LAYERS
    assert set(table[table["goes on"]].layer) == best
    assert table.loss.min() == pytest.approx(float(first.loss.min()))
    alone = Search(tiny, exemplar, splits, [layer for layer in LAYERS if layer in best])
    same = alone.select(alone.score(WHOLE))
    torch.testing.assert_close(selection.outcomes.losses[: len(same.outcomes)], same.outcomes.losses)
    assert same.layers.empty and not same.going_on


def candidate_with(layer, losses):
    """Make an outcome of a candidate in a layer that corrects all images; an edit is the name of its layer here."""
    return Outcome(Candidate({"layer": layer}, layer), torch.tensor(losses), torch.zeros(2, dtype=torch.bool))


def test_half_of_the_layers_that_go_on_satisfy_the_constraints(tiny, exemplar, splits, monkeypatch):
    """The candidates in e and f are feasible on all images, that in d without fold 1 as well."""
    let_layers_go_on(monkeypatch, 4)
    two = replace(splits, target=splits.target.subset(range(2)), folds={"target": torch.tensor([0, 1])})
    search = Search(tiny, exemplar, two, ["conv1"])
    monkeypatch.setattr(
        search._check, "screen", lambda edit, strength, constraints, without: edit in ("def" if without == 1 else "ef")
    )
    losses = {"a": [0.1, 0.9], "b": [0.2, 0.81], "c": [0.3, 0.72], "d": [0.4, 0.63], "e": [0.5, 0.54], "f": [0.6, 0.3]}
    first = Outcomes.collected([candidate_with(*item) for item in losses.items()], torch.ones(2, dtype=torch.bool))
    assert search.best_layers(first, 1) == ["a", "b", "d", "e"]
    assert search.best_layers(first, 0) == ["f", "e", "d", "c"]
    assert search.best_layers(first) == ["f", "a", "e", "b"]


def test_search_can_be_ended_while_layers_are_chosen(tiny, exemplar, splits, monkeypatch):
    """To screen candidates takes long, so the bar is asked before each one, although nothing is counted."""
    let_layers_go_on(monkeypatch, 4)
    two = replace(splits, target=splits.target.subset(range(2)))
    search = Search(tiny, exemplar, two, ["conv1"], progress=_ending_after(0))
    monkeypatch.setattr(search._check, "screen", lambda *_: True)
    losses = {"a": [0.1, 0.2], "b": [0.2, 0.3], "c": [0.3, 0.4]}
    first = Outcomes.collected([candidate_with(*item) for item in losses.items()], torch.ones(2, dtype=torch.bool))
    with search.one_bar(0):
        assert search.best_layers(first) == ["a", "b", "c"]
        with pytest.raises(search_module._Ended):
            search.best_layers(first, can_end=True)


def test_few_candidates_are_tried_in_all_layers(tiny, exemplar, splits, monkeypatch):
    let_layers_go_on(monkeypatch, 1, few_candidates=100)
    search = Search(tiny, exemplar, splits, LAYERS)
    selection = search.select(search.score(WHOLE))
    assert len(selection.outcomes.table()) == selection.n_candidates == len(LAYERS) * len(WHOLE_GRID) * 2
    assert selection.layers.empty


@pytest.mark.parametrize("name", ["edit", "projection", "random direction", "local fine-tuning"])
def test_selection_without_a_fold_does_not_depend_on_its_images(tiny, photos32, exemplar, curable, name, monkeypatch):
    let_layers_go_on(monkeypatch, 1)
    of_edits = grid(rank=(1, 2), reference_weight=(0.0,))
    settings = {"local fine-tuning": grid(rate=(0.1, 1.0)), "projection": None}.get(name, of_edits)
    method = METHODS[name].trying(settings, (1.0, 4.0))
    retain = replace(curable.target_test, labels=predict(tiny, curable.target_test).argmax(1))
    whole = replace(curable, retain=retain, target_test=None).with_folds(4)
    changed = {}
    for split, images in (("target", photos32[20:]), ("clean", photos32[:10]), ("retain", photos32[10:20])):
        data = whole.labeled[split]
        in_fold = (whole.folds[split] == 2)[:, None, None, None]
        changed[split] = replace(data, images=torch.where(in_fold, images.flip(2), data.images))
    found = []
    for splits in (whole, replace(whole, **changed)):
        search = Search(tiny, exemplar, splits, LAYERS, Constraints(30.0, 60.0))
        found.append(search.cross_validated(search.score(method)))
    first, second = (selection.fold_selections[2] for selection in found)
    assert first.params == second.params and first.edit.digest == second.edit.digest
    assert str(first.scores) == str(second.scores) and first.n_candidates == second.n_candidates
    assert first.layers.equals(second.layers) and first.outcomes.table().equals(second.outcomes.table())
    assert not found[0].layers.equals(found[1].layers)
    assert first.feasible == (name in ("edit", "projection"))


# --- the trade-off ---


def test_trade_off_has_the_candidates_that_no_other_one_beats(tiny, exemplar, curable):
    search = Search(tiny, exemplar, replace(curable, retain=curable.target_test, target_test=None), LAYERS)
    outcomes = search.score(EDIT.trying(WHOLE_GRID, (0.5, 1.0, 4.0)))
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
    allowed = search.constraints.may_break(int((~search.activations["retain"].before).sum()))
    is_feasible = (table["accuracy change"] >= -0.25) & (table["retained broken"] <= allowed)
    assert list(table.feasible) == list(is_feasible)


def test_trade_off_without_a_net_gain_is_empty(tiny, exemplar, splits):
    labels = predict(tiny, splits.target).argmax(1)
    search = Search(tiny, exemplar, replace(splits, target=replace(splits.target, labels=labels)), LAYERS)
    assert search.trade_off(search.score(EXACT)).empty
