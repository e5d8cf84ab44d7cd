"""`pp.simulate_bulk` on an AnnData."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.special import digamma, xlogy

import hpvade as hp


@pytest.fixture
def adata():
    adata, _ = hp.datasets.planted_cohort(n_types=4, n_genes=30, n_donors=3, n_cells=240)
    adata.layers["counts"] = adata.X.copy()
    return adata


def entropy(table):
    return -xlogy(table, table).sum(axis=1)


def test_hp25_documented_keys(adata):
    bulk = hp.pp.simulate_bulk(adata, "cell_type", 5, n_cells=50, sample_key="donor", seed=0)
    assert isinstance(bulk, ad.AnnData) and bulk.shape == (5, 30)
    assert list(bulk.var_names) == list(adata.var_names)
    assert set(bulk.obsm) == {"proportions", "rna_proportions"}
    for table in bulk.obsm.values():
        assert list(table.columns) == list(adata.obs["cell_type"].cat.categories)
        assert table.index.equals(bulk.obs_names)
        np.testing.assert_allclose(table.sum(axis=1), 1)
    cells = bulk.obsm["proportions"] * 50
    np.testing.assert_allclose(cells, np.rint(cells), atol=1e-12)


def test_counts_are_sums_of_cells(adata):
    """With one gene of one molecule per cell and one marker per type, counts give the cells of every type."""
    markers = pd.get_dummies(adata.obs["cell_type"]).to_numpy(dtype=float)
    cells = ad.AnnData(np.c_[np.ones(240), markers, 3 * markers[:, :1]], obs=adata.obs)
    bulk = hp.pp.simulate_bulk(cells, "cell_type", 20, n_cells=70, seed=0)
    np.testing.assert_array_equal(bulk.X[:, 0], 70)
    np.testing.assert_array_equal(bulk.X[:, 1:5] / 70, bulk.obsm["proportions"].to_numpy(np.float32))
    molecules = bulk.obsm["proportions"] * [5, 2, 2, 2]
    np.testing.assert_allclose(bulk.obsm["rna_proportions"], molecules.div(molecules.sum(axis=1), axis=0), rtol=1e-6)


def test_hp25_alpha_and_sparse_change_the_label_entropy(adata):
    def labels(**kwargs):
        return hp.pp.simulate_bulk(adata, "cell_type", 1000, n_cells=1000, seed=0, **kwargs).obsm["proportions"]

    for alpha in (0.2, 1.0, 10.0):
        expected = digamma(4 * alpha + 1) - digamma(alpha + 1)
        assert entropy(labels(alpha=alpha)).mean() == pytest.approx(expected, rel=0.05)
    assert (labels(alpha=10, sparse=1.0) == 0).any(axis=1).all()
    assert entropy(labels(sparse=1.0)).mean() < entropy(labels(sparse=0.5)).mean() < entropy(labels()).mean()


def test_types_of_a_donor_come_from_that_donor(adata):
    """A gene per donor: in most samples every type has one donor, without `sample_key` all take part."""
    donors = pd.get_dummies(adata.obs["donor"]).to_numpy(dtype=float)
    cells = ad.AnnData(donors, obs=adata.obs)

    def one_donor(**kwargs):
        bulk = hp.pp.simulate_bulk(cells, "cell_type", 300, n_cells=500, alpha=0.01, seed=0, **kwargs)
        return ((bulk.X > 0).sum(axis=1) == 1)[(bulk.obsm["proportions"].max(axis=1) > 0.999)].mean()

    assert one_donor(sample_key="donor") == pytest.approx(0.7, abs=0.1)
    assert one_donor() == 0


def test_layer_and_seed(adata):
    first = hp.pp.simulate_bulk(adata, "cell_type", 3, seed=1)
    adata.X = adata.X * 7
    again = hp.pp.simulate_bulk(adata, "cell_type", 3, layer="counts", seed=1)
    np.testing.assert_array_equal(first.X, again.X)
    assert (hp.pp.simulate_bulk(adata, "cell_type", 3, layer="counts", seed=2).X != first.X).any()


def test_columns_that_are_not_categorical_and_unused_categories(adata):
    adata.obs["text"] = adata.obs["cell_type"].astype(str)
    adata.obs["wide"] = adata.obs["cell_type"].cat.add_categories(["nobody"])
    adata.obs["number"] = adata.obs["donor"].cat.codes.astype(float)
    expected = hp.pp.simulate_bulk(adata, "cell_type", 3, sample_key="donor", seed=0)
    for labels_key in ("text", "wide"):
        found = hp.pp.simulate_bulk(adata, labels_key, 3, sample_key="number", seed=0)
        np.testing.assert_array_equal(found.X, expected.X)
        pd.testing.assert_frame_equal(found.obsm["proportions"], expected.obsm["proportions"])


def test_reference_is_unchanged(adata, unchanged):
    with unchanged(adata):
        hp.pp.simulate_bulk(adata, "cell_type", 3, sample_key="donor", seed=0)


@pytest.mark.parametrize(
    ("error", "kwargs", "message"),
    [
        (KeyError, {"labels_key": "type"}, "labels_key='type'"),
        (KeyError, {"sample_key": "person"}, "sample_key='person'"),
        (KeyError, {"layer": "raw"}, "layer 'raw'"),
        (ValueError, {"n_samples": 0}, "n_samples=0"),
        (ValueError, {"n_cells": 0}, "n_cells=0"),
        (ValueError, {"alpha": -1}, "alpha is -1"),
        (ValueError, {"sparse": 2}, "sparse is 2"),
    ],
)
def test_errors(adata, unchanged, error, kwargs, message):
    with unchanged(adata), pytest.raises(error, match=message):
        hp.pp.simulate_bulk(**{"adata": adata, "labels_key": "cell_type", "n_samples": 2} | kwargs)


def test_negative_counts_are_refused(adata):
    adata.X[3, 4] = -1
    with pytest.raises(ValueError, match="negative value"):
        hp.pp.simulate_bulk(adata, "cell_type", 2)
