"""The solvers on processors: every sample by itself, samples spread over threads.

A sample's sums run in one order, so that its answer is the same bits whatever the threads and the blocks are. Threads
are Python's own: numba's parallel loops take seconds more to compile, and may not be entered from two threads at once,
as Dask does.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ._kernels import LANES, descend, minimise, regress

# A step that moves less ends a sample's regression; its last steps halve, and would together move as little
_TOLERANCE = 1e-4


def over_samples(kernel: Callable, n: int, *arguments, least: int = 16) -> None:
    """Call `kernel(first, end, *arguments)` on parts of `n` samples, in as many threads as torch may use."""
    workers = min(torch.get_num_threads(), -(-n // least))
    if workers <= 1:
        kernel(0, n, *arguments)
        return
    edges = np.linspace(0, n, 4 * workers + 1).round().astype(int)
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(kernel, a, b, *arguments) for a, b in zip(edges[:-1], edges[1:], strict=True)]:
            done.result()


def coordinate_descent(gram: Tensor, target: Tensor, start: Tensor, n_sweeps: int, tolerance: float) -> Tensor:
    """See `hpvade.solvers.coordinate_descent`; each sample stops by itself."""
    solution = _array(start, np.float64).copy()
    over_samples(descend, len(solution), _grams(gram), _array(target, np.float64), solution, n_sweeps, tolerance)
    return torch.from_numpy(solution).to(target.dtype)


def minimum(gram: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Minima of the quadratic forms over non-negative coefficients, and whether each was reached (samples,)."""
    solution, done = np.zeros(target.shape), np.zeros(len(target), dtype=bool)
    over_samples(minimise, len(solution), _grams(gram), _array(target, np.float64), solution, done)
    return torch.from_numpy(solution), torch.from_numpy(done)


def robust(
    bulk: Tensor,
    depth: Tensor,
    start: Tensor,
    anchor: Tensor | None,
    signature: Tensor,
    gene_weight: Tensor,
    *,
    anchor_weight: float,
    offset: float,
    dispersion: float,
    huber: float,
    mad: float,
    n_steps: int,
    settle: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Regression with a fixed gene factor, which is part of `signature`; see `hpvade.solvers.robust`.

    With `settle` samples may stop before `n_steps` and nothing is returned per gene. `mad` is the standard deviation
    per median absolute deviation.

    Returns
    -------
    Amounts (samples x types), robust deviation of log residuals (samples,), residuals and weights (samples x genes).
    """
    (n, n_genes), n_types = bulk.shape, signature.shape[1]
    unit = signature.sum(dim=0).mean().clamp(min=1e-30)  # keeps squares of small shares inside float32
    genes = np.zeros((n_types + 1, -(-n_genes // LANES) * LANES), np.float32)
    genes[:n_types, :n_genes], genes[n_types, :n_genes] = _array(signature.T / unit), _array(gene_weight)
    rows = torch.stack([(0.5 / depth).clamp(min=offset) / unit, depth * unit], dim=1)
    amounts, spread = np.empty((n, n_types)), np.empty(n)
    residuals, weights = np.empty((2, 0 if settle else n, n_genes), np.float32)
    if anchor is None or anchor_weight == 0:
        anchor, anchor_weight = torch.zeros_like(start), 0.0
    options = (float(anchor_weight), float(dispersion), huber, mad, int(n_steps), _TOLERANCE if settle else 0.0)
    start, anchor = _array(start, np.float64), _array(anchor, np.float64)
    inputs = (_array(bulk), np.float32(1 / unit), _array(rows), genes, options, start, anchor)
    over_samples(regress, n, *inputs, amounts, spread, residuals, weights)
    found = torch.from_numpy(amounts).to(signature.dtype), torch.from_numpy(spread).to(signature.dtype)
    return (*found, None, None) if settle else (*found, torch.from_numpy(residuals), torch.from_numpy(weights))


def _array(x: Tensor, dtype: type = np.float32) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy(), dtype=dtype)


def _grams(gram: Tensor) -> np.ndarray:
    return _array(gram if gram.ndim == 3 else gram[None], np.float64)
