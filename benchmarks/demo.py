"""Edit a classifier from one example and show what changed: the job behind `make demo`.

    python benchmarks/demo.py            tier `mini`: nothing is downloaded
    EDITTOOLS_TIER=lite python benchmarks/demo.py

Selects an edit by its cross-entropy on the target images, plus how much it changes predictions for ordinary images,
prints the errors before and after on the test images, and writes a figure and, for `tests/check_demo.py`, the numbers.
"""

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

import edittools as et
from edittools.images import LabeledImages
from edittools.metrics import Comparison
from edittools_course import plots
from edittools_course.by_labels import select_by_labels
from edittools_course.scenarios import Scenario, snow_scenario

FIGURE = Path("out") / "snow_on_road.png"
NUMBERS = Path("out") / "demo.json"


def before_after(scenario: Scenario, edit: et.Edit, exemplar: str, before: Tensor, after: Tensor) -> Figure:
    """Draw the exemplar, some test images with the predictions before → after, and the edit map of each."""
    example = scenario.exemplars[exemplar]
    names = scenario.classifier.classes
    test = scenario.splits.target_test
    corrected = ((before != test.labels) & (after == test.labels)).nonzero()[:, 0]
    shown = corrected[torch.linspace(0, len(corrected) - 1, min(len(corrected), 4)).long()].tolist()
    images = torch.stack([example.image, example.changed, *(test.images[i] for i in shown)])
    predictions = [[names[one[i]] for one in (test.labels, before, after)] for i in shown]
    titles = ["x: road", "x': snow", *(plots.prediction_title(*one).replace(": ", ":\n") for one in predictions)]
    figure = plots.edit_map_figure(images, edit.edit_map(scenario.classifier, images), titles)
    figure.set_size_inches(12, 4.4)
    for axis in figure.axes[: len(images)]:
        axis.title.set(fontsize=14, color=plots.RIGHT if "→" in axis.get_title() else "black")
    return figure


def compared(classifier: et.Classifier, edited: et.Classifier, data: LabeledImages) -> Comparison:
    """Compare which images are misclassified before and after."""
    before, after = (et.misclassified(et.predict(network, data), data.labels) for network in (classifier, edited))
    return Comparison(before, after)


def by_class(comparison: Comparison, data: LabeledImages) -> pd.DataFrame:
    """Count images, errors, and corrected and broken predictions, class by class."""
    rows = {}
    for label in data.labels.unique().tolist():
        is_member = data.labels == label
        rows[data.classes[label]] = Comparison(comparison.before[is_member], comparison.after[is_member]).row()
    columns = ["images", "errors before", "errors after", "corrected", "broken"]
    return pd.DataFrame.from_dict(rows, orient="index")[columns]


def main() -> None:
    """Run notebook 01 in short."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    started = time.perf_counter()
    scenario = snow_scenario(progress=tqdm)
    classifier = scenario.classifier
    splits = scenario.splits
    print(f"tier {scenario.tier}: {classifier}")
    scores = select_by_labels(
        classifier, scenario.exemplars, splits.images, splits.target, where=scenario.where, progress=tqdm
    )
    selected = scores.best()
    edited = selected.scaled.edited(classifier)
    print(f"selected on target images: {selected}\n")

    test = splits.target_test
    before, after = (et.predict(network, test).argmax(dim=1) for network in (classifier, edited))
    result = Comparison(before != test.labels, after != test.labels)
    print("Vehicles on snow, no class of the exemplar among them (test images):\n")
    print(by_class(result, test).to_string())
    errors = int(result.before.sum())
    print(f"\nin total: {result.corrected} of {errors} errors corrected, {result.broken} correct predictions broken")
    clean, exceptions = (compared(classifier, edited, data) for data in (splits.clean_test, splits.retain_test))
    print(f"clean images: {clean.accuracy_change:+.2f} points of accuracy")
    print(f"classes that rightly rely on snow: {int(exceptions.before.sum())} → {int(exceptions.after.sum())} errors")

    FIGURE.parent.mkdir(exist_ok=True)
    numbers = {"tier": scenario.tier, "errors": errors, "corrected": result.corrected, "broken": result.broken}
    NUMBERS.write_text(json.dumps(numbers))
    exemplar = selected.params["exemplar"]
    before_after(scenario, selected.scaled, exemplar, before, after).savefig(FIGURE, dpi=120)
    print(f"\nfigure: {FIGURE}   ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
