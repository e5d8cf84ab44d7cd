"""A labelled reference rewritten into another context, as counts."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from ..._keys import Keys
from ._context_data import take_rows
from ._tables import cells, moves


def translate_reference(model, adata: AnnData | None, to: Mapping) -> AnnData:
    """See `CycleAE.translate_reference`."""
    if not to:
        raise ValueError("`to` names no field; expected the target context, such as to={'condition': 'stimulated'}.")
    adata, indices = cells(model, adata, None)
    to = {field: list(v) if isinstance(v, np.ndarray | pd.Series | pd.Index) else v for field, v in to.items()}
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    X = model.get_anndata_manager(adata, required=True).get_from_registry("X")
    blocks = [
        _counts(take_rows(X, rows), change, model.module.scale, rng)
        for rows, change in changes(model, adata, to, indices)
    ]
    obs = adata.obs.drop(columns=[c for c in adata.obs if str(c).startswith("_scvi")]).copy()
    columns = {str(column): column for column in obs.columns}
    for field, value in to.items():
        obs[columns[str(field)]] = np.asarray(value) if isinstance(value, list) else value
    result = AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=adata.var.copy())
    result.uns[Keys.TRANSLATED] = {str(field): str(value) for field, value in to.items() if np.isscalar(value)}
    return result


@torch.inference_mode()
def changes(model, adata: AnnData, to: Mapping, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of cells and their change (rows x genes): that of the network, with the measured mean of each pair."""
    means = _mean_changes(moves(model, adata, to, indices))
    for rows, source, target, same, moved in moves(model, adata, to, indices):
        change = (moved - same + model.module.shift(source, target)).cpu().numpy()
        yield rows, change - np.stack([means[pair] for pair in _pairs(source, target)])


def _mean_changes(moved_cells) -> dict[tuple[int, ...], np.ndarray]:
    """Mean change (genes,) by the network, over the cells of each pair of source and target."""
    sums, sizes = {}, {}
    for _, source, target, same, moved in moved_cells:
        names, member = np.unique(_pairs(source, target), axis=0, return_inverse=True)
        change = (moved - same).cpu().numpy().astype(float)
        for i, pair in enumerate(map(tuple, names.tolist())):
            mine = member.ravel() == i
            sums[pair] = sums.get(pair, 0.0) + change[mine].sum(axis=0)
            sizes[pair] = sizes.get(pair, 0) + int(mine.sum())
    return {pair: (total / sizes[pair]).astype(np.float32) for pair, total in sums.items()}


def _pairs(source: torch.Tensor, target: torch.Tensor) -> list[tuple[int, ...]]:
    return list(map(tuple, torch.cat([source, target], dim=1).tolist()))


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
