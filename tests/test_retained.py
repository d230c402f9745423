"""Reference keys in the solve, retained images in the selection, and `repair` on MiniWorld."""

import html
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import make_exemplar

from edittools.baselines.finetuning import finetune
from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all, rows
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.miniworld.contexts import contexts
from edittools.miniworld.scenes import CLASSES, scenes
from edittools.models import load_classifier
from edittools.moments import keys_of, measure
from edittools.rewriting import pose, rewrite, solve_least_squares
from edittools.scenarios.snow import car_exemplars
from edittools.selection import Constraints, candidate_layers, later_layers, repair
from edittools.selection.activations import CachedActivations
from edittools.selection.constraints import ConstraintCheck
from edittools.selection.search import select_best, stratified_folds

EXACT = {"objective": "least_squares"}


def _reference(cut, images):
    return replace(measure(cut.classifier, [cut.layer], images)[cut.layer], sample=keys_of(cut, images))


def _windows(cut, images, basis):
    return pose(cut, make_exemplar(), basis=basis).window_moment(keys_of(cut, images))


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


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_windows_are_what_unfolding_the_keys_gives(tiny, photos32, layer):
    cut = Cut(tiny, layer)
    basis = torch.linalg.qr(torch.randn(cut.weight.shape[1], 2, generator=torch.Generator().manual_seed(0))).Q.T
    seen = []
    for image in photos32[:6]:
        maps = torch.einsum("rn,bnhw->brhw", basis, cut.keys(cut.prefix(image[None])))
        conv = cut.model.get_submodule(cut.layer)
        unfolded = torch.nn.functional.unfold(maps, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        seen.append(unfolded[0].T.double())
    seen = torch.cat(seen)
    torch.testing.assert_close(_windows(cut, photos32[:6], basis), seen.T @ seen / len(seen), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["least_squares", "l1"])
def test_reference_outputs_move_less_the_more_they_weigh(tiny, photos32, exemplar, objective):
    reference = _reference(Cut(tiny, "conv1"), photos32[:20])
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
        reference = _reference(cut, images)
        free, held = (
            rewrite(tiny, cut, exemplar, reference, basis=basis, reference_weight=w, **EXACT) for w in (0.0, 5.0)
        )
        at_mask = free.record.response**2 * cut.weight.shape[0]  # a sum over channels
        scale = 1 / (1 + 5 * _moved(tiny, free, images) / at_mask)
        left, expected = held.changes["conv2.weight"].left, scale * free.changes["conv2.weight"].left
        torch.testing.assert_close(left, expected, rtol=5e-3, atol=1e-6)


def test_least_squares_with_two_terms_solves_the_normal_equations(tiny, photos32, exemplar):
    """An independent oracle: rows of reference windows with target 0, stacked under those at the mask."""
    cut = Cut(tiny, "conv1")
    plain = rewrite(tiny, cut, exemplar, _reference(cut, photos32[:20]), rank=2, **EXACT)
    basis = plain.changes["conv1.weight"].right

    def design(images):
        return cut.unfold(cut.project(cut.keys(cut.prefix(images)), basis))

    at_mask = cut.pool_mask(exemplar.mask[None], "output").flatten().double().sqrt()
    top, seen = design(exemplar.changed[None]) * at_mask[:, None], design(photos32[:20])
    problem = pose(cut, exemplar, basis=basis)
    wanted = rows(problem.target_output - problem.base_output, False).double() * at_mask[:, None]
    scale = (0.5 * at_mask.square().sum() / len(seen)).sqrt()
    stacked = torch.cat([top, scale * seen])
    targets = torch.cat([wanted, torch.zeros(len(seen), wanted.shape[1]).double()])
    expected = torch.linalg.lstsq(stacked, targets, driver="gelsd").solution.T.reshape(problem.shape)
    windows = _windows(cut, photos32[:20], basis)
    found = solve_least_squares(replace(problem, reference_gram=0.5 * windows), ridge=0.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


def test_select_best_breaks_no_more_retained_images_than_it_may(tiny, photos32, exemplar):
    labels = predict(tiny, photos32).argmax(1)
    wrong = labels.clone()
    wrong[:10] = (wrong[:10] + 1) % 5
    data = LabelledImages(photos32, wrong, tiny.classes)
    cuts = cut_all(tiny, ["conv1"])
    retain = CachedActivations(cuts, data.subset(range(20, 40)))
    tuned = [finetune(tiny, cuts["conv1"], replace(exemplar, label=i), rate=0.5, steps=20) for i in range(5)]
    edits = [strength * edit for edit in tuned for strength in (1e-3, 10)]
    broken = [retain.compare(edit).broken for edit in edits]
    assert min(broken) == 0 < max(broken)
    worst = int(np.argmax(broken))
    columns = {"loss": 1.0, "net": 1, "corrected": 1, "broken": 0, "layer": "conv1", "wrong": None}
    table = pd.DataFrame({"edit": edits, **columns})
    table.loc[worst, "loss"] = 0.5
    free = _Free()
    assert select_best(table, ConstraintCheck(free), Constraints()).edit is edits[worst]
    selection = select_best(table, ConstraintCheck(free, retain), Constraints())
    assert selection.edit is not edits[worst] and selection.retain.broken == 0
    nothing = select_best(table.loc[[worst]], ConstraintCheck(free, retain), Constraints())
    assert not nothing.feasible and nothing.retain.broken == 0


class _Free:
    """Clean images that no edit costs."""

    applied = ()
    before = torch.zeros(4, dtype=torch.bool)

    def check_model(self):
        """Nothing changes the model."""

    def compare(self, edit, stop, checked=False):
        return Comparison(self.before, self.before)


@pytest.fixture(scope="module")
def snow():
    """Fewer of the scenes that `scenarios.snow` renders."""
    classifier, family = load_classifier("mini_vgg"), contexts().family
    others = [name for name in CLASSES if family[name] == "vehicle" and name != "car"]
    polar = [name for name in CLASSES if family[name] == "polar"]

    def rendered(count, seed, names, ground=None):
        return scenes(count, 5_000_000 + seed, [names[i % len(names)] for i in range(count)], ground=ground)

    sets = {
        "target": rendered(72, 0, others, "snow"),
        "retain": rendered(60, 1000, polar),
        "clean": scenes(160, 5_002_000),
    }
    return SimpleNamespace(classifier=classifier, exemplar=car_exemplars(classifier, 1)["car 1"], **sets)


@pytest.fixture(scope="module")
def call(snow):
    """Arguments of `repair` on MiniWorld: 16 failing vehicles on snow, clean scenes, scenes that live on snow."""
    wrong = misclassified(predict(snow.classifier, snow.target), snow.target.labels).nonzero()[:16, 0]
    return {
        "failing": snow.target.subset(wrong),
        "clean": snow.clean,
        "retain": snow.retain,
        "progress": False,
        "strengths": (1.0,),
        "layers": candidate_layers(snow.classifier)[-4::2],
    }


@pytest.fixture(scope="module")
def fix(snow, call):
    return repair(snow.classifier, snow.exemplar, **call)


def test_repair_goes_from_an_exemplar_to_a_summary(snow, call, fix):
    assert isinstance(fix.edit, Edit) and fix.complete
    row = fix.table.loc["selected"]
    assert row.failing == 16 and row.corrected >= 8 and row.broken == 0 and row["retained broken"] <= 3
    rows = {"selected", "edit", "closed form", "projection"}
    rows |= {"random direction", "local fine-tuning", "logit correction"}
    assert set(fix.table.index) == rows
    assert set(fix.edit.layers) <= set(call["layers"])
    with fix.edit.applied(snow.classifier):
        after = misclassified(predict(snow.classifier, call["failing"]), call["failing"].labels)
    assert int((~after).sum()) >= row.corrected
    assert torch.equal(after, fix.selection.wrong)
    text = fix.summary()
    for words in ("Selected: ", "is inside the mask", "Generality ", "Cost: ", "low-rank edit alone", "Other methods"):
        assert words in text


def test_repair_holds_each_fold_out_of_the_selection_of_the_edit(snow, call, fix):
    """By hand: for each fold, the candidate that all images of the other folds select under the constraints."""
    selection = fix.selections["edit"]
    table = selection.results
    check = ConstraintCheck(fix.search.activations["clean"], fix.search.activations["retain"])
    constraints = Constraints(max_accuracy_drop=100 / 80)
    assert fix.search.constraints == constraints
    for fold in torch.nn.functional.one_hot(stratified_folds(call["failing"].labels)).bool().T:
        losses = torch.stack(list(table.losses))[:, ~fold].mean(1)
        wrong = torch.stack(list(table.wrong))[:, ~fold].sum(1)
        helping = [i for i in losses.argsort(stable=True).tolist() if wrong[i] < 16 - int(fold.sum())]
        first = next((i for i in helping if check.measure(table.edit.iloc[i], constraints)), None)
        expected = selection.held_out.before[fold] if first is None else table.wrong.iloc[first][fold]
        assert torch.equal(selection.held_out.after[fold], expected)


def test_later_layers_are_the_later_half_of_the_convolutions(snow):
    names = candidate_layers(snow.classifier)
    assert later_layers(snow.classifier) == list(names[len(names) // 2 :])
    assert later_layers(snow.classifier, most=2) == [names[-3], names[-1]]
    small = torchvision.models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5)
    layers = later_layers(Classifier(small, list("abcde"), size=32))
    assert layers and all("mlp" in layer or "head" in layer for layer in layers)


def test_repair_gives_the_same_edit_again(snow, call, fix):
    again = repair(snow.classifier, snow.exemplar, baselines=False, **call)
    assert fix.edit.digest == again.edit.digest
    assert list(again.table.index) == ["selected", "edit", "closed form", "projection"]


def test_repair_does_not_measure_an_empty_retained_set(snow, call):
    options = {**call, "retain": {"polar": snow.retain, "huskies": snow.retain.subset([])}, "baselines": False}
    with pytest.warns(UserWarning, match=r"retain\['huskies'\] has no images"):
        fix = repair(snow.classifier, snow.exemplar, **options)
    page = html.unescape(fix.report_html())
    assert re.search(r"not measured</span>\s*<div><b>[^<]*'huskies'", page) is not None


def test_repair_without_a_feasible_candidate_says_what_stands_in_the_way(snow, call):
    failing = call["failing"]
    other = LabelledImages(failing.images, (failing.labels + 7) % 16, snow.classifier.classes)
    options = {**call, "baselines": False, "layers": ["features.15"], "failing": other}
    lost = repair(snow.classifier, snow.exemplar, **options)
    assert not lost.selection.feasible
    assert "misclassified for another reason" in lost.summary()
    assert not any(change.delta().any() for change in lost.edit.changes.values())


def test_repair_refuses_sets_that_it_cannot_use(snow, call):
    is_right = misclassified(predict(snow.classifier, snow.target), snow.target.labels).logical_not()
    right = is_right.nonzero()[:4, 0]
    cases = [
        ({"failing": call["failing"].subset([0])}, "1 failing images were given; pass at least two"),
        ({"failing": snow.target.subset(right)}, "All 4 failing images are classified as labeled"),
        ({"retain": call["failing"]}, "'retain' and 'failing' share 16 images"),
        ({"retain": snow.exemplar.image[None]}, "'retain' and 'exemplars' share 1 images"),
        ({"clean": call["failing"]}, "'failing' and 'clean' share 16 images"),
        ({"clean": call["clean"].subset([0, 1])}, "2 clean images were given; pass at least three"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            repair(snow.classifier, snow.exemplar, **{**call, **options})
    with pytest.raises(ValueError, match="No exemplar"):
        repair(snow.classifier, [], **call)


def test_repair_maps_labels_into_other_classes_by_name(snow, call, fix):
    failing, names = call["failing"], snow.classifier.classes[::-1]
    reversed_labels = LabelledImages(failing.images, len(names) - 1 - failing.labels, names)
    options = {**call, "failing": reversed_labels, "baselines": False}
    again = repair(snow.classifier, snow.exemplar, **options)
    assert again.edit.digest == fix.edit.digest
    assert again.table.loc["edit"].equals(fix.table.loc["edit"])
    unknown = LabelledImages(failing.images, torch.zeros(len(failing)).long(), ["hovercraft"])
    with pytest.raises(ValueError, match="failing: no class 'hovercraft'"):
        repair(snow.classifier, snow.exemplar, **{**call, "failing": unknown})
