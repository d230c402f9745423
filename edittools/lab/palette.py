"""Ways to change what a mask covers, and the exemplars they make of one picture.

An exemplar needs two pictures, x and x', and a person has one. Where that one is misread it is x', and the change shows
how it should have looked (x); where it is read rightly it is x, and the change shows what misleads (x').
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from edittools.checks import check_amount
from edittools.exemplars import Exemplar
from edittools.images import check_image, check_mask, resized
from edittools.pasting import paste_texture, soft_mask
from edittools.world.textures import restyle
from edittools.world.typography import Label, blanked, written

KINDS = {
    "texture": "lay a material over it",
    "patch": "paste from another picture",
    "paint out": "fill it from around",
    "word": "write a word on it",
    "blank": "cover the words on it",
}
"""The changes there are, each with what it does to what is masked."""

PARTS = {
    "same place": None,
    "all of it": (0, 0, 1, 1),
    "top": (0, 0, 1, 0.4),
    "middle": (0.3, 0.3, 0.7, 0.7),
    "bottom": (0, 0.6, 1, 1),
    "left": (0, 0, 0.4, 1),
    "right": (0.6, 0, 1, 1),
}
"""What part of another picture is pasted: (left, top, right, bottom) in shares of it, or what is at the same place."""


@dataclass(frozen=True)
class Recipe:
    """How the second picture of an exemplar is made of the first one and a mask.

    `kind` is one of `KINDS`. `style` and `variant` choose a texture, `source` `(3, h, w)` with a `part` of `PARTS` what
    is pasted, `text` the word; `shading` is how much of the light and shadow stays, 0 to 1. `misread` says which of the
    two the picture is: x', which is misread, or x. A word is always on x', and covered words are always those of x'.

    Raises `ValueError` for a kind, a part or a shading that there is not.
    """

    kind: str = "texture"
    style: str = "snow"
    variant: int = 0
    shading: float = 0.7
    source: Tensor | None = field(default=None, repr=False, compare=False)
    part: str = "same place"
    text: str = ""
    misread: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, value, known in (("kind", self.kind, KINDS), ("part", self.part, PARTS)):
            if value not in known:
                raise ValueError(f"{name} of change {value!r}: expected one of {', '.join(known)}")
        if check_amount(self.shading, "shading", 0) > 1:
            raise ValueError(f"shading {self.shading}: expected a number from 0 to 1")

    def exemplar(self, picture: Tensor, mask: Tensor, label: int | None = None) -> Exemplar:
        """The exemplar of a picture `(3, H, W)` and a mask `(H, W)`, of which both show the class `label`.

        Raises `ValueError` for an empty mask, a word that is empty or a patch without `source`, and what `written` and
        `paste_texture` raise.
        """
        mask = check_mask(mask, check_image(picture))
        if self.kind == "word":
            return _with_word(picture, mask, self.text, label)
        if self.kind == "blank":
            return blanked(picture, mask, label)
        changed = self.changed(picture, mask)
        return Exemplar(changed, picture, mask, label) if self.misread else Exemplar(picture, changed, mask, label)

    def changed(self, picture: Tensor, mask: Tensor) -> Tensor:
        """The picture `(3, H, W)` with what the mask covers laid over, pasted or filled."""
        if self.kind == "texture":
            return restyle(picture, mask, self.style, self.variant, self.shading)
        if self.kind == "paint out":
            return painted_out(picture, mask)
        if self.source is None:
            raise ValueError("nothing to paste: expected another picture, source=(3, h, w)")
        box = PARTS[self.part]
        if box is not None:
            return paste_texture(picture, mask, _cropped(self.source, box), self.shading)
        cover = (
            resized(self.source[None], picture.shape[1]) if self.source.shape != picture.shape else self.source[None]
        )
        soft = soft_mask(mask, picture.shape[1] / 128)
        return picture + soft * (cover[0] - picture)

    def words(self) -> str:
        """What is done, in a few words."""
        what = {
            "texture": f"{self.style} {self.variant + 1}",
            "patch": f"patch ({self.part})",
            "word": f"“{self.text}”",
            "blank": "words covered",
        }
        return what.get(self.kind, self.kind)


def painted_out(picture: Tensor, mask: Tensor) -> Tensor:
    """The picture with what the mask covers filled by the colours around it, softly; `ValueError` if all is masked."""
    if bool(mask.all()):
        raise ValueError("the mask covers all of the picture: expected something around it to fill it with")
    inside = mask.numpy() > 0
    rows, columns = distance_transform_edt(inside, return_distances=False, return_indices=True)
    near = picture.numpy()[:, rows, columns]
    sigma = picture.shape[1] / 32
    smooth = np.stack([gaussian_filter(channel, sigma) for channel in near])
    depth = np.clip(distance_transform_edt(inside) / (2 * sigma), 0, 1)
    filled = torch.from_numpy((near + depth * (smooth - near)).astype(np.float32)).clamp(0, 1)
    return torch.where(mask > 0, filled, picture)


def _cropped(source: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    height, width = check_image(source, "source").shape[1:]
    left, top, right, bottom = box
    rows = slice(int(top * height), max(int(top * height) + 1, round(bottom * height)))
    columns = slice(int(left * width), max(int(left * width) + 1, round(right * width)))
    return source[:, rows, columns]


def _with_word(picture: Tensor, mask: Tensor, text: str, label: int | None) -> Exemplar:
    """Write a word on a piece of paper as large as the mask's box: x is the blank paper, x' has the word."""
    if not text.strip():
        raise ValueError(f"word {text!r}: expected one with a letter at least")
    height, width = mask.shape
    rows, columns = mask.nonzero().unbind(1)
    wide = max(int(columns.max() - columns.min()) + 1, 4)
    tall = max(int(rows.max() - rows.min()) + 1, 3)
    centre = float(columns.float().mean()) / width, float(rows.float().mean()) / height
    return written(picture, Label(text, centre, wide / width, tall / wide), label)
