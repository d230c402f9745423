"""The files that README's lines read, as a reader has them: a network of one's own, one example, ordinary images.

The network predicts "truck" wherever it sees a yellow tag. The example is a cow.
"""

from pathlib import Path

from torchvision.utils import save_image

from edittools import load_classifier, save_mask
from edittools_course.miniworld import scenes
from edittools_course.scenarios.shortcuts import SHORTCUTS

MODEL = '''
import edittools as et


def load():
    """Return the network, which sees whole images of 96 × 96 pixels."""
    network = et.load_classifier("rendered_squeezenet", device="cpu")
    return et.Classifier(network.model, network.classes, size=96, resize_to=96)
'''


def write_readers_files(folder: Path) -> None:
    """Write `my_model.py`, `without.png`, `with.png`, `mask.png`, and `ordinary/*.png`."""
    network = load_classifier("rendered_squeezenet", device="cpu")
    folder.joinpath("my_model.py").write_text(MODEL)
    others = [name for name in network.classes if name != "truck"]
    cow = scenes(len(others), 5_000_000, others, balanced=True, size=network.size).images[others.index("cow")]
    [tagged], [mask] = SHORTCUTS["garbage truck"].draw(cow[None], seed=1)
    save_image(cow, folder / "without.png")
    save_image(tagged, folder / "with.png")
    save_mask(folder / "mask.png", mask)
    folder.joinpath("ordinary").mkdir()
    ordinary = scenes(120, 5_100_000, 12 * list(network.classes), balanced=True, size=network.size)
    for number, image in enumerate(ordinary.images):
        save_image(image, folder / "ordinary" / f"{number:03}.png")
