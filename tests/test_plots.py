"""Figures of the notebooks: what their axes show."""

import numpy as np
import pandas as pd
import pytest

from edittools import plots


def test_layers_draws_the_net_share_of_the_errors():
    table = pd.DataFrame(
        {
            "layer": ["features.8", "features.8", "features.10"],
            "net": [30, -3, 45],
            "objective": ["least_squares", "l1", "least_squares"],
        }
    )
    figure = plots.layers(table, errors=60)
    [axis] = figure.axes
    heights = np.concatenate([points.get_offsets()[:, 1] for points in axis.collections])
    assert sorted(heights) == pytest.approx([-5, 50, 75])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["features.8", "features.10"]
    assert table["net"].tolist() == [30, -3, 45]


def test_style_heat_shows_no_negative_zero():
    drops = {("sky", "snow"): -0.004, ("sky", "wooden"): 0.5, ("road", "snow"): 0.25, ("road", "wooden"): -0.25}
    table = pd.DataFrame([{"concept": c, "style": s, "drop": drop} for (c, s), drop in drops.items()])
    axis = plots.style_heat(table).axes[0]
    assert sorted(text.get_text() for text in axis.texts) == ["-25", "0", "25", "50"]
