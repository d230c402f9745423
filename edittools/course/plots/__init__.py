"""Figures of images, predictions, edits and probes; each function returns a `matplotlib` figure."""

from edittools._checks import extra

with extra("plots", "notebooks"):
    from edittools.course.plots.figures import (
        AFTER,
        BEFORE,
        accuracy_trade_off,
        agreement,
        attack_grid,
        benchmark_bars,
        confusions,
        counterfactuals,
        drops,
        edit_map_figure,
        error_bars,
        exemplar_figure,
        finished,
        heat,
        layers,
        legend,
        method_bars,
        predictions,
        retained_trade_off,
        show_figure,
        style_heat,
    )
    from edittools.widgets.drawing import RIGHT, WRONG, image_grid, prediction_title

__all__ = [
    "AFTER",
    "BEFORE",
    "RIGHT",
    "WRONG",
    "accuracy_trade_off",
    "agreement",
    "attack_grid",
    "benchmark_bars",
    "confusions",
    "counterfactuals",
    "drops",
    "edit_map_figure",
    "error_bars",
    "exemplar_figure",
    "finished",
    "heat",
    "image_grid",
    "layers",
    "legend",
    "method_bars",
    "prediction_title",
    "predictions",
    "retained_trade_off",
    "show_figure",
    "style_heat",
]
