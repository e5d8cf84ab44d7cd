"""Simulated bulk as AnnData, for users: sums of cells drawn with replacement."""

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from .._keys import Keys
from ..io._names import writable
from ..io._rows import iter_rows
from ..simulate import cells_as_chunks, draw_mixtures, sample_proportions


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
    if n_samples < 1:
        raise ValueError(f"n_samples is {n_samples}; expected at least one")
    if not 0 <= sparse_share <= 1:
        raise ValueError(f"sparse is {sparse_share}; expected a share of samples between 0 and 1")
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    rng = np.random.default_rng(seed)
    indices = np.unique(np.arange(len(types))[slice(None) if indices is None else indices])
    counts = sparse.vstack(
        [block[np.isin(np.arange(rows.start, rows.stop), indices)] for rows, block in iter_rows(X)], format="csr"
    )
    cells = cells_as_chunks(counts, types[indices], donors[indices], len(type_names))
    available = np.bincount(cells.types, minlength=len(type_names)) > 0
    expected = np.zeros((n_samples, len(type_names)))
    prior = {"dirichlet": 1 - sparse_share, "sparse": sparse_share}
    expected[:, available] = sample_proportions(n_samples, available.sum(), rng, alpha=alpha, prior=prior)
    mixtures = draw_mixtures(cells, expected, rng, n_cells=n_cells, max_chunks=None)
    bulk = AnnData(
        mixtures.counts,
        obs=pd.DataFrame(index=[f"simulated_{i}" for i in range(n_samples)]),
        var=pd.DataFrame(index=var_names.copy()),
    )
    for key, table in {
        Keys.TRUE_PROPORTIONS: mixtures.proportions,
        Keys.TRUE_RNA_PROPORTIONS: mixtures.rna_proportions,
    }.items():
        bulk.obsm[key] = writable(pd.DataFrame(table, index=bulk.obs_names, columns=type_names))
    bulk.uns["units"] = "counts"
    return bulk
