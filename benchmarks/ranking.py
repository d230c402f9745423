"""Which rule of choice carries over from composites: the lowest loss, or the highest net gain?

Concepts in MSRC photos are turned to drawn materials. An edit of EfficientNet-Lite0 is chosen on half of the photos, by
either rule within the accuracy budget, and read on the other half in other variants of the material. No photo of snow
is read, nor a clean photo that a story reports. The loss stays the rule unless the net gain corrects a larger share of
the errors, with an interval of the difference above 0. Needs the photographs (see README, 'Tiers').
"""

import time
from pathlib import Path
from typing import Any

from common import finish, parser, start

from edittools.choosing.choice import select
from edittools.choosing.protocol import Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.trials import RANKS, grid
from edittools.classifiers import identity
from edittools.probing.jobs import run
from edittools.probing.statistics import bootstrap, signed_rank
from edittools.stories.composites import turned_photos
from edittools.world.textures import STYLES
from edittools.zoo.load import load_classifier

CONCEPTS = ("grass", "water", "sky", "tree")
SETTINGS = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",))


def case(story: Scenario) -> dict[str, Any]:
    """What each rule chooses, and the net gain of its choice on the reported photos, as a share of their errors."""
    protocol = Protocol(story, story.layers[::3])
    exemplars = {**story.exemplars, **story.several}
    table = protocol.choose(protocol.rewriting(SETTINGS, (0.5, 1.0, 1.5), exemplars)).table
    row: dict[str, Any] = {"trials": len(table)}
    for rank_by in RANKS:
        chosen = select(table, protocol.states["budget"], rank_by=rank_by)
        found = protocol.states["test"].compare(chosen.edit)
        row |= {f"chosen by {rank_by}": str(chosen), f"corrected by {rank_by}": found.corrected}
        row |= {f"broken by {rank_by}": found.broken, f"share by {rank_by}": found.row()["errors corrected"]}
    return row | {"errors": int(found.before.sum())}


def cases(concept: str) -> list[dict[str, Any]]:
    """A row for each material but snow."""
    stories = turned_photos(load_classifier("efficientnet_lite0"), concept, [s for s in STYLES if s != "snow"])
    return [{"concept": concept, "style": style} | case(story) for style, story in stories.items()]


def main() -> None:
    """Compare the rules over all concepts and materials but snow."""
    arguments = parser(__doc__)
    arguments.add_argument("--store", type=Path, help="file for finished concepts")
    arguments = arguments.parse_args()
    start(arguments)
    started = time.perf_counter()
    about = f"rules of choice {identity(load_classifier('efficientnet_lite0'))} {[RANKS, SETTINGS]}"
    table = run(cases, {concept: concept for concept in CONCEPTS}, arguments.store, about=about)
    apart = (table["share by net"] - table["share by loss"]).dropna()
    figures = {
        "cases": len(table),
        **{f"mean_share_by_{rank}": table[f"share by {rank}"].mean() for rank in RANKS},
        **{f"corrected_by_{rank}": int(table[f"corrected by {rank}"].sum()) for rank in RANKS},
        **{f"broken_by_{rank}": int(table[f"broken by {rank}"].sum()) for rank in RANKS},
        "errors": int(table["errors"].sum()),
        "net_better": int((apart > 0).sum()),
        "loss_better": int((apart < 0).sum()),
        "difference": apart.mean(),
        "difference_interval": bootstrap(apart),
        "p": signed_rank(apart),
        "seconds": time.perf_counter() - started,
    }
    print("\n" + table.round(2).to_string(index=False), "\n\n", figures)
    finish(arguments, figures)


if __name__ == "__main__":
    main()
