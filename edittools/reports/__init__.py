"""Reports: one self-contained HTML page about an edit, with its pictures inlined, that can be read offline.

Next to the page, a JSON file holds what it says for programs.
"""

from edittools.reports.data import package_versions, plain, report_paths, save_report, write_report
from edittools.reports.page import (
    Card,
    Figure,
    Page,
    SheetCell,
    SheetRow,
    render,
    render_sheet,
    save_page,
)
from edittools.reports.pictures import data_uri, shade

__all__ = [
    "Card",
    "Figure",
    "Page",
    "SheetCell",
    "SheetRow",
    "data_uri",
    "package_versions",
    "plain",
    "render",
    "render_sheet",
    "report_paths",
    "save_page",
    "save_report",
    "shade",
    "write_report",
]
