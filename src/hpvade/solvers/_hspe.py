"""Least variance of log ratios between bulk and fit."""

import torch
from torch import Tensor

from ._iterate import by_blocks, close, fixed_point
from ._linear import check_shapes, nnls


def hspe(
    bulk: Tensor,
    signature: Tensor,
    *,
    offset: float = 0.1,
    n_starts: int = 5,
    tolerance: float = 1e-6,
    n_iterations: int = 100,
    block: int = 64,
) -> Tensor:
    r"""Fractions with the least variance of log ratios, in the manner of hybrid-scale estimation (hspe).

    Mixing is linear, errors are measured on log scale, and a factor per sample drops out:

    .. math:: \min_{p \in \text{simplex}} \operatorname{Var}_g
              \Big[\log(y_{ng} + c) - \log \sum_k p_k (s_{gk} + c)\Big] .

    The variance is the least mean square over all factors, so this is the least squares problem of log residuals over
    non-negative amounts, and its solution divided by its sum is `p`. Gauss-Newton steps, each a weighted non-negative
    least squares problem, with halving while the objective rises; the best of several starts is taken.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale, best on marker genes; a factor per sample changes nothing.
    signature
        (genes x types), linear scale; a factor per column only divides that type's amount.
    offset
        The constant c, as a share of the mean over genes of a sample or a column.
    n_starts
        First guesses: even fractions, then random ones, the same for every sample and in every call.
    tolerance, n_iterations
        A start is done when its fractions change by less than `tolerance` in sum, or after `n_iterations`.
    block
        Samples solved together; bounds the memory.

    Returns
    -------
    Fractions (samples x types) in float64, rows sum to one: of cells when the columns are mean counts per cell, of
    RNA when they are shares of a type's RNA.

    Raises
    ------
    ValueError
        If the numbers of genes differ, or an option is out of range.

    References
    ----------
    Hunt and Gagnon-Bartsch, Annals of Applied Statistics 15: 1999 (2021), for errors on log scale with linear mixing;
    own code from the formula above.

    Examples
    --------
    >>> import torch
    >>> signature = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    >>> hspe(torch.tensor([[0.2, 0.3, 0.5]]) @ signature.T, signature).round(decimals=3)
    tensor([[0.2000, 0.3000, 0.5000]], dtype=torch.float64)
    """
    check_shapes(bulk, signature)
    if not offset > 0:
        raise ValueError(f"offset={offset}; expected a positive share of the mean level, since log 0 is infinite")
    if n_starts < 1:
        raise ValueError(f"n_starts={n_starts}; expected at least one")
    signature = signature.double()
    n_genes, n_types = signature.shape
    total = signature.sum(dim=0)
    shifted = signature / total.clamp(min=1e-300) + offset / n_genes
    starts = torch.ones(n_starts, n_types, dtype=torch.float64)
    draws = torch.rand(n_starts - 1, n_types, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    starts[1:] = -torch.log(1 - draws)  # exponential: even over the simplex once scaled
    starts = close(starts).to(shifted)

    def solve(y: Tensor) -> Tensor:
        log_bulk = torch.log(close(y) + offset / n_genes).repeat_interleave(n_starts, dim=0)

        def residual(amounts: Tensor, rows: Tensor) -> Tensor:
            return log_bulk[rows] - torch.log((amounts @ shifted.T).clamp(min=1e-300))

        def step(amounts: Tensor, rows: Tensor) -> Tensor:
            mean, error = amounts @ shifted.T, residual(amounts, rows)
            direction = nnls(mean * (1 + error), shifted, 1 / mean**2) - amounts
            before, share = error.square().sum(dim=1), torch.ones_like(amounts[:, :1])
            for _ in range(20):
                worse = residual(amounts + share * direction, rows).square().sum(dim=1) > before
                if not worse.any():
                    break
                share[worse] /= 2
            else:
                share[worse] = 0
            return amounts + share * direction

        amounts = fixed_point(step, starts.repeat(len(y), 1), tolerance=tolerance, n_iterations=n_iterations)
        rows = torch.arange(len(amounts), device=amounts.device)
        error = residual(amounts, rows).square().sum(dim=1).reshape(-1, n_starts)
        best = amounts.reshape(-1, n_starts, n_types)[rows[: len(y)], error.argmin(dim=1)]
        return close(torch.where(total > 0, best / total.clamp(min=1e-300), 0.0))

    return by_blocks(solve, bulk, block)
