"""The ledger of a model: the edits that are applied to it, and the weights below each of them.

The ledger is kept with the model and survives copies, pickling and `.to(...)`. It holds the original values of the
parameters that edits have changed, so the weights below any applied edit can be computed, bit for bit.

The weights themselves tell which of the noted edits are applied: all, the first few, or none. One call, which Ctrl-C
does not interrupt, writes all parameters, and meanwhile both lists of edits are noted, those before and those after.

One lock per model guards the ledger and the weights, so several threads can apply edits to one model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edittools._inference import lock_of
from edittools.classifiers import fingerprint, normalization_of, unwrapped

ATTRIBUTE = "_edittools_applied"
"""The name under which a model keeps its applied edits and the originals of the parameters that they change.

While parameters are written, the edits that are then applied come third.
"""


class AppliedEdit(Protocol):
    """What the ledger needs to know of an edit: its digest, and the change of each parameter, with a method `delta`."""

    @property
    def digest(self) -> str:
        """Identifies the edit."""

    @property
    def changes(self) -> Mapping[str, Any]:
        """The change of each parameter, by the parameter's name."""


@dataclass
class Ledger:
    """The edits that are applied to a model; it is valid while the model's lock is held, see `ledger_of`.

    Attributes:
        model: the bare model.
        edits: the applied edits, oldest first.
        originals: by name, the values of the changed parameters before any edit; of a parameter that has several names,
            one is used.
    """

    model: nn.Module
    edits: tuple[AppliedEdit, ...] = ()
    originals: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def replace_edits(self, edits: Sequence[AppliedEdit]) -> None:
        """Apply these edits and no others."""
        after = tuple(edits)
        with_original = {id(self.model.get_parameter(name)) for name in self.originals}
        for edit in after:
            for name in edit.changes:
                parameter = self.model.get_parameter(name)
                if id(parameter) not in with_original:
                    with_original.add(id(parameter))
                    self.originals[name] = parameter.detach().clone()
        changes = _changes_of_each(self.model, self.originals, after)
        parameters: list[Tensor] = [self.model.get_parameter(name) for name in self.originals]
        values = [_changed(original, changes[name]) for name, original in self.originals.items()]
        object.__setattr__(self.model, ATTRIBUTE, (self.edits, self.originals, after))
        torch._foreach_copy_(parameters, values)
        self.edits = after
        self.note()

    def note(self) -> None:
        """Note the edits in the model, with the originals of the parameters that they change."""
        changes = _changes_of_each(self.model, self.originals, self.edits)
        self.originals = {name: original for name, original in self.originals.items() if changes[name]}
        if self.edits:
            object.__setattr__(self.model, ATTRIBUTE, (self.edits, self.originals))
        else:
            vars(self.model).pop(ATTRIBUTE, None)

    def fingerprints(self) -> Iterator[str]:
        """Yield the fingerprint of the present weights, then those of the weights below each edit, the first one first.

        An edit fits the model if its own fingerprint is among them.
        """
        yield fingerprint(self.model)
        for count in range(len(self.edits)):
            yield fingerprint(self.model, self._values_below(count))

    def changed_parameter(self) -> str | None:
        """Name a parameter that is gone, or no longer has the value that the edits gave it; None if each has."""
        changed_by_edits = [name for edit in self.edits for name in edit.changes]
        for name in [*self.originals, *changed_by_edits]:
            if not _has_parameter(self.model, name):
                return name
        changes = _changes_of_each(self.model, self.originals, self.edits)
        for name, original in self.originals.items():
            if not _holds(self.model, name, _changed(original, changes[name])):
                return name
        return None

    def _values_below(self, count: int) -> dict[str, Tensor]:
        """Compute the values of all changed parameters with the first `count` edits alone.

        They have their names in `state_dict`, and the precision and the device that the model has now.
        """
        changes = _changes_of_each(self.model, self.originals, self.edits[:count])
        by_parameter = {}
        for name, original in self.originals.items():
            parameter = self.model.get_parameter(name)
            by_parameter[id(parameter)] = _changed(original, changes[name]).to(parameter)
        named = self.model.state_dict(keep_vars=True)
        return {name: by_parameter[id(tensor)] for name, tensor in named.items() if id(tensor) in by_parameter}


@contextmanager
def locked(model: nn.Module) -> Iterator[nn.Module]:
    """Hold the lock of a model's weights and ledger; yield the bare model."""
    model = unwrapped(model)
    with lock_of(model):
        yield model


@contextmanager
def ledger_of(model: nn.Module) -> Iterator[Ledger]:
    """Hold the lock of a model, and yield its ledger.

    The edits in it are those that the weights show: all that were noted, or fewer if the weights below an edit were
    loaded into the model, or if Ctrl-C came while they were written.

    Raises:
        ValueError: if something else than an edit has changed a parameter that an edit changes.
    """
    with locked(model) as bare:
        edits, originals, *others = vars(bare).get(ATTRIBUTE, ((), {}))
        first_edits = [edits[:count] for count in range(len(edits), -1, -1)]
        ledgers = [Ledger(bare, shown, dict(originals)) for shown in (*first_edits, *others)]
        ledger = next((ledger for ledger in ledgers if ledger.changed_parameter() is None), None)
        if ledger is None:
            changed = ledgers[0].changed_parameter()
            raise ValueError(
                f"{changed!r} was changed by something else while an edit was applied to it, and undoing the edit "
                "would lose that change. Undo edits before training, loading other weights or rounding "
                "(.half().float()); to go on, load the weights from before the edit, or create the model again"
            )
        ledger.note()
        yield ledger


class Weights(dict[str, Tensor]):
    """A copy of a model's parameters and buffers, by name, as they were at one moment, applied edits included.

    What is computed with a copy does not depend on what happens to the model afterwards.

    Attributes:
        edits: the edits that were applied.
        normalization: the normalization of the classifier, see `normalization_of`.
        fingerprints: the `fingerprint` of these weights, then those of the weights below each applied edit.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the weights of a model.

        Args:
            model: a `Classifier`, a bare model, or a wrapper around one.
        """
        with ledger_of(model) as ledger:
            tensors = dict(ledger.model.named_parameters()) | dict(ledger.model.named_buffers())
            super().__init__({name: tensor.detach().clone() for name, tensor in tensors.items()})
            self.edits = ledger.edits
            self.normalization = normalization_of(model)
            self.fingerprints = tuple(ledger.fingerprints())

    @property
    def fingerprint(self) -> str:
        """The `fingerprint` of these weights, by which an edit of them recognizes its model."""
        return self.fingerprints[0]


def _changes_of_each(model: nn.Module, originals: Iterable[str], edits: Iterable[AppliedEdit]) -> dict[str, list[Any]]:
    """List the changes of each parameter in the ledger, in order; an edit may use any name of a shared parameter."""
    names = {id(model.get_parameter(name)): name for name in originals}
    changes: dict[str, list[Any]] = {name: [] for name in originals}
    for edit in edits:
        for name, change in edit.changes.items():
            changes[names[id(model.get_parameter(name))]].append(change)
    return changes


def _changed(original: Tensor, changes: Iterable[Any]) -> Tensor:
    """Add changes, in order, to the original of a parameter."""
    weight = original
    for change in changes:
        weight = weight + change.delta().to(weight)
    return weight


def _has_parameter(model: nn.Module, name: str) -> bool:
    """Tell whether a model has a parameter of a name; not if the module of a layer was replaced."""
    try:
        model.get_parameter(name)
    except AttributeError:
        return False
    return True


def _holds(model: nn.Module, name: str, weight: Tensor) -> bool:
    """Tell whether a parameter has a value, in the precision and on the device that the parameter has now."""
    if not _has_parameter(model, name):
        return False
    parameter = model.get_parameter(name)
    weight = weight.to(parameter)
    if torch.equal(parameter, weight):  # much faster, but False where both are NaN
        return True
    return parameter.shape == weight.shape and torch.allclose(parameter, weight, rtol=0, atol=0, equal_nan=True)
