"""Tell nbval to compare what lasts: progress bars come and go with caches and speed, in this run as in the notebook."""

import os

import pytest
from refresh import lasting

os.environ |= {"EDITTOOLS_TIER": "mini", "EDITTOOLS_DEVICE": "cpu"}  # as the committed outputs were made
os.environ["PYTHONWARNINGS"] = "ignore:exporting"  # a slow machine says that it exports, which is no output


def pytest_itemcollected(item: pytest.Item) -> None:
    """Take what passes out of a cell's outputs before they are compared, and give a busy machine time to send them."""
    if not hasattr(item, "compare_outputs"):
        return
    compare = item.compare_outputs
    item.compare_outputs = lambda test, reference: compare(lasting(test), lasting(reference))
    item.output_timeout = 60
