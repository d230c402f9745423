"""`repair` on a small network whose rule is known: what is selected, what is measured, and what a verdict says."""

import copy
from contextlib import suppress
from dataclasses import replace

import pandas as pd
import pytest
import torch
from colors import (
    BLUE,
    CLASSES,
    GREEN,
    LAYERS,
    RED,
    color_network,
    frames_of,
    marked_exemplar,
    of_colors,
    ordinary,
    with_mark,
)
from conftest import bars_that_call, condition, save_image

from edittools.classifiers import Classifier, fingerprint
from edittools.edits import Change, Edit, applied_edits
from edittools.geometry import InputGeometry
from edittools.images import LabeledImages, LazyImages
from edittools.metrics import predict
from edittools.reports.words import check_words
from edittools.selection import Check, Kind, finetuning, repair, select_edit
from edittools.selection.finetuning import Finetuned
from edittools.selection.page import cards_of
from edittools.stats import mcnemar


def arguments(**changes):
    """The arguments of a repair that gets "use"."""
    sets = {
        "exemplars": marked_exemplar(),
        "images": ordinary(150, 1).images,
        "concept": with_mark(of_colors([RED, GREEN] * 40 + [BLUE] * 70, 2), 3),
        "clean": ordinary(400, 4),
        "retain": {"reds": of_colors([RED] * 120, 5)},
    }
    return sets | {"layers": ["2"], "progress": None} | changes


@pytest.fixture(scope="module")
def classifier():
    return color_network()


@pytest.fixture(scope="module")
def fix(classifier):
    """What `repair` finds. No test changes it."""
    return repair(classifier, **arguments())


def test_edit_is_used_and_corrects_new_images(classifier, fix):
    assert fix.verdict.word == "use" and not fix.is_reselected
    new = with_mark(of_colors([RED, GREEN] * 30, 12), 13)
    edited = fix.edit.edited(classifier)
    assert (predict(classifier, new).argmax(1) != new.labels).float().mean() > 0.5
    assert (predict(edited, new).argmax(1) != new.labels).float().mean() < 0.1


def test_marks_vary_on_all_hosts_on_request(classifier, fix):
    varied = repair(classifier, **arguments(vary=True))
    for of_fix in (lambda hosts: hosts.solve["exemplar 1"].changed, lambda hosts: hosts.select.marked):
        is_marked = [of_fix(one.selection.hosts) for one in (fix, varied)]
        assert not torch.equal(*is_marked)
    assert torch.equal(fix.selection.hosts.select.images, varied.selection.hosts.select.images)


def test_labels_do_not_select(classifier, fix):
    """With other labels, the same edit is selected and the verdict is another."""
    concept = arguments()["concept"]
    relabeled = replace(concept, labels=torch.where(concept.labels == RED, GREEN, concept.labels))
    without = repair(classifier, **arguments(concept=None, clean=None, retain=None))
    other = repair(classifier, **arguments(concept=relabeled))
    assert fix.selection.edit.digest == without.selection.edit.digest == other.selection.edit.digest
    assert without.verdict.word == "unclear" and not without.effects


def test_effects_are_those_of_the_edited_model(classifier, fix):
    edited = fix.selection.edit.edited(classifier)
    assert set(fix.effects) == {"concept", "own_class", "clean", "reds"}
    for name, effect in fix.effects.items():
        data = fix.splits.labeled[name]
        assert torch.equal(effect.labels, data.labels)
        assert torch.equal(effect.before, predict(classifier, data).argmax(1))
        assert torch.equal(effect.after, predict(edited, data).argmax(1))


def test_table_and_summary_quote_what_was_measured(fix):
    assert fix.table.index.tolist() == ["selected", "random direction"]
    row = fix.table.loc["selected"]
    concept = fix.effects["concept"].by_scene
    assert (row.errors, row.corrected, row.broken) == (concept.before.sum(), concept.corrected, concept.broken)
    draws = [draw.by_scene.corrected for draw in fix.random_directions]
    assert len(draws) == 3 and fix.table.loc["random direction", "corrected"] == pytest.approx(sum(draws) / 3)
    summary = fix.summary()
    assert summary.startswith(fix.verdict.word) and fix.verdict.gain in summary
    assert f"{concept.corrected} of {int(concept.before.sum())}" in summary
    for check in fix.checks:
        assert check_words(check).found in summary or check.holds is not False
    assert not fix.verdict.instead


def test_consistency_is_measured_on_hosts_that_select_nothing(classifier, fix):
    hosts = fix.selection.hosts.measure
    edited = fix.selection.edit.edited(classifier)
    original = predict(classifier, hosts.images).argmax(1)
    alike = predict(edited, hosts.marked).argmax(1) == original
    for name, is_member in (("other classes", ~hosts.is_own), ("own class", hosts.is_own)):
        row = fix.consistency.loc[name]
        assert (row.hosts, row["alike with the edit"]) == (is_member.sum(), alike[is_member].sum())


def test_changed_lists_the_images_whose_prediction_changes(classifier, fix):
    images = with_mark(of_colors([RED, GREEN] * 10, 21), 22).images
    before, after = (predict(network, images) for network in (classifier, fix.edit.edited(classifier)))
    changed = fix.changed(images)
    assert sorted(changed.image) == (before.argmax(1) != after.argmax(1)).nonzero()[:, 0].tolist()
    assert changed.confidence.is_monotonic_decreasing
    assert changed.after[0] == CLASSES[int(after[changed.image[0]].argmax())]
    assert fix.changed(images[:0]).empty


def test_repair_leaves_the_model_as_it_was(classifier):
    classifier.model[2].weight.requires_grad_(False)
    before = condition(classifier)
    found = repair(classifier, **arguments())
    assert found.summary() and condition(classifier) == before
    classifier.model[2].weight.requires_grad_(True)


def test_assessment_while_an_edit_is_applied_is_the_same(classifier, fix):
    """The checks are computed when they are asked for, of the weights without an edit."""
    found = repair(classifier, **arguments())
    with found.selection.edit.applied(classifier):
        pd.testing.assert_frame_equal(found.table, fix.table)
        pd.testing.assert_frame_equal(found.consistency, fix.consistency)
        assert found.verdict == fix.verdict
        cards = [cards_of(one.cut, one.edit, one.splits.concept, one.effects["concept"]) for one in (found, fix)]
        assert cards[0] == cards[1]


@pytest.mark.parametrize("moment", ["images are loaded", "edits are tried"])
def test_edit_that_is_applied_meanwhile_does_not_matter(fix, moment):
    """`select_edit` and `repair` compute with the weights that the classifier has when they are called."""
    classifier = color_network()
    weight = classifier.model.get_parameter("0.weight")
    other = Edit({"0.weight": Change(torch.ones_like(weight))}, fingerprint(classifier.model))
    pixels = arguments()["images"]

    def meddle(bar=None):
        if bar is None or bar.desc == "selecting an edit":
            with suppress(ValueError):  # it is applied already
                other.apply_(classifier)

    class Meddling(LazyImages):
        def __getitem__(self, index):
            meddle()
            return pixels[index]

    changes = {"progress": bars_that_call(meddle)}
    if moment == "images are loaded":
        changes = {"images": Meddling(["image"] * len(pixels), classifier)}
    found = repair(classifier, **arguments(**changes))
    assert applied_edits(classifier) == (other,)
    other.undo_(classifier)
    assert found.edit.digest == fix.edit.digest and found.edit.fingerprint == fix.edit.fingerprint
    pd.testing.assert_frame_equal(found.table, fix.table)
    selected = select_edit(classifier, **{"images": pixels, "layers": ["2"], **changes}, exemplars=marked_exemplar())
    assert applied_edits(classifier) == (other,) and selected.digest == fix.edit.digest


def test_edit_holds_its_verdict(fix, tmp_path):
    path = tmp_path / "edit.safetensors"
    fix.edit.save(path)
    assert Edit.load(path).verdict == str(fix.verdict)


def test_float64_networks_are_repaired_alike(classifier, fix):
    model = copy.deepcopy(classifier.model).double()
    of_float64 = Classifier(model, CLASSES, (0, 0, 0), (1, 1, 1), size=16)
    found = repair(of_float64, **arguments())
    assert found.table.loc["selected", "corrected"] == fix.table.loc["selected", "corrected"]


def test_exemplars_under_one_name_make_one_edit_and_others_are_tried_alone(classifier):
    exemplars = {"pair": [marked_exemplar(), marked_exemplar(RED, 78)], "alone": marked_exemplar(RED, 79)}
    found = repair(classifier, **arguments(exemplars=exemplars))
    assert set(found.selection.scores.table().exemplar) == {"pair", "alone"}
    name = found.selection.candidate.params["exemplar"]
    assert list(found.exemplars) == [name]


# --- frames and missing classes ---------------------------------------------------------------------------------------


def test_clean_frames_of_few_scenes_do_not_get_use(classifier):
    found = repair(classifier, **arguments(clean=frames_of(ordinary(20, 4), 20)))
    assert found.effects["clean"].scene_count == 20
    assert found.verdict.word == "unclear" and "20 scenes" in " ".join(found.verdict.costs)


# --- reselect, and checks of one's own --------------------------------------------------------------------------------


def test_reselected_edit_is_unclear_at_best_and_changes_less(fix):
    careful = fix.reselect(clean_weight=100.0)
    assert careful.is_reselected and careful.verdict.word != "use"
    scores = fix.selection.scores
    index = [list(scores.candidates).index(one.selection.candidate) for one in (fix, careful)]
    assert scores.clean[index[1]].mean() <= scores.clean[index[0]].mean()
    same = fix.reselect(2.0)
    assert same.selection.edit.digest == fix.selection.edit.digest and same.verdict.word == "unclear"


def test_first_checks_come_first_and_count(fix):
    check = Check(Kind.LOOKED_AT, False, "do not use")
    found = replace(fix, first_checks=(check,))
    assert found.checks[0] is check and found.verdict.word == "do not use"
    assert found.verdict.next_step == check_words(check).remedy
    assert fix.verdict.word == "use"


# --- interruption -----------------------------------------------------------------------------------------------------


def bars_that_end(name, count, error):
    """Make a class of bars that raise an error at an update of the bar with this name."""

    def end(bar):
        if bar.desc.startswith(name) and bar.n == count:
            raise error

    return bars_that_call(end)


@pytest.mark.parametrize(("count", "error"), [(1, InterruptedError), (2, KeyboardInterrupt), (7, InterruptedError)])
def test_selection_that_is_ended_raises(classifier, count, error):
    before = condition(classifier)
    with pytest.raises(error):
        repair(classifier, **arguments(layers=LAYERS, progress=bars_that_end("selecting", count, error)))
    assert condition(classifier) == before


def of_nothing(fix):
    """Make a fine-tuned network that is the network itself."""
    return Finetuned(0.0 * fix.selection.edit, {}, fix.selection.scores)


def test_fine_tuning_that_corrects_significantly_more_is_better(fix):
    selected = fix.selection.candidate
    nothing = replace(selected, strength=0.0)
    scores = fix.selection.scores
    candidates = [nothing if one is selected else one for one in scores.candidates]
    weak = replace(fix.selection, candidate=nothing, scores=replace(scores, candidates=candidates))
    finetuned = replace(of_nothing(fix), edit=fix.selection.edit)
    found = replace(fix, selection=weak, finetuned=finetuned)
    assert found.verdict.word == "fine-tune instead"
    other = found.finetuned_effects["concept"].by_scene
    assert mcnemar(other.corrected, other.broken) < 0.05


@pytest.fixture
def few_steps(monkeypatch):
    """Fine-tune at one rate, for six steps, and look at three networks."""
    monkeypatch.setattr(finetuning, "RATES", (1e-3,))
    monkeypatch.setattr(finetuning, "CHECKPOINTS", (2, 4, 6))
    monkeypatch.setattr(finetuning, "WEIGHTS", (1.0,))


@pytest.mark.parametrize(("count", "error"), [(1, InterruptedError), (5, KeyboardInterrupt)])
def test_fine_tuning_that_is_ended_raises(classifier, few_steps, count, error):
    before = condition(classifier)
    with pytest.raises(error):
        repair(classifier, **arguments(progress=bars_that_end("fine-tuning", count, error), finetuning=True))
    assert condition(classifier) == before


def test_fine_tuning_is_compared_on_request(classifier, fix, few_steps):
    found = repair(classifier, **arguments(finetuning=True))
    assert list(found.table.index) == ["selected", "random direction", "fine-tuning"]
    network = found.finetuned.edit.edited(classifier)
    after = predict(network, found.splits.clean).argmax(1)
    assert torch.equal(found.finetuned_effects["clean"].after, after)
    assert found.verdict.instead


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
def test_bar_that_raises_while_images_are_measured_leaves_the_assessment(classifier, fix, error):
    """As Ctrl-C does; what was not measured is measured again."""
    found = replace(fix, progress=bars_that_end("measuring", 64, error))
    with pytest.raises(error):
        _ = found.verdict
    assert replace(found, progress=None).verdict == fix.verdict
    compared = replace(fix, finetuned=of_nothing(fix), progress=bars_that_end("fine-tuning", 64, error))
    with pytest.raises(error):
        _ = compared.table
    assert replace(compared, progress=None).table.loc["fine-tuning", "corrected"] == 0


def spoiled(found):
    """An assessment of an edit after which all images are misclassified."""
    changed = replace(found)
    effects = {name: replace(one, after=one.labels + 1) for name, one in found.effects.items()}
    vars(changed).update({"effects": effects, "_predicted": vars(found)["_predicted"]})
    return changed


def test_weaker_edit_is_advised_only_if_there_is_one(classifier, fix):
    """The exemplar's own prediction selects without images without the mark, so their weight changes nothing."""
    by_exemplar = repair(classifier, **arguments(layers=LAYERS, select_by="exemplar"))
    assert by_exemplar.weaker is None
    scores = fix.selection.scores
    is_selected = torch.tensor([one is fix.selection.candidate for one in scores.candidates])
    changes_more = replace(scores, clean=scores.clean + 0.01 * is_selected[:, None])
    strong = replace(fix, selection=replace(fix.selection, scores=changes_more))
    assert strong.reselect(strong.weaker).selection.edit.digest != strong.selection.edit.digest
    assert strong.verdict.word  # measures it
    checks = spoiled(strong).checks
    for audience, name in (("python", f"clean_weight={strong.weaker:g}"), ("desk", "weaker edit")):
        [cost] = [check for check in checks if check.kind == Kind.ACCURACY]
        [selection] = [check for check in checks if check.kind == Kind.OBJECTIVE]
        words = check_words(cost, audience, selection)
        assert name in words.remedy and words.action == "weaker edit"
    assert by_exemplar.verdict.word
    assert spoiled(by_exemplar).words("desk").next_action != "weaker edit"


def test_fine_tuning_that_needs_hosts_is_refused(classifier):
    with pytest.raises(ValueError, match="finetuning"):
        repair(classifier, **arguments(select_by="exemplar", finetuning=True))


# --- files ------------------------------------------------------------------------------------------------------------


def test_report_after_a_file_was_deleted_names_it(classifier, tmp_path):
    concept = with_mark(of_colors([RED, GREEN] * 5, 2), 3)
    paths = [tmp_path / f"{number}.png" for number in range(len(concept))]
    for path, image in zip(paths, concept.images, strict=True):
        save_image(path, image)
    lazy = LabeledImages(LazyImages(paths, InputGeometry(16, 16)), concept.labels, CLASSES)
    found = repair(classifier, **arguments(concept=lazy))
    paths[3].unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        found.report(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
