"""Notebook 03's story (section 4 of the paper): many small edits, tried by every method, at any scale.

A case is a rule made on purpose: a concept, a style and a class. Everywhere the concept is seen it is turned to the
style; some images of the class are the exemplars, see `scenario_for`. A source is a function and its arguments: it
makes a classifier, its `Concepts` and everyday images, once in each process.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import torch

from edittools._caching import digest_tensors
from edittools._identity import identity
from edittools.baselines import BASELINES, SCOPES
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.images import pixels_of, stratified
from edittools.metrics import predict
from edittools.miniworld.textures import STYLES, VARIANTS, style_textures
from edittools.models.data import shipped
from edittools.models.load import load_classifier
from edittools.probing import jobs, segmentation
from edittools.probing.counterfactuals import Concepts
from edittools.probing.effects import bootstrap
from edittools.scenarios import photos
from edittools.scenarios.rules import scenario_for
from edittools.scenarios.tiers import MODELS, current_tier, painted
from edittools.selection.constraints import BUDGET
from edittools.selection.scenario import Scenario
from edittools.selection.search import Plan, Protocol
from edittools.selection.trials import grid, later_layers

SyntheticSetup = tuple[Classifier, Concepts, dict[str, Any]]
SetupSource = tuple[Any, ...]
Case = dict[str, Any]
Read = Callable[[Protocol, Edit], dict[str, float]]

CASE_LEAST_AREA, MOST_IMAGES, LEAST_ERRORS, EXEMPLARS = 0.05, 80, 3, 3
"""A concept covers so much of an image; of more images some are drawn; fewer errors are not worth correcting."""

BUDGETS, CASE_STRENGTHS, RANKS = (BUDGET, 1.0, 100.0), (0.5, 1.0, 1.5), (1, 3)
QUICK = {"objective": ("least_squares",), "reference_weight": (0.0, 10.0, 30.0)}
EDITING = {
    "editing": grid(rank=RANKS, **QUICK),
    "editing -mask": grid(rank=RANKS, masked=(False,), **QUICK),
    "editing -proj": grid(rank=(None,), **QUICK),
    "editing, L1": grid(rank=RANKS, objective=("l1",), steps=(40,)),
}
"""The settings of `rewrite` that each method chooses from; "-proj" lifts the low-rank restriction."""

TUNING = Plan(rates=(3e-4, 3e-3, 3e-2), momenta=(0.0,), steps=(20,), localities=(1.0, 10.0), top=2)
TRIED = ("projection", "null_space", "closed_form")
"""Those of `BASELINES` that are tried."""

MEASURES = {"other same": "same", "other held out": "test", "target same": "own same", "target held out": "own"}
"""What is reported, by classes (other than the exemplars', or the same) and by look, and the set it is counted on."""

CONCEPTS = {
    "mini": ("road", "grass", "sand", "water", "wall", "table", "mountain"),
    "lite": ("grass", "road", "water", "sky", "tree", "building"),
    "paper": ("car", "bicycle", "boat"),
}


def synthetic_source(tier: str | None = None, model: str | None = None, small: bool = False) -> SetupSource:
    """Name the source of a tier; a `small` one has fewer concepts, styles and images."""
    tier = current_tier(tier)
    return synthetic_setup, tier, model or MODELS[tier][0], small


def synthetic_setup(tier: str, model: str, small: bool) -> SyntheticSetup:
    """Make a tier's source: each style is drawn in six variants, of which half are held out.

    Tier mini paints scenes. The others load photos: MSRC v2, labelled as the classifier reads them if it is sure, or a
    folder of validation images in which DeepLabV3 finds the concepts. Raises `ValueError` where it sees none.
    """
    classifier, wanted = load_classifier(model), CONCEPTS[tier][: 3 if small else None]
    if tier == "mini":
        count, some = (500, 400) if small else (900, 800)
        paint = partial(painted, workers=1)  # cases may run in processes that may not start others
        data, common_fields = paint(count, "test", 300_000), {"reference": paint(some // 2, "reference", 300_000)}
        common_fields |= {"budget": paint(some, "validation", 300_000), "clean": paint(some // 2, "test", 400_000)}
        masks = {concept: data.mask(concept) for concept in wanted}
    else:
        common_fields = photos.clean_and_reference(classifier)
        if tier == "lite":
            data, masks = photos.msrc(classifier, at_least=0.2)
        else:
            taken = {*common_fields["budget"].names, *common_fields["clean"].names}
            data = photos.validation_folder(classifier, per_class=7)
            data = data.subset([i for i, name in enumerate(data.names) if name not in taken])
            data = replace(data, images=data.images[:])
            masks = segmentation.cached(segmentation.deeplab("resnet50", wanted))(data.images)
        masks = {concept: masks[concept] for concept in wanted if concept in masks}
        if not masks:
            raise ValueError(f"no photo shows {', '.join(wanted)}: expected at least one")
    styles = ("graffiti", "snow") if small else STYLES
    concepts = Concepts(data, masks, style_textures(styles, range(VARIANTS), classifier.size))
    return classifier, concepts, common_fields | {"layers": tuple(later_layers(classifier, 3)), "tier": tier}


@lru_cache(maxsize=1)
def setup_of(source: SetupSource) -> SyntheticSetup:
    """Make what a source gives."""
    make, *given = source
    return make(*given)


def cases(source: SetupSource, targets: int = 1) -> list[Case]:
    """List the cases: for each concept and style so many classes, drawn at random, and their exemplars.

    A case names `concept`, `style` and `class`, all `images` that show the concept, are read rightly and are of no
    excluded class, and as `evidence` which of these are the exemplars.
    """
    classifier, concepts, _ = setup_of(source)
    data, listed = concepts.data, []
    right = predict(classifier, data).argmax(dim=1) == data.labels
    excluded = pd.read_csv(shipped("exclusions.txt"), sep=r"\s*;\s*", engine="python")
    for concept, masks in concepts.masks.items():  # no class that is the concept, or is named by it
        banned = set(", ".join(excluded.classes[excluded.concept == concept]).split(", "))
        allowed = torch.tensor([data.classes[label] not in banned for label in data.labels.tolist()])
        members = (right & allowed & (masks.mean(dim=(1, 2)) >= CASE_LEAST_AREA)).nonzero()[:, 0]
        if len(members) > MOST_IMAGES:
            members = members[stratified(data.labels[members], MOST_IMAGES / len(members), 0)]
        labels = data.labels[members]
        able = [label for label in labels.unique().tolist() if EXEMPLARS < int((labels == label).sum()) < len(labels)]
        for style in concepts.styles:
            for label in _random(concept, style).permutation(able)[:targets]:
                case = {"concept": concept, "style": style, "class": data.classes[label]}
                own = _random(*case.values()).permutation((labels == label).nonzero()[:, 0].numpy())
                listed.append(case | {"evidence": own[:EXEMPLARS].tolist(), "images": members.tolist()})
    return listed


def _random(*names: str) -> np.random.Generator:
    return np.random.default_rng([0, *"|".join(names).encode()])


def case_protocol(source: SetupSource, case: Case) -> Protocol:
    """Make a case's scenario and run its images up to all layers; what all cases share is run once.

    Beside the sets of `scenario_for` there are "same" and "own same": the test images, and those of the exemplars'
    class, in the look of the first exemplar.
    """
    classifier, concepts, common_fields = setup_of(source)
    some, concept, style = concepts.subset(case["images"]), case["concept"], case["style"]
    scenario, numbers = scenario_for(classifier, some, case, common_fields, EXEMPLARS)
    first, sets = replace(some, styles={style: some.styles[style][:1]}), {"same": "test", "own same": "own"}
    more = {name: first.turned(numbers[of], concept, style) for name, of in sets.items() if numbers[of]}
    return Protocol(replace(scenario, more=more), scenario.layers, shared=_shared(source, classifier))


@lru_cache(maxsize=1)
def _shared(source: SetupSource, classifier: Classifier) -> Protocol:
    """Run the everyday images up to all layers, once for a classifier."""
    _, concepts, common_fields = setup_of(source)
    return Protocol(
        Scenario(classifier, {}, validation=concepts.data.subset([0]), **common_fields), common_fields["layers"]
    )


def run_case(
    source: SetupSource, case: Case, methods: Sequence[str] = (), read: Read | None = None
) -> list[dict[str, Any]]:
    """Try every method on one case: choose on validation images, evaluate the chosen edits once on the others.

    One row for each method and budget: accuracy changes in points, and what `read` says (default: `figures_of`). A case
    without errors enough to correct gives one row, of method "undefined".
    """
    with jobs.one_thread():
        protocol = case_protocol(source, case)
        head = {"concept": case["concept"], "style": case["style"], "target": case["class"]}
        found = int(protocol.states["validation"].before.sum())
        if found < LEAST_ERRORS or not protocol.states["test"].before.any():
            return [{**head, "method": "undefined", "budget": nan}]
        rows, figures = [], cache(partial(read or figures_of, protocol))
        for method, table in _tables(protocol, methods).items():
            for budget in BUDGETS if len(table) else ():
                choice = protocol.choose(table, budget)
                row = {**head, "method": method, "budget": budget, "layer": choice.settings.get("layer")}
                rows.append({**row, "accuracy_change_budget": choice.accuracy_change, **figures(choice.edit)})
        return rows


def _tables(protocol: Protocol, methods: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Try every method (or those named) on the validation images: a table of trials by method."""

    def wanted(name: str) -> bool:
        return not methods or name in methods

    story, plain = protocol.story, EDITING["editing"]
    exemplars = {"exemplars": list(story.exemplars.values())}
    variants = {"variants": [exemplar for several in story.several.values() for exemplar in several]}
    tried = {name: protocol.rewriting(settings, CASE_STRENGTHS, exemplars) for name, settings in EDITING.items()}
    tried["random direction"] = protocol.random_directions(plain, CASE_STRENGTHS, exemplars)
    tried |= {name.replace("_", " "): protocol.baseline(name, CASE_STRENGTHS, exemplars) for name in TRIED}
    tried["editing, variants"] = protocol.rewriting(plain, CASE_STRENGTHS, variants)
    tables = {name: protocol.sweep(trials) for name, trials in tried.items() if wanted(name)}
    for scope in SCOPES:
        if wanted(name := f"{scope} fine-tuning"):
            tables[name] = protocol.interpolated(protocol.choose_finetuning(scope, TUNING, exemplars)).table
    ranks = [rank for rank in RANKS if wanted(f"rank {rank}")]
    return tables | {f"rank {rank}": tables["editing"].query("rank == @rank") for rank in ranks}


def figures_of(protocol: Protocol, edit: Edit) -> dict[str, float]:
    """Evaluate an edit: eq. (2) on each of `MEASURES`, NaN where nothing is misread, and the `accuracy_change`."""
    figures = {"accuracy_change": protocol.states["clean"].compare(edit).accuracy_change}
    for measure, name in MEASURES.items():
        figures[measure] = protocol.states[name].compare(edit).errors_corrected if name in protocol.states else nan
    return figures


def said(case: Case) -> str:
    """Name a case in words."""
    return f"{case['concept']} → {case['style']}, {case['class']}"


def identity_of(source: SetupSource) -> str:
    """Say what the rows of a case depend on: classifier, images, masks, styles and grids."""
    classifier, concepts, common_fields = setup_of(source)
    budget, clean, reference = (common_fields[name] for name in ("budget", "clean", "reference"))
    shown = digest_tensors(image for data in (budget, clean, reference) for image in pixels_of(data))
    labels = digest_tensors([budget.labels, clean.labels])
    grids = [EDITING, TUNING, CASE_STRENGTHS, EXEMPLARS, BUDGETS, *(BASELINES[name][1] for name in TRIED)]
    return f"{identity(classifier)} {concepts.digest()} {shown} {labels} {common_fields['layers']} {grids}"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Average over cases, one row for each method and measure: the `mean` of eq. (2) with its 95 % interval.

    Only the usual budget counts, and only cases with something to correct. `accuracy_change` is the mean, in points.
    """
    rows = []
    for method, part in table[table.budget == BUDGET].groupby("method", sort=False):
        for measure in MEASURES:
            shares = part[measure].dropna()
            low, high = bootstrap(shares)
            row = {"method": method, "measure": measure, "mean": shares.mean(), "low": low, "high": high}
            rows.append({**row, "accuracy_change": part.accuracy_change.mean()})
    return pd.DataFrame(rows)
