"""Style transfer on a CPU: SqueezeNet's features beside random filters, CPU seconds a picture and what comes out.

A road of MSRC's photos takes the style of the paper's style pictures and of a drawn material, at 224 px. How near the
result comes to the style is told by features that neither run was optimised for, EfficientNet-Lite0's, as a share of
the distance before. Writes a picture to out/. Needs the photographs.
"""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from common import finish, parser, start
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import atomic_path
from edittools.lab import plots
from edittools.stories import photos
from edittools.world.style_transfer import Features, RandomFilters, gram, style_images, transfer
from edittools.world.textures import texture
from edittools.zoo.downloads import photo
from edittools.zoo.load import load_classifier
from edittools.zoo.style_features import squeezenet_features

FIGURE = Path("out") / "style_transfer.png"
STYLES = ("black_and_white", "colorful_flowers", "graffiti", "snowy_ground")
JUDGED_BY = ("blocks.0.0", "blocks.1.1", "blocks.2.1", "blocks.4.2")
SIZE = 224


def outputs(classifier: Classifier, images: Tensor) -> list[Tensor]:
    """What the judging layers give for images; timm's network cannot be cut by torchvision's feature extractor."""
    found: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in JUDGED_BY:
            module = classifier.model.get_submodule(layer)
            hooks.callback(module.register_forward_hook(lambda m, given, out: found.append(out)).remove)
        classifier(images)
    return found


def distance(features: Features, images: Tensor, masks: Tensor, styles: Tensor) -> float:
    """How far the Gram matrices inside the masks are from those of the style pictures, relative to these."""
    total = 0.0
    with torch.no_grad():
        for found, wanted in zip(features(images), features(styles), strict=True):
            inside = torch.nn.functional.adaptive_avg_pool2d(masks[:, None], found.shape[2:])[:, 0]
            one, other = gram(found, inside), gram(wanted)
            total += float(((one - other).square().sum(dim=(1, 2)) / other.square().sum(dim=(1, 2))).mean())
    return total


def main() -> None:
    """Transfer each style once with either features, time it, judge it, draw it."""
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=60, help="steps of L-BFGS")
    options = arguments.parse_args()
    start(options)
    judge = load_classifier("efficientnet_lite0")
    data, masks = photos.msrc(judge, 0.2)
    number = int(masks["road"].mean(dim=(1, 2)).argmax())
    image, mask = data.images[number : number + 1], masks["road"][number : number + 1]
    pictures = {name: style_images(photo(f"editing-classifiers/styles/{name}.pt"), SIZE)[0] for name in STYLES}
    pictures["drawn gravel"] = texture("gravel", 0, SIZE)
    judged, rows, drawn = partial(outputs, judge), [], {}
    for title, features in {"SqueezeNet": squeezenet_features(), "random filters": RandomFilters()}.items():
        for name, style in pictures.items():
            started = time.process_time()  # of all threads, so that other work on this machine hardly counts
            made = transfer(image, mask, style, features, steps=options.steps, progress=True)
            took = time.process_time() - started
            far = [distance(judged, one, mask, style[None]) for one in (image, made)]
            rows.append({"features": title, "style": name, "seconds": took, "left": far[1] / far[0]})
            print(f"{title}, {name}: {took:.1f} s, {far[1] / far[0]:.2f} of the distance is left", flush=True)
            drawn[f"{title}: {name.replace('_', ' ')}"] = made[0]
    table = pd.DataFrame(rows)
    mean = table.groupby("features", sort=False)[["seconds", "left"]].mean()
    print("\n" + mean.to_string())
    titles = ["the photo", *(f"style: {name.replace('_', ' ')}" for name in pictures)]
    each = len(pictures)
    below = [list(drawn.items())[start : start + each] for start in (0, each)]
    shown = [(image[0], titles[0]), *zip(pictures.values(), titles[1:], strict=True)]
    for row in below:
        shown += [(image[0], ""), *((one, title) for title, one in row)]
    figure = plots.image_grid(*map(list, zip(*shown, strict=True)), columns=each + 1)
    FIGURE.parent.mkdir(exist_ok=True)
    with atomic_path(FIGURE) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    print(f"\nfigure: {FIGURE}")
    finish(options, {"rows": rows, "mean": mean.to_dict(orient="index"), "steps": options.steps, "size": SIZE})


if __name__ == "__main__":
    main()
