"""The reference against itself: every donor, or a share of the cells, mixed into bulk and judged by the others."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..simulate import ChunkSums
from ..train._splitter import MIN_DONORS
from ._mixtures import BulkSimulation
from ._signature import reference_signature

_SEED = 20150521
N_FOLDS = 5
NEVER = N_FOLDS  # the fold of cells that are never held out
N_CODES = N_FOLDS + 1


@dataclass(frozen=True, eq=False)
class Fold:
    """Held-out cells and what the other cells say.

    Attributes
    ----------
    bulk, rna_proportions
        (samples x genes) and (samples x types): plain sums of 1,000 held-out cells, and their fractions of RNA.
    mean_counts
        (genes x types): signature of the other cells.
    judged
        bool (types,): types on both sides. A type with held-out cells alone has its column from them.
    log_size
        (types,): log counts per cell, held-out less other cells; NaN for types that are not judged.
    """

    bulk: Tensor
    rna_proportions: Tensor
    mean_counts: np.ndarray
    judged: np.ndarray
    log_size: np.ndarray


def folds(chunks: ChunkSums, fold: np.ndarray, *, n_samples: int = 60) -> Iterator[Fold]:
    """Go over the folds: each one's cells mixed into bulk, and the signature of the others.

    `fold` (chunks,) says where each chunk belongs, see `assign_folds`, or `NEVER`; no chunk may hold cells of two. The
    random numbers are fixed, so that no other stream of them moves.
    """
    rng, n_types = np.random.default_rng(_SEED), chunks.n_types
    composition = np.bincount(chunks.types, weights=chunks.n_cells, minlength=n_types)
    for f in np.unique(fold[fold != NEVER]):
        held_out, others = chunks.select_chunks(fold == f), chunks.types[fold != f]
        rest = chunks.select_chunks((fold != f) | ~np.isin(chunks.types, others))
        judged = np.isin(np.arange(n_types), held_out.types) & np.isin(np.arange(n_types), others)
        drawn = BulkSimulation(noise=None).draw(held_out, composition / composition.sum(), n_samples, rng)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_size = np.where(judged, np.log(_size(held_out) / _size(rest)), np.nan)
        mean_counts = reference_signature(rest).mean_counts
        yield Fold(drawn["bulk"], drawn["rna_proportions"], mean_counts, judged, log_size)


def assign_folds(types: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Fold of every cell (cells,), from 0: up to five.

    Folds are of whole donors where three or more share most types, else of the cells within each type. `types` and
    `donors` are codes (cells,). The random numbers are fixed.
    """
    rng = np.random.default_rng(_SEED)
    names, code = np.unique(donors, return_inverse=True)
    n_donors = np.bincount(np.unique(np.stack([types, code]), axis=1)[0])
    if len(names) >= MIN_DONORS and np.median(n_donors[n_donors > 0]) > 1:
        return (rng.permutation(len(names)) % N_FOLDS)[code]
    fold = np.empty(len(types), dtype=np.int64)
    for k in np.unique(types):
        cells = np.flatnonzero(types == k)
        fold[rng.permutation(cells)] = np.arange(len(cells)) % N_FOLDS
    return fold


def _size(chunks) -> np.ndarray:
    """Mean counts per cell (types,)."""
    totals = np.bincount(chunks.types, weights=chunks.totals, minlength=chunks.n_types)
    return totals / np.bincount(chunks.types, weights=chunks.n_cells, minlength=chunks.n_types)
