"""Do directions of the differences k' − k at the mask choose better edits than those of the keys k' of x'?"""

import sys

from edittools.choosing.protocol import Protocol
from edittools.choosing.trials import grid
from edittools.cut import rows
from edittools.exemplars import exemplars_at
from edittools.moments import directions, reference_moment
from edittools.rewriting import rewrite
from edittools.stories.snow import snow_scenario
from edittools.stories.watermark import watermark_scenario


def differences(classifier, cut, exemplars, reference, *, rank, **settings):
    """Rewrite along the directions of what tells x' from x."""
    shown = exemplars_at(classifier, cut, exemplars)
    share = cut.shares(shown.masks, cut.keys(shown.changed)).flatten()
    moved = rows(cut.keys(shown.changed) - cut.keys(shown.image), cut.is_linear)[share > 0]
    basis = directions(moved, share[share > 0], rank, reference_moment(cut, reference))
    return rewrite(classifier, cut, shown, reference, basis=basis, **settings)


for name in sys.argv[1:]:
    mini = name.startswith("mini")
    protocol = Protocol(snow_scenario("mini", name) if mini else watermark_scenario(name))
    tried = {"rank": (1, 3), "masked": (True, False)} if mini else {"rank": (1,), "masked": (True,)}
    settings = grid(
        **tried, objective=("least_squares",), reference_weight=(0.0, 10.0, 30.0, 100.0) if mini else (0.0, 30.0)
    )
    for method in (rewrite, differences):
        chosen = protocol.choose(
            protocol.rival(method, (0.5, 1.0, 1.5) if mini else (0.5, 1.0, 1.5, 2.0, 3.0), settings=settings)
        )
        print(name, method.__name__, chosen, dict(chosen.validation))
