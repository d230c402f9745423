import pytest
import torch
from _lib import effects, networks, results
from _lib.methods import select_for_exemplar
from conftest import TinyNet, make_exemplar, randomise_norms
from torch.nn.functional import interpolate

from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.edits import applied_edits
from edittools.images import LabeledImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import RANDOM, rewrite, rewrite_at
from edittools.site import prepare
from edittools.states import memory_for_states, states_of
from edittools_course.rivals import finetune
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits

LAYERS = ["stem", "conv1", "conv2"]


@pytest.fixture
def sets(tiny, photos32):
    """Half of the images are labeled as they are predicted, half are not."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabeledImages(photos32, labels, tiny.classes)
    return {"target": data.subset(range(20)), "clean": data.subset(range(20, 40))}


def _cached(classifier, layers, sets):
    """The cuts at the layers, and the states of the sets there."""
    cuts = cut_all(classifier, layers)
    return cuts, states_of(cuts, sets)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scope", [None, "local", "global"])
@pytest.mark.parametrize("memory", ["", "0"])
def test_states_logits_of_edit(tiny, photos32, sets, exemplar, monkeypatch, layer, scope, memory):
    monkeypatch.setenv("EDITTOOLS_MEMORY", memory)
    _, cached = _cached(tiny, LAYERS, sets)
    site = prepare(tiny, layer, exemplar, photos32)
    [edit] = finetune(site, scope=scope, rate=0.1, steps=3) if scope else rewrite_at(site)
    with edit.applied(tiny):
        expected = predict(tiny, sets["target"])
    assert torch.allclose(cached["target"].logits(edit), expected, atol=1e-5)
    assert torch.equal(cached["target"].before, misclassified(predict(tiny, sets["target"]), sets["target"].labels))
    assert cached["target"].memory.is_full == (memory == "0")
    assert applied_edits(tiny) == ()


@pytest.mark.parametrize("earlier", ["stem", "conv2"])
def test_states_logits_of_later_layer(tiny, photos32, sets, exemplar, earlier):
    """Whatever an edit changes must come after the first of the cached layers, of which `conv2` is not needed."""
    first, second = (rewrite(tiny, layer, exemplar, photos32, objective="least_squares") for layer in (earlier, "head"))
    _, late = _cached(tiny, ["head"], sets)
    for edit in (first, first + second):
        with pytest.raises(ValueError, match=rf"'{earlier}.weight'.*'head'"):
            late["clean"].logits(edit)
    _, cached = _cached(tiny, ["conv1", "conv2"], sets)
    assert torch.allclose(late["clean"].logits(second), cached["clean"].logits(second), atol=1e-5)


def test_memory_for_states_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("EDITTOOLS_MEMORY", "0.25")
    assert memory_for_states(torch.device("cpu")) == 0.25e9
    monkeypatch.setenv("EDITTOOLS_MEMORY", "much")
    with pytest.raises(ValueError, match="EDITTOOLS_MEMORY 'much'"):
        memory_for_states(torch.device("cpu"))
    monkeypatch.delenv("EDITTOOLS_MEMORY")
    assert 1e8 < memory_for_states(torch.device("cpu")) < 2e9


def test_states_of_no_images(tiny, photos32, exemplar, sets):
    edit = rewrite(tiny, "conv1", exemplar, photos32)
    _, cached = _cached(tiny, LAYERS, {"none": sets["clean"].subset([])})
    assert cached["none"].original.shape == cached["none"].logits(edit).shape == (0, 5)
    assert cached["none"].predictions([None, edit]).shape == (2, 0)


# --- every method of a scenario ---


@pytest.fixture(scope="module")
def tiny_scenario():
    torch.manual_seed(0)
    tiny = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    coarse = torch.rand(120, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = interpolate(coarse, (32, 32), mode="bilinear")
    with torch.no_grad():  # centered, so that every class is predicted for some image
        tiny.model.head.bias -= predict(tiny, images).mean(dim=0)
    labels = predict(tiny, images).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabeledImages(images, labels, tiny.classes)
    splits = ScenarioSplits(
        reference=images[:70],
        target=data.subset(range(70, 90)),
        clean=data.subset(range(90, 100)),
        target_test=data.subset(range(100, 110)),
        clean_test=data.subset(range(110, 120)),
        extra={"more": data.subset(range(100, 105))},
    )
    default = {"layer": "conv2", "exemplar": "one", "rank": 1}
    exemplars = {"one": make_exemplar(), "two": make_exemplar(7)}
    several = {"both": list(exemplars.values())}
    return Scenario(tiny, exemplars, splits, layers=("conv1", "conv2"), default=default, several=several)


@pytest.fixture(scope="module")
def selected(tiny_scenario):
    """What is selected for the methods that get one exemplar."""
    return select_for_exemplar(tiny_scenario, "one", finetuning=False)


def test_every_method_selects_among_its_own_candidates(selected):
    found = {one.method: one for one in selected if one.method != RANDOM}
    of_labels = [results.BY_LABELS, results.FULL_RANK, results.PROJECTION, results.ON_EXEMPLAR]
    assert set(found) == {results.BY_HOSTS, results.BY_EXEMPLAR, *of_labels}
    assert all(set(one.edit.layers) <= {"conv1", "conv2"} for name, one in found.items() if name != results.ON_EXEMPLAR)
    assert found[results.BY_EXEMPLAR].candidates == 2  # one per layer
    assert found[results.FULL_RANK].candidates == 2 * 4 * 3  # layers, λ, strengths
    assert found[results.ON_EXEMPLAR].candidates == 2 * 3 * 2
    draws = [one for one in selected if one.method == RANDOM]
    assert len({one.edit.digest for one in draws}) == len({one.run for one in draws}) == len(draws) == 5
    assert {one.edit.layers for one in draws} == {found[results.BY_HOSTS].edit.layers}


def test_each_edit_is_evaluated_as_the_edited_network(tiny_scenario, selected):
    sets = tiny_scenario.splits.for_evaluation
    assert list(sets) == ["target_test", "clean_test", "more"]
    edits = {str(number): one.edit for number, one in enumerate(selected)}
    for name, found in effects.evaluated(tiny_scenario.classifier, edits, sets).items():
        assert list(found) == ["target_test", "clean_test", effects.CHANGED, "more"]
        network = edits[name].edited(tiny_scenario.classifier)
        for split, data in sets.items():
            before, after = (predict(one, data).argmax(1) for one in (tiny_scenario.classifier, network))
            assert found[split] == [(predicted != data.labels).int().tolist() for predicted in (before, after)]
            if split == effects.CLEAN:
                assert found[effects.CHANGED][1] == (before != after).int().tolist()


def test_contest_has_rows_for_each_exemplar_and_for_several(tiny_scenario):
    rows = networks.contest(lambda name: tiny_scenario, None, False, "tiny")
    assert {row["network"] for row in rows} == {"tiny"}
    cases = {case: {row["method"] for row in rows if row["case"] == case} for case in ("one", "two", "both")}
    assert cases["one"] == cases["two"] and results.BY_HOSTS in cases["one"]
    assert cases["both"] == {results.SEVERAL}


def test_joined_sets_follow_one_another():
    sets = {"target_test": [[1], [0]], "a": [[1, 0], [0, 0]], "b": [[1], [1]]}
    joined = networks.join_sets(sets, {"marks": ("a", "b")})
    assert joined == {"target_test": [[1], [0]], "marks": [[1, 0, 1], [0, 0, 1]]}


def test_small_scenario_has_one_layer_and_few_images(tiny_scenario):
    fewer = networks.small(tiny_scenario, images=5)
    assert fewer.layers == ("conv2",) and list(fewer.exemplars) == ["one"] and not fewer.several
    sizes = {name: len(data) for name, data in fewer.splits.labeled.items()}
    assert sizes == {"target": 5, "clean": 3, "target_test": 3, "clean_test": 3, "more": 2}
    assert len(fewer.splits.images) == 5
