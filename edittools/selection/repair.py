"""Repair a classifier in one call: select an edit without labels, and measure it on labeled images.

fix = repair(classifier, exemplar, ordinary_images, concept=tagged, clean=labeled)
print(fix.summary())
"""

from collections.abc import Mapping, Sequence

from tqdm.auto import tqdm

from edittools._checks import one_of
from edittools._inference import refuse_inference_mode
from edittools._progress import Progress
from edittools.classifiers import Classifier, check_classifier
from edittools.edits import copied
from edittools.exemplars import PLACES, Exemplars, all_exemplars, named_exemplars
from edittools.images import Images, LabeledImages
from edittools.layers import check_layers
from edittools.selection.assessment import Assessment
from edittools.selection.checks import exemplar_checks, warn_about
from edittools.selection.finetuning import finetune_without_labels
from edittools.selection.select import EXEMPLAR, HOSTS, SELECTORS, select
from edittools.selection.splits import SAMPLE, Splits


def repair(
    classifier: Classifier,
    exemplars: Exemplars,
    images: Images | None = None,
    *,
    concept: LabeledImages | None = None,
    clean: Images | None = None,
    retain: Images | Mapping[str, Images] | None = None,
    source: str = SAMPLE,
    layers: Sequence[str] | None = None,
    select_by: str = HOSTS,
    where: str = "anywhere",
    vary: bool = False,
    finetuning: bool = False,
    seed: int = 0,
    progress: Progress | None = tqdm,
) -> Assessment:
    """Select an edit without labels, as `select_edit` does, and measure on labeled images what it corrects and costs.

    The edit is selected before a labeled image is read. All labeled images measure, and frames of one scene count once.

    Args:
        classifier: the classifier, which is copied; changes during or after the call have no effect.
        exemplars: one or several. Each is tried alone, but those under one name in a mapping make one edit; every edit
            is judged on the marks of all.
        images: ordinary images without labels, which select the edit; at least 50, better 200 or more. Without them, a
            part of `clean` is taken, by scene, and what is left measures.
        concept: labeled images that show the concept, right and wrong; best a sample of all such images. Those of the
            class that x' is predicted as count separately: the concept should neither help nor harm this class. If
            their class names are not those of the classifier, in the same order, labels are mapped by class name.
        clean: images whose accuracy should not drop; without labels, the current predictions serve as labels.
        retain: images that rely on the concept legitimately, whose correct predictions should not change; or several
            such sets by name. Without labels, the current predictions serve as labels.
        source: how the images with the concept were chosen: "sample" for any of them, right and wrong, or "failures" if
            they were chosen because they are misclassified, so that what an edit breaks among them cannot be seen.
        layers: names of the layers to edit; by default all of `candidate_layers`.
        select_by: "hosts"; or "exemplar": the edit with default settings, in the layer in which x' comes to be
            predicted most like x.
        where: where marks are pasted: "anywhere", or "in place" for a material that has its place in images.
        vary: whether pasted marks vary in light, size, and tilt, as those of new images may (`Exemplar.hosts`).
        finetuning: also fine-tune the whole network without labels, on the same images, and compare; this takes a
            minute or a few.
        seed: seed of the division of the images, of the places of marks, and of what varies.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.

    Returns:
        The assessment of the selected edit.

    Raises:
        KeyError: if the model has no layer of that name.
        RuntimeError: under `torch.inference_mode()`.
        TypeError: if a set of images is of another type, or if `images` has labels.
        ValueError: if images or exemplars do not have the size of the classifier's input, if a label is not one of the
            classifier's classes, if two sets share an image (only x of an exemplar may be among the images with the
            concept), if there are too few ordinary images, or if the network should be fine-tuned and the exemplar
            selects.

    Warns:
        UserWarning: if a set holds an image more than once (it is used once), if two sets show the same scenes, and for
            each of these conditions: x is misclassified, x' is predicted as x, the mask does not cover the change, or
            covers the object.
    """
    refuse_inference_mode()
    named = named_exemplars(exemplars, check_classifier(classifier))
    one_of(select_by, SELECTORS, "select_by")
    one_of(where, PLACES, "where")
    if finetuning and select_by == EXEMPLAR:
        raise ValueError("finetuning=True needs ordinary images with the mark, so pass select_by='hosts'")
    classifier = copied(classifier)  # everything is of these weights, whatever happens to the classifier
    names = check_layers(classifier, layers)
    splits = Splits.of(classifier, all_exemplars(named), images, concept, clean, retain, source)
    warn_about(exemplar_checks(classifier, named))
    selection = select(
        classifier,
        named,
        splits.images,
        layers=names,
        select_by=select_by,
        where=where,
        vary=vary,
        seed=seed,
        progress=progress,
    )
    finetuned = None
    if finetuning:
        finetuned = finetune_without_labels(classifier, selection, seed=seed, progress=progress)
    return Assessment(
        classifier,
        selection,
        splits,
        finetuned,
        progress=progress,
    )
