"""Claim: on photos, an edit does not concentrate on the strip at the lower border, as it does on rendered scenes.

As in notebook 00, part 4, the strip is what the mask covers in the lowest eighth of the image. An exemplar is a photo
with a hand-drawn mask of its road, which the paper's snow replaces. *Share of the map* is the part of the edit map
inside the mask that lies in the strip, and *share of the mask* the strip's part of the area. Edits of the whole mask,
of the mask without the strip and of the strip alone are then compared on the paper's photos of vehicles on snow. All
have the default settings in one layer; nothing is selected. Needs the photos (see docs/tiers.md).
"""

import argparse
from collections.abc import Sequence

import numpy as np
from _lib.command import run
from _lib.networks import network_parser
from _lib.results import Results
from scipy.stats import t
from torch import Tensor
from tqdm.auto import tqdm

from edittools._ledger import Weights
from edittools.classifiers import Classifier
from edittools.course.scenarios import photos
from edittools.course.scenarios.tiers import UNTUNED
from edittools.cut import Cut
from edittools.exemplars import Exemplar, paste_texture
from edittools.models.data import DATA
from edittools.models.downloads import available
from edittools.models.load import load_classifier
from edittools.rewriting import rewrite_at
from edittools.selection import CachedActivations, candidate_layers
from edittools.site import LayerReference, site_at

NETWORKS = ("efficientnet_lite0", "squeezenet1_1", "efficientnet_lite1")
STRIP = 1 / 8
"""The height of the strip, as a share of the image's height: 8 of 64 rows in notebook 00."""

LEAST_AREA = 0.01
"""The strip, and the mask without it, cover at least this share of the image."""

SHARES = ("share of the mask", "share of the map")
PARTS = ("whole mask", "without the strip", "strip alone")
"""The parts of the mask that an edit is made of."""


def strip_of(mask: Tensor) -> Tensor:
    """Return what a mask `(H, W)` covers in the lowest rows of the image."""
    strip = mask.clone()
    strip[: round((1 - STRIP) * len(mask))] = 0
    return strip


def masked_photos(classifier: Classifier, most: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Load photos with hand-drawn masks of the road, of which enough lies in the strip and enough above it.

    Args:
        classifier: the classifier whose input the photos have to fit.
        most: the largest number of photos; by default all.

    Returns:
        Pairs of a photo `(3, size, size)` and its mask `(size, size)`.
    """
    pairs = []
    for path in sorted((DATA / "masks").glob("*_road.png")):
        photo = photos.photo_of_mask(path.stem)
        if not available(photo) or len(pairs) == most:
            continue
        mask = photos.drawn_mask(path.stem, classifier)
        strip = strip_of(mask)
        if min(float(strip.mean()), float((mask - strip).mean())) >= LEAST_AREA:
            pairs.append((photos.load_photo(photo, classifier), mask))
    return pairs


def layer_of(classifier: Classifier, network: str) -> str:
    """Return the layer that is edited, the same as in the scenario of notebook 01 without a selection."""
    layers = candidate_layers(classifier)
    return UNTUNED.get(network, layers[-len(layers) // 4])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Compute the 95% interval of a mean over exemplars, Student's."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    half = float(t.ppf(0.975, len(values) - 1) * error)
    mean = float(np.mean(values))
    return mean - half, mean + half


def add_mean(results: Results, metric: str, values: Sequence[float], **where: str) -> None:
    """Add the mean over exemplars."""
    results.add(metric, float(np.mean(values)), interval=interval(values), n=len(values), **where)


def measure(cut: Cut, reference: LayerReference, test: CachedActivations, image: Tensor, mask: Tensor) -> dict:
    """Make the three edits of one exemplar.

    Args:
        cut: the classifier, cut at the layer.
        reference: what the reference photos say about the layer.
        test: the cached photos of vehicles on snow.
        image: the photo x.
        mask: the mask of its road.

    Returns:
        The strip's share of the mask and of the edit map, and the share of the errors that each edit corrects.
    """
    changed = paste_texture(image, mask, photos.snow_texture(), keep_shading=0)
    strip = strip_of(mask)
    figures = {"share of the mask": float(strip.sum() / mask.sum())}
    for name, part in zip(PARTS, (mask, mask - strip, strip), strict=True):
        [edit] = rewrite_at(site_at(cut, [Exemplar(image, changed, part)], reference))
        figures[name] = test.compare(edit).errors_corrected
        if part is mask:
            edit_map = edit.map_at(cut, changed[None])[0]
            figures["share of the map"] = float((edit_map * strip).sum() / (edit_map * mask).sum())
    return figures


def experiment(options: argparse.Namespace) -> Results:
    """Measure every exemplar on each network."""
    results = Results("border_strip", "photos")
    for network in options.networks[:1] if options.quick else options.networks:
        classifier = load_classifier(network)
        layer = layer_of(classifier, network)
        pairs = masked_photos(classifier, 3 if options.quick else None)
        snow = photos.snow_photos(classifier)
        reference_photos = photos.unlabeled("msrc-v2/Images/", classifier)
        if options.quick:
            snow = snow.subset(range(0, len(snow), 6))
            reference_photos = reference_photos[::4]
        cut = Cut(classifier, layer, weights=Weights(classifier))
        reference = LayerReference(cut, reference_photos)
        test = CachedActivations({layer: cut}, snow)
        rows = [measure(cut, reference, test, *pair) for pair in tqdm(pairs, network, leave=False)]
        where = {"network": network, "method": "edit"}
        results.add("errors before", int(test.before.sum()), split="target_test", n=len(test.before), **where)
        for name in SHARES:
            add_mean(results, name, [row[name] for row in rows], split="exemplars", **where)
        for name in PARTS:
            values = [row[name] for row in rows]
            add_mean(results, "errors corrected", values, split="target_test", condition=name, **where)
        results.add_selected(layer, network, "edit")
        print(f"{network} is finished", flush=True)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    run(network_parser(__doc__, NETWORKS), experiment)


if __name__ == "__main__":
    main()
