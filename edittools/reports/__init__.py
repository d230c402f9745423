"""Reports: one self-contained HTML page about an edit, with its pictures inlined, that can be read offline."""

from edittools.reports.charts import LayerBar, Point, TradeOff
from edittools.reports.page import Bar, Card, Figure, Page, render, render_charts, save_page
from edittools.reports.pictures import data_uri, shade

__all__ = [
    "Bar",
    "Card",
    "Figure",
    "LayerBar",
    "Page",
    "Point",
    "TradeOff",
    "data_uri",
    "render",
    "render_charts",
    "save_page",
    "shade",
]
