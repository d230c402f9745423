"""Finders: concept masks from stored files, from hand-made segmentations and from segmentation networks."""

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


def test_a_score_below_the_threshold_and_a_small_area_are_no_concept():
    scores = torch.zeros(1, 3, 8, 8)
    scores[0, 0, :, :4], scores[0, 1, :, :4], scores[0, 2, 0, 0] = 0.9, 0.4, 0.9
    network = torch.nn.Linear(1, 1)
    found = Segmenter(network, lambda images: scores, ("road", "unsure", "speck"), 0.5, 0.05)(torch.zeros(1, 3, 8, 8))
    assert set(found) == {"road"} and torch.equal(found["road"], (scores[:, 0] > 0.5).float())


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


def test_a_segmenter_with_other_scores_says_so():
    network = torch.nn.Conv2d(3, 2, 1)
    first, same, other = (
        Segmenter(network, scores, ("a", "b"))
        for scores in (lambda x: network(x) > 0.2, lambda x: network(x) > 0.2, lambda x: network(x) > 0.8)
    )
    assert first.about == same.about != other.about


def _deeplab():
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    return concepts.deeplab(network, ("nothing", "road", "sky"), least_score=0.3, least_area=0)


def _mask_rcnn():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    network = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=32,
        max_size=32,
        box_score_thresh=0.1,
        box_detections_per_img=3,
    )
    return concepts.mask_rcnn(network, ("nothing", "road", "sky"), least_score=0.1, least_area=0)


def _clipseg():
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 1}
    small = CLIPSegConfig(
        text_config={**tower, "vocab_size": 20, "eos_token_id": 19, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=8,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=1,
        decoder_intermediate_size=8,
    )
    words = lambda prompts: torch.tensor([[1, 2 + len(p), 19] for p in prompts])  # noqa: E731
    return concepts.clipseg(["road", "the sky"], CLIPSegForImageSegmentation(small), words, least_score=0, least_area=0)


@pytest.mark.parametrize("make", [_deeplab, _mask_rcnn, _clipseg])
def test_each_kind_of_network_gives_masks_of_the_images_size_by_name_whatever_the_batch(make, tmp_path):
    if make is _clipseg:
        pytest.importorskip("transformers", reason="needs transformers: pip install 'edittools[concepts]'")
    torch.manual_seed(0)
    finder = make()
    images = torch.rand(5, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    found = finder(images)
    assert set(found) <= set(finder.concepts) and found
    for masks in found.values():
        assert masks.shape == (5, 40, 48) and set(masks.unique().tolist()) <= {0.0, 1.0}
    alone = finder(images[4:])
    assert all((masks[0] != found[concept][4]).float().mean() < 0.01 for concept, masks in alone.items())
    stored = cached(finder, cache=tmp_path)
    stored(images)
    assert all(torch.equal(masks, found[concept]) for concept, masks in stored(images).items())


def test_an_instance_counts_where_its_mask_and_its_score_are_high_enough():
    finder = _mask_rcnn()
    left, right = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[:, :, :8], right[:, :, 8:] = 0.8, 0.8
    seen = {"labels": torch.tensor([1, 1]), "scores": torch.tensor([0.9, 0.05]), "masks": torch.stack([left, right])}
    finder.network.forward = lambda images: [seen]
    found = finder(torch.zeros(1, 3, 16, 16))
    assert torch.equal(found["road"][0], (left[0] > 0.5).float())
