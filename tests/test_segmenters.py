"""Mask R-CNN and the segmenters of transformers, with random weights: classes, thresholds, sizes and cache keys."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from edittools.probing.segmentation import cached, mask_rcnn, transformers_segmenter

try:
    import transformers
except ImportError:
    transformers = None

needs_transformers = pytest.mark.skipif(
    transformers is None, reason="transformers is not installed: pip install 'edittools[segmenters]'"
)

LABELS = {0: "Road", 1: "grass-merged", 2: "water-other", 3: "sky-other-merged", 4: "grass"}


def photo_like(count, height=40, width=56):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


# --- Mask R-CNN ---


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


# --- transformers ---


def strengthened(network, factor):
    """Scale random weights, so that pixels differ in their class."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter *= factor
    return network


@cache
def segformer():
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=LABELS,
    )
    network = transformers.SegformerForSemanticSegmentation(config)
    return strengthened(network, 12), transformers.SegformerImageProcessor(size={"height": 64, "width": 64})


SWIN = {
    "embed_dim": 8,
    "depths": [1] * 4,
    "num_heads": [1] * 4,
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
WIDTHS = {"hidden_dim": 32, "num_attention_heads": 2, "num_queries": 6}


@cache
def mask2former():
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        feature_size=32,
        mask_feature_size=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=16,
        id2label=LABELS,
        **WIDTHS,
    )
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    return strengthened(network, 12), transformers.Mask2FormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 96}
    )


@cache
def oneformer():
    torch.manual_seed(0)
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        conv_dim=32,
        mask_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=3,
        dim_feedforward=16,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        task_seq_len=8,
        id2label=LABELS,
        is_training=False,
        **WIDTHS,
    )
    network = transformers.OneFormerForUniversalSegmentation(config)
    return strengthened(network, 12), transformers.Mask2FormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 96}
    )


MAKERS = {"segformer": segformer, "mask2former": mask2former, "oneformer": oneformer}


def segmenter(name, **settings):
    network, processor = MAKERS[name]()
    inputs = {"task_inputs": torch.arange(8)[None]} if name == "oneformer" else None
    return transformers_segmenter(network, processor, inputs=inputs, **settings)


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


@needs_transformers
def test_transformers_segmenter_class_maps_cover_each_pixel_once(name):
    find = segmenter(name, least_area=0.0)
    assert find.concepts == {"road": (0,), "grass": (1, 4), "water": (2,), "sky": (3,)}
    masks = find(photo_like(3, 64, 64))
    assert set(masks) <= set(find.concepts)
    assert torch.equal(sum(masks.values()), torch.ones(3, 64, 64))


@needs_transformers
def test_transformers_segmenter_matches_the_processor(name):
    """Where nothing is padded and no threshold is set, the class maps are those of the library."""
    network, processor = MAKERS[name]()
    images = photo_like(2, 64, 64)
    inputs = {"task_inputs": torch.arange(8)[None].expand(2, -1)} if name == "oneformer" else {}
    prepared = processor(images=list((images * 255).round().byte()), return_tensors="pt")
    with torch.no_grad():
        answer = network.eval()(pixel_values=prepared["pixel_values"], **inputs)
    expected = torch.stack(processor.post_process_semantic_segmentation(answer, target_sizes=[(64, 64)] * 2))
    class_maps = segmenter(name).network(images)
    assert len(class_maps.unique()) > 1
    assert (class_maps == expected).float().mean() > 0.97  # the library resizes masks twice


@needs_transformers
def test_transformers_segmenter_masks_have_the_size_of_the_images(name):
    masks = segmenter(name, least_area=0.0)(photo_like(2, 40, 56))
    assert masks and all(of_concept.shape == (2, 40, 56) for of_concept in masks.values())


class SeesContent(nn.Module):
    """A stand-in for a panoptic segmenter: "road" where pixels are bright, "grass" where they are dark or padding."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = transformers.Mask2FormerConfig(id2label=LABELS)

    def forward(self, pixel_values):
        bright = 40 * pixel_values.mean(dim=1, keepdim=True) - 20
        classes = torch.full((len(pixel_values), 2, len(LABELS) + 1), -20.0)
        classes[:, 0, 0] = 20
        classes[:, 1, 1] = 20
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=torch.cat([bright, -bright], dim=1))


@needs_transformers
def test_transformers_segmenter_leaves_out_padding():
    processor = transformers.Mask2FormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 128}, do_normalize=False, size_divisor=64
    )
    images = torch.ones(2, 3, 40, 56)
    images[:, :, :, :14] = 0
    assert processor(images=list(images.byte()), return_tensors="pt")["pixel_values"].shape[-1] == 128
    masks = transformers_segmenter(SeesContent(), processor)(images)
    assert masks["road"][:, :, 16:].all() and not masks["road"][:, :, :12].any()
    assert masks["grass"][:, :, :12].all() and not masks["grass"][:, :, 16:].any()


@needs_transformers
def test_transformers_segmenter_least_score(name):
    images = photo_like(2, 64, 64)
    class_map = segmenter(name).network(images)
    unsure = []
    for least_score in (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9, 1.5, 6.0):
        sure = segmenter(name, least_score=least_score).network(images)
        assert ((sure == class_map) | (sure == -1)).all()
        unsure.append(int((sure == -1).sum()))
    assert unsure == sorted(unsure)
    assert unsure[0] == 0 and unsure[-1] == class_map.numel()
    assert any(0 < count < class_map.numel() for count in unsure)
    assert segmenter(name, least_score=6.0)(images) == {}


@needs_transformers
def test_transformers_segmenter_wanted_concepts(name):
    images = photo_like(1, 64, 64)
    both = segmenter(name, least_area=0.0)(images)
    find = segmenter(name, wanted={"ground": ("road", "grass")}, least_area=0.0)
    assert find.concepts == {"ground": (0, 1, 4)}
    none = torch.zeros(1, 64, 64)
    ground = find(images).get("ground", none)
    assert torch.equal(ground, both.get("road", none) + both.get("grass", none))
    with pytest.raises(KeyError, match="'snow'.*road"):
        segmenter(name, wanted=("snow",))


@needs_transformers
def test_transformers_segmenter_batches_do_not_matter(name):
    images = photo_like(5, 64, 64)
    together = segmenter(name).network(images)
    alone = torch.cat([segmenter(name).network(image[None]) for image in images])
    assert (together == alone).float().mean() > 0.99


@needs_transformers
def test_transformers_segmenter_cached_by_network_and_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    images = photo_like(2, 64, 64)
    network, processor = segformer()
    torch.manual_seed(1)
    other_weights = transformers.SegformerForSemanticSegmentation(network.config)
    other_size = transformers.SegformerImageProcessor(size={"height": 32, "width": 32})
    finders = [
        transformers_segmenter(network, processor),
        transformers_segmenter(network, processor, least_score=0.1),
        transformers_segmenter(network, processor, least_area=0.2),
        transformers_segmenter(network, processor, wanted=("road",)),
        transformers_segmenter(network, other_size),
        transformers_segmenter(other_weights, processor),
    ]
    for find in (*finders, transformers_segmenter(network, processor)):
        stored = cached(find)(images)
        expected = find(images)
        assert list(stored) == list(expected)
        assert all(torch.equal(stored[concept], masks) for concept, masks in expected.items())
    assert len(list((tmp_path / "concepts").iterdir())) == len(finders)


@needs_transformers
def test_transformers_segmenter_without_processor():
    with pytest.raises(ValueError, match="SegformerForSemanticSegmentation"):
        transformers_segmenter(segformer()[0])


@needs_transformers
def test_transformers_segmenter_of_a_classifier():
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64)
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    find = transformers_segmenter(transformers.ViTForImageClassification(config), processor)
    with pytest.raises(ValueError, match="ImageClassifierOutput"):
        find(photo_like(1))
