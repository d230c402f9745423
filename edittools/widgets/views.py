"""Widgets that show predictions, edits of different strength, and probes."""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from edittools._image_checks import check_image
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.metrics import predict
from edittools.widgets.drawing import image_grid, prediction_title
from edittools.widgets.pixels import StaticFigure, plain_text, to_pixels, to_png

TOP_COLOR = "#0969da"
"""The color of the bar of the most likely class."""

OTHER_COLOR = "#8c959f"
"""The color of the other bars."""

SLIDER_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""The strengths that `alpha_slider` offers."""

MAX_BARS = 5
"""The largest number of bars below an image."""

WIDTH = 190
"""The width of an image on the screen, in pixels."""

SLIDER_WIDTH = 420
"""The width of the slider over strengths on the screen, with its description and its value, in pixels."""

STEPS = {"width": "276px", "margin": "-6px 0 4px 78px"}
"""The place of the steps, which lie below the slider's track: half a step wider on both sides."""

SIDE_BY_SIDE = {"flex_flow": "row wrap", "grid_gap": "18px"}
BAR = {"height": "16px", "width": "auto", "margin": "0 2px"}


class _Predictions(ipywidgets.HBox):
    """Images, each with bars for its most likely classes.

    Args:
        images: the images, each `(3, H, W)`.
        class_names: the names of the classes.
        probabilities: what the bars show at first, `(images, classes)`.
    """

    def __init__(self, images: Sequence[Tensor], class_names: Sequence[str], probabilities: Tensor) -> None:
        self.images = images
        self.class_names = class_names
        self._bars: list[list[tuple[ipywidgets.FloatProgress, ipywidgets.Label]]] = []
        columns = []
        for image in images:
            bars = []
            children = [_captioned(image)]
            for _ in range(min(MAX_BARS, len(class_names))):
                bar = ipywidgets.FloatProgress(max=1.0, layout=BAR)
                class_name = _label("")
                bars.append((bar, class_name))
                children.append(ipywidgets.VBox([class_name, bar]))
            self._bars.append(bars)
            columns.append(ipywidgets.VBox(children))
        super().__init__(columns, layout=SIDE_BY_SIDE)
        self.show(probabilities)

    def show(self, probabilities: Tensor) -> None:
        """Set the bars to other probabilities `(images, classes)`."""
        self.probabilities = probabilities
        for row, bars in zip(probabilities, self._bars, strict=True):
            top_values, top_classes = row.topk(len(bars))
            for rank, (bar, class_name) in enumerate(bars):
                value = float(top_values[rank])
                bar.value = value
                bar.style.bar_color = TOP_COLOR if rank == 0 else OTHER_COLOR
                class_name.value = plain_text(f"{self.class_names[int(top_classes[rank])]} · {100 * value:.0f}%")


class ProbeBrowser(StaticFigure, ipywidgets.VBox):
    """Browse a probe: select a class, a concept, a style and an image, and see how the prediction changed.

    The browser shows the image, the image with the concept transformed, and its control, each with the prediction in
    the probe's table; no classifier runs. The images that lose most come first. Setting the value of `.classes`,
    `.concept`, `.style` or `.image` is the same as selecting it.

    Args:
        probe: a `probing.Probe`; of several classifiers, the first is shown (`probe.where("classifier", name)` selects
            another one).
    """

    def __init__(self, probe: Any) -> None:
        self._probe = probe
        self._table = probe.table[probe.table["classifier"] == probe.table["classifier"].iloc[0]]
        self._menus: dict[str, ipywidgets.Dropdown] = {}
        for column in ("class", "concept", "style", "image"):
            menu = ipywidgets.Dropdown(description=column, layout={"width": "230px"})
            self._menus[column] = menu
        self.classes = self._menus["class"]
        self.concept = self._menus["concept"]
        self.style = self._menus["style"]
        self.image = self._menus["image"]
        menus = ipywidgets.HBox(list(self._menus.values()), layout={"flex_flow": "row wrap"})
        self.pictures = ipywidgets.HBox(layout=SIDE_BY_SIDE)
        super().__init__([menus, self.pictures])
        for position, menu in enumerate(self._menus.values()):
            menu.observe(lambda change, position=position: self._menu_changed(position, change["new"]), "value")
        self.classes.options = sorted(set(self._table["class"]))
        self.classes.value = self.classes.options[0]

    @property
    def row(self) -> pd.Series:
        """The row of the table that is shown."""
        return self._selected_rows(len(self._menus)).iloc[0]

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions of the original, the transformed image and the control (if there is one)."""
        label = self.row["class"]
        return tuple(f"{view.title}: {view.read}, {label} {100 * view.chance:.0f}%" for view in self._views)

    def _selected_rows(self, menus: int) -> pd.DataFrame:
        """Return the rows that match the selection in the first `menus` menus."""
        rows = self._table
        for column in list(self._menus)[:menus]:
            rows = rows[rows[column] == self._menus[column].value]
        return rows

    def _menu_changed(self, position: int, value: Any) -> None:
        """Update the menus after the one whose value has changed; a menu that is being filled has the value None."""
        if value is not None:
            self._update_after(position)

    def _update_after(self, position: int) -> None:
        """Fill the menu after the one at a position, and so on; after the last one, show the selected row."""
        if position == len(self._menus) - 1:
            self._show_row()
            return
        column = list(self._menus)[position + 1]
        menu = self._menus[column]
        rows = self._selected_rows(position + 1)
        if menu is self.image:
            change = rows["p_after"] - rows["p_before"]
            rows = rows.loc[change.sort_values(kind="stable").index]
        options = tuple(dict.fromkeys(rows[column].tolist()))
        previous = None if menu is self.image else menu.value
        if menu.options != options:
            menu.options = options
        menu.value = previous if previous in options else options[0]
        self._update_after(position + 1)  # also if the value is the same, since the menus before it have changed

    def _show_row(self) -> None:
        """Show the images of the selected row."""
        self._views = self._probe.views(self.row)
        pairs = zip(self._views, self.captions, strict=True)
        self.pictures.children = [_captioned(view.image, caption) for view, caption in pairs]

    def __repr__(self) -> str:
        return f"ProbeBrowser({'; '.join(self.captions)})"

    def figure(self) -> Figure:
        """Draw the images of the selected row."""
        label = self.row["class"]
        titles = []
        for view in self._views:
            prediction = prediction_title(label, view.read)
            titles.append(f"{view.title}, {label} {100 * view.chance:.0f}%\n{prediction}")
        images = [view.image for view in self._views]
        is_correct = [view.read == label for view in self._views]
        return image_grid(images, titles, is_correct, width=2.8)


class _StrengthSlider(StaticFigure, ipywidgets.VBox):
    """A slider with its steps, above the predictions that follow it.

    Args:
        slider: the slider over the strengths.
        view: the predictions at its value.
        probabilities: those of the images at each strength, `(images, classes)`.
    """

    def __init__(
        self, slider: ipywidgets.SelectionSlider, view: _Predictions, probabilities: dict[float, Tensor]
    ) -> None:
        self._probabilities = probabilities
        ticks = [f"<span style='width: 32px; text-align: center'>{strength:g}</span>" for strength in probabilities]
        row = f"<div style='display: flex; justify-content: space-between'>{''.join(ticks)}</div>"
        steps = ipywidgets.HTML(row, layout=STEPS)
        super().__init__([slider, steps, view])

    def figure(self) -> Figure:
        """Draw the images, each with its most likely class at every step of the slider, the current one marked."""
        slider, _, view = self.children
        titles = []
        for number in range(len(view.probabilities)):
            lines = []
            for strength, rows in self._probabilities.items():
                row = rows[number]
                mark = "▸" if strength == slider.value else " "
                class_name = view.class_names[int(row.argmax())]
                lines.append(f"{mark} α {strength:g}: {class_name} {100 * float(row.max()):.0f}%")
            titles.append("\n".join(lines))
        return image_grid(view.images, titles, columns=4, width=2.4)


def alpha_slider(classifier: Classifier, edit: Edit, images: Tensor | Sequence[Tensor]) -> ipywidgets.VBox:
    """Make a slider over the strength α of an edit, above the predictions for a few images, which follow it.

    The predictions at all strengths are made beforehand, so moving the slider neither runs nor changes the classifier.

    Args:
        classifier: the classifier.
        edit: an edit of it.
        images: one image `(3, H, W)` or several.

    Raises:
        ValueError: if there is no image, or if the edit was made for another model.
    """
    images = _list_of_images(images)
    probabilities = {strength: _probabilities(classifier, images, strength * edit) for strength in SLIDER_STRENGTHS}
    view = _Predictions(images, classifier.classes, probabilities[1.0])
    options = [(f"{strength:g}", strength) for strength in SLIDER_STRENGTHS]
    slider = ipywidgets.SelectionSlider(
        options=options, value=1.0, description="strength α", layout={"width": f"{SLIDER_WIDTH}px"}
    )
    slider.observe(lambda change: view.show(probabilities[change["new"]]), "value")
    return _StrengthSlider(slider, view, probabilities)


def _list_of_images(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Convert one image, a batch or a sequence of images to a list.

    Raises:
        ValueError: if there is no image.
    """
    is_single = isinstance(images, Tensor) and images.ndim == 3
    images = [images] if is_single else list(images)
    if not images:
        raise ValueError("no image was given; pass at least one image (3, H, W)")
    return images


def _probabilities(classifier: Classifier, images: Sequence[Tensor], edit: Edit) -> Tensor:
    """Predict the probabilities `(images, classes)` with an edit, for images that may differ in size."""
    rows = []
    with edit.applied(classifier):
        for image in images:
            logits = predict(classifier, check_image(image)[None])
            rows.append(logits.float().softmax(dim=1))
    return torch.cat(rows)


def _label(text: str) -> ipywidgets.Label:
    """Make a label, which shows the text as it is."""
    return ipywidgets.Label(plain_text(text), layout={"height": "20px"})


def _captioned(image: Tensor, caption: str = "") -> ipywidgets.VBox:
    """Show an image under a caption; a small image is enlarged without blurring."""
    pixels = to_pixels(image)
    factor = max(1, round(2 * WIDTH / pixels.shape[1]))
    enlarged = to_png(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    picture = ipywidgets.Image(value=enlarged, format="png", layout={"width": f"{WIDTH}px", "margin": "0"})
    return ipywidgets.VBox([_label(caption), picture] if caption else [picture])
