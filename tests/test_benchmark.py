import pytest
import torch
from _lib.methods import OTHERS, Plan, search_of, select_all, success
from conftest import TinyNet, make_exemplar, randomise_norms

from edittools.classifiers import Classifier, fingerprint
from edittools.course.scenarios import Scenario
from edittools.cut import cut_all
from edittools.edits import Change, Edit, applied_edits
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.methods import finetune
from edittools.metrics import misclassified, predict
from edittools.rewriting import rewrite, rewrite_at
from edittools.selection import Splits, grid
from edittools.selection import activations as bench
from edittools.selection.activations import cache_activations, memory_for_states
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


def test_success_of_exemplars(tiny, photos32, sets):
    predicted = predict(tiny, photos32[:2]).argmax(1).tolist()
    labels = {"right": predicted[0], "wrong": (predicted[1] + 1) % 5}
    mask = torch.ones(32, 32)
    exemplars = {name: Exemplar(photos32[2], photos32[i], mask, labels[name]) for i, name in enumerate(labels)}
    several = {"both": list(exemplars.values())}
    splits = Splits(reference=photos32, target=sets["target"], clean=sets["target"], clean_test=sets["clean"])
    scenario = Scenario(tiny, exemplars, splits, several=several, layers=("conv1",))
    cuts = cut_all(tiny, ["conv1"])
    no_change = Edit({"conv1.bias": Change(torch.zeros(12))}, fingerprint(tiny.model))
    assert [success(no_change, scenario, cuts, name) for name in ("right", "wrong", "both", None)] == [1, 0, 0.5, 0.5]
    constant = Edit({"head.bias": Change(1000 * torch.eye(5)[(predicted[0] + 1) % 5])}, fingerprint(tiny.model))
    assert success(constant, scenario, cuts, "right") == 0


# --- every method of a scenario ---


@pytest.fixture(scope="module")
def selected(tiny_scenario):
    """The search of a small scenario, and the selections of all methods, each with few settings."""
    search = search_of(tiny_scenario)
    settings = grid(rank=(1,), objective=("l1", "least_squares"), steps=(5,))
    rounds = {"rates": (0.01, 0.1), "steps": (2, 3), "localities": (1.0, 5.0), "top": 1}
    return search, select_all(tiny_scenario, search, Plan(settings=settings, **rounds), draws=2)


@pytest.fixture(scope="module")
def tiny_scenario():
    torch.manual_seed(0)
    tiny = Classifier(randomise_norms(TinyNet()), list("abcde"), size=32)
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = predict(tiny, images).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(images, labels, tiny.classes)
    splits = Splits(
        reference=1 - images,
        target=data.subset(range(20)),
        clean=data.subset(range(20, 30)),
        target_test=data.subset(range(30, 40)),
    )
    default = {"layer": "conv2", "exemplar": "one", "rank": 1}
    return Scenario(tiny, {"one": make_exemplar()}, splits, layers=("conv1", "conv2"), default=default)


def test_select_all_selects_for_every_method_under_the_same_constraints(selected):
    search, selections = selected
    edits = [f"{name}{suffix}" for suffix in ("", "_several") for name in ("editing", "random_direction")]
    tuned = [f"finetune_{scope}{suffix}" for scope in ("local", "global") for suffix in ("", "_several")]
    interpolated = ["interpolated_local", "interpolated_global"]
    expected = ["untuned", *edits, "random_direction_2", "two_layers", *tuned, *interpolated, *OTHERS]
    assert list(selections) == expected
    assert all(selection.seconds > 0 for selection in selections.values())
    assert selections["editing"].n_candidates == selections["random_direction"].n_candidates == 2 * 1 * 2 * 3
    for name in (*edits, *OTHERS):
        outcomes = selections[name].outcomes
        helping = [outcomes.candidates[index] for index in outcomes.by_loss if outcomes.net[index] > 0]
        clean = search.activations["clean"]
        changes = ((one, clean.compare(one.edit, one.strength).accuracy_change) for one in helping)
        first = next((one for one, change in changes if change >= -0.25), None)
        assert selections[name].feasible == (first is not None)
        assert first is None or selections[name].edit is first.scaled
    table = search.evaluate({name: selection.edit for name, selection in selections.items()})
    assert table.loc["untuned", "clean change"] == pytest.approx(selections["untuned"].accuracy_change)


def test_select_second_layer_counts_the_candidates_of_both(selected):
    _, selections = selected
    first = selections["editing"]
    both = selections["two_layers"]
    assert both.n_candidates == first.n_candidates + len(both.results)
    if first.feasible:
        assert both.scores["loss"] <= first.scores["loss"]
        assert str(first) in str(both)


def test_select_finetuning_tries_the_best_of_the_first_round_again(selected):
    _, selections = selected
    tried = selections["finetune_local"].results
    first, again = tried[:8], tried[8:]
    best = first.loc[first.loss.idxmin()]
    assert [set(first[name]) for name in ("locality", "steps")] == [{0.0}, {2}]
    assert (again[["layer", "rate", "momentum"]] == best[["layer", "rate", "momentum"]]).all(axis=None)
    assert list(zip(again.locality, again.steps, strict=True)) == [(0, 3), (1, 2), (1, 3), (5, 2), (5, 3)]
    assert selections["interpolated_local"].n_candidates == 4 * len(tried)
