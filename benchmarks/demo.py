"""Edit a classifier from one example and show what changed: the job behind `make demo`.

    python benchmarks/demo.py            tier `mini`: nothing is downloaded
    EDITTOOLS_TIER=lite python benchmarks/demo.py

Selects layer, exemplar, rank and strength on the target images under the accuracy constraint, prints the errors before
and after on the test images, and writes a figure and, for `tests/check_demo.py`, the numbers.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

import edittools as et
from edittools.course import plots
from edittools.methods import METHODS

FIGURE = Path("out") / "snow_on_road.png"
NUMBERS = Path("out") / "demo.json"


def before_after(
    scenario: et.course.scenarios.Scenario, test: et.selection.CachedActivations, edit: et.Edit, exemplar: str
) -> Figure:
    """Draw the exemplar, some test images with the predictions before → after, and the edit map of each."""
    example = scenario.exemplars[exemplar]
    names = scenario.classifier.classes
    before, after = (logits.argmax(dim=1) for logits in (test.logits(), test.logits(edit)))
    corrected = (test.before & (after == test.labels)).nonzero()[:, 0]
    shown = corrected[torch.linspace(0, len(corrected) - 1, min(len(corrected), 4)).long()].tolist()
    images = torch.stack([example.image, example.changed, *(scenario.splits.target_test.images[i] for i in shown)])
    predictions = [[names[one[i]] for one in (test.labels, before, after)] for i in shown]
    titles = ["x: road", "x': snow", *(plots.prediction_title(*one).replace(": ", ":\n") for one in predictions)]
    figure = plots.edit_map_figure(images, edit.edit_map(scenario.classifier, images), titles)
    figure.set_size_inches(12, 4.4)
    for axis in figure.axes[: len(images)]:
        axis.title.set(fontsize=14, color=plots.RIGHT if "→" in axis.get_title() else "black")
    return figure


def main() -> None:
    """Run notebook 01 in short."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    started = time.perf_counter()
    scenario = et.course.scenarios.snow_scenario(progress=tqdm)
    print(f"tier {scenario.tier}: {scenario.classifier}")
    search = et.selection.Search(scenario.classifier, scenario.exemplars, scenario.splits, progress=tqdm)
    settings = et.selection.grid(rank=(1, 3), objective=("least_squares",), reference_weight=(0.0, 30.0))
    method = METHODS["edit"].trying(settings, strengths=(0.5, 1.0, 1.5))
    best = search.select(search.score(method))
    test = search.activations["target_test"]
    print(f"selected on target images: {best}\n")

    result = test.compare(best.edit)
    table = et.by_class(result, scenario.splits.target_test.labels, scenario.classifier.classes)
    columns = ["images", "errors before", "errors after", "corrected", "broken"]
    print("Vehicles on snow, no class of the exemplar among them (test images):\n")
    print(table[columns].to_string())
    errors = int(result.before.sum())
    print(f"\nin total: {result.corrected} of {errors} errors corrected, {result.broken} correct predictions broken")
    clean, exceptions = (search.activations[name].compare(best.edit) for name in ("clean_test", "retain_test"))
    print(f"clean images: {clean.accuracy_change:+.2f} points of accuracy")
    print(f"classes that rightly rely on snow: {int(exceptions.before.sum())} → {int(exceptions.after.sum())} errors")

    FIGURE.parent.mkdir(exist_ok=True)
    numbers = {"tier": scenario.tier, "errors": errors, "corrected": result.corrected, "broken": result.broken}
    NUMBERS.write_text(json.dumps(numbers))
    exemplar = best.params.get("exemplar", scenario.default["exemplar"])
    before_after(scenario, test, best.edit, exemplar).savefig(FIGURE, dpi=120)
    print(f"\nfigure: {FIGURE}   ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
