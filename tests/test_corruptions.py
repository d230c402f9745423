"""Corruptions: exact small cases, growing severity, seeds; errors on them are those of the edited model itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edittools.choosing.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted_errors
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
    for severity in SEVERITIES:
        shifted = corrupt(smooth, name, severity)
        assert shifted.shape == smooth.shape and shifted.min() >= 0 and shifted.max() <= 1
        assert torch.equal(shifted, corrupt(smooth, name, severity))
        distances.append(float((shifted - smooth).abs().mean()))
    assert distances == sorted(distances) and distances[0] > 0


def test_contrast_keeps_the_mean_and_brightness_adds(smooth):
    assert torch.allclose(corrupt(smooth, "contrast", 3).mean((2, 3)), smooth.mean((2, 3)), atol=1e-5)
    assert torch.allclose(corrupt(smooth, "brightness", 1), smooth + 0.1)


def test_noise_has_its_strength_and_its_seed(smooth):
    grey = torch.full((8, 3, 64, 64), 0.5)
    assert abs(float((corrupt(grey, "noise", 1) - grey).std()) - 0.08) < 0.002
    assert not torch.equal(corrupt(smooth, "noise", 1), corrupt(smooth, "noise", 1, seed=1))


def test_unknown_corruptions_and_severities_are_refused(smooth):
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


def test_the_curves_have_a_panel_a_method(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import figures
    import pandas as pd

    shares = {"accuracy": 0.9, "corrupted accuracy": 0.5, "concept errors": 0.3}
    table = pd.DataFrame([{"method": m, "strength": s, **shares} for m in ("edit", "tuning") for s in (0.0, 1.0)])
    figure = figures.robustness_curves(table)
    assert [axis.get_title() for axis in figure.axes] == ["edit", "tuning"]
    assert [len(axis.lines) for axis in figure.axes] == [3, 3]
    many = pd.concat([table.assign(method=f"{i} {name}") for i in range(3) for name in ("edit", "tuning")])
    assert [axis.get_title() for axis in figures.robustness_curves(many).axes] == many.method.unique().tolist()


def test_the_benchmark_runs_on_any_scenario(tiny, photos32, exemplar, monkeypatch, tmp_path):
    from edittools.baselines import RIVALS
    from edittools.choosing import Scenario

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import robustness

    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    turned = {
        "validation": photos32.flip(2),
        "budget": photos32.flip(3),
        "test": photos32,
        "clean": photos32.flip(2, 3),
    }
    story = Scenario(
        tiny,
        {"one": exemplar},
        reference=1 - photos32,
        **{name: replace(data, images=images) for name, images in turned.items()},
        layers=("conv1", "conv2"),
    )
    curves, whole, chosen = robustness.measure(story, images=20)
    names = [
        "edit",
        "random direction",
        "local fine-tuning",
        "global fine-tuning",
        *(n.replace("_", " ") for n in RIVALS),
    ]
    assert list(chosen) == names == curves.method.unique().tolist() and all("trials" in c for c in chosen.values())
    assert len(whole) == 3 * len(CORRUPTIONS) and whole.before.between(0, 1).all()
    unedited = curves[curves.strength == 0]
    assert unedited.accuracy.nunique() == unedited["corrupted accuracy"].nunique() == 1
    assert unedited["corrupted accuracy"].iloc[0] == pytest.approx(1 - whole.before.mean())
