"""Select an edit by labels, in experiments: what `select_edit` is compared with, and how methods are compared.

scores = select_by_labels(classifier, exemplars, ordinary_images, labeled)
edit = scores.best().scaled
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
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
from edittools.selection.hosts import Hosts, divergence
from edittools.selection.scores import Candidate, Scores
from edittools.selection.select import (
    best_layers,
    first_layers,
    losses_of,
    of_exemplars,
    of_hosts,
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
    before = cross_entropy(predict(classifier, data), data.labels, reduction="none")
    cuts = cut_all(classifier, check_layers(classifier, layers), weights=Weights(classifier))
    with bar_of(progress, desc="selecting by labels", unit="step") as bar:
        references = references_at(cuts, hosts.reference)
        if methods is not None:
            return _score(of_methods(references, named, methods), cuts, data, before, hosts, bar)
        first = first_layers(rank(references, named, hosts, bar))
        scores = _score(of_exemplars(first), cuts, data, before, hosts, bar)
        best = best_layers(first, scores)
        return scores.joined(_score(of_hosts(references, best, hosts), cuts, data, before, hosts, bar))


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
    candidates: Iterable[Sequence[Candidate]],
    cuts: Mapping[str, Cut],
    data: LabeledImages,
    before: Tensor,
    hosts: Hosts,
    bar: Any,
) -> Scores:
    """Score candidates on labeled images with the mark, whose losses were `before`, and on hosts without it."""
    edits = list(candidates)
    marked = losses_of(edits, cuts, data.images[:], data.labels, _cross_entropy, bar)
    clean = losses_of(edits, cuts, hosts.select.images, hosts.select.original, divergence, bar)
    scores = table_of([candidate for of_edit in edits for candidate in of_edit], marked, clean, hosts.select)
    return replace(scores, before=before, is_own=torch.isin(data.labels, torch.tensor(hosts.own_classes)))


def _cross_entropy(labels: Tensor, predicted: Tensor) -> Tensor:
    """Compute the cross-entropy of log-probabilities `(N, classes)`; infinite where they are not finite."""
    losses = cross_entropy(predicted, labels, reduction="none")
    return torch.where(losses.isfinite(), losses, torch.inf)
