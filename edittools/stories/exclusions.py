"""Which classes a concept is, so that turning it into a style would change the class itself (footnote 3)."""

from functools import cache

import pandas as pd

from edittools.zoo.data import shipped


@cache
def exclusions() -> pd.DataFrame:
    """The pairs of concept and class that no case may hold, with the reason: the concept is the class, or its name."""
    table = pd.read_csv(shipped("exclusions.txt"), sep=r"\s*;\s*", engine="python", skipinitialspace=True)
    table.columns = table.columns.str.strip()
    table["class"] = table.pop("classes").str.strip().str.split(", ")
    return table.explode("class", ignore_index=True)
