"""Vehicles on snow in MiniWorld: the same lines as `snow_photos.py`, on a thousand drawn scenes; nothing is downloaded.

The exemplars are cars, the test classes are the other vehicles. `--model` runs the same code on the ResNet or the ViT.
Each chosen edit is read once more at other strengths: what it corrects there, and its locality.
"""

from collections.abc import Mapping
from typing import Any

from columns import SNOW, by_method
from common import finish, parser, start
from methods import choose_all, with_near
from networks import edit_first, together
from snow_photos import figures, measure

from edittools.scenarios.snow import snow_scenario
from edittools.selection.activations import trade_off
from edittools.selection.constraints import Choice
from edittools.selection.search import Plan, Protocol

ALONG = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Strengths at which each chosen edit is read again, as multiples of the one that was chosen."""


def along(protocol: Protocol, chosen: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """Tabulate by `method` and `strength` the share of `errors corrected`, and the `locality` of the nearest images."""
    edits = {method: choice.edit for method, choice in chosen.items() if choice.found}
    table = trade_off(edits, ALONG, protocol.states["test"], protocol.states["nearest"])
    return table.assign(locality=1 - table.pop("kept broken")).to_dict("records")


def main() -> None:
    """Choose on validation scenes, report the test scenes once."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="mini_vgg", choices=("mini_vgg", "mini_resnet", "mini_vit"))
    given = start(arguments)
    story = with_near(snow_scenario("mini", given.model, progress=True))
    protocol = Protocol(story, story.layers, progress=True)
    chosen = choose_all(protocol, Plan(edited=story.shortlist))
    found, _ = together([{"job": given.model, **row} for row in measure(protocol, chosen)], figures)
    print("\n" + by_method(SNOW, found))
    finish(given, edit_first(found) | {"budget": protocol.about_budget(), "curve": along(protocol, chosen)})


if __name__ == "__main__":
    main()
