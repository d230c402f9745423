"""An edit is a value: a change of weights that can be applied, undone, scaled, added, saved and loaded.

with edit.applied(classifier): ...      # undone at the end, bit for bit, also after an exception
edit.apply_(classifier); edit.undo_(classifier)
0.5 * edit;  -edit;  edit + other
edit.save("snow.safetensors");  Edit.load("snow.safetensors", classifier)
"""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import nan
from os import PathLike, fspath

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.checks import check_amount
from edittools.classifiers import Classifier, fingerprint, marks_of, unwrapped
from edittools.cut import Cut
from edittools.images import atomic_path, check_image, digest_tensors

_FORMAT = "edittools edit 1"
_LEDGER = "_edittools_applied"


@dataclass(frozen=True)
class Record:
    """How an edit was found: its objective before and after, the optimiser's steps that were taken, and seconds.

    `converged`: more steps would hardly lower the loss, which does not say that the edit is good. `reference_movement`
    says how far outputs move on reference keys, as a share of how far they move at the exemplar's mask (root mean
    squares); `weight_change` is |ΔW|. None where nobody looked, as at the loss of an edit that was scaled.
    """

    objective: str
    loss_before: float
    loss_after: float | None
    steps: int
    seconds: float
    converged: bool | None = None
    reference_movement: float | None = None
    weight_change: float | None = None

    @property
    def share_left(self) -> float | None:
        """The share of the loss that is left, 0 where there was none; None where it is not known."""
        if self.loss_after is None:
            return None
        return self.loss_after / self.loss_before if self.loss_before else 0.0

    def __mul__(self, factor: float) -> "Record":
        """What is known of the edit times `factor`: all where that is 1, else not what loss is left."""
        if factor == 1:
            return self
        size = None if self.weight_change is None else self.weight_change * abs(factor)
        return replace(self, loss_after=None, converged=None, weight_change=size)


@dataclass(frozen=True)
class Change:
    """The change of one parameter: `left` in full, or Λ Dᵀ: `left` Λ `(out, rank, kh, kw)`, `right` D `(rank, in)`.

    `leverage` says how far the exemplar's keys lie outside the span of the reference keys (1: as usual as those),
    `response` how far the change moves the layer's output at the exemplar's mask (root mean square over channels).

    Of a sum, `leverage` is the higher one, and `response` the highest response of a part times how much of that part
    is in the sum (the sum projected on it): e + e has twice that of e, e - e none.
    """

    left: Tensor
    right: Tensor | None = None
    leverage: float = nan
    response: float = nan

    def __post_init__(self) -> None:
        left, right = tuple(self.left.shape), () if self.right is None else tuple(self.right.shape)
        if self.right is not None and (len(left) < 2 or len(right) != 2 or left[1] != right[0]):
            raise ValueError(f"factors of shapes {left} and {right}: expected (out, rank, …) and (rank, in)")

    def delta(self) -> Tensor:
        """The change as one tensor of the parameter's shape."""
        return self.left if self.right is None else torch.einsum("or...,rn->on...", self.left, self.right)

    def __mul__(self, factor: float) -> "Change":
        if factor == 0:  # also of what is not finite
            return replace(self, left=torch.zeros_like(self.left), response=0.0)
        return replace(self, left=self.left * factor, response=self.response * abs(factor))

    def __add__(self, other: "Change") -> "Change":
        left, right = self.delta(), other.delta()
        leverage = float(np.fmax(self.leverage, other.leverage))  # NaN, of a fine-tuning, counts as unknown
        parts = ((self.response, left), (other.response, right))
        response = float(np.fmax.reduce([known * _share(left + right, part) for known, part in parts]))
        if self.right is None or other.right is None:
            return Change(left + right, None, leverage, response)
        return Change(torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right]), leverage, response)


def _share(total: Tensor, part: Tensor) -> float:
    """How much of a change is in a sum of it and others: 1 where the others have nothing in common with it."""
    total, part = total.flatten().double(), part.flatten().double()
    return float((total @ part).abs() / (part @ part)) if part.any() else 0.0


@dataclass
class _Ledger:
    """What is applied to a model: the original parameters, the edits in order, and the parameters with the edits.

    It goes with a model that is copied or pickled. One that was moved or converted since is set in its own precision.
    """

    base: dict[str, Tensor] = field(default_factory=dict)
    edits: list["Edit"] = field(default_factory=list)
    edited: dict[str, Tensor] = field(default_factory=dict)


def applied_edits(model: nn.Module) -> tuple["Edit", ...]:
    """The edits that are applied to a classifier or model now, oldest first."""
    ledger = _ledger(unwrapped(model))
    return tuple(ledger.edits) if ledger else ()


def unedited_fingerprint(model: nn.Module) -> str:
    """The `fingerprint` that a model has without the edits applied to it now.

    Raises `ValueError` when something else changed the edited parameters meanwhile.
    """
    model = unwrapped(model)
    ledger = _ledger(model)
    if ledger is None:
        return fingerprint(model)
    _check_untouched(model, ledger)
    names = {id(model.get_parameter(name)): name for name in ledger.base}
    shared = model.named_parameters(remove_duplicate=False)  # a weight of two layers has two names
    return fingerprint(model, {name: ledger.base[names[id(p)]].to(p) for name, p in shared if id(p) in names})


def edit_of(cut: Cut, changes: Mapping[str, Change], record: Record | None = None) -> "Edit":
    """An edit of the model that is cut, as it is now: on top of the edits that are applied to it."""
    marks = marks_of((*cut.model.parameters(), *cut.model.buffers()))
    if cut.known[0] != marks:  # hashing takes longer than a solve
        cut.known = marks, unedited_fingerprint(cut.model)
    return Edit(changes, cut.known[1], record, tuple(e.digest for e in applied_edits(cut.model)))


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's weights. `changes` goes by parameter name; `fingerprint` is of the unedited model.

    One that was made while others are applied is meant on top of them: `on_top_of` holds their digests, and where they
    are not applied it is refused. Apply it there, or add them up (`edit + other`): `added` are digests of the parts.
    An applied edit goes with its model into a copy or a pickle, and through `.to(…)`: it can be undone there as well.
    """

    changes: Mapping[str, Change]
    fingerprint: str
    record: Record | None = None
    on_top_of: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.changes:
            raise ValueError("an edit with no change: expected at least one parameter, {'layer.weight': Change(…)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """Name the layers whose parameters it changes."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.changes))

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of what it changes, by which edits made on top of it know it."""
        factors = [(f"{n}/{side}", t) for n, c in self.changes.items() for side, t in (("l", c.left), ("r", c.right))]
        names, tensors = zip(*[(name, t) for name, t in factors if t is not None], strict=True)
        return digest_tensors(tensors, names)

    @property
    def leverage(self) -> float:
        """How far the edited keys lie outside the span of the reference keys; 1 means as usual as those."""
        return float(np.fmax.reduce([change.leverage for change in self.changes.values()]))

    def __deepcopy__(self, memo: dict) -> "Edit":
        """Give itself: a value is not copied with the model that it is applied to."""
        return self

    def _is(self, other: "Edit") -> bool:
        """Whether another edit is this one, or the same read back from a file or a pickle."""
        if self is other:
            return True
        if self.fingerprint != other.fingerprint or self.changes.keys() != other.changes.keys():
            return False
        return all(torch.equal(c.delta().cpu(), other.changes[n].delta().cpu()) for n, c in self.changes.items())

    def __repr__(self) -> str:
        ranks = [c.left.shape[1] if c.right is not None else "full" for c in self.changes.values()]
        parts = ", ".join(f"{n} (rank {r})" for n, r in zip(self.changes, ranks, strict=True))
        return f"Edit({parts if len(ranks) < 4 else f'{len(ranks)} parameters of {len(self.layers)} layers'})"

    def __mul__(self, factor: float) -> "Edit":
        """Scale the edit: 0 is none, 1 the whole, -1 its opposite; `ValueError` for what is no finite number.

        What loss a scaled edit leaves is not known: its record's `loss_after` is None.
        """
        factor = check_amount(factor, "strength")
        added = self.added if factor == 1 else ()
        changes = {name: change * factor for name, change in self.changes.items()}
        return replace(self, changes=changes, record=self.record and self.record * factor, added=added)

    __rmul__ = __mul__

    def __neg__(self) -> "Edit":
        return self * -1.0

    def __add__(self, other: "Edit") -> "Edit":
        """Add two edits of one model, of the same or of other layers; `ValueError` when their models differ."""
        if not isinstance(other, Edit):
            return NotImplemented
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"edits of two models (fingerprints {self.fingerprint[:12]}… and {other.fingerprint[:12]}…): "
                "expected two edits of one model"
            )
        both = {n: c + other.changes[n] if n in other.changes else c for n, c in self.changes.items()}
        added = (self.digest, other.digest, *self.added, *other.added)
        beneath = tuple(d for d in dict.fromkeys((*self.on_top_of, *other.on_top_of)) if d not in added)
        return Edit({**other.changes, **both}, self.fingerprint, on_top_of=beneath, added=added)

    def check_fits(self, model: nn.Module) -> None:
        """Raise `ValueError` unless `model` is the one the edit was made for (edits applied to it now do not count)."""
        model = unwrapped(model)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, change in self.changes.items():
            shape = tuple(change.delta().shape)
            if name not in parameters:
                found = type(model).__name__
                raise ValueError(f"the edit changes {name!r}, which {found} has not: made for another model")
            if shape != (here := tuple(parameters[name].shape)):
                raise ValueError(f"the edit changes {name!r} of shape {shape}, here {here}: another model")
        found = unedited_fingerprint(model)
        if found != self.fingerprint:
            raise ValueError(
                f"the edit was made for a model with fingerprint {self.fingerprint[:12]}…, this "
                f"{type(model).__name__} has {found[:12]}…: same layers, other weights; edit this model anew"
            )

    def check_beneath(self, model: nn.Module) -> None:
        """Raise `ValueError` unless the edits that it was made on top of are applied to `model`."""
        here = {digest for edit in applied_edits(model) for digest in (edit.digest, *edit.added)}
        if missing := set(self.on_top_of) - here:
            raise ValueError(
                f"{self} was made on top of {len(self.on_top_of)} edits, {len(missing)} of which are not applied to "
                f"this {type(model).__name__}: apply them first, or add them up (edit + other)"
            )

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> "Edit":
        """Add the edit to the weights of a classifier or model, in place; several can be applied. Gives itself back."""
        self.check_fits(model)
        model = unwrapped(model)
        ledger = _ledger(model) or _Ledger()
        self.check_beneath(model)
        _check_untouched(model, ledger)
        for name in self.changes:
            ledger.base.setdefault(name, model.get_parameter(name).detach().clone())
        ledger.edits.append(self)
        object.__setattr__(model, _LEDGER, ledger)
        try:
            _settle(model, ledger, self.changes)
        except BaseException:  # an interrupt half-way
            self.undo_(model)
            raise
        return self

    @torch.no_grad()
    def undo_(self, model: nn.Module) -> "Edit":
        """Take the edit back, bit for bit, whatever else is applied; `ValueError` when it is not applied.

        Where the original weights were loaded meanwhile, it is taken back already.
        """
        model = unwrapped(model)
        ledger = model.__dict__.get(_LEDGER)
        positions = [i for i, edit in enumerate(ledger.edits if ledger else ()) if self._is(edit)]
        if not positions:
            found = type(model).__name__
            raise ValueError(f"{self} is not applied to this {found}: nothing to undo, see applied_edits(model)")
        restored = _ledger(model) is None
        if not restored:
            _check_untouched(model, ledger)
        del ledger.edits[positions[-1]]
        try:
            _settle(model, ledger, {} if restored else self.changes)
        except KeyboardInterrupt:  # comes through once the weights are back
            _settle(model, ledger, {} if restored else self.changes)
            raise
        finally:
            _forget(model, ledger)
        return self

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Apply the edit for the length of a `with` block; the weights are as before afterwards, bit for bit."""
        self.apply_(model)
        try:
            yield model
        finally:
            self.undo_(model)

    def edited(self, classifier: Classifier) -> Classifier:
        """Copy a classifier and apply the edit to the copy. Weights that no applied edit changes are shared."""
        names = {name for edit in (self, *applied_edits(classifier)) for name in edit.changes}
        every = classifier.model.named_parameters(remove_duplicate=False)
        changed = {id(parameter) for name, parameter in every if name in names}
        own = [*classifier.parameters(), *classifier.buffers()]
        copied = copy.deepcopy(classifier, {id(tensor): tensor for tensor in own if id(tensor) not in changed})
        self.apply_(copied)
        return copied

    def firing_map(self, classifier: Classifier, image: Tensor, layer: str | None = None) -> Tensor:
        """Show where in an image the edited key would fire: `(H, W)`, see `firing_maps`."""
        return self.firing_maps(classifier, check_image(image)[None], layer)[0]

    @torch.no_grad()
    def firing_maps(self, classifier: Classifier, images: Tensor, layer: str | None = None) -> Tensor:
        """Show where in `(B, 3, H, W)` images the edited key would fire: `(B, H, W)`, 1 as at the exemplar's mask.

        It is the root mean square, over channels, of what the edit adds to the output of `layer` (default: the first),
        scaled up to the image. Raises `KeyError` for a layer it does not change, `ValueError` where the places of
        tokens cannot be told.
        """
        names = [name for name in self.changes if name.endswith(".weight")]
        name = f"{layer}.weight" if layer else names[0]
        if name not in self.changes:
            raise KeyError(f"the edit does not change layer {layer!r}; it changes {', '.join(self.layers)}")
        cut = Cut(classifier, name.removesuffix(".weight"), images.shape[2:])
        change = self.changes[name]
        moved = response(cut, cut.keys(cut.prefix(images)), change.delta().to(cut.weight))
        strength = cut.maps(moved, images)[:, None]
        most = strength.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        strength = strength / (change.response if change.response > 0 else most)
        return F.interpolate(strength, images.shape[2:], mode="bilinear", align_corners=False)[:, 0].cpu()

    def save(self, path: str | PathLike) -> None:
        """Write the edit as a safetensors file, in one step."""
        factors = {f"{n}/{side}": getattr(c, side) for n, c in self.changes.items() for side in ("left", "right")}
        tensors = {name: t.detach().cpu().contiguous() for name, t in factors.items() if t is not None}
        numbers = {n: [c.leverage, c.response] for n, c in self.changes.items()}
        record = json.dumps(asdict(self.record) if self.record else None)
        header = {"format": _FORMAT, "fingerprint": self.fingerprint, "numbers": json.dumps(numbers), "record": record}
        header |= {"on_top_of": json.dumps(self.on_top_of), "added": json.dumps(self.added)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, header)

    @classmethod
    def load(cls, path: str | PathLike, model: nn.Module | None = None) -> "Edit":
        """Read an edit; with `model`, raise `ValueError` at once unless it was made for it.

        Raises `FileNotFoundError`, or `ValueError` when the file is no edit or holds NaN. Nothing in it is executed.
        """
        try:
            with safe_open(path, "pt") as file:
                header, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if header.get("format") != _FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, expected {_FORMAT!r}")
            numbers, record = json.loads(header["numbers"]), json.loads(header["record"])
            pairs = {n: (tensors[f"{n}/left"], tensors.get(f"{n}/right")) for n in numbers}
            changes = {n: Change(*pair, *map(float, numbers[n])) for n, pair in pairs.items()}
            if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("it holds NaN, infinite or whole numbers")
            digests = [tuple(map(str, json.loads(header.get(name, "[]")))) for name in ("on_top_of", "added")]
            known = {name: value for name, value in (record or {}).items() if name != "kept_movement"}  # until 0.2
            edit = cls(changes, header["fingerprint"], Record(**known) if known else None, *digests)
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{fspath(path)!r} is no edit saved by edittools: {error}") from error
        if model is not None:
            edit.check_fits(model)
        return edit


def response(cut: Cut, keys: Tensor, delta: Tensor) -> Tensor:
    """How far a weight change `delta` moves the layer's output at each position, root mean square over channels.

    `(B, h, w)` of maps, `(B, N)` of tokens, see `Cut.maps`.
    """
    return cut.convolve(keys, delta).square().mean(dim=cut.channels).sqrt()


def added(cut: Cut, keys: Tensor, change: Change) -> Tensor:
    """What a change of the layer's weight adds to its output; of low rank, the keys are projected first."""
    return cut.convolve(cut.along(keys, change.right), change.left.to(cut.weight))


def _ledger(model: nn.Module) -> _Ledger | None:
    """The ledger of a model without wrapper; None as well when all its originals were loaded back."""
    ledger = model.__dict__.get(_LEDGER)
    untouched = ledger is None or all(_is_at(model, name, weight) for name, weight in ledger.edited.items())
    restored = not untouched and all(_is_at(model, name, weight) for name, weight in ledger.base.items())
    return None if restored else ledger


def _is_at(model: nn.Module, name: str, weight: Tensor) -> bool:
    """Whether a parameter has a value, in the precision and at the place that the parameter has now."""
    parameter = model.get_parameter(name)
    weight = weight.to(parameter)
    return parameter.shape == weight.shape and torch.allclose(parameter, weight, rtol=0, atol=0, equal_nan=True)


def _check_untouched(model: nn.Module, ledger: _Ledger) -> None:
    """Refuse when somebody else changed edited parameters: undoing would throw that change away."""
    for name, weight in ledger.edited.items():
        if not _is_at(model, name, weight):
            raise ValueError(
                f"{name!r} was changed by something else while an edit was applied to it: undoing would lose that. "
                "Undo edits before training, before loading other weights and before rounding (.half().float()); to go "
                "on, load the weights of before the edit, or make the model anew"
            )


def _settle(model: nn.Module, ledger: _Ledger, names: Mapping[str, Change]) -> None:
    """Set each parameter to the original plus the edits that are applied, in order."""
    for name in names:
        weight = ledger.base[name]
        changes = [edit.changes[name] for edit in ledger.edits if name in edit.changes]
        for change in changes:
            weight = weight + change.delta().to(weight)
        ledger.edited.pop(name, None)
        model.get_parameter(name).copy_(weight)
        ledger.edited[name] = weight


def _forget(model: nn.Module, ledger: _Ledger) -> None:
    """Drop the originals of parameters that no applied edit changes, and the ledger when there is none."""
    for name in set(ledger.base) - {n for edit in ledger.edits for n in edit.changes}:
        del ledger.base[name]
        ledger.edited.pop(name, None)
    if not ledger.edits:
        object.__delattr__(model, _LEDGER)
