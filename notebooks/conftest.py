"""Tell nbval to compare what lasts: progress bars come and go with caches and speed, in this run as in the notebook."""

import pytest
from refresh import lasting


def pytest_itemcollected(item: pytest.Item) -> None:
    """Take what passes out of a cell's outputs before they are compared, and give a busy machine time to send them."""
    if not hasattr(item, "compare_outputs"):
        return
    compare = item.compare_outputs
    item.compare_outputs = lambda test, reference: compare(lasting(test), lasting(reference))
    item.output_timeout = 60
