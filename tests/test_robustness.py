"""The benchmark of robustness: corruptions of pictures, and errors on them, which are the edited model's own."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import robustness
import torch
from methods import choose_all
from robustness import CORRUPTIONS, corrupt

from edittools.baselines import RIVALS
from edittools.choosing import CachedStates, Plan, Protocol, Scenario, grid
from edittools.cut import cut_all
from edittools.images import LabelledImages
from edittools.metrics import error_rate, predict
from edittools.moments import SecondMoment
from edittools.rewriting import rewrite


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
    edit = 3 * rewrite(tiny, "conv1", exemplar, SecondMoment(torch.eye(8).double(), 9), objective="least_squares")
    protocol = SimpleNamespace(states={"clean": CachedStates(cut_all(tiny, ["conv1", "conv2"]), data)})
    table = robustness.corrupted_errors(protocol, {"edit": edit}, data)
    assert table.index.tolist() == [(name, severity) for name in CORRUPTIONS for severity in (1, 3, 5)]
    for name, strengths in CORRUPTIONS.items():
        shifted = replace(data, images=corrupt(photos32, name, strengths[1]))
        assert table.loc[(name, 3), "before"] == pytest.approx(error_rate(tiny, shifted))
        with edit.applied(tiny):
            assert table.loc[(name, 3), "edit"] == pytest.approx(error_rate(tiny, shifted))


@pytest.fixture
def story(tiny, photos32, exemplar, monkeypatch, tmp_path):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    data = LabelledImages(photos32, torch.arange(40) % 5, tiny.classes)
    turned = {"validation": (2,), "budget": (3,), "test": (), "clean": (2, 3)}
    sets = {name: replace(data, images=photos32.flip(axes) if axes else photos32) for name, axes in turned.items()}
    default = {"layer": "conv1", "exemplar": "one"}
    return Scenario(tiny, {"one": exemplar}, reference=1 - photos32, **sets, layers=("conv1", "conv2"), default=default)


def test_the_benchmark_runs_on_any_scenario(story):
    curves, whole, chosen = robustness.measure(story, images=20)
    names = ["edit", "random direction", "local fine-tuning", "global fine-tuning"]
    names += [name.replace("_", " ") for name in RIVALS]
    assert list(chosen) == names == curves.method.unique().tolist() and all("trials" in c for c in chosen.values())
    assert len(whole) == 3 * len(CORRUPTIONS) and whole.before.between(0, 1).all()
    unedited = curves[curves.strength == 0]
    assert unedited.accuracy.nunique() == unedited["corrupted accuracy"].nunique() == 1
    assert unedited["corrupted accuracy"].iloc[0] == pytest.approx(1 - whole.before.mean())


def test_every_method_is_chosen_and_a_second_layer_is_added_where_it_helps(story):
    tuning = {"rates": (1e-2,), "momenta": (0.9,), "steps": (2,), "localities": (1.0,), "top": 1, "long": (3,)}
    plan = Plan(grid(objective=("least_squares",), reference_weight=(0.0, 10.0)), (10.0, 20.0), longest=1, **tuning)
    [shown] = story.exemplars.values()
    edits = [rewrite(story.classifier, one, shown, story.reference, objective="least_squares") for one in story.layers]
    sets = {}
    with (20 * edits[0]).applied(story.classifier), (20 * edits[1]).applied(story.classifier):  # as wanted
        for name in ("validation", "budget"):
            data = getattr(story, name)
            sets[name] = replace(data, labels=predict(story.classifier, data).argmax(dim=1))
    protocol = Protocol(replace(story, **sets))
    protocol.bounds.measure = lambda edit, budget: (protocol.states["budget"].compare(edit), None)  # all may be chosen
    chosen = choose_all(protocol, plan)
    twice = ("editing", "random_direction", "finetune_local", "finetune_global")
    once = {"untuned", "two_layers", "interpolated_local", "interpolated_global", *RIVALS}
    assert chosen.keys() == once | {f"{name}{many}" for name in twice for many in ("", "_several")}
    first, both = chosen["editing"], chosen["two_layers"]
    assert first.found and both.validation["loss"] <= first.validation["loss"]
    assert both.edit.layers == first.edit.layers or set(both.edit.layers) == {"conv1", "conv2"}
    assert both.trials > first.trials and str(first) in str(both)
