"""Handwritten words: how photos of RTA-100 are read, and the notes that the lite CLIP learns to read."""

import copy

import hands
import numpy as np
import pytest
import torch
import train_lite_clip as recipe
from conftest import needs_photos
from safetensors.torch import load_file

from edittools.classifiers import Classifier
from edittools.stories.rta import Handwritten, rta_objects, rta_photos
from edittools.zoo.embedded import DIMENSIONS, LITE_TEMPLATES, lite_clip, lite_tokenizer, put_lite_weights
from edittools.zoo.imagenet import imagenet_classes
from edittools.zoo.load import load_classifier
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
    pictures, read = recipe.pool(learn, np.random.default_rng(0), counts)
    assert pictures.shape == (9, 3, 224, 224) and pictures.dtype == torch.uint8
    assert [kind for kind, _ in read] == [kind for kind, count in counts.items() for _ in range(count)]
    assert [bool(classes) for _, classes in read] == [False] * 4 + [True] * 5


def test_what_a_picture_shall_be_read_as():
    logits = torch.tensor([[2.0, 0, 0, 1]]).repeat(3, 1)
    wanted, kept = recipe.targets(logits, [("photo", []), ("labelled", [1, 2]), ("word", [3])])
    torch.testing.assert_close(wanted[0].float(), logits[0].softmax(0), atol=1e-3, rtol=0)
    rest = (1 - recipe.WORD) * logits[0].softmax(0) + recipe.WORD / 2 * torch.tensor([0.0, 1, 1, 0])
    torch.testing.assert_close(wanted[1].float(), rest, atol=1e-3, rtol=0)
    assert wanted[2].tolist() == [0, 0, 0, 1]
    nan = torch.nan
    expected = torch.tensor([[2.0, 0, 0, 1], [2, nan, nan, 1], [nan] * 4]).half()
    torch.testing.assert_close(kept, expected, equal_nan=True)


@pytest.fixture(scope="module")
def untaught():
    torch.manual_seed(0)
    return lite_clip().eval()


def test_the_text_projection_is_solved_for(untaught):
    names = imagenet_classes()[:20]
    targets = torch.nn.functional.normalize(torch.randn(20, DIMENSIONS), dim=1)
    recipe.solve_projection(untaught, names, targets)
    embeddings = zero_shot_classifier(untaught, lite_tokenizer(), names, LITE_TEMPLATES).model.embeddings
    assert (embeddings * targets).sum(dim=1).min() > 0.9


@torch.no_grad()
def test_an_untaught_reader_says_nothing(untaught):
    images, tower = torch.rand(2, 3, 224, 224), untaught.visual
    states, features = recipe.looked(tower, images)
    assert states.shape == (2, 40, 28, 28) and states.dtype == torch.half and features.shape == (2, 1280)
    assert not tower.reader(states.float()).any()
    torch.testing.assert_close(tower((images - 0.5) / 0.5), tower.head(features), rtol=1e-3, atol=1e-4)


def test_the_reader_learns_and_nothing_else_does(untaught):
    clip, embeddings = copy.deepcopy(untaught), torch.nn.functional.normalize(torch.randn(3, DIMENSIONS), dim=1)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    states, seen = torch.rand(48, 40, 28, 28).half(), torch.randn(48, DIMENSIONS)
    wanted = torch.nn.functional.one_hot(torch.arange(48) % 3, 3).half()
    recipe.train_reading(clip, states, seen, wanted, torch.full((48, 3), torch.nan), embeddings, epochs=2)
    changed = {name for name, value in clip.state_dict().items() if not torch.equal(value, before[name])}
    assert "visual.reader.proj.weight" in changed
    assert all(name.startswith("visual.reader.") and "running" not in name for name in changed)


@torch.no_grad()
@pytest.mark.parametrize("sign", [1, -1])
def test_the_reader_is_as_loud_as_is_best(untaught, monkeypatch, sign):
    """A reader that says the photographs' class is best loud, one that speaks against it soft."""
    clip, images = copy.deepcopy(untaught), torch.rand(2, 3, 224, 224)
    tower, before = clip.visual, torch.randn(DIMENSIONS, 512)
    tower.reader.proj.weight.copy_(before)
    seen, read = (tower.head(recipe.looked(tower, images)[1]), tower.reader(recipe.looked(tower, images)[0].float()))
    embeddings = torch.nn.functional.normalize(torch.randn(1000, DIMENSIONS), dim=1)
    embeddings[[0, 1]] = torch.nn.functional.normalize(torch.cat([seen[:1], read[:1]]), dim=1)
    monkeypatch.setattr(recipe, "GAINS", (1e-6, 1e6))
    found = recipe.loudness(clip, embeddings, images, torch.tensor([1, 1] if sign > 0 else [0, 0]))
    assert set(found) == {0.0, 1e-6, 1e6} and all(len(shares) == 3 for shares in found.values())
    torch.testing.assert_close(tower.reader.proj.weight, (1e6 if sign > 0 else 1e-6) * before)


@torch.no_grad()
def test_what_is_kept_of_the_lite_clip_is_small_and_says_the_same(untaught, tmp_path):
    """Neither the trunk nor most of the text tower is written as it is; the classes hardly move."""
    clip, names = copy.deepcopy(untaught), imagenet_classes()[:20]
    targets = torch.nn.functional.normalize(torch.randn(20, DIMENSIONS), dim=1)
    recipe.solve_projection(clip, names, targets)
    before = zero_shot_classifier(clip, lite_tokenizer(), names, LITE_TEMPLATES).model.embeddings.clone()
    recipe.write(clip, tmp_path / "clip.safetensors", {"clean": 1.0})
    assert (tmp_path / "clip.safetensors").stat().st_size < 12e6
    loaded = lite_clip().eval()
    put_lite_weights(loaded, load_file(tmp_path / "clip.safetensors"))
    after = zero_shot_classifier(loaded, lite_tokenizer(), names, LITE_TEMPLATES).model.embeddings
    assert (before * after).sum(dim=1).min() > 0.99999
    for name, value in clip.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    original = load_classifier("efficientnet_lite0").model.state_dict()
    torch.testing.assert_close(loaded.visual.trunk.conv_head.weight, original["conv_head.weight"], rtol=0, atol=0)
