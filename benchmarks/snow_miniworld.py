"""Vehicles on snow in MiniWorld: the same lines as `snow_photos.py`, on a thousand drawn scenes; nothing is downloaded.

The exemplars are cars, the test classes are the other vehicles. `--model` runs the same code on the ResNet or the ViT.
"""

import time

from common import parser, start
from snow_photos import conclude, measure

from edittools.choosing.protocol import Plan, Protocol
from edittools.stories.snow import snow_scenario


def main() -> None:
    """Choose on validation scenes, report the test scenes once."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="mini_vgg", choices=("mini_vgg", "mini_resnet", "mini_vit"))
    arguments = arguments.parse_args()
    start(arguments)
    started = time.perf_counter()
    story = snow_scenario("mini", arguments.model, progress=True)
    protocol = Protocol(story, story.layers, progress=True)
    conclude(arguments, protocol, measure(protocol, Plan(edited=story.shortlist)), started)


if __name__ == "__main__":
    main()
