"""Reports: one self-contained HTML page about an edit, with its pictures inlined, that can be read offline."""

from edittools.reports.page import Bar, Card, Figure, Page, render, save_page
from edittools.reports.pictures import data_uri, shade

__all__ = ["Bar", "Card", "Figure", "Page", "data_uri", "render", "save_page", "shade"]
