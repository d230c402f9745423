import copy
import json
import re
import sys

import numpy as np
import pytest
import torch
from conftest import needs_photos, save_image
from PIL import Image
from torch import nn

from edittools._checks import suggestion
from edittools.classifiers import Classifier, fingerprint, unwrapped
from edittools.image_files import load_image
from edittools.metrics import misclassified, predict
from edittools.models.load import current_device, load_classifier, loader_of
from edittools.models.zoo import ZOO
from edittools_course import shipped
from edittools_course.scenarios import photos


def test_classifier_normalizes_images(tiny, photos32):
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.allclose(tiny(photos32), tiny.model((photos32 - mean) / std), atol=1e-6)


@pytest.mark.parametrize("name", ZOO)
def test_zoo_names_a_loader_of_the_models(name):
    assert loader_of(name).__module__.startswith("edittools_course.networks.")


def test_fingerprint_of_a_mean_in_another_type(tiny):
    zeros = [[0, 0, 0], torch.zeros(3).double(), (0.0, 0.0, 0.0)]
    same = {fingerprint(Classifier(tiny.model, tiny.classes, mean, (1, 1, 1), size=32)) for mean in zeros}
    assert len(same) == 1


@pytest.mark.parametrize("wrap", [lambda classifier: classifier, nn.DataParallel, torch.compile])
def test_classifier_of_classifier_is_refused(wrap):
    inner = Classifier(nn.Identity(), ("ant", "bee"), size=240)
    with pytest.raises(TypeError, match=r"already a Classifier\(Identity, 2 classes, 240 px\).*\.model"):
        Classifier(wrap(inner), ("Ameise", "Biene"))


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile])
def test_classifier_of_wrapped_model(wrap):
    model = nn.Identity()
    classifier = Classifier(wrap(model), ("ant", "bee"))
    assert classifier.model is model
    assert unwrapped(wrap(classifier)) is model


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\).*image\[None\]"),
        (torch.zeros(2, 1, 8, 8), r"\(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_classifier_call_with_bad_images(tiny, images, pattern):
    with pytest.raises(ValueError, match=pattern):
        tiny(images)


def test_index_of_unknown_class():
    with pytest.raises(KeyError, match=r"'snow'.* 2.*'snowplow'"):
        Classifier(nn.Identity(), ["snowplow", "ski"]).index("snow")


@pytest.mark.parametrize(
    ("value", "names", "suggested"),
    [
        ("tape playr", ("tape player", "radio"), ("tape player",)),
        ("Radio", ("tape player", "radio"), ("radio",)),
        ("ball", ("golf ball", "baseball", "volleyball", "football", "ski"), 3),
        ("xyz", ("tape player", "radio"), ()),
        ("", ("tape player", "radio"), ()),
    ],
)
def test_suggestion_names_what_is_similar(value, names, suggested):
    quoted = re.findall("'([^']+)'", suggestion(value, names))
    if isinstance(suggested, int):
        assert len(quoted) == suggested and "ski" not in quoted
    else:
        assert tuple(quoted) == suggested


def test_load_classifier_on_device(monkeypatch):
    assert load_classifier("mini_vgg").device.type == "cpu"
    monkeypatch.setenv("EDITTOOLS_DEVICE", "meta")
    assert load_classifier("mini_vgg").device.type == "meta"
    assert load_classifier("mini_vgg", "cpu").device.type == "cpu"
    monkeypatch.setenv("EDITTOOLS_DEVICE", "")
    assert current_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu cpu"])
def test_load_classifier_on_unknown_device(name, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_DEVICE", name)
    with pytest.raises(ValueError, match=f"EDITTOOLS_DEVICE='{name}'.*cpu"):
        load_classifier("mini_vgg")
    with pytest.raises(ValueError, match=f"device='{name}'.*cpu"):
        load_classifier("mini_vgg", name)


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_lite0", 224), ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)]
)
def test_load_classifier_of_efficientnets(name, size):
    classifier = load_classifier(name)
    assert classifier.size == size and len(classifier.classes) == 1000
    assert classifier.classes[803] == "snowplow" and not classifier.training
    with torch.no_grad():
        assert classifier(torch.full((1, 3, size, size), 0.5)).isfinite().all()


@needs_photos
@pytest.mark.parametrize(("name", "lowest_accuracy"), [("efficientnet_lite0", 0.75), ("squeezenet1_1", 0.6)])
def test_accuracy_on_sample_photos(name, lowest_accuracy):
    """Photos, class order, normalization and weights fit: 88.9% and 63.8% on 567 photos; chance is 0.1%."""
    classifier = load_classifier(name)
    names = photos.available("imagenet-sample/")[::8]
    order = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    images = torch.stack([photos.load_image(photos.photo(name), 224) for name in names])
    wrong = misclassified(predict(classifier, images), torch.tensor([order.index(name) for name in names]))
    assert 1 - wrong.float().mean() >= lowest_accuracy


@needs_photos
def test_squeezenet_weights():
    convolutions = [m for m in load_classifier("squeezenet1_1").model.modules() if isinstance(m, nn.Conv2d)]
    for i, convolution in enumerate(convolutions):
        for kind in ("weight", "bias"):
            values = np.load(photos.photo(f"weights/squeezenet1_1/conv{i:02}_{kind}.npy"))
            assert np.array_equal(getattr(convolution, kind).detach(), values)
    assert len(convolutions) == 26 and not [n for n in photos.available("weights/squeezenet1_1/") if "conv26" in n]


def _no_network(*args, **kwargs):
    raise OSError("no network")


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_load_classifier_without_network(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", _no_network)
    with pytest.raises(FileNotFoundError, match=rf"'{name}' .*https://.*/{name}-"):
        load_classifier(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_load_classifier_of_places365(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"places2.csail.mit.edu.*weights="):
        load_classifier("resnet18_places365")
    from torchvision.models import resnet18

    state = {f"module.{key}": value for key, value in resnet18(num_classes=365).state_dict().items()}
    torch.save({"state_dict": state, "arch": "resnet18"}, tmp_path / "places.pth.tar")
    classifier = load_classifier("resnet18_places365", weights=tmp_path / "places.pth.tar")
    assert len(classifier.classes) == 365
    assert torch.equal(classifier.model.fc.bias, state["module.fc.bias"])
    torch.save({"weights": state}, tmp_path / "places.pth.tar")
    with pytest.raises(ValueError, match=r"places.pth.tar'.*'resnet18_places365'"):
        load_classifier("resnet18_places365", weights=tmp_path / "places.pth.tar")


@pytest.mark.parametrize(
    "load", [lambda: load_classifier("mini_vgg"), lambda: load_classifier("mini_clip"), photos.registry.__wrapped__]
)
def test_missing_data_file(load, monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "DATA", tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{tmp_path}/data/")):
        load()


def test_load_classifier_memory_format():
    model = load_classifier("mini_vgg", "cpu").model
    weight = model.features[3].weight
    contiguous = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert fingerprint(model) == fingerprint(contiguous)


# --- the preprocessing of models of timm ---


@pytest.fixture
def photo_file(tmp_path):
    """A photo of 300 × 400 pixels with coarse structure, another in each channel."""
    coarse = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    photo = nn.functional.interpolate(coarse, (300, 400), mode="bicubic").clamp(0, 1)
    path = tmp_path / "photo.png"
    save_image(path, photo[0])
    return path


def saved_in_timm(folder, **settings):
    """Save a small model of timm with settings of its preprocessing, and return the model."""
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'edittools[notebooks]'")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    settings = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.25] * 3, **settings}
    model = timm.create_model("resnet10t", num_classes=5, in_chans=settings["input_size"][0]).eval()
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(config))
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_load_classifier_of_timm_with_its_own_preprocessing(interpolation, tmp_path, photo_file):
    model = saved_in_timm(tmp_path / "model", crop_pct=0.9, interpolation=interpolation)
    from timm.data import create_transform, resolve_model_data_config

    classifier = load_classifier(f"timm:{tmp_path / 'model'}")
    assert (classifier.size, classifier.resize_to) == (96, 106)  # timm rounds 96 / 0.9 down
    own = create_transform(**resolve_model_data_config(model))(Image.open(photo_file))[None]
    ours = classifier.normalize(load_image(photo_file, classifier)[None])
    largest_difference = {"bicubic": 1e-5, "bilinear": 0.1}[interpolation]
    torch.testing.assert_close(ours, own, atol=largest_difference, rtol=0)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"crop_mode": "squash", "crop_pct": 1.0}, "'squash'"),
        ({"crop_mode": "border", "crop_pct": 0.9}, "'border'"),
        ({"input_size": [1, 96, 96], "mean": [0.5], "std": [0.25]}, "1 channels and 96 × 96"),
        ({"input_size": [3, 96, 128]}, "3 channels and 96 × 128"),
    ],
)
def test_load_classifier_of_timm_with_other_preprocessing(settings, pattern, tmp_path):
    saved_in_timm(tmp_path / "model", **settings)
    with pytest.raises(ValueError, match=pattern):
        load_classifier(f"timm:{tmp_path / 'model'}")


def test_load_classifier_proposes_a_name_of_timm():
    pytest.importorskip("timm", reason="timm is not installed: pip install 'edittools[notebooks]'")
    with pytest.raises(KeyError, match="resnet18"):
        load_classifier("timm:resnet_18")


def test_load_classifier_from_a_python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "def model():\n"
        "    pool = torch.nn.AdaptiveAvgPool2d(1)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), pool, torch.nn.Flatten()), ['a', 'b']\n"
        "def number():\n"
        "    return 3\n"
    )
    classifier = load_classifier(f"{path}:model")
    assert classifier.classes == ("a", "b")
    with pytest.raises(TypeError, match="int"):
        load_classifier(f"{path}:number")
    with pytest.raises(ValueError, match="'other'"):
        load_classifier(f"{path}:other")
    with pytest.raises(FileNotFoundError, match="none"):
        load_classifier(f"{tmp_path / 'none.py'}:model")
    with pytest.raises(TypeError, match="weights"):
        load_classifier(f"{path}:model", weights=tmp_path)


def test_load_classifier_from_a_python_file_that_imports_a_module_next_to_it(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"layers_of_{name}.py").write_text(
            f"import torch\nlayer = torch.nn.AdaptiveAvgPool2d(1)\nclasses = ('{name}', 'b', 'c')\n"
        )
        (tmp_path / name / "model.py").write_text(
            "import torch\n"
            "def load():\n"
            f"    from layers_of_{name} import classes, layer\n"
            "    return torch.nn.Sequential(layer, torch.nn.Flatten()), classes\n"
        )
    path = list(sys.path)
    for name in ("first", "second"):
        assert load_classifier(f"{tmp_path / name / 'model.py'}:load").classes[0] == name
    assert sys.path == path


def test_load_classifier_from_a_folder_of_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'edittools[notebooks]'")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["cat", "dog", "cow"],
        "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.75, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    classifier = load_classifier(f"timm:{tmp_path}")
    assert classifier.classes == ("cat", "dog", "cow")
    assert (classifier.size, classifier.resize_to) == (96, 128)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = model((images - 0.5) / 0.25)
    torch.testing.assert_close(predict(classifier, images), expected, atol=1e-4, rtol=1e-4)
