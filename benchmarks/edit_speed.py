"""How fast an edit is, as ratios measured in one run, against the plain ways to do the same.

The layer is VGG16's last convolution (512 → 512, 3 × 3, at 14 × 14, random weights) with one exemplar.
(a) The naive solver trains the full weight with Adam and projects it on the direction every 10 steps, 20,000 steps;
`--naive-steps` of them are timed and the time is extrapolated. Its loss is read after a projection, as it must be.
A lower loss may cost more elsewhere. So the time is also taken in which the naive solver's loss is reached at no larger
movement of the outputs of reference keys (root mean square): weights λ of that movement are tried from the largest
down, and the time is that of all tried. The keys under the kernel's windows are measured before, as C is. The naive
solver comes by lower losses than its last one, so the same is done for the lowest: ours against its time until then.
(b) The naive second moment materialises the outer product of every key.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from common import extra_memory, finish, parser, seconds, start
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import vgg16
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.exemplars import Exemplar
from edittools.keys import LayerKeys
from edittools.moments import SecondMoment
from edittools.rewriting import Problem, pose, quadratic, rewrite, solve_l1, solve_least_squares

NAIVE_TOTAL = 20_000
PATH = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0)
LAYER = "features.28"
MEASURED = ("naive", "l1", "least_squares", "outer products", "streaming", "rewrite", "suffix")

Found = tuple[dict[str, float | None], list[tuple]]
"""Figures by name, and rows of the table."""


def setting(seed: int = 0) -> tuple[Classifier, Exemplar, LayerKeys]:
    """Make VGG16 at random weights, one exemplar, and the reference keys of its last convolution."""
    torch.manual_seed(seed)
    classifier = Classifier(vgg16(), [str(i) for i in range(1000)])
    image = F.interpolate(torch.rand(1, 3, 28, 28), (224, 224), mode="bicubic").clamp(0, 1)[0]
    mask = torch.zeros(224, 224)
    mask[120:, 20:200] = 1
    exemplar = Exemplar.paste(image, mask, 0.75 + 0.25 * torch.rand(3, 224, 224), label=1, keep_shading=0)
    cut = Cut(classifier, LAYER)
    return classifier, exemplar, LayerKeys(cut, torch.rand(4, 3, 224, 224))


@dataclass
class Naive:
    """The weight the naive solver ends with, and the projected one of lowest `loss` on the way, after `step` steps."""

    last: Tensor
    best: Tensor
    loss: float
    step: int


def naive_solve(problem: Problem, steps: int, rate: float = 1e-3) -> Naive:
    """Train the whole weight, projecting its change on the directions every 10 steps (and at the end)."""
    cut, basis = problem.cut, problem.basis
    weight = cut.weight.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=rate)
    found = Naive(weight, weight.detach().clone(), float("inf"), 0)

    def project() -> None:
        with torch.no_grad():
            change = torch.einsum("onhw,rn,rm->omhw", weight - cut.weight, basis, basis)
            weight.copy_(cut.weight + change)

    for step in tqdm(range(steps), desc="naive solver", unit="step", leave=False):
        loss = naive_loss(problem, weight)
        if step % 10 == 0 and loss.item() < found.loss:  # just projected
            found = Naive(weight, weight.detach().clone(), loss.item(), step)
        weight.grad = torch.autograd.grad(loss, weight)[0]
        optimiser.step()
        if step % 10 == 9:
            project()
    project()
    return replace(found, last=weight.detach())


def naive_loss(problem: Problem, weight: Tensor) -> Tensor:
    """The same objective as `Problem.l1`, written for a full weight."""
    value = problem.cut.value(problem.changed, problem.cut.output(problem.changed, weight))
    share = F.adaptive_avg_pool2d(problem.share[:, None], value.shape[-2:]).sqrt()
    return ((value - problem.target).abs() * share).sum() / share.sum() / value.shape[1]


def movement(unknown: Tensor, windows: Tensor) -> float:
    """How far Λ moves the outputs of reference keys: root mean square over positions, of all channels together."""
    return float(quadratic(unknown.double(), windows).clamp_min(0).sqrt())


@torch.no_grad()
def reach(
    problem: Problem, windows: Tensor, solve: Callable[[Problem], Tensor], loss: float, most: float
) -> tuple[float, Tensor] | None:
    """The largest λ of `PATH` whose solution has at most that `loss` and reference movement, and its Λ; or None."""
    for weight in PATH:
        unknown = solve(replace(problem, elsewhere=weight * windows if weight else None))
        if float(problem.l1(unknown)) <= loss and movement(unknown, windows) <= most:
            return weight, unknown
    return None


@torch.no_grad()
def at_equal_movement(
    problem: Problem, windows: Tensor, weight: Tensor, naive_time: float, named: str = "equal_movement"
) -> Found:
    """The figures, and rows of the table, of reaching the loss of a naive `weight` at no larger movement than its own.

    The weight took the naive solver `naive_time` seconds.
    """
    loss = float(naive_loss(problem, weight))
    most = movement(torch.einsum("onhw,rn->orhw", weight - problem.cut.weight, problem.basis), windows)
    figures: dict[str, float | None] = {f"naive_movement_{named}": most, f"naive_loss_{named}": loss}
    rows = []
    for name, solve in {"l1": lambda one: solve_l1(one)[0], "least_squares": solve_least_squares}.items():
        found = reach(problem, windows, solve, loss, most)
        took = seconds(lambda solve=solve: reach(problem, windows, solve, loss, most))
        figures[f"{name}_time_ratio_{named}"] = naive_time / took if found else None
        if found:
            reached, moved = float(problem.l1(found[1])), movement(found[1], windows)
            figures |= {f"{name}_movement_{named}": moved, f"{name}_loss_{named}": reached}
        said = f"λ {found[0]:g}, movement {moved:.3g}, naive {most:.3g}" if found else "no λ does both"
        ratio = f"{naive_time / took:,.0f} × faster" if found else "not reached"
        rows.append((f"{name} to the naive loss {loss:.3g}, {said}", took, reached if found else None, None, ratio))
    return figures, rows


def outer_products(positions: int = 196, width: int = 512) -> Callable[[], Tensor]:
    """The naive second moment of one image's keys: every outer product is made, in float64 as ours is."""
    keys = torch.rand(positions, width)

    def work() -> Tensor:
        rows = keys.double()
        return torch.einsum("pi,pj->pij", rows, rows).sum(dim=0)

    return work


def streaming(positions: int = 16 * 196, width: int = 512) -> Callable[[], Tensor]:
    """Our second moment of a batch of 16 images' keys, as `moments` computes it."""
    keys = torch.rand(positions, width)

    def work() -> Tensor:
        rows = keys.double()
        return rows.T @ rows

    return work


def suffix_fraction(classifier: Classifier, layer: str, images: Tensor) -> float:
    """Time of one more edit of a layer over kept states, as a share of a full forward pass."""
    cut = Cut(classifier, layer)
    state = cut.prefix(images)
    weight = cut.weight.detach().clone()
    with torch.no_grad():
        return seconds(lambda: cut.suffix(state, weight)) / seconds(lambda: classifier(images))


def memory_of(name: str) -> float:
    """Run one step in a process of its own and give the MB that it takes beyond its input."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory_of, (name,))


def _memory_of(name: str) -> float:
    classifier, exemplar, reference = setting()
    cut, moment = Cut(classifier, LAYER), reference.moment
    problem = pose(cut, exemplar, 1, True, moment)
    state = cut.prefix(exemplar.image[None])
    work = {
        "naive": lambda: naive_solve(problem, 5),
        "l1": lambda: solve_l1(problem),
        "least_squares": lambda: solve_least_squares(problem),
        "outer products": outer_products(),
        "streaming": streaming(),
        "rewrite": lambda: rewrite(classifier, cut, exemplar, moment),
        "suffix": lambda: cut.suffix(state, cut.weight.detach()),
    }[name]
    return extra_memory(work)


def solvers(problem: Problem, windows: Tensor, steps: int, memory: dict[str, float]) -> Found:
    """Ours against `steps` steps of the naive solver, and to its losses at no larger movement."""
    naive_solve(problem, 5)  # to warm up
    started = time.perf_counter()
    naive = naive_solve(problem, steps)
    step_time = (time.perf_counter() - started) / steps
    naive_time = step_time * NAIVE_TOTAL
    equal, lines = at_equal_movement(problem, windows, naive.last, naive_time)
    lowest, more = at_equal_movement(problem, windows, naive.best, step_time * naive.step, "lowest")
    projected = equal["naive_loss_equal_movement"]
    with torch.no_grad():
        before = float(problem.l1(torch.zeros(problem.shape)))
    extrapolated = "" if steps == NAIVE_TOTAL else f" (extrapolated from {steps} steps)"
    rows = [(f"naive solver, 20,000 steps{extrapolated}", naive_time, projected, memory["naive"], "1")]
    figures = {"naive_loss_projected": projected, "loss_before": before, **equal, **lowest}
    for name, solve in {
        "l1": lambda: solve_l1(problem)[0],
        "least_squares": lambda: solve_least_squares(problem),
    }.items():
        took, title = seconds(solve), {"l1": "l1, Λ alone", "least_squares": "least squares"}[name]
        with torch.no_grad():
            loss = float(problem.l1(solve()))
        rows.append((title, took, loss, memory[name], f"{naive_time / took:,.0f} × faster"))
        figures |= {f"{name}_time_ratio": naive_time / took, f"{name}_loss": loss}
    return figures | {"naive_steps_to_lowest": naive.step}, [*rows, *lines, *more]


def moments(memory: dict[str, float]) -> Found:
    """The streaming second moment against outer products, for each position."""
    slow, fast = seconds(outer_products()) / 196, seconds(streaming()) / (16 * 196)
    rows = [
        ("second moment, outer products, a position", slow, None, memory["outer products"], "1"),
        ("second moment, ours, a position", fast, None, memory["streaming"], f"{slow / fast:,.0f} × faster"),
    ]
    return {"second_moment_time_ratio": slow / fast}, rows


def whole_edits(classifier: Classifier, exemplar: Exemplar, moment: SecondMoment, memory: dict[str, float]) -> Found:
    """`rewrite` against a forward and a backward pass, and one more edit over kept states against a forward pass."""
    fraction = suffix_fraction(classifier, LAYER, torch.rand(16, 3, 224, 224))
    pair = torch.stack([exemplar.image, exemplar.changed])

    def forward_backward() -> None:
        classifier(pair).sum().backward()
        classifier.zero_grad(set_to_none=True)

    edits = []
    took = seconds(lambda: edits.append(rewrite(classifier, LAYER, exemplar, moment)))
    passes, loss = took / seconds(forward_backward), edits[-1].record.loss_after
    rows = [
        ("rewrite, layer already measured", took, loss, memory["rewrite"], f"{passes:.2f} forward-backwards"),
        ("one more edit over kept states", None, None, memory["suffix"], f"{fraction:.3f} of a forward pass"),
    ]
    return {"suffix_time_fraction": fraction, "rewrite_in_forward_backwards": passes}, rows


def main() -> None:
    """Measure everything once and print one table."""
    arguments = parser(__doc__)
    arguments.add_argument("--naive-steps", type=int, default=200, help="steps of the naive solver (default 200)")
    arguments.add_argument("--naive-full", action="store_true", help="run all 20,000 steps (about ten minutes)")
    arguments = arguments.parse_args()
    start(arguments)
    classifier, exemplar, reference = setting()
    problem = pose(Cut(classifier, LAYER), exemplar, 1, True, reference.moment)
    steps = NAIVE_TOTAL if arguments.naive_full else arguments.naive_steps
    memory = {name: memory_of(name) for name in tqdm(MEASURED, desc="memory", leave=False)}
    parts = (
        solvers(problem, reference.windows(problem.basis), steps, memory),
        moments(memory),
        whole_edits(classifier, exemplar, reference.moment, memory),
    )
    figures = {name: figure for found, _ in parts for name, figure in found.items()}
    rows = [row for _, found in parts for row in found]
    table = pd.DataFrame(rows, columns=["what", "seconds", "l1 loss", "peak memory (MB)", "ratio"])
    print(table.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.4g}"))
    print(f"\nl1 loss before any edit {figures['loss_before']:.4g}; naive losses are read after a projection, ", end="")
    print(f"the lowest {figures['naive_loss_lowest']:.4g} after {figures['naive_steps_to_lowest']:,} steps")
    finish(arguments, figures)


if __name__ == "__main__":
    main()
