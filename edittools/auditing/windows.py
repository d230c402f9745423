"""Find what carries each class: windows that turn other photos into their class when they are pasted there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize
from tqdm.auto import tqdm

from edittools._progress import Progress
from edittools.auditing.sheet import LEAST_RECURRING, ContactSheet, Window, WindowGroup
from edittools.classifiers import Classifier, check_size, remap_labels, usual_batch_size
from edittools.cut import Cut, State, cut_all, states_at
from edittools.images import LabeledImages, batches_of, stratified
from edittools.layers import candidate_layers
from edittools.locate import Box, mean_keys, weights_of
from edittools.metrics import predict, predicted_classes
from edittools.probing.evidence import evidence_of_keys
from edittools.scenes import first_of_each, scenes_of
from edittools.stats import SIGNIFICANCE, mcnemar

SIDES = (0.2, 0.3)
"""The sides of windows, as shares of the side of an image."""

SHOWN = 3
"""The number of groups of windows that are shown of each class."""

FINALISTS = 8
"""The number of groups of windows that are pasted into more photos before the ones to show are selected."""

MOST_PHOTOS = 30
"""The largest number of photos of each class whose windows are tried."""

LEAST_PHOTOS = 3
"""A class of fewer photos has no row on a contact sheet."""

BLOCKS = 6
"""The number of blocks along each side of a window that is shuffled."""

LEAST_SOURCES = 5
"""A mark from fewer photos is not confirmed."""

LEAST_HOSTS = 10
"""A mark is not confirmed by pastes into fewer photos, each of another scene."""

HOSTS_TESTED = 12
"""The number of photos into which the mark of each photo is pasted, as it is and shuffled."""

LAYERS = 4
"""The number of layers whose evidence is averaged."""

HOSTS_FIRST = 4
"""The number of photos into which each window is pasted first."""

PASTES = 48
"""The number of photos with pasted windows of a group, for the selection of groups and again for their report."""

RANDOM_HOSTS = 2
"""The number of photos into which each random window is pasted."""

RANKING, REPORT, TEST = "ranking", "report", "test"
"""What photos are used for that take windows: half of them, a quarter, and a quarter."""

CHUNK = 256
"""The number of photos with pasted windows that are in memory at once."""


def contact_sheet(
    classifier: Classifier,
    data: LabeledImages,
    *,
    sides: Sequence[float] = SIDES,
    shown: int = SHOWN,
    progress: Progress | None = tqdm,
) -> ContactSheet:
    """Find the windows of photos that carry each class.

    The windows of a photo that argue most for its class against the runner-up are pasted into photos of other classes,
    at random places. Windows that resemble each other form a group; those that recur in several photos come first, then
    those that turn more photos into their class. Groups are ranked on one half of the photos, and their shares are
    computed on a half of the other half, with new places; the rest is for `confirm`.

    Copies of a photo and frames of one scene count once.

    Args:
        classifier: the classifier; it is not changed.
        data: photos, with at least three photos of each of two classes. A class of fewer photos has no row.
        sides: the sides of windows, as shares of the side of a photo.
        shown: the number of groups to show of each class.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.

    Returns:
        The contact sheet, with the classes of the strongest windows first. A class has an empty row if no photo for
        the report can take its windows, since all photos of other classes are predicted as it.

    Raises:
        ValueError: if fewer than two classes have three photos.
    """
    check_size("data", data, classifier)
    data = remap_labels("data", data, classifier)
    data = replace(data, images=data.images[:])
    check_photos(data.subset(first_of_each(scenes_of(data))))  # before the minutes that follow
    logits = predict(classifier, data.images, bar="photos", progress=progress)
    generator = torch.Generator().manual_seed(0)  # of all draws: the steps below draw in their order
    photos = _divide(classifier, data, logits, generator)
    pixels = [max(1, round(side * classifier.size)) for side in sides]
    found = _strong_windows(photos, pixels, progress)
    ranked = _groups_to_show(photos, found, shown, generator, progress)
    random_shares = _random_shares(photos, pixels, generator, progress)
    groups = _report(photos, ranked, random_shares, generator, progress)
    strongest = dict.fromkeys(photos.sources, -1.0)
    for group in groups:
        strongest[group.label] = max(strongest[group.label], group.margin)
    order = sorted(photos.sources, key=lambda label: strongest[label], reverse=True)
    counts = {label: len(photos.sources[label]) for label in order}
    return ContactSheet(data, logits, groups, counts, photos.repeats)


def classes_to_show(labels: Tensor) -> list[int]:
    """List the classes that have rows on a contact sheet: those of enough photos, if there are two of them.

    Windows of one class alone could not be told apart from those of others.

    Args:
        labels: the class of each photo, `(N,)`.
    """
    classes, counts = labels.unique(return_counts=True)
    shown = classes[counts >= LEAST_PHOTOS].tolist()
    return shown if len(shown) > 1 else []


def check_photos(data: LabeledImages) -> None:
    """Check that different photos show enough classes for a contact sheet.

    Args:
        data: photos, each of another scene.

    Raises:
        ValueError: if they do not; it names the classes that have enough photos, and the others with their numbers.
    """
    if classes_to_show(data.labels):
        return
    classes, counts = data.labels.unique(return_counts=True)
    enough = [repr(data.classes[label]) for label in classes[counts >= LEAST_PHOTOS].tolist()]
    raise ValueError(
        f"an audit needs two classes of at least {LEAST_PHOTOS} different photos; of {len(classes)} classes, these "
        f"have as many: {', '.join(enough) or 'none'}; add photos of other classes"
    )


def shuffled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle the blocks of a window, about 6 × 6 of them, so that its colors and fine textures stay.

    Args:
        pixels: `(3, side, side)`.
    """
    side = pixels.shape[-1]
    block = max(1, side // BLOCKS)
    count = side // block
    whole = count * block
    blocks = (
        pixels[:, :whole, :whole].unfold(1, block, block).unfold(2, block, block).reshape(3, count**2, block, block)
    )
    blocks = blocks[:, torch.randperm(count**2, generator=generator)].reshape(3, count, count, block, block)
    changed = pixels.clone()
    changed[:, :whole, :whole] = blocks.permute(0, 1, 3, 2, 4).reshape(3, whole, whole)
    return changed


@dataclass(frozen=True, eq=False)
class _Photos:
    """The photos of a contact sheet, and which of them give windows and take them.

    Attributes:
        classifier: the classifier.
        images: all photos, `(N, 3, H, W)`.
        labels: their classes, `(N,)`.
        logits: their logits, `(N, classes)`.
        predicted: their predicted classes, `(N,)`.
        sources: by class, the numbers of the photos whose windows are tried.
        parts: by use, see `RANKING`, the numbers of the photos that may take windows.
        repeats: the number of photos that are neither, as copies of others or frames of the same scene.
    """

    classifier: Classifier
    images: Tensor
    labels: Tensor
    logits: Tensor
    predicted: Tensor
    sources: Mapping[int, list[int]]
    parts: Mapping[str, Tensor]
    repeats: int


def _divide(classifier: Classifier, data: LabeledImages, logits: Tensor, generator: torch.Generator) -> _Photos:
    """Divide photos into those that give windows and those that take them, of one image per scene.

    Raises:
        ValueError: if fewer than two classes have three photos.
    """
    independent = first_of_each(scenes_of(data))
    check_photos(data.subset(independent))
    members = independent.nonzero()[:, 0]
    sources = {}
    for label in classes_to_show(data.labels[independent]):
        of_class = members[data.labels[members] == label]
        order = torch.randperm(len(of_class), generator=generator)[:MOST_PHOTOS]
        sources[label] = of_class[order].tolist()
    is_ranking = stratified(data.labels[members], 0.5)
    rest = members[~is_ranking]
    is_reporting = stratified(data.labels[rest], 0.5)
    parts = {RANKING: members[is_ranking], REPORT: rest[is_reporting], TEST: rest[~is_reporting]}
    repeats = int((~independent).sum())
    predicted = predicted_classes(logits)
    return _Photos(classifier, data.images[:], data.labels, logits, predicted, sources, parts, repeats)


def _draw_hosts(photos: _Photos, label: int, part: str, count: int, generator: torch.Generator) -> list[int]:
    """Draw photos of other classes that are not predicted as a class either; each is drawn about equally often."""
    members = photos.parts[part]
    is_host = (photos.labels[members] != label) & (photos.predicted[members] != label)
    possible = members[is_host]
    if not len(possible):
        return []
    rounds = -(-count // len(possible))
    drawn = [possible[torch.randperm(len(possible), generator=generator)] for _ in range(rounds)]
    return torch.cat(drawn)[:count].tolist()


def _draw_places(sides: Sequence[int], size: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Draw the first row and column of windows in photos of a size; all sides are in pixels."""
    places = []
    for side in sides:
        top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
        places.append((top, left))
    return places


def _paste(
    photos: _Photos,
    contents: Sequence[Tensor],
    hosts: Sequence[int],
    places: Sequence[tuple[int, int]],
    bar: str,
    progress: Progress | None,
) -> Tensor:
    """Paste windows into photos, each into one, and return their logits `(P, classes)`.

    Args:
        photos: the photos.
        contents: the pixels `(3, side, side)` of each window.
        hosts: the number of the photo for each window.
        places: the first row and column of each pasted window.
        bar: the name of the bar.
        progress: a class like `tqdm.tqdm`, for bars.
    """
    logits = []
    for batch in batches_of(len(contents), CHUNK, bar, progress):
        pasted = photos.images[hosts[batch]]
        for image, pixels, place in zip(pasted, contents[batch], places[batch], strict=True):
            Box.square(*place, pixels.shape[-1]).of(image)[:] = pixels
        logits.append(predict(photos.classifier, pasted))
    return torch.cat(logits) if logits else torch.zeros(0, len(photos.classifier.classes))


def _paste_anywhere(
    photos: _Photos,
    windows: Sequence[Window],
    hosts: Sequence[int],
    generator: torch.Generator,
    bar: str,
    progress: Progress | None,
) -> Tensor:
    """Paste each window at a random place of a photo, and return the logits; see `_paste`."""
    images = photos.images
    places = _draw_places([window.side for window in windows], images.shape[-1], generator)
    contents = [window.of(images) for window in windows]
    return _paste(photos, contents, hosts, places, bar, progress)


@dataclass(eq=False)
class _StrongWindow:
    """A window, the keys below it, and how much it raises the probability of its class in other photos."""

    window: Window
    key: Tensor
    rise: float = 0.0


def _evidence_layers(classifier: Classifier) -> list[Cut]:
    """Select the layers whose evidence is averaged, from the second half of the network.

    A layer through whose keys all goes is preferred, since its keys tell the whole evidence.
    """
    layers = candidate_layers(classifier)
    cuts = list(cut_all(classifier, layers[len(layers) // 2 :]).values())
    cuts = [cut for cut in cuts if cut.is_bottleneck] or cuts
    count = min(LAYERS, len(cuts))
    return [cuts[round((number + 0.5) * len(cuts) / count - 0.5)] for number in range(count)]


def _middle(cuts: Sequence[Cut]) -> Cut:
    """Return the layer whose keys tell which windows resemble each other."""
    return cuts[len(cuts) // 2]


def key_layer(classifier: Classifier) -> Cut:
    """Cut a classifier at the layer whose keys tell which windows resemble each other."""
    return _middle(_evidence_layers(classifier))


def _strong_windows(photos: _Photos, sides: Sequence[int], progress: Progress | None) -> dict[int, list[_StrongWindow]]:
    """Find the window of each photo and side, in pixels, that argues most for the photo's class."""
    numbers = [number for sources in photos.sources.values() for number in sources]
    found: dict[int, list[_StrongWindow]] = {label: [] for label in photos.sources}
    cuts = _evidence_layers(photos.classifier)
    for places in batches_of(len(numbers), usual_batch_size(photos.classifier), "evidence", progress):
        for strong in _windows_of_batch(photos, numbers[places], sides, cuts):
            found[int(photos.labels[strong.window.photo])].append(strong)
    return found


def _windows_of_batch(
    photos: _Photos, batch: Sequence[int], sides: Sequence[int], cuts: Sequence[Cut]
) -> list[_StrongWindow]:
    """Find the window of each photo and side with the most evidence, and its mean key."""
    of_layer = {cut.layer: cut for cut in cuts}
    key_cut = _middle(cuts)
    images = photos.images[batch]
    states = states_at(of_layer, images)
    labels = photos.labels[batch]
    others = photos.logits[batch]
    others[torch.arange(len(batch)), labels] = -torch.inf
    runners_up = others.argmax(dim=1)
    heat = torch.zeros(len(batch), *images.shape[2:])
    for layer, cut in of_layer.items():
        evidence = evidence_of_keys(cut, states[layer], labels, runners_up)
        # Evidence has the scale of a layer's keys; divided by its mean size, each layer counts the same.
        heat += evidence / evidence.abs().mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    strong = []
    for side in sides:
        windows = list(_best_windows(heat, batch, side))
        keys = _keys_of(key_cut, states[key_cut.layer], windows, heat.shape)
        strong += [_StrongWindow(window, key) for window, key in zip(windows, keys, strict=True)]
    return strong


def _best_windows(heat: Tensor, numbers: Sequence[int], side: int) -> Iterator[Window]:
    """Yield the window of each map `(B, H, W)` with the largest mean."""
    stride = max(1, side // 8)
    means = avg_pool2d(heat[:, None], side, stride)[:, 0]
    for number, places in zip(numbers, means.flatten(1).argmax(dim=1).tolist(), strict=True):
        row, column = divmod(places, means.shape[2])
        yield Window(number, Box.square(row * stride, column * stride, side))


def _keys_of(cut: Cut, state: State, windows: Sequence[Window], shape: torch.Size) -> Tensor:
    """Average the keys below one window per image, `(B, C)`."""
    masks = torch.stack([window.box.mask(*shape[1:]) for window in windows])
    return mean_keys(cut, state, weights_of(cut, masks)[:, None])[:, 0]


def _groups_to_show(
    photos: _Photos,
    found: dict[int, list[_StrongWindow]],
    shown: int,
    generator: torch.Generator,
    progress: Progress | None,
) -> dict[int, list[list[Window]]]:
    """Group the windows of each class, and select the groups to show on the photos for ranking."""
    candidates = [candidate for of_class in found.values() for candidate in of_class]
    # Each window alone is pasted into a few photos; to paste all of them into many would take many times as long.
    alone = [[candidate] for candidate in candidates]
    _measure(photos, alone, HOSTS_FIRST, generator, "windows", progress)
    keys = torch.stack([candidate.key for candidate in candidates])
    labels = torch.tensor([int(photos.labels[candidate.window.photo]) for candidate in candidates])
    keys = normalize((keys - keys.mean(dim=0)) / keys.std(dim=0).clamp_min(1e-12), dim=1)
    similarity = keys @ keys.T
    threshold = _similarity_between(similarity, labels)
    finalists = {}
    for label, of_class in found.items():
        members = (labels == label).nonzero()[:, 0]
        groups = _groups(of_class, similarity[members][:, members] >= threshold)
        finalists[label] = sorted(groups, key=_order, reverse=True)[:FINALISTS]
    all_finalists = [group for groups in finalists.values() for group in groups]
    _measure(photos, all_finalists, PASTES, generator, "groups of windows", progress)
    ranked = {}
    for label, groups in finalists.items():
        best = sorted(groups, key=_order, reverse=True)[:shown]
        ranked[label] = [[candidate.window for candidate in group] for group in best]
    return ranked


def _order(group: Sequence[_StrongWindow]) -> tuple[bool, float]:
    """Compare groups: those that recur in several photos first, then those that raise their class more."""
    rises = [candidate.rise for candidate in group]
    return len(group) >= LEAST_RECURRING, sum(rises) / len(rises)


def _similarity_between(similarity: Tensor, labels: Tensor) -> float:
    """Return the similarity that 1% of the pairs of windows of different classes exceed."""
    # Windows of different classes seldom show the same thing: this is how similar windows are by accident.
    pairs = similarity[labels[:, None] != labels]
    return float(pairs.kthvalue(max(1, round(0.99 * len(pairs)))).values)


def _groups(candidates: Sequence[_StrongWindow], is_similar: Tensor) -> list[list[_StrongWindow]]:
    """Group windows around the strongest ones; a group holds one window per photo, the strongest first.

    Args:
        is_similar: whether two windows resemble each other, `(N, N)`.
    """
    order = sorted(range(len(candidates)), key=lambda number: candidates[number].rise, reverse=True)
    left = set(order)
    groups = []
    for center in order:
        if center not in left:
            continue
        group: dict[int, _StrongWindow] = {}
        for number in order:
            candidate = candidates[number]
            is_same_place = _overlap(candidate.window, candidates[center].window)
            if number in left and (bool(is_similar[center, number]) or is_same_place or number == center):
                left.discard(number)
                group.setdefault(candidate.window.photo, candidate)
        groups.append(list(group.values()))
    return groups


def _overlap(one: Window, other: Window) -> bool:
    """Tell whether two windows of one photo share half of the smaller one."""
    if one.photo != other.photo:
        return False
    first = one.box
    second = other.box
    tall = min(first.top + first.height, second.top + second.height) - max(first.top, second.top)
    wide = min(first.left + first.width, second.left + second.width) - max(first.left, second.left)
    return max(0, tall) * max(0, wide) >= 0.5 * min(one.side, other.side) ** 2


def _measure(
    photos: _Photos,
    groups: Sequence[Sequence[_StrongWindow]],
    pastes: int,
    generator: torch.Generator,
    bar: str,
    progress: Progress | None,
) -> None:
    """Paste the windows of groups into photos for ranking, and set how much each raises its class."""
    windows = []
    hosts = []
    owners = []
    for group in groups:
        label = int(photos.labels[group[0].window.photo])
        drawn = _draw_hosts(photos, label, RANKING, pastes, generator)
        for number, host in enumerate(drawn):
            candidate = group[number % len(group)]
            windows.append(candidate.window)
            hosts.append(host)
            owners.append(candidate)
    after = _paste_anywhere(photos, windows, hosts, generator, bar, progress).softmax(dim=1)
    before = photos.logits.softmax(dim=1)
    rises: dict[int, list[float]] = {}
    for candidate, host, probabilities in zip(owners, hosts, after, strict=True):
        label = int(photos.labels[candidate.window.photo])
        rise = float(probabilities[label] - before[host, label])
        rises.setdefault(id(candidate), []).append(rise)
    for candidate in owners:
        values = rises[id(candidate)]
        candidate.rise = sum(values) / len(values)


def _report(
    photos: _Photos,
    ranked: dict[int, list[list[Window]]],
    random_shares: dict[tuple[int, int], tuple[float, float]],
    generator: torch.Generator,
    progress: Progress | None,
) -> list[WindowGroup]:
    """Compute the shares of the selected groups on the photos for the report.

    A class has no group if none of these photos can take its windows, since all are of the class or predicted as it.
    """
    windows = []
    hosts = []
    owners = []
    groups = [(label, group) for label, of_class in ranked.items() for group in of_class]
    for place, (label, group) in enumerate(groups):
        for number, host in enumerate(_draw_hosts(photos, label, REPORT, PASTES, generator)):
            windows.append(group[number % len(group)])
            hosts.append(host)
            owners.append(place)
    after = predicted_classes(_paste_anywhere(photos, windows, hosts, generator, "shares", progress))
    reported = []
    for place, (label, group) in enumerate(groups):
        turned: dict[int, list[float]] = {}
        for owner, window, predicted in zip(owners, windows, after.tolist(), strict=True):
            if owner == place:
                turned.setdefault(window.photo, []).append(float(predicted == label))
        if not turned:
            continue
        own, other = _mean([random_shares[label, window.side] for window in group])
        share = _mean([[sum(values) / len(values)] for values in turned.values()])[0]
        reported.append(WindowGroup(label, group, share, own, other, owners.count(place)))
    return reported


def _random_shares(
    photos: _Photos,
    sides: Sequence[int],
    generator: torch.Generator,
    progress: Progress | None,
) -> dict[tuple[int, int], tuple[float, float]]:
    """Compute how often random windows of these sides, in pixels, turn photos for the report into each class.

    Returns:
        By class and side, the share of photos that random windows of its photos turn into the class, and that of random
        windows of photos of other classes.
    """
    size = photos.images.shape[-1]
    windows = []
    hosts = []
    for label, sources in photos.sources.items():
        for number in sources:
            for side in sides:
                drawn = _draw_hosts(photos, label, REPORT, RANDOM_HOSTS, generator)
                for place in _draw_places([side] * len(drawn), size, generator):
                    windows.append(Window(number, Box.square(*place, side)))
                hosts += drawn
    after = predicted_classes(_paste_anywhere(photos, windows, hosts, generator, "random windows", progress))
    of_window = photos.labels[[window.photo for window in windows]]
    side_of = torch.tensor([window.side for window in windows])
    host = torch.tensor(hosts)
    shares = {}
    for label in photos.sources:
        is_host = (photos.labels[host] != label) & (photos.predicted[host] != label)
        for side in sides:
            is_compared = is_host & (side_of == side)
            of_class = after[is_compared & (of_window == label)] == label
            of_others = after[is_compared & (of_window != label)] == label
            shares[label, side] = (float(of_class.float().mean()), float(of_others.float().mean()))
    return shares


@dataclass(frozen=True)
class Confirmation:
    """Whether a mark carries a class, or just its colors and textures do.

    Attributes:
        share: the share of photos that become the class when the mark of another photo is pasted into them.
        shuffled_share: the same for the mark with its blocks shuffled, in the same photos and places.
        sources: the number of photos from which the mark was taken.
        hosts: the number of photos into which it was pasted, each of another scene.
        p: p-value of the one-sided sign test over these photos; 1 without any.
    """

    share: float
    shuffled_share: float
    sources: int
    hosts: int
    p: float

    @property
    def is_enough(self) -> bool:
        """Whether there are enough photos for a test."""
        return self.sources >= LEAST_SOURCES and self.hosts >= LEAST_HOSTS

    @property
    def is_confirmed(self) -> bool:
        """Whether there are enough photos and the p-value is small enough."""
        return self.is_enough and self.p <= SIGNIFICANCE


def confirm(
    classifier: Classifier, sheet: ContactSheet, group: WindowGroup, seed: int = 0, progress: Progress | None = tqdm
) -> Confirmation:
    """Test a mark that a person has picked from a contact sheet, on photos that neither ranked nor reported it.

    The windows of all photos of the group but the first, which serves as the exemplar, are pasted into these photos,
    and once more with their blocks shuffled, at the same places. A photo counts for the mark if its window turns more
    of them into the class than the shuffled window does.

    Args:
        classifier: the classifier of the contact sheet.
        sheet: the contact sheet.
        group: one of its groups.
        seed: the seed of places and shuffles.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.
    """
    generator = torch.Generator().manual_seed(seed)
    photos = _divide(classifier, sheet.data, sheet.logits, generator)
    images = photos.images
    windows = []
    hosts = []
    for window in group.windows[1:]:
        drawn = _draw_hosts(photos, group.label, TEST, HOSTS_TESTED, generator)
        windows += [window] * len(drawn)
        hosts += drawn
    if not windows:
        return Confirmation(0.0, 0.0, 0, 0, 1.0)
    places = _draw_places([window.side for window in windows], images.shape[-1], generator)
    contents = [window.of(images) for window in windows]
    in_blocks = [shuffled(pixels, generator) for pixels in contents]
    turned = {}
    for is_shuffled, pixels in ((False, contents), (True, in_blocks)):
        logits = _paste(photos, pixels, hosts, places, "test of the mark", progress)
        is_turned = predicted_classes(logits) == group.label
        turned[is_shuffled] = is_turned.float().reshape(len(group.windows) - 1, -1).mean(dim=1)
    differences = turned[False] - turned[True]
    wins = int((differences > 0).sum())
    losses = int((differences < 0).sum())
    p = mcnemar(wins, losses, alternative="greater")
    shares = {is_shuffled: float(of_window.mean()) for is_shuffled, of_window in turned.items()}
    return Confirmation(shares[False], shares[True], len(differences), len(set(hosts)), p)


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Average rows of numbers."""
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]
