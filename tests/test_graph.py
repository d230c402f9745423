"""The exported graph: it computes what the model computes, whatever the model does to its tensors, or is refused."""

import copy
import gc
import importlib
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TinyNet, make_exemplar, randomise_norms
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm  # the last two are of hooks

from edittools._graph import export_of
from edittools._ledger import Weights
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, cut_all, editable_layers, states_at
from edittools.edits import Change, Edit
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.moments import second_moments
from edittools.rewriting import rewrite
from edittools.selection.select import select
from edittools.states import States

BORDER = (0, 1, 2, 1)


def classifier_of(body, *, width=8, size=16):
    """Three convolutions around a `body` that is given maps, and a head."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, width, 3, padding=1), body, nn.Conv2d(width, width, 3, padding=1))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    return Classifier(model, list("abcd"), size=size)


class Step(nn.Module):
    """A function as a module, with a convolution that it may call and state that is no tensor."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.pos = nn.Parameter(torch.rand(8, 1, 1))
        self.function = function

    def forward(self, x):
        return self.function(self, x)

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


def images_of(count=4, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_exact_everywhere(classifier, images):
    """Each listed layer, its state used again and again, gives the model's own logits bit for bit."""
    expected = classifier(images)
    cuts = cut_all(classifier, editable_layers(classifier).layer.tolist())
    for cut, state in zip(cuts.values(), states_at(cuts, images).values(), strict=True):
        for _ in range(3):
            assert torch.equal(cut.logits(state), expected), cut.layer
        assert len(cut.value(state)) == len(images)
    return cuts


def scaled_in_place(self, x):
    """Work in place, and then branch on a size, which 0.2 could not trace."""
    x.mul_(2)
    x += self.pos
    return self.conv(x) if x.shape[1] == 8 else x


def statement(self, x):
    h = self.conv(x)
    torch.relu_(h)
    return h + x


def out_of(self, x):
    h = self.conv(x)
    torch.mul(h, 2.0, out=h)
    return h


def next_to(view):
    def function(self, x):
        h = self.conv(x)
        same = view(h)
        h += 1.0
        return h + same.reshape(h.shape)

    return function


def in_place_on_a_half(self, x):
    x = self.conv(x)
    first, _ = x.chunk(2, dim=1)
    first.relu_()
    return x


def in_place_next_to_dropout(self, x):
    """Where a write is left, the graph is made functional by torch, to which dropout would be a fresh tensor."""
    x = self.conv(x)
    same = F.dropout(x, training=self.training)
    first, _ = same.chunk(2, dim=1)
    first.relu_()
    return x + same


def without_autocast(self, x):
    with torch.autocast("cpu", enabled=False):
        y = F.dropout(self.conv(x).relu_(), training=self.training)
        z = y.float() + self.pos
    return y + z


class NormNextToHalf(nn.Module):
    """A norm that torch makes functional, as one of several results."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x)).relu() + in_place_on_a_half(self, x)


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.skip = nn.Identity()

    def forward(self, x):
        return self.skip(x) + self.conv(self.relu(x))


VIEWS = {
    "identity": nn.Identity(),
    "dropout": nn.Dropout(0.5).eval(),
    "dropout in place": nn.Dropout(0.5, inplace=True).eval(),
    "reshape": lambda h: h.reshape(h.shape[0], -1),
    "contiguous": lambda h: h.contiguous(),
    "flatten": lambda h: h.flatten(1),
    "alias": lambda h: h,
    "chunk": lambda h: torch.cat(h.chunk(2, dim=1), dim=1),
}
BODIES = {
    "in place, with Python": Step(scaled_in_place),
    "a statement": Step(statement),
    "out=": Step(out_of),
    "a half": Step(in_place_on_a_half),
    "a layer called by keyword": Step(lambda self, x: self.conv(input=x)),
    "a half next to dropout": Step(in_place_next_to_dropout),
    "without autocast": Step(without_autocast),
    "a norm next to a half": NormNextToHalf(),
    "pre-activation": nn.Sequential(PreActivation(), PreActivation()),
    **{f"next to {name}": Step(next_to(view)) for name, view in VIEWS.items()},
}


@pytest.mark.parametrize("name", BODIES)
def test_cut_of_in_place_operations(name):
    classifier = classifier_of(copy.deepcopy(BODIES[name]))
    cuts = assert_exact_everywhere(classifier, images_of())
    data = LabeledImages(images_of(), torch.zeros(4).long(), list("abcd"))
    cached = States(cuts, data)
    torch.testing.assert_close(cached.original, predict(classifier, images_of()), rtol=0, atol=0)
    no_change = Edit({"2.weight": Change(torch.zeros(8, 8, 3, 3))}, fingerprint(classifier.model))
    for _ in range(3):
        torch.testing.assert_close(cached.logits(no_change), cached.original, rtol=0, atol=0)


class Scaled(Step):
    """A step that reads a parameter of a module of which nothing is called."""

    def __init__(self):
        super().__init__(lambda self, x: x * self.inner.pos)
        self.inner = Step(None)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda self, x: x.reshape(2, 8, 16, 16), "number of images"),
        (lambda self, x: torch.stack([x[i] for i in range(len(x))]), "number of images"),
        (lambda self, x: self.conv(x) if float(x.mean()) > 0 else x, "branches on the values"),
    ],
)
def test_editable_layers_of_data_dependent_model(function, reason):
    classifier = classifier_of(nn.Sequential(Scaled(), Step(function)))
    names = list(classifier.state_dict())
    with pytest.raises(ValueError, match=f"Sequential.*{reason}"):
        editable_layers(classifier)
    assert list(classifier.state_dict()) == names


SETTINGS = {
    "private attribute": lambda m, scale: setattr(m, "_scale", scale),
    "plain tensor": lambda m, scale: setattr(m, "_scale", torch.tensor(scale)),
    "closure": lambda m, scale: setattr(m, "step", lambda x: x * scale),
    "default argument": lambda m, scale: setattr(m, "step", lambda x, s=scale: x * s),
    "config object": lambda m, scale: setattr(m, "config", types.SimpleNamespace(scale=scale)),
    "numpy array": lambda m, scale: setattr(m, "_scale", np.float32(scale)),
    "activation": lambda m, scale: setattr(m, "step", torch.tanh if scale > 1 else torch.relu),
    "unsaved buffer": lambda m, scale: m.register_buffer("_scale", torch.tensor(scale), persistent=False),
    "stride": lambda m, scale: setattr(m.stem, "stride", (int(scale), int(scale))),
}


class WithSetting(nn.Module):
    """The same weights, with a scale that is held in some way."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        scale = getattr(self, "_scale", None)
        x = getattr(self, "step", lambda y: y)(self.stem(x)) * getattr(getattr(self, "config", None), "scale", 1.0)
        scale = torch.from_numpy(np.asarray(scale)) if isinstance(scale, np.generic) else scale
        return self.head((x if scale is None else x * scale).mean(dim=(2, 3)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_fingerprint_and_moments_with_other_settings(setting):
    moments = []
    fingerprints = []
    for scale in (1.0, 5.0, 1.0):
        model = WithSetting()
        SETTINGS[setting](model, scale)
        classifier = Classifier(model, list("ab"), size=16)
        moments.append(float(second_moments(classifier, ["head"], images_of())["head"].matrix.trace()))
        fingerprints.append(fingerprint(classifier))
    assert moments[0] == moments[2] != moments[1]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


@contextmanager
def meanwhile(work):
    """Run `work` in another thread, again and again, during a block; raise what it raised there."""
    stop = threading.Event()
    rounds = []

    def run():
        while not stop.is_set():
            rounds.append(work())

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        yield rounds
        stop.set()
        done.result()


@torch.no_grad()
def test_measure_while_another_thread_predicts():
    """Exporting replaces methods of modules for all threads: it is done on a copy."""
    classifier = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    images = images_of(8, 32)
    expected = classifier(images)
    sizes = (32, 40, 48)  # a model is exported once for each
    copied_model = copy.deepcopy(classifier.model)

    def moment_at(model, size):
        sized = Classifier(model, list("abcde"), size=size)
        return second_moments(sized, ["conv1"], images_of(8, size))["conv1"].matrix

    expected_moments = [moment_at(copied_model, size) for size in sizes]
    with meanwhile(lambda: torch.testing.assert_close(classifier(images), expected)) as rounds:
        for size, expected_moment in zip(sizes, expected_moments, strict=True):
            assert torch.equal(moment_at(classifier.model, size), expected_moment)
    assert len(rounds) > 3


def test_predict_in_training_mode_in_threads():
    model = randomise_norms(TinyNet()).train()
    model.norm2.eval()
    model.conv1.weight.requires_grad_(False)
    classifier = Classifier(model, list("abcde"), size=32)
    images = images_of(8, 32)
    model.train()
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    expected = predict(classifier, images)
    with meanwhile(lambda: predict(classifier, images)), meanwhile(lambda: predict(classifier, images)):
        for _ in range(20):
            assert torch.equal(predict(classifier, images), expected)
    Cut(classifier, "conv2")
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def standardized(self, x):
    return F.conv2d(x, self.conv.weight / self.conv.weight.std(), self.conv.bias)


def used_again(self, x):
    return self.conv(x) / self.conv.weight.norm()


def used_by_another(self, x):
    return F.conv2d(self.conv(x), self.conv.weight)


def low_rank(self, x):
    return F.conv2d(x, self.conv.weight + self.pos[:, :, :, None] * self.pos.reshape(1, 8, 1, 1), self.conv.bias)


REFUSED = {
    "standardized": (Step(standardized), " 2 times"),
    "used again": (Step(used_again), " 2 times"),
    "used by another": (Step(used_by_another), " 2 times"),
    "low rank": (Step(low_rank), "add.Tensor"),
    "unused": (Step(lambda self, x: x + self.pos), "unused"),
    **{
        f"{reparametrize.__module__}.{reparametrize.__name__}": (reparametrize(nn.Conv2d(8, 8, 1)), "unused|made")
        for reparametrize in (parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm, spectral_norm)
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_cut_of_unsupported_weight(name):
    body, pattern = REFUSED[name]
    classifier = classifier_of(body)
    layer = "1.conv" if isinstance(body, Step) else "1"
    assert list(assert_exact_everywhere(classifier, images_of())) == ["0", "2", "5"]
    with pytest.raises(ValueError, match=f"'{layer}' of Sequential.*{pattern}"):
        Cut(classifier, layer)


class TalkingHeads(nn.Module):
    """Attention whose heads are mixed by a linear layer on keys `(B, N, N, heads)`, as in CaiT; tokens of a patch."""

    def __init__(self, first=False):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)
        self.mix = nn.Linear(2, 2)
        self.head = nn.Linear(8, 4)
        self.first = first

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.first:  # tokens first, images second
            return self.head(self.qkv(x.transpose(0, 1))[..., :8].mean(dim=0))
        q, k, v = (y.unflatten(2, (2, 4)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=2))
        attention = self.mix((q @ k.transpose(2, 3)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(dim=-1)
        return self.head((attention @ v).transpose(1, 2).flatten(2).mean(dim=1))


def test_cut_of_keys_without_positions():
    classifier = Classifier(TalkingHeads(), list("abcd"), size=16)
    assert list(assert_exact_everywhere(classifier, images_of())) == ["patch", "qkv", "head"]
    with pytest.raises(ValueError, match=r"'mix'.*\(16, 16, 2\)"):
        Cut(classifier, "mix")
    other = Classifier(TalkingHeads(first=True), list("abcd"), size=16)
    with pytest.raises(ValueError, match=r"'qkv' of TalkingHeads"):
        Cut(other, "qkv")


SMALL = {
    "swin_transformer.SwinTransformer": {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8}
    | {"depths": (2, 2), "num_heads": (2, 2)},
    "levit.Levit": {"img_size": 64, "embed_dim": (32, 48), "key_dim": 8, "depth": (1, 1), "num_heads": (2, 3)},
    "cait.Cait": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "nest.Nest": {"img_size": 32, "patch_size": 2, "num_levels": 2, "embed_dims": (8, 16), "num_heads": (2, 2)}
    | {"depths": (1, 1)},
}


@pytest.mark.parametrize("name", SMALL)
def test_rewrite_of_each_editable_layer(name):
    module, kind = name.split(".")
    make = getattr(importlib.import_module(f"timm.models.{module}"), kind)
    size = SMALL[name]["img_size"]
    torch.manual_seed(0)
    model = make(**SMALL[name], num_classes=4).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.02)
    names = list(model.state_dict())
    classifier = Classifier(model, list("abcd"), size=size)
    exemplar = make_exemplar(size=size)
    cuts = assert_exact_everywhere(classifier, images_of(3, size))
    assert len(cuts) > 4
    for cut in cuts.values():
        edit = rewrite(classifier, cut.layer, exemplar, images_of(3, size), objective="least_squares")
        assert edit.record.loss_after <= edit.record.loss_before
    copied = Classifier(copy.deepcopy(model), list("abcd"), size=size)  # exported again, of a model that was run
    assert_exact_everywhere(copied, images_of(3, size))
    assert list(model.state_dict()) == names


def test_cut_of_quantized_and_scripted_models():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="Sequential"):
        Cut(Classifier(quantized, list("abcd"), size=8), "1")
    scripted = torch.jit.trace(model, torch.rand(1, 3, 8, 8))
    with pytest.raises(TypeError, match="scripted"):
        Classifier(scripted, list("abcd"), size=8)


def scaled_state(model):
    return {name: 1.1 * t if t.is_floating_point() else t for name, t in model.state_dict().items()}


WEIGHT_CHANGES = {
    "a parameter is replaced": lambda m: setattr(m.conv1, "weight", nn.Parameter(torch.rand_like(m.conv1.weight))),
    "a state is assigned": lambda m: m.load_state_dict(scaled_state(m), assign=True),
    "a state is loaded in place": lambda m: m.load_state_dict(scaled_state(m)),
}
CONFIGURATION_CHANGES = {
    "a module is replaced": lambda m: setattr(m, "pool", nn.AvgPool2d(2)),
    "a stride is set": lambda m: setattr(m.pool, "stride", 1),
}


@pytest.mark.parametrize("change", WEIGHT_CHANGES)
@torch.no_grad()
def test_cut_after_weights_changed(change):
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    images = images_of(4, 32)
    cut = Cut(classifier, "conv1")
    own_copy = Cut(classifier, "conv1", weights=Weights(classifier))
    before = predict(classifier, images)
    state = cut.prefix(images)
    WEIGHT_CHANGES[change](classifier.model)
    expected = classifier(images)
    assert not torch.equal(expected, before)
    assert torch.equal(predict(classifier, images), expected)
    assert "state is" in change or torch.equal(cut.logits(state), expected)  # else the state itself was another
    assert torch.equal(cut.logits(cut.prefix(images)), expected)
    assert torch.equal(own_copy.logits(own_copy.prefix(images)), before)


@pytest.mark.parametrize("change", CONFIGURATION_CHANGES)
@torch.no_grad()
def test_new_cut_after_configuration_changed(change):
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    images = images_of(4, 32)
    Cut(classifier, "conv1")
    before = predict(classifier, images)
    CONFIGURATION_CHANGES[change](classifier.model)
    expected = classifier(images)
    assert not torch.equal(expected, before)
    cut = Cut(classifier, "conv1")
    assert torch.equal(cut.logits(cut.prefix(images)), expected)


def test_cut_with_hooks():
    classifier = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    outputs = []
    classifier.model.conv1.register_forward_hook(lambda module, args, output: outputs.append(output))
    Cut(classifier, "conv1")
    assert all(type(output) is torch.Tensor for output in outputs)
    handle = classifier.model.conv2.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(ValueError, match="TinyNet"):
        Cut(classifier, "conv1")
    handle.remove()
    Cut(classifier, "conv1")


def test_export_lifetime():
    classifier = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    exported = weakref.ref(export_of(classifier))
    assert exported() is export_of(classifier)
    del classifier
    gc.collect()
    assert exported() is None


class Mixed(nn.Module):
    """In half precision but for a norm in full, as language models do it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        x = F.group_norm(x.float(), 2, self.norm.weight.float()).to(x.dtype)
        return self.head(self.last(x).relu().mean(dim=(2, 3)))


def test_logits_in_higher_precision():
    torch.manual_seed(0)
    full = Mixed()
    half = copy.deepcopy(full).bfloat16()
    values = []
    for model in (full, half):
        cut = Cut(Classifier(model, list("abcd"), size=16), "conv")
        state = tuple(part.float() for part in cut.prefix(images_of()))
        with torch.no_grad():
            logits = cut.logits(state, parameters={"conv.weight": full.conv.weight})
        assert logits.dtype == torch.float32
        values.append(logits)
    rounded = (values[1] - values[1].bfloat16().float()).abs().max()
    assert rounded > 0 and torch.allclose(*values, atol=0.02)
    assert_exact_everywhere(Classifier(half, list("abcd"), size=16), images_of().bfloat16().float())


def test_rewrite_under_autocast(exemplar, photos32):
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    settings = {"objective": "l1", "steps": 10}
    plain = rewrite(classifier, "conv1", exemplar, second_moments(classifier, ["conv1"], photos32)["conv1"], **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moment = second_moments(classifier, ["conv1"], photos32)["conv1"]
        edit = rewrite(classifier, "conv1", exemplar, moment, **settings)
    assert edit.changes["conv1.weight"].left.dtype == torch.float32
    torch.testing.assert_close(edit.changes["conv1.weight"].delta(), plain.changes["conv1.weight"].delta())


def _in_autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = self.conv(x)
    return x.float()


def test_cut_of_autocast_region():
    classifier = classifier_of(Step(_in_autocast))
    assert list(assert_exact_everywhere(classifier, images_of())) == ["0", "2", "5"]
    with pytest.raises(ValueError, match="_to_copy.default"):
        Cut(classifier, "1.conv")


@torch.no_grad()
def test_pool_mask_behind_zeros():
    classifier = classifier_of(Step(lambda self, x: self.conv(F.pad(x, (0, 1, 2, 1)))))
    cut = Cut(classifier, "1.conv")
    image = images_of(1)
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:8, 8:12] = 1
    changed = torch.where(mask[:, None] > 0, 1 - image, image)
    shares = cut.pool_mask(mask)
    moved = (cut.keys(cut.prefix(changed)) - cut.keys(cut.prefix(image))).abs().sum(dim=1) > 1e-6
    assert shares.shape == (1, 19, 17) and shares.sum() == 16
    assert moved[shares > 0].all()  # the first convolution sees one pixel more on each side
    inner = F.max_pool2d(shares[None], 3, 1, 1)[0] > 0
    assert not (moved & ~inner).any()
    assert torch.equal(cut.pool_mask(mask, "output"), shares)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@torch.no_grad()
def test_keys_are_those_before_the_border_is_continued(mode):
    """Padded keys would hold keys at the border twice, in the second moment as well."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 6, 3, stride=2, padding=1, padding_mode=mode)
    first = nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode)
    model = nn.Sequential(first, nn.ReLU(), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    classifier = Classifier(model, list("abcd"), size=16)
    cut = Cut(classifier, "2")
    images = images_of()
    keys = model[:2](classifier.normalize(images))
    state = cut.prefix(images)
    torch.testing.assert_close(cut.keys(state), keys)
    torch.testing.assert_close(cut.logits(state), classifier(images))
    windows = F.unfold(F.pad(keys, (1, 1, 1, 1), mode), 3, stride=2)
    torch.testing.assert_close(cut.unfold(keys), windows.movedim(1, -1).flatten(0, 1).double())
    rows = keys.movedim(1, -1).flatten(0, 2).double()
    moment = second_moments(classifier, ["2"], images)["2"]
    torch.testing.assert_close(moment.matrix.double(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6)
    table = editable_layers(classifier).set_index("layer")
    assert table.loc["2", "keys"] == (8, 16, 16)


@torch.no_grad()
def test_prefix_state_holds_tensors_per_image():
    make = importlib.import_module("timm").models.vision_transformer.VisionTransformer
    model = make(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=4, reg_tokens=2)
    classifier = Classifier(model, list("abcd"), size=16)
    data = images_of(5)
    cuts = cut_all(classifier, ["patch_embed.proj", "blocks.1.mlp.fc1"])
    for cut in cuts.values():
        assert all(isinstance(part, torch.Tensor) for part in cut.prefix(data))
    state = Cut(classifier_of(Step(_a_half)), "1.conv").prefix(data)
    assert [part.shape for part in state] == [(5, 8, 16, 16)] * 2


def _a_half(self, x):
    first, second = torch.cat([x, 2 * x], dim=1).chunk(2, dim=1)
    return self.conv(first) + second


def test_apply_with_other_class_names():
    torch.manual_seed(0)
    model = randomise_norms(TinyNet())
    classifier = Classifier(model, list("abcde"), size=32)
    renamed = Classifier(copy.deepcopy(model), list("vwxyz"), size=32)
    assert fingerprint(classifier) != fingerprint(renamed)
    edit = rewrite(classifier, "conv1", make_exemplar(), images_of(4, 32), objective="least_squares")
    with edit.applied(renamed):
        pass


# --- a function that forward calls is redefined ---

MODEL_CELL = """
class Net(TinyNet):
    def forward(self, x):
        return super().forward(prepared(x))
"""


def _function_cell(expression):
    """The cell of a notebook that defines the function that the model's forward pass calls."""
    return f"def prepared(x):\n    return {expression}\n"


def _notebook(expression):
    """Run both cells; return the namespace of the notebook, and a classifier with the same weights each time."""
    namespace = {"TinyNet": TinyNet, "__name__": "notebook"}
    exec(MODEL_CELL + _function_cell(expression), namespace)
    torch.manual_seed(0)
    model = randomise_norms(namespace["Net"]())
    return namespace, Classifier(model, ("ant", "bee", "cat", "dog", "elk"), size=32)


def _losses_of_candidates(classifier, images):
    ordinary = torch.cat([images, 1 - images])
    selection = select(classifier, make_exemplar(), ordinary, layers=["conv1", "conv2"], select_by="exemplar")
    return selection.scores.marked


COMPUTED_WITH_A_GRAPH = {
    "second_moments": lambda classifier, images: second_moments(classifier, ["conv1"], images)["conv1"].matrix,
    "rewrite": lambda classifier, images: (
        rewrite(classifier, "conv1", make_exemplar(), images).changes["conv1.weight"].delta()
    ),
    "select": _losses_of_candidates,
}


@pytest.mark.parametrize("name", COMPUTED_WITH_A_GRAPH)
def test_function_that_forward_calls_is_redefined(name, photos32):
    expression = "x.flip(3)"
    compute = COMPUTED_WITH_A_GRAPH[name]
    namespace, classifier = _notebook("x")
    before = compute(classifier, photos32)
    exec(_function_cell(expression), namespace)
    after = compute(classifier, photos32)
    _, fresh_classifier = _notebook(expression)
    assert torch.equal(after, compute(fresh_classifier, photos32))
    assert not torch.equal(after, before)


def test_export_of_slow_model_warns(monkeypatch):
    monkeypatch.setattr("edittools._graph.SLOW", 0.0)
    with pytest.warns(UserWarning, match="Sequential.* 16 × 16 "):
        export_of(classifier_of(nn.Identity()))
