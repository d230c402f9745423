"""Likely label errors: found among clean and retained images, never among failing ones, and only with cleanlab."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.reports import render
from edittools.selection import repair
from edittools.selection.label_errors import KINDS, find_label_errors

CLASSES = ("ant", "bee", "cat", "dog")


def split(labels, predictions, certainty=6.0):
    """A split whose images are labeled and predicted as given: its images, and what a search has cached of them."""
    labels = torch.tensor(labels)
    logits = torch.zeros(len(labels), len(CLASSES))
    logits[range(len(labels)), predictions] = certainty
    names = tuple(f"{number}.png" for number in range(len(labels)))
    data = LabelledImages(torch.zeros(len(labels), 3, 2, 2), labels, CLASSES, names)
    return data, SimpleNamespace(labels=labels, original=logits)


def errors_of(**splits):
    labeled = {name: data for name, (data, _) in splits.items()}
    activations = {name: cached for name, (_, cached) in splits.items()}
    return find_label_errors(activations, labeled, CLASSES)


@pytest.fixture
def cleanlab():
    return pytest.importorskip("cleanlab", reason="no cleanlab here: pip install 'edittools[notebooks]'")


def test_find_label_errors_of_clean_and_retained_images(cleanlab):
    truth = [number % 4 for number in range(40)]
    swapped = [*truth]
    swapped[6], swapped[7] = truth[7], truth[6]
    failing = split([0] * 20, [1] * 20)  # a rule: ants are bees, for certain
    errors = errors_of(target=failing, clean=split(truth, truth), clean_test=split(swapped, truth))
    assert {(error.split, error.index) for error in errors} == {("clean_test", 6), ("clean_test", 7)}
    assert {(error.name, error.label, error.prediction) for error in errors} == {
        ("6.png", "dog", "cat"),
        ("7.png", "cat", "dog"),
    }
    assert all(error.probability > 0.9 for error in errors)
    of_retained = errors_of(target=failing, clean=split(truth, truth), retain=split(swapped, truth))
    assert {(error.split, error.index) for error in of_retained} == {("retain", 6), ("retain", 7)}


@pytest.mark.parametrize("label", [0, 3])
def test_find_label_errors_of_a_single_class(cleanlab, label):
    assert errors_of(clean=split([label] * 9, [label] * 8 + [1])) == ()


def test_find_label_errors_of_logits_that_are_no_numbers(cleanlab):
    truth = [number % 4 for number in range(40)]
    data, cached = split(truth, truth)
    cached.original[3] = float("nan")
    cached.original[4] = float("inf")
    swapped = [truth[1], truth[0], *truth[2:]]
    errors = errors_of(clean=(data, cached), clean_test=split(swapped, truth))
    assert {(error.split, error.index) for error in errors} == {("clean_test", 0), ("clean_test", 1)}


@pytest.fixture(scope="module")
def swapped(snow):
    """Arguments of `repair` whose clean images have eight swapped labels, and the names of these images."""
    clean = snow["clean"]
    names = tuple(f"{number}.png" for number in range(len(clean)))
    correct = (predict(snow["classifier"], clean).argmax(dim=1) == clean.labels).nonzero()[:, 0]
    changed = correct[:: len(correct) // 8][:8]
    labels = clean.labels.clone()
    labels[changed] = (labels[changed] + 1) % len(clean.classes)
    data = LabelledImages(clean.images, labels, clean.classes, names)
    return {**snow, "clean": data, "baselines": False}, {names[number] for number in changed.tolist()}


def test_repair_warns_about_likely_label_errors(cleanlab, swapped, tmp_path):
    arguments, names = swapped
    with pytest.warns(UserWarning, match="label of a clean or retained image"):
        fix = repair(**arguments)
    errors = fix.label_errors
    of_clean = errors[errors["split"].isin(["clean", "clean_test"])]
    assert len(of_clean) and set(of_clean["name"]) <= names and set(errors["split"]) <= set(KINDS)
    assert [check.allows for check in fix.checks if "likely wrong" in check.name] == ["use"]
    page = fix.report(tmp_path / "report.html").read_text()
    data = json.loads((tmp_path / "report.json").read_text())
    assert [error["name"] for error in data["label_errors"]] == errors["name"].tolist()
    assert all(f"{error.name}: labeled {error.label}, predicted" in page for error in errors.itertuples())


def test_repair_with_predicted_labels_finds_no_label_errors(cleanlab, swapped):
    arguments, _ = swapped
    fix = repair(**{**arguments, "clean": arguments["clean"].images, "retain": None})
    assert not len(fix.label_errors) and not [check for check in fix.checks if "likely wrong" in check.name]
    assert fix.report_data()["label_errors"] == [] and "Labels to check" not in render(fix.page())


def test_repair_without_cleanlab(swapped, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    arguments, _ = swapped
    fix = repair(**arguments)
    assert not [check for check in fix.checks if "likely wrong" in check.name]
    assert fix.report_data()["label_errors"] is None and "Labels to check" not in render(fix.page())
    with pytest.raises(ModuleNotFoundError, match=r"edittools\[notebooks\]"):
        _ = fix.label_errors
