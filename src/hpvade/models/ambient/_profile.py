"""The ambient profile of each batch from sums of counts over groups of cells; NumPy only.

A free profile of a network comes to little: what deviates from the mean of the batch, the decoder explains as well. So
the profile is sought among mixtures of the groups' own profiles, as RNA of lysed cells is: few numbers per batch, which
batches that share their types determine.
"""

import numpy as np

from ._evidence import find_floor, markers

_ROUNDS, _STEPS = 3, 100  # each round anew: few steps keep what all groups express alike out of the profile
_LEAST, _MOST = 0.03, 0.5  # shares that the mixture is sought with
_ELSEWHERE = 0.05  # of a mixture to start from, the part with the types of all batches: not all left cells in theirs
_PRIOR = 0.01  # of the ambient counts, how many the cells of the batch as they are count for
_VALUES = 2 * 10**6  # of one array in memory
_TINY = 1e-12


def refine_profile(counts: np.ndarray, learned: np.ndarray, cells: np.ndarray) -> np.ndarray:
    r"""Ambient profile of each batch (batches x genes), rows sum to one.

    Parameters
    ----------
    counts
        Sums over the cells of each group and batch (groups x batches x genes).
    learned
        Profiles of the model (batches x genes), rows sum to one; kept where they alone show ambient RNA, and in all
        batches if they show it in more of them, as they may when batches do not share their types' profiles.
    cells
        Numbers of cells (groups x batches).

    Notes
    -----
    Counts of group k, batch b and gene g are Poisson with mean

    .. math:: T_{kb} \big[(1 - f_b)\, r_{kg} + f_b \textstyle\sum_j v_{bj} r_{jg}\big],

    with total counts T, ambient shares f, profiles of the groups r, which all batches share, and mixtures v of them.
    Given f, expectation-maximisation finds v and r; given the profile, the floor under the markers shows f; in turn.
    One group or one batch does not tell v: then the profile is the model's.
    """
    seen = counts.sum(axis=(1, 2)) > 0
    counts, cells = counts[seen], cells[seen] + _TINY
    if min(counts.shape[:2]) < 2:
        return learned
    totals, profile, start = counts.sum(axis=2), learned, cells.T / cells.sum(axis=0)[:, None]
    start = (1 - _ELSEWHERE) * start + _ELSEWHERE * cells.sum(axis=1) / cells.sum()
    for _ in range(_ROUNDS):
        share = np.clip(_floors(counts, profile)[0], _LEAST, _MOST)
        profile = _mixture(counts, totals * (1 - share), totals * share, start, _PRIOR * start)
    known = _floors(counts, learned)[1]
    better = _floors(counts, profile)[1] | ~known
    profile = np.where(better[:, None], profile, learned)
    return profile if _floors(counts, profile)[1].sum() >= known.sum() else learned


def _floors(counts: np.ndarray, profile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Floor of each batch given a profile, and whether it is one (batches,)."""
    base = counts.sum(axis=2)[..., None] * profile
    chosen = markers(counts, base)
    found = [find_floor(counts[:, b][:, chosen], base[:, b][:, chosen]) for b in range(len(profile))]
    share, is_floor = zip(*found, strict=True)
    return np.array(share), np.array(is_floor)


def _mixture(counts, native, ambient, weights, prior) -> np.ndarray:
    """Profiles (batches x genes) as mixtures of groups.

    `native` and `ambient` are expected totals (groups x batches), `weights` the first mixtures (batches x groups),
    `prior` counts of each, per ambient count.
    """
    n_groups, n_batches, n_genes = counts.shape
    block = max(_VALUES // (n_groups * n_batches), 1)
    chosen = np.sort(np.argsort(-counts.sum(axis=(0, 1)), kind="stable")[:block])  # the most frequent genes
    weights, rates = _maximise(counts[..., chosen], native, ambient, weights, prior)
    profile = np.empty((n_batches, n_genes))
    profile[:, chosen] = weights @ rates
    for genes in np.split(np.setdiff1d(np.arange(n_genes), chosen), range(block, n_genes - len(chosen), block)):
        profile[:, genes] = weights @ _maximise(counts[..., genes], native, ambient, weights)[1]
    return profile / profile.sum(axis=1, keepdims=True)


def _maximise(counts, native, ambient, weights, prior=None) -> tuple[np.ndarray, np.ndarray]:
    """Mixtures, and profiles of the groups (groups x genes); without prior the mixtures stay."""
    total = ambient.sum(axis=0)[:, None]
    rates = (counts.sum(axis=1) + _TINY) / ((native + ambient).sum(axis=1, keepdims=True) + counts.shape[2] * _TINY)
    for _ in range(_STEPS):
        own = native[..., None] * rates[:, None]
        ratio = counts / (own + ambient[..., None] * (weights @ rates) + _TINY)
        foreign = np.einsum("kbg,kb->bg", ratio, ambient)
        updated = rates * (np.einsum("kbg,kb->kg", ratio, native) + weights.T @ foreign)
        if prior is not None:
            found = weights * (foreign @ rates.T) / np.maximum(rates.sum(axis=1), _TINY)
            weights = found + prior * (total + _TINY)  # a batch without counts keeps its cells' mixture
            weights = weights / weights.sum(axis=1, keepdims=True)
        rates = updated / np.maximum(native.sum(axis=1) + weights.T @ total[:, 0], _TINY)[:, None]
    return weights, rates
