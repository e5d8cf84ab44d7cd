"""How much of the counts of a group of cells is native, given the profile of the ambient RNA; NumPy and SciPy only.

Pairs of a group (type or cluster) and a gene that the group does not express show ambient RNA alone: their counts are
what the profile expects at the *level*, the ambient share of all counts of a batch. Which pairs these are is not known.
It is inferred (empirical Bayes) from a mixture over pairs: native expression is zero, or has one of several rates.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ._dispersion import ambient_part
from ._evidence import TOLERANCE as _TOLERANCE
from ._evidence import ambient_share, markers
from ._likelihood import negative_binomial as _negative_binomial

_RATES = np.geomspace(1e-3, 1e2, 12)  # native rates of a pair, relative to the profile
_SHAPE = 1.5  # of the gamma distribution around each rate: wide enough to fill the gaps between them
_PROFILE_SD = 0.3  # of a gene's factor on the profile
_STEPS, _LAST_STEPS = 15, 5
_SURELY, _EXPRESSED = 0.8, 0.5  # probability of no expression, and least expression relative to the profile
_PRIOR_GROUPS = 2.0  # groups' worth of what all genes say of how often a gene is not expressed
_FIT_VALUES, _BLOCK_VALUES = 2 * 10**7, 5 * 10**6  # values of one array in memory
_TINY = 1e-12


@dataclass(frozen=True)
class NativeShare:
    """Result of :func:`native_share`.

    Attributes
    ----------
    share
        Native share of the counts (groups x batches x genes), between 0 and 1.
    ambient
        Ambient counts expected per count of a cell (batches x genes): the level times the corrected profile.
    level, lower, upper
        Ambient share of all counts (batches,), zero where nothing shows any, and its 95 % interval.
    """

    share: np.ndarray
    ambient: np.ndarray
    level: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def native_share(counts: np.ndarray, profile: np.ndarray, cells: tuple | None = None) -> NativeShare:
    """Split sums of counts into native and ambient ones.

    Parameters
    ----------
    counts
        Sums over the cells of each group and batch (groups x batches x genes).
    profile
        Ambient profile of each batch (batches x genes), rows sum to one.
    cells
        Counts (cells x genes) and where the sums of each cell are, as :func:`ambient_part` takes them. Without them a
        floor under the expression is taken for ambient as it is.

    Notes
    -----
    With T counts in a group and batch, level f and profile p, a gene has about ``T f p`` ambient counts, and native
    ones at one of several rates, or at none in all batches. Weights of the rates and a factor per gene and batch on the
    profile are estimated in turn. The level is a low quantile over the groups of the expression of genes that differ
    most between them, an idea of SoupX (Young and Behjati 2020): what all groups express alike cannot be told from
    ambient RNA. Where expression has no floor, there is no evidence of any: the level is zero, all counts native. Where
    there is one, single cells show how much of it is ambient; of a high one, on which groups do not agree, they must.
    """
    base = counts.sum(axis=2)[..., None] * profile
    n_groups, n_batches, n_genes = counts.shape
    most = max(_FIT_VALUES // (n_groups * n_batches * len(_RATES)), 500)
    chosen = np.sort(np.argsort(-base.sum(axis=(0, 1)), kind="stable")[:most])
    marker = markers(counts, base)
    rng = np.random.default_rng(0)
    found = [ambient_share(counts[:, k][:, marker], base[:, k][:, marker], rng) for k in range(n_batches)]
    first, lower, upper, doubt = (np.array(values) for values in zip(*found, strict=True))
    if cells is None:
        first, lower = np.where(doubt, 0, first), np.where(doubt, 0, lower)
    level, absent, weights, _ = _fit(counts[..., chosen], base[..., chosen], marker[chosen], first)
    ratio = np.divide(level, first, out=np.zeros(n_batches), where=first > 0)
    if cells is not None and level.any():
        part, seen = _ambient_part(counts, base, marker, level, cells, chosen)
        part = np.where(doubt & ~seen, 0, part)
        if (part < 1).any():  # then pairs on the floor are native in part, and do not show the level any more
            level, lower, upper = level * part, lower * part, np.where(part > 0, part, 1) * upper
            _, absent, weights, _ = _fit(counts[..., chosen], base[..., chosen], marker[chosen], level, held=True)
    bounds = ratio * lower, np.where(first > 0, ratio * upper, upper)
    share, factors = np.empty_like(base), np.empty((n_batches, n_genes))
    block = max(_BLOCK_VALUES // (n_groups * n_batches * len(_RATES)), 1)
    for start in range(0, n_genes, block):
        genes = slice(start, start + block)
        share[..., genes], factors[:, genes] = _split(counts[..., genes], base[..., genes], level, absent, weights)
    share[:, level == 0] = 1.0
    return NativeShare(share, level[:, None] * factors * profile, level, *bounds)


def _fit(counts, base, marker, first, held: bool = False) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Levels, how often a gene is not expressed, weights of the rates, and where it is not (groups x genes)."""
    level, seen, factor = first, base.sum(axis=1) > 1, np.ones(base.shape[1:])
    absent, weights, zero = 0.5, np.full(len(_RATES), 1 / len(_RATES)), np.full(seen.shape, 0.5)
    for _ in range(_STEPS):
        zero, rates = _posterior(counts, base, factor, level, _absent(zero, base, absent), weights)
        if seen.any():
            absent = float(np.clip(zero[seen].mean(), 0.01, 0.99))
            weights = np.einsum("mkbg,kg->m", rates, (1 - zero) * seen) + _TINY
            weights /= weights.sum()
        evidence = (zero * marker)[:, None] * base  # counts at level one where ambient RNA shows alone
        level = first if held else first * (1 - 1 / (1 + evidence.sum(axis=(0, 2))))
        factor = _factor(counts, base, level, zero)
    return level, absent, weights, zero


def _ambient_part(counts, base, marker, level, cells, chosen) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`ambient_part`, from marker genes of the groups that lack them."""
    own, (o, b) = level > 0, (counts[..., chosen], base[..., chosen])
    zero = _fit(o[:, own], b[:, own], marker[chosen], level[own])[-1]
    floor, expressed = np.zeros(counts.shape, dtype=bool), np.zeros((len(counts), counts.shape[2]), dtype=bool)
    floor[..., chosen] = ((zero > _SURELY) & marker[chosen])[:, None] & own[:, None]
    expressed[:, chosen] = (zero < 1 - _SURELY) & (o.sum(axis=1) > _EXPRESSED * b.sum(axis=1))
    return ambient_part(*cells, counts, floor, expressed)


def _rates(base: np.ndarray, factor: np.ndarray, level: np.ndarray):
    """Expected ambient counts, and for each rate the expected native counts."""
    ambient = np.maximum(base * factor * level[:, None], _TINY)
    native = base * (1 - level)[:, None] + _TINY
    return ambient, (native * rate for rate in _RATES)


def _absent(zero: np.ndarray, base: np.ndarray, absent: float) -> np.ndarray:
    """Share of the groups that do not express a gene (genes,), drawn to the share over all genes."""
    seen = base.sum(axis=1) > 1
    return np.clip(
        (_PRIOR_GROUPS * absent + (zero * seen).sum(axis=0)) / (_PRIOR_GROUPS + seen.sum(axis=0)), 0.01, 0.99
    )


def _posterior(counts, base, factor, level, absent: np.ndarray, weights) -> tuple[np.ndarray, np.ndarray]:
    """Probability that a group does not express a gene (groups x genes), and of each rate if it does."""
    ambient, natives = _rates(base, factor, level)
    spread = (_TOLERANCE * ambient) ** 2
    zero = _negative_binomial(counts, ambient, _TOLERANCE**-2).sum(axis=1)
    rates = np.empty((len(_RATES), *counts.shape))
    for m, native in enumerate(natives):
        mean = native + ambient
        rates[m] = _negative_binomial(counts, mean, mean**2 / (native**2 / _SHAPE + spread)) + np.log(weights[m])
    top = rates.max(axis=0)
    rates = np.exp(rates - top)
    total = rates.sum(axis=0)
    some = (np.log(total) + top).sum(axis=1)
    return expit(np.log(absent / (1 - absent)) + zero - some), rates / total


def _factor(counts, base, level, zero) -> np.ndarray:
    """Factor of each gene on the profile (batches x genes), from the groups that do not express it; near one."""
    prior, zero = _PROFILE_SD**-2, zero[:, None]
    return (prior + (zero * counts).sum(axis=0)) / (prior + (zero * base * level[:, None]).sum(axis=0))


def _split(counts, base, level, absent: float, weights) -> tuple[np.ndarray, np.ndarray]:
    """Native share of the counts of some genes, and their factors on the profile."""
    factor, zero = np.ones(counts.shape[1:]), np.full((len(counts), counts.shape[2]), absent)
    for _ in range(_LAST_STEPS):
        zero, rates = _posterior(counts, base, factor, level, _absent(zero, base, absent), weights)
        factor = _factor(counts, base, level, zero)
    zero, rates = _posterior(counts, base, factor, level, _absent(zero, base, absent), weights)
    ambient, natives = _rates(base, factor, level)
    noise, found = ambient + (_TOLERANCE * ambient) ** 2, np.zeros(counts.shape)
    for probability, native in zip(rates, natives, strict=True):
        variance = native + native**2 / _SHAPE
        shrunk = native + variance / (variance + noise) * (counts - native - ambient)
        found += probability * np.clip(shrunk, 0, counts)
    return found * (1 - zero)[:, None] / np.maximum(counts, _TINY), factor
