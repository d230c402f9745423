"""Repair a classifier in one call: `print(repair(classifier, exemplar, failing, clean).summary())`.

There are two methods: the edit of `rewrite`, of low or full rank, and the projection of the concept. The best candidate
of both is selected, and an edit of a second layer is added if that lowers the loss further. Each method tries every
layer with its default settings, and all its settings in the best of them.

A dozen failing images are too few to divide into a set for selection and one for evaluation, so the evaluation is by
cross-validation. For each fold, the method, the layer, the settings and the second layer are selected on the images of
the other folds, and the selected edit is evaluated on the images of the fold. The edit that is returned is selected on
all failing images.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from tqdm.auto import tqdm

from edittools._inference import refuse_inference_mode
from edittools._progress import Progress
from edittools.classifiers import Classifier, check_classifier, remap_labels
from edittools.exemplars import Exemplar, Exemplars, named_exemplars
from edittools.images import Images, LabelledImages, pixels_of
from edittools.methods import EDIT, METHODS, RANDOM, Method, finetune
from edittools.selection.assessment import Assessment
from edittools.selection.checks import DRAWS, checks_before_search, warn_about
from edittools.selection.constraints import Constraints
from edittools.selection.outcomes import Candidate, Outcomes, grid
from edittools.selection.search import ON_TOP, ImagesThatCount, Search, check_layers
from edittools.selection.splits import Splits
from edittools.site import site_at

SETTINGS = (
    *grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0)),
    *grid(rank=(None,), masked=(True,), objective=("least_squares",), reference_weight=(1.0, 10.0, 100.0, 1000.0)),
)
"""Settings of `rewrite` that `repair` tries; least squares, since it takes milliseconds."""

FINETUNING = tuple(grid(scope=("local",), rate=(1e-3, 1e-2), steps=(20,)))
"""Settings of `finetune` that `repair` tries for comparison."""

FINETUNING_ON_FAILING = tuple(
    grid(scope=("global",), rate=(1e-4, 1e-3, 1e-2), momentum=(0.9,), locality=(1.0,), steps=(20,))
)
"""Settings of fine-tuning on the failing images, which `repair` compares with on request."""

SELECTED = "selected"
"""The name of the row of the whole procedure in the table of `repair`."""

PROJECTION = "projection"
"""The name of the other method that `repair` selects from."""

ON_FAILING = "fine-tuning on the failing images"
"""The name of the row of fine-tuning on the failing images, with which an edit is compared on request."""


def repair(
    classifier: Classifier,
    exemplars: Exemplars,
    failing: LabelledImages,
    clean: Images,
    retain: Images | Mapping[str, Images] | None = None,
    *,
    layers: Sequence[str] | None = None,
    settings: Sequence[Mapping[str, Any]] = SETTINGS,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    baselines: bool = True,
    finetuning: bool = False,
    progress: Progress | None = tqdm,
) -> Assessment:
    """Select an edit that corrects failing images, under constraints on clean and on retained images.

    The candidates are edits of low and of full rank and concept projections, in several layers. A candidate is feasible
    if it corrects more failing images than it breaks, loses at most 0.25 percentage points of accuracy (or one image)
    and, with 95% confidence, breaks at most 3% of the retained images. If fewer than 99 retained images are used for
    selection, they cannot show this, and the candidate must break none. Of the feasible candidates, the one with the
    lowest cross-entropy on the failing images is selected; an edit of a second layer is added if that lowers the
    cross-entropy further.

    Args:
        classifier: the classifier; it is not changed.
        exemplars: one or several. Each is tried alone, but those under one name in a mapping make one edit. Edits do
            not use their labels; local fine-tuning, for comparison, does, and is left out unless each exemplar has one.
        failing: labeled images that show the concept, at least two. At least one of them must be misclassified; the
            others may be correct. If their class names are not those of the classifier, in the same order, labels are
            mapped by class name.
        clean: images whose accuracy must not drop, at least three; without labels, the current predictions serve as
            labels. A quarter of them serve as reference images, half are used for the accuracy constraint, and a
            quarter for evaluation.
        retain: images that rely on the concept legitimately, whose correct predictions must not change; or several such
            sets by name. Without labels, the current predictions serve as labels. Half of each set is used for
            selection, and half for evaluation. In the selection, one constraint applies to all sets together; in the
            verdict, one applies to each set.
        layers: names of the layers to edit; by default all of `candidate_layers`.
        settings: settings of `rewrite` to try.
        strengths: factors α by which edits are scaled.
        baselines: also select what the edit is compared with: five draws of random directions, local fine-tuning and
            logit correction. They take most of the time, but without them the verdict is at best "unclear".
        finetuning: also fine-tune the later layers on the failing images, with the reference images as clean images,
            and compare. It informs, and does not change the verdict.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars. The search ends when the `update` of a bar
            raises an exception, or with Ctrl-C.

    Returns:
        The assessment of the selected edit. Its first row, "selected", is the whole procedure; "edit" and "projection"
        are its methods, each one alone; the others are compared with it. If the search was ended early, it is the best
        of what was tried, and `complete` is False.

    Raises:
        KeyError: if the model has no layer of that name.
        RuntimeError: under `torch.inference_mode()`.
        TypeError: if a set of images is of another type.
        ValueError: if images or exemplars do not have the size of the classifier's input, if a label is not one of the
            classifier's classes, if there are fewer than two failing images or three clean images, if no failing image
            is misclassified, if two sets share an image (only x of an exemplar may be a failing image), or if there is
            no candidate.
        KeyboardInterrupt: if the search was ended before the first candidate.

    Warns:
        UserWarning: if a set holds an image more than once (it is used once), and for each of these conditions that
            holds before the search: x is misclassified, x' is predicted as x, the mask does not cover the change,
            fewer than 50 clean images are given, fewer than 6 failing images are misclassified, or the clean or the
            retained images are correct much less often than other images.
    """
    refuse_inference_mode()
    named = named_exemplars(exemplars, check_classifier(classifier))
    layers = check_layers(classifier, layers)
    members = [exemplar for group in named.values() for exemplar in group]
    splits = Splits.of(classifier, members, failing, clean, retain)
    one_image = 100 / len(splits.clean)  # points; with few images, one may be lost
    constraints = Constraints(max_accuracy_drop=max(Constraints().max_accuracy_drop, one_image))
    search = Search(classifier, named, splits, layers, constraints, progress)
    if not search.target.before.any():
        raise ValueError(
            f"All {len(splits.target)} failing images are classified as labeled; pass images that are misclassified"
        )
    warn_about(checks_before_search(search, int(search.target.before.sum())))
    methods = [METHODS[EDIT].trying(settings, strengths), METHODS[PROJECTION]]
    others = _methods_to_compare(members, settings, strengths) if baselines else []
    search.methods.update({method.name: method for method in [*methods, *others]})
    with search.one_bar(_expected_count(search, [*methods, *others])):
        outcomes = search.score(methods)
        selections = {SELECTED: search.cross_validated(outcomes, second_layer=True)}
        for name in [EDIT] if search.is_ended else dict.fromkeys([EDIT, *outcomes.methods]):
            selections[name] = search.cross_validated(outcomes.of(name))
        for method in others:
            of_method = search.score(method)
            if search.is_ended:
                break
            if len(of_method):
                selections[method.name] = search.cross_validated(of_method)
        if finetuning and not search.is_ended:
            with suppress(KeyboardInterrupt):
                selections[ON_FAILING] = search.cross_validated(lambda images: _finetuned(search, images))
    return Assessment(search, selections)


def _methods_to_compare(
    exemplars: Sequence[Exemplar], settings: Sequence[Mapping[str, Any]], strengths: Sequence[float]
) -> list[Method]:
    """List the methods that an edit is compared with: draws of random directions, then two alternatives."""
    random = METHODS[RANDOM].trying(settings, strengths)
    methods = [random.draw(seed) for seed in range(DRAWS)]
    if all(exemplar.label is not None for exemplar in exemplars):
        methods.append(METHODS["local fine-tuning"].trying(FINETUNING, strengths))
    methods.append(METHODS["logit correction"])
    return methods


def _expected_count(search: Search, methods: Sequence[Method]) -> int:
    """Compute about how many candidates are scored, second layers included."""
    second_layers = ON_TOP * (len(search.splits.folds.unique()) + 1) if len(search.cuts) > 1 else 0
    return second_layers + sum(search.candidates(method).expected_count for method in methods)


def _finetuned(search: Search, images: ImagesThatCount) -> Outcomes:
    """Fine-tune the last quarter of a search's layers, and all that follows, on some of the failing images.

    Args:
        search: the search; its reference images serve a penalty on changed predictions.
        images: which target images are shown.

    Returns:
        The outcomes of the fine-tuned networks on all target images, one for each of `FINETUNING_ON_FAILING`.
    """
    target = search.splits.target
    shown = target.subset(torch.arange(len(target))[images])
    return search.score_candidates(finetunings(search, shown, FINETUNING_ON_FAILING))


def finetunings(search: Search, images: LabelledImages, settings: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """Fine-tune the last quarter of a search's layers, and all that follows, on labeled images.

    Args:
        search: the search; its reference images serve a penalty on changed predictions.
        images: labeled images.
        settings: settings of `finetune`, one candidate each.
    """
    layers = list(search.cuts)
    layer = layers[3 * len(layers) // 4]
    labels = remap_labels("images to fine-tune on", images, search.classifier).labels.tolist()
    pixels = pixels_of(images)[:]
    whole = torch.ones(pixels.shape[2:])
    shown = [Exemplar(image, image, whole, label) for image, label in zip(pixels, labels, strict=True)]
    site = site_at(search.cuts[layer], shown, search.activations.reference[layer])
    candidates = []
    for setting in settings:
        [edit] = finetune(site, **setting)
        candidates.append(Candidate({"layer": layer, **setting}, edit))
    return candidates
