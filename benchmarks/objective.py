"""Claim: the objective, which sees no label, ranks edits in part as their net share of corrected errors does.

Each network that learned shortcuts gets what a user has in the draw of the development: one exemplar, and 600 ordinary
photos without labels. Every second candidate of `select_edit`, in the order of the objective, is then evaluated on the
tuning photos, with the mark. Spearman's rank correlation tells how alike the two orders are; the best of these
candidates by labels tells how much more labels could select. It is the best on the photos that evaluate it, so it
flatters labels. No photo of "val" is read. With `--store FOLDER` finished pairs are kept.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from _lib import effects, jobs, label_free
from _lib.command import add_store, code_digest, one_thread, parser, run
from _lib.results import Results
from _lib.shortcuts import NAMES, NETWORKS, SEED_OF_TEST, evaluation_photos, user_case
from scipy import stats
from tqdm.auto import tqdm

from edittools.classifiers import fingerprint
from edittools.models import load_classifier
from edittools.selection.select import select
from edittools_course.scenarios.shortcuts import SHORTCUTS

DRAW = 1
"""The draw of the development."""

EVERY_CANDIDATE = 2
"""Every how many of the candidates one is evaluated, the selected one first."""


def ranked(every_candidate: int, every_photo: int, pair: tuple[str, str]) -> list[dict[str, Any]]:
    """Evaluate candidates of a network and a shortcut, one row per candidate, the best one by the objective first.

    Args:
        every_candidate: every how many of the candidates one is evaluated.
        every_photo: every how many of the tuning photos one is used.
        pair: the network, and the class of the shortcut.
    """
    network, goal = pair
    with one_thread():
        classifier, exemplar, images = user_case(network, goal, DRAW)
        scores = select(classifier, exemplar, images).scores
        objective = scores.objective()
        tried = objective.argsort()[::every_candidate].tolist()
        edits = {str(number): scores.candidates[number].scaled for number in tried}
        photos = evaluation_photos(classifier.size, "tuning", 0, every_photo)
        found = effects.effects(classifier, edits, photos, goal, SHORTCUTS[goal], SEED_OF_TEST)
    shares = [effects.metrics_of(found[name])[effects.TARGET, effects.CORRECTED] for name in edits]
    where = {"network": network, "case": NAMES[goal]}
    return [
        {**where, "objective": float(objective[number]), "share": share}
        for number, share in zip(tried, shares, strict=True)
    ]


def experiment(options: argparse.Namespace) -> Results:
    """Rank the candidates of each pair of a network and a shortcut."""
    pairs = {f"{network}, {name}": (network, goal) for network in NETWORKS for goal, name in NAMES.items()}
    every = (10, 50) if options.quick else (EVERY_CANDIDATE, 4)
    if options.quick:
        pairs = dict(list(pairs.items())[:1])
    weights = " ".join(fingerprint(load_classifier(name)) for name in NETWORKS)
    about = f"objective {every} {code_digest(*label_free.CODE, Path(effects.__file__))} {weights}"
    rows = jobs.run(partial(ranked, *every), pairs, options.store, progress=tqdm, about=about)
    results = Results("objective", "photos")
    for (network, case), of_pair in rows.groupby(["network", "case"], sort=False):
        where = {"network": network, "condition": case}
        share = of_pair.share
        correlation = -stats.spearmanr(of_pair.objective, share).statistic
        results.add("rank correlation", correlation, **where, n=len(of_pair))
        results.add(f"{effects.CORRECTED}, selected by hosts", share.iloc[0], **where)
        results.add(f"{effects.CORRECTED}, best by labels", share.max(), **where)
        results.add(f"{effects.CORRECTED}, median candidate", share.median(), **where)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
