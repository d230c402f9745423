"""The labeled splits of a search, cached at its layers."""

from collections.abc import Collection, Sequence

from edittools._ledger import Weights
from edittools._progress import Progress
from edittools.activations import CachedActivations, StateMemory, cache_activations, memory_for_states
from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.moments import measure
from edittools.selection.splits import Splits
from edittools.site import LayerReference


class SplitActivations(dict[str, CachedActivations]):
    """The labeled splits by name, cached at the layers of a search, with one copy of the weights.

    Attributes:
        splits: the splits.
        cuts: the cut at each layer, in the network's order.
        memory: keeps the states of all splits.
        reference: what the reference images say about each layer, by the layer's name.
    """

    def __init__(
        self,
        classifier: Classifier,
        layers: Sequence[str],
        splits: Splits,
        progress: Progress | None = None,
        shared: "SplitActivations | None" = None,
        kept: Collection[str] | None = None,
    ) -> None:
        """Run all splits once.

        Args:
            classifier: the classifier.
            layers: names of the layers, in the network's order.
            splits: the image sets.
            progress: a class like `tqdm.tqdm`, for bars.
            shared: activations of the same classifier at the same layers. What they hold of the same sets is taken
                over, with the copy of the weights that they were computed with.
            kept: names of the layers at which states are kept from the beginning; by default all of them.

        Raises:
            ValueError: if `shared` is of another classifier or of other layers.
        """
        super().__init__()
        self.splits = splits
        self.cuts = cut_all(classifier, layers, weights=Weights(classifier)) if shared is None else shared.cuts
        if any(cut.classifier is not classifier for cut in self.cuts.values()) or list(self.cuts) != list(layers):
            raise ValueError(
                f"The activations are cached at {list(self.cuts)}, which are not the layers {list(layers)} of this "
                "classifier; share activations of one classifier at the same layers"
            )
        taken_over = {}
        new = {}
        for name, data in splits.labeled.items():
            if shared is not None and shared.splits.labeled.get(name) is data:
                taken_over[name] = shared[name]
            else:
                new[name] = data
        self.memory = StateMemory(memory_for_states(classifier.device), layers if kept is None else kept)
        if shared is not None:
            self.memory = shared.memory
        cached = cache_activations(self.cuts, new, ("clean", "retain", "own_class"), progress, self.memory)
        for name in splits.labeled:
            self[name] = taken_over[name] if name in taken_over else cached[name]
        self.reference: dict[str, LayerReference] = {}
        if shared is not None and shared.splits.reference is splits.reference:
            self.reference = shared.reference
        else:
            moments = measure(self.cuts, splits.reference, progress)
            for layer, cut in self.cuts.items():
                self.reference[layer] = LayerReference(cut, splits.reference, moments[layer])
