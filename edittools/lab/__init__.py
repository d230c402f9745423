"""Eyes and hands: the desk, the mask editor, views of predictions and probes, plots."""

from edittools.checks import extra

with extra("lab", "lab"):
    from edittools.lab import plots
    from edittools.lab.desk import Desk
    from edittools.lab.editor import MaskEditor
    from edittools.lab.folders import read_folder
    from edittools.lab.views import PredictionView, ProbeBrowser, alpha_slider

__all__ = ["Desk", "MaskEditor", "PredictionView", "ProbeBrowser", "alpha_slider", "plots", "read_folder"]
