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
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg16
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.exemplars import Exemplar
from edittools.keys import LayerKeys
from edittools.rewriting import Problem, pose, quadratic, rewrite, solve_l1, solve_least_squares

NAIVE_TOTAL = 20_000
PATH = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.0)
LAYER = "features.28"


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
    value = problem.cut.block(problem.changed, weight)
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
        unknown = solve(replace(problem, elsewhere=weight * windows / windows.trace() if weight else None))
        if float(problem.l1(unknown)) <= loss and movement(unknown, windows) <= most:
            return weight, unknown
    return None


@torch.no_grad()
def at_equal_movement(
    problem: Problem, windows: Tensor, weight: Tensor, naive_time: float, named: str = "equal_movement"
) -> tuple[dict[str, float | None], list[tuple]]:
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
        "least squares": lambda: solve_least_squares(problem),
        "outer products": outer_products(),
        "streaming": streaming(),
        "rewrite": lambda: rewrite(classifier, cut, exemplar, moment),
        "suffix": lambda: cut.suffix(state, cut.weight.detach()),
    }[name]
    return extra_memory(work)


def main() -> None:
    """Measure everything once and print one table."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--naive-steps", type=int, default=200, help="steps of the naive solver to time (default 200)"
    )
    arguments.add_argument("--naive-full", action="store_true", help="run all 20,000 steps (about ten minutes)")
    arguments = arguments.parse_args()
    start(arguments)
    classifier, exemplar, reference = setting()
    cut, moment = Cut(classifier, LAYER), reference.moment
    problem = pose(cut, exemplar, 1, True, moment)
    windows = reference.windows(problem.basis)
    steps = NAIVE_TOTAL if arguments.naive_full else arguments.naive_steps
    found: dict[str, Tensor] = {}
    naive_solve(problem, 5)  # to warm up
    started = time.perf_counter()
    naive = naive_solve(problem, steps)
    step_time = (time.perf_counter() - started) / steps
    naive_time = step_time * NAIVE_TOTAL
    with torch.no_grad():
        before = float(problem.l1(torch.zeros(problem.shape)))
    equal, lines = at_equal_movement(problem, windows, naive.last, naive_time)
    lowest, more = at_equal_movement(problem, windows, naive.best, step_time * naive.step, "lowest")
    naive_projected = equal["naive_loss_equal_movement"]
    l1_time = seconds(lambda: found.update(l1=solve_l1(problem)[0]))
    squares_time = seconds(lambda: found.update(squares=solve_least_squares(problem)))
    with torch.no_grad():
        l1_loss, squares_loss = (float(problem.l1(found[name])) for name in ("l1", "squares"))
    slow, fast = seconds(outer_products()) / 196, seconds(streaming()) / (16 * 196)
    images = torch.rand(16, 3, 224, 224)
    fraction = suffix_fraction(classifier, LAYER, images)
    pair = torch.stack([exemplar.image, exemplar.changed])

    def forward_backward(model: nn.Module = classifier) -> None:
        model(pair).sum().backward()
        model.zero_grad(set_to_none=True)

    pass_time = seconds(forward_backward)
    rewrite_time = seconds(lambda: rewrite(classifier, LAYER, exemplar, moment))
    names = ("naive", "l1", "least squares", "outer products", "streaming", "rewrite", "suffix")
    memory = {name: memory_of(name) for name in tqdm(names, desc="memory", leave=False)}
    extrapolated = "" if arguments.naive_full else f" (extrapolated from {steps} steps)"
    rows = [
        (f"naive solver, 20,000 steps{extrapolated}", naive_time, naive_projected, memory["naive"], "1"),
        ("l1, Λ alone", l1_time, l1_loss, memory["l1"], f"{naive_time / l1_time:,.0f} × faster"),
        ("least squares", squares_time, squares_loss, memory["least squares"],
         f"{naive_time / squares_time:,.0f} × faster"),
        *lines,
        *more,
        ("second moment, outer products, a position", slow, None, memory["outer products"], "1"),
        ("second moment, ours, a position", fast, None, memory["streaming"], f"{slow / fast:,.0f} × faster"),
        ("rewrite, layer already measured", rewrite_time, l1_loss, memory["rewrite"],
         f"{rewrite_time / pass_time:.2f} forward-backwards"),
        ("one more edit over kept states", None, None, memory["suffix"], f"{fraction:.3f} of a forward pass"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["what", "seconds", "l1 loss", "peak memory (MB)", "ratio"])
    print(table.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.4g}"))
    print(f"\nl1 loss before any edit {before:.4g}; naive losses are read after a projection, "
          f"the lowest {naive.loss:.4g} after {naive.step:,} steps")  # fmt: skip
    finish(
        arguments,
        {
            "l1_time_ratio": naive_time / l1_time,
            "l1_loss": l1_loss,
            "naive_loss_projected": naive_projected,
            "loss_before": before,
            "least_squares_time_ratio": naive_time / squares_time,
            **equal,
            **lowest,
            "naive_steps_to_lowest": naive.step,
            "second_moment_time_ratio": slow / fast,
            "suffix_time_fraction": fraction,
            "rewrite_in_forward_backwards": rewrite_time / pass_time,
        },
    )


if __name__ == "__main__":
    main()
