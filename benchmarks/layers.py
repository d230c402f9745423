"""In which layer does a rule live? The best edit of every layer of the small networks, on the scenes that choose.

MiniWorld's vehicles on snow, as in `snow_miniworld.py`. In each layer the edit of one exemplar is chosen by the same
rule (lowest validation loss within the accuracy budget and the bound on kept images) among exemplars, ranks, and with
or without the mask, at strength 1 and λ = 1. Beside it stands the highest net gain of any trial, within bounds or not.
Of the transformer these are, in every block, queries, keys and values (`attn.qkv`), what attention writes
(`attn.proj`), and both layers of the MLP. No test image is read.
"""

import time
from dataclasses import replace
from typing import Any

import pandas as pd
from common import finish, parser, start

from edittools.choosing import Protocol, grid
from edittools.cut import editable_layers
from edittools.stories.snow import snow_scenario

SETTINGS = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(30.0,))
STRENGTHS = (1.0,)
NETWORKS = ("mini_vgg", "mini_resnet", "mini_vit")


def measure(model: str) -> list[dict[str, Any]]:
    """A row for each editable layer, from first to last."""
    story = snow_scenario("mini", model, progress=True)
    unread = dict.fromkeys(("test", "clean", "keep_report", "own"))
    found = editable_layers(story.classifier)
    protocol = Protocol(replace(story, **unread, more={}), list(found.layer), progress=True)
    tried = protocol.choose(protocol.rewriting(SETTINGS, STRENGTHS)).table
    wrong, rows = int(protocol.states["validation"].before.sum()), []
    for layer in found.layer:
        part = tried[tried.layer == layer]
        best = protocol.choose(part)
        net = best.validation["corrected"] - best.validation["broken"]
        row = {"network": model, "layer": layer, "errors": wrong, "trials": len(part), "net share": net / wrong}
        rows.append(row | {"highest net share": part.net.max() / wrong, "chosen": str(best)})
    return rows


def main() -> None:
    """Measure every network and print a row for each layer."""
    arguments = parser(__doc__)
    arguments.add_argument("--models", nargs="+", choices=NETWORKS, default=NETWORKS)
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    table = pd.DataFrame([row for model in options.models for row in measure(model)])
    print("\n" + table.to_string(index=False, float_format="{:.2f}".format))
    finish(options, {"rows": table.to_dict("records"), "seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main()
