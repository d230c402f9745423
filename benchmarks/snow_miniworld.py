"""Vehicles on snow in MiniWorld: the same lines as `snow_photos.py`, on a thousand drawn scenes; nothing is downloaded.

The exemplars are cars, the test classes are the other vehicles. `--model` runs the same code on the ResNet or the ViT.
Each chosen edit is read once more at other strengths: what it corrects there, and its locality.
"""

from collections.abc import Mapping
from typing import Any

from columns import SNOW, by_method
from common import finish, parser, start
from methods import Plan, search_of, select_all, with_near
from networks import edit_first, together
from snow_photos import figures, measure

from edittools.scenarios.snow import snow_scenario
from edittools.selection.search import EditSearch, Selection

ALONG = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Strengths at which each chosen edit is read again, as multiples of the one that was chosen."""


def along(search: EditSearch, selections: Mapping[str, Selection]) -> list[dict[str, Any]]:
    """Tabulate by `method` and `strength` the share of `errors corrected`, and the `locality` of the nearest images."""
    edits = {method: selection.edit for method, selection in selections.items() if selection.feasible}
    table = search.trade_off(edits, ALONG, "target_test", "nearest")
    return table.assign(locality=1 - table.pop("broken")).to_dict("records")


def main() -> None:
    """Select on the target scenes, evaluate once on the test scenes."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="mini_vgg", choices=("mini_vgg", "mini_resnet", "mini_vit"))
    given = start(arguments)
    story = with_near(snow_scenario("mini", given.model, progress=True))
    search = search_of(story, story.layers)
    selections = select_all(story, search, Plan(edited=story.shortlist))
    rows = [{"job": given.model, **row} for row in measure(story, search, selections)]
    found, _ = together(rows, figures)
    print("\n" + by_method(SNOW, found))
    finish(given, edit_first(found) | {"budget": search.describe_constraints(), "curve": along(search, selections)})


if __name__ == "__main__":
    main()
