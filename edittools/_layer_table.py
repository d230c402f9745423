"""The table of a classifier's layers, which is printed as a whole."""

import pandas as pd


class LayerTable(pd.DataFrame):
    """A `pandas.DataFrame` with one row per layer; pandas alone would leave out columns and rows when it is printed."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        return f"{self.to_string(index=False)}\n[pandas.DataFrame with one row per layer, {len(self)} layers]"

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_rows", None, "display.max_columns", None):
            return super()._repr_html_()
