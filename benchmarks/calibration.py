"""Claim: an audit seldom finds a rule where there is none, and the verdict is seldom "use" where no edit can be right.

Two small networks are trained on squares of five tints; the second one also relies on a stripe at the bottom of the
image.

Verdicts: where no edit can be right, the exemplar shows noise in a random place, and the images fail for another
reason. Where one can be right, the exemplar shows the stripe. Finally, a random direction is compared with five
others.

`--audits`: the two concepts of each audit are rectangles at random places, and a coin decides in each image which of
them is A and which is B. What an audit finds is therefore chance: a rule of a class, or of all classes together. With
the control "in place", the materials of A and B are cut from the images; with "elsewhere", both are replaced by a
background. Each control may find a rule in at most 5% of the audits (section 5).
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _lib.command import parser, run
from _lib.results import Results
from torch import Tensor, nn
from torchvision.utils import save_image

from edittools.auditing.audit import concepts_to_probe
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.methods import METHODS, RANDOM
from edittools.metrics import misclassified, predict, wilson
from edittools.probing.effects import CONTROLS
from edittools.probing.probe import probe
from edittools.selection import Assessment, Constraints, Search, Splits, repair, stratified_folds
from edittools.selection.checks import DRAWS
from edittools.selection.repair import SETTINGS
from edittools.selection.verdict import DO_NOT_USE, UNCLEAR, USE

CLASSES = ("a", "b", "c", "d", "e")
SIZE = 32
LAYERS = ("3", "6")
STRENGTHS = (0.5, 1.0, 1.5)
CLEAN = 260
STRIPED = 4
"""The class whose training images often have the stripe."""

AUDITS = 200
"""The number of audits with each control."""

AUDITED = 110
"""The number of images of an audit."""

SIDE = 14
"""The side of the rectangles of an audit, in pixels."""

SEED_OF_AUDITS = 5_000
"""The seed of the first audit, beyond that of the run."""

Arguments = dict[str, object]
"""Arguments of `repair`."""


# --- the networks and their images ---


def backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """Draw smooth random images `(count, 3, SIZE, SIZE)`."""
    return 0.2 + 0.6 * F.interpolate(torch.rand(count, 3, 6, 6, generator=generator), SIZE, mode="bilinear")


def squares(count: int, seed: int) -> LabelledImages:
    """Make noisy images of a square on a smooth background, whose class is the tint of the square."""
    generator = torch.Generator().manual_seed(seed)
    tints = 0.8 * torch.rand(len(CLASSES), 3, generator=torch.Generator().manual_seed(123))
    images = backgrounds(count, generator)
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    for image, label in zip(images, labels, strict=True):
        top, left = torch.randint(2, SIZE - 16, (2,), generator=generator).tolist()
        image[:, top : top + 14, left : left + 14] = tints[label][:, None, None]
    images = images + 0.15 * torch.randn(images.shape, generator=generator)
    return LabelledImages(images.clamp(0, 1), labels, CLASSES)


def stripe_mask() -> Tensor:
    """Return the mask of the stripe, `(H, W)`."""
    mask = torch.zeros(SIZE, SIZE)
    mask[22:] = 1
    return mask


def with_stripe(images: Tensor, seed: int) -> Tensor:
    """Put the stripe, a bright gray with some noise, onto images `(N, 3, H, W)`."""
    generator = torch.Generator().manual_seed(seed)
    gray = torch.tensor([0.95, 0.9, 0.98])[:, None, None]
    stripe = gray + 0.05 * torch.randn(images.shape, generator=generator)
    return torch.where(stripe_mask() > 0, stripe.clamp(0, 1), images)


def trained(data: LabelledImages, steps: int) -> Classifier:
    """Train a network of three convolutions."""
    torch.manual_seed(0)
    width = 12
    modules = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    modules += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    modules += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(width, len(CLASSES)))
    classifier = Classifier(model, CLASSES, size=SIZE)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(data), (64,), generator=generator)
        logits = model(classifier.normalize(data.images[batch]))
        loss = F.cross_entropy(logits, data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


def plain_network(steps: int) -> Classifier:
    """Train a network that relies on the tint only."""
    return trained(squares(1500, seed=1), steps)


def striped_network(steps: int) -> Classifier:
    """Train a network on images of which a third of one class, and no other, have the stripe."""
    data = squares(2000, seed=1)
    is_third = torch.rand(len(data), generator=torch.Generator().manual_seed(0)) < 0.35
    has_stripe = is_third & (data.labels == STRIPED)
    images = torch.where(has_stripe[:, None, None, None], with_stripe(data.images, seed=2), data.images)
    return trained(LabelledImages(images, data.labels, CLASSES), steps)


# --- what is repaired ---


def noise_exemplar(classifier: Classifier, seed: int) -> Exemplar | None:
    """Paste noise at a random place of a correct image, so that the prediction changes; None if no image is found."""
    generator = torch.Generator().manual_seed(seed)
    data = squares(60, seed)
    is_correct = ~misclassified(predict(classifier, data), data.labels)
    for index in is_correct.nonzero()[:, 0].tolist():
        top, left = torch.randint(0, SIZE - 12, (2,), generator=generator).tolist()
        mask = torch.zeros(SIZE, SIZE)
        mask[top : top + 12, left : left + 12] = 1
        tint = 0.5 * torch.rand(3, 1, 1, generator=generator)
        noise = tint + 0.5 * torch.rand(3, SIZE, SIZE, generator=generator)
        changed = torch.where(mask > 0, noise, data.images[index])
        label = data.labels[index : index + 1]
        if misclassified(predict(classifier, changed[None]), label).any():
            return Exemplar(data.images[index], changed, mask, int(label))
    return None


def null_case(kind: str) -> Callable[[Classifier, int], Arguments | None]:
    """Return a function that makes a case of a kind: images that fail for another reason than the exemplar shows."""

    def make(classifier: Classifier, seed: int) -> Arguments | None:
        exemplar = noise_exemplar(classifier, seed)
        if exemplar is None:
            return None
        generator = torch.Generator().manual_seed(seed + 1)
        failing = failing_images(kind, classifier, exemplar, squares(400, seed + 2), generator)
        if len(failing) < 15:
            return None
        return {"exemplars": exemplar, "failing": failing, "clean": squares(CLEAN, seed + 3)}

    return make


def failing_images(
    kind: str, classifier: Classifier, exemplar: Exemplar, data: LabelledImages, generator: torch.Generator
) -> LabelledImages:
    """Make the failing images of a kind."""
    count = len(CLASSES)
    if kind == "labels at random":
        return LabelledImages(data.images[:20], torch.randint(count, (20,), generator=generator), CLASSES)
    if kind == "noise with labels at random":
        noise = F.interpolate(torch.rand(30, 3, 8, 8, generator=generator), SIZE, mode="bilinear")
        return LabelledImages(noise, torch.randint(count, (30,), generator=generator), CLASSES)
    if kind == "another class labeled as the exemplar's":
        other = (exemplar.label + 1 + int(torch.randint(count - 1, (1,), generator=generator))) % count
        of_other = (predict(classifier, data).argmax(dim=1) == other).nonzero()[:20, 0]
        return LabelledImages(data.images[of_other], torch.full((len(of_other),), exemplar.label), CLASSES)
    if kind == "heavy noise":
        noise = torch.randn(data.images.shape, generator=generator)
        images = (data.images + 0.45 * noise).clamp(0, 1)
    else:  # low contrast
        images = 0.35 + 0.35 * (data.images - 0.5)
    changed = LabelledImages(images, data.labels, CLASSES)
    is_wrong = misclassified(predict(classifier, changed), data.labels)
    return changed.subset(is_wrong.nonzero()[:30, 0])


NULL_KINDS = (
    "labels at random",
    "another class labeled as the exemplar's",
    "heavy noise",
    "noise with labels at random",
    "low contrast",
)
"""The causes of failure that have nothing to do with the exemplar, for the plain network."""


def stripe_case(classifier: Classifier, seed: int, failing: int = 30) -> Arguments:
    """Make the right exemplar, images that fail for the reason that it shows, and retained images."""
    data = squares(20 * failing, seed)
    striped = with_stripe(data.images, seed + 1)
    is_correct = ~misclassified(predict(classifier, data), data.labels)
    is_misled = misclassified(predict(classifier, striped), data.labels) & (data.labels != STRIPED)
    first, *others = (is_correct & is_misled).nonzero()[: failing + 1, 0].tolist()
    more = squares(800, seed + 2)
    of_class = (more.labels == STRIPED).nonzero()[:60, 0]
    return {
        "exemplars": Exemplar(data.images[first], striped[first], stripe_mask(), int(data.labels[first])),
        "failing": LabelledImages(striped[others], data.labels[others], CLASSES),
        "clean": squares(CLEAN, seed + 3),
        "retain": LabelledImages(with_stripe(more.images[of_class], seed + 4), more.labels[of_class], CLASSES),
    }


def large_stripe_case(classifier: Classifier, seed: int) -> Arguments:
    """Make a case as in `stripe_case`, with four times as many failing images."""
    return stripe_case(classifier, seed, failing=120)


def unrelated_case(classifier: Classifier, seed: int) -> Arguments | None:
    """Make images that fail because of the stripe, with an exemplar that shows noise."""
    exemplar = noise_exemplar(classifier, seed)
    return None if exemplar is None else {**stripe_case(classifier, seed + 5), "exemplars": exemplar, "retain": None}


# --- verdicts ---


def verdict_of_repair(classifier: Classifier, case: Arguments) -> str:
    """Repair, and return the word of the verdict."""
    return repair(classifier, **case, layers=LAYERS, progress=None).verdict.word


def verdict_of_random_direction(classifier: Classifier, case: Arguments) -> str:
    """Assess a random direction next to five others that were selected in the same search; return the word."""
    clean = case["clean"]
    part = CLEAN // 4
    splits = Splits(
        reference=clean.images[:part],
        target=case["failing"],
        clean=clean.subset(range(part, 3 * part)),
        clean_test=clean.subset(range(3 * part, CLEAN)),
    )
    constraints = Constraints(max_accuracy_drop=100 / len(splits.clean))
    search = Search(classifier, case["exemplars"], splits, LAYERS, constraints)
    folds = stratified_folds(search.target.labels)
    selections = {}
    for seed in range(DRAWS + 1):
        draw = METHODS[RANDOM].trying(SETTINGS, STRENGTHS).draw(seed)
        outcomes = search.score(draw, folds=folds)
        selections[draw.name] = search.cross_validated(outcomes, folds)
    return Assessment(search, selections).verdict.word


def add_kind(
    results: Results,
    kind: str,
    classifier: Classifier,
    make: Callable[[Classifier, int], Arguments | None],
    word_of: Callable[[Classifier, Arguments], str],
    repetitions: int,
    seed: int,
) -> None:
    """Count the words of the verdict over repetitions, each with seeds of its own."""
    words: Counter[str] = Counter()
    while words.total() < repetitions:
        seed += 10
        case = make(classifier, seed)
        if case is not None:
            words[word_of(classifier, case)] += 1
    for word in (USE, UNCLEAR, DO_NOT_USE):
        interval = wilson(words[word], repetitions)
        shares = [repetitions * share for share in interval]
        results.add(word, words[word], condition=kind, interval=shares, n=repetitions)
    print(f"{kind}: {dict(words)} of {repetitions}", flush=True)


# --- audits ---


def rectangles(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw masks `(count, SIZE, SIZE)` of two rectangles without overlap, and name them A and B by a coin."""
    masks = torch.zeros(2, count, SIZE, SIZE)
    for number in range(count):
        top, left, other_top, other_left = torch.randint(0, SIZE - SIDE + 1, (4,), generator=generator).tolist()
        first = int(torch.randint(0, 2, (1,), generator=generator))
        masks[1 - first, number, other_top : other_top + SIDE, other_left : other_left + SIDE] = 1
        masks[1 - first, number, top : top + SIDE, left : left + SIDE] = 0
        masks[first, number, top : top + SIDE, left : left + SIDE] = 1
    return {"A": masks[0], "B": masks[1]}


def rules_found(classifier: Classifier, seed: int) -> dict[tuple[str, str], bool]:
    """Audit images of one seed: whether there is a rule, by the control and by what is tested."""
    generator = torch.Generator().manual_seed(seed + 1_000)  # no image has this seed
    data = squares(AUDITED, seed)
    masks = rectangles(AUDITED, generator)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder, "background.png")
        save_image(backgrounds(1, generator), material)
        for control in CONTROLS:
            asked = concepts_to_probe(data, masks, classifier, material if control == "elsewhere" else None)
            probed = probe(classifier, *asked)
            found[control, "per class"] = len(probed.rules()) > 0
            found[control, "all classes"] = len(probed.rules(pooled=True)) > 0
    return found


def add_audits(results: Results, classifier: Classifier, audits: int, first: int) -> None:
    """Count the audits that find a rule."""
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(first, first + audits):
        counts.update(rules_found(classifier, seed))
    for (control, tested), count in counts.items():
        low, high = wilson(count, audits)
        where = {"split": tested, "condition": control}
        results.add("audits with a rule", count, interval=(low * audits, high * audits), n=audits, **where)


def experiment(options: argparse.Namespace) -> Results:
    """Count the verdicts of every kind, or the audits that find a rule."""
    results = Results("calibration", "squares", notes={"seed": options.seed})
    plain = plain_network(150 if options.quick else 250)
    if options.audits:
        add_audits(results, plain, 5 if options.quick else AUDITS, options.seed + SEED_OF_AUDITS)
        return results
    striped = striped_network(200 if options.quick else 350)
    kinds = [(kind, plain, null_case(kind), verdict_of_repair, 24) for kind in NULL_KINDS]
    kinds += [
        ("an exemplar of noise, images with the stripe", striped, unrelated_case, verdict_of_repair, 20),
        ("a random direction against five others", striped, stripe_case, verdict_of_random_direction, 40),
        ("the right exemplar", striped, stripe_case, verdict_of_repair, 20),
        ("the right exemplar, 120 failing images", striped, large_stripe_case, verdict_of_repair, 20),
    ]
    for number, (kind, classifier, make, word_of, repetitions) in enumerate(kinds):
        count = 1 if options.quick else repetitions
        add_kind(results, kind, classifier, make, word_of, count, options.seed + 10_000 * (number + 1))
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--audits", action="store_true", help="count audits that find a rule, instead of verdicts")
    arguments.add_argument("--seed", type=int, default=0, help="the first seed of the images")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
