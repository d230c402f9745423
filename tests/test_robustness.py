"""The benchmark of robustness: corruptions of images, and the edited model's errors on them."""

from dataclasses import replace

import pytest
import robustness
import torch
from _lib.results import Results, name_of
from robustness import CORRUPTIONS, corrupt

from edittools.baselines import BASELINES
from edittools.cut import cut_all
from edittools.images import LabelledImages
from edittools.metrics import error_rate
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
    edit = 3 * rewrite(tiny, "conv1", exemplar, photos32[:20], objective="least_squares")
    table = robustness.corrupted_errors(cut_all(tiny, ["conv1", "conv2"]), {"edit": edit}, data)
    assert table.index.tolist() == [(name, severity) for name in CORRUPTIONS for severity in (1, 3, 5)]
    for name, strengths in CORRUPTIONS.items():
        corrupted = replace(data, images=corrupt(photos32, name, strengths[1]))
        assert table.loc[(name, 3), "before"] == pytest.approx(error_rate(tiny, corrupted))
        with edit.applied(tiny):
            assert table.loc[(name, 3), "edit"] == pytest.approx(error_rate(tiny, corrupted))


def test_add_errors_of_any_scenario(tiny, photos32, exemplar, monkeypatch, tmp_path):
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
    results = Results("robustness", "MiniWorld")
    robustness.add_errors(results, scenario, "tiny", images=20)
    table = results.frame()
    rewriting = ("editing", "random_direction", "finetune_local", "finetune_global", "full_rank")
    methods = [name_of(key) for key in (*rewriting, *BASELINES)]
    assert list(table.method.unique()) == ["no edit", *methods]
    assert list(table[table.metric == "candidates"].method) == methods
    before = table[table.method == "no edit"].set_index(["metric", "condition"]).value
    assert before["accuracy", ""] == pytest.approx(1 - error_rate(tiny, scenario.splits.clean_test))
    assert before["error rate", "corrupted"] == pytest.approx(before["error rate"][list(CORRUPTIONS)].mean())
