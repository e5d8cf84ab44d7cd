"""A labelled reference rewritten into another context, as counts."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from ..._keys import Keys
from ...dataloaders._context_data import take_rows
from ._tables import cells, counterfactuals

_ROWS = 2048


def translate_reference(model, adata: AnnData | None, to: Mapping) -> AnnData:
    """See `CycleAE.translate_reference`."""
    if not to:
        raise ValueError("`to` names no field; expected the target context, such as to={'condition': 'stimulated'}.")
    adata, indices = cells(model, adata, None)
    if model.module.generator.nonnegative:
        warnings.warn(
            "this model is non-negative: a context can only add to what all contexts share, so translated cells keep "
            "most of what is special to their own context. Use CycleAE(adata, nonnegative=False) to translate.",
            UserWarning,
            stacklevel=3,
        )
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    X = model.get_anndata_manager(adata, required=True).get_from_registry("X")
    blocks = []
    for a in range(0, len(indices), _ROWS):
        rows = indices[a : a + _ROWS]
        part = {f: v[a : a + _ROWS] if isinstance(v, list | np.ndarray) else v for f, v in to.items()}
        same, moved = counterfactuals(model, adata, part, rows)
        blocks.append(_counts(take_rows(X, rows), moved - same, model.module.scale, rng))
    obs = adata.obs.drop(columns=[c for c in adata.obs if str(c).startswith("_scvi")]).copy()
    columns = {str(column): column for column in obs.columns}
    for field, value in to.items():
        obs[columns[str(field)]] = np.asarray(value) if isinstance(value, list) else value
    result = AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=adata.var.copy())
    result.uns[Keys.TRANSLATED] = {str(field): str(value) for field, value in to.items() if np.isscalar(value)}
    return result


def _counts(x: np.ndarray, change: np.ndarray, scale: str, rng: np.random.Generator) -> sparse.csr_matrix:
    """Whole counts: the cell's own expression plus the change, with the cell's own total, rounded at random.

    Rounding up with the probability of the fraction keeps the mean and adds less noise than drawing counts anew.
    """
    if scale == "log1p":
        size = x.sum(axis=1, keepdims=True)
        y = np.expm1(np.maximum(np.log1p(1e4 * x / np.maximum(size, 1e-30)) + change, 0))
        y *= size / np.maximum(y.sum(axis=1, keepdims=True), 1e-30)
    else:
        y = np.maximum(x + change, 0)
    counts = np.floor(y + rng.random(y.shape, dtype=np.float32))
    empty = counts.sum(axis=1) == 0
    counts[empty, y[empty].argmax(axis=1)] = 1  # a cell without counts is no cell
    return sparse.csr_matrix(counts.astype(np.float32))
