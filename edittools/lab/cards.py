"""The desk's own small widgets: pictures with bars, a slider, words, code to copy; and counts as HTML."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from edittools.choosing.choice import most_broken
from edittools.images import resized
from edittools.lab.bench import Counts
from edittools.lab.pixels import to_pixels, to_png
from edittools.lab.words import allowed
from edittools.metrics import Comparison

FIRING = (255, 45, 149)
TOP = 3


class _Small(anywidget.AnyWidget):
    _esm = Path(__file__).parent / "desk.js"
    _css = Path(__file__).parent / "desk.css"
    _kind = traitlets.Unicode().tag(sync=True)


class Pictures(_Small):
    """Pictures with bars of what is read in them: to choose one from (`selectable`), or to compare.

    `selected` is the place of the one that is chosen, -1 for none. `label` names the whole for screen readers, `size`
    is the width of a picture on the screen. `.show` fills it.
    """

    _kind = traitlets.Unicode("pictures").tag(sync=True)
    _pictures = traitlets.List().tag(sync=True)
    _overlays = traitlets.List().tag(sync=True)
    cards = traitlets.List().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    selectable = traitlets.Bool(False).tag(sync=True)
    show_overlays = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    size = traitlets.Int(96).tag(sync=True)

    def show(self, images: Tensor | Sequence[Tensor], cards: Sequence[dict]) -> None:
        """Show other pictures `(B, 3, H, W)`, each with its card, see `card`."""
        self._overlays = []
        self.cards = list(cards)
        self._pictures = [_small_png(image, 2 * self.size) for image in images]

    def lay(self, firing: Tensor) -> None:
        """Lay where a key fires, `(B, H, W)`, over the pictures."""
        self._overlays = [_overlay_png(one, 2 * self.size) for one in firing]


class Slider(_Small):
    """A number between `least` and `most`, with a `caption` to be seen and a `label` for screen readers."""

    _kind = traitlets.Unicode("slider").tag(sync=True)
    value = traitlets.Float(1.0).tag(sync=True)
    least = traitlets.Float(-1.0).tag(sync=True)
    most = traitlets.Float(2.0).tag(sync=True)
    step = traitlets.Float(0.05).tag(sync=True)
    caption = traitlets.Unicode("α").tag(sync=True)
    label = traitlets.Unicode("strength α").tag(sync=True)


class Said(_Small):
    """Words that screen readers hear when they change: politely (`role` "status"), or at once ("alert")."""

    _kind = traitlets.Unicode("said").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    role = traitlets.Unicode("status").tag(sync=True)


class Code(_Small):
    """Some Python with a button that copies it."""

    _kind = traitlets.Unicode("code").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)


def card(
    read: Tensor, before: Tensor | None, classes: Sequence[str], label: int, caption: str = "", top: int = TOP
) -> dict:
    """What stands beside a picture: the `top` classes that are read in it, now and before, and what became of it.

    `read` and `before` are probabilities `(classes,)`; without `before` nothing has changed yet.
    """
    chances, found = read.topk(min(top, len(read)))
    rows = [
        [classes[int(i)], round(float(p), 4), None if before is None else round(float(before[i]), 4)]
        for p, i in zip(chances, found, strict=True)
    ]
    right = int(found[0]) == label
    was_right = right if before is None else int(before.argmax()) == label
    state = {(False, True): "corrected", (True, False): "broken", (True, True): "right"}.get(
        (was_right, right), "wrong"
    )
    said = f"{classes[label]}: read as {rows[0][0]}, {100 * rows[0][1]:.0f} %"
    if before is not None:
        was = int(before.argmax())
        said += f"; before as {classes[was]}, {100 * float(before[was]):.0f} %; {state}"
    mark = {"corrected": "✓ ", "broken": "✗ ", "wrong": "✗ "}.get(state, "")
    return {"state": state, "rows": rows, "said": said, "caption": caption or f"{mark}{classes[label]}"}


def counts_html(counts: Counts) -> str:
    """The counts as bars: of the misread images what is corrected and broken, of the others what the bound allows."""
    rows = [_row("images", *_misread(counts.images))]
    if counts.keep is not None:
        count, most = len(counts.keep.before), most_broken(len(counts.keep.before))
        rows.append(_row("must stay", counts.keep.broken, count, f"{counts.keep.broken} of {count:,} broke", most))
    if counts.everyday is not None:
        lost, count = -counts.everyday.accuracy_change, len(counts.everyday.before)
        said = f"{-lost:+.2f} points of accuracy, {count:,} images"
        rows.append(_row("everyday", max(lost, 0), 4 * allowed(count), said, allowed(count)))
    return f'<div class="et-counts" role="list">{"".join(rows)}</div>'


def _misread(found: Comparison) -> tuple[float, float, str]:
    wrong = int(found.before.sum())
    return found.corrected, max(wrong, 1), f"{found.corrected} of {wrong} corrected, {found.broken} broken"


def _row(name: str, value: float, whole: float, said: str, bound: float | None = None) -> str:
    """One bar: green for what is gained, and where there is a bound, a line at it and red beyond."""
    kind = "gain" if bound is None else "over" if value > bound + 1e-9 else "cost"
    line, hint = "", ""
    if bound is not None:
        line = f'<b style="left:{min(100 * bound / whole, 100):.1f}%"></b>'
        hint = f" (the line: {bound:.3g} may)"
    share = min(100 * value / whole, 100)
    return (
        f'<div class="et-count-row" role="listitem" aria-label="{escape(name)}: {escape(said)}">'
        f"<span>{escape(name)}</span>"
        f'<span class="et-bar et-{kind}" title="{escape(said + hint)}"><i style="width:{share:.1f}%"></i>{line}</span>'
        f"<span>{escape(said)}</span></div>"
    )


def _small_png(image: Tensor, most: int) -> str:
    """An image as a PNG of at most so many pixels across, in base64."""
    side = max(image.shape[1:])
    if side > most:
        image = torch.nn.functional.interpolate(image[None], scale_factor=most / side, mode="area")[0]
    return base64.b64encode(to_png(to_pixels(image.float().clamp(0, 1)))).decode()


def _overlay_png(firing: Tensor, most: int) -> str:
    """Where a key fires `(H, W)` as a transparent PNG, most where it fires most."""
    if max(firing.shape) > most:
        firing = resized(firing[None, None].float().clamp(0, 1), most)[0, 0]
    alpha = (firing.float().clamp(0, 1) * 190).byte().numpy()
    pixels = np.concatenate([np.broadcast_to(np.uint8(FIRING), (*alpha.shape, 3)), alpha[..., None]], axis=2)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), "RGBA").save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
