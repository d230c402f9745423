"""An edit is a value: a change of weights that can be applied, undone, scaled, added, saved and loaded.

with edit.applied(classifier): ...      # undone at the end, bit for bit, also after an exception
edit.apply_(classifier); edit.undo_(classifier)
0.5 * edit;  -edit;  edit + other
edit.save("snow.safetensors");  Edit.load("snow.safetensors", classifier)
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from os import PathLike, fspath
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.caching import atomic_path, digest_tensors
from edittools.checks import check_amount
from edittools.classifiers import Classifier, fingerprint, unwrapped
from edittools.cut import Cut

_FORMAT = "edittools edit 1"
_LEDGER = "_edittools_applied"
_HASHED: WeakKeyDictionary[nn.Module, tuple[list, str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Record:
    """How an edit was found; None is what nobody measured, as what loss a scaled edit leaves.

    `response` says how far it moves the layer's output at the exemplar's mask (root mean square over channels).
    """

    objective: str
    loss_before: float
    loss_after: float | None
    steps: int
    response: float | None = None

    @property
    def share_left(self) -> float | None:
        """Return the share of the loss that is left, 0 where there was none; None where it is not known."""
        if self.loss_after is None:
            return None
        return self.loss_after / self.loss_before if self.loss_before else 0.0


@dataclass(frozen=True)
class Change:
    """The change of one parameter: `left` in full, or Λ Dᵀ: `left` Λ `(out, rank, kh, kw)`, `right` D `(rank, in)`."""

    left: Tensor
    right: Tensor | None = None

    def __post_init__(self) -> None:
        left, right = tuple(self.left.shape), () if self.right is None else tuple(self.right.shape)
        if self.right is not None and (len(left) < 2 or len(right) != 2 or left[1] != right[0]):
            raise ValueError(f"factors of shapes {left} and {right}: expected (out, rank, …) and (rank, in)")

    def delta(self) -> Tensor:
        """Return the change as one tensor of the parameter's shape."""
        return self.left if self.right is None else torch.einsum("or...,rn->on...", self.left, self.right)

    def added(self, cut: Cut, keys: Tensor) -> Tensor:
        """Compute what a change of the layer's weight adds to its output; of low rank, the keys are projected first."""
        return cut.convolve(cut.project(keys, self.right), self.left.to(cut.weight))

    def __mul__(self, factor: float) -> "Change":
        left = self.left * factor if factor else torch.zeros_like(self.left)  # 0 of what is not finite is 0
        return replace(self, left=left)

    def __add__(self, other: "Change") -> "Change":
        if self.right is None or other.right is None:
            return Change(self.delta() + other.delta())
        return Change(torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right]))


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's weights. `changes` goes by parameter name; `fingerprint` is of the unedited model.

    `on_top_of` holds the digests of those that were applied when it was made: without them it is refused. An applied
    edit goes with its model into a copy or a pickle, and through `.to(…)`, and can be undone there as well.
    """

    changes: Mapping[str, Change]
    fingerprint: str
    record: Record | None = None
    on_top_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.changes:
            raise ValueError("an edit with no change: expected at least one parameter, {'layer.weight': Change(…)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """Name the layers whose parameters it changes."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.changes))

    @cached_property
    def digest(self) -> str:
        """Hash what it changes: so it is known in a copy and in a file."""
        factors = _factors(self.changes)
        return digest_tensors(factors.values(), [name[: name.rindex("/") + 2] for name in factors])

    def __repr__(self) -> str:
        ranks = [c.left.shape[1] if c.right is not None else "full" for c in self.changes.values()]
        parts = ", ".join(f"{n} (rank {r})" for n, r in zip(self.changes, ranks, strict=True))
        return f"Edit({parts if len(ranks) < 4 else f'{len(ranks)} parameters of {len(self.layers)} layers'})"

    def __mul__(self, factor: float) -> "Edit":
        """Scale the edit: 0 is none, 1 the whole, -1 its opposite; `ValueError` for what is no finite number."""
        factor = check_amount(factor, "strength")
        if factor == 1:
            return self
        record, changes = self.record, {name: change * factor for name, change in self.changes.items()}
        if record is not None:
            response = record.response and record.response * abs(factor)
            record = replace(record, loss_after=None, response=response)
        return replace(self, changes=changes, record=record)

    __rmul__ = __mul__

    def __neg__(self) -> "Edit":
        return self * -1.0

    def __add__(self, other: "Edit") -> "Edit":
        """Add two edits of one model; `ValueError` for those of two, and for one that was made on top of others."""
        if not isinstance(other, Edit):
            return NotImplemented
        if (other.fingerprint, other.on_top_of) != (self.fingerprint, self.on_top_of):
            raise ValueError(
                f"edits of two models (fingerprints {self.fingerprint[:12]}… and {other.fingerprint[:12]}…) or one on "
                "top of others: expected two of one model; one on top of others is applied after them"
            )
        both = {n: c + other.changes[n] if n in other.changes else c for n, c in self.changes.items()}
        return Edit({**other.changes, **both}, self.fingerprint, on_top_of=self.on_top_of)

    def check_fits(self, model: nn.Module) -> None:
        """Raise `ValueError` unless `model` is the one the edit was made for, whatever else is applied to it now."""
        model = unwrapped(model)
        parameters, kind = dict(model.named_parameters(remove_duplicate=False)), type(model).__name__
        for name, change in self.changes.items():
            shape, here = tuple(change.delta().shape), tuple(parameters[name].shape) if name in parameters else "none"
            if shape != here:
                raise ValueError(f"the edit changes {name!r} of shape {shape}, this {kind} has {here}: another model")
        found = unedited_fingerprint(model)
        if found != self.fingerprint:
            raise ValueError(
                f"the edit was made for a model with fingerprint {self.fingerprint[:12]}…, this {kind} has "
                f"{found[:12]}…: same layers, other weights; edit this model anew"
            )
        if missing := set(self.on_top_of) - {edit.digest for edit in applied_edits(model)}:
            raise ValueError(
                f"{self} was made on top of {len(self.on_top_of)} edits, {len(missing)} of which are not applied to "
                f"this {kind}: apply them first"
            )

    def apply_(self, model: nn.Module) -> "Edit":
        """Add the edit to the weights of a classifier or model, in place, where it fits; several can be applied."""
        self.check_fits(model)
        _apply(unwrapped(model), (*applied_edits(model), self))
        return self

    def undo_(self, model: nn.Module) -> "Edit":
        """Take the edit back, bit for bit, whatever else is applied; `ValueError` when it is not applied."""
        edits = applied_edits(model)
        places = [place for place, edit in enumerate(edits) if edit is self or edit.digest == self.digest]
        if not places:
            found = type(unwrapped(model)).__name__
            raise ValueError(f"{self} is not applied to this {found}: nothing to undo, see applied_edits(model)")
        _apply(unwrapped(model), edits[: places[-1]] + edits[places[-1] + 1 :])
        return self

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Apply the edit for the length of a `with` block; the weights are as before afterwards, bit for bit."""
        self.apply_(model)
        try:
            yield model
        finally:
            if applied_edits(model):  # else the weights of before were loaded meanwhile
                self.undo_(model)

    def edited(self, classifier: Classifier) -> Classifier:
        """Copy a classifier and apply the edit to the copy."""
        copied = copy.deepcopy(classifier)
        self.apply_(copied)
        return copied

    @torch.no_grad()
    def firing_map(self, classifier: Classifier, images: Tensor) -> Tensor:
        """Show where in one image or `(B, 3, H, W)` the edited key would fire: `(H, W)` or `(B, H, W)`.

        It is the root mean square, over channels, of what the edit adds to its first layer's output: 1 as at the mask.
        """
        if images.ndim == 3:
            return self.firing_map(classifier, images[None])[0]
        cut, change = Cut(classifier, self.layers[0], images.shape[2:]), self.changes[f"{self.layers[0]}.weight"]
        moved = change.added(cut, cut.keys(cut.prefix(images))).square().mean(dim=cut.channels).sqrt()
        usual = self.record.response if self.record else None
        if not usual or not usual > 0:  # NaN in files of 0.2 is unknown
            usual = moved.flatten(1).amax(dim=1).clamp_min(1e-12).view(-1, *[1] * (moved.ndim - 1))
        return cut.to_image(moved / usual).cpu()

    def save(self, path: str | PathLike) -> None:
        """Write the edit as a safetensors file, in one step."""
        record = asdict(self.record) if self.record else None
        about = {"changes": list(self.changes), "record": record, "on_top_of": self.on_top_of}
        header = {name: json.dumps(value) for name, value in about.items()}
        header |= {"format": _FORMAT, "fingerprint": self.fingerprint}
        with atomic_path(path) as temporary:
            save_file({n: t.detach().cpu().contiguous() for n, t in _factors(self.changes).items()}, temporary, header)

    @classmethod
    def load(cls, path: str | PathLike, model: nn.Module | None = None) -> "Edit":
        """Read an edit; raise `ValueError` for another file or NaN, and with `model` at once where `apply_` would."""
        try:
            with safe_open(path, "pt") as file:
                header, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if header.get("format") != _FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, expected {_FORMAT!r}")
            if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("it holds NaN, infinite or whole numbers")
            names = json.loads(header["changes"] if "changes" in header else header["numbers"])
            changes = {n: Change(tensors[f"{n}/left"], tensors.get(f"{n}/right")) for n in names}
            known = json.loads(header["record"])
            if known and "changes" not in header:  # until 0.2
                known["response"] = next(iter(names.values()))[1]
            record = Record(**{field.name: known[field.name] for field in fields(Record)}) if known else None
            edit = cls(changes, header["fingerprint"], record, tuple(json.loads(header.get("on_top_of", "[]"))))
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{fspath(path)!r} is no edit saved by edittools: {error}") from error
        if model is not None:
            edit.check_fits(model)
        return edit


def _factors(changes: Mapping[str, Change]) -> dict[str, Tensor]:
    factors = {f"{n}/{side}": getattr(c, side) for n, c in changes.items() for side in ("left", "right")}
    return {name: factor for name, factor in factors.items() if factor is not None}


def edit_of(cut: Cut, changes: Mapping[str, Change], record: Record | None = None) -> Edit:
    """Make an edit of the model that is cut, as it is now: on top of the edits that are applied to it."""
    return Edit(changes, unedited_fingerprint(cut.model), record, tuple(e.digest for e in applied_edits(cut.model)))


def applied_edits(model: nn.Module) -> tuple[Edit, ...]:
    """List the edits that are applied to a classifier or model now, oldest first.

    Raises `ValueError` when something else changed the edited parameters meanwhile.
    """
    return _ledger(unwrapped(model))[0]


def check_same_before(cut: Cut, applied: Iterable[Edit], what: str) -> None:
    """Refuse what was run up to a layer while other edits of the steps before it were applied than are now."""
    earlier = {id(parameter) for parameter in cut.state_parameters.values()}
    for edit in {*applied} ^ {*applied_edits(cut.model)}:
        for name in edit.changes:
            if id(unwrapped(cut.model).get_parameter(name)) in earlier:
                changed = f"{edit} was applied or undone, which changes {name.rpartition('.')[0]!r}"
                raise ValueError(f"{what} at {cut.layer!r} before {changed}: do it again")


def unedited_fingerprint(model: nn.Module) -> str:
    """Compute the `fingerprint` that a model has without the edits applied to it now; raise as `applied_edits` does."""
    model = unwrapped(model)
    tensors = (*model.parameters(), *model.buffers())  # marked so that each change shows, also by way of `.data`
    marks = [(id(t), t._version, float(t.detach().sum(dtype=torch.float64))) for t in tensors]
    if _HASHED.get(model, ([], ""))[0] != marks:  # hashing takes longer than a solve
        base = {id(model.get_parameter(name)): weight for name, weight in _ledger(model)[1].items()}
        shared = model.named_parameters(remove_duplicate=False)  # a weight of two layers has two names
        _HASHED[model] = marks, fingerprint(model, {name: base[id(p)].to(p) for name, p in shared if id(p) in base})
    return _HASHED[model][1]


def _ledger(model: nn.Module) -> tuple[tuple[Edit, ...], dict[str, Tensor]]:
    """Give the edits applied to a model, in order, and the originals of what they change; none once those are back."""
    edits, base = vars(model).get(_LEDGER, ((), {}))
    changed = [name for name, weight in base.items() if not _holds(model, name, _edited(name, weight, edits))]
    if not changed:
        return edits, base
    if all(_holds(model, name, weight) for name, weight in base.items()):
        object.__delattr__(model, _LEDGER)
        return (), {}
    raise ValueError(
        f"{changed[0]!r} was changed by something else while an edit was applied to it: undoing would lose that. "
        "Undo edits before training, before loading other weights and before rounding (.half().float()); to go on, "
        "load the weights of before the edit, or make the model anew"
    )


def _edited(name: str, weight: Tensor, edits: Iterable[Edit]) -> Tensor:
    """Add the changes of `edits`, in order, to the original of a parameter."""
    for edit in edits:
        weight = weight + edit.changes[name].delta().to(weight) if name in edit.changes else weight
    return weight


def _holds(model: nn.Module, name: str, weight: Tensor) -> bool:
    """Tell whether a parameter has a value, in the precision and at the place that the parameter has now."""
    parameter = model.get_parameter(name)
    weight = weight.to(parameter)
    return parameter.shape == weight.shape and torch.allclose(parameter, weight, rtol=0, atol=0, equal_nan=True)


def _apply(model: nn.Module, edits: tuple[Edit, ...]) -> None:
    """Apply these edits and no others; an interrupt half-way leaves the fewer of them and those of before."""
    before, base = _ledger(model)
    new = {name for edit in edits for name in edit.changes if name not in base}
    base = base | {name: model.get_parameter(name).detach().clone() for name in new}
    try:
        _write(model, base, edits)
    except BaseException:
        _write(model, base, min(before, edits, key=len))
        raise


@torch.no_grad()
def _write(model: nn.Module, base: Mapping[str, Tensor], edits: tuple[Edit, ...]) -> None:
    """Set parameters to their originals plus the changes of `edits`, and note what is applied."""
    for name, weight in base.items():
        model.get_parameter(name).copy_(_edited(name, weight, edits))
    still = {name: weight for name, weight in base.items() if any(name in edit.changes for edit in edits)}
    vars(model).pop(_LEDGER, None)
    if edits:
        object.__setattr__(model, _LEDGER, (edits, still))
