"""The blood reference and the model made of it."""

import numpy as np
import pytest

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def model():
    return hp.HPVADE.load(hp.datasets.blood_model(), accelerator="cpu")


def test_sums_are_those_of_the_shipped_cells():
    """Monocytes are not relabelled: their row is the sum of the cells' counts."""
    reference, cells = hp.datasets.blood_reference(), hp.datasets.pbmc_reference()
    own = reference[(reference.obs["study"] == "PBMC 3k") & (reference.obs["cell_type"] == "Mono")]
    cells = cells[cells.obs["cell_type"].isin(["Mono", "CD14+ Mono", "FCGR3A+ Mono"])]
    assert int(own.obs["n_cells"].sum()) == cells.n_obs > 0
    found = np.asarray(own[:, cells.var_names].X.sum(axis=0)).ravel()
    np.testing.assert_allclose(found, np.asarray(cells.X.sum(axis=0)).ravel())
    assert own.X.sum() == cells.X.sum()
    assert hp.datasets.blood_reference() is not reference


def test_the_model_is_that_of_the_reference(model):
    reference, bulk = hp.datasets.blood_reference(), hp.datasets.pbmc_bulk()
    keys = {"sample_key": "donor", "study_key": "study", "n_cells_key": "n_cells"}
    hp.HPVADE.setup_anndata(reference, "cell_type", **keys)
    made = hp.HPVADE(reference, n_genes=200)
    made.train(**QUIET)
    np.testing.assert_allclose(model.deconvolve(bulk.copy()), made.deconvolve(bulk.copy()), atol=1e-5)
    assert model.studies == ["Hao", "PBMC 3k"]


def test_blood_by_the_model_beats_nnls_and_the_constant(model):
    bulk = hp.datasets.pbmc_bulk()
    model.deconvolve(bulk)
    mapping = {**bulk.uns["proportions_mapping"], "Plasma cells": "B"}
    table = hp.tl.evaluate(bulk, "proportions", mapping=mapping)
    own = table.loc["hpvade_proportions"]
    assert own["rmse"] < 0.6 * table.loc["constant", "rmse"] and own["rmse"] < 0.2 * table.loc["nnls", "rmse"]
    assert own["per_type_r"] > 0.9
    assert model.get_proportion_intervals(bulk).notna().all(axis=None)
