"""How much of a floor under the expression is ambient, by the overdispersion of its counts between cells.

Sums over cells do not tell ambient RNA from low expression that groups share; single cells do. Ambient counts are drawn
from one profile: given their number in a cell, those of single genes are multinomial. Expression varies from cell to
cell, so that counts of a gene are overdispersed, where it is low as where it is high. NumPy and SciPy only.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.stats import chi2

from ...io._rows import iter_rows
from ._evidence import TOLERANCE
from ._likelihood import negative_binomial

_RATIOS = np.concatenate([np.linspace(0, 1, 41), np.geomspace(1.05, 5, 15)])  # overdispersion on the floor / above it
_STRAYS = np.geomspace(0.05, 50, 20)  # the same, of genes that do not go with the others
_STRAYING = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])  # share of such genes
_SURE = 0.99  # confidence of the interval, and that batches differ
_ENOUGH = 20  # pairs of counts that the overdispersion of an expressed gene is estimated from
_BEYOND = 4  # mean square of the overdispersions over their noise; one half without any
_HALF = 0.25  # ratio where half of the floor is ambient
_BLOCK = 512  # cells
_TINY = 1e-12


def ambient_part(
    X, place: np.ndarray, sums: np.ndarray, floor: np.ndarray, expressed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the floor of each batch that may be ambient (batches,), and whether some of it is seen to be.

    Parameters
    ----------
    X
        Counts (cells x genes), any matrix that :func:`iter_rows` reads.
    place
        Where the sums of a cell's group and batch are: group times number of batches, plus batch (cells,).
    sums
        Counts of each group and batch (groups x batches x genes).
    floor
        Whether a group has nothing but the floor of a gene in a batch that has one (groups x batches x genes).
    expressed
        Whether a group expresses a gene (groups x genes).

    Notes
    -----
    With x counts of gene g in a cell with n counts of all floor genes of its group, ambient counts have
    ``E[sum x(x-1)] = p_g^2 sum n(n-1)`` whatever each cell has of them, and native ones ``1 + d_g`` times as much, with
    the overdispersion d_g of the gene. Where a share a of the floor is ambient, ``(1-a)^2 d_g`` is left of it. The
    ratio to d_g, estimated where groups express the gene, is the same for all genes but some that stray, and for all
    batches unless they are seen to differ. What its 99 % interval leaves open to ambient RNA counts as ambient, and
    some is seen to be where it excludes that nothing is; there is no evidence of any if it excludes that half of the
    floor is ambient, but not that nothing is. Cells with twice as many floor counts as expected, such as doublets, are
    left out, which is free, given n.
    """
    genes = np.flatnonzero(floor.any(axis=(0, 1)))
    if not len(genes):
        return np.ones(sums.shape[1]), np.zeros(sums.shape[1], dtype=bool)
    sums, totals, floor, expressed = sums[..., genes], sums.sum(axis=2), floor[..., genes], expressed[:, genes]
    moments = _moments(X, place, genes, floor, (sums * floor).sum(axis=2) / np.maximum(totals, 1))
    counted = list(_of_batches(*moments, floor, expressed))
    fits = np.array([ratio_likelihood(*values) for values in counted])
    known_well = np.array([_beyond_noise(*values[3:5]) for values in counted])
    together, known = fits.sum(axis=0), int((fits.any(axis=1)).sum())
    if known > 1 and 2 * (fits.max(axis=1).sum() - together.max()) < chi2.ppf(_SURE, known - 1):
        fits = np.tile(together, (len(fits), 1))
    lower, upper = np.transpose([interval(fit) for fit in fits])
    return np.array([_part(*bounds) for bounds in zip(lower, upper, strict=True)]), (upper < 1) & known_well


def ratio_likelihood(*counted: np.ndarray) -> np.ndarray:
    """Log-likelihood of each ratio: overdispersion of floor counts, relative to that of the same genes where expressed.

    Zeros without genes.
    """
    common, stray = _log_likelihood(_RATIOS, *counted), _log_likelihood(_STRAYS, *counted)
    top = np.maximum(common.max(axis=0), stray.max(axis=0))
    common, stray = np.exp(common - top), np.exp(stray - top).mean(axis=0)
    share = _STRAYING[:, None, None]
    return np.log((1 - share) * common + share * stray + np.finfo(float).tiny).sum(axis=2).max(axis=0)


def interval(fit: np.ndarray) -> tuple[float, float]:
    """Ratios that the likelihood does not exclude, at 99 %."""
    inside = _RATIOS[fit >= fit.max() - chi2.ppf(_SURE, 1) / 2]
    return float(inside[0]), float(inside[-1])


def _beyond_noise(dispersion: np.ndarray, noise: np.ndarray) -> bool:
    """Whether genes are overdispersed where expressed; else noise would pass for what the floor lacks."""
    return len(noise) > 0 and np.mean(dispersion**2 / np.maximum(noise, _TINY)) > _BEYOND


def _part(lower: float, upper: float) -> float:
    """Ambient share of the floor that a ratio leaves open; native counts up to the tolerance do not matter."""
    if upper >= 1 and lower > _HALF:
        return 0.0
    return 1 - np.sqrt(np.clip(lower - TOLERANCE**2, 0, 1))


def _moments(X, place, genes, floor, share) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of x and x(x - 1) (groups x batches x genes), and of n, n(n - 1) and the same of all counts of a cell."""
    shape, n, floor = floor.shape, share.size, floor.reshape(share.size, -1)
    first, second, of_cells = np.zeros(floor.shape), np.zeros(floor.shape), np.zeros((n, 4))
    for rows, counts in iter_rows(X, chunk_rows=_BLOCK):
        own, total = place[rows], counts.sum(axis=1, dtype=float).A1
        counts = counts[:, genes]
        cell = np.repeat(np.arange(len(own)), np.diff(counts.indptr))
        on = np.bincount(cell, counts.data * floor[own[cell], counts.indices], minlength=len(own))
        expected = share.ravel()[own] * total
        kept = on <= np.maximum(2 * expected, expected + 2 * np.sqrt(expected) + 1)
        sum_up = sparse.csr_matrix((kept * 1.0, own, np.arange(len(own) + 1)), shape=(len(own), n)).T
        of_cells += sum_up @ np.column_stack([on, on * (on - 1), total, total * (total - 1)])
        first += (sum_up @ counts).toarray()
        counts.data *= np.maximum(counts.data - 1, 0)  # fractions, too
        second += (sum_up @ counts).toarray()
    return first.reshape(shape), second.reshape(shape), of_cells.reshape(*share.shape, 4)


def _of_batches(first, second, of_cells, floor, expressed) -> Iterator[tuple[np.ndarray, ...]]:
    """What :func:`ratio_likelihood` takes, for each batch: values of the genes, summed over groups."""
    n, n_pairs, total, total_pairs = (of_cells[..., k, None] for k in range(4))
    square = first * np.maximum(first - 1, 0)
    low = floor * square * n_pairs / np.maximum(n * (n - 1), 1)
    high = expressed[:, None] * square * total_pairs / np.maximum(total * (total - 1), 1)
    pairs = high.sum(axis=(0, 1))
    dispersion = np.maximum((second * (high > 0)).sum(axis=(0, 1)) / np.maximum(pairs, _TINY) - 1, 0)
    noise = _variance(first, high, dispersion).sum(axis=(0, 1)) / np.maximum(pairs, _TINY) ** 2
    common = ((floor * first / np.maximum(n, 1)) ** 2 * dispersion).sum(axis=2)  # of n, by its genes
    for b in range(first.shape[1]):
        on = low[:, b] > 0
        expected = low[:, b].sum(axis=0)
        of = (expected > 0) & (pairs > _ENOUGH)
        values = [(second[:, b] * on).sum(axis=0), expected, (first[:, b] * on).sum(axis=0), dispersion, noise]
        values.append((low[:, b] * common[:, b, None]).sum(axis=0) / np.maximum(expected, _TINY))
        yield tuple(value[of] for value in values)


def _log_likelihood(ratios, second, expected, first, dispersion, noise, common) -> np.ndarray:
    """Of the sums of x(x - 1) of each gene (ratios x genes): negative binomial with their mean and variance."""
    ratios = ratios[:, None]
    mean = expected * (1 + ratios * dispersion) / (1 + ratios * common)
    variance = _variance(first, expected, ratios * dispersion) + (expected * ratios) ** 2 * noise
    mean, variance = mean / 2, variance / 4  # x(x - 1) is even
    return negative_binomial(second / 2, mean, mean**2 / np.maximum(variance - mean, 1e-6 * mean))


def _variance(first, expected, dispersion) -> np.ndarray:
    """Variance of the sum of x(x - 1) over cells, given the sum of x: gamma-Poisson counts of equal means."""
    mean = expected / np.maximum(first, _TINY)
    two = mean**2 * (1 + dispersion)  # factorial moments
    three, four = mean * two * (1 + 2 * dispersion), mean**2 * two * (1 + 2 * dispersion) * (1 + 3 * dispersion)
    covariance = three + (2 - mean) * two
    one = four + 4 * three + 2 * two - two**2 - covariance**2 / np.maximum(mean + dispersion * mean**2, _TINY)
    return one * first / np.maximum(mean, _TINY)
