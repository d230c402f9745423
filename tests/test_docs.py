"""The pages: every Python block compiles, those of the troubleshooting page run, every file and target named exists."""

import json
import re
import runpy
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import save_image
from PIL import Image
from torchvision.models import resnet18

import edittools
from edittools.classifiers import Classifier
from edittools.edits import Edit, applied_edits
from edittools.images import LabelledImages, save_mask
from edittools.metrics import Comparison

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("*.md", "docs/**/*.md", "data/**/*.md")
PAGES = [path.relative_to(ROOT) for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def outside_of_blocks(page):
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_python_block_compiles(page):
    for number, block in enumerate(blocks(page, "python")):
        compile(block, f"{page}, block {number}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#:\s]+)\)", outside_of_blocks(page)):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_make_target_and_script_exists(page):
    text, makefile = (ROOT / page).read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)\b", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for script in re.findall(r"python ((?:benchmarks|data|notebooks)/\S+\.py)", text):
        assert (ROOT / script).exists(), script


def test_the_blocks_of_the_troubleshooting_page_run_in_order(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("docs/troubleshooting.md", "python"):
        exec(block, namespace)
    said = capsys.readouterr().out
    assert "(Edit(features.10.weight (rank 1)),)\n()\n" in said  # applied, and undone
    assert "0.0  conv 3x3" in said and "0.3  conv 1x1" in said and "0.2 " not in said  # the grouped one is left out
    assert not list(tmp_path.iterdir())


def test_the_tours_of_readme_and_guide_run_on_a_model_of_ones_own(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    [short] = blocks("README.md", "python")
    tour, choice, *_ = blocks("docs/own_model.md", "python")
    noise = torch.rand(30, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    save_image("van.jpg", noise[0])
    save_image("snow.jpg", noise[1])
    save_mask("road.png", (torch.arange(224) > 150).float()[:, None].expand(224, 224))
    names = [f"class {i}" for i in range(10)]
    test_images = LabelledImages(noise[2:6], torch.arange(4), names)
    given = {
        "my_model": resnet18(num_classes=10).eval(),
        "my_class_names": names,
        "reference_images": noise[6:18],
        "clean_images": noise[6:18],
    }
    with torch.no_grad():
        read = Classifier(given["my_model"], names)(noise[18:24]).argmax(1)
    given |= {
        "failing_images": LabelledImages(noise[18:24], (read + 1) % 10, names),
        "retained_images": noise[24:],
    }
    quick = partial(edittools.selection.repair, layers=("layer3.1.conv2", "layer4.0.conv1"), strengths=(1.0,))
    monkeypatch.setattr(edittools.selection, "repair", quick)
    namespace = {**given, "my_test_images": test_images}
    exec(short, dict(namespace))
    assert "layer3.1.conv2" in capsys.readouterr().out
    exec(tour + choice, namespace)
    said = capsys.readouterr().out
    assert "(Edit(layer3.1.conv2.weight (rank 1)),)\n" in said and namespace["fix"].verdict in said
    assert Edit.load("snow_is_road.safetensors", namespace["classifier"])
    assert not applied_edits(namespace["classifier"])


class RedBelow(torch.nn.Module):
    """Looks at the lower half only: class 0 when it is red, class 1 when it is not."""

    def forward(self, images):
        red = images[:, 0, images.shape[2] // 2 :].mean(dim=(1, 2))
        return torch.stack([8 * red, 8 * (1 - red)], dim=1)


def test_the_search_for_a_rule_in_the_guide_finds_one():
    [search] = [block for block in blocks("docs/own_model.md", "python") if "my_masks" in block]
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(12, 3, 16, 16)
    data = LabelledImages(red, torch.zeros(12, dtype=torch.long), ("ship", "house"))
    below = (torch.arange(16) > 7).float()[:, None].expand(12, 16, 16)
    given = {"et": edittools, "my_test_images": data, "my_masks": {"sea": below, "sky": 1 - below}}
    namespace = {**given, "classifier": Classifier(RedBelow(), data.classes, (0, 0, 0), (1, 1, 1), 16)}
    exec(search, namespace)
    assert namespace["found"][["class", "concept"]].to_numpy().tolist() == [["ship", "sea"]]
    assert torch.equal(namespace["exemplar"].mask, below[0])


def test_a_baseline_of_ones_own_is_chosen_like_every_other():
    """CONTRIBUTING's ten lines, on drawn scenes."""
    namespace = {}
    for block in blocks("CONTRIBUTING.md", "python")[:2]:
        exec(block, namespace)
    classifier = edittools.load_classifier("mini_vgg")
    exemplar = edittools.scenarios.snow.car_exemplars(classifier, 1)
    given = {
        n: edittools.miniworld.scenes(20, 100 * i) for i, n in enumerate(("validation", "budget", "test", "clean"))
    }
    story = edittools.selection.Scenario(
        classifier, exemplar, reference=edittools.miniworld.scenes(20, 900).images, layers=("features.10",), **given
    )
    chosen = edittools.selection.Protocol(story).choose(namespace["bias_trials"](edittools.selection.Protocol(story)))
    assert chosen.trials == 2 and set(chosen.edit.changes) == {"features.10.bias"}


def test_the_tables_of_the_pages_are_what_the_benchmarks_wrote(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    pages = tables.pages()
    named = {name for text in pages.values() for name in re.findall("<!-- table: (.*) -->", text)}
    assert named == {"headline", "others"} | {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}
    for path, text in pages.items():
        assert path.read_text() == text, path.name
    assert Image.open(ROOT / "docs" / "results.png").text["Rows"] == tables.drawn(tables.dots())


def test_a_dot_is_filled_where_both_bounds_hold_on_held_out_images(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    shares = {"errors_corrected": 0.8, "errors_corrected_interval": [0.7, 0.9], "keep_images": 100}

    def holds(accuracy, after, kind="snow"):
        one = {"accuracy_change_points_held_out": accuracy, "keep_errors_before": 2, "keep_errors_after": after}
        monkeypatch.setattr(tables, "TITLES", {kind: "on snow"})
        found = tables.dots(read=lambda name: {**shares, **one} if name == "snow_miniworld" else {})
        assert [(row["method"], row["low"]) for row in found] == [("edit", 0.7)]
        return found[0]["holds"]

    assert holds(-0.25, 5) == "yes" and holds(-0.26, 2) == holds(0.0, 6) == "no"
    case = {"methods": {"local fine-tuning": {"other same": [0.2, 0.1, 0.3], "accuracy_change_points": 0.0}}}
    monkeypatch.setattr(tables, "TITLES", {"synthetic": "cases"})
    [row] = tables.dots(read=lambda name: case if name == "synthetic_photos" else {})
    assert row == {
        "story": "cases,\nphotos",
        "method": "local, interpolated",
        "share": 0.2,
        "low": 0.1,
        "high": 0.3,
        "holds": "unknown",
    }


def test_the_picture_of_all_stories_knows_every_name_in_the_files(monkeypatch):
    """A method that a file names otherwise would silently be missing."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    found = {method for name in tables.STORIES for method in tables.tidy(name, tables.read_results(name))}
    assert {name for names in tables.DOTS.values() for name in names} <= found
    shown = {(row["story"], row["method"]) for row in tables.dots()}
    for story in {story for story, _ in shown}:
        methods = {method for one, method in shown if one == story}
        assert methods >= {"edit", "full closed form", "local, interpolated", "random direction"}, story


def test_a_result_names_its_call_without_the_files_of_the_machine_it_ran_on(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from common import finish

    words = "--tier mini --store /a/b.store --json --output=/a/c.json --workers 0 --output /a/d.json --threads 1"
    monkeypatch.setattr(sys, "argv", ["/a/speed.py", *words.split()])
    finish(SimpleNamespace(started=0, json=True, output=None), {})
    call = json.loads(capsys.readouterr().out.splitlines()[-1])["call"]
    assert call == "python benchmarks/speed.py --tier mini --workers 0 --threads 1"
    for path in (ROOT / "docs" / "results").glob("*.json"):
        assert "/" not in json.loads(path.read_text())["call"].replace("benchmarks/", "", 1), path.name


SHARED = ("columns", "common", "composites", "figures", "methods", "networks", "reactive")
SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem not in SHARED]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_called(script, capsys, monkeypatch):
    """Run in this process, as `python benchmarks/….py --help`: nine new ones would each load torch."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {script.name}")


def test_the_api_that_the_pages_name_exists():
    for page in PAGES:
        for name in re.findall(r"\bet\.([A-Za-z_]+)", (ROOT / page).read_text()):
            assert hasattr(edittools, name), f"{page}: et.{name}"


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_left_of_single_edits_is_counted_image_by_image(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import many_edits

    assert [many_edits.counts(n) for n in (1, 4, 5)] == [[1], [1, 2, 4], [1, 2, 4, 5]]

    def compared(before, after):
        return Comparison(*(torch.tensor([c == "x" for c in text]) for text in (before, after)))

    alone = {"a": compared("xxxx.", "...x."), "b": compared("xx...", "x...."), "c": compared("x....", "x....")}
    now = {"a": compared("xxxx.", "xx..x"), "b": compared("xx...", "....."), "c": compared("x....", ".....")}
    others = {"budget": compared("....", "x..."), "clean": compared("x...", "...."), "kept": compared("....", "xx..")}
    row = many_edits.row("added", now | others, alone, 2)
    assert row["rules"] == 3 and row["edits"] == 2 and row["errors"] == 7
    assert (row["corrected"], row["broken"], row["share"]) == (5, 1, 4 / 7)
    assert row["alone"] == 4 and row["left"] == 2 / 4 and row["below half"] == 1  # one image of a's three, and b's
    assert (row["budget change"], row["clean change"], row["kept broken"], row["kept"]) == (-25, 25, 0.5, 4)


def test_a_word_is_blurred_where_a_picture_differs_from_the_same_with_a_blank_label(monkeypatch, tiny):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import typographic

    blank = LabelledImages(torch.rand(3, 3, 32, 32), torch.zeros(3, dtype=torch.long), tiny.classes)
    attacked = blank.images[:2].clone()
    attacked[:, :, 10:14, 10:20] = torch.rand(2, 3, 4, 10)
    sets = {"blank": blank, "test": LabelledImages(attacked, blank.labels[:2], tiny.classes)}
    kept = {"clean": SimpleNamespace(original=torch.ones(1, 4))}
    read = typographic.read_blurred(SimpleNamespace(classifier=tiny, sets=sets), kept)
    masks = torch.zeros(2, 32, 32)
    masks[:, 8:16, 8:22] = 1
    torch.testing.assert_close(read("test"), tiny(typographic.blurred(attacked, masks)).detach())
    assert not torch.allclose(read("test"), tiny(attacked))
    assert torch.equal(read("clean"), kept["clean"].original)


def test_a_cell_is_empty_where_a_figure_is_missing_and_a_column_where_all_are(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from columns import table

    shown = {"share": "{share:%} [{low:n}]", "change": "{change:+}", "p": "{p:.2g}", "chosen": "{chosen}"}
    rows = [{"share": -0.12, "low": -0.2, "change": -1.5, "chosen": None}, {"change": float("nan"), "p": 1e-9}]
    assert table(shown, rows).splitlines() == [
        "| share | change | p |",
        "| --- | --- | --- |",
        "| −12 % [−20] | −1.50 |  |",
        "|  | – | 1e-09 |",
    ]
