"""What benchmarks select without labels, and the gate, on small exact cases."""

import copy

import gate
import pandas as pd
import pytest
import torch
from _lib import effects, label_free
from _lib.results import BY_EXEMPLAR, BY_HOSTS, LABEL_FREE, Results
from effects_by_hand import sets_with

from edittools.metrics import predict
from edittools.selection.select import select


@pytest.fixture(scope="module")
def images():
    return torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def network(tiny, images):
    """A network that predicts several classes."""
    copied = copy.deepcopy(tiny)
    with torch.no_grad():
        copied.model.head.bias -= predict(tiny, images).mean(dim=0)
    return copied


@pytest.mark.filterwarnings("ignore")  # of so few images
def test_ablations_select_from_a_part_of_the_table(network, images, exemplar):
    default, selection = label_free.select_by_hosts(network, exemplar, images)
    by_exemplar, by_others = label_free.ablations(default, selection.scores)
    assert default.edit.digest == select(network, exemplar, images).edit.digest
    assert "solved with exemplar" in by_exemplar.settings
    assert "solved with hosts, rank" in by_others.settings


def test_sloppy_masks_of_a_square():
    mask = torch.zeros(100, 100)
    mask[20:60, 30:70] = 1  # of 40 pixels, so that they change by two
    masks = gate.sloppy_masks(mask)
    assert masks["grown"].sum() == 44**2 and masks["grown"][18:62, 28:72].all()
    assert masks["shrunk"].sum() == 36**2 and masks["shrunk"][22:58, 32:68].all()
    assert masks["shifted"].sum() == 40**2 and masks["shifted"][20:60, 28:68].all()


def test_inpainted_changes_the_mask_only():
    image = torch.linspace(0, 1, 32).expand(3, 32, 32).clone()
    mask = torch.zeros(32, 32)
    mask[8:20, 10:22] = 1
    marked = torch.where(mask > 0, torch.ones(3, 1, 1), image)
    filled = gate.inpainted(marked, mask)
    assert torch.equal(filled[:, mask == 0], image[:, mask == 0])
    assert (filled - image).abs().max() < 0.02  # a ramp is smooth


@pytest.mark.parametrize(
    ("of_finetuning", "own_wrong", "expected"), [(8, 1, "passed"), (10, 1, "failed"), (8, 3, "failed")]
)
def test_decide_compares_with_the_criterion(of_finetuning, own_wrong, expected):
    """The own class is correct in three of four photos without the mark and without an edit."""
    rows = []
    for number in range(6):
        for method, corrected in {BY_HOSTS: 8, BY_EXEMPLAR: 6, LABEL_FREE: of_finetuning}.items():
            own = [[0] * 4, [1] * own_wrong + [0] * (4 - own_wrong)]
            sets = {**sets_with(corrected), effects.OWN_CLASS: own}
            rows.append({"network": "a", "case": str(number), "method": method, "sets": sets})
    results = Results("gate", "photos")
    gate.decide(results, pd.DataFrame(rows))
    assert results.notes["gate"] == expected
