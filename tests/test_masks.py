"""The road masks of the repository and their outlines; masks of one's own, read from files."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TinyNet, needs_photos, save_image
from draw_masks import MASKS, SIZE, drawn, outlines
from PIL import Image

from edittools.auditing import read_masks
from edittools.classifiers import Classifier
from edittools.geometry import InputGeometry
from edittools.image_files import load_mask
from edittools.models.downloads import photo
from edittools_course.scenarios import photos
from edittools_course.scenarios.snow import SNOW_EXEMPLARS

ROADS = sorted(path.name.removesuffix("_road.png") for path in MASKS.glob("*_road.png"))
TEST_CLASSES = (479, 555, 670, 847, 920)  # of the snow photos; two older masks are of the others, 751 and 779


def test_road_masks_are_black_and_white_and_neither_empty_nor_full():
    assert ROADS
    for name in ROADS:
        with Image.open(MASKS / f"{name}_road.png") as file:
            pixels = np.asarray(file)
        assert pixels.shape == (SIZE, SIZE) and set(np.unique(pixels)) == {0, 255}, name
        assert 0.02 <= (pixels == 255).mean() <= 0.8, name


def test_drawn_outlines_equal_the_masks():
    assert set(outlines()) < set(ROADS)
    for name, outline in outlines().items():
        differs = drawn(outline) != load_mask(MASKS / f"{name}_road.png")
        assert differs.sum() <= 10, name  # versions of Pillow may round an edge differently


def test_masks_are_of_sample_photos_and_outlines_of_other_classes_than_the_snow_photos():
    names = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    numbers = {name: names.index(f"imagenet-sample/{name}.JPEG") for name in ROADS}  # fails if a photo is missing
    assert not {numbers[name] for name in outlines()} & {*TEST_CLASSES, 751, 779}


def at_pixel_centers(mask, photo_size, size, resize_to, goes_on):
    """Map a mask of the 224 × 224 crop to another crop through the coordinates of the photo.

    Outside, the outermost pixels are repeated if it goes on there; otherwise it is 0.
    """
    mapped = mask
    for dimension, side in enumerate(photo_size):
        resized = int(resize_to * side / min(photo_size))
        resized_for_mask = int(256 * side / min(photo_size))
        centers = torch.arange(size) + 0.5 + round((resized - size) / 2)
        pixels = (centers / resized * resized_for_mask - round((resized_for_mask - 224) / 2)).floor().long()
        inside = (pixels >= 0) & (pixels < 224) | goes_on
        mapped = mapped.index_select(dimension, pixels.clamp(0, 223)) * inside.unsqueeze(1 - dimension)
    return mapped


@needs_photos
@pytest.mark.parametrize("crop", [(224, 256), (240, 272), (260, 292)], ids=str)
@pytest.mark.parametrize("name", [f"{SNOW_EXEMPLARS['minivan']}_road", photos.KETTLE_MASK])
def test_drawn_mask_covers_the_same_part_of_the_photo_at_each_crop(name, crop):
    classifier = SimpleNamespace(size=crop[0], resize_to=crop[1])
    mask = load_mask(MASKS / f"{name}.png")
    with Image.open(photo(photos.photo_of_mask(name))) as file:
        width, height = file.size
    is_road = name != photos.KETTLE_MASK
    expected = at_pixel_centers(mask, (height, width), *crop, goes_on=is_road)
    fitted = photos.drawn_mask(name, classifier)
    overlap = (fitted * expected).sum() / (fitted + expected).clamp(max=1).sum()
    if crop == (224, 256):
        assert overlap == 1
    else:
        assert overlap > (0.995 if is_road else 0.94)  # a row of pixels of the small mask is 2%


# --- the values of a file ---

MARKED = np.zeros((8, 8), np.uint8)
MARKED[2:5, 3:8] = 1


def _palette(colors):
    image = Image.fromarray(MARKED, "L").convert("P")
    image.putdata(MARKED.flatten().tolist())
    image.putpalette([*sum(colors, ()), *[0] * (768 - 3 * len(colors))])
    return image


def _with_alpha(gray):
    """Draw with one gray, where the mask is, on a transparent ground."""
    return Image.fromarray(np.stack([gray * MARKED, 255 * MARKED], axis=2), "LA")


FILES = {
    "0 and 255": lambda: Image.fromarray(255 * MARKED),
    "0 and 1": lambda: Image.fromarray(MARKED),
    "one bit": lambda: Image.fromarray(255 * MARKED).convert("1"),
    "dark palette": lambda: _palette([(0, 0, 0), (128, 0, 0)]),
    "palette of black and white": lambda: _palette([(0, 0, 0), (255, 255, 255)]),
    "red": lambda: Image.fromarray(np.stack([255 * MARKED, 0 * MARKED, 0 * MARKED], axis=2)),
    "white on transparent": lambda: _with_alpha(255),
    "black on transparent": lambda: _with_alpha(0),
}


@pytest.mark.parametrize("kind", FILES)
def test_load_mask_of_each_kind_of_file(kind, tmp_path):
    FILES[kind]().save(tmp_path / "mask.png")
    assert torch.equal(load_mask(tmp_path / "mask.png"), torch.from_numpy(MARKED).float())
    assert load_mask(tmp_path / "mask.png", InputGeometry(32, 32)).mean() == pytest.approx(MARKED.mean(), abs=0.05)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_load_mask_of_black_file_is_empty(mode, tmp_path):
    Image.new(mode, (8, 8), {"L": 0, "RGB": (0, 0, 0), "RGBA": (0, 0, 0, 255)}[mode]).save(tmp_path / "mask.png")
    assert not load_mask(tmp_path / "mask.png").any()


@pytest.mark.parametrize(
    ("image", "pattern"),
    [
        (lambda: Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), "63 shades .* 63 of 255"),
        (lambda: Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)), "several colors"),
        (lambda: Image.fromarray(65535 * MARKED.astype(np.uint16)), "'I;16'"),
    ],
)
def test_load_mask_of_file_that_is_no_mask(image, pattern, tmp_path):
    image().save(tmp_path / "classes.png")
    with pytest.raises(ValueError, match=rf"classes\.png'.*{pattern}"):
        load_mask(tmp_path / "classes.png")


# --- the image that a file belongs to ---


@pytest.fixture(scope="module")
def classifier():
    return Classifier(TinyNet(), list("abcde"), size=8, resize_to=8)


def write_mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(255 * MARKED).save(path)


def write_coco(path, file_names):
    """Write a COCO file with a road in each image."""
    images = [{"id": k, "file_name": name, "height": 8, "width": 8} for k, name in enumerate(file_names)]
    polygon = [3, 2, 8, 2, 8, 5, 3, 5]
    annotations = [{"id": k, "image_id": k, "category_id": 1, "segmentation": [polygon]} for k in range(len(images))]
    content = {"categories": [{"id": 1, "name": "road"}], "images": images, "annotations": annotations}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def marked_images(masks, names):
    return [name for name, mask in zip(names, masks, strict=True) if mask.any()]


@pytest.mark.parametrize(
    ("file", "names", "expected"),
    [
        ("road/a.png", ["a.jpg", "van/a.jpg"], "a.jpg"),
        ("road/van/a.png", ["bus/a.jpg", "van/a.jpg"], "van/a.jpg"),
        ("road/van/a.png.png", ["van/a.jpg", "van/a.png"], "van/a.png"),
        ("road/photo.1.png", ["photo.jpg", "photo.1.jpg"], "photo.1.jpg"),
        ("road/a.bmp", ["a.png"], "a.png"),
    ],
)
def test_read_masks_of_files_by_path(file, names, expected, classifier, tmp_path):
    write_mask(tmp_path / file)
    masks, left_out = read_masks(tmp_path, names, classifier)
    assert left_out == [] and list(masks) == ["road"]
    assert marked_images(masks["road"], names) == [expected]


@pytest.mark.parametrize(
    ("file_name", "names", "expected"),
    [
        ("van/a.jpg", ["a.jpg", "van/a.jpg"], "van/a.jpg"),
        ("van/a.jpg", ["van/a.jpg", "van/a.png"], "van/a.jpg"),
        ("a.jpg", ["a.jpg", "van/a.jpg"], "a.jpg"),
        ("a.jpg", ["van/a.jpg", "van/b.jpg"], "van/a.jpg"),
    ],
)
def test_read_masks_of_coco_by_path_before_name(file_name, names, expected, classifier, tmp_path):
    pytest.importorskip("pycocotools", reason="no pycocotools here: pip install 'edittools[notebooks]'")
    write_coco(tmp_path / "road.json", [file_name])
    masks, left_out = read_masks(tmp_path / "road.json", names, classifier)
    assert left_out == []
    assert marked_images(masks["road"], names) == [expected]


def test_read_masks_lists_each_mask_that_is_not_used(classifier, tmp_path):
    pytest.importorskip("pycocotools", reason="no pycocotools here: pip install 'edittools[notebooks]'")
    names = ["van/a.jpg", "van/b.jpg", "bus/b.jpg", "van/c.jpg", "van/c.png"]
    write_mask(tmp_path / "road" / "van" / "a.png")
    not_used = {
        "road/b.png": "no image .*'b'.*CONCEPT/IMAGE",
        "road/van/c.png": "2 images .*van/c.jpg.png",
        "road/bus/a.png": "no image",
        "van/a_road.png": "no image .*'a_road'",
        "a_road.png": "no folder of a concept",
    }
    for name in not_used:
        write_mask(tmp_path / name)
    (tmp_path / "road" / "a.npy").write_bytes(b"")
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "road" / "broken.png").write_bytes(b"")
    (tmp_path / ".hidden.png").write_bytes(b"")
    save_image(tmp_path / "road" / "van" / "b.png", torch.rand(3, 8, 8))
    write_coco(tmp_path / "coco.json", ["b.jpg", "bus/a.jpg", "van/a.jpg"])
    content = json.loads((tmp_path / "coco.json").read_text())
    content["annotations"][2]["segmentation"] = "road"
    content["annotations"] += [
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation": []},
        {"id": 4, "image_id": 2, "category_id": 1, "bbox": [3, 2, 5, 3]},
    ]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    not_used |= {
        "road/a.npy": "not an image",
        "settings.json": "COCO",
        "road/broken.png": "no image",
        "road/van/b.png": "several colors",
        "coco.json: annotation 0": "2 images .*van/b.jpg, bus/b.jpg.*'b.jpg'",
        "coco.json: annotation 1": "no image .*'bus/a.jpg'",
        "coco.json: annotation 2": "not a COCO mask",
        "coco.json: annotation 3": "no segmentation",
        "coco.json: annotation 4": "no segmentation.*box",
    }
    masks, left_out = read_masks(tmp_path, names, classifier)
    assert marked_images(masks["road"], names) == ["van/a.jpg"]
    assert len(left_out) == len(not_used)
    lines = "\n".join(left_out)
    for name, reason in not_used.items():
        assert re.search(rf"^{re.escape(name)}: .*{reason}", lines, re.MULTILINE)
