"""Compare the outputs of notebooks as `refresh.py` stores them: without what goes to stderr, such as warnings."""

import pytest


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Skip stderr in the comparison of a notebook's outputs by nbval."""
    if collector.path.suffix == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
