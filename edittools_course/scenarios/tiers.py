"""The three tiers in which a scenario runs: `mini` (nothing needed), `lite` (real photos) and `paper` (model hubs)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edittools._checks import one_of
from edittools._progress import Progress
from edittools_course.miniworld.contexts import SPLITS
from edittools_course.miniworld.scenes import Scenes, scenes

WORKERS = min(os.cpu_count() or 1, 4)
"""Number of processes that render scenes."""

MODELS = {
    "mini": ("mini_vgg", "mini_resnet", "mini_vgg_balanced"),
    "lite": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    "paper": ("vgg16", "resnet50"),
}
"""The classifiers of each tier: the first is edited, all are probed."""

UNTUNED = {
    "mini_vgg": "features.10",
    "mini_resnet": "layer3.0.conv2",
    "mini_vit": "blocks.3.mlp.fc2",
    "efficientnet_lite0": "blocks.4.0.conv_pw",
    "vgg16": "features.26",
}
"""A layer in the middle of the second half, selected before anything was measured."""


def current_tier(tier: str | None = None) -> str:
    """Return a tier's name, by default the one that `EDITTOOLS_TIER` names, or else "mini".

    Raises:
        ValueError: if there is no such tier.
    """
    if tier:
        return one_of(tier, MODELS, "tier")
    return one_of(os.environ.get("EDITTOOLS_TIER", "mini"), MODELS, "EDITTOOLS_TIER")


@dataclass(frozen=True)
class SceneSet:
    """A set of MiniWorld's scenes, described by what it is rendered from.

    Args:
        count: number of scenes.
        split: the split of seeds, see `SPLITS`.
        offset: the first seed, counted from the first one of the split.
        classes: the classes of the scenes, in turn; by default each scene's seed determines its class.
        ground: the ground of all scenes; by default each scene's seed determines it.
        size: side in pixels.
    """

    count: int
    split: str
    offset: int = 0
    classes: Sequence[str] = ()
    ground: str | None = None
    size: int = 64

    @property
    def seeds(self) -> range:
        """Return the seeds of the scenes."""
        first = SPLITS[self.split].start + self.offset
        return range(first, first + self.count)

    def at_most(self, count: int | None) -> "SceneSet":
        """Return the first `count` scenes, or all of them where there are fewer or `count` is None."""
        return self if count is None else replace(self, count=min(self.count, count))

    def part(self, divisor: int) -> "SceneSet":
        """Return the first of `divisor` equal parts of the scenes."""
        return replace(self, count=self.count // divisor)

    def render(self, progress: Progress | None = None, workers: int = WORKERS) -> Scenes:
        """Render the scenes.

        Args:
            progress: a class like `tqdm.tqdm`, for a bar.
            workers: number of processes.
        """
        labels = None
        if self.classes:
            labels = [self.classes[i % len(self.classes)] for i in range(self.count)]
        return scenes(
            self.count,
            self.seeds.start,
            labels,
            workers,
            progress,
            ground=self.ground,
            size=self.size,
        )
