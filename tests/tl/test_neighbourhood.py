"""Neighbourhood metrics on AnnData: markers, columns, degradation, composite."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp


def cells(n=60, seed=0):
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    means = np.full((2, 10), 2.0)
    means[0, :4], means[1, 4:8] = 12.0, 12.0
    adata = ad.AnnData(rng.poisson(means[kind]).astype(np.float32))
    adata.var_names = [f"g{i}" for i in range(10)]
    adata.obs["cluster"] = pd.Categorical([f"k{k}" for k in kind])
    library = np.arange(n) // 2 % 4
    adata.obs["library"] = [f"l{k}" for k in library]
    adata.obs["study"] = [f"s{k // 2}" for k in library]
    adata.obs["kit"] = [f"v{k}" for k in np.arange(n) // 8 % 2]
    distance = np.abs(kind[:, None] - kind) * 10 + rng.random((n, n))
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :8]
    W = np.zeros((n, n))
    np.put_along_axis(W, near, 1.0, axis=1)
    adata.obsp["connectivities"] = sparse.csr_matrix(W)
    return adata


KEYS = {"library_key": "library", "dataset_key": "study", "technical_covariate_keys": ["kit"]}
MARKERS = [f"g{i}" for i in range(8)]


def test_markers_from_groups():
    adata = cells()
    assert hp.tl.marker_genes(adata, "cluster") == list(adata.var_names)  # all above one, shares of at least 0.1
    adata.X[:, 9] = 0.1
    assert "g9" not in hp.tl.marker_genes(adata, "cluster")
    with pytest.raises(KeyError, match="groupby='type'"):
        hp.tl.marker_genes(adata, "type")
    with pytest.raises(ValueError, match="no gene has a mean count"):
        hp.tl.marker_genes(ad.AnnData(np.full((4, 2), 0.2), obs={"c": list("aabb")}), "c")


def test_rv_21_profiles_are_scaled_to_the_number_of_genes_before_markers_are_taken():
    adata = cells()
    table = hp.tl.neighbourhood_correlation(adata, markers=MARKERS, **KEYS)
    x = adata.X / adata.X.sum(1, keepdims=True) * 10
    x = x[:, :8]
    W = adata.obsp["connectivities"].toarray() * (
        adata.obs["library"].to_numpy()[:, None] == adata.obs["library"].to_numpy()
    )
    for n in (0, 13, 31):
        if W[n].sum():
            expected = np.corrcoef(x[n], W[n] @ x / W[n].sum())[0, 1]
            assert table["corr_avg_same_library"].iloc[n] == pytest.approx(expected, abs=1e-6)
    ratio = table["corr_avg_cross_library"] / table["corr_avg_same_library"]
    np.testing.assert_allclose(table["corr_norm_by_library_cross_library"], ratio)
    np.testing.assert_allclose(
        table["corr_discrepancy_cross_dataset"], table["corr_avg_cross_dataset"] - table["corr_mean_cross_dataset"]
    )
    assert (table["n_neighbours_all"] == 8).all()
    np.testing.assert_allclose(table["frac_neighbours_same_library"] + table["frac_neighbours_between_libraries"], 1)


def test_rv_20_only_the_library_is_needed():
    table = hp.tl.neighbourhood_correlation(cells(), markers=MARKERS, library_key="library")
    assert not [column for column in table if "dataset" in column or "cross_" in column or "kit" in column]
    summary = hp.tl.summarize_neighbourhoods(table)
    assert np.isnan(summary["corr_cross_dataset"]) and np.isnan(summary["cross_technical_correlation"])
    assert (
        np.isnan(summary["dataset"])
        and np.isfinite(summary[["corr_within_library", "library", "batch", "total"]]).all()
    )


def test_headline_and_composite():
    table = hp.tl.neighbourhood_correlation(cells(), markers=MARKERS, **KEYS)
    summary = hp.tl.summarize_neighbourhoods(table)
    assert summary["corr_within_library"] == pytest.approx(table["corr_avg_same_library"].median())
    assert summary["gap_cross_dataset"] == pytest.approx(summary["corr_within_library"] - summary["corr_cross_dataset"])
    for unit, mask in (("library", "cross_library"), ("dataset", "cross_dataset")):
        ratio = np.clip(table.attrs["isolation"][mask]["isolation_norm"], 0, 2)
        expected = 0.4 * summary[f"corr_cross_{unit}"] + 0.3 * (1 - ratio) + 0.3 * summary[f"distrib_overlap_{unit}"]
        assert summary[unit] == pytest.approx(expected)
    assert summary["batch"] == pytest.approx((summary["library"] + summary["dataset"]) / 2)
    assert summary["total"] == pytest.approx(0.6 * summary["bio"] + 0.4 * summary["batch"])


def test_a_mixed_graph_of_like_cells_beats_a_random_one():
    adata = cells()
    good = hp.tl.summarize_neighbourhoods(hp.tl.neighbourhood_correlation(adata, markers=MARKERS, **KEYS))
    random = hp.tl.summarize_neighbourhoods(hp.tl.random_baseline(adata, markers=MARKERS, **KEYS))
    assert good["corr_cross_dataset"] > random["corr_cross_dataset"] + 0.1 and good["total"] > random["total"]


def test_rv_22_hierarchy_and_missing_keys():
    adata = cells()
    adata.obs.loc[adata.obs_names[:4], "library"] = np.nan
    table = hp.tl.neighbourhood_correlation(adata, markers=MARKERS, **KEYS)
    assert table["corr_avg_same_library"].iloc[:4].isna().all()
    assert table["corr_avg_all_neighbours"].notna().all()
    adata.obs["study"] = adata.obs["kit"]
    with pytest.raises(ValueError, match="lie in more than one data set"):
        hp.tl.neighbourhood_correlation(adata, markers=MARKERS, **KEYS)


def test_keys_default_to_those_of_the_setup():
    adata = cells()
    hp.AmbientRegularizedSCVI.setup_anndata(adata, **KEYS)
    found = hp.tl.neighbourhood_correlation(adata, markers=MARKERS)
    pd.testing.assert_frame_equal(found, hp.tl.neighbourhood_correlation(adata, markers=MARKERS, **KEYS))
    with pytest.raises(ValueError, match="no library is named"):
        hp.tl.neighbourhood_correlation(cells(), markers=MARKERS)


def test_markers_from_a_file(tmp_path):
    table = pd.DataFrame({"gene": MARKERS, "cell_type": "a", "lineage": "b", "category": "c"})
    table.to_csv(tmp_path / "markers.csv")
    found = hp.tl.neighbourhood_correlation(cells(), markers=tmp_path / "markers.csv", **KEYS)
    pd.testing.assert_frame_equal(found, hp.tl.neighbourhood_correlation(cells(), markers=MARKERS, **KEYS))
    table.drop(columns="lineage").to_csv(tmp_path / "markers.csv")
    with pytest.raises(ValueError, match=r"no columns \['lineage'\]"):
        hp.tl.neighbourhood_correlation(cells(), markers=tmp_path / "markers.csv", **KEYS)


def test_rv_27_absent_markers_and_graph():
    with pytest.raises(ValueError, match=r"1 of 9 markers are not in adata.var_names: \['CD3D'\]"):
        hp.tl.neighbourhood_correlation(cells(), markers=[*MARKERS, "CD3D"], **KEYS)
    with pytest.raises(KeyError, match="no 'graph': run `sc.pp.neighbors"):
        hp.tl.neighbourhood_correlation(cells(), markers=MARKERS, connectivities_key="graph", **KEYS)


def test_stratified_summary():
    table = hp.tl.neighbourhood_correlation(cells(), markers=MARKERS, **KEYS)
    found = hp.tl.stratified_summary(table, "library")
    own = table.loc[table["library"] == "l1", "corr_avg_cross_dataset"]
    for name, q in {"median": 0.5, "p10": 0.1, "p25": 0.25, "p75": 0.75, "p90": 0.9}.items():
        assert found.loc["l1", ("corr_avg_cross_dataset", name)] == pytest.approx(own.quantile(q))
    with pytest.raises(KeyError, match=r"by=\['lane'\]"):
        hp.tl.stratified_summary(table, "lane")
