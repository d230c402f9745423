"""Map where a layer argues for one class against another: gradient × activation.

    heat = evidence_map(classifier, "features.10", image, predicted, label)     # (H, W); positive: for `predicted`

The map is a suggestion where to look. Whether the place misleads is tested by replacing it, as an exemplar does.
"""

import torch
from torch import Tensor, nn

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.images import check_image


def evidence_map(
    classifier: Classifier, layer: str | nn.Module | Cut, image: Tensor, favored: int | str, against: int | str
) -> Tensor:
    """Map where the output of a layer supports a class against another one.

    With z the layer's output without its bias, and m the logit of `favored` minus that of `against`, each position of
    the output has the sum over channels of z · ∂m/∂z. If everything after the layer is linear, these numbers add up to
    m without what biases contribute.

    Args:
        classifier: the classifier; it is not changed.
        layer: name of the layer, its module, or a `Cut` of it for images of this size.
        image: `(3, H, W)` in [0, 1].
        favored: the class, as its index or its name, such as the one that is predicted.
        against: the other class, such as the correct one.

    Returns:
        The map `(H, W)` on the CPU: positive where the layer argues for `favored`, negative where it argues for
        `against`, and 0 outside of what the layer sees.

    Raises:
        KeyError: if there is no such layer or class.
        ValueError: if both classes are the same, if the layer cannot be cut, or if the image has another size than the
            cut.
    """
    image = check_image(image)
    cut = layer if isinstance(layer, Cut) else Cut(classifier, layer, tuple(image.shape[1:]))
    indices = [_class_index(cut.classifier, name) for name in (favored, against)]
    if indices[0] == indices[1]:
        raise ValueError(f"the classes {favored!r} and {against!r} are the same; pass two classes")
    state = cut.prefix(image[None])
    with torch.enable_grad():
        output = cut.output(state).detach().requires_grad_()
        logits = cut.logits(state, output)[0]
        margin = logits[indices[0]] - logits[indices[1]]
        (gradient,) = torch.autograd.grad(margin, [output])
    activation = output.detach()
    if cut.bias is not None:
        bias = cut.bias.detach().to(activation)
        activation = activation - (bias if cut.is_linear else bias[:, None, None])
    evidence = (activation * gradient).sum(dim=cut.channels)
    return cut.to_image(evidence.float())[0].cpu()


def _class_index(classifier: Classifier, name: int | str) -> int:
    """Return the index of a class that is given by its index or its name."""
    if isinstance(name, str):
        return classifier.index(name)
    if not 0 <= name < len(classifier.classes):
        raise KeyError(f"class {name} does not exist; pass an index from 0 to {len(classifier.classes) - 1}")
    return int(name)
