"""`repair`: from one exemplar to a summary, in one call, with the images that a person has who owns a classifier.

Tier mini: MiniWorld's `mini_vgg`, one car whose road is turned to snow, 24 failing vehicles on snow, 600 everyday
scenes, 150 scenes of classes that live on snow. Tier lite: EfficientNet-Lite0, one photo of a minivan, 12 failing
photos of vehicles on snow, 300 everyday photos, ten layers. Figures are of images that the edit was not chosen on; the
test images of the story, which no call saw, are read once at the end.
"""

import time

import torch
from common import finish, parser, start

from edittools.cut import cut_all
from edittools.metrics import misclassified, predict
from edittools.scenarios.snow import snow_scenario
from edittools.selection import CachedActivations, repair

FAILING = {"mini": 24, "lite": 12}
CLEAN = {"mini": 600, "lite": 300}
RETAIN = 150


def main() -> None:
    """Repair, print the summary, evaluate once on the test images."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "lite"), default="mini")
    options = start(arguments)
    story = snow_scenario(options.tier, progress=True)
    exemplar = story.exemplars[story.default["exemplar"]]
    splits = story.splits
    clean = splits.clean.subset(range(min(CLEAN[options.tier], len(splits.clean))))
    retain = splits.retain.subset(range(min(RETAIN, len(splits.retain))))
    is_wrong = misclassified(predict(story.classifier, splits.target), splits.target.labels)
    failing = splits.target.subset(is_wrong.nonzero()[: FAILING[options.tier], 0])
    started = time.perf_counter()
    fix = repair(story.classifier, exemplar, failing, clean, retain)
    seconds = time.perf_counter() - started
    print(fix.summary(), "\n")
    print(fix.table.T.to_string(float_format="{:.3f}".format))
    layers = [layer for layer in fix.search.cuts if layer in fix.edit.layers]
    test = CachedActivations(cut_all(story.classifier, layers), splits.target_test).compare(fix.edit)
    said = f"{test.corrected} corrected, {test.broken} broken of {int(test.before.sum())} misread"
    print(f"\ntest images: {said}; {seconds:.1f} s with {torch.get_num_threads()} threads")
    figures = {
        "verdict": fix.summary(),
        "seconds": seconds,
        "test_errors_before": int(test.before.sum()),
        "test_corrected": test.corrected,
        "test_broken": test.broken,
        "test_errors_corrected": test.row()["errors corrected"],
        "test_errors_corrected_interval": test.corrected_interval(),
        "methods": fix.table.to_dict(orient="index"),
    }
    finish(options, figures)


if __name__ == "__main__":
    main()
