"""Compare what the library computes with what another commit computed: edits, moments, maps, selections, a probe.

    python tests/slow/digests.py --write before.json      on the one commit
    python tests/slow/digests.py --compare before.json    on the other

Each result has a digest of its bits and a few numbers. Where a digest differs, the largest relative difference of the
numbers says whether rounding has changed or more.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

import edittools as et
from edittools._caching import atomic_path, digest_tensors
from edittools.auditing import audit_folder
from edittools.course.scenarios import snow_scenario
from edittools.course.scenarios.rules import probing_setup
from edittools.course.scenarios.tiers import SceneSet
from edittools.cut import Cut
from edittools.methods import METHODS, Method
from edittools.probing import probe
from edittools.probing.textures import texture
from edittools.selection import Assessment, Search, Selection, grid, repair

LAYERS = {
    "mini_vgg": ("features.10", "features.15"),
    "mini_resnet": ("layer3.0.conv2", "layer4.0.downsample.0", "layer4.1.conv1"),
    "mini_vit": ("blocks.2.attn.proj", "blocks.4.mlp.fc1"),
}
"""Layers of each network: with and without a skip, of maps and of tokens."""

SETTINGS = (
    {},
    {"rank": 3, "reference_weight": 30.0},
    {"rank": None, "reference_weight": 0.0},
    {"rank": None, "reference_weight": 10.0},
    {"masked": False, "reference_weight": 0.0},
    {"objective": "l1", "reference_weight": 0.0, "steps": 30},
    {"objective": "l1", "rank": 2, "reference_weight": 10.0, "steps": 30},
)
"""Settings of `rewrite`."""

SEARCHED = ("features.8", "features.10", "features.13", "features.15")
"""Layers of the small VGG that are searched."""

SEARCHED_WHOLE = ("mini_vgg", "mini_vit")
"""The networks in which all layers are searched."""

NAMES = {
    "rewrite": "edit",
    "random_direction": "random direction",
    "last_layer": "last layer",
    "finetune": "local fine-tuning",
}
"""The names of methods in the table of methods, by their names in the digests."""

BASELINES = {
    "random_direction": grid(rank=(1, 3)),
    "projection": grid(direction=("mean", "probe", "leace")),
    "last_layer": ({"share": 0.5, "ridge": 0.1},),
    "finetune": (
        {"scope": "local", "rate": 1e-2, "steps": (5, 10)},
        {"scope": "global", "rate": 1e-3, "steps": (5,), "locality": 10.0},
    ),
}
"""Settings of each baseline."""

VARYING = ("created", "versions", "fingerprints")
"""What `Assessment.report_data` says that differs between two runs or versions of the same computation."""

Entry = dict[str, Any]


def entry(tensors: list[Tensor], text: str = "") -> Entry:
    """Describe tensors by a digest of their bits and three numbers each."""
    numbers = []
    for tensor in tensors:
        values = tensor.detach().double().flatten()
        numbers += [float(values.sum()), float(values.abs().sum()), float(values.square().sum().sqrt())]
    return {"digest": digest_tensors(tensors)[:16], "numbers": numbers, "text": text}


def of_edit(edit: et.Edit) -> Entry:
    """Describe an edit: its factors, and its record."""
    factors = []
    for change in edit.changes.values():
        factors += [change.left] if change.right is None else [change.left, change.right]
    record = edit.record
    text = "" if record is None else f"{record.objective}, {record.steps} steps"
    described = entry(factors, f"{edit.digest[:16]} {edit.fingerprint[:16]} {text}")
    if record is not None:
        described["numbers"] += [record.loss_before, record.loss_after or 0.0, record.response or 0.0]
    return described


def of_table(table: pd.DataFrame) -> Entry:
    """Describe a table by its texts and numbers, without columns that hold objects."""
    columns = [name for name in table.columns if name not in ("edit", "losses", "wrong", "seconds")]
    numbers = table[columns].apply(pd.to_numeric, errors="coerce").fillna(0.0).to_numpy(dtype=float)
    return entry([torch.from_numpy(numbers.copy())], table[columns].to_string(float_format="%.6g"))


def edits_and_maps(network: str) -> Iterator[tuple[str, Entry]]:
    """Describe the second moments, edits and maps of one network."""
    scenario = snow_scenario("mini", network, most_scenes=160)
    classifier = scenario.classifier
    reference = scenario.splits.reference
    exemplars = list(scenario.exemplars.values())
    moments = et.second_moments(classifier, LAYERS[network], reference)
    search = Search(classifier, exemplars[:1], scenario.splits, LAYERS[network])
    for layer in LAYERS[network]:
        yield f"{network} {layer} moment", entry([moments[layer].matrix])
        cut = Cut(classifier, layer)
        masks = torch.stack([exemplar.mask for exemplar in exemplars])
        for place in ("keys", "output", "value"):
            yield f"{network} {layer} mask at {place}", entry([cut.pool_mask(masks, place)])
        for settings in SETTINGS:
            for count in (1, 3):
                edit = et.rewrite(classifier, layer, exemplars[:count], reference, **settings)
                yield f"{network} {layer} rewrite {settings} of {count}", of_edit(edit)
        yield f"{network} {layer} map", entry([edit.edit_map(classifier, scenario.splits.target.images[:8])])
    for method, settings in BASELINES.items():
        for number, candidate in enumerate(search.candidates(named(method).trying(settings, strengths=(1.0,)))):
            yield f"{network} {method} {number} {without_method(candidate.params)}", of_edit(candidate.edit)


def selections() -> Iterator[tuple[str, Entry]]:
    """Describe what is selected in a search, and by `repair`."""
    scenario = snow_scenario("mini", most_scenes=240)
    search = Search(scenario.classifier, scenario.exemplars, scenario.splits.with_folds(), SEARCHED[:3])
    edits = {}
    for method in ("rewrite", "random_direction", "projection"):
        best = search.cross_validated(search.score(named(method)))
        edits[method] = best.edit
        corrected = best.held_out["target"].corrected
        yield f"selected {method}", of_edit(best.edit) | {"text": f"{best} {corrected} {best.n_candidates}"}
    yield "evaluated", of_table(search.evaluate(edits))
    splits = scenario.splits
    concept = splits.target.subset(range(48))
    exemplar = scenario.exemplars["car 1"]
    layers = SEARCHED[-2:]
    fix = repair(scenario.classifier, exemplar, concept, splits.clean, splits.retain, layers=layers, progress=None)
    yield "repair", of_table(fix.table)
    yield "repair: summary", entry([], fix.summary())
    yield "repair: edit", of_edit(fix.edit)


def without_method(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the name of the method, which the row or the entry has as well."""
    return {name: value for name, value in params.items() if name not in ("method", "second method")}


def named(method: str) -> Method:
    """Return a method by its name in the digests."""
    return METHODS[NAMES.get(method, method)]


def bar_that_ends_after(most: int) -> type[tqdm]:
    """Return a class of bars that shows nothing, and ends a search after some candidates."""

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, disable=True)
            self.tried = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.tried += 1
            if self.tried >= most:
                raise InterruptedError
            return super().update(n)

    return Bar


def parameters_of(selection: Selection) -> str:
    """Write the parameters that were selected on all images and without each fold, and what the edits do."""
    parts = [f"{without_method(selection.params)} {dict(selection.scores)}"]
    parts += [str(without_method(of_fold.params)) for of_fold in selection.fold_selections]
    for name, held_out in selection.held_out.items():
        parts.append(f"held out of {name} {held_out.after.int().tolist()}")
    return "\n".join(parts)


def all_layers(network: str) -> Iterator[tuple[str, Entry]]:
    """Describe a search and a repair over all layers of a network, in two passes."""
    scenario = snow_scenario("mini", network, most_scenes=160)
    search = Search(scenario.classifier, scenario.exemplars, scenario.splits.with_folds())
    settings = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 30.0))
    for method in ("rewrite", "random_direction", "projection"):
        tried = named(method).trying(None if method == "projection" else settings)
        best = search.cross_validated(search.score(tried))
        yield f"{network} all layers {method}", of_edit(best.edit) | {"text": parameters_of(best)}
        yield f"{network} all layers {method}: layers", of_table(best.layers)
    for name, fix in repairs(network):
        yield from of_repair(f"{network} {name}", fix)


def sets_to_repair(network: str) -> tuple[et.Classifier, dict[str, Any]]:
    """Make the arguments of `repair`: two exemplars, concept and clean scenes, and two retained sets by name."""
    scenario = snow_scenario("mini", network, most_scenes=160)
    splits = scenario.splits
    is_first = torch.arange(len(splits.retain)) % 2 == 0
    retained = {"first": splits.retain.subset(is_first), "second": splits.retain.subset(~is_first)}
    sets = {
        "exemplars": dict(list(scenario.exemplars.items())[:2]),
        "concept": splits.target.subset(range(32)),
        "clean": splits.clean,
        "retain": retained,
    }
    return scenario.classifier, sets


def repairs(network: str) -> Iterator[tuple[str, Assessment]]:
    """Repair in all layers: with fine-tuning, and ended after k candidates."""
    classifier, sets = sets_to_repair(network)
    yield "repair", repair(classifier, **sets, finetuning=True, progress=None)
    for most in (250, 900, 1500):
        yield f"repair ended after {most}", repair(classifier, **sets, progress=bar_that_ends_after(most))


def of_repair(name: str, fix: Assessment) -> Iterator[tuple[str, Entry]]:
    """Describe all that a repair says."""
    yield f"{name}: table", of_table(fix.table)
    yield f"{name}: summary", entry([], fix.summary())
    yield f"{name}: edit", of_edit(fix.edit)
    yield f"{name}: layers", of_table(fix.layers)
    yield f"{name}: selected", of_edit(fix.selection.edit) | {"text": parameters_of(fix.selection)}
    for method, network in fix.finetuned.items():
        text = f"{dict(network.settings)} of {network.candidates}"
        if network.edit is not None:
            yield f"{name}: {method}", of_edit(network.edit) | {"text": text}
    yield f"{name}: trade-off", of_table(fix.trade_off)
    data = {key: value for key, value in fix.report_data().items() if key not in VARYING}
    yield f"{name}: data", entry([], json.dumps(data, indent=1))


def audited() -> Iterator[tuple[str, Entry]]:
    """Describe a small audit of rendered scenes, with masks from files and one material."""
    scenes = SceneSet(48, "validation", 500_000, ("car", "van", "bus", "truck"), "road").render()
    masks = scenes.mask("road")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_image(texture("snow", 0, 64), root / "snow.png")
        for number, label in enumerate(scenes.labels.tolist()):
            name = f"{scenes.classes[label]}/{number:03}.png"
            for place in (root / "images" / name, root / "masks" / "road" / name):
                place.parent.mkdir(parents=True, exist_ok=True)
            save_image(scenes.images[number], root / "images" / name)
            et.save_mask(root / "masks" / "road" / name, masks[number])
        classifier = et.load_classifier("mini_vgg")
        sets = {"masks": root / "masks", "material": root / "snow.png", "layers": SEARCHED[-2:], "direction": "missed"}
        audit = audit_folder(root / "images", classifier, **sets, masks_checked=True, progress=None)
    yield "audit: rules", of_table(audit.rules)
    yield "audit: verdict", entry([], str(audit.fix.verdict))
    yield from of_repair("audit", audit.fix)


def probed() -> Iterator[tuple[str, Entry]]:
    """Describe the effects of a probe."""
    setup = probing_setup("mini", "validation", per_class=2, most_scenes=120)
    result = probe(setup.classifiers, setup.concepts, setup.settings)
    yield "probe", of_table(result.table)
    yield "probe: rules", of_table(result.rules().drop(columns="evidence"))


def measured(sections: dict[str, Callable[[], Iterator[tuple[str, Entry]]]]) -> dict[str, Entry]:
    """Compute all entries."""
    entries = {}
    for section in tqdm(sections.values(), "sections"):
        entries.update(section())
    return entries


def compare(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """List the entries that differ, with the largest relative difference of their numbers."""
    lines = []
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            lines.append(f"{name}: only {'after' if name in after else 'before'}")
            continue
        old, new = before[name], after[name]
        if old == new:
            continue
        largest = float("nan")
        if len(old["numbers"]) == len(new["numbers"]):
            pairs = list(zip(old["numbers"], new["numbers"], strict=True))
            largest = max((abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs), default=0.0)
        what = [key for key in ("digest", "numbers", "text") if old[key] != new[key]]
        lines.append(f"{name}: {', '.join(what)} differ by at most {largest:.1e}")
        if "text" in what and not old["text"].startswith(new["text"][:16]):
            lines += [f"    before: {old['text']}", f"    after:  {new['text']}"]
    return lines


def main() -> None:
    """Compute the digests, and write or compare them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", type=Path, help="write the digests to this file")
    arguments.add_argument("--only", nargs="*", default=[], help="names of sections; by default all")
    arguments.add_argument("--compare", type=Path, help="compare the digests with those in this file")
    options = arguments.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    sections = {network: lambda network=network: edits_and_maps(network) for network in LAYERS}
    searched = {f"all layers of {network}": lambda network=network: all_layers(network) for network in SEARCHED_WHOLE}
    sections |= {"selections": selections, **searched, "probe": probed, "audit": audited}
    entries = measured(
        {name: section for name, section in sections.items() if not options.only or name in options.only}
    )
    if options.write:
        with atomic_path(options.write) as temporary:
            temporary.write_text(json.dumps(entries, indent=1))
    print(f"{len(entries)} results")
    if options.compare:
        before = json.loads(options.compare.read_text())
        if options.only:
            before = {name: described for name, described in before.items() if name in entries}
        lines = compare(before, entries)
        print("\n".join(lines) or "all are the same, to the last bit")


if __name__ == "__main__":
    main()
