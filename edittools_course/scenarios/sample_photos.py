"""Photos that come with scikit-image and matplotlib: they need no download, and anybody may show them.

Only photos in the public domain, or under CC0, are listed. The licenses are those that scikit-image's documentation of
`skimage.data` names; Grace Hopper's portrait is a work of the US Navy.
"""

from collections.abc import Sequence
from importlib.resources import as_file, files

import torch
from torch import Tensor

from edittools._checks import one_of
from edittools.geometry import HasInputSize
from edittools.image_files import load_image

FILES = {
    "astronaut": ("skimage.data", "astronaut.png"),
    "brick": ("skimage.data", "brick.png"),
    "camera": ("skimage.data", "camera.png"),
    "cat": ("skimage.data", "chelsea.png"),
    "clock": ("skimage.data", "clock_motion.png"),
    "coffee": ("skimage.data", "coffee.png"),
    "grass": ("skimage.data", "grass.png"),
    "gravel": ("skimage.data", "gravel.png"),
    "officer": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "retina": ("skimage.data", "retina.jpg"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "stars": ("skimage.data", "hubble_deep_field.jpg"),
}
"""The package of each photo, and its path there."""

CREDITS = {
    "astronaut": "NASA, public domain",
    "brick": "CC0Textures, CC0",
    "camera": "Lav Varshney, CC0",
    "cat": "Stéfan van der Walt, CC0",
    "clock": "Stéfan van der Walt, public domain",
    "coffee": "Rachel Michetti, CC0",
    "grass": "linolafett, CC0",
    "gravel": "CC0Textures, CC0",
    "officer": "US Navy, public domain",
    "retina": "Mikael Häggström, CC0",
    "rocket": "SpaceX, public domain",
    "stars": "NASA, public domain",
}
"""The author and the license of each photo."""


def sample_photo(name: str, size: int | HasInputSize | None = None) -> Tensor:
    """Load one of the photos of `FILES` as `(3, H, W)` float in [0, 1]; gray photos have three equal channels.

    Args:
        name: its name.
        size: see `load_image`.

    Raises:
        ValueError: if there is no such photo.
        FileNotFoundError: if the installed package does not contain it.
    """
    one_of(name, FILES, "photo")
    package, path = FILES[name]
    with as_file(files(package).joinpath(path)) as file:
        return load_image(file, size)


def sample_crops(names: Sequence[str], size: int) -> Tensor:
    """Cut photos of `FILES`, in their own size, into crops that overlap by half, `(N, 3, size, size)`."""
    crops = []
    for name in names:
        grid = sample_photo(name).unfold(1, size, size // 2).unfold(2, size, size // 2)
        crops.append(grid.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(crops)


def is_new_photo(image: Tensor, known: Tensor) -> bool:
    """Whether an image `(3, H, W)` may be a photo, and is none of `known`, `(N, 3, H, W)`.

    A photo has values in [0, 1] and more than one color, and neighboring pixels are correlated, unlike in noise.
    """
    centered = image - image.mean(dim=(1, 2), keepdim=True)
    correlation = (centered[..., :-1] * centered[..., 1:]).mean() / centered.square().mean()
    is_in_range = image.min() >= 0 and image.max() <= 1
    is_known = (known - image).abs().mean(dim=(1, 2, 3)) < 0.02
    return bool(is_in_range and image.std() > 0.02 and correlation > 0.1 and not is_known.any())
