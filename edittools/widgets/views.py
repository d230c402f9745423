"""Widgets that show predictions, strengths and probes."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.images import check_image
from edittools.metrics import predict
from edittools.plots import image_grid, prediction_title
from edittools.widgets.pixels import Pictured, plain_text, to_pixels, to_png

LEADING, OTHER = "#0969da", "#8c959f"
SLIDER_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BARS, WIDTH = 5, 190
"""So many bars an image has at most, and so many pixels of the screen it is wide."""
SIDE_BY_SIDE = {"flex_flow": "row wrap", "grid_gap": "18px"}
BAR = {"height": "16px", "width": "auto", "margin": "0 2px"}


class PredictionView(Pictured, ipywidgets.HBox):
    """Images, each with bars for the classes that the classifier finds most likely.

    `images` is one `(3, H, W)` or several, such as the pair x and x'. `.probabilities` is `(columns, classes)`.
    """

    def __init__(self, classifier: Classifier, images: Tensor | Sequence[Tensor]) -> None:
        self._images, self._classes = _several(images), classifier.classes
        count = min(BARS, len(self._classes))
        self._bars = [
            [(ipywidgets.FloatProgress(max=1.0, layout=BAR), _label("")) for _ in range(count)] for _ in self._images
        ]
        columns = []
        for image, bars in zip(self._images, self._bars, strict=True):
            rows = [ipywidgets.VBox([name, bar]) for bar, name in bars]
            columns.append(ipywidgets.VBox([_captioned(image), *rows]))
        super().__init__(columns, layout=SIDE_BY_SIDE)
        self.show(_probabilities(classifier, self._images))

    def show(self, probabilities: Tensor) -> None:
        """Set the bars to other probabilities `(columns, classes)`."""
        self.probabilities = probabilities
        for row, bars in zip(probabilities, self._bars, strict=True):
            values, classes = row.topk(len(bars))
            for i, (bar, name) in enumerate(bars):
                bar.value, bar.style.bar_color = float(values[i]), OTHER if i else LEADING
                name.value = plain_text(f"{self._classes[int(classes[i])]} · {100 * float(values[i]):.0f} %")

    def __repr__(self) -> str:
        return f"PredictionView({', '.join(repr(self._classes[int(i)]) for i in self.probabilities.argmax(1))})"

    def figure(self) -> Figure:
        """Draw the images with the most likely class of each."""
        likely = [f"{self._classes[int(row.argmax())]} {100 * float(row.max()):.0f} %" for row in self.probabilities]
        return image_grid(self._images, likely, columns=6)


class ProbeBrowser(Pictured, ipywidgets.VBox):
    """Browse a `probing.Probe`: choose a class, a concept, a style and an image, and see what became of it.

    Shown are the image, the image with the concept transformed, and its control, each with what its table says is read;
    no classifier runs. The images that lose most come first. `classifier` names one of several. Setting the value of
    `.classes`, `.concept`, `.style` or `.image` is the same as choosing it.
    """

    def __init__(self, probe: Any, classifier: str | None = None) -> None:
        table = probe.table
        names = list(dict.fromkeys(table["classifier"])) if len(table) else []
        classifier = names[0] if classifier is None and names else classifier
        self._table, self._probe = table[table["classifier"] == classifier], probe
        if self._table.empty:
            raise ValueError(f"no rows of classifier {classifier!r} in the table: expected one of {names}")
        self._menus = {
            name: ipywidgets.Dropdown(description=name, layout={"width": "230px"})
            for name in ("class", "concept", "style", "image")
        }
        self.classes, self.concept, self.style, self.image = self._menus.values()
        self.pictures = ipywidgets.HBox(layout=SIDE_BY_SIDE)
        super().__init__([ipywidgets.HBox(list(self._menus.values()), layout={"flex_flow": "row wrap"}), self.pictures])
        for place, menu in enumerate(self._menus.values()):
            menu.observe(lambda change, place=place: change["new"] is None or self._follow(place), "value")
        self.classes.options = sorted(set(self._table["class"]))
        self.classes.value = self.classes.options[0]

    @property
    def row(self) -> pd.Series:
        """The row of the table that is shown."""
        return self._chosen(4).iloc[0]

    @property
    def captions(self) -> tuple[str, ...]:
        """What stands above the original, the transformed picture and the control (if there is one)."""
        return tuple(
            f"{view.title}: {view.read}, {self.row['class']} {100 * view.chance:.0f} %" for view in self._views
        )

    def _chosen(self, menus: int) -> pd.DataFrame:
        """The rows that fit the first so many menus."""
        rows = self._table
        for name, menu in list(self._menus.items())[:menus]:
            rows = rows[rows[name] == menu.value]
        return rows

    def _follow(self, place: int) -> None:
        """Fill the menu after the one that was changed; after the last one, show what is chosen."""
        if place == 3:
            self._views = self._probe.views(self.row)
            pairs = zip(self._views, self.captions, strict=True)
            self.pictures.children = [_captioned(view.image, caption) for view, caption in pairs]
            return
        (name, menu), rows = list(self._menus.items())[place + 1], self._chosen(place + 1)
        if menu is self.image:
            rows = rows.loc[(rows["p_after"] - rows["p_before"]).sort_values(kind="stable").index]
        options = tuple(dict.fromkeys(rows[name].tolist()))
        kept = menu.value if menu is not self.image else None
        if menu.options != options:
            menu.options = options
        menu.value = kept if kept in options else options[0]
        self._follow(place + 1)  # also where the value stays: what is above it has changed

    def __repr__(self) -> str:
        return f"ProbeBrowser({'; '.join(self.captions)})"

    def figure(self) -> Figure:
        """Draw the pictures that are shown."""
        name = self.row["class"]
        titles = [
            f"{view.title}, {name} {100 * view.chance:.0f} %\n{prediction_title(name, view.read)}"
            for view in self._views
        ]
        right = [view.read == name for view in self._views]
        return image_grid([view.image for view in self._views], titles, right, width=2.8)


class _Strengths(Pictured, ipywidgets.VBox):
    """A slider above the predictions that follow it."""

    def figure(self) -> Figure:
        return self.children[1].figure()


def alpha_slider(
    classifier: Classifier, edit: Edit, images: Tensor | Sequence[Tensor], strengths: Sequence[float] = SLIDER_STRENGTHS
) -> ipywidgets.VBox:
    """Make a slider over the strength α of an edit, above the predictions for a few images that follow it.

    All strengths are predicted beforehand, so moving the slider neither runs nor changes the classifier.
    """
    if not len(strengths) or not np.isfinite(strengths).all():
        raise ValueError(f"strengths {list(strengths)}: expected at least one number")
    found = {strength: _probabilities(classifier, _several(images), strength * edit) for strength in strengths}
    start = min(strengths, key=lambda strength: abs(strength - 1))
    view = PredictionView(classifier, images)
    view.show(found[start])
    slider = ipywidgets.SelectionSlider(
        options=[(f"{strength:g}", strength) for strength in strengths], value=start, description="strength α"
    )
    slider.observe(lambda change: view.show(found[change["new"]]), "value")
    return _Strengths([slider, view])


def _several(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Turn one image, a batch or a sequence of images into a list that is not empty."""
    images = [images] if isinstance(images, Tensor) and images.ndim == 3 else list(images)
    if not images:
        raise ValueError("no image: expected at least one (3, H, W)")
    return images


def _probabilities(classifier: Classifier, images: Sequence[Tensor], edit: Edit | None = None) -> Tensor:
    """The probabilities `(N, classes)`; images may differ in size."""
    with nullcontext() if edit is None else edit.applied(classifier):
        return torch.cat([predict(classifier, check_image(image)[None]).float().softmax(1) for image in images])


def _label(text: str) -> ipywidgets.Label:
    return ipywidgets.Label(plain_text(text), layout={"height": "20px"})


def _captioned(image: Tensor, caption: str = "") -> ipywidgets.VBox:
    """Show an image (a small one enlarged without blurring) under a caption."""
    pixels = to_pixels(image)
    times = max(1, round(2 * WIDTH / pixels.shape[1]))
    enlarged = to_png(pixels.repeat(times, axis=0).repeat(times, axis=1))
    picture = ipywidgets.Image(value=enlarged, format="png", layout={"width": f"{WIDTH}px", "margin": "0"})
    return ipywidgets.VBox([_label(caption), picture] if caption else [picture])
