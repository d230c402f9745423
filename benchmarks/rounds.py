"""Would a third round of fine-tuning be chosen on iPod labels? The two best are taken on to 500 steps, as in 0.2."""

from dataclasses import replace

import pandas as pd
from common import finish, parser, start
from methods import SLOW

from edittools.baselines import SCOPES
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.trials import grid
from edittools.stories.typographic import typographic_scenario

RUN = ["layer", "exemplar", "locality", "rate", "momentum"]


def main() -> None:
    """Choose in two rounds, then with a third; nothing that reports is read."""
    options = start(parser(__doc__))
    story = typographic_scenario("mini")
    slim = replace(story, test=None, clean=None, keep_report=None, more={}, several={})
    protocol, plan = Protocol(slim, story.layers), Plan(tuned=story.layers[1::2], **{**SLOW, "steps": (20, 100)})
    for scope in SCOPES:
        two = protocol.choose_finetuning(scope, plan)
        more = []
        for run in two.table.sort_values("loss", kind="stable").drop_duplicates(RUN).head(2).to_dict("records"):
            same = {name: (run[name],) for name in ("scope", "rate", "momentum", "locality")}
            shown = {run["exemplar"]: story.exemplars[run["exemplar"]]}
            longer = protocol.finetuning(grid(**same, steps=((100, 200, 500),)), shown, [run["layer"]])
            more.append(protocol.sweep(longer))
        three = protocol.choose(pd.concat([two.table, *more], ignore_index=True))
        for name, choice in {"two rounds": two, "a third": three}.items():
            print(f"{scope}, {name}: {choice} {choice.validation}; interpolated: {protocol.interpolated(choice)}")
        print(pd.concat(more)[[*RUN, "steps", "loss", "corrected", "broken"]].to_string())
    finish(options, {})


if __name__ == "__main__":
    main()
