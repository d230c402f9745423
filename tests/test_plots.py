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
