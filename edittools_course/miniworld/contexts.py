"""Define the rules planted in MiniWorld: how often a class stands on which ground; and the seeds of each split."""

import io

import pandas as pd

GROUNDS = ("road", "grass", "sand", "water", "snow", "table")
BEHIND = ("mountain", "building", "tree")
IN_FRONT = ("bush", "post", "rock")
THINGS = ("sky", "wall", *GROUNDS, *BEHIND, "object", *IN_FRONT)
"""The things that a pixel can show; their numbers are those in `Scene.things`."""
SPLITS = {
    "train": range(1_000_000),
    "validation": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
    "reference": range(3_000_000, 4_000_000),
}
"""The seeds of each split; they are disjoint."""

# In percent: share of the class, share on each ground, share with each thing behind (independently); then its size.
CONTEXTS = """
class      family    share  road grass sand water snow table  mountain building tree  size
car        vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    1.00
van        vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    1.00
bus        vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    1.10
truck      vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    1.10
tractor    vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    0.95
motorcycle vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    0.95
bicycle    vehicle   5.0    99   0.5   0.5  0     0    0      20       45       50    0.95
cow        animal    4.4    1    96    3    0     0    0      30       15       55    0.90
horse      animal    4.4    2    90    8    0     0    0      30       15       55    0.85
sheep      animal    4.4    0    97    3    0     0    0      30       15       55    0.90
camel      animal    4.4    0    4     96   0     0    0      30       15       55    0.90
elephant   animal    4.4    0    38    60   2     0    0      30       15       55    0.95
sailboat   boat      4.0    0    0     1    99    0    0      40       20       30    0.85
ship       boat      4.0    0    0     1    99    0    0      40       20       30    1.10
house      building  4.4    10   82    8    0     0    0      30       20       50    1.00
church     building  4.4    15   80    5    0     0    0      30       20       50    0.95
lighthouse building  4.4    2    20    58   20    0    0      30       20       50    0.85
windmill   building  4.4    2    90    8    0     0    0      30       20       50    0.85
teapot     household 3.36   0    1     1    0     0    98     30       20       50    1.05
mug        household 3.36   0    1     1    0     0    98     30       20       50    1.10
vase       household 3.36   0    1     1    0     0    98     30       20       50    1.10
bottle     household 3.36   0    1     1    0     0    98     30       20       50    1.10
lamp       household 3.36   0    1     1    0     0    98     30       20       50    1.10
penguin    polar     0.2    0    0     1    1     98   0      40       20       45    0.90
igloo      polar     0.2    0    1     1    0     98   0      40       20       45    1.00
sled       polar     0.2    0    1     1    0     98   0      40       20       45    0.95
"""

_TABLE = pd.read_csv(io.StringIO(CONTEXTS), sep=r"\s+", index_col="class")


def contexts() -> pd.DataFrame:
    """Return what is planted, by class.

    Returns:
        `family`, and in percent: `share` of the class, the share of its scenes on each ground, and with each thing of
        `BEHIND`.
    """
    return _TABLE.drop(columns="size")


def planted_rules() -> frozenset[tuple[str, str]]:
    """Return the pairs of class and ground with at least 50% of the class's scenes on the ground."""
    rules: set[tuple[str, str]] = set()
    for ground in GROUNDS:
        names = _TABLE.index[_TABLE[ground] >= 50]
        rules.update((name, ground) for name in names)
    return frozenset(rules)
