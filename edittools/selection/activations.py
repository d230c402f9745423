"""Cached states: images run up to several layers once, and one more edit costs what follows its layer."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from edittools._caching import digest_tensors
from edittools._checks import check_amount
from edittools.baselines.finetuning import forward
from edittools.classifiers import Classifier, remap_labels
from edittools.cut import Cut, State, cut_all, states_at
from edittools.edits import Edit, applied_edits, check_same_before, first_changed, unedited_fingerprint
from edittools.images import LabelledImages, in_batches
from edittools.metrics import Comparison, misclassified


class CachedStates:
    """Labelled images cached as their states at several layers, so that an edit is evaluated from its layer on.

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
        batch_size: int = 64,
        progress: bool = False,
        in_memory: bool = True,
    ) -> None:
        """Run all images once.

        Args:
            cuts: come from one `cut_all`, in the network's order.
            data: the images; labels into other class names are mapped by name.
            batch_size: images per batch.
            progress: show a progress bar.
            in_memory: keep the states; otherwise images are run from the start for each edit, which is slower.
        """
        if not cuts:
            raise ValueError("No layer to cache images at; pass at least one cut, see cache_states")
        if not len(data):
            raise ValueError("No images to cache; pass at least one")
        self.cuts = cuts
        self._classifier = next(iter(cuts.values())).classifier
        self._data = remap_labels("images to cache", data, self._classifier)
        self.labels = self._data.labels
        self._batch_size = batch_size
        self._applied_then = applied_edits(self._classifier)
        self._fingerprints = self._fingerprints_now()
        self.states = states_at(cuts, self._data, batch_size, progress) if in_memory else None
        self._outputs: dict[str, tuple[tuple[str, ...], list[Tensor]]] = {}
        self._before: tuple[tuple[str, ...], Tensor, Tensor] | None = None
        self._before_now()

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
            checked: the model was checked a moment ago; do not compare its weights again.

        Raises:
            ValueError: for an edit of another model, or one that changes what comes before the cached layers.
        """
        return torch.cat(list(self._parts(edit, checked)))

    def compare(self, edit: Edit, stop: Callable[[Tensor], bool] | None = None) -> Comparison | None:
        """Compare which images are misclassified before and with an edit.

        Args:
            edit: the edit.
            stop: is told, batch after batch, which of the images so far are misclassified; it returns True to give up.

        Returns:
            The comparison, or None if it was given up.
        """
        before = self.before
        after = torch.zeros(0, dtype=torch.bool)
        with closing(self._parts(edit)) as parts:
            for logits in parts:
                labels = self.labels[len(after) : len(after) + len(logits)]
                after = torch.cat([after, misclassified(logits, labels)])
                if stop is not None and stop(after):
                    return None
        return Comparison(before, after)

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
            for state, output in self._with_outputs(layer):
                added = change.added(cut, cut.keys(state))
                yield cut.logits(state, output + added).cpu()
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

    def _check_states(self, layer: str, checked: bool) -> None:
        """Refuse states at a layer if the model before it is no longer the same, or was changed by more than edits."""
        if not checked and self._fingerprints_now() != self._fingerprints:
            model = type(self.cuts[layer].model).__name__
            raise ValueError(
                f"Weights or buffers of the {model} were changed by something else than an edit since the images were "
                "cached; cache them again"
            )
        check_same_before(self.cuts[layer], self._applied_then, "The images were cached")

    def _fingerprints_now(self) -> tuple[str, str]:
        """Hash the weights without the edits applied now, and all buffers, also those not saved with weights."""
        return unedited_fingerprint(self._classifier), digest_tensors(self._classifier.buffers())


def cache_states(
    classifier: Classifier,
    layers: Sequence[str],
    progress: bool = False,
    cuts: Mapping[str, Cut] | None = None,
    **data: LabelledImages,
) -> tuple[Mapping[str, Cut], dict[str, CachedStates]]:
    """Cut a classifier at `layers` and cache each named set of images at them.

    Name the sets first that are evaluated most often: images that do not fit into memory are run from the start for
    each edit.

    Args:
        classifier: the classifier.
        layers: names of the layers, in the network's order.
        progress: show progress bars.
        cuts: cuts of the classifier at these layers, if there are any yet.
        **data: the sets of images, by name.

    Returns:
        The cuts by layer, and the cached states by the name of the set.
    """
    if cuts is None:
        cuts = cut_all(classifier, layers)
    states = {}
    free = memory_for_states(classifier.device)
    for name, images in data.items():
        batch_size = 64
        if name in ("budget", "keep", "retain"):  # an edit that violates a constraint is given up after a few images
            batch_size = min(64, max(8, len(images) // 16))
        needed = len(images) * bytes_of_states(cuts, images.images[:1]) if len(images) else 0
        in_memory = needed <= free
        states[name] = CachedStates(cuts, images, batch_size, progress, in_memory)
        if in_memory:
            free -= needed
    return cuts, states


@torch.no_grad()
def bytes_of_states(cuts: Mapping[str, Cut], image: Tensor) -> int:
    """Count the bytes that caching an image `(1, 3, H, W)` at all cuts takes, with the output of each layer."""
    states = [state for [state] in states_at(cuts, image).values()]
    kept = [part for state in states for part in state]
    outputs = [cut.output(state) for cut, state in zip(cuts.values(), states, strict=True)]
    return sum({part.data_ptr(): part.nbytes for part in (*kept, *outputs)}.values())


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


def trade_off(
    edits: Mapping[str, Edit], strengths: Sequence[float], target: CachedStates, kept: CachedStates
) -> pd.DataFrame:
    """Tabulate `errors corrected` on the target and the share `kept broken` on retained images, by strength.

    Args:
        edits: the edits, by method.
        strengths: factors α by which each edit is scaled.
        target: the images to correct.
        kept: the images to retain.

    Returns:
        One row per `method` and `strength`.
    """
    rows = []
    for (method, edit), strength in product(edits.items(), strengths):
        scaled = strength * edit
        gained = target.compare(scaled).row()
        lost = kept.compare(scaled)
        row = {
            "method": method,
            "strength": strength,
            "errors corrected": gained["errors corrected"],
            "kept broken": lost.broken / len(lost.before),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def report(edits: Mapping[str, Edit], states: Mapping[str, CachedStates]) -> pd.DataFrame:
    """Evaluate edits on every set of images.

    Args:
        edits: the edits, by method.
        states: the images, by the name of the set, "test" among them.

    Returns:
        One row per method. "test" gives the figures of `Comparison.row` and the interval of errors corrected (`low`,
        `high`); every other set gives its errors (`... before`, `... after`) and its change of accuracy in points
        (`... change`, `... low`, `... high`).
    """
    rows = {}
    for method, edit in edits.items():
        test = states["test"].compare(edit)
        row = test.row()
        row["low"], row["high"] = test.corrected_interval()
        row.pop("accuracy change (points)")
        for name, images in states.items():
            if name == "test":
                continue
            comparison = images.compare(edit)
            row[f"{name} before"] = int(comparison.before.sum())
            row[f"{name} after"] = int(comparison.after.sum())
            row[f"{name} change"] = comparison.accuracy_change
            row[f"{name} low"], row[f"{name} high"] = comparison.accuracy_interval()
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
