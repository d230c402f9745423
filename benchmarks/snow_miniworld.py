"""Vehicles on snow in MiniWorld: the same lines as `snow_photos.py`, on a thousand drawn scenes; nothing is downloaded.

The exemplars are cars, the test classes are the other vehicles. `--model` runs the same code on the ResNet or the ViT.
"""

from columns import SNOW, by_method
from common import finish, parser, start
from networks import edit_first, together
from snow_photos import figures, measure

from edittools.choosing.protocol import Plan, Protocol
from edittools.stories.snow import snow_scenario


def main() -> None:
    """Choose on validation scenes, report the test scenes once."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="mini_vgg", choices=("mini_vgg", "mini_resnet", "mini_vit"))
    given = start(arguments)
    story = snow_scenario("mini", given.model, progress=True)
    protocol = Protocol(story, story.layers, progress=True)
    rows = [{"job": given.model, **row} for row in measure(protocol, Plan(edited=story.shortlist))]
    found, _ = together(rows, figures)
    print("\n" + by_method(SNOW, found))
    finish(given, edit_first(found) | {"budget": protocol.about_budget()})


if __name__ == "__main__":
    main()
