"""Repair a classifier in one call: `print(repair(classifier, exemplar, concept, clean).summary())`.

There are two methods: the edit of `rewrite`, of low or full rank, and the projection of the concept. The best candidate
of both is selected, and an edit of a second layer is added if that lowers the loss further. Each method tries every
layer with its default settings, and all its settings in the best of them.

Images are too few to divide into a set for selection and one for evaluation, so the evaluation is by cross-validation.
For each fold, the method, the layer, the settings and the second layer are selected on the images of the other folds,
and the selected edit is evaluated on the images of the fold. The edit that is returned is selected on all images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from edittools._checks import warn
from edittools._inference import refuse_inference_mode
from edittools._progress import Progress
from edittools.classifiers import Classifier, check_classifier
from edittools.exemplars import Exemplar, Exemplars, named_exemplars
from edittools.images import Images, LabelledImages
from edittools.layers import check_layers
from edittools.methods import EDIT, METHODS, RANDOM, Method
from edittools.selection.assessment import SELECTED, Assessment
from edittools.selection.checks import LIMITS, checks_before_search, warn_about
from edittools.selection.evaluation import Evaluation
from edittools.selection.finetuning import Finetuned, finetune_network, minutes_of
from edittools.selection.outcomes import grid
from edittools.selection.search import ON_TOP, Search
from edittools.selection.splits import FOLDS, SAMPLE, Splits

SETTINGS = (
    *grid(rank=(1, 3), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0)),
    *grid(rank=(None,), objective=("least_squares",), reference_weight=(1.0, 10.0, 100.0, 1000.0)),
)
"""Settings of `rewrite` that `repair` tries; least squares, since it takes milliseconds."""

PROJECTION = "projection"
"""The name of the other method that `repair` selects from."""

FINETUNING = "fine-tuning"
"""The name of the network that is fine-tuned on request, with which the edit is compared."""

PASTED = "fine-tuning with pasted marks"
"""The name of the network that is fine-tuned on clean images with the exemplar's mark pasted on them."""


def repair(
    classifier: Classifier,
    exemplars: Exemplars,
    concept: LabelledImages,
    clean: Images,
    retain: Images | Mapping[str, Images] | None = None,
    *,
    source: str = SAMPLE,
    layers: Sequence[str] | None = None,
    settings: Sequence[Mapping[str, Any]] = SETTINGS,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    finetuning: bool = False,
    alternatives: Mapping[str, Classifier] | None = None,
    progress: Progress | None = tqdm,
) -> Assessment:
    """Select an edit that corrects images with a concept, under constraints on what it may cost.

    The candidates are edits of low and of full rank and concept projections, in several layers. A candidate is feasible
    if it corrects more images with the concept than it breaks, at half of what the verdict allows (`Constraints`): it
    loses at most 0.125 percentage points of accuracy, breaks at most 1.5% of the retained images, and leaves the images
    of the concept's own class at most 1.5 points less often correct than without the concept. Of the feasible
    candidates, the one with the lowest cross-entropy on the images with the concept is selected; an edit of a second
    layer is added if that lowers the cross-entropy further.

    Args:
        classifier: the classifier; it is not changed.
        exemplars: one or several. Each is tried alone, but those under one name in a mapping make one edit. Edits do
            not use their labels.
        concept: labeled images that show the concept, right and wrong, at least two; best a sample of all such images.
            Those of the class that x' is predicted as count separately: the concept should neither help nor harm this
            class. If their class names are not those of the classifier, in the same order, labels are mapped by class
            name.
        clean: images whose accuracy must not drop, at least three; without labels, the current predictions serve as
            labels. A quarter of them serve as reference images.
        retain: images that rely on the concept legitimately, whose correct predictions must not change; or several such
            sets by name. Without labels, the current predictions serve as labels. In the selection, one constraint
            applies to all sets together; in the verdict, one applies to each set.
        source: how the images with the concept were chosen: "sample" for any of them, right and wrong, or "failures" if
            they were chosen because they are misclassified, so that what an edit breaks among them cannot be seen.
        layers: names of the layers to edit; by default all of `candidate_layers`.
        settings: settings of `rewrite` to try.
        strengths: factors α by which edits are scaled.
        finetuning: also fine-tune the whole network on the same images, and on clean images with the exemplar's mark
            pasted on them, and compare; this takes minutes.
        alternatives: other networks with the same classes by name, such as one that you have trained elsewhere; they
            are measured on the same images, and inform.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars. The search ends when the `update` of a bar
            raises an exception, or with Ctrl-C.

    Returns:
        The assessment of the selected edit. If the search was ended early, it is the best of what was tried, and
        `complete` is False.

    Raises:
        KeyError: if the model has no layer of that name.
        RuntimeError: under `torch.inference_mode()`.
        TypeError: if a set of images or an alternative is of another type.
        ValueError: if images or exemplars do not have the size of the classifier's input, if a label is not one of the
            classifier's classes, if there are fewer than two images with the concept or three clean images, if no image
            with the concept is misclassified, if two sets share an image (only x of an exemplar may be among the images
            with the concept), or if there is no candidate.
        KeyboardInterrupt: if the search was ended before the first candidate.

    Warns:
        UserWarning: if a set holds an image more than once (it is used once), if two sets show the same scenes, and for
            each of these conditions that holds before the search: x is misclassified, x' is predicted as x, the mask
            does not cover the change, or covers the object, few images with the concept are mistaken for what x' is
            predicted as, or the clean or the retained images are correct much less often than other images.
    """
    refuse_inference_mode()
    named = named_exemplars(exemplars, check_classifier(classifier))
    layers = check_layers(classifier, layers)
    networks = _named_alternatives(alternatives)
    members = [exemplar for group in named.values() for exemplar in group]
    splits = Splits.of(classifier, members, concept, clean, retain, source)
    search = Search(classifier, named, splits, layers, LIMITS.halved, progress)
    if not search.target.before.any():
        raise ValueError(
            f"All {len(splits.target)} images with the concept are classified as labeled; pass images of which some "
            "are misclassified"
        )
    others = {name: Evaluation.of_network(search, network) for name, network in networks.items()}
    warn_about(checks_before_search(search))
    methods = [METHODS[EDIT].trying(settings, strengths), METHODS[PROJECTION]]
    search.methods.update({method.name: method for method in methods})
    with search.one_bar(_expected_count(search, methods)):
        outcomes = search.score(methods)
        selection = search.cross_validated(outcomes, second_layer=True)
    finetuned, not_compared = _finetuned_networks(search, members[0], finetuning, progress)
    return Assessment(search, selection, finetuned, others, not_compared)


def _finetuned_networks(
    search: Search, exemplar: Exemplar, finetuning: bool, progress: Progress | None
) -> tuple[dict[str, Finetuned], str]:
    """Fine-tune the network on request.

    Args:
        search: the search.
        exemplar: the exemplar whose mark is pasted on clean images.
        finetuning: whether fine-tuning was asked for.
        progress: a class like `tqdm.tqdm`, for bars.

    Returns:
        The fine-tuned networks by name; and which one was not compared, and why, as a clause, which may be empty.

    Warns:
        UserWarning: if fine-tuning was asked for, but the images with the concept show too few scenes.
    """
    finetuned: dict[str, Finetuned] = {}
    if len(search.folds) < FOLDS:
        not_compared = (
            f"fine-tuning was not compared: the images with the concept show {len(search.folds)} scenes; pass images "
            f"of at least {FOLDS}"
        )
        if finetuning:
            warn(not_compared)
        return finetuned, not_compared
    if not finetuning:
        minutes = max(round(2 * minutes_of(search)), 1)  # of both networks
        return finetuned, f"fine-tuning was not compared; to compare it (finetuning=True) takes about {minutes} min"
    if search.is_ended:
        return finetuned, "fine-tuning was not compared, since the search was interrupted"
    for name, pasted in {FINETUNING: None, PASTED: exemplar}.items():
        try:
            finetuned[name] = finetune_network(search, pasted, progress=progress)
        except KeyboardInterrupt:
            return finetuned, f"{name} was interrupted"
    return finetuned, ""


def _named_alternatives(alternatives: Mapping[str, Classifier] | None) -> dict[str, Classifier]:
    """Check other networks and their names.

    Raises:
        TypeError: if one of them is not a `Classifier`.
        ValueError: if one of them has the name of a row of the table.
    """
    named = {}
    for name, other in (alternatives or {}).items():
        if name in (SELECTED, RANDOM, FINETUNING, PASTED):
            raise ValueError(f"an alternative is called {name!r}, which names another row of the table; rename it")
        named[name] = check_classifier(other)
    return named


def _expected_count(search: Search, methods: Sequence[Method]) -> int:
    """Compute about how many candidates are scored, second layers included."""
    second_layers = ON_TOP * (len(search.folds) + 1) if len(search.cuts) > 1 else 0
    return second_layers + sum(search.candidates(method).expected_count for method in methods)
