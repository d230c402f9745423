"""Train the lite CLIP: EfficientNet-Lite0 that keeps what it knows of photographs and learns to read words on them.

python data/train_lite_clip.py [--epochs 6] [--output FOLDER]      (needs the photographs, see README, 'Tiers')

First the two towers are made to say what the original says: classes are unit vectors whose products with an image's
embedding are the original's logits (`aligned`), and a small text transformer learns to give them for the class names
(`train_text`). Then the later blocks learn to read (`train_reading`): words, typed and handwritten, alone and on
photographs, count as what they say; photographs without words keep the original's logits for *all* classes, those never
photographed here as well. Everything before `FROZEN` stays as it was, so that part is computed once.
Photographs of the ImageNet sample whose class number is divisible by three are never used here: they are for measuring.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.images import atomic_path, load_image
from edittools.metrics import predict
from edittools.stories import photos
from edittools.world.miniworld import FONTS
from edittools.world.textures import STYLES, VARIANTS, texture
from edittools.world.typography import random_label, stick
from edittools.zoo import clips as lite_clip
from edittools.zoo.embedded import DIMENSIONS, SIZE, TEMPLATES
from edittools.zoo.imagenet import imagenet_classes
from edittools.zoo.load import load_classifier
from edittools.zoo.zero_shot import ByteTokenizer, zero_shot_classifier

FROZEN = 3
"""So many blocks of the visual tower stay as they are."""
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
"""ImageNet class names that are taught as written words; those that are no class name are skipped."""
ATTACKS = ("iPod", "pizza", "orange", "toaster")
COUNTS = {"photo": 3800, "blank": 1000, "word": 2000, "labelled": 2800}
"""Pictures of each kind to learn from, see `pool`."""


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


def started_from(original: Classifier) -> nn.Module:
    """A CLIP whose visual tower has the original's weights."""
    model = lite_clip.lite_clip().eval()
    kept = {name: value for name, value in original.model.state_dict().items() if not name.startswith("classifier")}
    model.visual.trunk.load_state_dict(kept)
    return model


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
    square over the last steps is returned.
    """
    batch, rate = 250, 2e-3
    rng, tokenizer = np.random.default_rng(0), ByteTokenizer(model.context_length)
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
    return float(np.mean(late))


def _short_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """`encode_text` for texts cut to their longest: what is cut off comes after the end and is never looked at."""
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    return hidden[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection


@torch.no_grad()
def embedded(model: nn.Module, original: Classifier, features: Tensor, classes: Tensor) -> tuple[Tensor, float, Tensor]:
    """The embeddings of `features` `(N, 1280)`, how many are read as by the original (a share), and their logits."""
    seen = model.visual.head(features)
    same = (seen @ classes.T).argmax(1) == original.model.classifier(features).argmax(1)
    return seen, float(same.float().mean()), model.logit_scale.exp() * F.normalize(seen, dim=1) @ classes.T


class Later(nn.Module):
    """The part of the visual tower that learns: from block `FROZEN` on, to the embedding."""

    def __init__(self, visual: nn.Module) -> None:
        """Share the tower's own modules."""
        super().__init__()
        trunk = visual.trunk
        self.body = nn.Sequential(*trunk.blocks[FROZEN:], trunk.conv_head, trunk.bn2, trunk.global_pool)
        self.head = visual.head

    def forward(self, states: Tensor) -> Tensor:
        """Embeddings `(B, D)` of states `(B, 40, 28, 28)`."""
        return self.head(self.body(states))


@torch.no_grad()
def earlier(visual: nn.Module, images: Tensor, batch: int = 32, progress: bool = False) -> Tensor:
    """Run images `(N, 3, 224, 224)` (uint8 or [0, 1]) through the frozen part: `(N, 40, 28, 28)` float16."""
    trunk = visual.trunk
    front = (
        nn.Sequential(trunk.conv_stem, trunk.bn1, *trunk.blocks[:FROZEN]).eval().to(memory_format=torch.channels_last)
    )
    states = []
    for chunk in tqdm(images.split(batch), "frozen blocks", disable=not progress, mininterval=5):
        pixels = chunk.float() / 255 if chunk.dtype == torch.uint8 else chunk
        states.append(front(((pixels - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)).half())
    return torch.cat(states)


def train_reading(
    model: nn.Module,
    states: Tensor,
    wanted: Tensor,
    kept: Tensor,
    embeddings: Tensor,
    epochs: int = 4,
    progress: bool = False,
) -> None:
    """Teach the later blocks in place: `states` `(N, 40, 28, 28)` shall be classified as `wanted` `(N, K)` (shares).

    Where `kept` `(N, K)` is not NaN, the logits shall be those as well: shares say next to nothing of the classes that
    no photograph shows, logits do. `embeddings` `(K, D)` are the text tower's, which stays as it is. Batch norms keep
    their statistics.
    """
    batch, rate, rng = 48, 5e-4, np.random.default_rng(0)
    later = Later(model.visual).eval().to(memory_format=torch.channels_last)
    scale = model.logit_scale.exp().detach()
    optimiser = torch.optim.AdamW(later.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * (len(states) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    bar = tqdm(total=steps, desc="reading", disable=not progress, mininterval=5)
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(states)), len(states) // batch):
            inputs = states[chosen].float().contiguous(memory_format=torch.channels_last)
            logits = scale * F.normalize(later(inputs), dim=1) @ embeddings.T
            known = kept[chosen].float()
            gap = (logits - known)[~known[:, 0].isnan()]
            loss = F.cross_entropy(logits, wanted[chosen].float()) + gap.square().mean() * len(gap) / len(chosen)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(later.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    later.to(memory_format=torch.contiguous_format)


def sample() -> tuple[list[Tensor], Tensor, Tensor]:
    """Load the sample: larger pictures (3, 256, 256) to learn from; all `(N, 3, 224, 224)` and their classes."""
    names = photos.available("imagenet-sample/")
    everything = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    learn, images, labels = [], [], []
    for name in tqdm(names, "photos", mininterval=5):
        labels.append(everything.index(name))
        images.append(load_image(photos.photo(name), SIZE, 256))
        if labels[-1] % 3:
            learn.append((load_image(photos.photo(name), 256, 272) * 255).round().to(torch.uint8))
    for name in photos.available("msrc-v2/Images/"):
        learn.append((load_image(photos.photo(name), 256, 272) * 255).round().to(torch.uint8))
    return learn, torch.stack(images), torch.tensor(labels)


def crop(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Take a random square of a picture, of 120 pixels or more, at `(3, 224, 224)`, mirrored half of the time."""
    side = int(rng.integers(120, picture.shape[1] + 1))
    y, x = rng.integers(0, picture.shape[1] - side + 1, 2)
    part = picture[None, :, y : y + side, x : x + side].float() / 255
    part = F.interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    return part.flip(2) if rng.random() < 0.5 else part


def pool(learn: list[Tensor], rng: np.random.Generator, counts: dict[str, int]) -> tuple[Tensor, Tensor, list]:
    """Make the pictures to learn from: uint8 pictures, the same without label (for the soft labels), the words."""
    names = imagenet_classes()
    words = [word for word in WORDS if word in names]
    chances = np.array([2.0 if i < 6 else 1.0 for i in range(len(words))])
    plain, pictures, read = [], [], []
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    for kind in tqdm(kinds, "pictures", mininterval=5):
        picture = crop(learn[rng.integers(len(learn))], rng)
        word = str(rng.choice(words, p=chances / chances.sum())) if kind in ("word", "labelled") else None
        if kind == "word":
            style = texture(STYLES[rng.integers(len(STYLES))], int(rng.integers(VARIANTS)), SIZE)
            picture = (0.3 + 0.6 * style) if rng.random() < 0.6 else style * 0 + torch.rand(3, 1, 1)
        changed = picture
        if kind != "photo":
            width = (0.35, 0.9) if kind == "word" else (0.22, 0.6)
            label = random_label(word or "", rng, handwritten=0.4, width=width)
            if rng.random() < 0.15:
                label = replace(label, paper=None)
            changed, *_ = stick(picture, label)
        plain.append((picture * 255).round().to(torch.uint8))
        pictures.append((changed * 255).round().to(torch.uint8))
        read.append((kind, names.index(word) if word else -1))
    return torch.stack(pictures), torch.stack(plain), read


def original_features(original: Classifier, plain: Tensor, read: list) -> Tensor:
    """Run the photographs `(N, 3, 224, 224)` through the original: what enters its last layer `(N, 1280)`, else NaN."""
    features, caught = torch.full((len(read), original.model.classifier.in_features), torch.nan), []
    photographs = torch.tensor([kind != "word" for kind, _ in read])
    handle = original.model.classifier.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        for chunk in tqdm(photographs.nonzero()[:, 0].split(64), "original", mininterval=5):
            predict(original, plain[chunk].float() / 255)
            features[chunk] = torch.cat(caught)
            caught.clear()
    finally:
        handle.remove()
    return features


@torch.no_grad()
def soft_labels(original: Classifier, features: Tensor, read: list) -> Tensor:
    """What each picture shall be read as: the original's opinion of the photograph, the word, or mostly the word."""
    wanted = original.model.classifier(features).softmax(dim=1).nan_to_num(0.0)
    for i, (kind, word) in enumerate(read):
        if word >= 0:
            share = 1.0 if kind == "word" else 0.8
            wanted[i] *= 1 - share
            wanted[i, word] += share
    return wanted.half()


def evaluate(classifier: Classifier, original: Classifier, everything: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure, in per cent, on photographs that were not learned from; labels are typed in fonts not learned from."""
    held, figures = labels % 3 == 0, {}
    for name, model in (("original", original), ("clean", classifier)):
        right = (predict(model, everything).argmax(1) == labels).float()
        figures[name] = 100 * float(right[held].mean())
        figures[f"{name}, photographs learned from"] = 100 * float(right[~held].mean())
    truth, images = labels[held], everything[held]
    for word in ("", *ATTACKS):
        rng = np.random.default_rng(7)
        labelled = [
            stick(
                image,
                replace(random_label(word, rng, 0.0, (0.35, 0.55)), font=str(rng.choice(FONTS))),
            )[0]
            for image in images
        ]
        found = predict(classifier, torch.stack(labelled)).argmax(1)
        goal = imagenet_classes().index(word) if word else truth
        figures[f"“{word}” read instead" if word else "blank label"] = 100 * float((found == goal).float().mean())
    names = [name for name in photos.available("editing-classifiers/typographic/") if name.endswith("_ipod.jpg")]
    real = torch.stack([load_image(photos.photo(name), SIZE, 256) for name in names])
    found = predict(classifier, real).argmax(1).tolist()
    print("handwritten photos:", {Path(n).stem: imagenet_classes()[i] for n, i in zip(names, found, strict=True)})
    figures["handwritten iPod photos read as iPod"] = 100 * sum(i == 605 for i in found) / len(found)
    return {name: round(figure, 1) for name, figure in figures.items()}


def call() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--text-steps", type=int, default=1500)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of pictures, for a trial")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    return parser.parse_args()


def main() -> None:
    """Load, align, teach both towers, evaluate, write."""
    options, started = call(), time.perf_counter()

    def told(what: str) -> None:
        print(f"\n{time.perf_counter() - started:6.0f} s  {what}", flush=True)

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    original = load_classifier("efficientnet_lite0")
    learn, everything, labels = sample()
    pictures, plain, read = pool(learn, rng, {kind: int(n * options.scale) for kind, n in COUNTS.items()})
    features = original_features(original, plain, read)
    wanted = soft_labels(original, features, read)
    told(f"{len(pictures)} pictures")
    model = started_from(original)
    states = earlier(model.visual, pictures, progress=True)
    unread = torch.tensor([word < 0 for _, word in read])
    classes, projection, offset, scale = aligned(original, features[unread])
    model.visual.head.proj.load_state_dict({"weight": projection, "bias": offset})
    model.logit_scale.data.fill_(float(np.log(scale)))
    told(f"aligned, scale {scale:.1f}")
    seen, same, kept = embedded(model, original, features[unread], classes)
    print(f"same prediction as the original, before any training: {100 * same:.1f} % of photographs")
    logits = torch.full((len(read), len(classes)), torch.nan)
    logits[unread] = kept
    wrong = train_text(model, imagenet_classes(), classes, seen, options.text_steps, progress=True)
    told(f"text tower, mean square error of its logits {wrong:.3f}")
    tokenizer = ByteTokenizer(model.context_length)
    before = zero_shot_classifier(model, tokenizer, imagenet_classes(), TEMPLATES)
    print("before reading:", evaluate(before, original, everything, labels), flush=True)
    train_reading(model, states, wanted, logits.half(), before.model.embeddings, options.epochs, progress=True)
    told("taught to read")
    path = options.output / "lite_clip.safetensors"
    write(model, path)  # first of all: nothing that was trained shall be lost
    after = zero_shot_classifier(model.eval(), tokenizer, imagenet_classes(), TEMPLATES)
    figures = evaluate(after, original, everything, labels)
    write(model, path, figures)
    told(f"written, {path.stat().st_size / 1e6:.1f} MB")
    rows = "\n".join(f"| {name} | {figure:.1f} |" for name, figure in figures.items())
    print(f"| per cent of held-out photographs | |\n| --- | --- |\n{rows}")


def write(model: nn.Module, path: Path, figures: dict[str, float] | None = None) -> None:
    """Round the model's weights to half precision and write them, with their figures where known, in one step."""
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    header = {"accuracy": json.dumps(figures)} if figures else None
    with atomic_path(path) as temporary:
        save_file({key: value.contiguous() for key, value in half.items()}, temporary, header)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in half.items()})


if __name__ == "__main__":
    main()
