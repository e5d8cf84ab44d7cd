"""UMAP of latent representations."""

from importlib.util import find_spec

import numpy as np
import scanpy as sc
from anndata import AnnData

_LEAST_CELLS = 4  # the spectral start of two axes takes three eigenvectors, fewer than there are cells


def write_umap(
    adata: AnnData,
    latents: dict[str, np.ndarray],
    layouts: dict[str, str],
    *,
    n_neighbors: int,
    seed: int,
    leiden: bool = False,
) -> None:
    """Write `latents` to `adata.obsm`, and the UMAP of each to the key that `layouts` names; nothing else.

    With `leiden` also clusters to `adata.obs`, under the name of the latent with "leiden" for "X_latent".
    """
    if adata.n_obs < _LEAST_CELLS:
        raise ValueError(f"found {adata.n_obs} cells; expected {_LEAST_CELLS} or more, which a layout by UMAP needs.")
    if n_neighbors < 2:
        raise ValueError(f"{n_neighbors=}; expected 2 or more, the cell itself is the first.")
    if leiden and find_spec("igraph") is None:
        raise ImportError("add_leiden=True needs the package igraph: run `pip install igraph`.")
    umaps, clusters = {}, {}
    for key, z in latents.items():
        scratch = AnnData(obsm={"z": z}, shape=(len(z), 0))
        sc.pp.neighbors(scratch, use_rep="z", n_neighbors=min(n_neighbors, len(z) - 1), random_state=seed)
        sc.tl.umap(scratch, random_state=seed)
        umaps[layouts[key]] = scratch.obsm["X_umap"]
        if leiden:
            sc.tl.leiden(scratch, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
            clusters[key.replace("X_latent", "leiden")] = scratch.obs["leiden"].array  # 2 before 10
    for key, value in {**latents, **umaps}.items():
        adata.obsm[key] = value
    for key, value in clusters.items():
        adata.obs[key] = value
