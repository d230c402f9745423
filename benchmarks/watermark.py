"""Claim: one photo with a watermark and without it gives an edit that corrects other photos, on four networks.

Without labels, an edit is selected by ordinary photos with the mark of the exemplar, and the network is fine-tuned on
the same; with labels, each method is selected by its cross-entropy on photos with the mark. Then each method is
evaluated once on the test photos: with the mark, without it, and with marks that no exemplar shows. One method changes
no weight: the place of the mark is given, and blurred before a photo is classified.

The interval is Student's t over pairs of a network and an exemplar. Needs the photos (see docs/settings.md). With
`--store FOLDER` finished networks are kept, and an interrupted run continues where it was.
"""

import argparse
from functools import partial

from _lib.blur import blurred
from _lib.command import run
from _lib.effects import CLEAN, TARGET, Sets
from _lib.networks import contest_results, first_exemplars, network_parser, photos, small
from _lib.results import Results
from _lib.watermark import SHOWN_MARK, SPLIT_SIZES, UNSEEN, watermark_scenario
from tqdm.auto import tqdm

from edittools.metrics import misclassified, predict
from edittools_course.scenarios.scenario import Scenario

NETWORKS = ("squeezenet1_1", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def scenario_of(exemplars: int, quick: bool, name: str) -> Scenario:
    """Make the scenario of a network."""
    scenario = watermark_scenario(name, progress=tqdm)
    return small(scenario) if quick else first_exemplars(scenario, exemplars)


def with_blurred_marks(scenario: Scenario) -> Sets:
    """Blur the marks where they are."""
    classifier = scenario.classifier
    found = {}
    for name, data in scenario.splits.for_evaluation.items():
        before = misclassified(predict(classifier, data), data.labels)
        after = before
        if name != CLEAN:
            mark = SHOWN_MARK if name == TARGET else UNSEEN[name]
            masks = mark.mask(classifier.size).expand(len(data), -1, -1)
            after = misclassified(predict(classifier, blurred(data.images, masks)), data.labels)
        found[name] = [before.int().tolist(), after.int().tolist()]
    return found


def experiment(options: argparse.Namespace) -> Results:
    """Select for each network, and evaluate once on the test photos."""
    make_scenario = partial(scenario_of, options.exemplars, options.quick)
    about = f"{options.exemplars} {photos('imagenet-sample/')} {SPLIT_SIZES} {SHOWN_MARK} {UNSEEN}"
    networks = options.networks[:1] if options.quick else options.networks
    finetuning = not options.quick
    blur = with_blurred_marks
    joined = {"unseen marks": tuple(UNSEEN)}
    return contest_results(
        "watermark", "photos", make_scenario, networks, options.store, about, blur, finetuning, joined
    )


def main() -> None:
    """Read the command line and run the experiment."""
    run(network_parser(__doc__, NETWORKS), experiment)


if __name__ == "__main__":
    main()
