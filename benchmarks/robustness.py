"""Claim: an edit costs no robustness. Error rates on corrupted images, for the edit and its baselines.

The edit, a random direction, both fine-tunings and the methods of `edittools.baselines` are selected by one rule, on
the target images, under the constraints on clean and on retained images, from the same exemplars. Each, and the
unedited classifier, is evaluated on clean images that nothing was selected on, on the same images under six corruptions
at severities 1, 3 and 5, and on test images with the concept. `--scenario typographic` does the same for that scenario,
`--tier lite` on photos.
"""

import argparse
from collections.abc import Mapping
from math import ceil
from zlib import crc32

import pandas as pd
import torch
from _lib.command import parser, run
from _lib.methods import FULL_RANK, search_of, small
from _lib.results import Results, name_of
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional
from tqdm.auto import tqdm

from edittools.baselines import BASELINES, SCOPES
from edittools.cut import Cut
from edittools.images import LabelledImages
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.snow import snow_scenario
from edittools.scenarios.typographic import typographic_scenario
from edittools.selection.evaluation import CachedActivations
from edittools.selection.search import EditSearch, Selection, grid

SCENARIOS = {"snow": snow_scenario, "typographic": typographic_scenario}

CORRUPTIONS = {
    "noise": (0.08, 0.18, 0.38),
    "blur": (0.01, 0.02, 0.03),
    "contrast": (0.4, 0.2, 0.05),
    "brightness": (0.1, 0.3, 0.5),
    "JPEG": (25, 15, 7),
    "pixelate": (0.6, 0.4, 0.25),
}
"""The strength of each kind at severities 1, 3 and 5 of ImageNet-C (Hendrycks and Dietterich, 2019).

Blur is relative to the image's height, and so lies between ImageNet-C and CIFAR-10-C.
"""


def corrupt(images: Tensor, name: str, strength: float) -> Tensor:
    """Corrupt images `(N, 3, H, W)` in [0, 1] by a kind of `CORRUPTIONS`."""
    size = list(images.shape[-2:])
    if name == "noise":
        generator = torch.Generator().manual_seed(crc32(b"noise 0"))
        shifted = images + strength * torch.randn(images.shape, generator=generator)
    elif name == "blur":
        sigma = strength * size[0]
        shifted = functional.gaussian_blur(images, 2 * ceil(3 * sigma) + 1, sigma)
    elif name == "contrast":
        middle = images.mean(dim=(2, 3), keepdim=True)
        shifted = middle + strength * (images - middle)
    elif name == "brightness":
        shifted = images + strength
    elif name == "JPEG":
        pixels = (images * 255).round().byte()
        shifted = torch.stack([functional.jpeg(picture, strength) for picture in pixels]).float() / 255
    else:
        fewer = [round(strength * side) for side in size]
        small = functional.resize(images, fewer, InterpolationMode.BILINEAR, antialias=True)
        shifted = functional.resize(small, size, InterpolationMode.NEAREST)
    return shifted.clamp(0, 1)


def corrupted_errors(cuts: Mapping[str, Cut], edits: Mapping, data: LabelledImages) -> pd.DataFrame:
    """Tabulate error rates: one row per corruption and severity, columns `before` and each of `edits`."""
    rows = {}
    clean = data.images[: len(data)]
    for name, strengths in tqdm(CORRUPTIONS.items(), "corruptions", leave=False):
        for severity, strength in zip((1, 3, 5), strengths, strict=True):
            corrupted = LabelledImages(corrupt(clean, name, strength), data.labels, data.classes)
            states = CachedActivations(cuts, corrupted)
            rates = {label: float(states.compare(edit).after.float().mean()) for label, edit in edits.items()}
            rows[name, severity] = {"before": float(states.before.float().mean()), **rates}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["corruption", "severity"])


def select(scenario: Scenario) -> tuple[dict[str, Selection], EditSearch]:
    """Select for every method on the target images, as the notebooks do; methods are named by key."""
    search = search_of(scenario)
    exemplars = {**scenario.exemplars, **scenario.several}
    strengths = (0.5, 1.0, 1.5)
    settings = grid(rank=(1, 3), masked=(True,), objective=("l1", "least_squares"), reference_weight=(30.0,))
    candidates = {
        "editing": search.candidates("rewrite", settings, strengths, exemplars),
        "random_direction": search.candidates("random_direction", settings, strengths, exemplars),
    }
    for scope in SCOPES:
        rates = grid(scope=(scope,), rate=(1e-3, 1e-2, 1e-1), steps=(20,))
        candidates[f"finetune_{scope}"] = search.candidates("finetune", rates, exemplars=exemplars)
    candidates["full_rank"] = search.candidates("rewrite", FULL_RANK, strengths, exemplars)
    for name in BASELINES:
        candidates[name] = search.candidates(name, strengths=strengths, exemplars=exemplars)
    return {name: search.select(some) for name, some in candidates.items() if len(some)}, search


def add_errors(results: Results, scenario: Scenario, network: str, images: int = 600) -> None:
    """Add the error rates of the unedited classifier and of each method, clean and corrupted."""
    selections, search = select(scenario)
    count = len(scenario.splits.clean_test)
    clean = scenario.splits.clean_test.subset(range(0, count, -(-count // images)))
    table = corrupted_errors(search.cuts, {name: one.edit for name, one in selections.items()}, clean)
    by_corruption = table.groupby(level="corruption", sort=False).mean()
    for method in table:
        edit = selections[method].edit if method in selections else 0 * selections["editing"].edit
        wrong = {
            split: float(search.activations[split].compare(edit).after.float().mean())
            for split in ("clean_test", "target_test")
        }
        where = {"network": network, "method": "no edit" if method == "before" else name_of(method)}
        results.add(
            "error rate", table[method].mean(), split="clean_test", condition="corrupted", n=len(clean), **where
        )
        for corruption, rate in by_corruption[method].items():
            results.add("error rate", rate, split="clean_test", condition=corruption, n=len(clean), **where)
        results.add("accuracy", 1 - wrong["clean_test"], split="clean_test", n=count, **where)
        results.add("error rate", wrong["target_test"], split="target_test", **where)
        if method in selections:
            results.add("candidates", selections[method].n_candidates, **where)
            results.add_selected(str(selections[method]), network, where["method"])


def experiment(options: argparse.Namespace) -> Results:
    """Select, corrupt, evaluate."""
    scenario = SCENARIOS[options.scenario](options.tier, progress=True)
    scenario = small(scenario) if options.quick else scenario
    networks = {"snow": "mini_vgg", "typographic": "mini_clip"}
    network = networks[options.scenario] if options.tier == "mini" else "efficientnet_lite0"
    results = Results("robustness", f"{'MiniWorld' if options.tier == 'mini' else 'photos'}, {options.scenario}")
    add_errors(results, scenario, network, options.images)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--scenario", default="snow", choices=SCENARIOS)
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    arguments.add_argument("--images", type=int, default=600, help="clean images that are corrupted, at most")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
