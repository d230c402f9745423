"""Cached activations: images are run up to several layers once; one more edit costs what follows its layer."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from edittools._checks import check_amount
from edittools._ledger import Weights
from edittools._progress import Progress, bar_of
from edittools.classifiers import MOST_IMAGES, Classifier, remap_labels, usual_batch_size
from edittools.cut import Cut, State, states_at
from edittools.edits import Edit
from edittools.images import LabelledImages, pixels_of
from edittools.metrics import Comparison, misclassified


class CurrentTensors:
    """One tensor per batch, of one subject at a time, such as the outputs of a layer; asking for another discards them.

    Args:
        limit: the number of bytes that are kept.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._current: tuple[object, dict[int, Tensor]] = (None, {})

    def get(self, subject: object, batch: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of a batch of a subject, from memory or computed."""
        current_subject, tensors = self._current
        if subject != current_subject:
            tensors = {}  # another thread may still fill the former one
            self._current = (subject, tensors)
        if batch in tensors:
            return tensors[batch]
        tensor = compute()
        if sum(kept.nbytes for kept in list(tensors.values())) + tensor.nbytes <= self.limit:
            tensors[batch] = tensor
        return tensor


class StateMemory:
    """The states of several sets of images at layers, up to a number of bytes.

    What does not fit is computed again each time it is needed.

    Attributes:
        outputs: the outputs of the layer at which a set was last evaluated, without an edit.
        used: the number of bytes that the states take.

    Args:
        limit: the number of bytes of states; `outputs` take up to an eighth on top.
        layers: names of the layers whose states are kept.
    """

    def __init__(self, limit: float, layers: Collection[str]) -> None:
        self.limit = limit
        self.layers = tuple(layers)
        self.is_full = False
        self.outputs = CurrentTensors(limit / 8)
        self._states: dict[tuple[object, str, int], State] = {}
        self.used = 0
        self._lock = Lock()

    def get(self, owner: object, layer: str, batch: int) -> State | None:
        """Return the state of a batch of a set at a layer, or None if it is not kept."""
        return self._states.get((owner, layer, batch))

    def put(self, owner: object, layer: str, batch: int, state: State) -> None:
        """Keep the state of a batch of a set at a layer, if there is room."""
        size = _bytes_of(state)
        with self._lock:
            if (owner, layer, batch) in self._states:  # another thread was first
                return
            if self.used + size > self.limit:
                self.is_full = True
                return
            self._states[owner, layer, batch] = state
            self.used += size


def _bytes_of(state: State) -> int:
    return sum(tensor.nbytes for tensor in state)


class CachedActivations:
    """Labeled images cached as their states at several layers, so that an edit is evaluated from its layer on.

    Everything is computed with a copy of the weights that the classifier had when the images were cached. What happens
    to the model afterwards, such as an edit that someone applies, does not concern it.

    Attributes:
        cuts: the cut at each layer, in the network's order.
        labels: `(N,)` class indices of the classifier.
        memory: where states are kept.
        original: the logits `(N, classes)` without an edit.
        before: which images are misclassified without an edit, `(N,)` booleans.
    """

    def __init__(
        self,
        cuts: Mapping[str, Cut],
        data: LabelledImages,
        batch_size: int | None = None,
        progress: Progress | None = None,
        memory: StateMemory | None = None,
        bar: str = "images",
    ) -> None:
        """Run all images once.

        Args:
            cuts: come from one `cut_all`, in the network's order. Without a copy of the weights, one is made.
            data: the images; labels into other class names are mapped by name.
            batch_size: images per batch; by default twice the `usual_batch_size`, since what follows a layer computes
                smaller tensors.
            progress: a class like `tqdm.tqdm`, for a bar.
            memory: keeps the states; by default, those at all layers are kept, up to `memory_for_states`.
            bar: the name of the progress bar.
        """
        if not cuts:
            raise ValueError("No layer to cache images at; pass at least one cut, see cut_all")
        if not len(data):
            raise ValueError(f"{bar}: 0 images; pass at least one")
        first_cut = next(iter(cuts.values()))
        self._classifier = first_cut.classifier
        self._weights = Weights(self._classifier) if first_cut.weights is None else first_cut.weights
        self.cuts = {layer: cut.with_weights(self._weights) for layer, cut in cuts.items()}
        self._data = remap_labels("images to cache", data, self._classifier)
        self._batch_size = batch_size_of_states(self._classifier) if batch_size is None else batch_size
        self.labels = self._data.labels
        self.memory = memory or StateMemory(memory_for_states(self._classifier.device), self.cuts)
        self._owner = object()  # whose states these are, in a memory of several sets
        batches = bar_of(progress, self._parts(None), desc=bar, total=self._batch_count)
        self.original = torch.cat(list(batches))
        self.before = misclassified(self.original, self.labels)

    @property
    def _batch_count(self) -> int:
        return -(-len(self.labels) // self._batch_size)

    def logits(self, edit: Edit | None = None) -> Tensor:
        """Compute the logits `(N, classes)`; of an edit of one layer's weight, only what follows this layer.

        Args:
            edit: the edit; None for the classifier as it was cached.

        Raises:
            ValueError: for an edit of other weights, or one that changes what comes before the cached layers.
        """
        if edit is None:
            return self.original.clone()
        return torch.cat(list(self._parts(edit))).to(self.original)

    def compare(self, edit: Edit) -> Comparison:
        """Compare which images are misclassified before and with an edit."""
        return Comparison(self.before, misclassified(self.logits(edit), self.labels))

    @torch.no_grad()
    def _parts(self, edit: Edit | None) -> Iterator[Tensor]:
        """Compute the logits batch by batch."""
        layer = self._start(edit)
        cut = self.cuts[layer]
        if edit is None:
            for batch in range(self._batch_count):
                yield cut.logits(self._at(layer, batch)).cpu()
            return
        edit.check_fits_copy(self._weights, cut.model)
        if list(edit.changes) == [f"{layer}.weight"]:
            change = edit.changes[f"{layer}.weight"]
            for batch in range(self._batch_count):
                state = self._at(layer, batch)
                output = self.memory.outputs.get((self._owner, layer), batch, partial(cut.output, state))
                yield cut.logits(state, output + change.added(cut, cut.keys(state))).cpu()
            return
        parameters = self._edited_parameters(edit, layer)
        for batch in range(self._batch_count):
            yield cut.logits(self._at(layer, batch), parameters=parameters).cpu()

    def _start(self, edit: Edit | None) -> str:
        """Choose the layer to compute from: the first that the edit changes, otherwise the last.

        With parallel branches, what the edit changes on another branch may lie before that layer, but not before the
        next one that it changes.
        """
        last = next(reversed(self.cuts))
        if edit is None:
            return last
        changed = [layer for layer in self.cuts if layer in edit.layers]
        if len(changed) > 1:
            for layer in changed:
                if all(self._comes_after(name, layer) for name in edit.changes):
                    return layer
        return changed[0] if changed else last

    def _comes_after(self, parameter: str, layer: str) -> bool:
        """Tell whether a parameter is read at a layer, after it or parallel to it."""
        cut = self.cuts[layer]
        is_own = parameter.rpartition(".")[0] == layer
        return is_own or parameter == cut.bias_name or parameter in cut.later_parameters

    def _at(self, layer: str, batch: int) -> State:
        """Return the state of a batch at a layer, from the memory or computed.

        If states at the layer are kept, those at the other layers that are kept are computed in the same pass.
        """
        kept = self.memory.get(self._owner, layer, batch)
        if kept is not None:
            return kept
        wanted = [layer]
        if layer in self.memory.layers and not self.memory.is_full:
            kept_layers = [name for name in self.cuts if name in self.memory.layers]
            wanted = [name for name in kept_layers if self.memory.get(self._owner, name, batch) is None]
        first = batch * self._batch_size
        images = pixels_of(self._data)[first : first + self._batch_size]
        states = states_at({name: self.cuts[name] for name in wanted}, images)
        for name in sorted(states, key=lambda name: _bytes_of(states[name])):  # so that there is room for most of them
            if name in self.memory.layers:
                self.memory.put(self._owner, name, batch, states[name])
        return states[layer]

    def _edited_parameters(self, edit: Edit, layer: str) -> dict[str, Tensor]:
        """Compute the parameters that an edit changes, all of which must be at the layer or after it."""
        cut = self.cuts[layer]
        parameters = {}
        for name, change in edit.changes.items():
            if not self._comes_after(name, layer):
                raise ValueError(
                    f"{edit} changes {name!r}, which does not come after {layer!r}, where the images are cached; "
                    f"cache them at {name.rpartition('.')[0]!r} as well"
                )
            parameter = cut.tensor(name)
            parameters[name] = parameter + change.delta().to(parameter)
        return parameters


def cache_activations(
    cuts: Mapping[str, Cut],
    sets: Mapping[str, LabelledImages],
    progress: Progress | None = None,
    memory: StateMemory | None = None,
) -> dict[str, CachedActivations]:
    """Cache sets of images at the layers of a classifier.

    Images whose states do not fit into memory are run from the start for each edit, so put those that are evaluated
    most often first.

    Args:
        cuts: the cuts by layer, which come from one `cut_all`.
        sets: the images, by the name of the set.
        progress: a class like `tqdm.tqdm`, for bars.
        memory: keeps the states of all sets; by default, those at all layers are kept, up to `memory_for_states`.

    Returns:
        The cached activations, by the name of the set.
    """
    cached = {}
    classifier = next(iter(cuts.values())).classifier
    memory = memory or StateMemory(memory_for_states(classifier.device), cuts)
    for name, images in sets.items():
        cached[name] = CachedActivations(cuts, images, progress=progress, memory=memory, bar=f"caching {name}")
    return cached


def batch_size_of_states(classifier: Classifier) -> int:
    """Choose how many images to cache at once."""
    return min(MOST_IMAGES, 2 * usual_batch_size(classifier))


def memory_for_states(device: torch.device) -> float:
    """Return how many bytes states may take.

    It is `EDITTOOLS_MEMORY` in GB; by default a quarter of the memory of a GPU, and otherwise 0.5 GB.
    """
    setting = os.environ.get("EDITTOOLS_MEMORY")
    if setting:
        number = float(setting) if setting.replace(".", "", 1).isdigit() else setting
        return 1e9 * check_amount(number, "EDITTOOLS_MEMORY", 0)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 4
    return 0.5e9
