"""What a repair found, in plain sentences: did it take, where does it fire, what does it cost, what limits it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from edittools.choosing.choice import BUDGET
from edittools.choosing.scenario import Scenario
from edittools.edits import Edit
from edittools.metrics import Comparison

TAKEN = 0.5
"""An edit has taken where at most this share of the loss at the exemplar is left."""


@dataclass(frozen=True, eq=False)
class Method:
    """A method after its trials: what was chosen on all failing images, and what it does to those held out."""

    edit: Edit
    settings: Mapping[str, Any]
    trials: pd.DataFrame = field(repr=False)
    held_out: Comparison = field(repr=False)

    @property
    def found(self) -> bool:
        """Whether any trial helped within the bounds."""
        return bool(self.settings)


def verdict(method: Method, table: pd.DataFrame, story: Scenario, finished: bool) -> str:
    """All sentences about the edit that a repair chose, its `table` and its story, one a line."""
    sentences = []
    if method.found:
        sentences += [_took(method), *_fires(method, story), _held_out(table), _cost(table), *_beside(table)]
    else:
        sentences += [f"No edit helps within the bounds, among {len(method.trials)} trials.", _limit(method)]
    if not finished:
        sentences.append("The search was interrupted: this is the best of what was tried.")
    return "\n".join(sentences)


def _took(method: Method) -> str:
    settings, left = method.settings, method.edit.record.share_left
    rank = settings.get("rank", 1)  # what is not among the settings tried is as `rewrite` has it
    words = f"{settings['layer']}, {settings['exemplar']}, {'full rank' if rank is None else f'rank {rank:g}'}, "
    words += f"{'mask' if settings.get('masked', True) else 'no mask'}, α {settings['strength']:g}"
    taken = "It took" if left <= TAKEN else "It took only in part"
    return f"Chosen: {words}. {taken}: {1 - left:.0%} of the loss at the exemplar is gone."


def _fires(method: Method, story: Scenario) -> list[str]:
    record = method.edit.record
    exemplar = story.exemplars[method.settings["exemplar"]]
    firing = method.edit.firing_map(story.classifier, exemplar.changed)
    inside = float((firing * exemplar.mask.to(firing)).sum() / firing.sum().clamp_min(1e-12))
    covered = float(exemplar.mask.mean())
    said = [f"{inside:.0%} of its firing in x' is inside the mask, which covers {covered:.0%} of the image."]
    if record.reference_movement is not None:
        moved = f"{record.reference_movement:.0%}"
        said.append(f"It moves the layer's outputs of everyday images {moved} as far as those at the mask.")
    return said


def _held_out(table: pd.DataFrame) -> str:
    row = table.loc["edit"]
    said = (
        f"Held out: {row.corrected} of {row.failing} misread images corrected, {row.broken} broken "
        f"({row.share:.0%} [{row.low:.0%}, {row.high:.0%}], p {row.p:.2g})."
    )
    return said + (" So few images cannot tell more." if row.p > 0.05 else "")


def _cost(table: pd.DataFrame) -> str:
    row = table.loc["edit"]
    kept = f"; {row['kept broken']:.0f} of {row.kept:.0f} kept images broke" if "kept" in row else ""
    span = f"[{row['accuracy low']:+.2f}, {row['accuracy high']:+.2f}]"
    return f"Cost: {row['accuracy change']:+.2f} points {span} of accuracy on everyday images{kept}."


def _beside(table: pd.DataFrame) -> list[str]:
    others = table.drop(index="edit")
    if others.empty:
        return []
    said = ", ".join(f"{name} {row.corrected} / {row.broken}" for name, row in others.iterrows())
    return [f"Beside it, corrected / broken: {said}."]


def _limit(method: Method) -> str:
    """What stands in the way where no trial was chosen: the layer or exemplar, what the key sees, or the bounds."""
    records = [edit.record for edit in method.trials.edit if edit.record is not None and edit.record.loss_before]
    left = min((record.share_left for record in records if record.share_left is not None), default=1.0)
    if left > TAKEN:
        return (
            f"It did not take: in no layer was more than {1 - left:.0%} of the loss at the exemplar gone. Try other "
            "layers, a higher rank, or a mask that covers all of the change."
        )
    before, table = method.held_out.before, method.trials
    gains = [int(before.sum()) - int(wrong.sum()) for wrong in table.wrong]
    if max(gains) <= 0:
        return (
            f"The edits took ({1 - left:.0%} of the loss at the exemplar is gone), and no failing image is read better "
            "on the whole: what they show is not what the exemplar changes, or they are misread for another reason."
        )
    return (
        f"Edits correct up to {max(gains)} of {int(before.sum())} misread images, but none within {BUDGET:g} points of "
        "accuracy and the bound on kept images. Try more of both, another exemplar, or a smaller change."
    )
