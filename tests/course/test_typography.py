"""Written words: where ink and paper go, and exemplars made by typing a word or by covering one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edittools_course.miniworld.typography import FONTS, Sticker, blanked, grow, random_sticker, stick, typed, written

GRAY = torch.full((3, 96, 96), 0.4)


def test_stick_blank_sticker_places_the_paper():
    sticker = Sticker("", center=(0.25, 0.5), width=0.25, height=0.5)
    changed, paper, ink = stick(GRAY, sticker)
    rows, columns = paper.nonzero().T
    assert abs(rows.float().mean() + 0.5 - 48) < 1 and abs(columns.float().mean() + 0.5 - 24) < 1
    assert abs(paper.sum() - 24 * 12) <= 48 and not ink.any()
    assert changed[:, paper > 0].mean() > 0.7


@pytest.mark.parametrize("hand", [0, 3])
def test_stick_other_text_differs_at_the_ink_only(hand):
    sticker = Sticker("iPod", hand=hand, angle=12)
    changed, paper, ink = stick(GRAY, sticker)
    blank, _, _ = stick(GRAY, Sticker("", hand=hand, angle=12))
    assert ink.any() and (ink <= grow(paper, 1)).all()
    assert torch.equal(changed[:, grow(ink, 2) == 0], blank[:, grow(ink, 2) == 0])
    assert (changed - blank).abs().amax(0)[ink > 0].mean() > 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["iPod", "pizza", "a b", ""]))
def test_random_sticker_any_seed_is_an_image_and_reproducible(seed, text):
    sticker = random_sticker(text, np.random.default_rng(seed), handwritten=0.5)
    changed, paper, _ = stick(GRAY, sticker)
    assert changed.shape == GRAY.shape and changed.min() >= 0 and changed.max() <= 1
    assert paper.any() and torch.equal(changed, stick(GRAY, sticker)[0])


def test_typed_every_font_has_letters():
    for font in FONTS:
        ink = typed("iPod", font)
        assert ink.shape[0] > 20 and 0.1 < ink.mean() < 0.7, font


def test_written_differs_at_the_mask():
    exemplar = written(GRAY, Sticker("iPod"), 3)
    difference = (exemplar.image - exemplar.changed).abs().amax(0) > 0.05
    assert exemplar.label == 3 and difference.any()
    assert (exemplar.mask[difference] == 1).float().mean() > 0.97
    assert exemplar.image[:, exemplar.mask > 0].min() > 0.6


def test_blanked_restores_the_blank_sticker():
    changed, _, ink = stick(GRAY, Sticker("iPod"))
    blank, _, _ = stick(GRAY, Sticker(""))
    exemplar = blanked(changed, grow(ink, 2))
    assert torch.equal(exemplar.changed, changed)
    assert torch.equal(exemplar.image[:, exemplar.mask == 0], changed[:, exemplar.mask == 0])
    assert (exemplar.image - blank).abs().max() < 0.12


def test_stick_and_written_invalid_sticker():
    with pytest.raises(KeyError, match="'Comic'"):
        stick(GRAY, Sticker("iPod", font="Comic"))
    with pytest.raises(ValueError, match="sticker ' '"):
        written(GRAY, Sticker(" "))
    with pytest.raises(ValueError, match="sticker 'iPod'"):
        written(GRAY, Sticker("iPod", center=(3.0, 3.0)))
    with pytest.raises(ValueError, match=r"96, 96"):
        stick(torch.rand(96, 96), Sticker("iPod"))
