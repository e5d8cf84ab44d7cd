"""Whether counts show ambient RNA at all, and how sure its share is; NumPy and SciPy only.

Ambient RNA puts a floor under the expression of every gene: relative to the profile, no group of cells can lie below
its share of all counts. Types that merely share all genes have no floor: some express a gene a little, some less.
"""

import numpy as np

from ._likelihood import negative_binomial

TOLERANCE = 0.2
"""Relative deviation of ambient counts from what the profile expects, pair by pair."""
MOST = 0.5
"""Highest ambient share that is considered; types that share all they express would show more."""
_QUANTILE = 0.15  # of the markers' expression over the groups, relative to the profile and without counting noise
_NEAR = 2.5  # factor around the share within which expression belongs to the floor
_LEAK = 0.06  # pairs below the floor per pair on it, from which on there is none
_LITTLE_LEAK, _MUCH_SCATTER = 0.02, 0.22  # with some pairs below, groups must agree on each gene up to this deviation
_HIGH, _SCATTER = 0.25, 0.15  # above this share, which types that share all genes often show, scatter is a doubt
_MARKERS = 0.2  # share of the genes, the most specific ones, that decide the level
_DRAWS, _STEPS = 40, 100
_GRID = np.geomspace(3e-3, 30, 60)


def markers(counts: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Genes that differ most between groups, among those with enough counts (groups x batches x genes)."""
    enough = base.sum(axis=(0, 1)) > 20
    highest = ((counts.sum(axis=1) + 1) / (base.sum(axis=1) + 1)).max(axis=0)
    return enough & (highest >= np.quantile(highest[enough], 1 - _MARKERS)) if enough.any() else enough


def ambient_share(counts: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float, bool]:
    """Ambient share of a batch with a 95 % interval, from the counts of marker genes; zeros without evidence.

    Parameters
    ----------
    counts, base
        Counts (groups x genes), and what they would be if the profile explained all counts of the group.
    rng
        Draws genes for the interval.

    Returns
    -------
    Share, lower and upper bound, and whether it is in doubt: a high floor on whose genes the groups do not agree, or
    one above `MOST`, as types have that share all genes. Without evidence the share and its lower bound are zero, and
    the upper bound is what the lowest expression leaves open.
    """
    found, share, likelihood, n, doubt = _assess(counts, base)
    if likelihood is None:
        return 0.0, 0.0, MOST, False
    draws = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=_DRAWS)
    drawn = [_floor(likelihood, n, weight)[0] for weight in draws]
    lower, upper = np.quantile(np.minimum(drawn, MOST), [0.025, 0.975])
    if not found:
        return 0.0, 0.0, float(min(max(upper, share), MOST)), False
    return float(share), float(min(lower, share)), float(max(upper, share)), doubt


def find_floor(counts: np.ndarray, base: np.ndarray) -> tuple[float, bool]:
    """Where the floor under the expression would be, and whether there is one, in doubt or not."""
    found, share, *_rest = _assess(counts, base)
    return float(share), found


def _assess(counts: np.ndarray, base: np.ndarray) -> tuple[bool, float, np.ndarray | None, np.ndarray, bool]:
    """Whether there is a floor, where, likelihood of each pair, numbers of pairs of each gene, and whether to doubt."""
    used = base > 1
    n = used.sum(axis=0)
    if not used.any():
        return False, 0.0, None, n, False
    log = negative_binomial(counts, _GRID[:, None, None] * np.maximum(base, 1e-9), TOLERANCE**-2)
    likelihood = np.where(used, np.exp(log - log.max(axis=0)), 0)
    share, leak = _floor(likelihood, n)
    least, most = _scatter(counts, base)
    no_floor = leak > _LEAK or (leak > _LITTLE_LEAK and least > _MUCH_SCATTER) or share <= 2 * _GRID[0]
    doubt = share >= MOST or (share > _HIGH and most > _SCATTER)
    return not no_floor, min(share, MOST), likelihood, n, bool(doubt)


def _floor(likelihood: np.ndarray, n: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Low quantile of expression without counting noise, and pairs below it per pair near it; genes have weights."""
    weight = np.ones(len(n)) if weight is None else weight
    weights, total = np.full(len(_GRID), 1 / len(_GRID)), max((weight * n).sum(), 1)
    flat, each = likelihood.reshape(len(_GRID), -1), np.broadcast_to(weight, likelihood.shape[1:]).ravel()
    chosen = (flat.max(axis=0) > 0) & (each > 0)
    flat, each = flat[:, chosen], each[chosen]
    for _ in range(_STEPS):
        weights = weights * (flat @ (each / (weights @ flat))) / total
    cumulated = np.cumsum(weights)
    share = np.exp(np.interp(_QUANTILE, cumulated, np.log(_GRID)))
    below, above = np.interp(np.log([share / _NEAR, share * _NEAR]), np.log(_GRID), cumulated)
    return share, below / max(above - below, 1e-12)


def _scatter(counts: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Relative deviation between the lower half of the groups, gene by gene, that counting noise does not explain.

    Two standard errors below the estimate and above it: few counts say nothing.
    """
    order = np.argsort((counts + 0.5) / (base + 0.5), axis=0)[: max(2, len(counts) // 2)]
    x, b = np.take_along_axis(counts, order, axis=0), np.take_along_axis(base, order, axis=0)
    share = b / np.maximum(b.sum(axis=0), 1e-12)
    mean = x.sum(axis=0) * share
    excess, scale = ((x - mean) ** 2 - mean * (1 - share)).sum(axis=0), (mean**2).sum(axis=0)
    found = excess.sum() / max(scale.sum(), 1e-12)
    error = np.sqrt(((excess - found * scale) ** 2).sum()) / max(scale.sum(), 1e-12)
    least, most = np.sqrt(np.maximum([found - 2 * error, found + 2 * error], 0))
    return float(least), float(most)
