"""Simulated bulk as AnnData, for users: sums of cells drawn with replacement."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from .._keys import Keys
from .._text import whole_number
from ..io._names import writable
from ..io._positions import cell_positions
from ..io._rows import iter_rows
from ..simulate import ChunkSums, sample_proportions
from ..simulate._mixing import draw_weights, sum_by_type


def simulate_from_cells(
    X,
    types: np.ndarray,
    donors: np.ndarray,
    type_names: list[str],
    var_names: pd.Index,
    n_samples: int,
    *,
    n_cells: int = 1000,
    alpha: float = 1.0,
    sparse_share: float = 0.0,
    seed: int | None = None,
    indices: np.ndarray | None = None,
) -> AnnData:
    """Bulk AnnData (samples x genes) of exact sums of cells; see `hpvade.pp.simulate_bulk`."""
    whole_number("n_samples", n_samples)
    if not 0 <= sparse_share <= 1:
        raise ValueError(f"sparse is {sparse_share}; expected a share of samples between 0 and 1")
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    rng = np.random.default_rng(seed)
    indices = np.unique(cell_positions(len(types), indices))
    order = indices[np.lexsort((donors[indices], types[indices]))]
    n_types, one, unread = len(type_names), np.ones(len(order), dtype=np.int64), np.zeros(len(order))
    cells = ChunkSums(sparse.csr_matrix((len(order), 0)), types[order], donors[order], one, unread, n_types)
    available = np.bincount(cells.types, minlength=n_types) > 0
    expected = np.zeros((n_samples, n_types))
    prior = {"dirichlet": 1 - sparse_share, "sparse": sparse_share}
    expected[:, available] = sample_proportions(n_samples, available.sum(), rng, alpha=alpha, prior=prior)
    n_drawn, weights = draw_weights(cells, expected, rng, n_cells=n_cells, max_chunks=None)
    counts, totals = _add_up(X, order, weights)
    molecules = sum_by_type(replace(cells, totals=totals), weights)
    bulk = AnnData(
        counts,
        obs=pd.DataFrame(index=[f"simulated_{i}" for i in range(n_samples)]),
        var=pd.DataFrame(index=var_names.copy()),
    )
    for key, table in {
        Keys.TRUE_PROPORTIONS: n_drawn / n_cells,
        Keys.TRUE_RNA_PROPORTIONS: molecules / molecules.sum(axis=1, keepdims=True),
    }.items():
        bulk.obsm[key] = writable(pd.DataFrame(table, index=bulk.obs_names, columns=type_names))
    bulk.uns["units"] = "counts"
    return bulk


def _add_up(X, cells: np.ndarray, weights: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the samples (samples x genes) that `weights` of `cells` make, and counts per cell, in one pass."""
    n_rows, n_genes = X.shape
    n_samples = weights.shape[0]
    per_row = sparse.csc_matrix((weights.data, cells[weights.indices], weights.indptr), (n_rows, n_samples)).tocsr()
    counts, totals = np.zeros((n_samples, n_genes), dtype=np.float32), np.zeros(n_rows)
    for rows, block in iter_rows(X):
        totals[rows] = np.asarray(block.sum(axis=1), dtype=np.float64).ravel()
        part = (per_row[rows].T @ block).tocoo()  # no place occurs twice
        counts[part.row, part.col] += part.data
    return counts, totals[cells]
