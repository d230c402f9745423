"""The synthetic benchmark: how cases are made, what is measured, and that the table does not depend on who computes."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from _lib import jobs
from _lib.cases import (
    MEASURES,
    exemplar_cases,
    figures_of,
    identity_of,
    restyled_setup,
    run_case,
    source_of,
    style_images,
)
from _lib.concepts import digest_of
from conftest import TinyNet, needs_photos, randomise_norms
from torch.nn.functional import interpolate

from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.images import LabeledImages
from edittools.metrics import misclassified, predict
from edittools.probing import Concepts
from edittools.probing.textures import style_textures
from edittools.site import prepare
from edittools.states import states_of
from edittools_course.rivals import SCOPES, finetune
from edittools_course.scenarios import photos
from edittools_course.scenarios import synthetic as syn
from edittools_course.scenarios.tiers import SceneSet
from edittools_course.shipped import shipped
from edittools_course.style_transfer import StyleTransfer

FEW = syn.CaseSettings(
    exemplars=2,
    least_errors=1,
    strengths=(0.5,),
    editing={name: [{"rank": rank, "objective": "l1", "steps": 2} for rank in (1, 3)] for name in syn.editing_grids()},
    finetuning=[{"rate": 1e-2, "steps": 2}],
)
"""Little is tried here."""


def tiny_setup(concepts=("road", "building", "speck"), styles=("graffiti", "snow"), bias=0.0, first_clean_image=160):
    """A random net, whose own predictions on smooth random images are the labels; the lower half is "road".

    Args:
        concepts: the concepts that have masks.
        styles: the styles that they are transformed to.
        bias: is added to the biases of the head when the labels are made.
        first_clean_image: number of the first of the 40 clean images.
    """
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "house", "elk"), size=32)
    coarse = torch.rand(320, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = interpolate(coarse, (32, 32), mode="bilinear").clamp(0, 1)
    logits = predict(classifier, images)
    with torch.no_grad():  # centered, so that every class is predicted for some image
        classifier.model.head.bias -= logits.mean(dim=0)
        classifier.model.head.weight *= 3
        classifier.model.head.bias *= 3
    data = LabeledImages(images, predict(classifier, images).argmax(dim=1), classifier.classes)
    classifier.model.head.bias.data += bias
    half = torch.zeros(160, 32, 32)
    half[:, 16:] = 1
    speck = torch.zeros(160, 32, 32)
    speck[:, 0, 0] = 1
    masks = {"road": half, "building": half, "speck": speck}
    splits = {
        "clean": data.subset(range(first_clean_image, first_clean_image + 40)),
        "clean_test": data.subset(range(200, 240)),
        "reference": images[240:320],
    }
    common_fields = {"splits": splits, "layers": ("conv1", "conv2")}
    cases = Concepts(
        data.subset(range(160)),
        {concept: masks[concept] for concept in concepts},
        style_textures(styles, range(6), 32),
    )
    return syn.SyntheticSetup(classifier, cases, common_fields)


SOURCE = syn.SetupSource(tiny_setup)
PROCESSES = multiprocessing.get_context("forkserver")  # new processes that need not load torch again
PROCESSES.set_forkserver_preload(["edittools_course.scenarios.synthetic", "distributed"])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before = os.environ.get("EDITTOOLS_CACHE")
    os.environ["EDITTOOLS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["EDITTOOLS_CACHE"]
    else:
        os.environ["EDITTOOLS_CACHE"] = before


def road():
    return [case for case in syn.cases(SOURCE, settings=FEW) if case.concept == "road"]


def run(case, source=SOURCE, settings=FEW):
    return run_case(source, case, settings=settings)


def swept(cases, store=None, executor=None, source=SOURCE, settings=FEW):
    work = partial(run, source=source, settings=settings)
    named = {case.name: case for case in cases}
    return jobs.run(work, named, store, executor, about=identity_of(source, settings))


@pytest.fixture(scope="module")
def table(cache):
    return swept(road())


def test_cases_leave_out_excluded_classes_and_small_concepts():
    listed = syn.cases(SOURCE, targets=5, settings=FEW)
    assert {case.concept for case in listed} == {"road", "building"}
    assert "house" in {case.target for case in listed if case.concept == "road"}
    assert "house" not in {case.target for case in listed if case.concept == "building"}
    assert len({case.name for case in listed}) == len(listed)


def test_cases_are_reproducible():
    assert syn.cases(SOURCE, targets=5, settings=FEW) == syn.cases(SOURCE, targets=5, settings=FEW)


def test_cases_images_are_correct_and_exemplars_are_of_the_target():
    setup = syn.setup_of(SOURCE)
    data = setup.concepts.data
    for case in syn.cases(SOURCE, targets=5, settings=FEW):
        images = data.subset(case.images)
        assert not misclassified(predict(setup.classifier, images), images.labels).any()
        assert len(images) <= syn.MOST_IMAGES
        assert (images.labels[case.evidence] == data.classes.index(case.target)).all()
        assert len(case.evidence) == FEW.exemplars < len(images)


def test_exemplar_cases_differ_in_the_exemplars_only():
    setup = syn.setup_of(SOURCE)
    data = setup.concepts.data
    by_count = exemplar_cases(SOURCE, counts=(1, 2, 4))
    assert len(by_count[1]) == len(by_count[2]) == len(by_count[4]) == 2 * 2  # concepts, styles
    for one, two, four in zip(*by_count.values(), strict=True):
        assert one.name == two.name == four.name
        exemplars = {count: [case.images[i] for i in case.evidence] for count, case in ((1, one), (2, two), (4, four))}
        assert exemplars[1] == exemplars[4][:1] and exemplars[2] == exemplars[4][:2]
        assert len(set(exemplars[4])) == 4
        others = [case.images[len(case.evidence) :] for case in (one, two, four)]
        assert others[0] == others[1] == others[2]
        assert not set(others[0]) & set(exemplars[4])
        assert len(others[0]) <= syn.MOST_IMAGES and len(set(others[0])) == len(others[0])
        assert {data.classes[data.labels[i]] for i in exemplars[4]} == {one.target}
        images = data.subset(four.images)
        assert not misclassified(predict(setup.classifier, images), images.labels).any()


def test_exemplar_cases_select_on_the_same_images():
    by_count = exemplar_cases(SOURCE, counts=(1, 4))
    splits = []
    for count, listed in by_count.items():
        settings = replace(FEW, exemplars=count)
        scenario = syn.case_scenario(SOURCE, listed[0], settings)
        assert len(scenario.exemplars) == count
        splits.append(scenario.splits)
    for name in ("target", "target_test", "same_class_test"):
        first, second = (of_count.labeled[name] for of_count in splits)
        assert torch.equal(first.labels, second.labels), name
        assert first.images.shape == second.images.shape


def test_exemplar_cases_too_few_images():
    assert exemplar_cases(SOURCE, counts=(1, 100)) == {1: [], 100: []}


def test_case_scenario_also_has_the_variant_of_the_exemplars():
    case = road()[0]
    scenario = syn.case_scenario(SOURCE, case, FEW)
    sets = scenario.splits.labeled
    target = scenario.classifier.index(case.target)
    assert len(sets["same"]) == len(sets["target_test"])
    assert not (sets["target_test"].labels == target).any()
    upper, lower = (sets["same"].images - sets["target_test"].images).abs().split(16, dim=2)
    assert not upper.any()
    assert lower[:, :, 1:].mean() > 0.05  # the held-out variants differ
    assert (sets["same_class_test"].labels == target).all()
    assert len(sets["own same"]) == len(sets["same_class_test"])


def test_figures_of_equal_those_of_full_forward_passes():
    scenario = syn.case_scenario(SOURCE, road()[0], FEW)
    classifier = scenario.classifier
    exemplars = list(scenario.exemplars.values())
    [edit] = finetune(prepare(classifier, "conv1", exemplars, scenario.splits.images[:20]), scope="global", rate=0.05)
    sets = {name: scenario.splits.labeled[name] for name in ("clean_test", *MEASURES.values())}
    figures = figures_of(states_of(cut_all(classifier, scenario.layers), sets), edit)
    for measure, name in MEASURES.items():
        data = sets[name]
        before = int(misclassified(predict(classifier, data), data.labels).sum())
        with edit.applied(classifier):
            after = int(misclassified(predict(classifier, data), data.labels).sum())
        assert before
        assert figures[measure] == pytest.approx((before - after) / before)


def test_run_case_tries_every_method(table):
    rewriting = {*FEW.editing, "random direction"}
    finetuning = {f"{scope} fine-tuning" for scope in SCOPES}
    assert set(table.method) == rewriting | finetuning | {"projection"}
    assert set(table.layer) <= {"conv1", "conv2"}
    assert not table.duplicated(["job", "method"]).any()


def test_run_case_too_few_errors():
    undefined = swept(road()[:1], settings=replace(FEW, least_errors=10_000))
    assert list(undefined.method) == ["undefined"]


def test_run_case_process_pool_and_resumed_store(table, tmp_path):
    swept(road()[:1], tmp_path / "store")
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        resumed = swept(road(), tmp_path / "store", pool)
    pd.testing.assert_frame_equal(resumed, table)


def test_identity_of_other_model_images_or_settings():
    identity = identity_of(SOURCE, FEW)
    assert identity == identity_of(syn.SetupSource(tiny_setup), replace(FEW))
    usual = (("road", "building", "speck"), ("graffiti", "snow"))
    other_weights = syn.SetupSource(tiny_setup, (*usual, 1.0))
    other_images = syn.SetupSource(tiny_setup, (*usual, 0.0, 200))
    other_settings = replace(FEW, editing={"editing": [{"rank": 2}]})
    assert identity_of(other_weights, FEW) != identity
    assert identity_of(other_images, FEW) != identity
    assert identity_of(SOURCE, other_settings) != identity


def run_and_die_once(marker, case):
    """Run a case, except that the first process that gets to the second case is killed."""
    if case.style == "snow" and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run(case)


def test_run_case_dask_worker_killed(table, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'edittools[cluster]'")
    marker = tmp_path / "killed"
    store = tmp_path / "store"
    named = {case.name: case for case in road()}
    quick = {"distributed.worker.multiprocessing-method": PROCESSES.get_start_method()}
    with (
        pytest.importorskip("dask").config.set(quick),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        work = partial(run_and_die_once, str(marker))
        executor = client.get_executor()
        resumed = jobs.run(work, named, store, executor, about=identity_of(SOURCE, FEW))
    assert marker.exists()
    pd.testing.assert_frame_equal(resumed, table)
    pd.testing.assert_frame_equal(swept(road(), store), table)  # all of it is in the store


def test_synthetic_setup_paper_leaves_out_clean_photos(monkeypatch, tiny):
    images = LabeledImages(torch.rand(35, 3, 32, 32), torch.arange(35) % 5, tiny.classes, tuple(map(str, range(35))))
    monkeypatch.setattr(syn, "load_classifier", lambda name: tiny)
    monkeypatch.setattr(photos, "validation_folder", lambda tiny, per_class: images.subset(range(5 * per_class)))
    monkeypatch.setattr(photos, "unlabeled", lambda *arguments: images.images[:2])
    monkeypatch.setattr(syn.segmenters, "cached", lambda finder: finder)

    def find_everything(name, wanted):
        return lambda images: {concept: torch.ones(len(images), 32, 32) for concept in wanted}

    def find_nothing(name, wanted):
        return lambda images: {}

    monkeypatch.setattr(syn.segmenters, "deeplab", find_everything)
    setup = syn.setup_of(syn.synthetic_source("paper", small=True))
    assert setup.concepts.masks["car"].shape == (25, 32, 32)
    splits = setup.common_fields["splits"]
    sets = (setup.concepts.data, splits["clean"], splits["clean_test"])
    assert len(set().union(*(data.names for data in sets))) == 35
    monkeypatch.setattr(syn.segmenters, "deeplab", find_nothing)
    with pytest.raises(ValueError, match="car, bicycle, boat"):
        syn.synthetic_setup("paper", "vgg16", False)


def test_source_of_styles():
    with pytest.raises(ValueError, match="'painted'.*transfer"):
        source_of("mini", "mini_vgg", True, "painted")
    assert source_of("mini", "mini_vgg", True, "paste") != source_of("mini", "mini_vgg", True, "transfer")


def test_restyled_setup_of_scenes(monkeypatch):
    data = SceneSet(24, "test", 300_000).render(workers=1)
    splits = {"clean": data, "clean_test": data, "reference": data}
    monkeypatch.setattr(syn, "_miniworld_images", lambda names, small: (data, {n: data.mask(n) for n in names}, splits))
    pasted = syn.synthetic_setup("mini", "mini_vgg", True)
    restyled = restyled_setup("mini", "mini_vgg", True)
    assert isinstance(restyled.concepts.transform, StyleTransfer)
    assert list(restyled.concepts.materials) == list(pasted.concepts.materials)
    assert digest_of(pasted.concepts) != digest_of(restyled.concepts)
    number = int(restyled.concepts.masks["road"].mean(dim=(1, 2)).argmax())
    quick = replace(restyled.concepts, transform=replace(restyled.concepts.transform, steps=5))
    images = [concepts.turned([number], "road", "snow").images[0] for concepts in (pasted.concepts, quick)]
    outside = restyled.concepts.masks["road"][number] == 0
    assert torch.equal(images[0][:, outside], images[1][:, outside])
    assert not torch.equal(images[0], images[1])


@needs_photos
def test_style_images_of_the_paper():
    images = style_images(("snow", "graffiti"), size=64, most=2)
    assert {style: tuple(of_style.shape) for style, of_style in images.items()} == {
        "snow": (2, 3, 64, 64),
        "graffiti": (2, 3, 64, 64),
    }
    assert images["snow"].mean() > images["graffiti"].mean()
    with pytest.raises(KeyError, match="'wooden'.*graffiti"):
        style_images(("wooden",))


@needs_photos
def test_cases_msrc_classes_are_not_the_concept(monkeypatch):
    monkeypatch.setattr(photos, "clean_and_reference", lambda classifier: {})  # cases are made of MSRC's photos alone
    listed = syn.cases(syn.synthetic_source("lite", "squeezenet1_1", small=True))
    exclusions = pd.read_csv(shipped("exclusions.txt"), sep=r"\s*;\s*", engine="python")
    excluded = set()
    for row in exclusions.itertuples():
        excluded |= {(row.concept, name) for name in row.classes.split(", ")}
    assert len(excluded) > 40
    assert listed
    assert not {(case.concept, case.target) for case in listed} & excluded
