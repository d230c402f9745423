"""Features for style transfer from the layers of a classifier, such as SqueezeNet's (Gatys et al., 2016)."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from edittools.classifiers import Classifier


class NetworkFeatures(nn.Module):
    """The outputs of a classifier's layers: images `(B, 3, H, W)` in [0, 1] to a list of maps `(B, C, h, w)`."""

    def __init__(self, classifier: Classifier, layers: Sequence[str]) -> None:
        """Take the outputs of `layers`, by name; raise `ValueError` for a layer that the model does not have."""
        super().__init__()
        known = dict(classifier.model.named_modules())
        if unknown := [layer for layer in layers if layer not in known]:
            raise ValueError(f"layers {unknown} of {classifier}: expected names such as {list(known)[1:4]}")
        network = copy.deepcopy(classifier.model)
        for module in network.modules():
            if hasattr(module, "inplace"):
                module.inplace = False  # it would change the output of the layer before, which may be asked for
        self.normalise, self.layers = classifier.normalise, tuple(layers)
        self.scaling = (*classifier.mean.flatten().tolist(), *classifier.std.flatten().tolist())
        self.network = create_feature_extractor(network, list(layers))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of the layers, in their order."""
        return list(self.network(self.normalise(images.clamp(0, 1))).values())
