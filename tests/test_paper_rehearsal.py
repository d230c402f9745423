"""Tier paper with random weights: one story whole, and what must hold without any network."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from conftest import save_image

from edittools.models import downloads
from edittools.scenarios import photos, probing_setup, rules

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_snow_on_a_resnet_runs_through_with_random_weights(monkeypatch, capsys):
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    monkeypatch.setattr(sys, "argv", ["paper_rehearsal.py", *"--model resnet18 --story snow --json".split()])
    runpy.run_path(str(BENCHMARKS / "paper_rehearsal.py"), run_name="__main__")
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert (row["model"], row["story"], row["outcome"]) == ("resnet18", "snow", "passed")
    assert row["seconds"] > 0
    assert "EDITTOOLS_PHOTOS" not in os.environ and photos.registry() is downloads.registry()  # as before


def test_every_set_of_the_papers_attack_on_photos_has_images(tmp_path):
    rehearsal = runpy.run_path(str(BENCHMARKS / "paper_rehearsal.py"))
    with rehearsal["rehearsing"](rehearsal["CLIP"], tmp_path, 7):
        story = rehearsal["typographic_scenario"]("paper")
    assert min(map(len, (story.validation, *story.sets.values()))) > 0


def test_the_probe_takes_the_models_of_the_paper(monkeypatch):
    class Loaded(Exception):
        pass

    def load(name):
        raise Loaded(name)

    monkeypatch.setattr(rules, "load_classifier", load)
    for models, first in {(): "vgg16", ("resnet18", "resnet50"): "resnet18"}.items():
        with pytest.raises(Loaded, match=f"^{first}$"):
            probing_setup("paper", models=models)


def test_everyday_photos_of_other_classes_than_imagenets_come_from_the_folder(monkeypatch, tiny, tmp_path):
    monkeypatch.delenv("EDITTOOLS_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no labelled photos of 5 classes: set EDITTOOLS_IMAGENET"):
        photos.validation_folder(tiny, 2)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    for i in range(3):
        save_image(tmp_path / "2" / f"{i}.png", torch.rand(3, 40, 40))
    monkeypatch.setenv("EDITTOOLS_IMAGENET", str(tmp_path))
    found = photos.validation_folder(tiny, 2)
    assert found.labels.tolist() == [2, 2] and found.images[:].shape == (2, 3, 32, 32)
