"""What is selected without labels, from an exemplar and ordinary images: edits, fine-tuning, and random directions."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import edittools
from _lib.results import BY_EXEMPLAR, BY_HOSTS, LABEL_FREE, OF_EXEMPLAR_BY_HOSTS, OF_HOSTS_BY_OTHERS
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.rewriting import RANDOM, rewrite_at_random
from edittools.selection.finetuning import RATES, finetune_without_labels
from edittools.selection.scores import Scores
from edittools.selection.select import Selection, select
from edittools.site import prepare

_LIBRARY = Path(edittools.__file__).parent

CODE = (
    Path(__file__),
    *(_LIBRARY / name for name in ("exemplars.py", "_varied.py", "moments.py", "rewriting.py")),
    *(_LIBRARY / "selection" / name for name in ("finetuning.py", "hosts.py", "scores.py", "select.py")),
)
"""The files on which depends what is selected."""

RANDOM_DRAWS = 5
"""The number of random directions."""

REFERENCE = 150
"""The number of ordinary images that define C for a random direction."""


class Selected(NamedTuple):
    """What was selected for a method.

    Attributes:
        method: the name of the method.
        edit: the edit.
        settings: what was selected, in words.
        candidates: the number of candidates.
        seconds: the CPU time of the whole selection, in seconds, with the pass over the reference images.
        run: what tells apart several runs of a method, such as a seed.
    """

    method: str
    edit: Edit
    settings: str
    candidates: int
    seconds: float
    run: str = ""

    def row(self) -> dict[str, Any]:
        """Return all but the edit, for a table."""
        row = self._asdict()
        del row["edit"]
        return row


def select_by_exemplar(classifier: Classifier, exemplar: Exemplar, images: Tensor) -> Selected:
    """Edit with default settings in the layer in which x' comes to be predicted most like x."""
    started = time.process_time()
    selection = select(classifier, exemplar, images, select_by="exemplar")
    seconds = time.process_time() - started
    return Selected(BY_EXEMPLAR, selection.edit, str(selection.candidate), len(selection.scores), seconds)


def select_by_hosts(classifier: Classifier, exemplar: Exemplar, images: Tensor) -> tuple[Selected, Selection]:
    """Select an edit by hosts, as `select_edit` does by default; return the score table as well."""
    started = time.process_time()
    selection = select(classifier, exemplar, images)
    seconds = time.process_time() - started
    selected = Selected(BY_HOSTS, selection.edit, str(selection.candidate), len(selection.scores), seconds)
    return selected, selection


def ablations(selected: Selected, scores: Scores) -> list[Selected]:
    """Select from the same score table without what the default has: the edit of hosts, and the own class.

    Args:
        selected: what is selected by default.
        scores: its score table.
    """
    is_other = ~scores.is_own
    parts = {"marked": scores.marked[:, is_other], "before": scores.before[is_other], "is_own": scores.is_own[is_other]}
    objective = replace(scores, **parts).objective().tolist()
    found = []
    for method, solved_with in {OF_EXEMPLAR_BY_HOSTS: "exemplar", OF_HOSTS_BY_OTHERS: "hosts"}.items():
        tried = [
            number
            for number, candidate in enumerate(scores.candidates)
            if candidate.params["solved with"] == solved_with
        ]
        best = scores.candidates[min(tried, key=objective.__getitem__)]
        found.append(selected._replace(method=method, edit=best.scaled, settings=str(best)))
    return found


def finetune(classifier: Classifier, selection: Selection, rates: Sequence[float] = RATES, seed: int = 0) -> Selected:
    """Fine-tune the whole network on the images of a selection by hosts, selected by the same objective."""
    started = time.process_time()
    found = finetune_without_labels(classifier, selection, rates=rates, seed=seed)
    seconds = time.process_time() - started
    settings = ", ".join(f"{name} {value:g}" for name, value in found.settings.items())
    return Selected(LABEL_FREE, found.edit, settings, len(found.scores), seconds, f"seed {seed}")


def random_directions(classifier: Classifier, exemplar: Exemplar, images: Tensor, layer: str) -> list[Selected]:
    """Edit a layer along random directions, as a control."""
    site = prepare(classifier, layer, [exemplar], images[:REFERENCE])
    found = []
    for seed in range(RANDOM_DRAWS):
        started = time.process_time()
        [edit] = rewrite_at_random(site, seed=seed)
        found.append(Selected(RANDOM, edit, layer, 1, time.process_time() - started, f"draw {seed}"))
    return found


def save_edits(folder: Path, where: dict[str, Any], selected: Sequence[Selected]) -> list[dict[str, Any]]:
    """Write edits to a folder, and return one row per edit, with the name of its file.

    A file is named by the digest of its edit, so that no run replaces the edits of another one.

    Args:
        folder: the folder.
        where: what each row says as well, such as the network.
        selected: the edits.
    """
    rows = []
    for one in selected:
        name = f"{one.edit.digest}.safetensors"
        one.edit.save(folder / name)
        rows.append({**where, **one.row(), "edit": name})
        print(f"{', '.join(map(str, where.values()))}: {one.row()}", flush=True)
    return rows
