import numpy as np
import pytest

from hpvade.datasets import planted_cohort

QUIET = {"donor_sd": 0.0, "dispersion": 0.0}


def expected_bulk(bulk):
    """Expected counts from the planted quantities alone (donor_sd = 0), by loops over the written equations."""
    signature, p = bulk.varm["signature"].to_numpy(), bulk.obsm["proportions"].to_numpy()
    a, h = bulk.var["platform_factor"].to_numpy(), bulk.var["unknown_profile"].to_numpy()
    mean = np.zeros(bulk.shape)
    for n in range(bulk.n_obs):
        molecules = signature @ p[n]
        u = bulk.obs["unknown"].iloc[n]
        q = (1 - u) * molecules / molecules.sum() + u * h
        mean[n] = bulk.obs["depth"].iloc[n] * a * q / (a @ q)
    return mean


@pytest.mark.parametrize("nuisance", [{}, {"platform_sd": 1.0}, {"unknown": 0.2}, {"platform_sd": 0.5, "unknown": 0.1}])
def test_bulk_is_the_mixture_of_molecules_within_poisson_noise(nuisance):
    _, bulk = planted_cohort(n_samples=40, **QUIET, **nuisance)
    mean = expected_bulk(bulk)
    z = (bulk.X - mean) / np.sqrt(mean)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert np.mean(z**2) == pytest.approx(1, abs=0.05)


def test_dispersion_is_negative_binomial():
    _, bulk = planted_cohort(n_samples=200, donor_sd=0.0, dispersion=0.1)
    mean = expected_bulk(bulk)
    z2 = (bulk.X - mean) ** 2 / (mean + 0.1 * mean**2)
    assert z2.mean() == pytest.approx(1, abs=0.05)


def test_rna_fractions_follow_cells_and_content():
    content = [1.0, 5.0, 2.0]
    _, bulk = planted_cohort(n_types=3, rna_content=content)
    p, r = bulk.obsm["proportions"].to_numpy(), bulk.obsm["rna_proportions"].to_numpy()
    expected = p * content / (p * content).sum(1, keepdims=True)
    np.testing.assert_allclose(r, expected, rtol=1e-12)
    np.testing.assert_allclose([p.sum(1), r.sum(1)], 1.0, rtol=1e-12)


def test_content_is_the_column_sum_of_the_signature():
    reference, bulk = planted_cohort(n_types=4, umi=1500.0)
    np.testing.assert_allclose(
        reference.varm["signature"].sum(0), 1500 * np.geomspace(1, 4, 4) / np.sqrt(4), rtol=1e-12
    )
    np.testing.assert_allclose(reference.uns["rna_content"], np.geomspace(1, 4, 4) / 2, rtol=1e-12)
    assert bulk.varm["signature"].equals(reference.varm["signature"])


def test_reference_means_are_the_signature():
    reference, _ = planted_cohort(n_cells=5000, n_donors=1, n_genes=200, **QUIET)
    for name, column in reference.varm["signature"].items():
        counts = reference[reference.obs["cell_type"] == name].X.toarray()
        # 1000 cells, Poisson plus cell sizes with sd 0.2; the sizes have mean one
        sd = np.sqrt((column + 0.041 * column**2) / len(counts))
        assert np.abs((counts.mean(0) - column) / sd).max() < 5


def test_donors_and_batches_differ_as_asked():
    def spread(key, **options):
        reference, _ = planted_cohort(n_cells=4000, n_types=2, n_genes=100, dispersion=0.0, **options)
        sums = reference.to_df().groupby([reference.obs["cell_type"], reference.obs[key]], observed=True).sum()
        logs = np.log(sums[sums.columns[sums.min() > 500]])
        return logs.sub(logs.mean(axis=1), axis=0).loc["type_0"].std().median()

    assert spread("donor", donor_sd=0.0) < 0.05
    assert spread("donor", donor_sd=0.4) == pytest.approx(0.4, rel=0.3)
    assert spread("batch", donor_sd=0.0, batch_sd=0.5) > 0.2
    assert spread("batch", donor_sd=0.0) < 0.05


def test_reference_has_every_type_in_every_donor_and_nested_batches():
    reference, bulk = planted_cohort(n_donors=4)
    counts = reference.obs.groupby(["donor", "cell_type"], observed=True).size()
    assert counts.tolist() == [50] * 20
    assert (reference.obs.groupby("donor", observed=True)["batch"].nunique() == 1).all()
    assert reference.obs["batch"].nunique() == 2
    assert set(bulk.obs["donor"]).isdisjoint(reference.obs["donor"])
    assert (reference.var_names[0], reference.obs["cell_type"].cat.categories[0]) == ("gene_0001", "type_0")


def test_counts_are_non_negative_integers():
    for adata in planted_cohort(platform_sd=1.0, unknown=0.1):
        values = adata.X if isinstance(adata.X, np.ndarray) else adata.X.data
        assert (values >= 0).all()
        assert (values == np.round(values)).all()


def test_same_seed_same_data():
    for first, again, other in zip(planted_cohort(seed=3), planted_cohort(seed=3), planted_cohort(seed=4), strict=True):
        assert first.to_df().equals(again.to_df())
        assert first.obs.equals(again.obs)
        assert not first.to_df().equals(other.to_df())


def test_nuisance_leaves_truth_alone():
    plain = planted_cohort()[1]
    noisy = planted_cohort(platform_sd=1.0, donor_sd=0.5, unknown=0.1, dispersion=0.2, n_cells=400)[1]
    assert noisy.obsm["proportions"].equals(plain.obsm["proportions"])
    assert noisy.varm["signature"].equals(plain.varm["signature"])
    assert (plain.obs["unknown"] == 0).all()
    assert (plain.var["platform_factor"] == 1).all()


def test_platform_unknown_and_concentration_have_the_asked_moments():
    _, bulk = planted_cohort(n_genes=2000, n_samples=400, platform_sd=0.7, unknown=0.15, concentration=[8, 4, 2, 1, 1])
    assert np.log(bulk.var["platform_factor"]).std() == pytest.approx(0.7, rel=0.1)
    assert bulk.obs["unknown"].mean() == pytest.approx(0.15, abs=0.02)
    np.testing.assert_allclose(bulk.obsm["proportions"].mean(), np.array([8, 4, 2, 1, 1]) / 16, atol=0.03)
    assert bulk.obs["depth"].between(0.5e6, 2e6).all()


def test_markers_separate_types_and_similar_joins_the_last_two():
    def correlation(**options):
        return np.corrcoef(np.log(planted_cohort(**options)[0].varm["signature"]).T)[-1]

    apart, close, same = correlation(), correlation(similar=0.8), correlation(similar=1.0)
    assert apart[:-1].max() < 0.9
    assert apart[-2] < 0.9 < 0.98 < close[-2] < same[-2]
    assert same[-2] == pytest.approx(1)
    np.testing.assert_allclose(close[:-2], apart[:-2], atol=0.1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_types": 1}, "n_types is 1"),
        ({"n_genes": 0}, "n_genes is 0"),
        ({"n_cells": 19}, "n_types \\* n_donors = 20"),
        ({"rna_content": [1.0, 2.0]}, "expected 5 positive numbers"),
        ({"rna_content": [1.0, 2.0, 3.0, 4.0, 0.0]}, "expected 5 positive numbers"),
        ({"unknown": 1.0}, "unknown is 1;"),
        ({"similar": 1.5}, "similar is 1.5"),
        ({"platform_sd": -1.0}, "platform_sd is -1.0"),
        ({"depth": np.nan}, "depth is nan"),
    ],
)
def test_values_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        planted_cohort(**options)


def test_written_and_read_back(tmp_path):
    import anndata as ad

    for adata in planted_cohort():
        adata.write_h5ad(tmp_path / "planted.h5ad")
        assert ad.read_h5ad(tmp_path / "planted.h5ad").to_df().equals(adata.to_df())
