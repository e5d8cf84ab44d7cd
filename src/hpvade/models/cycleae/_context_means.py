"""What the training cells say about contexts: additive profiles, means of frequent combinations, a sample of cells."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ...io._rows import iter_rows
from ...reference._shift import Moments, shrink_to
from ._context_data import ContextDataModule

_MAX_COMBINATIONS, _SAMPLE_VALUES = 256, 2**24


@dataclass(frozen=True)
class ContextMeans:
    """Means of scaled expression by context.

    Attributes
    ----------
    profiles
        By field (codes x genes): additive effects by least squares, centred over the training cells.
    combinations
        Codes (K, F) of the most frequent combinations of contexts.
    residuals
        What their means differ from the additive prediction (K x genes), shrunk as far as their noise demands.
    n_cells, measured
        Training cells of the combinations, and the share that was kept (K,) of what they differ from an additive model.
    levels
        log1p of their mean counts per 10,000 (K x genes), shrunk likewise; None without the scale log1p.
    sample, sample_codes
        Scaled expression of some training cells (cells x genes), and their codes (cells x F).
    variance
        Variance of scaled expression, mean over genes.
    """

    profiles: list[np.ndarray]
    combinations: np.ndarray
    residuals: np.ndarray
    n_cells: np.ndarray
    measured: np.ndarray
    levels: np.ndarray | None
    sample: np.ndarray
    sample_codes: np.ndarray
    variance: float


def log1p_cp10k(X: sparse.csr_matrix) -> sparse.csr_matrix:
    """log(1 + counts per ten thousand) of rows; a row without counts stays zero."""
    size = np.asarray(X.sum(axis=1)).ravel()
    return (sparse.diags(1e4 / np.maximum(size, 1e-30)) @ X).log1p().tocsr()


def context_means(
    data: ContextDataModule, n_codes: list[int], rng: np.random.Generator, *, log1p: bool
) -> ContextMeans:
    """Go over the training cells once.

    Parameters
    ----------
    data
        Cells with context codes; -1 is a masked value.
    n_codes
        Number of codes per field.
    rng
        Draws the sample.
    log1p
        Scale to log1p cp10k; else values are used as they are.
    """
    chosen = np.zeros(len(data.codes), dtype=bool)
    chosen[data.train_idx] = True
    combinations, member, counts = np.unique(
        data.codes[data.train_idx], axis=0, return_inverse=True, return_counts=True
    )
    frequent = np.argsort(-counts, kind="stable")[:_MAX_COMBINATIONS]
    slot = np.full(len(combinations), -1)
    slot[frequent] = np.arange(len(frequent))
    columns = np.full(len(data.codes), -1)
    columns[data.train_idx] = slot[member.ravel()]

    design = _design(data.codes, n_codes)  # one-hot, with a constant in front
    first, sums, squares, gram, by_combination, squares_by, sampled, sampled_cells = 0, 0.0, 0.0, 0.0, 0.0, 0.0, [], []
    share, rates, rates_squared, per_count = None, 0.0, 0.0, 0.0
    for chunk in data.chunks:
        for rows, X in iter_rows(chunk.load(), 2048):
            X = X.astype(np.float32, copy=False)  # as the network sees them, whatever the counts are stored as
            at = np.arange(first + rows.start, first + rows.stop)
            at, X = at[chosen[at]], X[chosen[at]]
            size = 1e4 / np.maximum(np.asarray(X.sum(axis=1)).ravel(), 1e-30)
            X = log1p_cp10k(X) if log1p else X
            if share is None:
                share = min(1.0, _SAMPLE_VALUES / (len(data.train_idx) * X.shape[1]))
            Z = design[at]
            sums, gram = sums + (Z.T @ X).toarray(), gram + (Z.T @ Z).toarray()
            squares = squares + X.multiply(X).sum(axis=0).A1
            k = columns[at]
            known = np.flatnonzero(k >= 0)
            one = sparse.csr_matrix((np.ones(len(known)), (k[known], known)), (len(frequent), len(at)))
            by_combination = by_combination + (one @ X).toarray()
            squares_by = squares_by + (one @ X.multiply(X)).toarray()
            if log1p:
                rate = X.expm1()
                rates = rates + (one @ rate).toarray()
                rates_squared = rates_squared + (one @ rate.multiply(rate)).toarray()
                per_count = per_count + one @ size
            drawn = rng.random(len(at)) < share
            sampled.append(X[drawn].toarray())
            sampled_cells.append(at[drawn])
        first += chunk.n_rows
    n = len(data.train_idx)
    ridge = np.eye(len(gram))
    ridge[0, 0] = 0
    coefficients = np.linalg.solve(gram + ridge, sums)
    profiles, begin = [], 1
    for size in n_codes:
        profile = coefficients[begin : begin + size]
        weight = gram[0, begin : begin + size, None]
        profiles.append(profile - (weight * profile).sum(axis=0) / max(weight.sum(), 1))
        begin += size
    mean = sums[0] / n
    expected = mean + sum(
        np.where(combinations[frequent, f, None] >= 0, p[combinations[frequent, f]], 0) for f, p in enumerate(profiles)
    )
    residuals, measured = _residuals(by_combination, squares_by, counts[frequent], expected)
    levels = None
    if log1p:
        found = _moments(rates, rates_squared, per_count, counts[frequent])
        levels, measured = _levels(found, combinations[frequent], n_codes)
    variance = float((squares / n - mean**2).mean())
    sample = np.concatenate(sampled).astype(np.float32)
    sample_codes = data.codes[np.concatenate(sampled_cells)]
    return ContextMeans(
        profiles, combinations[frequent], residuals, counts[frequent], measured, levels, sample, sample_codes, variance
    )


def _residuals(sums: np.ndarray, squares: np.ndarray, n: np.ndarray, expected: np.ndarray) -> tuple:
    """What means of combinations differ from the additive prediction, shrunk (K, genes), and the share kept (K,)."""
    n = n[:, None]
    mean = sums / n
    spread = (squares / n - mean**2).clip(min=0)
    pooled = (n * spread).sum(axis=0) / np.maximum((n - 1).clip(min=0).sum(), 1)
    # few cells tell little about their own spread: that of all combinations counts for ten cells
    noise = (n * spread + 10 * pooled) / (n + 9) / n
    found = shrink_to(mean - expected, noise, np.zeros_like(mean))
    kept = np.linalg.norm(found, axis=1) / np.maximum(np.linalg.norm(mean - expected, axis=1), 1e-300)
    return found, np.minimum(kept, 1.0)


def _moments(sums: np.ndarray, squares: np.ndarray, per_count: np.ndarray, n: np.ndarray) -> Moments:
    """Moments of counts per 10,000 from sums over the cells of each combination (K, genes)."""
    mean = sums / n[:, None]
    variance = (squares - n[:, None] * mean**2).clip(min=0) / np.maximum(n - 1, 1)[:, None]
    return Moments(mean, variance, n, per_count / n)


def _levels(found: Moments, combinations: np.ndarray, n_codes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """log1p mean counts per 10,000 (K, genes), shrunk to an additive model of the fields, and the share kept (K,)."""
    design = _design(combinations, n_codes).toarray()
    weighted = design.T * found.n_cells
    ridge = np.diag([0.0, *np.ones(design.shape[1] - 1)])
    additive = design @ np.linalg.solve(weighted @ design + ridge, weighted @ found.log)
    residual = found.log - additive
    kept = shrink_to(residual, found.log_variance, np.zeros_like(residual))
    share = np.linalg.norm(kept, axis=1) / np.maximum(np.linalg.norm(residual, axis=1), 1e-300)
    return additive + kept, np.minimum(share, 1.0)


def _design(codes: np.ndarray, n_codes: list[int]) -> sparse.csr_matrix:
    offsets = 1 + np.cumsum([0, *n_codes[:-1]])
    n = len(codes)
    columns = np.concatenate([np.zeros((n, 1), dtype=np.int64), codes + offsets], axis=1)
    present = np.concatenate([np.ones((n, 1)), codes >= 0], axis=1)
    rows = np.repeat(np.arange(n), columns.shape[1])
    keep = present.ravel() > 0
    return sparse.csr_matrix((np.ones(keep.sum()), (rows[keep], columns.ravel()[keep])), shape=(n, 1 + sum(n_codes)))
