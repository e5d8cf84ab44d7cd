"""Planted cells whose perturbations act differently on each type, and models trained on them."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp

KEYS = {"perturbation_key": "perturbation", "experiment_key": "experiment"}
SMALL = {"n_latent": 8, "hidden_dims": (48, 32)}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def planted(n_cells=720, n_genes=100, seed=0):
    """Cells of 3 types, a control and 2 drugs that act on other genes and with another strength in each type."""
    rng = np.random.default_rng(seed)
    types, drugs = ["B", "Mono", "T"], ["control", "drug_a", "drug_b"]
    cell = np.arange(n_cells)
    k, p, e = cell % 3, cell // 3 % 3, cell // 9 % 2
    profile = rng.normal(0, 1, (3, n_genes))
    effect = np.zeros((3, 3, n_genes))  # drug x type x gene
    for drug in (1, 2):
        genes = rng.permutation(n_genes)[:20]
        for kind in range(3):
            own = genes[kind * 5 : kind * 5 + 10]
            effect[drug, kind, own] = rng.choice([-1.0, 1.0], 10) * (1.0 + kind)
    log_mean = profile[k] + effect[p, k] + 0.2 * rng.normal(size=(2, n_genes))[e]
    mean = np.exp(log_mean)
    mean *= 1000 * np.exp(0.2 * rng.normal(size=(n_cells, 1))) / mean.sum(axis=1, keepdims=True)
    counts = rng.poisson(rng.gamma(10, mean / 10)).astype(np.float32)
    obs = {
        "cell_type": pd.Categorical.from_codes(k, types),
        "perturbation": pd.Categorical.from_codes(p, drugs),
        "experiment": pd.Categorical.from_codes(e, ["exp_0", "exp_1"]),
    }
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(obs, index=[f"cell_{c}" for c in cell]))
    adata.var_names = [f"gene_{g:03d}" for g in range(n_genes)]
    adata.uns["effect"], adata.uns["profile"] = effect, profile
    return adata


@pytest.fixture(scope="session")
def cells():
    """``cells(**changes)``: new planted cells."""
    return planted


@pytest.fixture(scope="session")
def fit():
    """``fit(adata, epochs, seed, setup=..., train=..., **options)``: a small model trained on the CPU, quietly."""

    def fit(adata, epochs=2, seed=0, *, setup=None, train=None, **options):
        import scvi

        scvi.settings.seed = seed
        hp.ConditionalVAE.setup_anndata(adata, "cell_type", **KEYS | (setup or {}))
        model = hp.ConditionalVAE(adata, **SMALL | options)
        model.train(epochs, **QUIET | {"batch_size": 64} | (train or {}))
        return model

    return fit


@pytest.fixture(scope="session")
def trained(fit):
    """A model trained for 60 epochs, and its cells; do not change them."""
    adata = planted()
    return SimpleNamespace(model=fit(adata, 60, train={"early_stopping": False}), adata=adata)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    """Folder of the trained model."""
    folder = tmp_path_factory.mktemp("cvae") / "model"
    trained.model.save(folder)
    return folder
