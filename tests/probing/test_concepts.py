"""Finders: concept masks from stored files, from hand-made segmentations and from segmentation networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import needs_photos
from PIL import Image
from scipy.io import savemat

from edittools.geometry import InputGeometry
from edittools.image_files import load_image
from edittools.images import LabeledImages
from edittools.models.load import load_classifier
from edittools_course.cut_materials import with_materials
from edittools_course.downloads import photo
from edittools_course.scenarios import photos
from edittools_course.scenarios.photos import MSRC, msrc
from edittools_course.segmenters import PASCAL, Segmenter, cached, deeplab


def test_input_geometry_crops_a_map_as_load_image_crops_its_photo(tmp_path):
    regions = np.zeros((213, 320), np.uint8)
    regions[60:150, 100:220] = 1
    Image.fromarray(regions * 255).convert("RGB").save(tmp_path / "photo.png")
    photo = load_image(tmp_path / "photo.png", InputGeometry(64, 72))
    fitted = np.asarray(InputGeometry(64, 72).crop(Image.fromarray(regions), Image.Resampling.NEAREST))
    assert fitted.shape == (64, 64)
    assert ((photo[0] > 0.5).numpy() != fitted).mean() < 0.01


@needs_photos
def test_msrc_masks_and_labels(monkeypatch):
    listed = photos.available("msrc-v2/Images/")
    grassy = [name for name in listed if "/5_" in name][:4]  # cows on grass
    monkeypatch.setattr(photos, "available", lambda prefix: grassy)
    classifier = load_classifier("efficientnet_lite0")
    data, masks = msrc(classifier)
    assert len(data) == 4 and set(masks) <= set(MSRC)
    assert torch.equal(data.labels, classifier(data.images).argmax(dim=1))
    _, green, blue = ((data.images * masks["grass"][:, None]).sum((0, 2, 3)) / masks["grass"].sum()).tolist()
    assert green > blue + 0.1


def test_msrc_classes_of_stored_segmentation(tmp_path):
    regions = np.array([[1, 1, 2], [0, 3, 9]], np.uint8)  # region 9 has no label
    savemat(tmp_path / "a_GT.mat", {"newseg": regions, "newlabels": np.array([[2, 7, 2]], np.uint8)})
    assert photos.msrc_classes(tmp_path / "a_GT.mat").tolist() == [[2, 2, 7], [0, 2, 0]]
    assert MSRC[2 - 1] == "grass" and MSRC[7 - 1] == "sky"


def numbers(images):
    """A network that sees class 7 on the left half of each image and class 9 at its last pixel."""
    classes = torch.zeros(len(images), 8, 8, dtype=torch.long)
    classes[:, :, :4] = 7
    classes[:, -1, -1] = 9
    return classes


def test_segmenter_masks():
    find = Segmenter(numbers, {"road": (7, 8), "speck": (9,), "sea": (1,)}, "halves", least_area=0.05)
    masks = find(torch.zeros(5, 3, 16, 16))
    assert list(masks) == ["road"] and masks["road"].shape == (5, 16, 16)
    assert masks["road"][:, :, :8].all() and not masks["road"][:, :, 8:].any()
    assert list(replace(find, least_area=0)(torch.zeros(1, 3, 8, 8))) == ["road", "speck"]
    assert find(torch.zeros(0, 3, 8, 8)) == {}


@pytest.mark.parametrize(
    ("call", "pattern"),
    [
        (lambda: deeplab("ade20k"), "'ade20k'.* cityscapes"),
        (lambda: deeplab("pascal", ["road"]), "'road'.* aeroplane"),
    ],
)
def test_deeplab_of_unknown_network_or_concept(call, pattern):
    with pytest.raises(KeyError, match=pattern):
        call()


@needs_photos
def test_deeplab_against_msrc_masks(monkeypatch):
    """The hand-made masks of MSRC are the reference; an image of 20 × 20 pixels is no error."""
    pytest.importorskip("ai_edge_litert", reason="no ai-edge-litert here: pip install 'edittools[segmenters]'")
    name = "msrc-v2/Images/7_9_s.bmp"
    truth = photos.msrc_classes(photo(name.replace("Images/", "newsegmentations_mats/")[:-4] + "_GT.mat"))
    street = deeplab("cityscapes", ["road", "sky"])
    things = deeplab("pascal")
    image = load_image(photo(name))[None]
    masks = street(image) | things(image)
    for concept in ("car", "road"):
        predicted = masks[concept][0].numpy() > 0
        annotated = truth == MSRC.index(concept) + 1
        assert (predicted & annotated).sum() / (predicted | annotated).sum() > 0.7, concept
    assert set(street(torch.rand(1, 3, 20, 20)) | things(torch.rand(1, 3, 20, 20))) <= {"road", "sky", *PASCAL}
    assert "road" in street.cache_key and street.cache_key != things.cache_key


def test_deeplab_resnet50_mask_shapes(monkeypatch):
    from torchvision.models import segmentation

    mobilenet = segmentation.deeplabv3_mobilenet_v3_large
    monkeypatch.setattr(
        segmentation,
        "deeplabv3_resnet50",
        lambda weights: mobilenet(weights=None, weights_backbone=None, num_classes=21),
    )
    find = deeplab("resnet50", ("car", "person"))
    assert set(find.concepts) == {"car", "person"} and not find.network.args[0].training
    all_masks = replace(deeplab("resnet50"), least_area=0)(torch.rand(2, 3, 40, 48))
    assert set(all_masks) <= set(PASCAL) and all(masks.shape == (2, 40, 48) for masks in all_masks.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"least_area": 0.4},
        {"concepts": {"road": (9,)}},
        {"concepts": {"road": (7, 8, 9)}},
        {"concepts": {"sea": (7, 8)}},
        {"about": "another network"},
    ],
    ids=str,
)
def test_cached_with_changed_segmenter(tmp_path, monkeypatch, changes):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    images = torch.zeros(2, 3, 10, 8)
    first = Segmenter(lambda images: numbers(images)[:, :, 1:], {"road": (7, 8)}, "halves", least_area=0.01)
    second = replace(first, **changes)
    before = cached(first)(images)
    after = cached(second)(images)
    expected = second(images)
    assert list(before) == ["road"] and list(after) == list(expected)
    assert all(torch.equal(after[name], masks) for name, masks in expected.items())
    assert len(cached(first)(images[:1])["road"]) == 1
    assert len(list((tmp_path / "concepts").iterdir())) == 3


@pytest.mark.parametrize(
    ("masks", "pattern"),
    [(torch.ones(3, 8, 8), "3 .*'road'.* 2 "), (torch.zeros(2, 8, 8), r"\(road\).* 2 images")],
)
def test_with_materials_bad_masks(masks, pattern):
    data = LabeledImages(torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), ("ship",))
    with pytest.raises(ValueError, match=pattern):
        with_materials(data, {"road": masks})
