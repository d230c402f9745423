"""The contact sheet of an audit: windows that carry each class, and which photos are independent."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from _lib.striped import squares
from tagged_photos import CLASSES, PER_CLASS, SIZE, colors, photos, tagged, tags, write_photos
from torch import nn

import edittools as et
from edittools.auditing import audit as audit_module
from edittools.auditing import audit_folder, confirm, contact_sheet, examine, exemplar_of
from edittools.auditing.marks import are_sources, confirmation_check, find_mark, images_of_mark, places_check
from edittools.auditing.picked import group_of
from edittools.auditing.sheet import NOT_SEEN, Window
from edittools.auditing.window_names import parse_window_name
from edittools.auditing.windows import LEAST_SOURCES, Confirmation, key_layer, shuffled
from edittools.cut import Cut
from edittools.folders import read_folder
from edittools.images import LabeledImages
from edittools.locate import Box
from edittools.probing.evidence import evidence_of_keys
from edittools.reports.words import check_words, verdict_words
from edittools.scenes import first_of_each, scenes_of
from edittools.verdict import Check, Kind, word_of
from edittools_course import miniworld


@pytest.fixture(scope="module")
def sheet():
    return contact_sheet(colors(), photos()[0], progress=None)


def test_contact_sheet_names_the_mark_of_a_class(sheet):
    _, masks = photos()
    first = sheet.of_class(0)[0]
    assert sum(float(window.of(masks).mean()) >= 0.5 for window in first.windows) >= 8
    assert len({window.photo for window in first.windows}) == len(first.windows)
    assert first.share > first.random_share > first.other_share
    assert first.other_share < 0.1


def test_contact_sheet_table_has_one_row_per_group(sheet):
    table = sheet.table
    assert set(table["class"]) == set(CLASSES)
    assert len(table) == len(sheet.groups)
    row = table[(table["class"] == "car") & (table["window"] == 1)].iloc[0]
    first = sheet.of_class(0)[0]
    assert row["share"] == first.share and row["photos"] == len(first.windows) == len(row["evidence"])


def test_contact_sheet_of_the_same_seed_is_the_same(sheet):
    again = contact_sheet(colors(), photos()[0], progress=None)
    assert again.table.equals(sheet.table)
    assert [group.windows for group in again.groups] == [group.windows for group in sheet.groups]


def test_contact_sheet_windows_of_a_group_are_pictures(sheet):
    first = sheet.of_class(0)[0]
    pictures = sheet.pictures(first)
    assert [picture.shape for picture in pictures] == [(3, window.side, window.side) for window in first.windows]
    window = first.windows[0]
    image = sheet.data.images[window.photo]
    assert torch.equal(pictures[0], image[:, window.box.top :, window.box.left :][:, : window.side, : window.side])


def test_contact_sheet_in_a_notebook_shows_each_class_and_what_is_not_seen(sheet):
    html = sheet._repr_html_()
    assert all(f"<h3>{name}</h3>" in html for name in CLASSES)
    assert NOT_SEEN in html and html.count("<img ") > len(sheet.groups)


def test_contact_sheet_copies_count_once():
    data, _ = photos()
    copies = torch.arange(len(data)).repeat(3)
    noise = 0.02 * torch.randn(len(copies), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    frames = LabeledImages((data.images[copies] + noise).clamp(0, 1), data.labels[copies], CLASSES)
    repeated = contact_sheet(colors(), frames, progress=None)
    assert repeated.repeats == 2 * len(data) and set(repeated.tried.values()) == {12}
    scenes = scenes_of(frames)
    for group in repeated.groups:
        assert len({int(scenes[window.photo]) for window in group.windows}) == len(group.windows)


def test_contact_sheet_of_one_class_with_enough_photos_names_it():
    data, _ = photos()
    with pytest.raises(ValueError, match="of 3 classes.*'car'") as caught:
        contact_sheet(colors(), data.subset([0, 1, 2, 12, 13, 24, 25]), progress=None)
    assert "'bus'" not in str(caught.value)


def test_contact_sheet_class_of_two_photos_has_no_row():
    data, _ = photos()
    few = data.subset([*range(24), 24, 25])
    sheet = contact_sheet(colors(), few, progress=None)
    assert set(sheet.tried) == {0, 1} and "1 class" in " ".join(sheet.findings())
    with pytest.raises(ValueError, match="3"):
        contact_sheet(colors(), data.subset([0, 1, 12, 13]), progress=None)


def test_contact_sheet_class_as_which_all_photos_are_predicted_has_no_windows():
    classifier = colors()
    with torch.no_grad():
        classifier.model.head.bias[0] = 1000
    sheet = contact_sheet(classifier, photos()[0], progress=None)
    assert not sheet.of_class(0) and sheet.of_class(1) and sheet.of_class(2)
    assert [row.name for row in sheet.rows() if not row.cells] == [sheet.rows()[-1].name] == ["car"]
    assert set(sheet.table["class"]) == {"bus", "cat"}
    with pytest.raises(ValueError, match="no window 1 of 'car'"):
        group_of("car:1", 0, 1, sheet)


def test_contact_sheet_folds_classes_without_a_strong_window_and_shows_the_strongest_first(sheet):
    margins = [max(group.margin for group in sheet.of_class(label)) for label in sheet.tried]
    assert margins == sorted(margins, reverse=True)
    weakened = replace(sheet, groups=[replace(group, share=group.random_share) for group in sheet.groups])
    assert all(row.is_folded for row in weakened.rows())
    assert [row.name for row in weakened.rows(marked=1) if not row.is_folded] == ["bus"]
    html = weakened._repr_html_()
    summaries = re.findall(r"<summary>(.*?)</summary>", html, re.DOTALL)
    assert len(summaries) == html.count("<h3>") == html.count("<details>") == len(CLASSES)
    shown = [len(row.cells[0].figures) - 1 for row in weakened.rows()]
    assert [summary.count("<img") for summary in summaries] == shown and min(shown) > 0
    assert "no strong window" in " ".join(weakened.findings())


def test_contact_sheet_does_not_change_the_model_or_the_photos():
    classifier = colors()
    data, _ = photos()
    images = data.images.clone()
    weights = et.classifiers.fingerprint(classifier.model)
    contact_sheet(classifier, data, progress=None)
    assert torch.equal(data.images, images) and et.classifiers.fingerprint(classifier.model) == weights


def test_confirm_a_mark_against_its_shuffled_blocks(sheet):
    """Colors alone carry a class of this network: whole windows and shuffled ones turn the same photos."""
    confirmation = confirm(colors(), sheet, sheet.of_class(0)[0], progress=None)
    assert confirmation.sources == len(sheet.of_class(0)[0].windows) - 1 >= 5
    assert 0 <= confirmation.shuffled_share <= confirmation.share <= 1
    few = replace(sheet.of_class(0)[0], windows=sheet.of_class(0)[0].windows[:5])
    confirmed_by_few = confirm(colors(), sheet, few, progress=None)
    assert confirmed_by_few.sources == 4 and not confirmed_by_few.is_confirmed


def test_confirmation_needs_five_photos_ten_hosts_and_a_small_p():
    assert Confirmation(0.6, 0.1, 5, 10, 0.03).is_confirmed
    assert not Confirmation(0.6, 0.1, 4, 10, 0.03).is_confirmed
    assert not Confirmation(0.6, 0.1, 5, 9, 0.03).is_confirmed
    assert not Confirmation(0.6, 0.5, 20, 40, 0.06).is_confirmed


@pytest.mark.parametrize(("others", "copies"), [(4, 1), (6, 1), (4, 5)])
def test_confirm_by_few_new_photos_or_frames_of_few_scenes_is_too_few(others, copies):
    """All windows are then pasted into one or two photos, which say little about others."""
    data, _ = photos()
    numbers = [*range(12)] + [number for number in range(12, 12 + others) for _ in range(copies)]
    few = contact_sheet(colors(), data.subset(numbers), progress=None)
    confirmation = confirm(colors(), few, few.of_class(0)[0], progress=None)
    assert 1 <= confirmation.hosts <= 2 and confirmation.sources >= LEAST_SOURCES
    assert not confirmation.is_confirmed and not confirmation.is_enough


def test_shuffled_keeps_the_pixels():
    pixels = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    changed = shuffled(pixels, torch.Generator().manual_seed(1))
    assert not torch.equal(changed, pixels)
    assert torch.equal(changed.flatten(1).sort().values, pixels.flatten(1).sort().values)
    assert torch.equal(changed[:, 18:], pixels[:, 18:])


def test_exemplar_of_a_window_is_the_photo_with_the_window_pasted(sheet):
    window = sheet.of_class(0)[0].windows[0]
    host = int((sheet.data.labels == 1).nonzero()[0])
    exemplar = exemplar_of(sheet, window, host, (3, 5))
    rows, columns = slice(3, 3 + window.side), slice(5, 5 + window.side)
    assert torch.equal(exemplar.changed[:, rows, columns], window.of(sheet.data.images))
    assert torch.equal(exemplar.image, sheet.data.images[host]) and exemplar.label == 1
    assert exemplar.mask.sum() == window.side**2 and exemplar.mask[rows, columns].all()
    with pytest.raises(ValueError, match=str(window.photo)):
        exemplar_of(sheet, window, window.photo, (0, 0))


def test_window_of_images_and_masks():
    images = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    assert torch.equal(Window(1, Box(2, 3, 2, 2)).of(images), images[1, :, 2:4, 3:5])
    assert torch.equal(Window(1, Box(2, 3, 2, 2)).of(images[:, 0]), images[1, 0, 2:4, 3:5])


def test_evidence_of_keys_counts_the_residual_connection():
    """The branch subtracts half of the red, and the skip adds it whole: the evidence of a pixel is half of its red."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)
            with torch.no_grad():
                self.conv.weight[:, :, 0, 0] = -0.5 * torch.eye(3)

        def forward(self, images):
            return (images + self.conv(images)).mean(dim=(2, 3))

    classifier = et.Classifier(Residual(), CLASSES, size=4, mean=(0, 0, 0), std=(1, 1, 1))
    cut = Cut(classifier, "conv")
    assert cut.is_bottleneck
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    heat = evidence_of_keys(cut, cut.prefix(images), torch.tensor([0, 1]), torch.tensor([1, 2]))
    torch.testing.assert_close(heat[0], (images[0, 0] - images[0, 1]) / 2 / 16)
    torch.testing.assert_close(heat[1], (images[1, 1] - images[1, 2]) / 2 / 16)


def test_scenes_of_copies_and_frames():
    data, _ = photos()
    dark = 0.99 * data.images[:1]
    frame = (data.images[1:2] + 0.02 * torch.rand(1, 3, SIZE, SIZE)).clamp(0, 1)
    images = torch.cat([data.images, dark, frame])
    scenes = scenes_of(LabeledImages(images, torch.cat([data.labels, data.labels[:2]]), CLASSES))
    assert scenes.unique().numel() == len(data)
    assert scenes[-2:].tolist() == scenes[:2].tolist()
    assert first_of_each(scenes).tolist() == [True] * len(data) + [False, False]


@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_scenes_of_twenty_photos_in_six_frames_are_twenty(noise):
    """The photos of null audits, each six times; of different photos, none show the same scene."""
    once = squares(20, 9100)
    generator = torch.Generator().manual_seed(0)
    images = once.images.repeat(6, 1, 1, 1)
    images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    frames = LabeledImages(images, once.labels.repeat(6), once.classes)
    assert torch.equal(scenes_of(frames), torch.arange(20).repeat(6))
    assert scenes_of(squares(120, 9200)).unique().numel() == 120


@pytest.mark.parametrize("darkest", [0.8, 0.5])
def test_scenes_of_frames_in_changed_light_are_those_of_the_first_frames(darkest):
    once = miniworld.scenes(12, 43_000_000).images
    generator = torch.Generator().manual_seed(0)
    frames = [once]
    for _ in range(9):
        light = darkest + (1.2 - darkest) * torch.rand(12, 1, 1, 1, generator=generator)
        frames.append((once * light).clamp(0, 1))
    assert torch.equal(scenes_of(torch.cat(frames)), torch.arange(12).repeat(10))


def test_scenes_of_different_rendered_images_and_of_flat_images():
    assert len(scenes_of(miniworld.scenes(400, 43_000_000).images).unique()) == 400
    generator = torch.Generator().manual_seed(0)
    flat = 0.5 + 0.008 * torch.randn(6, 3, 64, 64, generator=generator)
    assert len(scenes_of(flat).unique()) == 1


def test_scenes_of_no_images():
    nothing = LabeledImages(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long), CLASSES)
    assert scenes_of(nothing).shape == (0,)


def test_audit_folder_without_a_window_is_the_contact_sheet(tmp_path):
    data, _ = photos()
    write_photos(tmp_path / "photos", data)
    audit = audit_folder(tmp_path / "photos", colors(), progress=None)
    assert audit.mark is None and audit.fix is None
    assert NOT_SEEN in audit.summary()
    names = [path.name for path in audit.write(tmp_path / "out")]
    assert names == ["report.html", "report.json", "windows.csv", "sheet.safetensors"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index('class="et-sheet"') < page.index('<section class="verdict') and NOT_SEEN in page


# --- the repair of a mark ---


@pytest.fixture(scope="module")
def tagged_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tagged")
    write_photos(root, tagged()[0])
    return root


@pytest.fixture(scope="module")
def to_repair(tmp_path_factory):
    """The arguments of a repair: 108 other photos, without the tag."""
    root = tmp_path_factory.mktemp("untagged")
    data, masks = tagged(per_class=48, of_others=0, seed=1)
    write_photos(root, data.subset(~masks.flatten(1).any(dim=1)))
    return {"repair": "car:1", "clean": root, "layers": ["mix"], "progress": None}


@pytest.fixture(scope="module")
def repaired(tagged_folder, to_repair):
    return audit_folder(tagged_folder, tags(), **to_repair)


def numbers_of(names):
    return {int(name.removesuffix(".png").rpartition("/")[2]) for name in names}


def test_audit_folder_repairs_the_mark_of_a_window(repaired):
    _, masks = tagged()
    assert repaired.mark.confirmation.is_confirmed and repaired.mark.confirmation.sources >= LEAST_SOURCES
    concept = repaired.fix.splits.concept
    is_tagged = masks.flatten(1).any(dim=1)
    assert numbers_of(concept.names) == {number for number in range(PER_CLASS, 3 * PER_CLASS) if is_tagged[number]}
    assert repaired.fix.effects["concept"].comparison.corrected > 10
    statuses = [check.status for check in repaired.fix.checks[:2]]
    assert statuses == ["pass", "not known"] and repaired.fix.verdict.word != "use"


def test_audit_folder_mark_photos_of_the_exemplar_are_in_no_set(repaired):
    data = repaired.sheet.data
    exemplar = repaired.mark.exemplar
    concept, clean, _ = images_of_mark(repaired.mark, repaired.sheet)
    source = repaired.mark.group.windows[0].photo
    host = int((data.images == exemplar.image).flatten(1).all(dim=1).nonzero()[0])
    assert are_sources(exemplar, data).nonzero()[:, 0].tolist() == sorted([source, host])
    names = [*concept.names, *clean.names]  # photos of the folder: no image is pasted
    assert sorted(names) == sorted({*data.names} - {data.names[source], data.names[host]})
    holds = {data.names[window.photo] for window in repaired.mark.windows}
    assert {*concept.names} == holds - {data.names[source]}


def test_images_of_mark_in_photos_without_names(repaired):
    """Photos without names are told apart by their digests."""
    sheet = replace(repaired.sheet, data=replace(repaired.sheet.data, names=()))
    mark = examine(tags(), sheet, repaired.mark.group, progress=None)
    concept, clean, _ = images_of_mark(mark, sheet)
    assert len(concept) + len(clean) == len(sheet.data) - 2
    assert not (clean.images == mark.exemplar.image).flatten(1).all(dim=1).any()


def test_audit_folder_mark_is_in_the_report_and_its_data(repaired, tmp_path):
    paths = {path.name for path in repaired.write(tmp_path)}
    assert {"report.html", "report.json", "windows.csv"} <= paths
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["mark"]["class"], data["mark"]["window"], data["mark"]["confirmed"]) == ("car", 1, True)
    assert len(data["mark"]["found_in"]) == len(repaired.mark.windows)
    assert data["repair"]["checks"][0]["status"] == "pass"
    page = (tmp_path / "report.html").read_text()
    names = [Path(found["name"]).name for found in data["mark"]["found_in"] if found["class"] != "car"]
    assert names and all(name in page.partition('<section class="verdict')[0] for name in names)
    assert "'car'" in repaired.summary() and NOT_SEEN in repaired.summary()


def test_audit_folder_mark_with_checked_places(tagged_folder, to_repair, repaired):
    checked = audit_folder(tagged_folder, tags(), masks_checked=True, **to_repair)
    assert [check.status for check in checked.fix.checks[:2]] == ["pass", "pass"]
    assert checked.fix.checks[2:] == repaired.fix.checks[2:]


@pytest.mark.parametrize(
    "confirmation",
    [
        Confirmation(0.9, 0.0, 4, 40, 0.06),
        Confirmation(0.9, 0.0, 9, 2, 0.002),
        Confirmation(0.9, 0.8, 9, 40, 0.4),
        Confirmation(0.0, 0.0, 0, 0, 1.0),
    ],
)
def test_confirmation_check_allows_at_most_unclear(repaired, confirmation):
    others = [Check(Kind.GAIN, True)]
    check = confirmation_check(replace(repaired.mark, confirmation=confirmation), "car")
    assert word_of([check, *others]) == "unclear" and check_words(check).found
    assert word_of([confirmation_check(repaired.mark, "car"), *others]) == "use"


def test_places_check_unless_checked_allows_at_most_unclear():
    others = [Check(Kind.RANDOM, True)]
    words = verdict_words([places_check(False), *others], "shell")
    assert words.word == "unclear" and "--masks-checked" in words.next_step
    assert word_of([places_check(True), *others]) == "use"
    assert word_of([places_check(False), Check(Kind.OBJECTIVE, False, at_best="do not use")]) == "do not use"


def test_find_mark_does_not_depend_on_predictions(repaired):
    """The keys come before the head, whose weights decide the predictions."""
    changed = tags()
    with torch.no_grad():
        changed.model.head.weight.copy_(changed.model.head.weight.flip(0))
    assert key_layer(changed).layer != "head"
    windows = find_mark(changed, repaired.sheet, repaired.mark.group, progress=None)
    assert windows == list(repaired.mark.windows)


def test_find_mark_of_two_windows_searches_no_other_photos(repaired):
    few = replace(repaired.mark.group, windows=repaired.mark.group.windows[:2])
    assert find_mark(tags(), repaired.sheet, few, progress=None) == list(few.windows)


def test_audit_folder_mark_without_photos_of_other_classes_repairs_nothing(tmp_path):
    write_photos(tmp_path, tagged(of_others=0)[0])
    audit = audit_folder(tmp_path, tags(), repair="car:1", layers=["mix"], progress=None)
    assert audit.fix is None and audit.mark.exemplar is not None
    assert "0 photos of other classes than 'car'" in audit.note
    assert audit.note in audit.summary() and audit.report_data()["repair"] is None


def test_audit_folder_mark_on_photos_that_are_all_correct_repairs_nothing(repaired):
    """A weight at which the tag misleads no photo that shows its own class as well."""
    logits = et.predict(tags(weight=0.0), repaired.sheet.data)
    with pytest.raises(ValueError, match="0 of them misclassified"):
        images_of_mark(repaired.mark, replace(repaired.sheet, logits=logits))


def test_images_of_mark_without_labels_measure_no_help(repaired):
    data = replace(repaired.sheet.data, is_labeled=repaired.sheet.data.labels == 0)
    with pytest.raises(ValueError, match="24 photos whose labels"):
        images_of_mark(repaired.mark, replace(repaired.sheet, data=data))


def test_images_of_mark_without_an_exemplar(repaired):
    mark = replace(repaired.mark, exemplar=None)
    with pytest.raises(ValueError, match="'car'"):
        images_of_mark(mark, repaired.sheet)


@pytest.mark.parametrize(
    ("repair", "quoted"), [("caar:1", "car"), ("car:4", "from 1 to 3"), ("car", "'car'"), ("car:0", "'car:0'")]
)
def test_audit_folder_refuses_a_window_before_it_reads_the_folder(tmp_path, repair, quoted):
    with pytest.raises(ValueError, match=quoted):
        audit_folder(tmp_path / "missing", tags(), repair=repair, progress=None)


def test_audit_folder_without_such_a_window_names_those_that_there_are(tmp_path):
    data, _ = tagged()
    write_photos(tmp_path, data.subset([*range(PER_CLASS + 16), 2 * PER_CLASS]))
    with pytest.raises(ValueError, match="rows of 'car', 'bus'"):
        audit_folder(tmp_path, tags(), repair="cat:1", progress=None)
    with pytest.raises(ValueError, match="no window 3 of 'bus'"):
        audit_folder(tmp_path, tags(), repair="Bus:3", progress=None)


def test_audit_folder_of_black_images_says_that_they_show_one_scene(tmp_path):
    data, _ = tagged()
    write_photos(tmp_path, replace(data, images=torch.zeros_like(data.images)))
    with pytest.raises(ValueError, match=f"{len(data)} images.* 1 scenes"):
        audit_folder(tmp_path, tags(), progress=None)


def test_audit_folder_names_a_photo_that_is_in_two_classes(tmp_path):
    data, _ = photos()
    write_photos(tmp_path, data)
    shutil.copy(tmp_path / "bus" / "12.png", tmp_path / "cat" / "copy.png")
    shutil.copy(tmp_path / "bus" / "12.png", tmp_path / "bus" / "copy.png")
    audit = audit_folder(tmp_path, colors(), progress=None)
    [line] = audit.photos.left_out
    assert line.startswith("cat/copy.png: ") and "bus/12.png" in line and line in audit.summary()
    assert list(audit.photos.repeats) == ["bus/copy.png"] and len(audit.photos.data) == len(data)


def test_audit_folder_reads_all_folders_before_it_looks_for_windows(tagged_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "contact_sheet", None)
    for folder in ("clean", "retain"):
        settings = {"repair": "car:1", folder: tmp_path / "missing"}
        with pytest.raises(FileNotFoundError, match="missing"):
            audit_folder(tagged_folder, tags(), progress=None, **settings)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_images_of_mark_leaves_scenes_with_the_mark_out_of_a_clean_folder(repaired, tmp_path, noise):
    data, _ = tagged()
    generator = torch.Generator().manual_seed(1)
    frames = (data.images + noise * torch.randn(data.images.shape, generator=generator)).clamp(0, 1)
    write_photos(tmp_path, replace(data, images=frames))
    clean, _ = read_folder(tmp_path, tags())
    _, others, _ = images_of_mark(repaired.mark, repaired.sheet, clean)
    names = repaired.photos.data.names
    unwanted = {names[window.photo] for window in repaired.mark.windows} | {*repaired.mark.exemplar.sources}
    assert {*others.names} == {*names} - unwanted


def test_parse_window_name_of_a_class_with_a_colon():
    assert parse_window_name("a:b:2") == ("a:b", 2)
    with pytest.raises(ValueError, match="'a:b'"):
        parse_window_name("a:b")
