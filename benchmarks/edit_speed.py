"""Claim: solving for an edit is thousands of times faster than training the layer's full weight.

All figures are ratios measured in one run, against the plain ways to do the same.

The layer is VGG16's last convolution (512 → 512, 3 × 3, at 14 × 14, random weights) with one exemplar.
The naive solver, which is what the paper's method prescribes, trains the full weight with Adam for 20,000 steps
and projects its change on the direction every 10 steps; `--naive-steps` of them are timed and the time is extrapolated.
Its loss is measured after a projection, as it must be.
The naive solver comes by lower losses than its last one. So the time is also taken in which its lowest loss is reached,
against its time until then, at no larger movement of the outputs of reference keys (root mean square, see
`Problem.reference_change`): weights λ of that movement are tried from the largest down, and the time is that of all
tried. C is measured before.

`--busy` measures instead how long two threads take next to a program that keeps one of their two cores busy: 64
predictions of SqueezeNet, and one rewrite of it. By default, threads wait for each other by spinning; with
`OMP_WAIT_POLICY=passive`, they sleep.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from _lib.command import parser, run, seconds
from _lib.results import Results
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import squeezenet1_1, vgg16
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.metrics import predict
from edittools.rewriting import Problem, edit_directions, pose, rewrite, solve_l1, solve_least_squares
from edittools.site import prepare

NAIVE_TOTAL = 20_000
PATH = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0)
LAYER = "features.28"
LAYER_OF_SQUEEZENET = "features.10.expand3x3"
DEFAULT, PASSIVE = "default", "passive"
BUSY = "busy core"
SOLVERS = {"l1": lambda problem: solve_l1(problem)[0], "least_squares": solve_least_squares}


def problem_setting(seed: int = 0) -> tuple[Classifier, Exemplar, Tensor]:
    """Make VGG16 at random weights, one exemplar, and reference images."""
    torch.manual_seed(seed)
    classifier = Classifier(vgg16(), [str(i) for i in range(1000)])
    image = F.interpolate(torch.rand(1, 3, 28, 28), (224, 224), mode="bicubic").clamp(0, 1)[0]
    mask = torch.zeros(224, 224)
    mask[120:, 20:200] = 1
    exemplar = Exemplar.paste(image, mask, 0.75 + 0.25 * torch.rand(3, 224, 224), label=1, keep_shading=0)
    return classifier, exemplar, torch.rand(4, 3, 224, 224)


def naive_solve(problem: Problem, steps: int, rate: float = 1e-3) -> tuple[Tensor, int]:
    """Train the whole weight, projecting its change on the directions every 10 steps.

    Return the projected weight of lowest loss on the way, and after how many steps that was.
    """
    cut, basis = problem.cut, problem.basis
    weight = cut.weight.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=rate)
    best, lowest, best_step = weight.detach().clone(), float("inf"), 0

    def project() -> None:
        with torch.no_grad():
            change = torch.einsum("onhw,rn,rm->omhw", weight - cut.weight, basis, basis)
            weight.copy_(cut.weight + change)

    for step in tqdm(range(steps), desc="naive solver", unit="step", leave=False):
        loss = naive_loss(problem, weight)
        if step % 10 == 0 and loss.item() < lowest:  # just projected
            best, lowest, best_step = weight.detach().clone(), loss.item(), step
        weight.grad = torch.autograd.grad(loss, weight)[0]
        optimizer.step()
        if step % 10 == 9:
            project()
    return best, best_step


def naive_loss(problem: Problem, weight: Tensor) -> Tensor:
    """The same objective as `Problem.l1`, written for a full weight."""
    cut = problem.cut
    output = cut.convolve(cut.keys(problem.changed), weight) + cut.bias[:, None, None]
    value = cut.value(problem.changed, output)
    share = F.adaptive_avg_pool2d(problem.masks[:, None], value.shape[-2:]).sqrt()
    return ((value - problem.target_value).abs() * share).sum() / share.sum() / value.shape[1]


def movement(problem: Problem, coefficients: Tensor) -> float:
    """How far Λ moves the outputs of reference keys: root mean square over positions, of all channels together."""
    return float(problem.reference_change(coefficients.double()).clamp_min(0).sqrt())


@torch.no_grad()
def reach(
    problem: Problem, solve: Callable[[Problem], Tensor], loss: float, most: float
) -> tuple[float, Tensor] | None:
    """The largest λ of `PATH` whose solution has at most that `loss` and reference movement, and its Λ; or None."""
    for weight in PATH:
        coefficients = solve(replace(problem, reference_weight=weight))
        if float(problem.l1(coefficients)) <= loss and movement(problem, coefficients) <= most:
            return weight, coefficients
    return None


@torch.no_grad()
def at_lowest(problem: Problem, weight: Tensor, naive_time: float) -> dict[str, float | None]:
    """How much faster ours reach the loss of a naive `weight` at no larger movement than its own, None if never.

    The weight took the naive solver `naive_time` seconds.
    """
    loss = float(naive_loss(problem, weight))
    most = movement(problem, torch.einsum("onhw,rn->orhw", weight - problem.cut.weight, problem.basis))
    figures: dict[str, float | None] = {"naive_movement_lowest": most, "naive_loss_lowest": loss}
    for name, solve in SOLVERS.items():
        found = reach(problem, solve, loss, most)
        took = seconds(lambda solve=solve: reach(problem, solve, loss, most))
        figures[f"{name}_time_ratio_lowest"] = naive_time / took if found else None
        if found:
            reached, moved = float(problem.l1(found[1])), movement(problem, found[1])
            figures |= {f"{name}_movement_lowest": moved, f"{name}_loss_lowest": reached}
    return figures


def solvers(problem: Problem, steps: int) -> dict[str, float | None]:
    """Ours against `steps` steps of the naive solver, and to its lowest loss at no larger movement.

    Args:
        problem: the problem with a penalty, so that it holds the second moment; ours ignore it unless λ is named.
        steps: number of steps of the naive solver.
    """
    plain = replace(problem, reference_weight=0.0)
    naive_solve(problem, 5)  # to warm up
    started = time.perf_counter()
    best, best_step = naive_solve(problem, steps)
    step_time = (time.perf_counter() - started) / steps
    naive_time = step_time * NAIVE_TOTAL
    figures = at_lowest(problem, best, step_time * best_step)
    with torch.no_grad():
        figures |= {
            "loss_before": float(problem.l1(torch.zeros(problem.coefficients_shape))),
            "naive_steps_to_lowest": best_step,
        }
        for name, solve in SOLVERS.items():
            took = seconds(lambda solve=solve: solve(replace(plain)))  # which knows nothing yet
            loss = float(plain.l1(solve(plain)))
            figures |= {f"{name}_seconds": took, f"{name}_time_ratio": naive_time / took, f"{name}_loss": loss}
    return figures


def seconds_of_squeezenet() -> dict[str, float]:
    """Time 64 predictions of SqueezeNet and one rewrite of it, with the threads of this process."""
    torch.manual_seed(0)
    classifier = Classifier(squeezenet1_1(), [str(i) for i in range(1000)])
    images = torch.rand(64, 3, 224, 224)
    mask = torch.zeros(224, 224)
    mask[120:, 20:200] = 1
    exemplar = Exemplar.paste(images[0], mask, torch.rand(3, 224, 224))
    return {
        "predictions": seconds(lambda: predict(classifier, images), repeats=1),
        "rewrite": seconds(lambda: rewrite(classifier, LAYER_OF_SQUEEZENET, exemplar, images[1:17]), repeats=1),
    }


def seconds_next_to_a_busy_core(policy: str) -> dict[str, float]:
    """Time both in a new process with two threads on two cores, one of which another program keeps busy.

    Args:
        policy: how the threads wait for each other, `DEFAULT` or `PASSIVE`.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["OMP_NUM_THREADS"] = "2"
    if policy == PASSIVE:
        environment["OMP_WAIT_POLICY"] = PASSIVE
    first, second = sorted(os.sched_getaffinity(0))[:2]
    pin = "import os; os.sched_setaffinity(0, {})"
    work = "import json; from edit_speed import seconds_of_squeezenet; print(json.dumps(seconds_of_squeezenet()))"
    spin = "parent = os.getppid()\nwhile os.getppid() == parent: pass"  # it ends with this process
    busy = subprocess.Popen([sys.executable, "-c", f"{pin.format([first])}\n{spin}"])
    try:
        command = [sys.executable, "-c", f"{pin.format([first, second])}; {work}"]
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    finally:
        busy.kill()
        busy.wait()
    return json.loads(done.stdout)


def next_to_a_busy_core(repeats: int) -> Results:
    """Measure both ways of waiting in turn, and take the least time of each."""
    times: dict[str, list[dict[str, float]]] = {DEFAULT: [], PASSIVE: []}
    for _ in tqdm(range(repeats), desc="next to a busy core"):
        for policy, measured in times.items():
            measured.append(seconds_next_to_a_busy_core(policy))
    results = Results("edit_speed", "random weights and images")
    for work in times[PASSIVE][0]:
        least = {policy: min(each[work] for each in measured) for policy, measured in times.items()}
        for policy, value in least.items():
            results.add(f"{work} seconds", value, network="squeezenet1_1", condition=policy)
        results.add(f"{work} time ratio", least[DEFAULT] / least[PASSIVE], network="squeezenet1_1", condition=BUSY)
    return results


def experiment(options: argparse.Namespace) -> Results:
    """Measure everything once."""
    if options.busy:
        return next_to_a_busy_core(1 if options.quick else 3)
    classifier, exemplar, images = problem_setting()
    site = prepare(classifier, LAYER, exemplar, images)
    problem = pose(site, edit_directions(site, rank=1), reference_weight=1.0)
    steps = NAIVE_TOTAL if options.naive_full else 10 if options.quick else options.naive_steps
    figures = solvers(problem, steps)
    results = Results("edit_speed", "random weights and images")
    for name, figure in figures.items():
        results.add(name.replace("_", " "), figure, network="vgg16")
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--naive-steps", type=int, default=200, help="steps of the naive solver (default 200)")
    arguments.add_argument("--naive-full", action="store_true", help="run all 20,000 steps (about ten minutes)")
    arguments.add_argument("--busy", action="store_true", help="measure threads next to a busy core (Linux)")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
