"""Plant ambient RNA, a known share of a known profile, in counts."""

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .._text import check_adata
from ..io._rows import in_memory, iter_rows, pick_matrix, refuse_bad_values
from ..reference._checks import check_column

_DENSE_BLOCK = 2**22  # counts drawn at once


def plant_ambient(
    adata: ad.AnnData,
    *,
    labels_key: str = "cell_type",
    batch_key: str = "batch",
    fractions: Sequence[float] = (0.05, 0.15, 0.3),
    concentration: float = 5.0,
    seed: int = 0,
) -> ad.AnnData:
    """Add ambient counts to cells, in batches with different shares and profiles.

    Cells are assigned to batches at random. The ambient profile of a batch is that of its lysed cells: the types in
    Dirichlet proportions around their frequencies. A cell with n counts in a batch with share f receives
    Poisson(n f / (1 - f)) ambient counts, so that f is the expected share of all its counts.

    Parameters
    ----------
    adata
        Cells x genes with counts in `X`; not changed.
    labels_key
        Column of `adata.obs` with cell types.
    batch_key
        Column of the result's `obs` to write the batches to.
    fractions
        Share of ambient counts in each batch, each at least 0 and below 1.
    concentration
        Of the Dirichlet distribution: the smaller, the more the profiles differ.
    seed
        Of all draws.

    Returns
    -------
    A new AnnData: observed counts in `X`, the counts of `adata` in ``layers["native"]``, ``obs[batch_key]``,
    ``obs["ambient_fraction"]`` (realised), and profiles that sum to one in ``varm["ambient_profile"]`` (genes x
    batches).

    Raises
    ------
    ValueError
        A share is out of range.

    Examples
    --------
    >>> import hpvade as hp
    >>> reference = hp.datasets.planted_cohort(n_genes=50, n_cells=60, n_types=3)[0]
    >>> observed = plant_ambient(reference, fractions=(0.1, 0.3))
    >>> list(observed.varm["ambient_profile"].columns)
    ['batch_0', 'batch_1']
    """
    if not len(fractions) or not all(0 <= share < 1 for share in fractions):
        raise ValueError(f"fractions={fractions}; expected shares of at least 0 and below 1.")
    check_adata(adata, "adata")
    check_column(in_memory(adata.obs), "labels_key", labels_key)
    X, name = pick_matrix(adata, None, "adata")
    for rows, block in iter_rows(X):
        refuse_bad_values(block, rows, name, adata.obs_names, adata.var_names)
    rng = np.random.default_rng(seed)
    native = sparse.csr_matrix(adata.X, dtype=np.float32)
    types = pd.Categorical(adata.obs[labels_key]).remove_unused_categories()
    batch = rng.permutation(np.arange(adata.n_obs) % len(fractions))
    sums = np.stack([native[types.codes == k].sum(axis=0).A1 for k in range(len(types.categories))])
    if not (sums.sum(axis=1) > 0).all():
        empty = types.categories[int(np.argmin(sums.sum(axis=1) > 0))]
        raise ValueError(f"the cells of type {str(empty)!r} have no counts in {name}; expected counts. Leave them out.")
    relative = sums / sums.sum(axis=1, keepdims=True)
    frequency = np.bincount(types.codes, minlength=len(sums)) / len(types)
    profiles = rng.dirichlet(concentration * len(sums) * frequency, len(fractions)) @ relative
    share = np.asarray(fractions, dtype=float)[batch]
    totals = native.sum(axis=1).A1
    rate, step = totals * share / (1 - share), max(1, _DENSE_BLOCK // max(1, adata.n_vars))
    blocks = (slice(start, start + step) for start in range(0, adata.n_obs, step))
    drawn = (rng.poisson(rate[rows, None] * profiles[batch[rows]]) for rows in blocks)
    ambient = sparse.vstack([sparse.csr_matrix(block, dtype=np.float32) for block in drawn], format="csr")
    observed = native + ambient
    names = [f"batch_{b}" for b in range(len(fractions))]
    obs = adata.obs.copy()
    obs[batch_key] = pd.Categorical.from_codes(batch, names)
    obs["ambient_fraction"] = ambient.sum(axis=1, dtype=np.float64).A1 / np.maximum(observed.sum(axis=1).A1, 1)
    result = ad.AnnData(observed, obs=obs, var=adata.var.copy(), layers={"native": native})
    result.varm["ambient_profile"] = pd.DataFrame(profiles.T, index=adata.var_names, columns=names)
    return result
