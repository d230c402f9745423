"""Claim: on a CPU, `predict` of photos is faster with its usual batches, which are small, than with batches of 64.

The C library fetches the memory of large tensors from the operating system each time, unless the settings of the
allocator in the Makefile are made. The ratios are those without the settings, as in a script of one's own.

The networks have random weights, and the 64 images are random, of 224 × 224 pixels.
"""

import argparse
import os
import warnings

import torch
from _lib.command import parser, run, seconds
from _lib.results import Results
from torchvision.models import get_model
from tqdm.auto import tqdm

from edittools.classifiers import MOST_IMAGES, Classifier, usual_batch_size
from edittools.metrics import predict

NETWORKS = ("squeezenet1_1", "resnet18", "efficientnet_b0", "resnet50")
"""The networks, from small to large."""


def experiment(options: argparse.Namespace) -> Results:
    """Measure all networks."""
    results = Results("batch_size", "random weights and images")
    torch.manual_seed(0)
    images = torch.rand(16 if options.quick else MOST_IMAGES, 3, 224, 224)
    names = NETWORKS[:1] if options.quick else NETWORKS
    for name in tqdm(names, desc="networks", unit="network", leave=False):
        classifier = Classifier(get_model(name), [str(number) for number in range(1000)])
        at_once = seconds(lambda classifier=classifier: predict(classifier, images, batch_size=len(images)))
        usual = seconds(lambda classifier=classifier: predict(classifier, images))
        results.add("usual batch size", usual_batch_size(classifier), network=name)
        results.add("time ratio", at_once / usual, network=name)
    return results


def main() -> None:
    """Measure once."""
    if os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        warnings.warn("MALLOC_TRIM_THRESHOLD_ is set; unset it to measure the ratios of the page", stacklevel=1)
    run(parser(__doc__.split("\n\n")[0]), experiment)


if __name__ == "__main__":
    main()
