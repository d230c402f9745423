"""Fine-tuning of the whole network, which an edit is compared with: what trains, what selects, and what evaluates."""

from dataclasses import replace

import pytest
import torch
from _lib.striped import plain_network, squares, stripe_mask, with_stripe
from conftest import shared_images

from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict
from edittools.selection import Constraints, Search, Splits, finetuning, repair
from edittools.selection.finetuning import JUDGING, finetune_network, judged_images

LOOSE = Constraints(max_accuracy_drop=100, max_retain_broken=100, max_own_drop=100)


@pytest.fixture(scope="module")
def network():
    """A small network that tells squares by their tint. No test changes it."""
    return plain_network(steps=100)


@pytest.fixture(scope="module")
def exemplar():
    """A square with and without a stripe."""
    [image] = squares(1, 500).images
    return Exemplar(image, with_stripe(image[None], 501)[0], stripe_mask(), 1)


@pytest.fixture
def one_candidate(monkeypatch):
    """Try one rate, one number of steps and one weight."""
    monkeypatch.setattr(finetuning, "RATES", (3e-3,))
    monkeypatch.setattr(finetuning, "FURTHER_RATES", (3e-3, 3e-3))
    monkeypatch.setattr(finetuning, "CHECKPOINTS", (100,))
    monkeypatch.setattr(finetuning, "WEIGHTS", (1.0,))


def sets_of(classifier, seed=0):
    """Squares with the predictions as labels; but half of the target images have a white half and another label."""
    images = squares(230, seed).images
    images[:60, :, 16:] = 1
    labels = predict(classifier, images).argmax(1)
    labels[:60] = (labels[:60].mode().values + 1) % 5
    data = LabelledImages(images, labels, classifier.classes)
    parts = {"target": (0, 116), "reference": (116, 140), "clean": (140, 200), "retain": (200, 230)}
    return {name: data.subset(range(*part)) for name, part in parts.items()}


def search_of(classifier, exemplar, sets, constraints=LOOSE):
    splits = Splits(**sets).with_folds()
    return Search(classifier, exemplar, splits, ["3"], constraints)


def test_network_is_trained_on_four_folds_and_measured_on_two(network, exemplar, one_candidate):
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    search = search_of(network, exemplar, sets_of(network))
    found = finetune_network(search, progress=None)
    assert found.candidates == 2 and found.settings == {"rate": 3e-3, "steps": 100, "weight": 1.0}
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    edited = found.edit.edited(network)
    judged = judged_images(search)
    compared = {"target": found.evaluation.target, "clean": found.evaluation.clean}
    compared["retain"] = found.evaluation.all_retained
    for name, comparison in compared.items():
        data = search.splits.labeled[name].subset(judged[name])
        assert len(data) == int(torch.isin(search.splits.folds[name], torch.tensor(JUDGING)).sum())
        assert torch.equal(comparison.before, misclassified(predict(network, data), data.labels))
        assert torch.equal(comparison.after, misclassified(predict(edited, data), data.labels))


def test_images_of_the_judging_folds_do_not_train(network, exemplar, one_candidate):
    """With other pixels there, the same network is trained, if it is selected."""
    sets = sets_of(network)
    digests = set()
    folds = Splits(**sets).with_folds().folds
    for seed in (1, 2):
        noise = torch.Generator().manual_seed(seed)
        changed = dict(sets)
        for name in ("clean", "retain"):
            is_judged = (folds[name] >= JUDGING[0])[:, None, None, None]
            other = torch.rand(sets[name].images.shape, generator=noise)
            changed[name] = replace(sets[name], images=torch.where(is_judged, other, sets[name].images))
        digests.add(finetune_network(search_of(network, exemplar, changed), progress=None).edit.digest)
    assert len(digests) == 1


def test_network_that_costs_too_much_is_not_selected(network, exemplar, one_candidate, monkeypatch):
    monkeypatch.setattr(finetuning, "RATES", (1.0,))  # destroys the network
    strict = Constraints(max_accuracy_drop=0, max_retain_broken=0)
    found = finetune_network(search_of(network, exemplar, sets_of(network), strict), progress=None)
    assert found.edit is None and not found.settings
    assert torch.equal(found.evaluation.target.after, found.evaluation.target.before)


def test_without_limits_the_network_with_a_net_gain_is_selected(network, exemplar, one_candidate):
    strict = Constraints(max_accuracy_drop=0, max_retain_broken=0)
    search = search_of(network, exemplar, sets_of(network), strict)
    loose = finetune_network(search_of(network, exemplar, sets_of(network)), progress=None)
    found = finetune_network(search, progress=None)
    assert found.without_limits.edit.digest == loose.edit.digest
    assert found.without_limits.evaluation.target.corrected > 0


def test_each_judging_fold_is_evaluated_with_what_the_other_one_selects(network, exemplar, monkeypatch):
    """Two candidates, of which one is right on each fold only."""
    search = search_of(network, exemplar, sets_of(network))
    judged = finetuning._JudgedImages(search)
    judge = finetuning._Judge(judged, search.constraints)
    folds = judged.folds["target"]
    nothing = {name: before for name, before in judged.before.items() if name != "target"}
    right_in = {fold: judged.before["target"] & (folds != fold) for fold in JUDGING}
    for fold, other in (JUDGING, JUDGING[::-1]):
        judge.best[fold,] = finetuning._Best(0.0, {**nothing, "target": right_in[fold]}, {"rate": float(fold)})
        assert judged.before["target"][folds == other].any()
    target = judge.finetuned(candidates=2).evaluation.target
    assert torch.equal(target.after, target.before)  # each was right on the fold that selected it, and not on the other


def test_rate_beyond_the_boundary_is_tried_once():
    smallest, middle, largest = finetuning.RATES
    assert finetuning._further_rate(smallest) == [finetuning.FURTHER_RATES[0]]
    assert finetuning._further_rate(largest) == [finetuning.FURTHER_RATES[1]]
    assert finetuning._further_rate(middle) == finetuning._further_rate(None) == []


def test_batch_has_images_with_the_concept_or_pasted_marks(network, exemplar):
    search = search_of(network, exemplar, sets_of(network))
    pools = finetuning._pools(search)
    generator = torch.Generator().manual_seed(0)
    images, labels = finetuning._batch(pools, None, generator)
    assert len(images) == len(labels) == finetuning.BATCH + finetuning.CONCEPT_BATCH
    either = [images, images.flip(3)]
    concept = pools["concept"][0].images
    assert max(shared_images(one, concept) for one in either) == finetuning.CONCEPT_BATCH
    blue = torch.zeros(3, 32, 32)
    blue[2] = 1
    mask = torch.zeros(32, 32)
    mask[4:10, 4:10] = 1
    mark = Exemplar(torch.zeros(3, 32, 32), blue * mask, mask)
    images, labels = finetuning._batch(pools, mark, generator)
    assert len(images) == len(labels) == finetuning.BATCH
    is_blue = (images == torch.tensor([0.0, 0, 1])[:, None, None]).all(1).flatten(1).sum(1)
    assert is_blue.tolist() == [0] * 12 + [36] * 12
    own_class = int(predict(network, exemplar.changed[None]).argmax())
    assert own_class not in labels[12:].tolist() and own_class in pools["others"][0].labels.tolist()


def test_reference_images_with_labels_train_as_well(network, exemplar):
    sets = sets_of(network)
    counts = []
    for reference in (sets["reference"], sets["reference"].images):
        search = search_of(network, exemplar, {**sets, "reference": reference})
        counts.append(sum(map(len, finetuning._pools(search)["others"])))
    assert counts[0] == counts[1] + len(sets["reference"])


def test_splits_with_fewer_folds_are_refused(network, exemplar):
    splits = Splits(**sets_of(network)).with_folds(3)
    with pytest.raises(ValueError, match="3 folds"):
        finetune_network(Search(network, exemplar, splits, ["3"]), progress=None)


@pytest.mark.filterwarnings("ignore:This does not hold")
def test_repair_compares_with_fine_tuning_on_request(network, exemplar, one_candidate):
    sets = sets_of(network)
    options = {"layers": ["3"], "progress": None}
    images = (sets["target"], sets["clean"], sets["retain"])
    alone = repair(network, exemplar, *images, **options)
    fix = repair(network, exemplar, *images, finetuning=True, **options)
    assert fix.edit.digest == alone.edit.digest and not alone.finetuned
    assert list(fix.finetuned) == ["fine-tuning", "fine-tuning with pasted marks"]
    assert set(fix.finetuned) < set(fix.table.index)
    assert set(fix.alternatives) == {name for name, network in fix.finetuned.items() if network.edit is not None}
    for edit in fix.alternatives.values():
        edit.check_fits(network)


def test_alternatives_with_the_name_of_another_row_or_of_another_type_are_refused(network, exemplar):
    sets = sets_of(network)
    images = (sets["target"], sets["clean"])
    for name in ("selected", "random direction", "fine-tuning", "fine-tuning with pasted marks"):
        with pytest.raises(ValueError, match=repr(name)):
            repair(network, exemplar, *images, alternatives={name: network}, progress=None)
    with pytest.raises(TypeError, match="Sequential"):
        repair(network, exemplar, *images, alternatives={"mine": network.model}, progress=None)
