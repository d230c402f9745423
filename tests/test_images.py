import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edittools.classifiers import Classifier
from edittools.edits import Change
from edittools.exemplars import Exemplar
from edittools.geometry import InputGeometry
from edittools.image_files import load_image, load_mask, photo_size, save_mask
from edittools.images import LabeledImages, LazyImages
from edittools.metrics import Comparison
from edittools_course.refit import refit_mask


def _write(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


RAMP = np.linspace(0, 255, 12).astype(np.uint8).reshape(3, 4)


def test_load_image_of_rgb_and_gray_files(tmp_path):
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    image = load_image(_write(tmp_path / "a.png", pixels))
    assert image.shape == (3, 3, 4) and image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    image = load_image(_write(tmp_path / "gray.png", RAMP))
    assert torch.equal(image[0], image[1]) and torch.equal((image[0] * 255).round().byte(), torch.from_numpy(RAMP))


@pytest.mark.parametrize(("kind", "dtype"), [("F", np.float32), ("I;16", np.uint16)])
def test_load_image_of_more_than_8_bits(tmp_path, kind, dtype):
    with pytest.raises(ValueError, match=rf"deep.tiff.*'{kind}'"):
        load_image(_write(tmp_path / "deep.tiff", RAMP.astype(dtype)))


def test_load_image_and_load_mask_with_transparency(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (255, 255, 0, 255)
    path = _write(tmp_path / "clear.png", pixels)
    assert load_image(path)[:, 0, 0].tolist() == [1, 1, 0] and load_image(path)[:, 1, 1].tolist() == [1, 1, 1]
    assert load_mask(path).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("orientation", [1, 3, 5, 6])
def test_photo_size_is_that_of_the_loaded_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _write(tmp_path / "turned.jpg", np.zeros((20, 40, 3), np.uint8), exif=exif)
    assert photo_size(path) == load_image(path).shape[1:]


def test_load_image_with_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    image = load_image(_write(tmp_path / "turned.jpg", pixels, exif=exif, quality=95))
    assert image.shape == (3, 40, 20)
    assert image[:, :10].mean() > 0.95 and image[:, -10:].mean() < 0.05


def test_load_image_with_size(tmp_path):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 60:68] = 255
    image = load_image(_write(tmp_path / "wide.png", pixels), size=28)
    assert image.shape == (3, 28, 28)
    assert image[:, :, 13:15].mean() > 0.9 and image[:, :, :8].mean() < 0.05


# --- one geometry for images and masks ---

IMAGENET_INPUT = InputGeometry(224, 256)
PHOTO_SIZES = [(512, 768), (682, 512), (512, 512)]
"""Twice as large as when their short side is 256; of the second one, sides and offsets of the crop are rounded."""


def intersection_over_union(mask, other):
    return float((mask * other).sum() / (mask + other).clamp(max=1).sum())


def classifier_of(size, resize_to=None):
    return Classifier(torch.nn.Identity(), ("a", "b"), size=size, resize_to=resize_to)


@pytest.fixture
def photo_and_mask(tmp_path):
    """A photo of 224 × 224 pixels with a white shape on black, and the mask of that shape at the same size."""
    shape = torch.zeros(224, 224)
    shape[150:, 20:160] = 1
    shape[40:90, 100:210] = 1
    save_mask(tmp_path / "van.png", shape)
    save_mask(tmp_path / "road.png", shape)
    return tmp_path / "van.png", tmp_path / "road.png"


@pytest.mark.parametrize("size", [224, 96, classifier_of(224), classifier_of(240, 272), InputGeometry(260, 292)])
def test_load_mask_with_size(photo_and_mask, size):
    photo, road = photo_and_mask
    image = load_image(photo, size)
    mask = load_mask(road, size)
    assert mask.shape == image.shape[1:]
    assert intersection_over_union(mask, (image[0] > 0.5).float()) == 1


def test_load_mask_without_size(photo_and_mask):
    _, road = photo_and_mask
    assert load_mask(road).shape == (224, 224)
    assert load_mask(road).sum() == 74 * 140 + 50 * 110


def test_load_image_for_classifier(photo_and_mask):
    photo, _ = photo_and_mask
    from_classifier = load_image(photo, classifier_of(240, 272))
    assert torch.equal(from_classifier, load_image(photo, InputGeometry(240, 272)))
    assert not torch.equal(from_classifier, load_image(photo, 240))
    assert torch.equal(load_image(photo, 224), load_image(photo, size=InputGeometry(224, 256)))


def test_lazy_images_for_classifier(photo_and_mask):
    lazy = LazyImages(photo_and_mask[:1], classifier_of(240, 272))
    assert lazy.size == InputGeometry(240, 272)
    assert torch.equal(lazy[0], load_image(photo_and_mask[0], lazy.size))
    assert lazy[[]].shape == (0, 3, 240, 240)
    with pytest.raises(ValueError, match="'240'"):
        LazyImages(photo_and_mask[:1], "240")


def test_lazy_images_of_a_folder_are_the_image_files_in_it(photo_and_mask, tmp_path):
    folder = tmp_path / "ordinary"
    (folder / "a").mkdir(parents=True)
    for name in ["a/1.JPG", "2.jpg", ".3.jpg"]:
        shutil.copy(photo_and_mask[0], folder / name)
    (folder / "notes.txt").write_text("no image")
    lazy = LazyImages(folder, 64)
    assert [path.name for path in lazy.paths] == [path.name for path in sorted([folder / "2.jpg", folder / "a/1.JPG"])]
    assert torch.equal(lazy[0], load_image(photo_and_mask[0], 64))
    with pytest.raises(FileNotFoundError, match="gone"):
        LazyImages(str(folder / "gone"), 64)


def rectangle_on_a_photo(photo_size, path):
    """Write a photo with a white rectangle whose edges lie between pixels of `IMAGENET_INPUT`; return it in there."""
    top = 30
    bottom = 180
    left = 40
    right = 190
    height, width = photo_size
    first_row, first_column = (round((side / 2 - 224) / 2) for side in photo_size)
    photo = torch.zeros(height, width)
    photo[
        2 * (first_row + top) : 2 * (first_row + bottom),
        2 * (first_column + left) : 2 * (first_column + right),
    ] = 1
    save_mask(path, photo)
    mask = torch.zeros(224, 224)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("photo_size", PHOTO_SIZES)
@pytest.mark.parametrize("crop", [(240, 272), (96, 110)], ids=str)
def test_refit_mask_of_rectangle(tmp_path, photo_size, crop):
    geometry = InputGeometry(*crop)
    path = tmp_path / "rectangle.png"
    drawn = rectangle_on_a_photo(photo_size, path)
    assert torch.equal(load_mask(path, 224), drawn)
    refitted = refit_mask(drawn, photo_size, IMAGENET_INPUT, geometry)
    in_photo = (load_image(path, geometry)[0] > 0.5).float()
    middle = geometry.size // 2
    assert torch.equal(refitted[middle], in_photo[middle])
    assert torch.equal(refitted[:, middle], in_photo[:, middle])
    assert (refitted != in_photo).sum() <= 4  # corners are rounded by the filter


def test_refit_mask_outside_of_drawn_area():
    refitted = refit_mask(torch.ones(224, 224), (512, 768), IMAGENET_INPUT, InputGeometry(260, 292))
    margin = round((260 - 224 * 292 / 256) / 2)
    assert margin == 2 and refitted[margin:-margin, margin:-margin].all()
    assert refitted.sum() == (260 - 2 * margin) ** 2


def test_refit_mask_to_same_input():
    mask = (torch.rand(224, 224, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for shape in (*PHOTO_SIZES, (333, 500), (1201, 801), (257, 256)):
        assert torch.equal(refit_mask(mask, shape, IMAGENET_INPUT, 224), mask)


def test_refit_mask_of_wrong_size():
    with pytest.raises(ValueError, match=r"\(96, 96\)"):
        refit_mask(torch.ones(96, 96), (512, 768), IMAGENET_INPUT, 224)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
def test_exemplar_with_mask_of_other_dtype(dtype):
    exemplar = Exemplar(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), torch.ones(4, 4, dtype=dtype))
    assert exemplar.mask.dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_paste_changes_masked_pixels_only(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=generator)
    texture = torch.rand(3, 9, 7, generator=generator)
    mask = (torch.rand(height, width, generator=generator) > 0.5).float()
    mask[0, 0] = 1
    pasted = Exemplar.paste(image, mask, texture, label=3)
    assert torch.equal(pasted.changed[:, mask == 0], image[:, mask == 0])
    assert torch.equal(pasted.image, image) and pasted.label == 3


def _marked(mask, seed=3):
    """Make an exemplar with a mask; pixels of x and x' are all different."""
    generator = torch.Generator().manual_seed(seed)
    image, changed = torch.rand(2, 3, *mask.shape, generator=generator)
    return Exemplar(image, torch.where(mask > 0, changed, image), mask)


L_SHAPED = torch.zeros(9, 12)
L_SHAPED[3:7, 4] = 1
L_SHAPED[6, 4:9] = 1


@pytest.mark.parametrize("seed", [0, 1])
def test_hosts_have_the_masked_pixels_and_no_others(seed):
    """What is pasted is the mask of x', moved by whole pixels and not beyond the image."""
    exemplar = _marked(L_SHAPED)
    images = torch.rand(30, 3, 9, 12, generator=torch.Generator().manual_seed(8))
    original = images.clone()
    hosts = exemplar.hosts(images, seed=seed)
    pasted = hosts.changed
    assert torch.equal(images, original) and pasted.shape == images.shape
    assert torch.equal(hosts.images, images)
    moves = set()
    for image, before in zip(pasted, images, strict=True):
        is_changed = (image != before).any(dim=0)
        top, left = is_changed.nonzero().min(dim=0).values.tolist()
        move = (top - 3, left - 4)
        moves.add(move)
        assert torch.equal(is_changed, L_SHAPED.roll(move, (0, 1)) > 0)
        assert torch.equal(image[:, is_changed], exemplar.changed.roll(move, (1, 2))[:, is_changed])
    assert len(moves) > 10


def test_hosts_show_the_mark_at_every_place():
    mask = torch.zeros(3, 4)
    mask[1, 2] = 1
    masks = _marked(mask).hosts(torch.zeros(400, 3, 3, 4)).masks
    assert masks.sum(dim=(1, 2)).tolist() == [1] * 400
    assert masks.any(dim=0).all()


def test_hosts_of_a_frame_leave_what_is_inside():
    frame = torch.ones(9, 12)
    frame[2:-2, 2:-2] = 0
    exemplar = _marked(frame)
    images = torch.rand(4, 3, 9, 12, generator=torch.Generator().manual_seed(8))
    pasted = exemplar.hosts(images, seed=5).changed
    assert torch.equal(pasted, torch.where(frame > 0, exemplar.changed, images))


def test_hosts_of_no_image_are_none():
    assert len(_marked(L_SHAPED).hosts(torch.zeros(0, 3, 9, 12))) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Exemplar(torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.ones(8, 8)),
        lambda: LabeledImages(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), ["a", "b"]),
        lambda: Comparison(torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)),
        lambda: Change(torch.zeros(2, 1, 3, 3), torch.zeros(1, 4)),
    ],
)
def test_what_holds_tensors_is_itself_and_no_other(make):
    one, other = make(), make()
    assert one != other and one in [other, one] and {one: 1}[one] == 1
