"""Rehearse tier `paper`: each of its models, each of its scenarios, end to end, with nothing from outside.

    PYTHONPATH=benchmarks python tests/slow/paper_rehearsal.py --model resnet18 --scenario snow

Weights are random, photos are rendered, and the last layer is fitted to them, so that some are classified correctly and
there is something to select on. A scenario is run through with few images, layers and candidates, and says nothing
about how well an edit does. The seconds are those of one core. It fails where a scenario fails.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pooch
import torch
from _lib.cases import run_case
from _lib.command import parser, run
from _lib.effects import evaluated
from _lib.methods import select_for_exemplar
from _lib.results import BY_HOSTS, Results
from PIL import Image
from scipy.io import savemat
from torch import Tensor, nn
from typographic import with_blurred_words

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.image_files import load_image
from edittools.images import resized
from edittools.layers import candidate_layers
from edittools.metrics import predict
from edittools.models import imagenet_classes
from edittools.models.load import ZOO
from edittools.probing import probe
from edittools.selection import repair
from edittools.selection.hosts import FEWEST_IMAGES
from edittools_course import downloads, segmenters
from edittools_course.miniworld.scenes import scene
from edittools_course.networks.zero_shot import ZeroShot
from edittools_course.scenarios import photos, probing_setup, scenario_for
from edittools_course.scenarios import synthetic as syn
from edittools_course.scenarios.rules import parted
from edittools_course.scenarios.scenario import Scenario
from edittools_course.scenarios.snow import LIVES_ON_SNOW, SNOW_EXEMPLARS, snow_scenario
from edittools_course.scenarios.typographic import ATTACK, HOUSEHOLD_PHOTOS, last_convolutions, typographic_scenario

PLACES, CLIP = "resnet18_places365", "clip_rn50"
MODELS = {
    **dict.fromkeys(("vgg16", "vgg16_bn", "resnet18", "resnet50"), ("snow", "synthetic", "found_rule")),
    PLACES: ("synthetic", "found_rule"),
    CLIP: ("typographic",),
}
"""The scenarios of each model."""

SEGMENTED = 3 * [(below, above) for below in ("grass", "road", "water") for above in ("sky", "building", "tree")]
"""What is below and above in each rendered MSRC photo."""

SETTINGS = [{"objective": "least_squares"}, {"objective": "l1", "steps": 3}]
"""Of every method next to nothing is tried."""


def snow(model: str) -> None:
    """Notebook 01: every method selected and evaluated, a repair."""
    scenario = _few(snow_scenario("paper", model))
    _select(scenario)
    [exemplar] = scenario.exemplars.values()
    splits = scenario.splits
    labeled = {"concept": splits.target, "clean": splits.clean, "retain": splits.retain}
    layers = scenario.layers[-1:]
    fix = repair(scenario.classifier, exemplar, splits.images, **labeled, layers=layers, where=scenario.where)
    assert fix.summary()


def typographic(model: str) -> None:
    """Notebook 02: every method selected, words and real iPods evaluated."""
    scenario = _few(typographic_scenario("paper"), last_convolutions)
    assert all(len(data) > 0 for data in scenario.splits.labeled.values())
    _select(scenario)
    assert with_blurred_words(scenario)


def synthetic(model: str) -> None:
    """Notebook 03: the cases of a folder of validation images, edited."""
    source = syn.synthetic_source("paper", model, small=True)
    settings = syn.CaseSettings(exemplars=1, least_errors=1, strengths=(1.0,), editing={"editing": SETTINGS})
    cases = syn.cases(source, settings=settings)
    found = [row for case in cases for row in run_case(source, case, ["editing"], settings=settings)]
    assert any(row["method"] != "undefined" for row in found)


def found_rule(model: str) -> None:
    """Notebook 04: materials probed, the strongest suspicion rewritten and probed again."""
    classifiers, concepts, settings, common = probing_setup("paper", models=[model])
    classifier, found = classifiers[model], probe(classifiers, concepts, settings)
    try:
        rule = found.strongest_rule("car")[0]
    except ValueError:  # rendered photos say nothing: take the one whose effect goes the wrong way
        rule = found.rules(fdr=1, least_effect=-100.0).iloc[0]
    whole, numbers = scenario_for(classifier, concepts, rule, common)
    scenario = _few(whole)
    edit = _select(scenario)
    unseen = parted(concepts, rule["concept"], rule["material"])[1].subset(numbers["target_test"])
    named = {"before": classifier, "edited": edit.edited(classifier)}
    assert len(probe(named, unseen, replace(settings, labels="given")).table)


SCENARIOS = {scenario.__name__: scenario for scenario in (snow, typographic, synthetic, found_rule)}


def _few(scenario: Scenario, name: Callable[[Classifier], Sequence[str]] = candidate_layers) -> Any:
    """Keep the default layer, the last one, and the default exemplar; render as many images as a selection needs."""
    names = name(scenario.classifier)
    layers = tuple(layer for layer in names if layer in (scenario.default["layer"], names[-1]))
    one = scenario.default["exemplar"]
    rendered = torch.stack([scene(5000 + number, size=96).image for number in range(FEWEST_IMAGES)])
    splits = replace(scenario.splits, reference=resized(rendered, scenario.classifier.size))
    return replace(scenario, layers=layers, exemplars={one: scenario.exemplars[one]}, splits=splits)


def _select(scenario: Scenario) -> Edit:
    """Select for every method that gets one exemplar, evaluate what was selected, and return the edit by hosts."""
    [name] = scenario.exemplars
    selected = select_for_exemplar(scenario, name, finetuning=False)
    edits = {str(number): one.edit for number, one in enumerate(selected)}
    assert list(evaluated(scenario.classifier, edits, scenario.splits.for_evaluation)) == list(edits)
    return next(one.edit for one in selected if one.method == BY_HOSTS)


def draw_photos(folder: Path, images: int) -> dict[str, tuple[str, str]]:
    """Render a few of the registered photos, about `images` of most kinds; give the registry for them.

    All names stay registered, since a class's number is its place among them.
    """
    known = dict(downloads.registry())
    kinds = {kind: [n for n in known if n.startswith(kind)] for kind in ("imagenet-sample/", "msrc-v2/Images/", "rta-")}
    words = [*SNOW_EXEMPLARS.values(), "can_opener", ATTACK, *(w.replace(" ", "_") for w in LIVES_ON_SNOW[:4])]
    chosen = [n for n in known if any(w in n for w in words) or n.endswith("snow_texture.jpg") or "/typographic/" in n]
    chosen += kinds["imagenet-sample/"][:: 1000 // images]
    chosen += kinds["rta-"][:: len(kinds["rta-"]) // (FEWEST_IMAGES + 10)]  # the ordinary images of a selection
    for kind in photos.SNOW_CLASSES:
        chosen += [n for n in known if n.startswith(f"editing-classifiers/snow/{kind}/")][: -(-images // 7)]
    for i, name in enumerate(dict.fromkeys(chosen + kinds["msrc-v2/Images/"][: len(SEGMENTED)])):
        _draw(folder / name, i)
    for name, sides in zip(kinds["msrc-v2/Images/"], SEGMENTED, strict=False):
        path = folder / name.replace("Images/", "newsegmentations_mats/").replace(".bmp", "_GT.mat")
        path.parent.mkdir(parents=True, exist_ok=True)
        regions = np.repeat(np.array([[2], [1]], np.uint8), 128, axis=0).repeat(256, axis=1)
        savemat(path, {"newseg": regions, "newlabels": np.array([[photos.MSRC.index(n) + 1 for n in sides]])})
    drawn = [path for path in folder.rglob("*") if path.is_file()]
    return known | {str(path.relative_to(folder)): (pooch.file_hash(str(path)), "nowhere") for path in drawn}


def _draw(path: Path, seed: int) -> None:
    """Render a MiniWorld scene, as a file of the kind that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (scene(seed, size=96).image.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).resize((256, 256)).save(path)


def draw_folder(folder: Path, classes: int) -> None:
    """Render a folder as of validation images; only the first four classes have images, six each."""
    for number in range(classes):
        (folder / f"{number:04}").mkdir(parents=True)
    for i in range(24):
        _draw(folder / f"{i // 6:04}" / f"{i}.png", 1000 + i)


def labeled(folder: Path, known: Sequence[str], classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return every rendered image `(N, 3, 224, 224)` that a classifier with these classes is to know, and its label."""
    shown = {path: int(path.parent.name) for path in sorted((folder / "clean").rglob("*.png"))}
    sample = {name: i for i, name in enumerate(sorted(n for n in known if n.startswith("imagenet-sample/")))}
    for i, path in enumerate(sorted(p for p in (folder / "photos").rglob("*") if p.is_file() and p.suffix != ".mat")):
        name, parts = str(path.relative_to(folder / "photos")), path.relative_to(folder / "photos").parts
        if parts[0] == "msrc-v2":
            shown[path] = 4 + i % 3 // 2
        elif len(classes) == 1000 and name in sample:
            shown[path] = sample[name]
        elif len(classes) == 1000 and len(parts) == 4 and i % 2:  # every other photo of snow is misclassified
            shown[path] = photos.SNOW_CLASSES[parts[2]]
        elif len(classes) == 1000 and path.stem in {f"{thing}_clean" for thing in HOUSEHOLD_PHOTOS}:
            shown[path] = classes.index(HOUSEHOLD_PHOTOS[path.stem.removesuffix("_clean")])
    return torch.stack([load_image(path, 224) for path in shown]), torch.tensor([*shown.values()])


@torch.no_grad()
def stand_in(name: str, classes: Sequence[str], images: Tensor, labels: Tensor) -> Classifier:
    """A model of the tier with random weights, of which the last layer, or the names' embeddings, fit the images."""
    if name == CLIP:
        import open_clip

        visual = open_clip.create_model("RN50-quickgelu").eval().visual
        for key, weight in visual.named_parameters():  # they start at 0, where no convolution before them has a say
            if key.endswith("bn3.weight"):
                weight.fill_(1)
        tower = Classifier(visual, tuple(map(str, range(visual.output_dim))))
        keys = nn.functional.normalize(predict(tower, images, 8), dim=1)
        common = nn.functional.normalize(keys.mean(dim=0), dim=0)  # random embeddings all lie near one direction
        names = _fitted(keys - (keys @ common)[:, None] * common, labels, len(classes))[:, :-1]
        named = torch.where(torch.isin(torch.arange(len(classes)), labels)[:, None], names, -common)
        return Classifier(ZeroShot(visual, nn.functional.normalize(named, dim=1), 100.0), classes)
    from torchvision.models import get_model

    model = get_model("resnet18" if name == PLACES else name, num_classes=len(classes))
    classifier = Classifier(model, classes)
    head = [layer for layer, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    cut = Cut(classifier, head)
    keys = torch.cat([cut.keys(cut.prefix(part)).flatten(1) for part in images.split(8)])
    found, last = 20 * _fitted(keys, labels, len(classes)), model.get_submodule(head)
    last.weight.copy_(found[:, :-1])
    last.bias.copy_(found[:, -1])
    return classifier


def _fitted(keys: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The least weights `(classes, D + 1)`, the last for a bias, that give each key 1 for its label and else 0."""
    keys, scale = keys.double(), keys.double().norm(dim=1).mean()
    padded = torch.cat([keys / scale, torch.ones(len(keys), 1, dtype=torch.double)], dim=1)
    wanted = nn.functional.one_hot(labels, classes).double()
    found = torch.linalg.lstsq(padded, wanted, driver="gelsd").solution.T
    return torch.cat([found[:, :-1] / scale, found[:, -1:]], dim=1).float()


@contextmanager
def rehearsing(name: str, folder: Path, images: int) -> Iterator[None]:
    """In this process, let random weights and rendered photos stand in for all that classifier `name` needs."""
    torch.manual_seed(0)
    known = draw_photos(folder / "photos", images)
    classes = tuple(map(str, range(365))) if name == PLACES else imagenet_classes()
    if name != CLIP:
        draw_folder(folder / "clean", len(classes))
    places = {"EDITTOOLS_CACHE": "cache", "EDITTOOLS_PHOTOS": "photos", "EDITTOOLS_IMAGENET": "clean"}
    classifier = stand_in(name, classes, *labeled(folder, list(known), classes))

    def finder(given: Tensor) -> dict[str, Tensor]:
        third = (3 * torch.arange(given.shape[-1]) // given.shape[-1]).expand(given[:, 0].shape)
        return {name: (third == i).float() for i, name in enumerate(("car", "bicycle", "boat"))}

    with (
        patch.dict("os.environ", {key: str(folder / part) for key, part in places.items()}),
        patch.object(downloads, "registry", lambda: known),
        patch.object(photos, "registry", lambda: known),
        patch.multiple(segmenters, deeplab=lambda name, wanted: finder, cached=lambda found: found),
        patch.dict(ZOO, {name: lambda *given, **options: classifier}),
    ):
        yield


def rehearse(model: str, scenario: str) -> dict[str, Any]:
    """Run one scenario through, and say whether it passed and what it took."""
    started = time.process_time()
    outcome = "passed"
    try:
        SCENARIOS[scenario](model)
    except Exception as error:
        traceback.print_exc()
        outcome = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"model": model, "scenario": scenario, "outcome": outcome, "seconds": time.process_time() - started}


def experiment(options: argparse.Namespace) -> Results:
    """Rehearse the models and scenarios asked for."""
    notes = {"images": options.images}
    results = Results("paper_rehearsal", "random weights, rendered photos", notes=notes)
    for model in options.model:
        for scenario in (name for name in MODELS[model] if name in options.scenario):
            with tempfile.TemporaryDirectory() as folder, rehearsing(model, Path(folder), options.images):
                row = rehearse(model, scenario)
            print(row, flush=True)
            results.add("passed", row["outcome"] == "passed", network=model, condition=scenario)
            results.add("seconds", row["seconds"], network=model, condition=scenario)
    return results


def main() -> None:
    """Read the command line and rehearse; fail where a scenario fails."""
    arguments = parser(__doc__.split("\n\n")[0])
    arguments.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    arguments.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    arguments.add_argument("--images", type=int, default=7, help="rendered photos of each kind")
    arguments.set_defaults(threads=1)
    passed = [row for row in run(arguments, experiment).rows if row["metric"] == "passed"]
    if failed := [f"{row['network']}, {row['condition']}" for row in passed if not row["value"]]:
        raise SystemExit(f"{len(failed)} of {len(passed)} failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
