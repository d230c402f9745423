"""What an audit has found: its summary, and the files that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from edittools._caching import atomic_path
from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.probing.counterfactuals import LEAST_AREA, Concepts
from edittools.probing.effects import Probe
from edittools.reports import Figure, Page, data_uri, save_page
from edittools.selection.repair import RepairResult
from edittools.selection.report import make_page

NO_RULE = "no rule found"
"""The heading of the report of an audit that found no rule."""

MOST_RULES = 30
"""The largest number of rules and suspicions that a report lists; `rules.csv` has them all."""

HEAD = ("class", "concept", "replaced by", "images", "effect (log-odds)", "q", "rule or suspicion")


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit has found.

    Attributes:
        classifier: the classifier.
        data: the images of the folder.
        left_out: one line per file or mask that was left out.
        concepts: the images that were probed, the masks of their concepts, and the materials.
        probe: the probed predictions.
        rules: one row for each rule and suspicion, strongest first; see `Probe.rules`. `significant` says which are
            rules, `evidence` names images.
        rule: the row that was repaired, or the strongest suspicion.
        is_rule: whether it is a rule.
        fix: the repair; None if there was none.
        note: why there was no repair; otherwise empty.
    """

    classifier: Classifier = field(repr=False)
    data: LabelledImages = field(repr=False)
    left_out: Sequence[str] = field(repr=False)
    concepts: Concepts = field(repr=False)
    probe: Probe = field(repr=False)
    rules: pd.DataFrame = field(repr=False)
    rule: pd.Series | None
    is_rule: bool
    fix: RepairResult | None = field(default=None, repr=False)
    note: str = ""

    def summary(self) -> str:
        """Say what was looked at, what was found, and the verdict on the repair; one sentence per line."""
        shown = {concept: int(shows(masks).sum()) for concept, masks in self.concepts.masks.items()}
        counts = ", ".join(f"{concept} {count}" for concept, count in shown.items())
        lines = [
            f"{len(self.concepts.data)} images of {self.data.labels.unique().numel()} classes were probed. Images that "
            f"show each concept: {counts}."
        ]
        if self.rule is None:
            lines.append("No rule was found: no concept has an effect on predictions.")
        else:
            lines.append(self._describe_rule())
        if self.left_out:
            lines.append(f"{len(self.left_out)} files were left out, such as {self.left_out[0]}.")
        if self.fix is not None:
            lines += ["", self.fix.summary()]
        elif self.note:
            lines.append(self.note)
        return "\n".join(lines)

    def _describe_rule(self) -> str:
        """Say which rule was found, or which suspicion is the strongest."""
        rule = self.rule
        effect = (
            f"replacing it by {rule['style']!r} lowers the log-odds of the correct class by {rule['effect']:.2f} "
            f"[{rule['low']:.2f}, {rule['high']:.2f}] more than the same change as a control does, in "
            f"{rule['images']} images"
        )
        who = f"{rule['class']!r} relies" if rule["per class"] else "Predictions of all classes rely"
        if self.is_rule:
            return (
                f"The strongest of {int(self.rules.significant.sum())} rules: {who} on {rule['concept']!r}; {effect}."
            )
        return f"No rule was found. The strongest suspicion: {who.lower()} on {rule['concept']!r}; {effect}."

    def write(self, folder: str | PathLike) -> list[Path]:
        """Write `report.html`, `rules.csv` and, if the edit changes anything, `edit.safetensors`; return their paths.

        Args:
            folder: is made if there is none. Each file is written in one step.
        """
        root = Path(folder).expanduser()
        root.mkdir(parents=True, exist_ok=True)
        paths = [write_rules(self.rules, root), save_page(audit_page(self), root / "report.html")]
        if self.fix is not None and self.fix.selection.feasible:
            path = root / "edit.safetensors"
            self.fix.edit.save(path)
            paths.append(path)
        return paths


def write_rules(rules: pd.DataFrame, folder: Path) -> Path:
    """Write rules and suspicions as `rules.csv` in a folder, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rules.csv"
    table = rules.assign(evidence=["; ".join(names) for names in rules["evidence"]])
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return path


def shows(masks: Tensor) -> Tensor:
    """Return for which images a mask `(N, H, W)` covers enough, `(N,)` booleans."""
    return masks.mean(dim=(1, 2)) >= LEAST_AREA


def audit_page(audit: Audit) -> Page:
    """Collect what the report of an audit says."""
    title = f"Audit of {len(audit.data)} images"
    findings = {
        "findings_head": HEAD,
        "findings": _rows(audit),
        "findings_note": audit.summary().partition("\n\n")[0],
    }
    if audit.fix is not None:
        fix = audit.fix
        page = make_page(
            fix.search,
            fix.selection,
            fix.assessment,
            table=fix.table,
            settings=fix.settings,
            inside_mask=fix.inside_mask,
            title=title,
        )
        return replace(page, **findings)
    return Page(
        title=title,
        subtitle=str(audit.classifier),
        word="nothing repaired" if audit.is_rule else NO_RULE,
        reason=audit.note.rstrip("."),
        exemplars=_suspicion(audit),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **findings,
    )


def _rows(audit: Audit) -> list[list[str]]:
    """List the rules and suspicions."""
    rows = []
    for _, rule in audit.rules.head(MOST_RULES).iterrows():
        per_class = audit.rule is not None and audit.rule["per class"]
        effect = f"{rule['effect']:+.2f} [{rule['low']:+.2f}, {rule['high']:+.2f}]"
        kind = "rule" if rule["significant"] else "suspicion"
        name = rule["class"] if per_class else "all classes"
        rows.append([name, rule["concept"], rule["style"], f"{rule['images']}", effect, f"{rule['q']:.2g}", kind])
    return rows


def _suspicion(audit: Audit) -> list[Figure]:
    """Show the strongest rule or suspicion in the image that loses most: as it is, and with the concept replaced."""
    if audit.rule is None or not len(audit.rule["evidence"]):
        return []
    number = audit.rule["evidence"][0]
    concept = audit.rule["concept"]
    style = audit.rule["style"]
    image = audit.concepts.data.images[number]
    changed, _ = audit.concepts.counterfactual(number, concept, [(style, 0)], control=False)
    mask = audit.concepts.masks[concept][number].expand(3, -1, -1)
    pictures = torch.stack([image, changed[0], mask])
    captions = ("the image", f"{concept} replaced by {style}", f"mask of {concept}")
    return [Figure(data_uri(picture), caption) for picture, caption in zip(pictures, captions, strict=True)]
