"""Compare what the library computes with what another commit computed: edits, moments, maps, selections, a probe.

    python tests/slow/digests.py --write before.json      on the one commit
    python tests/slow/digests.py --compare before.json    on the other

Each result has a digest of its bits and a few numbers. Where a digest differs, the largest relative difference of the
numbers says whether rounding has changed or more.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

import edittools as et
from edittools._storage import atomic_path, digest_tensors
from edittools.cut import Cut
from edittools.probing import probe
from edittools.selection import Assessment, Scores, repair
from edittools.selection.select import select
from edittools.site import prepare
from edittools_course.by_labels import select_by_labels
from edittools_course.methods import METHODS
from edittools_course.scenarios import snow_scenario
from edittools_course.scenarios.rules import probing_setup

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

SELECTED_AMONG = ("features.8", "features.10", "features.13", "features.15")
"""Layers of the small VGG among which an edit is selected."""

SELECTED_IN_ALL = ("mini_vgg", "mini_vit")
"""The networks in which an edit of any layer is selected."""

BASELINES = {
    "random direction": ({"rank": 1}, {"rank": 3}),
    "projection": ({"direction": "mean"}, {"direction": "probe"}, {"direction": "leace"}),
    "local fine-tuning": (
        {"scope": "local", "rate": 1e-2, "steps": (5, 10)},
        {"scope": "global", "rate": 1e-3, "steps": (5,)},
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
        site = prepare(classifier, layer, exemplars[:1], reference)
        for method, settings_of_method in BASELINES.items():
            for settings in settings_of_method:
                for number, edit in enumerate(METHODS[method].edits(site, **settings)):
                    yield f"{network} {layer} {method} {settings} {number}", of_edit(edit)


def selections() -> Iterator[tuple[str, Entry]]:
    """Describe what is selected among a few layers by hosts, by the exemplar, and by labels."""
    scenario = snow_scenario("mini", most_scenes=240)
    splits = scenario.splits
    options = {"layers": SELECTED_AMONG, "where": scenario.where}
    for select_by in ("hosts", "exemplar"):
        selection = select(scenario.classifier, scenario.exemplars, splits.images, select_by=select_by, **options)
        yield from of_scores(f"selected by {select_by}", selection.scores)
    scores = select_by_labels(scenario.classifier, scenario.exemplars, splits.images, splits.target, **options)
    yield from of_scores("selected by labels", scores)


def of_scores(name: str, scores: Scores) -> Iterator[tuple[str, Entry]]:
    """Describe the selected edit, and the score table."""
    selected = scores.best()
    yield f"{name}: edit", of_edit(selected.scaled) | {"text": str(selected)}
    yield f"{name}: scores", of_table(scores.table())


def repairs(network: str) -> Iterator[tuple[str, Entry]]:
    """Describe a repair over all layers of a network, with fine-tuning."""
    classifier, sets = sets_to_repair(network)
    yield from of_repair(f"{network} repair", repair(classifier, **sets, finetuning=True, progress=None))


def sets_to_repair(network: str) -> tuple[et.Classifier, dict[str, Any]]:
    """Make the arguments of `repair`: two exemplars, ordinary and labeled scenes, and two retained sets by name."""
    scenario = snow_scenario("mini", network, most_scenes=160)
    splits = scenario.splits
    is_first = torch.arange(len(splits.retain)) % 2 == 0
    retained = {"first": splits.retain.subset(is_first), "second": splits.retain.subset(~is_first)}
    sets = {
        "exemplars": dict(list(scenario.exemplars.items())[:2]),
        "images": splits.images,
        "concept": splits.target.subset(range(32)),
        "clean": splits.clean,
        "retain": retained,
        "where": scenario.where,
    }
    return scenario.classifier, sets


def of_repair(name: str, fix: Assessment) -> Iterator[tuple[str, Entry]]:
    """Describe all that a repair says."""
    yield f"{name}: table", of_table(fix.table)
    yield f"{name}: summary", entry([], fix.summary())
    yield f"{name}: edit", of_edit(fix.edit)
    yield from of_scores(f"{name}: selected", fix.selection.scores)
    if fix.finetuned is not None:
        yield f"{name}: fine-tuning", of_edit(fix.finetuned.edit) | {"text": str(dict(fix.finetuned.settings))}
    yield f"{name}: consistency", of_table(fix.consistency)
    data = {key: value for key, value in fix.report_data().items() if key not in VARYING}
    yield f"{name}: data", entry([], json.dumps(data, indent=1))


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
    in_all = {f"all layers of {network}": lambda network=network: repairs(network) for network in SELECTED_IN_ALL}
    sections |= {"selections": selections, **in_all, "probe": probed}
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
