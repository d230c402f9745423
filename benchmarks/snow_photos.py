"""Vehicles on snow, real photographs: one edit from one exemplar, beside its controls and both fine-tunings.

EfficientNet-Lite0 with ImageNet weights. Layer, exemplar, rank, mask, objective and strength are chosen on 30 % of the
paper's snow photos, under an accuracy budget of 0.25 points on one half of the ImageNet sample; every line is then
evaluated once on the other 70 % and on the other half. Needs the photographs (see README, 'Tiers').
"""

import argparse
import time
from collections.abc import Iterator
from itertools import product

import pandas as pd
import torch
from common import finish, parser, start

from edittools import benchmark as bench
from edittools.edits import Edit
from edittools.finetuning import SCOPES
from edittools.metrics import Comparison, mcnemar, wilson
from edittools.moments import second_moments
from edittools.rewriting import rewrite
from edittools.scenarios import Scenario, snow_scenario

REWRITE_SETTINGS = bench.grid(rank=(1, 3), masked=(True, False), objective=("l1", "least_squares"))
RATES, STEPS = (1e-3, 1e-2, 1e-1), 20
LOCALITIES, TOP = (1.0, 10.0), 4
SEEDS = range(10)


def describe(row: pd.Series) -> str:
    """Say in a few words which settings a line has."""
    if row["layer"] == "":
        return "nothing"
    words = [str(row["layer"]), str(row["exemplar"])]
    if "rank" in row and pd.notna(row["rank"]):
        words += [f"rank {row['rank']}", "mask" if row["masked"] else "no mask", str(row["objective"])]
    if "rate" in row and pd.notna(row["rate"]):
        words += [f"rate {row['rate']:g}", f"locality {row['locality']:g}"]
    return ", ".join([*words, f"α {row['strength']:g}"] if "strength" in row and pd.notna(row["strength"]) else words)


def figures(edit: Edit, kept: dict[str, bench.Kept]) -> dict[str, float]:
    """Evaluate an edit once on the test photos, on clean photos and on classes that live on snow."""
    test, clean, legitimate = (kept[name].compare(edit) for name in ("test", "clean", "legitimate"))
    everything = Comparison(*(torch.cat([a, b]) for a, b in zip(
        _pair(kept["clean_validation"].compare(edit)), _pair(clean), strict=True)))  # fmt: skip
    row = test.row()
    return {
        "errors_before": row["errors before"],
        "errors_after": row["errors after"],
        "corrected": test.corrected,
        "broken": test.broken,
        "errors_corrected": row["errors corrected"],
        "p": mcnemar(test.corrected, test.broken),
        "accuracy_change_points": everything.row()["accuracy change (points)"],
        "accuracy_change_points_held_out": clean.row()["accuracy change (points)"],
        "live_on_snow_errors_before": int(legitimate.before.sum()),
        "live_on_snow_errors_after": int(legitimate.after.sum()),
    } | ({"own_class_errors_corrected": kept["own"].compare(edit).row()["errors corrected"]} if "own" in kept else {})


def _pair(comparison: Comparison) -> tuple[torch.Tensor, torch.Tensor]:
    return comparison.before, comparison.after


def with_locality(plain: pd.DataFrame, cuts: dict, exemplars: dict, story: Scenario) -> Iterator[tuple[dict, Edit]]:
    """Repeat the best plain fine-tunings with a term that keeps the predictions of reference photos."""
    best = plain.sort_values("loss").head(TOP)
    for (_, row), locality in product(best.iterrows(), LOCALITIES):
        setting = {"scope": row.scope, "rate": row.rate, "steps": row.steps, "locality": locality, "batch_size": 16}
        yield from bench.finetuning_trials(
            {row.layer: cuts[row.layer]}, {row.exemplar: exemplars[row.exemplar]}, [setting], story.reference
        )


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average the figures of several control edits."""
    return pd.DataFrame(rows).mean().to_dict()


Line = tuple[str, list[Edit]]  # which settings were chosen, and the edit (of a control several)


def measure(
    story: Scenario, ordinary: int = 3
) -> tuple[dict[str, tuple[str, dict[str, float]]], dict[str, bench.Kept]]:
    """Choose every line on the validation images and evaluate it once."""
    lines, kept = choose(story, ordinary)
    return {name: (words, mean_of([figures(e, kept) for e in edits])) for name, (words, edits) in lines.items()}, kept


def choose(
    story: Scenario,
    ordinary: int = 3,
    tried: list[dict] = REWRITE_SETTINGS,
    strengths: tuple = (0.5, 1.0),
    edited: tuple[str, ...] = (),
) -> tuple[dict[str, Line], dict[str, bench.Kept]]:
    """Choose every line on the validation images.

    Edits are tried in the layers `edited` (default: all), fine-tuning in every `ordinary`-th of all, from the second on
    where it is not every one.
    """
    data = {n: getattr(story, n) for n in ("validation", "test", "clean_validation", "clean", "legitimate")}
    data |= ({"own": story.own} if story.own else {}) | dict(story.more)
    cuts, kept = bench.prepare(story.classifier, story.layers, progress=True, **data)
    moments = second_moments(story.classifier, story.layers, story.reference, progress=True)
    singles = story.exemplars
    several = {f"all {len(singles)}": list(singles.values()), **story.several}
    validation, clean = kept["validation"], kept["clean_validation"]
    lines: dict[str, Line] = {}

    default = {key: value for key, value in story.default.items() if key not in ("layer", "exemplar")}
    layer, exemplar = story.default["layer"], story.default["exemplar"]
    untuned = rewrite(story.classifier, cuts[layer], singles[exemplar], moments[layer], **default)
    lines["untuned"] = describe(pd.Series(story.default | {"objective": "l1", "strength": 1.0})), [untuned]

    among = {layer: cuts[layer] for layer in edited or cuts}
    total = len(among) * len(tried) * len(strengths)
    trials = bench.rewriting_trials(among, singles, moments, tried, strengths)
    table = bench.sweep(trials, validation, total * len(singles), progress=True)
    best = bench.select(table, clean)
    lines["editing"] = describe(best), [best.edit]

    settings = {"masked": best.masked, "objective": best.objective, "rank": best["rank"]}

    def along(basis: torch.Tensor) -> Edit:
        same = singles[best.exemplar]
        return best.strength * rewrite(story.classifier, cuts[best.layer], same, basis=basis, **settings)

    controls = bench.random_direction(best.edit, along, SEEDS)
    lines["random_direction"] = f"as editing, mean of {len(controls)}", controls

    trials = bench.rewriting_trials(among, several, moments, tried, strengths)
    more = bench.sweep(trials, validation, total * len(several), progress=True)
    best_of_several = bench.select(more, clean)
    lines["several_exemplars"] = describe(best_of_several), [best_of_several.edit]
    base = best_of_several if best_of_several.loss < best.loss and story.several else best
    second = bench.add_layer(base.edit, pd.concat([table, more]), validation, clean)
    lines["two_layers"] = f"{describe(base)} + {describe(second)}", [second.edit]

    chosen = {layer: cuts[layer] for layer in list(cuts)[0 if ordinary == 1 else 1 :: ordinary]}
    for scope, (suffix, exemplars) in product(SCOPES, {"": singles, "_several": several}.items()):
        row = _finetuned(scope, chosen, exemplars, story, kept)
        lines[f"finetune_{scope}{suffix}"] = describe(row), [row.edit]
    return lines, kept


def _finetuned(scope: str, cuts: dict, exemplars: dict, story: Scenario, kept: dict[str, bench.Kept]) -> pd.Series:
    """Choose among fine-tunings in the same way as among edits, the best of them again with a locality term."""
    settings, validation = bench.grid(scope=(scope,), rate=RATES, steps=(STEPS,)), kept["validation"]
    trials = bench.finetuning_trials(cuts, exemplars, settings)
    plain = bench.sweep(trials, validation, len(cuts) * len(exemplars) * len(settings), True)
    near = bench.sweep(with_locality(plain, cuts, exemplars, story), validation, TOP * len(LOCALITIES), True)
    return bench.select(pd.concat([plain.assign(locality=0.0), near]), kept["clean_validation"])


def conclude(arguments: argparse.Namespace, lines: dict, kept: dict[str, bench.Kept], started: float) -> None:
    """Print the table and, when asked for, the JSON line: the edit's figures first, the other methods by name."""
    seconds = time.perf_counter() - started
    report(lines, kept)
    print(f"\n{seconds:.0f} s in all")
    head = dict(lines["editing"][1])
    others = {name: figure for name, (_, figure) in lines.items() if name != "editing"}
    finish(arguments, head | others | {"seconds": seconds})


def main() -> None:
    """Choose on the validation photos, report the test photos once."""
    arguments = parser(__doc__).parse_args()
    start(arguments)
    started = time.perf_counter()
    conclude(arguments, *measure(snow_scenario("lite", progress=True)), started)


def report(lines: dict[str, tuple[str, dict[str, float]]], kept: dict[str, bench.Kept]) -> None:
    """Print what was chosen and the table."""
    counts = {name: f"{len(part.labels)} ({int(part.before.sum())} errors)" for name, part in kept.items()}
    print("Images:", ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()), "\n")
    for name, (description, _) in lines.items():
        print(f"  {name:<25}{description}")
    rows = []
    for name, (_, figure) in lines.items():
        low, high = wilson(round(figure["errors_after"]), len(kept["test"].labels))
        rows.append({
            "method": name,
            "errors": f"{figure['errors_before']:.0f} → {figure['errors_after']:.3g}",
            "corrected / broken": f"{figure['corrected']:.3g} / {figure['broken']:.3g}",
            "errors corrected": f"{figure['errors_corrected']:+.0%}",
            "error rate after, 95 %": f"{100 * low:.0f} to {100 * high:.0f} %",
            "p": f"{figure['p']:.2g}",
            **({"own class": f"{figure['own_class_errors_corrected']:+.0%}"} if "own" in kept else {}),
            "accuracy, all": f"{figure['accuracy_change_points']:+.2f}",
            "held out": f"{figure['accuracy_change_points_held_out']:+.2f}",
            "live on snow": f"{figure['live_on_snow_errors_before']:.0f} → {figure['live_on_snow_errors_after']:.3g}",
        })  # fmt: skip
    print("\n" + pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
