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
from edittools.metrics import Comparison, predict
from edittools.rewriting import pose
from edittools.selection import (
    Assessment,
    CachedActivations,
    Constraints,
    Search,
    Splits,
    check_disjoint,
    grid,
    repair,
)
from edittools.selection.evaluation import Evaluation
from edittools.selection.finetuning import Finetuned, judged_images, minutes_of
from edittools.selection.outcomes import FIRST, SECOND
from edittools.selection.repair import SETTINGS
from edittools.selection.verdict import verdict_of
from edittools.site import prepare

CLASSES = ("ant", "bee", "cat", "dog")
EXACT = {"objective": ("least_squares",)}
CANDIDATES = ["edit", "projection"]
ROWS = ["selected", "random direction"]
LAYERS = ["0", "3", "6"]
QUICK = {"layers": ["6"], "progress": None}
HALVED = Constraints().halved


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
    concept = LabelledImages(pasted, read[2:80], CLASSES)
    sure = predict(classifier, images[80:]).topk(2).values
    clean = images[80:][(sure[:, 0] - sure[:, 1]).argsort(descending=True)[:48]]
    return SimpleNamespace(**locals())


def _repaired(case, exemplar=None, **options):
    options = {**QUICK, **options}
    return repair(case.classifier, exemplar or case.exemplar, case.concept, case.clean, **options)


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
    splits = repair(case.classifier, case.exemplar, case.concept, _in_turn(case, 16), **QUICK).search.splits
    assert splits.clean.labels.bincount(minlength=4).tolist() == [12] * 4
    assert predict(case.classifier, splits.reference).argmax(1).bincount(minlength=4).tolist() == [4] * 4
    assert not shared_images(splits.reference, splits.clean)
    for fold in range(6):
        assert splits.clean.labels[splits.folds["clean"] == fold].bincount(minlength=4).tolist() == [2] * 4


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


def _best_of_each_method(fix):
    """The selections of each method alone, of those that are feasible."""
    selections = [fix.search.select(fix.selection.outcomes.of(name)) for name in CANDIDATES]
    return [selection for selection in selections if selection.feasible]


def test_repair_selects_the_candidate_of_lowest_loss_among_all_methods(repaired):
    assert list(repaired.table.index) == ROWS
    assert repaired.selection.scores["loss"] == min(one.scores["loss"] for one in _best_of_each_method(repaired))
    assert repaired.edit.digest == repaired.selection.edit.digest
    assert repaired.edit.verdict == str(repaired.verdict)
    assert set(repaired.selection.outcomes.methods) == set(CANDIDATES)
    assert repaired.table.loc["selected", "candidates"] == len(repaired.selection.outcomes)


def test_repair_selects_the_method_without_each_fold(case):
    """By hand: for each fold, the candidate of lowest loss on the other images that loses no other clean image."""
    fix = repair(case.classifier, case.exemplar, case.concept, _in_turn(case, 16), **QUICK)
    splits = fix.search.splits
    folds = splits.folds["target"]
    outcomes = fix.selection.outcomes
    before = predict(case.classifier, splits.target).argmax(1) != splits.target.labels
    lost = []
    for candidate in outcomes.candidates:
        after = predict(candidate.scaled.edited(case.classifier), splits.clean).argmax(1)
        lost.append(after != splits.clean.labels)  # without an edit, all of them are correct
    assert len(splits.clean) == 48  # so one image is more than 0.125 points
    expected = {"target": before.clone(), "clean": torch.zeros(48).bool()}
    refused = 0
    for fold in folds.unique():
        others = folds != fold
        losses = outcomes.losses[:, others].double().mean(1)
        wrong = outcomes.wrong[:, others].sum(1)
        order = [i for i in losses.argsort(stable=True).tolist() if wrong[i] < before[others].sum()]
        kept = [i for i in order if not lost[i][splits.folds["clean"] != fold].any()]
        refused += not kept or kept[0] != order[0]
        if kept:
            expected["target"][~others] = outcomes.wrong[kept[0]][~others]
            in_fold = splits.folds["clean"] == fold
            expected["clean"][in_fold] = lost[kept[0]][in_fold]
    assert refused  # the constraint decides in some folds
    for name, after in expected.items():
        assert torch.equal(fix.selection.held_out[name].after, after)
    assert torch.equal(fix.selection.held_out["target"].before, before)


def test_repair_adds_a_second_layer_only_if_the_loss_is_lower(case):
    fix = _repaired(case, layers=["0", "3", "6"])
    alone = min(one.scores["loss"] for one in _best_of_each_method(fix))
    assert fix.selection.scores["loss"] <= alone
    is_sum = "second layer" in fix.selection.params
    assert is_sum == (len(fix.edit.layers) == 2) == (fix.selection.scores["loss"] < alone)
    if is_sum:
        assert fix.selection.params["second layer"] in fix.edit.layers
        assert "on top of it" in fix.summary()
    clean = fix.search.activations["clean"].compare(fix.edit)
    assert clean.accuracy_change >= -fix.search.constraints.max_accuracy_drop


# --- the summary ------------------------------------------------------------------------------------------------------


def test_summary_quotes_the_figures_of_the_table(repaired):
    text = repaired.summary()
    row = repaired.table.loc["selected"]
    assert f"{row.corrected:.0f} of {row.errors}" in text and f"{row['accuracy change']:+.2f} points" in text
    assert repaired.selection.params["method"] in text


def test_settings_may_leave_out_what_rewrite_has_a_default_for(case):
    fix = _repaired(case, settings=grid(**EXACT))
    edits = fix.selection.outcomes.of("edit")
    assert len(edits) == 3 and all("rank" not in candidate.params for candidate in edits.candidates)
    assert fix.summary()


def test_rank_of_none_is_kept_among_ranks(case):
    full_rank = grid(rank=(None,), reference_weight=(0.0,), **EXACT)
    fix = _repaired(case, settings=full_rank)
    assert {candidate.params["rank"] for candidate in fix.selection.outcomes.of("edit").candidates} == {None}
    one_step = {"rank": 1, "objective": "l1", "reference_weight": 0.0, "steps": 1}
    mixed = _repaired(case, settings=[*full_rank, one_step], strengths=(0.5,))
    edits = mixed.selection.outcomes.of("edit")
    assert edits.table()["rank"].tolist() == [None, 1]
    selection = mixed.search.select(edits)
    assert selection.params["rank"] is None and "steps" not in selection.params


def test_repair_takes_exemplars_under_one_name_as_one_edit(case):
    fix = _repaired(case, {"pair": [case.exemplar, case.exemplar]})
    assert {len(members) for members in fix.search.exemplars.values()} == {2}
    assert set(fix.selection.outcomes.table()["exemplar"]) == {"pair"}


def test_repair_with_float64_as_the_default_type(case, repaired, float64):
    model = copy.deepcopy(case.classifier.model)
    of_float32 = Classifier(model, CLASSES, (0.5,) * 3, (0.2,) * 3, size=16)
    of_float64 = Classifier(copy.deepcopy(model).double(), CLASSES, (0.5,) * 3, (0.2,) * 3, size=16)
    for classifier in (of_float32, of_float64):
        fix = repair(classifier, case.exemplar, case.concept, case.clean, **QUICK)
        assert fix.selection.params == repaired.selection.params
        assert fix.summary()
        fix.edit.check_fits(classifier)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_repair_without_edits_selects_a_projection(case):
    """A mask of one pixel has fewer independent keys than the rank; or no strength is tried."""
    mask = torch.zeros(16, 16)
    mask[0, 0] = 1
    small = Exemplar(case.images[0], torch.where(mask > 0, case.images[1], case.images[0]), mask, 1)
    too_high = _repaired(case, small, layers=["3"], settings=grid(rank=(3,), **EXACT))
    without_strengths = _repaired(case, settings=grid(**EXACT), strengths=())
    for fix in (too_high, without_strengths):
        assert fix.selection.outcomes.methods == ["projection"]
        with pytest.raises(ValueError, match="No candidates"):
            fix.search.select(fix.selection.outcomes.of("edit"))


def _files(images, folder):
    for i, image in enumerate(images):
        save_image(folder / f"{i}.png", image)
    return LazyImages([folder / f"{i}.png" for i in range(len(images))], InputGeometry(16, 16))


def test_same_images_are_found_in_any_file_precision_and_size(case, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    files, renamed = (_files(case.concept.images[:5], tmp_path / name) for name in ("one", "other"))
    smooth = resized(torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)), 224)
    for one, other in ((files, files[:]), (files[:].double(), files), (files, renamed), (smooth, resized(smooth, 160))):
        with pytest.raises(ValueError, match="'one' and 'other' .* 5 "):
            check_disjoint({"one": one, "other": other})
        with pytest.raises(ValueError, match="'one' and 'other' .* 3 "):
            check_disjoint({"one": one[2:], "other": other})
        check_disjoint({"one": one[:2], "other": other[2:]})
    concept = LabelledImages(files[:], case.concept.labels[:5], CLASSES)
    with pytest.raises(ValueError, match="'concept' and 'clean' .* 5 "):
        repair(case.classifier, case.exemplar, concept, files, progress=None)


def _with_x_changed(case):
    images = torch.cat([case.exemplar.changed[None], case.concept.images])
    return LabelledImages(images, torch.cat([case.read[:1], case.concept.labels]), CLASSES)


REFUSED = [
    ("concept", _with_x_changed, ValueError, "'concept' and .*x'.* 1 "),
    (
        "clean",
        lambda case: torch.cat([case.clean, case.exemplar.image[None]]),
        ValueError,
        "'clean' and 'exemplars' .* 1 ",
    ),
    ("concept", lambda case: case.concept.images, TypeError, "concept .*Tensor.*LabelledImages"),
    ("clean", lambda case: "my/images", TypeError, "clean .*str"),
    ("retain", lambda case: "my/images", TypeError, "retain .*str"),
]


@pytest.mark.parametrize(("name", "images", "error", "words"), REFUSED)
def test_sets_with_an_exemplar_and_of_another_type_are_refused(case, name, images, error, words):
    sets = {"concept": case.concept, "clean": case.clean, name: images(case)}
    with pytest.raises(error, match=words):
        repair(case.classifier, case.exemplar, **sets, progress=None)


def test_image_that_occurs_twice_is_used_once(case, repaired):
    twice = case.concept.subset([*range(len(case.concept))] * 2)
    with pytest.warns(UserWarning, match=f"'concept' .*{len(case.concept)} "):
        fix = repair(case.classifier, case.exemplar, twice, case.clean, **QUICK)
    assert fix.table.equals(repaired.table)
    with pytest.warns(UserWarning, match="'clean' .*4 "):
        again = repair(case.classifier, case.exemplar, case.concept, torch.cat([case.clean, case.clean[:4]]), **QUICK)
    assert again.table.equals(fix.table)


# --- a search that is ended early -------------------------------------------------------------------------------------


def _bars_that_end(what, count, error=InterruptedError):
    """Make a class of bars that raise an error when so many candidates of a kind were tried."""
    tried = []

    def end(bar):
        tried.append(bar.desc.removesuffix(": "))
        if tried.count(what) == count:
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
    assert not fix.complete and fix.selection.outcomes.methods == ["edit"]
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


def test_selection_without_a_fold_does_not_depend_on_its_images(case, one_goes_on):
    """Images of all splits are in folds, so all of those in one fold may be replaced by noise."""
    concept = case.concept.subset(range(50))
    clean = _in_turn(case, 20)
    retain = case.concept.subset(range(50, 78))
    splits = Splits.of(case.classifier, [case.exemplar], concept, clean, retain)
    changed = {}
    for number, name in enumerate(("target", "clean", "retain")):
        data = splits.labeled[name]
        in_fold = (splits.folds[name] == 1)[:, None, None, None]
        noise = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(number))
        changed[name] = replace(data, images=torch.where(in_fold, noise, data.images))
    constraints = Constraints(max_accuracy_drop=4.0, max_retain_broken=30.0)
    methods = [METHODS["edit"].trying(SETTINGS), METHODS["projection"]]
    found = []
    for one in (splits, replace(splits, **changed)):
        search = Search(case.classifier, case.exemplar, one, LAYERS, constraints)
        found.append(search.cross_validated(search.score(methods), second_layer=True))
    first, second = (selection.fold_selections[1] for selection in found)
    assert first.feasible and first.params == second.params and first.edit.digest == second.edit.digest
    assert str(first.scores) == str(second.scores) and first.going_on == second.going_on
    assert str(found[0].scores) != str(found[1].scores)  # the selection on all images does depend on them


def test_repair_in_two_passes_shows_what_each_layer_gives(case, one_goes_on):
    fix = _repaired(case, layers=LAYERS)
    assert list(fix.layers.layer) == LAYERS
    assert len(fix.selection.outcomes.of("edit").tried_in(FIRST)) == 2 * len(LAYERS)  # of rank 1, and of full rank
    assert fix.layers["goes on"].any() and not fix.layers["goes on"].all()
    best = fix.layers.loc[fix.layers.loss.idxmin()]
    assert best["goes on"] and best.layer in set(fix.selection.outcomes.of("edit").tried_in(SECOND).table()["layer"])


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
    assert torch.equal(one.held_out["target"].after, other.held_out["target"].after)
    assert torch.equal(one.held_out["clean"].after, other.held_out["clean"].after)


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
    assert not fix.complete
    _same_selection(fix.selection, _without_second_layer(whole, *tried[what]))
    assert len(fix.edit.layers) == 1 and fix.verdict.word != "use"


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
def test_search_that_is_ended_in_its_first_pass_keeps_the_best_of_what_was_tried(case, one_goes_on, error):
    whole = _repaired(case, layers=LAYERS)
    edits = whole.search.score(whole.search.methods["edit"]).tried_in(FIRST)
    fix = _repaired(case, layers=LAYERS, progress=_bars_that_end("edit, every layer", 2, error))
    assert not fix.complete and fix.verdict.word != "use"
    _same_selection(fix.selection, _without_second_layer(whole, edits.of_candidates(range(2))))


def test_infeasible_selection_names_the_limit_once(case):
    """Retained images that show the same patch rely on the same rule, so no edit can correct and keep them."""
    shown = torch.where(case.mask > 0, case.images[1], case.images[80:240])
    read = predict(case.classifier, shown).argmax(1)
    relying = shown[read != case.read[80:240]]
    free = _repaired(case, layers=LAYERS)
    fix = repair(case.classifier, case.exemplar, case.concept, case.clean, relying, layers=LAYERS, progress=None)
    alone = free.selection.scores["corrected"]
    limited = fix.selection.scores["corrected"]
    assert alone >= limited + 6 and alone >= 2 * limited
    without_retained = fix.search.select(fix.selection.outcomes, constraints=replace(HALVED, max_retain_broken=100))
    retained = without_retained.retain
    figures = [f"{alone} of ", f"{retained.broken} of {int((~retained.before).sum())} retained images broken"]
    [check] = [check for check in fix.checks if check.name == "a candidate is feasible"]
    assert not check.holds and all(figure in check.advice for figure in figures)
    assert fix.summary().count(figures[1]) == 1 and fix.verdict.advice == verdict_of(fix.checks).advice


def test_advice_begins_with_the_constraint_that_limits_the_edit(case, repaired):
    """A feasible selection that corrects few images."""
    outcomes = repaired.selection.outcomes
    weak = replace(repaired.selection, scores={**repaired.selection.scores, "corrected": 1})
    most = int(outcomes.corrected.max())
    assert most >= 7 and weak.feasible
    limited = Assessment(repaired.search, weak)
    unlimited = verdict_of(limited.checks)
    advice = limited.verdict.advice
    assert limited.verdict.word == unlimited.word and advice.endswith(unlimited.advice) and advice != unlimited.advice
    assert repaired.verdict.advice == verdict_of(repaired.checks).advice


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_fine_tuning_is_proposed_instead_of_an_edit_that_is_not_feasible(case, repaired):
    """A network that corrects all held-out images stands next to a search in which nothing is feasible."""
    search = repaired.search
    nothing = replace(repaired.selection, params={}, edit=0 * repaired.edit)
    held_out = {name: Comparison(one.before, one.before) for name, one in repaired.selection.held_out.items()}
    nothing = replace(nothing, held_out=held_out)
    judged = judged_images(search)
    kept = {name: Comparison(one.before[judged[name]], one.before[judged[name]]) for name, one in held_out.items()}
    right = torch.zeros_like(kept["target"].before)
    evaluation = Evaluation.of_comparisons(search, {**kept, "target": Comparison(kept["target"].before, right)}, judged)
    network = Finetuned(repaired.edit, {}, evaluation, 9)
    assert Assessment(search, nothing).verdict.word == "do not use"
    fix = Assessment(search, nothing, {"fine-tuning": network})
    assert fix.verdict.word == "fine-tune instead" and fix.verdict.lines["instead"] in fix.summary()
    assert "helps:" not in fix.summary()


def test_repair_compares_with_fine_tuning_on_request(case, repaired):
    """The networks and the edit are compared on the same third of the images."""
    weights = copy.deepcopy(case.classifier.model.state_dict())
    fix = _repaired(case, finetuning=True)
    names = ["fine-tuning", "fine-tuning with pasted marks"]
    assert list(fix.table.index) == [*ROWS, *names] and list(fix.finetuned) == names
    assert fix.edit.digest == repaired.edit.digest and fix.complete
    assert all(torch.equal(weight, weights[name]) for name, weight in case.classifier.model.state_dict().items())
    is_judged = fix.search.splits.folds["target"] >= 4
    held_out = fix.selection.held_out["target"]
    for name, network in fix.finetuned.items():
        target = network.evaluation.target
        assert torch.equal(target.before, held_out.before[is_judged])
        assert fix.table.loc[name, "errors"] == int(held_out.before[is_judged].sum())
        figure = f"{target.corrected} of {int(target.before.sum())} corrected and {target.broken} broken"
        assert figure in fix.verdict.lines["instead"]
    on_third = Comparison(held_out.before[is_judged], held_out.after[is_judged])
    figure = f"{on_third.corrected} of {int(on_third.before.sum())} corrected and {on_third.broken} broken"
    assert figure in fix.verdict.lines["instead"] and "not compared" not in fix.verdict.lines["instead"]
    assert fix.alternatives == {name: one.edit for name, one in fix.finetuned.items() if one.edit is not None}


def test_alternative_of_repair_is_the_fine_tuned_network(case):
    """As an edit of all weights, whose network does on the judged images what was required of it."""
    fix = _repaired(case, finetuning=True)
    splits = fix.search.splits
    network = fix.alternatives["fine-tuning"].edited(case.classifier)
    is_judged = splits.folds["target"] >= 4
    after = (predict(network, splits.target).argmax(1) != splits.target.labels)[is_judged]
    assert int(after.sum()) < int(fix.search.target.before[is_judged].sum())
    lost = predict(network, splits.clean).argmax(1) != splits.clean.labels
    assert not lost[splits.folds["clean"] >= 4].any()


def test_fine_tuning_of_few_scenes_is_not_compared_and_says_so(case, repaired):
    few = case.concept.subset(range(5))
    with pytest.warns(UserWarning, match="5 scenes"):
        fix = repair(case.classifier, case.exemplar, few, case.clean, finetuning=True, **QUICK)
    assert not fix.finetuned and fix.search.folds == list(range(5))
    assert "5 scenes" in fix.not_compared and "finetuning=True" not in fix.not_compared


def test_line_instead_tells_how_long_fine_tuning_would_take(repaired):
    minutes = max(round(2 * minutes_of(repaired.search)), 1)
    assert f"(finetuning=True) takes about {minutes} min" in repaired.verdict.lines["instead"]


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("count", "names", "interrupted"),
    [(2, [], "fine-tuning"), (450, ["fine-tuning"], "fine-tuning with pasted marks")],
)
def test_bar_that_raises_in_fine_tuning_leaves_what_is_done(case, repaired, count, names, interrupted, error):
    """The first network takes at most 400 steps, and the second at least 300."""
    fix = _repaired(case, finetuning=True, progress=_bars_that_end("fine-tuning", count, error))
    assert fix.edit.digest == repaired.edit.digest
    assert list(fix.finetuned) == names and list(fix.table.index) == [*ROWS, *names]
    instead = fix.verdict.lines["instead"]
    assert f"{interrupted} was interrupted" in instead and "finetuning=True" not in instead
    assert instead in fix.summary()


def test_fine_tuning_is_not_compared_after_a_search_that_was_ended(case):
    fix = _repaired(case, finetuning=True, progress=_bars_that_end("edit", 4))
    assert not fix.finetuned and "interrupted" in fix.not_compared and "finetuning=True" not in fix.not_compared
