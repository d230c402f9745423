"""Map where a layer argues for one class against another: gradient × activation.

    cut = Cut(classifier, "features.10")
    heat = evidence_of_keys(cut, cut.prefix(images), predicted, labels)     # (B, H, W); positive: for `predicted`

The map suggests where to look. To test whether that place misleads the classifier, replace it, as an exemplar does.
"""

import torch
from torch import Tensor

from edittools.cut import Cut, State


def evidence_of_keys(cut: Cut, state: State, favored: Tensor, against: Tensor) -> Tensor:
    """Map where the keys of a layer support a class against another one, for a batch of images.

    With k the keys, and m the logit of `favored` minus that of `against`, each position has the sum over channels of
    k · ∂m/∂k. If everything from the layer on is linear, these numbers add up to m without what biases contribute. They
    count everything that the keys do, including what a residual connection adds to the layer's output, if the layer is
    the first one of its block.

    Args:
        state: the state of B images at the layer, see `Cut.prefix`.
        favored: the index of each image's class, `(B,)`, such as the one that is predicted.
        against: the index of each image's other class, `(B,)`, such as the correct one.

    Returns:
        The maps `(B, H, W)` on the CPU: positive where the layer argues for `favored`, negative where it argues for
        `against`, and 0 outside of the area that the layer sees.
    """
    with torch.enable_grad():
        keys = cut.keys(state).detach().requires_grad_()
        logits = cut.logits((keys, *state[1:])).cpu()
        numbers = torch.arange(len(logits))
        margin = logits[numbers, favored] - logits[numbers, against]
        (gradient,) = torch.autograd.grad(margin.sum(), [keys])
    evidence = (keys.detach() * gradient).sum(dim=cut.channels)
    return cut.to_image(evidence.float(), "keys").cpu()
