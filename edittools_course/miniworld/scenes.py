"""Render MiniWorld: procedural scenes with exact concept masks and planted context rules.

The main functions:

    scene(seed)                     # one image with its masks and layout
    scene(seed, ground="snow")      # the same image, in which only the look of the ground differs
    scenes(1000, "test")            # a labeled set, from the seeds of a split
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch

from edittools._checks import check_number, one_of
from edittools._progress import Progress
from edittools.images import LabeledImages
from edittools.probing.noise import rgb, value_noise
from edittools_course.miniworld.contexts import _TABLE, BEHIND, GROUNDS, IN_FRONT, SPLITS, THINGS
from edittools_course.miniworld.grounds import ground_look
from edittools_course.miniworld.household import HOUSEHOLD
from edittools_course.miniworld.painter import Canvas, Pen, Points, pose
from edittools_course.miniworld.sketches import SKETCHES
from edittools_course.miniworld.stored import render_set

_ROWS = _TABLE.to_dict("index")
CLASSES = tuple(_TABLE.index)
"""The classes of MiniWorld."""
_SKETCHED = tuple(SKETCHES)


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene.

    Args:
        image: image `(3, H, W)` in [0, 1].
        things: the number, in `THINGS`, of the thing that each pixel shows, `(H, W)`.
        layout: what the scene shows, and where.
    """

    image: torch.Tensor
    things: torch.Tensor
    layout: "Layout"

    @cached_property
    def masks(self) -> dict[str, torch.Tensor]:
        """The masks `(H, W)` of 0 and 1 of the visible concepts, by name."""
        masks = {name: self.things == index for index, name in enumerate(THINGS)}
        return {name: mask.float() for name, mask in masks.items() if mask.any()}


@dataclass(frozen=True)
class Layout:
    """What a scene shows, and where.

    It is drawn before anything is painted, so that a change of ground changes nothing else.

    Args:
        label: the class.
        ground: the ground.
        horizon: height of the horizon, from 0 at the top to 1.
        base: the point where the object stands, in the unit square, y down.
        scale: size of the object.
        flip: whether the object is mirrored.
        light: one of `LIGHTS`.
        behind: the things behind the object.
        in_front: the thing in front of it, if any.
    """

    label: str
    ground: str
    horizon: float
    base: tuple[float, float]
    scale: float
    flip: bool
    light: str
    behind: tuple[str, ...]
    in_front: str | None


LIGHTS = {  # color of the sky above, color of the sky at the horizon, tint of the whole image, brightness
    "noon": ("#3f83c8", "#b9d6ea", "#fffdf8", 1.0),
    "morning": ("#7fa9d1", "#f1dcc0", "#fff4e2", 0.98),
    "overcast": ("#98a3ad", "#ccd2d6", "#f2f5fa", 0.92),
    "evening": ("#5a6ea8", "#f0a870", "#ffe3c8", 0.88),
    "dusk": ("#2f3d63", "#9c7f95", "#d9d6ee", 0.72),
}


def draw_layout(rng: np.random.Generator, label: str | None, balanced: bool) -> Layout:
    """Draw class, ground, place, size and surroundings at random.

    Args:
        label: the class; None draws it as well.
        balanced: draw class, ground and surroundings independently, each uniformly.
    """
    class_shares = np.array([row["share"] for row in _ROWS.values()])
    class_number = rng.choice(len(CLASSES), p=None if balanced else class_shares / class_shares.sum())
    label = label or CLASSES[class_number]
    row = _ROWS.get(label, _ROWS["mug"])  # things without a row of their own stand where mugs do
    ground_shares = np.array([row[ground] for ground in GROUNDS], float)
    ground_number = rng.choice(len(GROUNDS), p=None if balanced else ground_shares / ground_shares.sum())
    ground = GROUNDS[ground_number]
    *behind_draws, in_front_draw = rng.random(len(BEHIND) + 1)
    behind = []
    if ground != "table":
        for thing, draw in zip(BEHIND, behind_draws, strict=True):
            percent = 40 if balanced else row[thing]
            if 100 * draw < percent:
                behind.append(thing)
    has_front = in_front_draw < 0.4 and ground != "table"
    horizon = rng.uniform(0.42, 0.62)
    depth = rng.uniform(0.3, 0.85)
    return Layout(
        label=label,
        ground=ground,
        horizon=horizon,
        base=(rng.uniform(0.36, 0.64), horizon + (1 - horizon) * depth),
        scale=(0.2 + 0.16 * depth) * rng.uniform(0.85, 1.15) * row["size"],
        flip=bool(rng.random() < 0.5),
        light=str(rng.choice(list(LIGHTS), p=[0.35, 0.2, 0.2, 0.15, 0.1])),
        behind=tuple(behind),
        in_front=str(rng.choice(IN_FRONT)) if has_front else None,
    )


def _paint_sky(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Paint the sky, or the wall behind a table."""
    y, x = np.mgrid[0 : canvas.size, 0 : canvas.size].astype(np.float32) / canvas.size
    if layout.ground == "table":
        base = rgb(rng.choice(["#d9cdb8", "#b9c7c4", "#c9b0a0", "#a8b3c4", "#d6d0c6", "#8f9f8a"]))
        stripes = 0.05 * np.sin(x * rng.uniform(20, 60)) * (rng.random() < 0.5)
        glow = 0.25 * np.exp(-((x - rng.uniform(0, 1)) ** 2 + (y - 0.1) ** 2) / 0.3)
        shade = 0.82 + stripes + glow + 0.08 * (value_noise(x * 5, y * 5, rng, 3) - 0.5)
        canvas.image[:] = base * shade[..., None]
        canvas.things[:] = THINGS.index("wall")
        return
    above = rgb(LIGHTS[layout.light][0])
    below = rgb(LIGHTS[layout.light][1])
    height = np.clip(y / layout.horizon, 0, 1)[..., None] ** 1.3
    cloud = value_noise(x * 3 + 9, y * 7, rng, 4) + 0.1 * rng.normal()
    cover = np.clip((cloud - 0.5) * 4, 0, 0.85)[..., None]
    canvas.image[:] = (above * (1 - height) + below * height) * (1 - cover) + cover * (0.35 * below + 0.62)
    canvas.things[:] = THINGS.index("sky")


def _paint_mountain(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    haze = rgb(LIGHTS[layout.light][1])
    for distance in (0.6, 0.35)[: rng.integers(1, 3)]:
        x = np.linspace(-0.05, 1.05, 48)
        ridge = value_noise(x * rng.uniform(2, 4) + 50 * rng.random(), 0 * x, rng, 4)
        y = layout.horizon - (ridge - 0.2) * rng.uniform(0.2, 0.4) * distance * 1.6
        foot = layout.horizon + 0.02
        outline = np.concatenate([np.stack([x, y], 1), [(1.05, foot), (-0.05, foot)]])
        rock = rgb(rng.choice(["#5d6b7a", "#6e6a5f", "#56705a", "#7d6a66"]))
        canvas.paint(outline, rock * (1 - distance) + haze * distance, THINGS.index("mountain"), relief=0.9)


def _paint_building(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    haze = rgb(LIGHTS[layout.light][1])
    thing = THINGS.index("building")
    x = rng.uniform(-0.1, 0.4)
    end = rng.uniform(0.6, 1.1)
    while x < end:
        width = rng.uniform(0.1, 0.2)
        height = rng.uniform(0.1, 0.34)
        wall = rgb(rng.choice(["#a8917c", "#8f9aa3", "#b5755a", "#c4b79f", "#7f7a80"])) * 0.75 + haze * 0.2
        top = layout.horizon - height
        foot = layout.horizon + 0.02
        corners = np.array([(x, foot), (x, top), (x + width, top), (x + width, foot)])
        canvas.paint(corners, wall, thing, relief=0.3)
        for row in np.arange(top + 0.03, layout.horizon - 0.04, 0.065):
            for column in np.arange(x + 0.025, x + width - 0.03, 0.05):
                pane = np.add([(0, 0), (0, 0.035), (0.024, 0.035), (0.024, 0)], (column, row))
                canvas.paint(pane, "#f3d98a" if rng.random() < 0.2 else wall * 0.5, thing, relief=0)
        x += width + rng.uniform(-0.01, 0.06)


def _crown(
    canvas: Canvas, middle: Points, radius: float, color: np.ndarray, rng: np.random.Generator, thing: int
) -> None:
    """Paint the crown of a tree or a bush, lump by lump."""
    angle = np.arange(0, 2 * np.pi, 0.4)
    for lump in range(5):
        center = middle + radius * (rng.normal(0, 0.32, 2) - (0, 0.12 * lump))
        size = radius * rng.uniform(0.55, 0.8) * (1 + 0.14 * rng.normal(size=(len(angle), 1)))
        outline = center + size * np.stack([np.cos(angle), np.sin(angle)], 1)
        canvas.paint(outline, color * (0.75 + 0.09 * lump), thing, relief=0.6, grain=0.09)


def _paint_tree(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    thing = THINGS.index("tree")
    haze = rgb(LIGHTS[layout.light][1])
    pointed = rng.random() < 0.35
    leaf = rgb(rng.choice(["#3f6b2f", "#2f5a3a", "#5a7a2f", "#6b6a2a", "#4a6f4a"]))
    for x in rng.uniform(0, 1, rng.integers(2, 6)):
        size = rng.uniform(0.06, 0.13)
        base = layout.horizon + rng.uniform(0, 0.03)
        color = (leaf * rng.uniform(0.8, 1.2)) * 0.85 + haze * 0.12
        trunk = np.array([(-0.12, 0), (-0.08, -1.4), (0.08, -1.4), (0.12, 0)]) * size + (x, base)
        canvas.paint(trunk, "#5a4330", thing, relief=0.3)
        if pointed:
            for level in range(3):
                tip = -2.9 + 0.55 * level
                foot = -1.7 + 0.6 * level
                tier = np.array([(0, tip), (0.45 + 0.18 * level, foot), (-0.45 - 0.18 * level, foot)])
                canvas.paint(tier * size + (x, base), color * 0.8, thing, relief=0.6, grain=0.08)
        else:
            _crown(canvas, (x, base - 1.9 * size), size, color, rng, thing)


def _paint_ground(canvas: Canvas, layout: Layout, ground: str, rng: np.random.Generator) -> None:
    first = int(np.floor(layout.horizon * canvas.size))
    rows = (np.arange(first, canvas.size, dtype=np.float32) + 0.5) / canvas.size
    t = np.clip((rows - layout.horizon) / (1 - layout.horizon), 0, 1)[:, None]
    x = ((np.arange(canvas.size, dtype=np.float32) + 0.5) / canvas.size)[None]
    look = ground_look(ground, t, x, rng)
    haze = 0.0 if layout.ground == "table" else 0.4 * (1 - t[..., None]) ** 4
    look = look * (1 - haze) + rgb(LIGHTS[layout.light][1]) * haze
    alpha = np.ones((len(rows), canvas.size), np.float32)
    alpha[0] = first + 1 - layout.horizon * canvas.size
    canvas.blend((slice(first, canvas.size), slice(0, canvas.size)), alpha, look, THINGS.index(ground))


def _paint_object(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Paint the object with its shadow."""
    direction = -1 if layout.flip else 1
    stretch = direction * rng.uniform(0.82, 1.12)
    shear = rng.normal(0, 0.05)
    tilt = rng.normal(0, 0.035)
    pen = Pen(canvas, rng, THINGS.index("object"), layout.base, pose(layout.scale, stretch, shear, tilt))
    angle = np.linspace(0, 2 * np.pi, 24)
    for width, strength, blur in ((1.25, 0.35, 0.03), (0.95, 0.4, 0.012)):
        shadow = np.array([width * np.cos(angle) + 0.12 * canvas.light[0], 0.16 * np.sin(angle) + 0.01]).T
        canvas.darken(layout.base + layout.scale * shadow * (1, -1), strength, blur)
    SKETCHES[layout.label](pen)


def _paint_in_front(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    thing = THINGS.index(layout.in_front)
    x = layout.base[0] + layout.scale * rng.choice((-1, 1)) * rng.uniform(0.35, 0.95)
    y = layout.base[1] + rng.uniform(0.02, 0.08)
    size = layout.scale * rng.uniform(0.35, 0.7)
    if layout.in_front == "bush":
        leaf = rgb(rng.choice(["#4a7a35", "#3a5f3a", "#7a8a3a", "#8a6a3a"]))
        _crown(canvas, (x, y - 0.7 * size), size, leaf, rng, thing)
    elif layout.in_front == "post":
        wood = rgb(rng.choice(["#7a5a3a", "#8a8d90", "#4a3a2f"]))
        canvas.paint(np.array([(-0.11, 0), (-0.1, -3.4), (0.1, -3.4), (0.11, 0)]) * size + (x, y), wood, thing)
    else:
        angle = np.arange(0, 2 * np.pi, 0.7)
        outline = np.stack([np.cos(angle), 0.75 * np.sin(angle) - 0.6], 1) * rng.uniform(0.8, 1.15, (len(angle), 1))
        stone = rgb(rng.choice(["#8a8680", "#6f6a66", "#a39a8c"]))
        canvas.paint(outline * size + (x, y), stone, thing, relief=0.9, grain=0.08)


def _finish(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> torch.Tensor:
    """Apply the light, the falloff towards the corners and the noise of a camera; return the image `(3, H, W)`."""
    y, x = np.mgrid[-1 : 1 : canvas.size * 1j, -1 : 1 : canvas.size * 1j].astype(np.float32)
    _, _, tint, brightness = LIGHTS["noon" if layout.ground == "table" else layout.light]
    falloff = 1 - rng.uniform(0, 0.12) * (x**2 + y**2) + rng.normal(0, 0.05) * x
    image = canvas.image * rgb(tint) * (brightness * rng.uniform(0.88, 1.1) * falloff)[..., None]
    image = image + rng.standard_normal(image.shape, np.float32) * rng.choice((0.006, 0.012, 0.022))
    return torch.from_numpy(np.ascontiguousarray(np.clip(image, 0, 1).transpose(2, 0, 1), np.float32))


_PAINT_BEHIND = {"mountain": _paint_mountain, "building": _paint_building, "tree": _paint_tree}


def scene(
    seed: int, label: str | None = None, ground: str | None = None, balanced: bool = False, size: int = 64
) -> Scene:
    """Render one scene. It depends only on the arguments.

    Args:
        seed: seed of the random numbers. Each step of painting, from back to front, has its own, so that one step does
            not change the others.
        label: the class, one of `CLASSES` or `HOUSEHOLD`; by default it is drawn.
        ground: how the ground looks; by default it is drawn. Nothing else depends on it.
        balanced: class and ground are independent and uniform; by default they follow `contexts()`.
        size: side in pixels.

    Raises:
        KeyError: if there is no such class or ground.
    """
    check_number(seed, "seed", 0)
    check_number(size, "size", 8)
    if label is not None:
        one_of(label, SKETCHES, "label", KeyError)
    if ground is not None:
        one_of(ground, GROUNDS, "ground", KeyError)

    def stream(step: int) -> np.random.Generator:
        return np.random.default_rng((seed, step))

    layout = draw_layout(stream(0), label, balanced)
    last = stream(7)
    ground = ground or layout.ground
    canvas = Canvas(size, last, light=(float(last.uniform(-0.6, 0.6)), 1.0))
    _paint_sky(canvas, layout, stream(1))
    behind = stream(2)
    for name in layout.behind:
        _PAINT_BEHIND[name](canvas, layout, behind)
    _paint_ground(canvas, layout, ground, stream(3))
    _paint_object(canvas, layout, stream(4))
    if layout.in_front:
        _paint_in_front(canvas, layout, stream(5))
    image = _finish(canvas, layout, last)
    things = torch.from_numpy(canvas.things)
    return Scene(image, things, replace(layout, ground=ground))


@dataclass(frozen=True, eq=False)
class Scenes(LabeledImages):
    """A labeled set of scenes.

    Besides the fields of `LabeledImages`, it holds `things` `(N, H, W)`, the number in `THINGS` of what each pixel
    shows, and `grounds` `(N,)`, the number in `GROUNDS` of each scene's ground.
    """

    things: torch.Tensor = field(default=None, repr=False)
    grounds: torch.Tensor = field(default=None, repr=False)

    def mask(self, concept: str) -> torch.Tensor:
        """Return the masks `(N, H, W)` of 0 and 1 of a concept.

        Raises:
            KeyError: if there is no such concept.
        """
        one_of(concept, THINGS, "concept", KeyError)
        return (self.things == THINGS.index(concept)).float()


def _rendered(
    seed: int, label: str | None, ground: str | None, balanced: bool, size: int
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Render a scene as a set holds it: 8-bit pixels, things, and the numbers of its sketch and of its ground."""
    rendered = scene(seed, label, ground, balanced, size)
    pixels = (rendered.image.numpy() * 255).round().astype(np.uint8)
    layout = rendered.layout
    return pixels, rendered.things.numpy(), _SKETCHED.index(layout.label), GROUNDS.index(layout.ground)


def scenes(
    count: int,
    split: str | int = "train",
    label: str | Sequence[str] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    *,
    ground: str | None = None,
    balanced: bool = False,
    size: int = 64,
    cache: str | os.PathLike | None = None,
) -> Scenes:
    """Render a labeled set of scenes. Pixels are rounded to 8 bits, as in a file.

    Sets of 50 to 10,000 scenes are kept on disk and read from there the next time.

    Args:
        count: number of scenes.
        split: the split whose seeds are used, from its first one on (see `SPLITS`); or the first seed.
        label: one class for all, or one for each scene; by default it is drawn.
        workers: number of processes.
        progress: a class like `tqdm.tqdm`, for a bar.
        ground: see `scene`, as for the other arguments.
        balanced: class and ground are independent and uniform.
        size: side in pixels.
        cache: folder of the cache (default: `EDITTOOLS_CACHE` or the user's cache folder); "" uses none.

    Raises:
        KeyError: if there is no such split, class or ground.
        ValueError: if there is not one label for each scene.
    """
    check_number(count, "count", 1)
    if isinstance(split, str):
        one_of(split, SPLITS, "split", KeyError)
        first_seed = SPLITS[split].start
    else:
        first_seed = split
    labels = [label] * count if label is None or isinstance(label, str) else list(label)
    if len(labels) != count:
        raise ValueError(f"there are {len(labels)} labels for {count} scenes; pass one label per scene, or one for all")
    render = partial(_rendered, ground=ground, balanced=balanced, size=size)
    description = f"scenes {ground} {balanced} {size}"
    seeds = range(first_seed, first_seed + count)
    pixels, things, sketches, grounds = render_set(render, description, seeds, labels, workers, progress, cache)
    names = [_SKETCHED[number] for number in sketches.tolist()]
    classes = CLASSES
    if not set(names) <= set(CLASSES):
        classes = tuple(dict.fromkeys((*CLASSES, *HOUSEHOLD)))
    numbers = torch.tensor([classes.index(name) for name in names])
    return Scenes(pixels.float() / 255, numbers, classes, things=things, grounds=grounds)
