"""The uncentred second moment C of a layer's keys over reference images, and the directions it makes rare.

C says which keys the classifier sees every day. An edit along C⁻¹d moves the key d and those as little as possible
(section 2.1 of the paper). It is measured for all wanted layers in one pass, and kept on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from edittools._graph import LINEAR, export_of
from edittools._identity import identity
from edittools.caching import digest_tensors, load_or_compute
from edittools.checks import check_number
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, find_layer, rows
from edittools.edits import Edit, applied_edits, check_same_before
from edittools.images import Images, LabelledImages, in_batches

LEAST_EIGENVALUE = 1e-4
"""Smaller eigenvalues of a second moment, relative to the largest, are raised to this before it is inverted."""


@dataclass(frozen=True)
class SecondMoment:
    """The mean of k kᵀ over keys k: `matrix` is `(n, n)` float64, symmetric, positive semi-definite.

    `sample` holds some of the keys, in batches, as the layer takes them: what a kernel sees of them at once says how
    far an edit moves their outputs. `measured` names the layer, and the edits that were applied then, where that is
    known. Raises `ValueError` for what is no square matrix of finite numbers.
    """

    matrix: Tensor
    sample: Sequence[Tensor] = field(default=(), repr=False)
    measured: tuple[str, tuple[Edit, ...]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise ValueError(f"second moment of shape {tuple(self.matrix.shape)}: expected (n, n)")
        if not self.matrix.isfinite().all():
            raise ValueError("the second moment holds NaN or infinite numbers: expected finite keys")

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues, from low to high, and the eigenvectors."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.clamp_min(0), vectors  # below 0 by rounding only

    @cached_property
    def whitener(self) -> Tensor:
        """The ZCA whitening matrix C^(-1/2), `(n, n)` float64, of eigenvalues of at least `LEAST_EIGENVALUE`."""
        values, vectors = self.eigen
        least = LEAST_EIGENVALUE * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
        return vectors * values.clamp_min(least).rsqrt() @ vectors.T


class RankError(ValueError):
    """A rank that the keys at the mask do not span: a sweep leaves it out."""


def directions(keys: Tensor, weights: Tensor, rank: int, moment: SecondMoment) -> Tensor:
    """Find `(rank, n)` orthonormal directions along which to edit: C⁻¹d of eq. (1), for the top `rank` keys d.

    The `(P, n)` keys, weighted by the square root of `(P,)` `weights`, are whitened; their top right singular vectors
    are whitened once more, which carries them back to C⁻¹d, and orthonormalised. Raises `RankError` when rank is more
    than the keys span, `ValueError` when it is no whole number from 1 up.
    """
    whitener = moment.whitener.to(keys.device)
    white = (keys.double() * weights.double().sqrt()[:, None]) @ whitener
    _, values, vectors = torch.linalg.svd(white, full_matrices=False)
    available = int((values > 1e-9 * values[0]).sum()) if values[0] > 0 else 0
    if check_number(rank, 1, "rank") > available:
        raise RankError(f"rank {rank!r}: expected 1 to {available}, as many directions as the keys at the mask span")
    return torch.linalg.qr((vectors[:rank] @ whitener).T).Q.T.to(keys.dtype)


@torch.no_grad()
def measure(
    classifier: Classifier, layers: Sequence[str], images: Images, batch_size: int = 16, progress: bool = False
) -> dict[str, SecondMoment]:
    """Measure the second moments of all `layers` over `images` in one pass, in float64, without the cache."""
    if not len(images):
        raise ValueError("no reference images: expected at least one")
    sums, counts = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0)
    for some in in_batches(images, batch_size, "second moments", progress):
        exported = export_of(classifier, some.shape[2:])
        calls = [exported.layer_node(name) for name in layers]
        found = exported.compute([call.args[0] for call in calls], {exported.images: classifier.normalise(some)})
        for name, call, tensor in zip(layers, calls, found, strict=True):
            keys = rows(tensor, call.target is LINEAR).double()
            sums[name], counts[name] = sums[name] + keys.T @ keys, counts[name] + len(keys)
    applied = applied_edits(classifier)
    return {name: SecondMoment((sums[name] / counts[name]).cpu(), (), (name, applied)) for name in layers}


def second_moments(
    classifier: Classifier,
    layers: Sequence[str | nn.Module],
    images: Images,
    progress: bool = False,
    cache: str | Path | None = None,
) -> dict[str, SecondMoment]:
    """Measure the second moments of all `layers` over reference `images`, or take them from the disk cache.

    `cache` is the folder (default: `EDITTOOLS_CACHE` or the user's cache folder), `cache=""` uses none.
    """
    names = [find_layer(check_classifier(classifier).model, layer) for layer in layers]
    if cache == "":
        return measure(classifier, names, images, progress=progress)
    data = images if isinstance(images, LabelledImages) else LabelledImages.unlabelled(images, ["-"])
    known = identity(classifier)
    found = load_or_compute(
        "second_moments",
        f"{known} {digest_tensors(in_batches(data))} {sorted(names)}",
        lambda: {n: one.matrix for n, one in measure(classifier, names, images, progress=progress).items()},
        cache,
    )
    return {name: SecondMoment(found[name], (), (name, applied_edits(classifier))) for name in names}


def keys_of(cut: Cut, images: Images) -> list[Tensor]:
    """Run images up to a layer: their keys there, batch by batch."""
    return [cut.keys(cut.prefix(some)) for some in in_batches(images)]


Reference = Images | SecondMoment
"""What says which keys are everyday ones."""


def reference_moment(cut: Cut, reference: Reference | None) -> SecondMoment:
    """Give the second moment of a layer's reference keys, measured where it is not known; refuse that of other keys."""
    if reference is None:
        raise ValueError("no reference images: expected images whose keys the edit shall spare, or a SecondMoment")
    if isinstance(reference, Images):
        return second_moments(cut.classifier, [cut.layer], reference)[cut.layer]
    found, width = len(reference.matrix), cut.weight.shape[1]
    if found != width:
        raise ValueError(f"a second moment of {found} channels for layer {cut.layer!r}: expected {width}, its keys'")
    if reference.measured is not None:
        layer, applied = reference.measured
        if layer != cut.layer:
            raise ValueError(f"the second moment was measured at {layer!r}: expected that of the keys of {cut.layer!r}")
        check_same_before(cut, applied, "the second moment was measured")
    return reference
