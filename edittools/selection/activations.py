"""Cached activations: images are run up to several layers once; one more edit costs what follows its layer."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from edittools._caching import digest_tensors
from edittools._checks import check_amount
from edittools.baselines.finetuning import forward
from edittools.baselines.inputs import Batches, reference_batches
from edittools.classifiers import MOST_IMAGES, Classifier, remap_labels, usual_batch_size
from edittools.cut import Cut, State, cut_all, states_at
from edittools.edits import Change, Edit, applied_edits, check_same_before, first_changed, unedited_fingerprint
from edittools.images import Images, LabelledImages, evenly_spaced, in_batches
from edittools.metrics import Comparison, label_margins, misclassified
from edittools.moments import SecondMoment, second_moments
from edittools.rewriting import SAMPLE
from edittools.selection.splits import Splits


class CachedActivations:
    """Labeled images cached as their states at several layers, so that an edit is evaluated from its layer on.

    Edits that are applied to the model meanwhile are part of "before" and "after" alike. `ValueError` is raised for a
    layer before which other edits are applied than when the images were cached, and after anything else has changed
    the model.

    Attributes:
        cuts: the cut at each layer, in the network's order.
        labels: `(N,)` class indices of the classifier.
        states: by layer, the states in batches; None unless they are kept in memory.
    """

    def __init__(
        self,
        cuts: Mapping[str, Cut],
        data: LabelledImages,
        batch_size: int | None = None,
        progress: bool = False,
        in_memory: bool = True,
        fragile_first: bool = False,
    ) -> None:
        """Run all images once.

        Args:
            cuts: come from one `cut_all`, in the network's order.
            data: the images; labels into other class names are mapped by name.
            batch_size: images per batch; by default twice the `usual_batch_size`, since what follows a layer computes
                smaller tensors.
            progress: show a progress bar.
            in_memory: keep the states; otherwise images are run from the start for each edit, which is slower.
            fragile_first: order the images by how far the labeled class is ahead of the best other one, the least
                first. A comparison that may stop early then soon shows what an edit costs.
        """
        if not cuts:
            raise ValueError("No layer to cache images at; pass at least one cut, see cut_all")
        if not len(data):
            raise ValueError("No images to cache; pass at least one")
        self.cuts = cuts
        self._classifier = next(iter(cuts.values())).classifier
        self._data = remap_labels("images to cache", data, self._classifier)
        self.labels = self._data.labels
        self._batch_size = _batch_size_of_states(self._classifier) if batch_size is None else batch_size
        self._applied_then = applied_edits(self._classifier)
        self._fingerprints = self._fingerprints_now()
        self.states = states_at(cuts, self._data, self._batch_size, progress) if in_memory else None
        self._outputs: dict[str, tuple[tuple[str, ...], list[Tensor]]] = {}
        self._before: tuple[tuple[str, ...], Tensor, Tensor] | None = None
        self._compared: dict[tuple[Edit, tuple[str, ...]], Comparison] = {}
        self._multiples: _Multiples | None = None
        self._before_now()
        if fragile_first:
            self._reorder(label_margins(self.original, self.labels).argsort(stable=True), progress)

    @property
    def applied(self) -> tuple[str, ...]:
        """The digests of the edits that are applied to the model now, oldest first."""
        return tuple(edit.digest for edit in applied_edits(self._classifier))

    @property
    def original(self) -> Tensor:
        """The logits `(N, classes)` under the edits that are applied now, without any other."""
        logits, _ = self._before_now()
        return logits

    @property
    def before(self) -> Tensor:
        """Which images are misclassified under the edits that are applied now: `(N,)` booleans."""
        _, misclassified = self._before_now()
        return misclassified

    def _before_now(self) -> tuple[Tensor, Tensor]:
        """Give the logits without another edit, and which of them are wrong; compute them once per applied edits."""
        applied = self.applied
        if self._before is None or self._before[0] != applied:
            logits = self.logits()
            self._before = applied, logits, misclassified(logits, self.labels)
        _, logits, is_misclassified = self._before
        return logits, is_misclassified

    def logits(self, edit: Edit | None = None, checked: bool = False) -> Tensor:
        """Return the logits `(N, classes)` with `edit` applied as well, computed from the first layer that it changes.

        Of an edit of one layer's weight, only what it adds to the layer's output is computed; the output without it is
        cached, too.

        Args:
            edit: the edit; None adds nothing to those that are applied.
            checked: the model was checked a moment ago, as by `check_model`; do not compare its weights again.

        Raises:
            ValueError: for an edit of another model, or one that changes what comes before the cached layers.
        """
        return torch.cat(list(self._parts(edit, checked)))

    def compare(
        self, edit: Edit, stop: Callable[[Tensor], bool] | None = None, checked: bool = False
    ) -> Comparison | None:
        """Compare which images are misclassified before and with an edit; each edit is compared once.

        Args:
            edit: the edit.
            stop: is told, batch after batch, which of the images so far are misclassified; it returns True to give up.
            checked: see `logits`.

        Returns:
            The comparison, or None if it was given up.
        """
        if not checked:
            self.check_model()
        key = (edit, self.applied)
        if stop is None and key in self._compared:
            return self._compared[key]
        before = self.before
        after = torch.zeros(0, dtype=torch.bool)
        with closing(self._parts(edit, checked=True)) as parts:
            for logits in parts:
                labels = self.labels[len(after) : len(after) + len(logits)]
                after = torch.cat([after, misclassified(logits, labels)])
                if stop is not None and stop(after):
                    return None
        self._compared[key] = Comparison(before, after)
        return self._compared[key]

    @torch.no_grad()
    def _parts(self, edit: Edit | None, checked: bool = False) -> Iterator[Tensor]:
        """Compute the logits batch by batch."""
        layer = self._start(edit)
        cut = self.cuts[layer]
        self._check_states(layer, checked)
        if edit is None:
            for state in self._states_at(layer):
                yield cut.suffix(state).cpu()
            return
        if edit.fingerprint != self._fingerprints[0] or edit.on_top_of:
            edit.check_fits(self._classifier)
        change = edit.changes.get(f"{layer}.weight")
        if change is not None and len(edit.changes) == 1:
            factor, multiples = self._multiples_of(layer, change)
            for number, (state, output) in enumerate(self._with_outputs(layer)):
                edited = torch.add(output, multiples.added(number, cut, state), alpha=factor)
                yield cut.logits(state, edited).cpu()
            return
        parameters = self._edited_parameters(edit, layer)
        for state in self._states_at(layer):
            yield forward(cut, state, parameters).cpu()

    def _start(self, edit: Edit | None) -> str:
        """Choose the layer to compute from: the first that the edit changes, otherwise the last with current states."""
        layers = list(self.cuts)
        if edit is not None:
            return next((layer for layer in layers if layer in edit.layers), layers[-1])
        for layer in reversed(layers):
            if first_changed(self.cuts[layer], self._applied_then) is None:
                return layer
        return layers[0]

    def _edited_parameters(self, edit: Edit, layer: str) -> dict[str, Tensor]:
        """Compute the parameters that an edit changes, all of which must be at the layer or after it."""
        cut = self.cuts[layer]
        allowed = {*cut.later_parameters, cut.bias_name}
        parameters = {}
        for name, change in edit.changes.items():
            changed_layer = name.rpartition(".")[0]
            if name not in allowed and changed_layer != layer:
                raise ValueError(
                    f"{edit} changes {name!r}, which does not come after {layer!r}, where the images are cached; "
                    f"cache them at {changed_layer!r} as well"
                )
            parameter = cut.model.get_parameter(name)
            parameters[name] = parameter + change.delta().to(parameter)
        return parameters

    def _states_at(self, layer: str) -> Iterable[State]:
        """Give the states at a layer, batch by batch."""
        if self.states is not None:
            return self.states[layer]
        return map(self.cuts[layer].prefix, in_batches(self._data, self._batch_size))

    def _with_outputs(self, layer: str) -> Iterable[tuple[State, Tensor]]:
        """Pair the states with the outputs of the layer under the edits that are applied now."""
        cut = self.cuts[layer]
        states = self._states_at(layer)
        if self.states is None:
            return ((state, cut.output(state)) for state in states)
        applied = self.applied
        if layer not in self._outputs or self._outputs[layer][0] != applied:
            self._outputs[layer] = applied, [cut.output(state) for state in states]
        _, outputs = self._outputs[layer]
        return zip(states, outputs, strict=True)

    def _multiples_of(self, layer: str, change: Change) -> "tuple[float, _Multiples]":
        """Give the change that `change` is a multiple of, with what it adds to the batches, and the factor."""
        factor, base = change.multiple_of or (1.0, change)
        known = self._multiples
        if known is None or known.change is not base or known.layer != layer:
            known = _Multiples(layer, base, is_kept=self.states is not None)
            self._multiples = known
        return factor, known

    def _reorder(self, order: Tensor, progress: bool) -> None:
        """Put images that have been cached into another order, without running them again if possible."""
        self._data = self._data.subset(order)
        self.labels = self._data.labels
        applied, logits, is_misclassified = self._before
        self._before = applied, logits[order], is_misclassified[order]
        self._outputs.clear()
        if self.states is None:
            return
        dimensions = {layer: cut.image_dimensions for layer, cut in self.cuts.items()}
        if None in chain.from_iterable(dimensions.values()):
            self.states = states_at(self.cuts, self._data, self._batch_size, progress)
            return
        tensors = {layer: list(zip(*states, strict=True)) for layer, states in self.states.items()}
        keys = {layer: [tuple(map(id, batches)) for batches in of_layer] for layer, of_layer in tensors.items()}
        old = {}  # each tensor once: layers share some, such as that of a residual branch
        for layer in self.cuts:
            old.update(zip(keys[layer], zip(tensors[layer], dimensions[layer], strict=True), strict=True))
        self.states = None
        del tensors  # only `old` holds them now
        new = {}
        for key in list(old):
            batches, dimension = old.pop(key)  # those of the key before are released here
            new[key] = _reordered(batches, dimension, order)
        self.states = {
            layer: list(zip(*[new[key] for key in keys_of_layer], strict=True)) for layer, keys_of_layer in keys.items()
        }

    def _check_states(self, layer: str, checked: bool) -> None:
        """Refuse states at a layer if the model before it is no longer the same, or was changed by more than edits."""
        if not checked:
            self.check_model()
        check_same_before(self.cuts[layer], self._applied_then, "The images were cached")

    def check_model(self) -> None:
        """Check that nothing but edits has changed the model since the images were cached.

        Raises:
            ValueError: if something else has.
        """
        if self._fingerprints_now() != self._fingerprints:
            raise ValueError(
                f"Weights or buffers of the {type(self._classifier.model).__name__} were changed by something else "
                "than an edit since the images were cached; cache them again"
            )

    def _fingerprints_now(self) -> tuple[str, str]:
        """Hash the weights without the edits applied now, and all buffers, also those not saved with weights."""
        return unedited_fingerprint(self._classifier), digest_tensors(self._classifier.buffers())


def _reordered(batches: Sequence[Tensor], dimension: int, order: Tensor) -> list[Tensor]:
    """Put images, which lie along a dimension of the batches, into another order; the batches keep their sizes."""
    images = torch.cat(batches, dimension)
    reordered = []
    for batch, numbers in zip(batches, order.to(images.device).split(batches[0].shape[dimension]), strict=True):
        reordered.append(torch.empty_like(batch).copy_(images.index_select(dimension, numbers)))  # strides as before
    return reordered


class _Multiples:
    """What a change of a layer's weight adds to the layer's outputs: computed once for all multiples of the change."""

    def __init__(self, layer: str, change: Change, is_kept: bool) -> None:
        self.layer = layer
        self.change = change
        self._is_kept = is_kept
        self._by_batch: dict[int, Tensor] = {}

    def added(self, number: int, cut: Cut, state: State) -> Tensor:
        """Return what the change adds to the layer's output for the batch of this number."""
        if number in self._by_batch:
            return self._by_batch[number]
        added = self.change.added(cut, cut.keys(state))
        if self._is_kept:
            self._by_batch[number] = added
        return added


def cache_activations(
    cuts: Mapping[str, Cut],
    sets: Mapping[str, LabelledImages],
    early_stopping: Collection[str] = (),
    progress: bool = False,
    fragile_first: Collection[str] = (),
) -> dict[str, CachedActivations]:
    """Cache sets of images at the layers of a classifier.

    Images that do not fit into memory are run from the start for each edit, so put those that are evaluated most often
    first.

    Args:
        cuts: the cuts by layer, which come from one `cut_all`.
        sets: the images, by the name of the set.
        early_stopping: names of the sets that are compared with a condition to stop; they get smaller batches, so that
            a comparison stops after a few images.
        progress: show progress bars.
        fragile_first: names of the sets whose images are ordered by how easily they are misclassified.

    Returns:
        The cached activations, by the name of the set.
    """
    cached = {}
    classifier = next(iter(cuts.values())).classifier
    free = memory_for_states(classifier.device)
    for name, images in sets.items():
        batch_size = _batch_size_of_states(classifier)
        if name in early_stopping:
            batch_size = min(batch_size, max(8, len(images) // 16))
        needed = len(images) * bytes_of_states(cuts, images.images[:1]) if len(images) else 0
        in_memory = needed <= free
        cached[name] = CachedActivations(cuts, images, batch_size, progress, in_memory, name in fragile_first)
        if in_memory:
            free -= needed
    return cached


def _batch_size_of_states(classifier: Classifier) -> int:
    """Choose how many images to cache at once."""
    return min(MOST_IMAGES, 2 * usual_batch_size(classifier))


@torch.no_grad()
def bytes_of_states(cuts: Mapping[str, Cut], image: Tensor) -> int:
    """Count the bytes that caching an image `(1, 3, H, W)` at all cuts takes.

    With the states come the output of each layer, and what a change adds to one of them.
    """
    states = [state for [state] in states_at(cuts, image).values()]
    cached = [tensor for state in states for tensor in state]
    outputs = [cut.output(state) for cut, state in zip(cuts.values(), states, strict=True)]
    of_one_change = max(output.nbytes for output in outputs)
    return of_one_change + sum({tensor.data_ptr(): tensor.nbytes for tensor in (*cached, *outputs)}.values())


def memory_for_states(device: torch.device) -> float:
    """Return how many bytes states may take: `EDITTOOLS_MEMORY` in GB, otherwise half of the device's memory."""
    setting = os.environ.get("EDITTOOLS_MEMORY")
    if setting:
        number = float(setting) if setting.replace(".", "", 1).isdigit() else setting
        return 1e9 * check_amount(number, "EDITTOOLS_MEMORY", 0)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 8e9


class ReferenceActivations:
    """What methods need of the reference images at several layers.

    Attributes:
        images: the reference images.
        moments: by layer, the second moment of their keys, with a sample of the keys.
    """

    def __init__(self, cuts: Mapping[str, Cut], images: Images, progress: bool = False) -> None:
        """Run the reference images up to all layers once.

        Args:
            cuts: the cuts by layer, which come from one `cut_all`.
            images: the reference images.
            progress: show a progress bar.
        """
        classifier = next(iter(cuts.values())).classifier
        self.images = images
        self._cuts = cuts
        moments = second_moments(classifier, list(cuts), images, progress=progress)
        sample = states_at(cuts, evenly_spaced(images, SAMPLE))
        self.moments: dict[str, SecondMoment] = {}
        for layer, cut in cuts.items():
            keys = [cut.keys(state) for state in sample[layer]]
            self.moments[layer] = replace(moments[layer], sample=keys)
        self._batches: dict[tuple[str, tuple[str, ...]], Batches] = {}

    def batches(self, layer: str) -> Batches:
        """Give a sample of the images as states at a layer, with the original log-probabilities.

        They are computed once for the edits that are applied at that moment.
        """
        cut = self._cuts[layer]
        key = (layer, tuple(edit.digest for edit in applied_edits(cut.classifier)))
        if key not in self._batches:
            self._batches[key] = reference_batches(cut, evenly_spaced(self.images, 4 * SAMPLE))
        return self._batches[key]


class SplitActivations(dict[str, CachedActivations]):
    """The labeled splits by name, cached at the layers of a search.

    Clean images that are misclassified most easily come first, so that a comparison soon shows what an edit costs.

    Attributes:
        splits: the splits.
        cuts: the cut at each layer, in the network's order.
        reference: what methods need of the reference images.
    """

    def __init__(
        self,
        classifier: Classifier,
        layers: Sequence[str],
        splits: Splits,
        progress: bool = False,
        shared: "SplitActivations | None" = None,
    ) -> None:
        """Run all splits up to the layers once.

        Args:
            classifier: the classifier.
            layers: names of the layers, in the network's order.
            splits: the image sets.
            progress: show progress bars.
            shared: activations of the same classifier at the same layers. What they hold of the same sets is taken
                over.

        Raises:
            ValueError: if `shared` is of another classifier or of other layers.
        """
        super().__init__()
        self.splits = splits
        self.cuts = cut_all(classifier, layers) if shared is None else shared.cuts
        if any(cut.classifier is not classifier for cut in self.cuts.values()) or list(self.cuts) != list(layers):
            raise ValueError(
                f"The activations are cached at {list(self.cuts)}, which are not the layers {list(layers)} of this "
                "classifier; share activations of one classifier at the same layers"
            )
        known = {}
        new = {}
        for name, data in splits.labeled.items():
            if shared is not None and shared.splits.labeled.get(name) is data:
                known[name] = shared[name]
            else:
                new[name] = data
        cached = cache_activations(
            self.cuts, new, early_stopping=("clean", "retain"), fragile_first=("clean",), progress=progress
        )
        for name in splits.labeled:
            self[name] = known[name] if name in known else cached[name]
        if shared is not None and shared.splits.reference is splits.reference:
            self.reference = shared.reference
        else:
            self.reference = ReferenceActivations(self.cuts, splits.reference, progress)
