"""One call from an example to a verdict, for people with a model of their own.

    fix = repair(classifier, exemplar, failing=…, everyday=…, keep=…)
    fix.edit, fix.table
    print(fix.verdict)

A dozen failing images is usual, so they choose and report by cross-validation: each part is read by the edit that the
other parts choose. The edit that comes back is chosen on all of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools.checks import check_number
from edittools.choosing.choice import BUDGET, most_broken
from edittools.choosing.duties import distinct, shared_images
from edittools.choosing.protocol import Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates
from edittools.choosing.trials import Settings, Trial, Trials, grid, later_layers, table_of
from edittools.choosing.verdict import Method, verdict
from edittools.classifiers import Classifier, by_name
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages, LazyImages, stratified
from edittools.metrics import Comparison, errors, predict
from edittools.rewriting import Problem, fits, pose

SETTINGS = tuple(
    grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0))
)
"""Settings of `rewrite` that `repair` tries, in every layer; the exact objective, since it takes milliseconds."""

Told = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Search:
    """What `repair` tries, and how it splits images; `repair` says what each means."""

    layers: Sequence[str] | None = None
    settings: Settings = SETTINGS
    strengths: Sequence[float] = (0.5, 1.0, 1.5)
    baselines: bool = True
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Repair:
    """What `repair` found: the `edit`, a `table` with one row a method, and the `verdict` in plain sentences.

    In the table `corrected`, `broken`, `share` with its 95 % interval and `p` are of the failing images, each read by
    an edit chosen without it; `kept broken` and `accuracy change` (points, with its interval) are of images that
    nothing was chosen on. `methods` holds all trials by name; `finished` is False where it was interrupted.
    """

    edit: Edit
    table: pd.DataFrame
    methods: Mapping[str, Method] = field(repr=False)
    protocol: Protocol = field(repr=False)
    finished: bool = True

    @property
    def verdict(self) -> str:
        """What was found, with numbers, and what limits it."""
        return verdict(self.methods["edit"], self.table, self.protocol.story, self.finished)

    def __str__(self) -> str:
        return self.verdict

    def costs(self, most: int = 200) -> pd.DataFrame:
        """What the edit's trials gained and cost where they were chosen: one row each, of lowest loss first.

        `net` (corrected − broken) is of all failing images, `kept broken` counts the kept images that bound the choice;
        where nothing is kept it is the `accuracy change` of the budget images, in points. `chosen` marks the edit. Of
        many trials there are the `most` of lowest loss.
        """
        method, keep = self.methods["edit"], self.protocol.states.get("keep")
        table = method.trials.assign(chosen=[edit is self.edit for edit in method.trials.edit])
        table = table.loc[table.losses.map(lambda one: float(one.mean())).sort_values(kind="stable").index]
        table = table[table.chosen | (np.arange(len(table)) < check_number(most, 0, None, "most"))]
        wrong = int(method.held_out.before.sum())
        if keep is not None:
            cost = {"kept broken": [keep.compare(edit).broken for edit in table.edit]}
        else:
            budget = self.protocol.states["budget"]
            cost = {"accuracy change": [budget.compare(edit).accuracy_change for edit in table.edit]}
        found = table.assign(net=[wrong - int(one.sum()) for one in table.wrong], **cost)
        return found.drop(columns=["edit", "losses", "wrong"]).reset_index(drop=True)


def repair(
    classifier: Classifier,
    exemplars: Exemplar | Sequence[Exemplar] | Mapping[str, Exemplar],
    failing: LabelledImages,
    everyday: Images,
    keep: Images | None = None,
    *,
    progress: bool | Told = True,
    **search: Any,
) -> Repair:
    """Find the layer, exemplar, settings and strength that correct the failing images within two bounds.

    Args:
        classifier: the classifier; it is not changed.
        exemplars: one or several, each tried alone; labels only serve the fine-tuning beside the edit.
        failing: labelled images that show the concept, with at least two that are misread. Labels into other classes
            than the classifier's are taken by name.
        everyday: images whose accuracy must stay; without labels they are held to what is read now. Half of them are
            the budget, a quarter says which keys are everyday ones, a quarter reports, of each class at random.
        keep: images that must stay as they are, labelled or held to what is read now. Half of them report.
        progress: show progress bars with the time left; or a function that is told the method, the trials done and all
            of them before each trial, and ends the search by raising `KeyboardInterrupt`.
        **search: what is tried, fields of `Search`:
            `layers` (default: convolutions of the later half, ten at most; of a transformer linear layers on tokens);
            `settings` of `rewrite` (default: `SETTINGS`) and `strengths` α;
            `baselines`: choose a random direction, a fine-tuning, a projection and a logit correction in the same way;
            `folds`: parts of the failing images for cross-validation;
            `seed` of all splits; the same seed gives the same edit.

    An interrupt (Ctrl-C) ends the search; the best so far comes back, `finished` is False. An image that is in a set
    more than once is used once, with a warning. Raises `ValueError` for fewer than two failing images or none that is
    misread, for images that are in two sets (only x of an exemplar may be a failing image as well), and where no trial
    can be made; `TypeError` for failing images without labels, and for what is no images.
    """
    plan, named = Search(**search), _named(exemplars)
    story = _story(classifier, named, failing, everyday, keep, plan)
    protocol = Protocol(story, story.layers, progress=progress is True)
    failing = story.validation
    parts = _folds(failing, min(check_number(plan.folds, 2, None, "folds"), len(failing)), plan.seed)
    bounds, methods, finished = _Bounds(protocol), {}, True
    for name, trials in _tries(protocol, plan).items():
        table, whole = _tried(trials, protocol.states["validation"], name, progress)
        finished &= whole
        if len(table):
            try:
                methods[name] = _chosen(table, protocol.states["validation"], bounds, parts)
            except KeyboardInterrupt:
                if "edit" not in methods:
                    raise
                whole = finished = False
        elif name == "edit":
            raise _nothing_tried(plan) if whole else KeyboardInterrupt
        if not whole:
            break
    methods["edit"] = _with_losses(methods["edit"], protocol)
    rows = {name: _row(method, protocol) for name, method in methods.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return Repair(methods["edit"].edit, table, methods, protocol, finished)


def _tries(protocol: Protocol, plan: Search) -> dict[str, Trials]:
    """The trials of each method by its name, the edit's first."""
    found = {"edit": protocol.rewriting(plan.settings, plan.strengths)}
    if plan.baselines:
        found["random direction"] = protocol.random_directions(plan.settings, plan.strengths)
        if all(exemplar.label is not None for exemplar in protocol.story.exemplars.values()):
            tuned = grid(scope=("local",), rate=(1e-3, 1e-2), steps=(20,))
            found["local fine-tuning"] = protocol.finetuning(tuned).at(plan.strengths)
        found |= {name.replace("_", " "): protocol.rival(name) for name in ("projection", "logit_correction")}
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
    everyday: Images,
    keep: Images | None,
    plan: Search,
) -> Scenario:
    """The images as a scenario, each with one duty."""
    if not isinstance(failing, LabelledImages):
        found = type(failing).__name__
        raise TypeError(f"failing images are a {found}: expected LabelledImages(images, labels, classes)")
    failing = _labelled("failing", failing, classifier)
    if len(failing) < 2:
        raise ValueError(f"{len(failing)} failing images: expected two or more, a dozen is usual")
    wrong = errors(predict(classifier, failing), failing.labels)
    if not wrong.any():
        raise ValueError(f"all {len(failing)} failing images are read as they are labelled: nothing to repair")
    given = {"everyday": everyday, "keep": keep}
    labelled = {name: _labelled(name, images, classifier) for name, images in given.items()}
    _check_apart({"failing": failing, **labelled}, list(exemplars.values()))
    if len(labelled["everyday"]) < 3:
        raise ValueError(f"{len(labelled['everyday'])} everyday images: expected three or more, hundreds are usual")
    reference, rest = labelled["everyday"].split(1 / 4, plan.seed)
    budget, clean = rest.split(2 / 3, plan.seed)
    kept, reported = _halves(labelled["keep"], plan.seed)
    layers = tuple(plan.layers or later_layers(classifier))
    sets = {"validation": failing, "reference": reference.images, "budget": budget, "clean": clean}
    return Scenario(classifier, exemplars, **sets, keep=kept, keep_report=reported, layers=layers)


def _check_apart(sets: Mapping[str, LabelledImages | None], exemplars: Sequence[Exemplar]) -> None:
    """Refuse images that are in two sets; only x of an exemplar may be in another, among the failing images."""
    changed = torch.stack([one.changed for one in exemplars])
    shown = {"the exemplars": torch.cat([changed, *(one.image[None] for one in exemplars)])}
    sets = {**sets, **shown, "the exemplars' x'": changed}
    pairs = [("keep", other) for other in ("failing", "the exemplars", "everyday")]
    pairs += [("everyday", "the exemplars"), ("failing", "everyday"), ("failing", "the exemplars' x'")]
    for one, other in pairs:
        if sets[one] is not None and (shared := shared_images(sets[one], sets[other])):
            raise ValueError(f"{shared} images are both in {one} and in {other}: expected each in one set")


def _nothing_tried(plan: Search) -> ValueError:
    """Why a search that nobody ended has no trial."""
    if not plan.settings or not plan.strengths:
        found = f"{len(plan.settings)} settings and {len(plan.strengths)} strengths"
        return ValueError(f"{found}: expected one or more of each")
    ranks = ", ".join(dict.fromkeys(str(setting.get("rank", 1)) for setting in plan.settings))
    return ValueError(
        f"rank {ranks}: in no layer do the keys at the mask span so many directions; expected a lower rank among the "
        "settings, or a mask that covers more of the image"
    )


def _labelled(name: str, images: Images | None, classifier: Classifier) -> LabelledImages | None:
    if images is None:
        return None
    if isinstance(images, LabelledImages):
        return distinct(name, by_name(name, images, classifier))
    if not isinstance(images, Tensor | LazyImages):
        raise TypeError(f"{name} images are a {type(images).__name__}: expected a tensor, LazyImages or LabelledImages")
    return distinct(name, LabelledImages(images, predict(classifier, images).argmax(dim=1), classifier.classes))


def _halves(keep: LabelledImages | None, seed: int) -> tuple[LabelledImages | None, LabelledImages | None]:
    return (keep, None) if keep is None or len(keep) < 2 else keep.split(0.5, seed)


def _folds(failing: LabelledImages, count: int, seed: int) -> list[Tensor]:
    """Parts of the failing images, of each class as evenly as can be, as booleans `(N,)`."""
    left, parts = torch.arange(len(failing)), []
    for remaining in range(count, 1, -1):
        taken = stratified(failing.labels[left], 1 / remaining, seed)
        parts.append(left[taken])
        left = left[~taken]
    masks = [torch.zeros(len(failing), dtype=torch.bool).index_fill(0, part, True) for part in (*parts, left)]
    return [mask for mask in masks if mask.any()]


def _tried(
    trials: Iterable[Trial], failing: CachedStates, name: str, progress: bool | Told
) -> tuple[pd.DataFrame, bool]:
    """One row a trial: settings, edit, and of each failing image its loss and whether it is misread; and if all ran."""
    rows, total = [], len(trials) if hasattr(trials, "__len__") else None
    try:
        for settings, edit in tqdm(trials, name, total, unit="trial", disable=progress is not True, leave=False):
            if callable(progress):
                progress(name, len(rows), total)
            logits = failing.logits(edit)
            loss = F.cross_entropy(logits, failing.labels, reduction="none").nan_to_num(nan=float("inf"))
            rows.append({**settings, "edit": edit, "losses": loss, "wrong": errors(logits, failing.labels)})
    except KeyboardInterrupt:
        return table_of(rows), False
    return table_of(rows), True


class _Bounds:
    """Whether an edit keeps the accuracy budget and the bound on kept images; each edit is measured once.

    One budget image may be lost where `BUDGET` is less than one: among few a single one says little.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._budget, self._keep = protocol.states["budget"], protocol.states.get("keep")
        self._most = most_broken(len(self._keep.labels)) if self._keep is not None else 0
        self._known: dict[int, bool] = {}

    def __call__(self, edit: Edit) -> bool:
        if id(edit) not in self._known:
            self._known[id(edit)] = self._holds(edit)
        return self._known[id(edit)]

    def _holds(self, edit: Edit) -> bool:
        if self._keep is not None and self._keep.sparing(edit, self._most) is None:
            return False
        points = max(BUDGET, 100 / len(self._budget.labels))
        compared = self._budget.within(edit, points)
        return compared is not None and compared.accuracy_change >= -points


def _chosen(table: pd.DataFrame, failing: CachedStates, bounds: _Bounds, parts: Sequence[Tensor]) -> Method:
    """Choose on all failing images, and for each part of them on the others: what those edits do to it is held out."""
    best = partial(_best, table, failing.before, bounds)
    after = failing.before.clone()
    for part in parts:
        row = best(~part)
        after[part] = failing.before[part] if row is None else row.wrong[part]
    row = best(torch.ones_like(failing.before))
    measured = ("edit", "losses", "wrong")
    settings = {} if row is None else {n: v for n, v in row.items() if n not in measured and v == v}
    edit = 0 * table.edit.iloc[0] if row is None else row.edit
    return Method(edit, settings, table, Comparison(failing.before, after))


def _best(table: pd.DataFrame, before: Tensor, bounds: _Bounds, chosen: Tensor) -> pd.Series | None:
    """The trial of lowest loss on the `chosen` failing images that corrects more than it breaks, within the bounds."""
    losses = [float(one[chosen].mean()) for one in table.losses]
    net = [int(before[chosen].sum()) - int(one[chosen].sum()) for one in table.wrong]
    for i in sorted(range(len(table)), key=losses.__getitem__):
        if net[i] > 0 and bounds(table.edit.iloc[i]):
            return table.iloc[i]
    return None


def _with_losses(method: Method, protocol: Protocol) -> Method:
    """Let the record of the chosen edit, or of all where none was, say what loss is left at its strength."""

    @lru_cache(2)
    def posed(layer: str, exemplar: str, masked: bool) -> Problem:
        return pose(protocol.cuts[layer], protocol.story.exemplars[exemplar], None, masked)

    def told(row: pd.Series) -> Edit:
        edit, record = row.edit, row.edit.record
        if record.loss_after is not None or (method.found and edit is not method.edit):
            return edit
        problem = posed(row.layer, row.exemplar, bool(row.get("masked", True)))
        _, left = fits(problem, record.objective, edit.changes[f"{row.layer}.weight"].delta())
        return replace(edit, record=replace(record, loss_after=left))

    edits = [told(row) for _, row in method.trials.iterrows()]
    chosen = next((new for new, old in zip(edits, method.trials.edit, strict=True) if old is method.edit), method.edit)
    return replace(method, edit=chosen, trials=method.trials.assign(edit=edits))


def _row(method: Method, protocol: Protocol) -> dict[str, Any]:
    """The figures of a method that nothing was chosen on."""
    held = method.held_out
    figures, (low, high) = held.row(), held.corrected_interval()
    found = {"failing": figures["errors before"], "corrected": held.corrected, "broken": held.broken}
    found |= {"share": figures["errors corrected"], "low": low, "high": high, "p": figures["p"]}
    clean = protocol.states["clean"].compare(method.edit)
    found |= {"accuracy change": clean.accuracy_change}
    found |= dict(zip(("accuracy low", "accuracy high"), clean.accuracy_interval(), strict=True))
    if "keep_report" in protocol.states:
        kept = protocol.states["keep_report"].compare(method.edit)
        found |= {"kept": len(kept.before), "kept broken": kept.broken}
    return found | {"trials": len(method.trials), "layer": method.settings.get("layer", "")}
