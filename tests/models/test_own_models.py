"""Models as people have them: the usual workflow runs, or the error says why it does not and what to do."""

import errno
import os
import unicodedata
from pathlib import Path

import pytest
import torch
from conftest import TinyNet, randomise_norms, save_image
from torch import nn

from edittools._paths import image_files
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, cut_all, editable_layers
from edittools.edits import Edit
from edittools.folders import read_folder
from edittools.images import LabeledImages
from edittools.metrics import error_rate, predict
from edittools.rewriting import rewrite
from edittools.selection import repair
from edittools.site import prepare
from edittools_course.rivals import finetune

CLASSES = ("ant", "bee", "cat", "dog", "elk")


def plain():
    torch.manual_seed(0)
    return randomise_norms(TinyNet()).eval()


def after(step):
    """Change a model and give it back."""
    return lambda model: (step(model), model)[1]


WAYS = {
    "plain": lambda model: model,
    "in train mode": lambda model: model.train(),
    "frozen": lambda model: model.requires_grad_(False),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "in bfloat16": lambda model: model.bfloat16(),
    "in float16": lambda model: model.half(),
    "in float64": lambda model: model.double(),
    "data parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled in place": after(lambda model: model.compile(backend="eager")),
    "with a hook": after(lambda model: model.conv1.register_forward_hook(lambda module, args, output: output)),
    "batch norm in train mode only": after(lambda model: model.norm2.train()),
}


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("way", WAYS)
def test_workflow_on_prepared_models(way, photos32, exemplar, tmp_path):
    model = WAYS[way](plain())
    classifier = Classifier(model, CLASSES, size=32)
    for module, training in zip(model.modules(), modes(WAYS[way](plain())), strict=True):
        module.training = training  # as it was handed over: a Classifier starts in eval mode
    before = modes(classifier)
    mark = fingerprint(classifier)
    dtype = next(model.parameters()).dtype
    flags = [p.requires_grad for p in model.parameters()]
    layers = editable_layers(classifier).layer.tolist()
    assert layers == ["stem", "conv1", "conv2", "head"]
    cut = Cut(classifier, "conv2")
    logits = predict(classifier, photos32)
    near = {"atol": 0.05, "rtol": 0.05} if dtype.itemsize == 2 else {"atol": 1e-5, "rtol": 1e-4}
    assert torch.allclose(cut.logits(cut.prefix(photos32)).float(), logits.float(), **near)
    edit = rewrite(classifier, "conv2", exemplar, reference=photos32, objective="l1", reference_weight=0.0, steps=20)
    assert edit.record.loss_after < edit.record.loss_before
    edit.save(tmp_path / "edit.safetensors")
    edit = Edit.load(tmp_path / "edit.safetensors", model)
    with edit.applied(model):
        assert not torch.equal(predict(classifier, exemplar.changed[None]), predict(classifier, exemplar.image[None]))
        assert not torch.equal(predict(classifier, photos32), logits)
    assert torch.equal(predict(classifier, photos32), logits)
    [tuned] = finetune(prepare(classifier, "conv2", exemplar), rate=0.5, steps=3)
    assert tuned.record.loss_after < tuned.record.loss_before
    assert modes(classifier) == before and fingerprint(classifier) == mark
    assert next(model.parameters()).dtype == dtype and [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize("way", ["data parallel", "compiled"])
def test_applied_to_wrapped_model(way, photos32, exemplar):
    """Parameters go by the names of the model inside, so an edit fits it with and without its wrapper."""
    model = WAYS[way](plain())
    classifier = Classifier(model, CLASSES, size=32)
    edit = rewrite(classifier, "conv1", exemplar, reference=photos32, objective="least_squares")
    inside = Classifier(plain(), CLASSES, size=32)
    assert edit.fingerprint == fingerprint(inside.model)
    with edit.applied(model), edit.applied(inside):
        model.eval()
        assert torch.equal(model(inside.normalize(photos32)), inside(photos32))


@pytest.mark.parametrize("way", ["in bfloat16", "in float16"])
@pytest.mark.parametrize("objective", ["l1", "least_squares"])
def test_rewrite_in_half_precision(objective, way, photos32, exemplar):
    full, half = (Classifier(model, CLASSES, size=32) for model in (plain(), WAYS[way](plain())))
    gains = []
    for classifier in (full, half):
        edit = rewrite(classifier, "conv1", exemplar, photos32, objective=objective, reference_weight=0.0, steps=50)
        gains.append(1 - edit.record.loss_after / edit.record.loss_before)
        assert edit.changes["conv1.weight"].left.dtype == torch.float32
    assert gains[1] == pytest.approx(gains[0], rel=0.05) and gains[0] > 0.15


def test_classifier_of_model_made_in_inference_mode():
    with torch.inference_mode():
        model = plain()
    with pytest.raises(ValueError, match=r"TinyNet.*torch.inference_mode\(\)"):
        Classifier(model, CLASSES, size=32)


def test_classifier_of_model_with_batch_norm_without_running_statistics():
    model = plain()
    model.norm2 = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(ValueError, match=r"'norm2' \(BatchNorm2d\).*track_running_stats=True"):
        Classifier(model, CLASSES, size=32)
    model.norm2 = nn.InstanceNorm2d(8)  # each image by itself
    Classifier(model, CLASSES, size=32)


def test_applied_next_to_shared_weights(photos32, exemplar):
    model = plain()
    model.extra = model.conv2  # one module under two names
    classifier = Classifier(model, CLASSES, size=32)
    first, second = (
        rewrite(classifier, layer, exemplar, photos32, objective="least_squares") for layer in ("conv1", "stem")
    )
    mark = fingerprint(classifier)
    with first.applied(classifier), second.applied(classifier):
        assert fingerprint(classifier) != mark
    assert fingerprint(classifier) == mark


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: not checked on one")
def test_rewrite_on_gpu(photos32, exemplar):
    cpu = Classifier(plain(), CLASSES, size=32)
    gpu = Classifier(plain().cuda(), CLASSES, size=32)
    edits = [rewrite(c, "conv1", exemplar, photos32, objective="least_squares") for c in (cpu, gpu)]
    changes = [edit.changes["conv1.weight"].delta().cpu() for edit in edits]
    assert torch.allclose(*changes, rtol=0.05, atol=0.05 * float(changes[0].abs().max()))
    for edit in edits:  # an edit made on one is applied on the other
        with edit.applied(gpu):
            assert predict(gpu, photos32).device.type == "cpu"
    cuts = cut_all(gpu, ["conv1", "head"])
    assert torch.allclose(cuts["head"].logits(cuts["head"].prefix(photos32)).cpu(), predict(cpu, photos32), atol=1e-3)


def test_read_folder_matches_class_names(tmp_path, photos32):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 32), torch.nn.Flatten())
    classifier = Classifier(net, ["Cardigan", "cardigan", "café"], size=32)
    for name in ("cardigan", "CARDIGAN", unicodedata.normalize("NFD", "café")):
        (tmp_path / name).mkdir()
        save_image(tmp_path / name / "a.png", photos32[0])
    data, left_out = read_folder(tmp_path, classifier)
    labels = {Path(name).parts[0]: label for name, label in zip(data.names, data.labels.tolist(), strict=True)}
    assert not left_out and labels["cardigan"] == 1 and labels["CARDIGAN"] == 0
    assert labels[unicodedata.normalize("NFD", "café")] == 2


LINKS = {"before the folder": "bee", "after the folder": "elk"}
"""Names of links to the folder `cat`, which come before or after it in the order of names."""


@pytest.mark.parametrize("is_link_first", [True, False])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_read_folder_with_link_to_a_folder_next_to_it(link, is_link_first, tmp_path, photos32, tiny):
    """The images have the label of the folder that they lie in, whichever was made first."""
    folder = tmp_path / "cat"
    if is_link_first:
        (tmp_path / link).symlink_to(folder)
    for number in range(3):
        save_image(folder / f"{number}.png", photos32[number])
    if not is_link_first:
        (tmp_path / link).symlink_to(folder)
    data, left_out = read_folder(tmp_path, tiny)
    assert data.names == ("cat/0.png", "cat/1.png", "cat/2.png") and not left_out
    assert data.labels.tolist() == [tiny.index("cat")] * 3


@pytest.mark.parametrize("is_first_made_first", [True, False])
def test_image_files_behind_links_to_one_folder(is_first_made_first, tmp_path, photos32):
    """A folder outside is listed once, by the first of its links in the order of names; files are sorted."""
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    for name in ("b.png", "a.png"):
        save_image(outside / name, photos32[0])
        save_image(root / "dog" / name, photos32[0])
    for name in ("bee", "elk") if is_first_made_first else ("elk", "bee"):
        (root / name).symlink_to(outside)
    listed = [path.relative_to(root).as_posix() for path in image_files(root)]
    assert listed == ["bee/a.png", "bee/b.png", "dog/a.png", "dog/b.png"]


def _transformers_vit():
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=5, **shape))


def _transformers_convnext():
    from transformers import ConvNextConfig, ConvNextForImageClassification

    settings = ConvNextConfig(
        num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5, layer_scale_init_value=1.0
    )
    return ConvNextForImageClassification(settings)


@pytest.mark.parametrize("make", [_transformers_vit, _transformers_convnext])
def test_workflow_on_transformers_models(make, photos32, exemplar, tmp_path):
    torch.manual_seed(0)
    classifier = Classifier(make(), CLASSES, size=32)
    table = editable_layers(classifier)
    assert len(table) > 4
    labels = predict(classifier, photos32).argmax(dim=1)
    concept = LabeledImages(photos32[:8], (labels[:8] + torch.tensor([1, 0] * 4)) % 5, CLASSES)  # half are wrong
    clean, retained = (LabeledImages(photos32[part], labels[part], CLASSES) for part in (slice(8, 32), slice(32, 40)))
    ordinary = torch.rand(60, 3, 32, 32)
    layers = table.layer.tolist()[-3:]
    sets = {"concept": concept, "clean": clean, "retain": retained}
    fix = repair(classifier, exemplar, ordinary, **sets, layers=layers, select_by="exemplar")
    assert "candidates" in fix.summary()  # at random weights there may be nothing to gain
    edit = rewrite(classifier, table.layer.iloc[-2], exemplar, reference=clean, objective="least_squares")
    before = predict(classifier, photos32)
    with edit.applied(classifier):
        assert not torch.equal(predict(classifier, photos32), before)
        assert 0 <= error_rate(classifier, retained) <= 1
    assert torch.equal(predict(classifier, photos32), before)
    edit.save(tmp_path / "edit.safetensors")
    half = (0.5 * Edit.load(tmp_path / "edit.safetensors", classifier)).apply_(classifier)
    half.undo_(classifier)


def test_read_folder_names_the_reason_of_each_file_that_is_left_out(tmp_path, photos32, tiny):
    save_image(tmp_path / "good.png", photos32[0])
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere: absent.png")
    (tmp_path / "broken: one.png").write_bytes(b"broken")
    data, left_out = read_folder(tmp_path, tiny)
    assert data.names == ("good.png",)
    reasons = {line.partition(".png: ")[0]: line.partition(".png: ")[2] for line in left_out}
    assert reasons["gone"] == os.strerror(errno.ENOENT)
    assert reasons["broken: one"].startswith("is not a readable image: ")


def test_read_folder_opens_files_only(tmp_path, photos32, tiny):
    """To open a named pipe would wait until another process writes into it."""
    save_image(tmp_path / "good.png", photos32[0])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    data, [line] = read_folder(tmp_path, tiny)
    assert data.names == ("good.png",) and line == "pipe.png: is not a file"


def test_read_folder_escapes_names_that_are_not_utf_8(tmp_path, photos32, tiny):
    for folder, name in ((b"cat", b"caf\xe9.png"), (b"ch\xeat", b"0.png")):
        (tmp_path / os.fsdecode(folder)).mkdir()
        save_image(tmp_path / "plain.png", photos32[0])
        (tmp_path / "plain.png").rename(tmp_path / os.fsdecode(folder) / os.fsdecode(name))
    for lazy in (False, True):
        data, [line] = read_folder(tmp_path, tiny, lazy=lazy)
        assert data.names == ("cat/caf\\xe9.png",) and line.startswith("ch\\xeat/0.png: ")
        assert data.images[:].shape == (1, 3, 32, 32)


def test_read_folder_tells_which_labels_were_given(tmp_path, photos32, tiny):
    for number in range(6):
        save_image(tmp_path / ("cat" if number < 3 else "") / f"{number}.png", photos32[number])
    data, _ = read_folder(tmp_path, tiny)
    assert data.names == ("3.png", "4.png", "5.png", "cat/0.png", "cat/1.png", "cat/2.png")
    assert data.is_labeled.tolist() == [False] * 3 + [True] * 3
    assert data.subset([0, 5]).is_labeled.tolist() == [False, True]
    assert data.labels[:3].tolist() == predict(tiny, data.images[:3]).argmax(dim=1).tolist()
    few, _ = read_folder(tmp_path, tiny, most=2)
    assert few.names == ("3.png", "cat/0.png")
    (tmp_path / "cat").rename(tmp_path / "no class")
    ordinary, left_out = read_folder(tmp_path, tiny, labeled=False)
    assert len(ordinary) == 6 and not ordinary.is_labeled.any() and not left_out


def test_read_folder_of_other_classes_names_them(tmp_path, photos32, tiny):
    save_image(tmp_path / "dragon" / "0.png", photos32[0])
    with pytest.raises(ValueError, match=r"none of the 1 images .*'dragon' is not one of the 5 classes"):
        read_folder(tmp_path, tiny)
