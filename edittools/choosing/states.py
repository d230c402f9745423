"""Cached states: images run up to several layers once, and one more edit costs what follows its layer.

cuts, states = cache_states(classifier, layers, test=data)
states["test"].compare(edit)
report({"edit": edit}, states)
"""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor

from edittools.baselines.finetuning import forward
from edittools.checks import check_amount
from edittools.classifiers import Classifier, by_name, marks_of, unwrapped
from edittools.cut import Cut, State, cut_all, prefixes, states_at
from edittools.edits import Edit, added, applied_edits, unedited_fingerprint
from edittools.images import LabelledImages, digest_tensors, in_batches, positions
from edittools.metrics import Comparison, errors


class CachedStates:
    """Labelled images kept as their states at several layers, so that an edit is evaluated from its layer on.

    Edits that are applied to the model meanwhile are part of the states. When others are applied later, only layers
    before them can still be evaluated; beyond, `ValueError` is raised, as it is when anything else (training, loading
    weights) has changed a parameter or buffer in place or replaced it. `order` says which of the images given each is.
    """

    def __init__(
        self, cuts: Mapping[str, Cut], data: LabelledImages, batch_size: int = 64, progress: bool = False
    ) -> None:
        """Run all images once; `cuts` come from one `cut_all`, in the network's order."""
        if not cuts:
            raise ValueError("images kept at no layer: expected at least one cut, see cache_states")
        if not len(data):
            raise ValueError("no images to keep: expected at least one")
        self._classifier = next(iter(cuts.values())).classifier
        data = by_name("images to keep", data, self._classifier)
        self.cuts, self.labels, self._one = cuts, data.labels, data.images[:1]
        self.order = torch.arange(len(data))
        self._applied, self._versions = applied_edits(self._classifier), _marks(self._classifier)
        self._fingerprints = _fingerprints(self._classifier)
        self.states = self._run(data, batch_size, progress)
        self._outputs: dict[str, tuple[tuple[int, ...], list[Tensor]]] = {}
        self.original = self.logits()
        self.before = errors(self.original, self.labels)

    def _run(self, data: LabelledImages, batch_size: int, progress: bool) -> dict[str, Iterable[State]]:
        """By layer the states of all images, a batch at a time."""
        return states_at(self.cuts, data, batch_size, progress)

    def subset(self, chosen: Tensor, batch_size: int = 64) -> "CachedStates":
        """Keep the images at `chosen` (integers `(n,)`, or one boolean each), in that order, as they were run."""
        chosen = torch.tensor(positions(chosen, len(self.labels)), dtype=torch.long)
        states = {layer: self._pick(layer, chosen, batch_size) for layer in self.cuts}
        part = copy.copy(self)
        part.labels, part.original, part.before = self.labels[chosen], self.original[chosen], self.before[chosen]
        part.states, part._outputs, part.order = states, {}, self.order[chosen]
        return part

    def fragile_first(self) -> "CachedStates":
        """Order the images by how nearly they are misread, so that `accuracy_change` is soon sure of a costly edit."""
        own = self.original.gather(1, self.labels[:, None])[:, 0]
        best = self.original.scatter(1, self.labels[:, None], float("-inf")).max(dim=1).values
        return self.subset((own - best).argsort(stable=True))

    def batches(self, layer: str, size: int = 16) -> list[tuple[State, Tensor]]:
        """The states at a layer with the original log-probabilities: what `finetune` takes as a reference."""
        self._check_states(layer)
        states = self._pick(layer, torch.arange(len(self.labels)), size)
        parts = self.original.log_softmax(dim=1).to(self.cuts[layer].classifier.device).split(size)
        return list(zip(states, parts, strict=True))

    def logits(self, edit: Edit | None = None) -> Tensor:
        """The logits `(N, classes)` with `edit` applied, from the first layer that it changes on.

        For an edit of one layer's weight, that layer's unedited output is kept as well, and only what the edit adds to
        it is computed. Raises `KeyError` for an edit of no layer that is kept, and `ValueError` for one of another
        model, one that also changes a layer before those that are kept, and states that are no longer the model's.
        """
        return torch.cat(list(self._parts(edit)))

    def _pick(self, layer: str, chosen: Tensor, batch_size: int) -> Iterable[State]:
        """Take the images at `chosen` out of the batches kept at a layer."""
        states = self.states[layer]
        axes, parts = self.cuts[layer].image_axes(states[0]), zip(*(state.alive for state in states), strict=True)
        whole = [(torch.cat(part, axis), axis) for part, axis in zip(parts, axes, strict=True)]
        return [
            State(tuple(part.index_select(axis, some.to(part.device)) for part, axis in whole), states[0].size)
            for some in chosen.split(batch_size)
        ]

    def _check_states(self, start: str) -> None:
        """Refuse states at a layer before which the model is no longer the same, or that edits alone do not explain."""
        if (versions := _marks(self._classifier)) != self._versions:
            if _fingerprints(self._classifier) != self._fingerprints:
                raise ValueError(
                    f"weights or buffers of the {type(self.cuts[start].model).__name__} were changed, by something "
                    "else than an edit, since the images were kept: keep them again"
                )
            self._versions = versions
        others = set(applied_edits(self._classifier)) ^ set(self._applied)
        model, earlier = unwrapped(self.cuts[start].model), _in_states(self.cuts[start]) if others else set()
        for edit, name in [(other, name) for other in others for name in other.changes]:
            if id(model.get_parameter(name)) in earlier:
                raise ValueError(
                    f"the images were kept at {start!r} before {edit} was applied or undone, which changes "
                    f"{name.rpartition('.')[0]!r}: keep them again"
                )

    @torch.no_grad()
    def _parts(self, edit: Edit | None) -> Iterator[Tensor]:
        """The logits batch by batch."""
        layers = list(self.cuts)
        if edit is None:
            self._check_states(layers[-1])
            yield from (self.cuts[layers[-1]].suffix(state).cpu() for state in self.states[layers[-1]])
            return
        start = next((layer for layer in layers if layer in edit.layers), None)
        if start is None:
            raise KeyError(f"{edit} changes none of the layers kept here: {', '.join(layers)}")
        self._check_states(start)
        cut, change = self.cuts[start], edit.changes.get(f"{start}.weight")
        if edit.fingerprint != self._fingerprints[0]:
            edit.check_fits(self._classifier)
        edit.check_beneath(self._classifier)
        if change is None or len(edit.changes) > 1:
            _check_behind(cut, edit)
            parameters = {n: (p := cut.model.get_parameter(n)) + c.delta().to(p) for n, c in edit.changes.items()}
            yield from (forward(cut, state, parameters).cpu() for state in self.states[start])
            return
        pairs = self._unedited(start)
        yield from (cut.logits(s, output + added(cut, cut.keys(s), change)).cpu() for s, output in pairs)

    def _unedited(self, layer: str) -> Iterable[tuple[State, Tensor]]:
        """The states with what the layer makes of their keys with the weight and bias that it has now."""
        cut = self.cuts[layer]
        version = tuple(p._version for p in (cut.weight, cut.bias) if p is not None)
        if self._outputs.get(layer, (None,))[0] != version:
            self._outputs[layer] = version, [cut.output(state) for state in self.states[layer]]
        return zip(self.states[layer], self._outputs[layer][1], strict=True)

    def compare(self, edit: Edit) -> Comparison:
        """Which images are misclassified before and after an edit."""
        return Comparison(self.before, errors(self.logits(edit), self.labels))

    def sparing(self, edit: Edit, most: int) -> Comparison | None:
        """Compare as `compare` does; None as soon as the edit has broken more than `most` of these images."""
        after, broken, start = [], 0, 0
        with closing(self._parts(edit)) as parts:
            for logits in parts:
                here = slice(start, start := start + len(logits))
                after.append(errors(logits, self.labels[here]))
                broken += int((after[-1] & ~self.before[here]).sum())
                if broken > most:
                    return None
        return Comparison(self.before, torch.cat(after))

    def within(self, edit: Edit, budget: float) -> Comparison | None:
        """Compare as `compare` does; None as soon as the edit is sure to cost more than `budget` points of accuracy."""
        after, gained, mendable, start = [], 0, int(self.before.sum()), 0
        with closing(self._parts(edit)) as parts:
            for logits in parts:
                here = slice(start, start := start + len(logits))
                after.append(errors(logits, self.labels[here]))
                wrong = int(self.before[here].sum())
                gained += wrong - int(after[-1].sum())
                mendable -= wrong
                if 100 * (gained + mendable) / len(self.labels) < -budget:
                    return None
        return Comparison(self.before, torch.cat(after))


class _Batches:
    """The states of images at a layer, made anew whenever they are gone through."""

    def __init__(self, cut: Cut, data: LabelledImages, size: int, progress: bool = False) -> None:
        self.cut, self.data, self.size, self.progress = cut, data, size, progress

    def __iter__(self) -> Iterator[State]:
        return (self.cut.prefix(some) for some in in_batches(self.data, self.size, "states", self.progress))


class FreshStates(CachedStates):
    """Labelled images that are run from the start for each edit: slower, and no state stays in memory."""

    def _run(self, data: LabelledImages, batch_size: int, progress: bool) -> dict[str, Iterable[State]]:
        self._data = data
        return {layer: _Batches(cut, data, batch_size, progress) for layer, cut in self.cuts.items()}

    def subset(self, chosen: Tensor, batch_size: int = 64) -> "CachedStates":
        """Keep the images at `chosen`, in that order, see `CachedStates.subset`."""
        part = super().subset(chosen, batch_size)
        part._data = self._data.subset(positions(chosen, len(self.labels)))
        return part

    def _pick(self, layer: str, chosen: Tensor, batch_size: int) -> Iterable[State]:
        return _Batches(self.cuts[layer], self._data.subset(chosen), batch_size)

    def _unedited(self, layer: str) -> Iterable[tuple[State, Tensor]]:
        return ((state, self.cuts[layer].output(state)) for state in self.states[layer])


def _marks(classifier: Classifier) -> list[tuple[int, int, float]]:
    return marks_of((*classifier.parameters(), *classifier.buffers()))


def _fingerprints(classifier: Classifier) -> tuple[str, str]:
    """Hash the weights without the edits applied now, and all buffers, also those that are not saved with weights."""
    return unedited_fingerprint(classifier), digest_tensors(classifier.buffers())


def _in_states(cut: Cut) -> set[int]:
    """The `id` of each parameter on which the states at a cut depend: of what runs before the layer or beside it."""
    return {id(parameter) for parameter in cut.state_parameters.values()}


def _check_behind(cut: Cut, edit: Edit) -> None:
    """Refuse an edit of what comes before a cut, or beside it, and is in its states already."""
    later = cut.later_parameters
    for name in edit.changes:
        if name not in later and name.rpartition(".")[0] != cut.layer:
            raise ValueError(
                f"{edit} also changes {name!r}, which is not behind {cut.layer!r}, the first of its layers kept here: "
                f"keep the images at {name.rpartition('.')[0]!r} as well"
            )


def cache_states(
    classifier: Classifier,
    layers: Sequence[str],
    progress: bool = False,
    most_gb: float | None = None,
    cuts: Mapping[str, Cut] | None = None,
    **data: LabelledImages,
) -> tuple[Mapping[str, Cut], dict[str, CachedStates]]:
    """Cut a classifier at `layers` and keep each named set of images at them: `(cuts, {name: CachedStates})`.

    `cuts` at these layers may be given where they are known. Name those first that are read most often: what does not
    fit into `most_gb` GB of memory is run from the start for each edit, see `FreshStates`. The default is
    `memory_for_states`.
    """
    cuts, states = cuts or cut_all(classifier, layers), {}
    left = 1e9 * (memory_for_states(classifier.device) if most_gb is None else most_gb)
    for name, images in data.items():
        needed = len(images) * bytes_of_states(cuts, images.images[:1]) if len(images) else 0
        kind = CachedStates if needed <= left else FreshStates
        states[name] = kind(cuts, images, progress=progress)
        left -= needed if kind is CachedStates else 0
    return cuts, states


@torch.no_grad()
def bytes_of_states(cuts: Mapping[str, Cut], image: Tensor) -> int:
    """How many bytes it takes to keep an image `(1, 3, H, W)` at all cuts, with what each layer makes of it."""
    states = prefixes(list(cuts.values()), image)
    kept = [part for state in states for part in state.alive if isinstance(part, Tensor)]
    outputs = [cut.output(state) for cut, state in zip(cuts.values(), states, strict=True)]
    return sum({part.data_ptr(): part.nbytes for part in (*kept, *outputs)}.values())


def memory_for_states(device: torch.device) -> float:
    """How many GB states may take: what `EDITTOOLS_MEMORY` says, else half of what the machine or the device has."""
    if said := os.environ.get("EDITTOOLS_MEMORY"):
        return check_amount(float(said) if said.replace(".", "", 1).isdigit() else said, "EDITTOOLS_MEMORY", 0)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2e9
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2e9
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 8.0
