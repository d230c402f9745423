"""Figures of images, predictions, edits and probes; each function returns a `matplotlib` figure."""

from edittools._checks import extra

with extra("plots", "notebooks"):
    from edittools.widgets.drawing import RIGHT, WRONG, image_grid, prediction_title
    from edittools_course.plots.figures import (
        AFTER,
        BEFORE,
        attack_grid,
        counterfactuals,
        drops,
        edit_map_figure,
        exemplar_figure,
        finished,
        legend,
        predictions,
        show_figure,
    )

__all__ = [
    "AFTER",
    "BEFORE",
    "RIGHT",
    "WRONG",
    "attack_grid",
    "counterfactuals",
    "drops",
    "edit_map_figure",
    "exemplar_figure",
    "finished",
    "image_grid",
    "legend",
    "prediction_title",
    "predictions",
    "show_figure",
]
