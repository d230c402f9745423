"""The assessment of a selected edit: what it does to labeled images, next to fine-tuning, and a verdict.

Table, verdict, summary, report, and data are derived from what was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar, Pairs, all_exemplars
from edittools.images import Images
from edittools.metrics import predict, predicted_classes
from edittools.reports import Figure, package_versions, plain, render, report_paths, save_report
from edittools.reports.words import (
    PAGE,
    PYTHON,
    VerdictWords,
    broken_sentence,
    check_words,
    consistency_sentences,
    verdict_words,
)
from edittools.rewriting import RANDOM, rewrite_at_random
from edittools.selection.checks import (
    MAX_ACCURACY_DROP,
    MAX_OWN_DROP,
    MAX_RETAINED_BROKEN,
    cost_checks,
    exemplar_checks,
    help_checks,
    images_checks,
    instead_check,
    names_of,
    objective_check,
    own_hosts_check,
)
from edittools.selection.effects import Effect, changed_images, predictions_of, rows_of
from edittools.selection.finetuning import FINETUNING, Finetuned
from edittools.selection.page import (
    COLUMNS,
    MOST_COSTS,
    broken_cards,
    broken_counts,
    cards_of,
    digests_of,
    edit_maps,
    exemplar_figures,
    method_rows,
    settings_of,
)
from edittools.selection.scores import CLEAN_WEIGHT
from edittools.selection.select import Selection
from edittools.selection.splits import Splits
from edittools.site import LayerReference, site_at
from edittools.states import States
from edittools.verdict import COSTS, UNCLEAR, Check, Kind

SELECTED = "selected"
"""The name of the row of the selected edit in the table of an assessment."""

HEAVIER = (4, 16, 64, 256)
"""The factors of the weight of the images without the mark that are tried for a weaker edit."""

DRAWS = 3
"""The number of draws of random directions with default settings, whose mean an edit has to surpass."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """What a selected edit does to labeled images, which selected nothing, next to fine-tuning on request.

    Attributes:
        classifier: a copy of the classifier, with the weights that it had at the selection.
        selection: the selection.
        splits: the image sets.
        finetuned: the network that was fine-tuned on request; None without one.
        is_reselected: whether the edit was selected again after labels had judged another one.
        clean_weight: the weight of the images without the mark, see `Scores.objective`.
        first_checks: checks that come before all others.
        progress: a class like `tqdm.tqdm`, for bars. Images are measured when that is asked for.
    """

    classifier: Classifier = field(repr=False)
    selection: Selection = field(repr=False)
    splits: Splits = field(repr=False)
    finetuned: Finetuned | None = field(default=None, repr=False)
    is_reselected: bool = False
    clean_weight: float = field(default=CLEAN_WEIGHT, repr=False)
    first_checks: tuple[Check, ...] = field(default=(), repr=False)
    progress: Progress | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Assessment({self.verdict.word!r}: {self.selection.candidate})"

    def reselect(self, clean_weight: float) -> "Assessment":
        """Select again from the same score table, with another weight of the images without the mark.

        A larger `clean_weight` gives an edit that changes ordinary images less; it may cost labeled ones more. The
        labels have judged an edit before, so the verdict of the new one on the same labels is at most "unclear".

        Args:
            clean_weight: the weight of the images without the mark; 2 by default in a selection.

        Raises:
            ValueError: if it is not a finite number of at least 0.
        """
        selection = replace(self.selection, candidate=self.selection.scores.best(clean_weight))
        return replace(self, selection=selection, is_reselected=True, clean_weight=clean_weight)

    # --- what was selected --------------------------------------------------------------------------------------------

    @cached_property
    def edit(self) -> Edit:
        """The selected edit, which holds the verdict."""
        return replace(self.selection.edit, verdict=str(self.verdict))

    # --- what it does -------------------------------------------------------------------------------------------------

    @cached_property
    def cut(self) -> Cut:
        """The classifier, cut at the layer of the selected edit, with the weights of the selection."""
        [layer] = self.selection.edit.layers
        return Cut(self.classifier, layer, weights=self.selection.weights)

    @cached_property
    def draws(self) -> list[Edit]:
        """Edits along random directions, with default settings, in the selected layer, from the same exemplars."""
        exemplars = next(iter(self.exemplars.values()))
        hosts = self.selection.hosts
        site = site_at(LayerReference(self.cut, None if hosts is None else hosts.reference), Pairs.of(exemplars))
        return [edit for seed in range(DRAWS) for edit in rewrite_at_random(site, seed=seed)]

    @cached_property
    def _predicted(self) -> dict[str, list[Effect]]:
        """The effect of the edit on each labeled set, and of each draw of random directions on "concept": one pass."""
        effects = {}
        for name, data in self.splits.labeled.items():
            edits = [self.selection.edit, *(self.draws if name == "concept" else ())]
            before, *afters = predictions_of(self.cut, edits, data, self.progress)
            scenes = self.splits.scenes[name]
            effects[name] = [Effect(data.labels, before, after, scenes) for after in afters]
        return effects

    @cached_property
    def effects(self) -> dict[str, Effect]:
        """What the edit does to each labeled set, by its name, see `Splits.labeled`."""
        return {name: of_edit for name, (of_edit, *_) in self._predicted.items()}

    @cached_property
    def random_directions(self) -> list[Effect]:
        """What each draw of random directions does to the images with the concept."""
        return self._predicted["concept"][1:] if "concept" in self._predicted else []

    @cached_property
    def finetuned_effects(self) -> dict[str, Effect]:
        """What the fine-tuned network does to each labeled set; empty without one."""
        if self.finetuned is None:
            return {}
        network = self.finetuned.edit.edited(self.classifier)
        effects = {}
        for name, data in self.splits.labeled.items():
            after = predicted_classes(predict(network, data, bar=FINETUNING, progress=self.progress))
            effects[name] = replace(self.effects[name], after=after)
        return effects

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per method: the selected edit, random directions, and the fine-tuned network.

        All counts are of scenes. "random direction" is the mean of the draws. Where they were measured, the columns are
        `errors`, `corrected`, `broken`: numbers of misclassified images with the concept before the edit, and of images
        that it corrects and breaks;
        `share`, `low`, `high`: share of these errors that is corrected, net, with its 95% interval;
        `accuracy change`, `accuracy low`, `accuracy high`: change of accuracy on clean images, in points, with its 95%
        interval; `predictions changed`: the share of clean images whose prediction changes;
        `own class`, `own class correct`: number of images of the mark's own class with the mark, and of those that are
        correct;
        `retained`, `retained broken`: number of retained images that were correct, and of those that are broken.
        """
        retained = list(self.splits.retain)
        rows: dict[str, dict[str, Any]] = {SELECTED: rows_of(self.effects, retained)}
        if self.random_directions:
            draws = pd.DataFrame([rows_of({"concept": draw}, []) for draw in self.random_directions])
            rows[RANDOM] = draws[["errors", "corrected", "broken", "share"]].mean().to_dict()
        if self.finetuned is not None:
            rows[FINETUNING] = rows_of(self.finetuned_effects, retained)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    @cached_property
    def consistency(self) -> pd.DataFrame:
        """How often hosts that selected nothing are predicted as without the mark, before and with the edit.

        There is one row for hosts of other classes than the mark's, and one for those of its own class, with the
        columns `hosts`, `alike before`, `alike with the edit` (with the mark pasted), and `changed without the mark`.
        It is empty if the exemplar's own prediction has selected the edit.
        """
        hosts = self.selection.hosts
        if hosts is None:
            return pd.DataFrame(columns=["hosts", "alike before", "alike with the edit", "changed without the mark"])
        is_own = hosts.measure.is_own
        rows = {}
        for name, is_member in {"other classes": ~is_own, "own class": is_own}.items():
            with_mark, without_mark = (effect.of(is_member).comparison for effect in self._effects_on_hosts)
            rows[name] = {
                "hosts": int(is_member.sum()),
                "alike before": int((~with_mark.before).sum()),
                "alike with the edit": int((~with_mark.after).sum()),
                "changed without the mark": without_mark.broken,
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def _consistency_rows(self) -> list[dict[str, Any]]:
        """Return the rows of `consistency`, with the column `hosts of`."""
        return self.consistency.rename_axis("hosts of").reset_index().to_dict("records")

    @cached_property
    def _effects_on_hosts(self) -> tuple[Effect, Effect]:
        """What the edit does to hosts that selected nothing, with the mark and without it.

        What they are predicted as without the mark and without the edit serves as their labels.
        """
        hosts = self.selection.hosts.measure
        edits = [self.selection.edit]
        original, without_mark = predictions_of(self.cut, edits, hosts.images)
        before, after = predictions_of(self.cut, edits, hosts.marked)
        scenes = torch.arange(len(hosts))
        return Effect(original, before, after, scenes), Effect(original, original, without_mark, scenes)

    @property
    def own_hosts(self) -> Effect | None:
        """Of these, with the mark, those of the mark's own class; None if the exemplar has selected the edit."""
        hosts = self.selection.hosts
        if hosts is None:
            return None
        with_mark, _ = self._effects_on_hosts
        return with_mark.of(hosts.measure.is_own)

    def changed(self, images: Images) -> pd.DataFrame:
        """List the images whose prediction changes with the edit, the most confident change first.

        The net cost of an edit on images is exactly its net cost on these, so only they need labels.

        Args:
            images: `(N, 3, H, W)` in [0, 1].

        Returns:
            One row per image, with the columns `image` (its index), `before`, `after` (class names), and `confidence`
            (the probability of the class that is predicted with the edit).
        """
        states = States({self.cut.layer: self.cut}, images)
        before = states.original
        after = states.logits(self.selection.edit).float().softmax(dim=1)
        classes = self.classifier.classes
        rows = []
        for index in changed_images(before, after):
            names = {"before": classes[int(before[index].argmax())], "after": classes[int(after[index].argmax())]}
            rows.append({"image": index, **names, "confidence": float(after[index].max())})
        return pd.DataFrame(rows, columns=["image", "before", "after", "confidence"])

    # --- the verdict --------------------------------------------------------------------------------------------------

    @property
    def exemplars(self) -> dict[str, Sequence[Exemplar]]:
        """The exemplars that the selected edit was made from, by name."""
        name = self.selection.candidate.params.get("exemplar")
        named = self.selection.exemplars
        return {name: named[name]} if name in named else dict(named)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The checklist, in numbers; `edittools.reports.words` says what they mean."""
        classes = self.classifier.classes
        own_classes = names_of(self.splits.own_classes, classes)
        scores = self.selection.scores
        selected = list(scores.candidates).index(self.selection.candidate)
        after = float(scores.objective(self.clean_weight)[selected])
        checks = [*self.first_checks, *exemplar_checks(self.classifier, self.exemplars)]
        checks += images_checks(self.classifier, self.splits, self.effects)
        checks.append(objective_check(scores.objective_before(), after, self.weaker))
        if self.is_reselected:
            checks.append(Check(Kind.ONE_EDIT, False, UNCLEAR))
        checks += help_checks(self.effects.get("concept"), self.random_directions, self.splits.source)
        checks += cost_checks(self.splits, self.effects, classes)
        checks.append(own_hosts_check(self.own_hosts, own_classes))
        checks.append(instead_check(self.splits, self.effects, self.finetuned_effects, classes))
        return tuple(checks)

    @property
    def weaker(self) -> float | None:
        """The weight of the images without the mark with which `reselect` gives another edit; None if none does."""
        for factor in HEAVIER:
            weight = factor * max(self.clean_weight, CLEAN_WEIGHT)
            if self.selection.scores.best(weight) is not self.selection.candidate:
                return weight
        return None

    @cached_property
    def verdict(self) -> VerdictWords:
        """Whether to use the edit, why, and what to do next: "use", "unclear", "do not use", "fine-tune instead"."""
        return self.words()

    def words(self, audience: str = PYTHON) -> VerdictWords:
        """Return the verdict in words for a reader, one of `edittools.reports.words.AUDIENCES`."""
        return verdict_words(self.checks, audience)

    def summary(self, audience: str = PYTHON) -> str:
        """Return the verdict with what helps and what it costs; then the edit, and the other checks.

        Args:
            audience: for whom, one of `edittools.reports.words.AUDIENCES`.
        """
        words = self.words(audience)
        lines = [f"{words.word}.", *words.sentences]
        scores = self.selection.scores
        lines.append(f"Selected: {self.selection.candidate}; the best of {len(scores):,} candidates.")
        lines += consistency_sentences(self._consistency_rows())
        for check in self.checks:
            if check.kind not in (Kind.GAIN, Kind.FINETUNING, *COSTS):
                said = check_words(check, audience)
                lines.append(f"{check.status}: {said.title}. {said.found}".rstrip())
        return "\n".join(lines)

    # --- the report ---------------------------------------------------------------------------------------------------

    def report(self, path: str | PathLike) -> Path:
        """Write a report as one HTML page that can be read offline, and next to it its data as JSON.

        Args:
            path: the page, such as "report.html"; the data are then in "report.json". Each file is written in one step.

        Returns:
            The path of the page.

        Raises:
            ValueError: if the path ends in ".json".
        """
        paths = report_paths(path)
        save_report(self.page(), self.report_data(), paths)
        return paths[0]

    def report_data(self, title: str = "") -> dict[str, Any]:
        """Return what the report says for programs: the verdict, checks, methods, settings, versions, digests.

        All values have types of JSON; what was not measured is None.
        """
        splits = self.splits
        images = {}
        for name, data in splits.labeled.items():
            scenes = len(splits.scenes[name].unique())
            images[name] = {"count": len(data), "scenes": scenes, "digest": splits.digests[name]}
        images["ordinary"] = {"count": len(splits.images), "digest": splits.digests["images"]}
        data = {
            "title": title,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": str(self.classifier),
            "verdict": {"word": self.verdict.word, "text": str(self.words(PAGE))},
            "checks": [check.row() for check in self.checks],
            "selected": dict(self.selection.candidate.params),
            "selected_by": self.selection.selected_by,
            "candidates": len(self.selection.scores),
            "methods": self.table.reset_index().to_dict("records"),
            "consistency": self._consistency_rows(),
            "limits": {
                "accuracy drop, points": MAX_ACCURACY_DROP,
                "retained broken, percent": MAX_RETAINED_BROKEN,
                "own class drop, points": MAX_OWN_DROP,
            },
            "versions": package_versions(),
            "fingerprints": {
                "weights": self.selection.edit.fingerprint,
                "edit": self.selection.edit.digest,
                "images": images,
            },
            "reselected": self.is_reselected,
        }
        return plain(data)

    def page(self, title: str = "") -> str:
        """Render the report as one HTML page, with a heading; by default, it names the network."""
        words = self.words(PAGE)
        return render(
            "repair.html",
            title=title or f"An edit of {type(self.classifier.model).__name__}",
            classifier=self.classifier,
            fix=self,
            word=words.word,
            sentences=words.sentences,
            edit=self.sections(self.exemplar_figures()),
        )

    def exemplar_figures(self) -> list[Figure]:
        """Show x, x' and the mask of the exemplars that the edit was made from, at most three of them."""
        return exemplar_figures(self.cut, self.selection.edit, all_exemplars(self.exemplars))

    def sections(self, exemplars: Sequence[Figure] = ()) -> str:
        """Render what a report says of the edit below its verdict, as a piece of HTML.

        Args:
            exemplars: pictures of the exemplars, unless they are shown elsewhere.
        """
        cut = self.cut
        edit = self.selection.edit
        splits = self.splits
        concept = splits.concept
        return render(
            "edit.html",
            fix=self,
            columns=("method", *COLUMNS),
            methods=method_rows(self.table),
            exemplars=exemplars,
            maps=edit_maps(cut, edit, all_exemplars(self.exemplars)[0], concept),
            cards=[] if concept is None else cards_of(cut, edit, concept, self.effects["concept"]),
            costs=broken_sentence(broken_counts(self.effects), MOST_COSTS),
            broken=broken_cards(cut, edit, splits, self.effects),
            checks=[(check.status, check_words(check, PAGE)) for check in self.checks],
            settings=settings_of(self.selection),
            versions=[*package_versions().items(), *digests_of(edit, splits).items()],
        )
