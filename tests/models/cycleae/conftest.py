from types import SimpleNamespace

import pytest

import hpvade as hp

FIELDS = ["condition", "tissue", "sex"]


@pytest.fixture(scope="session")
def cells():
    """``cells(**changes)``: 600 cells x 150 genes with three planted fields."""
    return lambda **changes: hp.datasets.planted_contexts(**{"n_cells": 600, "n_genes": 150, "seed": 3} | changes)


@pytest.fixture(scope="session")
def fit_cycle():
    """``fit_cycle(adata, keys, seed, setup, train, **options)``: a CycleAE trained on the CPU, quietly."""

    def fit_cycle(adata, keys=FIELDS, seed=0, *, setup=None, train=None, **options):
        import scvi

        scvi.settings.seed = seed
        hp.CycleAE.setup_anndata(adata, keys, **(setup or {}))
        model = hp.CycleAE(adata, **{"n_latent": 16, "nonnegative": False} | options)
        model.train(**{"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False} | (train or {}))
        return model

    return fit_cycle


@pytest.fixture(scope="session")
def cycle(cells, fit_cycle):
    """A trained model and its cells; do not change them."""
    adata = cells()
    return SimpleNamespace(
        model=fit_cycle(adata, train={"max_epochs": 12, "learning_rate": 2e-3, "batch_size": 32}), adata=adata
    )
