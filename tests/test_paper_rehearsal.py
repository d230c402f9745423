"""Tier paper with random weights: one story whole, and what must hold without any network."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from edittools.images import LabelledImages, save_image
from edittools.stories import photos, probing_scenario, rules, suites
from edittools.zoo import downloads

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_snow_on_a_resnet_runs_through_with_random_weights(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    monkeypatch.setattr(sys, "argv", ["paper_rehearsal.py", *"--model resnet18 --story snow --json".split()])
    runpy.run_path(str(BENCHMARKS / "paper_rehearsal.py"), run_name="__main__")
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert (row["model"], row["story"], row["outcome"]) == ("resnet18", "snow", "passed")
    assert all(row[name] > 0 for name in ("before", "after", "l1", "least_squares", "peak_mb"))
    assert row["before"] + row["after"] == pytest.approx(row["forward"], rel=1)
    assert "EDITTOOLS_PHOTOS" not in os.environ and photos.registry() is downloads.registry()  # as before


@pytest.mark.parametrize("clean", [None, 4])
def test_a_folder_gives_at_most_so_many_everyday_images(monkeypatch, tiny, clean):
    images = LabelledImages(torch.rand(100, 3, 32, 32), torch.arange(100) % 5, tiny.classes)
    monkeypatch.setattr(suites, "load_classifier", lambda name: tiny)
    monkeypatch.setattr(photos, "validation_folder", lambda folder, classifier, per_class: images)
    monkeypatch.setattr(suites.concepts, "cached", lambda finder: finder)
    monkeypatch.setattr(
        suites.concepts,
        "deeplab",
        lambda name, wanted: lambda given: {name: torch.ones(len(given), 32, 32) for name in wanted},
    )
    found = suites.image_folder("somewhere", wanted=("car",), clean=clean)
    assert len(found.images) == 70 and found.masks["car"].shape == (70, 32, 32)
    counts = [len(part) for part in (found.reference, found.budget, found.clean)]
    assert sum(counts) == 30 if clean is None else all(n <= m for n, m in zip(counts, (2, 4, 2), strict=True))
    monkeypatch.setattr(suites.concepts, "deeplab", lambda name, wanted: lambda given: {})
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
