"""Edits: changes of a model's weights that can be applied, undone, scaled, added, saved, and loaded.

    with edit.applied(classifier): ...      # undone at the end, bit for bit, even after an exception
    edit.apply_(classifier)
    edit.undo_(classifier)                  # the last edit first
    0.5 * edit, -edit, edit + other
    edit.save("snow.safetensors")
    edit.export(classifier, "weights.safetensors")  # the edited weights, as a plain state dict
    Edit.load("snow.safetensors", classifier)

`_ledger.py` holds the edits that are applied to a model, with the original values of the parameters that they change.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from os import PathLike, fspath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools._checks import check_amount
from edittools._inference import without_autocast
from edittools._ledger import Ledger, Weights, ledger_of, locked
from edittools._storage import atomic_path, digest_tensors
from edittools.classifiers import Classifier, normalization_of, unwrapped
from edittools.cut import Cut

_FORMAT = "edittools edit 2"


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


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one parameter, in full or as the product Λ Dᵀ.

    Attributes:
        left: the full change, of the parameter's shape; or, with `right`, Λ of shape `(out, rank, kh, kw)`, which is
            `(out, rank)` for a linear layer.
        right: Dᵀ of shape `(rank, in)`; None for a full change.

    Raises:
        ValueError: if the shapes of `left` and `right` do not fit.
    """

    left: Tensor
    right: Tensor | None = None

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
        return replace(self, left=self.left * factor)

    def __add__(self, other: "Change") -> "Change":
        if self.right is None or other.right is None:
            return Change(self.delta() + other.delta())
        left = torch.cat([self.left, other.left], dim=1)
        return Change(left, torch.cat([self.right, other.right]))


AnyModel = TypeVar("AnyModel", bound=nn.Module)
"""A model, of which a copy has the same type."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's weights, which can be applied, undone, scaled, added, and saved.

    Use `applied` in a `with` block, or `apply_` and `undo_`. An applied edit stays applied when its model is copied,
    pickled, or moved with `.to(...)`, and can be undone in the copy. All methods with an argument `model` accept a
    `Classifier`, a bare model, or a wrapper around one.

    Attributes:
        changes: the change of each parameter, by the parameter's name.
        fingerprint: the `fingerprint` of the model that the edit was made for, with the edits that were applied to it.
        record: how the edit was found; None if that is not known.
        verdict: what `repair` says about the edit, beginning with its word, such as "use"; None if it was not
            judged, and for a multiple or a sum of edits.
        normalization: the normalization of the classifier that the edit was made for, see `normalization_of`; None if
            it was made for a bare model, or saved by version 0.5 or earlier.
    """

    changes: Mapping[str, Change]
    fingerprint: str
    record: Record | None = None
    verdict: str | None = None
    normalization: str | None = None

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
        return digest_tensors(factors.values(), factors)

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
            ValueError: if the factor is not a finite number, or so large that weights would be infinite.
        """
        factor = check_amount(factor, "strength")
        if factor == 1:
            return self
        changes = {name: change * factor for name, change in self.changes.items()}
        _check_finite(changes, f"with strength {factor:g}")
        record = self.record
        if record is not None:
            response = None if record.response is None else record.response * abs(factor)
            record = replace(record, loss_after=None, response=response)
        return replace(self, changes=changes, record=record, verdict=None)

    __rmul__ = __mul__

    def __neg__(self) -> "Edit":
        return self * -1.0

    def __add__(self, other: "Edit") -> "Edit":
        """Add two edits of one model.

        Raises:
            ValueError: if they were made for different weights or normalizations.
        """
        if not isinstance(other, Edit):
            return NotImplemented
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"The edits were made for models with fingerprints {self.fingerprint[:12]} and "
                f"{other.fingerprint[:12]}, two models or one with other edits applied; add edits of the same weights, "
                "or apply one after the other"
            )
        self._check_normalization(other.normalization)
        changes = dict(self.changes)
        for name, change in other.changes.items():
            changes[name] = changes[name] + change if name in changes else change
        return Edit(changes, self.fingerprint, normalization=self.normalization or other.normalization)

    def check_fits(self, model: nn.Module) -> None:
        """Check that the edit was made for this model.

        It fits if it was made for the weights that the model has now, or for those below an applied edit.

        Args:
            model: the model.

        Raises:
            ValueError: if a parameter is missing or has another shape, if the edit was made for other weights or
                another normalization, or if something else has changed the edited weights.
        """
        with ledger_of(model) as ledger:
            self._check_fits(ledger.model, ledger.fingerprints(), normalization_of(model))

    def _check_fits(self, model: nn.Module, fingerprints: Iterable[str], normalization: str | None) -> None:
        """Check that the edit fits a bare model with these fingerprints and a normalization; see `check_fits`."""
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
        fingerprints = iter(fingerprints)
        present = next(fingerprints)
        if present != self.fingerprint and self.fingerprint not in fingerprints:
            raise ValueError(
                f"The edit was made for a model with fingerprint {self.fingerprint[:12]}, but this {kind} has "
                f"{present[:12]}. The edited layers have the same names and shapes, but this is another architecture "
                "or has other weights; apply the edit to the model that it was made for, with the edits that were "
                "applied to it then, or make an edit of this model"
            )
        self._check_normalization(normalization)

    def _check_normalization(self, other: str | None) -> None:
        """Check that the edit was made for a normalization, unless one of the two is not known."""
        if None not in (self.normalization, other) and self.normalization != other:
            raise ValueError(
                f"The edit was made for images normalized by {self.normalization}, not by {other}; use the same mean "
                "and std, or make an edit of this classifier"
            )

    def check_fits_copy(self, weights: Weights, model: nn.Module) -> None:
        """Check that the edit was made for a copy of a model's weights, and is not in it; see `check_fits`.

        Args:
            weights: the copy.
            model: the model that was copied.
        """
        self._check_fits(unwrapped(model), weights.fingerprints, weights.normalization)
        self._check_not_among(weights.edits)

    def _check_not_among(self, edits: Iterable["Edit"]) -> None:
        """Check that the edit is none of those that are applied."""
        if any(edit.digest == self.digest for edit in edits):
            raise ValueError(
                f"{self} is applied already, and would count twice; undo it first, or apply a multiple, 2 * edit"
            )

    def _check_can_be_applied(self, model: nn.Module, ledger: Ledger) -> None:
        """Check that the edit fits a model, is not applied to it, and gives finite weights in its precision."""
        self._check_fits(ledger.model, ledger.fingerprints(), normalization_of(model))
        self._check_not_among(ledger.edits)
        for name, change in self.changes.items():
            weight = ledger.model.get_parameter(name).detach()
            edited = weight + change.delta().to(weight)
            if not torch.equal(edited.isfinite(), weight.isfinite()):
                raise ValueError(
                    f"with {self}, {name!r} would hold NaN or infinite numbers in {weight.dtype}; apply a smaller "
                    "multiple of it, or use the model in a higher precision"
                )

    def apply_(self, model: nn.Module) -> "Edit":
        """Add the edit to the weights of a model, in place. Several edits can be applied at the same time.

        Args:
            model: the model; it is changed in place.

        Returns:
            The edit itself.

        Raises:
            ValueError: if the edit does not fit the model, see `check_fits`, or is applied already, or if weights would
                not be finite.
        """
        with ledger_of(model) as ledger:
            self._check_can_be_applied(model, ledger)
            ledger.replace_edits((*ledger.edits, self))
        return self

    def undo_(self, model: nn.Module) -> "Edit":
        """Undo the edit that was applied last: the weights are then as if it had never been applied, bit for bit.

        Edits are undone in reverse order. To undo an edit below others, or in threads, use `applied`.

        Args:
            model: the model; it is changed in place.

        Returns:
            The edit itself.

        Raises:
            ValueError: if the edit is not applied, if another one was applied after it, or if something else has
                changed the edited weights.
        """
        with ledger_of(model) as ledger:
            digests = [edit.digest for edit in ledger.edits]
            if self.digest not in digests:
                raise ValueError(
                    f"{self} is not applied to this {type(ledger.model).__name__}; see applied_edits(model) for those "
                    "that are"
                )
            if digests[-1] != self.digest:
                raise ValueError(
                    f"{self} is not the last edit of this {type(ledger.model).__name__}: undo {ledger.edits[-1]} "
                    "first, applied_edits(model)[-1].undo_(model), or use `with edit.applied(model)`"
                )
            ledger.replace_edits(ledger.edits[:-1])
        return self

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Apply the edit within a `with` block, and undo it at the end, even after an exception or several Ctrl-C.

        The weights are then as before, bit for bit. Blocks of several threads may overlap in any order: each takes out
        its own edit, even from below others.

        Args:
            model: the model; it is changed in place.

        Yields:
            The same model.

        Raises:
            ValueError: if the edit cannot be applied, see `apply_`; or, at the end of the block, if something else has
                changed the edited weights within it.
        """
        before: list[Tensor] = []
        try:
            with ledger_of(model) as ledger:
                self._check_can_be_applied(model, ledger)
                parameters = [ledger.model.get_parameter(name).detach() for name in self.changes]
                before = [parameter.clone() for parameter in parameters]
                ledger.replace_edits((*ledger.edits, self))
            yield model
        finally:
            if before:
                try:
                    self._take_out(model)
                except ValueError:  # something else has changed the weights, and is not overwritten
                    raise
                except BaseException:  # a second Ctrl-C: restore the weights by one call, which no third one interrupts
                    torch._foreach_copy_(parameters, before)
                    raise

    def _take_out(self, model: nn.Module) -> None:
        """Undo the edit, wherever it is among the applied ones, if it is there."""
        with ledger_of(model) as ledger:
            others = [edit for edit in ledger.edits if edit.digest != self.digest]
            if len(others) < len(ledger.edits):
                ledger.replace_edits(others)

    def edited(self, classifier: AnyModel) -> AnyModel:
        """Copy a classifier, apply the edit to the copy, and return it.

        Args:
            classifier: the classifier; it is not changed.

        Raises:
            ValueError: if the edit does not fit the classifier, see `check_fits`.
        """
        edited = copied(classifier)
        self.apply_(edited)
        return edited

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
        return self.map_at(Cut(classifier, self._mapped_layer, images.shape[2:]), images)

    @property
    def _mapped_layer(self) -> str:
        """The first layer whose weight is changed."""
        layers = [_layer_of(name) for name in self.changes if name.endswith(".weight")]
        if not layers:
            raise ValueError(f"{self} changes no layer's weight, so there is no map of where it acts")
        return layers[0]

    @torch.no_grad()
    def map_at(self, cut: Cut, images: Tensor) -> Tensor:
        """Compute the edit map with a cut at the first layer whose weight the edit changes; see `edit_map`.

        Args:
            cut: the classifier, cut at that layer for images of this size.
            images: a batch `(B, 3, H, W)` in [0, 1].

        Returns:
            `(B, H, W)`.
        """
        keys = cut.keys(cut.prefix(images))
        added = self.changes[f"{cut.layer}.weight"].added(cut, keys)
        strength = added.square().mean(dim=cut.channels).sqrt()
        unit = None if self.record is None else self.record.response
        if not unit:
            unit = strength.max().clamp_min(1e-12)
        return cut.to_image(strength / unit).cpu()

    def save(self, path: str | PathLike) -> None:
        """Write the edit as a safetensors file, in one step.

        A digest in its header covers the whole content, so that `load` refuses a damaged file.

        Args:
            path: the file, such as "snow.safetensors".

        Raises:
            OSError: if the file cannot be written.
            ValueError: if the edit holds NaN or infinite numbers, which `load` refuses.
        """
        _check_finite(self.changes, "of the edit")
        record = None if self.record is None else asdict(self.record)
        tensors = {name: factor.detach().cpu().clone().contiguous() for name, factor in _factors(self.changes).items()}
        header = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "changes": json.dumps(list(self.changes)),
            "record": json.dumps(record),
        }
        if self.verdict is not None:
            header["verdict"] = self.verdict
        if self.normalization is not None:
            header["normalization"] = self.normalization
        header["digest"] = _file_digest(tensors, header)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, header)

    def export(self, model: nn.Module, path: str | PathLike) -> None:
        """Write the edited weights of a model as a plain state dict in safetensors, in one step.

        The file can be loaded without edittools: `model.load_state_dict(safetensors.torch.load_file(path))`. The names
        are those of the bare model, without a `Classifier` or another wrapper around it. The weights include all edits
        that are applied to the model, and this one, whether it is applied or not. Entries of the state dict that are
        not tensors are omitted.

        Args:
            model: the model that the edit was made for; it is not changed.
            path: the file, such as "weights.safetensors".

        Raises:
            ValueError: if the edit does not fit the model, see `check_fits`.
        """
        self._check_normalization(normalization_of(model))
        with ledger_of(model) as ledger:
            is_applied = any(edit.digest == self.digest for edit in ledger.edits)
            edited = copied(ledger.model) if is_applied else self.edited(ledger.model)
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
            path: a file that `save` wrote.
            model: the model that the edit is meant for; if it is given, `check_fits(model)` is called.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not an edit, has no digest, is damaged, or holds NaN or infinite numbers, or if
                the edit does not fit the model.
        """
        try:
            header, tensors = _read_file(path)
            edit = cls(
                changes=_read_changes(header, tensors),
                fingerprint=header["fingerprint"],
                record=_read_record(header),
                verdict=header.get("verdict"),
                normalization=header.get("normalization"),
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


def applied_edits(model: nn.Module) -> tuple[Edit, ...]:
    """List the edits that are applied to a model now, in the order in which they were applied.

    Raises:
        ValueError: if something else has changed the edited parameters.
    """
    with ledger_of(model) as ledger:
        return ledger.edits


def copied(model: AnyModel) -> AnyModel:
    """Copy a model, also one with a tensor that is computed from its weights, as the hook of `weight_norm` does."""
    computed = {}
    with locked(model):
        for module in model.modules():
            for value in vars(module).values():
                if isinstance(value, Tensor) and not value.is_leaf:
                    computed[id(value)] = value.detach().clone()  # `deepcopy` does not copy tensors with a history
        return copy.deepcopy(model, computed)


# Files


def _layer_of(parameter: str) -> str:
    """Name the layer that a parameter belongs to."""
    return parameter.rpartition(".")[0]


def _check_finite(changes: Mapping[str, Change], what: str) -> None:
    """Raise `ValueError` if a change holds NaN or infinite numbers; `what` completes the message."""
    for name, factor in _factors(changes).items():
        if not factor.isfinite().all():
            raise ValueError(
                f"{name!r} {what} holds NaN or infinite numbers; pass finite numbers, or a smaller strength"
            )


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
    if "digest" not in header:
        raise ValueError("it has no digest, so nothing tells whether it is damaged")
    if header["digest"] != _file_digest(tensors, header):
        raise ValueError(f"its contents do not match its digest {header['digest'][:12]!r}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name!r} holds numbers of type {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name!r} holds NaN or infinite numbers")
    return header, tensors


def _read_changes(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Change]:
    """Read the changes of an edit's file."""
    names = json.loads(header["changes"])
    return {name: Change(tensors[f"{name}/left"], tensors.get(f"{name}/right")) for name in names}


def _read_record(header: Mapping[str, str]) -> Record | None:
    """Read the record of an edit's file."""
    values: dict[str, Any] | None = json.loads(header["record"])
    if not values:
        return None
    return Record(**{field.name: values[field.name] for field in fields(Record)})
