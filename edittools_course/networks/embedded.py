"""Load the models trained by this project: a small VGG, ResNet and ViT for MiniWorld, and a CLIP that can read.

The layers are named as in torchvision (`features.10`, `layer3.0.conv2`), timm (`blocks.4.mlp.fc1`) and open_clip.
`data/train_mini.py` and `data/train_mini_clip.py` train them; the weights are in the same folder.
"""

import json
from collections.abc import Callable

from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, make_layers

from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools_course.networks.zero_shot import ByteTokenizer, zero_shot_classifier
from edittools_course.shipped import shipped

SIZE = 64
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
VGG_PLAN = (24, "M", 48, 48, "M", 96, 96, "M", 128, 128, "M")
RESNET_WIDTHS = {64: 24, 128: 48, 256: 96, 512: 128}

CLIP_SIZE = 96
CLIP_CLASSES = tuple(
    "teapot mug vase bottle lamp iPod clock bowl jar book candle plant radio orange pizza toaster library piano".split()
)
"""The class names of `load_classifier("mini_clip")`: thirteen objects, and five things that occur only as words."""


class MiniVGG(VGG):
    """torchvision's VGG, without batch norm, for 64×64 images: seven narrow convolutions, one hidden linear layer.

    The convolutions repeat the border of the image instead of padding with zeros. Next to zeros, the ground looks
    different, and the network would learn to recognize snow there.
    """

    def __init__(self, num_classes: int) -> None:
        super(VGG, self).__init__()
        self.features = make_layers(list(VGG_PLAN))
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(4 * VGG_PLAN[-2], 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(256, num_classes),
        )
        _initialize(self)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "replicate"


class MiniResNet(ResNet):
    """torchvision's ResNet-18 with narrower layers and, for 64×64 images, a 3×3 stem without pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        width = RESNET_WIDTHS[64]
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(RESNET_WIDTHS[512], num_classes)
        _initialize(self)

    def _make_layer(
        self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:
            self.inplanes = RESNET_WIDTHS[64]
        return super()._make_layer(block, RESNET_WIDTHS[planes], blocks, stride, dilate)


def mini_vit(num_classes: int) -> nn.Module:
    """Build timm's VisionTransformer for 64×64 images: 8×8 patches, five blocks of width 128, mean over tokens."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIZE,
        patch_size=8,
        embed_dim=128,
        depth=5,
        num_heads=4,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
        weight_init="jax",
        num_classes=num_classes,
    )


def _initialize(model: nn.Module) -> None:
    """Initialize the convolutions of a model, as torchvision does."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


MINI: dict[str, Callable[[int], nn.Module]] = {
    "mini_vgg": MiniVGG,
    "mini_resnet": MiniResNet,
    "mini_vgg_balanced": MiniVGG,
    "mini_vit": mini_vit,
}
"""The function that builds each small model, untrained, for a number of classes."""


def mini_clip() -> nn.Module:
    """Build an untrained CLIP of 3.1 million weights: ModifiedResNet for 96×96 images, text transformer over bytes."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=(2, 2, 2, 2), width=20, image_size=CLIP_SIZE)
    text = CLIPTextCfg(context_length=40, vocab_size=ByteTokenizer.vocab_size, width=128, heads=4, layers=2)
    model = CLIP(embed_dim=128, vision_cfg=vision, text_cfg=text)
    model.visual.image_mean = MEAN
    model.visual.image_std = STD
    return model


def load_mini(name: str) -> Classifier:
    """Load a small model that this project trained on MiniWorld (`data/train_mini.py`)."""
    path = shipped(f"{name}.safetensors")
    with safe_open(path, "pt") as file:
        classes = json.loads(file.metadata()["classes"])
    model = MINI[name](len(classes))
    model.load_state_dict(load_file(path))  # half-precision weights become float32
    return Classifier(model, classes, MEAN, STD, SIZE)


def load_mini_clip(name: str, progress: Progress | None = None) -> Classifier:
    """Load a small CLIP that this project trained on objects and written words (`data/train_mini_clip.py`).

    Args:
        name: the name of its file of weights.
        progress: a class like `tqdm.tqdm`, for a bar while embedding the names.
    """
    clip = mini_clip()
    clip.load_state_dict(load_file(shipped(f"{name}.safetensors")))
    return zero_shot_classifier(clip.eval(), ByteTokenizer(clip.context_length), CLIP_CLASSES, progress)
