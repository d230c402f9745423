"""Edits: changes of a model's weights that can be applied, undone, scaled, added, saved and loaded.

    with edit.applied(classifier): ...      # undone at the end, bit for bit, also after an exception
    edit.apply_(classifier)
    edit.undo_(classifier)
    0.5 * edit, -edit, edit + other
    edit.save("snow.safetensors")
    edit.export(classifier, "weights.safetensors")  # the edited weights, as a plain state dict
    Edit.load("snow.safetensors", classifier)

A model keeps a ledger of the edits that are applied to it, with the original values of the parameters that they change.
One lock per model guards the ledger and the weights, so several threads can apply and undo edits of one model.
"""

import copy
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from os import PathLike, fspath
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools._caching import atomic_path, checksum_tensor, digest_tensors
from edittools._checks import check_amount
from edittools._inference import without_autocast
from edittools.classifiers import Classifier, fingerprint, unwrapped
from edittools.cut import Cut

_FORMAT = "edittools edit 1"
_LEDGER = "_edittools_applied"

Mark = tuple[tuple[int, ...], torch.dtype, int]
"""The shape, the type and the checksum of a tensor, by which its value is recognized."""

_HASHED: WeakKeyDictionary[nn.Module, tuple[dict[str, Mark], str]] = WeakKeyDictionary()
"""The fingerprint of each unedited model, with the marks of the weights that were hashed."""

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


@dataclass(frozen=True)
class Record:
    """How an edit was found, and its loss.

    Attributes:
        objective: name of the objective or of the method.
        loss_before: loss without the edit.
        loss_after: loss with the edit; None if it was not measured, as for a scaled edit.
        steps: number of steps that the solver took.
        response: how much the edit changes the layer's output at the mask, as a root mean square over channels and
            positions; None if it was not measured.
    """

    objective: str
    loss_before: float
    loss_after: float | None
    steps: int
    response: float | None = None

    @property
    def share_left(self) -> float | None:
        """The share of the loss that is left with the edit: 0 if there was no loss, None if it was not measured."""
        if self.loss_after is None:
            return None
        if not self.loss_before:
            return 0.0
        return self.loss_after / self.loss_before


@dataclass(frozen=True)
class Change:
    """The change of one parameter, in full or as the product Λ Dᵀ.

    Attributes:
        left: the full change, of the parameter's shape; or, with `right`, Λ of shape `(out, rank, kh, kw)`, which is
            `(out, rank)` for a linear layer.
        right: Dᵀ of shape `(rank, in)`; None for a full change.
        multiple_of: the factor and the change that this one is the product of; None unless it was scaled.

    Raises:
        ValueError: if the shapes of `left` and `right` do not fit.
    """

    left: Tensor
    right: Tensor | None = None
    multiple_of: "tuple[float, Change] | None" = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.right is None:
            return
        left_shape = tuple(self.left.shape)
        right_shape = tuple(self.right.shape)
        if len(left_shape) < 2 or len(right_shape) != 2 or left_shape[1] != right_shape[0]:
            raise ValueError(
                f"The factors of a change have the shapes {left_shape} and {right_shape}, which do not fit; "
                "pass (out, rank, ...) and (rank, in)"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter that is changed."""
        if self.right is None:
            return tuple(self.left.shape)
        return (self.left.shape[0], self.right.shape[1], *self.left.shape[2:])

    @without_autocast()
    def delta(self) -> Tensor:
        """Return the change as one tensor of the parameter's shape, in the precision of its factors."""
        if self.right is None:
            return self.left
        return torch.einsum("or...,rn->on...", self.left, self.right)

    @without_autocast()
    def added(self, cut: Cut, keys: Tensor) -> Tensor:
        """Compute what this change of a layer's weight adds to the layer's output.

        Args:
            cut: the classifier, cut at the layer.
            keys: the layer's input. A low-rank change projects it first, which is faster.

        Returns:
            A tensor of the shape of the layer's output.
        """
        return cut.convolve(cut.project(keys, self.right), self.left.to(cut.weight))

    def __mul__(self, factor: float) -> "Change":
        if factor == 0:
            return replace(self, left=torch.zeros_like(self.left))  # 0 times infinity is 0 here
        scaled = replace(self, left=self.left * factor)
        before, base = self.multiple_of or (1.0, self)
        object.__setattr__(scaled, "multiple_of", (before * factor, base))  # frozen
        return scaled

    def __add__(self, other: "Change") -> "Change":
        if self.right is None or other.right is None:
            return Change(self.delta() + other.delta())
        left = torch.cat([self.left, other.left], dim=1)
        return Change(left, torch.cat([self.right, other.right]))


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's weights, which can be applied, undone, scaled, added and saved.

    Use `applied` in a `with` block, or `apply_` and `undo_`. An applied edit stays applied when its model is copied,
    pickled or moved with `.to(...)`, and can be undone in the copy. All methods with an argument `model` accept a
    `Classifier`, a bare model, or a wrapper around one.

    Attributes:
        changes: the change of each parameter, by the parameter's name.
        fingerprint: the `fingerprint` of the unedited model.
        record: how the edit was found; None if that is not known.
        on_top_of: digests of the edits that were applied when this one was made; it can be applied only where these
            are applied.
    """

    changes: Mapping[str, Change]
    fingerprint: str
    record: Record | None = None
    on_top_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.changes:
            raise ValueError("An edit with 0 changes; pass at least one, {'layer.weight': Change(...)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers whose parameters are changed."""
        return tuple(dict.fromkeys(_layer_of(name) for name in self.changes))

    @cached_property
    def digest(self) -> str:
        """A hash of the changes, by which the edit is recognized in a copy of the model and in a file."""
        factors = _factors(self.changes)
        names = [name.removesuffix("eft").removesuffix("ight") for name in factors]  # as in digests of version 0.2
        return digest_tensors(factors.values(), names)

    def __repr__(self) -> str:
        if len(self.changes) > 3:
            return f"Edit({len(self.changes)} parameters of {len(self.layers)} layers)"
        parts = []
        for name, change in self.changes.items():
            rank = "full" if change.right is None else change.left.shape[1]
            parts.append(f"{name} (rank {rank})")
        return f"Edit({', '.join(parts)})"

    def __mul__(self, factor: float) -> "Edit":
        """Scale the edit by a factor: 0 gives an edit that changes nothing, 1 the edit itself, and -1 its opposite.

        Raises:
            ValueError: if the factor is not a finite number.
        """
        factor = check_amount(factor, "strength")
        if factor == 1:
            return self
        changes = {name: change * factor for name, change in self.changes.items()}
        record = self.record
        if record is not None:
            response = None if record.response is None else record.response * abs(factor)
            record = replace(record, loss_after=None, response=response)
        return replace(self, changes=changes, record=record)

    __rmul__ = __mul__

    def __neg__(self) -> "Edit":
        return self * -1.0

    def __add__(self, other: "Edit") -> "Edit":
        """Add two edits of one model.

        Raises:
            ValueError: if they belong to different models, or were made on top of different edits.
        """
        if not isinstance(other, Edit):
            return NotImplemented
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"The edits belong to two models, with fingerprints {self.fingerprint[:12]} and "
                f"{other.fingerprint[:12]}; add edits of one model"
            )
        if other.on_top_of != self.on_top_of:
            raise ValueError(
                f"The edits were made on top of {len(self.on_top_of)} and {len(other.on_top_of)} other edits, which "
                "differ; apply one after the other instead"
            )
        changes = dict(self.changes)
        for name, change in other.changes.items():
            changes[name] = changes[name] + change if name in changes else change
        return Edit(changes, self.fingerprint, on_top_of=self.on_top_of)

    def check_fits(self, model: nn.Module) -> None:
        """Check that the edit was made for this model. Other edits may be applied to it now.

        Args:
            model: the model.

        Raises:
            ValueError: if a parameter is missing or has another shape, if the unedited weights differ, if something
                else has changed the edited weights, or if an edit that this one was made on top of is not applied.
        """
        model = unwrapped(model)
        with _lock_of(model):
            edits, originals = _ledger(model)
            self._check_fits(model, edits, originals)

    def _check_fits(self, model: nn.Module, edits: Iterable["Edit"], originals: Mapping[str, Tensor]) -> None:
        kind = type(model).__name__
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, change in self.changes.items():
            shape = tuple(parameters[name].shape) if name in parameters else None
            if shape != change.shape:
                there = "has no such parameter" if shape is None else f"has {shape}"
                raise ValueError(
                    f"The edit changes {name!r} of shape {change.shape}, but this {kind} {there}; "
                    "apply it to the model that it was made for"
                )
        actual = _fingerprint_without(model, originals)
        if actual != self.fingerprint:
            raise ValueError(
                f"The edit was made for a model with fingerprint {self.fingerprint[:12]}, but this {kind} has "
                f"{actual[:12]}. The edited layers have the same names and shapes, but this is another architecture or "
                "has other weights; apply the edit to the model that it was made for, or make an edit of this model"
            )
        missing = Counter(self.on_top_of) - Counter(edit.digest for edit in edits)
        if missing:
            raise ValueError(
                f"{self} was made on top of {len(self.on_top_of)} edits, of which {missing.total()} are not applied to "
                f"this {kind}; apply them first"
            )

    def apply_(self, model: nn.Module) -> "Edit":
        """Add the edit to the weights of a model, in place. Several edits can be applied at the same time.

        Args:
            model: the model; it is changed in place.

        Returns:
            The edit itself.

        Raises:
            ValueError: if the edit does not fit the model, see `check_fits`.
        """
        model = unwrapped(model)
        with _lock_of(model):
            edits, originals = _ledger(model)
            self._check_fits(model, edits, originals)
            _replace_edits(model, edits, originals, (*edits, self))
        return self

    def undo_(self, model: nn.Module) -> "Edit":
        """Undo the edit: the weights are then as if it had never been applied, bit for bit.

        Other edits stay applied. An edit that was applied twice is undone once.

        Args:
            model: the model; it is changed in place.

        Returns:
            The edit itself.

        Raises:
            ValueError: if the edit is not applied, or if something else has changed the edited weights.
        """
        model = unwrapped(model)
        with _lock_of(model):
            edits, originals = _ledger(model)
            indices = [index for index, edit in enumerate(edits) if edit.digest == self.digest]
            if not indices:
                raise ValueError(
                    f"{self} is not applied to this {type(model).__name__}; see applied_edits(model) for those that are"
                )
            last = indices[-1]
            _replace_edits(model, edits, originals, edits[:last] + edits[last + 1 :])
        return self

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Apply the edit within a `with` block, and undo it at the end, also after an exception.

        The weights are then as before, bit for bit.

        Args:
            model: the model; it is changed in place.

        Yields:
            The same model.

        Raises:
            ValueError: if the edit does not fit the model, see `check_fits`; or, at the end of the block, if something
                else has changed the edited weights within it.
        """
        self.apply_(model)
        try:
            yield model
        finally:
            with _lock_of(unwrapped(model)):
                is_applied = any(edit.digest == self.digest for edit in applied_edits(model))
                if is_applied:  # not if it was undone, or the original weights were loaded, within the block
                    self.undo_(model)

    def edited(self, classifier: Classifier) -> Classifier:
        """Copy a classifier, apply the edit to the copy, and return it.

        Args:
            classifier: the classifier; it is not changed.

        Raises:
            ValueError: if the edit does not fit the classifier, see `check_fits`.
        """
        model = unwrapped(classifier)
        with _lock_of(model):
            copied = copy.deepcopy(classifier)
            if model in _HASHED:  # checked against the copy's weights before it is used
                _HASHED[unwrapped(copied)] = _HASHED[model]
        self.apply_(copied)
        return copied

    @torch.no_grad()
    def edit_map(self, classifier: Classifier, images: Tensor) -> Tensor:
        """Compute the edit map: where in images the edit acts, and how strongly.

        Args:
            classifier: the classifier that the edit was made for.
            images: one image `(3, H, W)` in [0, 1], or a batch `(B, 3, H, W)`.

        Returns:
            `(H, W)` or `(B, H, W)`: the root mean square, over channels, of what the edit adds to the output of the
            first layer whose weight it changes. The unit is the root mean square at the exemplar's mask,
            `Record.response`. If that is not known, as for a sum of edits, the unit is the largest value in these
            images.

        Raises:
            ValueError: if the edit changes no layer's weight, only biases.
        """
        if images.ndim == 3:
            return self.edit_map(classifier, images[None])[0]
        layers = [_layer_of(name) for name in self.changes if name.endswith(".weight")]
        if not layers:
            raise ValueError(f"{self} changes no layer's weight, so there is no map of where it acts")
        layer = layers[0]
        size = images.shape[2:]
        cut = Cut(classifier, layer, size)
        keys = cut.keys(cut.prefix(images))
        added = self.changes[f"{layer}.weight"].added(cut, keys)
        strength = added.square().mean(dim=cut.channels).sqrt()
        unit = None if self.record is None else self.record.response
        if unit is None or not unit > 0:  # files of 0.2 may hold NaN
            unit = strength.max().clamp_min(1e-12)
        return cut.to_image(strength / unit).cpu()

    def save(self, path: str | PathLike) -> None:
        """Write the edit as a safetensors file, in one step.

        A digest in its header covers the whole content, so that `load` refuses a damaged file.

        Args:
            path: the file, such as "snow.safetensors".
        """
        record = None if self.record is None else asdict(self.record)
        tensors = {name: factor.detach().cpu().clone().contiguous() for name, factor in _factors(self.changes).items()}
        header = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "changes": json.dumps(list(self.changes)),
            "record": json.dumps(record),
            "on_top_of": json.dumps(self.on_top_of),
        }
        header["digest"] = _file_digest(tensors, header)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, header)

    def export(self, model: nn.Module, path: str | PathLike) -> None:
        """Write the edited weights of a model as a plain state dict in safetensors, in one step.

        The file can be loaded without edittools: `model.load_state_dict(safetensors.torch.load_file(path))`. The names
        are those of the bare model, without a `Classifier` or another wrapper around it. The weights include all edits
        that are applied to the model, and this one, whether it is applied or not. Entries of the state dict that are
        not tensors are left out.

        Args:
            model: the model that the edit was made for; it is not changed.
            path: the file, such as "weights.safetensors".

        Raises:
            ValueError: if the edit does not fit the model, see `check_fits`.
        """
        model = unwrapped(model)
        with _lock_of(model):
            is_applied = any(edit.digest == self.digest for edit in applied_edits(model))
            edited = copy.deepcopy(model) if is_applied else self.edited(model)
        tensors = {}
        for name, value in edited.state_dict().items():
            if isinstance(value, Tensor):  # tied weights are written under each of their names
                tensors[name] = value.detach().cpu().clone().contiguous()
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"format": "pt"})

    @classmethod
    def load(cls, path: str | PathLike, model: nn.Module | None = None) -> "Edit":
        """Read an edit from a file.

        Args:
            path: a file that `save` wrote. Files of version 0.2, and other files without a digest, are read as well.
            model: the model that the edit is meant for; if it is given, `check_fits(model)` is called.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not an edit, is damaged, or holds NaN or infinite numbers, or if the edit does
                not fit the model.
        """
        try:
            header, tensors = _read_file(path)
            edit = cls(
                changes=_read_changes(header, tensors),
                fingerprint=header["fingerprint"],
                record=_read_record(header),
                on_top_of=tuple(json.loads(header.get("on_top_of", "[]"))),
            )
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{fspath(path)!r} cannot be read as an edit: {error}; pass an undamaged file that Edit.save wrote"
            ) from error
        if model is not None:
            edit.check_fits(model)
        return edit


def edit_of(cut: Cut, changes: Mapping[str, Change], record: Record | None = None) -> Edit:
    """Make an edit of the model that is cut, on top of the edits that are applied to it now.

    Args:
        cut: the classifier, cut at a layer.
        changes: the change of each parameter, by the parameter's name.
        record: how the edit was found.
    """
    model = cut.model
    with _lock_of(model):
        edits, originals = _ledger(model)
        on_top_of = tuple(edit.digest for edit in edits)
        return Edit(changes, _fingerprint_without(model, originals), record, on_top_of)


def applied_edits(model: nn.Module) -> tuple[Edit, ...]:
    """List the edits that are applied to a model now, in the order in which they were applied.

    Raises:
        ValueError: if something else has changed the edited parameters.
    """
    model = unwrapped(model)
    with _lock_of(model):
        edits, _ = _ledger(model)
    return edits


def check_same_before(cut: Cut, applied: Sequence[Edit], what: str) -> None:
    """Check that the part of a model before a layer is edited now as it was at an earlier time.

    Args:
        cut: the classifier, cut at the layer.
        applied: the edits that were applied at that time, oldest first.
        what: says in the error message what was computed at that time, such as "The images were cached".

    Raises:
        ValueError: if an edit that changes a parameter before the layer was applied or undone since then. Edits are
            counted: one that was applied twice must still be applied twice.
    """
    changed = first_changed(cut, applied)
    if changed is not None:
        raise ValueError(
            f"{what} at {cut.layer!r}, but edits that change {_layer_of(changed)!r} before it were applied or undone "
            "since then; compute them again"
        )


def first_changed(cut: Cut, applied: Sequence[Edit]) -> str | None:
    """Find a parameter before a layer that other edits change now than did when the edits `applied` were applied.

    Args:
        cut: the classifier, cut at the layer.
        applied: the edits that were applied at the earlier time, oldest first.

    Returns:
        The name of the first such parameter; None if there is none.
    """
    now = applied_edits(cut.model)
    if [edit.digest for edit in applied] == [edit.digest for edit in now]:
        return None
    digests_then = _digests_by_parameter(cut.model, applied)
    digests_now = _digests_by_parameter(cut.model, now)
    for name, parameter in cut.state_parameters.items():
        if digests_then.get(id(parameter)) != digests_now.get(id(parameter)):
            return name
    return None


def _digests_by_parameter(model: nn.Module, edits: Iterable[Edit]) -> dict[int, list[str]]:
    """List, by the parameter's `id`, the edits that change it, in order: the order decides how sums are rounded."""
    digests: dict[int, list[str]] = {}
    for edit in edits:
        for name in edit.changes:
            digests.setdefault(id(model.get_parameter(name)), []).append(edit.digest)
    return digests


def unedited_fingerprint(model: nn.Module) -> str:
    """Compute the `fingerprint` that a model has without the edits that are applied to it now.

    The first call hashes all weights. Later calls compare their checksums, and hash the weights again only if a
    checksum differs.

    Raises:
        ValueError: if something else has changed the edited parameters.
    """
    model = unwrapped(model)
    with _lock_of(model):
        _, originals = _ledger(model)
        return _fingerprint_without(model, originals)


def unedited_marks(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Mark]:
    """Compute the marks of weights and buffers as they are without the edits that are applied now.

    Args:
        model: the model.
        names: names of the weights and buffers; by default all.

    Returns:
        The mark of each, by name.

    Raises:
        ValueError: if something else has changed the edited parameters.
    """
    model = unwrapped(model)
    with _lock_of(model):
        _, originals = _ledger(model)
        weights = _weights_without(model, originals)
        if names is not None:
            weights = {name: weights[name] for name in names}
        return _marks(weights)


def _fingerprint_without(model: nn.Module, originals: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a model with the originals of its edited parameters; hash only if a mark differs."""
    weights = _weights_without(model, originals)
    marks = _marks(weights)
    known_marks, known_fingerprint = _HASHED.get(model, ({}, ""))
    if marks == known_marks:
        return known_fingerprint
    hashed = fingerprint(model, weights)
    _HASHED[model] = marks, hashed
    return hashed


def _weights_without(model: nn.Module, originals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """List weights and buffers by name, with the originals of edited parameters under all names that they have."""
    unedited = {}
    for name, original in originals.items():
        parameter = model.get_parameter(name)
        unedited[id(parameter)] = original.to(parameter)
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    tensors.update(model.state_dict(keep_vars=True))
    return {name: unedited.get(id(tensor), tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def _marks(weights: Mapping[str, Tensor]) -> dict[str, Mark]:
    """Compute the marks of tensors, by name; a tensor that has several names is read once."""
    marks: dict[int, Mark] = {}
    for tensor in weights.values():
        if id(tensor) not in marks:
            marks[id(tensor)] = (tuple(tensor.shape), tensor.dtype, checksum_tensor(tensor))
    return {name: marks[id(tensor)] for name, tensor in weights.items()}


# The ledger


def _lock_of(model: nn.Module) -> threading.RLock:
    """Return the lock that guards the weights and the ledger of a model."""
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


def _ledger(model: nn.Module) -> tuple[tuple[Edit, ...], dict[str, Tensor]]:
    """Return the edits that are applied to a model, in order, and the originals of the parameters that they change.

    If the original weights were loaded into the model, its ledger is deleted, and both are empty.

    Raises:
        ValueError: if something else has changed an edited parameter.
    """
    edits, originals = vars(model).get(_LEDGER, ((), {}))
    changes = _changes_by_original(model, originals, edits)
    changed = None
    for name, original in originals.items():
        if not _holds(model, name, _edited(original, changes[name])):
            changed = name
            break
    if changed is None:
        return edits, originals
    if all(_holds(model, name, original) for name, original in originals.items()):
        object.__delattr__(model, _LEDGER)
        return (), {}
    raise ValueError(
        f"{changed!r} was changed by something else while an edit was applied to it, and undoing the edit would lose "
        "that change. Undo edits before training, loading other weights or rounding (.half().float()); to go on, load "
        "the weights from before the edit, or create the model again"
    )


def _replace_edits(
    model: nn.Module, before: tuple[Edit, ...], originals: Mapping[str, Tensor], after: tuple[Edit, ...]
) -> None:
    """Apply the edits `after` and no others; after an exception, the shorter one of `before` and `after` is applied."""
    originals = dict(originals)
    shared = {id(model.get_parameter(name)): name for name in originals}
    for edit in after:
        for name in edit.changes:
            parameter = model.get_parameter(name)
            if id(parameter) not in shared:  # a weight of two layers has two names, but one original
                shared[id(parameter)] = name
                originals[name] = parameter.detach().clone()
    try:
        _write(model, originals, after)
    except BaseException:
        _write(model, originals, min(before, after, key=len))
        raise


@torch.no_grad()
def _write(model: nn.Module, originals: Mapping[str, Tensor], edits: tuple[Edit, ...]) -> None:
    """Set parameters to their originals plus the changes of `edits`, and write these edits into the ledger."""
    changes = _changes_by_original(model, originals, edits)
    for name, original in originals.items():
        model.get_parameter(name).copy_(_edited(original, changes[name]))
    vars(model).pop(_LEDGER, None)
    if edits:
        edited = {name: original for name, original in originals.items() if changes[name]}
        object.__setattr__(model, _LEDGER, (edits, edited))


def _changes_by_original(model: nn.Module, originals: Iterable[str], edits: Iterable[Edit]) -> dict[str, list[Change]]:
    """List the changes of each parameter in the ledger, in order; an edit may use any name of a shared parameter."""
    names = {id(model.get_parameter(name)): name for name in originals}
    changes: dict[str, list[Change]] = {name: [] for name in originals}
    for edit in edits:
        for name, change in edit.changes.items():
            original = names.get(id(model.get_parameter(name)), name)
            changes.setdefault(original, []).append(change)
    return changes


def _edited(original: Tensor, changes: Iterable[Change]) -> Tensor:
    """Add changes, in order, to the original of a parameter."""
    weight = original
    for change in changes:
        weight = weight + change.delta().to(weight)
    return weight


def _holds(model: nn.Module, name: str, weight: Tensor) -> bool:
    """Tell whether a parameter has a value, in the precision and on the device that the parameter has now."""
    parameter = model.get_parameter(name)
    weight = weight.to(parameter)
    if torch.equal(parameter, weight):
        return True
    return parameter.shape == weight.shape and torch.allclose(parameter, weight, rtol=0, atol=0, equal_nan=True)


# Files


def _layer_of(parameter: str) -> str:
    """Name the layer that a parameter belongs to."""
    return parameter.rpartition(".")[0]


def _factors(changes: Mapping[str, Change]) -> dict[str, Tensor]:
    """Name the factors of all changes as they are named in a file."""
    factors = {}
    for name, change in changes.items():
        factors[f"{name}/left"] = change.left
        if change.right is not None:
            factors[f"{name}/right"] = change.right
    return factors


def _file_digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Hash the content of a file: its tensors, and its header without the digest."""
    names = sorted(tensors)
    contents = digest_tensors([tensors[name] for name in names], names)
    entries = {name: value for name, value in header.items() if name != "digest"}
    return hashlib.sha256(f"{json.dumps(entries, sort_keys=True)} {contents}".encode()).hexdigest()


def _read_file(path: str | PathLike) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the header and the tensors of an edit's file; raise `ValueError` if it is not an edit, or is damaged."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.get("format") != _FORMAT:
        raise ValueError(f"its format is {header.get('format')!r} instead of {_FORMAT!r}")
    if "digest" in header and header["digest"] != _file_digest(tensors, header):
        raise ValueError(f"its contents do not match its digest {header['digest'][:12]!r}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name!r} holds numbers of type {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name!r} holds NaN or infinite numbers")
    return header, tensors


def _read_changes(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Change]:
    """Read the changes of an edit's file; version 0.2 stored their names under the key "numbers"."""
    names = json.loads(header["changes"] if "changes" in header else header["numbers"])
    return {name: Change(tensors[f"{name}/left"], tensors.get(f"{name}/right")) for name in names}


def _read_record(header: Mapping[str, str]) -> Record | None:
    """Read the record of an edit's file."""
    values: dict[str, Any] | None = json.loads(header["record"])
    if not values:
        return None
    if "changes" not in header:  # 0.2 kept the response next to the name of each change
        first, *_ = json.loads(header["numbers"]).values()
        values["response"] = first[1]
    return Record(**{field.name: values[field.name] for field in fields(Record)})
