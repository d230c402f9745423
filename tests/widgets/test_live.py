"""A figure that follows a mask."""

import pytest
import torch
from conftest import make_exemplar

from edittools.classifiers import fingerprint
from edittools.images import LabeledImages
from edittools.rewriting import rewrite
from edittools.widgets import MaskPanel


@pytest.fixture
def panel(tiny, photos32):
    exemplar = make_exemplar()
    labels = torch.arange(8) % len(tiny.classes)
    images = LabeledImages(photos32[:8], labels, tiny.classes)

    def brightened(image, mask):
        return torch.where(mask > 0, 0.9, image)

    return MaskPanel(tiny, "conv1", exemplar.image, exemplar.mask, brightened, images, photos32[8:])


def test_mask_panel_follows_its_mask_and_changes_no_weight(panel, tiny, photos32):
    weights = fingerprint(tiny.model)
    after = panel.after
    edit_map = panel.edit_map
    picture = panel.picture.value
    mask = torch.zeros(32, 32)
    mask[:8] = 1
    panel.editor.mask = mask
    assert not torch.equal(panel.after, after)
    assert not torch.equal(panel.edit_map, edit_map)
    assert panel.picture.value != picture
    assert fingerprint(tiny.model) == weights
    with panel.edit.applied(tiny):
        assert torch.allclose(panel.after, tiny(photos32[:8]).detach(), atol=1e-4)


def test_mask_panel_makes_the_edit_of_rewrite(panel, tiny, photos32):
    exemplar = make_exemplar()
    panel.editor.mask = exemplar.mask
    changed = torch.where(exemplar.mask > 0, 0.9, exemplar.image)
    edit = rewrite(tiny, "conv1", type(exemplar)(exemplar.image, changed, exemplar.mask), reference=photos32[8:])
    expected = edit.changes["conv1.weight"].delta()
    assert torch.allclose(panel.edit.changes["conv1.weight"].delta(), expected, atol=1e-5)


def test_mask_panel_of_an_empty_mask_shows_the_predictions_without_an_edit(panel, tiny, photos32):
    panel.editor.mask = None
    assert panel.edit is None and not panel.edit_map.any()
    assert torch.allclose(panel.after, tiny(photos32[:8]).detach(), atol=1e-4)


def test_figure_of_the_mask_panel_has_a_title_per_image(panel):
    titles = [axes.get_title() for axes in panel.figure().axes]
    assert len([title for title in titles if title]) == 2 + 8


def test_text_of_a_panel_is_the_one_that_it_was_given(panel):
    panel.alt = "A mask and what follows from it."
    _, metadata = panel._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "A mask and what follows from it."
