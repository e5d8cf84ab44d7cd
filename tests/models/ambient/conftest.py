"""Small planted data and models for both regularised models."""

from types import SimpleNamespace

import anndata as ad
import mudata as mu
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def counts(n_cells=90, n_genes=40, seed=0, prefix="g", mean=4.0):
    """Cells of two types in three batches, two sites and four donors."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % 2
    profiles = rng.gamma(0.7, mean / 0.7, (2, n_genes))
    X = rng.poisson(profiles[kind] * rng.lognormal(0, 0.3, (n_cells, 1))).astype(np.float32)
    X[:, 0] += 1  # no empty cell
    obs = {
        "cell_type": pd.Categorical([f"type_{k}" for k in kind]),
        "batch": pd.Categorical([f"b{i % 3}" for i in range(n_cells)]),
        "site": pd.Categorical([f"s{i // 3 % 2}" for i in range(n_cells)]),
        "donor": pd.Categorical([f"d{i // 6 % 4}" for i in range(n_cells)]),
        "age": rng.normal(size=n_cells),
    }
    adata = ad.AnnData(X, obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n_cells)]))
    adata.var_names = [f"{prefix}{i}" for i in range(n_genes)]
    return adata


def cells_of(n_cells=90, seed=0):
    """MuData of RNA and ATAC; the first five cells lack ATAC."""
    rna, atac = counts(n_cells, 40, seed), counts(n_cells, 24, seed + 1, "p", 2.0)
    atac.X[:5] = 0
    with mu.set_options(pull_on_update=False):
        mdata = mu.MuData({"rna": rna, "atac": atac})
    mdata.obs = rna.obs[["batch", "site", "donor", "age", "cell_type"]].copy()
    return mdata


@pytest.fixture
def rna():
    """Fresh RNA counts."""
    return counts()


@pytest.fixture
def mdata():
    """Fresh MuData."""
    return cells_of()


@pytest.fixture(scope="session")
def make():
    """``make.rna(...)`` and ``make.mdata(...)``."""
    return SimpleNamespace(rna=counts, mdata=cells_of)


@pytest.fixture(scope="session")
def build():
    """``build(adata, setup, seed, epochs, train, **options)``: a small model, trained for `epochs` when given."""

    def build(adata, setup=None, *, seed=0, epochs=0, train=None, **options):
        import scvi

        scvi.settings.seed = seed
        setup = {"batch_key": "batch"} if setup is None else setup
        options = {"n_hidden": 16, "n_latent": 4} | options
        if isinstance(adata, mu.MuData):
            hp.RegularizedMultimodalVI.setup_mudata(adata, **setup)
            model = hp.RegularizedMultimodalVI(adata, **options)
        else:
            hp.AmbientRegularizedSCVI.setup_anndata(adata, **setup)
            model = hp.AmbientRegularizedSCVI(adata, **options)
        if epochs:
            model.train(epochs, **QUIET | {"batch_size": 32} | (train or {}))
        return model

    return build


@pytest.fixture(scope="session")
def single(build):
    """Trained single-modal model with conditioning and continuous covariates, and its cells; do not change them."""
    adata = counts()
    keys = ["site"]
    setup = {"batch_key": "batch", "nn_conditioning_covariate_keys": keys, "nn_continuous_covariate_keys": ["age"]}
    return SimpleNamespace(model=build(adata, setup, epochs=3, compute_pearson=True), adata=adata)


@pytest.fixture(scope="session")
def multi(build):
    """Trained multimodal model and its cells; do not change them."""
    mdata = cells_of()
    setup = {"batch_key": "batch", "nn_conditioning_covariate_keys": ["site"]}
    model = build(mdata, setup, epochs=3, n_latent={"rna": 4, "atac": 3})
    return SimpleNamespace(model=model, mdata=mdata)
