"""The reference against itself: every donor, or a share of the cells, mixed into bulk and judged by the others."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..train._splitter import MIN_DONORS
from ._mixtures import BulkSimulation
from ._signature import reference_signature, sum_chunks

_SEED = 20150521
_N_FOLDS = 5


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


def folds(
    X, types: np.ndarray, donors: np.ndarray, n_types: int, indices: np.ndarray, *, n_samples: int = 60
) -> Iterator[Fold]:
    """Up to five folds: of whole donors where three or more share most types, else of the cells within each type.

    `X` (cells x genes) is read once; `types` and `donors` are codes (cells,), `indices` the cells to use. The random
    numbers are fixed, so that no other stream of them moves.
    """
    rng = np.random.default_rng(_SEED)
    fold = np.zeros(len(types), dtype=np.int64)
    fold[indices] = _assign(types[indices], donors[indices], rng)
    chunks = sum_chunks(X, types, donors * _N_FOLDS + fold, n_types, rng, indices=indices)  # no chunk crosses folds
    of = chunks.donors % _N_FOLDS
    composition = np.bincount(chunks.types, weights=chunks.n_cells, minlength=n_types)
    for f in np.unique(of):
        held_out, others = chunks.select_chunks(of == f), chunks.types[of != f]
        rest = chunks.select_chunks((of != f) | ~np.isin(chunks.types, others))
        judged = np.isin(np.arange(n_types), held_out.types) & np.isin(np.arange(n_types), others)
        drawn = BulkSimulation(noise=None).draw(held_out, composition / composition.sum(), n_samples, rng)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_size = np.where(judged, np.log(_size(held_out) / _size(rest)), np.nan)
        mean_counts = reference_signature(rest).mean_counts
        yield Fold(drawn["bulk"], drawn["rna_proportions"], mean_counts, judged, log_size)


def _assign(types: np.ndarray, donors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fold of every cell."""
    names, code = np.unique(donors, return_inverse=True)
    n_donors = np.bincount(np.unique(np.stack([types, code]), axis=1)[0])
    if len(names) >= MIN_DONORS and np.median(n_donors[n_donors > 0]) > 1:
        return (rng.permutation(len(names)) % _N_FOLDS)[code]
    fold = np.empty(len(types), dtype=np.int64)
    for k in np.unique(types):
        cells = np.flatnonzero(types == k)
        fold[rng.permutation(cells)] = np.arange(len(cells)) % _N_FOLDS
    return fold


def _size(chunks) -> np.ndarray:
    """Mean counts per cell (types,)."""
    totals = np.bincount(chunks.types, weights=chunks.totals, minlength=chunks.n_types)
    return totals / np.bincount(chunks.types, weights=chunks.n_cells, minlength=chunks.n_types)
