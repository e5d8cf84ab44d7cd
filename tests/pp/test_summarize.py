"""`pp.summarize`: sums per study, donor and type."""

import numpy as np
import pytest
from scipy import sparse

import hpvade as hp


@pytest.fixture
def adata():
    adata, _ = hp.datasets.planted_cohort(n_types=4, n_genes=30, n_donors=3, n_cells=240)
    adata.obs["study"] = np.where(adata.obs["donor"] == adata.obs["donor"].iloc[0], "a", "b")
    return adata


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_matrix.toarray])
def test_rows_are_the_sums_of_their_cells(adata, kind, unchanged):
    X = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    adata.X = kind(sparse.csr_matrix(X))
    with unchanged(adata):
        sums = hp.pp.summarize(adata, "cell_type", sample_key="donor", study_key="study")
    assert list(sums.obs.columns) == ["study", "donor", "cell_type", "n_cells"]
    assert sums.obs["n_cells"].sum() == adata.n_obs
    keys = ["study", "donor", "cell_type"]
    for row, group, n in zip(sums.X.toarray(), sums.obs[keys].to_numpy(), sums.obs["n_cells"], strict=True):
        own = (adata.obs[keys].astype(str) == group).all(axis=1).to_numpy()
        assert n == own.sum() > 0
        np.testing.assert_allclose(row, X[own].sum(axis=0))
    assert sums.obs_names.is_unique and sums.var_names.equals(adata.var_names)


def test_columns_that_are_not_named_are_not_told_apart(adata, tmp_path):
    sums = hp.pp.summarize(adata, "cell_type")
    assert sums.n_obs == adata.obs["cell_type"].nunique()
    np.testing.assert_allclose(np.asarray(sums.X.sum(axis=0)).ravel(), np.asarray(adata.X.sum(axis=0)).ravel())
    sums.write_h5ad(tmp_path / "sums.h5ad")


def test_bad_columns_are_named(adata):
    with pytest.raises(KeyError, match="sample_key='person' is not a column"):
        hp.pp.summarize(adata, "cell_type", sample_key="person")
    with pytest.raises(KeyError, match="study_key='paper' is not a column"):
        hp.pp.summarize(adata, "cell_type", study_key="paper")
    for arguments in (
        {"sample_key": "cell_type"},
        {"key_added": "cell_type"},
        {"sample_key": "study", "study_key": "study"},
    ):
        with pytest.raises(ValueError, match="expected another column for each argument"):
            hp.pp.summarize(adata, "cell_type", **arguments)
    with pytest.raises(ValueError, match="without slashes"):
        hp.pp.summarize(adata, "cell_type", key_added="a/b")


def test_rows_whose_names_hold_the_bar_are_told_apart(adata):
    adata = adata[:40].copy()
    adata.obs["cell_type"], adata.obs["donor"] = ["8|9", "9"] * 20, ["a", "a|8"] * 20
    sums = hp.pp.summarize(adata, "cell_type", sample_key="donor")
    assert sums.obs_names.is_unique and sums.obs["n_cells"].tolist() == [20, 20]
