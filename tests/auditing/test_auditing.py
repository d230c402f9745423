"""`edittools audit`: from a folder to a report; the models that it takes; wrong input."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tagged_photos
import torch
from conftest import save_image
from safetensors.torch import load_file
from tagged_photos import CLASSES, tagged, tags, write_photos

import edittools as et
from edittools.auditing import audit as audit_module
from edittools.auditing import audit_folder, steps
from edittools.auditing.marks import places_check
from edittools.auditing.result import write_table
from edittools.auditing.sheet import NOT_SEEN
from edittools.auditing.sheet_file import load_sheet
from edittools.classifiers import fingerprint
from edittools.cli import main
from edittools.images import LabeledImages
from edittools.reports.words import check_words

MODEL = f"{tagged_photos.__file__}:tags"
TESTS = str(Path(__file__).resolve().parents[1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photos of which some carry a tag, and clean ones."""
    root = tmp_path_factory.mktemp("folders")
    write_photos(root / "photos", tagged()[0])
    data, masks = tagged(per_class=48, of_others=0, seed=1)
    write_photos(root / "clean", data.subset(~masks.flatten(1).any(dim=1)))
    return root


def command_of(folders, out, *more):
    """Audit the photos, and repair the tag."""
    arguments = ["audit", folders / "photos", "--model", MODEL, "--repair", "car:1", "--clean", folders / "clean"]
    return [str(argument) for argument in (*arguments, "--out", out, *more)]


@pytest.fixture(scope="module")
def audited(folders, tmp_path_factory):
    """The output folder of the command, and what it printed."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "edittools.cli", *command_of(folders, out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def look(folders):
    """An audit of which no window was picked."""
    return audit_folder(folders / "photos", tags(), progress=None)


@pytest.fixture(scope="module")
def repaired(folders):
    """An audit of which a window was repaired."""
    settings = {"repair": "car:1", "clean": folders / "clean", "layers": ["mix"], "progress": None}
    return audit_folder(folders / "photos", tags(), **settings)


def read_data(folder):
    return json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_main_audit_repairs_the_mark_that_was_named(audited):
    out, printed = audited
    assert printed.splitlines()[0].startswith("108 images of 3 classes")
    page = (out / "report.html").read_text()
    assert page.index('class="et-sheet"') < page.index("What was found") and "data:image/png" in page
    assert set(pd.read_csv(out / "windows.csv")["class"]) == set(CLASSES)
    edit = et.Edit.load(out / "edit.safetensors")
    data, masks = tagged(of_others=1, seed=2)
    others = data.subset((data.labels > 0) & masks.flatten(1).any(dim=1))
    before = et.misclassified(et.predict(tags(), others), others.labels)
    after = et.misclassified(et.predict(edit.edited(tags()), others), others.labels)
    assert int(after.sum()) < 0.5 * int(before.sum())


def test_audit_writes_the_data_of_its_report(repaired, tmp_path):
    repaired.write(tmp_path / "out")
    data = read_data(tmp_path / "out")
    assert data["verdict"]["word"] == repaired.fix.verdict.word
    assert data["windows"][0]["share"] == repaired.sheet.table["share"][0]
    assert data["fingerprints"]["weights"] == fingerprint(tags().model) == repaired.fix.edit.fingerprint
    assert data["fingerprints"]["images"]["audited"]["count"] == 108
    times = {"created": None}
    assert data["repair"] | times == repaired.fix.report_data(data["title"]) | times
    assert [check["status"] for check in data["repair"]["checks"]] == [check.status for check in repaired.fix.checks]


def test_audit_without_a_repair_writes_the_data_of_its_report(look, tmp_path):
    look.write(tmp_path / "out")
    data = read_data(tmp_path / "out")
    assert data["repair"] is None and data["mark"] is None and data["verdict"]["word"] == "look at the windows"
    assert pictures_above_the_verdict((tmp_path / "out" / "report.html").read_text()) == 0


def pictures_above_the_verdict(page):
    """Count the pictures between the contact sheet and the verdict."""
    above = page.partition('<section class="verdict')[0]
    return above.partition(NOT_SEEN)[2].count('<img src="data:image/')


def test_audit_report_shows_the_exemplar_and_the_photos_with_the_mark_above_the_verdict(audited):
    out, _ = audited
    found = len(read_data(out)["mark"]["found_in"])
    assert pictures_above_the_verdict((out / "report.html").read_text()) == 3 + found > 30


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_write_needs_a_new_or_an_empty_folder_or_to_be_told_to_replace(look, repaired, tmp_path):
    out = tmp_path / "out"
    written = {path.name for path in repaired.write(out)}
    assert written == {"windows.csv", "sheet.safetensors", "report.html", "report.json", "edit.safetensors"}
    assert written == contents(out).keys()
    (out / "mine.txt").write_text("notes")
    before = contents(out)
    with pytest.raises(FileExistsError, match="out' is not empty.*--force"):
        look.write(out)
    assert contents(out) == before
    replaced = {path.name for path in look.write(out, overwrite=True)}
    after = contents(out)
    assert replaced == written - {"edit.safetensors"} and after.keys() == before.keys()
    kept = {name for name in before if after[name] == before[name]}
    assert {"mine.txt", "edit.safetensors"} <= kept and "report.html" not in kept
    (tmp_path / "empty").mkdir()
    assert look.write(tmp_path / "empty")


@pytest.mark.parametrize("name", ["report.html", "sheet.safetensors", "edit.safetensors"])
def test_write_that_fails_leaves_what_was_there(look, repaired, tmp_path, monkeypatch, name):
    look.write(tmp_path)
    before = contents(tmp_path)
    replace_file = os.replace

    def replace_or_interrupt(source, target):
        if target.name == name:
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", replace_or_interrupt)
    with pytest.raises(KeyboardInterrupt):  # while the file is written: all are written before one is moved
        repaired.write(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_main_audit_repairs_in_the_folder_of_the_same_audit_without_a_second_search(folders, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ["audit", str(folders / "photos"), "--model", MODEL, "--out", str(out)]
    assert main(command) == 0
    before = contents(out)
    monkeypatch.setattr(audit_module, "contact_sheet", None)
    assert main([*command, "--repair", "car:1"]) == 0
    after = contents(out)
    assert after["sheet.safetensors"] == before["sheet.safetensors"]
    assert after["windows.csv"] == before["windows.csv"] and after["report.html"] != before["report.html"]
    assert main([*command, "--repair", "car:1", "--masks-checked"]) == 0


@pytest.mark.parametrize("change", ["photos", "model"])
def test_main_audit_in_the_folder_of_another_audit_needs_force(folders, audited, tmp_path, capsys, change):
    shutil.copytree(audited[0], tmp_path / "out")
    shutil.copytree(folders / "photos", tmp_path / "photos")
    command = command_of(folders, tmp_path / "out")
    if change == "photos":
        shutil.move(tmp_path / "photos" / "cat" / "80.png", tmp_path / "photos" / "bus" / "80.png")
        command[1] = str(tmp_path / "photos")
    else:
        model = tmp_path / "model.py"
        model.write_text(
            f"import sys\nsys.path.append({TESTS!r})\nfrom tagged_photos import tags\nlight = lambda: tags(20.0)"
        )
        command[3] = f"{model}:light"
    before = contents(tmp_path / "out")
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err and contents(tmp_path / "out") == before
    assert main([*command, "--force"]) == 0
    assert contents(tmp_path / "out")["sheet.safetensors"] != before["sheet.safetensors"]


def test_main_audit_without_a_repair_needs_force_in_the_folder_of_the_same_audit(folders, audited, tmp_path, capsys):
    shutil.copytree(audited[0], tmp_path / "out")
    before = contents(tmp_path / "out")
    assert main(["audit", str(folders / "photos"), "--model", MODEL, "--out", str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err and contents(tmp_path / "out") == before


def test_load_sheet_of_a_damaged_file_is_none(look, tmp_path):
    look.write(tmp_path)
    path = tmp_path / "sheet.safetensors"
    loaded = load_sheet(path, look.photos.data, look.photos.digest)
    assert loaded.groups == look.sheet.groups and torch.equal(loaded.logits, look.sheet.logits)
    assert (loaded.tried, loaded.repeats) == (look.sheet.tried, look.sheet.repeats)
    assert list(loaded.tried) == list(look.sheet.tried)
    path.write_bytes(path.read_bytes()[:100])
    assert load_sheet(path, look.photos.data, look.photos.digest) is None


def test_main_audit_interrupted_in_the_repair_keeps_earlier_results(folders, audited, tmp_path, capsys, monkeypatch):
    shutil.copytree(audited[0], tmp_path / "out")
    before = contents(tmp_path / "out")

    def interrupted(*sets, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "repair", interrupted)
    assert main(command_of(folders, tmp_path / "out")) == 130
    assert len(capsys.readouterr().err.splitlines()) and contents(tmp_path / "out") == before


def test_write_table_holds_no_formula(tmp_path):
    names = ("=cmd", "+1", "-2", "@x", "a=b")
    table = pd.DataFrame({"class": names, "effect": -0.5, "evidence": [(f"{name}/0.png", "=b") for name in names]})
    written = pd.read_csv(write_table(table, tmp_path / "windows.csv"))
    assert written["class"].tolist() == ["'=cmd", "'+1", "'-2", "'@x", "a=b"]
    assert written["evidence"].tolist()[0] == "'=cmd/0.png; =b" and (written["effect"] == -0.5).all()


def test_apply_writes_the_edited_weights(audited, tmp_path):
    out, _ = audited
    target = tmp_path / "weights.safetensors"
    assert main(["apply", str(out / "edit.safetensors"), "--model", MODEL, "--out", str(target)]) == 0
    classifier = tags()
    images = tagged()[0].images
    with et.Edit.load(out / "edit.safetensors").applied(classifier):
        expected = et.predict(classifier, images)
    plain = tags()
    plain.model.load_state_dict(load_file(target))
    assert torch.equal(et.predict(plain, images), expected)


@pytest.mark.parametrize("word", ["use", "unclear", "do not use"])
def test_apply_prints_the_verdict_and_refuses_do_not_use(audited, tmp_path, capsys, word):
    out, _ = audited
    edit = replace(et.Edit.load(out / "edit.safetensors"), verdict=f"{word}: 3 of 7.")
    edit.save(tmp_path / "edit.safetensors")
    target = tmp_path / "weights.safetensors"
    arguments = ["apply", str(tmp_path / "edit.safetensors"), "--model", MODEL]
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
    model.write_text("from tagged_photos import tags\ndef load():\n    return tags()\n")
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


def test_main_audit_repeats_that_the_photos_were_checked(folders, audited, tmp_path, capsys):
    shutil.copytree(audited[0], tmp_path / "out")
    before, after = (check_words(places_check(checked), "page").found for checked in (False, True))
    assert before in audited[1]
    assert main(command_of(folders, tmp_path / "out", "--masks-checked")) == 0
    assert after in capsys.readouterr().out
    assert after in (tmp_path / "out" / "report.html").read_text()
    assert read_data(tmp_path / "out")["repair"]["checks"][1]["status"] == "pass"


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


def test_main_with_an_unknown_model_or_option(tmp_path, capsys):
    (tmp_path / "0.png").touch()
    assert main(["audit", str(tmp_path), "--model", "mini_vg"]) == 2
    assert "mini_vgg" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["audit", str(tmp_path), "--modell", "mini_vgg"])
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
    (tmp_path / "photos" / "0.png").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "report.html").write_text("")
    wrong = [
        (["nowhere", "--model", "mini_vgg"], "nowhere"),
        (["empty", "--model", "mini_vgg"], "no images"),
        (["photos", "--model", "mini_vg"], "mini_vgg"),
        (["photos", "--model", "my.py:load"], "my.py"),
        (["photos", "--model", "mini_vgg", "--out", "file/out"], "file/out"),
        (["photos", "--model", "mini_vgg", "--out", "old"], "--force"),
        (["photos", "--model", "mini_vgg", "--clean", "missing"], "missing"),
        (["photos", "--model", "mini_vgg", "--repair", "garbage truck"], "'garbage truck'"),
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


def test_main_names_unreadable_files_before_the_work(folders, tmp_path, capsys):
    shutil.copytree(folders / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "car" / "broken.png").write_text("no image")
    assert main(["audit", str(tmp_path / "photos"), "--model", MODEL, "--out", str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" …") or "broken.png" in line]
    assert "broken.png" in lines[1] and len(lines) > 2


def test_main_audit_of_a_file_whose_name_is_not_utf_8_writes_all_results(folders, tmp_path):
    shutil.copytree(folders / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "car" / "01.png").rename(tmp_path / "photos" / "car" / os.fsdecode(b"caf\xe9.png"))
    out = tmp_path / os.fsdecode(b"r\xe9sultats")
    command = command_of(folders, out)
    command[1] = str(tmp_path / "photos")
    assert main(command) == 0
    assert "caf\\\\xe9.png" in (out / "report.json").read_text()


def test_main_keeps_an_existing_report_unless_it_may_be_replaced(folders, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    command = ["audit", str(folders / "photos"), "--model", MODEL, "--out", str(tmp_path)]
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert "et-sheet" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_audit_copies_and_frames_count_once(tmp_path, noise):
    data, _ = tagged(per_class=12)
    write_photos(tmp_path, data)
    generator = torch.Generator().manual_seed(1)
    for number in range(3):
        frames = (data.images + noise * torch.randn(data.images.shape, generator=generator)).clamp(0, 1)
        names = tuple(f"{name.removesuffix('.png')}_{number}.png" for name in data.names)
        write_photos(tmp_path, LabeledImages(frames, data.labels, CLASSES, names))
    audit = audit_folder(tmp_path, tags(), progress=None)
    assert len(audit.photos.data) == 36 and len(audit.photos.repeats) == 108
    assert str(len(audit.photos.repeats)) in audit.summary()
