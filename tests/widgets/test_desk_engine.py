"""The engine of the desk: what a state asks for is answered by a small model, on files."""

import re
from pathlib import Path

import pytest
import torch
from conftest import bars_that_call, noise, save_image
from desk_photos import MASK, small_model, write_photos

import edittools as et
from edittools.metrics import leads_without_prediction, misclassified, predict
from edittools.selection.checks import ENOUGH_OWN, FEWEST_CORRECT
from edittools.selection.select import EXEMPLAR, select
from edittools.stats import FEWEST_CHANGED
from edittools.widgets.desk import engine as engine_module
from edittools.widgets.desk.engine import Engine, Seen
from edittools.widgets.desk.state import Marked, MarkedArea, Question, QuestionKind, Rewriting
from edittools.widgets.desk.words import of_checked, of_edit, of_pair
from edittools.widgets.materials import SURROUNDINGS, replace_by_material


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    write_photos(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    engine = Engine(small_model(), folder / "photos")
    engine.complete(folder / "clean")
    return engine


@pytest.fixture(scope="module")
def marked(engine):
    """The first mistake, marked."""
    return Marked(engine.mistakes.names[0], MarkedArea.of(MASK), SURROUNDINGS)


def test_mistakes_are_those_first_that_would_be_correct_but_for_the_predicted_class(engine):
    logits = predict(engine.classifier, engine.images)
    is_wrong = misclassified(logits, engine.images.labels)
    wrong = set(engine.images.subset(is_wrong).names)
    assert set(engine.mistakes.names) == wrong and 0 < len(wrong) < len(engine.images)
    leads = leads_without_prediction(predict(engine.classifier, engine.mistakes), engine.mistakes.labels)
    assert (leads.diff() <= 0).all()
    logits = torch.tensor([[3.0, 2.0, 0.0], [3.0, 0.0, 2.0], [1.0, 4.0, 2.0]])
    assert leads_without_prediction(logits, torch.tensor([1, 1, 0])).tolist() == [2, -2, -1]


def test_images_without_a_label_and_broken_files_are_left_out_by_name(tmp_path, tiny):
    for number, name in enumerate(("ant/1.png", "bee/2.png", "3.png", "fox/4.png", "ant/again.png")):
        save_image(tmp_path / name, noise(1, seed=0 if "ant" in name else number)[0])
    (tmp_path / "ant" / "5.png").write_bytes(b"")
    engine = Engine(tiny, tmp_path)
    assert [Path(name).name for name in engine.images.names] == ["1.png", "2.png"]
    said = " ".join(engine.notes)
    assert all(name in said for name in ("3.png", "fox/4.png", "5.png", "again.png"))


def test_folder_without_a_label_is_refused(tmp_path, tiny):
    save_image(tmp_path / "1.png", noise(1)[0])
    with pytest.raises(ValueError, match="subfolder"):
        Engine(tiny, tmp_path)


def test_large_folder_is_thinned_and_says_so(tmp_path, tiny, monkeypatch):
    for number, image in enumerate(noise(6)):
        save_image(tmp_path / "ant" / f"{number}.png", image)
    monkeypatch.setattr(engine_module, "MOST_BYTES", 3 * 12 * 32**2)
    engine = Engine(tiny, tmp_path)
    assert len(engine.images) == 3 and "6" in engine.notes[0] and "3" in engine.notes[0]


def test_few_clean_images_are_refused_with_their_number(tmp_path, tiny):
    for number, image in enumerate(noise(12)):
        save_image(tmp_path / ("photos" if number < 2 else "clean") / "ant" / f"{number}.png", image)
    engine = Engine(tiny, tmp_path / "photos")
    with pytest.raises(ValueError, match="^10 clean"):
        engine.complete(tmp_path / "clean")
    assert not engine.is_complete


def test_clean_images_that_are_among_the_photos_are_refused(tmp_path, tiny):
    save_image(tmp_path / "photos" / "ant" / "1.png", noise(1)[0])
    save_image(tmp_path / "clean" / "bee" / "2.png", noise(1)[0])
    with pytest.raises(ValueError, match="share"):
        Engine(tiny, tmp_path / "photos").complete(tmp_path / "clean")


def test_network_sees_of_a_mark_what_load_mask_reads_from_its_file(engine, tmp_path):
    mask = torch.zeros(300, 211)
    mask[80:171, 33:150] = 1
    et.image_files.save_mask(tmp_path / "mark.png", mask)
    assert torch.equal(engine.mask_of(MarkedArea.of(mask)), et.load_mask(tmp_path / "mark.png", engine.classifier))


def test_pair_is_the_image_with_its_mark_replaced_and_the_image(engine, marked):
    pair = engine.answer(Question(QuestionKind.PAIR, marked))
    image = et.load_image(marked.image, engine.classifier)
    assert torch.equal(pair.exemplar.changed, image)
    mask = engine.mask_of(marked.mark)
    assert torch.equal(pair.exemplar.image, replace_by_material(image, mask, SURROUNDINGS))
    both = predict(engine.classifier, torch.stack([pair.exemplar.image, image])).softmax(dim=1)
    torch.testing.assert_close(torch.stack([pair.original, pair.changed]), both)
    class_name = engine.classifier.classes[int(pair.changed.argmax())]
    assert class_name in of_pair(pair, engine.classifier.classes)


def test_mark_that_the_network_does_not_see_is_refused(engine, marked):
    with pytest.raises(ValueError, match="not see"):
        engine.answer(Question(QuestionKind.PAIR, marked._replace(mark=MarkedArea.of(torch.eye(4000, 40)))))


def test_pair_that_shows_no_mistake_asks_for_the_rest_of_the_mark(engine, marked):
    mask = torch.zeros(32, 32)
    mask[:2, :2] = 1
    pair = engine.answer(Question(QuestionKind.PAIR, marked._replace(mark=MarkedArea.of(mask))))
    assert not pair.shows_mistake and "rest" in of_pair(pair, engine.classifier.classes)


def test_heat_has_the_size_of_the_photo_and_names_the_classes(engine, marked):
    heat = engine.answer(Question(QuestionKind.HEAT, marked.image))
    index = engine.images.names.index(marked.image)
    assert heat.values.shape == engine.photo(marked.image).shape[1:] and heat.values.isfinite().all()
    assert heat.favored == engine.classifier.classes[int(engine.before[index].argmax())]
    assert heat.against == engine.classifier.classes[int(engine.images.labels[index])]


def test_mark_is_found_in_other_images_right_and_wrong(engine, marked):
    found = engine.answer(Question(QuestionKind.ELSEWHERE, marked))
    names = [seen.name for seen in found]
    assert marked.image not in names and len(set(names)) == len(names)
    assert {"/photos/" in name for name in names} == {True, False}
    correct = {int(seen.probabilities.argmax()) == seen.label for seen in found}
    assert correct == {True, False}


def test_images_of_the_class_of_the_mark_are_offered_even_if_others_are_more_similar(engine, marked, monkeypatch):
    everything = engine.answer(Question(QuestionKind.ELSEWHERE, marked))
    own_class = int(engine.answer(Question(QuestionKind.PAIR, marked)).changed.argmax())
    own = [seen.name for seen in everything if seen.label == own_class][:2]
    monkeypatch.setattr(engine_module, "MOST_FOUND", 8)
    monkeypatch.setattr(engine_module, "MOST_OF_OWN_CLASS", 2)
    engine.forget_all_but(())
    names = [seen.name for seen in engine.answer(Question(QuestionKind.ELSEWHERE, marked))]
    engine.forget_all_but(())
    assert len(names) == 8 and set(own) <= set(names)
    everything_in_order = [seen.name for seen in everything]
    assert names == sorted(names, key=everything_in_order.index)


def test_first_edit_is_that_which_the_exemplar_selects(engine, marked):
    outcome = engine.answer(Question(QuestionKind.FIRST, marked))
    exemplar = engine.exemplar(marked)
    selection = select(engine.classifier, exemplar, engine._ordinary, select_by=EXEMPLAR)
    assert outcome.edit.layers == selection.edit.layers and outcome.fix is None
    with outcome.edit.applied(engine.classifier):
        after = predict(engine.classifier, engine.mistakes).softmax(dim=1)
    torch.testing.assert_close(outcome.after, after)
    corrected = int((after.argmax(dim=1) == engine.mistakes.labels).sum())
    said = of_edit(Rewriting(marked), outcome, engine.mistakes)
    assert f"{corrected} of the {len(engine.mistakes)}" in said.lines[0] and said.action == "find elsewhere"


def test_selected_edit_is_measured_on_the_checked_images_which_are_no_longer_clean(engine, marked):
    before = et.fingerprint(engine.classifier)
    found = engine.answer(Question(QuestionKind.ELSEWHERE, marked))
    checked = frozenset(seen.name for seen in found[:40])
    edit = Rewriting(marked, checked)
    selected = engine.answer(Question(QuestionKind.SELECTION, marked))
    outcome = engine.answer(Question(QuestionKind.VERDICT, edit))
    assert outcome.fix.selection is selected.selection and outcome.edit.digest == selected.edit.digest
    splits = outcome.fix.splits
    measured = [data for data in (splits.concept, splits.own_class) if data is not None]
    assert {name for data in measured for name in data.names} == checked
    assert not set(splits.clean.names) & checked
    assert not set(splits.clean.names) & {marked.image}
    said = of_edit(edit, outcome, engine.mistakes)
    assert said.word == outcome.fix.verdict.word
    assert not re.search(r"\w=|fix\.|--", " ".join(said.lines))
    if outcome.fix.weaker is not None:
        weak = engine.answer(Question(QuestionKind.VERDICT, edit._replace(weaker=1)))
        assert weak.fix.is_reselected and weak.fix.clean_weight == outcome.fix.weaker
    assert et.fingerprint(engine.classifier) == before
    engine.forget_all_but(())


def test_answer_is_kept_until_it_is_forgotten(engine, marked):
    question = Question(QuestionKind.PAIR, marked)
    pair = engine.answer(question)
    assert engine.answer(question) is engine.known(question) is pair
    engine.forget_all_but({question})
    assert engine.known(question) is pair
    engine.forget_all_but(())
    assert engine.known(question) is None


def test_selection_can_be_ended(engine, marked):
    def end(bar):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.answer(Question(QuestionKind.SELECTION, marked), bars_that_call(end))
    assert engine.known(Question(QuestionKind.SELECTION, marked)) is None


def seen(label, predicted, name):
    return Seen(name, torch.zeros(3, 8, 8), label, torch.eye(3)[predicted])


def test_of_checked_counts_what_a_verdict_still_needs():
    kinds = [(0, 2)] * 4 + [(1, 1)] * 3 + [(2, 2)] * 15 + [(0, 0)] * 5
    found = [seen(*kind, str(number)) for number, kind in enumerate(kinds)]
    checked = [str(number) for number in range(22)]
    numbers = [int(number) for number in re.findall(r"\d+", of_checked(checked, found, 2, "cat"))]
    assert numbers == [22, 27, 4, 3, 15, FEWEST_CHANGED - 4, FEWEST_CORRECT - 3, ENOUGH_OWN - 15]
