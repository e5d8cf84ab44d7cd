"""A small reference and models trained on it; do not change them."""

from types import SimpleNamespace

import numpy as np
import pytest
import scvi

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
FAST = {"plan_kwargs": {"lr": 2e-3}}


@pytest.fixture(scope="session")
def cells():
    """``cells(**changes)``: 400 cells x 150 genes of 6 types, from 2 batches, with a size factor and covariates."""

    def cells(**changes):
        options = {"n_types": 6, "n_genes": 150, "n_cells": 400, "n_samples": 2, "seed": 5}
        adata = hp.datasets.planted_cohort(**options | changes)[0]
        rng = np.random.default_rng(0)
        adata.obs["size"] = rng.uniform(100, 200, adata.n_obs)
        adata.obs["sex"] = np.where(rng.random(adata.n_obs) < 0.5, "f", "m")
        adata.obs["age"] = rng.normal(size=adata.n_obs)
        return adata

    return cells


@pytest.fixture(scope="session")
def embed():
    """``embed(adata, epochs, seed, setup=..., train=..., **options)``: an `IVAE` trained on the CPU, quietly."""

    def embed(adata, epochs=2, seed=0, *, setup=None, train=None, **options):
        scvi.settings.seed = seed
        hp.IVAE.setup_anndata(adata, **{"labels_key": "cell_type"} if setup is None else setup)
        model = hp.IVAE(adata, **options)
        model.train(epochs, **QUIET | FAST | (train or {}))
        return model

    return embed


@pytest.fixture(scope="session")
def embedded(cells, embed):
    """Model of cells with two batches, trained for 60 epochs, and its data."""
    adata = cells()
    return SimpleNamespace(model=embed(adata, 60, setup={"labels_key": "cell_type", "batch_key": "batch"}), adata=adata)


@pytest.fixture(scope="session")
def unread(cells, embed):
    """Model with ``irecon=0``, trained for 60 epochs on the same cells."""
    adata = cells()
    setup = {"labels_key": "cell_type", "batch_key": "batch"}
    return SimpleNamespace(model=embed(adata, 60, setup=setup, irecon=0.0), adata=adata)
