"""What rivals of an edit do, and how they are compared with it, on small exact cases."""

import copy

import pandas as pd
import pytest
import rivals
import torch
from _lib.effects import CHANGED, CLEAN, OWN_CLASS, TARGET
from _lib.find_and_fill import Finder, Setting, filled, predict_filled
from _lib.projected import select_projection
from _lib.results import BY_HOSTS, FIND_AND_FILL, LABEL_FREE, Results
from _lib.tuning import ALL_LAYERS, LAST, next_rate, tuned
from _lib.varied_cases import OWN_VARIED, VARIED, Pair
from conftest import noise

from edittools.cut import Cut
from edittools.exemplars import Exemplar
from edittools.layers import candidate_layers
from edittools.metrics import predict
from edittools.selection.select import select


@pytest.fixture(scope="module")
def images():
    return noise(300, seed=5)


@pytest.fixture
def network(tiny, images):
    """A network that predicts several classes."""
    copied = copy.deepcopy(tiny)
    with torch.no_grad():
        copied.model.head.bias -= predict(tiny, images).mean(dim=0)
    return copied


@pytest.fixture
def patch(images):
    """An exemplar whose mark is a red square."""
    mask = torch.zeros(32, 32)
    mask[4:12, 4:12] = 1
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    return Exemplar(images[0], torch.where(mask > 0, red, images[0]), mask)


def test_finder_finds_the_mark_where_it_was_pasted(network, patch, images):
    hosts = patch.hosts(images[1:9])
    finder = Finder.of(Cut(network, "conv1"), patch, hosts, images[10:60], (1.0,))
    shown = patch.hosts(images[100:120], seed=3)
    likeness, masks = finder.places(shown.changed)
    overlap = (masks * shown.masks).sum(dim=(1, 2)) / shown.masks.sum(dim=(1, 2))
    assert overlap.mean() > 0.6
    assert likeness.min() > finder.places(shown.images)[0].max()


def test_images_below_the_threshold_are_predicted_as_they_are(network, patch, images):
    finder = Finder.of(Cut(network, "conv1"), patch, patch.hosts(images[1:9]), images[10:60], (1.0,))
    likeness, masks = finder.places(images[:20])
    threshold = float(likeness.median())
    predicted = predict_filled(network, finder, Setting("conv1", 0.1, threshold), images[:20])
    is_filled = likeness >= threshold
    assert torch.equal(predicted[~is_filled], predict(network, images[:20])[~is_filled])
    changed = filled(images[:20], masks, 0.1)
    torch.testing.assert_close(predicted[is_filled], predict(network, changed)[is_filled])


def test_filled_changes_the_grown_place_only(patch, images):
    [changed] = filled(images[:1], patch.mask[None], 0.25)
    is_changed = (changed != images[0]).any(dim=0)
    assert is_changed[2:14, 2:14].all() and is_changed.sum() == 144  # two pixels on each side


@pytest.mark.filterwarnings("ignore")  # of so few images
def test_projection_is_selected_in_one_layer(network, exemplar, images):
    selection = select(network, exemplar, images)
    layers = candidate_layers(network)
    candidate, count = select_projection(network, selection, layers)
    assert set(candidate.scaled.layers) == {candidate.params["layer"]}
    assert count > len(layers)


@pytest.mark.filterwarnings("ignore")
def test_tuned_changes_the_parameters_that_are_named(network, exemplar, images):
    selection = select(network, exemplar, images)
    best = tuned(network, selection, ("head.",), 1e-3, (1, 3))
    changed = {name for name, change in best.edit.changes.items() if change.left.any()}
    assert changed == {"head.weight", "head.bias"}
    assert best.steps in (1, 3) and best.candidates == 6
    assert best.objective < selection.scores.objective_before()


def test_next_rate_is_a_neighbor_of_the_best():
    assert next_rate({3e-5: 1.0, 1e-4: 2.0}) == 1e-5
    assert next_rate({3e-5: 2.0, 1e-4: 1.0}) == 3e-4
    assert next_rate({3e-5: 2.0, 1e-4: 1.0, 3e-4: 2.0}) is None


def test_a_cost_that_equals_its_limit_is_within_it():
    """The edit is wrong for 11 of 100 images of the mark's class, the rival for 14, and for one of 100 clean ones."""
    edit, rival = (
        {
            CLEAN: [[0] * 100, [0] * 100],
            CHANGED: [[0] * 100, [1] * changed + [0] * (100 - changed)],
            OWN_CLASS: [[0] * 100, [1] * wrong + [0] * (100 - wrong)],
        }
        for changed, wrong in ((0, 11), (1, 14))
    )
    assert rivals.is_within_limits(edit, rival, TARGET)


def test_rates_are_added_until_the_best_is_between_two_others(monkeypatch, tmp_path):
    lowest = {3e-6: 5.0, 1e-5: 2.0, 3e-5: 3.0, 1e-4: 4.0, 3e-4: 6.0}

    def trained(folder, pair, quick, setting):
        part, rate = setting
        row = {
            "network": "a",
            "case": "tag",
            "method": LABEL_FREE,
            "edit": f"{part} {rate}",
            "settings": f"rate {rate}",
        }
        objective = lowest[rate] + (part == LAST)
        return [{**row, "rate": rate, "steps": 200, "objective": objective, "candidates": 6, "seconds": 1.0}]

    monkeypatch.setattr(rivals, "run_of_training", trained)
    row = rivals.fine_tuned(tmp_path, tmp_path, Pair("a", "tag"), False, [ALL_LAYERS], "a test")
    assert row["edit"] == f"{ALL_LAYERS} 1e-05" and row["settings"].endswith("at the corner of the grid: no")
    assert row["candidates"] == 24 and row["seconds"] == 4.0  # of 3e-6 to 1e-4


@pytest.mark.parametrize(
    ("corrected", "flips", "own_wrong", "expected"),
    [
        (9, 0, 0, "wins 2, loses 0 of 2"),
        (9, 3, 0, "wins 0, loses 2 of 2"),  # it changes too many clean predictions
        (9, 0, 2, "wins 0, loses 2 of 2"),  # it costs too much of the mark's class
        (2, 0, 0, "wins 0, loses 2 of 2"),
        (5, 0, 0, "wins 0, loses 0 of 2"),
    ],
)
def test_decide_compares_within_the_limits(corrected, flips, own_wrong, expected):
    """The edit corrects half of the errors, and changes nothing else."""
    rows = []
    for method, share, changed, wrong in ((BY_HOSTS, 5, 0, 0), (FIND_AND_FILL, corrected, flips, own_wrong)):
        marked = [[1] * 100, [0] * 10 * share + [1] * 10 * (10 - share)]
        own = [[0] * 20, [1] * wrong + [0] * (20 - wrong)]
        sets = {
            TARGET: marked,
            VARIED: marked,
            CLEAN: [[0] * 100, [0] * 100],
            CHANGED: [[0] * 100, [1] * changed + [0] * (100 - changed)],
            OWN_CLASS: own,
            OWN_VARIED: own,
        }
        rows.append({"network": "a", "case": "tag", "method": method, "sets": sets})
    results = Results("rivals", "photos")
    rivals.decide(results, pd.DataFrame(rows))
    assert results.notes[FIND_AND_FILL] == expected
