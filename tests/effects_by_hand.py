"""Effects that are made by hand."""

import torch
from _lib.effects import CHANGED, CLEAN, OWN_CLASS, OWN_CLEAN, TARGET

from edittools.selection import Effect

CORRECT, WRONG = "v", "x"


def effect(images, broken=0, corrected=0, wrong=0, frames=1):
    """Make an effect on images of one class: the first ones break, then some are corrected, and others stay wrong."""
    labels = torch.zeros(images, dtype=torch.long)
    before = labels.clone()
    after = labels.clone()
    after[:broken] = 1
    before[broken : broken + corrected + wrong] = 1
    after[broken + corrected : broken + corrected + wrong] = 1
    scenes = torch.arange(images).repeat_interleave(frames)
    return Effect(*(part.repeat_interleave(frames) for part in (labels, before, after)), scenes)


def effect_of(before, after, scenes=None):
    """Make an effect from texts with an "x" for each misclassified image, and a text with a letter for each scene."""
    labels = torch.arange(len(before)) % 2
    predicted = [(labels + torch.tensor([c == WRONG for c in text])) % 2 for text in (before, after)]
    numbers = range(len(before)) if scenes is None else [ord(c) - ord("a") for c in scenes]
    return Effect(labels, *predicted, torch.tensor(list(numbers)))


def sets_with(corrected, broken_clean=0):
    """Ten errors with the mark, some of which are corrected, and twenty clean photos, some of which are broken."""
    after = [0] * corrected + [1] * (10 - corrected)
    clean_after = [1] * broken_clean + [0] * (20 - broken_clean)
    return {
        TARGET: [[1] * 10, after],
        CLEAN: [[0] * 20, clean_after],
        CHANGED: [[0] * 20, clean_after],
        OWN_CLASS: [[0] * 4, [1, 0, 0, 0]],
        OWN_CLEAN: [[1, 0, 0, 0], [1, 1, 0, 0]],
    }
