"""The weights of a classifier at the beginning of a session, of which all that the session shows has to be."""

from collections.abc import Sequence

from edittools._ledger import Weights, ledger_of
from edittools.classifiers import Classifier, fingerprint_beside_weights
from edittools.cut import Cut, cut_all
from edittools.edits import Edit


class InitialWeights:
    """A copy of a classifier's weights, with which the classifier is compared later and cut at layers.

    Args:
        classifier: the classifier.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._weights = Weights(classifier)
        self._beside_weights = fingerprint_beside_weights(classifier)
        self._cuts: dict[str, Cut] = {}

    def check(self) -> None:
        """Check that the classifier still has these weights.

        Raises:
            ValueError: if weights, buffers or applied edits have changed.
        """
        if not self._are_current():
            raise ValueError(
                f"the weights or buffers of the {type(self._classifier.model).__name__} have changed since the images "
                "were loaded, by training, by an edit that was applied or undone, or by a change of precision; undo "
                "the change, or load the images again"
            )

    def are_below(self, edit: Edit) -> bool:
        """Return whether the classifier still has these weights, or these with an edit on top."""
        try:
            return self._are_current(edit)
        except ValueError:  # a parameter that an applied edit changes was also changed by something else
            return False

    def cut_at(self, layer: str) -> Cut:
        """Cut the classifier with these weights at a layer; the cuts are kept.

        Raises:
            KeyError: if there is no such layer.
        """
        return self.cuts_at([layer])[layer]

    def cuts_at(self, layers: Sequence[str]) -> dict[str, Cut]:
        """Cut the classifier with these weights at several layers; the cuts are kept.

        Raises:
            KeyError: if there is no such layer.
        """
        missing = [layer for layer in layers if layer not in self._cuts]
        self._cuts |= cut_all(self._classifier, missing, weights=self._weights)
        return {layer: self._cuts[layer] for layer in layers}

    def _are_current(self, edit: Edit | None = None) -> bool:
        if fingerprint_beside_weights(self._classifier) != self._beside_weights:
            return False
        with ledger_of(self._classifier) as ledger:
            fingerprints = list(ledger.fingerprints())
            applied = ledger.edits
        if fingerprints[0] == self._weights.fingerprint:
            return True
        is_own = edit is not None and bool(applied) and applied[-1].digest == edit.digest
        return is_own and fingerprints[-1] == self._weights.fingerprint  # that below the last edit
