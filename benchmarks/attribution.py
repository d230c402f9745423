"""Is `repair` as good in the layers that attribution, or one trial in each layer, puts first? `mini_vgg`, `lite`, …"""

import sys

import torch
import torch.nn.functional as F
from repair import EVERYDAY, FAILING, KEEP, misread

from edittools.choosing import repair
from edittools.choosing.repair import _chosen
from edittools.stories.snow import snow_scenario

for name in sys.argv[1:]:
    tier, model = ("lite", None) if name == "lite" else ("mini", name)
    story = snow_scenario(tier, model, share=0.5)
    exemplar, failing = story.exemplars[story.default["exemplar"]], misread(story, FAILING[tier])
    everyday, keep = story.budget.subset(range(EVERYDAY[tier])), story.keep.subset(range(min(KEEP, len(story.keep))))
    fix = repair(story.classifier, exemplar, failing, everyday, keep)
    label, guides, table = torch.tensor([exemplar.label]), {"all layers": {}}, fix.methods["edit"].table
    for cut in fix.protocol.cuts.values():
        x, changed = (cut.prefix(image[None]) for image in (exemplar.image, exemplar.changed))
        start, way = cut.output(changed).detach(), (cut.output(x) - cut.output(changed)).detach()
        steps = [(start + (step + 0.5) / 16 * way).requires_grad_() for step in range(16)]
        losses = [F.cross_entropy(cut.logits(changed, step), label) for step in steps]
        given = way * sum(torch.autograd.grad(sum(losses), steps)) / 16
        found = {"attribution": -given.sum(), "without sign": given.abs().sum(), "size": way.numel()}
        one = table[(table.layer == cut.layer) & (table.masked == True) & (table["rank"] == 3) & (table.strength == 1)]  # noqa: E712
        found["one trial"] = -one[one.reference_weight == 0].loss.min()
        guides |= {guide: guides.get(guide, {}) | {cut.layer: float(value)} for guide, value in found.items()}
    for guide, value in guides.items():
        for most in (2, 3) if value else [0]:
            among = sorted(value, key=value.get, reverse=True)[:most] or list(fix.protocol.cuts)
            for method in ("edit", "random direction"):
                tried = fix.methods[method].table.query("layer in @among").to_dict("records")
                choice = _chosen(tried, fix.protocol)
                print(name, guide, method, among, choice, choice.held_out.corrected, choice.held_out.broken, flush=True)
