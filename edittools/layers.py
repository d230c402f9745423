"""Which layers are worth editing."""

from collections.abc import Sequence

from torch import nn

from edittools.classifiers import Classifier
from edittools.cut import Cut, editable_layers, find_layer


def candidate_layers(classifier: Classifier) -> tuple[str, ...]:
    """List the names of the layers that are worth editing, from first to last: the convolutions, as in the paper.

    If a model has more linear layers on tokens or maps than convolutions, as a transformer has, the list holds these
    linear layers instead.
    """
    table = editable_layers(classifier)
    convolutions = table[table.in_paper]
    on_tokens = table[~table.in_paper & (table["keys"].map(len) > 1)]
    if len(on_tokens) > len(convolutions):
        return tuple(on_tokens.layer)
    return tuple(convolutions.layer) if len(convolutions) else tuple(table.layer)


def check_layers(classifier: Classifier, layers: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the layers of a search, each once and in the network's order.

    Args:
        layers: names of layers; None for `candidate_layers`.

    Raises:
        KeyError: if the model has no layer of that name.
        TypeError: if it is a single layer.
        ValueError: if there is no layer, or if one cannot be edited.
    """
    if layers is None:
        return candidate_layers(classifier)
    if isinstance(layers, str | nn.Module):
        raise TypeError(f"layers={layers!r} is a single layer; pass a list of layers")
    names = [find_layer(classifier.model, layer) for layer in layers]
    if not names:
        raise ValueError("layers=[] names no layer to edit; pass names that editable_layers(classifier) lists")
    in_order = editable_layers(classifier).layer.tolist()
    for name in names:
        if name not in in_order:
            Cut(classifier, name)  # refuses it, with the reason
    return tuple(sorted(set(names), key=in_order.index))
