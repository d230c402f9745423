"""The benchmark of robustness: corruptions of images, and the edited model's errors on them."""

from dataclasses import replace

import pytest
import robustness
import torch
from robustness import CORRUPTIONS, corrupt

from edittools.baselines import BASELINES
from edittools.cut import cut_all
from edittools.images import LabelledImages
from edittools.metrics import error_rate
from edittools.moments import SecondMoment
from edittools.rewriting import rewrite
from edittools.scenarios import Scenario
from edittools.selection import Splits


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_stays_in_range_and_grows_with_severity(name):
    x = torch.linspace(0, 1, 32)
    disc = (((x[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) < 0.1).float() * 0.5 + 0.25
    smooth = torch.stack([(0.2 + 0.6 * x).expand(32, 32), disc, disc.flip(0)])[None]
    corrupted = [corrupt(smooth, name, strength) for strength in CORRUPTIONS[name]]
    distances = [float((images - smooth).abs().mean()) for images in corrupted]
    assert distances == sorted(distances)
    assert distances[0] > 0
    for images in corrupted:
        assert images.shape == smooth.shape
        assert images.min() >= 0
        assert images.max() <= 1


def test_corrupted_errors_equal_error_rates_of_the_edited_classifier(tiny, photos32, exemplar):
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    edit = 3 * rewrite(tiny, "conv1", exemplar, SecondMoment(torch.eye(8).double()), objective="least_squares")
    table = robustness.corrupted_errors(cut_all(tiny, ["conv1", "conv2"]), {"edit": edit}, data)
    assert table.index.tolist() == [(name, severity) for name in CORRUPTIONS for severity in (1, 3, 5)]
    for name, strengths in CORRUPTIONS.items():
        corrupted = replace(data, images=corrupt(photos32, name, strengths[1]))
        assert table.loc[(name, 3), "before"] == pytest.approx(error_rate(tiny, corrupted))
        with edit.applied(tiny):
            assert table.loc[(name, 3), "edit"] == pytest.approx(error_rate(tiny, corrupted))


def test_measure_any_scenario(tiny, photos32, exemplar, monkeypatch, tmp_path):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    scenario = Scenario(
        tiny,
        {"one": exemplar},
        Splits(
            reference=1 - photos32,
            target=replace(data, images=photos32.flip(2)),
            clean=replace(data, images=photos32.flip(3)),
            target_test=data,
            clean_test=replace(data, images=photos32.flip(2, 3)),
        ),
        layers=("conv1", "conv2"),
    )
    curves, table, selected = robustness.measure(scenario, images=20)
    baselines = [name.replace("_", " ") for name in BASELINES]
    methods = ["edit", "random direction", "local fine-tuning", "global fine-tuning", *baselines]
    assert list(selected) == methods
    assert all("trials" in selection for selection in selected.values())
    assert [row["method"] for row in curves] == ["before", *methods]
    assert len(table) == 3 * len(CORRUPTIONS)
    assert curves[0]["strength"] == 0
    assert curves[0]["accuracy"] == pytest.approx(1 - error_rate(tiny, scenario.splits.clean_test))
    assert curves[0]["corrupted accuracy"] == pytest.approx(1 - table.before.mean())
