import pytest
import torch
from _lib import contest, networks, results
from _lib.methods import CONSTRAINTS, WITHIN, WITHOUT
from conftest import TinyNet, make_exemplar, randomise_norms

from edittools.activations import cache_activations, memory_for_states
from edittools.classifiers import Classifier
from edittools.course.scenarios import Scenario
from edittools.cut import cut_all
from edittools.edits import applied_edits
from edittools.images import LabelledImages
from edittools.methods import RANDOM, finetune
from edittools.metrics import misclassified, predict
from edittools.rewriting import rewrite, rewrite_at
from edittools.selection import Splits
from edittools.selection import activations as bench
from edittools.site import prepare

LAYERS = ["stem", "conv1", "conv2"]


@pytest.fixture
def sets(tiny, photos32):
    """Half of the images are labeled as they are predicted, half are not."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(photos32, labels, tiny.classes)
    return {"target": data.subset(range(20)), "clean": data.subset(range(20, 40))}


def _cached(classifier, layers, sets):
    """The cuts at the layers, and the sets cached there."""
    cuts = cut_all(classifier, layers)
    return cuts, cache_activations(cuts, sets)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scope", [None, "local", "global"])
@pytest.mark.parametrize("memory", ["", "0"])
def test_cached_activations_logits_of_edit(tiny, photos32, sets, exemplar, monkeypatch, layer, scope, memory):
    monkeypatch.setenv("EDITTOOLS_MEMORY", memory)
    _, cached = _cached(tiny, LAYERS, sets)
    assert cached["target"].memory.is_full == (memory == "0")
    site = prepare(tiny, layer, exemplar, photos32)
    [edit] = finetune(site, scope=scope, rate=0.1, steps=3) if scope else rewrite_at(site)
    with edit.applied(tiny):
        expected = predict(tiny, sets["target"])
    assert torch.allclose(cached["target"].logits(edit), expected, atol=1e-5)
    assert torch.equal(cached["target"].before, misclassified(predict(tiny, sets["target"]), sets["target"].labels))
    assert applied_edits(tiny) == ()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_compare_with_early_stop(tiny, sets, exemplar, scope):
    cached = bench.CachedActivations(cut_all(tiny, LAYERS), sets["clean"], batch_size=3)
    [edit] = finetune(prepare(tiny, "conv1", exemplar), scope=scope, rate=0.3, steps=3)
    complete = cached.compare(edit)
    told = []
    assert torch.equal(complete.after, misclassified(cached.logits(edit), cached.labels))
    assert torch.equal(cached.compare(edit, stop=lambda after: False).after, complete.after)
    cached = bench.CachedActivations(cut_all(tiny, LAYERS), sets["clean"], batch_size=3)
    assert cached.compare(edit, stop=lambda after: told.append(after.clone()) or len(told) > 1) is None
    assert len(told) == 2
    for done, after in zip((3, 6), told, strict=True):
        assert torch.equal(after[:done], complete.after[:done]) and not after[done:].any()


def test_cached_activations_logits_of_two_layers(tiny, photos32, sets, exemplar):
    _, cached = _cached(tiny, LAYERS, sets)
    both = rewrite(tiny, "conv2", exemplar, photos32, objective="least_squares") + rewrite(
        tiny, "conv1", exemplar, photos32, objective="least_squares"
    )
    with both.applied(tiny):
        expected = predict(tiny, sets["clean"])
    assert torch.allclose(cached["clean"].logits(both), expected, atol=1e-5)


@pytest.mark.parametrize("earlier", ["stem", "conv2"])
def test_cached_activations_logits_of_later_layer(tiny, photos32, sets, exemplar, earlier):
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


def test_cache_activations_without_images(tiny, sets):
    with pytest.raises(ValueError, match="none: 0 images"):
        _cached(tiny, LAYERS, {"none": sets["clean"].subset([])})


# --- every method of a scenario ---


@pytest.fixture(scope="module")
def tiny_scenario():
    torch.manual_seed(0)
    tiny = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    images = torch.rand(80, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = predict(tiny, images).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(images, labels, tiny.classes)
    splits = Splits(
        reference=1 - images,
        target=data.subset(range(40)),
        clean=data.subset(range(40, 60)),
        target_test=data.subset(range(60, 70)),
        clean_test=data.subset(range(70, 80)),
        extra={"more": data.subset(range(60, 65))},
    )
    default = {"layer": "conv2", "exemplar": "one", "rank": 1}
    exemplars = {"one": make_exemplar(), "two": make_exemplar(7)}
    several = {"both": list(exemplars.values())}
    return Scenario(tiny, exemplars, splits, layers=("conv1", "conv2"), default=default, several=several)


@pytest.fixture(scope="module")
def selected(tiny_scenario):
    """What is selected for the methods that get one exemplar."""
    return networks.select_for_exemplar(tiny_scenario, "one")


def test_methods_are_selected_within_limits_and_without(selected, tiny_scenario):
    found = {(one.method, one.limits): one for one in selected if one.method != RANDOM}
    both = (results.EDIT, results.FULL_RANK, results.PROJECTION, results.ON_EXEMPLAR, results.LAST_LAYER)
    assert set(found) == {(method, limits) for method in both for limits in CONSTRAINTS} | {(results.DEFAULT, WITHOUT)}
    clean = tiny_scenario.splits.clean
    before = int(misclassified(predict(tiny_scenario.classifier, clean), clean.labels).sum())
    for (_, limits), one in found.items():
        if limits == WITHIN and one.edit is not None:
            network = one.edit.edited(tiny_scenario.classifier)
            assert int(misclassified(predict(network, clean), clean.labels).sum()) <= before
    draws = [one.edit for one in selected if one.method == RANDOM]
    assert len({edit.digest for edit in draws}) == len(draws) == 5
    assert {edit.layers for edit in draws} == {found[results.DEFAULT, WITHOUT].edit.layers}


def test_contest_evaluates_each_edit_as_the_edited_network_does(tiny_scenario, selected):
    sets = networks.sets_of(tiny_scenario.splits)
    assert list(sets) == ["target_test", "clean_test", "more"]
    for one, found in zip(selected, contest.evaluated(tiny_scenario.classifier, selected, sets), strict=True):
        assert bool(found) == (one.edit is not None)
        for name, (before, after) in found.items():
            data = sets[name]
            network = one.edit.edited(tiny_scenario.classifier)
            assert before == misclassified(predict(tiny_scenario.classifier, data), data.labels).int().tolist()
            assert after == misclassified(predict(network, data), data.labels).int().tolist()


def test_contest_has_rows_for_each_exemplar_and_for_several(tiny_scenario):
    rows = networks.contest(lambda name: tiny_scenario, None, False, "tiny")
    assert {row["network"] for row in rows} == {"tiny"}
    cases = {case: {row["method"] for row in rows if row["case"] == case} for case in ("one", "two", "both")}
    assert cases["one"] == cases["two"] and results.DEFAULT in cases["one"]
    assert cases["both"] == {results.SEVERAL}
    assert sum(row["limits"] == WITHIN and row["case"] == "both" for row in rows) == 1


def test_joined_sets_follow_one_another():
    sets = {"target_test": [[1], [0]], "a": [[1, 0], [0, 0]], "b": [[1], [1]]}
    joined = networks.join_sets(sets, {"marks": ("a", "b")})
    assert joined == {"target_test": [[1], [0]], "marks": [[1, 0, 1], [0, 0, 1]]}
    assert networks.join_sets({}, {"marks": ("a", "b")}) == {}


def test_small_scenario_can_be_searched(tiny_scenario):
    fewer = networks.small(tiny_scenario, images=5)
    assert fewer.layers == ("conv2",) and list(fewer.exemplars) == ["one"] and not fewer.several
    sizes = {name: len(data) for name, data in fewer.splits.labeled.items()}
    assert sizes == {"target": 5, "clean": 3, "target_test": 2, "clean_test": 2, "more": 1}
    assert networks.select_for_exemplar(fewer, "one")
