"""`repair` on a small network: its splits, what it refuses, the method it selects, and what its summary says."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import bars_that_call, let_layers_go_on, save_image, shared_images
from torch import nn

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.exemplars import Exemplar
from edittools.geometry import InputGeometry
from edittools.images import LabelledImages, LazyImages, resized
from edittools.methods import METHODS
from edittools.metrics import predict
from edittools.rewriting import pose
from edittools.selection import CachedActivations, check_disjoint, grid, repair, stratified_folds
from edittools.selection.constraints import ConstraintCheck
from edittools.selection.outcomes import FIRST, SECOND
from edittools.selection.verdict import verdict_of
from edittools.site import prepare

CLASSES = ("ant", "bee", "cat", "dog")
EXACT = {"objective": ("least_squares",)}
CANDIDATES = ["edit", "projection"]
ROWS = ["selected", *CANDIDATES]
QUICK = {"layers": ["6"], "baselines": False, "progress": None}


def _network():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(width, 8, 3, padding=1) for width in (3, 8, 8)]
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1)]
    steps = []
    for convolution, pool in zip(convolutions, pools, strict=True):
        steps += [convolution, nn.ReLU(), pool]
    return nn.Sequential(*steps, nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture(scope="module")
def case():
    """Noise of four classes; a quarter of the images are misclassified with a patch over a corner."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(360, 3, 16, 16, generator=generator) * torch.rand(360, 3, 1, 1, generator=generator)
    classifier = Classifier(_network(), CLASSES, (0.5,) * 3, (0.2,) * 3, size=16)
    with torch.no_grad():
        features, head = classifier.model[:-1](classifier.normalize(images)), classifier.model[-1]
        head.weight.copy_(torch.randn(4, 8, generator=generator) / (features.std(0) + 1e-4))
        head.bias.copy_(-(head.weight @ features.mean(0)))
    mask = torch.zeros(16, 16)
    mask[8:, :8] = 1
    exemplar = Exemplar(images[0], torch.where(mask > 0, images[1], images[0]), mask, 1)
    read = predict(classifier, images).argmax(1)
    pasted = torch.where(mask > 0, images[1], images[2:80])
    wrong = predict(classifier, pasted).argmax(1) != read[2:80]
    failing = LabelledImages(pasted[wrong], read[2:80][wrong], CLASSES)
    sure = predict(classifier, images[80:]).topk(2).values
    clean = images[80:][(sure[:, 0] - sure[:, 1]).argsort(descending=True)[:48]]
    return SimpleNamespace(**locals())


def test_repair_of_a_network_whose_last_layer_has_no_bias(case):
    """Only the correction of its bias is left out of the comparison."""
    without_bias = copy.deepcopy(case.classifier)
    without_bias.model[-1].bias = None
    failing = replace(case.failing, labels=(predict(without_bias, case.failing).argmax(1) + 1) % 4)
    fix = repair(without_bias, case.exemplar, failing, case.clean, layers=["6"], settings=({"rank": 1},), progress=None)
    assert "local fine-tuning" in fix.table.index and "logit correction" not in fix.table.index


def _repaired(case, exemplar=None, **options):
    options = {"layers": ["6"], "baselines": False, "progress": None, **options}
    return repair(case.classifier, exemplar or case.exemplar, case.failing, case.clean, **options)


@pytest.fixture
def float64():
    """Make float64 torch's default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def repaired(case):
    """What `repair` finds with default settings in one layer. No test changes it."""
    return _repaired(case)


def _in_turn(case, each):
    """As many labeled images of each class as are asked for, the classes in turn."""
    generator = torch.Generator().manual_seed(3)
    pool = torch.rand(1500, 3, 16, 16, generator=generator) * torch.rand(1500, 3, 1, 1, generator=generator)
    labels = predict(case.classifier, pool).argmax(1)
    order = torch.stack([(labels == label).nonzero()[:each, 0] for label in range(4)], 1).flatten()
    return LabelledImages(pool[order], labels[order], CLASSES)


def test_repair_splits_clean_images_by_class_at_random(case):
    """Classes in turn, and quarters by position: whole classes would be in one part alone."""
    splits = repair(case.classifier, case.exemplar, case.failing, _in_turn(case, 16), **QUICK).search.splits
    assert splits.clean.labels.bincount(minlength=4).tolist() == [8] * 4
    assert splits.clean_test.labels.bincount(minlength=4).tolist() == [4] * 4
    assert predict(case.classifier, splits.reference).argmax(1).bincount(minlength=4).tolist() == [4] * 4
    parts = (splits.reference, splits.clean, splits.clean_test)
    others = (splits.clean, splits.clean_test, splits.reference)
    assert not any(shared_images(one, other) for one, other in zip(parts, others, strict=True))


def _share_left(case, fix):
    """By the definition: the mean square distance from the target at the mask, with the edit and without."""
    selection = fix.selection
    assert selection.params["method"] == "edit" and "second layer" not in selection.params
    cut = Cut(case.classifier, selection.edit.layers[0])
    site = prepare(case.classifier, cut.layer, case.exemplar)
    problem = pose(site, None, selection.params.get("masked", True))
    change = selection.edit.changes[f"{cut.layer}.weight"].delta()
    before = problem.target_output - problem.base_output
    after = before - problem.delta_output(change)
    weight = cut.pool_mask(problem.masks, "output")
    return float((after.square().mean(1) * weight).sum()) / float((before.square().mean(1) * weight).sum())


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_record_says_what_loss_the_edit_leaves_at_its_strength(case, strength):
    fix = _repaired(case, strengths=(strength,), layers=["3"])
    record = fix.edit.record
    assert record.share_left == pytest.approx(_share_left(case, fix), rel=1e-4, abs=1e-8)


# --- the method that is selected --------------------------------------------------------------------------------------


def test_repair_selects_the_candidate_of_lowest_loss_among_all_methods(repaired):
    assert list(repaired.table.index) == ROWS
    selected = repaired.selection.scores["loss"]
    alone = {
        name: repaired.selections[name].scores["loss"] for name in CANDIDATES if repaired.selections[name].feasible
    }
    assert selected <= min(alone.values())
    assert repaired.edit.digest == repaired.selection.edit.digest
    assert repaired.edit.verdict == str(repaired.verdict)
    assert repaired.table.loc["selected", "candidates"] >= sum(repaired.table.loc[CANDIDATES, "candidates"])


def test_repair_selects_the_method_without_each_fold(case, repaired):
    """By hand: for each fold, the candidate of lowest loss on the other images, of all methods."""
    folds = stratified_folds(case.failing.labels)
    outcomes = repaired.selection.outcomes
    constraints = repaired.search.constraints
    check = ConstraintCheck(repaired.search.activations["clean"])
    before = repaired.search.activations["target"].before
    for fold in folds.unique():
        others = folds != fold
        losses = outcomes.losses[:, others].double().mean(1)
        wrong = outcomes.wrong[:, others].sum(1)
        order = [i for i in losses.argsort(stable=True).tolist() if wrong[i] < before[others].sum()]
        first = next((i for i in order if check.measure(outcomes.candidates[i].scaled, 1.0, constraints)), None)
        expected = before[~others] if first is None else outcomes.wrong[first][~others]
        assert torch.equal(repaired.selection.held_out.after[~others], expected)


def test_repair_adds_a_second_layer_only_if_the_loss_is_lower(case):
    fix = _repaired(case, layers=["0", "3", "6"])
    alone = min(fix.selections[name].scores["loss"] for name in CANDIDATES if fix.selections[name].feasible)
    assert fix.selection.scores["loss"] <= alone
    is_sum = "second layer" in fix.selection.params
    assert is_sum == (len(fix.edit.layers) == 2)
    if is_sum:
        assert fix.selection.params["second layer"] in fix.edit.layers
        assert "on top of it" in fix.summary()
    clean = fix.search.activations["clean"].compare(fix.edit)
    assert clean.accuracy_change >= -fix.search.constraints.max_accuracy_drop


def test_repair_without_controls_selects_the_same_edit(case, repaired):
    with_controls = _repaired(case, baselines=True)
    assert with_controls.edit.digest == repaired.edit.digest
    controls = {"random direction", "local fine-tuning", "logit correction"}
    assert set(with_controls.table.index) == {*ROWS, *controls}


# --- the summary ------------------------------------------------------------------------------------------------------


def test_summary_quotes_the_figures_of_the_table(repaired):
    text = repaired.summary()
    row = repaired.table.loc["selected"]
    assert f"{row.corrected} of {row.failing}" in text and f"{row['accuracy change']:+.2f} points" in text
    edit = repaired.table.loc["edit"]
    assert f"edit alone, selected the same way: {edit.corrected} corrected, {edit.broken} broken" in text
    assert repaired.selection.params["method"] in text


def test_settings_may_leave_out_what_rewrite_has_a_default_for(case):
    fix = _repaired(case, settings=grid(**EXACT))
    assert "rank" not in fix.selections["edit"].params
    assert fix.summary()


def test_rank_of_none_is_kept_among_ranks(case):
    full_rank = grid(rank=(None,), reference_weight=(0.0,), **EXACT)
    fix = _repaired(case, settings=full_rank)
    assert fix.selections["edit"].params["rank"] is None
    one_step = {"rank": 1, "objective": "l1", "reference_weight": 0.0, "steps": 1}
    mixed = _repaired(case, settings=[*full_rank, one_step], strengths=(0.5,))
    selection = mixed.selections["edit"]
    assert selection.results["rank"].tolist() == [None, 1]
    assert selection.params["rank"] is None and "steps" not in selection.params


def test_repair_takes_exemplars_under_one_name_as_one_edit(case):
    fix = _repaired(case, {"pair": [case.exemplar, case.exemplar]})
    assert {len(members) for members in fix.search.exemplars.values()} == {2}
    assert set(fix.selection.results["exemplar"]) == {"pair"}


def test_repair_with_float64_as_the_default_type(case, repaired, float64):
    model = copy.deepcopy(case.classifier.model)
    of_float32 = Classifier(model, CLASSES, (0.5,) * 3, (0.2,) * 3, size=16)
    of_float64 = Classifier(copy.deepcopy(model).double(), CLASSES, (0.5,) * 3, (0.2,) * 3, size=16)
    for classifier in (of_float32, of_float64):
        fix = repair(classifier, case.exemplar, case.failing, case.clean, **QUICK)
        assert fix.selection.params == repaired.selection.params
        assert fix.summary()
        fix.edit.check_fits(classifier)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_repair_without_candidates_says_why(case):
    mask = torch.zeros(16, 16)
    mask[0, 0] = 1
    small = Exemplar(case.images[0], torch.where(mask > 0, case.images[1], case.images[0]), mask, 1)
    with pytest.raises(ValueError, match="No candidates"):
        _repaired(case, small, layers=["3"], settings=grid(rank=(3,), **EXACT))
    with pytest.raises(ValueError, match="No candidates"):
        _repaired(case, settings=grid(**EXACT), strengths=())


def _files(images, folder):
    for i, image in enumerate(images):
        save_image(folder / f"{i}.png", image)
    return LazyImages([folder / f"{i}.png" for i in range(len(images))], InputGeometry(16, 16))


def test_same_images_are_found_in_any_file_precision_and_size(case, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    files, renamed = (_files(case.failing.images[:5], tmp_path / name) for name in ("one", "other"))
    smooth = resized(torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)), 224)
    for one, other in ((files, files[:]), (files[:].double(), files), (files, renamed), (smooth, resized(smooth, 160))):
        with pytest.raises(ValueError, match="'one' and 'other' .* 5 "):
            check_disjoint({"one": one, "other": other})
        with pytest.raises(ValueError, match="'one' and 'other' .* 3 "):
            check_disjoint({"one": one[2:], "other": other})
        check_disjoint({"one": one[:2], "other": other[2:]})
    failing = LabelledImages(files[:], case.failing.labels[:5], CLASSES)
    with pytest.raises(ValueError, match="'failing' and 'clean' .* 5 "):
        repair(case.classifier, case.exemplar, failing, files, progress=None)


def _with_x_changed(case):
    images = torch.cat([case.exemplar.changed[None], case.failing.images])
    return LabelledImages(images, torch.cat([case.read[:1], case.failing.labels]), CLASSES)


REFUSED = [
    ("failing", _with_x_changed, ValueError, "'failing' and .*x'.* 1 "),
    (
        "clean",
        lambda case: torch.cat([case.clean, case.exemplar.image[None]]),
        ValueError,
        "'clean' and 'exemplars' .* 1 ",
    ),
    ("failing", lambda case: case.failing.images, TypeError, "failing .*Tensor.*LabelledImages"),
    ("clean", lambda case: "my/images", TypeError, "clean .*str"),
    ("retain", lambda case: "my/images", TypeError, "retain .*str"),
]


@pytest.mark.parametrize(("name", "images", "error", "words"), REFUSED)
def test_sets_with_an_exemplar_and_of_another_type_are_refused(case, name, images, error, words):
    sets = {"failing": case.failing, "clean": case.clean, name: images(case)}
    with pytest.raises(error, match=words):
        repair(case.classifier, case.exemplar, **sets, progress=None)


def test_image_that_occurs_twice_is_used_once(case, repaired):
    twice = case.failing.subset([*range(len(case.failing))] * 2)
    with pytest.warns(UserWarning, match=f"'failing' .*{len(case.failing)} "):
        fix = repair(case.classifier, case.exemplar, twice, case.clean, **QUICK)
    assert fix.table.equals(repaired.table)
    with pytest.warns(UserWarning, match="'clean' .*4 "):
        again = repair(case.classifier, case.exemplar, case.failing, torch.cat([case.clean, case.clean[:4]]), **QUICK)
    assert again.table.equals(fix.table)


# --- a search that is ended early -------------------------------------------------------------------------------------


def _bars_that_end(what, count, error=InterruptedError):
    """Make a class of bars that raise an error when so many candidates of a kind were tried."""
    tried = []

    def end(bar):
        tried.append(bar.desc)
        if tried.count(f"{what}: ") == count:
            raise error

    return bars_that_call(end)


def test_bar_counts_each_candidate_and_ends_the_search(case):
    calls = []

    def stop_at_fourth(bar):
        calls.append((bar.desc, bar.n, bar.total))
        if bar.n == 4:
            raise InterruptedError

    fix = _repaired(case, progress=bars_that_call(stop_at_fourth))
    total = sum(len(fix.search.candidates(fix.search.methods[name])) for name in CANDIDATES)
    assert calls == [("edit: ", done, total) for done in range(1, 5)]
    assert not fix.complete and list(fix.table.index) == ["selected", "edit"]
    assert fix.selection.n_candidates == 4
    assert "interrupted" in fix.summary()


def test_bar_tells_the_best_so_far_and_the_share_that_is_done(case):
    told = []
    fix = _repaired(case, progress=bars_that_call(lambda bar: told.append((bar.n / bar.total, bar.counts))))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] <= 1
    best = [counts for _, counts in told if counts is not None]
    assert best and all(counts["corrected"] > counts["broken"] for counts in best)
    outcomes = fix.selection.outcomes
    lowest = next(index for index in outcomes.by_loss if outcomes.net[index] > 0)
    expected = {"corrected": int(outcomes.corrected[lowest]), "broken": int(outcomes.broken[lowest])}
    assert expected in best


def test_bar_that_raises_in_a_control_leaves_the_selected_edit(case, repaired):
    fix = _repaired(case, baselines=True, progress=_bars_that_end("random direction 2", 3))
    assert not fix.complete and fix.edit.digest == repaired.edit.digest
    assert list(fix.selections) == [*ROWS, "random direction 1"]
    assert list(fix.table.index) == [*ROWS, "random direction"]
    assert fix.verdict.word != "use"


def test_bar_that_raises_in_fine_tuning_leaves_the_selected_edit(case, repaired):
    fix = _repaired(case, finetuning=True, progress=_bars_that_end("candidates", 2))
    assert not fix.complete and fix.edit.digest == repaired.edit.digest
    assert list(fix.table.index) == ROWS


def test_search_that_is_ended_scores_nothing_more(case):
    search = _repaired(case, progress=_bars_that_end("edit", 4)).search
    assert search.is_ended
    assert not len(search.score(METHODS["projection"]))


def _interrupt(*_):
    raise KeyboardInterrupt


def test_interrupt_before_the_first_candidate_raises(case, monkeypatch):
    monkeypatch.setattr(CachedActivations, "logits", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        _repaired(case)


# --- two passes, and what limits an edit ------------------------------------------------------------------------------


@pytest.fixture
def one_goes_on(monkeypatch):
    """Let one of three layers go on to the second pass."""
    let_layers_go_on(monkeypatch, 1)


LAYERS = ["0", "3", "6"]


def test_repair_without_a_fold_does_not_depend_on_its_images(case, one_goes_on):
    folds = stratified_folds(case.failing.labels)
    in_fold = (folds == 1)[:, None, None, None]
    noise = torch.rand(case.failing.images.shape, generator=torch.Generator().manual_seed(7))
    others = LabelledImages(torch.where(in_fold, noise, case.failing.images), case.failing.labels, CLASSES)
    found = []
    for failing in (case.failing, others):
        options = {"layers": LAYERS, "finetuning": True, "progress": None}
        found.append(repair(case.classifier, case.exemplar, failing, case.clean, **options))
    assert list(found[0].selections) == list(found[1].selections)
    assert {f"random direction {number}" for number in range(1, 6)} < set(found[0].selections)
    for name in found[0].selections:
        first, second = (fix.selections[name].fold_selections[1] for fix in found)
        assert first.params == second.params and first.edit.digest == second.edit.digest
        assert str(first.scores) == str(second.scores)


def test_repair_in_two_passes_shows_what_each_layer_gives(case, one_goes_on):
    fix = _repaired(case, layers=LAYERS)
    assert list(fix.layers.layer) == LAYERS
    assert len(fix.selections["edit"].outcomes.tried_in(FIRST)) == 2 * len(LAYERS)  # of rank 1, and of full rank
    assert fix.layers["goes on"].any() and not fix.layers["goes on"].all()
    best = fix.layers.loc[fix.layers.loss.idxmin()]
    assert best["goes on"] and best.layer in set(fix.selections["edit"].results["layer"])


def _without_second_layer(fix, *parts):
    """Select among parts of all outcomes, as a search does that was ended when these were scored."""
    first, *others = parts
    for other in others:
        first = first.joined(other)
    return fix.search.cross_validated(first)


def _same_selection(one, other):
    """Compare all that was selected: on all images, and without each fold."""
    assert one.params == other.params and one.edit.digest == other.edit.digest
    assert [fold.params for fold in one.fold_selections] == [fold.params for fold in other.fold_selections]
    assert torch.equal(one.held_out.after, other.held_out.after)


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
@pytest.mark.parametrize(("what", "count"), [("edit", 1), ("edit", 7), ("projection", 3), ("second layer", 2)])
def test_search_that_is_ended_selects_the_best_of_what_was_tried(case, one_goes_on, what, count, error):
    whole = _repaired(case, layers=LAYERS)
    outcomes = whole.search.score([whole.search.methods[name] for name in CANDIDATES])
    edits = outcomes.of("edit")
    projections = outcomes.of("projection")
    tried = {
        "edit": [edits.tried_in(SECOND).of_candidates(range(count)), edits.tried_in(FIRST)],
        "projection": [
            edits,
            projections.tried_in(SECOND).of_candidates(range(count)),
            projections.tried_in(FIRST),
        ],
        "second layer": [outcomes],
    }
    fix = _repaired(case, layers=LAYERS, progress=_bars_that_end(what, count, error))
    assert not fix.complete and list(fix.table.index) == ["selected", "edit"]
    _same_selection(fix.selections["selected"], _without_second_layer(whole, *tried[what]))
    assert len(fix.edit.layers) == 1 and fix.verdict.word != "use"


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
def test_search_that_is_ended_in_its_first_pass_raises(case, one_goes_on, error):
    with pytest.raises(KeyboardInterrupt):
        _repaired(case, layers=LAYERS, progress=_bars_that_end("edit, every layer", 2, error))


def test_repair_compares_with_fine_tuning_on_the_failing_images_on_request(case, repaired):
    fix = _repaired(case, finetuning=True)
    assert list(fix.table.index) == [*ROWS, "fine-tuning on the failing images"]
    assert fix.edit.digest == repaired.edit.digest and fix.verdict == repaired.verdict
    selection = fix.selections["fine-tuning on the failing images"]
    labels = case.failing.labels
    for number, of_fold in enumerate(selection.fold_selections):
        if of_fold.feasible:
            in_fold = selection.folds == number
            after = predict(of_fold.edit.edited(case.classifier), case.failing).argmax(1) != labels
            assert torch.equal(selection.held_out.after[in_fold], after[in_fold])


def test_advice_begins_with_the_constraint_that_limits_the_edit(case):
    """Retained images that show the same patch rely on the same rule, so no edit can correct and keep them."""
    shown = torch.where(case.mask > 0, case.images[1], case.images[80:240])
    read = predict(case.classifier, shown).argmax(1)
    relying = shown[read != case.read[80:240]]
    free = _repaired(case, layers=LAYERS)
    fix = repair(
        case.classifier,
        case.exemplar,
        case.failing,
        case.clean,
        relying,
        layers=LAYERS,
        baselines=False,
        progress=None,
    )
    alone = free.selection.scores["corrected"]
    limited = fix.selection.scores["corrected"]
    assert alone >= limited + 6 and alone >= 2 * limited
    assert fix.verdict.advice.startswith("On images used for selection, the retained images decide")
    assert f"corrects {alone} of" in fix.verdict.advice
    unlimited = verdict_of(fix.checks)
    assert fix.verdict.word == unlimited.word and fix.verdict.advice.endswith(unlimited.advice)
    assert "decide" not in free.verdict.advice
