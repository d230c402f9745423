"""The synthetic benchmark: how cases are made, what is measured, and that the table does not depend on who computes."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import TinyNet, needs_photos, randomise_norms
from torch.nn.functional import interpolate

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict
from edittools.miniworld.textures import style_textures
from edittools.models.data import shipped
from edittools.probing import Concepts, jobs
from edittools.scenarios import photos
from edittools.scenarios import synthetic as syn
from edittools.selection import Plan, grid

syn.EXEMPLARS, syn.BUDGETS, syn.CASE_STRENGTHS, syn.RANKS, syn.LEAST_ERRORS = 2, (0.25, 100.0), (0.5,), (1, 3), 1
syn.EDITING = {name: grid(rank=(1, 3), objective=("l1",), steps=(2,)) for name in syn.EDITING}
syn.TUNING = Plan(rates=(1e-2,), momenta=(0.0,), steps=(2,), localities=(1.0,), top=1)
syn.TRIED = ("projection", "closed_form")
"""Few of everything is tried here, also in processes that load this file."""


def tiny_source(count=160):
    """A random net, whose own readings of smooth random pictures are the labels; the lower half is "road"."""
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "house", "elk"), size=32)
    coarse = torch.rand(2 * count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = interpolate(coarse, (32, 32), mode="bilinear").clamp(0, 1)
    logits = predict(classifier, images)
    with torch.no_grad():  # centred, so that every class is read somewhere
        classifier.model.head.bias -= logits.mean(dim=0)
        classifier.model.head.weight *= 3
        classifier.model.head.bias *= 3
    data = LabelledImages(images, predict(classifier, images).argmax(dim=1), classifier.classes)
    half, speck = torch.zeros(2, count, 32, 32)
    half[:, 16:], speck[:, 0, 0] = 1, 1
    masks = {"road": half, "building": half, "speck": speck}
    everyday = {"budget": data.subset(range(160, 200)), "clean": data.subset(range(200, 240))}
    everyday |= {"reference": images[240:280], "layers": ("conv1", "conv2")}
    styles = style_textures(("graffiti", "snow"), range(6), 32)
    return classifier, Concepts(data.subset(range(count)), masks, styles), everyday


SOURCE = (tiny_source,)
PROCESSES = multiprocessing.get_context("forkserver")  # new processes that need not load torch again
PROCESSES.set_forkserver_preload(["edittools.scenarios.synthetic", "distributed"])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before, os.environ["EDITTOOLS_CACHE"] = os.environ.get("EDITTOOLS_CACHE"), str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("EDITTOOLS_CACHE") if before is None else os.environ.update(EDITTOOLS_CACHE=before)


def road():
    return [case for case in syn.cases(SOURCE) if case["concept"] == "road"]


def run(case):
    """A case, in a process that has loaded this file and so tries as little as it says."""
    return syn.run_case(SOURCE, case)


def swept(cases, store=None, executor=None):
    return jobs.run(run, {syn.said(case): case for case in cases}, store, executor, about=syn.identity_of(SOURCE))


@pytest.fixture(scope="module")
def table(cache):
    return swept(road())


def test_cases_leave_out_excluded_pairs_and_concepts_too_small_and_come_again_as_they_are():
    listed = syn.cases(SOURCE, targets=5)
    assert {case["concept"] for case in listed} == {"road", "building"} and len({*map(syn.said, listed)}) == len(listed)
    assert "house" in {case["class"] for case in listed if case["concept"] == "road"}
    assert "house" not in {case["class"] for case in listed if case["concept"] == "building"}
    assert listed == syn.cases(SOURCE, targets=5)
    classifier, concepts, _ = syn.setup_of(SOURCE)
    for case in listed:
        shown = concepts.data.subset(case["images"])
        assert not misclassified(predict(classifier, shown), shown.labels).any() and len(shown) <= syn.MOST_IMAGES
        target = concepts.data.classes.index(case["class"])
        assert (shown.labels[case["evidence"]] == target).all() and len(case["evidence"]) == syn.EXEMPLARS < len(shown)


def test_a_case_is_a_scenario_that_also_shows_the_look_of_the_exemplars_and_shares_what_is_everyday():
    first, second = (syn.case_protocol(SOURCE, case) for case in road())
    assert first.states["budget"] is second.states["budget"] and first.states["test"] is not second.states["test"]
    sets, target = first.story.sets, first.story.classifier.index(road()[0]["class"])
    assert len(sets["same"]) == len(sets["test"]) and not (sets["test"].labels == target).any()
    upper, lower = (sets["same"].images - sets["test"].images).abs().split(16, dim=2)
    assert not upper.any() and lower[:, :, 1:].mean() > 0.05  # held-out variants are others
    assert (sets["own"].labels == target).all() and len(sets["own same"]) == len(sets["own"])


def test_counts_in_the_table_are_those_of_full_forward_passes(table):
    protocol = syn.case_protocol(SOURCE, road()[0])
    edit = protocol.choose(protocol.finetuning(grid(scope=("global",), rate=(0.05,), steps=(3,))), 100.0).table.edit[0]
    found = syn.figures_of(protocol, edit)
    for measure, name in syn.MEASURES.items():
        data = protocol.story.sets[name]
        before = int(misclassified(predict(protocol.story.classifier, data), data.labels).sum())
        with edit.applied(protocol.story.classifier):
            after = int(misclassified(predict(protocol.story.classifier, data), data.labels).sum())
        assert before and found[measure] == pytest.approx((before - after) / before)


def test_every_method_is_tried_and_what_costs_too_much_is_not_chosen(table):
    methods = {*syn.EDITING, "rank 1", "rank 3", "editing, variants", "random direction"}
    rivals = {f"{scope} fine-tuning" for scope in syn.SCOPES} | {name.replace("_", " ") for name in syn.TRIED}
    assert methods | rivals == set(table.method)
    assert (table[table.budget == 0.25].accuracy_change_budget >= -0.25).all()
    keys = ["job", "method"]
    wide, narrow = (table[table.budget == budget].set_index(keys).layer for budget in (100.0, 0.25))
    assert (wide.notna() | narrow.isna()).all()  # where the narrow budget found an edit, so does the wide one


def test_a_case_without_errors_enough_is_counted_and_not_scored(table, monkeypatch):
    monkeypatch.setattr(syn, "LEAST_ERRORS", 10_000)
    undefined = swept(road()[:1])
    assert list(undefined.method) == ["undefined"]
    assert syn.summary(pd.concat([table, undefined])).equals(syn.summary(table))


def test_a_process_pool_and_a_resumed_store_give_the_same_table(table, tmp_path):
    swept(road()[:1], tmp_path / "store")
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        resumed = swept(road(), tmp_path / "store", pool)
    pd.testing.assert_frame_equal(resumed, table)


def test_the_rows_of_another_model_other_pictures_or_other_grids_are_not_read(monkeypatch):
    identity = syn.identity_of(SOURCE)
    assert identity == syn.identity_of(SOURCE)
    other, concepts, everyday = tiny_source()
    other.model.head.bias.data += 1
    classifier, *_ = tiny_source()
    for changed in ((other, concepts, everyday), (classifier, concepts, everyday | {"budget": everyday["clean"]})):
        with monkeypatch.context() as patch:
            patch.setattr(syn, "setup_of", lambda _, changed=changed: changed)
            assert syn.identity_of(SOURCE) != identity
    monkeypatch.setattr(syn, "EDITING", {"editing": [{"rank": 2}]})
    assert syn.identity_of(SOURCE) != identity


def run_and_die_once(marker, case):
    """Run a case, except that the first process that gets to the second case is killed."""
    if case["style"] == "snow" and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run(case)


def test_dask_with_two_workers_of_which_one_is_killed_gives_the_same_table(table, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'edittools[cluster]'")
    marker, store = tmp_path / "killed", tmp_path / "store"
    listed = {syn.said(case): case for case in road()}
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    quick = {"distributed.worker.multiprocessing-method": PROCESSES.get_start_method()}
    with (
        pytest.importorskip("dask").config.set(quick),
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        work = partial(run_and_die_once, str(marker))
        found = jobs.run(work, listed, store, client.get_executor(), about=syn.identity_of(SOURCE))
    assert marker.exists()
    pd.testing.assert_frame_equal(found, table)
    pd.testing.assert_frame_equal(swept(road(), store), table)  # all of it is in the store


def _row(share, **changes):
    return {"method": "editing", "budget": 0.25, "accuracy_change": 0.0} | dict.fromkeys(syn.MEASURES, share) | changes


def test_the_summary_averages_eq_2_over_cases_and_leaves_out_those_with_nothing_to_correct():
    table = pd.DataFrame([_row(0.5), _row(-1.0), _row(float("nan"))])
    found = syn.summary(table).set_index("measure").loc["other same"]
    assert found["mean"] == pytest.approx((0.5 - 1.0) / 2)
    assert (found.low, found.high) == (-1.0, 0.5)


def test_a_folder_gives_the_photos_that_are_no_everyday_ones(monkeypatch, tiny):
    images = LabelledImages(torch.rand(35, 3, 32, 32), torch.arange(35) % 5, tiny.classes, tuple(map(str, range(35))))
    monkeypatch.setattr(syn, "load_classifier", lambda name: tiny)
    monkeypatch.setattr(photos, "validation_folder", lambda tiny, per_class: images.subset(range(5 * per_class)))
    monkeypatch.setattr(photos, "unlabeled", lambda *given: images.images[:2])
    monkeypatch.setattr(syn.segmentation, "cached", lambda finder: finder)
    find = lambda name, wanted: lambda given: {name: torch.ones(len(given), 32, 32) for name in wanted}  # noqa: E731
    monkeypatch.setattr(syn.segmentation, "deeplab", find)
    _, concepts, everyday = syn.setup_of(syn.synthetic_source("paper", small=True))
    assert concepts.masks["car"].shape == (25, 32, 32)
    assert len({*concepts.data.names, *everyday["budget"].names, *everyday["clean"].names}) == 35
    monkeypatch.setattr(syn.segmentation, "deeplab", lambda name, wanted: lambda given: {})
    with pytest.raises(ValueError, match="no photo shows car, bicycle, boat"):
        syn.synthetic_setup("paper", "vgg16", False)


def test_several_models_are_swept_one_after_the_other_in_one_store(table, monkeypatch, tmp_path, capsys):
    import synthetic
    import tables as pages

    monkeypatch.setattr(syn, "synthetic_source", lambda tier, model, small: SOURCE)
    monkeypatch.setattr(syn, "cases", lambda source, targets=1, cases=syn.cases: cases(source, targets)[:1])
    given = {"tier": "lite", "small": True, "targets": 1, "workers": 0, "store": tmp_path / "a.store"}
    found = {name: synthetic.one_model(SimpleNamespace(**given), name) for name in ("one", "two")}
    table = swept(syn.cases(SOURCE))
    assert found["one"]["cases"] == table.job.nunique() == 1 and found["one"]["cases_without_errors"] == 0
    mean = syn.summary(table).set_index(["method", "measure"]).loc[("editing", "other same"), "mean"]
    assert found["two"]["methods"]["editing"]["other same"][0] == mean
    rows = pages.synthetic({"networks": found}).splitlines()[2:]
    compared = pages.compared(pages.tidy("synthetic", found["one"]))
    assert [row.split(" | ")[0] for row in rows] == ["| one"] * len(compared) + ["| two"] * len(compared)
    one = found["one"]["methods"]["editing"]
    assert one["nearest"] > 0 and 0 <= one["locality_nearest"] <= 1 and 0 <= one["success"] <= 1
    assert f"| 1 | **edit** | {100 * mean:.0f} % |" in rows[0].replace("−", "-")  # no interval of one case
    assert len(found["one"]["rows"]) == len(found["one"]["methods"])
    assert "layers conv1, conv2" in capsys.readouterr().out


@needs_photos
def test_msrc_gives_cases_of_classes_that_are_not_the_concept(monkeypatch):
    for everyday in ("imagenet_sample", "unlabeled", "halves"):  # cases are made of MSRC's photos alone
        monkeypatch.setattr(photos, everyday, lambda *given: {})
    listed = syn.cases(syn.synthetic_source("lite", "squeezenet1_1", small=True))
    table = pd.read_csv(shipped("exclusions.txt"), sep=r"\s*;\s*", engine="python")
    banned = {(row.concept, name) for row in table.itertuples() for name in row.classes.split(", ")}
    assert len(banned) > 40 and listed and not {(case["concept"], case["class"]) for case in listed} & banned
