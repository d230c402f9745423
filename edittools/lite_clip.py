"""A CLIP on a real backbone: EfficientNet-Lite0 with ImageNet weights as the visual tower, taught to read.

First the two towers are made to say what the original says: classes are unit vectors whose products with an image's
embedding are the original's logits (`aligned`), and a small text transformer learns to give them for the class names
(`train_text`). Then the later blocks learn to read (`train_reading`): words, typed and handwritten, alone and on
photographs, count as what they say; photographs without words keep the original's logits for *all* classes, those never
photographed here as well. Everything before `FROZEN` stays as it was, so that part is computed once.
`data/train_lite_clip.py` follows the recipe.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools.models import Classifier
from edittools.zero_shot import ByteTokenizer

SIZE, DIMENSIONS, FROZEN = 224, 256, 3
TEMPLATES = ("a photo of a {}.", "{}")
WORDS = (
    "iPod", "pizza", "orange", "toaster", "library", "teapot", "vase", "lemon", "banana", "strawberry", "pineapple",
    "broccoli", "mushroom", "goldfish", "ostrich", "flamingo", "koala", "tiger", "lion", "zebra", "hippopotamus",
    "gorilla", "accordion", "violin", "drum", "flute", "harp", "airliner", "balloon", "barn", "castle", "palace",
    "church", "basketball", "volleyball", "bathtub", "bookcase", "bucket", "cannon", "canoe", "carousel", "cradle",
    "desk", "dome", "fountain", "hammer", "helmet", "jeep", "joystick", "knot", "ladle", "laptop", "lipstick",
    "microphone", "mosque", "mouse", "obelisk", "paddle", "pillow", "plow", "purse", "racket", "radio", "refrigerator",
    "sandal", "screwdriver", "shovel", "sock", "submarine", "sunglasses", "tractor", "tricycle", "umbrella", "wallet",
    "whistle", "burrito", "cheeseburger", "guacamole", "bagel", "pretzel", "volcano", "valley", "seashore", "cup",
)  # fmt: skip
"""ImageNet class names that are taught as written words; those that are no class name are skipped."""


def lite_clip() -> nn.Module:
    """Build an untrained model: 5.5 million weights, of which 3.7 million in the visual tower."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(
        timm_model_name="tf_efficientnet_lite0", timm_pool="", timm_proj="linear", timm_proj_bias=True, image_size=SIZE
    )
    text = CLIPTextCfg(context_length=40, vocab_size=ByteTokenizer.vocab_size, width=DIMENSIONS, heads=4, layers=2)
    model = CLIP(embed_dim=DIMENSIONS, vision_cfg=vision, text_cfg=text)
    model.visual.image_mean, model.visual.image_std = (0.5,) * 3, (0.5,) * 3
    return model


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


def start_from(model: nn.Module, original: Classifier, projection: Tensor, offset: Tensor, scale: float) -> None:
    """Give the visual tower the original's weights and the projection."""
    kept = {name: value for name, value in original.model.state_dict().items() if not name.startswith("classifier")}
    model.visual.trunk.load_state_dict(kept)
    model.visual.head.proj.load_state_dict({"weight": projection, "bias": offset})
    model.logit_scale.data.fill_(float(np.log(scale)))


def train_text(
    model: nn.Module,
    class_names: Sequence[str],
    targets: Tensor,
    seen: Tensor,
    steps: int = 1200,
    batch: int = 250,
    rate: float = 2e-3,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Teach the text tower to give `targets` `(K, D)` for the class names in any template.

    What counts is what the classes say of images: the error of the logits on embeddings `seen` `(N, D)`, whose mean
    square over the last steps is returned.
    """
    rng, tokenizer = np.random.default_rng(seed), ByteTokenizer(model.context_length)
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


class Later(nn.Module):
    """The part of the visual tower that learns: from block `FROZEN` on, to the embedding."""

    def __init__(self, visual: nn.Module) -> None:
        """Share the tower's own modules."""
        super().__init__()
        trunk = visual.trunk
        self.body = nn.Sequential(*trunk.blocks[FROZEN:], trunk.conv_head, trunk.bn2, trunk.global_pool)
        self.head = visual.head

    def forward(self, states: Tensor) -> Tensor:
        """Give embeddings `(B, D)` of states `(B, 40, 28, 28)`."""
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
    rate: float = 5e-4,
    batch: int = 48,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Teach the later blocks in place: `states` `(N, 40, 28, 28)` shall be classified as `wanted` `(N, K)` (shares).

    Where `kept` `(N, K)` is not NaN, the logits shall be those as well: shares say next to nothing of the classes that
    no photograph shows, logits do. `embeddings` `(K, D)` are the text tower's, which stays as it is. Batch norms keep
    their statistics.
    """
    rng = np.random.default_rng(seed)
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
