"""Select an edit by labels, in experiments: what `select_edit` is compared with, and how methods are compared.

scores = select_by_labels(classifier, exemplars, ordinary_images, labeled)
edit = scores.best().scaled
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from edittools._inference import without_autocast
from edittools._ledger import Weights
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier, remap_labels
from edittools.cut import Cut, cut_all
from edittools.exemplars import Exemplar, Exemplars, Pairs, named_exemplars
from edittools.images import Images, LabeledImages
from edittools.layers import check_layers
from edittools.metrics import predict
from edittools.moments import NoEditError
from edittools.selection.hosts import Hosts, HostSet, divergence
from edittools.selection.scores import Candidate, Scores
from edittools.selection.select import (
    Scored,
    best_layers,
    first_layers,
    of_exemplars,
    of_hosts,
    predictions_with,
    rank,
    references_at,
    table_of,
)
from edittools.site import LayerReference, site_at
from edittools_course.methods import Method


@torch.no_grad()
@without_autocast()
def select_by_labels(
    classifier: Classifier,
    exemplars: Exemplars,
    images: Images,
    concept: LabeledImages,
    *,
    layers: Sequence[str] | None = None,
    where: str = "anywhere",
    methods: Sequence[Method] | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score candidates by labeled images with the concept, and by ordinary images without it.

    The mean cross-entropy of the labeled images takes the place of the divergence of hosts with the mark. Never measure
    on them.

    Args:
        classifier: the classifier.
        exemplars: one or several, as in `edittools.select_edit`.
        images: ordinary images without labels.
        concept: labeled images with the concept, which select.
        layers: names of the layers to edit; by default all of `candidate_layers`.
        where: where marks are pasted, see `Exemplar.hosts`.
        methods: what is tried in each layer, with each exemplar, setting, and strength; by default, the edits that
            `edittools.select_edit` tries.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The score table.
    """
    named = named_exemplars(exemplars, classifier)
    data = remap_labels("concept", concept, classifier)
    hosts = Hosts.of(classifier, named, images, where)
    cuts = cut_all(classifier, check_layers(classifier, layers), weights=Weights(classifier))
    with bar_of(progress, desc="selecting by labels", unit="step") as bar:
        references = references_at(cuts, hosts.reference)
        if methods is not None:
            scored = _score(of_methods(references, named, methods), cuts, data, hosts.select, bar)
        else:
            first = first_layers(rank(references, named, hosts, bar))
            scored = _score(of_exemplars(first), cuts, data, hosts.select, bar)
            best = best_layers(first, _table_of(scored, classifier, data, hosts))
            scored += _score(of_hosts(references, best, hosts), cuts, data, hosts.select, bar)
    return _table_of(scored, classifier, data, hosts)


def of_methods(
    references: Mapping[str, LayerReference], named: Mapping[str, Sequence[Exemplar]], methods: Sequence[Method]
) -> Iterator[list[Candidate]]:
    """Yield the edits of all settings of methods in each layer, with the exemplars of each edit, and all strengths."""
    for layer, reference in references.items():
        for name, group in named.items():
            site = site_at(reference, Pairs.of(group))
            for method in methods:
                for setting in method.settings:
                    params = {"method": method.name, "layer": layer, "exemplar": name, **setting}
                    with suppress(NoEditError):
                        for edit in method.edits(site, **setting):
                            yield [
                                Candidate(edit, {**params, "strength": strength}, strength)
                                for strength in method.strengths
                            ]


def _score(
    candidates: Iterable[Sequence[Candidate]], cuts: Mapping[str, Cut], data: LabeledImages, hosts: HostSet, bar: Any
) -> list[Scored]:
    """Score candidates on labeled images with the mark, and on hosts without it."""
    scored = []
    for candidate, with_mark, without_mark in predictions_with(candidates, cuts, data.images[:], hosts.images, bar):
        losses = cross_entropy(with_mark, data.labels, reduction="none")
        marked = torch.where(losses.isfinite(), losses, torch.inf)
        scored.append(Scored(candidate, marked, divergence(hosts.original, without_mark)))
    return scored


def _table_of(scored: Sequence[Scored], classifier: Classifier, data: LabeledImages, hosts: Hosts) -> Scores:
    """Make the score table of candidates that were scored on labeled images."""
    before = cross_entropy(predict(classifier, data), data.labels, reduction="none")
    is_own = torch.isin(data.labels, torch.tensor(hosts.own_classes))
    return replace(table_of(scored, hosts.select), before=before, is_own=is_own)
