"""Vehicles on snow, real photographs, before and after one edit: the picture of the site's first page.

    EDITTOOLS_PHOTOS=folder python benchmarks/photo_picture.py     writes out/photographs.png

Network, layer, exemplar and settings are those that `snow_photos.py` chose on composites of one network; the
photographs are some that it corrects. Takes half a minute.
"""

import argparse
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from demo import before_after

from edittools.choosing import cache_states
from edittools.images import atomic_path
from edittools.pasting import paste_texture
from edittools.rewriting import rewrite
from edittools.stories import photos
from edittools.stories.snow import snow_exemplars
from edittools.zoo import load_classifier

FIGURE = Path("out") / "photographs.png"
NETWORK, LAYER, EXEMPLAR = "efficientnet_lite1", "blocks.5.1.conv_pwl", "streetcar"
SETTINGS = {"rank": 1, "masked": False, "objective": "least_squares", "reference_weight": 0.0}


def draw(path: Path) -> None:
    """Make the edit, read all photographs of snow with it, and draw some that it corrects."""
    classifier = load_classifier(NETWORK)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    exemplars, data = snow_exemplars(classifier, change), photos.snow_photos(classifier)
    reference = photos.unlabelled("msrc-v2/Images/", classifier)
    edit = rewrite(classifier, LAYER, exemplars[EXEMPLAR], reference, **SETTINGS)
    _, states = cache_states(classifier, [LAYER], test=data)
    story = SimpleNamespace(exemplars=exemplars, classifier=classifier, test=data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        before_after(story, states["test"], edit, EXEMPLAR).savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    draw(FIGURE)
    print(f"figure: {FIGURE}")
