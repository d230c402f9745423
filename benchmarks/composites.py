"""Composites: photos whose concept is turned to another material, to choose an edit on before any failing photo is had.

    story = snow_from_composites("squeezenet1_1")   # chooses on composites, reports all photos of vehicles on snow

A person has photos of roads, their masks and a picture of snow long before having photos that a classifier misreads. A
composite is held to what the classifier reads before the change, so nobody has to label it.

Run as a script, it chooses an edit on roads of MSRC's photos, whose masks are made by hand, and on these and roads of
the ImageNet sample whose masks are found. Both are read on composites of photos that neither saw.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from common import finish
from methods import FAST, STRENGTHS
from networks import options
from torch import Tensor

from edittools.choosing.choice import FEW
from edittools.choosing.protocol import Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.trials import candidate_layers, counted
from edittools.classifiers import Classifier
from edittools.exemplars import paste_texture
from edittools.images import LabelledImages, stratified
from edittools.metrics import predict
from edittools.stories import photos
from edittools.stories.snow import everyday_photos, snow_exemplars, street_finder
from edittools.world.textures import VARIANTS, restyle
from edittools.zoo.load import load_classifier

Look = Callable[[Tensor, Tensor, int], Tensor]
"""What turns image i with its mask to a material: `look(image, mask, i)`."""

SURE = 0.2
"""A photo that is read with at least this probability can say what its composites show."""

LEAST = 0.05
"""A concept covers at least this share of a photo that shows it."""

LATE = 10
"""So many of the last convolutions may be edited: late ones are fast to try."""


def composed(data: LabelledImages, masks: Tensor, looks: Sequence[Look]) -> LabelledImages:
    """Turn what `masks` `(N, H, W)` cover to each of the looks, labelled as the untouched photos are."""
    places = [i for i in range(len(data)) for _ in looks]
    pictures = [look(data.images[i], masks[i], i) for i in range(len(data)) for look in looks]
    return replace(data.subset(places), images=(torch.stack(pictures) * 255).round() / 255)


def masked_photos(
    classifier: Classifier, concept: str, progress: bool = False
) -> tuple[LabelledImages, Tensor, Tensor]:
    """The MSRC photos that show a `concept`, on `LEAST` of them, and are read with a probability of `SURE`.

    Gives them, labelled as `classifier` reads them, their masks `(N, H, W)`, and all other photos `(M, 3, H, W)`.
    """
    data, masks = photos.msrc(classifier, SURE, progress)
    showing = masks[concept].mean(dim=(1, 2)) >= LEAST
    shown = data.subset(showing)
    other = photos.unlabelled("msrc-v2/Images/", classifier, progress, without=shown.names)
    return shown, masks[concept][showing], other


def snow_looks() -> list[Look]:
    """Three looks of snow: the paper's picture as it lies in the exemplars, a darker part of it, and drawn snow."""
    whole = photos.snow_texture()
    height, width = whole.shape[1:]
    part = 0.85 * whole[:, height // 2 :, width // 2 :]
    return [
        lambda image, mask, i: paste_texture(image, mask, whole, keep_shading=0),
        lambda image, mask, i: paste_texture(image, mask, part),
        lambda image, mask, i: restyle(image, mask, "snow", i % VARIANTS),
    ]


def found_roads(classifier: Classifier, progress: bool) -> tuple[LabelledImages, Tensor, dict[str, LabelledImages]]:
    """Give everyday photos in which segmenters find a road, as `masked_photos` gives MSRC's, and their masks.

    The third is the sets of everyday photos without them, of which `FEW` are the budget.
    """
    sets, find = everyday_photos(classifier, progress), street_finder()
    data = joined(sets["budget"], sets["clean"])
    masks = torch.cat([find(sets[name].images)["road"] for name in ("budget", "clean")])
    sure, read = predict(classifier, data).softmax(dim=1).max(dim=1)
    showing = (masks.mean(dim=(1, 2)) >= LEAST) & (sure >= SURE)
    left = data.subset(~showing)
    sets |= {"budget": left.subset(range(FEW)), "clean": left.subset(range(FEW, len(left)))}
    return replace(data, labels=read).subset(showing), masks[showing], sets


def joined(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    """Put images of the same classes behind each other."""
    images, labels = torch.cat([one.images, other.images]), torch.cat([one.labels, other.labels])
    return replace(one, images=images, labels=labels, names=one.names + other.names)


def snow_from_composites(name: str, progress: bool = False, found: bool = False) -> Scenario:
    """Notebook 01's story on photos, with a classifier of the zoo by name, chosen without a single photo of snow.

    `validation` are composites: roads of MSRC photos, and those `found` in everyday ones if asked for, in each of
    `snow_looks`. So all 126 photos are the `test`.
    """
    classifier = load_classifier(name)
    roads, masks, other = masked_photos(classifier, "road", progress)
    composites = composed(roads, masks, snow_looks())
    if found:
        roads, masks, everyday = found_roads(classifier, progress)
        composites = joined(composites, composed(roads, masks, snow_looks()))
    else:
        everyday = everyday_photos(classifier, progress)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    exemplars, layers = snow_exemplars(classifier, change), candidate_layers(classifier)[-LATE:]
    sets = {"validation": composites, "test": photos.snow_photos(classifier, progress), "reference": other, **everyday}
    sets["more"] = photos.elsewhere(classifier, progress)
    story = {"tier": "lite", "change": change, "layers": layers, "several": {"all 5": list(exemplars.values())}}
    default = {"layer": layers[0], "exemplar": "minivan", "rank": 1, "masked": True}
    return Scenario(classifier, exemplars, **sets, **story, default=default)


def choose_on_both(name: str) -> pd.DataFrame:
    """Choose on MSRC's composites and on both kinds, on half of the photos, and report both edits on the other half."""
    story, looks = snow_from_composites(name, progress=True, found=True), len(snow_looks())
    made = story.validation
    found = torch.tensor(["imagenet" in photo for photo in made.names])
    chooses = stratified(found[::looks].long(), 0.5, seed=0).repeat_interleave(looks)
    sets = {"validation": made.subset(chooses), "test": made.subset(~chooses)}
    more = {"held out found": made.subset(~chooses & found)}
    protocol = Protocol(replace(story, **sets, more=more), progress=True)
    both = protocol.sweep(protocol.rewriting(FAST, STRENGTHS))
    tables = {"MSRC": counted(both, protocol.states["validation"].before, ~found[chooses]), "both": both}
    choices = {kind: protocol.bounds.choose(table) for kind, table in tables.items()}
    reported = protocol.report({kind: choice.edit for kind, choice in choices.items()})
    return reported.assign(network=name, edit=list(map(str, choices.values())))


def main() -> None:
    """Choose on either kind of composites, for each network."""
    given = options(__doc__.splitlines()[0], ("efficientnet_lite0", "squeezenet1_1"))
    table = pd.concat([choose_on_both(name) for name in given.networks])
    print(table.T.to_string())
    finish(given, {"rows": table.reset_index().to_dict("records")})


if __name__ == "__main__":
    main()
