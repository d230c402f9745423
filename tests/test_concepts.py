"""Finders: concept masks from stored files, from hand-made segmentations and from segmentation networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import needs_photos
from PIL import Image
from scipy.io import savemat

from edittools.images import load_image
from edittools.probing import finders as concepts
from edittools.probing.finders import Segmenter, cached
from edittools.stories import photos
from edittools.stories.photos import MSRC, fit_map, msrc
from edittools.zoo.load import load_classifier


def test_a_map_is_resized_and_cropped_as_its_photo_is(tmp_path):
    regions = np.zeros((213, 320), np.uint8)
    regions[60:150, 100:220] = 1
    Image.fromarray(regions * 255).convert("RGB").save(tmp_path / "photo.png")
    photo = load_image(tmp_path / "photo.png", 64, 72)
    fitted = fit_map(regions, 64, 72)
    assert fitted.shape == (64, 64)
    assert ((photo[0] > 0.5).numpy() != fitted).mean() < 0.01


@needs_photos
def test_msrc_masks_cover_what_their_name_says_and_labels_are_the_clean_predictions(monkeypatch):
    listed = photos.available("msrc-v2/Images/")
    grassy = [name for name in listed if "/5_" in name][:4]  # cows on grass
    monkeypatch.setattr(photos, "available", lambda prefix: grassy)
    classifier = load_classifier("efficientnet_lite0")
    data, masks = msrc(classifier)
    assert len(data) == 4 and set(masks) <= set(MSRC)
    assert torch.equal(data.labels, classifier(data.images).argmax(dim=1))
    _, green, blue = ((data.images * masks["grass"][:, None]).sum((0, 2, 3)) / masks["grass"].sum()).tolist()
    assert green > blue + 0.1


def test_a_stored_segmentation_of_msrc_gives_the_class_of_every_pixel_and_0_where_nobody_said(tmp_path):
    regions = np.array([[1, 1, 2], [0, 3, 9]], np.uint8)  # region 9 has no label
    savemat(tmp_path / "a_GT.mat", {"newseg": regions, "newlabels": np.array([[2, 7, 2]], np.uint8)})
    assert photos._msrc_classes(tmp_path / "a_GT.mat").tolist() == [[2, 2, 7], [0, 2, 0]]
    assert MSRC[2 - 1] == "grass" and MSRC[7 - 1] == "sky"


class Scores(torch.nn.Module):
    """A network that finds the same anywhere: logits `(concepts, H, W)`, so many for each image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images):
        return {"out": self.logits.expand(len(images), -1, -1, -1)}


def _scores(side=8):
    """Nothing on the right, "road" surely on the left, "speck" at one pixel."""
    logits = torch.zeros(3, side, side)
    logits[0, :, side // 2 :], logits[1, :, : side // 2], logits[2, -1, -1] = 9, 9, 30
    return Scores(logits)


NAMES = ("nothing", "road", "speck")


def test_a_concept_is_where_its_probability_is_high_and_on_enough_of_the_image():
    find = Segmenter(_scores(), NAMES, least_area=0.05)
    found = find(torch.zeros(5, 3, 8, 8))
    assert list(found) == ["nothing", "road"] and found["road"].shape == (5, 8, 8)
    assert found["road"][:, :, :4].all() and not found["road"][:, :, 4:].any()
    assert "speck" in Segmenter(_scores(), NAMES, least_area=0)(torch.zeros(1, 3, 8, 8))
    assert find(torch.zeros(0, 3, 8, 8)) == {}


def test_only_what_is_wanted_is_looked_for():
    whole, some = Segmenter(_scores(), NAMES), Segmenter(_scores(), NAMES, wanted=("road",))
    images = torch.zeros(2, 3, 8, 8)
    assert list(some(images)) == ["road"] and torch.equal(some(images)["road"], whole(images)["road"])
    with pytest.raises(KeyError, match="'car': expected one of nothing, road, speck"):
        Segmenter(_scores(), NAMES, wanted=("car",))


def test_deeplab_gives_masks_of_the_images_size(monkeypatch):
    from torchvision.models import segmentation

    made = segmentation.deeplabv3_mobilenet_v3_large
    monkeypatch.setattr(
        segmentation, "deeplabv3_resnet50", lambda weights: made(weights=None, weights_backbone=None, num_classes=21)
    )
    find = concepts.deeplab(("car", "person"))
    assert find.wanted == ("car", "person") and not find.network.training
    found = replace(find, least_score=0.01, least_area=0)(torch.rand(2, 3, 40, 48))
    assert set(found) <= {"car", "person"} and all(masks.shape == (2, 40, 48) for masks in found.values())


def test_found_masks_are_kept_on_disk_by_image_and_finder(tmp_path):
    calls = []

    def finder(images):
        calls.append(len(images))
        bright = (images.mean(dim=1) > 0.5).float()
        return {"bright": bright, "a dark one": 1 - bright}

    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="does not say what its masks depend on"):
        cached(finder)
    find = cached(finder, "brighter than half", tmp_path)
    first = find(images)["bright"]
    again = cached(finder, "brighter than half", tmp_path)(images)
    assert torch.equal(again["bright"], first) and list(again) == ["bright", "a dark one"] and calls == [4]
    find(images[:2]), cached(finder, "another", tmp_path)(images)
    assert calls == [4, 2, 4]
