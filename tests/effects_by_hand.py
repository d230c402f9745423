"""Effects that are made by hand."""

import torch

from edittools.selection import Effect


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
