"""States: images are run up to layers once, and an edit costs what follows its layer.

states = States(cut_all(classifier, layers), images)
before = states.original                # the logits without an edit
after = states.logits(edit)             # with an edit of one of the layers
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from threading import Lock

import torch
from torch import Tensor

from edittools._checks import check_amount
from edittools._inference import without_autocast
from edittools._ledger import Weights
from edittools._progress import Progress, bar_of
from edittools.classifiers import MOST_IMAGES, Classifier, remap_labels, usual_batch_size
from edittools.cut import Cut, State, states_at
from edittools.edits import Edit
from edittools.images import Images, LabeledImages, pixels_of
from edittools.metrics import Comparison, misclassified, predicted_classes


class StateMemory:
    """The states of several sets of images at layers, up to a number of bytes.

    What does not fit is computed again each time it is needed.

    Attributes:
        used: the number of bytes that the states take.
        is_full: whether a state did not fit.

    Args:
        limit: the number of bytes of states.
        output_limit: the number of bytes of outputs of the layer at which a set was last evaluated; an eighth of
            `limit` by default.
    """

    def __init__(self, limit: float, output_limit: float | None = None) -> None:
        self.limit = limit
        self.output_limit = limit / 8 if output_limit is None else output_limit
        self.used = 0
        self.is_full = False
        self._states: dict[tuple[object, str, int], State] = {}
        self._outputs: tuple[tuple[object, str] | None, dict[int, Tensor]] = (None, {})
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

    def output(self, owner: object, cut: Cut, batch: int, state: State) -> Tensor:
        """Return the output of a layer on a batch of a set; those of another layer or set are discarded."""
        subject = (owner, cut.layer)
        current, outputs = self._outputs
        if subject != current:
            outputs = {}  # another thread may still fill the former one
            self._outputs = (subject, outputs)
        if batch in outputs:
            return outputs[batch]
        output = cut.output(state)
        if sum(kept.nbytes for kept in list(outputs.values())) + output.nbytes <= self.output_limit:
            outputs[batch] = output
        return output


def _bytes_of(state: State) -> int:
    return sum(tensor.nbytes for tensor in state)


class States:
    """Images as their states at several layers, so that an edit is evaluated from its layer on.

    Everything is computed with a copy of the weights that the classifier has when the states are made. What happens to
    the model afterwards, such as an edit that someone applies, does not concern it. The images are run when that is
    first needed.

    Attributes:
        cuts: the cut at each layer, in the network's order.
        memory: where states are kept.

    Args:
        cuts: come from one `cut_all`, in the network's order. Without a copy of the weights, one is made.
        images: `(N, 3, H, W)`, with or without labels; labels into other class names are mapped by name.
        batch_size: images per batch; by default twice the `usual_batch_size`, since what follows a layer computes
            smaller tensors.
        memory: keeps the states; by default, one of `memory_for_states`.

    Raises:
        ValueError: if there is no cut.
    """

    def __init__(
        self,
        cuts: Mapping[str, Cut],
        images: Images,
        *,
        batch_size: int | None = None,
        memory: StateMemory | None = None,
    ) -> None:
        if not cuts:
            raise ValueError("no layer to run images up to; pass at least one cut, see cut_all")
        first_cut = next(iter(cuts.values()))
        classifier = first_cut.classifier
        self._weights = Weights(classifier) if first_cut.weights is None else first_cut.weights
        self.cuts = {layer: cut.with_weights(self._weights) for layer, cut in cuts.items()}
        self._images = remap_labels("images", images, classifier) if isinstance(images, LabeledImages) else images
        self._pixels = pixels_of(images)
        self._batch_size = batch_size_of_states(classifier) if batch_size is None else batch_size
        self.memory = memory or StateMemory(memory_for_states(classifier.device))
        self._owner = object()  # whose states these are, in a memory of several sets

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def labels(self) -> Tensor:
        """The labels of the images, `(N,)` class indices of the classifier.

        Raises:
            ValueError: if the images have no labels.
        """
        if not isinstance(self._images, LabeledImages):
            raise ValueError("the images have no labels; pass LabeledImages")
        return self._images.labels

    @without_autocast()
    def run(self, progress: Progress | None = None, bar: str = "images") -> Tensor:
        """Run all images once, if they were not run yet, and return `original`.

        Args:
            progress: a class like `tqdm.tqdm`, for a bar.
            bar: the name of the progress bar.
        """
        if "original" not in vars(self):
            vars(self)["original"] = torch.cat([logits for [logits] in self._batches([None], (1.0,), progress, bar)])
        return self.original

    @cached_property
    def original(self) -> Tensor:
        """The logits `(N, classes)` without an edit."""
        return self.run()

    @cached_property
    def before(self) -> Tensor:
        """Which images are misclassified without an edit, `(N,)` booleans."""
        return misclassified(self.original, self.labels)

    def logits(self, edit: Edit | None = None) -> Tensor:
        """Compute the logits `(N, classes)`; of an edit of one layer's weight, only what follows this layer.

        Args:
            edit: the edit; None for the classifier without an edit.

        Raises:
            ValueError: for an edit of other weights, or one that changes what comes before the layers.
        """
        if edit is None:
            return self.original.clone()
        return self.scaled_logits(edit, (1.0,))[0]

    @without_autocast()
    def scaled_logits(self, edit: Edit, strengths: Sequence[float]) -> Tensor:
        """Compute the logits with an edit, scaled by each of S factors, `(S, N, classes)`; see `logits`."""
        batches = [torch.stack(of_batch) for of_batch in self._batches([edit], strengths)]
        return torch.cat(batches, dim=1)

    @without_autocast()
    def predictions(
        self, edits: Sequence[Edit | None], progress: Progress | None = None, bar: str = "images"
    ) -> Tensor:
        """Predict the classes of all images with each of E edits, in one pass.

        Args:
            edits: the edits; None is the classifier without an edit.
            progress: a class like `tqdm.tqdm`, for a bar.
            bar: the name of the progress bar.

        Returns:
            The predicted classes, `(E, N)`; -1 where logits hold NaN.

        Raises:
            ValueError: as in `logits`.
        """
        batches = self._batches(edits, (1.0,), progress, bar)
        return torch.cat([torch.stack([predicted_classes(logits) for logits in batch]) for batch in batches], dim=1)

    def compare(self, edit: Edit) -> Comparison:
        """Compare which images are misclassified before and with an edit."""
        return Comparison(self.before, misclassified(self.logits(edit), self.labels))

    @torch.no_grad()
    def _batches(
        self,
        edits: Sequence[Edit | None],
        strengths: Sequence[float],
        progress: Progress | None = None,
        bar: str = "images",
    ) -> Iterator[list[Tensor]]:
        """Yield the logits of each batch `(B, classes)`, on the CPU: for each edit, those with each strength."""
        layers = [self._start(edit) for edit in edits]
        for edit in edits:
            if edit is not None:
                edit.check_fits_copy(self._weights, self.cuts[layers[0]].model)
        parameters = [self._parameters(*one, strengths) for one in zip(edits, layers, strict=True)]
        count = len(self)
        with bar_of(progress, total=count, desc=bar, unit="image") as shown:
            for batch, first in enumerate(range(0, max(count, 1), self._batch_size)):  # without images, an empty batch
                states = {layer: self._at(layer, batch) for layer in dict.fromkeys(layers)}
                of_batch = []
                for edit, layer, edited in zip(edits, layers, parameters, strict=True):
                    cut = self.cuts[layer]
                    state = states[layer]
                    if edit is None:
                        of_batch.append(cut.logits(state))
                    elif edited:
                        of_batch += [cut.logits(state, parameters=of_strength) for of_strength in edited]
                    else:
                        output = self.memory.output(self._owner, cut, batch, state)
                        added = edit.changes[f"{layer}.weight"].added(cut, cut.keys(state))
                        of_batch += [cut.logits(state, torch.add(output, added, alpha=alpha)) for alpha in strengths]
                yield [logits.cpu() for logits in of_batch]
                shown.update(min(self._batch_size, count - first))

    def _parameters(self, edit: Edit | None, layer: str, strengths: Sequence[float]) -> list[dict[str, Tensor]]:
        """Compute the parameters that an edit changes, with each strength; none if it changes the layer's weight only.

        Raises:
            ValueError: if one of them is before the layer.
        """
        if edit is None or list(edit.changes) == [f"{layer}.weight"]:
            return []
        cut = self.cuts[layer]
        deltas = {}
        for name, change in edit.changes.items():
            if not self._comes_after(name, layer):
                raise ValueError(
                    f"{edit} changes {name!r}, which does not come after {layer!r}, up to which the images are run; "
                    f"run them up to {name.rpartition('.')[0]!r} as well"
                )
            deltas[name] = change.delta().to(cut.tensor(name))
        return [
            {name: torch.add(cut.tensor(name), delta, alpha=alpha) for name, delta in deltas.items()}
            for alpha in strengths
        ]

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
        """Tell whether a parameter is used at a layer, after it or parallel to it."""
        cut = self.cuts[layer]
        is_own = parameter.rpartition(".")[0] == layer
        return is_own or parameter == cut.bias_name or parameter in cut.later_parameters

    def _at(self, layer: str, batch: int) -> State:
        """Return the state of a batch at a layer, from the memory or computed.

        While there is room, the states at all layers are computed in the same pass.
        """
        kept = self.memory.get(self._owner, layer, batch)
        if kept is not None:
            return kept
        wanted = [layer]
        if not self.memory.is_full:
            wanted = [name for name in self.cuts if self.memory.get(self._owner, name, batch) is None]
        first = batch * self._batch_size
        images = self._pixels[first : first + self._batch_size]
        states = states_at({name: self.cuts[name] for name in wanted}, images)
        for name in sorted(states, key=lambda name: _bytes_of(states[name])):  # so that there is room for most of them
            self.memory.put(self._owner, name, batch, states[name])
        return states[layer]


def states_of(cuts: Mapping[str, Cut], sets: Mapping[str, Images]) -> dict[str, States]:
    """Make the states of several sets of images, which share a memory.

    Images whose states do not fit into memory are run from the start for each edit, so evaluate the sets first that are
    evaluated most often.

    Args:
        cuts: the cuts by layer, which come from one `cut_all`.
        sets: the images, by the name of the set.

    Returns:
        The states, by the name of the set.
    """
    memory = StateMemory(memory_for_states(next(iter(cuts.values())).classifier.device))
    return {name: States(cuts, images, memory=memory) for name, images in sets.items()}


def batch_size_of_states(classifier: Classifier) -> int:
    """Choose how many images to run at once."""
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
