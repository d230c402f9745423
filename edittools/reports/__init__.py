"""Reports: one self-contained HTML page about an edit, with its pictures inlined, that can be read offline.

Next to the page, a JSON file holds what it says for programs.
"""

from edittools.reports.data import package_versions, plain, report_paths, save_report
from edittools.reports.page import Card, Figure, SheetCell, SheetRow, render, render_sheet
from edittools.reports.pictures import data_uri, shade

__all__ = [
    "Card",
    "Figure",
    "SheetCell",
    "SheetRow",
    "data_uri",
    "package_versions",
    "plain",
    "render",
    "render_sheet",
    "report_paths",
    "save_report",
    "shade",
]
