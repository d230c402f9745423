"""Handwritten words: how photos of RTA-100 are read, and the notes that the lite CLIP learns to read."""

import hands
import numpy as np
import pytest
import torch
import train_lite_clip as recipe
from conftest import needs_photos

from edittools.classifiers import Classifier
from edittools.stories.rta import Handwritten, rta_objects, rta_photos
from edittools.zoo.embedded import LITE_TEMPLATES, lite_clip, lite_tokenizer
from edittools.zoo.imagenet import imagenet_classes
from edittools.zoo.zero_shot import WordTokenizer, zero_shot_classifier

OBJECTS = ("cup", "mug", "tray")
GROUPS = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)  # a cup and a mug share a class


def photos_of(shown, written):
    shown, written = torch.tensor(shown), torch.tensor(written)
    images = torch.zeros(len(shown), 3, 8, 8)
    return Handwritten(images, tuple(map(str, shown.tolist())), shown, written, OBJECTS, GROUPS)


def test_a_photo_is_read_as_the_object_with_the_highest_class_and_the_word_is_no_choice():
    notes = photos_of([0, 2, 2, 0], [2, 0, -1, 1])
    assert notes.attacks.tolist() == [True, True, False, False]  # no known word; a class in common
    logits = torch.tensor([[1.0, 0, 0, 2], [0, 0, 5, 1], [0, 9, 0, 1], [3, 0, 2, 1]])
    assert torch.equal(notes.scores(logits)[0], torch.tensor([1.0, 0, 2]))
    assert notes.right(logits).tolist() == [True, False, False, True]  # the second as a mug
    assert notes.fooled(logits).tolist() == [True, False]
    assert notes.labelled(("a", "b", "c", "d")).labels.tolist() == [0, 3, 3, 0]


def test_a_row_counts_what_an_edit_fixed_and_keeps_its_inputs():
    notes = photos_of([0, 0, 2], [2, 2, 0])
    before = torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])
    after = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    copies = before.clone(), after.clone()
    row = notes.row(before, after)
    assert (row["photos"], row["attacks"], row["fooled"], row["fixed"]) == (3, 3, 2, 1)
    assert row["attack_success_before"] == pytest.approx(2 / 3) and row["attack_success_after"] == 0
    low, high = row["attack_success_before_interval"]
    assert low < 2 / 3 < high
    assert torch.equal(before, copies[0]) and torch.equal(after, copies[1])


def test_the_objects_are_named_by_imagenet_classes():
    objects, names = rta_objects(), imagenet_classes()
    assert len(objects) == 48 and objects["mug"] == ("coffee mug", "cup")
    assert all(name in names for found in objects.values() for name in found)


@needs_photos
def test_the_photos_that_show_an_object_with_imagenet_classes():
    names = imagenet_classes()
    notes = rta_photos(Classifier(torch.nn.Flatten(), names, (0.5,) * 3, (0.5,) * 3, 32))
    assert len(notes.images) == len(notes.names) > 200 and notes.images.shape[1:] == (3, 32, 32)
    for name, shown, written in zip(notes.names, notes.shown, notes.written, strict=True):
        _, thing, word = name.removesuffix(".jpg").split("/")
        assert notes.objects[shown] == thing
        assert notes.objects[written] == word if written >= 0 else word not in notes.objects
    assert notes.groups.sum(dim=1).tolist() == [len(found) for found in rta_objects().values()]


def test_a_folder_without_these_photos_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(tmp_path))
    classifier = Classifier(torch.nn.Flatten(), imagenet_classes(), (0.5,) * 3, (0.5,) * 3, 32)
    with pytest.raises(FileNotFoundError, match=f"no photo below 'rta-100/'.*{tmp_path.name}"):
        rta_photos(classifier)


@needs_photos
def test_other_classes_than_imagenets_are_refused():
    with pytest.raises(KeyError, match="no class 'bookcase' among 2"):
        rta_photos(Classifier(torch.nn.Flatten(), ("cat", "dog"), (0.5,) * 3, (0.5,) * 3, 32))


def test_known_words_are_one_token_and_others_are_spelled():
    tokenizer = WordTokenizer("a photo of a teapot, a cup", length=8)
    assert tokenizer.words == {"a": 257, "cup": 258, "of": 259, "photo": 260, "teapot": 261}
    assert tokenizer.vocab_size == 263
    assert tokenizer("a Teapot!").tolist() == [[256, 257, 261, 262, 0, 0, 0, 0]]
    assert tokenizer("a cat").tolist() == [[256, 257, *b"cat ", 262, 0]]
    assert tokenizer(["cup " * 20, ""]).tolist() == [[256, *[258] * 6, 262], [256, 262, *[0] * 6]]
    both = WordTokenizer("Cardigan cardigan iPod")
    assert [both(text)[0, 1].item() for text in ("Cardigan", "cardigan", "CARDIGAN", "ipod")] == [257, 258, 258, 259]
    assert (tokenizer("a cat").argmax(dim=1) == 6).all()  # where open_clip reads the text


def test_every_class_name_has_its_own_few_tokens():
    tokens = lite_tokenizer()([LITE_TEMPLATES[0].format(name) for name in imagenet_classes()])
    assert len(torch.unique(tokens, dim=0)) == 1000
    spelled = (tokens > 0) & (tokens < 256)
    assert not spelled.any() and int((tokens > 0).sum(dim=1).max()) <= 12


def test_a_note_covers_a_part_of_the_picture_and_its_word_a_part_of_the_note():
    grey = torch.full((3, 224, 224), 0.5)
    draw = lambda word: hands.stick_note(grey, word, np.random.default_rng(3), (0.5, 0.5))  # noqa: E731
    first, again, blank = draw("guitar"), draw("guitar"), draw("")
    assert torch.equal(first, again) and first.min() >= 0 and first.max() <= 1
    note = (blank != grey).any(dim=0)
    assert 0.05 < note.float().mean() < 0.35
    assert torch.equal(first[:, ~note], grey[:, ~note])


def test_a_word_is_ink_on_its_note_and_longer_words_are_longer():
    rng = np.random.default_rng(0)
    picture = np.asarray(hands.sheet("iPod", 0.6, rng), float)
    paper = np.median(picture.reshape(-1, 3), axis=0)
    ink = np.abs(picture - paper).sum(axis=2) > 60
    assert picture.shape == (round(hands.SIDE * 0.6), hands.SIDE, 3) and 0.01 < ink.mean() < 0.3
    length = lambda word: np.ptp(np.concatenate(hands.strokes(word, np.random.default_rng(1)))[:, 0])  # noqa: E731
    assert length("lemonade") > length("lemon") > length("le") > 0
    assert hands.writable("trash box") and not hands.writable("T-shirt")


def test_cut_corners_keep_the_ends_and_stay_within_the_line():
    line = np.array([(0.0, 0.0), (10, 0), (10, 10)])
    found = hands.rounded(line)
    assert np.array_equal(found[[0, -1]], line[[0, -1]]) and len(found) > len(line)
    assert not (found == (10, 0)).all(axis=1).any() and found.min() >= 0 and found.max() <= 10


def test_the_words_to_learn_are_class_names_or_objects():
    words, classes, chances = recipe.vocabulary()
    names = imagenet_classes()
    assert len(words) == len(classes) == len(chances) and chances.sum() == pytest.approx(1)
    assert chances[:48].sum() == pytest.approx(0.5)
    assert classes[words.index("mug")] == [names.index("coffee mug"), names.index("cup")]
    assert classes[words.index("iPod")] == [names.index("iPod")]


def test_the_pool_says_what_is_written_on_each_picture():
    learn = [torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8) for _ in range(2)]
    counts = {"photo": 1, "mixed": 2, "blank": 1, "word": 2, "labelled": 3}
    pictures, plain, read = recipe.pool(learn, np.random.default_rng(0), counts)
    assert pictures.shape == plain.shape == (9, 3, 224, 224) and pictures.dtype == torch.uint8
    same = (pictures == plain).flatten(1).all(dim=1).tolist()
    assert same == [True] * 3 + [False] * 6
    assert [bool(classes) for _, classes in read] == [False] * 4 + [True] * 5


@pytest.fixture(scope="module")
def untaught():
    torch.manual_seed(0)
    return lite_clip().eval()


def test_the_text_projection_is_solved_for(untaught):
    names = imagenet_classes()[:20]
    targets = torch.nn.functional.normalize(torch.randn(20, 768), dim=1)
    recipe.solve_projection(untaught, names, targets)
    embeddings = zero_shot_classifier(untaught, lite_tokenizer(), names, LITE_TEMPLATES).model.embeddings
    assert (embeddings * targets).sum(dim=1).min() > 0.9


@pytest.mark.parametrize(("cost", "wanted"), [(0.0, 1.0), (1.0, 1.0)])
def test_the_weights_go_as_far_as_the_photographs_bear(untaught, monkeypatch, cost, wanted):
    trunk = untaught.visual.trunk
    start = {name: value.clone() for name, value in trunk.state_dict().items()}
    trained = {n: v + 0.2 * torch.randn_like(v) if n.startswith("conv_head") else v for n, v in start.items()}
    embeddings = torch.nn.functional.normalize(torch.randn(1000, 768), dim=1)
    monkeypatch.setattr(recipe, "SHARES", (0.5, 1.0))
    monkeypatch.setattr(recipe, "COST", cost)
    images = torch.rand(2, 3, 224, 224)
    trunk.load_state_dict(trained)
    with torch.no_grad():  # as the trained one reads them
        labels = (untaught.visual((images - 0.5) / 0.5) @ embeddings.T).argmax(1)
    found = recipe.part_of_the_way(untaught, start, embeddings, images, labels)
    assert set(found) == {0.0, 0.5, 1.0} and found[1.0][0] == 1.0
    for name, value in trunk.state_dict().items():
        torch.testing.assert_close(
            value, torch.lerp(start[name], trained[name], wanted) if value.is_floating_point() else value
        )
    trunk.load_state_dict(start)


def test_the_weights_go_the_smallest_part_where_every_part_costs_too_much(untaught, monkeypatch):
    trunk = untaught.visual.trunk
    start = {name: value.clone() for name, value in trunk.state_dict().items()}
    embeddings = torch.nn.functional.normalize(torch.randn(1000, 768), dim=1)
    monkeypatch.setattr(recipe, "SHARES", (0.5, 1.0))
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():  # as the untrained one reads them
        labels = (untaught.visual((images - 0.5) / 0.5) @ embeddings.T).argmax(1)
    trained = {n: -v if n.startswith("conv_head") else v for n, v in start.items()}
    trunk.load_state_dict(trained)
    found = recipe.part_of_the_way(untaught, start, embeddings, images, labels)
    assert found[0.0][0] == 1.0 and found[0.5][0] < 0.95
    torch.testing.assert_close(trunk.conv_head.weight, torch.zeros_like(trunk.conv_head.weight))
    trunk.load_state_dict(start)
