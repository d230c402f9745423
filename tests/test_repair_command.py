"""`edittools repair`: from an exemplar and folders to an edit, its weights, and a report; wrong input in one line."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import save_image
from safetensors.torch import load_file

import edittools as et
from edittools.auditing import from_files
from edittools.auditing.from_files import load_exemplar, repair_from_files, write_repair
from edittools.cli import main
from edittools.folders import read_folder
from edittools.images import LazyImages
from edittools_course.miniworld.scenes import scenes

VEHICLES = ("car", "van", "bus", "truck")
RESULTS = {"report.html", "report.json", "edit.safetensors", "weights.safetensors"}


def with_mark(image):
    """Draw a yellow square on an image; return it with its mask."""
    mask = torch.zeros(64, 64)
    mask[40:58, 4:22] = 1
    yellow = torch.tensor([0.97, 0.84, 0.09])[:, None, None]
    return torch.where(mask > 0, yellow, image), mask


def write_folder(root, offset, per_class, marked=False):
    """Write rendered scenes in one subfolder per class."""
    names = list(VEHICLES) * per_class
    rendered = scenes(len(names), offset, names, ground="road")
    for number, name in enumerate(names):
        image = rendered.images[number]
        save_image(root / name / f"{number:03}.png", with_mark(image)[0] if marked else image)
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders of ordinary images, whose names are no classes, and of labeled ones; and the files of an exemplar."""
    root = tmp_path_factory.mktemp("files")
    ordinary = scenes(64, 700_000, list(VEHICLES) * 16, ground="road").images
    for number, image in enumerate(ordinary):
        save_image(root / "ordinary" / f"day {number % 2}" / f"{number:03}.png", image)
    (root / "ordinary" / "broken.png").write_text("no image")
    write_folder(root / "concept", 710_000, 3, marked=True)
    write_folder(root / "clean", 720_000, 6)
    [image] = scenes(1, 730_000, ["car"], ground="road").images
    changed, mask = with_mark(image)
    for name, picture in {"x": image, "changed": changed, "mask": mask.expand(3, -1, -1)}.items():
        save_image(root / f"{name}.png", picture)
    save_image(root / "small.png", mask[:32].expand(3, -1, -1))
    return root


def command(files, out, *more):
    exemplar = [str(files / f"{name}.png") for name in ("x", "changed", "mask")]
    sets = ["--concept", str(files / "concept"), "--clean", str(files / "clean")]
    return [
        "repair",
        str(files / "ordinary"),
        "--model",
        "mini_vgg",
        "--exemplar",
        *exemplar,
        *sets,
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture(scope="module")
def fix(files):
    """The assessment of a repair from files."""
    classifier = et.load_classifier("mini_vgg")
    exemplar = load_exemplar(files / "x.png", files / "changed.png", files / "mask.png", classifier)
    sets = {"concept": files / "concept", "clean": files / "clean"}
    return repair_from_files(files / "ordinary", classifier, exemplar, **sets, progress=None)


def with_verdict(fix, word):
    """Return the assessment with another verdict."""
    changed = replace(fix)
    vars(changed)["verdict"] = replace(fix.verdict, word=word)
    return changed


def read_data(folder):
    return json.loads((folder / "report.json").read_text())


def test_main_repair_writes_edit_weights_and_report_with_digests(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(files, out)) == 0
    printed = capsys.readouterr()
    assert "broken.png" in printed.err and printed.out.startswith(("use", "unclear", "do not use"))
    data = read_data(out)
    assert data["selected_by"] == "hosts"
    images = data["fingerprints"]["images"]
    assert (images["ordinary"]["count"], images["concept"]["count"], images["clean"]["count"]) == (64, 12, 24)
    classifier = et.load_classifier("mini_vgg")
    edit = et.Edit.load(out / "edit.safetensors", classifier)
    assert edit.digest == data["fingerprints"]["edit"] and edit.verdict.startswith(data["verdict"]["word"])
    assert (out / "weights.safetensors").exists() == (data["verdict"]["word"] != "do not use")


@pytest.mark.parametrize(("word", "code"), [("use", 0), ("unclear", 3), ("do not use", 3), ("fine-tune instead", 3)])
def test_main_repair_that_requires_use_exits_with_3_otherwise(files, fix, tmp_path, monkeypatch, word, code):
    monkeypatch.setattr(from_files, "repair", lambda *_, **__: with_verdict(fix, word))
    assert main(command(files, tmp_path / "out", "--require", "use")) == code
    assert read_data(tmp_path / "out")["verdict"]["word"] == word
    assert main(command(files, tmp_path / "again")) == 0


def test_write_repair_writes_the_edited_weights_unless_the_verdict_forbids_it(fix, tmp_path):
    written = {path.name for path in write_repair(with_verdict(fix, "unclear"), tmp_path / "out")}
    assert written == RESULTS
    plain = et.load_classifier("mini_vgg")
    plain.model.load_state_dict(load_file(tmp_path / "out" / "weights.safetensors"))
    images = torch.rand(4, 3, 64, 64)
    assert torch.equal(et.predict(plain, images), et.predict(fix.edit.edited(fix.classifier), images))
    refused = write_repair(with_verdict(fix, "do not use"), tmp_path / "refused")
    assert {path.name for path in refused} == RESULTS - {"weights.safetensors"}


def test_write_repair_needs_a_new_or_an_empty_folder_or_to_be_told_to_replace(fix, tmp_path):
    write_repair(with_verdict(fix, "unclear"), tmp_path)
    (tmp_path / "mine.txt").write_text("notes")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="not empty"):
        write_repair(with_verdict(fix, "use"), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_repair(with_verdict(fix, "use"), tmp_path, overwrite=True)
    assert read_data(tmp_path)["verdict"]["word"] == "use" and (tmp_path / "mine.txt").read_text() == "notes"


def test_main_repair_that_is_interrupted_keeps_earlier_results(files, fix, tmp_path, monkeypatch):
    write_repair(fix, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(from_files, "repair", interrupted)
    assert main(command(files, tmp_path, "--force")) == 130
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_repair_from_files_holds_no_set_in_memory(fix):
    sets = [fix.splits.images, fix.splits.concept.images, fix.splits.clean.images]
    assert all(isinstance(images, LazyImages) for images in sets)


def test_read_folder_lazily_holds_the_same_images(files):
    classifier = et.load_classifier("mini_vgg")
    loaded, _ = read_folder(files / "clean", classifier)
    lazy, _ = read_folder(files / "clean", classifier, lazy=True)
    assert torch.equal(lazy.images[:], loaded.images) and torch.equal(lazy.labels, loaded.labels)
    assert lazy.names == loaded.names


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"ordinary": "nowhere"}, "nowhere"),
        ({"mask": "missing.png"}, "missing.png"),
        ({"mask": "small.png"}, "32"),
        ({"concept": "empty"}, "empty"),
    ],
)
def test_main_repair_with_wrong_files_is_one_line(files, tmp_path, capsys, change, quoted):
    (files / "empty").mkdir(exist_ok=True)
    arguments = command(files, tmp_path / "out")
    for old, new in change.items():
        old_path = str(files / (f"{old}.png" if new.endswith(".png") else old))
        arguments = [str(files / new) if argument == old_path else argument for argument in arguments]
    assert main(arguments) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edittools:")]
    assert quoted in line


def test_main_repair_replaces_no_file_of_other_origin_without_force(files, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    assert main(command(files, tmp_path)) == 2
    assert "--force" in capsys.readouterr().err and (tmp_path / "report.html").read_text() == "mine"


def test_empty_mask_is_named(tmp_path):
    classifier = et.load_classifier("mini_vgg")
    for name in ("x", "changed"):
        save_image(tmp_path / f"{name}.png", torch.rand(3, classifier.size, classifier.size))
    save_image(tmp_path / "mask.png", torch.zeros(1, classifier.size, classifier.size))
    with pytest.raises(ValueError, match=r"mask\.png.* is empty"):
        load_exemplar(tmp_path / "x.png", tmp_path / "changed.png", tmp_path / "mask.png", classifier)
