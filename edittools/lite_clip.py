"""A CLIP on a real backbone: EfficientNet-Lite0 with ImageNet weights as the visual tower, taught to read.

`data/train_lite_clip.py` says how and does it; `load_classifier("lite_clip")` gives the trained model.
"""

from torch import nn

from edittools.zero_shot import ByteTokenizer

SIZE, DIMENSIONS = 224, 256
TEMPLATES = ("a photo of a {}.", "{}")


def lite_clip() -> nn.Module:
    """Build an untrained model: 5.5 million weights, of which 3.7 million in the visual tower."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(
        timm_model_name="tf_efficientnet_lite0", timm_pool="", timm_proj="linear", timm_proj_bias=True, image_size=SIZE
    )
    text = CLIPTextCfg(context_length=40, vocab_size=ByteTokenizer.vocab_size, width=DIMENSIONS, heads=4, layers=2)
    model = CLIP(embed_dim=DIMENSIONS, vision_cfg=vision, text_cfg=text)
    model.visual.image_mean, model.visual.image_std = (0.5,) * 3, (0.5,) * 3
    return model
