"""Which classes a concept is, so that turning it into a style would change the class itself."""

import io
from functools import cache

import pandas as pd

EXCLUDED = """
concept  ; reason                               ; classes
building ; it is a building                     ; house, church, lighthouse, windmill, igloo
building ; it is a building                     ; palace, castle, mosque, monastery, library, barn, greenhouse, boathouse, lumbermill, cinema, restaurant, bookshop, grocery store, butcher shop, toyshop, barbershop, bakery, prison, planetarium, stupa, dome, triumphal arch, beacon, water tower, bell cote, mobile home, tile roof, patio, shoe shop, confectionery, tobacco shop
road     ; it lies in the road or is made of it ; manhole cover, street sign, maze
water    ; it is water or a shore               ; lakeside, seashore, sandbar, fountain, dam, breakwater, promontory, geyser
mountain ; it is a mountain                     ; alp, volcano, cliff, valley, promontory
grass    ; it is a crop or a field              ; hay, rapeseed, lawn mower
tree     ; it is made of trees                  ; maze, fig, buckeye, acorn
flower   ; it is a flower                       ; daisy, yellow lady's slipper, rapeseed, pot
"""  # noqa: E501
"""Concept-class pairs that no case may hold: the concept is the class, or what its name stands for (footnote 3)."""


@cache
def exclusions() -> pd.DataFrame:
    """The excluded pairs as a table: concept, reason, class."""
    table = pd.read_csv(io.StringIO(EXCLUDED), sep=r"\s*;\s*", engine="python", skipinitialspace=True)
    table.columns = table.columns.str.strip()
    table["class"] = table.pop("classes").str.strip().str.split(", ")
    return table.explode("class", ignore_index=True)
