"""`repair`: from one example to a verdict, in one call, with the images that a person has who owns a classifier.

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
from edittools.selection import CachedStates, repair

FAILING = {"mini": 24, "lite": 12}
EVERYDAY = {"mini": 600, "lite": 300}
KEEP = 150


def main() -> None:
    """Repair, print the verdict, read the test images once."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "lite"), default="mini")
    options = start(arguments)
    story = snow_scenario(options.tier, progress=True)
    exemplar = story.exemplars[story.default["exemplar"]]
    everyday = story.budget.subset(range(min(EVERYDAY[options.tier], len(story.budget))))
    keep = story.keep.subset(range(min(KEEP, len(story.keep))))
    misread = misclassified(predict(story.classifier, story.validation), story.validation.labels).nonzero()[:, 0]
    failing = story.validation.subset(misread[: FAILING[options.tier]])
    started = time.perf_counter()
    fix = repair(story.classifier, exemplar, failing, everyday, keep)
    seconds = time.perf_counter() - started
    print(fix.verdict, "\n")
    print(fix.table.T.to_string(float_format="{:.3f}".format))
    test = CachedStates(cut_all(story.classifier, fix.edit.layers), story.test).compare(fix.edit)
    said = f"{test.corrected} corrected, {test.broken} broken of {int(test.before.sum())} misread"
    print(f"\ntest images: {said}; {seconds:.1f} s with {torch.get_num_threads()} threads")
    figures = {
        "verdict": fix.verdict,
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
