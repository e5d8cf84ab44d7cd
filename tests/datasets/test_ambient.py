"""Planted ambient RNA."""

import numpy as np
import pytest

import hpvade as hp


@pytest.fixture(scope="module")
def observed():
    reference = hp.datasets.planted_cohort(n_types=3, n_genes=60, n_cells=600, n_samples=2, seed=0)[0]
    return reference, hp.datasets.plant_ambient(reference, fractions=(0.0, 0.1, 0.3), seed=0)


def test_counts_are_native_plus_ambient(observed):
    reference, adata = observed
    ambient = (adata.X - adata.layers["native"]).toarray()
    np.testing.assert_array_equal(adata.layers["native"].toarray(), reference.X.toarray())
    assert (ambient >= 0).all() and (ambient == np.rint(ambient)).all()
    share = ambient.sum(1) / adata.X.sum(1).A1
    np.testing.assert_allclose(adata.obs["ambient_fraction"], share)
    for batch, expected in zip(("batch_0", "batch_1", "batch_2"), (0.0, 0.1, 0.3), strict=True):
        own = (adata.obs["batch"] == batch).to_numpy()
        assert share[own].mean() == pytest.approx(expected, abs=0.01)
        if expected:
            found = ambient[own].sum(0) / ambient[own].sum()
            assert np.corrcoef(found, adata.varm["ambient_profile"][batch])[0, 1] > 0.99


def test_profiles_differ_and_sum_to_one(observed):
    profile = observed[1].varm["ambient_profile"]
    np.testing.assert_allclose(profile.sum(), 1)
    assert (profile["batch_1"] - profile["batch_2"]).abs().max() > 1e-4


def test_same_seed_same_counts_and_the_reference_is_not_changed(observed, unchanged):
    reference, adata = observed
    with unchanged(reference):
        again = hp.datasets.plant_ambient(reference, fractions=(0.0, 0.1, 0.3), seed=0)
    assert (again.X != adata.X).nnz == 0
    assert (hp.datasets.plant_ambient(reference, fractions=(0.0, 0.1, 0.3), seed=1).X != adata.X).nnz > 0


def test_few_counts_are_drawn_at_once_and_it_does_not_show(observed, monkeypatch):
    reference, adata = observed
    monkeypatch.setattr("hpvade.datasets._ambient._DENSE_BLOCK", 1000)
    again = hp.datasets.plant_ambient(reference, fractions=(0.0, 0.1, 0.3), seed=0)
    assert (again.X != adata.X).nnz == 0
    assert again.obs["ambient_fraction"].equals(adata.obs["ambient_fraction"])


@pytest.mark.parametrize("fractions", [(), (1.0,), (-0.1,)])
def test_bad_shares(observed, fractions):
    with pytest.raises(ValueError, match="expected shares of at least 0 and below 1"):
        hp.datasets.plant_ambient(observed[0], fractions=fractions)
