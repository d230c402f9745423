"""The result of an audit: its summary, and the files that it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import torch

from edittools._caching import atomic_path, digest_tensors
from edittools.auditing.direction import MISLEADS, Errors
from edittools.auditing.finding import are_sources
from edittools.auditing.marks import Mark
from edittools.auditing.sheet import NOT_SEEN, ContactSheet, describe
from edittools.auditing.written import EDIT, REPORT, check_replaceable, folder_beside_better, replace_results, staging
from edittools.classifiers import Classifier
from edittools.images import LabelledImages, in_batches
from edittools.probing.counterfactuals import Concepts, shows
from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, Probe
from edittools.reports import Figure, Page, data_uri, package_versions, plain, report_paths, save_report
from edittools.selection.assessment import Assessment
from edittools.selection.verdict import WORDS

NO_RULE = "no rule found"
"""The heading of the report of an audit that found no rule."""

LOOK = "look at the windows"
"""The heading of the report of an audit that probed no concepts."""

NOT_REPAIRED = "nothing repaired"
"""The heading of the report of an audit that found a rule but repaired nothing."""

MOST_RULES = 30
"""The largest number of rules and suspicions that a report lists; `rules.csv` lists all of them."""

HEAD = ("class", "concept", "replaced by", "images", "effect (log-odds)", "q", "rule or suspicion")

TESTED = (
    f"q tests whether the effect exceeds {LEAST_EFFECT}, for rules and for suspicions alike: it is the p-value of a "
    f"one-sided signed-rank test, adjusted for the number of tests. A rule has q ≤ {FALSE_DISCOVERY_RATE} and an "
    f"effect of at least {LEAST_EFFECT}; every other effect above 0 is a suspicion."
)
"""What the columns q and "rule or suspicion" of a report mean."""

HOW_TO_PASS = (
    "To look for something else, mark it in the images, and pass the masks (masks=, on the command line --masks "
    "FOLDER, with one mask CONCEPT/IMAGE.png per image)."
)
"""How to have another concept probed."""

NO_MASK = "whatever no mask marks, such as a tag, a word, or a border"
"""What is never looked for, besides concepts that were not tested."""

NOT_PROBED = "No concepts were probed; audit_concepts (on the command line --concepts) probes those that masks mark."
"""What an audit says that shows windows alone."""

IF_ONE_IS_ODD = (
    "If one does not belong, name its class and its number to have it tested and repaired: repair='CLASS:NUMBER', on "
    "the command line --repair 'CLASS:NUMBER'."
)
"""What to do if a window does not belong to its class."""

REASONS = (
    "There may be too few images: pass hundreds.",
    "The model may not rely on the concepts that were probed: pass masks of others.",
    "The masks may mark the wrong pixels: look at them, and pass your own.",
)
"""Why no rule may be found, and what to do."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run a text that begins with one of these."""

REPLACED_HEAD = "The exemplar: is the object still in it?"
"""The heading above the images in which a concept was replaced."""

REPLACED_NOTE = (
    "If a mask covers the object of an image as well as the concept, the object is replaced too, and what follows is "
    "wrong. In these images, too, the concept was replaced:"
)
"""What to look for in the images in which a concept was replaced."""

FOUND_HEAD = "The exemplar, and the photos with the mark: does each of them show it?"
"""The heading above the photos in which a mark was found."""

FOUND_NOTE = (
    "The outlined windows resemble the mark by their keys at a layer. If they do not show it, what follows is wrong. "
    "The mark was found in {found} photos; these are {shown} of them:"
)
"""What to look for in the photos in which a mark was found."""

MOST_FOUND = 120
"""The largest number of photos with the mark that a report shows, those of other classes first."""

MORE_IMAGES = 6
"""The number of replaced images that a report shows next to the exemplar."""


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of an audit.

    Attributes:
        classifier: the classifier.
        data: the images of the folder, without copies and with one image per scene.
        left_out: one line per file or annotation that was left out, and per image whose scene another class shows.
        repeats: names of the images that were not used, since others of their class show the same scene.
        sheet: the contact sheet; None if the images show a single class, or too few of each.
        mark: the windows that a person picked from the contact sheet to be repaired; None if none were picked.
        weights: the `fingerprint` of the weights that were audited.
        rare: for each concept that too few images show to be probed, the number of images that show it.
        concepts: the images that were probed, the masks of their concepts, and the materials; None if no concepts were
            probed, and so is `probe`.
        probe: the predictions on the images with replaced concepts.
        tested: the concepts that enough images show for a test, in all classes together or in one class at least.
        rules: one row per rule, followed by one row per suspicion, an effect that is not significant. The columns are
            those of `Probe.rules`; `significant` is True for rules, and `evidence` holds names of images.
        rule: the row of the strongest rule; without a rule, that of the strongest suspicion; None if there is neither.
        is_rule: whether `rule` is a rule.
        direction: whether the concept of the rule misleads ("misleads"), or its class fails without it ("missed"); None
            if that is not decided, or if there is no rule.
        errors: on which side the errors are, which decides the direction; None if the caller did, or without a rule.
        fix: the result of `repair`; None if nothing was repaired.
        note: says that nothing was repaired and, if there is a rule, why; empty if there is a repair.
    """

    classifier: Classifier = field(repr=False)
    data: LabelledImages = field(repr=False)
    left_out: Sequence[str] = field(repr=False)
    repeats: Sequence[str] = field(repr=False)
    sheet: ContactSheet | None = field(default=None, repr=False)
    mark: Mark | None = field(default=None, repr=False)
    weights: str = field(default="", repr=False)
    rare: Mapping[str, int] = field(default_factory=dict, repr=False)
    concepts: Concepts | None = field(default=None, repr=False)
    probe: Probe | None = field(default=None, repr=False)
    tested: Sequence[str] = field(default=(), repr=False)
    rules: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    rule: pd.Series | None = None
    is_rule: bool = False
    direction: str | None = None
    errors: Errors | None = None
    fix: Assessment | None = field(default=None, repr=False)
    note: str = ""

    def summary(self) -> str:
        """Return a text on the windows, the rule or the windows repaired, and the verdict, one sentence per line."""
        lines = [f"{len(self.data)} images of {self.data.labels.unique().numel()} classes were audited."]
        if self.sheet is not None:
            lines += self.sheet.findings()
        lines += ["", *self.findings()]
        if self.fix is not None:
            lines += ["", self.fix.summary()]
        return "\n".join(lines)

    def findings(self) -> list[str]:
        """Say what was probed and found, and what was left out, one sentence per entry."""
        lines = self._probed()
        if self.repeats:
            lines.append(
                f"{len(self.repeats)} images are copies of others or frames of the same scene, such as "
                f"{self.repeats[0]}; each scene counts once."
            )
        if self.left_out:
            lines.append(f"{len(self.left_out)} files or annotations were left out, such as {self.left_out[0]}.")
        if self.rare and self.is_rule:
            counts = ", ".join(f"{concept} {count}" for concept, count in self.rare.items())
            lines.append(f"Concepts that too few images show to be probed: {counts}.")
        if self.note:
            lines.append(self.note)
        return lines

    def _probed(self) -> list[str]:
        """Say which concepts were probed, and which rule was found."""
        if self.mark is not None:
            return self._describe_mark()
        if self.concepts is None:
            return [IF_ONE_IS_ODD, NOT_PROBED]
        counts = ", ".join(f"{concept} {count}" for concept, count in self._images_by_concept().items())
        lines = [f"{len(self.concepts.data)} images were probed. Images that show each concept: {counts}."]
        if self.rule is None:
            lines.append(
                "No rule was found: no concept lowers the log-odds of the correct class more than its control."
            )
        else:
            lines.append(self._describe_rule())
        if not self.is_rule:
            not_looked_for = [f"{concept} ({reason})" for concept, reason in self.not_looked_for().items()]
            lines.append(f"Looked for: {', '.join(self.tested) or 'nothing'}.")
            lines.append(f"Not looked for: {'; '.join([*not_looked_for, NO_MASK])}. {HOW_TO_PASS}")
        if self.direction is not None:
            lines.append(self._describe_direction())
        return lines

    def not_looked_for(self) -> dict[str, str]:
        """Say of each concept that masks mark and that was not tested why it was not."""
        reasons = {}
        for concept in self._images_by_concept():
            if concept in self.concepts.materials and concept not in set(self.probe.table["concept"]):
                reasons[concept] = "it is the material"
            elif concept not in self.tested:
                least = self.probe.least_images
                reasons[concept] = f"no class but its own has {least} images in which it can be compared with a control"
        few = {concept: f"{count} images show it" for concept, count in self.rare.items()}
        return {**reasons, **few}

    def _describe_direction(self) -> str:
        """Say which predictions are to be corrected, and who or what decided it."""
        concept = self.rule["concept"]
        if self.direction == MISLEADS:
            what = f"photos of other classes that {concept!r} misleads"
        else:
            what = f"predictions that fail without {concept!r}"
        if self.errors is None:
            return f"To be corrected are {what}, as the caller says."
        return f"To be corrected are {what}: {self.errors.describe(self.rule)}."

    def _describe_mark(self) -> list[str]:
        """Describe the windows that a person picked, their test, and the photos in which the mark was found."""
        group = self.mark.group
        name = self.data.classes[group.label]
        confirmation = self.mark.confirmation.describe(name)
        labels = self.data.labels[[window.photo for window in self.mark.windows]]
        own = int((labels == group.label).sum())
        return [
            f"Window {self.mark.number} of {name!r} does not belong to the class, as a person says: "
            f"{describe(group, self.sheet.photos[group.label])}.",
            f"Is it the mark? {confirmation[:1].upper()}{confirmation[1:]}.",
            f"The mark was found in {own} photos of {name!r} and in {len(labels) - own} photos of other classes.",
        ]

    def _images_by_concept(self) -> dict[str, int]:
        """Count the images that show each probed concept."""
        if self.concepts is None:
            return {}
        return {concept: int(shows(masks).sum()) for concept, masks in self.concepts.masks.items()}

    def _describe_rule(self) -> str:
        """Describe the strongest rule, or the strongest suspicion."""
        rule = self.rule
        effect = (
            f"replacing it by {rule['material']!r} lowers the log-odds of the correct class by {rule['effect']:.2f} "
            f"[{rule['low']:.2f}, {rule['high']:.2f}] more than the same change as a control does, in "
            f"{rule['images']} images"
        )
        who = f"{rule['class']!r} relies" if rule["per class"] else "Predictions of all classes rely"
        if self.is_rule:
            return (
                f"The strongest of {int(self.rules.significant.sum())} rules: {who} on {rule['concept']!r}; {effect}."
            )
        return f"No rule was found. The strongest suspicion: {who.lower()} on {rule['concept']!r}; {effect}."

    def write(self, folder: str | PathLike, overwrite: bool = False) -> list[Path]:
        """Write `report.html` and `report.json`, and what there is of `windows.csv`, `rules.csv`, `edit.safetensors`.

        What an earlier audit wrote is replaced, or removed if this audit has none of it, once all new files are
        complete. Other files stay as they are. If an earlier repair in the folder has a better verdict than this
        one, the files go to a new folder with a number instead, such as "audit_2".

        Args:
            folder: folder for the files; it is created if it does not exist.
            overwrite: whether files of these names are replaced that no audit wrote, or that were changed since.

        Returns:
            The paths of the files.

        Raises:
            FileExistsError: if such files would be replaced without `overwrite`; it lists them.
        """
        root = Path(folder).expanduser()
        check_replaceable(root, overwrite)
        if self.fix is not None and not overwrite:
            root = folder_beside_better(root, self.fix.verdict.word, WORDS)
        with staging(root) as staged:
            names = [path.name for path in self._write_all(staged)]
            replace_results(staged, root)
        return [root / name for name in names]

    def _write_all(self, folder: Path) -> list[Path]:
        """Write all files into an empty folder, and return their paths."""
        paths = [*report_paths(folder / REPORT)]
        save_report(audit_page(self), self.report_data(), report_paths(folder / REPORT))
        if self.sheet is not None:
            paths.append(write_table(self.sheet.table, folder / "windows.csv"))
        if self.concepts is not None:
            paths.append(write_table(self.rules, folder / "rules.csv"))
        if self.fix is not None:
            self.fix.edit.save(folder / EDIT)
            paths.append(folder / EDIT)
        return paths

    def report_data(self) -> dict[str, Any]:
        """Return what the report says for programs: the verdict, rules, repair, settings, versions and fingerprints.

        All values have types of JSON; what was not measured is None, and so is `repair`, the data of the report of
        `repair`, if nothing was repaired.
        """
        images = {"count": len(self.data), "digest": digest_tensors(in_batches(self.data))[:16]}
        data = {
            "title": audit_title(self),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": str(self.classifier),
            "verdict": verdict_data(self),
            "windows": [] if self.sheet is None else self.sheet.table.to_dict("records"),
            "windows_note": NOT_SEEN,
            "mark": None if self.mark is None else self._mark_data(),
            "rules": self.rules.to_dict("records"),
            "direction": self._direction_data(),
            "concepts": self._images_by_concept(),
            "looked_for": list(self.tested),
            "not_looked_for": self.not_looked_for(),
            "rare": self.rare,
            "left_out": list(self.left_out),
            "repeats": list(self.repeats),
            "settings": None if self.probe is None else self._settings(),
            "versions": package_versions(),
            "fingerprints": {"weights": self.weights, "images": {"audited": images}},
            "repair": None if self.fix is None else self.fix.report_data(audit_title(self)),
        }
        return plain(data)

    def _direction_data(self) -> dict[str, Any] | None:
        """Return which predictions are to be corrected, and the errors that decided it; None without a rule."""
        if not self.is_rule:
            return None
        counts = {"pulled_in": None, "missed": None, "p": None}
        if self.errors is not None:
            counts = {"pulled_in": self.errors.pulled_in, "missed": self.errors.missed, "p": self.errors.p}
        return {"word": self.direction, **counts}

    def _mark_data(self) -> dict[str, Any]:
        """Return the windows that a person picked, their test, and where the mark was found."""
        found = []
        for window in self.mark.windows:
            label = int(self.data.labels[window.photo])
            place = {"top": window.box.top, "left": window.box.left, "side": window.side}
            found.append({"name": self.data.names[window.photo], "class": self.data.classes[label], **place})
        confirmation = self.mark.confirmation
        return {
            "class": self.data.classes[self.mark.group.label],
            "window": self.mark.number,
            "confirmed": confirmation.is_confirmed,
            "share": confirmation.share,
            "shuffled_share": confirmation.shuffled_share,
            "sources": confirmation.sources,
            "hosts": confirmation.hosts,
            "p": confirmation.p,
            "found_in": found,
        }

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the probe."""
        return {
            "control": self.probe.control,
            "least_images": self.probe.least_images,
            "least_effect": LEAST_EFFECT,
            "false_discovery_rate": FALSE_DISCOVERY_RATE,
            "materials": {material: len(textures) for material, textures in self.concepts.materials.items()},
        }


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whose column "evidence" holds names of images as a CSV file, in one step, and return its path.

    A text that a spreadsheet would run as a formula, such as a class named "=cmd", gets an apostrophe before it.
    """
    table = table.assign(evidence=["; ".join(names) for names in table["evidence"]])
    with atomic_path(path) as temporary:
        table.map(_without_formula).to_csv(temporary, index=False, float_format="%.6g")
    return path


def _without_formula(value: Any) -> Any:
    """Put an apostrophe before a text that begins like a formula of a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def audit_title(audit: Audit) -> str:
    """Return the heading of the report of an audit."""
    return f"Audit of {len(audit.data)} images"


def verdict_data(audit: Audit) -> dict[str, str]:
    """Return the word, the reason and the advice at the top of a report: the verdict, or why there is none."""
    if audit.fix is not None:
        verdict = audit.fix.verdict
        return {"word": verdict.word, "reason": verdict.reason, "advice": verdict.advice}
    if audit.mark is not None:
        return {"word": NOT_REPAIRED, "reason": audit.note.rstrip("."), "advice": ""}
    if audit.concepts is None:
        return {
            "word": LOOK,
            "reason": "a person says which of them does not belong to its class",
            "advice": IF_ONE_IS_ODD,
        }
    if audit.is_rule:
        return {"word": NOT_REPAIRED, "reason": audit.note.rstrip("."), "advice": ""}
    reason = (
        f"no concept lowered the log-odds of the correct class by more than {LEAST_EFFECT} beyond its control in a way "
        f"that the test confirms (q ≤ {FALSE_DISCOVERY_RATE})"
    )
    return {"word": NO_RULE, "reason": reason, "advice": " ".join(REASONS)}


def audit_page(audit: Audit) -> Page:
    """Collect the content of the report of an audit."""
    notes = audit.findings()
    if len(audit.rules):
        notes.append(TESTED)
    content = {"findings_head": HEAD, "findings": _rows(audit), "findings_note": "\n".join(notes)}
    if audit.sheet is not None:
        marked = None if audit.mark is None else audit.mark.group.label
        content |= {"sheet": audit.sheet.rows(marked), "sheet_note": NOT_SEEN}
    if audit.rule is not None:
        content |= {"looked_at": _more_images(audit), "looked_at_head": REPLACED_HEAD, "looked_at_note": REPLACED_NOTE}
    if audit.mark is not None:
        photos = _found_in(audit)
        note = FOUND_NOTE.format(found=len(audit.mark.windows), shown=len(photos))
        content |= {"looked_at": photos, "looked_at_head": FOUND_HEAD, "looked_at_note": note}
    if audit.fix is not None:
        return replace(audit.fix.page(audit_title(audit)), **content)
    return Page(
        title=audit_title(audit),
        subtitle=str(audit.classifier),
        **verdict_data(audit),
        exemplars=_suspicion(audit) if audit.mark is None else _exemplar_of_mark(audit.mark),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **content,
    )


def _rows(audit: Audit) -> list[list[str]]:
    """List the rules and suspicions."""
    rows = []
    for _, rule in audit.rules.head(MOST_RULES).iterrows():
        per_class = audit.rule is not None and audit.rule["per class"]
        effect = f"{rule['effect']:+.2f} [{rule['low']:+.2f}, {rule['high']:+.2f}]"
        kind = "rule" if rule["significant"] else "suspicion"
        name = rule["class"] if per_class else "all classes"
        rows.append([name, rule["concept"], rule["material"], f"{rule['images']}", effect, f"{rule['q']:.2g}", kind])
    return rows


def _suspicion(audit: Audit) -> list[Figure]:
    """Show the strongest rule or suspicion in the image whose class loses the most probability.

    The pictures are the image, the image with the concept replaced, and the mask.
    """
    if audit.rule is None or not len(audit.rule["evidence"]):
        return []
    number = audit.rule["evidence"][0]
    concept = audit.rule["concept"]
    material = audit.rule["material"]
    image = audit.concepts.data.images[number]
    changed, _ = audit.concepts.counterfactual(number, concept, [(material, 0)], control=False)
    mask = audit.concepts.masks[concept][number].expand(3, -1, -1)
    pictures = torch.stack([image, changed[0], mask])
    captions = ("the image", f"{concept} replaced by {material}", f"mask of {concept}")
    return [Figure(data_uri(picture), caption) for picture, caption in zip(pictures, captions, strict=True)]


def _more_images(audit: Audit) -> list[Figure]:
    """Show more images with the concept of the strongest rule or suspicion replaced, those of its evidence first."""
    concepts = audit.concepts
    concept = audit.rule["concept"]
    evidence = list(audit.rule["evidence"])
    shown = evidence[:1]
    if audit.fix is not None:
        [[exemplar]] = audit.fix.exemplars.values()
        shown = are_sources(exemplar, concepts.data).nonzero()[:, 0].tolist()
    others = shows(concepts.masks[concept]).nonzero()[:, 0].tolist()
    numbers = [number for number in dict.fromkeys([*evidence, *others]) if number not in shown]
    if not numbers:
        return []
    images = concepts.turned(numbers[:MORE_IMAGES], concept, audit.rule["material"])
    figures = []
    for image, label, name in zip(images.images, images.labels.tolist(), images.names, strict=True):
        figures.append(Figure(data_uri(image), f"{images.classes[label]}: {PurePath(name).name}"))
    return figures


def _found_in(audit: Audit) -> list[Figure]:
    """Show the photos in which the mark was found, each with its outline; those of other classes first."""
    data = audit.data
    label = audit.mark.group.label
    windows = sorted(audit.mark.windows, key=lambda window: int(data.labels[window.photo]) == label)
    figures = []
    for window in windows[:MOST_FOUND]:
        class_name = data.classes[int(data.labels[window.photo])]
        picture = window.outlined_on(audit.sheet.data.images)
        figures.append(Figure(data_uri(picture), f"{class_name}: {PurePath(data.names[window.photo]).name}"))
    return figures


def _exemplar_of_mark(mark: Mark) -> list[Figure]:
    """Show x, x', and the mask of a mark's exemplar, if there is one."""
    if mark.exemplar is None:
        return []
    pictures = (mark.exemplar.image, mark.exemplar.changed, mark.exemplar.mask.expand(3, -1, -1))
    captions = ("x, the photo", "x', the photo with the mark", "the mask")
    return [Figure(data_uri(picture), caption) for picture, caption in zip(pictures, captions, strict=True)]
