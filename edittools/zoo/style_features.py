"""SqueezeNet's layers, by which style transfer compares pictures (`world.style_transfer`)."""

from collections.abc import Callable

from torch import Tensor

from edittools.zoo.imagenet import load_squeezenet

STYLE_LAYERS = (1, 4, 6, 7)
"""Of SqueezeNet 1.1's `features`: the first convolution, and Fire modules at an eighth and a 16th of the side."""


def squeezenet_features() -> Callable[[Tensor], list[Tensor]]:
    """Return what maps images `(B, 3, H, W)` in [0, 1] to the outputs `(B, C, h, w)` of SqueezeNet's `STYLE_LAYERS`."""
    classifier = load_squeezenet("squeezenet1_1").requires_grad_(False)

    def features(images: Tensor) -> list[Tensor]:
        states, found = classifier.normalise(images.clamp(0, 1)), []
        for number, layer in enumerate(classifier.model.features[: STYLE_LAYERS[-1] + 1]):
            states = layer(states)
            if number in STYLE_LAYERS:
                found.append(states)
        return found

    return features
