"""The uncentered second moment C of a layer's keys over reference images, and the directions along which to edit.

C describes which keys are typical. An edit along C⁻¹d changes the layer's output for the key d, and the outputs for
typical keys as little as possible (section 2.1 of the paper). `second_moments` measures C for several layers in one
pass over the images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from edittools._checks import check_number
from edittools._ledger import Weights
from edittools._progress import Progress
from edittools.classifiers import Classifier, fingerprint_beside_weights
from edittools.cut import Cut, cut_all, rows, states_at
from edittools.images import Images, in_batches, size_of

LEAST_EIGENVALUE = 1e-4
"""Before a second moment is inverted, its eigenvalues are raised to at least this share of the largest one."""

FEW_IMAGES = 50
"""With fewer reference or clean images, it is uncertain which keys are typical, and what an edit costs."""


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """The uncentered second moment of a layer's keys: the mean of k kᵀ over keys k, as `second_moments` measures it.

    Attributes:
        matrix: `(n, n)` float64, symmetric and positive semi-definite, for keys of n channels.
        layer: name of the layer.
        fingerprint: hash of the classifier that the keys were measured with, applied edits included.
        offsets: the mean product of the keys that the layer's kernel sees at two offsets at once, relative to that of a
            key with itself, `(kh * kw, kh * kw)` float64.

    Raises:
        ValueError: if the matrix holds a number that is not finite.
    """

    matrix: Tensor
    layer: str
    fingerprint: str = field(repr=False)
    offsets: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if not self.matrix.isfinite().all():
            raise ValueError("The second moment holds NaN or infinite numbers; measure it from keys that are finite")

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues in ascending order, and the eigenvectors."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.clamp_min(0), vectors  # below 0 by rounding only

    @cached_property
    def whitener(self) -> Tensor:
        """The ZCA whitening matrix C^(-1/2), `(n, n)` float64, with low eigenvalues raised (`LEAST_EIGENVALUE`)."""
        values, vectors = self.eigen
        largest = values[-1].clamp_min(torch.finfo(values.dtype).tiny)
        raised = values.clamp_min(LEAST_EIGENVALUE * largest)
        return vectors * raised.rsqrt() @ vectors.T

    def check_fits(self, cut: Cut) -> None:
        """Check that the keys are those of a layer.

        Args:
            cut: the classifier, cut at the layer, with a copy of its weights.

        Raises:
            ValueError: if the keys were measured at another layer, with other weights, or with another normalization of
                images.
        """
        if self.layer != cut.layer:
            raise ValueError(
                f"The second moment was measured at {self.layer!r}, but the layer is {cut.layer!r}; measure it there"
            )
        if self.fingerprint != fingerprint_at(cut):
            raise ValueError(
                f"The second moment was measured at {self.layer!r} with other weights or buffers, other applied edits, "
                f"or another mean or std than the {type(cut.model).__name__} has now; measure it again"
            )


class NoEditError(ValueError):
    """The settings give no edit at this site, such as a rank that is too high for its keys. A search skips them."""


def directions(keys: Tensor, weights: Tensor, rank: int, whitener: Tensor) -> Tensor:
    """Find the directions along which to edit: a basis of C⁻¹d of eq. (1), for the top `rank` keys d.

    The keys, weighted by the square roots of `weights`, are whitened by C^(-1/2), and the top keys are selected after
    this whitening: a top right singular vector v of the whitened keys stands for the key d = C^(1/2) v, so C⁻¹d is
    C^(-1/2) v. The directions are then orthonormalized.

    Args:
        keys: keys at P positions, `(P, n)`.
        weights: share of each position that the mask covers, `(P,)`.
        rank: number of directions.
        whitener: C^(-1/2) of the reference keys, `(n, n)` float64.

    Returns:
        Orthonormal rows `(rank, n)`.

    Raises:
        NoEditError: if the keys span fewer directions than `rank`.
        ValueError: if the rank is not a whole number of at least 1.
    """
    wanted = check_number(rank, "rank", 1)
    whitener = whitener.to(keys.device)
    weighted = keys.double() * weights.double().sqrt()[:, None]
    _, values, vectors = torch.linalg.svd(weighted @ whitener, full_matrices=False)
    available = int((values > 1e-9 * values[0]).sum()) if values[0] > 0 else 0
    if wanted > available:
        raise NoEditError(
            f"rank {rank!r} is more than the {available} directions that the keys at the mask span; "
            "lower the rank or enlarge the mask"
        )
    return torch.linalg.qr((vectors[:wanted] @ whitener).T).Q.T.to(keys.dtype)


@torch.no_grad()
def measure(cuts: Mapping[str, Cut], images: Images, progress: Progress | None = None) -> dict[str, SecondMoment]:
    """Measure the second moments of several layers in one pass over images, in float64.

    Args:
        cuts: the classifier, cut at each layer, with one copy of its weights; by the layer's name.
        images: the reference images; labels are not used.

    Returns:
        The second moment of each layer, by name.

    Raises:
        ValueError: if there is no image.
    """
    if not len(images):
        raise ValueError("0 reference images; pass at least one")
    sums: dict[str, Any] = dict.fromkeys(cuts, 0.0)
    products: dict[str, Any] = dict.fromkeys(cuts, 0.0)
    counts = dict.fromkeys(cuts, 0)
    for batch in in_batches(images, 16, "reference images", progress):
        states = states_at(cuts, batch)
        for layer, cut in cuts.items():
            keys = cut.keys(states[layer])
            flat = rows(keys, cut.is_linear).double()
            sums[layer] = sums[layer] + flat.T @ flat
            counts[layer] += len(flat)
            products[layer] = products[layer] + offset_products(cut, keys)
    first_cut = next(iter(cuts.values()))
    fingerprint = fingerprint_at(first_cut)
    moments = {}
    for layer in cuts:
        with_itself = products[layer][0, 0].clamp_min(torch.finfo(torch.float64).tiny)
        offsets = (products[layer] / with_itself).cpu()
        moments[layer] = SecondMoment((sums[layer] / counts[layer]).cpu(), layer, fingerprint, offsets)
    return moments


def offset_products(cut: Cut, keys: Tensor) -> Tensor:
    """Sum the products of the keys that a layer's kernel sees at two of its offsets at once.

    Keys outside of the map count as zeros.

    Returns:
        `(kh * kw, kh * kw)` float64, symmetric and positive semi-definite; one number for a linear layer.
    """
    kernel = cut.weight.shape[2:]
    if kernel.numel() == 1:
        return keys.double().square().sum().reshape(1, 1)
    height, width = keys.shape[2:]
    down, across = cut.dilation
    sums = {}
    for rows_apart in range(kernel[0]):
        for columns_apart in range(1 - kernel[1], kernel[1]):
            dy = rows_apart * down
            dx = columns_apart * across
            lower = keys[:, :, dy:, max(dx, 0) : max(width + min(dx, 0), 0)]
            upper = keys[:, :, : max(height - dy, 0), max(-dx, 0) : max(width - max(dx, 0), 0)]
            sums[rows_apart, columns_apart] = (lower * upper).sum(dtype=torch.float64)
            sums[-rows_apart, -columns_apart] = sums[rows_apart, columns_apart]
    offsets = list(product(range(kernel[0]), range(kernel[1])))
    table = [[sums[one[0] - other[0], one[1] - other[1]] for other in offsets] for one in offsets]
    return torch.stack([torch.stack(row) for row in table])


def second_moments(
    classifier: Classifier, layers: Sequence[str | nn.Module], images: Images
) -> dict[str, SecondMoment]:
    """Measure the second moments of several layers over reference images, in one pass.

    Args:
        classifier: the classifier, with the edits that are applied to it now.
        layers: names of layers that can be edited, or the modules.
        images: the reference images; labels are not used.

    Returns:
        The second moment of each layer, by name.

    Raises:
        KeyError: if the model has no layer of that name.
        TypeError: if `images` is not a set of images.
        ValueError: if there is no image, or a layer cannot be edited.
    """
    cuts = cut_all(classifier, layers, size_of(images), Weights(classifier))
    return measure(cuts, images) if cuts else {}


Reference = Images | SecondMoment
"""What defines which keys are typical: reference images, or the second moment of their keys."""


def fingerprint_at(cut: Cut) -> str:
    """Identify what the keys at a cut depend on: its copy of the weights, the other buffers, and the normalization."""
    return f"{cut.weights.fingerprint} {fingerprint_beside_weights(cut.classifier, cut.weights)}"
