"""A content hash of a classifier, which is part of the key under which results are cached on disk."""

import hashlib

import torch

from edittools._caching import digest_tensors
from edittools._inference import eval_copy, without_autocast
from edittools.classifiers import Classifier


@torch.no_grad()
@without_autocast()
def identity(classifier: Classifier) -> str:
    """Digest what a classifier's predictions depend on; nothing is exported for it.

    These are its tensors, its modules as torch prints them, preprocessing and class names. What none of these shows,
    such as a hook or another forward pass, shows in the logits of two images, of which three coarse statistics are part
    of the digest.
    """
    model = classifier.model
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    parts = (
        torch.__version__,
        str(model),
        digest_tensors(tensors.values(), (f"{name} " for name in tensors)),
        f"{classifier.mean.flatten().tolist()} {classifier.std.flatten().tolist()} {classifier.channel_order}",
        f"{classifier.classes} {classifier.size}",
        _logit_statistics(classifier),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _logit_statistics(classifier: Classifier) -> str:
    """Summarize the logits of two images by three numbers, so coarse that rounding errors hardly ever show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, classifier.size, classifier.size, generator=generator)
    with eval_copy(classifier.model) as copied:
        answer = copied(classifier.normalize(images))
    logits = getattr(answer, "logits", answer).float()
    spread = float(logits.std())
    mean = round(float(logits.mean()) / max(spread, 1e-12), 2)
    return f"{mean + 0.0:.2f} {spread:.2e} {float(logits.abs().max()):.2e}"
