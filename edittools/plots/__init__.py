"""Figures of images, predictions, edits and probes; each function returns a `matplotlib` figure."""

from edittools._checks import extra

with extra("plots", "widgets"):
    from edittools.plots.figures import (
        AFTER,
        BEFORE,
        RIGHT,
        WRONG,
        agreement,
        attack_grid,
        benchmark_bars,
        confusions,
        counterfactuals,
        drops,
        error_bars,
        exemplar_figure,
        finished,
        firing_figure,
        heat,
        image_grid,
        kept_trade_off,
        layers,
        legend,
        method_bars,
        predictions,
        reading,
        style_heat,
        trade_off,
    )

__all__ = ["AFTER", "BEFORE", "RIGHT", "WRONG", "agreement", "attack_grid", "benchmark_bars", "confusions"]
__all__ += ["counterfactuals", "drops", "error_bars", "exemplar_figure", "finished", "firing_figure", "heat"]
__all__ += ["image_grid", "kept_trade_off", "layers", "legend", "method_bars", "predictions", "reading"]
__all__ += ["style_heat", "trade_off"]
