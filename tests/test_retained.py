"""Reference keys in the solve, what constrains the selection, and `repair` on MiniWorld."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest

from edittools.course.miniworld.scenes import scenes
from edittools.cut import Cut, rows
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.methods import METHODS
from edittools.metrics import misclassified, predict
from edittools.moments import second_moments
from edittools.rewriting import pose, rewrite, rewrite_at, solve_least_squares
from edittools.selection import Constraints, Search, grid, repair
from edittools.site import prepare

EXACT = {"objective": "least_squares"}


def _reference(classifier, layer, images):
    return second_moments(classifier, [layer], images)[layer]


def _moved(classifier, edit, images):
    """The mean square movement of the edited layer's outputs, summed over channels: computed by the model itself."""
    name = edit.layers[0]
    module, found = classifier.model.get_submodule(name), []
    handle = module.register_forward_hook(lambda _m, _i, out: found.append(out.detach().double()))
    with torch.no_grad():
        classifier(images)
        with edit.applied(classifier):
            classifier(images)
    handle.remove()
    before, after = found
    return float((after - before).square().sum(1).mean())


@pytest.mark.parametrize("objective", ["least_squares", "l1"])
def test_reference_outputs_move_less_the_more_they_weigh(tiny, photos32, exemplar, objective):
    reference = _reference(tiny, "conv1", photos32[:20])
    settings = {"objective": objective, "steps": 60}
    edits = [rewrite(tiny, "conv1", exemplar, reference, reference_weight=w, **settings) for w in (0.0, 1.0, 10.0)]
    moved = [_moved(tiny, edit, photos32[:20]) for edit in edits]
    assert moved[0] > 1.5 * moved[1] > 1.5 * 1.5 * moved[2]
    losses = [edit.record.loss_after for edit in edits]
    assert losses == sorted(losses)  # a fit costs something


def test_at_weight_1_reference_outputs_cost_as_much_as_what_is_missing_at_the_mask(tiny, photos32, exemplar):
    """Along one direction of a 1 × 1 kernel λ scales the edit, by 1 / (1 + λ r²) where they move r times as far."""
    cut = Cut(tiny, "conv2")
    [basis] = cut.weight.new_tensor(torch.eye(cut.weight.shape[1])[:1].tolist()).split(1)
    for images in (photos32[:20], 0.1 * photos32[:20], torch.zeros(4, 3, 32, 32)):
        site = prepare(tiny, "conv2", exemplar, _reference(tiny, "conv2", images))
        [free] = rewrite_at(site, basis=basis, reference_weight=0.0, **EXACT)
        [held] = rewrite_at(site, basis=basis, reference_weight=5.0, **EXACT)
        at_mask = free.record.response**2 * cut.weight.shape[0]  # a sum over channels
        scale = 1 / (1 + 5 * _moved(tiny, free, images) / at_mask)
        left, expected = held.changes["conv2.weight"].left, scale * free.changes["conv2.weight"].left
        torch.testing.assert_close(left, expected, rtol=5e-3, atol=1e-6)


def test_least_squares_with_two_terms_solves_the_normal_equations(tiny, photos32, exemplar):
    """An independent oracle: rows of reference keys at each offset with target 0, stacked under those at the mask."""
    cut = Cut(tiny, "conv1")
    plain = rewrite(tiny, "conv1", exemplar, _reference(tiny, "conv1", photos32[:20]), rank=2, **EXACT)
    basis = plain.changes["conv1.weight"].right

    at_mask = cut.pool_mask(exemplar.mask[None], "output").flatten().double().sqrt()
    top = cut.unfold(cut.project(cut.keys(cut.prefix(exemplar.changed[None])), basis)) * at_mask[:, None]
    keys = rows(cut.project(cut.keys(cut.prefix(photos32[:20])), basis), False).double()
    seen = torch.cat([torch.kron(keys.contiguous(), offset.contiguous()) for offset in torch.eye(9).double()[:, None]])
    problem = pose(prepare(tiny, "conv1", exemplar), basis=basis)
    wanted = rows(problem.target_output - problem.base_output, False).double() * at_mask[:, None]
    scale = (0.5 * at_mask.square().sum() / len(keys)).sqrt()
    ridge = 1e-3 * top.square().sum() / top.shape[1]
    stacked = torch.cat([top, scale * seen, ridge.sqrt() * torch.eye(top.shape[1]).double()])
    targets = torch.cat([wanted, torch.zeros(len(stacked) - len(wanted), wanted.shape[1]).double()])
    expected = torch.linalg.lstsq(stacked, targets, driver="gelsd").solution.T.reshape(problem.coefficients_shape)
    moment = keys.T @ keys / len(keys)
    found = solve_least_squares(replace(problem, reference_weight=0.5, moment=moment, offsets=torch.eye(9)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


def test_repair_goes_from_an_exemplar_to_a_summary(snow, fix):
    classifier, concept = snow["classifier"], snow["concept"]
    assert isinstance(fix.edit, Edit) and fix.complete
    row = fix.table.loc["selected"]
    assert row.errors == 17 and row.corrected >= 10 and row.broken == 0 and row["retained broken"] <= 3
    assert list(fix.table.index) == ["selected", "random direction"]
    assert set(fix.edit.layers) <= set(snow["layers"])
    with fix.edit.applied(classifier):
        after = misclassified(predict(classifier, concept), concept.labels)
    assert int(after.sum()) <= row.errors - row.corrected
    assert torch.equal(after, fix.selection.wrong)
    text = fix.summary()
    for words in ("helps: ", "costs: ", "instead: ", "Selected: ", "is inside the mask"):
        assert words in text


def _misclassified(classifier, edit, images):
    """Which images are misclassified by the model itself with an edit."""
    with edit.applied(classifier):
        return misclassified(predict(classifier, images), images.labels)


def _held_out_by_hand(search, outcomes, is_allowed):
    """Select without each fold by hand, with the model itself; give what is misclassified in each split, by name.

    Args:
        search: the search, with folds.
        outcomes: the outcomes of all candidates.
        is_allowed: tells from the errors before and with a candidate, by split, of the images outside of a fold.
    """
    classifier, splits = search.classifier, search.splits
    before = {name: misclassified(predict(classifier, data), data.labels) for name, data in splits.labeled.items()}
    held_out = {name: wrong.clone() for name, wrong in before.items()}
    with_edit = []
    for candidate in outcomes.candidates:
        sets = splits.labeled.items()
        with_edit.append({name: _misclassified(classifier, candidate.scaled, data) for name, data in sets})
    first_choices = 0
    for fold in range(6):
        outside = {name: splits.folds[name] != fold for name in before}
        losses = outcomes.losses[:, outside["target"]].double().mean(1)
        order = losses.argsort(stable=True).tolist()
        for index in order:
            without = {name: wrong[outside[name]] for name, wrong in with_edit[index].items()}
            if is_allowed({name: wrong[outside[name]] for name, wrong in before.items()}, without):
                first_choices += index == order[0]
                for name, wrong in with_edit[index].items():
                    held_out[name][~outside[name]] = wrong[~outside[name]]
                break
    return held_out, first_choices


def test_repair_holds_each_fold_out_of_the_selection_of_the_edit(snow, fix):
    """By hand: 60 clean and 29 correct retained images are so few that none may be lost and none may break."""

    def is_allowed(before, after):
        is_broken = after["retain"] & ~before["retain"]
        gain = int(before["target"].sum()) - int(after["target"].sum())
        return gain > 0 and not is_broken.any() and after["clean"].sum() <= before["clean"].sum()

    assert fix.search.constraints == Constraints(0.125, 1.5, 1.5)
    expected, _ = _held_out_by_hand(fix.search, fix.selection.outcomes, is_allowed)
    assert {name: len(after) for name, after in expected.items()} == {"target": 30, "retain": 31, "clean": 60}
    for name, after in expected.items():
        assert torch.equal(fix.selection.held_out[name].after, after)


def test_repair_gives_the_same_edit_again(snow, fix):
    again = repair(**snow)
    assert fix.edit.digest == again.edit.digest
    assert again.table.equals(fix.table)


# --- the concept's own class ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_sleds(snow):
    """Arguments of `repair` with sleds on snow among the images with the concept, and sleds among the clean images."""
    concept, clean = snow["concept"], snow["clean"]
    sleds = scenes(24, 7_700_000, ["sled"] * 24, ground="snow")
    bare_sleds = scenes(40, 7_800_000, ["sled"] * 40, ground="road")
    joined = []
    for one, other in ((sleds, concept), (clean, bare_sleds)):
        images = torch.cat([one.images, other.images])
        joined.append(LabelledImages(images, torch.cat([one.labels, other.labels]), one.classes))
    return {**snow, "concept": joined[0], "clean": joined[1], "retain": None}


@pytest.fixture(scope="module")
def own_fix(with_sleds):
    return repair(**with_sleds)


def test_images_of_the_class_that_the_concept_argues_for_are_a_split_of_their_own(snow, own_fix):
    """x' is predicted as a sled, x is not: sleds with the concept are no target of the edit, by their label."""
    splits = own_fix.search.splits
    sled = snow["classifier"].classes.index("sled")
    assert splits.own_class.labels.tolist() == [sled] * 24
    assert torch.equal(splits.target.labels, snow["concept"].labels)
    assert torch.equal(splits.target.images, snow["concept"].images)
    assert own_fix.evaluation.own_class is own_fix.selection.held_out["own_class"]
    assert len(splits.folds["own_class"].unique()) == 6
    assert own_fix.table.loc["selected", "errors"] == 17


def test_own_class_with_the_concept_is_compared_with_the_same_class_without_it(snow, own_fix):
    """By hand, with the model itself; the constraint is half as strict as the check."""
    search, splits = own_fix.search, own_fix.search.splits
    sled = snow["classifier"].classes.index("sled")
    bare = splits.clean.subset(splits.clean.labels == sled)
    correct = ~misclassified(predict(snow["classifier"], bare), bare.labels)
    assert len(bare) >= 20 and torch.equal(search.without_concept.sort().values, correct.sort().values)
    accuracy = float(correct.float().mean())
    assert search.accuracy_without_concept == pytest.approx(accuracy)
    after = own_fix.evaluation.own_class.after
    [check] = [check for check in own_fix.checks if "own class" in check.name]
    assert check.holds == (int(after.sum()) <= 24 * (1 - accuracy + 0.03) + 1e-9)
    assert (
        f"{1 - float(after.float().mean()):.0%} of 24" in check.figure
        and f"{accuracy:.0%} of {len(bare)}" in check.figure
    )


def test_own_class_constrains_the_selection_without_each_fold(with_sleds, own_fix):
    """By hand, in a search that allows much on clean images, and asks for half of the points on the own class."""
    constraints = Constraints(max_accuracy_drop=100.0, max_own_drop=1.5)
    members = [with_sleds["exemplars"]]
    splits = own_fix.search.splits
    search = Search(with_sleds["classifier"], members, splits, with_sleds["layers"], constraints)
    settings = grid(rank=(1, 3), reference_weight=(0.0, 10.0), objective=("least_squares",))
    outcomes = search.score(METHODS["edit"].trying(settings, (1.0, 3.0)))
    accuracy = search.accuracy_without_concept

    def is_allowed(before, after):
        gain = int(before["target"].sum()) - int(after["target"].sum())
        own = after["own_class"]
        return gain > 0 and int(own.sum()) <= len(own) * (1 - accuracy + 0.015) + 1e-9

    expected, first_choices = _held_out_by_hand(search, outcomes, is_allowed)
    selection = search.cross_validated(outcomes)
    for name, after in expected.items():
        assert torch.equal(selection.held_out[name].after, after)
    assert first_choices < 6  # the constraint decides somewhere


def test_own_class_is_not_measured_with_few_images(with_sleds, snow):
    """With 19 images of it, or 19 clean ones, there is neither a constraint nor a figure."""
    concept = with_sleds["concept"]
    few = repair(**{**with_sleds, "concept": concept.subset(range(5, len(concept)))})
    without = repair(**{**with_sleds, "clean": snow["clean"]})
    for fix, own, others in ((few, 19, None), (without, 24, len(without.search.without_concept))):
        assert fix.search.accuracy_without_concept is None
        [check] = [check for check in fix.checks if "own class" in check.name]
        assert check.status == "not measured" and check.allows == "use" and f"({own} images" in check.figure
        assert others is None or (others < 20 and f"{others} without" in check.figure)


def test_concept_images_of_the_own_class_alone_are_refused(with_sleds):
    with pytest.raises(ValueError, match="1 of 25 .*'sled'"):
        repair(**{**with_sleds, "concept": with_sleds["concept"].subset(range(25))})


# --- near-duplicates --------------------------------------------------------------------------------------------------


def test_frames_of_one_scene_are_in_one_fold_and_count_once(snow):
    """Three frames of each scene, of which each next one is a little darker."""
    concept = snow["concept"].subset(range(12))
    frames = torch.stack([0.975**number * concept.images for number in range(3)], dim=1).flatten(0, 1)
    burst = LabelledImages(frames, concept.labels.repeat_interleave(3), concept.classes)
    fix = repair(**{**snow, "concept": burst})
    splits = fix.search.splits
    assert torch.equal(splits.scenes, torch.arange(12).repeat_interleave(3))
    folds = splits.folds["target"].reshape(12, 3)
    assert torch.equal(folds, folds[:, :1].expand(12, 3)) and folds[:, 0].bincount().tolist() == [2] * 6
    held_out = fix.evaluation.target
    gains = (held_out.before.long() - held_out.after.long()).reshape(12, 3).sum(dim=1)
    gained, lost = int((gains > 0).sum()), int((gains < 0).sum())
    p = binomtest(gained, gained + lost).pvalue
    assert held_out.corrected > gained > 0
    [check] = [check for check in fix.checks if "it corrects more than it breaks" in check.name]
    assert f"(p {p:.2g})" in check.figure and "12 scenes" in check.figure
    assert f"corrects {held_out.corrected} of {int(held_out.before.sum())} " in check.figure


# --- what is refused --------------------------------------------------------------------------------------------------


def test_repair_does_not_measure_an_empty_retained_set(snow):
    sleds = snow["retain"]["sleds"]
    with pytest.warns(UserWarning, match=r"retain\['huskies'\]"):
        fix = repair(**{**snow, "retain": {"sleds": sleds, "huskies": sleds.subset([])}})
    [check] = [check for check in fix.checks if "'huskies'" in check.name]
    assert check.holds is None


def test_repair_does_not_measure_retained_sets_that_are_all_empty(snow):
    sleds = snow["retain"]["sleds"]
    retain = {"sleds": sleds.subset([]), "huskies": sleds.images[:0]}
    with pytest.warns(UserWarning) as warned:
        fix = repair(**{**snow, "retain": retain})
    assert {name for name in retain for one in warned if f"retain[{name!r}]" in str(one.message)} == set(retain)
    holds = {check.name: check.holds for check in fix.checks if "retain" in check.name}
    assert len(holds) >= 2 and set(holds.values()) == {None}
    assert fix.verdict.word != "use"


def test_repair_without_a_feasible_candidate_says_what_stands_in_the_way(snow):
    concept = snow["concept"]
    other = LabelledImages(concept.images, (concept.labels + 7) % 16, snow["classifier"].classes)
    lost = repair(**{**snow, "layers": ["features.15"], "concept": other})
    assert not lost.selection.feasible
    assert "misclassified for another reason" in lost.summary()
    assert not any(change.delta().any() for change in lost.edit.changes.values())


def test_repair_refuses_sets_that_it_cannot_use(snow):
    concept = snow["concept"]
    right = replace(concept, labels=predict(snow["classifier"], concept).argmax(1))
    right = right.subset(right.labels == concept.labels)
    cases = [
        ({"concept": concept.subset([1])}, "1 images"),
        ({"concept": right}, "All 13 images"),
        ({"retain": concept}, "'retain' and 'concept' .* 30 "),
        ({"retain": snow["exemplars"].image[None]}, "'retain' and 'exemplars' .* 1 "),
        ({"clean": concept}, "'concept' and 'clean' .* 30 "),
        ({"clean": snow["clean"].subset([0, 1])}, "2 clean"),
        ({"exemplars": []}, "no exemplar"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            repair(**{**snow, **options})


def test_repair_maps_labels_into_other_classes_by_name(snow, fix):
    concept, names = snow["concept"], snow["classifier"].classes[::-1]
    reversed_labels = LabelledImages(concept.images, len(names) - 1 - concept.labels, names)
    again = repair(**{**snow, "concept": reversed_labels})
    assert again.edit.digest == fix.edit.digest
    assert again.table.equals(fix.table)
    unknown = LabelledImages(concept.images, torch.zeros(len(concept)).long(), ["hovercraft"])
    with pytest.raises(ValueError, match="concept.*'hovercraft'"):
        repair(**{**snow, "concept": unknown})
