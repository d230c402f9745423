"""Finders: concept masks from stored files, from hand-made segmentations and from segmentation models."""

import numpy as np
import torch
from conftest import needs_photos

from edittools.concepts import MSRC, fit_map, msrc
from edittools.images import load_image
from edittools.models import load_classifier


def test_a_map_is_resized_and_cropped_as_its_photo_is(tmp_path):
    from PIL import Image

    regions = np.zeros((213, 320), np.uint8)
    regions[60:150, 100:220] = 1
    Image.fromarray(regions * 255).convert("RGB").save(tmp_path / "photo.png")
    photo = load_image(tmp_path / "photo.png", 64, 72)
    fitted = fit_map(regions, 64, 72)
    assert fitted.shape == (64, 64)
    assert ((photo[0] > 0.5).numpy() != fitted).mean() < 0.01


@needs_photos
def test_msrc_masks_cover_what_their_name_says_and_labels_are_the_clean_predictions(monkeypatch):
    from edittools import photos

    listed = photos.available("msrc-v2/Images/")
    grassy = [name for name in listed if "/5_" in name][:4]  # cows on grass
    monkeypatch.setattr(photos, "available", lambda prefix: grassy)
    classifier = load_classifier("efficientnet_lite0")
    data, masks = msrc(classifier)
    assert len(data) == 4 and set(masks) <= set(MSRC)
    assert torch.equal(data.labels, classifier(data.images).argmax(dim=1))
    red, green, blue = ((data.images * masks["grass"][:, None]).sum((0, 2, 3)) / masks["grass"].sum()).tolist()
    assert green > blue + 0.1
