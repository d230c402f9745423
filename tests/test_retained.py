"""Reference keys in the solve, retained images in the selection, and `repair` on MiniWorld."""

from dataclasses import replace

import pytest
import torch

from edittools.cut import Cut, rows
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict
from edittools.moments import second_moments
from edittools.rewriting import pose, rewrite, rewrite_at, solve_least_squares
from edittools.selection import Constraints, repair, stratified_folds
from edittools.selection.constraints import ConstraintCheck
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
    classifier, failing = snow["classifier"], snow["failing"]
    assert isinstance(fix.edit, Edit) and fix.complete
    row = fix.table.loc["selected"]
    assert row.failing == 12 and row.corrected >= 6 and row.broken == 0 and row["retained broken"] <= 3
    rows = {"selected", "edit", "projection"}
    rows |= {"random direction", "local fine-tuning", "logit correction"}
    assert set(fix.table.index) == rows
    assert set(fix.edit.layers) <= set(snow["layers"])
    with fix.edit.applied(classifier):
        after = misclassified(predict(classifier, failing), failing.labels)
    assert int((~after).sum()) >= row.corrected
    assert torch.equal(after, fix.selection.wrong)
    text = fix.summary()
    for words in ("Selected: ", "is inside the mask", "Locality: ", "edit alone", "Other methods"):
        assert words in text


def test_repair_holds_each_fold_out_of_the_selection_of_the_edit(snow, fix):
    """By hand: for each fold, the candidate that all images of the other folds select under the constraints."""
    selection = fix.selections["edit"]
    outcomes = selection.outcomes
    check = ConstraintCheck(fix.search.activations["clean"], fix.search.activations["retain"])
    constraints = Constraints(max_accuracy_drop=100 / 40)
    assert fix.search.constraints == constraints
    for fold in torch.nn.functional.one_hot(stratified_folds(snow["failing"].labels)).bool().T:
        losses = outcomes.losses[:, ~fold].mean(1)
        wrong = outcomes.wrong[:, ~fold].sum(1)
        helping = [i for i in losses.argsort(stable=True).tolist() if wrong[i] < 12 - int(fold.sum())]
        first = next((i for i in helping if check.measure(outcomes.candidates[i].scaled, 1.0, constraints)), None)
        expected = selection.held_out.before[fold] if first is None else outcomes.wrong[first][fold]
        assert torch.equal(selection.held_out.after[fold], expected)


def test_repair_gives_the_same_edit_again(snow, fix):
    again = repair(**snow, baselines=False)
    assert fix.edit.digest == again.edit.digest
    assert list(again.table.index) == ["selected", "edit", "projection"]


def test_repair_does_not_measure_an_empty_retained_set(snow):
    sleds = snow["retain"]["sleds"]
    with pytest.warns(UserWarning, match=r"retain\['huskies'\]"):
        fix = repair(**{**snow, "retain": {"sleds": sleds, "huskies": sleds.subset([])}, "baselines": False})
    [check] = [check for check in fix.checks if "'huskies'" in check.name]
    assert check.holds is None


def test_repair_does_not_measure_retained_sets_that_are_all_empty(snow):
    sleds = snow["retain"]["sleds"]
    retain = {"sleds": sleds.subset([]), "huskies": sleds.images[:0]}
    with pytest.warns(UserWarning) as warned:
        fix = repair(**{**snow, "retain": retain, "baselines": False})
    assert {name for name in retain for one in warned if f"retain[{name!r}]" in str(one.message)} == set(retain)
    holds = {check.name: check.holds for check in fix.checks if "retain" in check.name}
    assert len(holds) >= 2 and set(holds.values()) == {None}
    assert fix.verdict.word != "use"


def test_repair_without_a_feasible_candidate_says_what_stands_in_the_way(snow):
    failing = snow["failing"]
    other = LabelledImages(failing.images, (failing.labels + 7) % 16, snow["classifier"].classes)
    lost = repair(**{**snow, "baselines": False, "layers": ["features.15"], "failing": other})
    assert not lost.selection.feasible
    assert "misclassified for another reason" in lost.summary()
    assert not any(change.delta().any() for change in lost.edit.changes.values())


def test_repair_refuses_sets_that_it_cannot_use(snow):
    failing = snow["failing"]
    right = replace(failing, labels=predict(snow["classifier"], failing).argmax(1)).subset(range(4))
    cases = [
        ({"failing": failing.subset([0])}, "1 failing"),
        ({"failing": right}, " 4 failing"),
        ({"retain": failing}, "'retain' and 'failing' .* 12 "),
        ({"retain": snow["exemplars"].image[None]}, "'retain' and 'exemplars' .* 1 "),
        ({"clean": failing}, "'failing' and 'clean' .* 12 "),
        ({"clean": snow["clean"].subset([0, 1])}, "2 clean"),
        ({"exemplars": []}, "no exemplar"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            repair(**{**snow, **options})


def test_repair_maps_labels_into_other_classes_by_name(snow, fix):
    failing, names = snow["failing"], snow["classifier"].classes[::-1]
    reversed_labels = LabelledImages(failing.images, len(names) - 1 - failing.labels, names)
    again = repair(**{**snow, "failing": reversed_labels, "baselines": False})
    assert again.edit.digest == fix.edit.digest
    assert again.table.loc["edit"].equals(fix.table.loc["edit"])
    unknown = LabelledImages(failing.images, torch.zeros(len(failing)).long(), ["hovercraft"])
    with pytest.raises(ValueError, match="failing.*'hovercraft'"):
        repair(**{**snow, "failing": unknown})
