"""The benchmark of robustness: corruptions of pictures, and errors on them, which are the edited model's own."""

from dataclasses import replace
from types import SimpleNamespace

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
from edittools.selection import CachedStates, Scenario


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_stays_in_range_and_grows_with_severity(name):
    x = torch.linspace(0, 1, 32)
    disc = (((x[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) < 0.1).float() * 0.5 + 0.25
    smooth = torch.stack([(0.2 + 0.6 * x).expand(32, 32), disc, disc.flip(0)])[None]
    shifted = [corrupt(smooth, name, strength) for strength in CORRUPTIONS[name]]
    distances = [float((one - smooth).abs().mean()) for one in shifted]
    assert distances == sorted(distances) and distances[0] > 0
    assert all(one.shape == smooth.shape and one.min() >= 0 and one.max() <= 1 for one in shifted)


def test_error_rates_are_those_of_the_edited_classifier_on_the_corrupted_images(tiny, photos32, exemplar):
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    edit = 3 * rewrite(tiny, "conv1", exemplar, SecondMoment(torch.eye(8).double()), objective="least_squares")
    protocol = SimpleNamespace(states={"clean": CachedStates(cut_all(tiny, ["conv1", "conv2"]), data)})
    table = robustness.corrupted_errors(protocol, {"edit": edit}, data)
    assert table.index.tolist() == [(name, severity) for name in CORRUPTIONS for severity in (1, 3, 5)]
    for name, strengths in CORRUPTIONS.items():
        shifted = replace(data, images=corrupt(photos32, name, strengths[1]))
        assert table.loc[(name, 3), "before"] == pytest.approx(error_rate(tiny, shifted))
        with edit.applied(tiny):
            assert table.loc[(name, 3), "edit"] == pytest.approx(error_rate(tiny, shifted))


def test_the_benchmark_runs_on_any_scenario(tiny, photos32, exemplar, monkeypatch, tmp_path):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    turned = {"validation": (2,), "budget": (3,), "test": (), "clean": (2, 3)}
    sets = {name: replace(data, images=photos32.flip(axes) if axes else photos32) for name, axes in turned.items()}
    story = Scenario(tiny, {"one": exemplar}, reference=1 - photos32, **sets, layers=("conv1", "conv2"))
    curves, whole, chosen = robustness.measure(story, images=20)
    names = ["edit", "random direction", "local fine-tuning", "global fine-tuning"]
    names += [name.replace("_", " ") for name in BASELINES]
    assert list(chosen) == names and all("trials" in c for c in chosen.values())
    assert [row["method"] for row in curves] == ["before", *names] and len(whole) == 3 * len(CORRUPTIONS)
    assert curves[0]["strength"] == 0 and curves[0]["accuracy"] == pytest.approx(1 - error_rate(tiny, story.clean))
    assert curves[0]["corrupted accuracy"] == pytest.approx(1 - whole.before.mean())
