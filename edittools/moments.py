"""The uncentered second moment C of a layer's keys over reference images, and the directions along which to edit.

C describes which keys are typical. An edit along C⁻¹d changes the layer's output for the key d, and the outputs for
typical keys as little as possible (section 2.1 of the paper). `second_moments` measures C for several layers in one
pass, and caches it on disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from edittools._caching import digest_tensors, load_or_compute
from edittools._checks import check_number
from edittools._graph import LINEAR, export_of
from edittools._identity import identity
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, find_layer, rows
from edittools.edits import Edit, Mark, applied_edits, check_same_before, unedited_marks
from edittools.images import Images, LabelledImages, check_images, how_to_pass_images, in_batches

LEAST_EIGENVALUE = 1e-4
"""Before a second moment is inverted, its eigenvalues are raised to at least this share of the largest one."""

FEW_IMAGES = 50
"""With fewer reference or clean images, it is uncertain which keys are typical, and what an edit costs."""


@dataclass(frozen=True)
class Measurement:
    """The state of the classifier with which the keys of a layer were measured.

    Attributes:
        layer: name of the layer.
        applied: the edits that were applied at that time, oldest first.
        marks: marks of all weights and buffers without those edits, by name.
        scaling: the mean and the standard deviation by which images were normalized.
    """

    layer: str
    applied: tuple[Edit, ...]
    marks: Mapping[str, Mark]
    scaling: tuple[list[float], list[float]]

    def check(self, cut: Cut) -> None:
        """Check that the layer would still have the keys that were measured.

        Args:
            cut: the classifier, cut at the layer.

        Raises:
            ValueError: if it is another layer, or if the normalization of images, a weight before the layer, a buffer,
                or the edits that are applied before the layer have changed.
        """
        what = f"The second moment was measured at {self.layer!r}"
        if self.layer != cut.layer:
            raise ValueError(f"{what}, but the layer is {cut.layer!r}; measure it there")
        scaling = _scaling(cut.classifier)
        if scaling != self.scaling:
            raise ValueError(
                f"{what} with mean and std {self.scaling}, but the classifier has {scaling}; measure it again"
            )
        check_same_before(cut, self.applied, "The second moment was measured")
        names = [*cut.state_parameters, *dict(cut.model.named_buffers())]
        marks = unedited_marks(cut.model, names)
        for name in names:
            if marks[name] != self.marks.get(name):
                raise ValueError(f"{what}, but {name!r} was changed since then; measure it again")


@dataclass(frozen=True)
class SecondMoment:
    """The uncentered second moment of a layer's keys: the mean of k kᵀ over keys k.

    Attributes:
        matrix: `(n, n)` float64, symmetric and positive semi-definite, for keys of n channels.
        sample: some of the keys, in batches, in the shape of the layer's input. The penalty of
            `rewrite(reference_weight=)` is measured on them. Empty unless it is given.
        measured: the state of the classifier with which the keys were measured, which `rewrite` compares with its
            present state. None, as in `SecondMoment(matrix)`, skips this check.

    Raises:
        ValueError: if the matrix is not square, or holds a number that is not finite.
    """

    matrix: Tensor
    sample: Sequence[Tensor] = field(default=(), repr=False)
    measured: Measurement | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"The second moment has shape {shape}; pass a square matrix (n, n)")
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


class RankError(ValueError):
    """The rank exceeds the number of independent keys at the mask. A search skips settings that raise this error."""


def directions(keys: Tensor, weights: Tensor, rank: int, moment: SecondMoment) -> Tensor:
    """Find the directions along which to edit: a basis of C⁻¹d of eq. (1), for the top `rank` keys d.

    The keys, weighted by the square roots of `weights`, are whitened by C^(-1/2), and the top keys are selected after
    this whitening: a top right singular vector v of the whitened keys stands for the key d = C^(1/2) v, so C⁻¹d is
    C^(-1/2) v. The directions are then orthonormalized.

    Args:
        keys: keys at P positions, `(P, n)`.
        weights: share of each position that the mask covers, `(P,)`.
        rank: number of directions.
        moment: the second moment of the reference keys.

    Returns:
        Orthonormal rows `(rank, n)`.

    Raises:
        RankError: if the keys span fewer directions than `rank`.
        ValueError: if the rank is not a whole number of at least 1.
    """
    whitener = moment.whitener.to(keys.device)
    weighted = keys.double() * weights.double().sqrt()[:, None]
    _, values, vectors = torch.linalg.svd(weighted @ whitener, full_matrices=False)
    available = int((values > 1e-9 * values[0]).sum()) if values[0] > 0 else 0
    if check_number(rank, 1, "rank") > available:
        raise RankError(
            f"rank {rank!r} is more than the {available} directions that the keys at the mask span; "
            "lower the rank or enlarge the mask"
        )
    return torch.linalg.qr((vectors[:rank] @ whitener).T).Q.T.to(keys.dtype)


@torch.no_grad()
def measure(
    classifier: Classifier, layers: Sequence[str], images: Images, batch_size: int = 16, progress: bool = False
) -> dict[str, SecondMoment]:
    """Measure the second moments of several layers in one pass, in float64, without the cache.

    Args:
        classifier: the classifier, with the edits that are applied to it now.
        layers: names of layers that can be edited.
        images: the reference images; labels are not used.
        batch_size: images per batch.
        progress: show a progress bar.

    Returns:
        The second moment of each layer, by name.

    Raises:
        ValueError: if there is no image, or a layer cannot be edited.
    """
    if not len(images):
        raise ValueError("0 reference images; pass at least one")
    sums = dict.fromkeys(layers, 0.0)
    counts = dict.fromkeys(layers, 0)
    for batch in in_batches(images, batch_size, "second moments", progress):
        exported = export_of(classifier, batch.shape[2:])
        nodes = [exported.layer_node(name) for name in layers]
        inputs = {exported.images: classifier.normalize(batch)}
        layer_keys = exported.compute([node.args[0] for node in nodes], inputs)
        for name, node, tensor in zip(layers, nodes, layer_keys, strict=True):
            keys = rows(tensor, node.target is LINEAR).double()
            sums[name] = sums[name] + keys.T @ keys
            counts[name] += len(keys)
    measured = measurements(classifier, layers)
    return {name: SecondMoment((sums[name] / counts[name]).cpu(), (), measured[name]) for name in layers}


def second_moments(
    classifier: Classifier,
    layers: Sequence[str | nn.Module],
    images: Images,
    progress: bool = False,
    cache: str | Path | None = None,
) -> dict[str, SecondMoment]:
    """Measure the second moments of several layers over reference images, or read them from the cache on disk.

    Args:
        classifier: the classifier, with the edits that are applied to it now.
        layers: names of layers that can be edited, or the modules.
        images: the reference images; labels are not used.
        progress: show a progress bar.
        cache: folder of the cache; by default that of `EDITTOOLS_CACHE`, or the user's cache folder. "" uses no cache.

    Returns:
        The second moment of each layer, by name.

    Raises:
        KeyError: if the model has no layer of that name.
        TypeError: if `images` is not a set of images.
        ValueError: if there is no image, or a layer cannot be edited.
    """
    names = [find_layer(check_classifier(classifier).model, layer) for layer in layers]
    check_images(images, "reference")
    if cache == "":
        return measure(classifier, names, images, progress=progress)
    data = (
        images if isinstance(images, LabelledImages) else LabelledImages.unlabeled(images, ["-"])
    )  # any class name: labels are not used
    model_identity = identity(classifier)

    def compute() -> dict[str, Tensor]:
        moments = measure(classifier, names, images, progress=progress)
        return {name: moment.matrix for name, moment in moments.items()}

    content = f"{model_identity} {digest_tensors(in_batches(data))} {sorted(names)}"
    matrices = load_or_compute("second_moments", content, compute, cache)
    measured = measurements(classifier, names)
    return {name: SecondMoment(matrices[name], (), measured[name]) for name in names}


def measurements(classifier: Classifier, layers: Sequence[str]) -> dict[str, Measurement]:
    """Record, for each layer, the state of the classifier with which keys are measured now."""
    applied = applied_edits(classifier)
    marks = unedited_marks(classifier)
    scaling = _scaling(classifier)
    return {layer: Measurement(layer, applied, marks, scaling) for layer in layers}


def _scaling(classifier: Classifier) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation by which images are normalized."""
    return classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()


def keys_of(cut: Cut, images: Images) -> list[Tensor]:
    """Run images up to a layer, and return their keys there, in batches."""
    return [cut.keys(cut.prefix(batch)) for batch in in_batches(images)]


Reference = Images | SecondMoment
"""What defines which keys are typical: reference images, or the second moment of their keys."""


def check_reference(reference: Reference | None) -> None:
    """Check the type of a reference.

    Raises:
        TypeError: if it is neither None, nor images, nor a `SecondMoment`.
    """
    if reference is not None and not isinstance(reference, Images | SecondMoment):
        raise TypeError(
            f"reference is a {type(reference).__name__}, neither images nor a SecondMoment; "
            f"{how_to_pass_images(reference)}"
        )


def reference_moment(cut: Cut, reference: Reference | None) -> SecondMoment:
    """Return the second moment of a layer's reference keys; it is measured if images are given.

    Args:
        cut: the classifier, cut at the layer.
        reference: reference images, or the second moment of their keys.

    Raises:
        TypeError: if the reference is neither images nor a `SecondMoment`.
        ValueError: if there is no reference, if the second moment does not fit the layer, or if the classifier has
            changed since it was measured, see `Measurement.check`.
    """
    if reference is None:
        raise ValueError(
            "No reference images were given; pass ordinary images, whose keys are typical, or their SecondMoment"
        )
    if isinstance(reference, Images):
        return second_moments(cut.classifier, [cut.layer], reference)[cut.layer]
    check_reference(reference)
    channels = len(reference.matrix)
    width = cut.weight.shape[1]
    if channels != width:
        raise ValueError(
            f"The second moment of {channels} channels does not fit layer {cut.layer!r}, whose keys have {width}; "
            "measure it at this layer"
        )
    if reference.measured is not None:
        reference.measured.check(cut)
    return reference
