"""Tier paper with random weights from a hub on loopback: one story whole, and what must hold without any network."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from edittools.images import LabelledImages, save_image
from edittools.stories import photos, probing_scenario, rules, suites
from edittools.zoo import downloads
from edittools.zoo.load import load_classifier

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import stand_ins

    return stand_ins


@pytest.fixture
def caches(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))


def test_snow_on_a_resnet_runs_through_with_weights_from_the_hub(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    monkeypatch.setattr(sys, "argv", ["paper_rehearsal.py", *"--model resnet18 --story snow --json".split()])
    runpy.run_path(str(BENCHMARKS / "paper_rehearsal.py"), run_name="__main__")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    [row] = found["rows"]
    assert (row["model"], row["story"], row["outcome"]) == ("resnet18", "snow", "passed")
    size = sum(4 * weight.numel() for weight in resnet18().state_dict().values()) / 1e6
    assert row["download_mb"] == pytest.approx(size, rel=0.01)
    assert all(row[name] > 0 for name in ("before", "after", "l1", "least_squares", "peak_mb"))
    assert row["before"] + row["after"] == pytest.approx(row["forward"], rel=1)
    assert row["full"]["download_mb"] == pytest.approx(size, rel=0.01)  # photos are not known here
    assert "EDITTOOLS_PHOTOS" not in os.environ and photos.registry() is downloads.registry()  # as before


def test_a_stand_in_with_another_hash_than_its_name_says_is_refused(stand_ins, caches, tmp_path):
    file = stand_ins.hashed(resnet18().state_dict(), tmp_path, "resnet18")
    with stand_ins.serving() as hub:
        with stand_ins.weights_route(hub, ResNet18_Weights.IMAGENET1K_V1, file):
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(RuntimeError, match="invalid hash value"):
                load_classifier("resnet18")
            assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]
            file.write_bytes(content)
            assert load_classifier("resnet18").classes[803] == "snowplow"
        assert ResNet18_Weights.IMAGENET1K_V1.url.startswith("https://download.pytorch.org/")


def test_places_comes_by_its_route_with_a_hash_and_not_with_another(stand_ins, caches, tmp_path):
    model = resnet18(num_classes=365)
    file = tmp_path / stand_ins.PLACES_FILE
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    with stand_ins.serving() as hub:
        with (
            pytest.raises(FileNotFoundError, match="could not be downloaded from http://127"),
            stand_ins.places_route(hub, file, "0" * 64),
        ):
            pass
        with stand_ins.places_route(hub, file):
            classifier = load_classifier(stand_ins.PLACES)  # from the cache now
        assert torch.equal(classifier.model.fc.weight, model.fc.weight) and len(hub.asked) == 2


def test_the_least_weights_that_fit_give_each_key_its_label(stand_ins):
    generator = torch.Generator().manual_seed(0)
    keys, labels = torch.randn(12, 30, generator=generator), torch.randint(0, 5, (12,), generator=generator)
    found = stand_ins.fitted(keys, labels, 5)
    scores = torch.cat([keys, torch.ones(12, 1)], dim=1) @ found.T
    torch.testing.assert_close(scores, torch.eye(5)[labels], atol=1e-3, rtol=0)


def test_each_picture_is_nearest_to_the_name_of_its_class(stand_ins):
    generator = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.ones(12, 40) + 0.01 * torch.randn(12, 40, generator=generator), dim=1)
    labels = torch.randint(0, 5, (12,), generator=generator) + 2
    names = torch.nn.functional.normalize(stand_ins.names_for(keys, labels, 9), dim=1)
    assert torch.equal((keys @ names.T).argmax(dim=1), labels)


@pytest.mark.parametrize("clean", [None, 4])
def test_a_folder_gives_at_most_so_many_everyday_images(monkeypatch, tiny, clean):
    images = LabelledImages(torch.rand(100, 3, 32, 32), torch.arange(100) % 5, tiny.classes)
    monkeypatch.setattr(suites, "load_classifier", lambda name: tiny)
    monkeypatch.setattr(photos, "validation_folder", lambda folder, classifier, per_class: images)
    monkeypatch.setattr(suites.concepts, "cached", lambda finder: finder)
    monkeypatch.setattr(
        suites.concepts,
        "deeplab",
        lambda wanted: lambda given: {name: torch.ones(len(given), 32, 32) for name in wanted},
    )
    found = suites.image_folder("somewhere", wanted=("car",), clean=clean)
    assert len(found.images) == 70 and found.masks["car"].shape == (70, 32, 32)
    counts = [len(part) for part in (found.reference, found.budget, found.clean)]
    assert sum(counts) == 30 if clean is None else all(n <= m for n, m in zip(counts, (2, 4, 2), strict=True))
    monkeypatch.setattr(suites.concepts, "deeplab", lambda wanted: lambda given: {})
    with pytest.raises(ValueError, match="no image of 'somewhere' shows car, boat"):
        suites.image_folder("somewhere", wanted=("car", "boat"))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "resnet18", "resnet50"])
def test_the_suite_of_each_model_of_the_paper_names_its_convolutions(name):
    from torchvision.models import get_model

    with torch.device("meta"):
        modules = dict(get_model(name).named_modules())
    suite = suites.suite("paper", "small", name)
    assert all(isinstance(modules[layer], torch.nn.Conv2d) for layer in suite.layers)
    assert dict(suite.options)["model"] == name


def test_a_suite_of_another_model_is_refused():
    with pytest.raises(
        ValueError, match="model 'clip_rn50' in tier 'paper': expected one of vgg16, vgg16_bn, resnet18"
    ):
        suites.suite("paper", model="clip_rn50")
    with pytest.raises(ValueError, match="model 'vgg16' in tier 'mini': expected one of mini_vgg, mini_resnet, mini_"):
        suites.suite("mini", model="vgg16")
    with pytest.raises(
        ValueError, match="model 'vgg16' in tier 'lite': expected one of efficientnet_lite0, .*lite2, s"
    ):
        suites.suite("lite", model="vgg16")


def test_the_probe_takes_the_models_of_the_paper(monkeypatch):
    class Loaded(Exception):
        pass

    def load(name, device):
        raise Loaded(name)

    monkeypatch.setattr(rules, "load_classifier", load)
    for models, first in {(): "vgg16", ("resnet18", "resnet50"): "resnet18"}.items():
        with pytest.raises(Loaded, match=f"^{first}$"):
            probing_scenario("paper", models=models)
    with pytest.raises(ValueError, match="models resnet18: expected none"):
        probing_scenario("mini", models=["resnet18"])


def test_everyday_photos_of_other_classes_than_imagenets_come_from_the_folder(monkeypatch, tiny, tmp_path):
    monkeypatch.delenv("EDITTOOLS_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match=r"5 classes that are not ImageNet's: set EDITTOOLS_IMAGENET"):
        rules._labelled(tiny, False)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    for i in range(3):
        save_image(tmp_path / "2" / f"{i}.png", torch.rand(3, 40, 40))
    monkeypatch.setenv("EDITTOOLS_IMAGENET", str(tmp_path))
    found = rules._labelled(tiny, False)
    assert found.labels.tolist() == [2, 2] and found.images[:].shape == (2, 3, 32, 32)


def test_the_estimate_of_a_full_run_keeps_states_where_they_fit_and_runs_images_anew_where_not(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import paper_rehearsal as rehearsal

    few = rehearsal.Full(100, 1000, 50, 2, 10, 20, 600, 3600, 0)
    measured = {"forward": 6.0, "after": 0.5, "l1": 12.0, "least_squares": 6.0, "state_mb": 1.0}
    fits = rehearsal.estimate(few, measured, 250.0, {})
    assert fits["minutes"] == pytest.approx((600 + 300 + 1800 + 120 + 120) / 60)
    assert fits["memory_gb"] == pytest.approx(0.5 + 0.5 + 4.0 + 1000 * rehearsal.PIXELS_MB / 1e3)
    anew = rehearsal.estimate(few, {**measured, "state_mb": 3.0}, 250.0, {})
    assert anew["minutes"] - fits["minutes"] == pytest.approx(3600 * 5.5 / 60)
    assert anew["memory_gb"] - fits["memory_gb"] == pytest.approx(50 * 0.012 - 4.0)
