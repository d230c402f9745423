"""The pages: Python blocks compile, those of the troubleshooting page run, and the files that pages name exist."""

import json
import re
import runpy
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import save_image
from readers_files import write_readers_files
from safetensors.torch import load_file

import edittools
from edittools.edits import Edit, applied_edits
from edittools.folders import read_folder
from edittools.image_files import save_mask
from edittools.probing.textures import texture
from edittools_course.by_labels import select_by_labels
from edittools_course.miniworld.scenes import scenes
from edittools_course.scenarios.own_folder import own_folder
from edittools_course.scenarios.snow import car_exemplars

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ("*.md", "docs/**/*.md", "data/**/*.md", "benchmarks/*.md", "results/*.md")
PAGES = [path.relative_to(ROOT) for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def outside_of_blocks(page):
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_python_blocks_compile():
    for page in PAGES:
        for number, block in enumerate(blocks(page, "python")):
            compile(block, f"{page}, block {number}", "exec")


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)\)", outside_of_blocks(page)):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_site_has_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE))
    shown = {str(page) for page in PAGES if page.parts[:2] != ("data", "masks")}
    assert shown <= listed


def test_site_reference_names_packages():
    for package in re.findall(r"- api/(\S+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE):
        assert (ROOT / package / "__init__.py").exists(), package


def test_make_targets_and_scripts_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        text = (ROOT / page).read_text()
        for target in re.findall(r"(?:^|`)make ([a-z]+)\b", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"
        for script in re.findall(r"python ((?:benchmarks|data|notebooks)/\S+\.py)", text):
            assert (ROOT / script).exists(), f"{page}: {script}"


def test_troubleshooting_blocks_run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("docs/troubleshooting.md", "python"):
        exec(block, namespace)
    output = capsys.readouterr().out
    assert "(Edit(features.10.weight (rank 1)),)\n()\n" in output  # applied, and undone
    assert "0.0  conv 3x3" in output and "0.3  conv 1x1" in output
    assert "0.2 " not in output  # the grouped convolution is left out
    assert not list(tmp_path.iterdir())


def test_readme_lines_run_as_they_are(tmp_path, monkeypatch):
    write_readers_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    [lines] = blocks("README.md", "python")
    names = {}
    exec(lines, names)
    classifier = names["classifier"]
    exemplar = names["exemplar"]

    def answer(image):
        return classifier.classes[int(edittools.predict(classifier, image[None]).argmax())]

    assert (answer(exemplar.image), answer(exemplar.changed)) == ("cow", "truck")
    with Edit.load("edit.safetensors", classifier).applied(classifier):
        assert (answer(exemplar.image), answer(exemplar.changed)) == ("cow", "cow")


def replaced(lines, replacements):
    """Replace generic names of the guide by names that exist here."""
    for generic, ours in replacements.items():
        assert generic in lines
        lines = lines.replace(generic, ours)
    return lines


@pytest.fixture
def own_images(tmp_path, monkeypatch):
    """The model and the images of notebook 05, under the names of the guide, and in the current folder."""
    monkeypatch.chdir(tmp_path)
    example = own_folder("mini")
    (tmp_path / "images").symlink_to(example.root)
    for class_name in example.class_names:
        of_class = sorted((example.root / "clean" / class_name).iterdir())
        for path in of_class[::2]:
            ordinary = example.root / "ordinary" / class_name / path.name
            ordinary.parent.mkdir(parents=True, exist_ok=True)
            path.rename(ordinary)
    return example


def test_guide_from_a_failing_image_to_a_verdict(own_images, capsys):
    example = own_images
    names = {}
    torch.save(load_file(example.root / "weights.safetensors"), "weights.pt")
    model_file, loading, pair, selection, own_weights, look, measurement, change, _ = blocks(
        "docs/own_model.md", "python"
    )
    of_the_example = {
        "resnet50(num_classes=3)": f"squeezenet1_1(num_classes={len(example.class_names)})",
        "resnet50": "squeezenet1_1",
        '["car", "van", "bus"]': repr(example.class_names),
        "size=224, resize_to=256": f"size={example.size}, resize_to={example.size}",
    }
    Path("my_model.py").write_text(replaced(model_file, of_the_example))
    exec(loading, names)
    classifier = names["classifier"]
    tagged, _ = read_folder("images/tagged", classifier)
    is_failing = edittools.misclassified(edittools.predict(classifier, tagged), tagged.labels)
    number = int(is_failing.nonzero()[0, 0])
    class_name = example.class_names[int(tagged.labels[number])]
    shutil.copy(example.root / "marks" / tagged.names[number], "mark.png")
    (example.root / "tagged" / tagged.names[number]).rename("failing.jpg")
    capsys.readouterr()
    exec(replaced(pair, {'"van"': repr(class_name)}), names)
    of_image, of_changed = capsys.readouterr().out.splitlines()
    assert of_image == class_name != of_changed
    exemplar = names["exemplar"]
    outside = exemplar.mask == 0
    assert torch.equal(exemplar.image[:, outside], exemplar.changed[:, outside])
    few_layers = {"ordinary_images": "ordinary_images, progress=None, layers=['features.12.squeeze', 'classifier.1']"}
    exec(replaced(selection, {"exemplar, ordinary_images": f"exemplar, {few_layers['ordinary_images']}"}), names)
    assert capsys.readouterr().out.strip() == class_name
    assert Edit.load("edit.safetensors", classifier).digest == names["edit"].digest
    exec(replaced(own_weights, {key: of_the_example[key] for key in ("resnet50(num_classes=3)", "resnet50")}), names)
    edited = names["edit"].edited(classifier.model).state_dict()
    assert all(torch.equal(value, edited[name]) for name, value in names["model"].state_dict().items())
    exec(replaced(look, few_layers), names)
    assert len(names["fix"].changed(names["tagged_images"])) > 6
    exec(replaced(measurement, few_layers), names)
    fix = names["fix"]
    assert names["left_out"] == []
    assert fix.selection.edit.digest == names["edit"].digest
    assert fix.summary() in capsys.readouterr().out
    assert fix.table.loc["selected", "corrected"] > 5 * fix.table.loc["selected", "broken"]
    exec(change, names)
    assert str(names["weaker"].verdict) in capsys.readouterr().out
    assert names["weaker"].is_reselected
    assert not applied_edits(classifier)


def test_verdict_shown_is_the_one_of_the_notebook():
    [shown] = blocks("docs/verdict.md", "text")
    printed = []
    for cell in json.loads((ROOT / "notebooks/05_your_own_model.ipynb").read_text())["cells"]:
        for output in cell.get("outputs", ()):
            printed += "".join(output.get("text", ())).splitlines()
    assert shown.replace("\n", " ").strip() in printed


def test_guide_material_that_has_its_place(snow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exemplar = snow["exemplars"]
    save_image("van.jpg", exemplar.image)
    save_image("snow.jpg", texture("snow", 0, 64))
    save_mask("road.png", exemplar.mask)
    classifier = edittools.load_classifier("mini_vgg")
    names = {"et": edittools, "classifier": classifier, "ordinary_images": scenes(60, 7_500_000).images}
    material = blocks("docs/own_model.md", "python")[-1]
    exec(material, names)
    before = edittools.error_rate(classifier, snow["concept"])
    with names["edit"].applied(classifier):
        assert edittools.error_rate(classifier, snow["concept"]) < before


def test_contributing_baseline_is_selected():
    """The ten lines of CONTRIBUTING, on rendered scenes."""
    namespace = {}
    for block in blocks("CONTRIBUTING.md", "python")[:2]:
        exec(block, namespace)
    classifier = edittools.load_classifier("mini_vgg")
    exemplar = car_exemplars(classifier)["car 1"]
    images = scenes(60, 7_500_000).images
    method = namespace["method"]
    options = {"layers": ["features.10"], "where": "in place", "methods": [method]}
    scores = select_by_labels(classifier, exemplar, images, scenes(20, 7_600_000), **options)
    assert len(scores) == len(method.strengths)
    assert set(scores.best().edit.changes) == {"features.10.bias"}


def test_pages_name_existing_api():
    for page in PAGES:
        for name in re.findall(r"\bet\.([A-Za-z_]+)", (ROOT / page).read_text()):
            assert hasattr(edittools, name), f"{page}: et.{name}"


def test_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_benchmarks_start(monkeypatch):
    """Every script can be imported, and knows what it may be asked."""
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(script), run_name="__main__")
        assert caught.value.code == 0, script.name
