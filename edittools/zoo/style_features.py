"""What style transfer compares pictures by, with weights that are at hand (`world.style_transfer`)."""

from edittools.world.network_features import NetworkFeatures
from edittools.zoo.imagenet import load_squeezenet

STYLE_LAYERS = ("features.1", "features.4", "features.6", "features.7")
"""Of SqueezeNet 1.1: the first convolution, and Fire modules at an eighth and a 16th of the picture's side."""


def squeezenet_features() -> NetworkFeatures:
    """SqueezeNet 1.1's features, of real weights, small enough for a CPU; it must be had as `load_squeezenet` says."""
    return NetworkFeatures(load_squeezenet("squeezenet1_1").requires_grad_(False), STYLE_LAYERS)
