"""*Find it elsewhere*: images that hold a mark, for a person to confirm."""

import re

import pytest
import torch
from conftest import bars_that_call

import edittools as et
from edittools.images import LabelledImages
from edittools.locate import Box
from edittools.metrics import predict
from edittools.selection.checks import ENOUGH_OWN, FEWEST_CORRECT
from edittools.selection.splits import FAILURES, SAMPLE
from edittools.stats import SIGNIFICANCE, mcnemar
from edittools.widgets import session as session_module
from edittools.widgets.desk import STOPPED, Desk
from edittools.widgets.session import FEWEST_WRONG, EditSession, Sighting, describe_checked
from edittools_course.miniworld import scenes

ON_SNOW = 10
"""The number of scenes on snow among the clean images of a session."""


@pytest.fixture(scope="module")
def classifier():
    return et.load_classifier("mini_vgg")


@pytest.fixture(scope="module")
def sets():
    """Sixteen vehicles on snow; and clean images of which ten are on snow as well, and 60 are not."""
    images = scenes(16, 5_000, ["van", "tractor"] * 8, ground="snow")
    on_snow = scenes(ON_SNOW, 9_000, ["bus"] * ON_SNOW, ground="snow")
    others = scenes(60, 12_000, ground="road")
    clean = LabelledImages(
        torch.cat([on_snow.images, others.images]), torch.cat([on_snow.labels, others.labels]), others.classes
    )
    return images, clean


@pytest.fixture
def session(classifier, sets):
    images, clean = sets
    session = EditSession(classifier, images, clean)
    session.select(session.order[0])
    session.mark(images.mask("snow")[session.index])
    return session


def test_find_elsewhere_ranks_images_with_the_mark_first_right_and_wrong(session):
    found = session.find_elsewhere()
    assert all(sighting.index != session.index for sighting in found if not sighting.is_clean)
    first = found[:20]
    holds = [not sighting.is_clean or sighting.index < ON_SNOW for sighting in first]
    assert sum(holds) >= 19 and {sighting.is_clean for sighting in first} == {True, False}
    assert {int(sighting.logits.argmax()) == sighting.label for sighting in first} == {True, False}
    for sighting, holds_it in zip(first, holds, strict=True):
        assert sighting.box.top > 20 or not holds_it  # the snow is on the ground
    clean = next(sighting for sighting in found if sighting.is_clean)
    assert torch.equal(clean.image, session._clean.current.images[clean.index])


def test_find_elsewhere_offers_images_of_the_own_class_even_if_others_are_more_similar(session, monkeypatch):
    everything = [(sighting.is_clean, sighting.index, sighting.label) for sighting in session.find_elsewhere()]
    own_class = everything[-1][2]
    own = [each for each in everything if each[2] == own_class][:2]
    others = [each for each in everything if each not in own][: 8 - len(own)]
    assert everything.index(own[-1]) >= 8
    monkeypatch.setattr(session, "own_class", lambda exemplar: own_class)
    monkeypatch.setattr(session_module, "MOST_SIGHTINGS", 8)
    monkeypatch.setattr(session_module, "MOST_OF_OWN_CLASS", 2)
    offered = [(sighting.is_clean, sighting.index, sighting.label) for sighting in session.find_elsewhere()]
    assert offered == sorted([*own, *others], key=everything.index)


def test_own_class_of_a_mark_is_the_prediction_of_the_changed_image(session):
    exemplar = session.exemplar
    assert session.own_class(exemplar) == int(predict(session.classifier, exemplar.changed[None]).argmax())


def test_find_elsewhere_can_be_ended(session):
    def end(bar):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        session.find_elsewhere(progress=bars_that_call(end))


def test_confirmed_images_are_those_of_an_edit_and_no_longer_clean(session, monkeypatch):
    result = session.rewrite("features.10")
    found = session.find_elsewhere()
    chosen = [*[s for s in found if s.is_clean][:6], *[s for s in found if not s.is_clean][:8]]
    indices = session.use_as_concept(chosen)
    assert session.concept == sorted(indices) and len(session.images) == 16 + 6
    for sighting, index in zip(chosen, indices, strict=True):
        assert torch.equal(session.images.images[index], sighting.image)
        assert session.class_name(index) == session.classifier.classes[sighting.label]
        torch.testing.assert_close(session.before[index], sighting.logits)
    assert all(session.is_concept(sighting) == (sighting in chosen) for sighting in found)
    assert len(session.reference) + len(session.clean) == 64
    assert session.result is None and session.update().images.before.shape == (14,)
    assert result.images.before.shape == (15,)

    targets = []

    def repair(classifier, exemplar, images, *, concept, clean, source, **options):
        targets.append((concept, len(images) + len(clean), source))
        raise InterruptedError

    monkeypatch.setattr(session_module, "repair", repair)
    session.source = FAILURES
    with pytest.raises(InterruptedError):
        session.search()
    [(target, clean, source)] = targets
    assert torch.equal(target.images, session.images.images[session.concept])
    assert clean == 64 and source == FAILURES

    again = session.find_elsewhere()
    assert len({(s.is_clean, s.index) for s in again}) == len(again)
    assert not any(s.is_clean and session.is_concept(s) for s in again)  # it is one of the images now
    assert session.use_as_concept(chosen) == indices and len(session.images) == 22
    session.use_as_concept([])
    assert len(session.concept) == 22


def test_confirm_leaves_clean_images_for_a_search(classifier, sets):
    images, clean = sets
    session = EditSession(classifier, images, clean.subset(range(4)))
    session.mark(images.mask("snow")[session.index])
    found = [sighting for sighting in session.find_elsewhere() if sighting.is_clean]
    with pytest.raises(ValueError, match="2 of 4 clean images"):
        session.use_as_concept(found[:2])
    assert len(session.images) == 16 and session.concept == list(range(16))


# --- on the desk ---


@pytest.fixture
def desk(classifier, sets):
    images, clean = sets
    desk = Desk(classifier, images, clean)
    desk.editor.mask = images.mask("snow")[desk.index]
    desk.wait(60)
    return desk


def test_desk_offers_images_and_uses_the_checked_ones(desk):
    controls = desk.controls
    assert desk.elsewhere.layout.display == "none"
    controls.find.click()
    desk.wait(120)
    assert not desk.elsewhere.layout.display and controls.status.layout.display == "none"
    offered = desk.elsewhere.gallery
    found = desk.session.find_elsewhere()
    assert [card["name"] for card in offered.cards] == [sighting.name for sighting in found] and not offered.checked
    numbers = [number for number, sighting in enumerate(found) if sighting.is_clean][:3]
    numbers += [number for number, sighting in enumerate(found) if not sighting.is_clean][:4]
    assert desk.elsewhere.count.text.startswith("0 ")
    offered.checked = numbers
    assert desk.elsewhere.count.text.startswith("7 ")
    desk._use_checked.click()
    desk.wait(60)
    assert desk.elsewhere.layout.display == "none"
    assert len(desk.session.concept) == 7
    assert "7" in controls.message.text and "7 are" in desk.children[0].value
    controls.find.click()
    desk.wait(60)
    assert len(offered.checked) == 7
    offered.checked = []
    desk.use_checked()
    desk.wait(60)
    assert len(desk.session.concept) == len(desk.session.images) == 19


def sighting(label, predicted):
    """An image of a class, or without a label, that is predicted as a class."""
    logits = torch.eye(3)[predicted]
    return Sighting(True, 0, Box(0, 0, 2, 2), torch.zeros(3, 8, 8), "", label, logits)


def test_describe_checked_counts_what_a_verdict_still_needs():
    checked = [sighting(0, 2)] * 4 + [sighting(1, 1)] * 3 + [sighting(2, 2)] * 15 + [sighting(None, 2)] * 2
    numbers = [int(number) for number in re.findall(r"\d+", describe_checked(checked, 2, "cat"))]
    assert numbers == [24, 4, 3, 15, 2, FEWEST_WRONG - 4, FEWEST_CORRECT - 3, ENOUGH_OWN - 15]
    enough = [sighting(0, 2)] * FEWEST_WRONG + [sighting(1, 1)] * FEWEST_CORRECT + [sighting(2, 2)] * ENOUGH_OWN
    counts = [FEWEST_WRONG, FEWEST_CORRECT, ENOUGH_OWN]
    assert [int(number) for number in re.findall(r"\d+", describe_checked(enough, 2, "cat"))] == [sum(counts), *counts]
    assert mcnemar(FEWEST_WRONG, 0) <= SIGNIFICANCE < mcnemar(FEWEST_WRONG - 1, 0)


def test_desk_can_stop_looking_for_the_mark(desk, monkeypatch):
    def find(exemplar, progress):
        with progress(total=10, desc="looking") as bar:
            bar.update(4)
            bar.refresh()
            assert desk.controls.progress.value == 0.4 and desk.controls.rewrite.disabled
            assert "looking" in desk.controls.status.value and "4 of 10" in desk.controls.status.value
            desk.controls.stop.click()
            bar.update()
        raise AssertionError

    monkeypatch.setattr(desk.session, "find_elsewhere", find)
    desk.find_elsewhere()
    desk.wait(60)
    assert desk.controls.message.text == STOPPED and not desk.controls.rewrite.disabled
    assert desk.elsewhere.layout.display == "none"


def test_desk_tells_a_search_how_the_images_were_chosen(desk, monkeypatch):
    asked = []

    def search(exemplar, progress):
        asked.append(desk.session.source)
        raise KeyboardInterrupt

    monkeypatch.setattr(desk.session, "search", search)
    for chosen in (False, True):
        desk.controls.failures.value = chosen
        desk.find_best()
        desk.wait(60)
    assert asked == [SAMPLE, FAILURES]
