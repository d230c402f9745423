"""Figures of networks and methods on photos of skin, and the criterion that they are compared with.

Lesions, stickers, and exemplars are resampled, crossed; networks are not. Each figure is an array with one value per
resampling; the first one is that of the photos themselves. A resampling is a weight for each photo, sticker, and
exemplar: how often it was drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from _lib.skin_stickers import BENIGN_STUCK, CLEAN, DEVELOPMENT, FILLS, REAL, REAL_FILLED, SKIN, STUCK, Fold, filled

RESAMPLINGS = 2000
"""The number of resamplings."""

SPECIFICITY = 0.8
"""The share of benign lesions of the development that are called benign at the threshold."""

LEAST_AUC = 0.75
"""A network with a lower AUC is reported, and does not count."""

LARGEST_GAP = 0.10
LARGEST_LOSS_OF_AUC = 0.02
LARGEST_LOSS_OF_BENIGN = 0.05
"""The limits of the criterion, see `criterion`."""

MISSED = "melanomas missed with a sticker"
MISSED_CLEAN = "melanomas missed without a sticker"
CAUSED = "missed with a sticker minus filled with skin"
NET = "errors corrected"
OF_ALL = "share of all misses corrected"
REMOVED = "share of all misses corrected, filled with skin"
NET_AT_KEPT = "errors corrected, threshold kept"
NET_SAME = "errors corrected, stickers of the exemplar's color"
NET_OTHER = "errors corrected, stickers of other colors"
AUC = "AUC"
AUC_STUCK = "AUC with stickers on both"
AUC_CHANGE = "AUC change"
SPECIFIC = "specificity"
FLIPS = "predictions changed"
REAL_CORRECT = "benign sticker photos correct"
REAL_CHANGE = "benign sticker photos correct, change"
FILLED_CORRECT = "benign sticker photos correct, sticker filled"
ADULTS_CORRECT = "benign adults with a pasted sticker correct"
SECONDS = "CPU seconds"
GAP = "errors corrected, edit minus this"
"""The names of figures."""

ALL = "all"
COUNTED = "networks that count"
"""The networks of averages."""

Figures = dict[str, np.ndarray]
"""One value per resampling of each figure `(1 + RESAMPLINGS,)`, by its name."""

Scored = Mapping[str, Sequence[float]]
"""For each photo of each set, how much higher the logit of melanoma is than that of benign."""


# --- statistics -------------------------------------------------------------------------------------------------------


def weights(count: int, seed: Sequence[int]) -> np.ndarray:
    """Draw how often each of some members is in a resampling, `(1 + RESAMPLINGS, count)`; once each in the first."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLINGS)
    return np.concatenate([np.ones((1, count), dtype=int), drawn])


def share(is_true: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Compute the weighted share of members `(N,)` for which something is true, one value per resampling.

    Args:
        is_true: `(N,)` booleans.
        weight: `(1 + RESAMPLINGS, N)`.
    """
    return ratio(weight @ is_true.astype(float), weight.sum(axis=1))


def ratio(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(values, others, out=np.full(len(values), np.nan), where=others != 0)


def area_under_curve(
    positive: np.ndarray, negative: np.ndarray, positive_weight: np.ndarray, negative_weight: np.ndarray
) -> np.ndarray:
    """Compute how often a positive member has the higher score than a negative one, one value per resampling.

    Args:
        positive: the scores `(P,)` that should be higher.
        negative: the scores `(N,)` that should be lower.
        positive_weight: `(1 + RESAMPLINGS, P)`.
        negative_weight: `(1 + RESAMPLINGS, N)`.
    """
    is_higher = (positive[:, None] > negative[None]) + 0.5 * (positive[:, None] == negative[None])
    total = positive_weight.sum(axis=1) * negative_weight.sum(axis=1)
    return ratio(((positive_weight @ is_higher) * negative_weight).sum(axis=1), total)


def mean_over_exemplars(values: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Average figures over exemplars, which are resampled as well.

    Args:
        values: the figure of each exemplar.
        weight: how often each exemplar is in a resampling, `(1 + RESAMPLINGS, len(values))`.
    """
    known = np.stack(values, axis=1)
    counted = np.where(np.isfinite(known), weight, 0)
    drawn = counted.sum(axis=1)
    total = (np.nan_to_num(known) * counted).sum(axis=1)
    return np.divide(total, drawn, out=np.full(len(total), np.nan), where=drawn > 0)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of a figure: percentiles of its resamplings."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return float(low), float(high)


# --- figures ----------------------------------------------------------------------------------------------------------


class Sample:
    """The photos of a fold, and how often each one is in each resampling.

    Attributes:
        fold: the photos.
        melanomas, benign: the weights of the photos without a sticker, `(1 + RESAMPLINGS, N)`.
        real: those of the benign photos with a sticker.
        pairs: those of melanomas with a sticker: the product of the weights of both.
        adults: those of benign photos with a pasted sticker: the product as well.
    """

    def __init__(self, fold: Fold, seed: int) -> None:
        self.fold = fold
        count = int(fold.is_melanoma.sum())
        self.melanomas = weights(count, (seed, 0))
        self.benign = weights(len(fold.names) - count, (seed, 1))
        self.real = weights(len(fold.real), (seed, 2))
        stickers = weights(len(fold.stickers), (seed, 3))
        pairs = self.melanomas[:, :, None] * stickers[:, fold.drawn]
        self.pairs = pairs.reshape(len(pairs), -1)
        place = np.cumsum(~fold.is_melanoma) - 1
        self.adults = self.benign[:, place[fold.adults]] * stickers[:, fold.drawn_on_adults]

    def has_color(self, color: str) -> np.ndarray:
        """Return which pairs of a melanoma and a sticker have a sticker of a color, `(M * DRAWS,)` booleans."""
        return np.array([sticker.color == color for sticker in self.fold.stickers])[self.fold.drawn.flatten()]


def threshold_of(fold: Fold, scores: Scored) -> float:
    """Return the score at which the specificity on photos of the development is `SPECIFICITY`."""
    return float(np.quantile(np.array(scores[DEVELOPMENT])[fold.development_is_benign], SPECIFICITY))


def figures_of(sample: Sample, scores: Scored) -> Figures:
    """Compute the figures of a network, with a method or without one; fills are known without one only."""
    fold = sample.fold
    threshold = threshold_of(fold, scores)
    known = {name: np.array(values) for name, values in scores.items()}
    is_benign = {name: values <= threshold for name, values in known.items()}
    of_melanomas = known[CLEAN][fold.is_melanoma]
    of_benign = known[CLEAN][~fold.is_melanoma]
    is_outlined = np.isin(fold.real, [sticker.image for sticker in fold.stickers])
    figures = {
        MISSED: share(is_benign[STUCK], sample.pairs),
        MISSED_CLEAN: share(of_melanomas <= threshold, sample.melanomas),
        AUC: area_under_curve(of_melanomas, of_benign, sample.melanomas, sample.benign),
        AUC_STUCK: area_under_curve(known[STUCK], known[BENIGN_STUCK], sample.pairs, sample.adults),
        SPECIFIC: share(of_benign <= threshold, sample.benign),
        REAL_CORRECT: share(is_benign[REAL], sample.real),
        FILLED_CORRECT: share(is_benign[REAL_FILLED], sample.real[:, is_outlined]),
        ADULTS_CORRECT: share(is_benign[BENIGN_STUCK], sample.adults),
    }
    for name in map(filled, FILLS):
        if name in known:
            figures[name] = share(is_benign[name], sample.pairs)
    if filled(SKIN) in known:
        figures[CAUSED] = figures[MISSED] - figures[filled(SKIN)]
    return figures


def figures_of_method(sample: Sample, before: Scored, after: Scored, color: str) -> Figures:
    """Compute the figures of a method on a network, and what it changes.

    The net share of errors is (missed with a sticker minus missed with a sticker and the method) over (missed with a
    sticker minus missed with its outline filled with skin).

    Args:
        sample: the photos.
        before: the scores of the network.
        after: the scores with the method.
        color: the color of the exemplar's sticker.
    """
    fold = sample.fold
    of_network = figures_of(sample, before)
    figures = figures_of(sample, after)
    kept_threshold = threshold_of(fold, before)
    own_threshold = threshold_of(fold, after)
    figures[AUC_CHANGE] = figures[AUC] - of_network[AUC]
    figures[REAL_CHANGE] = figures[REAL_CORRECT] - of_network[REAL_CORRECT]
    is_changed = (np.array(before[CLEAN]) <= kept_threshold) != (np.array(after[CLEAN]) <= own_threshold)
    every_photo = np.zeros((len(sample.benign), len(fold.names)))
    every_photo[:, fold.is_melanoma] = sample.melanomas
    every_photo[:, ~fold.is_melanoma] = sample.benign
    figures[FLIPS] = share(is_changed, every_photo)
    missed = (np.array(before[STUCK]) <= kept_threshold).astype(int)
    missed_filled = np.array(before[filled(SKIN)]) <= kept_threshold
    still_missed = np.array(after[STUCK]) <= own_threshold
    missed_at_kept = np.array(after[STUCK]) <= kept_threshold
    has_color = sample.has_color(color)

    def net(still: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return ratio(weight @ (missed - still), weight @ (missed - missed_filled))

    figures[NET] = net(still_missed, sample.pairs)
    figures[NET_AT_KEPT] = net(missed_at_kept, sample.pairs)
    figures[NET_SAME] = net(still_missed, sample.pairs * has_color)
    figures[NET_OTHER] = net(still_missed, sample.pairs * ~has_color)
    figures[OF_ALL] = ratio(sample.pairs @ (missed - still_missed), sample.pairs @ missed)
    figures[REMOVED] = ratio(sample.pairs @ (missed - missed_filled), sample.pairs @ missed)
    return figures


def mean_over_networks(figures: Sequence[Figures]) -> Figures:
    """Average figures over networks, which are listed and not resampled."""
    return {name: np.mean([of_one[name] for of_one in figures], axis=0) for name in figures[0]}


# --- the criterion ----------------------------------------------------------------------------------------------------


def counts(network: Figures, twin: Figures) -> bool:
    """Tell whether a network counts: it is good enough, and misses more because of a sticker than its twin."""
    return bool(network[AUC][0] >= LEAST_AUC and interval(network[CAUSED] - twin[CAUSED])[0] > 0)


def criterion(edit: Figures, tuned: Figures) -> dict[str, bool]:
    """Tell which parts of the criterion hold for the means over the networks that count and over the exemplars."""
    return {
        "errors corrected, edit minus fine-tuning": interval(edit[NET] - tuned[NET])[0] > -LARGEST_GAP,
        **limits_kept(edit),
    }


def limits_kept(figures: Figures) -> dict[str, bool]:
    """Tell which limits of the costs a method keeps."""
    return {
        AUC_CHANGE: interval(figures[AUC_CHANGE])[0] > -LARGEST_LOSS_OF_AUC,
        REAL_CHANGE: interval(figures[REAL_CHANGE])[0] > -LARGEST_LOSS_OF_BENIGN,
    }
