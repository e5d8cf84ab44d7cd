"""How cell types respond to a change of context: measured shifts, what related types say, and both together."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..io._rows import iter_rows

SHARPNESS = 4.0  # of the weights of related types, where there is nothing to choose it from
_GRID = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
_BINS = 10  # of genes with a common spread between types
_PRIOR_TYPES = 3  # that the spread of a bin counts for, beside the types of the gene itself


@dataclass(frozen=True)
class Moments:
    """Counts per 10,000 of groups of cells.

    Attributes
    ----------
    mean, variance
        Over the cells of each group (groups, genes).
    n_cells
        Cells per group.
    per_count
        What one count of a cell is in counts per 10,000, mean over the cells (groups,).
    """

    mean: np.ndarray
    variance: np.ndarray
    n_cells: np.ndarray
    per_count: np.ndarray

    @property
    def log(self) -> np.ndarray:
        """log1p of the mean (groups, genes)."""
        return np.log1p(self.mean)

    @property
    def log_variance(self) -> np.ndarray:
        """Sampling variance of `log` (groups, genes), infinite for groups without cells.

        At least that of Poisson counts around the mean; a gene without counts is taken to have had one.
        """
        n = np.maximum(self.n_cells, 1)[:, None]
        poisson = np.maximum(self.mean, self.per_count[:, None] / n) * self.per_count[:, None]
        found = np.maximum(self.variance, poisson) / n / (1 + self.mean) ** 2
        return np.where(self.n_cells[:, None] > 0, found, np.inf)

    def __getitem__(self, groups) -> "Moments":
        return Moments(self.mean[groups], self.variance[groups], self.n_cells[groups], self.per_count[groups])


def moments(X, codes: np.ndarray, n_groups: int) -> Moments:
    """Moments of the groups of cells, in one pass over any matrix; cells with a negative code are left out."""
    n = np.zeros(n_groups)
    per_count, sums, squares = np.zeros(n_groups), *np.zeros((2, n_groups, X.shape[1]))
    for rows, block in iter_rows(X, 2048):
        totals = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        used = (codes[rows] >= 0) & (totals > 0)
        block, of, size = block[used].astype(np.float64), codes[rows][used], 1e4 / totals[used]
        block.data *= np.repeat(size, np.diff(block.indptr))
        member = np.zeros((n_groups, len(of)))
        member[of, np.arange(len(of))] = 1
        n, per_count = n + member.sum(axis=1), per_count + member @ size
        sums, squares = sums + member @ block, squares + member @ block.multiply(block).tocsr()
    at_least_one = np.maximum(n, 1)
    mean = sums / at_least_one[:, None]
    spread = (squares - n[:, None] * mean**2).clip(min=0) / np.maximum(n - 1, 1)[:, None]
    return Moments(mean, spread, n.astype(int), per_count / at_least_one)


def similarity_weights(profiles: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """Weights (types, types) of the other types for each type: exp(sharpness r), r the correlation of log profiles.

    Rows sum to one, the diagonal is zero; one type alone has no others.

    Examples
    --------
    >>> import numpy as np
    >>> similarity_weights(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [3.0, 2.0, 1.0]])).round(2)[0]
    array([0., 1., 0.])
    """
    if len(profiles) < 2:
        return np.zeros((len(profiles), len(profiles)))
    weights = np.exp(sharpness * np.nan_to_num(np.corrcoef(profiles)))
    np.fill_diagonal(weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def among(weights: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Weights of the measured types only; a row without any is zero."""
    weights = weights * measured
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


def choose_sharpness(values: np.ndarray, measured: np.ndarray, profiles: np.ndarray) -> float:
    """Sharpness with which the measured types predict each other best; 4 with fewer than three of them."""
    if measured.sum() < 3:
        return SHARPNESS
    errors = [
        ((values - among(similarity_weights(profiles, sharpness), measured) @ values)[measured] ** 2).mean()
        for sharpness in _GRID
    ]
    return _GRID[int(np.argmin(errors))]


def shrink(values: np.ndarray, variance: np.ndarray, weights: np.ndarray, prior: np.ndarray | None = None):
    """Shrink what was measured in each type towards its relatives, gene by gene, as far as the noise demands.

    A value is normal around the prior, with a spread between types that is estimated from all of them, and its
    measurement around it. The posterior mean may differ from the measurement by one standard error at most (the
    limited translation rule of Efron and Morris 1972): a gene that only one type answers with keeps its answer.

    Parameters
    ----------
    values
        (types, genes); rows that were not measured are zero.
    variance
        Sampling variance of each value, infinite where not measured.
    weights
        Weights (types, types) of the measured types, zero on the diagonal, see :func:`among`.
    prior
        What to shrink to (types, genes); the weighted mean of the relatives when None.

    Returns
    -------
    (types, genes); the prior where nothing was measured.
    """
    measured = np.isfinite(variance).all(axis=1)
    noise = np.where(measured[:, None], variance, 0.0)
    prior = weights @ values if prior is None else prior
    told = measured & (weights.sum(axis=1) > 0)
    found = np.where(measured[:, None], values, prior)
    if told.any():
        found[told] = shrink_to(values[told], noise[told], prior[told], (weights**2 @ noise)[told])
    return found


def shrink_to(values: np.ndarray, noise: np.ndarray, prior: np.ndarray, noise_of_prior=0.0) -> np.ndarray:
    """Shrink measured values (types, genes) with variances `noise` to a prior with noise of its own; see `shrink`."""
    excess = (values - prior) ** 2 - noise - noise_of_prior
    level = (np.abs(prior) if np.any(prior) else noise).mean(axis=0)  # genes alike share what is known of their spread
    order = np.argsort(np.argsort(level, kind="stable"), kind="stable")
    bins = order * _BINS // len(order)
    by_bin = np.bincount(bins, excess.mean(axis=0)) / np.maximum(np.bincount(bins), 1)
    spread = ((excess.sum(axis=0) + _PRIOR_TYPES * by_bin[bins].clip(min=0)) / (len(excess) + _PRIOR_TYPES)).clip(min=0)
    spread = spread + noise_of_prior
    share = spread / np.maximum(spread + noise, 1e-300)
    error = np.sqrt(noise)
    return values + ((1 - share) * (prior - values)).clip(-error, error)


def type_shifts(before: Moments, after: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Change of log1p mean counts per 10,000 of each type from one context to another, and how much is measured.

    Returns
    -------
    shift
        (types, genes), see :func:`shrink`; that of similar types for a type without cells in one of the two.
    measured
        Where the shift lies between that of similar types (0) and the measurement (1) (types,).
    """
    known = (before.n_cells > 0) & (after.n_cells > 0)
    values = np.where(known[:, None], after.log - before.log, 0)
    variance = np.where(known[:, None], before.log_variance + after.log_variance, np.inf)
    sharpness = choose_sharpness(values, known, before.log)
    weights = among(similarity_weights(before.log, sharpness), known)
    shift, prior = shrink(values, variance, weights), weights @ values
    length = np.linalg.norm(values - prior, axis=1)
    left = np.linalg.norm(values - shift, axis=1) / np.maximum(length, 1e-300)
    return shift, np.where(known, 1 - left, 0.0)


def rewritten(x: np.ndarray, base: np.ndarray, change: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Whole counts of cells `x` after a `change` of log1p counts per 10,000 from the mean `base` of their type.

    All (cells, genes). Means follow the change exactly, up to the cells' totals, which stay: a gene that rises has
    (1 + v) exp(change) - 1 in a cell with v, a gene that falls the same share of v in every cell. Rounding up with the
    probability of the fraction keeps the mean, and adds less noise than drawing counts anew.
    """
    size = x.sum(axis=1, keepdims=True)
    values = 1e4 * x / np.maximum(size, 1e-30)
    share = np.expm1((base + change).clip(min=0)) / np.maximum(np.expm1(base), 1e-30)
    values = np.where(change > 0, (1 + values) * np.exp(change) - 1, values * share.clip(0, 1))
    return whole(values * size / np.maximum(values.sum(axis=1, keepdims=True), 1e-30), rng)


def whole(values: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Values (cells, genes) rounded at random to whole counts of the same mean; no cell without a count."""
    counts = np.floor(values + rng.random(values.shape, dtype=np.float32))
    empty = counts.sum(axis=1) == 0
    counts[empty, values[empty].argmax(axis=1)] = 1
    return sparse.csr_matrix(counts.astype(np.float32))
