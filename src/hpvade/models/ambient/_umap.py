"""UMAP of latent representations."""

import numpy as np
import scanpy as sc
from anndata import AnnData


def write_umap(
    adata: AnnData, latents: dict[str, np.ndarray], layouts: dict[str, str], *, n_neighbors: int, seed: int
) -> None:
    """Write `latents` to `adata.obsm`, and the UMAP of each to the key that `layouts` names; nothing else."""
    umaps = {}
    for key, z in latents.items():
        scratch = AnnData(obsm={"z": z}, shape=(len(z), 0))
        sc.pp.neighbors(scratch, use_rep="z", n_neighbors=min(n_neighbors, len(z) - 1), random_state=seed)
        sc.tl.umap(scratch, random_state=seed)
        umaps[layouts[key]] = scratch.obsm["X_umap"]
    for key, value in {**latents, **umaps}.items():
        adata.obsm[key] = value
