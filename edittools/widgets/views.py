"""The widget that shows a probe."""

from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from edittools.widgets.drawing import image_grid, prediction_title
from edittools.widgets.pixels import StaticFigure, plain_text, to_pixels, to_png

WIDTH = 190
"""The width of an image on the screen, in pixels."""

SIDE_BY_SIDE = {"flex_flow": "row wrap", "grid_gap": "18px"}


class ProbeBrowser(StaticFigure, ipywidgets.VBox):
    """Browse a probe: select a class, a concept, a material and an image, and see how the prediction changed.

    The browser shows the image, the image with the concept transformed, and its control, each with the prediction in
    the probe's table; no classifier runs. The images that lose most come first. Setting the value of `.classes`,
    `.concept`, `.material` or `.image` is the same as selecting it.

    Args:
        probe: a `probing.Probe`; of several classifiers, the first is shown (`probe.where("classifier", name)` selects
            another one).
    """

    def __init__(self, probe: Any) -> None:
        self._probe = probe
        self._table = probe.table[probe.table["classifier"] == probe.table["classifier"].iloc[0]]
        self._menus: dict[str, ipywidgets.Dropdown] = {}
        for column in ("class", "concept", "material", "image"):
            menu = ipywidgets.Dropdown(description=column, layout={"width": "230px"})
            self._menus[column] = menu
        self.classes = self._menus["class"]
        self.concept = self._menus["concept"]
        self.material = self._menus["material"]
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
        return tuple(f"{view.title}: {view.predicted}, {label} {100 * view.probability:.0f}%" for view in self._views)

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
            prediction = prediction_title(label, view.predicted)
            titles.append(f"{view.title}, {label} {100 * view.probability:.0f}%\n{prediction}")
        images = [view.image for view in self._views]
        is_correct = [view.predicted == label for view in self._views]
        return image_grid(images, titles, is_correct, width=2.8)


def _captioned(image: Tensor, caption: str) -> ipywidgets.VBox:
    """Show an image under a caption, whose text is shown as it is; a small image is enlarged without blurring."""
    pixels = to_pixels(image)
    factor = max(1, round(2 * WIDTH / pixels.shape[1]))
    enlarged = to_png(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    picture = ipywidgets.Image(value=enlarged, format="png", layout={"width": f"{WIDTH}px", "margin": "0"})
    return ipywidgets.VBox([ipywidgets.Label(plain_text(caption), layout={"height": "20px"}), picture])
