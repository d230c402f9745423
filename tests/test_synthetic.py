"""The synthetic benchmark: how cases are made, what is measured, and that the table does not depend on who computes."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import TinyNet, needs_photos, randomise_norms

from edittools.baselines.finetuning import finetune
from edittools.choosing.choice import Bounds, select
from edittools.choosing.states import CachedStates
from edittools.classifiers import Classifier
from edittools.cut import editable_layers
from edittools.images import LabelledImages
from edittools.metrics import errors, predict
from edittools.probing import jobs
from edittools.probing.statistics import bootstrap
from edittools.stories import style_pictures, suites
from edittools.stories import synthetic as syn
from edittools.stories import synthetic_tables as tables
from edittools.world.textures import STYLES, restyle
from edittools.zoo.embedded import MINI
from edittools.zoo.load import load_classifier


def tiny_material(count=160):
    """A random net, whose own readings of smooth random pictures are the labels; the lower half is "road"."""
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "house", "elk"), size=32)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2 * count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").clamp(0, 1)
    logits = predict(classifier, images)
    with torch.no_grad():  # centred, so that every class is read somewhere
        classifier.model.head.bias -= logits.mean(dim=0)
        classifier.model.head.weight *= 3
        classifier.model.head.bias *= 3
    data = LabelledImages(images, predict(classifier, images).argmax(dim=1), classifier.classes)
    masks = torch.zeros(count, 32, 32)
    masks[:, 16:] = 1
    speck = torch.zeros(count, 32, 32)
    speck[:, 0, 0] = 1
    some, rest = data.subset(range(count)), data.subset(range(count, 2 * count))
    return syn.Material(
        classifier,
        some,
        {"road": masks, "building": masks, "speck": speck},
        rest.images[80:120],
        rest.subset(range(40)),
        rest.subset(range(40, 80)),
    )


SUITE = syn.Suite(
    tiny_material,
    ("road",),
    ("graffiti", "snow"),
    ("conv1", "conv2"),
    numbers=(2, 1),
    strengths=(0.5,),
    rates=(1e-2,),
    steps=2,
    solver_steps=4,
    localities=(1.0,),
    budgets=(0.25, 100.0),
    least=1,
    rivals=("projection", "closed_form"),
)
PROCESSES = multiprocessing.get_context("forkserver")  # new processes that need not load torch again
PROCESSES.set_forkserver_preload(["edittools.stories.synthetic", "distributed"])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before, os.environ["EDITTOOLS_CACHE"] = os.environ.get("EDITTOOLS_CACHE"), str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("EDITTOOLS_CACHE") if before is None else os.environ.update(EDITTOOLS_CACHE=before)


@pytest.fixture(scope="module")
def table(cache):
    return syn.sweep(SUITE)


def test_no_case_holds_an_excluded_pair_and_a_concept_too_small_gives_none():
    suite = replace(SUITE, concepts=("road", "building", "speck"), targets=5)
    listed = syn.cases(suite)
    assert {case.concept for case in listed} == {"road", "building"}
    assert "house" in {case.target for case in listed if case.concept == "road"}
    assert "house" not in {case.target for case in listed if case.concept == "building"}
    assert set(syn.exclusions().columns) == {"concept", "reason", "class"}


def test_an_unknown_concept_is_named():
    with pytest.raises(KeyError, match="no masks of 'moon': expected one of road, building, speck"):
        syn.cases(replace(SUITE, concepts=("moon",)))


def test_exemplars_validation_and_test_are_disjoint_cover_all_and_are_drawn_the_same_again():
    case = syn.cases(SUITE)[0]
    parts = syn.parts(SUITE, case)
    together = torch.cat([parts.chosen, parts.validation, parts.test])
    assert sorted(together.tolist()) == list(range(len(parts.group.clean)))
    assert (parts.group.clean.labels[parts.chosen] == parts.target).all()
    assert abs(len(parts.validation) - 0.3 * (len(together) - len(parts.chosen))) <= 1
    again = syn.parts(SUITE, case)
    assert torch.equal(again.test, parts.test) and torch.equal(again.chosen, parts.chosen)
    one, two = parts.exemplars(1), parts.exemplars(2)
    assert torch.equal(one[0].image, two[0].image) and len(two) == 2


def test_a_group_is_read_rightly_before_and_changed_only_at_the_concept_with_held_out_variants_of_their_own():
    case = syn.cases(SUITE)[0]
    whole = syn.group(SUITE, case.concept, case.style)
    found = syn.material(SUITE)
    assert not errors(predict(found.classifier, whole.clean), whole.clean.labels).any()
    upper = whole.same.images[:, :, :16] - whole.clean.images[:, :, :16]
    assert upper.abs().max() <= 1 / 255
    assert (whole.same.images - whole.held_out.images)[:, :, 17:].abs().mean() > 0.05


def test_the_variants_of_an_exemplar_are_three_pictures_of_one_image():
    case = syn.cases(SUITE)[0]
    several = syn.parts(SUITE, case).in_variants(case.style, 2)
    assert len(several) == 6 and torch.equal(several[0].image, several[2].image)
    assert (several[0].changed - several[2].changed).abs().max() > 0.1


def test_counts_in_the_table_are_those_of_full_forward_passes():
    case = syn.cases(SUITE)[0]
    parts, tools = syn.parts(SUITE, case), syn.workbench(SUITE)
    classifier = syn.material(SUITE).classifier
    edit = finetune(classifier, "conv1", parts.exemplars(2), scope="global", rate=0.05, steps=3)
    test = {name: kept.subset(parts.test) for name, kept in parts.group.kept.items()}
    found = syn.figures(edit, test, parts.target, tools.clean)
    for name, data in (("same", parts.group.same), ("held out", parts.group.held_out)):
        test = data.subset(parts.test)
        before = errors(predict(classifier, test), test.labels)
        with edit.applied(classifier):
            after = errors(predict(classifier, test), test.labels)
        other = test.labels != parts.target
        assert found[f"other {name} before"] == int((before & other).sum())
        assert found[f"other {name} after"] == int((after & other).sum())
        assert found[f"target {name} broken"] == int((after & ~before & ~other).sum())
        assert found[f"other {name} corrected"] == int((before & ~after & other).sum())


def test_every_method_is_tried_and_what_costs_too_much_is_not_chosen(table):
    found = set(table.method)
    expected = {*syn.REWRITING, *syn.FINETUNING, "rank 1", "rank 3", "editing, variants", "random direction"} | {
        "projection",
        "closed form",
    }
    assert expected <= found
    chosen = table[table.budget == 0.25]
    assert (chosen.accuracy_change_budget >= -0.25).all()
    assert set(table[table.method == "local fine-tuning"].exemplars) == {1, 2}


def test_other_numbers_of_exemplars_are_tried_in_one_of_so_many_cases():
    suite = replace(SUITE, every=2)
    assert [syn._numbers(suite, case) for case in syn.cases(suite)] == [(2, 1), (2,)]
    assert syn._numbers(suite, syn.Case("road", "floral", "ant")) == (2, 1)


def test_a_wider_budget_never_gives_a_higher_validation_loss(table):
    assert (table.groupby(["job", "method", "exemplars"]).size() == 2).all()
    wide = table[table.budget == 100.0].set_index(["job", "method", "exemplars"]).strength
    narrow = table[table.budget == 0.25].set_index(["job", "method", "exemplars"]).strength
    assert ((wide > 0) | (narrow == 0)).all()  # where the narrow one found an edit, so does the wide one


def test_a_case_without_errors_enough_is_counted_and_not_scored(table):
    suite = replace(SUITE, styles=("snow",), least=10_000)
    undefined = syn.sweep(suite)
    assert list(undefined.method) == ["undefined"]
    both = pd.concat([table, undefined])
    assert tables.summary(both).equals(tables.summary(table))


def test_a_process_pool_and_a_resumed_store_give_the_same_table(table, tmp_path):
    first = syn.cases(SUITE)[:1]
    syn.sweep(SUITE, only=first, store=tmp_path / "store")
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        resumed = syn.sweep(SUITE, store=tmp_path / "store", executor=pool)
    pd.testing.assert_frame_equal(resumed, table)


def test_the_rows_of_another_model_other_pictures_or_other_grids_are_not_read(monkeypatch):
    made, identity = tiny_material(), syn.identity_of(SUITE)
    assert identity == syn.identity_of(SUITE)
    other = tiny_material()
    other.classifier.model.head.bias.data += 1
    pictures = replace(made.images, images=made.images.images.flip(3))
    for changed in (other, replace(made, images=pictures), replace(made, budget=made.clean)):
        monkeypatch.setattr(syn, "material", lambda _, changed=changed: changed)
        assert syn.identity_of(SUITE) != identity
    monkeypatch.setattr(syn, "material", lambda _: made)
    assert syn.identity_of(SUITE) == identity != syn.identity_of(replace(SUITE, seed=1))
    monkeypatch.setattr(syn, "REWRITING", {"editing": {"rank": (2,)}})
    assert syn.identity_of(SUITE) != identity


def run_and_die_once(marker, suite, case):
    """Run a case, except that the first process that gets to the second case is killed."""
    if case == syn.cases(suite)[1] and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return syn.run_case(suite, case)


def test_dask_with_two_workers_of_which_one_is_killed_gives_the_same_table(table, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'edittools[cluster]'")
    marker, store = tmp_path / "killed", tmp_path / "store"
    listed = {str(case): case for case in syn.cases(SUITE)}
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    quick = {"distributed.worker.multiprocessing-method": PROCESSES.get_start_method()}
    with (
        pytest.importorskip("dask").config.set(quick),
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        work = partial(run_and_die_once, str(marker), SUITE)
        found = jobs.run(work, listed, store, client.get_executor(), about=syn.identity_of(SUITE))
    assert marker.exists()
    pd.testing.assert_frame_equal(found, table)
    pd.testing.assert_frame_equal(syn.sweep(SUITE, store=store), table)  # all of it is in the store


def test_the_threads_of_torch_are_as_before():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), jobs.alone(1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def _rows(**changes):
    row = {"job": "a", "method": "editing", "exemplars": 3, "budget": 0.25, "accuracy_change": 0.0}
    for measure in tables.MEASURES:
        row |= {f"{measure} before": 10, f"{measure} after": 5, f"{measure} corrected": 6, f"{measure} broken": 1}
    return row | changes


def test_the_summary_averages_eq_2_over_cases_and_leaves_out_those_with_nothing_to_correct():
    rows = [
        _rows(),
        _rows(job="b", **{"other same before": 2, "other same after": 4}),
        _rows(job="c", **{"other same before": 0, "other same after": 1}),
    ]
    found = tables.summary(pd.DataFrame(rows)).set_index("measure").loc["other same"]
    assert found["mean"] == pytest.approx((0.5 - 1.0) / 2)
    assert found.cases == 2 and found.undefined == 1
    assert found.pooled == pytest.approx((12 - 10) / 12)
    assert (found.low, found.high) == (-1.0, 0.5)


def test_the_bootstrap_interval_of_many_cases_is_that_of_the_normal_law():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = bootstrap(values)
    series = pd.Series(values)
    assert (low, high) == pytest.approx(
        (series.mean() - 1.96 * series.sem(), series.mean() + 1.96 * series.sem()), abs=0.015
    )
    assert bootstrap([0.3, 0.3]) == pytest.approx((0.3, 0.3))


def test_a_breakdown_keeps_one_budget_and_one_number_of_exemplars():
    rows = [_rows(concept="road"), _rows(job="b", concept="sky", **{"other same after": 0})]
    rows += [_rows(concept="road", exemplars=1, **{"other same after": 8}), _rows(concept="road", budget=100.0)]
    table = pd.DataFrame(rows)
    assert tables.by(table, "concept").loc["editing"].to_dict() == {"road": 0.5, "sky": 1.0}
    assert tables.by(table, "exemplars").loc["editing"].to_dict() == {1: pytest.approx(0.2), 3: 0.5}  # job a alone
    assert set(tables.by(table, "budget").columns) == {0.25, 100.0}


def test_images_picked_from_kept_states_are_as_if_kept_alone():
    tools, found = syn.workbench(SUITE), syn.material(SUITE)
    chosen = torch.tensor([7, 3, 21])
    part, alone = tools.clean.subset(chosen), CachedStates(tools.cuts, found.clean.subset(chosen))
    edit = finetune(found.classifier, "conv1", syn.parts(SUITE, syn.cases(SUITE)[0]).exemplars(1), rate=0.1, steps=2)
    torch.testing.assert_close(part.logits(edit), alone.logits(edit))
    assert torch.equal(part.labels, alone.labels) and torch.equal(part.before, alone.before)


def test_selection_under_several_budgets_is_selection_under_each():
    tools, case = syn.workbench(SUITE), syn.cases(SUITE)[0]
    parts = syn.parts(SUITE, case)
    validation = parts.group.kept["same"].subset(parts.validation)
    [trials, *_] = syn._tables(SUITE, case, parts, validation).values()
    bounds = Bounds(tools.budget)
    for budget, choice in ((budget, bounds.choose(trials, budget)) for budget in (0.25, 2.0, 100.0)):
        alone = select(trials, tools.budget, budget)
        assert choice.settings == alone.settings and choice.accuracy_change == alone.accuracy_change


@pytest.mark.parametrize("tier", ["mini", "lite", "paper"])
def test_the_suites_of_all_tiers_name_layers_and_grow(tier):
    small, usual, full = (suites.suite(tier, size) for size in ("small", "usual", "full"))
    assert set(small.concepts) <= set(usual.concepts) <= set(full.concepts)
    assert len(usual.styles) <= len(full.styles)


@pytest.mark.parametrize("tier", ["mini", "lite", "paper"])
def test_a_suite_without_a_model_is_that_of_the_tiers_first(tier):
    first, *others = suites.LAYERS[tier]
    assert suites.suite(tier, model=first) == suites.suite(tier)
    for name in others:
        suite = suites.suite(tier, "small", name)
        assert dict(suite.options)["model"] == name and suite.layers == suites.LAYERS[tier][name]
        assert suite != suites.suite(tier, "small")  # they share no store


def test_the_stores_of_the_default_suites_go_on():
    assert suites.suite("lite").options == ()
    assert suites.suite("mini").options == (("count", 900), ("clean", 800))


@pytest.mark.parametrize("name", suites.LAYERS["mini"])
def test_the_layers_of_each_small_network_are_editable_and_come_in_its_order(name):
    untrained = Classifier(MINI[name](3).eval(), ("ant", "bee", "cat"), size=64)
    order = list(editable_layers(untrained).layer)
    places = [order.index(layer) for layer in suites.LAYERS["mini"][name]]
    assert len(places) == 3 and places == sorted(places)


@needs_photos
@pytest.mark.parametrize("name", suites.LAYERS["lite"])
def test_the_layers_of_each_network_on_photographs_are_editable_and_come_in_its_order(name):
    order = list(editable_layers(load_classifier(name)).layer)
    places = [order.index(layer) for layer in suites.LAYERS["lite"][name]]
    assert len(places) == 3 and places == sorted(places)


def test_the_papers_pictures_are_styles_of_the_smallest_and_the_largest_suite_on_photographs():
    found = {size: [s for s in suites.suite("lite", size).styles if s not in STYLES] for size in ("small", "full")}
    assert found == {"small": ["graffiti (picture)"], "full": list(style_pictures.PICTURES)}


def test_a_picture_is_laid_over_the_concept_alone_and_those_held_out_are_others(monkeypatch, tmp_path):
    shown = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save({"imgs": shown}, tmp_path / "graffiti.pt")
    asked = []
    monkeypatch.setattr(style_pictures, "photo", lambda name: asked.append(name) or tmp_path / "graffiti.pt")
    style_pictures._pictures.cache_clear()
    images = LabelledImages(torch.full((6, 3, 32, 32), 0.5), torch.zeros(6, dtype=torch.long), ("ant",))
    masks = torch.zeros(6, 32, 32)
    masks[:, 8:24] = 1
    changed = syn.styled(images, masks, "graffiti (picture)", range(6)).images
    style_pictures._pictures.cache_clear()
    assert asked == ["editing-classifiers/styles/graffiti.pt"]
    torch.testing.assert_close(changed[:, :, :8], images.images[:, :, :8], atol=0.003, rtol=0)
    for number in range(5):
        torch.testing.assert_close(changed[number, :, 12:20], shown[number, :, 12:20], atol=0.02, rtol=0)
    assert torch.equal(changed[4], changed[5])
    seen = {changed[i].numpy().tobytes() for i in (syn.SAME, *syn.MORE)}
    assert not seen & {changed[i].numpy().tobytes() for i in syn.HELD_OUT}
    drawn = syn.styled(images, masks, "snow", range(6)).images
    expected = torch.stack([restyle(images.images[i], masks[i], "snow", i) for i in range(6)])
    assert torch.equal(drawn, (expected * 255).round() / 255)
    with pytest.raises(ValueError, match="variant 6 of style 'graffiti .picture.': expected 0 to 5"):
        style_pictures.material("graffiti (picture)", 6)
    with pytest.raises(KeyError, match="no style 'rust'"):
        style_pictures.material("rust")


def test_several_models_are_swept_one_after_the_other_in_one_store(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import synthetic
    import tables as pages

    suite, asked = replace(SUITE, styles=("graffiti",)), []
    monkeypatch.setattr(synthetic.suites, "suite", lambda *given: asked.append(given) or suite)
    given = {"tier": "lite", "size": "small", "models": ["one", "two"], "workers": 0, "store": tmp_path / "a.store"}
    found = synthetic.several_models(SimpleNamespace(**given))["networks"]
    assert asked == [("lite", "small", "one"), ("lite", "small", "two")]
    table = syn.sweep(suite, store=tmp_path / "a.store")
    undefined = table[table.method == "undefined"].job.nunique()
    for one in found.values():
        assert (one["cases"], one["cases_without_errors"]) == (table.job.nunique() - undefined, undefined)
    mean = tables.summary(table).set_index(["method", "measure"]).loc[("editing", "other same"), "mean"]
    assert found["two"]["methods"]["editing"]["other same"][0] == mean
    rows = pages.synthetic({"networks": found}).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| one"] * 4 + ["| two"] * 4
    assert f"| {found['one']['cases']} | **edit** | {100 * mean:.0f} % [" in rows[0].replace("−", "-")
    assert "two, layers conv1, conv2" in capsys.readouterr().out


def test_an_unknown_tier_or_size_is_refused():
    with pytest.raises(ValueError, match="tier 'huge': expected mini, lite or paper"):
        suites.suite("huge")
    with pytest.raises(ValueError, match="size 'tiny': expected small, usual or full"):
        suites.suite("mini", "tiny")


@needs_photos
def test_msrc_gives_cases_of_classes_that_are_not_the_concept():
    suite = suites.suite("lite", "small")
    listed = syn.cases(suite)
    banned = set(zip(syn.exclusions().concept, syn.exclusions()["class"], strict=True))
    assert listed and not {(case.concept, case.target) for case in listed} & banned
