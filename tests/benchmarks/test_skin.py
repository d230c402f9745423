"""The benchmark on skin lesions: folds, stickers, and figures; the photos themselves only where they are there."""

import numpy as np
import pandas as pd
import pytest
import torch
from _lib import skin_figures, skin_photos, skin_stickers
from _lib.skin_figures import AUC, AUC_CHANGE, CAUSED, FLIPS, NET, NET_AT_KEPT, NET_OTHER, NET_SAME, REAL_CHANGE
from _lib.skin_stickers import FILLS, SKIN, Fold, Sticker, filled
from conftest import needs_photos

SKIN_COLOR = torch.tensor([0.8, 0.6, 0.5])
BLUE = torch.tensor([0.1, 0.2, 0.9])


# --- folds ---


def test_groups_of_copies_and_neighbors():
    """Photos 0 and 1 are copies, 1 and 2 neighbors in the archive; 3 is alone."""
    small = torch.stack([torch.zeros(12), torch.full((12,), 0.01), torch.ones(12), torch.full((12,), 0.5)])
    copies, groups = skin_photos.groups_of(small, np.array([10, 31, 39, 40]))
    assert copies[0] == copies[1]
    assert len(set(copies)) == 3
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] != groups[0]


def test_divided_keeps_groups_together_and_deals_stickers_and_melanomas_evenly():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"group": np.repeat(np.arange(60), 2)}, index=[f"photo {number}" for number in range(120)])
    table["sticker"] = (table.group % 5 == 0).astype(float)
    table["melanoma"] = (table.group % 5 == 1).astype(float)
    folds = skin_photos.divided(table, random)
    assert sorted(name for fold in folds for name in fold) == sorted(table.index)
    groups = [set(table.group[fold]) for fold in folds]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    for column in ("sticker", "melanoma"):
        assert [table[column][fold].sum() for fold in folds] == [8, 8, 8]


# --- stickers ---


@pytest.fixture
def sticker():
    """A blue sticker at the left border of a photo of skin with a dark lesion."""
    pixels = _skin_with_lesion()
    pixels[:, 30:70, :30] = BLUE[:, None, None]
    mask = torch.zeros(100, 100)
    mask[30:70, :30] = 1
    return Sticker("one", pixels, mask, "blue")


def _skin_with_lesion():
    pixels = SKIN_COLOR[:, None, None].repeat(1, 100, 100)
    pixels[:, 40:60, 60:80] *= 0.3
    return pixels


def test_outlined_finds_the_sticker_at_the_border_and_no_lesion(sticker):
    mask = skin_stickers.outlined(sticker.pixels)
    assert (mask * sticker.mask).sum() == sticker.mask.sum()
    assert mask.sum() < 1.3 * sticker.mask.sum()
    assert skin_stickers.outlined(_skin_with_lesion()) is None


def test_pasted_changes_the_outline_only(sticker):
    hosts = torch.rand(2, 3, 100, 100)
    for fill in (skin_stickers.the_sticker, *FILLS.values()):
        result = skin_stickers.pasted(hosts, [sticker, sticker], fill)
        assert torch.equal(result[:, :, sticker.mask == 0], hosts[:, :, sticker.mask == 0])
        assert not torch.equal(result, hosts)
    with_sticker = skin_stickers.pasted(hosts, [sticker, sticker], skin_stickers.the_sticker)
    assert torch.equal(with_sticker[1][:, sticker.mask > 0], sticker.pixels[:, sticker.mask > 0])


def test_fill_with_own_skin_has_the_color_of_the_skin(sticker):
    host = _skin_with_lesion() * 0.9
    result = skin_stickers.pasted(host[None], [sticker], FILLS[SKIN])[0]
    assert torch.allclose(result[:, 50, 10], 0.9 * SKIN_COLOR)
    of_donor = skin_stickers.pasted(host[None], [sticker], skin_stickers.skin_of_donor)[0]
    assert torch.allclose(of_donor[:, 50, 10], SKIN_COLOR)


# --- figures ---


def test_area_under_curve_with_weights_is_that_of_repeated_members():
    random = np.random.default_rng(0)
    positive = random.integers(0, 8, size=7).astype(float)
    negative = random.integers(0, 8, size=9).astype(float)
    of_positive = random.integers(0, 3, size=(4, 7))
    of_negative = random.integers(0, 3, size=(4, 9))
    values = skin_figures.area_under_curve(positive, negative, of_positive, of_negative)
    for value, some, others in zip(values, of_positive, of_negative, strict=True):
        higher = [
            1.0 if one > other else 0.5 if one == other else 0.0
            for one in positive.repeat(some)
            for other in negative.repeat(others)
        ]
        assert value == pytest.approx(np.mean(higher))


def test_weights_are_ones_first_and_then_drawn_with_replacement():
    drawn = skin_figures.weights(30, (1, 2))
    assert drawn.shape == (1 + skin_figures.RESAMPLINGS, 30)
    assert (drawn[0] == 1).all()
    assert (drawn.sum(axis=1) == 30).all()
    assert drawn[1:].var() == pytest.approx(29 / 30, abs=0.05)


def test_mean_over_exemplars_leaves_out_what_is_undefined():
    values = [np.array([1.0, 1.0]), np.array([3.0, np.nan])]
    mean = skin_figures.mean_over_exemplars(values, np.array([[1, 1], [1, 1]]))
    assert mean.tolist() == [2.0, 1.0]


@pytest.fixture
def fold(sticker):
    """A fold of 40 melanomas and 60 benign photos, with four stickers of two colors."""
    stickers = [sticker._replace(image=f"real {number}", color="blue" if number < 2 else "teal") for number in range(4)]
    random = np.random.default_rng(3)
    return Fold(
        development=[f"development {number}" for number in range(100)],
        development_is_benign=np.arange(100) < 70,
        names=[f"photo {number}" for number in range(100)],
        is_melanoma=np.arange(100) < 40,
        stickers=stickers,
        drawn=np.stack([random.choice(4, 3, replace=False) for _ in range(40)]),
        adults=np.arange(50, 70),
        drawn_on_adults=random.integers(4, size=20),
        real=[f"real {number}" for number in range(4)],
    )


def _scores(fold, of_sticker):
    """Scores of a network on which a sticker has an effect; melanomas score 2 higher than benign photos."""
    random = np.random.default_rng(4)
    clean = random.normal(size=100) + 2 * fold.is_melanoma
    without = clean[fold.is_melanoma].repeat(3)
    return {
        skin_stickers.DEVELOPMENT: (random.normal(size=100) + 2 * ~fold.development_is_benign).tolist(),
        skin_stickers.CLEAN: clean.tolist(),
        skin_stickers.STUCK: (without + of_sticker).tolist(),
        skin_stickers.BENIGN_STUCK: (clean[fold.adults] + of_sticker).tolist(),
        skin_stickers.REAL: [of_sticker] * 4,
        skin_stickers.REAL_FILLED: [0.0] * 4,
        **{filled(name): without.tolist() for name in FILLS},
    }


def _without_fills(scores):
    return {name: values for name, values in scores.items() if not name.startswith(skin_stickers.FILLED)}


def test_figures_of_a_method_that_removes_the_sticker_and_of_one_that_does_nothing(fold):
    sample = skin_figures.Sample(fold, 0)
    before = _scores(fold, -3.0)
    removed = skin_figures.figures_of_method(sample, before, _without_fills(_scores(fold, 0.0)), "blue")
    nothing = skin_figures.figures_of_method(sample, before, _without_fills(before), "blue")
    for name in (NET, NET_AT_KEPT, NET_SAME, NET_OTHER):
        assert np.nanmax(np.abs(removed[name] - 1)) < 1e-9
        assert np.nanmax(np.abs(nothing[name])) < 1e-9
    assert (removed[AUC_CHANGE] == 0).all()
    assert (removed[FLIPS] == 0).all()


def test_a_method_that_calls_everything_melanoma_corrects_nothing_at_its_threshold(fold):
    sample = skin_figures.Sample(fold, 0)
    before = _scores(fold, -3.0)
    higher = {name: (np.array(values) + 5).tolist() for name, values in _without_fills(before).items()}
    figures = skin_figures.figures_of_method(sample, before, higher, "blue")
    assert abs(figures[NET][0]) < 0.02
    assert figures[NET_AT_KEPT][0] > 0.9
    assert abs(figures[REAL_CHANGE][0]) < 0.02


def test_resamplings_are_crossed_over_lesions_and_stickers(fold):
    sample = skin_figures.Sample(fold, 0)
    stickers = skin_figures.weights(4, (0, 3))
    expected = [
        sample.melanomas[:, number // 3] * stickers[:, fold.drawn[number // 3, number % 3]] for number in range(120)
    ]
    assert (sample.pairs == np.stack(expected, axis=1)).all()


def test_a_network_counts_if_it_is_good_and_its_twin_does_not_mind_stickers(fold):
    sample = skin_figures.Sample(fold, 0)
    network = skin_figures.figures_of(sample, _scores(fold, -3.0))
    twin = skin_figures.figures_of(sample, _scores(fold, 0.0))
    assert network[CAUSED][0] > 0.3
    assert twin[CAUSED][0] == 0
    assert skin_figures.counts(network, twin)
    assert not skin_figures.counts(network, network)
    assert not skin_figures.counts({**network, AUC: network[AUC] - 0.5}, twin)


@pytest.mark.parametrize(
    ("name", "loss"), [(NET, skin_figures.LARGEST_GAP), (AUC_CHANGE, 0.02), (REAL_CHANGE, 0.05)], ids=str
)
def test_criterion_fails_where_the_lower_bound_is_below_the_limit(name, loss):
    equal = {one: np.zeros(100) for one in (NET, AUC_CHANGE, REAL_CHANGE)}
    assert all(skin_figures.criterion(equal, equal).values())
    spread = np.linspace(-1.2 * loss, 0, 100)
    result = skin_figures.criterion({**equal, name: spread}, equal)
    assert sorted(result.values()) == [False, True, True]


# --- the photos ---


@needs_photos
def test_roles_share_no_photo_and_no_copy():
    try:
        table = skin_photos.photos()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    roles = skin_photos.roles()
    development = [*roles.ordinary, *roles.development, *roles.stickers]
    parts = [development, *roles.folds]
    names = [name for part in parts for name in part]
    assert len(set(names)) == len(names)
    assert len(set(development)) == len(development)
    same = [set(table.same[part]) for part in parts]
    assert not any(one & other for number, one in enumerate(same) for other in same[:number])
    assert not any(table.sticker[name] == 1 for name in (*roles.ordinary, *roles.development))
