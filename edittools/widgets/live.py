"""A figure that is drawn again when the reader draws a mask."""

import io
from collections.abc import Callable

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from edittools._ledger import Weights
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar, Pairs
from edittools.images import Images, LabeledImages
from edittools.metrics import SIGNS
from edittools.rewriting import rewrite_at
from edittools.site import LayerReference, site_at
from edittools.states import States
from edittools.widgets.drawing import OVERLAY, STATE_COLORS, draw_pixels, in_lines, titles_and_states
from edittools.widgets.editor import MaskEditor
from edittools.widgets.pixels import StaticFigure, to_pixels

Change = Callable[[Tensor, Tensor], Tensor]
"""A function that makes x' of an image `(3, H, W)` and a mask `(H, W)`."""

EDITOR_WIDTH = "340px"
"""The width of the mask editor in a `MaskPanel`."""

PICTURE_WIDTH = "570px"
"""The width of the figure next to it."""


class MaskPanel(StaticFigure, ipywidgets.HBox):
    """Draw a mask, and see the edit that is made with it: x', its edit map, and predictions.

    The edit has the default settings. The classifier is not changed.

    Attributes:
        editor: the mask editor. Assigning to its `mask` has the same effect as drawing.
        edit: the edit of the mask; None if the mask is empty.
        after: logits `(N, classes)` of the images with the edit.

    Args:
        classifier: the classifier.
        layer: name of the layer to edit.
        image: the image x, `(3, H, W)` in [0, 1].
        mask: the mask to start from, `(H, W)` of 0 and 1.
        change: makes x' of x and a mask.
        images: the images whose predictions are shown, with their labels.
        reference: the reference images.
    """

    def __init__(
        self,
        classifier: Classifier,
        layer: str,
        image: Tensor,
        mask: Tensor,
        change: Change,
        images: LabeledImages,
        reference: Images,
    ) -> None:
        self._change = change
        self._image = image
        self._images = images
        self._cut = Cut(classifier, layer, image.shape[1:], Weights(classifier))
        self._reference = LayerReference(self._cut, reference)
        self._states = States({layer: self._cut}, images)
        self.editor = MaskEditor(image, mask)
        self.editor.layout = {"width": EDITOR_WIDTH}
        self.picture = ipywidgets.Image(format="png", layout={"width": PICTURE_WIDTH})
        super().__init__([self.editor, self.picture], layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        self.editor.observe(self._follow, "_mask")
        self._follow()

    def __repr__(self) -> str:
        corrected = self._states.before & (self.after.argmax(dim=1) == self._states.labels)
        return f"MaskPanel({int(self.editor.mask.sum())} pixels, {int(corrected.sum())} of {len(corrected)} corrected)"

    def figure(self) -> Figure:
        """Draw x' with the outline of its mask, the edit map below it, and the images with their predictions."""
        columns = -(-len(self._images) // 2)
        figure = Figure(figsize=(1.5 * (columns + 1), 4.5))
        axes = figure.subplots(2, columns + 1)
        mask = self.editor.mask
        _draw_image(axes[0, 0], self._changed, "x' and the mask")
        axes[0, 0].contour(mask.numpy(), levels=[0.5], colors=[OVERLAY], linewidths=2)
        axes[1, 0].imshow(self.edit_map.numpy(), cmap="magma", vmin=0, vmax=2)
        axes[1, 0].set_title("edit map of x'", fontsize=9)
        titles, states = titles_and_states(
            self._cut.classifier.classes, self._states.labels, self._states.original, self.after
        )
        for axis, image, title, state in zip(axes[:, 1:].flat, self._images.images, titles, states, strict=False):
            _draw_image(axis, image, in_lines(f"{SIGNS[state]} {title}", letters=0), STATE_COLORS[state])
        for axis in axes.flat:
            axis.set_axis_off()
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.87, wspace=0.08, hspace=0.42)
        return figure

    @property
    def edit_map(self) -> Tensor:
        """The edit map of x', `(H, W)`; 0 if the mask is empty."""
        if self.edit is None:
            return torch.zeros(self._image.shape[1:])
        return self.edit.map_at(self._cut, self._changed[None])[0]

    def _follow(self, change: dict | None = None) -> None:
        """Make the edit of the mask that the editor holds, and draw what it does."""
        mask = self.editor.mask
        self.edit: Edit | None = None
        self.after = self._states.original
        self._changed = self._image
        if mask.any():
            self._changed = self._change(self._image, mask)
            exemplar = Exemplar(self._image, self._changed, mask)
            [self.edit] = rewrite_at(site_at(self._reference, Pairs.of([exemplar])))
            self.after = self._states.logits(self.edit)
        self.picture.value = png_of(self.figure())


def png_of(figure: Figure) -> bytes:
    """Save a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw_image(axes: Axes, image: Tensor, title: str, color: str = "black") -> None:
    """Draw an image `(3, H, W)` under a title."""
    draw_pixels(axes, to_pixels(image))
    axes.set_title(title, fontsize=9, color=color)
