"""`edittools audit`: from a folder to a report; the masks and models that it takes; wrong input."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import calibration
import numpy as np
import pandas as pd
import pytest
import torch
from _lib.striped import backgrounds, plain_network
from conftest import TinyNet, needs_photos, save_image
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import edittools as et
from edittools.auditing import audit_concepts, load_model, read_masks, steps
from edittools.auditing.concepts import concepts_to_probe, finding_if_it_misleads, finding_if_missed, masks_check
from edittools.auditing.direction import Errors, count_errors
from edittools.auditing.result import write_table
from edittools.auditing.sheet import NOT_SEEN
from edittools.auditing.written import staging
from edittools.classifiers import fingerprint
from edittools.cli import main
from edittools.image_files import fit_mask, load_image, load_mask
from edittools.images import LabelledImages, pixels_of
from edittools.probing.coco import decode_segmentation
from edittools.probing.probe import probe
from edittools.probing.textures import texture
from edittools.scenes import first_of_each, scenes_of
from edittools.selection.verdict import Check, verdict_of
from edittools_course.scenarios.tiers import SceneSet


def write_scenes(root, count=80, classes=("car", "van", "bus", "truck"), ground="road", offset=500_000):
    """Write rendered scenes in one subfolder per class, with the masks of their ground in CONCEPT/CLASS/NAME.png."""
    scenes = SceneSet(count, "validation", offset, classes, ground).render()
    masks = scenes.mask(ground)
    for number in range(count):
        name = f"{scenes.classes[int(scenes.labels[number])]}/{number:03}.png"
        for folder in (root / "images", root / "masks" / ground):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(root / "images" / name, scenes.images[number])
        et.save_mask(root / "masks" / ground / name, masks[number])
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = write_scenes(tmp_path_factory.mktemp("scenes"), count=112)
    save_image(root / "snow.png", texture("snow", 0, 64))
    return root


@pytest.fixture(scope="module")
def audited(scenes, tmp_path_factory):
    """The output folder of the command on rendered scenes, and what it printed."""
    out = tmp_path_factory.mktemp("out")
    arguments = ["audit", scenes / "images", "--model", "mini_vgg", "--masks", scenes / "masks"]
    arguments += ["--material", scenes / "snow.png", "--concept-is-missed", "--out", out]
    command = [sys.executable, "-m", "edittools.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_audit_of_rendered_scenes_finds_the_planted_rule_and_repairs_it(audited):
    out, printed = audited
    rules = pd.read_csv(out / "rules.csv")
    found = rules[rules.significant]
    assert set(found["concept"]) == {"road"} and set(found["material"]) == {"snow"}
    assert "van" in set(found["class"])
    page = (out / "report.html").read_text()
    assert "What was probed" in page and "data:image/png" in page
    assert printed.splitlines()[0].startswith("112 images of 4 classes")
    assert page.index('class="et-sheet"') < page.index("What was probed")
    assert set(pd.read_csv(out / "windows.csv")["class"]) == {"car", "van", "bus", "truck"}
    edit = et.Edit.load(out / "edit.safetensors")
    classifier = et.load_classifier("mini_vgg")
    vans = SceneSet(60, "test", 700_000, ("van",), "snow").render()
    before = et.misclassified(et.predict(classifier, vans), vans.labels)
    with edit.applied(classifier):
        after = et.misclassified(et.predict(classifier, vans), vans.labels)
    assert int(after.sum()) < 0.75 * int(before.sum())


def test_audit_goes_on_from_finished_parts(audited, scenes):
    out, _ = audited
    finished = {path: path.stat().st_mtime_ns for path in (out / "parts").rglob("*.json")}
    assert finished
    settings = {
        "masks": scenes / "masks",
        "material": scenes / "snow.png",
        "layers": ["features.10"],
        "direction": "missed",
    }
    audit = audit_concepts(scenes / "images", et.load_classifier("mini_vgg"), out=out, progress=None, **settings)
    assert audit.is_rule and "edit.safetensors" in {path.name for path in audit.write(out)}
    assert {path: path.stat().st_mtime_ns for path in (out / "parts").rglob("*.json")} == finished


class Bands(nn.Module):
    """The middle of an image shows its class by its color; the lower quarter lowers the logit of each class."""

    def __init__(self, lowered):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.linear = nn.Linear(6, 3)
        weights = torch.cat([8 * torch.eye(3), -torch.diag(torch.tensor(lowered))], dim=1)
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] = torch.eye(3)
            self.conv.bias.zero_()
            self.linear.weight.copy_(weights)
            self.linear.bias.zero_()

    def forward(self, images):
        features = self.conv(images).relu()
        middle = features[:, :, 8:24].mean(dim=(2, 3))
        below = features[:, :, 24:].mean(dim=(2, 3))
        return self.linear(torch.cat([middle, below], dim=1))


def bands(classes=("car", "bus", "cat"), lowered=(5.0, 14.0, 0.0)):
    return et.Classifier(Bands(lowered), classes, (0, 0, 0), (1, 1, 1), 32, 32)


def raising_bands():
    """A model whose class "car" gains where the road gets brighter."""
    return bands(lowered=(-3.0, 0.0, 0.0))


def background(generator):
    """A dark image; its upper quarter, which no model sees, makes it a scene of its own."""
    image = torch.rand(3, 32, 32, generator=generator) / 4
    image[:, :8] = torch.rand(3, 2, 8, generator=generator).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    return image


def write_bands(root, classes=("car", "bus", "cat"), masks_of=lambda number: ("road",), count=10, clean=102):
    """Write images of each class with masks of the lower quarter, a flat material, and clean images; none fails."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(32, 32)
    mask[24:] = 1

    def image_of(place):
        image = background(generator)
        image[place, 8:24] = 0.6 + torch.rand(16, 32, generator=generator) / 5
        image[:, 24:] = torch.rand(3, 8, 32, generator=generator) / 5
        return image

    for place, name in enumerate(classes):
        for number in range(count):
            save_image(root / "images" / name / f"{name}{number}.png", image_of(place))
            for concept in masks_of(number):
                et.save_mask(root / "masks" / concept / name / f"{name}{number}.png", mask)
    for number in range(clean):
        place = number % len(classes)
        save_image(root / "clean" / classes[place] / f"{number}.png", image_of(place))
    save_image(root / "snow.png", torch.full((3, 32, 32), 0.9))
    sets = {"masks": root / "masks", "material": root / "snow.png", "clean": root / "clean"}
    return {**sets, "layers": ["conv"], "direction": "missed", "progress": None}


def test_audit_repairs_the_strongest_rule(tmp_path):
    settings = write_bands(tmp_path)
    audit = audit_concepts(tmp_path / "images", bands(), **settings)
    assert audit.rules["class"].tolist() == ["bus", "car"]
    assert audit.rule["class"] == "bus" and audit.fix is not None


def read_data(folder):
    return json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_audit_writes_the_data_of_its_report(tmp_path):
    settings = write_bands(tmp_path, masks_of=lambda number: ("road", "aeroplane") if number == 0 else ("road",))
    classifier = bands()
    audit = audit_concepts(tmp_path / "images", classifier, **settings)
    audit.write(tmp_path / "out")
    data = read_data(tmp_path / "out")
    assert data["verdict"]["word"] == audit.fix.verdict.word
    assert [rule["class"] for rule in data["rules"]] == audit.rules["class"].tolist()
    assert [rule["effect"] for rule in data["rules"]] == audit.rules["effect"].tolist()
    assert [rule["significant"] for rule in data["rules"]] == audit.rules["significant"].tolist()
    assert [tuple(rule["evidence"]) for rule in data["rules"]] == audit.rules["evidence"].tolist()
    assert data["concepts"] == {"road": 30} and data["rare"] == audit.rare == {"aeroplane": 3}
    assert data["settings"]["control"] == audit.probe.control and data["settings"]["materials"] == {"snow": 1}
    assert data["fingerprints"]["weights"] == fingerprint(classifier.model) == audit.fix.edit.fingerprint
    assert data["fingerprints"]["images"]["audited"]["count"] == 30
    times = {"created": None}
    assert data["repair"] | times == audit.fix.report_data(data["title"]) | times
    assert [check["status"] for check in data["repair"]["checks"]] == [check.status for check in audit.fix.checks]


def test_audit_without_a_repair_writes_the_data_of_its_report(tmp_path):
    settings = write_bands(tmp_path)
    audit = audit_concepts(tmp_path / "images", bands(lowered=(0.3, 0.0, 0.0)), **settings)
    audit.write(tmp_path / "out")
    data = read_data(tmp_path / "out")
    assert data["repair"] is None and data["verdict"]["word"] == "no rule found"
    assert [rule["significant"] for rule in data["rules"]] == [False] * len(audit.rules)
    assert len(audit.rules) and audit.fix is None
    assert pictures_above_the_verdict((tmp_path / "out" / "report.html").read_text()) == 3 + 6


def test_concepts_to_probe_objects_by_name():
    names = ("Car", "sports car, sport car", "School_bus", "tench, Tinca tinca", "carton")
    classifier = et.Classifier(TinyNet(), names, size=32)
    data = LabelledImages(torch.rand(6, 3, 32, 32), torch.zeros(6, dtype=torch.long), names)
    masks = dict.fromkeys(("car", "school bus", "Tinca_tinca", "road"), torch.ones(6, 32, 32))
    concepts, _ = concepts_to_probe(data, masks, classifier)
    assert dict(concepts.objects) == {
        "car": ["Car", "sports car, sport car", "School_bus"],
        "school bus": ["School_bus"],
        "Tinca_tinca": ["tench, Tinca tinca"],
    }


def test_audit_object_is_no_rule(tmp_path):
    settings = write_bands(tmp_path, classes=("Car", "Bus", "Cat"), masks_of=lambda number: ("car", "bus", "cat"))
    audit = audit_concepts(tmp_path / "images", bands(("Car", "Bus", "Cat")), **settings)
    assert set(audit.rules["concept"]) == {"car", "bus", "cat"}
    assert all(rule["class"].lower() != rule["concept"] for _, rule in audit.rules.iterrows())


def test_main_audit_without_any_effect(tmp_path, capsys):
    settings = write_bands(tmp_path, classes=("car",))
    arguments = ["audit", tmp_path / "images", "--model", f"{__file__}:raising_bands", "--masks", settings["masks"]]
    arguments += ["--material", settings["material"], "--out", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "No rule was found" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no rule found" in page and "0.05" in page and "hundreds" in page
    assert pd.read_csv(tmp_path / "out" / "rules.csv").empty


def test_audit_without_a_rule_lists_what_was_looked_for(tmp_path):
    def masks_of(number):
        rare = {0: ("aeroplane",), 1: ("dog",), 2: ("dog",), 3: ("snow",), 4: ("snow",)}
        return ("road", *rare.get(number, ()))

    settings = write_bands(tmp_path, masks_of=masks_of)
    audit = audit_concepts(tmp_path / "images", bands(lowered=(0.3, 0.0, 0.0)), **settings)
    assert not audit.is_rule and list(audit.tested) == ["road"]
    assert set(audit.not_looked_for()) == {"aeroplane", "dog", "snow"}
    assert "material" in audit.not_looked_for()["snow"]
    lines = audit.summary().splitlines()
    [looked_for] = [line for line in lines if line.startswith("Looked for")]
    [not_looked_for] = [line for line in lines if line.startswith("Not looked for")]
    assert "road" in looked_for and "dog" not in looked_for
    assert all(concept in not_looked_for for concept in ("aeroplane", "dog", "snow", "--masks"))
    data = audit.report_data()
    assert data["looked_for"] == ["road"] and set(data["not_looked_for"]) == {"aeroplane", "dog", "snow"}


def test_audit_with_masks_of_the_material(tmp_path):
    settings = write_bands(tmp_path, masks_of=lambda number: ("road",) if number < 5 else ("snow",))
    audit = audit_concepts(tmp_path / "images", bands(), **settings)
    assert set(audit.probe.table["concept"]) == {"road"} and set(audit.concepts.masks) == {"road", "snow"}
    assert audit.rule["class"] == "bus"
    [retained] = audit.fix.splits.retain.values()
    shows_road = audit.concepts.masks["road"].flatten(1).any(dim=1)
    assert len(retained) > 1 and not {*retained.names} & {*audit.data.subset(shows_road).names}
    shutil.rmtree(tmp_path / "masks" / "road")
    with pytest.raises(ValueError, match="'snow'"):
        audit_concepts(tmp_path / "images", bands(), **settings)


def test_write_replaces_what_an_audit_wrote_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    first = audit_concepts(tmp_path / "images", bands(), out=out, **write_bands(tmp_path))
    (out / "mine.txt").write_text("notes")
    written = {path.name for path in first.write(out)}
    assert written == {"windows.csv", "rules.csv", "report.html", "report.json", "edit.safetensors"}
    parts = set((out / "parts").rglob("*"))
    second = audit_concepts(tmp_path / "images", raising_bands(), out=out, **write_bands(tmp_path))
    assert written | {".audit.json", "parts", "mine.txt"} == {path.name for path in out.iterdir()}
    second.write(out)  # without a repair
    kept = {"windows.csv", "rules.csv", "report.html", "report.json"}
    assert kept | {".audit.json", "parts", "mine.txt"} == {path.name for path in out.iterdir()}
    assert parts and parts <= set((out / "parts").rglob("*"))
    (out / "edit.safetensors").write_bytes(b"an edit")
    (out / "rules.csv").write_text("changed")
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=r"rules\.csv.*edit\.safetensors") as caught:
        second.write(out)
    assert "report" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    second.write(out, overwrite=True)
    assert (out / "rules.csv").read_text() != "changed" and (out / "edit.safetensors").read_bytes() == b"an edit"


def test_write_that_is_killed_loses_nothing(tmp_path, monkeypatch):
    """At each step, all files are there, of one of two audits, and a later call replaces them without being asked."""
    audit = audit_concepts(tmp_path / "images", bands(), **write_bands(tmp_path))
    out = tmp_path / "out"
    audit.write(out)
    complete = {path.name for path in out.iterdir()}
    replace_file = os.replace

    class Killed(BaseException):
        pass

    def write_until(step):
        calls = []

        def replace_or_die(*paths):
            if len(calls) == step:
                raise Killed
            calls.append(paths)
            replace_file(*paths)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace_or_die)
            replace(audit, note=f"until {step}").write(out)

    steps = 12  # five files are written and moved, and their list is written twice
    for step in range(steps):
        with pytest.raises(Killed):
            write_until(step)
        assert {path.name for path in out.iterdir()} == complete
    write_until(steps)
    assert {path.name for path in out.iterdir()} == complete


def test_files_of_a_killed_process_are_removed_after_an_hour(tmp_path):
    """What another process may be writing stays."""
    killed = "import os, sys; from pathlib import Path; from edittools.auditing.written import staging\n"
    killed += "with staging(Path(sys.argv[1])) as staged: (staged / 'report.html').touch(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", killed, tmp_path], check=False).returncode == -9
    [left] = tmp_path.iterdir()
    (tmp_path / "mine").mkdir()
    with staging(tmp_path) as staged:
        assert set(tmp_path.iterdir()) == {left, staged, tmp_path / "mine"}
    os.utime(left, (0, 0))
    os.utime(tmp_path / "mine", (0, 0))
    with staging(tmp_path) as staged:
        assert set(tmp_path.iterdir()) == {staged, tmp_path / "mine"}
    assert set(tmp_path.iterdir()) == {tmp_path / "mine"}


def test_write_does_not_replace_a_list_of_files_of_other_origin(tmp_path):
    audit = audit_concepts(tmp_path / "images", bands(lowered=(0.3, 0.0, 0.0)), **write_bands(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".audit.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"\.audit\.json"):
        audit.write(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".audit.json"]


def test_main_audit_keeps_an_edit_unless_it_repairs(tmp_path, capsys):
    settings = write_bands(tmp_path)
    assert main(command_of(tmp_path, settings)) == 0
    edit = tmp_path / "out" / "edit.safetensors"
    before = edit.read_bytes()
    look = ["audit", str(tmp_path / "images"), "--model", f"{__file__}:bands", "--out", str(tmp_path / "out")]
    assert main(look) == 2
    assert str(edit) in capsys.readouterr().err and edit.read_bytes() == before
    assert main(command_of(tmp_path, settings)) == 0


def test_main_audit_interrupted_in_the_repair_keeps_earlier_results(tmp_path, capsys, monkeypatch):
    settings = write_bands(tmp_path)
    assert main(command_of(tmp_path, settings)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    capsys.readouterr()

    def interrupted(*sets, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "repair", interrupted)
    assert main(command_of(tmp_path, settings)) == 130
    assert "--out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before


def test_write_table_holds_no_formula(tmp_path):
    names = ("=cmd", "+1", "-2", "@x", "a=b")
    table = pd.DataFrame({"class": names, "effect": -0.5, "evidence": [(f"{name}/0.png", "=b") for name in names]})
    written = pd.read_csv(write_table(table, tmp_path / "windows.csv"))
    assert written["class"].tolist() == ["'=cmd", "'+1", "'-2", "'@x", "a=b"]
    assert written["evidence"].tolist()[0] == "'=cmd/0.png; =b" and (written["effect"] == -0.5).all()


def test_audit_report_says_what_q_tests_and_which_concepts_are_rare(tmp_path):
    settings = write_bands(tmp_path, masks_of=lambda number: ("road", "aeroplane") if number == 0 else ("road",))
    et.save_mask(tmp_path / "masks" / "road" / "nobody.png", torch.ones(32, 32))
    audit = audit_concepts(tmp_path / "images", bands(lowered=(5.0, 0.6, 0.0)), **settings)
    assert dict(audit.rare) == {"aeroplane": 3} and len(audit.left_out) == 1
    [files] = [line for line in audit.summary().splitlines() if "left out" in line]
    assert "nobody.png" in files and "aeroplane" not in files
    assert "aeroplane 3" in audit.summary()
    by_class = audit.rules.set_index("class")
    assert by_class["significant"].to_dict() == {"car": True, "bus": False}
    assert by_class.loc["car", "q"] <= 0.05 < by_class.loc["bus", "q"]  # both test whether the effect exceeds 0.5
    audit.write(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "q tests" in page and "0.5" in page


def test_apply_writes_the_edited_weights(audited, tmp_path):
    out, _ = audited
    target = tmp_path / "weights.safetensors"
    assert main(["apply", str(out / "edit.safetensors"), "--model", "mini_vgg", "--out", str(target)]) == 0
    classifier = et.load_classifier("mini_vgg")
    images = torch.rand(4, 3, 64, 64)
    with et.Edit.load(out / "edit.safetensors").applied(classifier):
        expected = et.predict(classifier, images)
    plain = et.load_classifier("mini_vgg")
    plain.model.load_state_dict(load_file(target))
    assert torch.equal(et.predict(plain, images), expected)


@pytest.mark.parametrize("word", ["use", "unclear", "do not use"])
def test_apply_prints_the_verdict_and_refuses_do_not_use(audited, tmp_path, capsys, word):
    out, _ = audited
    edit = replace(et.Edit.load(out / "edit.safetensors"), verdict=f"{word}: 3 of 7.")
    edit.save(tmp_path / "edit.safetensors")
    target = tmp_path / "weights.safetensors"
    arguments = ["apply", str(tmp_path / "edit.safetensors"), "--model", "mini_vgg"]
    arguments += ["--out", str(target.with_suffix(""))]  # the suffix is added
    code = main(arguments)
    printed = capsys.readouterr()
    assert f"{word}: 3 of 7." in printed.out + printed.err
    assert (code == 2) == (word == "do not use") != target.exists()
    if code:
        assert "--anyway" in printed.err
        assert main([*arguments, "--anyway"]) == 0 and target.exists()


def test_apply_replaces_no_file_without_force_and_never_an_input(audited, tmp_path, capsys):
    out, _ = audited
    edit = tmp_path / "edit.safetensors"
    shutil.copy(out / "edit.safetensors", edit)
    model = tmp_path / "model.py"
    model.write_text("import edittools as et\ndef load():\n    return et.load_classifier('mini_vgg')\n")
    other = tmp_path / "other.safetensors"
    other.write_text("mine")
    (tmp_path / "link.safetensors").symlink_to(edit)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def apply_to(name, *more):
        return main(["apply", str(edit), "--model", f"{model}:load", "--anyway", "--out", str(tmp_path / name), *more])

    assert apply_to("other") == 2
    assert "--force" in capsys.readouterr().err
    for name in ("edit.safetensors", "edit", "link.safetensors", "model.py"):
        assert apply_to(name, "--force") == 2
        assert "'" + str(tmp_path / name) in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert apply_to("model.py/weights") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert apply_to("other", "--force") == 0
    assert load_file(other)


@pytest.mark.parametrize("place", ["model.py/weights.safetensors", "folder"])
def test_apply_finds_a_place_that_cannot_be_written_before_it_loads_the_model(tmp_path, capsys, place):
    (tmp_path / "folder.safetensors").mkdir()
    edit = tmp_path / "edit.safetensors"
    edit.write_text("not read yet")
    model = tmp_path / "model.py"
    model.write_text("raise RuntimeError('the model was loaded')")
    assert main(["apply", str(edit), "--model", f"{model}:load", "--out", str(tmp_path / place)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(tmp_path / place.partition("/")[0]) in line


def test_audit_saves_its_own_verdict_with_the_edit(audited):
    out, _ = audited
    verdict = et.Edit.load(out / "edit.safetensors").verdict
    assert verdict.startswith(("unclear", "do not use"))
    assert verdict.startswith(read_data(out)["verdict"]["word"])


def pictures_above_the_verdict(page):
    """Count the pictures between the contact sheet and the verdict."""
    above = page.partition('<section class="verdict')[0]
    return above.partition(NOT_SEEN)[2].count('<img src="data:image/')


def test_masks_check_unless_checked_allows_at_most_unclear():
    others = [Check("it corrects", True, "16 of 24", at_best="unclear"), Check("the search is complete", True)]
    verdict = verdict_of([masks_check(False), *others])
    assert verdict.word == "unclear" and "object" in verdict.advice and "--masks-checked" in verdict.advice
    assert verdict_of([masks_check(True), *others]).word == "use"
    assert verdict_of([masks_check(False), Check("it is safe", False, at_best="do not use")]).word == "do not use"


def test_audit_concepts_masks_checked_changes_one_check_only(tmp_path):
    settings = write_bands(tmp_path)
    unchecked, checked = (
        audit_concepts(tmp_path / "images", bands(), masks_checked=masks_checked, **settings)
        for masks_checked in (False, True)
    )
    assert [audit.fix.checks[0].status for audit in (unchecked, checked)] == ["not measured", "pass"]
    assert checked.fix.checks[1:] == unchecked.fix.checks[1:]
    assert checked.fix.verdict == verdict_of(checked.fix.checks)


def test_audit_with_a_finder_is_at_most_unclear(tmp_path):
    settings = write_bands(tmp_path)
    del settings["masks"]
    mask = torch.zeros(32, 32)
    mask[24:] = 1
    audit = audit_concepts(
        tmp_path / "images", bands(), find=lambda images: {"road": mask.expand(30, -1, -1)}, **settings
    )
    assert audit.fix.checks[0].status == "not measured" and audit.fix.checks[0].allows == "unclear"


def test_audit_report_shows_the_exemplar_and_six_more_replaced_images_above_the_verdict(audited):
    out, _ = audited
    page = (out / "report.html").read_text()
    assert pictures_above_the_verdict(page) == 3 + 6  # x, x', the mask, and six more images
    assert page.index("object still") < page.index('<section class="verdict')
    assert page.count('alt="the mask, ') == 1


def command_of(root, settings, *more):
    arguments = ["audit", root / "images", "--model", f"{__file__}:bands", "--masks", settings["masks"]]
    arguments += ["--material", settings["material"], "--clean", settings["clean"], "--concept-is-missed"]
    arguments += ["--out", root / "out", *more]
    return [str(argument) for argument in arguments]


def test_main_audit_repeats_that_the_masks_were_checked(tmp_path, capsys):
    settings = write_bands(tmp_path)
    assert main(command_of(tmp_path, settings)) == 0
    assert "not measured: the masks were checked" in capsys.readouterr().out
    assert main(command_of(tmp_path, settings, "--masks-checked")) == 0
    statement = "caller says that the masks are right"
    assert f"pass: the masks were checked (the {statement})" in capsys.readouterr().out
    assert statement in (tmp_path / "out" / "report.html").read_text()
    assert read_data(tmp_path / "out")["repair"]["checks"][0]["figure"] == f"the {statement}"


def _no_such_folder(folder):
    return folder / "missing", "missing"


def _one_image(folder):
    save_image(folder / "one" / "van" / "0.png", torch.rand(3, 64, 64))
    return folder / "one", "1 images"


def _unreadable(folder):
    (folder / "bad" / "van").mkdir(parents=True)
    (folder / "bad" / "van" / "0.png").write_text("no image")
    return folder / "bad", "0.png"


def _other_classes(folder):
    save_image(folder / "other" / "dragon" / "0.png", torch.rand(3, 64, 64))
    return folder / "other", "dragon"


def _one_class_with_enough_photos(folder):
    for name, count in (("van", 3), ("bus", 2)):
        for number in range(count):
            save_image(folder / "few" / name / f"{number}.png", torch.rand(3, 64, 64))
    return folder / "few", "these have as many: 'van'"


WRONG_FOLDERS = [_no_such_folder, _one_image, _unreadable, _other_classes, _one_class_with_enough_photos]


@pytest.mark.parametrize("make", WRONG_FOLDERS)
def test_audit_of_a_wrong_folder_is_one_line_and_exit_code_2(make, tmp_path, capsys):
    for name in ("one/van", "other/dragon"):
        (tmp_path / name).mkdir(parents=True)
    folder, quoted = make(tmp_path)
    assert main(["audit", str(folder), "--model", "mini_vgg", "--out", str(tmp_path / "out")]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edittools:")]
    assert quoted in line


def test_audit_without_a_segmenter_names_the_remedy(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(tmp_path))
    command = ["audit", str(scenes / "images"), "--model", "mini_vgg", "--concepts", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("edittools:") and "--masks" in errors[-1]


def test_main_with_an_unknown_model_or_option(scenes, capsys):
    assert main(["audit", str(scenes), "--model", "mini_vg"]) == 2
    assert "mini_vgg" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["audit", str(scenes), "--modell", "mini_vgg"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("set_by_user", "policy"), [(None, "passive"), ("active", "active")])
def test_main_lets_threads_wait_passively_unless_the_user_has_set_it(tmp_path, set_by_user, policy):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if set_by_user is not None:
        environment["OMP_WAIT_POLICY"] = set_by_user
    code = (
        "import os; from edittools.cli import main; main(['audit', 'nowhere', '--model', 'mini_vgg']); "
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [policy]


def test_main_checks_arguments_before_torch_is_imported(tmp_path):
    """Each of these errors is printed by a process that has not imported torch."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "report.html").write_text("")
    wrong = [
        (["nowhere", "--model", "mini_vgg"], "nowhere"),
        (["photos", "--model", "mini_vg"], "mini_vgg"),
        (["photos", "--model", "my.py:load"], "my.py"),
        (["photos", "--model", "mini_vgg", "--out", "file/out"], "file/out"),
        (["photos", "--model", "mini_vgg", "--out", "old"], "--force"),
        (["photos", "--model", "mini_vgg", "--masks", "missing"], "missing"),
        (["photos", "--model", "mini_vgg", "--repair", "garbage truck"], "'garbage truck'"),
        (["photos", "--model", "mini_vgg", "--repair", "van:1", "--masks", "old"], "--masks"),
        (["photos", "--model", "mini_vgg", "--concept-misleads"], "--concepts"),
    ]
    script = (
        "import json, sys; from edittools.cli import main; "
        "codes = [main(['audit', *arguments]) for arguments in json.loads(sys.argv[1])]; "
        "print(codes, 'torch' in sys.modules)"
    )
    arguments = json.dumps([arguments for arguments, _ in wrong])
    done = subprocess.run(
        [sys.executable, "-c", script, arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == f"{[2] * len(wrong)} False".split()
    lines = done.stderr.splitlines()
    assert len(lines) == len(wrong)
    assert all(quoted in line for line, (_, quoted) in zip(lines, wrong, strict=True))


def test_load_model_proposes_a_name_of_timm():
    pytest.importorskip("timm", reason="timm is not installed: pip install 'edittools[notebooks]'")
    with pytest.raises(KeyError, match="resnet18"):
        load_model("timm:resnet_18")


def test_main_names_unreadable_files_before_the_work(tmp_path, capsys):
    settings = write_bands(tmp_path)
    (tmp_path / "images" / "car" / "broken.png").write_text("no image")
    assert main(command_of(tmp_path, settings)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" …") or "broken.png" in line]
    assert "broken.png" in lines[1] and len(lines) > 3


def test_main_keeps_an_existing_report_unless_it_may_be_replaced(tmp_path, capsys):
    settings = write_bands(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("mine")
    assert main(command_of(tmp_path, settings)) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").read_text() == "mine"
    assert main(command_of(tmp_path, settings, "--force")) == 0
    assert "et-sheet" in (tmp_path / "out" / "report.html").read_text()


# --- direction ---


def test_errors_on_one_side_decide_the_direction():
    assert Errors(6, 0).direction == "misleads" and Errors(0, 6).direction == "missed"
    assert Errors(9, 1).direction == "misleads"
    for undecided in (Errors(0, 0), Errors(5, 0), Errors(6, 1), Errors(20, 20)):
        assert undecided.direction is None
    assert Errors(6, 0).p == pytest.approx(2 / 64)


def red_band():
    """A model whose class "car" gains where the lower quarter is red."""
    return bands(lowered=(-10.0, 0.0, 0.0))


def write_red_bands(root, misled=0, missed=0):
    """Write images of which twelve cars carry a red band, which masks mark, and a dark material.

    Args:
        root: the folder.
        misled: the number of buses of 16 with the band, which are predicted as cars.
        missed: the number of further cars, without the band, that are predicted as buses; half as many that carry the
            band would be without it.
    """
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(32, 32)
    mask[24:] = 1

    def write(class_name, number, middle, has_band):
        image = background(generator)
        image[:, 8:24] = torch.tensor(middle)[:, None, None] + torch.rand(3, 16, 32, generator=generator) / 20
        image[:, 24:] = torch.rand(3, 8, 32, generator=generator) / 10
        name = f"{class_name}/{class_name}{number:02}.png"
        if has_band:
            image[0, 24:] = 0.9
            (root / "masks" / "tag" / class_name).mkdir(parents=True, exist_ok=True)
            et.save_mask(root / "masks" / "tag" / name, mask)
        save_image(root / "images" / name, image)

    for number in range(12 + missed):
        is_weak = number >= 12 or number < missed // 2
        write("car", number, (0.3, 0.6, 0.1) if is_weak else (0.6, 0.1, 0.1), has_band=number < 12)
    for number in range(16):
        write("bus", number, (0.1, 0.6, 0.1), has_band=number < misled)
        write("cat", number, (0.1, 0.1, 0.6), has_band=False)
    save_image(root / "dark.png", torch.full((3, 32, 32), 0.05))
    clean = write_bands(root / "other")["clean"]
    sets = {"masks": root / "masks", "material": root / "dark.png", "clean": clean}
    return {**sets, "layers": ["linear"], "progress": None}


def test_audit_of_a_concept_that_misleads(tmp_path):
    settings = write_red_bands(tmp_path, misled=8)
    audit = audit_concepts(tmp_path / "images", red_band(), **settings)
    assert (audit.rule["class"], audit.rule["concept"]) == ("car", "tag")
    assert audit.errors == Errors(8, 0) and audit.direction == "misleads"
    assert audit.fix is not None, audit.note
    [[exemplar]] = audit.fix.exemplars.values()
    predicted = et.predict(red_band(), torch.stack([exemplar.image, exemplar.changed])).argmax(dim=1)
    assert predicted.tolist() == [1, 0] and exemplar.label == 1 and exemplar.sources == ("bus/bus00.png",)
    splits = audit.fix.splits
    assert sorted(splits.concept.names) == [f"bus/bus{number:02}.png" for number in range(1, 8)]
    assert sorted(splits.own_class.names) == [f"car/car{number:02}.png" for number in range(12)]
    banded = {*splits.concept.names, *splits.own_class.names, "bus/bus00.png"}
    finding = finding_if_it_misleads(audit, clean=None, retain=None)
    assert {*finding.clean.names} == {*audit.data.names} - banded
    data = audit.report_data()["direction"]
    assert (data["word"], data["pulled_in"], data["missed"]) == ("misleads", 8, 0)
    audit.write(tmp_path / "out")
    assert pictures_above_the_verdict((tmp_path / "out" / "report.html").read_text()) == 3 + 6


def test_audit_of_a_class_that_fails_without_the_concept(tmp_path):
    settings = write_red_bands(tmp_path, missed=8)
    audit = audit_concepts(tmp_path / "images", red_band(), **settings)
    assert audit.errors == Errors(0, 8) and audit.direction == "missed"
    [[exemplar]] = audit.fix.exemplars.values()
    predicted = et.predict(red_band(), torch.stack([exemplar.image, exemplar.changed])).argmax(dim=1)
    assert predicted.tolist() == [0, 1]
    finding = finding_if_missed(audit, clean=None, retain=None)
    assert finding.exemplar.sources == exemplar.sources and len(finding.clean) == len(audit.data) - 1
    assert not {*exemplar.sources} & {*finding.clean.names, *finding.concept.names}


@pytest.mark.parametrize(("misled", "missed"), [(5, 0), (7, 6)])
def test_audit_with_too_few_errors_asks_for_a_direction(tmp_path, misled, missed):
    settings = write_red_bands(tmp_path, misled=misled, missed=missed)
    audit = audit_concepts(tmp_path / "images", red_band(), **settings)
    assert audit.is_rule and audit.errors == Errors(misled, missed)
    assert audit.fix is None and audit.direction is None
    assert "--concept-misleads" in audit.summary() and "--concept-is-missed" in audit.summary()
    assert audit.report_data()["direction"]["word"] is None
    passed = audit_concepts(tmp_path / "images", red_band(), direction="misleads", **settings)
    assert passed.fix is not None and passed.errors is None
    assert sorted(passed.fix.splits.concept.names) == [f"bus/bus{number:02}.png" for number in range(1, misled)]


def test_count_errors_of_predictions_as_labels_is_none(tmp_path):
    settings = write_red_bands(tmp_path, misled=8)
    audit = audit_concepts(tmp_path / "images", red_band(), **settings)
    is_labeled = torch.zeros(len(audit.data), dtype=torch.bool)
    assert count_errors(red_band(), audit.probe, audit.concepts, audit.rule, is_labeled) == Errors(0, 0)
    pooled = {**audit.rule, "class": "all classes"}
    assert count_errors(red_band(), audit.probe, audit.concepts, pooled, ~is_labeled) == Errors(0, 0)


def test_count_errors_of_a_class_that_fails_as_often_with_the_concept(tmp_path):
    """A model that predicts nothing as a car fails on all of them, with and without the band."""
    settings = write_red_bands(tmp_path, missed=8)
    audit = audit_concepts(tmp_path / "images", red_band(), **settings)
    blind = red_band()
    with torch.no_grad():
        blind.model.linear.weight[0] = -9  # nothing is predicted as a car
    is_labeled = torch.ones(len(audit.data), dtype=torch.bool)
    assert count_errors(red_band(), audit.probe, audit.concepts, audit.rule, is_labeled).missed == 8
    assert count_errors(blind, audit.probe, audit.concepts, audit.rule, is_labeled).missed == 0


def test_audit_that_misleads_needs_labels(tmp_path):
    settings = write_red_bands(tmp_path, misled=8)
    (tmp_path / "flat").mkdir()
    for path in (tmp_path / "images").rglob("*.png"):
        shutil.copy(path, tmp_path / "flat" / path.name)
    with pytest.raises(ValueError, match="subfolders"):
        audit_concepts(tmp_path / "flat", red_band(), direction="misleads", **settings)
    with pytest.raises(ValueError, match="'sideways'"):
        audit_concepts(tmp_path / "images", red_band(), direction="sideways", **settings)


# --- independent evidence ---


def write_copies(root, copies, noise=0.0, **settings):
    """Write the images of `write_bands` several times, as exact copies or as frames with some noise."""
    settings = write_bands(root, **settings)
    generator = torch.Generator().manual_seed(1)
    for path in sorted((root / "images").rglob("*.png")):
        image = load_image(path, bands())
        for number in range(1, copies):
            frame = image + noise * torch.randn(image.shape, generator=generator)
            copy = path.with_name(f"{path.stem}_copy{number}.png")
            save_image(copy, frame.clamp(0, 1))
            mask = root / "masks" / "road" / path.parent.name / path.name
            shutil.copy(mask, mask.with_name(copy.name))
    return settings


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_audit_copies_and_frames_count_once(tmp_path, noise):
    settings = write_copies(tmp_path / "six", 6, noise)
    audit = audit_concepts(tmp_path / "six" / "images", bands(), **settings)
    once = audit_concepts(tmp_path / "once" / "images", bands(), **write_bands(tmp_path / "once"))
    assert len(audit.data) == 30 and len(audit.repeats) == 150
    assert audit.rules["images"].tolist() == once.rules["images"].tolist()
    assert audit.rules["p"].tolist() == pytest.approx(once.rules["p"].tolist())
    assert str(len(audit.repeats)) in audit.summary()


@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_null_audits_of_twenty_photos_in_six_frames_find_no_rule(tmp_path, noise):
    """No concept matters: rectangles in a half, named by a coin. As independent images, frames find rules."""
    network = plain_network(steps=200)
    classifier = et.Classifier(network.model, network.classes, size=network.size, resize_to=network.size)
    found_once = 0
    found_in_frames = 0
    for seed in range(9105, 9109):
        generator = torch.Generator().manual_seed(seed)
        photos = calibration.squares(20, seed)
        masks = {name: mask.repeat(6, 1, 1) for name, mask in calibration.rectangles(20, generator).items()}
        images = photos.images.repeat(6, 1, 1, 1)
        images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        frames = LabelledImages(images, photos.labels.repeat(6), photos.classes)
        is_first = first_of_each(scenes_of(frames))  # what an audit uses
        masks_once = {name: mask[is_first] for name, mask in masks.items()}
        material = tmp_path / f"{seed}.png"
        save_image(material, backgrounds(1, generator)[0])
        once = concepts_to_probe(frames.subset(is_first), masks_once, classifier, material)
        found_once += len(probe(classifier, *once).rules()) > 0
        in_frames = concepts_to_probe(frames, masks, classifier, material)
        found_in_frames += len(probe(classifier, *in_frames).rules()) > 0
    assert found_once == 0 and found_in_frames >= 2


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("passes_clean", [False, True])
def test_audit_uses_no_other_frame_of_the_photo_of_its_exemplar(tmp_path, noise, passes_clean):
    settings = write_copies(tmp_path, 2, noise, count=35, clean=0)
    settings["clean"] = shutil.copytree(tmp_path / "images", tmp_path / "copied") if passes_clean else None
    audit = audit_concepts(tmp_path / "images", bands(), **settings)
    assert audit.fix is not None, audit.note
    [[exemplar]] = audit.fix.exemplars.values()
    outside = 1 - exemplar.mask
    splits = audit.fix.splits
    for name, data in {"images": splits.images, **splits.labeled}.items():
        differences = (pixels_of(data)[:] - exemplar.image).square() * outside
        rms = (differences.sum(dim=(1, 2, 3)) / (3 * outside.sum())).sqrt()
        assert not (rms < 0.03).any(), name


# --- masks ---


@pytest.fixture
def photo(tmp_path):
    """A photo that is not square, its mask at the photo's size, and a classifier that sees the middle of it."""
    image = torch.rand(3, 60, 90)
    mask = torch.zeros(60, 90)
    mask[40:, 20:70] = 1
    path = tmp_path / "photos" / "van" / "a.png"
    path.parent.mkdir(parents=True)
    save_image(path, image)
    return path, mask, et.Classifier(TinyNet(), list("abcde"), size=32)


def test_fit_mask_is_load_mask_of_the_file(photo, tmp_path):
    _, mask, classifier = photo
    et.save_mask(tmp_path / "mask.png", mask)
    assert torch.equal(fit_mask(mask, classifier), load_mask(tmp_path / "mask.png", classifier))


def _plain(folder, mask):
    (folder / "road" / "van").mkdir(parents=True)
    et.save_mask(folder / "road" / "van" / "a.png", mask)


def _coco(folder, mask):
    folder.mkdir()
    polygon = [20, 40, 70, 40, 70, 60, 20, 60]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 90}],
        "categories": [{"id": 5, "name": "road"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": [polygon]}],
    }
    (folder / "result.json").write_text(json.dumps(content))


@pytest.mark.parametrize("write", [_plain, _coco])
def test_read_masks_of_each_layout_fit_the_photo(photo, tmp_path, write):
    path, mask, classifier = photo
    write(tmp_path / "masks", mask)
    masks, left_out = read_masks(tmp_path / "masks", ["van/a.png", "van/b.png"], classifier)
    assert list(masks) == ["road"] and left_out == []
    assert torch.equal(masks["road"][0], fit_mask(mask, classifier)) and not masks["road"][1].any()
    image = torch.ones(3, 60, 90) * mask
    save_image(path, image)
    seen = load_image(path, classifier).mean(dim=0) > 0.5
    assert (seen == masks["road"][0].bool()).float().mean() > 0.99


def test_read_masks_without_an_image_of_that_name(photo, tmp_path):
    _, mask, classifier = photo
    _plain(tmp_path / "masks", mask)
    with pytest.raises(ValueError, match=r"a\.png"):
        read_masks(tmp_path / "masks", ["van/b.png"], classifier)
    with pytest.raises(FileNotFoundError, match="none"):
        read_masks(tmp_path / "none", ["van/b.png"], classifier)


def test_read_masks_names_a_mask_of_another_size(photo, tmp_path):
    path, mask, classifier = photo
    _plain(tmp_path / "masks", mask[:, :80])
    et.save_mask(tmp_path / "masks" / "road" / "van" / "b.png", mask)
    save_image(path.with_name("b.png"), torch.rand(3, 60, 90))
    masks, [left_out] = read_masks(tmp_path / "masks", ["van/a.png", "van/b.png"], classifier, tmp_path / "photos")
    assert not masks["road"][0].any() and masks["road"][1].any()
    assert "a.png" in left_out and "(60, 80)" in left_out and "(60, 90)" in left_out


def test_read_masks_of_a_photo_that_is_gone_leaves_it_out(photo, tmp_path):
    path, mask, classifier = photo
    for name in ("a.png", "b.png"):
        (tmp_path / "masks" / "road" / "van").mkdir(parents=True, exist_ok=True)
        et.save_mask(tmp_path / "masks" / "road" / "van" / name, mask)
    masks, [left_out] = read_masks(tmp_path / "masks", ["van/a.png", "van/b.png"], classifier, tmp_path / "photos")
    assert path.exists() and masks["road"][0].any() and not masks["road"][1].any()
    assert "b.png" in left_out


def test_decode_segmentation_of_run_lengths():
    mask = np.zeros((6, 4), np.uint8)
    mask[1:4, 2] = 1
    counts = [13, 3, 8]  # down the columns
    assert torch.equal(decode_segmentation({"size": [6, 4], "counts": counts}, (6, 4)), torch.from_numpy(mask).float())
    with pytest.raises(ValueError, match="'nonsense'"):
        decode_segmentation("nonsense", (6, 4))


# --- models ---


def test_load_model_from_a_python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "def model():\n"
        "    pool = torch.nn.AdaptiveAvgPool2d(1)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), pool, torch.nn.Flatten()), ['a', 'b']\n"
        "def number():\n"
        "    return 3\n"
    )
    classifier = load_model(f"{path}:model")
    assert classifier.classes == ("a", "b")
    with pytest.raises(TypeError, match="int"):
        load_model(f"{path}:number")
    with pytest.raises(ValueError, match="'other'"):
        load_model(f"{path}:other")
    with pytest.raises(FileNotFoundError, match="none"):
        load_model(f"{tmp_path / 'none.py'}:model")


def test_load_model_from_a_folder_of_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'edittools[notebooks]'")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["cat", "dog", "cow"],
        "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.75, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    classifier = load_model(f"timm:{tmp_path}")
    assert classifier.classes == ("cat", "dog", "cow")
    assert (classifier.size, classifier.resize_to) == (96, 128)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = model((images - 0.5) / 0.25)
    torch.testing.assert_close(et.predict(classifier, images), expected, atol=1e-4, rtol=1e-4)


# --- photos ---


@needs_photos
def test_audit_of_photos_with_the_segmenters(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="no ai-edge-litert here: pip install 'edittools[segmenters]'")
    from edittools.models.downloads import photo as photo_file
    from edittools_course.scenarios.photos import sample_labels

    for number, (name, label) in enumerate(sorted(sample_labels().items())[::20]):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(photo_file(name)).save(folder / f"{number}.png")
    classifier = et.load_classifier("squeezenet1_1")
    audit = audit_concepts(tmp_path / "images", classifier, layers=["features.9.squeeze"], progress=None)
    assert len(audit.data) > 40 and len(audit.rules) and set(audit.rules.concept) <= set(audit.concepts.masks)
    assert {path.name for path in audit.write(tmp_path / "out")} >= {"rules.csv", "report.html", "report.json"}
