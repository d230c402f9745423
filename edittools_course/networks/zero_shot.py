"""Make zero-shot classifiers: an open_clip model and class names make a `Classifier` like every other.

The text embeddings are computed once and cached. The visual tower is cut, edited, and fine-tuned; its layers
are named `visual.…` (the paper edits the last convolution of a bottleneck, `conv3`).
"""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from edittools._progress import Progress, bar_of
from edittools._storage import digest_tensors
from edittools.classifiers import Classifier, fingerprint
from edittools.models.imagenet import imagenet_classes
from edittools_course.caching import load_or_compute

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "a {} on a table.")
"""The prompts of each class name; their embeddings are averaged (prompt ensembling)."""


class ByteTokenizer:
    """Encode texts as their UTF-8 bytes, for the small text towers of this project, so that no word is unknown.

    Token 256 starts a text, 257 ends it (open_clip takes the embedding there), and 0 fills up.

    Args:
        length: number of tokens of a text; longer texts are cut.
    """

    vocab_size = 258

    def __init__(self, length: int = 40) -> None:
        self.length = length

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return the tokens of one or several texts, `(N, length)` int64."""
        texts = [texts] if isinstance(texts, str) else texts
        tokens = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            encoded = [256, *text.encode()[: self.length - 2], 257]
            row[: len(encoded)] = torch.tensor(encoded)
        return tokens


class ZeroShot(nn.Module):
    """Classify images by the scaled cosines between their embeddings and the text embeddings of the classes.

    The text embeddings are not weights, so an edit of the tower fits the same tower with any class names.

    Args:
        visual: the visual tower, from images `(B, 3, H, W)` to embeddings `(B, D)`.
        embeddings: text embeddings of length 1, `(classes, D)`.
        scale: factor of the cosines.
    """

    def __init__(self, visual: nn.Module, embeddings: Tensor, scale: float) -> None:
        super().__init__()
        self.visual = visual
        self.scale = scale
        self.register_buffer("embeddings", embeddings, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(B, classes)` of normalized images."""
        return self.scale * F.normalize(self.visual(images), dim=-1) @ self.embeddings.T.to(images)


@torch.no_grad()
def text_embeddings(
    clip: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    progress: Progress | None = None,
) -> Tensor:
    """Embed class names: the mean over the prompts, scaled to length 1. Embeddings are kept in the cache folder.

    Returns:
        The embeddings, `(classes, D)`.
    """
    prompts = [template.format(name) for name, template in product(class_names, TEMPLATES)]
    tokens = tokenizer(prompts)
    package = type(clip).__module__.partition(".")[0]
    version = getattr(sys.modules[package], "__version__", "")
    text_model = f"{package} {version} {clip} {fingerprint(clip)}"
    content = f"{text_model} {digest_tensors([tokens])} {len(class_names)} {len(TEMPLATES)}"

    def embed() -> dict[str, Tensor]:
        device = next(clip.parameters()).device
        bar = bar_of(progress, tokens.split(256), desc="class names", unit="batch")
        batches = [clip.encode_text(batch.to(device)).float().cpu() for batch in bar]
        embeddings = F.normalize(torch.cat(batches), dim=-1)
        means = embeddings.view(len(class_names), len(TEMPLATES), -1).mean(dim=1)
        return {"embeddings": F.normalize(means, dim=-1).contiguous()}

    return load_or_compute("text", content, embed)["embeddings"]


def zero_shot_classifier(
    clip: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    progress: Progress | None = None,
) -> Classifier:
    """Make a classifier of an open_clip model; its logits are the cosines times the learned scale, usually 100.

    The model is put into eval mode; its visual tower is used as it is, not copied.

    Args:
        clip: the open_clip model.
        tokenizer: open_clip's tokenizer for the model.
        class_names: the names of the classes.
        progress: a class like `tqdm.tqdm`, for a bar while embedding the names. A large text tower takes
            minutes for a thousand names on a CPU, once for its weights.

    Raises:
        ValueError: if there are no names, or repeated names.
    """
    names = list(class_names)
    if not names or len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"there are {len(names)} class names, repeated {repeated}; pass at least one, each once")
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    visual = clip.eval().visual
    mean = getattr(visual, "image_mean", None) or OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or OPENAI_DATASET_STD
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    embeddings = text_embeddings(clip, tokenizer, names, progress)
    model = ZeroShot(visual, embeddings, float(clip.logit_scale.detach().exp()))
    return Classifier(model.to(next(visual.parameters()).device), names, mean, std, side, side)


def load_clip(
    name: str,
    weights: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Load OpenAI's CLIP RN50 through open_clip, for the classes of ImageNet. It was trained with QuickGELU.

    Args:
        name: the name of the classifier, for error messages.
        weights: a file of weights; by default they come from open_clip's hub.
        progress: a class like `tqdm.tqdm`, for a bar while embedding the names.

    Raises:
        FileNotFoundError: if the weights cannot be loaded.
    """
    import open_clip

    source = os.fspath(weights) if weights else "openai"
    try:
        clip = open_clip.create_model("RN50-quickgelu", pretrained=source)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise FileNotFoundError(
            f"the weights of {name!r} could not be loaded from {source!r} ({error}). Two ways out: download "
            "open_clip_model.safetensors from https://huggingface.co/timm/resnet50_clip.openai and call "
            f"load_classifier({name!r}, weights=that file), or use the CLIP that needs no hub: 'mini_clip'"
        ) from None
    tokenizer = open_clip.get_tokenizer("RN50-quickgelu")
    return zero_shot_classifier(clip.eval(), tokenizer, imagenet_classes(), progress)
