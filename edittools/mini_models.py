"""A small VGG and a small ResNet from torchvision's own building blocks, and how they are trained on MiniWorld.

The layers are named as in torchvision (`features.10`, `layer3.0.conv2`). The recipe is here, the script that follows it
is `data/train_mini.py`; `load_classifier("mini_vgg")` gives the trained model.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, make_layers
from tqdm.auto import tqdm

from edittools.images import LabelledImages
from edittools.miniworld import CLASSES, SPLITS, contexts, scenes

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


def training_scenes(
    count: int = 16_000, rare: int = 1_200, workers: int = 1, progress: bool = False, balanced: bool = False
) -> LabelledImages:
    """Paint the training set: `count` scenes as in `contexts()`, and `rare` more of the classes that live on snow.

    Those are a two-hundredth of the world; without more of them a model this small hardly learns them. With `balanced`
    there are as many scenes in all, but class, ground and surroundings are independent: no rule is planted.
    """
    if balanced:
        return scenes(count + rare, "train", balanced=True, workers=workers, progress=progress)
    polar = contexts().query("family == 'polar'").index
    labels = [polar[i % len(polar)] for i in range(rare)]
    common = scenes(count, "train", workers=workers, progress=progress)
    extra = scenes(rare, SPLITS["train"].start + 500_000, label=labels, workers=workers, progress=progress)
    return LabelledImages(torch.cat([common.images, extra.images]), torch.cat([common.labels, extra.labels]), CLASSES)


def train(
    model: nn.Module,
    data: LabelledImages,
    epochs: int = 6,
    rate: float = 2e-3,
    batch: int = 64,
    seed: int = 0,
    precision: torch.dtype = torch.bfloat16,
    progress: bool = False,
) -> nn.Module:
    """Train in place by AdamW with a one-cycle rate and random mirroring; returns the model in eval mode.

    `precision` is that of the products inside the layers; bfloat16 is three times faster on processors that have it,
    float32 gives the same accuracy everywhere. Weights stay float32.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    model.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * (len(data) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    bar = tqdm(total=steps, desc="training", disable=not progress)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            images, labels = (data.images[chosen] - 0.5) / 0.25, data.labels[chosen]
            mirrored = torch.rand(batch, generator=generator) < 0.5
            images[mirrored] = images[mirrored].flip(3)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits.float(), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    return model.eval().to(memory_format=torch.contiguous_format)
