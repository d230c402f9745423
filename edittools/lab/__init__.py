"""Eyes and hands: the mask editor, views of predictions and probes, plots, the figure of a repair."""

from edittools.checks import extra

with extra("lab", "lab"):
    from edittools.lab import plots
    from edittools.lab.editor import MaskEditor
    from edittools.lab.repair_figure import repair_figure
    from edittools.lab.views import PredictionView, ProbeBrowser, alpha_slider

__all__ = [
    "MaskEditor", "PredictionView", "ProbeBrowser", "alpha_slider", "plots", "repair_figure",
]  # fmt: skip
