"""Images whose text or mark is blurred where a mask shows it."""

from torch import Tensor
from torchvision.transforms.functional import gaussian_blur


def blurred(images: Tensor, masks: Tensor) -> Tensor:
    """Blur images `(B, 3, H, W)` where `masks` `(B, H, W)` are 1; the deviation is a twentieth of the shorter side."""
    sigma = 0.05 * min(images.shape[2:])
    size = 2 * round(3 * sigma) + 1
    return images + masks[:, None] * (gaussian_blur(images, [size, size], [sigma, sigma]) - images)
