"""Positions of tokens: a mask covers the tokens of its pixels, or the layer is refused."""

import importlib

import pytest
import torch
from conftest import moment_of
from torch import nn
from torchvision.models import VisionTransformer

from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut
from edittools.edits import Change, Edit
from edittools.exemplars import Exemplar
from edittools.rewriting import losses, pose, rewrite, solve_least_squares
from edittools.site import prepare

HEIGHT = 16
WIDTH = 24
PATCH = 4  # 4 × 6 cells


def _timm(**options):
    return importlib.import_module("timm").models.vision_transformer.VisionTransformer(
        img_size=(HEIGHT, WIDTH), patch_size=PATCH, embed_dim=8, depth=2, num_heads=2, num_classes=5, **options
    )


class Tokens(nn.Module):
    """Patches as tokens, maybe in another order and with others in front, and one layer."""

    def __init__(self, prefix=0, order=None):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, PATCH, PATCH)
        self.fc = nn.Linear(8, 12)
        self.head = nn.Linear(12, 5)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.order = order

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x if self.order is None else x[:, self.order]
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.fc(x).relu()
        return self.head(x[:, self.prefix.shape[1] :].mean(dim=1))


class Maps(nn.Module):
    """The same with convolutions."""

    def __init__(self, tokens):
        super().__init__()
        self.patch = tokens.patch
        self.fc = nn.Conv2d(8, 12, 1)
        self.head = tokens.head
        self.fc.weight.data = tokens.fc.weight.data[:, :, None, None]
        self.fc.bias.data = tokens.fc.bias.data

    def forward(self, x):
        return self.head(self.fc(self.patch(x)).relu().mean(dim=(2, 3)))


def _exemplar():
    generator = torch.Generator().manual_seed(0)
    image, changed = torch.rand(2, 3, HEIGHT, WIDTH, generator=generator)
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[6:, 3:15] = 1
    return Exemplar(image, torch.where(mask > 0, changed, image), mask)


@pytest.mark.parametrize(
    ("make", "layer", "size"),
    [
        (lambda: _timm(), "blocks.0.attn.qkv", (HEIGHT, WIDTH)),
        (lambda: _timm(reg_tokens=3), "blocks.0.attn.qkv", (HEIGHT, WIDTH)),
        (lambda: _timm(class_token=False, global_pool="avg"), "blocks.0.attn.qkv", (HEIGHT, WIDTH)),
        (lambda: _timm(reg_tokens=1), "blocks.1.mlp.fc1", (HEIGHT, WIDTH)),
        (
            lambda: VisionTransformer(16, PATCH, 2, 2, 8, 16, num_classes=5),
            "encoder.layers.encoder_layer_0.mlp.0",
            (16, 16),
        ),
        (lambda: Tokens(0), "fc", (HEIGHT, WIDTH)),
        (lambda: Tokens(2, order=torch.randperm(24)), "fc", (HEIGHT, WIDTH)),
    ],
    ids=["class token", "registers", "patches alone", "deeper", "torchvision", "patches", "another order"],
)
@torch.no_grad()
def test_pool_mask_of_tokens(make, layer, size):
    torch.manual_seed(0)
    cut = Cut(Classifier(make(), list("abcde"), size=max(size)), layer, size)
    image = torch.rand(1, 3, *size)
    attention = "mlp" in layer
    for top in range(0, size[0], PATCH):
        for left in range(0, size[1], PATCH):
            mask = torch.zeros(1, *size)
            changed = image.clone()
            mask[:, top : top + PATCH, left : left + PATCH] = 1
            changed[:, :, top : top + PATCH, left : left + PATCH] = 0
            before = cut.prefix(image)
            after = cut.prefix(changed)
            moved = (cut.keys(after) - cut.keys(before)).abs().sum(dim=2)
            moved = moved == moved.max() if attention else moved > 1e-6  # attention came before: the own token most
            assert torch.equal(cut.pool_mask(mask), moved.float())
            cells = cut.to_image(moved.float())[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
            assert torch.equal(cells > 0.5, torch.nn.functional.avg_pool2d(mask, PATCH) > 0.5)


@pytest.mark.parametrize("objective", ["l1", "least_squares"])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_rewrite_of_tokens_against_maps(objective, prefix):
    torch.manual_seed(0)
    tokens = Tokens(prefix)
    matrix = torch.diag(torch.rand(8).double() + 0.1)
    exemplar = _exemplar()
    with_tokens, with_maps = (Classifier(model, list("abcde"), size=WIDTH) for model in (tokens, Maps(tokens)))
    edits = [
        rewrite(c, "fc", exemplar, moment_of(c, "fc", matrix), objective=objective, steps=60)
        for c in (with_tokens, with_maps)
    ]
    deltas = [edit.changes["fc.weight"].delta().flatten(1) for edit in edits]
    torch.testing.assert_close(*deltas, rtol=1e-3, atol=1e-4)
    assert edits[0].record.loss_after == pytest.approx(edits[1].record.loss_after, rel=1e-3)
    maps = [e.edit_map(c, exemplar.changed) for e, c in zip(edits, (with_tokens, with_maps), strict=True)]
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"init_values": 0.5, "reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}]
)
@pytest.mark.parametrize("layer", ["attn.proj", "mlp.fc2"])
@torch.no_grad()
def test_system_before_residual_sum(layer, options):
    """With more unknowns than tokens at the mask, the sum there can be that of x, though the skips differ."""
    torch.manual_seed(0)
    classifier = Classifier(_timm(**options), list("abcde"), size=WIDTH)
    exemplar = _exemplar()
    cut = Cut(classifier, f"blocks.0.{layer}", (HEIGHT, WIDTH))
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[8:16, 4:12] = 1  # four whole cells
    exemplar = Exemplar(exemplar.image, exemplar.changed, mask)
    problem = pose(prepare(cut.classifier, cut.layer, exemplar))
    design, share = problem.system
    is_shown = share > 0
    solution = torch.linalg.lstsq(design[is_shown], problem.unedited_residual[is_shown], driver="gelsd").solution
    coefficients = solution.T.reshape(problem.coefficients_shape).to(cut.weight)
    edit = Edit({f"{cut.layer}.weight": Change(coefficients)}, fingerprint(cut.model))
    before, after = (cut.prefix(image[None]) for image in (exemplar.image, exemplar.changed))
    at_mask = cut.pool_mask(mask[None])[0] > 0
    assert at_mask.sum() == 4 and not torch.allclose(before[1], after[1])
    with edit.applied(classifier):
        value = cut.value(after)[0, at_mask]
    torch.testing.assert_close(value, cut.value(before)[0, at_mask], rtol=1e-3, atol=1e-3)
    loss_before, loss_after = losses(problem, "least_squares", coefficients)
    assert loss_after < 1e-4 * loss_before
    assert losses(problem, "least_squares", solve_least_squares(problem))[1] < 0.5 * loss_before


class Mixed(Tokens):
    """Tokens that are mixed into fewer tokens, whose positions are unknown."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(24, 16)

    def forward(self, x):
        x = self.patch(x).flatten(2)
        return self.head(self.fc(self.mix(x).transpose(1, 2)).mean(dim=1))


class Windows(Tokens):
    """Tokens in groups, as in Swin."""

    def forward(self, x):
        x = self.patch(x).unflatten(2, (2, 2)).unflatten(4, (2, 3)).permute(0, 2, 4, 3, 5, 1)
        return self.head(self.fc(x.reshape(-1, 6, 8)).reshape(-1, 24, 12).mean(dim=1))


@pytest.mark.parametrize("make", [Mixed, Windows])
def test_rewrite_of_tokens_without_positions(make):
    torch.manual_seed(0)
    classifier = Classifier(make(), list("abcde"), size=WIDTH)
    exemplar = _exemplar()
    with pytest.raises(ValueError, match=f"'fc' of {make.__name__}"):
        rewrite(classifier, "fc", exemplar, torch.rand(2, 3, HEIGHT, WIDTH))
