"""What people get wrong: each input ends in an error that quotes it and says what would be right, and changes nothing.

A case is what is wrong, a call, the error and a pattern of its message. Before and after the call the classifier's
weights, modes, hooks and gradient flags and all files are the same. The number of cases is printed.
"""

import copy
import hashlib
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TinyNet, make_exemplar, randomise_norms
from PIL import Image
from torch import nn

from edittools import metrics, stories
from edittools.baselines.finetuning import finetune
from edittools.choosing import select, sweep
from edittools.choosing import states as benchmark
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, cut_all, editable_layers, prefixes
from edittools.edits import Change, Edit, applied_edits
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, LazyImages, load_image, load_mask, save_image, save_mask
from edittools.lab.editor import MaskEditor
from edittools.lab.views import PredictionView, alpha_slider
from edittools.moments import SecondMoment, second_moments
from edittools.probing import jobs
from edittools.rewriting import rewrite
from edittools.stories import photos
from edittools.world import miniworld
from edittools.world import textures as styles
from edittools.zoo import downloads
from edittools.zoo.load import load_classifier


class Branches(nn.Module):
    """A forward pass that looks at its input: torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 5, 32)

    def forward(self, x):
        return self.head(x)[:, :, 0, 0] if x.mean() > 0 else self.head(-x)[:, :, 0, 0]


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 5)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()).mean(dim=(2, 3)))


def _tampered(w, **header):
    """A copy of the edit's file with another header."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(w.folder / "edit.safetensors", "pt") as file:
        tensors, known = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    path = w.aside / "tampered.safetensors"
    save_file(tensors, path, {k: v for k, v in (known | header).items() if v is not None})
    return path


def _is(value):
    """Stands for a bad input that is handled: the call's result must be this."""
    return value


NAN = float("nan")
RIGHT = "handled"

IMAGES = {
    "no such file": (lambda w: load_image(w.folder / "absent.png"), FileNotFoundError, "absent.png"),
    "a folder": (lambda w: load_image(w.folder), IsADirectoryError, "world"),
    "an empty file": (lambda w: load_image(w.folder / "empty.png"), ValueError, "empty.png' is not a readable image"),
    "a text file": (lambda w: load_image(w.folder / "text.png"), ValueError, "text.png' is not a readable image"),
    "a cut-off file": (lambda w: load_image(w.folder / "cut.png"), ValueError, "cut.png' is not a readable image"),
    "size 0": (lambda w: load_image(w.folder / "good.png", size=0), ValueError, "size 0: expected a whole number"),
    "size as text": (lambda w: load_image(w.folder / "good.png", size="32"), ValueError, "size '32': expected"),
    "resize_to below size": (
        lambda w: load_image(w.folder / "good.png", 32, resize_to=16),
        ValueError,
        "resize_to 16: expected a whole number from 32",
    ),
    "saved: a batch": (lambda w: save_image(w.folder / "x.png", w.images), ValueError, r"\(6, 3, 32, 32\): expected"),
    "saved: NaN": (lambda w: save_image(w.folder / "x.png", w.images[0] * NAN), ValueError, "NaN"),
    "saved: unknown kind of file": (
        lambda w: save_image(w.folder / "x.picture", w.images[0]),
        ValueError,
        r"x.picture'.*\.picture.*expected .*\.png",
    ),
    "saved: below a file": (lambda w: save_image(w.folder / "good.png" / "x.png", w.images[0]), OSError, "good.png"),
    "x is an array": (lambda w: Exemplar(w.images[0].numpy(), w.images[0], w.mask), TypeError, "ndarray: expected a"),
    "x is grey": (lambda w: Exemplar(w.images[0, :1], w.images[0], w.mask), ValueError, r"\(1, 32, 32\): expected"),
    "x in 8 bits": (
        lambda w: Exemplar((w.images[0] * 255).byte(), w.images[0], w.mask),
        TypeError,
        "uint8: expected float.*divide",
    ),
    "x up to 255": (lambda w: Exemplar(w.images[0] * 255, w.images[0], w.mask), ValueError, r"to 25\d.*: expected \[0"),
    "x' normalised": (
        lambda w: Exemplar(w.images[0], w.images[0] * 4 - 2, w.mask),
        ValueError,
        r"x' has pixels from -.*before any normalisation",
    ),
    "x and x' differ": (
        lambda w: Exemplar(w.images[0], w.images[0, :, 1:], w.mask),
        ValueError,
        r"\(3, 32, 32\), x' of \(3, 31, 32\)",
    ),
    "classified: one image": (lambda w: w.classifier(w.images[0]), ValueError, r"\(3, 32, 32\): expected.*\[None\]"),
    "classified: 8 bits": (lambda w: w.classifier((w.images * 255).byte()), TypeError, "uint8: expected float"),
    "classified: up to 255": (lambda w: w.classifier(w.images * 255), ValueError, r"to 25\d.*: expected \[0, 1\]"),
    "classified: NaN": (lambda w: w.classifier(w.images * NAN), ValueError, r"nan.*: expected \[0, 1\]"),
    "classified: an array": (lambda w: w.classifier(w.images.numpy()), TypeError, "ndarray: expected a torch tensor"),
    "lazily: a file that is gone": (
        lambda w: list(LabelledImages(LazyImages([w.folder / "gone.png"], 32), torch.zeros(1).long(), "ab").batches()),
        FileNotFoundError,
        "gone.png",
    ),
}

MASKS = {
    "no such file": (lambda w: load_mask(w.folder / "absent.png"), FileNotFoundError, "absent.png"),
    "a text file": (lambda w: load_mask(w.folder / "text.png"), ValueError, "text.png' is not a readable image"),
    "saved: greys": (lambda w: save_mask(w.folder / "m.png", w.images[0, 0]), ValueError, "expected 0 and 1 only"),
    "saved: three channels": (lambda w: save_mask(w.folder / "m.png", w.images[0]), ValueError, r"\(3, 32, 32\)"),
    "none": (lambda w: Exemplar(w.images[0], w.images[0], None), TypeError, "NoneType: expected a torch tensor"),
    "empty": (lambda w: Exemplar(w.images[0], w.images[0], w.mask * 0), ValueError, "mask is empty: expected at least"),
    "another size": (
        lambda w: Exemplar(w.images[0], w.images[0], torch.ones(16, 16)),
        ValueError,
        r"\(16, 16\) does not fit.*expected \(32, 32\)",
    ),
    "NaN": (lambda w: Exemplar(w.images[0], w.images[0], w.mask * NAN), ValueError, "nan.*expected 0 and 1"),
    "0 and 255": (lambda w: Exemplar(w.images[0], w.images[0], w.mask * 255), ValueError, "255.*expected 0 and 1 only"),
}

LABELS = {
    "a list": (lambda w: LabelledImages(w.images, [0] * 6, "abcde"), TypeError, "list: expected a torch tensor"),
    "floats": (lambda w: LabelledImages(w.images, torch.rand(6), "abcde"), TypeError, "float32: expected whole"),
    "too few": (lambda w: LabelledImages(w.images, w.labels[:4], "abcde"), ValueError, r"6 images.*\(4,\): expected"),
    "too high": (lambda w: LabelledImages(w.images, w.labels, "abc"), ValueError, "from 0 to 4: expected 0 to 2"),
    "negative": (lambda w: LabelledImages(w.images, w.labels - 1, "abcde"), ValueError, "from -1 to 3: expected 0"),
    "names too few": (lambda w: LabelledImages(w.images, w.labels, "abcde", ("a",)), ValueError, "6 images with 1"),
    "images as an array": (
        lambda w: LabelledImages(w.images.numpy(), w.labels, "abcde"),
        TypeError,
        "ndarray: expected a torch tensor",
    ),
    "images of one channel": (
        lambda w: LabelledImages(w.images[:, :1], w.labels, "abcde"),
        ValueError,
        r"\(6, 1, 32, 32\): expected \(N, 3, H, W\)",
    ),
    "split by 2": (lambda w: w.data.split(2), ValueError, "split fraction 2: expected a number between 0 and 1"),
    "batches of 0": (lambda w: next(w.data.batches(0)), ValueError, "batch size 0: expected a whole number from 1"),
    "subset out of range": (lambda w: w.data.subset([99]), IndexError, "99"),
    "a class index of another name": (lambda w: w.classifier.index("fox"), KeyError, "no class 'fox' among 5"),
    "a class index of a number": (lambda w: w.classifier.index(7), KeyError, "no class 7 among 5"),
}

LAYERS = {
    "a typo": (lambda w: Cut(w.classifier, "conv11"), KeyError, "'conv11' not found in TinyNet; did you mean 'conv1"),
    "nonsense": (lambda w: Cut(w.classifier, "xyz"), KeyError, "'xyz' not found.*see editable_layers"),
    "empty": (lambda w: Cut(w.classifier, ""), ValueError, "layer '' of TinyNet: its weight is not read"),
    "None": (lambda w: Cut(w.classifier, None), TypeError, "None is a NoneType: expected a name or a module"),
    "a number": (lambda w: Cut(w.classifier, 3), TypeError, "layer 3 is a int: expected a name or a module"),
    "a norm": (lambda w: Cut(w.classifier, "norm"), ValueError, "'norm' of TinyNet: its weight is read by batch_n"),
    "a module of another model": (lambda w: Cut(w.classifier, nn.Conv2d(3, 3, 1)), KeyError, "Conv2d is no layer of"),
    "grouped": (
        lambda w: Cut(w.classifier, "grouped"),
        ValueError,
        "'grouped' .* a convolution with 8 groups",
    ),
    "a forward pass that branches": (
        lambda w: Cut(Classifier(Branches(), list("abcde"), size=32), "head"),
        ValueError,
        "torch.export cannot read Branches: its forward pass branches on the values of tensors.*Expected",
    ),
    "layers of a model that branches": (
        lambda w: editable_layers(Classifier(Branches(), list("abcde"), size=32)),
        ValueError,
        "torch.export cannot read Branches: ",
    ),
    "a shared weight": (
        lambda w: Cut(Classifier(Tied(), list("abcde"), size=32), "one"),
        ValueError,
        "'one' of Tied: its weight is read 2 times",
    ),
    "one of several is a typo": (lambda w: cut_all(w.classifier, ["conv1", "conf2"]), KeyError, "'conf2' not found"),
    "cuts of two classifiers": (
        lambda w: prefixes([Cut(w.classifier, "conv1"), Cut(copy.deepcopy(w.classifier), "conv2")], w.images),
        ValueError,
        "cuts of several classifiers: expected",
    ),
    "a bare model is cut": (lambda w: Cut(w.classifier.model, "conv1"), TypeError, "TinyNet: expected .*Classifier"),
    "layers of a bare model": (lambda w: editable_layers(w.classifier.model), TypeError, "TinyNet: expected .*Classif"),
    "images too small for the layers": (
        lambda w: editable_layers(w.classifier, size=1),
        ValueError,
        "TinyNet fails on images of 1 × 1 pixels",
    ),
}

REWRITES = {
    "rank 0": (lambda w: w.rewrite(rank=0), ValueError, "rank 0: expected 1 to"),
    "rank -1": (lambda w: w.rewrite(rank=-1), ValueError, "rank -1: expected 1 to"),
    "rank 999": (lambda w: w.rewrite(rank=999), ValueError, "rank 999: expected 1 to 7"),
    "rank 1.5": (lambda w: w.rewrite(rank=1.5), ValueError, "rank 1.5: expected 1 to 7"),
    "rank as text": (lambda w: w.rewrite(rank="1"), ValueError, "rank '1': expected 1 to 7"),
    "an unknown objective": (lambda w: w.rewrite(objective="l2"), ValueError, "'l2': expected one of l1, least"),
    "no objective": (lambda w: w.rewrite(objective=None), ValueError, "objective None: expected one of"),
    "steps -1": (lambda w: w.rewrite(steps=-1), ValueError, "steps -1: expected a whole number from 0"),
    "a basis of another width": (
        lambda w: w.rewrite(basis=torch.eye(3)[:1]),
        ValueError,
        r"\(1, 3\): expected \(rank, 8",
    ),
    "a basis with NaN": (lambda w: w.rewrite(basis=torch.full((1, 8), NAN)), ValueError, "basis.*NaN"),
    "no exemplar": (lambda w: w.rewrite(exemplars=[]), ValueError, "no exemplar: expected at least one"),
    "a tensor as exemplar": (lambda w: w.rewrite(exemplars=w.images), TypeError, "Tensor is no Exemplar: expected"),
    "exemplars of two sizes": (
        lambda w: w.rewrite(exemplars=[w.exemplar, make_exemplar(size=24)]),
        ValueError,
        r"sizes \[\(24, 24\), \(32, 32\)\]: expected one size",
    ),
    "no reference": (lambda w: w.rewrite(reference=None), ValueError, "no reference images: expected"),
    "an empty reference": (lambda w: w.rewrite(reference=w.images[:0]), ValueError, "no reference images: expected"),
    "one image as reference": (lambda w: w.rewrite(reference=w.images[0]), ValueError, r"\(3, 32, 32\): expected"),
    "NaN in the reference": (lambda w: w.rewrite(reference=w.images * NAN), ValueError, r"nan.*expected \[0, 1\]"),
    "a path as reference": (lambda w: w.rewrite(reference="photos/"), TypeError, "str: expected a torch tensor"),
    "the moment of another layer": (
        lambda w: w.rewrite(reference=SecondMoment(torch.eye(5).double(), 9)),
        ValueError,
        r"second moment of 5 channels .* layer 'conv1': expected 8",
    ),
    "a moment that is no square": (lambda w: SecondMoment(torch.rand(3, 4), 9), ValueError, r"\(3, 4\): expected \(n"),
    "a moment with NaN": (lambda w: SecondMoment(torch.full((3, 3), NAN), 9), ValueError, "NaN"),
    "moments of no layer": (lambda w: second_moments(w.classifier, ["nope"], w.images), KeyError, "'nope' not found"),
    "moments of a bare model": (
        lambda w: second_moments(w.classifier.model, ["conv1"], w.images),
        TypeError,
        "TinyNet: expected .*Classifier",
    ),
    "moments in batches of 0": (
        lambda w: second_moments(w.classifier, ["conv1"], w.images, batch_size=0, cache=""),
        ValueError,
        "batch size 0: expected",
    ),
    "a bare model is rewritten": (
        lambda w: rewrite(w.classifier.model, "conv1", w.exemplar, w.images),
        TypeError,
        "TinyNet: expected .*Classifier",
    ),
    "fine-tuning: scope": (lambda w: w.finetune(scope="all"), ValueError, "scope 'all': expected one of local, global"),
    "fine-tuning: no label": (
        lambda w: w.finetune(exemplars=make_exemplar(label=None)),
        ValueError,
        r"without a label: .*label=",
    ),
    "fine-tuning: label too high": (
        lambda w: w.finetune(exemplars=make_exemplar(label=99)),
        ValueError,
        "label 99.*expected 0 to 4",
    ),
    "fine-tuning: label as text": (
        lambda w: w.finetune(exemplars=make_exemplar(label="ant")),
        ValueError,
        "label 'ant'.*expected 0 to 4",
    ),
    "fine-tuning: a tensor as exemplar": (lambda w: w.finetune(exemplars=w.images), TypeError, "Tensor is no Exemplar"),
    "fine-tuning: locality alone": (lambda w: w.finetune(locality=1.0), ValueError, "locality=1.0 without reference"),
    "fine-tuning: steps -2": (lambda w: w.finetune(steps=-2), ValueError, "steps -2: expected a whole number from 0"),
    "fine-tuning: no reference": (
        lambda w: w.finetune(locality=1.0, reference=w.images[:0]),
        ValueError,
        "0 images for the locality term",
    ),
    "fine-tuning: empty reference": (
        lambda w: w.finetune(locality=1.0, reference=[]),
        ValueError,
        "0 images for the locality term",
    ),
    "fine-tuning: rate NaN": (lambda w: w.finetune(rate=NAN), ValueError, "rate nan: expected a finite number from 0"),
    "fine-tuning: momentum 1": (
        lambda w: w.finetune(momentum=1.0),
        ValueError,
        "momentum 1.0: expected a number from 0",
    ),
    "fine-tuning: rate -1": (lambda w: w.finetune(rate=-1.0), ValueError, "rate -1.0: expected a finite number"),
}

EDITS = {
    "strength NaN": (lambda w: NAN * w.edit, ValueError, "strength nan: expected a finite number"),
    "strength infinite": (lambda w: w.edit * float("inf"), ValueError, "strength inf: expected a finite number"),
    "strength as text": (lambda w: w.edit * "half", ValueError, "strength 'half': expected a finite number"),
    "added: a number": (lambda w: w.edit + 1, TypeError, r"\+.*'Edit' and 'int'"),
    "added: of another model": (lambda w: w.edit + w.other, ValueError, "edits of two models .*: expected two"),
    "applied: to another model": (lambda w: w.other.apply_(w.classifier), ValueError, "same layers, other weights"),
    "applied: to another architecture": (lambda w: w.edit.apply_(nn.Linear(2, 2)), ValueError, "which Linear has not"),
    "applied: to no model": (lambda w: w.edit.apply_("model.pt"), TypeError, "str: expected"),
    "undone: never applied": (lambda w: w.edit.undo_(w.classifier), ValueError, "not applied to this TinyNet"),
    "empty": (lambda w: Edit({}, w.edit.fingerprint), ValueError, "no change: expected at least one"),
    "factors that do not fit": (
        lambda w: Change(torch.zeros(12, 2, 3, 3), torch.zeros(1, 8)),
        ValueError,
        r"\(12, 2, 3, 3\).*\(1, 8\)",
    ),
    "firing map of another layer": (
        lambda w: w.edit.firing_map(w.classifier, w.images[0], "stem"),
        KeyError,
        "does not change layer 'stem'; it changes conv1",
    ),
    "firing map of a batch": (lambda w: w.edit.firing_map(w.classifier, w.images), ValueError, r"\(6, 3, 32, 32\)"),
    "saved below a file": (lambda w: w.edit.save(w.folder / "good.png" / "e.safetensors"), OSError, "good.png"),
    "no such file": (lambda w: Edit.load(w.folder / "absent.safetensors"), FileNotFoundError, "absent.safetensors"),
    "a folder": (lambda w: Edit.load(w.folder), ValueError, "world' is no edit"),
    "a picture": (lambda w: Edit.load(w.folder / "good.png"), ValueError, "good.png' is no edit saved by"),
    "a pickle": (lambda w: Edit.load(w.folder / "pickle.safetensors"), ValueError, "pickle.safetensors' is no edit"),
    "an empty file": (lambda w: Edit.load(w.folder / "empty.png"), ValueError, "empty.png' is no edit saved by"),
    "of another format": (lambda w: Edit.load(_tampered(w, format="x")), ValueError, "'x', expected 'edittools edit"),
    "a header that lies": (lambda w: Edit.load(_tampered(w, numbers='{"a": [1, 2]}')), ValueError, "no edit.*a/left"),
    "a header of another kind": (lambda w: Edit.load(_tampered(w, numbers="[1]")), ValueError, "is no edit saved"),
    "a record of another kind": (lambda w: Edit.load(_tampered(w, record='{"a": 1}')), ValueError, "is no edit.*'a'"),
    "no fingerprint": (lambda w: Edit.load(_tampered(w, fingerprint=None)), ValueError, "is no edit.*fingerprint"),
    "loaded for another model": (
        lambda w: Edit.load(w.folder / "other.safetensors", w.classifier),
        ValueError,
        "fingerprint .* this TinyNet has",
    ),
}

MODELS = {
    "no module": (lambda w: Classifier("resnet.pt", "ab"), TypeError, "model is a str: expected a torch.nn.Module"),
    "no class": (lambda w: Classifier(TinyNet(), ()), ValueError, "no class names: expected one"),
    "class names as one text": (lambda w: Classifier(TinyNet(), "ant, bee"), ValueError, "'ant, bee'.*expected"),
    "two means": (
        lambda w: Classifier(TinyNet(), list("abcde"), mean=(0, 1)),
        ValueError,
        r"mean \(0, 1\).*expected three",
    ),
    "std 0": (
        lambda w: Classifier(TinyNet(), list("abcde"), std=(1, 1, 0)),
        ValueError,
        "std .*expected three.*above 0",
    ),
    "std NaN": (
        lambda w: Classifier(TinyNet(), list("abcde"), std=(1, NAN, 1)),
        ValueError,
        "std .*expected three.*above 0",
    ),
    "size 0": (
        lambda w: Classifier(TinyNet(), list("abcde"), size=0),
        ValueError,
        "size 0: expected a whole number from 1",
    ),
    "fewer names than logits": (
        lambda w: Classifier(TinyNet(), list("abc"), size=32)(w.images),
        ValueError,
        r"logits of shape \(6, 5\): expected \(6, 3\)",
    ),
    "a model that gives a dictionary": (
        lambda w: Classifier(nn.ModuleDict({"a": TinyNet()}), list("abcde"))(w.images),
        (TypeError, NotImplementedError),
        "forward|dict",
    ),
    "an unknown name": (lambda w: load_classifier("mini_vg"), KeyError, "'mini_vg'; did you mean 'mini_vgg'.*known"),
    "None": (lambda w: load_classifier(None), KeyError, "no classifier None; known"),
    "an unknown device": (lambda w: load_classifier("mini_vgg", device="tpu9"), RuntimeError, "tpu9"),
    "an unknown option": (lambda w: load_classifier("mini_vgg", pretrained=True), TypeError, "pretrained"),
    "weights that are not there": (
        lambda w: load_classifier("resnet18_places365", weights=w.folder / "absent.tar"),
        FileNotFoundError,
        "absent.tar.*weights=that file",
    ),
    "predictions of a bare model": (
        lambda w: metrics.predict(w.classifier.model, w.images),
        TypeError,
        "TinyNet: expected .*Classifier",
    ),
    "predictions in batches of -1": (
        lambda w: metrics.predict(w.classifier, w.images, -1),
        ValueError,
        "batch size -1: expected",
    ),
    "predictions of no image": (lambda w: len(metrics.predict(w.classifier, w.images[:0])), _is(0), RIGHT),
}

METRICS = {
    "labels too few": (lambda w: metrics.errors(torch.rand(3, 5), w.labels), ValueError, "3 predictions for 6 labels"),
    "more than all": (lambda w: metrics.wilson(5, 4), ValueError, "5 of 4: expected a count between"),
    "a confidence of 95": (lambda w: metrics.wilson(1, 4, 95), ValueError, "95|confidence"),
    "counts below 0": (lambda w: metrics.mcnemar(-1, 3), ValueError, "-1.*expected"),
    "of two lengths": (
        lambda w: metrics.Comparison(torch.zeros(3).bool(), torch.zeros(4).bool()),
        ValueError,
        r"\(3,\).*\(4,\): expected",
    ),
    "errors corrected of two lengths": (
        lambda w: metrics.errors_corrected(torch.zeros(3).bool(), torch.zeros(4).bool()),
        ValueError,
        r"\(3,\).*\(4,\): expected",
    ),
    "nothing wrong before": (
        lambda w: str(metrics.errors_corrected(torch.zeros(3).bool(), torch.zeros(3).bool())),
        _is("nan"),
        RIGHT,
    ),
    "kept: an edit of another layer": (
        lambda w: benchmark.CachedStates(cut_all(w.classifier, ["conv2"]), w.data).logits(w.edit),
        KeyError,
        "changes none of the layers kept here: conv2",
    ),
    "kept: no layer": (lambda w: benchmark.CachedStates({}, w.data), ValueError, "at no layer: expected"),
    "prepared: a typo": (
        lambda w: benchmark.cache_states(w.classifier, ["conv9"], a=w.data),
        KeyError,
        "'conv9' not found",
    ),
    "selected from no trial": (
        lambda w: select(sweep([], w.kept()), w.kept()),
        ValueError,
        "no trial: expected",
    ),
}

PHOTOS = {
    "unknown": (lambda w: photos.photo("x.jpg"), KeyError, "no photo 'x.jpg' in data/registry.txt"),
    "a path that climbs": (lambda w: photos.photo("../../etc/passwd"), KeyError, "no photo '../../etc/passwd' in"),
    "a registered path that climbs": (
        lambda w: (w.register("../../climbed.jpg"), photos.photo("../../climbed.jpg")),
        ValueError,
        "'../../climbed.jpg'.*expected a path below",
    ),
    "a registered absolute path": (
        lambda w: (w.register("/absolute.jpg"), photos.photo("/absolute.jpg")),
        ValueError,
        "'/absolute.jpg'.*expected a path below",
    ),
    "a folder that is not there": (
        lambda w: w.environment("EDITTOOLS_PHOTOS", "/no/such", photos.offline_folder),
        FileNotFoundError,
        "'/no/such' is no folder.*absolute",
    ),
    "a photo the folder has not": (
        lambda w: w.environment("EDITTOOLS_PHOTOS", w.folder, lambda: photos.photo(min(photos.registry()))),
        FileNotFoundError,
        "is not in EDITTOOLS_PHOTOS=.*it comes from https://",
    ),
    "a word that fits many": (lambda w: photos.sample_photo("n0"), KeyError, r"'n0' fits \d+ sample photos: expected"),
    "a validation folder that is none": (
        lambda w: photos.validation_folder(w.folder / "val", w.classifier),
        FileNotFoundError,
        "val' does not exist: expected one subfolder a class",
    ),
    "a validation folder of other classes": (
        lambda w: photos.validation_folder(w.folder, w.classifier),
        ValueError,
        "has 0 subfolders: expected 5",
    ),
    "no photo there": (
        lambda w: w.environment("EDITTOOLS_PHOTOS", w.folder, lambda: photos.snow_photos(w.classifier)),
        FileNotFoundError,
        "no photo.*snow",
    ),
}

TIERS = {
    "an unknown tier in the environment": (
        lambda w: w.environment("EDITTOOLS_TIER", "huge", stories.current_tier),
        ValueError,
        "EDITTOOLS_TIER='huge': expected one of mini, lite, paper",
    ),
    "an unknown tier": (lambda w: stories.snow_scenario("tiny"), ValueError, "tier 'tiny': expected one of mini"),
    "an unknown model": (lambda w: stories.snow_scenario("mini", "vgg"), KeyError, "no classifier 'vgg'.*known"),
    "no share": (lambda w: stories.snow_scenario("mini", share=0), ValueError, "share 0: expected a number above 0"),
    "a share of 2": (
        lambda w: stories.typographic_scenario("mini", share=2),
        ValueError,
        "share 2: expected .* most 1",
    ),
}

WORLD = {
    "an unknown class": (lambda w: miniworld.scene(0, label="dragon"), KeyError, "no sketch of 'dragon': expected"),
    "an unknown ground": (lambda w: miniworld.scene(0, ground="lava"), KeyError, "no ground 'lava': expected one of"),
    "size 0": (lambda w: miniworld.scene(0, size=0), ValueError, "size 0: expected a whole number from"),
    "a seed below 0": (lambda w: miniworld.scene(-1), ValueError, "seed -1: expected a whole number from 0"),
    "an unknown split": (lambda w: miniworld.scenes(2, "dev"), KeyError, "no split 'dev': expected one of train"),
    "no scene": (lambda w: miniworld.scenes(0), ValueError, "count 0: expected a whole number from 1"),
    "labels too few": (lambda w: miniworld.scenes(3, label=["car"]), ValueError, "1 labels for 3 scenes: expected"),
    "an unknown concept": (lambda w: miniworld.scenes(1).mask("lava"), KeyError, "no concept 'lava': expected one of"),
    "an unknown style": (lambda w: styles.texture("lava"), KeyError, "no style 'lava': expected one of snow"),
    "variant 9": (lambda w: styles.texture("snow", 9), ValueError, "variant 9 of style 'snow': expected 0 to 5"),
    "a texture of size 0": (lambda w: styles.texture("snow", 0, 0), ValueError, "size 0: expected a whole number"),
    "a mask that does not fit": (
        lambda w: styles.restyle(w.images[0], torch.ones(3, 3), "snow"),
        ValueError,
        r"\(3, 3\) does not fit",
    ),
    "a texture up to 255": (
        lambda w: styles.paste_texture(w.images[0], w.mask, w.images[1] * 255),
        ValueError,
        r"texture has pixels.*expected \[0, 1\]",
    ),
}

WIDGETS = {
    "saved as .jpg": (
        lambda w: MaskEditor(w.images[0]).save(w.folder / "m.jpg"),
        ValueError,
        "m.jpg': expected.*png or .json",
    ),
    "loaded: no COCO": (
        lambda w: MaskEditor(w.images[0]).load(w.folder / "bad.json"),
        ValueError,
        "expected COCO run lengths",
    ),
    "predictions: a foreign edit": (
        lambda w: PredictionView(w.classifier, w.images[0], w.other),
        ValueError,
        "same layers, other weights",
    ),
    "slider: no strength": (lambda w: alpha_slider(w.classifier, w.edit, w.images[0], []), ValueError, r"\[\]: exp"),
    "slider: NaN": (lambda w: alpha_slider(w.classifier, w.edit, w.images[0], [NAN]), ValueError, "nan.*: expected"),
}

JOBS = {
    "a store that is a picture": (lambda w: jobs.run(len, {"a": "a"}, w.folder / "good.png"), OSError, "good.png"),
    "a store below a file": (lambda w: jobs.run(len, {"a": "a"}, w.folder / "good.png" / "s"), OSError, "good.png"),
    "rows that are no mappings": (lambda w: jobs.run(lambda job: [job], {"a": 1}), TypeError, "int"),
}

GROUPS = {
    "images": IMAGES,
    "masks": MASKS,
    "labels": LABELS,
    "layers": LAYERS,
    "rewriting": REWRITES,
    "edits": EDITS,
    "models": MODELS,
    "metrics": METRICS,
    "photos": PHOTOS,
    "tiers": TIERS,
    "world": WORLD,
    "widgets": WIDGETS,
    "jobs": JOBS,
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
    Image.fromarray(np.arange(40 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 40, 3)).save(
        folder / "good.png"
    )
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "text.json").write_text("no json")
    (folder / "bad.json").write_text('{"a": 1}')
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))


@pytest.fixture(scope="module")
def made():
    """A classifier and an edit of it, another classifier's edit, and an exemplar: made once, copied for each case."""
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "dog", "elk"), size=32)
    other = Classifier(TinyNet(), list("abcde"), size=32)
    exemplar, moment = make_exemplar(), SecondMoment(torch.eye(8).double(), 9)
    edits = [rewrite(c, "conv1", exemplar, moment, objective="least_squares") for c in (classifier, other)]
    return classifier, exemplar, *edits


@pytest.fixture
def world(tmp_path, monkeypatch, made):
    """What the cases work on: a classifier in a mixture of modes, an edit of it and one of another, and files."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDITTOOLS_PHOTOS", raising=False)
    _write_files(tmp_path / "world")
    (tmp_path / "aside").mkdir()
    classifier, exemplar, edit, other = made
    classifier = copy.deepcopy(classifier)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def environment(name, value, call):
        monkeypatch.setenv(name, str(value))
        return call()

    w = SimpleNamespace(
        folder=tmp_path / "world",
        aside=tmp_path / "aside",
        classifier=classifier,
        exemplar=exemplar,
        mask=exemplar.mask,
        images=images,
        labels=torch.tensor([0, 1, 2, 3, 4, 0]),
        environment=environment,
        register=lambda name: monkeypatch.setattr(
            downloads, "registry", lambda: {name: ("0" * 64, "http://127.0.0.1:9")}
        ),
        edit=edit,
        other=other,
    )
    w.data = LabelledImages(images, w.labels, classifier.classes)
    w.kept = lambda: benchmark.CachedStates(cut_all(classifier, ["conv1"]), w.data)
    w.rewrite = lambda exemplars=exemplar, reference=images, **options: rewrite(
        classifier, "conv1", exemplars, reference, **{"steps": 1} | options
    )
    w.finetune = lambda exemplars=exemplar, **options: finetune(classifier, "conv1", exemplars, **options)
    w.edit.save(w.folder / "edit.safetensors")
    w.other.save(w.folder / "other.safetensors")
    classifier.model.norm.train()
    classifier.model.stem.weight.requires_grad_(False)
    return w


@pytest.mark.parametrize("what", CASES)
def test_a_bad_input_is_refused_clearly_or_handled_and_changes_nothing(what, world):
    call, error, says = CASES[what]
    model, files = _state(world.classifier), _files(world.folder)
    if says == RIGHT:
        assert call(world) == error
    else:
        with pytest.raises(error, match=f"(?s){says}"):
            call(world)
    assert _state(world.classifier) == model
    assert _files(world.folder) == files


def test_the_number_of_bad_inputs(capsys, record_property):
    counts = {group: len(cases) for group, cases in GROUPS.items()}
    record_property("bad inputs", sum(counts.values()))
    with capsys.disabled():
        print(f"\n{sum(counts.values())} bad inputs: {', '.join(f'{n} {group}' for group, n in counts.items())}")
    assert len(CASES) == sum(counts.values()) >= 60
