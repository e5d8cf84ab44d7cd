"""UMAP of latent representations."""

import numpy as np
import pytest
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


@pytest.mark.parametrize("n_cells", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("model", ["single", "multi"])
def test_few_cells_are_refused_or_drawn(request, model, n_cells, make):
    """UMAP itself ends in errors of three packages below four cells."""
    model = request.getfixturevalue(model).model
    whole = make.mdata(n_cells + 5)[5:].copy()  # the first five lack ATAC
    adata = whole["rna"].copy()
    arguments = (adata, whole) if type(model).__name__ == "RegularizedMultimodalVI" else (adata,)
    if n_cells < 4:
        with pytest.raises(ValueError, match=f"found {n_cells} cells; expected 4 or more"):
            model.compute_latent_umap(*arguments)
        assert not [key for key in adata.obsm if not key.startswith("_scvi")]
        return
    model.compute_latent_umap(*arguments)
    layouts = [key for key in adata.obsm if key.startswith("X_umap")]
    assert layouts
    for key in layouts:
        assert adata.obsm[key].shape == (n_cells, 2) and np.isfinite(adata.obsm[key]).all()


@pytest.mark.parametrize("n_neighbors", [0, 1])
def test_a_neighbourhood_of_the_cell_alone_is_refused(n_neighbors):
    adata = AnnData(np.ones((9, 2)))
    with pytest.raises(ValueError, match=f"n_neighbors={n_neighbors}; expected 2 or more"):
        write_umap(adata, {"z": np.eye(9)}, {"z": "u"}, n_neighbors=n_neighbors, seed=0)


def test_clusters_are_numbered_as_scanpy_does():
    """Twelve groups far apart; their names sort as numbers do, 2 before 10."""
    pytest.importorskip("igraph")
    group = np.repeat(np.arange(12), 8)
    z = 100.0 * np.eye(12)[group] + np.random.default_rng(0).normal(size=(96, 12))
    adata = AnnData(np.ones((96, 2)))
    write_umap(adata, {"X_latent": z}, {"X_latent": "X_umap"}, n_neighbors=6, seed=0, leiden=True)
    clusters = adata.obs["leiden"]
    assert list(clusters.cat.categories) == [str(k) for k in range(12)]
    assert clusters.groupby(group).nunique().max() == 1 and clusters.nunique() == 12
