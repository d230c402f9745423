"""Check which architectures can be cut: exported, and exact at every layer that is listed, with a state used twice.

    python tests/slow/architectures.py --workers 2                     (or: make slow, which also runs the rehearsal)
    python tests/slow/architectures.py --output docs/architectures.csv    writes the table that docs/settings.md counts

Random weights; weights and scales of 0, which would hide a difference, are made random. No download. It fails if a
network cannot be cut, or if its logits differ for another reason than attention's fast path.
"""

import argparse
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from edittools._graph import probe_images
from edittools.classifiers import Classifier
from edittools.cut import cut_all, editable_layers, states_at

TIMM = """beit_base_patch16_224 halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
convnext_atto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny deepseek_vit_412m
deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 mixnet_s
efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small
iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_384_s8 lowformer_b0
mambaout_femto coatnet_pico_rw_224 poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs
mvitv2_tiny naflexvit_base_patch16_siglip nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large
pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_004_tv repghostnet_050 repvit_m1 res2next50 resnest14d resnet18 resnetv2_18
rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_s
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
tresnet_m twins_svt_small vgg11 visformer_tiny flexivit_small vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224
samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
xcit_nano_12_p8_224 tf_efficientnet_lite0 mixer_s32_224""".split()
"""The smallest of each of timm's families, and two more."""
TRANSFORMERS = "ViT ConvNext ResNet Swin Dinov2 Beit MobileViT RegNet Swinv2 ConvNextV2".split()
SHALLOW = "deepseek_vit_412m gemma4_vit_167m qwen3_vit_88m naflexvit_base_patch16_siglip beit_base_patch16_224".split()
"""So large that two of their blocks, which are all alike, are looked at."""
FAST_PATH = "attention's fast path rounds differently"
"""The only known reason why logits differ."""
SMALL = 64
"""Convolutional networks of torchvision see images of so many pixels: as much to check, in a twelfth of the time."""
SIZES = {
    "inception_v3": 96,
    "googlenet": 96,
    "maxvit_t": 224,
    "vit_h_14": 56,
    "halonet_h1": 256,
    "deepseek_vit_412m": 224,
}


def from_torchvision(name: str) -> tuple[nn.Module, int]:
    """Make a classifier of torchvision and say the size of its images."""
    import torchvision

    size = SIZES.get(name, SMALL)
    options = {"image_size": size} if name.startswith("vit") else {}
    options |= {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options), size


def from_timm(name: str) -> tuple[nn.Module, int]:
    """Make a classifier of timm and say the size of its images."""
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=10, **({"depth": 2} if name in SHALLOW else {}))
    usual = model.pretrained_cfg["input_size"][-1]
    size = usual if model.pretrained_cfg["fixed_input_size"] else min(usual, 2 * SMALL)
    return model, SIZES.get(name, size)


def from_transformers(name: str) -> tuple[nn.Module, int]:
    """Make a classifier of transformers by its own configuration and say the size of its images."""
    import transformers

    settings = getattr(transformers, f"{name}Config")()
    if name in ("ViT", "Dinov2", "Beit"):  # blocks that are all alike
        settings.num_hidden_layers = 2
    return getattr(transformers, f"{name}ForImageClassification")(settings), getattr(settings, "image_size", 224)


MAKERS = {"torchvision": from_torchvision, "timm": from_timm, "transformers": from_transformers}


def networks(package: str) -> list[str]:
    """Name the architectures of a package."""
    import torchvision

    known = {"timm": TIMM, "transformers": TRANSFORMERS}
    return known.get(package) or torchvision.models.list_models(module=torchvision.models)


@torch.no_grad()
def checked(model: nn.Module, size: int, most: int | None) -> dict[str, object]:
    """Cut a model at every layer that is listed; say how far the logits put together are from the model's own."""
    model.eval()
    for weight in model.parameters():
        if weight.abs().max() < 1e-3:
            weight.normal_(0, 0.02)
    images = probe_images((size, size))
    before = model(images)
    one, other = getattr(before, "logits", before)
    if (one - other).abs().max() < 1e-6:  # so small are the weights that some begin with
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                nn.init.kaiming_normal_(weight)
            elif name.endswith("weight"):
                nn.init.ones_(weight)
    classifier = Classifier(model, [str(i) for i in range(getattr(before, "logits", before).shape[1])], size=size)
    started = time.perf_counter()
    layers = editable_layers(classifier).layer.tolist()
    seconds, worst = time.perf_counter() - started, 0.0
    expected = classifier(images)
    assert (expected[0] - expected[1]).abs().max() > 0, "logits that are all the same compare nothing"
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and getattr(m, "groups", 1) == 1]
    cuts = cut_all(classifier, layers[:: -(-len(layers) // (most or len(layers)))])
    for cut, state in zip(cuts.values(), states_at(cuts, images).values(), strict=True):
        for _ in range(2):
            worst = max(worst, float((cut.logits(state) - expected).abs().max()))
    fast = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    why = FAST_PATH if worst and fast else ""
    counts = {"checked": len(cuts), "layers": len(layers), "of": len(modules)}
    return counts | {"seconds": round(seconds, 1), "off by": worst, "why": why}


def row_of(job: tuple[str, str, int | None]) -> dict[str, object]:
    """Make a network, check it at so many layers, and say what was found or why it cannot be cut."""
    package, name, most = job
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        row = checked(*MAKERS[package](name), most)
    except Exception as error:  # what is counted here
        row = {"why": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return {"package": package, "network": name} | row


COLUMNS = ["package", "network", "checked", "layers", "of", "seconds", "off by", "why", "torch"]


def to_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Make the table that docs/architectures.csv holds: one row per network."""
    table = pd.DataFrame(rows).assign(torch=torch.__version__).reindex(columns=COLUMNS)
    return table.astype(dict.fromkeys(("checked", "layers", "of"), "Int64"))


def main() -> None:
    """Check each architecture of each package, and print a table of them, and what fails and why."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--packages", nargs="+", default=["torchvision", "timm", "transformers"])
    arguments.add_argument("--workers", type=int, default=1, help="processes side by side")
    arguments.add_argument("--output", type=Path, help="file to write the table to")
    arguments.add_argument("--names", nargs="*", help="only these")
    arguments.add_argument("--layers", type=int, help="check at this many layers at most (default: at all)")
    options = arguments.parse_args()
    jobs = [(package, name, options.layers) for package in options.packages for name in networks(package)]
    jobs = [job for job in jobs if not options.names or job[1] in options.names]
    with get_context("spawn").Pool(options.workers, maxtasksperchild=8) as workers:
        rows = list(tqdm(workers.imap(row_of, jobs), "networks", len(jobs)))
    table = to_table(rows)
    print(table.to_string())
    if options.output:
        table.to_csv(options.output, index=False)
    failed = [row["network"] for row in rows if row.get("off by") != 0 and row["why"] != FAST_PATH]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(rows)} cannot be cut exactly: {', '.join(failed)}")


if __name__ == "__main__":
    main()
