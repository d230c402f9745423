"""Mask R-CNN with random weights: classes, thresholds and overlaps."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from edittools_course.segmenters import mask_rcnn


def photo_like(count, height=40, width=56):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


class Detections(nn.Module):
    """A stand-in for a Mask R-CNN: the same instances in each image, of which the first is the surest."""

    def __init__(self, labels, scores):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.transform = "resize"
        self.roi_heads = SimpleNamespace(score_thresh=0.05, nms_thresh=0.5, detections_per_img=100)
        self.labels = labels
        self.scores = scores

    def forward(self, images):
        answers = []
        for image in images:
            masks = torch.zeros(len(self.labels), 1, *image.shape[1:])
            masks[0, 0, :, :20] = 0.9
            masks[1, 0, :, 10:30] = 0.6
            masks[2, 0] = 0.4
            answers.append({"labels": torch.tensor(self.labels), "scores": torch.tensor(self.scores), "masks": masks})
        return answers


def test_mask_rcnn_surer_instance_on_top():
    masks = mask_rcnn(network=Detections([3, 1, 18], [0.9, 0.6, 0.99]))(photo_like(2))
    assert set(masks) == {"car", "person"}  # the mask of the dog is below one half everywhere
    assert masks["car"][:, :, :20].all() and not masks["car"][:, :, 20:].any()
    assert masks["person"][:, :, 20:30].all() and masks["person"].sum() == 2 * 40 * 10


def test_mask_rcnn_thresholds():
    network = Detections([3, 1, 18], [0.9, 0.6, 0.99])
    assert set(mask_rcnn(least_score=0.7, network=network)(photo_like(1))) == {"car"}
    assert set(mask_rcnn(least_area=0.3, network=network)(photo_like(1))) == {"car"}
    assert mask_rcnn(("dog",), network=network)(photo_like(1)) == {}


def test_mask_rcnn_grouped_things():
    find = mask_rcnn({"thing": ("car", "person")}, network=Detections([3, 1, 18], [0.9, 0.6, 0.99]))
    masks = find(photo_like(1))
    assert list(masks) == ["thing"] and masks["thing"].sum() == 40 * 30


def test_mask_rcnn_knows_eighty_things():
    find = mask_rcnn(network=Detections([3], [0.9]))
    assert len(find.concepts) == 80 and find.concepts["person"] == (1,) and find.concepts["toothbrush"] == (90,)
    with pytest.raises(KeyError, match="'road'.*bicycle"):
        mask_rcnn(("road",), network=Detections([3], [0.9]))


def test_mask_rcnn_of_torchvision_with_random_weights():
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    network = MaskRCNN(backbone, 91, min_size=64, max_size=96, box_score_thresh=0.0, box_detections_per_img=5)
    network.train()
    find = mask_rcnn(least_score=0.0, least_area=0.0, network=network)
    images = photo_like(3)
    masks = find(images)
    with torch.no_grad():
        [detected] = network.eval()([images[0]])
    surest = int(detected["scores"].argmax())
    name = next(name for name, numbers in find.concepts.items() if int(detected["labels"][surest]) in numbers)
    assert all(of_concept.shape == (3, 40, 56) for of_concept in masks.values())
    covered = detected["masks"][surest, 0] > 0.5
    assert (masks[name][0] > 0)[covered].all()
    occupied = sum(masks.values())
    assert occupied.max() <= 1 and occupied.any()


def test_mask_rcnn_leaves_the_mode(monkeypatch):
    network = Detections([3, 1, 18], [0.9, 0.6, 0.99]).train()
    mask_rcnn(network=network)(photo_like(1))
    assert network.training
