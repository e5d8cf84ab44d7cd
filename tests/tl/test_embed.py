from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest

import hpvade as hp


@pytest.fixture
def adata():
    return ad.AnnData(np.ones((4, 2)))


def model(**embeddings):
    def get_embeddings(adata, batch_size=None):
        return {key: np.full((adata.n_obs, size), batch_size or 0.0) for key, size in embeddings.items()}

    return SimpleNamespace(get_embeddings=get_embeddings)


def test_embeddings_are_written(adata):
    assert hp.tl.embed(adata, model(X_ivae=3, X_ivae_bottleneck=2), batch_size=7) is None
    assert adata.obsm["X_ivae"].shape == (4, 3) and (adata.obsm["X_ivae_bottleneck"] == 7).all()


def test_copy_leaves_the_original(adata):
    copy = hp.tl.embed(adata, model(X_ivae=3), copy=True)
    assert list(copy.obsm) == ["X_ivae"] and not list(adata.obsm)


def test_of_a_real_model_on_other_cells():
    adata = hp.datasets.planted_cohort(n_types=3, n_genes=60, n_cells=90, n_samples=2, seed=0)[0]
    hp.IVAE.setup_anndata(adata)
    trained = hp.IVAE(adata, n_hidden=8)
    trained.train(1, accelerator="cpu", enable_progress_bar=False)
    shuffled = adata[::-1, ::-1].copy()
    shuffled.obsm.clear()
    hp.tl.embed(shuffled, trained)
    for key in ("X_ivae", "X_ivae_bottleneck"):
        np.testing.assert_allclose(shuffled.obsm[key][::-1], adata.obsm[key], atol=1e-5)
    with pytest.raises(RuntimeError, match="train"):
        hp.tl.embed(adata, hp.IVAE(adata))
