"""Counts without their ambient part."""

import warnings

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from ...dataloaders._rows import iter_rows


@torch.inference_mode()
def clean_reference(model, adata, name: str, *, integer: bool, seed: int, batch_size: int | None) -> AnnData:
    """See :meth:`RegularizedFace.get_clean_reference`."""
    rng, blocks, removed = np.random.default_rng(seed), [], []
    size = batch_size or 512
    X, cells = model._matrix(name, adata), model._cells(name, adata)
    for rows, counts in iter_rows(X, chunk_rows=size):
        cells_of = np.arange(rows.start, rows.stop)
        ((_, generated),) = model._posterior_means(adata, cells_of, len(cells_of))
        rho, s = (model.module.unpack(generated[key])[name] for key in ("rho", "background"))
        cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        native = (rho / (rho + s)).cpu().numpy()[cell, counts.indices]
        before = counts.sum(axis=1).A1
        counts.data = counts.data * native
        removed.append(1 - counts.sum(axis=1).A1 / np.maximum(before, 1))
        if integer:
            whole = np.floor(counts.data)
            counts.data = whole + (rng.random(len(whole)) < counts.data - whole)
        counts.eliminate_zeros()
        blocks.append(counts.astype(np.float32))
    matrix = sparse.vstack(blocks, format="csr")
    obs = cells.obs[[column for column in cells.obs if not str(column).startswith("_scvi")]].copy()
    obs["ambient_removed"] = np.concatenate(removed)
    clean = AnnData(matrix, obs=obs, var=cells.var.copy(), uns={"units": "counts without the ambient part"})
    empty = matrix.sum(axis=1).A1 == 0
    if empty.any():
        warnings.warn(
            f"{empty.sum()} of {len(empty)} cells have no count left without the ambient part; they are left out.",
            UserWarning,
            stacklevel=4,
        )
        clean = clean[~empty].copy()
    return clean
