"""What edits do to photos with and without a mark, and how methods are compared, on small exact cases."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from _lib import comparisons, effects
from _lib.effects import CHANGED, CLEAN, CORRECT, CORRECTED, FLIPS, OWN_CLASS, OWN_CLEAN, TARGET
from _lib.results import BY_HOSTS, LABEL_FREE, NO_EDIT, Results
from effects_by_hand import sets_with

from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.rewriting import rewrite


def draw(images, seed):
    """A mark without random numbers: the upper half of the image is as bright as the seed says."""
    masks = torch.zeros(len(images), *images.shape[2:])
    masks[:, :16] = 1
    brightness = (torch.arange(seed, seed + len(images)) % 7 / 7)[:, None, None, None]
    return torch.where(masks[:, None] > 0, brightness, images), masks


pytestmark = pytest.mark.filterwarnings("ignore:40 reference images")

MARK = SimpleNamespace(draw=draw)


@pytest.fixture
def network(tiny, photos32):
    """A network that predicts several classes."""
    copied = copy.deepcopy(tiny)
    with torch.no_grad():
        copied.model.head.bias -= predict(tiny, photos32).mean(dim=0)
    return copied


@pytest.fixture
def photos(network, photos32):
    """Most photos are labeled as they are predicted."""
    labels = predict(network, photos32).argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    return LabeledImages(photos32, labels, network.classes)


@pytest.fixture
def goal(photos):
    return photos.classes[int(photos.labels.mode().values)]


@pytest.fixture
def edits(network, photos32, exemplar):
    one = 3.0 * rewrite(network, "conv1", exemplar, photos32)
    return {"one": one, "two": one + rewrite(network, "conv2", exemplar, photos32)}


def test_effects_are_those_of_the_edited_network(network, photos, goal, edits):
    found = effects.effects(network, edits, photos, goal, MARK, seed=11)
    marked = draw(photos.images, 11)[0]
    is_own = photos.labels == network.index(goal)
    before = predict(network, photos).argmax(1)
    for name, edit in edits.items():
        with edit.applied(network):
            clean = predict(network, photos).argmax(1)
            with_mark = predict(network, marked).argmax(1)
        assert found[name][TARGET][1] == (with_mark != photos.labels)[~is_own].int().tolist()
        assert found[name][OWN_CLASS][1] == (with_mark != photos.labels)[is_own].int().tolist()
        assert found[name][OWN_CLEAN][1] == (clean != photos.labels)[is_own].int().tolist()
        assert found[name][CLEAN] == [(one != photos.labels).int().tolist() for one in (before, clean)]
        assert found[name][CHANGED][1] == (clean != before).int().tolist()
    assert sum(found["one"][CHANGED][1])


def test_effects_on_some_photos_are_the_same(network, photos, goal, edits):
    numbers = torch.arange(1, len(photos), 2)
    counts = torch.arange(len(photos)) % 4 == 1
    everywhere = effects.effects(network, edits, photos, goal, MARK, seed=11)["one"]
    found = effects.effects(network, edits, photos, goal, MARK, 11, numbers, counts)["one"]
    clean = np.array(everywhere[CLEAN])
    own = (photos.labels == network.index(goal)).nonzero()[:, 0]
    own_numbers = torch.isin(own, numbers).nonzero()[:, 0]
    assert found[CLEAN] == clean[:, counts].tolist()
    assert found[OWN_CLASS] == np.array(everywhere[OWN_CLASS])[:, own_numbers].tolist()


def test_methods_are_compared_within_pairs():
    rows = []
    for number, (default, other) in enumerate([(8, 6), (9, 7), (5, 4), (7, 7), (8, 5), (6, 6)]):
        case = {
            "network": "ab"[number % 2],
            "case": f"mark {number // 2}",
            "condition": "",
            "candidates": 3,
            "seconds": 2.0,
        }
        rows.append({**case, "method": "default", "sets": sets_with(default)})
        for draw_of_other in (-1, 1):  # two draws, which are averaged
            sets = sets_with(other + draw_of_other, broken_clean=1 + draw_of_other)
            rows.append({**case, "method": "other", "sets": sets})
    results = Results("gate", "photos")
    effects.add_means(results, pd.DataFrame(rows), "default")
    table = results.frame().set_index(["network", "method", "condition", "split", "metric"])
    mean = table.loc["all", "other", "", TARGET, CORRECTED]
    difference = table.loc["all", "other", "minus default", TARGET, CORRECTED]
    values = np.array([-0.2, -0.2, -0.1, 0, -0.3, 0])
    half = 2.5706 * values.std(ddof=1) / np.sqrt(6)
    assert mean.value == pytest.approx(3.5 / 6)
    assert difference.value == pytest.approx(values.mean())
    assert [difference.low, difference.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=1e-4)
    assert table.loc["a", "other", "mark 0", TARGET, CORRECTED].value == pytest.approx(0.6)
    assert table.loc["all", "other", "", CLEAN, FLIPS].value == pytest.approx(0.05)
    assert table.loc["all", NO_EDIT, "", OWN_CLEAN, CORRECT].value == 0.75
    assert not table.index.duplicated().any()


def test_table_of_methods_and_pairs():
    rows = []
    for number in range(6):
        case = {
            "network": "ab"[number % 2],
            "case": f"mark {number // 2}",
            "condition": "exact",
            "candidates": 3,
            "seconds": 2.0,
        }
        rows.append({**case, "method": BY_HOSTS, "sets": sets_with(8)})
        rows.append({**case, "method": LABEL_FREE, "sets": sets_with(9, broken_clean=1)})
    results = Results("gate", "photos")
    effects.add_means(results, pd.DataFrame(rows), BY_HOSTS)
    text = comparisons.compared(results.frame().assign(run="gate"))
    means, pairs = text.split("By pair:")
    [default] = [line for line in means.splitlines() if f"**{BY_HOSTS}**" in line]
    [other] = [line for line in means.splitlines() if f"| {LABEL_FREE} " in line]
    assert "| 80% [80, 80] " in default and "| +10 [+10, +10] " in other and "−5.00" in other
    assert pairs.count("| 80%, +0.00, 75.0%") == 6 and "mark 2" in pairs
