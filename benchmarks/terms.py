"""What an edit should spare, and how much: the terms of `rewrite` over stories and networks, on images that choose.

Twice, for each story and each set of terms. *Chosen*: the edit of one exemplar is chosen among layers, exemplars, ranks
and strengths, within the accuracy budget and the bound on kept images. What it does to the images it was chosen on says
which terms a choice should try. *Single*: the mean over all those edits at strength 1, which nobody chose. It says what
the default of `rewrite(…, keep=)` should be, by a rule: the terms with the highest mean over stories of the net share
of errors corrected less the share of kept images broken. No test image is read. Tier mini: MiniWorld (two networks, the
small CLIP, a found rule); tier lite: composites of photographs, two networks.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
from common import finish, parser, start

from edittools.choosing import Protocol, Scenario, grid
from edittools.choosing.protocol import STAY, staying
from edittools.stories.composites import snow_from_composites
from edittools.stories.cures import scenario_for, shown_rule
from edittools.stories.rules import probing_scenario
from edittools.stories.snow import snow_scenario
from edittools.stories.typographic import typographic_scenario

SETTINGS = grid(rank=(1, 3), masked=(True,), objective=("least_squares",))
STRENGTHS = (0.5, 1.0)
NAMES = ("reference_weight", "keep_weight", "keep_share")
TERMS = (*STAY, *(dict(zip(NAMES, values, strict=True)) for values in ((0.0, 0.0, 0.3), (0.0, 1.0, 0.3))))
"""Those that choices try, and two without the cost of moving everyday keys."""


def found_rule() -> Scenario:
    """The scenario of the strongest rule that a probe finds in the small network."""
    story = probing_scenario("mini", per_class=40, progress=True)
    rule, _ = shown_rule(story, story.with_materials(names=[story.first], progress=True))
    return scenario_for(story, rule, progress=True)


STORIES: dict[str, dict[str, Callable[[], Scenario]]] = {
    "mini": {
        "snow, mini_vgg": partial(snow_scenario, "mini", "mini_vgg"),
        "snow, mini_resnet": partial(snow_scenario, "mini", "mini_resnet"),
        "typographic, mini_clip": partial(typographic_scenario, "mini"),
        "cure, mini_vgg": found_rule,
    },
    "lite": {
        f"composites of snow, {name}": partial(snow_from_composites, name)
        for name in ("efficientnet_lite0", "squeezenet1_1")
    },
}


def measure(name: str, story: Scenario) -> list[dict[str, Any]]:
    """A row for each of the terms: what is chosen with them, what single edits do, on the images that choose."""
    unread = dict.fromkeys(("test", "clean", "keep_report", "own"))
    protocol = Protocol(replace(story, **unread, more={}), story.shortlist, progress=True)
    tried = protocol.choose(protocol.rewriting(staying(SETTINGS, TERMS), STRENGTHS)).table
    wrong, rows = int(protocol.states["validation"].before.sum()), []
    for terms in TERMS:
        known = {term: value for term, value in terms.items() if term in tried}
        with_them = tried[(tried[list(known)] == pd.Series(known)).all(axis=1)]
        one = protocol.choose(with_them)
        net = one.validation["corrected"] - one.validation["broken"]
        kept = {"kept broken": one.kept.broken, "kept": len(one.kept.before)} if one.kept else {}
        chosen = {"corrected": one.validation["corrected"], "broken": one.validation["broken"], "errors": wrong}
        chosen |= {"net share": net / wrong, "budget change": one.accuracy_change, **kept, "chosen": str(one)}
        rows.append({"story": name, **terms, **chosen, **single(protocol, with_them, wrong)})
    return rows


def single(protocol: Protocol, tried: pd.DataFrame, wrong: int) -> dict[str, float]:
    """The means over all edits at strength 1: shares of errors corrected net and of kept images broken, and points."""
    at_one, states = tried[tried.strength == 1], protocol.states
    net = at_one.net.mean() / wrong
    costs = [states["budget"].compare(edit).accuracy_change for edit in at_one.edit]
    found = {"single": len(at_one), "single net share": net, "single budget change": sum(costs) / len(costs)}
    if "keep" not in states:
        return found | {"single score": net}
    broken = [float(states["keep"].compare(edit).broken) for edit in at_one.edit]
    share = sum(broken) / len(broken) / len(states["keep"].before)
    return found | {"single kept broken share": share, "single score": net - share}


def main() -> None:
    """Measure every story of the tier, and the mean share by terms."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", nargs="+", choices=tuple(STORIES), default=["mini"])
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    stories = {name: make for tier in options.tier for name, make in STORIES[tier].items()}
    table = pd.DataFrame([row for name, make in stories.items() for row in measure(name, make())])
    print("\n" + table.to_string(index=False, float_format="{:.3g}".format))
    means = ["net share", "single net share", "single kept broken share", "single score", "single budget change"]
    mean = table.groupby(list(NAMES), sort=False)[means].mean()
    print("\nmean over stories:\n" + mean.to_string(float_format="{:.3f}".format))
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    finish(options, {"rows": rows, "seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main()
