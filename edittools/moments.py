"""The uncentred second moment C of a layer's keys over reference images, and the directions it makes rare.

C says which keys the classifier sees every day. An edit along C⁻¹d moves the key d and those as little as possible
(section 2.1 of the paper). It is measured once for a layer, for all wanted layers in one pass, and kept on disk.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools.checks import check_number
from edittools.cut import as_channels_first, evaluating, find_layer
from edittools.images import LabelledImages, atomic_path, cache_folder
from edittools.models import Classifier, check_classifier, fingerprint


@dataclass(frozen=True)
class SecondMoment:
    """The mean of k kᵀ over `count` keys k: `matrix` is `(n, n)` float64, symmetric, positive semi-definite.

    Eigenvalues below `clamp` times the largest are raised to it before anything is inverted. Raises `ValueError` for
    what is no square matrix of finite numbers.
    """

    matrix: Tensor
    count: int
    clamp: float = 1e-4

    def __post_init__(self) -> None:
        """Check the matrix."""
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise ValueError(f"second moment of shape {tuple(self.matrix.shape)}: expected (n, n)")
        if not self.matrix.isfinite().all():
            raise ValueError("the second moment holds NaN or infinite numbers: expected finite keys")

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.clamp_min(self.clamp * values[-1].clamp_min(torch.finfo(values.dtype).tiny)), vectors

    @cached_property
    def whitener(self) -> Tensor:
        """The ZCA whitening matrix C^(-1/2), `(n, n)` float64."""
        values, vectors = self._eigen
        return vectors * values.rsqrt() @ vectors.T

    def leverage(self, keys: Tensor) -> Tensor:
        """Say how far `(P, n)` keys lie outside the span of the reference keys: kᵀ C⁻¹ k / n, `(P,)`.

        A reference key has 1 on average; much more means that nothing like it was seen.
        """
        return (keys.double() @ self.whitener.to(keys.device)).square().mean(dim=1)


class RankError(ValueError):
    """A rank that the keys at the mask do not span."""


def directions(keys: Tensor, weights: Tensor, rank: int, moment: SecondMoment) -> Tensor:
    """Find `(rank, n)` orthonormal directions along which to edit: C⁻¹d of eq. (1), for the top `rank` keys d.

    The `(P, n)` keys, weighted by the square root of `(P,)` `weights`, are whitened; their top right singular vectors
    are whitened once more, which carries them back to C⁻¹d, and orthonormalised. Raises `RankError` when rank is more
    than the keys span.
    """
    whitener = moment.whitener.to(keys.device)
    white = (keys.double() * weights.double().sqrt()[:, None]) @ whitener
    _, values, vectors = torch.linalg.svd(white, full_matrices=False)
    available = int((values > 1e-9 * values[0]).sum()) if values[0] > 0 else 0
    if not isinstance(rank, int) or not 1 <= rank <= available:
        raise RankError(f"rank {rank!r}: expected 1 to {available}, as many directions as the keys at the mask span")
    return torch.linalg.qr((vectors[:rank] @ whitener).T).Q.T.to(keys.dtype)


@torch.no_grad()
def measure(
    classifier: Classifier,
    layers: Sequence[str],
    images: LabelledImages | Tensor,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, SecondMoment]:
    """Measure the second moments of all `layers` over `images` in one pass, in float64, without the cache."""
    model, pixels = classifier.model, images.images if isinstance(images, LabelledImages) else images
    batches = range(0, len(pixels), check_number(batch_size, 1, None, "batch size"))
    if not batches:
        raise ValueError("no reference images: expected at least one")
    widths = {name: _width(model.get_submodule(name)) for name in layers}
    found = {name: [torch.zeros(n, n, dtype=torch.float64, device=classifier.device), 0] for name, n in widths.items()}

    def collect(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        linear = isinstance(module, nn.Linear)
        keys = as_channels_first(inputs[0].detach(), linear).movedim(1, -1).flatten(0, -2).double()
        found[name][0] += keys.T @ keys
        found[name][1] += len(keys)

    uncompiled = torch.compiler.set_stance("force_eager")  # what was compiled without hooks would pass them by
    with evaluating(model), uncompiled, ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(partial(collect, name)))
        for i in tqdm(batches, desc="second moments", unit="batch", disable=not progress, leave=False):
            classifier(pixels[i : i + batch_size])
    silent = [name for name, (_, count) in found.items() if not count]
    if silent:
        raise ValueError(f"layer {silent[0]!r} was not run on the reference images: expected one that the model uses")
    return {name: SecondMoment((total / count).cpu(), count) for name, (total, count) in found.items()}


def _width(module: nn.Module) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels


def second_moments(
    classifier: Classifier,
    layers: Sequence[str | nn.Module],
    images: LabelledImages | Tensor,
    batch_size: int = 64,
    progress: bool = False,
    cache: str | Path | None = None,
) -> dict[str, SecondMoment]:
    """Give the second moments of all `layers` over reference `images`, from the disk cache where they are known.

    What is missing is measured in one pass. A cache entry is found by a SHA-256 over the classifier's weights, its
    normalisation, the layer and the images, so it is never used when anything differs; a broken one is measured anew,
    and one that cannot be written is a warning.
    `cache` is the folder (default: `EDITTOOLS_CACHE` or the user's cache folder), `cache=""` uses none.
    """
    names = [find_layer(check_classifier(classifier).model, layer) for layer in layers]
    if cache == "":
        return measure(classifier, names, images, batch_size, progress)
    folder = Path(cache or cache_folder()) / "second_moments"
    content = _content_key(classifier, images)
    files = {n: folder / f"{hashlib.sha256(f'{content} {n}'.encode()).hexdigest()}.safetensors" for n in names}
    widths = {name: _width(classifier.model.get_submodule(name)) for name in names}
    known = {name: moment for name in names if (moment := _read(files[name], f"{content} {name}", widths[name]))}
    missing = [name for name in dict.fromkeys(names) if name not in known]
    if missing:
        known |= measure(classifier, missing, images, batch_size, progress)
    for name in missing:
        try:
            _write(files[name], f"{content} {name}", known[name])
        except (OSError, SafetensorError) as error:  # a full disk or a folder without permission costs no result
            warnings.warn(
                f"second moments were measured but could not be kept in {str(folder)!r}: {error}", stacklevel=2
            )
            break
    return {name: known[name] for name in names}


def _content_key(classifier: Classifier, images: LabelledImages | Tensor) -> str:
    data = (
        images if isinstance(images, LabelledImages) else LabelledImages(images, torch.zeros(len(images)).long(), ["-"])
    )
    scaling = (classifier.mean.flatten().tolist(), classifier.std.flatten().tolist())
    return hashlib.sha256(f"v1 {fingerprint(classifier.model)} {scaling} {data.digest()}".encode()).hexdigest()


def _write(path: Path, content: str, moment: SecondMoment) -> None:
    with atomic_path(path) as temporary:
        save_file({"matrix": moment.matrix}, temporary, {"content": content, "count": json.dumps(moment.count)})


def _read(path: Path, content: str, width: int) -> SecondMoment | None:
    try:
        with safe_open(path, "pt") as file:
            matrix, count = file.get_tensor("matrix"), json.loads(file.metadata()["count"])
            if file.metadata()["content"] == content and len(matrix) == width and isinstance(count, int):
                return SecondMoment(matrix, count)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass  # absent or broken: measured anew
    return None
