"""A DataFrame wherever an AnnData of bulk is: the same answers, and the table is left alone."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import hpvade as hp


def _other_level(truth):
    """Measured fractions that a calibration can reach."""
    moved = truth * [2.0, 1.0, 0.5, 1.0]
    return moved.div(moved.sum(axis=1), axis=0)


CALLS = {
    "deconvolve": lambda model, bulk, truth: model.deconvolve(bulk),
    "intervals": lambda model, bulk, truth: model.get_proportion_intervals(bulk, n_draws=20),
    "hierarchy": lambda model, bulk, truth: model.deconvolve_hierarchy(bulk)["level_1"],
    "detection limits": lambda model, bulk, truth: model.get_detection_limits(bulk, n_spikes=2),
    "expression": lambda model, bulk, truth: model.get_cell_type_expression(bulk).to_df(),
    "evaluate": lambda model, bulk, truth: model.evaluate(bulk, truth),
    "platform": lambda model, bulk, truth: model.fit_platform(bulk),
    "calibrate": lambda model, bulk, truth: model.calibrate(bulk, _other_level(truth)),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_table_is_answered_as_its_anndata(trained, saved, call):
    model = hp.HPVADE.load(saved, accelerator="cpu")  # some calls change it
    bulk = trained.bulk.copy()
    table, truth = bulk.to_df(), bulk.obsm["proportions"]
    before = table.copy()
    expected = CALLS[call](model, bulk, truth)
    found = CALLS[call](hp.HPVADE.load(saved, accelerator="cpu"), table, truth)
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(table, before)


def test_diagnose_and_solve_of_a_table_return_an_anndata(trained):
    bulk = trained.bulk.copy()
    table = bulk.to_df()
    hp.tl.diagnose(bulk, trained.model, n_simulated=20)
    found = hp.tl.diagnose(table, trained.model, n_simulated=20)
    assert isinstance(found, ad.AnnData)
    pd.testing.assert_frame_equal(found.obs, bulk.obs[found.obs.columns])
    hp.tl.solve(bulk, trained.reference, labels_key="cell_type", device="cpu")
    found = hp.tl.solve(table, trained.reference, labels_key="cell_type", device="cpu")
    np.testing.assert_array_equal(found.obsm["robust_proportions"], bulk.obsm["robust_proportions"])
    assert list(table.columns) == list(bulk.var_names)


def test_bulk_in_a_mudata(trained, planted):
    """Results are written to the modality; what comes after takes the modality, and says so."""
    bulk = planted()[1]
    expected = trained.model.deconvolve(bulk.copy())
    mdata = MuData({"rna": bulk, "other": ad.AnnData(np.ones((12, 2)), obs=bulk.obs[[]])})
    with pytest.raises(
        TypeError, match=r"'rna', 'other'; expected one of them. Pass modality='rna', or mdata\['rna'\]"
    ):
        trained.model.deconvolve(mdata)
    found = trained.model.deconvolve(mdata, modality="rna")
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(mdata["rna"].obsm["hpvade_proportions"], expected)
    assert "hpvade_proportions" not in mdata.obsm and not mdata["other"].obsm
    for call in (trained.model.get_proportion_intervals, hp.pl.proportions):
        with pytest.raises(
            TypeError, match=r"is a MuData of 'rna', 'other'; expected one of them. Pass mdata\['rna'\]"
        ):
            call(mdata)


def test_batches_of_a_mudata_are_found(trained, planted):
    bulk = planted()[1]
    lanes = np.repeat(["a", "b"], 6)
    mdata = MuData({"rna": bulk.copy(), "other": ad.AnnData(np.ones((12, 2)), obs=bulk.obs[[]])})
    mdata.obs["lane"] = lanes
    bulk.obs["lane"] = lanes
    found = trained.model.deconvolve(mdata, modality="rna", batch_key="lane")
    pd.testing.assert_frame_equal(found, trained.model.deconvolve(bulk, batch_key="lane"))
