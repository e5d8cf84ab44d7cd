"""What the iterative solvers share: blocks of samples, fractions, and iteration until each sample stands still."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_blocks(solve: Callable[[Tensor], Tensor], bulk: Tensor, block: int) -> Tensor:
    """`solve` on `block` samples at a time, in float64: memory does not grow with the number of samples."""
    if block < 1:
        raise ValueError(f"block={block}; expected at least one sample at a time")
    return torch.cat([solve(rows.double()) for rows in bulk.split(block)])


def close(amounts: Tensor) -> Tensor:
    """Negative amounts clipped, rows scaled to sum to one; a row without a positive amount becomes even."""
    amounts = amounts.clamp(min=0)
    total = amounts.sum(dim=1, keepdim=True)
    return torch.where(total > 0, amounts / total.clamp(min=1e-300), 1 / amounts.shape[1])


def fixed_point(
    step: Callable[[Tensor, Tensor], Tensor], start: Tensor, *, tolerance: float, n_iterations: int
) -> Tensor:
    """Repeat ``x[rows] = step(x[rows], rows)`` until each sample stands still; others no longer change it.

    A sample stands still when the absolute changes of its coefficients, each side scaled to an absolute sum of one,
    add up to less than `tolerance`.
    """
    if n_iterations < 1:
        raise ValueError(f"n_iterations={n_iterations}; expected at least one")
    solution = start.clone()
    rows = torch.arange(len(start), device=start.device)
    for _ in range(n_iterations):
        old = solution[rows]
        new = step(old, rows)
        solution[rows] = new
        rows = rows[(_shares(new) - _shares(old)).abs().sum(dim=1) >= tolerance]
        if not len(rows):
            break
    return solution


def _shares(x: Tensor) -> Tensor:
    return x / x.abs().sum(dim=1, keepdim=True).clamp(min=1e-300)
