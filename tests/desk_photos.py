"""Folders of photos for the desk, some of which are misclassified by a small model because of a mark."""

import copy
from pathlib import Path

import torch
from conftest import noise, save_image, tiny_as_made

from edittools.classifiers import Classifier
from edittools.metrics import predict
from edittools.widgets.materials import SURROUNDINGS, replace_by_material

MASK = torch.zeros(32, 32)
MASK[8:23, 8:23] = 1

MODEL = """
import sys
sys.path.insert(0, {tests!r})
from desk_photos import small_model

def load():
    return small_model()
"""
"""A file with the model, for `edittools desk`."""


def small_model():
    """Make a model of 32 × 32 pixels and five classes, all of which it predicts for some noise."""
    tiny = copy.deepcopy(tiny_as_made())
    classifier = Classifier(tiny.model, tiny.classes, size=32, resize_to=32)
    with torch.no_grad():
        classifier.model.head.bias -= predict(classifier, noise(100, seed=5)).mean(0)
        classifier.model.head.weight *= 20
        classifier.model.head.bias *= 20
    return classifier


def write_photos(root):
    """Write photos of noise, and 120 clean ones.

    A photo is labeled with what is predicted if `MASK` is replaced by what is around it, so some photos are mistakes
    that this mark makes.
    """
    classifier = small_model()
    photos = (noise(60) * 255).round() / 255
    without_mark = torch.stack([replace_by_material(photo, MASK, SURROUNDINGS) for photo in photos])
    clean = noise(120, seed=3)
    for name, images, predicted in (("photos", photos, without_mark), ("clean", clean, clean)):
        labels = predict(classifier, predicted).argmax(dim=1).tolist()
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            save_image(root / name / classifier.classes[label] / f"{number}.png", image)


def desk_folder(root, monkeypatch):
    """Write a folder with photos, clean ones, and a file with the model; the cache is in it, and empty."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(root / "cache"))
    (root / "model.py").write_text(MODEL.format(tests=str(Path(__file__).parent)))
    write_photos(root)
    return root
