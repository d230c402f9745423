"""Figures of images, predictions, edits and probes; each function returns a `matplotlib` figure."""

from edittools._checks import extra

with extra("plots", "widgets"):
    from edittools.plots.figures import (
        AFTER,
        BEFORE,
        RIGHT,
        WRONG,
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
        image_grid,
        layers,
        legend,
        method_bars,
        prediction_title,
        predictions,
        retained_trade_off,
        style_heat,
    )

__all__ = ["AFTER", "BEFORE", "RIGHT", "WRONG", "accuracy_trade_off", "agreement", "attack_grid"]
__all__ += ["benchmark_bars", "confusions", "counterfactuals", "drops", "edit_map_figure", "error_bars"]
__all__ += ["exemplar_figure", "finished", "heat", "image_grid", "layers", "legend", "method_bars"]
__all__ += ["prediction_title", "predictions", "retained_trade_off", "style_heat"]
