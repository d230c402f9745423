"""The uncentred second moment C of a layer's keys over reference images, and the directions it makes rare.

C says which keys the classifier sees every day. An edit along C⁻¹d moves the key d and those as little as possible
(section 2.1 of the paper). It is measured once for a layer, for all wanted layers in one pass, and kept on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from edittools.caching import Tensors, digest_tensors, load_or_compute
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import find_layer, rows
from edittools.graph import LINEAR, Program, identity, program_of, without_autocast
from edittools.images import Images, LabelledImages, in_batches

LEAST_EIGENVALUE = 1e-4
"""Smaller eigenvalues of a second moment, relative to the largest, are raised to this before it is inverted."""


@dataclass(frozen=True)
class SecondMoment:
    """The mean of k kᵀ over keys k: `matrix` is `(n, n)` float64, symmetric, positive semi-definite.

    Raises `ValueError` for what is no square matrix of finite numbers.
    """

    matrix: Tensor

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
    """A rank that the keys at the mask do not span."""


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
    whole = isinstance(rank, Integral) and not isinstance(rank, bool) and rank >= 1
    if not whole or rank > available:
        error = RankError if whole else ValueError  # a sweep leaves out ranks that are too high, not wrong ones
        raise error(f"rank {rank!r}: expected 1 to {available}, as many directions as the keys at the mask span")
    return torch.linalg.qr((vectors[:rank] @ whitener).T).Q.T.to(keys.dtype)


class _Sums(fx.Interpreter):
    """Run a program, add up k kᵀ of the keys of some layers, and free on the way what is no longer needed."""

    def __init__(self, program: Program, layers: Sequence[str]) -> None:
        super().__init__(program.module)
        self.calls = {program.call_of(name): name for name in layers}
        self.sums: dict[str, tuple[Tensor | float, int]] = dict.fromkeys(layers, (0.0, 0))

    def run_node(self, n: fx.Node) -> object:
        """Look at what goes into a layer."""
        if n in self.calls:
            keys = rows(self.fetch_args_kwargs_from_env(n)[0][0], n.target is LINEAR).double()
            total, count = self.sums[self.calls[n]]
            self.sums[self.calls[n]] = total + keys.T @ keys, count + len(keys)
        return super().run_node(n)


@torch.no_grad()
@without_autocast
def measure(
    classifier: Classifier,
    layers: Sequence[str],
    images: Images,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, SecondMoment]:
    """Measure the second moments of all `layers` over `images` in one pass, in float64, without the cache."""
    if not len(images):
        raise ValueError("no reference images: expected at least one")
    sums = None
    for some in in_batches(images, batch_size, "second moments", progress):
        inputs = classifier.normalise(some)
        sums = sums or _Sums(program_of(classifier, some.shape[2:]), layers)
        sums.run(inputs)
    return {name: SecondMoment((total / count).cpu()) for name, (total, count) in sums.sums.items()}


def second_moments(
    classifier: Classifier,
    layers: Sequence[str | nn.Module],
    images: Images,
    batch_size: int = 64,
    progress: bool = False,
    cache: str | Path | None = None,
) -> dict[str, SecondMoment]:
    """Measure the second moments of all `layers` over reference `images`, or take them from the disk cache.

    `cache` is the folder (default: `EDITTOOLS_CACHE` or the user's cache folder), `cache=""` uses none.
    """
    names = [find_layer(check_classifier(classifier).model, layer) for layer in layers]

    def compute() -> Tensors:
        measured = measure(classifier, names, images, batch_size, progress)
        return {name: moment.matrix for name, moment in measured.items()}

    if cache == "":
        return measure(classifier, names, images, batch_size, progress)
    data = images if isinstance(images, LabelledImages) else LabelledImages.unlabelled(images, ["-"])
    known = identity(classifier, data.images[:1].shape[2:])
    content = f"{known} {digest_tensors(in_batches(data))} {sorted(names)}"
    found = load_or_compute("second_moments", content, compute, cache)
    return {name: SecondMoment(found[name]) for name in names}
