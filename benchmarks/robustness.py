"""Does an edit cost robustness? Error rates before and after on corrupted images, for an edit and what it is beside.

The edit, a random direction, both fine-tunings and the rivals of `edittools.baselines` are chosen by one rule, on the
validation images, within the accuracy budget and the bound on kept images, from the same exemplars. As the unedited
classifier (strength 0), each has its accuracy on clean images that nothing was chosen on and on the same images
under six corruptions at severities 1, 3 and 5, and its errors on test images with the concept. `--story typographic`
does the same for the other story, `--tier lite` on photographs.
"""

from collections.abc import Mapping
from math import ceil
from zlib import crc32

import pandas as pd
import torch
from common import finish, parser, start
from methods import search_of
from tables import robustness
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional
from tqdm.auto import tqdm

from edittools.baselines import BASELINES, SCOPES
from edittools.cut import Cut
from edittools.images import LabelledImages
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.snow import snow_scenario
from edittools.scenarios.typographic import typographic_scenario
from edittools.selection.activations import CachedActivations
from edittools.selection.search import EditSearch, Selection, grid

STORIES = {"snow": snow_scenario, "typographic": typographic_scenario}

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
    """Tabulate error rates: a row for each corruption and severity, columns `before` and each of `edits`."""
    rows, clean = {}, data.images[: len(data)]
    for name, strengths in tqdm(CORRUPTIONS.items(), "corruptions", leave=False):
        for severity, strength in zip((1, 3, 5), strengths, strict=True):
            shifted = LabelledImages(corrupt(clean, name, strength), data.labels, data.classes)
            kept = CachedActivations(cuts, shifted)
            rates = {label: float(kept.compare(edit).after.float().mean()) for label, edit in edits.items()}
            rows[name, severity] = {"before": float(kept.before.float().mean()), **rates}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["corruption", "severity"])


def select(story: Scenario) -> tuple[dict[str, Selection], EditSearch]:
    """Select for every method on the target images, as the notebooks do."""
    search = search_of(story)
    exemplars, strengths = {**story.exemplars, **story.several}, (0.5, 1.0, 1.5)
    settings = grid(rank=(1, 3), masked=(True,), objective=("l1", "least_squares"), reference_weight=(30.0,))
    tries = {
        "edit": search.candidates("rewrite", settings, strengths, exemplars),
        "random direction": search.candidates("random_direction", settings, strengths, exemplars),
    }
    for scope in SCOPES:
        rates = grid(scope=(scope,), rate=(1e-3, 1e-2, 1e-1), steps=(20,))
        layers = list(search.cuts)[::2]
        tries[f"{scope} fine-tuning"] = search.candidates("finetune", rates, exemplars=exemplars, layers=layers)
    for name in BASELINES:
        tries[name.replace("_", " ")] = search.candidates(name, strengths=strengths, exemplars=exemplars)
    selections = {name: search.select(candidates) for name, candidates in tries.items() if len(candidates)}
    return selections, search


def measure(story: Scenario, images: int = 600) -> tuple[list[dict], pd.DataFrame, dict[str, str]]:
    """A row a method of shares, the unedited classifier first; error rates by corruption; what was chosen, in words."""
    found, search = select(story)
    count = len(story.splits.clean_test)
    clean = story.splits.clean_test.subset(range(0, count, -(-count // images)))
    whole, rows = corrupted_errors(search.cuts, {name: one.edit for name, one in found.items()}, clean), []
    for name in whole:
        edit = found[name].edit if name in found else 0 * found["edit"].edit
        splits = ("clean_test", "target_test")
        wrong = {split: float(search.activations[split].compare(edit).after.float().mean()) for split in splits}
        row = {"method": name, "strength": float(name in found), "accuracy": 1 - wrong["clean_test"]}
        rows.append(row | {"corrupted accuracy": 1 - whole[name].mean(), "concept errors": wrong["target_test"]})
    return rows, whole, {name: f"{c}; {c.n_candidates} trials" for name, c in found.items()}


def main() -> None:
    """Choose, corrupt, report."""
    arguments = parser(__doc__)
    arguments.add_argument("--story", default="snow", choices=STORIES)
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    arguments.add_argument("--images", type=int, default=600, help="clean images that are corrupted, at most")
    arguments = start(arguments)
    curves, whole, chosen = measure(STORIES[arguments.story](arguments.tier, progress=True), arguments.images)
    print("\n".join(f"  {name:<20}{words}" for name, words in chosen.items()), "\n")
    by_kind = whole.groupby(level="corruption", sort=False).mean()
    figures = {"story": arguments.story, "corrupted_error_rate": whole.mean().to_dict(), "chosen": chosen}
    figures |= {"by_corruption": by_kind.to_dict("index"), "curves": curves}
    print(robustness(figures))
    finish(arguments, figures)


if __name__ == "__main__":
    main()
