"""Corruptions: exact small cases, growing severity; errors on them are those of the edited model itself."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from edittools.baselines import RIVALS
from edittools.choosing import Scenario
from edittools.choosing.corruptions import CORRUPTIONS, corrupt, corrupted_errors
from edittools.cut import cut_all
from edittools.images import LabelledImages
from edittools.metrics import error_rate
from edittools.moments import SecondMoment
from edittools.rewriting import rewrite


@pytest.fixture
def smooth():
    """Pictures with structure: a ramp and a disc."""
    x = torch.linspace(0, 1, 32)
    ramp = (0.2 + 0.6 * x).expand(32, 32)
    disc = (((x[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) < 0.1).float() * 0.5 + 0.25
    return torch.stack([torch.stack([ramp, disc, ramp.T]), torch.stack([disc, ramp, disc])])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_stays_in_range_repeats_and_grows_with_severity(smooth, name):
    distances = []
    for severity in range(1, 6):
        shifted = corrupt(smooth, name, severity)
        assert shifted.shape == smooth.shape and shifted.min() >= 0 and shifted.max() <= 1
        assert torch.equal(shifted, corrupt(smooth, name, severity))
        distances.append(float((shifted - smooth).abs().mean()))
    assert distances == sorted(distances) and distances[0] > 0


def test_contrast_keeps_the_mean_brightness_adds_and_noise_has_its_strength(smooth):
    assert torch.allclose(corrupt(smooth, "contrast", 3).mean((2, 3)), smooth.mean((2, 3)), atol=1e-5)
    assert torch.allclose(corrupt(smooth, "brightness", 1), smooth + 0.1)
    grey = torch.full((8, 3, 64, 64), 0.5)
    assert abs(float((corrupt(grey, "noise", 1) - grey).std()) - 0.08) < 0.002
    with pytest.raises(KeyError, match="no corruption 'fog': expected one of noise"):
        corrupt(smooth, "fog", 1)
    with pytest.raises(ValueError, match="severity 6: expected a whole number from 1 to 5"):
        corrupt(smooth, "noise", 6)


def test_error_rates_are_those_of_the_edited_classifier_on_the_corrupted_images(tiny, photos32, exemplar):
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    edit = 3 * rewrite(tiny, "conv1", exemplar, SecondMoment(torch.eye(8).double(), 9), objective="least_squares")
    table = corrupted_errors(cut_all(tiny, ["conv1", "conv2"]), {"edit": edit}, data, severities=(2,))
    assert table.index.tolist() == [(name, 2) for name in CORRUPTIONS]
    for name, _ in table.index:
        shifted = LabelledImages(corrupt(photos32, name, 2), data.labels, data.classes)
        assert table.loc[(name, 2), "before"] == pytest.approx(error_rate(tiny, shifted))
        with edit.applied(tiny):
            assert table.loc[(name, 2), "edit"] == pytest.approx(error_rate(tiny, shifted))


def test_the_benchmark_runs_on_any_scenario(tiny, photos32, exemplar, monkeypatch, tmp_path):
    import figures
    import robustness

    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    turned = {"validation": (2,), "budget": (3,), "test": (), "clean": (2, 3)}
    sets = {name: replace(data, images=photos32.flip(axes) if axes else photos32) for name, axes in turned.items()}
    story = Scenario(tiny, {"one": exemplar}, reference=1 - photos32, **sets, layers=("conv1", "conv2"))
    curves, whole, chosen = robustness.measure(story, images=20)
    names = ["edit", "random direction", "local fine-tuning", "global fine-tuning"]
    names += [name.replace("_", " ") for name in RIVALS]
    assert list(chosen) == names == curves.method.unique().tolist() and all("trials" in c for c in chosen.values())
    assert len(whole) == 3 * len(CORRUPTIONS) and whole.before.between(0, 1).all()
    unedited = curves[curves.strength == 0]
    assert unedited.accuracy.nunique() == unedited["corrupted accuracy"].nunique() == 1
    assert unedited["corrupted accuracy"].iloc[0] == pytest.approx(1 - whole.before.mean())
    few = pd.concat([curves[curves.method == name] for name in names[:2]])
    for table in (few, curves):
        drawn = figures.robustness_curves(table).axes
        assert [axis.get_title() for axis in drawn] == table.method.unique().tolist()
        assert all(len(axis.lines) == 3 for axis in drawn)
