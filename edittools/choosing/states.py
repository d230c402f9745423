"""Cached states: images run up to several layers once, and one more edit costs what follows its layer."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from edittools.baselines.finetuning import forward
from edittools.caching import digest_tensors
from edittools.checks import check_amount
from edittools.classifiers import Classifier, by_name
from edittools.cut import Cut, State, cut_all, states_at
from edittools.edits import Edit, applied_edits, check_same_before, unedited_fingerprint
from edittools.images import LabelledImages, in_batches
from edittools.metrics import Comparison, errors


class CachedStates:
    """Labelled images kept as their states at several layers, so that an edit is evaluated from its layer on.

    Edits that are applied to the model meanwhile are part of the states. `ValueError` is raised beyond a layer that was
    edited later, and when anything else has changed the model.
    """

    def __init__(
        self,
        cuts: Mapping[str, Cut],
        data: LabelledImages,
        batch_size: int = 64,
        progress: bool = False,
        in_memory: bool = True,
    ) -> None:
        """Run all images once; `cuts` come from one `cut_all`, in the network's order.

        Unless states stay `in_memory`, images are run from the start for each edit, which is slower.
        """
        if not cuts:
            raise ValueError("images kept at no layer: expected at least one cut, see cache_states")
        if not len(data):
            raise ValueError("no images to keep: expected at least one")
        self._classifier = next(iter(cuts.values())).classifier
        data = by_name("images to keep", data, self._classifier)
        self.cuts, self.labels, self._data, self._batch_size = cuts, data.labels, data, batch_size
        self._applied, self._fingerprints = applied_edits(self._classifier), self._fingerprints_now()
        self.states = states_at(cuts, data, batch_size, progress) if in_memory else None
        self._outputs: dict[str, tuple[tuple[int, ...], list[Tensor]]] = {}
        self.original = self.logits()
        self.before = errors(self.original, self.labels)

    def logits(self, edit: Edit | None = None, checked: bool = False) -> Tensor:
        """Return the logits `(N, classes)` with `edit` applied, computed from the first layer that it changes on.

        For an edit of one layer's weight, that layer's unedited output is kept as well, and only what the edit adds to
        it is computed. Where the model was `checked` a moment ago, its weights are not summed up again. Raises
        `ValueError` for an edit of another model, and one of what comes before the layers kept.
        """
        return torch.cat(list(self._parts(edit, checked)))

    def compare(self, edit: Edit, stop: Callable[[Tensor], bool] | None = None) -> Comparison | None:
        """Compare which images are misread before and with an edit.

        `stop` is told, batch after batch, which of the images so far are misread; where it says so, None comes back.
        """
        after = torch.zeros(0, dtype=torch.bool)
        with closing(self._parts(edit)) as parts:
            for logits in parts:
                after = torch.cat([after, errors(logits, self.labels[len(after) : len(after) + len(logits)])])
                if stop is not None and stop(after):
                    return None
        return Comparison(self.before, after)

    @torch.no_grad()
    def _parts(self, edit: Edit | None, checked: bool = False) -> Iterator[Tensor]:
        """Compute the logits batch by batch."""
        layers = list(self.cuts)
        start = next((layer for layer in layers if edit is not None and layer in edit.layers), layers[-1])
        cut = self.cuts[start]
        self._check_states(start, checked)
        if edit is None:
            yield from (cut.suffix(state).cpu() for state in self._states_at(start))
            return
        if edit.fingerprint != self._fingerprints[0] or edit.on_top_of:
            edit.check_fits(self._classifier)
        change = edit.changes.get(f"{start}.weight")
        if change is None or len(edit.changes) > 1:
            later = cut.later_parameters
            for name in edit.changes:
                if name not in later and (layer := name.rpartition(".")[0]) != start:
                    where = f"which is not behind {start!r}, where the images are kept: keep them at {layer!r} as well"
                    raise ValueError(f"{edit} changes {name!r}, {where}")
            parameters = {n: (p := cut.model.get_parameter(n)) + c.delta().to(p) for n, c in edit.changes.items()}
            yield from (forward(cut, state, parameters).cpu() for state in self._states_at(start))
            return
        pairs = self._unedited(start)
        yield from (cut.logits(s, output + change.added(cut, cut.keys(s))).cpu() for s, output in pairs)

    def _states_at(self, layer: str) -> Iterable[State]:
        if self.states is not None:
            return self.states[layer]
        return map(self.cuts[layer].prefix, in_batches(self._data, self._batch_size))

    def _unedited(self, layer: str) -> Iterable[tuple[State, Tensor]]:
        """Pair the states with what the layer makes of their keys with the weight and bias that it has now."""
        cut, states = self.cuts[layer], self._states_at(layer)
        if self.states is None:
            return ((state, cut.output(state)) for state in states)
        version = tuple(p._version for p in (cut.weight, cut.bias) if p is not None)
        if self._outputs.get(layer, (None,))[0] != version:
            self._outputs[layer] = version, [cut.output(state) for state in states]
        return zip(states, self._outputs[layer][1], strict=True)

    def _check_states(self, start: str, checked: bool) -> None:
        """Refuse states at a layer before which the model is no longer the same, or that edits alone do not explain."""
        if not checked and self._fingerprints_now() != self._fingerprints:
            raise ValueError(
                f"weights or buffers of the {type(self.cuts[start].model).__name__} were changed, by something "
                "else than an edit, since the images were kept: keep them again"
            )
        check_same_before(self.cuts[start], self._applied, "the images were kept")

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
    """Cut a classifier at `layers` and keep each named set of images at them: `(cuts, {name: CachedStates})`.

    Name those sets first that are read most often: what does not fit into memory is run from the start for each edit.
    """
    cuts, states, left = cuts or cut_all(classifier, layers), {}, memory_for_states(classifier.device)
    for name, images in data.items():
        bounds = name in ("budget", "keep")  # an edit that breaks one is given up after a few images
        size = min(64, max(8, len(images) // 16)) if bounds else 64
        needed = len(images) * bytes_of_states(cuts, images.images[:1]) if len(images) else 0
        states[name] = CachedStates(cuts, images, size, progress, in_memory=needed <= left)
        left -= needed if needed <= left else 0
    return cuts, states


@torch.no_grad()
def bytes_of_states(cuts: Mapping[str, Cut], image: Tensor) -> int:
    """Count the bytes that keeping an image `(1, 3, H, W)` at all cuts takes, with what each layer makes of it."""
    states = [state for [state] in states_at(cuts, image).values()]
    kept = [part for state in states for part in state]
    outputs = [cut.output(state) for cut, state in zip(cuts.values(), states, strict=True)]
    return sum({part.data_ptr(): part.nbytes for part in (*kept, *outputs)}.values())


def memory_for_states(device: torch.device) -> float:
    """Return how many bytes states may take: what `EDITTOOLS_MEMORY` says in GB, else half of the device's memory."""
    if said := os.environ.get("EDITTOOLS_MEMORY"):
        return 1e9 * check_amount(float(said) if said.replace(".", "", 1).isdigit() else said, "EDITTOOLS_MEMORY", 0)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 8e9


def trade_off(
    edits: Mapping[str, Edit], strengths: Sequence[float], target: CachedStates, kept: CachedStates
) -> pd.DataFrame:
    """Tabulate by `method` and `strength` the shares `errors corrected` on `target` and `kept broken` on `kept`."""
    rows = []
    for (name, edit), strength in product(edits.items(), strengths):
        gained, lost = target.compare(strength * edit).row(), kept.compare(strength * edit)
        row = {"method": name, "strength": strength, "errors corrected": gained["errors corrected"]}
        rows.append({**row, "kept broken": lost.broken / len(lost.before)})
    return pd.DataFrame(rows)


def report(edits: Mapping[str, Edit], states: Mapping[str, CachedStates]) -> pd.DataFrame:
    """Put methods beside each other: one row a method, evaluated on every set of images in `states`.

    `states["test"]` gives the figures of `Comparison.row` and the interval of errors corrected (`low`, `high`), every
    other set its `… before` and `… after` errors and its accuracy change in points (`… change`, `… low`, `… high`).
    """
    rows = {}
    for name, edit in edits.items():
        test = states["test"].compare(edit)
        row = test.row() | dict(zip(("low", "high"), test.corrected_interval(), strict=True))
        row.pop("accuracy change (points)")
        for other in [name for name in states if name != "test"]:
            found = states[other].compare(edit)
            low, high = found.accuracy_interval()
            row |= {f"{other} before": int(found.before.sum()), f"{other} after": int(found.after.sum())}
            row |= {f"{other} change": found.accuracy_change, f"{other} low": low, f"{other} high": high}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
