"""Train the lite CLIP: EfficientNet-Lite0 that keeps what it knows of photographs, with a reader of words beside it.

python data/train_lite_clip.py [--epochs 4] [--output FOLDER]      (needs the photographs, see README, 'Tiers')
python data/train_lite_clip.py --measure                           (the figures of the weights that are there)

First the two towers are made to say what the original says: classes are unit vectors whose products with an image's
embedding are the original's logits (`aligned`), and a small text transformer learns to give them for the class names
(`train_text`). The visual tower stays as it is from then on. Then the reader learns (`train_reading`), which starts as
a copy of the tower's middle blocks: words, typed and handwritten, alone and on photographs, count as what they say;
on photographs without words, and on mixtures of two, it shall add nothing to the logits of *all* classes. Last, how
loud it is (`loudness`) is chosen on photographs of the classes 1, 10, 19, … that nothing was learned from. Photographs
of the ImageNet sample whose class number is divisible by three, and RTA-100's, are never used here: they are for
measuring.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hands import stick_note, writable
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.images import atomic_path, load_image
from edittools.metrics import predict
from edittools.stories import photos
from edittools.stories.rta import rta_objects, rta_photos
from edittools.world.miniworld import FONTS
from edittools.world.textures import STYLES, VARIANTS, texture
from edittools.world.typography import random_label, stick
from edittools.zoo.embedded import (
    DIMENSIONS,
    Reader,
    ReadingTower,
    lite_clip,
    lite_tokenizer,
    lite_weights,
    put_lite_weights,
)
from edittools.zoo.embedded import LITE_SIZE as SIZE
from edittools.zoo.embedded import LITE_TEMPLATES as TEMPLATES
from edittools.zoo.imagenet import imagenet_classes
from edittools.zoo.load import load_classifier
from edittools.zoo.packing import unpacked
from edittools.zoo.zero_shot import zero_shot_classifier

WORDS = tuple(
    """
    iPod pizza orange toaster library teapot vase lemon banana strawberry pineapple broccoli mushroom goldfish ostrich
    flamingo koala tiger lion zebra hippopotamus gorilla accordion violin drum flute harp airliner balloon barn castle
    palace church basketball volleyball bathtub bookcase bucket cannon canoe carousel cradle desk dome fountain hammer
    helmet jeep joystick knot ladle laptop lipstick microphone mosque mouse obelisk paddle pillow plow purse
    racket radio refrigerator sandal screwdriver shovel sock submarine sunglasses tractor tricycle umbrella wallet
    whistle burrito cheeseburger guacamole bagel pretzel volcano valley seashore cup
    """.split()
)
"""ImageNet class names that are taught as written words more often than others; those that are none are skipped."""
ATTACKS = ("iPod", "pizza", "orange", "toaster")
COUNTS = {"photo": 3000, "mixed": 2000, "blank": 1000, "word": 2500, "labelled": 7500}
"""Pictures of each kind to learn from, see `pool`."""
WORD = 0.9
"""Chance that a picture with a word on it shall be read as that word; else as what it shows."""
GAINS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""How loud the reader may be, times as it was taught."""
WIDE = (0.18, 0.6)
"""How wide the note on a photograph is, as a share of it."""


def vocabulary() -> tuple[list[str], list[list[int]], np.ndarray]:
    """The words that are written, the numbers of the classes that each stands for, and how often each is drawn.

    Half of the words drawn are names of RTA-100's objects, a fifth the `ATTACKS`, a fifth `WORDS`, and the rest any
    class name of one or two words and at most twelve letters.
    """
    names = imagenet_classes()
    short = [name for name in names if len(name) <= 12 and name.count(" ") < 2 and writable(name)]
    objects = {thing.replace("-", " "): [names.index(n) for n in found] for thing, found in rta_objects().items()}
    kinds = [(objects, 0.5)]
    for some, share in ((ATTACKS, 0.2), (WORDS, 0.2), (short, 0.1)):
        kinds.append(({word: [names.index(word)] for word in some if word in names}, share))
    words = [word for found, _ in kinds for word in found]
    chances = np.concatenate([np.full(len(found), share / len(found)) for found, share in kinds])
    return words, [classes for found, _ in kinds for classes in found.values()], chances / chances.sum()


@torch.no_grad()
def aligned(original: Classifier, features: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Find unit class vectors and a projection of the features that give the original's logits as scaled cosines.

    `features` `(N, 1280)` of photographs say which directions matter: the head, centred over classes (which softmax
    ignores), is cut to `DIMENSIONS` - 2 of them. The two that are left hold the bias, and what each class vector lacks
    to the common length, where images are 0. Gives classes `(K, D)`, projection `(D, 1280)`, bias `(D,)` and the scale.
    """
    head = original.model.classifier
    weight, bias = head.weight - head.weight.mean(0), head.bias - head.bias.mean()
    moment = features.T.double() @ features.double() / len(features)
    values, vectors = torch.linalg.eigh(moment + 1e-2 * moment.diagonal().mean() * torch.eye(len(moment)))
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    u, s, vt = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    kept = DIMENSIONS - 2
    classes = torch.cat([u[:, :kept] * s[:kept], bias[:, None].double()], dim=1)
    length = classes.norm(dim=1)
    classes = torch.cat([classes, (length.max() ** 2 - length**2).clamp_min(0).sqrt()[:, None]], dim=1) / length.max()
    projection = torch.zeros(DIMENSIONS, features.shape[1], dtype=torch.float64)
    projection[:kept] = vt[:kept] @ inverse
    offset = torch.zeros(DIMENSIONS, dtype=torch.float64)
    offset[kept] = 1.0
    sizes = (features.double() @ projection.T + offset).norm(dim=1)
    return classes.float(), projection.float(), offset.float(), float(length.max() * sizes.median())


@torch.no_grad()
def align(model: nn.Module, original: Classifier, features: Tensor) -> tuple[Tensor, Tensor]:
    """Give a CLIP with the original's trunk the head and the scale with which it says what the original says.

    Gives the class vectors `(K, D)` that its text tower shall learn, and the embeddings of `features` `(N, 1280)`;
    prints how many are read as by the original.
    """
    classes, projection, offset, scale = aligned(original, features)
    model.visual.head.proj.load_state_dict({"weight": projection, "bias": offset})
    model.logit_scale.data.fill_(float(np.log(scale)))
    seen = model.visual.head(features)
    same = (seen @ classes.T).argmax(1) == original.model.classifier(features).argmax(1)
    print(f"same prediction as the original, before any training: {100 * same.float().mean():.1f} % of photographs")
    return classes, seen


def train_text(
    model: nn.Module,
    class_names: Sequence[str],
    targets: Tensor,
    seen: Tensor,
    steps: int = 1200,
    progress: bool = False,
) -> float:
    """Teach the text tower to give `targets` `(K, D)` for the class names in any template.

    What counts is what the classes say of images: the error of the logits on embeddings `seen` `(N, D)`, whose mean
    square over the last steps is returned. Last, the projection of the text is solved for.
    """
    batch, rate = 250, 1e-3
    rng, tokenizer = np.random.default_rng(0), lite_tokenizer()
    by_length = np.argsort([len(name) for name in class_names], kind="stable")  # texts of a batch are about as long
    parameters = [p for name, p in model.named_parameters() if not name.startswith(("visual", "logit_scale"))]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    seen, scale, late = F.normalize(seen, dim=1), model.logit_scale.exp().detach(), []
    for step in tqdm(range(steps), "text tower", disable=not progress, mininterval=5):
        chosen = np.roll(by_length, rng.integers(len(class_names)))[:batch]
        tokens = tokenizer([TEMPLATES[rng.integers(len(TEMPLATES))].format(class_names[i]) for i in chosen])
        tokens = tokens[:, : int((tokens != 0).sum(dim=1).max())]
        with torch.autocast("cpu", torch.bfloat16):
            given = _short_text(model, tokens)
        gap = F.normalize(given.float(), dim=1) - targets[chosen]
        wrong = (scale * gap @ seen[rng.choice(len(seen), 128)].T).square().mean()
        loss = wrong + gap.square().sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        late += [wrong.item()] if step >= steps - 50 else []
    solve_projection(model, class_names, targets)
    return float(np.mean(late))


@torch.no_grad()
def solve_projection(model: nn.Module, class_names: Sequence[str], targets: Tensor) -> None:
    """Put the text projection in place that maps the names in all templates to `targets` `(K, D)`, least squares.

    All weights are rounded before, as `write` rounds them, so the projection makes good for what is lost.
    """
    model.load_state_dict(unpacked(lite_weights(model)), strict=False)
    tokens = lite_tokenizer()([template.format(name) for template in TEMPLATES for name in class_names])
    model.text_projection.data = torch.eye(len(model.text_projection))
    hidden = torch.cat([_short_text(model, chunk) for chunk in tokens.split(250)]).double()
    moment = hidden.T @ hidden
    ridge = 1e-4 * moment.diagonal().mean() * torch.eye(len(moment))
    wanted = targets.repeat(len(TEMPLATES), 1).double()
    model.text_projection.data = torch.linalg.solve(moment + ridge, hidden.T @ wanted).float()


def _short_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """`encode_text` for texts cut to their longest: what is cut off comes after the end and is never looked at."""
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    return hidden[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection


@torch.no_grad()
def looked(tower: ReadingTower, images: Tensor, batch: int = 32, progress: bool = False) -> tuple[Tensor, Tensor]:
    """Run images `(N, 3, 224, 224)` (uint8 or [0, 1]) through what does not learn.

    Gives what enters the reader `(N, 40, 28, 28)`, in half precision, and the trunk's features `(N, 1280)`.
    """
    tower, states, features = copy.deepcopy(tower).eval().to(memory_format=torch.channels_last), [], []
    for chunk in tqdm(images.split(batch), "trunk", disable=not progress, mininterval=5):
        pixels = chunk.float() / 255 if chunk.dtype == torch.uint8 else chunk
        common = tower.front(((pixels - 0.5) / 0.5).contiguous(memory_format=torch.channels_last))
        states.append(common.half())
        features.append(tower.seen(common))
    return torch.cat(states), torch.cat(features)


def train_reading(
    model: nn.Module,
    states: Tensor,
    seen: Tensor,
    wanted: Tensor,
    kept: Tensor,
    embeddings: Tensor,
    epochs: int = 4,
    progress: bool = False,
) -> None:
    """Teach the reader in place: `states` `(N, 40, 28, 28)` shall be classified as `wanted` `(N, K)` (shares).

    `seen` `(N, D)` is what the trunk makes of the same pictures. Where `kept` `(N, K)` is not NaN, the logits shall be
    those as well: shares say next to nothing of the classes that no photograph shows, and of what a word hides; logits
    do. `embeddings` `(K, D)` are the text tower's. Batch norms keep their statistics.
    """
    batch, rate, rng = 48, 5e-4, np.random.default_rng(0)
    reader = model.visual.reader.eval().to(memory_format=torch.channels_last)
    scale, fresh = model.logit_scale.exp().detach(), [*reader.conv.parameters(), *reader.proj.parameters()]
    groups = [{"params": reader.blocks.parameters()}, {"params": fresh}]
    optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=0.02)
    steps = epochs * (len(states) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [rate, 2 * rate], total_steps=steps, pct_start=0.1)
    bar = tqdm(total=steps, desc="reading", disable=not progress, mininterval=5)
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(states)), len(states) // batch):
            inputs = states[chosen].float().contiguous(memory_format=torch.channels_last)
            logits = scale * F.normalize(seen[chosen] + reader(inputs), dim=1) @ embeddings.T
            known = kept[chosen].float()
            gap = (logits - known).nan_to_num(0.0)
            loss = F.cross_entropy(logits, wanted[chosen].float()) + 2 * gap.square().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reader.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    reader.to(memory_format=torch.contiguous_format)


def sample() -> tuple[list[Tensor], Tensor, Tensor]:
    """Load the sample: larger pictures (3, 256, 256) to learn from; all `(N, 3, 224, 224)` and their classes."""
    names = photos.available("imagenet-sample/")
    everything = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    learn, images, labels = [], [], []
    for name in tqdm(names, "photos", mininterval=5):
        labels.append(everything.index(name))
        images.append(load_image(photos.photo(name), SIZE, 256))
        if labels[-1] % 3 and not chooses(labels[-1]):
            learn.append((load_image(photos.photo(name), 256, 272) * 255).round().to(torch.uint8))
    for name in photos.available("msrc-v2/Images/"):
        learn.append((load_image(photos.photo(name), 256, 272) * 255).round().to(torch.uint8))
    return learn, torch.stack(images), torch.tensor(labels)


def chooses(label: Tensor | int) -> Tensor | bool:
    """Whether photographs of a class choose how loud the reader is: nothing is learned from them."""
    return label % 9 == 1


def crop(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Take a random square of a picture, of 120 pixels or more, at `(3, 224, 224)`, mirrored half of the time."""
    side = int(rng.integers(120, picture.shape[1] + 1))
    y, x = rng.integers(0, picture.shape[1] - side + 1, 2)
    part = picture[None, :, y : y + side, x : x + side].float() / 255
    part = F.interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    return part.flip(2) if rng.random() < 0.5 else part


def mixed(first: Tensor, second: Tensor, rng: np.random.Generator) -> Tensor:
    """Two pictures as one: blended, or one beside the other."""
    if rng.random() < 0.5:
        return torch.lerp(first, second, float(rng.uniform(0.25, 0.75)))
    at = int(rng.integers(SIZE // 4, 3 * SIZE // 4))
    return torch.cat([first[:, :, :at], second[:, :, at:]], dim=2)


def labelled(picture: Tensor, word: str, rng: np.random.Generator, width: tuple[float, float]) -> Tensor:
    """Write a word on a picture: on a note by hand, else typed or along the letters of a font."""
    if rng.random() < 0.6 and writable(word):
        return stick_note(picture, word, rng, width)
    label = random_label(word, rng, handwritten=0.2, width=width)
    return stick(picture, replace(label, paper=None) if rng.random() < 0.15 else label)[0]


def pool(learn: list[Tensor], rng: np.random.Generator, counts: dict[str, int]) -> tuple[Tensor, list]:
    """Make the pictures to learn from, uint8, and pairs of the kind of each and of the classes that are written.

    The latter is an empty list where there is no word.
    """
    words, classes, chances = vocabulary()
    kinds, read = [kind for kind, count in counts.items() for _ in range(count)], []
    pictures = torch.empty(len(kinds), 3, SIZE, SIZE, dtype=torch.uint8)
    for number, kind in enumerate(tqdm(kinds, "pictures", mininterval=5)):
        picture, drawn = crop(learn[rng.integers(len(learn))], rng), int(rng.choice(len(words), p=chances))
        written = kind in ("word", "labelled")
        if kind == "word":
            style = texture(STYLES[rng.integers(len(STYLES))], int(rng.integers(VARIANTS)), SIZE)
            picture = (0.3 + 0.6 * style) if rng.random() < 0.6 else style * 0 + torch.rand(3, 1, 1)
        elif kind == "mixed":
            picture = mixed(picture, crop(learn[rng.integers(len(learn))], rng), rng)
        if written or kind == "blank":
            picture = labelled(picture, words[drawn] if written else "", rng, (0.35, 0.9) if kind == "word" else WIDE)
        pictures[number] = (picture * 255).round().to(torch.uint8)
        read.append((kind, classes[drawn] if written else []))
    return pictures, read


def targets(logits: Tensor, read: list) -> tuple[Tensor, Tensor]:
    """From what the trunk says of pictures `(N, K)`: the shares and the logits that they shall have, `(N, K)` each.

    Where a word is written its classes have most of the share, and no logits to keep (NaN); of a word alone nothing is
    kept.
    """
    wanted, kept = logits.softmax(dim=1), logits.half()
    for i, (kind, classes) in enumerate(read):
        if classes:
            share = 1.0 if kind == "word" else WORD
            wanted[i] *= 1 - share
            wanted[i, classes] += share / len(classes)
            kept[i, classes if kind == "labelled" else slice(None)] = torch.nan
    return wanted.half(), kept


@torch.no_grad()
def loudness(model: nn.Module, embeddings: Tensor, images: Tensor, labels: Tensor) -> dict[float, list[float]]:
    """Make the reader as loud, in place, as is best on photographs `(N, 3, 224, 224)` of what their `labels` say.

    Best is the highest sum of three shares: photographs that are read rightly, words written on them that are read, and
    photographs that are read rightly below the word, while that is no choice. Gives the three by gain.
    """
    rng, (words, classes, chances), tower = np.random.default_rng(5), vocabulary(), model.visual
    drawn = rng.choice(len(words), len(images), p=chances)
    attacked = torch.stack([labelled(im, words[i], rng, WIDE) for im, i in zip(images, drawn, strict=True)])
    written = torch.zeros(len(images), len(embeddings), dtype=torch.bool)
    for row, word in zip(written, drawn, strict=True):
        row[classes[word]] = True
    looks = [looked(tower, some) for some in (images, attacked)]
    parts, found = [(tower.head(features), tower.reader(states.float())) for states, features in looks], {}
    for gain in (0.0, *GAINS):
        bare, stuck = ((look + gain * word) @ embeddings.T for look, word in parts)
        word = written.gather(1, stuck.argmax(1, keepdim=True))
        below = stuck.masked_fill(written, -torch.inf).argmax(1) == labels
        found[gain] = [float(share.float().mean()) for share in (bare.argmax(1) == labels, word, below)]
    tower.reader.proj.weight.mul_(max(GAINS, key=lambda gain: sum(found[gain])))
    return found


def evaluate(classifier: Classifier, original: Classifier, everything: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure, in per cent, on photographs that were not learned from; labels are typed in fonts not learned from."""
    held, learned, figures = labels % 3 == 0, (labels % 3 > 0) & ~chooses(labels), {}
    notes = rta_photos(original)
    for name, model in (("original", original), ("clean", classifier)):
        right = (predict(model, everything).argmax(1) == labels).float()
        figures[name] = 100 * float(right[held].mean())
        figures[f"{name}, photographs learned from"] = 100 * float(right[learned].mean())
        logits = predict(model, notes.images)
        figures[f"{name}, objects of RTA-100, the word no choice"] = 100 * float(notes.right(logits).float().mean())
        figures[f"{name}, attacks of RTA-100 read as the word"] = 100 * float(notes.fooled(logits).float().mean())
    truth, images = labels[held], everything[held]
    for word in ("", *ATTACKS):
        rng = np.random.default_rng(7)
        typed = [replace(random_label(word, rng, 0.0, (0.35, 0.55)), font=str(rng.choice(FONTS))) for _ in images]
        stuck = torch.stack([stick(image, label)[0] for image, label in zip(images, typed, strict=True)])
        goal = imagenet_classes().index(word) if word else truth
        share = 100 * float((predict(classifier, stuck).argmax(1) == goal).float().mean())
        figures[f"“{word}” read instead" if word else "blank label"] = share
    names = [name for name in photos.available("editing-classifiers/typographic/") if name.endswith("_ipod.jpg")]
    real = torch.stack([load_image(photos.photo(name), SIZE, 256) for name in names])
    found = predict(classifier, real).argmax(1).tolist()
    print("handwritten photos:", {Path(n).stem: imagenet_classes()[i] for n, i in zip(names, found, strict=True)})
    figures["handwritten iPod photos read as iPod"] = 100 * sum(i == 605 for i in found) / len(found)
    return {name: round(figure, 1) for name, figure in figures.items()}


def table(figures: dict[str, float]) -> str:
    """The figures as the table of the model card."""
    rows = "\n".join(f"| {name} | {figure:.1f} |" for name, figure in figures.items())
    return f"| per cent of held-out photographs | |\n| --- | --- |\n{rows}"


def call() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--text-steps", type=int, default=600)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of pictures, for a trial")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--measure", action="store_true", help="train nothing, measure the weights that are there")
    return parser.parse_args()


def main() -> None:
    """Load, teach both towers and the reader, choose how loud it is, evaluate, write; or evaluate only."""
    options, started = call(), time.perf_counter()

    def told(what: str) -> None:
        print(f"\n{time.perf_counter() - started:6.0f} s  {what}", flush=True)

    torch.manual_seed(0)
    original = load_classifier("efficientnet_lite0")
    learn, everything, labels = sample()
    if options.measure:
        told(table(evaluate(load_classifier("lite_clip"), original, everything, labels)))
        return
    model = taught(original, learn, options, told)
    path = options.output / "lite_clip.safetensors"
    write(model, path)  # nothing that was trained shall be lost
    named = zero_shot_classifier(model, lite_tokenizer(), imagenet_classes(), TEMPLATES).model.embeddings
    chosen = chooses(labels)
    found = loudness(model, named, everything[chosen], labels[chosen])
    told(f"by gain of the reader, of {int(chosen.sum())} photographs: read rightly, the word read, rightly below it")
    print("\n".join(f"{gain}: {' '.join(f'{share:.2f}' for share in shares)}" for gain, shares in found.items()))
    write(model, path)
    after = zero_shot_classifier(model.eval(), lite_tokenizer(), imagenet_classes(), TEMPLATES)
    figures = evaluate(after, original, everything, labels)
    write(model, path, figures)
    told(f"written, {path.stat().st_size / 1e6:.1f} MB\n{table(figures)}")


def taught(
    original: Classifier, learn: list[Tensor], options: argparse.Namespace, told: Callable[[str], None]
) -> nn.Module:
    """Make the pictures, align, teach the text tower and then the reader."""
    counts = {kind: int(n * options.scale) for kind, n in COUNTS.items()}
    pictures, read = pool(learn, np.random.default_rng(0), counts)
    told(f"{len(pictures)} pictures")
    model = lite_clip().eval()
    model.visual.trunk.load_state_dict(original.model.state_dict(), strict=False)  # all but the classifier
    model.visual.reader = Reader(model.visual.trunk.blocks).eval()
    states, features = looked(model.visual, pictures, progress=True)
    del pictures  # gigabytes
    unread = torch.tensor([not classes for _, classes in read])
    classes, seen = align(model, original, features[unread])
    wrong = train_text(model, imagenet_classes(), classes, seen, options.text_steps, progress=True)
    told(f"text tower, mean square error of its logits {wrong:.3f}")
    named = zero_shot_classifier(model, lite_tokenizer(), imagenet_classes(), TEMPLATES).model.embeddings
    with torch.no_grad():
        seen = model.visual.head(features)
        wanted, kept = targets(model.logit_scale.exp() * F.normalize(seen, dim=1) @ classes.T, read)
    train_reading(model, states, seen, wanted, kept, named, options.epochs, progress=True)
    told("taught to read")
    return model


def write(model: nn.Module, path: Path, figures: dict[str, float] | None = None) -> None:
    """Round the model's weights in place and write all but the trunk's, with figures where known, in one step."""
    weights, header = lite_weights(model), {"accuracy": json.dumps(figures)} if figures else None
    with atomic_path(path) as temporary:
        save_file(weights, temporary, header)
    put_lite_weights(model, weights)


if __name__ == "__main__":
    main()
