"""Map where a layer argues for one class against another: gradient × activation.

    cut = Cut(classifier, "features.10")
    heat = evidence_map(cut, image, predicted, label)     # (H, W); positive: for `predicted`

The map suggests where to look. To test whether that place misleads the classifier, replace it, as an exemplar does.
"""

import torch
from torch import Tensor

from edittools._image_checks import check_image
from edittools.cut import Cut, State


def evidence_map(cut: Cut, image: Tensor, favored: int, against: int) -> Tensor:
    """Map where the output of a layer supports a class against another one.

    With z the layer's output without its bias, and m the logit of `favored` minus that of `against`, each position of
    the output has the sum over channels of z · ∂m/∂z. If everything after the layer is linear, these numbers add up to
    m without what biases contribute.

    Args:
        cut: the classifier, cut at the layer for images of this size.
        image: `(3, H, W)` in [0, 1].
        favored: the index of the class, such as the one that is predicted.
        against: the index of the other class, such as the correct one.

    Returns:
        The map `(H, W)` on the CPU: positive where the layer argues for `favored`, negative where it argues for
        `against`, and 0 outside of the area that the layer sees.

    Raises:
        IndexError: if there is no such class.
        ValueError: if both classes are the same, or if the image has another size than the cut.
    """
    image = check_image(image)
    count = len(cut.classifier.classes)
    for index in (favored, against):
        if isinstance(index, str) or not 0 <= index < count:
            raise IndexError(f"class {index!r} does not exist; pass an index from 0 to {count - 1}")
    if favored == against:
        raise ValueError(f"both classes are {favored}; pass two classes")
    state = cut.prefix(image[None])
    with torch.enable_grad():
        output = cut.output(state).detach().requires_grad_()
        logits = cut.logits(state, output)[0]
        margin = logits[favored] - logits[against]
        (gradient,) = torch.autograd.grad(margin, [output])
    activation = output.detach()
    if cut.bias is not None:
        bias = cut.bias.detach().to(activation)
        activation = activation - (bias if cut.is_linear else bias[:, None, None])
    evidence = (activation * gradient).sum(dim=cut.channels)
    return cut.to_image(evidence.float())[0].cpu()


def evidence_of_keys(cut: Cut, state: State, favored: Tensor, against: Tensor) -> Tensor:
    """Map where the keys of a layer support a class against another one, for a batch of images.

    Unlike `evidence_map`, this counts everything that the keys do, including what a residual connection adds to the
    layer's output, if the layer is the first one of its block.

    Args:
        state: the state of B images at the layer, see `Cut.prefix`.
        favored: the index of each image's class, `(B,)`.
        against: the index of each image's other class, `(B,)`.

    Returns:
        The maps `(B, H, W)` on the CPU, see `evidence_map`.
    """
    with torch.enable_grad():
        keys = cut.keys(state).detach().requires_grad_()
        logits = cut.logits((keys, *state[1:])).cpu()
        numbers = torch.arange(len(logits))
        margin = logits[numbers, favored] - logits[numbers, against]
        (gradient,) = torch.autograd.grad(margin.sum(), [keys])
    evidence = (keys.detach() * gradient).sum(dim=cut.channels)
    return cut.to_image(evidence.float(), "keys").cpu()
