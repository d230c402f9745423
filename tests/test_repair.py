"""`repair` on a small network: its splits, what it refuses, and what its verdict says of an edit at any strength."""

import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import save_image
from torch import nn

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, LazyImages, resized
from edittools.metrics import predict
from edittools.rewriting import pose
from edittools.selection import grid, repair
from edittools.selection.repair import _story
from edittools.selection.splits import shared_images

CLASSES = ("ant", "bee", "cat", "dog")
repair_module = sys.modules["edittools.selection.repair"]  # the package's attribute of that name is the function
EXACT = {"objective": ("least_squares",)}


def _network():
    torch.manual_seed(0)
    conv = [nn.Conv2d(width, 8, 3, padding=1) for width in (3, 8, 8)]
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1)]
    steps = [step for one, pool in zip(conv, pools, strict=True) for step in (one, nn.ReLU(), pool)]
    return nn.Sequential(*steps, nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture(scope="module")
def case():
    """Noise of four classes; what is pasted over a corner is misread in a quarter of the images."""
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
    everyday = images[80:][(sure[:, 0] - sure[:, 1]).argsort(descending=True)[:48]]
    return SimpleNamespace(**locals())


def _repaired(case, exemplar=None, **search):
    search = {"layers": ["6"], "baselines": False, "progress": False, **search}
    return repair(case.classifier, exemplar or case.exemplar, case.failing, case.everyday, **search)


def _in_turn(case, each):
    """As many images of each class as are asked for, the classes in turn, labelled."""
    generator = torch.Generator().manual_seed(3)
    pool = torch.rand(1500, 3, 16, 16, generator=generator) * torch.rand(1500, 3, 1, 1, generator=generator)
    labels = predict(case.classifier, pool).argmax(1)
    order = torch.stack([(labels == one).nonzero()[:each, 0] for one in range(4)], 1).flatten()
    return LabelledImages(pool[order], labels[order], CLASSES)


def _sets(case, everyday):
    story = _story(case.classifier, {"a": case.exemplar}, case.failing, everyday, None, ("6",))
    return story.reference, story.budget, story.clean


def test_everyday_images_are_split_by_class_at_random(case):
    """Classes in turn, and quarters by position: whole classes would be in one part alone."""
    everyday = _in_turn(case, 16)
    reference, budget, clean = _sets(case, everyday)
    assert budget.labels.bincount(minlength=4).tolist() == [8] * 4
    assert clean.labels.bincount(minlength=4).tolist() == [4] * 4
    assert predict(case.classifier, reference).argmax(1).bincount(minlength=4).tolist() == [4] * 4
    parts = (reference, budget, clean)
    assert not any(shared_images(one, other) for one, other in zip(parts, (budget, clean, reference), strict=True))


@pytest.mark.parametrize("count", [3, 4, 5, 9, 160])
def test_each_part_of_the_everyday_images_has_some(case, count):
    for labels in (torch.arange(count) % 4, torch.zeros(count).long()):
        data = LabelledImages(torch.rand(count, 3, 16, 16), labels, CLASSES)
        sizes = [len(part) for part in _sets(case, data)]
        assert sum(sizes) == count and min(sizes) >= 1
        assert all(abs(size - share * count) <= 1 for size, share in zip(sizes, (0.25, 0.5, 0.25), strict=True))


def _share_left(case, fix):
    """By the definition: the mean square distance from the target at the mask, with the edit and without."""
    cut, settings = Cut(case.classifier, fix.edit.layers[0]), fix.methods["edit"].settings
    problem = pose(cut, case.exemplar, None, settings.get("masked", True))
    change = fix.edit.changes[f"{cut.layer}.weight"].delta()
    before = problem.target_output - problem.base_output
    after = before - problem.delta_output(change)
    weight = cut.pool_mask(problem.share, "output")
    return float((after.square().mean(1) * weight).sum()) / float((before.square().mean(1) * weight).sum())


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_verdict_says_what_loss_the_edit_leaves_at_its_own_strength(case, strength):
    fix = _repaired(case, strengths=(strength,))
    left = _share_left(case, fix)
    assert fix.edit.record.share_left == pytest.approx(left, rel=1e-4, abs=1e-8)
    assert f"α {strength:g}. It took" in fix.verdict and f"{1 - left:.0%} of the loss at the exemplar" in fix.verdict


def test_settings_may_leave_out_what_rewrite_has_a_default_for(case):
    fix = _repaired(case, settings=grid(rank=(1, 3), **EXACT))
    assert ", mask, α" in fix.verdict
    assert "rank 1, mask" in _repaired(case, settings=grid(**EXACT)).verdict


def test_a_rank_of_none_is_named_also_beside_ranks(case):
    fix = _repaired(case, settings=grid(rank=(None,), **EXACT))
    beside = _repaired(case, settings=[*grid(rank=(None,), **EXACT), {"rank": 1, "steps": 1}], strengths=(0.5,))
    assert "full rank" in fix.verdict and fix.methods["edit"].settings["rank"] is None
    assert beside.methods["edit"].table["rank"].tolist() == [None, 1]
    chosen = beside.methods["edit"]
    assert chosen.settings["rank"] is None and "full rank" in beside.verdict and "steps" not in chosen.settings


def test_a_search_that_can_try_nothing_says_why(case):
    mask = torch.zeros(16, 16)
    mask[0, 0] = 1
    small = Exemplar(case.images[0], torch.where(mask > 0, case.images[1], case.images[0]), mask, 1)
    with pytest.raises(ValueError, match="no trial: expected .*a rank that the keys at the mask span"):
        _repaired(case, small, layers=["3"], settings=grid(rank=(3,), **EXACT))
    with pytest.raises(ValueError, match="no trial: expected settings and strengths"):
        _repaired(case, settings=grid(**EXACT), strengths=())

    def ended(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _repaired(case, progress=ended)


def _files(images, folder):
    for i, image in enumerate(images):
        save_image(folder / f"{i}.png", image)
    return LazyImages([folder / f"{i}.png" for i in range(len(images))], 16, 16)


def test_the_same_images_are_known_in_any_file_precision_and_size(case, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    files, renamed = (_files(case.failing.images[:5], tmp_path / name) for name in ("one", "other"))
    smooth = resized(torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)), 224)
    for one, other in ((files, files[:]), (files[:].double(), files), (files, renamed), (smooth, resized(smooth, 160))):
        assert shared_images(one, other) == shared_images(other, one) == 5
        assert shared_images(one[2:], other) == 3 and shared_images(one[:2], other[2:]) == 0
    failing = LabelledImages(files[:], case.failing.labels[:5], CLASSES)
    with pytest.raises(ValueError, match="5 images are both in failing and in clean"):
        repair(case.classifier, case.exemplar, failing, files, progress=False)


def _with_x_changed(case):
    images = torch.cat([case.exemplar.changed[None], case.failing.images])
    return LabelledImages(images, torch.cat([case.read[:1], case.failing.labels]), CLASSES)


REFUSED = [
    ("failing", _with_x_changed, ValueError, "1 images are both in failing and in the exemplars' x'"),
    (
        "clean",
        lambda case: torch.cat([case.everyday, case.exemplar.image[None]]),
        ValueError,
        "1 images are both in clean and in the exemplars",
    ),
    ("failing", lambda case: case.failing.images, TypeError, r"failing images are a Tensor: expected LabelledImages\("),
    ("clean", lambda case: "my/pictures", TypeError, "clean images are a str: expected a tensor, LazyImages or"),
    (
        "retain",
        lambda case: "my/pictures",
        TypeError,
        "retain images are a str: expected a tensor, LazyImages or Labelled",
    ),
]


@pytest.mark.parametrize(("name", "given", "error", "words"), REFUSED)
def test_sets_with_an_exemplar_and_what_is_no_set_are_refused(case, name, given, error, words):
    sets = {"failing": case.failing, "clean": case.everyday, name: given(case)}
    with pytest.raises(error, match=words):
        repair(case.classifier, case.exemplar, **sets, progress=False)


def test_an_image_that_is_there_twice_is_used_once(case):
    search = {"layers": ["6"], "baselines": False, "progress": False}
    twice, everyday = case.failing.subset([*range(len(case.failing))] * 2), case.everyday
    with pytest.warns(UserWarning, match=f"{len(case.failing)} failing images are there before: each is used once"):
        fix = repair(case.classifier, case.exemplar, twice, everyday, **search)
    assert fix.table.equals(_repaired(case).table)
    with pytest.warns(UserWarning, match="4 clean images are there before"):
        again = repair(case.classifier, case.exemplar, case.failing, torch.cat([everyday, everyday[:4]]), **search)
    assert again.table.equals(fix.table)


def test_an_interrupt_while_a_control_is_chosen_leaves_the_edit(case, monkeypatch):
    real, calls = repair_module._chosen, []

    def chosen(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(repair_module, "_chosen", chosen)
    fix = _repaired(case, baselines=True)
    assert not fix.finished and list(fix.table.index) == ["edit"] and fix.edit.layers == ("6",)
