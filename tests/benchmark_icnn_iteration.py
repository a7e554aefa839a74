"""One training iteration of an input-convex network: its Hessian by recursion against d autograd passes.

Run as ``python tests/benchmark_icnn_iteration.py``; it is a timing, not a comparison of filters.
"""

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

import jkofilter as jf
from jkofilter.transport.convex import trainable_log_det

DIM, BATCH, WIDTHS, REPEATS = 12, 512, (64, 64), 15


def by_recursion(network: jf.ICNN, x: Tensor) -> tuple[Tensor, Tensor]:
    return network.gradient_and_hessian(x)


def by_autograd(network: jf.ICNN, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(leaf).sum(), leaf, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, i].sum(), leaf, create_graph=True)[0] for i in range(x.shape[1])]
    return gradient, torch.stack(rows, 1)


def iteration(
    derivatives: Callable[[jf.ICNN, Tensor], tuple[Tensor, Tensor]], parameters: dict[str, Tensor], x: Tensor
) -> dict[str, Tensor]:
    """Gradient of a JKO-like loss by every parameter."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in parameters.items()}
    y, hessian = derivatives(jf.ICNN.from_parameters(leaves), x)
    loss = (0.5 * y.square().sum(-1) - trainable_log_det(hessian)).mean()
    loss.backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    parameters = jf.ICNN.random(x, WIDTHS, 1, 0.5, generator).parameters()
    ours, theirs = iteration(by_recursion, parameters, x), iteration(by_autograd, parameters, x)
    gap = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    seconds = {by_recursion: [], by_autograd: []}
    for _ in range(REPEATS):
        for derivatives, runs in seconds.items():
            start = perf_counter()
            iteration(derivatives, parameters, x)
            runs.append(perf_counter() - start)
    fast, slow = (sorted(runs)[REPEATS // 2] for runs in seconds.values())
    print(f"d = {DIM}, batch {BATCH}, widths {WIDTHS}, {torch.get_num_threads()} threads, medians of {REPEATS}")
    print(f"recursion {1e3 * fast:.1f} ms, {DIM} autograd passes {1e3 * slow:.1f} ms, ratio {slow / fast:.1f}")
    print(f"largest difference of a parameter's gradient: {gap:.1e}")


if __name__ == "__main__":
    main()
