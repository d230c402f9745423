"""One call from an example to a verdict: `print(repair(classifier, exemplar, failing, clean).verdict)`.

A dozen failing images is usual, so they choose and report by cross-validation: each part is read by the edit that the
other parts choose. The edit that comes back is chosen on all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools.classifiers import Classifier, remap_labels
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages, LazyImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import fits, pose
from edittools.selection.constraints import BUDGET, Choice, cross_validated, folds_of
from edittools.selection.scenario import Scenario
from edittools.selection.search import Protocol
from edittools.selection.splits import check_apart, distinct
from edittools.selection.trials import SettingsGrid, Trials, counted, grid, later_layers, tried

SETTINGS = tuple(
    grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0))
)
"""Settings of `rewrite` that `repair` tries, in every layer; the exact objective, since it takes milliseconds."""

TAKEN = 0.5
"""An edit has taken where at most this share of the loss at the exemplar is left."""


@dataclass(frozen=True, eq=False)
class Repair:
    """What `repair` found: the `edit`, a `table` with one row a method, and the `verdict` in plain sentences.

    In the table `corrected`, `broken`, `share` with its 95 % interval and `p` are of the failing images, each read by
    an edit chosen without it; `kept broken` and `accuracy change` (points, with its interval) are of images that
    nothing was chosen on. `methods` holds the `Choice` of each by name; `finished` is False after an interrupt.
    """

    edit: Edit
    table: pd.DataFrame
    methods: Mapping[str, Choice] = field(repr=False)
    protocol: Protocol = field(repr=False)
    finished: bool = True

    @property
    def verdict(self) -> str:
        """Say what was found, with numbers, and what limits it, one sentence a line."""
        choice = self.methods["edit"]
        if choice.found:
            said = [_took(choice), _acts_in_mask(choice, self.protocol.story), *_figures(self.table)]
        else:
            said = [f"No edit helps within the bounds, among {choice.trials} trials.", _limit(choice)]
        said += [] if self.finished else ["The search was interrupted: this is the best of what was tried."]
        return "\n".join(said)


def repair(
    classifier: Classifier,
    exemplars: Exemplar | Sequence[Exemplar] | Mapping[str, Exemplar],
    failing: LabelledImages,
    clean: Images,
    retain: Images | None = None,
    **search: Any,
) -> Repair:
    """Find the layer, exemplar, settings and strength that correct the failing images within two bounds.

    Args:
        classifier: the classifier; it is not changed.
        exemplars: one or several, each tried alone; labels only serve the fine-tuning beside the edit.
        failing: labelled images that show the concept, with at least two that are misread. Labels into other classes
            than the classifier's are taken by name.
        clean: images whose accuracy must stay; without labels they are held to what is read now. Half of them are
            the budget, a quarter says which keys are everyday ones, a quarter reports, of each class at random.
        retain: images that must stay as they are, labelled or held to what is read now. Half of them report.
        **search: what is tried:
            `layers` (default: convolutions of the later half, ten at most; of a transformer linear layers on tokens);
            `settings` of `rewrite` (default: `SETTINGS`) and `strengths` α;
            `baselines`: choose a random direction, a fine-tuning, a projection and a logit correction in the same way;
            `progress`: show progress bars with the time left; or a function that is told the method, the trials done
            and all of them before each trial, and ends the search by raising `KeyboardInterrupt`.

    An interrupt (Ctrl-C) ends the search; the best so far comes back, `finished` is False. An image that is in a set
    more than once is used once, with a warning. Raises `ValueError` for fewer than two failing images or none that is
    misread, and for images that are in two sets (only x of an exemplar may be a failing image as well).
    """
    search = _Search(**search)
    layers, progress = tuple(search.layers or later_layers(classifier)), search.progress
    story = _story(classifier, _named(exemplars), failing, clean, retain, layers)
    protocol, rows, methods, finished = Protocol(story, layers, progress=progress is True), {}, {}, False
    try:
        for name, trials in _tries(protocol, search).items():
            rows[name], told = [], partial(progress, name) if callable(progress) else None
            for row in tried(trials, protocol.states["validation"], name * (progress is True), told):
                rows[name].append(row)
            if rows[name] or name == "edit":
                methods[name] = _chosen(rows[name], protocol)
        finished = True
    except KeyboardInterrupt:
        if not rows.get("edit"):
            raise
        methods = {"edit": _chosen(rows["edit"], protocol)} | methods
    methods["edit"] = _with_loss(methods["edit"], protocol)
    figures = {name: _row(method, protocol) for name, method in methods.items()}
    table = pd.DataFrame.from_dict(figures, orient="index").rename_axis("method")
    return Repair(methods["edit"].edit, table, methods, protocol, finished)


@dataclass(frozen=True)
class _Search:
    """What `repair` tries."""

    layers: Sequence[str] | None = None
    settings: SettingsGrid = SETTINGS
    strengths: Sequence[float] = (0.5, 1.0, 1.5)
    baselines: bool = True
    progress: bool | Callable[[str, int, int], None] = True


def _tries(protocol: Protocol, search: _Search) -> dict[str, Trials]:
    """Name the trials of each method, the edit's first."""
    found = {"edit": protocol.rewriting(search.settings, search.strengths)}
    if search.baselines:
        found["random direction"] = protocol.random_directions(search.settings, search.strengths)
        if all(exemplar.label is not None for exemplar in protocol.story.exemplars.values()):
            tuned = grid(scope=("local",), rate=(1e-3, 1e-2), steps=(20,))
            found["local fine-tuning"] = protocol.finetuning(tuned, strengths=search.strengths)
        found |= {name.replace("_", " "): protocol.baseline(name) for name in ("projection", "logit_correction")}
    return found


def _named(exemplars: Exemplar | Sequence[Exemplar] | Mapping[str, Exemplar]) -> dict[str, Exemplar]:
    if isinstance(exemplars, Mapping):
        return dict(exemplars)
    several = [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
    if not several:
        raise ValueError("no exemplar: expected at least one, Exemplar(image, changed, mask)")
    return {f"exemplar {i + 1}": exemplar for i, exemplar in enumerate(several)}


def _story(
    classifier: Classifier,
    exemplars: Mapping[str, Exemplar],
    failing: LabelledImages,
    clean: Images,
    retain: Images | None,
    layers: tuple[str, ...],
) -> Scenario:
    """Part the images into a scenario, each with one duty."""
    if not isinstance(failing, LabelledImages):
        found = type(failing).__name__
        raise TypeError(f"failing images are a {found}: expected LabelledImages(images, labels, classes)")
    given = {"failing": failing, "clean": clean} | ({} if retain is None else {"retain": retain})
    sets = {name: _labelled(name, images, classifier) for name, images in given.items()}
    if len(sets["failing"]) < 2:
        raise ValueError(f"{len(sets['failing'])} failing images: expected two or more, a dozen is usual")
    if len(sets["clean"]) < 3:
        raise ValueError(f"{len(sets['clean'])} everyday images: expected three or more, hundreds are usual")
    if not misclassified(predict(classifier, sets["failing"]), sets["failing"].labels).any():
        raise ValueError(f"all {len(failing)} failing images are read as they are labelled: nothing to repair")
    changed = torch.stack([one.changed for one in exemplars.values()])
    shown = {"the exemplars": torch.cat([changed, *(one.image[None] for one in exemplars.values())])}
    pairs = [("retain", other) for other in ("failing", "the exemplars", "clean")] if "retain" in sets else []
    pairs += [("clean", "the exemplars"), ("failing", "clean"), ("failing", "the exemplars' x'")]
    check_apart(sets | shown | {"the exemplars' x'": changed}, pairs)
    reference, rest = sets["clean"].split(1 / 4)
    budget, clean_test = rest.split(2 / 3)
    kept = sets.get("retain")
    halves = kept.split(0.5) if kept is not None and len(kept) > 1 else (kept, None)
    splits = {"validation": sets["failing"], "reference": reference.images, "budget": budget, "clean": clean_test}
    return Scenario(classifier, exemplars, **splits, keep=halves[0], keep_report=halves[1], layers=layers)


def _labelled(name: str, images: Images, classifier: Classifier) -> LabelledImages:
    if isinstance(images, LabelledImages):
        return distinct(name, remap_labels(name, images, classifier))
    if not isinstance(images, Tensor | LazyImages):
        raise TypeError(f"{name} images are a {type(images).__name__}: expected a tensor, LazyImages or LabelledImages")
    return distinct(name, LabelledImages(images, predict(classifier, images).argmax(dim=1), classifier.classes))


def _chosen(rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> Choice:
    """Choose by cross-validation. One budget image may be lost where `BUDGET` is less than one."""
    failing = protocol.states["validation"]
    budget = max(BUDGET, 100 / len(protocol.story.budget))
    table = counted(rows, failing.before)
    return cross_validated(table, failing.before, folds_of(failing.labels), protocol.bounds, budget)


def _with_loss(choice: Choice, protocol: Protocol) -> Choice:
    """Let the record of a chosen edit say what loss is left at its strength."""
    edit, settings = choice.edit, choice.settings
    if not choice.found or edit.record.loss_after is not None:
        return choice
    cut, exemplar = protocol.cuts[settings["layer"]], protocol.story.exemplars[settings["exemplar"]]
    problem = pose(cut, exemplar, None, bool(settings.get("masked", True)))
    _, left = fits(problem, edit.record.objective, edit.changes[f"{cut.layer}.weight"].delta())
    return replace(choice, edit=replace(edit, record=replace(edit.record, loss_after=left)))


def _row(choice: Choice, protocol: Protocol) -> dict[str, Any]:
    """Give the figures of a method that nothing was chosen on."""
    held = choice.held_out
    figures, (low, high) = held.row(), held.corrected_interval()
    found = {"failing": figures["errors before"], "corrected": held.corrected, "broken": held.broken}
    found |= {"share": figures["errors corrected"], "low": low, "high": high, "p": figures["p"]}
    clean = protocol.states["clean"].compare(choice.edit)
    low, high = clean.accuracy_interval()
    found |= {"accuracy change": clean.accuracy_change, "accuracy low": low, "accuracy high": high}
    if "keep_report" in protocol.states:
        kept = protocol.states["keep_report"].compare(choice.edit)
        found |= {"kept": len(kept.before), "kept broken": kept.broken}
    return found | {"trials": choice.trials, "layer": choice.settings.get("layer", "")}


# --- the verdict ---


def _took(choice: Choice) -> str:
    settings, left = choice.settings, choice.edit.record.share_left
    rank = settings.get("rank", 1)  # what is not among the settings tried is as `rewrite` has it
    words = f"{settings['layer']}, {settings['exemplar']}, {'full rank' if rank is None else f'rank {rank:g}'}, "
    words += f"{'mask' if settings.get('masked', True) else 'no mask'}, α {settings['strength']:g}"
    taken = "It took" if left <= TAKEN else "It took only in part"
    return f"Chosen: {words}. {taken}: {1 - left:.0%} of the loss at the exemplar is gone."


def _acts_in_mask(choice: Choice, story: Scenario) -> str:
    exemplar = story.exemplars[choice.settings["exemplar"]]
    edit_map, covered = choice.edit.edit_map(story.classifier, exemplar.changed), float(exemplar.mask.mean())
    inside = float((edit_map * exemplar.mask.to(edit_map)).sum() / edit_map.sum().clamp_min(1e-12))
    return f"{inside:.0%} of its firing in x' is inside the mask, which covers {covered:.0%} of the image."


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
