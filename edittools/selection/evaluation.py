"""What an edit, a random direction, or another network does to images that were not used to select it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.methods import METHODS, RANDOM
from edittools.metrics import Comparison, misclassified, predict
from edittools.selection.constraints import COST_SPLITS
from edittools.selection.search import Search, Selection
from edittools.selection.splits import RETAINED

DRAWS = 3
"""The number of draws of random directions with default settings, whose mean an edit has to surpass."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an edit does to images that were not used to select it.

    Attributes:
        target: comparison of the images with the concept; None if none was held out.
        clean: comparison of the clean images; None if none was held out.
        retained: comparison of each retained set, by name; None where no image was held out.
        own_class: comparison of the images with the concept that belong to its own class; None if there are none.
        scenes: number of each target image's scene, `(N,)`; None if each image counts alone.
    """

    target: Comparison | None
    clean: Comparison | None
    retained: Mapping[str, Comparison | None] = field(default_factory=dict)
    own_class: Comparison | None = None
    scenes: Tensor | None = None

    @classmethod
    def of(cls, search: Search, selection: Selection) -> "Evaluation":
        """Measure a selected edit on images that were not used to select it.

        If there is a split `target_test`, these are the splits for evaluation. Otherwise they are the images for
        selection by cross-validation, each with the edit that was selected without it.

        Args:
            search: the search.
            selection: the selection.
        """
        if "target_test" not in search.activations:
            return cls.of_comparisons(search, selection.held_out)
        comparisons = {}
        for name in ("target", "clean", "retain"):
            test = f"{name}_test"
            if test in search.activations:
                comparisons[name] = search.activations[test].compare(selection.edit)
        return cls.of_comparisons(search, comparisons)

    @classmethod
    def of_network(cls, search: Search, classifier: Classifier) -> "Evaluation":
        """Measure another network, such as one that was trained elsewhere, on the same images as a selected edit.

        Args:
            search: the search.
            classifier: the other network, with the same classes.

        Raises:
            ValueError: if its classes are others.
        """
        if tuple(classifier.classes) != tuple(search.classifier.classes):
            raise ValueError(
                f"the alternative has {len(classifier.classes)} classes, which are not the "
                f"{len(search.classifier.classes)} of the classifier; pass a network with the same classes in the same "
                "order"
            )
        suffix = "_test" if "target_test" in search.activations else ""
        comparisons = {}
        for name in ("target", *COST_SPLITS):
            split = f"{name}{suffix}"
            if split in search.activations:
                cached = search.activations[split]
                after = misclassified(predict(classifier, search.splits.labeled[split]), cached.labels)
                comparisons[name] = Comparison(cached.before, after)
        return cls.of_comparisons(search, comparisons)

    @classmethod
    def of_comparisons(
        cls, search: Search, comparisons: Mapping[str, Comparison], images: Mapping[str, Tensor] | None = None
    ) -> "Evaluation":
        """Name the comparisons of the splits of a search, or of their test splits.

        Args:
            search: the search.
            comparisons: the comparisons by the name of the split, without "_test".
            images: which images of each split they are of, `(N,)` booleans by name; by default, all.
        """
        splits = search.splits
        retained: dict[str, Comparison | None] = {}
        if "retain" in comparisons:
            whole = comparisons["retain"]
            is_joined = "target_test" not in search.activations and splits.retain_sets
            everything = {RETAINED: torch.ones_like(whole.before if images is None else images["retain"])}
            for name, members in (splits.retain_sets if is_joined else everything).items():
                is_member = members if images is None else members[images["retain"]]
                member = Comparison(whole.before[is_member], whole.after[is_member])
                retained[name] = member if is_member.any() else None
        elif splits.retain is not None or splits.retain_sets:
            retained = dict.fromkeys(splits.retain_sets or [RETAINED])
        scenes = None if "target_test" in search.activations else splits.scenes
        if scenes is not None and images is not None:
            scenes = scenes[images["target"]]
        parts = [comparisons.get(name) for name in ("target", "clean")]
        return cls(*parts, retained, comparisons.get("own_class"), scenes)

    def on(self, search: Search, images: Mapping[str, Tensor]) -> "Evaluation":
        """Return the evaluation on some of the images for selection, `(N,)` booleans by the name of the split."""
        parts = {"target": self.target, "clean": self.clean, "retain": self.all_retained, "own_class": self.own_class}
        comparisons = {}
        for name, whole in parts.items():
            if whole is not None:
                comparisons[name] = Comparison(whole.before[images[name]], whole.after[images[name]])
        return Evaluation.of_comparisons(search, comparisons, images)

    @property
    def all_retained(self) -> Comparison | None:
        """The comparison of all retained images; None if there are none."""
        measured = [comparison for comparison in self.retained.values() if comparison is not None]
        if not measured:
            return None
        before = torch.cat([comparison.before for comparison in measured])
        return Comparison(before, torch.cat([comparison.after for comparison in measured]))

    def row(self) -> dict[str, Any]:
        """Tabulate the evaluation, as in `Assessment.table`."""
        row: dict[str, Any] = {}
        if self.target is not None:
            low, high = self.target.corrected_interval()
            row["errors"] = int(self.target.before.sum())
            row["corrected"] = self.target.corrected
            row["broken"] = self.target.broken
            row["share"] = self.target.errors_corrected
            row["low"] = low
            row["high"] = high
        if self.clean is not None:
            low, high = self.clean.accuracy_interval()
            row["accuracy change"] = self.clean.accuracy_change
            row["accuracy low"] = low
            row["accuracy high"] = high
        retained = self.all_retained
        if retained is not None:
            row["retained"] = int((~retained.before).sum())
            row["retained broken"] = retained.broken
        return row


def random_directions(search: Search, selection: Selection) -> list[Comparison]:
    """Edit along random directions, with default settings, in the layers that were selected.

    They are evaluated on the same images with the concept as the selected edit: with cross-validation, each fold has
    the layer that was selected without it.

    Args:
        search: the search.
        selection: the selection.

    Returns:
        One comparison for each of `DRAWS` draws; none if no image was held out, or if the exemplars are not known.
    """
    name = "target_test" if "target_test" in search.activations else "target"
    if name == "target" and not selection.held_out:
        return []
    before = search.activations[name].before
    comparisons = []
    for seed in range(DRAWS):
        after = before.clone()
        with_draw: dict[tuple[str, str], Tensor] = {}  # by layer and exemplar, which folds may share
        parts = [(torch.ones_like(before), selection)]
        if name == "target":
            folds = search.splits.folds[name]
            parts = [(folds == fold, one) for fold, one in zip(search.folds, selection.fold_selections, strict=True)]
        for is_member, selected in parts:
            if not selected.feasible:
                continue
            layer, exemplar = selected.params.get("layer", ""), selected.params.get("exemplar", "")
            if exemplar not in search.exemplars or layer not in search.cuts:
                return []
            if (layer, exemplar) not in with_draw:
                site = search.site(layer, search.exemplars[exemplar])
                [edit] = METHODS[RANDOM].draw(seed).edits(site, seed=seed)
                with_draw[layer, exemplar] = search.activations[name].compare(edit).after
            after[is_member] = with_draw[layer, exemplar][is_member]
        comparisons.append(Comparison(before, after))
    return comparisons
