"""Sums of cells as a reference: what is refused, and what is said of rows that are something else."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp
from hpvade.reference._checks import check_reference
from hpvade.reference._sums import check_n_cells


@pytest.fixture
def sums():
    adata, _ = hp.datasets.planted_cohort(n_types=4, n_genes=300, n_donors=3, n_cells=240)
    return hp.pp.summarize(adata, "cell_type", sample_key="donor")


def test_numbers_of_any_kind_are_the_same():
    expected = [3.0, 12.0]
    for values in ([3, 12], [3.0, 12.0], ["3", "12"], pd.Categorical([3, 12]), [np.int8(3), "12"]):
        assert check_n_cells(pd.Series(values, index=["a", "b"]), "n").tolist() == expected


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (np.inf, "inf"), (1e300, r"1e\+300"), (-2, "-2"), (0, "0"), ("x", "'x'")]
)
def test_what_is_no_number_of_cells(value, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=rf"adata.obs\['n'\] is {shown} for row 'b' \(1 such rows\)"):
            check_n_cells(pd.Series([3, value], index=["a", "b"]), "n")


def test_scaled_sums_are_fine(sums):
    sums.X = sums.X * 1.37
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_reference(sums, "cell_type", n_cells_key="n_cells")
        check_reference(hp.datasets.blood_reference(), "cell_type", n_cells_key="n_cells", study_key="study")


@pytest.mark.parametrize(
    ("of_cell", "message"),
    [
        (lambda x: np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4), "sums of logged values"),
        (lambda x: x / x.sum(axis=1, keepdims=True) * 1e4, r"same total per cell, 1e\+04: normalised values"),
    ],
)
def test_sums_of_other_values_are_told(of_cell, message):
    adata, _ = hp.datasets.planted_cohort(n_types=4, n_genes=300, n_donors=3, n_cells=240)
    adata = adata[7:].copy()  # groups of more than one size
    adata.X = sparse.csr_matrix(of_cell(np.asarray(adata.X.todense())))
    rows = adata.obs.groupby(["donor", "cell_type"], observed=True).indices
    X = np.stack([np.asarray(adata.X[at].sum(axis=0)).ravel() for at in rows.values()])
    obs = pd.DataFrame(rows.keys(), columns=["donor", "cell_type"]).assign(n_cells=[len(at) for at in rows.values()])
    obs.index = obs.index.astype(str)
    with pytest.warns(UserWarning, match=message):
        check_reference(ad.AnnData(X, obs=obs), "cell_type", n_cells_key="n_cells")


def test_rows_of_one_total_are_told(sums):
    sums.X = sparse.csr_matrix(sums.X.multiply(1e6 / sums.X.sum(axis=1)))
    with pytest.warns(UserWarning, match=r"same total per row, 1e\+06: normalised values"):
        check_reference(sums, "cell_type", n_cells_key="n_cells")


def test_sums_that_are_taken_as_cells_are_told(sums):
    words = r"taken as single cells here, and adata.obs\['n_cells'\] says that they sum up 20"
    for take in (
        lambda: hp.HPVADE.setup_anndata(sums, "cell_type"),
        lambda: hp.tl.check_labels(sums, "cell_type", copy=True),
        lambda: hp.pp.summarize(sums, "cell_type", key_added="n"),
    ):
        with pytest.warns(UserWarning, match=words):
            take()
    adata, _ = hp.datasets.planted_cohort(n_types=4, n_genes=300, n_cells=40)
    adata.obs["n_cells"] = 1  # and cells stay cells
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_reference(adata, "cell_type")
