import importlib

import pytest
import torch
import torchvision
from conftest import randomise_norms
from torch import nn

from edittools._ledger import Weights
from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all, editable_layers, states_at
from edittools.layers import candidate_layers
from edittools_course.networks.embedded import MiniVGG, mini_vit

SIZE = 64  # the layers are those at 224, in a twelfth of the time


def _timm(name):
    return importlib.import_module("timm").create_model(name)


def _vit(num_classes, **options):
    """A transformer with a class token, two registers, layer scale and dropout."""
    shape = {"img_size": SIZE, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "reg_tokens": 2}
    extra = {"init_values": 0.5, "proj_drop_rate": 0.1, "drop_path_rate": 0.1}
    model = importlib.import_module("timm").models.vision_transformer.VisionTransformer
    return model(**shape, **extra, num_classes=num_classes, **options)


def _clip_visual():
    tower = importlib.import_module("open_clip.modified_resnet").ModifiedResNet
    return tower(layers=(1, 1, 1, 1), output_dim=1000, heads=4, image_size=SIZE, width=8)


def _densenet():
    return torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16)


def _convnext():
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(16, 32, 1), block(32, None, 2)], layer_scale=1.0)


def _torchvision_vit():
    return torchvision.models.VisionTransformer(SIZE, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


MODELS = {  # the code of well-known networks, with few and narrow blocks
    "resnet18": torchvision.models.resnet18,
    "densenet": _densenet,
    "convnext": _convnext,
    "torchvision's ViT": _torchvision_vit,
    "tf_efficientnet_lite0": lambda: _timm("tf_efficientnet_lite0"),
    "open_clip's ResNet": _clip_visual,
    "mini_vgg": lambda: MiniVGG(1000),
    "mini_vit": lambda: mini_vit(1000),
    "timm ViT with layer scale": lambda: _vit(num_classes=1000),
}
VALUE_ENDS = {  # where the block of a layer ends, read off the models' definitions
    ("mini_vgg", "features.15"): "max_pool2d",
    ("resnet18", "layer2.0.conv1"): "relu",
    ("resnet18", "layer4.1.conv2"): "relu",
    ("densenet", "features.denseblock2.denselayer2.conv1"): "relu",
    ("convnext", "features.3.1.block.3"): "gelu",
    ("torchvision's ViT", "encoder.layers.encoder_layer_1.mlp.3"): "add",
    ("tf_efficientnet_lite0", "blocks.4.0.conv_pw"): "hardtanh",
    ("open_clip's ResNet", "layer4.0.conv3"): "relu",
    ("mini_vit", "blocks.3.mlp.fc1"): "gelu",
    ("mini_vit", "blocks.3.attn.proj"): "add",
    ("timm ViT with layer scale", "blocks.0.attn.proj"): "add",
    ("timm ViT with layer scale", "blocks.0.mlp.fc2"): "add",
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_logits_of_well_known_networks(name):
    torch.manual_seed(0)
    model = randomise_norms(MODELS[name]())
    classifier = Classifier(model, [str(i) for i in range(1000)], size=SIZE)
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = classifier(images)
    ends = editable_layers(classifier).set_index("layer").value
    layers = ends.index.tolist()
    last_spatial = [layer for layer in layers if (name, layer) in VALUE_ENDS]
    cuts = cut_all(classifier, [layers[0], layers[len(layers) // 2], *last_spatial, layers[-1]])
    for cut, state in zip(cuts.values(), states_at(cuts, images).values(), strict=True):
        logits = cut.logits(state)
        own_weight = {f"{cut.layer}.weight": cut.weight.detach().clone()}
        assert torch.allclose(logits, expected, atol=1e-5, rtol=1e-4), cut.layer
        assert torch.equal(cut.logits(state, parameters=own_weight), logits), cut.layer
        assert torch.equal(cut.logits(state, cut.output(state)), logits), cut.layer
    for layer in last_spatial:
        assert ends[layer].rstrip("_0123456789") == VALUE_ENDS[name, layer].rstrip("0123456789")


@pytest.mark.parametrize("layer", ["stem", "conv1", "conv2", "head"])
@torch.no_grad()
def test_logits_with_changed_weight(tiny, photos32, layer):
    cut = Cut(tiny, layer)
    state = cut.prefix(photos32)
    weight = torch.randn(cut.weight.shape, generator=torch.Generator().manual_seed(3))
    logits = cut.logits(state, parameters={f"{layer}.weight": weight})
    cut.weight.copy_(weight)
    assert torch.allclose(logits, tiny(photos32), atol=1e-5)
    assert torch.allclose(cut.prefix(photos32)[0], state[0])


@torch.no_grad()
def test_value_and_pre_activation_of_residual_block(tiny, photos32):
    net = tiny.model
    cut = Cut(tiny, net.conv2)  # a module, too
    state = cut.prefix(photos32)
    x = net.relu(net.norm(net.stem(tiny.normalize(photos32))))
    y = net.norm2(net.conv2(net.relu(net.conv1(x)))) + x
    assert torch.allclose(cut.pre_activation(state, cut.output(state)), y, atol=1e-5)
    assert torch.allclose(cut.value(state), net.pool(net.relu(y)), atol=1e-5)


def test_editable_layers_kinds_and_shapes(tiny):
    table = editable_layers(tiny).set_index("layer")
    assert list(table.index) == ["stem", "conv1", "conv2", "head"]
    stem = table.loc["stem", ["kind", "weight", "keys", "output"]]
    assert stem.tolist() == ["conv 3x3", (8, 3, 3, 3), (3, 32, 32), (8, 16, 16)]
    assert table.kind.tolist() == ["conv 3x3", "conv 3x3", "conv 1x1", "linear"]


def test_editable_layers_prints_every_layer_and_column(monkeypatch):
    model = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(70)], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    table = editable_layers(Classifier(model, list("abc"), size=32))
    monkeypatch.setenv("COLUMNS", "40")
    printed = str(table).splitlines()
    assert len(printed) == 72 and printed[0].split() == list(table.columns)
    assert [line.split()[0] for line in printed[1:-1]] == table.layer.tolist()
    assert "pandas.DataFrame" in printed[-1]
    assert table._repr_html_().count("<tr") == 71


def test_candidate_layers_of_networks():
    def candidates(model, size=SIZE):
        return list(candidate_layers(Classifier(model, list("abcde"), size=size)))

    vgg = MiniVGG(5)
    assert candidates(vgg) == [name for name, module in vgg.named_modules() if isinstance(module, nn.Conv2d)]
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert candidates(_vit(num_classes=5)) == [
        f"blocks.{i}.{part}" for i in range(2) for part in parts
    ]  # no stem, no head
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 5))
    assert candidates(flat, size=8) == ["1", "3"]


@torch.no_grad()
def test_pre_activation_with_scale_and_square():
    class Scaled(nn.Module):
        def __init__(self, squared):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)
            self.gamma = nn.Parameter(torch.rand(4, 1, 1))
            self.squared = squared

        def forward(self, x):
            x = self.conv(x)
            x = x * x if self.squared else 2 * x.mul(self.gamma)
            return self.head(x.mean(dim=(2, 3)))

    images = torch.rand(2, 3, 8, 8)
    for squared in (False, True):
        cut = Cut(Classifier(Scaled(squared), list("ab"), size=8), "conv")
        state = cut.prefix(images)
        output = cut.output(state)
        expected = output if squared else 2 * output * cut.model.gamma
        assert torch.equal(cut.pre_activation(state, output), expected) and torch.equal(cut.value(state), expected)


def test_later_parameters_of_resnet():
    model = randomise_norms(torchvision.models.resnet18(num_classes=5))
    classifier = Classifier(model, list("abcde"), size=64)
    images = torch.rand(2, 3, 64, 64)
    names = [name for name, _ in model.named_parameters()]
    for layer in ("layer3.0.conv1", "layer3.0.conv2", "layer3.0.downsample.0"):
        start = names.index("layer3.0.conv1.weight")
        earlier = {*names[: start + 3 * layer.endswith("conv2")], f"{layer}.weight"}
        cut = Cut(classifier, layer)
        assert set(cut.later_parameters) == set(names) - earlier
        with torch.no_grad():
            changed = {name: torch.rand_like(model.get_parameter(name)) for name in cut.later_parameters}
            expected = torch.func.functional_call(model, changed, (classifier.normalize(images),))
            state = cut.prefix(images)
            logits = cut.logits(state, parameters=changed)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_later_parameters_of_bare_parameters():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 3, 1)
            self.conv = nn.Conv2d(3, 3, 1)
            self.head = nn.Linear(3, 2)
            self.gain = nn.Parameter(torch.rand(1))
            self.shift = nn.Parameter(torch.rand(1))

        def forward(self, x):
            x = self.stem(x) + self.shift
            return self.head((self.conv(x.relu()) + self.gain * x + self.shift).mean(dim=(2, 3)))

    classifier = Classifier(Gated(), list("ab"), size=8)
    images = torch.rand(2, 3, 8, 8)
    cut = Cut(classifier, "conv")
    assert set(cut.later_parameters) == {"gain", "head.weight", "head.bias"}
    logits = cut.logits(cut.prefix(images), parameters={"gain": torch.zeros(1)})
    classifier.model.gain.zero_()
    torch.testing.assert_close(logits, classifier(images))


@pytest.mark.parametrize("size", [32, (32,), (32, 32, 3), (32, 0), "32"])
def test_cut_of_a_size_that_is_not_allowed(tiny, size):
    with pytest.raises(ValueError, match="32"):
        Cut(tiny, "conv1", size)


def test_cut_with_a_copy_of_the_weights_does_not_depend_on_the_model_afterwards(tiny, photos32):
    cut = Cut(tiny, "conv1", weights=Weights(tiny))
    [*before] = cut.prefix(photos32[:4])
    tiny.mean.add_(0.1)
    tiny.half()
    [*after] = cut.prefix(photos32[:4])
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_logits_with_a_parameter_that_the_model_does_not_have(tiny, photos32):
    cut = Cut(tiny, "conv1")
    with pytest.raises(KeyError, match="'weight'.*'conv1.weight'"):
        cut.logits(cut.prefix(photos32[:2]), parameters={"weight": cut.weight})


class _SharedWeight(nn.Module):
    """Two linear layers after a convolution, with one weight."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(self.conv(x).relu().mean(dim=(2, 3))))


def test_logits_with_a_shared_parameter_by_the_first_of_its_names(photos32):
    cut = Cut(Classifier(_SharedWeight(), list("abcd"), size=32), "conv")
    state = cut.prefix(photos32[:2])
    assert not cut.logits(state, parameters={"first.weight": torch.zeros(4, 4)}).any()
    with pytest.raises(KeyError, match="'second.weight'"):
        cut.logits(state, parameters={"second.weight": torch.zeros(4, 4)})
