"""Statistics of counts from which the regularised models start, in passes over blocks of rows."""

import numpy as np
from scipy import sparse

from ..io._rows import iter_rows

_TOP_SHARE, _TOP_MOST = 0.01, 500
_MIN_VARIANCE = 1e-2  # of log totals, for groups whose cells have one size


def row_totals(X) -> np.ndarray:
    """Total count of each cell (cells,)."""
    return np.concatenate([block.sum(axis=1, dtype=np.float64).A1 for _, block in iter_rows(X)])


def library_statistics(totals: np.ndarray, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of log total counts in each group (n_groups,); cells without counts are left out.

    Groups without cells take the mean and variance over all cells; groups of one cell that variance.

    Examples
    --------
    >>> means, variances = library_statistics(np.array([1.0, np.e**2, np.e]), np.array([0, 0, 1]), 2)
    >>> means.tolist(), variances[0].item()
    ([1.0, 1.0], 1.0)
    """
    kept = totals > 0
    logs, groups = np.log(totals[kept]), groups[kept]
    means, variances = np.full(n_groups, logs.mean()), np.full(n_groups, logs.var())
    for group in np.unique(groups):
        own = logs[groups == group]
        means[group] = own.mean()
        if len(own) > 1:
            variances[group] = own.var()
    return means, np.maximum(variances, _MIN_VARIANCE)


def mean_normalised(X, totals: np.ndarray, codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Mean over the cells of each category of counts scaled to the mean library (features, n_codes).

    Categories without cells take the mean over all cells; cells whose total is 0 are left out.
    """
    size, sums, cells = totals[totals > 0].mean(), np.zeros((n_codes, X.shape[1])), np.zeros(n_codes)
    for rows, block in iter_rows(X):
        kept = np.flatnonzero(totals[rows] > 0)
        weight = size / totals[rows][kept]
        member = sparse.csr_matrix((weight, (codes[rows][kept], kept)), shape=(n_codes, block.shape[0]))
        sums += (member @ block).toarray()
        cells += np.bincount(codes[rows][kept], minlength=n_codes)
    everywhere = sums.sum(axis=0) / max(cells.sum(), 1)
    return np.where(cells[:, None] > 0, sums / np.maximum(cells, 1)[:, None], everywhere).T


def top_normalised(X, totals: np.ndarray) -> np.ndarray:
    """Mean of the highest normalised values of each feature (features,): those of the top 1 % of cells, at most 500."""
    n_top = int(min(max(round(_TOP_SHARE * len(totals)), 1), _TOP_MOST))
    size, top = totals[totals > 0].mean(), np.zeros((0, X.shape[1]))
    for rows, block in iter_rows(X, chunk_rows=2048, dense=True):
        scaled = block * (size / np.maximum(totals[rows], 1))[:, None]
        top = np.concatenate([top, scaled])
        if len(top) > n_top:
            top = np.partition(top, len(top) - n_top, axis=0)[-n_top:]
    return top.mean(axis=0)


def dispersion_start(
    X, totals: np.ndarray, *, bio_frac: float = 0.9, theta_min: float = 0.01, theta_max: float = 20.0
) -> np.ndarray:
    r"""Dispersion of each feature by moments (features,).

    With mean m, variance v and the squared coefficient of variation c of the library size, the excess variance is
    :math:`(v - m - m^2 c) / (1 + c)`; a share `bio_frac` of it is taken as biological, and
    :math:`\theta = m^2 / \max((1 - \text{bio\_frac})\,\text{excess}, 10^{-10})`, clipped.

    Parameters
    ----------
    X, totals
        Counts (cells x features) and their row sums; cells whose sum is 0 are left out.
    bio_frac, theta_min, theta_max
        As above.
    """
    kept = totals > 0
    n, sums, squares = kept.sum(), np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows, block in iter_rows(X):
        block = block[kept[rows]]
        sums += block.sum(axis=0, dtype=np.float64).A1
        block.data = block.data.astype(np.float64) ** 2
        squares += block.sum(axis=0).A1
    mean = sums / n
    variance = squares / n - mean**2
    spread = totals[kept].var() / totals[kept].mean() ** 2
    excess = (variance - mean - mean**2 * spread) / (1 + spread)
    technical = np.maximum((1 - bio_frac) * excess, 1e-10)
    return np.clip(mean**2 / technical, theta_min, theta_max)
