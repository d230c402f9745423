"""Tier paper with random weights: one complete scenario, and what must hold without any network."""

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

SCRIPT = Path(__file__).resolve().parent / "slow" / "paper_rehearsal.py"


def test_paper_rehearsal_snow_on_a_resnet(monkeypatch, capsys):
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    monkeypatch.setattr(sys, "argv", ["paper_rehearsal.py", *"--model resnet18 --scenario snow --json".split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert (row["model"], row["scenario"], row["outcome"]) == ("resnet18", "snow", "passed")
    assert row["seconds"] > 0
    assert "EDITTOOLS_PHOTOS" not in os.environ and photos.registry() is downloads.registry()  # as before


def test_typographic_scenario_paper_sets_are_not_empty(tmp_path):
    rehearsal = runpy.run_path(str(SCRIPT))
    with rehearsal["rehearsing"](rehearsal["CLIP"], tmp_path, 7):
        scenario = rehearsal["typographic_scenario"]("paper")
    assert all(len(data) > 0 for data in scenario.splits.labeled.values())


def test_probing_setup_paper_loads_the_models(monkeypatch):
    class Loaded(Exception):
        pass

    def load(name):
        raise Loaded(name)

    monkeypatch.setattr(rules, "load_classifier", load)
    for models, first in {(): "vgg16", ("resnet18", "resnet50"): "resnet18"}.items():
        with pytest.raises(Loaded, match=f"^{first}$"):
            probing_setup("paper", models=models)


def test_validation_folder_not_set_or_with_empty_subfolders(monkeypatch, tiny, tmp_path):
    monkeypatch.delenv("EDITTOOLS_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match="5 classes.*EDITTOOLS_IMAGENET"):
        photos.validation_folder(tiny, 2)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    for i in range(3):
        save_image(tmp_path / "2" / f"{i}.png", torch.rand(3, 40, 40))
    monkeypatch.setenv("EDITTOOLS_IMAGENET", str(tmp_path))
    data = photos.validation_folder(tiny, 2)
    assert data.labels.tolist() == [2, 2]
    assert data.images[:].shape == (2, 3, 32, 32)
