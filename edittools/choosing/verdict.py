"""What a repair found, in plain sentences: did it take, where does it fire, what does it cost, what limits it."""

import pandas as pd

from edittools.choosing.choice import BUDGET, Choice
from edittools.choosing.scenario import Scenario

TAKEN = 0.5
"""An edit has taken where at most this share of the loss at the exemplar is left."""


def verdict(choice: Choice, table: pd.DataFrame, story: Scenario, finished: bool) -> str:
    """Say all about the edit that a repair chose, of its `table` and its story, one sentence a line."""
    if choice.found:
        said = [_took(choice), *_fires(choice, story), *_figures(table)]
    else:
        said = [f"No edit helps within the bounds, among {choice.trials} trials.", _limit(choice)]
    said += [] if finished else ["The search was interrupted: this is the best of what was tried."]
    return "\n".join(said)


def _took(choice: Choice) -> str:
    settings, left = choice.settings, choice.edit.record.share_left
    rank = settings.get("rank", 1)  # what is not among the settings tried is as `rewrite` has it
    words = f"{settings['layer']}, {settings['exemplar']}, {'full rank' if rank is None else f'rank {rank:g}'}, "
    words += f"{'mask' if settings.get('masked', True) else 'no mask'}, α {settings['strength']:g}"
    taken = "It took" if left <= TAKEN else "It took only in part"
    return f"Chosen: {words}. {taken}: {1 - left:.0%} of the loss at the exemplar is gone."


def _fires(choice: Choice, story: Scenario) -> list[str]:
    exemplar, moved = story.exemplars[choice.settings["exemplar"]], choice.edit.record.reference_movement
    firing, covered = choice.edit.firing_map(story.classifier, exemplar.changed), float(exemplar.mask.mean())
    inside = float((firing * exemplar.mask.to(firing)).sum() / firing.sum().clamp_min(1e-12))
    said = [f"{inside:.0%} of its firing in x' is inside the mask, which covers {covered:.0%} of the image."]
    if moved is not None:
        said.append(f"It moves the layer's outputs of everyday images {moved:.0%} as far as those at the mask.")
    return said


def _figures(table: pd.DataFrame) -> list[str]:
    row, others = table.loc["edit"], table.drop(index="edit")
    corrected = f"Held out: {row.corrected} of {row.failing} misread images corrected, {row.broken} broken "
    corrected += f"({row.share:.0%} [{row.low:.0%}, {row.high:.0%}], p {row.p:.2g})."
    cost = f"Cost: {row['accuracy change']:+.2f} points [{row['accuracy low']:+.2f}, {row['accuracy high']:+.2f}]"
    kept = f"; {row['kept broken']:.0f} of {row.kept:.0f} kept images broke" if "kept" in row else ""
    said = [corrected + (" So few images cannot tell more." if row.p > 0.05 else "")]
    said.append(f"{cost} of accuracy on everyday images{kept}.")
    beside = ", ".join(f"{name} {other.corrected} / {other.broken}" for name, other in others.iterrows())
    return said + ([f"Beside it, corrected / broken: {beside}."] if beside else [])


def _limit(choice: Choice) -> str:
    """Say what stands in the way of a choice: the layer or exemplar, what the key sees, or the bounds."""
    records = [edit.record for edit in choice.table.edit if edit.record is not None and edit.record.loss_before]
    left = min((record.share_left for record in records if record.share_left is not None), default=0)
    if left > TAKEN:
        return (
            f"It did not take: in no layer was more than {1 - left:.0%} of the loss at the exemplar gone. Try other "
            "layers, a higher rank, or a mask that covers all of the change."
        )
    if (most := choice.table.net.max()) <= 0:
        return (
            "No edit reads the failing images better on the whole: what they show is not what the exemplar changes, or "
            "they are misread for another reason."
        )
    return (
        f"Edits correct up to {most} of {int(choice.held_out.before.sum())} misread images, but none within {BUDGET:g} "
        "points of accuracy and the bound on kept images. Try more of both, another exemplar, or a smaller change."
    )
