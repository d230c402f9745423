"""Words written by hand and stuck on pictures: strokes of a pen that jitter, on sheets of paper seen at an angle.

For `train_lite_clip.py`: more like what people write on a sticky note than `typography.handwritten`, whose pen follows
the letters of a font. Letters are lines through points of a grid in which small letters are ten high.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.functional import perspective

_LETTERS = """
a 8,8 5,10 1,7 1,2 4,0 8,4 8,9 / 8,10 8,2 9,0
b 1,19 1,0 / 1,7 5,10 8,7 8,3 5,0 1,2
c 8,8 5,10 1,7 1,3 5,0 8,2
d 8,8 5,10 1,7 1,2 4,0 8,4 / 8,19 8,2 9,0
e 1,5 8,6 7,9 4,10 1,7 1,3 4,0 8,2
f 8,18 6,19 4,16 4,0 / 1,10 7,10
g 8,8 5,10 1,7 1,3 4,0 8,4 / 8,10 8,-5 5,-8 1,-6
h 1,19 1,0 / 1,6 4,10 7,8 7,0
i 2,10 2,0 / 2,14 2,15
j 4,10 4,-5 2,-8 0,-6 / 4,14 4,15
k 1,19 1,0 / 7,10 1,4 / 3,6 8,0
l 2,19 2,0
m 1,10 1,0 / 1,6 4,10 6,8 6,0 / 6,6 9,10 11,8 11,0
n 1,10 1,0 / 1,6 4,10 7,8 7,0
o 5,10 1,7 1,3 5,0 8,3 8,7 5,10
p 1,10 1,-8 / 1,7 5,10 8,7 8,3 5,0 1,2
q 8,8 5,10 1,7 1,3 4,0 8,4 / 8,10 8,-8 10,-6
r 1,10 1,0 / 1,5 3,9 6,10
s 7,9 4,10 2,8 4,5 7,3 6,0 2,0 1,1
t 4,17 4,2 6,0 8,1 / 1,11 8,11
u 1,10 1,3 4,0 7,4 / 7,10 7,0
v 1,10 4,0 7,10
w 1,10 3,0 6,8 8,0 10,10
x 1,10 7,0 / 7,10 1,0
y 1,10 4,1 / 8,10 3,-8 1,-8
z 1,10 7,10 1,0 8,0
D 1,19 1,0 / 1,19 6,18 9,12 8,4 1,0
I 2,19 2,0
P 1,19 1,0 / 1,18 6,19 8,15 6,10 1,9
T 1,19 9,19 / 5,19 5,0
V 1,19 5,0 9,19
"""
LETTERS = {
    line[0]: [np.array([point.split(",") for point in stroke.split()], float) for stroke in line[1:].split("/")]
    for line in _LETTERS.strip().splitlines()
}
"""The strokes of each letter, `(points, 2)` each."""
SHARP = frozenset("ikltvwxzITV")
"""Letters whose corners stay corners."""
NOTES = ("#f4ee9c", "#f6e45c", "#f3a6a0", "#f0b8d8", "#bfe39b", "#9fc4e6", "#8fa3b3", "#f8f6ee", "#e9e2cf", "#f7b267")
PENS = ("#17171c", "#2a2f7a", "#8f1d22", "#c0392b", "#5b2a86", "#1e3fae", "#1f5a36", "#3c3c42")
SIDE = 448  # pixels of the sheet, which is then seen at half of that


def writable(word: str) -> bool:
    """Whether there are strokes for all letters of a word."""
    return all(letter in LETTERS or letter == " " for letter in word)


def strokes(word: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Write one line: points of each stroke, y upwards; the hand (slant, widths, jitter) is drawn first."""
    slant, wide, gap = rng.normal(0.05, 0.15), rng.uniform(0.75, 1.25), rng.uniform(1.5, 5)
    shake, drift, found, x = rng.uniform(0.1, 0.7), rng.normal(0, 0.04), [], 0.0
    for letter in word:
        if letter == " ":
            x += 8
            continue
        parts, tall = LETTERS[letter], rng.normal(1, 0.07)
        for part in parts:
            points = part * (wide, tall) + rng.normal(0, shake, part.shape)
            line = points if letter in SHARP else rounded(points)
            found.append(line + np.stack([x + slant * line[:, 1], drift * (x + line[:, 0])], axis=1))
        x += wide * max(part[:, 0].max() for part in parts) + gap * rng.uniform(0.7, 1.3)
    return found


def rounded(points: np.ndarray, times: int = 2) -> np.ndarray:
    """Cut the corners of a line `(N, 2)` (Chaikin), its ends stay."""
    for _ in range(times):
        first, last = points[:-1], points[1:]
        cut = np.stack([0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def sheet(word: str, aspect: float, rng: np.random.Generator) -> Image.Image:
    """Make a note with a word on it ("" leaves it blank), `SIDE` wide and `aspect` times as tall, in uneven light."""
    size = (SIDE, round(SIDE * aspect))
    picture = Image.new("RGB", size, str(rng.choice(NOTES)))
    lines = word.split(" ") if " " in word and rng.random() < 0.5 else [word] if word else []
    pen, draw = str(rng.choice(PENS)), ImageDraw.Draw(picture)
    written = [strokes(line, rng) for line in lines]
    tall = size[1] / max(len(lines), 1)
    extents = [np.concatenate(line) for line in written]
    widest = max((np.ptp(points[:, 0]) for points in extents), default=1)
    scale = min(rng.uniform(0.65, 0.92) * size[0] / (widest + 2), 0.8 * tall / 30)
    thick = max(round(scale * rng.uniform(0.8, 2.4)), 3)
    for number, (line, points) in enumerate(zip(written, extents, strict=True)):
        low, high = points.min(0), points.max(0)
        left = (size[0] - scale * (high[0] - low[0])) / 2
        middle = tall * (number + 0.5) + scale * (high[1] + low[1]) / 2
        for stroke in line:
            at = [(left + scale * (x - low[0]), middle - scale * y) for x, y in stroke]
            draw.line(at, fill=pen, width=thick, joint="curve")
            for x, y in (at[0], at[-1]):
                draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=pen)
    return picture


def stick_note(picture: Tensor, word: str, rng: np.random.Generator, width: tuple[float, float]) -> Tensor:
    """Stick a handwritten note on a picture `(3, H, W)`, seen at an angle; its width is a share of the picture's."""
    side, aspect, hand = picture.shape[1], float(rng.uniform(0.45, 1.0)), np.random.default_rng(rng.integers(2**32))
    note = torch.from_numpy(np.asarray(sheet(word, aspect, hand), np.float32).transpose(2, 0, 1) / 255)
    canvas = torch.zeros(4, 2 * side, 2 * side)
    canvas[:3, : note.shape[1], : note.shape[2]], canvas[3, : note.shape[1], : note.shape[2]] = note, 1.0
    ramp = torch.linspace(-1, 1, 2 * side) * float(rng.normal(0, 0.08))
    canvas[:3] = (canvas[:3] * (float(rng.uniform(0.65, 1.02)) + ramp)).clamp(0, 1)
    wide = float(rng.uniform(*width)) * 2 * side
    middle = rng.uniform(wide / 2, 2 * side - wide / 2, 2)
    turn = rng.normal(0, 0.15)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = np.array([(-1, -aspect), (1, -aspect), (1, aspect), (-1, aspect)]) * wide / 2
    corners = corners @ rotation.T + rng.normal(0, 0.05 * wide, (4, 2)) + middle
    start = [[0, 0], [note.shape[2], 0], [note.shape[2], note.shape[1]], [0, note.shape[1]]]
    seen = avg_pool2d(perspective(canvas, start, corners.round().astype(int).tolist(), fill=[0.0] * 4), 2)
    return picture * (1 - seen[3]) + seen[:3]
