"""Bad inputs: each raises an error that quotes the value, and changes nothing.

A case is a call, the exception and the value that its message quotes. Before and after the call the classifier's
weights, modes, hooks and gradient flags and all files are the same.
"""

import copy
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _lib import jobs
from conftest import TinyNet, make_exemplar, moment_of, randomise_norms
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, cut_all, states_at
from edittools.edits import Change, Edit, applied_edits
from edittools.exemplars import Exemplar, paste_texture
from edittools.geometry import InputGeometry
from edittools.image_files import load_image, save_mask
from edittools.images import LabeledImages, LazyImages
from edittools.metrics import Comparison, error_rate, misclassified, predict
from edittools.models.load import load_classifier
from edittools.moments import second_moments
from edittools.probing import textures
from edittools.rewriting import rewrite, rewrite_at_random
from edittools.selection import States, repair, select_edit
from edittools.site import prepare
from edittools.widgets.editor import MaskEditor
from edittools_course import miniworld, scenarios
from edittools_course.methods import METHODS
from edittools_course.networks.finetuned import build_network, load_shortcut_network
from edittools_course.rivals import finetune
from edittools_course.scenarios import imagenette, photos


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).mean(dim=(2, 3)))


def _classifier(model=None, classes=tuple("abcde"), **settings):
    return Classifier(model or TinyNet(), classes, **settings)


def _predict_missing_file(w):
    images = LazyImages([w.folder / "gone.png"], 32)
    return predict(w.classifier, images)


def _states_of_two_classifiers(w):
    return states_at(
        {"first": Cut(w.classifier, "conv1"), "second": Cut(copy.deepcopy(w.classifier), "conv2")}, w.images
    )


def _loader(w):
    return DataLoader(TensorDataset(w.images, w.labels), batch_size=2)


NAN = float("nan")

IMAGES = {
    "no such file": (lambda w: load_image(w.folder / "absent.png"), FileNotFoundError, "absent.png"),
    "an empty file": (lambda w: load_image(w.folder / "empty.png"), ValueError, "empty.png"),
    "a cut-off file": (lambda w: load_image(w.folder / "cut.png"), ValueError, "cut.png"),
    "size as text": (lambda w: load_image(w.folder / "good.png", size="32"), ValueError, "size '32'"),
    "resize_to below size": (
        lambda w: load_image(w.folder / "good.png", InputGeometry(32, 16)),
        ValueError,
        "resize_to 16 .* 32",
    ),
    "x is an array": (lambda w: Exemplar(w.image.numpy(), w.image, w.mask), ValueError, "x .*ndarray"),
    "x is a path": (lambda w: Exemplar.paste("van.jpg", w.mask, "snow.jpg"), ValueError, r"'van\.jpg'.*load_image"),
    "a texture is a path": (
        lambda w: Exemplar.paste(w.image, w.mask, "snow.jpg"),
        ValueError,
        r"texture .*'snow\.jpg'.*load_image",
    ),
    "x is gray": (lambda w: Exemplar(w.image[:1], w.image, w.mask), ValueError, r"x .*\(1, 32, 32\)"),
    "x in 8 bits": (lambda w: Exemplar((w.image * 255).byte(), w.image, w.mask), ValueError, "uint8"),
    "x up to 255": (lambda w: Exemplar(w.image * 255, w.image, w.mask), ValueError, r"to 25\d"),
    "x' normalized": (lambda w: Exemplar(w.image, w.image * 4 - 2, w.mask), ValueError, "x' .* -"),
    "x and x' differ": (lambda w: Exemplar(w.image, w.image[:, 1:], w.mask), ValueError, r"x' .*\(3, 31, 32\)"),
    "pasted on a single image": (lambda w: w.exemplar.hosts(w.image), ValueError, r"set of images.*\(3, 32, 32\)"),
    "pasted on images of another size": (
        lambda w: w.exemplar.hosts(w.images[..., 8:]),
        ValueError,
        r"\(3, 32, 24\).*\(3, 32, 32\)",
    ),
    "pasted on images in 8 bits": (lambda w: w.exemplar.hosts((w.images * 255).byte()), ValueError, "uint8"),
    "pasted at an unknown place": (
        lambda w: w.exemplar.hosts(w.images, "center"),
        ValueError,
        "where.*'center'.*anywhere.*in place",
    ),
    "classified: NaN": (lambda w: w.classifier(w.images * NAN), ValueError, "NaN"),
    "classified: an array": (lambda w: w.classifier(w.images.numpy()), ValueError, "ndarray"),
    "predicted: a list": (lambda w: predict(w.classifier, list(w.images)), TypeError, "list.*torch.stack"),
    "predicted: a DataLoader": (lambda w: predict(w.classifier, _loader(w)), TypeError, "DataLoader.*torch.cat"),
    "compared: a bare model": (lambda w: error_rate(TinyNet(), w.data), TypeError, "TinyNet"),
    "no labels to compare with": (lambda w: error_rate(w.classifier, w.images), TypeError, "Tensor.*LabeledImages"),
    "lazily: a file that is gone": (_predict_missing_file, FileNotFoundError, "gone.png"),
}

MASKS = {
    "saved: grays": (lambda w: save_mask(w.folder / "m.png", w.image[0]), ValueError, r"\[\d"),
    "a path": (lambda w: Exemplar(w.image, w.image, w.folder / "m.png"), ValueError, r"m\.png'.*load_mask"),
    "none": (lambda w: Exemplar(w.image, w.image, None), ValueError, "mask .*NoneType"),
    "empty": (lambda w: Exemplar(w.image, w.image, w.mask * 0), ValueError, "mask is empty"),
    "a stack": (lambda w: Exemplar(w.image, w.image, w.mask[None]), ValueError, r"mask .*\(1, 32, 32\)"),
    "another size": (lambda w: Exemplar(w.image, w.image, torch.ones(16, 16)), ValueError, r"\(16, 16\) .* \(3, 32"),
    "0 and 255": (lambda w: Exemplar(w.image, w.image, w.mask * 255), ValueError, "255"),
}

LABELS = {
    "a list": (lambda w: LabeledImages(w.images, [0] * 6, "abcde"), ValueError, "labels .*list"),
    "floats": (lambda w: LabeledImages(w.images, torch.rand(6), "abcde"), ValueError, "float32"),
    "booleans": (lambda w: LabeledImages(w.images, w.labels > 0, "abcde"), ValueError, "torch.bool"),
    "no images": (lambda w: LabeledImages(None, w.labels, "abcde"), ValueError, "images .*NoneType"),
    "too few": (lambda w: LabeledImages(w.images, w.labels[:4], "abcde"), ValueError, r"\(4,\).*\(6,\)"),
    "too high": (lambda w: LabeledImages(w.images, w.labels, "abc"), ValueError, " 0 .* 4.* 3 "),
    "names too few": (lambda w: LabeledImages(w.images, w.labels, "abcde", ("a",)), ValueError, "1 .* 6 "),
    "images as an array": (lambda w: LabeledImages(w.images.numpy(), w.labels, "abcde"), ValueError, "ndarray"),
    "gray images": (
        lambda w: LabeledImages(w.images[:, :1], w.labels, "abcde"),
        ValueError,
        r"\(6, 1, 32, 32\)",
    ),
    "negative": (lambda w: LabeledImages(w.images, w.labels - 1, "abcde"), ValueError, " -1 .* 0 to 4"),
    "subset out of range": (lambda w: w.data.subset([99]), IndexError, "99"),
}

LAYERS = {
    "empty": (lambda w: Cut(w.classifier, ""), ValueError, "'' of TinyNet"),
    "a shared weight": (lambda w: Cut(_classifier(Tied(), size=32), "first"), ValueError, "'first' of Tied.* 2 times"),
    "one of several is a typo": (lambda w: cut_all(w.classifier, ["conv1", "conf2"]), KeyError, "'conf2'"),
    "cuts of two classifiers": (_states_of_two_classifiers, ValueError, "classifiers"),
    "another size": (
        lambda w: Cut(w.classifier, "conv1", (16, 16)).prefix(w.images),
        ValueError,
        "'conv1'",
    ),
    "images too small": (lambda w: Cut(w.classifier, "conv1", (1, 1)), ValueError, " 1 × 1 "),
}

REWRITES = {
    "rank 0": (lambda w: w.rewrite(rank=0), ValueError, "rank 0 .* 1"),
    "rank 999": (lambda w: w.rewrite(rank=999), ValueError, "rank 999 .* 7 "),
    "rank 1.5": (lambda w: w.rewrite(rank=1.5), ValueError, "rank 1.5 .* 1"),
    "an unknown objective": (lambda w: w.rewrite(objective="l2"), ValueError, "'l2'.* l1, least"),
    "random directions of rank 0": (
        lambda w: rewrite_at_random(w.site(), rank=0),
        ValueError,
        "rank 0 .* 1",
    ),
    "steps -1": (lambda w: w.rewrite(steps=-1), ValueError, "steps -1 .* 0"),
    "weight NaN": (lambda w: w.rewrite(reference_weight=NAN), ValueError, "reference_weight nan"),
    "a weight alone": (
        lambda w: w.rewrite(reference=None, rank=None, reference_weight=1),
        ValueError,
        "reference_weight=1.0",
    ),
    "no exemplar": (lambda w: w.rewrite([]), ValueError, "no exemplar"),
    "a tensor as exemplar": (lambda w: w.rewrite(w.images), TypeError, "Tensor"),
    "a label that is too high": (lambda w: w.rewrite(make_exemplar(label=5)), ValueError, "label 5.*0 to 4"),
    "a label below 0": (lambda w: w.rewrite(make_exemplar(label=-1)), ValueError, "label -1.*0 to 4"),
    "a label that is a name": (lambda w: w.rewrite(make_exemplar(label="ant")), ValueError, "label 'ant'.*index"),
    "inference mode": (lambda w: _in_inference_mode(w.rewrite), RuntimeError, "inference_mode"),
    "exemplars of two sizes": (
        lambda w: w.rewrite([w.exemplar, make_exemplar(size=24)]),
        ValueError,
        r"\(24, 24\).*\(32, 32\)",
    ),
    "no reference": (lambda w: w.rewrite(reference=None), ValueError, "(?i)reference"),
    "a list as reference": (lambda w: w.rewrite(reference=list(w.images)), TypeError, "list.*torch.stack"),
    "a DataLoader as reference": (lambda w: w.rewrite(reference=_loader(w)), TypeError, "DataLoader.*torch.cat"),
    "moments of a DataLoader": (
        lambda w: second_moments(w.classifier, ["conv1"], _loader(w)),
        TypeError,
        "DataLoader.*torch.cat",
    ),
    "one image as reference": (lambda w: w.rewrite(reference=w.image), ValueError, r"\(3, 32, 32\)"),
    "NaN in the reference": (lambda w: w.rewrite(reference=w.images * NAN), ValueError, "NaN"),
    "another layer's moment": (
        lambda w: w.rewrite(reference=moment_of(w.classifier, "conv2", torch.eye(12).double())),
        ValueError,
        "'conv2'.*'conv1'",
    ),
    "a layer of another classifier": (
        lambda w: rewrite(copy.deepcopy(w.classifier), w.classifier.model.conv1, w.exemplar, w.images),
        TypeError,
        "Conv2d .* TinyNet",
    ),
    "a cut as layer": (
        lambda w: rewrite(w.classifier, Cut(w.classifier, "conv1"), w.exemplar, w.images),
        TypeError,
        "Cut .* TinyNet",
    ),
    "a moment that holds NaN": (
        lambda w: moment_of(w.classifier, "conv1", torch.eye(8) * NAN),
        ValueError,
        "second moment holds NaN",
    ),
    "moments of no layer": (lambda w: second_moments(w.classifier, ["nope"], w.images), KeyError, "'nope'"),
    "moments of no image": (lambda w: second_moments(w.classifier, ["conv1"], w.images[:0]), ValueError, "0 .*images"),
    "moments of a bare model": (
        lambda w: second_moments(w.classifier.model, ["conv1"], w.images),
        TypeError,
        "TinyNet",
    ),
    "a moment of another classifier": (lambda w: _rewrite_with_moment_of_other(w), ValueError, "'conv1'.*TinyNet"),
    "a bare model": (lambda w: rewrite(w.classifier.model, "conv1", w.exemplar, w.images), TypeError, "TinyNet"),
    "fine-tuning: scope": (lambda w: w.finetune(scope="all"), ValueError, "scope 'all'.* local, global"),
    "fine-tuning: no label": (lambda w: w.finetune(make_exemplar(label=None)), ValueError, "label="),
    "fine-tuning: label too high": (lambda w: w.finetune(make_exemplar(label=99)), ValueError, "label 99.*0 to 4"),
    "fine-tuning: no steps": (lambda w: w.finetune(steps=()), ValueError, r"steps=\(\)"),
    "fine-tuning: steps -2": (lambda w: w.finetune(steps=-2), ValueError, "steps -2 .* 0"),
    "prepared: no exemplar": (lambda w: w.site([]), ValueError, "no exemplar"),
    "prepared: a layer that is not there": (
        lambda w: prepare(w.classifier, "conf2", w.exemplar, w.images),
        KeyError,
        "'conf2'.*'conv2'",
    ),
    "prepared: a list as reference": (lambda w: w.site(reference=list(w.images)), TypeError, "list.*torch.stack"),
    "fine-tuning: rate NaN": (lambda w: w.finetune(rate=NAN), ValueError, "rate nan .* 0"),
}

REPAIRS = {
    "settings that are one dictionary": (
        lambda w: METHODS["edit"].trying({"rank": 1}),
        TypeError,
        "'rank': 1.*single dictionary.*list",
    ),
    "a strength that is not a number": (
        lambda w: METHODS["edit"].trying(strengths=(1.0, NAN)),
        ValueError,
        "strength nan .*finite",
    ),
    "no strength": (lambda w: METHODS["edit"].trying(strengths=()), ValueError, r"strengths=\(\)"),
    "no layer": (lambda w: w.repair(layers=[]), ValueError, r"layers=\[\]"),
    "a layer as text": (lambda w: w.repair(layers="conv2"), TypeError, "layers='conv2'.*list"),
    "a layer that is not there": (lambda w: w.repair(layers=["conf2"]), KeyError, "'conf2'.*'conv2'"),
    "a layer that cannot be edited": (lambda w: w.repair(layers=["grouped"]), ValueError, "'grouped'"),
    "inference mode": (lambda w: _in_inference_mode(w.repair), RuntimeError, "inference_mode"),
    "a bare model": (lambda w: repair(w.classifier.model, w.exemplar, w.ordinary), TypeError, "TinyNet"),
    "no exemplar": (lambda w: w.repair([]), ValueError, "no exemplar"),
    "an exemplar of another size": (
        lambda w: w.repair([w.exemplar, make_exemplar(size=24)]),
        ValueError,
        r"exemplar 2.*\(24, 24\).*\(32, 32\).*sized\(32\)",
    ),
    "an exemplar that is no square": (
        lambda w: w.repair(Exemplar(w.image[:, 8:], w.image[:, 8:] / 2, w.mask[8:])),
        ValueError,
        r"exemplar 1.*\(24, 32\).*\(32, 32\)",
    ),
    "a label that is too high": (lambda w: w.repair(make_exemplar(label=99)), ValueError, "label 99.*0 to 4"),
    "exemplars whose names are equal as text": (
        lambda w: w.repair({1: w.exemplar, "1": make_exemplar(3)}),
        ValueError,
        "exemplars .*'1'",
    ),
    "no images": (lambda w: w.repair(images=None), ValueError, "images="),
    "too few images": (lambda w: w.repair(images=w.images), ValueError, "6 ordinary images.*50"),
    "images as a list": (lambda w: w.repair(images=list(w.ordinary)), TypeError, "list.*torch.stack"),
    "images as an array": (lambda w: w.repair(images=w.ordinary.numpy()), TypeError, "ndarray"),
    "images with labels": (lambda w: w.repair(images=w.data), TypeError, "images has labels"),
    "images that are no squares": (
        lambda w: w.repair(images=w.ordinary[..., 8:]),
        ValueError,
        r"ordinary.*\(32, 24\).*\(32, 32\)",
    ),
    "concept images that are no squares": (
        lambda w: w.repair(concept=LabeledImages(w.images[..., 8:], w.labels, "abcde")),
        ValueError,
        r"concept.*\(32, 24\).*\(32, 32\)",
    ),
    "concept images without labels": (lambda w: w.repair(concept=w.images[:3]), TypeError, "Tensor.*LabeledImages"),
    "two clean images that select and measure": (
        lambda w: w.repair(images=None, clean=w.images[:2]),
        ValueError,
        "2 clean images",
    ),
    "clean images of another size": (
        lambda w: w.repair(clean=w.images[..., 8:, 8:]),
        ValueError,
        r"clean.*\(24, 24\).*\(32, 32\)",
    ),
    "retained images of another size": (
        lambda w: w.repair(retain={"huskies": w.images[..., 8:, 8:]}),
        ValueError,
        r"retain\['huskies'\].*\(24, 24\).*\(32, 32\)",
    ),
    "retained sets whose names are equal as text": (
        lambda w: w.repair(retain={1: w.images[:1], "1": w.images[1:2]}),
        ValueError,
        "retained sets .*'1'",
    ),
    "clean images as a path": (lambda w: w.repair(clean="my/images"), TypeError, "clean .*str"),
    "retained images as a path": (lambda w: w.repair(retain="my/images"), TypeError, "retain .*str"),
    "a retained set named as another set": (
        lambda w: w.repair(retain={"clean": w.images[:1]}),
        ValueError,
        "'clean'",
    ),
    "an unknown source": (lambda w: w.repair(source="all"), ValueError, "source.*'all'.*failures"),
    "an unknown place": (lambda w: w.repair(where="center"), ValueError, "where.*'center'.*in place"),
    "an unknown selector": (lambda w: w.repair(select_by="label"), ValueError, "select_by.*'label'.*hosts, exemplar"),
    "select_edit by labels": (
        lambda w: select_edit(w.classifier, w.exemplar, w.ordinary, select_by="labels"),
        ValueError,
        "select_by.*'labels'.*hosts, exemplar",
    ),
    "progress that is no class": (
        lambda w: w.repair(select_by="exemplar", progress=True),
        TypeError,
        "progress=True .*tqdm",
    ),
}

EDITS = {
    "strength infinite": (lambda w: w.edit * float("inf"), ValueError, "strength inf"),
    "added: a number": (lambda w: w.edit + 1, TypeError, r"\+.*'Edit' and 'int'"),
    "added: of another model": (lambda w: w.edit + w.other, ValueError, "two models"),
    "applied: to another model": (
        lambda w: w.other.apply_(w.classifier),
        ValueError,
        "TinyNet",
    ),
    "applied: to another kind": (lambda w: w.edit.apply_(nn.Linear(2, 2)), ValueError, "'conv1.weight' .* Linear"),
    "applied: to no model": (lambda w: w.edit.apply_("model.pt"), TypeError, "str"),
    "undone: never applied": (lambda w: w.edit.undo_(w.classifier), ValueError, "TinyNet"),
    "factors that do not fit": (
        lambda w: Change(torch.ones(12, 2), torch.ones(1, 8)),
        ValueError,
        r"\(12, 2\) and \(1, 8\)",
    ),
    "saved below a file": (lambda w: w.edit.save(w.folder / "good.png" / "e.safetensors"), OSError, "good.png"),
    "no such file": (lambda w: Edit.load(w.folder / "absent.safetensors"), FileNotFoundError, "absent.safetensors"),
    "an image": (lambda w: Edit.load(w.folder / "good.png"), ValueError, "good.png"),
    "no change": (lambda w: Edit({}, w.edit.fingerprint), ValueError, "0 "),
    "another model's": (lambda w: Edit.load(w.folder / "other.safetensors", w.classifier), ValueError, "TinyNet"),
}

MODELS = {
    "no file of a network": (lambda w: load_shortcut_network(w.folder / "no.safetensors"), FileNotFoundError, "no.saf"),
    "an image as a network": (lambda w: load_shortcut_network(w.folder / "good.png"), ValueError, "good.png"),
    "an edit as a network": (lambda w: load_shortcut_network(w.folder / "other.safetensors"), ValueError, "other.saf"),
    "an unknown architecture": (lambda w: build_network("vgg", 10), ValueError, "'vgg'.*squeezenet1_1"),
    "no module": (lambda w: Classifier("resnet.pt", "ab"), TypeError, "model .*str"),
    "no class": (lambda w: _classifier(classes=()), ValueError, "class names"),
    "class names as one text": (lambda w: _classifier(classes="ant, bee"), ValueError, "'ant, bee'"),
    "mean NaN": (lambda w: _classifier(mean=(0.5, NAN, 0.5)), ValueError, r"mean \(0.5, nan, 0.5\)"),
    "mean of pixels to 255": (lambda w: _classifier(mean=(123.7, 116.3, 103.5)), ValueError, r"\(123.7, .*by 255"),
    "std of pixels to 255": (lambda w: _classifier(std=(58.4, 57.1, 57.4)), ValueError, r"\(58.4, .*by 255"),
    "std NaN": (lambda w: _classifier(std=(1, NAN, 1)), ValueError, r"std \(1, nan, 1\)"),
    "size 0": (lambda w: _classifier(size=0), ValueError, "size 0 .* 1"),
    "fewer names than logits": (
        lambda w: _classifier(classes="abc".split())(w.images),
        ValueError,
        r"\(6, 5\).* 1 ",
    ),
    "an unknown name": (lambda w: load_classifier("mini_vg"), KeyError, "'mini_vg'.*'mini_vgg'"),
    "an unknown device": (lambda w: load_classifier("mini_vgg", device="tpu9"), ValueError, "tpu9.*cpu"),
    "weights that are not there": (lambda w: _load_places(w), FileNotFoundError, "absent.tar.*weights="),
    "a bare model is asked": (lambda w: predict(w.classifier.model, w.images), TypeError, "TinyNet"),
}

METRICS = {
    "classes instead of logits": (
        lambda w: misclassified(predict(w.classifier, w.images).argmax(dim=1), w.labels),
        ValueError,
        r"\(6,\).*logits",
    ),
    "labels too few": (lambda w: misclassified(torch.rand(3, 5), w.labels), ValueError, "3 .* 6 "),
    "of two lengths": (lambda w: Comparison(_no_errors(3), _no_errors(4)), ValueError, r"\(3,\).*\(4,\)"),
    "cached: an edit of another layer": (
        lambda w: w.cached("conv2").logits(w.edit),
        ValueError,
        "'conv1.weight'.*'conv2'",
    ),
}

PHOTOS = {
    "an unknown split": (lambda w: imagenette.imagenette("test"), ValueError, "split 'test'.* train, val"),
    "a folder without Imagenette": (lambda w: _imagenette(w, "."), FileNotFoundError, r"'imagenette'.*github"),
    "a path that climbs": (lambda w: photos.photo("../../etc/passwd"), KeyError, "'../../etc/passwd'"),
    "a folder that is not there": (lambda w: _in_photos(w, "/no/such"), FileNotFoundError, "'/no/such'"),
    "a photo the folder has not": (lambda w: _in_photos(w, w.folder), FileNotFoundError, "EDITTOOLS_PHOTOS="),
    "no validation folder": (
        lambda w: _validation(w, w.folder / "val"),
        FileNotFoundError,
        "val'",
    ),
    "one of other classes": (lambda w: _validation(w, w.folder), ValueError, " 0 .* 5"),
}

MINIWORLD = {
    "an unknown tier": (lambda w: scenarios.snow_scenario("tiny"), ValueError, "tier 'tiny'.* mini"),
    "an unknown model": (lambda w: scenarios.snow_scenario("mini", "vgg"), KeyError, "'vgg'.*mini_vgg"),
    "an unknown class": (lambda w: miniworld.scene(0, label="dragon"), KeyError, "'dragon'"),
    "an unknown ground": (lambda w: miniworld.scene(0, ground="lava"), KeyError, "'lava'"),
    "size 0": (lambda w: miniworld.scene(0, size=0), ValueError, "size 0 "),
    "a seed below 0": (lambda w: miniworld.scene(-1), ValueError, "seed -1 .* 0"),
    "an unknown split": (lambda w: miniworld.scenes(2, "dev"), KeyError, "'dev'.* train"),
    "an unknown concept": (lambda w: miniworld.scenes(1).mask("lava"), KeyError, "'lava'"),
    "an unknown style": (lambda w: textures.texture("lava"), KeyError, "'lava'.* snow"),
    "an unknown variant of a style": (lambda w: textures.texture("snow", 9), ValueError, "'snow'.* 9"),
    "a mask that does not fit": (lambda w: textures.restyle(w.image, w.mask[1:], "snow"), ValueError, r"\(31, 32\)"),
    "a texture up to 255": (lambda w: paste_texture(w.image, w.mask, w.image * 255), ValueError, "texture"),
}

WIDGETS = {
    "saved as .jpg": (lambda w: MaskEditor(w.image).save(w.folder / "m.jpg"), ValueError, "jpg'.*png"),
    "a store that is an image": (
        lambda w: jobs.run(len, {"a": "a"}, w.folder / "good.png", about="lengths"),
        OSError,
        "good.png",
    ),
    "a store without about": (lambda w: jobs.run(len, {"a": "a"}, w.folder / "rows"), ValueError, "rows.*about"),
    "rows that are no mappings": (lambda w: jobs.run(lambda job: [job], {"a": 1}), TypeError, "int"),
}


def _in_inference_mode(call):
    with torch.inference_mode():
        return call()


def _rewrite_with_moment_of_other(w):
    other = Classifier(TinyNet(), list("abcde"), size=32)
    return w.rewrite(reference=second_moments(other, ["conv1"], w.images)["conv1"])


def _no_errors(count):
    return torch.zeros(count, dtype=torch.bool)


def _load_places(w):
    return load_classifier("resnet18_places365", weights=w.folder / "absent.tar")


def _in_photos(w, folder):
    w.environment("EDITTOOLS_PHOTOS", str(folder))
    return photos.photo(min(photos.registry()))


def _imagenette(w, folder):
    w.environment("EDITTOOLS_PHOTOS", str(w.folder / folder))
    return imagenette.imagenette("train")


def _validation(w, folder):
    w.environment("EDITTOOLS_IMAGENET", str(folder))
    return photos.validation_folder(w.classifier, 1)


GROUPS = {"images": IMAGES, "masks": MASKS, "labels": LABELS, "layers": LAYERS, "rewriting": REWRITES, "edits": EDITS}
GROUPS |= {
    "repairs": REPAIRS,
    "models": MODELS,
    "metrics": METRICS,
    "photos": PHOTOS,
    "miniworld": MINIWORLD,
    "widgets": WIDGETS,
}
CASES = {f"{group}: {what}": case for group, cases in GROUPS.items() for what, case in cases.items()}


def _files(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def _state(classifier):
    """Everything about a classifier that a call could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        fingerprint(classifier),
        [(name, module.training) for name, module in classifier.named_modules()],
        [len(getattr(module, hook)) for module in classifier.modules() for hook in hooks],
        [(p.requires_grad, p.grad is None, p.dtype, p._version) for p in classifier.parameters()],
        applied_edits(classifier),
    )


def _write_files(folder):
    folder.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "good.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "empty.png").write_bytes(b"")
    (folder / "bad.json").write_text('{"a": 1}')


@pytest.fixture(scope="module")
def classifier_and_edits():
    """A classifier and an edit of it, another classifier's edit, and an exemplar: made once, copied for each case."""
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "dog", "elk"), size=32)
    other = Classifier(TinyNet(), list("abcde"), size=32)
    exemplar = make_exemplar()
    matrix = torch.eye(8).double()
    edits = [rewrite(c, "conv1", exemplar, moment_of(c, "conv1", matrix)) for c in (classifier, other)]
    return classifier, exemplar, *edits


@pytest.fixture
def inputs(tmp_path, monkeypatch, classifier_and_edits):
    """The inputs of all cases: a classifier in a mixture of modes, an edit of it and one of another, and files."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    _write_files(tmp_path / "world")
    classifier, exemplar, edit, other = classifier_and_edits
    classifier = copy.deepcopy(classifier)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    w = SimpleNamespace(
        folder=tmp_path / "world",
        classifier=classifier,
        exemplar=exemplar,
        mask=exemplar.mask,
        images=images,
        image=images[0],
        labels=torch.tensor([0, 1, 2, 3, 4, 0]),
        environment=monkeypatch.setenv,
        edit=edit,
        other=other,
    )
    w.data = LabeledImages(images, w.labels, classifier.classes)
    w.cached = lambda layer="conv1": States(cut_all(classifier, [layer]), w.data)
    w.rewrite = lambda exemplars=exemplar, reference=images, **options: rewrite(
        classifier, "conv1", exemplars, reference, **{"steps": 1} | options
    )
    w.site = lambda exemplars=exemplar, reference=images: prepare(classifier, "conv1", exemplars, reference)
    w.ordinary = torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    w.repair = lambda exemplars=exemplar, **options: repair(
        classifier, exemplars, **{"images": w.ordinary, "progress": None} | options
    )
    w.finetune = lambda exemplars=exemplar, **options: finetune(w.site(exemplars, None), **options)
    w.other.save(w.folder / "other.safetensors")
    classifier.model.norm.train()
    classifier.model.stem.weight.requires_grad_(False)
    return w


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_and_changes_nothing(case, inputs):
    call, error, pattern = CASES[case]
    model = _state(inputs.classifier)
    files = _files(inputs.folder)
    with pytest.raises(error, match=f"(?s){pattern}"):
        call(inputs)
    assert _state(inputs.classifier) == model
    assert _files(inputs.folder) == files
