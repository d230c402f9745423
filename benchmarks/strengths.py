"""How large a strength α to try on photographs: what larger ones gain on turned photos that did not choose.

No photo of snow is read. MSRC photos of grass and trees, without those of roads, are turned to snow as roads are in
`composites.py`: two of each network are exemplars, every second other one chooses, the rest reports. One edit, and one
of two layers, is chosen among strengths up to each of `MOST`, within 0.25 points on the budget photos.
"""

from functools import partial

import pandas as pd
import torch
from common import finish
from composites import LATE, composed, masked_photos, snow_looks
from methods import FAST, choose_second_layer
from networks import options

from edittools.choosing.protocol import Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.trials import candidate_layers
from edittools.exemplars import Exemplar, paste_texture
from edittools.metrics import errors, predict
from edittools.stories import photos
from edittools.stories.snow import everyday_photos
from edittools.zoo.load import load_classifier

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")
STRENGTHS, MOST = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0), (1.0, 1.5, 2.0, 3.0, 4.0)


def turned_story(name: str, concept: str) -> Scenario:
    """Turn a concept to snow; the two exemplars are misread so, of two classes, and show most of the concept."""
    classifier = load_classifier(name)
    shown, masks, other = masked_photos(classifier, concept)
    roads = set(masked_photos(classifier, "road")[0].names)
    free = torch.tensor([photo not in roads for photo in shown.names])
    shown, masks, looks = shown.subset(free), masks[free], snow_looks()
    first, area = composed(shown, masks, looks[:1]), masks.mean(dim=(1, 2))
    wrong = errors(predict(classifier, first), first.labels).nonzero()[:, 0].tolist()
    taken = {}
    for i in sorted(wrong, key=lambda i: -area[i]):
        if len(taken) < 2 and area[i] < 0.7:
            taken.setdefault(int(shown.labels[i]), i)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    exemplars = {
        shown.classes[label]: Exemplar(shown.images[i], change(shown.images[i], masks[i]), masks[i], label)
        for label, i in taken.items()
    }
    rest = [i for i in range(len(shown)) if i not in taken.values()]
    parts = {"validation": rest[::2], "test": rest[1::2]}
    sets = {name: composed(shown.subset(part), masks[part], looks) for name, part in parts.items()}
    layers = candidate_layers(classifier)[-LATE::2]
    return Scenario(classifier, exemplars, **sets, reference=other, **everyday_photos(classifier), layers=layers)


def main() -> None:
    """Choose on each network and concept, add up."""
    given, rows = options(__doc__.splitlines()[0], NETWORKS), []
    for name in given.networks:
        for concept in ("grass", "tree"):
            protocol = Protocol(turned_story(name, concept))
            table = protocol.sweep(protocol.rewriting(FAST, STRENGTHS))
            for most in MOST:
                one = protocol.choose(table[table.strength <= most])
                for layers, choice in {"one": one, "two": choose_second_layer(protocol, one)}.items():
                    test, clean = (protocol.states[part].compare(choice.edit) for part in ("test", "clean"))
                    row = {"network": name, "concept": concept, "layers": layers, "most": most, "chosen": str(choice)}
                    row |= {"errors": int(test.before.sum()), "corrected": test.corrected, "broken": test.broken}
                    rows.append(row | {"accuracy change (points)": clean.accuracy_change})
    found = pd.DataFrame(rows)
    measured = {"errors": "sum", "corrected": "sum", "broken": "sum", "accuracy change (points)": "mean"}
    print(found.groupby(["layers", "most"]).agg(measured))
    finish(given, {"rows": rows})


if __name__ == "__main__":
    main()
