"""Project the difference of the keys of hosts with a mark and without it out of a layer, as selected by hosts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.exemplars import Pairs
from edittools.moments import NoEditError
from edittools.selection.scores import Candidate
from edittools.selection.select import BEST_LAYERS, Selection, references_at, score
from edittools.site import Site, site_at
from edittools_course.rivals.projection import project_concept

MEANS = {"direction": "mean"}
"""P-ClArC along the difference of means; with it, layers are ranked."""

SETTINGS = (MEANS, {"direction": "leace", "ridge": 1e-3}, {"direction": "leace", "ridge": 1e-1})
"""The settings in the best layers."""

STRENGTHS = (0.5, 1.0, 1.5)
"""The factors by which projections are scaled."""


def select_projection(classifier: Classifier, selection: Selection, layers: Sequence[str]) -> tuple[Candidate, int]:
    """Select a projection by the objective that selects an edit.

    Each layer is scored with `MEANS`, and the best ones with all settings and strengths.

    Args:
        classifier: the classifier.
        selection: a selection by hosts; the keys are those of all hosts that an edit may be solved with.
        layers: the layers that are tried.

    Returns:
        The selected candidate, and the number of candidates.
    """
    hosts = selection.hosts
    pairs = Pairs.joined([*hosts.solve.values(), *hosts.solve_own.values()])
    cuts = cut_all(classifier, layers, weights=selection.weights)
    references = references_at(cuts, hosts.reference)
    with tqdm(desc="projections", mininterval=10) as bar:
        sites = {layer: site_at(reference, pairs) for layer, reference in references.items()}
        first = score(_candidates(sites, (MEANS,), (1.0,)), cuts, hosts.select, bar)
        order = first.objective().argsort().tolist()
        best = [first.candidates[number].params["layer"] for number in order[:BEST_LAYERS]]
        candidates = _candidates({layer: sites[layer] for layer in best}, SETTINGS, STRENGTHS)
        scores = score(candidates, cuts, hosts.select, bar)
    return scores.best(), len(first) + len(scores)


def _candidates(
    sites: Mapping[str, Site], settings: Sequence[Mapping[str, Any]], strengths: Sequence[float]
) -> Iterator[list[Candidate]]:
    """Yield the projections of all settings in each layer, with all strengths."""
    for layer, site in sites.items():
        for setting in settings:
            with suppress(NoEditError):
                [edit] = project_concept(site, **setting)
                params = {"layer": layer, **setting}
                yield [Candidate(edit, {**params, "strength": strength}, strength) for strength in strengths]
