"""Predictions come from the model's own forward pass, and leave the model as it is."""

import copy
import functools
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from conftest import make_exemplar
from torch import nn
from torchvision.transforms import Grayscale

from edittools._graph import export_of
from edittools._inference import eval_copy
from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all, editable_layers
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.rewriting import rewrite, rewrite_at
from edittools.site import prepare
from edittools.states import States
from edittools_course.rivals import finetune


def images_of(count=4, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def plain(size=32):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    return Classifier(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)), list("abcde"), size=size
    )


class Pooled(nn.Module):
    """A convolution and a head, with a `rule` in between that may depend on anything."""

    def __init__(self, rule):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.rule = rule

    def forward(self, x):
        return self.rule(self, self.conv(x).relu())


# --- threads ---


def test_cached_states_in_threads():
    classifier = plain()
    images = images_of(64, 32)
    data = LabeledImages(images, torch.zeros(64, dtype=torch.long), list("abcde"))
    exemplar = make_exemplar()
    site = prepare(classifier, "3", exemplar)
    edits = [finetune(site, steps=3, scope=scope, rate=0.5)[0] for scope in ("global", "local")]
    edits += rewrite_at(site, rank=None)
    states = States(cut_all(classifier, ["3"]), data, batch_size=8)
    unedited = states.logits()
    expected = [states.logits(edit) for edit in edits]
    with ThreadPoolExecutor(4) as pool:
        jobs = [(number % 3, pool.submit(states.logits, edits[number % 3])) for number in range(60)]
        for number, job in jobs:
            assert torch.equal(job.result(), expected[number])
    assert torch.equal(states.logits(), unedited)
    torch.testing.assert_close(unedited, predict(classifier, images), rtol=0, atol=0)


def test_finetune_in_threads():
    classifier = plain()
    exemplar = make_exemplar()
    rates = (0.01, 0.1, 0.3)

    def delta(rate):
        [edit] = finetune(prepare(classifier, "3", exemplar), steps=5, scope="global", rate=rate)
        return edit.changes["3.weight"].delta()

    alone = [delta(rate) for rate in rates]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(delta, rates * 3))
    for number, change in enumerate(together):
        assert torch.equal(change, alone[number % 3])


def test_rewrite_in_threads_in_half_precision():
    classifier = plain()
    classifier.model.bfloat16()
    exemplar = make_exemplar()
    reference = images_of(16, 32)

    def delta(rank):
        edit = rewrite(classifier, "3", exemplar, reference, rank=rank, objective="l1", steps=10)
        return edit.changes["3.weight"].delta()

    alone = [delta(rank) for rank in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(delta, (1, 2, 3) * 2))
    for number, change in enumerate(together):
        assert torch.equal(change, alone[number % 3])


# --- the model is left as it is ---


class Averaging(Pooled):
    """Keeps a running average, also in eval mode: in place, and by replacing a buffer."""

    def __init__(self):
        super().__init__(None)
        self.register_buffer("average", torch.zeros(8))
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, x):
        pooled = self.conv(x).relu().mean((2, 3))
        self.average.mul_(0.9).add_(0.1 * pooled.detach().mean(0))
        self.count = self.count + 1
        return self.head(pooled)


@pytest.mark.parametrize("training", [False, True])
def test_predict_with_buffers_that_a_forward_pass_writes(training):
    model = Averaging()
    classifier = Classifier(model, list("abcd"), size=16)
    model.train(training)
    before = copy.deepcopy(dict(model.named_buffers()))
    predict(classifier, images_of())
    Cut(classifier, "conv")
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert model.training is training


def test_eval_copy_redirects_references_between_modules():
    class Referring(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.steps = [self.norm]
            self.named = {"norm": (self.norm,)}
            self.bound = self.norm.forward
            self.partial = functools.partial(self.norm.forward)
            self.holder = None

        def forward(self, x):
            x = self.steps[0](x) + self.named["norm"][0](x) + self.bound(x) + self.partial(x)
            return x.mean(dim=(2, 3))

    model = Referring().train()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        copied = eval_copy(model)
        assert copied.norm is not model.norm and copied.norm.weight is model.norm.weight
        torch.testing.assert_close(copied(images_of()), copy.deepcopy(model).eval()(images_of()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and model.norm.training


# --- nothing is stale ---


class Configured(nn.Module):
    """A scale that is held in every way that Python has."""

    by_class = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.tensor = torch.tensor(1.0)
        self.tensors = [torch.tensor(1.0)]
        self.config = types.SimpleNamespace(scale=1.0)
        self.numbers = [1.0]
        self.pair = (1.0,)
        self.unregistered = [nn.Linear(4, 4)]

    def forward(self, x):
        scale = self.tensor * self.tensors[0] * self.config.scale * self.by_class * self.numbers[0] * self.pair[0]
        return self.unregistered[0](self.head(self.conv(x).relu().mean((2, 3))) * scale)


CHANGES = {
    "a tensor in place": lambda model: model.tensor.mul_(2),
    "a tensor's data": lambda model: setattr(model.tensor, "data", torch.tensor(2.0)),
    "a tensor": lambda model: setattr(model, "tensor", torch.tensor(2.0)),
    "a tensor in a list": lambda model: model.tensors[0].mul_(2),
    "an item of a list": lambda model: model.numbers.__setitem__(0, 2.0),
    "a config object": lambda model: setattr(model.config, "scale", 2.0),
    "a class attribute": lambda model: setattr(type(model), "by_class", 2.0),
    "a tuple": lambda model: setattr(model, "pair", (2.0,)),
    "an unregistered module": lambda model: model.unregistered[0].weight.data.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_predict_and_cut_after_change(change, monkeypatch):
    monkeypatch.setattr(Configured, "by_class", 1.0)
    classifier = Classifier(Configured(), list("abcd"), size=16)
    images = images_of()
    before = predict(classifier, images)
    Cut(classifier, "conv")
    CHANGES[change](classifier.model)
    expected = classifier(images)
    assert not torch.equal(expected, before)
    assert torch.equal(predict(classifier, images), expected)
    cut = Cut(classifier, "conv")
    assert torch.equal(cut.logits(cut.prefix(images)), expected)


# --- one image ---


def squeezed(self, x):
    return self.head(F.adaptive_avg_pool2d(x, 1).squeeze())


def doubled_for_one(self, x):
    x = x.mean((2, 3))
    return self.head(2 * x) if x.shape[0] == 1 else self.head(x)


def centered_for_several(self, x):
    x = x.mean((2, 3))
    return self.head(x - x.mean(0, keepdim=True)) if len(x) > 1 else self.head(x)


@pytest.mark.parametrize("rule", [squeezed, doubled_for_one, centered_for_several])
@torch.no_grad()
def test_predict_and_cut_of_one_image(rule):
    model = Pooled(rule)
    classifier = Classifier(model, list("abcd"), size=16)
    for count in (1, 2, 3):
        images = images_of(count)
        own = model(classifier.normalize(images)).reshape(count, 4)
        assert torch.equal(predict(classifier, images), own)
    with pytest.raises(ValueError, match="Pooled"):
        Cut(classifier, "conv")


def test_predict_of_model_that_cannot_be_exported():
    classifier = Classifier(Pooled(lambda self, x: self.head(x.mean((2, 3))) * float(x.mean())), list("abcd"), size=16)
    with torch.no_grad():
        assert torch.equal(predict(classifier, images_of()), classifier(images_of()))
    with pytest.raises(ValueError, match="Pooled"):
        editable_layers(classifier)


def test_export_of_model_with_weight_norm_hook():
    torch.manual_seed(0)
    normalized = nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
    model = nn.Sequential(normalized, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    classifier = Classifier(model, list("abcd"), size=16)
    exported = export_of(classifier)
    classifier(images_of())  # the hook sets the weight again
    assert export_of(classifier) is exported


# --- precision ---


class Counted(nn.Module):
    """A model whose first parameter is a whole number, as a step counter or a quantized weight."""

    def __init__(self, model):
        super().__init__()
        self.steps = nn.Parameter(torch.tensor(7), requires_grad=False)
        self.model = model

    def forward(self, x):
        return self.model(x)


def test_predict_of_model_with_an_integer_as_first_parameter():
    classifier = plain()
    counted = Classifier(Counted(classifier.model), classifier.classes, size=32)
    images = images_of(8, 32)
    assert counted.normalize(images).dtype == torch.float32
    assert torch.equal(predict(counted, images), predict(classifier, images))


# --- logits ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_predict_of_model_that_returns_probabilities(dtype):
    logits = plain()
    logits.model.to(dtype)
    images = images_of(4, 32)
    expected = predict(logits, images)
    probabilities = Classifier(nn.Sequential(logits.model, nn.Softmax(dim=1)), logits.classes, size=32)
    message = r"Sequential .*probabilities.*nn.Identity\(\)"
    with pytest.raises(ValueError, match=message):
        predict(probabilities, images)
    with pytest.raises(ValueError, match=message):
        probabilities(images)
    with pytest.raises(ValueError, match=message):
        Cut(probabilities, "0.3")
    log_probabilities = Classifier(nn.Sequential(logits.model, nn.LogSoftmax(dim=1)), logits.classes, size=32)
    predicted = predict(log_probabilities, images).softmax(dim=1)
    torch.testing.assert_close(predicted.float(), expected.float().softmax(dim=1), atol=0.01, rtol=0.01)


def test_predict_of_one_image_whose_logits_sum_to_one():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    nn.init.zeros_(model[2].weight)
    model[2].bias.data = torch.tensor([0.25, 0.75])
    classifier = Classifier(model, ["ant", "bee"], size=16)
    assert predict(classifier, images_of(1)).tolist() == [[0.25, 0.75]]


# --- channels ---


def test_predict_of_gray_model():
    torch.manual_seed(0)
    gray = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    images = images_of()
    wrapped = Classifier(nn.Sequential(Grayscale(), gray), list("abcd"), mean=[0.5] * 3, std=[0.25] * 3, size=16)
    with torch.no_grad():
        expected = gray((Grayscale()(images) - 0.5) / 0.25)
    torch.testing.assert_close(predict(wrapped, images), expected, atol=1e-3, rtol=1e-3)
    assert editable_layers(wrapped).layer.tolist() == ["1.0", "1.4"]


# --- models without logits ---


class Answering(nn.Module):
    """Returns what `rule` makes of logits."""

    def __init__(self, rule):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.rule = rule

    def forward(self, x):
        return self.rule(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (Answering(lambda logits: {"out": logits}), "Answering .*dict"),
        (Answering(lambda logits: {"out": logits, "aux": logits}), "Answering .*dict"),
        (Answering(lambda logits: (logits, logits)), "Answering .*tuple"),
        (Answering(lambda logits: logits[:, :3]), r"Answering .*\(2, 3\)"),
        (Answering(lambda logits: logits.softmax(dim=1)), "Answering .*probabilities"),
    ],
)
def test_editable_layers_of_model_without_logits(model, pattern):
    classifier = Classifier(model, list("abcd"), size=16)
    with pytest.raises(ValueError, match=pattern) as caught:
        editable_layers(classifier)
    assert "torch.export" not in str(caught.value)
