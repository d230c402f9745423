"""A small VGG and a small ResNet from torchvision's own building blocks, for MiniWorld.

The layers are named as in torchvision (`features.10`, `layer3.0.conv2`). `data/train_mini.py` trains them;
`load_classifier("mini_vgg")` gives the trained model.
"""

from collections.abc import Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, make_layers

SIZE, MEAN, STD = 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
VGG_PLAN = (24, "M", 48, 48, "M", 96, 96, "M", 128, 128, "M")
RESNET_WIDTHS = {64: 24, 128: 48, 256: 96, 512: 128}


class MiniVGG(VGG):
    """torchvision's VGG (no batch norm) for 64×64 images: seven narrow convolutions and one hidden linear layer."""

    def __init__(self, num_classes: int, plan: Sequence[int | str] = VGG_PLAN) -> None:
        """Build it from torchvision's `make_layers`, with He initialisation."""
        super(VGG, self).__init__()
        self.features = make_layers(list(plan))
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        hidden = [nn.Linear(4 * plan[-2], 256), nn.ReLU(inplace=True), nn.Dropout(0.3)]
        self.classifier = nn.Sequential(*hidden, nn.Linear(256, num_classes))
        _initialise(self)


class MiniResNet(ResNet):
    """torchvision's ResNet-18 with narrower layers, and for 64×64 images a 3×3 stem without pooling."""

    def __init__(self, num_classes: int) -> None:
        """Build it from torchvision's `BasicBlock`, with He initialisation."""
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        width = RESNET_WIDTHS[64]
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(RESNET_WIDTHS[512], num_classes)
        _initialise(self)

    def _make_layer(
        self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:
            self.inplanes = RESNET_WIDTHS[64]
        return super()._make_layer(block, RESNET_WIDTHS[planes], blocks, stride, dilate)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def mini_vgg(num_classes: int) -> MiniVGG:
    """Build an untrained `MiniVGG`: 0.55 million weights."""
    return MiniVGG(num_classes)


def mini_resnet(num_classes: int) -> MiniResNet:
    """Build an untrained `MiniResNet`: 0.97 million weights."""
    return MiniResNet(num_classes)
