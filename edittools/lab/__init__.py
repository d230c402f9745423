"""Eyes and hands: the desk, the mask editor, views of predictions and probes, plots, the figure of a repair."""

from edittools.checks import extra

with extra("lab", "lab"):
    from edittools.lab import masks, plots
    from edittools.lab.bench import Bench, Settings
    from edittools.lab.desk import Desk
    from edittools.lab.editor import MaskEditor
    from edittools.lab.folders import read_folder
    from edittools.lab.palette import Recipe
    from edittools.lab.repair_figure import repair_figure
    from edittools.lab.views import PredictionView, ProbeBrowser, alpha_slider

__all__ = ["Bench", "Desk", "MaskEditor", "PredictionView", "ProbeBrowser", "Recipe", "Settings", "alpha_slider"]
__all__ += ["masks", "plots", "read_folder", "repair_figure"]
