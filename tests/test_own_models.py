"""Models as people have them: the usual way through works, or the error says why it does not and what would."""

import re
import sys
import unicodedata
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TinyNet, needs_photos, randomise_norms, save_image
from torch import nn

import edittools
from edittools.baselines.finetuning import finetune
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, cut_all, editable_layers
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import error_rate, predict
from edittools.miniworld import scene
from edittools.probing import segmentation
from edittools.probing.segmentation import Segmenter
from edittools.rewriting import rewrite
from edittools.scenarios import photos
from edittools.selection import repair
from edittools.selection.trials import later_layers
from edittools.widgets import Desk
from edittools.widgets.folders import read_folder

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
def test_cut_rewrite_edit_and_undo_work_and_leave_the_model_as_it_was(way, photos32, exemplar, tmp_path):
    model = WAYS[way](plain())
    classifier = Classifier(model, CLASSES, size=32)
    for module, training in zip(model.modules(), modes(WAYS[way](plain())), strict=True):
        module.training = training  # as it was handed over: a Classifier starts in eval mode
    before, mark = modes(classifier), fingerprint(classifier)
    dtype, flags = next(model.parameters()).dtype, [p.requires_grad for p in model.parameters()]
    layers = editable_layers(classifier).layer.tolist()
    assert layers == ["stem", "conv1", "conv2", "head"]
    cut = Cut(classifier, "conv2")
    logits = predict(classifier, photos32)
    near = {"atol": 0.05, "rtol": 0.05} if dtype.itemsize == 2 else {"atol": 1e-5, "rtol": 1e-4}
    assert torch.allclose(cut.suffix(cut.prefix(photos32)).float(), logits.float(), **near)
    edit = rewrite(classifier, "conv2", exemplar, reference=photos32, steps=20)
    assert edit.record.loss_after < edit.record.loss_before
    edit.save(tmp_path / "edit.safetensors")
    edit = Edit.load(tmp_path / "edit.safetensors", model)
    with edit.applied(model):
        assert not torch.equal(predict(classifier, exemplar.changed[None]), predict(classifier, exemplar.image[None]))
        assert not torch.equal(predict(classifier, photos32), logits)
    assert torch.equal(predict(classifier, photos32), logits)
    tuned = finetune(classifier, "conv2", exemplar, rate=0.5, steps=3)
    assert tuned.record.loss_after < tuned.record.loss_before
    assert modes(classifier) == before and fingerprint(classifier) == mark
    assert next(model.parameters()).dtype == dtype and [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize("way", ["data parallel", "compiled"])
def test_a_wrapper_sees_the_edits_of_the_model_inside(way, photos32, exemplar):
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
def test_in_half_precision_the_edit_is_nearly_that_in_full(objective, way, photos32, exemplar):
    full, half = (Classifier(model, CLASSES, size=32) for model in (plain(), WAYS[way](plain())))
    gains = []
    for classifier in (full, half):
        edit = rewrite(classifier, "conv1", exemplar, photos32, objective=objective, steps=50)
        gains.append(1 - edit.record.loss_after / edit.record.loss_before)
        assert edit.changes["conv1.weight"].left.dtype == torch.float32
    assert gains[1] == pytest.approx(gains[0], rel=0.05) and gains[0] > 0.15


def test_a_model_made_in_inference_mode_is_refused_with_the_way_out():
    with torch.inference_mode():
        model = plain()
    with pytest.raises(ValueError, match=r"TinyNet was made under torch.inference_mode\(\).*outside"):
        Classifier(model, CLASSES, size=32)


def test_an_edit_beside_shared_weights_is_undone_and_can_be_stacked(photos32, exemplar):
    model = plain()
    model.extra = model.conv2  # one module under two names
    classifier = Classifier(model, CLASSES, size=32)
    one, two = (
        rewrite(classifier, layer, exemplar, photos32, objective="least_squares") for layer in ("conv1", "stem")
    )
    mark = fingerprint(classifier)
    with one.applied(classifier), two.applied(classifier):
        assert fingerprint(classifier) != mark
    assert fingerprint(classifier) == mark


def test_a_model_that_gives_more_than_logits_is_refused_with_the_shape(photos32):
    class Two(TinyNet):
        def forward(self, x):
            return super().forward(x), x

    classifier = Classifier(Two(), CLASSES, size=32)
    for use in (lambda: predict(classifier, photos32), lambda: Cut(classifier, "conv1")):
        with pytest.raises(ValueError, match="Two .*returned a tuple"):
            use()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: not checked on one")
def test_on_a_gpu_the_edit_is_that_of_the_cpu(photos32, exemplar):
    cpu, gpu = Classifier(plain(), CLASSES, size=32), Classifier(plain().cuda(), CLASSES, size=32)
    edits = [rewrite(c, "conv1", exemplar, photos32, objective="least_squares") for c in (cpu, gpu)]
    changes = [edit.changes["conv1.weight"].delta().cpu() for edit in edits]
    assert torch.allclose(*changes, rtol=0.05, atol=0.05 * float(changes[0].abs().max()))
    for edit in edits:  # an edit made on one is applied on the other
        with edit.applied(gpu):
            assert predict(gpu, photos32).device.type == "cpu"
    cuts = cut_all(gpu, ["conv1", "head"])
    assert torch.allclose(cuts["head"].suffix(cuts["head"].prefix(photos32)).cpu(), predict(cpu, photos32), atol=1e-3)


def test_a_folder_is_the_class_of_exactly_its_name_first_and_accents_may_be_composed(tmp_path, photos32):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 32), torch.nn.Flatten())
    classifier = Classifier(net, ["Cardigan", "cardigan", "café"], size=32)
    for name in ("cardigan", "CARDIGAN", unicodedata.normalize("NFD", "café")):
        (tmp_path / name).mkdir()
        save_image(tmp_path / name / "a.png", photos32[0])
    data, left_out = read_folder(tmp_path, classifier)
    found = {Path(name).parts[0]: label for name, label in zip(data.names, data.labels.tolist(), strict=True)}
    assert not left_out and found["cardigan"] == 1 and found["CARDIGAN"] == 0
    assert found[unicodedata.normalize("NFD", "café")] == 2


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
def test_the_way_through_readme_works_on_a_model_of_transformers_as_it_is(make, photos32, exemplar, tmp_path):
    torch.manual_seed(0)
    classifier = Classifier(make(), CLASSES, size=32)
    table = editable_layers(classifier)
    assert len(table) > 4
    labels = predict(classifier, photos32).argmax(dim=1)
    misread = LabelledImages(photos32[:8], (labels[:8] + 1) % 5, CLASSES)
    everyday, keep = (LabelledImages(photos32[part], labels[part], CLASSES) for part in (slice(8, 32), slice(32, 40)))
    fix = repair(classifier, exemplar, failing=misread, clean=everyday, retain=keep, baselines=False)
    assert "trials" in fix.verdict  # at random weights there may be nothing to gain
    edit = rewrite(classifier, table.layer.iloc[-2], exemplar, reference=everyday, objective="least_squares")
    before = predict(classifier, photos32)
    with edit.applied(classifier):
        assert not torch.equal(predict(classifier, photos32), before)
        assert 0 <= error_rate(classifier, keep) <= 1
    assert torch.equal(predict(classifier, photos32), before)
    edit.save(tmp_path / "edit.safetensors")
    half = (0.5 * Edit.load(tmp_path / "edit.safetensors", classifier)).apply_(classifier)
    half.undo_(classifier)
    desk = Desk(classifier, misread, clean=everyday, retain=keep)
    desk.wait(60)
    assert torch.equal(predict(classifier, photos32), before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Cars, most of them on roads, and cows on grass, as files in a folder a class; and their exact masks."""
    folder, masks = tmp_path_factory.mktemp("pictures"), {"road": [], "grass": []}
    for number, name in enumerate(("car", "cow")):
        for i in range(16):
            shown = scene(2_000_000 + 100 * number + i, label=name, ground=("road", "grass")[number])
            (folder / name).mkdir(exist_ok=True)
            save_image(folder / name / f"{i:02}.png", shown.image)
            for concept, found in masks.items():
                found.append(shown.masks.get(concept, torch.zeros(64, 64)))
    return folder, {concept: torch.stack(found) for concept, found in masks.items()}


def lines_of_the_guide(folder, classifier, everyday):
    """Run the ten lines from a folder to a verdict; give what they name."""
    guide = (Path(__file__).parents[1] / "docs" / "own_model.md").read_text()
    [lines] = [block for block in re.findall("```python\n(.*?)```", guide, re.DOTALL) if "read_folder" in block]
    named = {"et": edittools, "classifier": classifier, "clean_images": everyday}
    exec(lines.replace("my_pictures", str(folder)), named)
    return named


@pytest.fixture
def exact(pictures, monkeypatch, tmp_path):
    """Let exact masks stand for a segmenter's; they may be changed."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    monkeypatch.setattr(segmentation, "deeplab", lambda name, wanted=(): Segmenter(None, {}, name))
    masks = dict(pictures[1])
    monkeypatch.setattr(segmentation, "cached", lambda found: lambda images: masks)
    return masks


def test_from_a_folder_without_masks_or_failing_pictures_to_a_repair(pictures, exact, capsys):
    classifier = edittools.load_classifier("mini_vgg")
    lines_of_the_guide(pictures[0], classifier, edittools.miniworld.scenes(120, "validation"))
    said = capsys.readouterr().out
    assert "Held out:" in said or "No edit helps" in said
    exact.update({concept: 0 * found for concept, found in exact.items()})
    with pytest.raises(ValueError, match="road, grass.* 2 of .* 32"):
        lines_of_the_guide(pictures[0], classifier, None)


@pytest.mark.parametrize(
    ("missing", "error", "says"),
    [
        ("pictures", ValueError, "weights.deeplab"),
        ("package", ModuleNotFoundError, r"pip install 'edittools\[concepts\]'"),
        ("weights", ValueError, r"cityscapes.tflite' is not the registered"),
    ],
)
def test_what_a_folder_a_machine_or_a_cache_lacks_is_named_by_the_ten_lines(
    missing, error, says, pictures, tmp_path, monkeypatch
):
    file = tmp_path / "weights" / "deeplab" / "cityscapes.tflite"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"damaged")
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(tmp_path))
    if missing == "package":
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
        monkeypatch.setattr(segmentation, "photo", lambda name: file)
    folder = file.parent if missing == "pictures" else pictures[0]
    with pytest.raises(error, match=says):
        lines_of_the_guide(folder, edittools.load_classifier("mini_vgg"), None)


UNDER_THE_SKY = """
airliner airship balloon castle church container_ship dam fountain beacon liner mosque obelisk palace parachute pier
schooner steel_arch_bridge suspension_bridge viaduct warplane wing yawl wreck breakwater bell_cote dome flagpole
monastery stupa triumphal_arch megalith water_tower drilling_platform catamaran trimaran aircraft_carrier alp cliff
volcano seashore valley lakeside barn boathouse worm_fence
"""


@needs_photos
def test_from_a_folder_of_photographs_to_a_repair(tmp_path, monkeypatch, capsys):
    """Found masks of the sky, in folders by class; one picture more has 20 × 20 pixels, and one is broken."""
    pytest.importorskip("ai_edge_litert", reason="no ai-edge-litert here: pip install 'edittools[concepts]'")
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    classifier = edittools.load_classifier("squeezenet1_1")
    for name, label in photos.sample_labels().items():
        if name.split("_", 1)[1][:-5] in UNDER_THE_SKY.split() and name in photos.available("imagenet-sample/"):
            folder = tmp_path / "pictures" / str(label)
            folder.mkdir(parents=True)
            (folder / "a.jpg").symlink_to(photos.photo(name).resolve())
    save_image(folder / "b.png", torch.rand(3, 20, 20))
    (folder / "c.png").write_bytes(b"broken")
    few = partial(repair, layers=later_layers(classifier)[-2:], baselines=False)
    monkeypatch.setattr(edittools, "repair", few)
    everyday = photos.unlabeled("rta-100/", classifier, most=60)
    named = lines_of_the_guide(tmp_path / "pictures", classifier, everyday)
    assert len(named["data"]) == len(list((tmp_path / "pictures").iterdir())) + 1 > 30
    assert [told.partition(": ")[0] for told in named["left_out"]] == [f"{folder.name}/c.png"]
    assert named["rule"]["concept"] == "sky" and len(named["failing"]) > 10
    said = capsys.readouterr().out
    assert "Held out:" in said or "No edit helps" in said
