"""One training iteration of an input-convex network: its Hessian by recursion against d autograd passes.

Run as ``python tests/benchmark_icnn_iteration.py``; it is a timing, not a comparison of filters. On more than one
thread the engine shares out the batch, and torch the operations of the autograd passes.
"""

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

import jkofilter as jf
from jkofilter.transport.maps.convex import Pool, trainable_log_det
from jkofilter.transport.steps.icnn_engine import loss_and_slopes
from jkofilter.transport.steps.problem import StepProblem

DIM, BATCH, WIDTHS = 12, 512, (64, 64)
ROUNDS, STRETCH = 7, 6

Iteration = Callable[[StepProblem, dict[str, Tensor]], dict[str, Tensor]]


def by_recursion(problem: StepProblem, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a JKO step's objective by every parameter, as the engine finds it."""
    return loss_and_slopes(problem, leaves)[1]


def by_autograd(problem: StepProblem, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by differentiating the gradient once for every dimension."""
    network, x = jf.ICNN.from_parameters(leaves), problem.pool.x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0] for i in range(x.shape[1])]
    hessian = torch.stack(rows, 1)
    loss = problem.energies(gradient, hessian, trainable_log_det(hessian)).mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def measured(threads: int) -> str:
    """Medians of iterations, stretches of either kind by turns as in training, and how far apart their results are."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(DIM).double(), torch.eye(DIM).double())
    problem = StepProblem.start(jf.LangevinSDE(jf.DoubleWell(DIM)), Pool(x, normal.log_prob(x), -x), x, 0.1)
    parameters = jf.ICNN.random(x, WIDTHS, 1, 0.5, generator).parameters()
    leaves = {name: value.clone().requires_grad_(True) for name, value in parameters.items()}
    ours, theirs = by_recursion(problem, leaves), by_autograd(problem, leaves)
    gap = max((ours[name] - theirs[name]).abs().max().item() for name in leaves)
    seconds: dict[Iteration, list[float]] = {by_recursion: [], by_autograd: []}
    for _ in range(ROUNDS):
        for iteration, runs in seconds.items():
            iteration(problem, leaves)
            for _ in range(STRETCH):
                start = perf_counter()
                iteration(problem, leaves)
                runs.append(perf_counter() - start)
    fast, slow = (sorted(runs)[len(runs) // 2] for runs in seconds.values())
    return (
        f"{threads} thread(s): recursion {1e3 * fast:.1f} ms, {DIM} autograd passes {1e3 * slow:.1f} ms, "
        f"ratio {slow / fast:.1f}; gradients differ by at most {gap:.1e}"
    )


def main() -> None:
    print(f"d = {DIM}, batch {BATCH}, widths {WIDTHS}, medians of {ROUNDS * STRETCH}")
    for threads in range(1, torch.get_num_threads() + 1):
        print(measured(threads))


if __name__ == "__main__":
    main()
