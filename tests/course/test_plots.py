"""Figures of the notebooks: what their axes show."""

import base64
import io

import pandas as pd
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from edittools.images import LabeledImages
from edittools_course import plots


def test_drops_say_what_zero_means():
    names = ("drop", "drop low", "drop high", "control drop")
    effects = pd.DataFrame([{"concept": "road", "images": 9, **dict(zip(names, (0.4, 0.3, 0.5, 0.1), strict=True))}])
    [axis] = plots.drops(effects, "concept").axes
    [label] = axis.texts
    assert label.get_text() and label.xy[0] == 0 and 0 in axis.get_xticks()


def test_predictions_mark_each_state_by_a_sign():
    labels = torch.tensor([0, 0, 0, 0])
    data = LabeledImages(torch.zeros(4, 3, 8, 8), labels, ("ant", "bee"))
    ant, bee = [1.0, 0.0], [0.0, 1.0]
    before = torch.tensor([ant, bee, bee, ant])
    after = torch.tensor([ant, bee, ant, bee])
    titles = [axis.get_title() for axis in plots.predictions(data, after, before, indices=range(4)).axes[:4]]
    assert titles == ["✓ ant", "✗ ant: bee", "+ ant: bee → ant", "− ant: ant → bee"]
    titles = [axis.get_title() for axis in plots.predictions(data, after, indices=range(4)).axes[:4]]
    assert [title[0] for title in titles] == ["✓", "✗", "✓", "✗"]


def test_long_title_is_broken_before_the_new_prediction():
    labels = torch.tensor([0])
    data = LabeledImages(torch.zeros(1, 3, 8, 8), labels, ("garbage truck", "tape player"))
    figure = plots.predictions(data, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), indices=[0], width=1.4)
    assert figure.axes[0].get_title().split("\n") == ["+ garbage truck:", "tape player →", "garbage truck"]


def test_image_grid_keeps_titles_of_three_lines_off_the_images_above():
    figure = plots.image_grid(torch.zeros(4, 3, 8, 8), 4 * ["first\nsecond\nthird"], columns=2, width=1.5)
    figure.savefig(io.BytesIO(), format="png")  # places the images and their titles
    upper, _, lower, _ = figure.axes
    assert lower.title.get_window_extent().y1 <= upper.get_window_extent().y0


def test_image_grid_without_correctness_has_no_signs():
    assert plots.image_grid(torch.zeros(1, 3, 8, 8), ["x'"]).axes[0].get_title() == "x'"


SHOWN = """
import matplotlib.pyplot as plt
from edittools_course import plots

plt.style.use("dark_background")
figure = plt.figure(figsize=(1, 1), facecolor="none")
plt.close(figure)
plots.show_figure(figure, "An empty figure.")
"""


def test_show_figure_displays_a_white_ground_and_a_text():
    [cell] = NotebookClient(new_notebook(cells=[new_code_cell(SHOWN)])).execute().cells
    [output] = cell.outputs
    assert output.data["text/plain"] == output.metadata["image/png"]["alt"] == "An empty figure."
    picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGBA")
    assert picture.getcolors() == [(picture.width * picture.height, (255, 255, 255, 255))]
