"""Written words: where ink and paper go, and exemplars made by typing or by painting over."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edittools.miniworld.typography import FONTS, Label, blanked, grow, random_label, stick, typed, written

GREY = torch.full((3, 96, 96), 0.4)


def test_a_blank_label_is_paper_of_the_given_size_at_the_given_place():
    label = Label("", center=(0.25, 0.5), width=0.25, height=0.5)
    changed, paper, ink = stick(GREY, label)
    rows, columns = paper.nonzero().T
    assert abs(rows.float().mean() + 0.5 - 48) < 1 and abs(columns.float().mean() + 0.5 - 24) < 1
    assert abs(paper.sum() - 24 * 12) <= 48 and not ink.any()
    assert changed[:, paper > 0].mean() > 0.7


@pytest.mark.parametrize("hand", [0, 3])
def test_labels_that_differ_in_text_differ_at_the_ink_only(hand):
    label = Label("iPod", hand=hand, angle=12)
    changed, paper, ink = stick(GREY, label)
    blank, _, _ = stick(GREY, Label("", hand=hand, angle=12))
    assert ink.any() and (ink <= grow(paper, 1)).all()
    assert torch.equal(changed[:, grow(ink, 2) == 0], blank[:, grow(ink, 2) == 0])
    assert (changed - blank).abs().amax(0)[ink > 0].mean() > 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["iPod", "pizza", "a b", ""]))
def test_any_random_label_gives_an_image_and_the_same_one_again(seed, text):
    label = random_label(text, np.random.default_rng(seed), handwritten=0.5)
    changed, paper, _ = stick(GREY, label)
    assert changed.shape == GREY.shape and changed.min() >= 0 and changed.max() <= 1
    assert paper.any() and torch.equal(changed, stick(GREY, label)[0])


@pytest.mark.parametrize("font", FONTS)
def test_every_font_is_there_and_draws_letters(font):
    ink = typed("iPod", font)
    assert ink.shape[0] > 20 and 0.1 < ink.mean() < 0.7


def test_a_typed_exemplar_is_blank_against_written_with_the_ink_as_mask():
    exemplar = written(GREY, Label("iPod"), 3)
    difference = (exemplar.image - exemplar.changed).abs().amax(0) > 0.05
    assert exemplar.label == 3 and difference.any()
    assert (exemplar.mask[difference] == 1).float().mean() > 0.97
    assert exemplar.image[:, exemplar.mask > 0].min() > 0.6


def test_painting_over_gives_back_nearly_the_blank_label():
    changed, _, ink = stick(GREY, Label("iPod"))
    blank, _, _ = stick(GREY, Label(""))
    exemplar = blanked(changed, grow(ink, 2))
    assert torch.equal(exemplar.changed, changed)
    assert torch.equal(exemplar.image[:, exemplar.mask == 0], changed[:, exemplar.mask == 0])
    assert (exemplar.image - blank).abs().max() < 0.12


def test_what_cannot_be_written_is_refused():
    with pytest.raises(KeyError, match="'Comic'"):
        stick(GREY, Label("iPod", font="Comic"))
    with pytest.raises(ValueError, match="label ' '"):
        written(GREY, Label(" "))
    with pytest.raises(ValueError, match="label 'iPod'"):
        written(GREY, Label("iPod", center=(3.0, 3.0)))
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        stick(torch.rand(96, 96), Label("iPod"))
