"""UMAP of latent representations."""

import numpy as np
from anndata import AnnData

from hpvade.models.ambient._umap import write_umap


def test_writes_the_named_keys_only_and_the_same_twice():
    z = np.random.default_rng(0).normal(size=(40, 3))
    z[20:] += 20
    a, b = (AnnData(np.ones((40, 2))) for _ in range(2))
    for adata in (a, b):
        write_umap(adata, {"z": z}, {"z": "u"}, n_neighbors=5, seed=0)
    assert set(a.obsm) == {"z", "u"} and not a.obsp and not a.uns
    np.testing.assert_array_equal(a.obsm["u"], b.obsm["u"])
    u = a.obsm["u"]
    within = np.linalg.norm(u[:20] - u[:20].mean(0), axis=1).max()
    assert np.linalg.norm(u[:20].mean(0) - u[20:].mean(0)) > within
