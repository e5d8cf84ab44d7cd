"""Batches of one bulk are each judged by their own fit: as if they were alone."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

KEY = "hpvade_qc"


def batch(reference, names, seed, sd, n_reads=5e6):
    """Mixtures on a platform of their own, whose genes differ from the reference's by log-normal factors of `sd`."""
    rng = np.random.default_rng(seed)
    profiles = (reference.varm["signature"] / reference.varm["signature"].sum()).to_numpy().T
    seen = rng.dirichlet(np.full(len(profiles), 4.0), len(names)) @ profiles
    seen *= np.exp(sd * rng.standard_normal(seen.shape[1])) * np.exp(0.1 * rng.standard_normal(seen.shape))
    counts = rng.poisson(n_reads * seen / seen.sum(axis=1, keepdims=True)).astype(np.float32)
    return ad.AnnData(counts, obs=pd.DataFrame(index=names), var=reference.var[[]].copy())


@pytest.fixture(scope="module")
def cohorts(trained):
    near = batch(trained.reference, [f"near{i}" for i in range(10)], 0, 0.3)
    far = batch(trained.reference, [f"far{i}" for i in range(6)], 1, 1.6)
    return {"near": near, "far": far}


@pytest.fixture(scope="module")
def joined(cohorts):
    both = ad.concat(cohorts, label="study")
    mixed = np.argsort(np.r_[np.linspace(0, 1, 10), np.linspace(0.05, 0.95, 6)])  # each batch keeps its order
    return both[mixed].copy()


@pytest.fixture(scope="module")
def diagnosed(trained, joined):
    return hp.tl.diagnose(joined, trained.model, batch_key="study", copy=True)


@pytest.fixture(scope="module")
def alone(trained, cohorts):
    return {name: hp.tl.diagnose(bulk, trained.model, copy=True) for name, bulk in cohorts.items()}


def test_each_batch_is_judged_as_if_it_were_alone(joined, diagnosed, alone):
    for name, one in alone.items():
        here = joined.obs_names[joined.obs["study"] == name]
        columns = list(one.obs)
        apart = one.obs.loc[here, columns]
        pd.testing.assert_frame_equal(diagnosed.obs.loc[here, columns], apart, rtol=1e-4, atol=1e-6)
        of_batch, summary = diagnosed.uns[KEY]["batches"].loc[name], one.uns[KEY]
        assert of_batch["n_samples"] == one.n_obs
        for number in ("platform_distance", "factor_sd", "max_cosine", "drift", "simulated_residual", "n_genes"):
            assert of_batch[number] == pytest.approx(summary[number], rel=1e-4), number


def test_messages_name_the_batch(diagnosed, alone):
    said = list(diagnosed.uns[KEY]["messages"])
    assert any("unusually far" in text for text in alone["far"].uns[KEY]["messages"])
    assert not any("unusually far" in text for text in alone["near"].uns[KEY]["messages"])
    (far,) = [text for text in said if "unusually far" in text]
    assert far.startswith("Batch 'far' (6 samples): The bulk's platform is unusually far")


def test_what_batches_have_in_common(joined, diagnosed, alone, trained):
    summary, near, far = diagnosed.uns[KEY], alone["near"].uns[KEY], alone["far"].uns[KEY]
    for name in ("platform_distance", "factor_sd", "factor_r2", "simulated_unexplained"):
        assert summary[name] == pytest.approx((10 * near[name] + 6 * far[name]) / 16, rel=1e-4), name
    assert summary["n_simulated"] == near["n_simulated"] + far["n_simulated"]
    assert summary["max_cosine"] == pytest.approx(max(near["max_cosine"], far["max_cosine"]), rel=1e-4)
    bulk = joined.copy()
    proportions = trained.model.deconvolve(bulk, batch_key="study")
    np.testing.assert_allclose(summary["types"]["mean"], proportions.mean(), atol=1e-6)
    np.testing.assert_allclose(summary["types"]["sd"], proportions.std(), atol=1e-6)
    assert summary["platform_distance"] == pytest.approx(bulk.uns["hpvade_proportions"]["platform_distance"], rel=1e-5)
    both = near["residual_genes"].index.intersection(far["residual_genes"].index)
    both = both.intersection(summary["residual_genes"].index)
    mean = (10 * near["residual_genes"] + 6 * far["residual_genes"]).loc[both, ["excess", "log2_ratio"]] / 16
    np.testing.assert_allclose(summary["residual_genes"].loc[both, mean.columns], mean, rtol=1e-3, atol=1e-7)


def test_missing_types_are_means_over_the_samples(trained, cohorts, joined):
    markers = {"ghost": list(trained.reference.var_names[:5])}
    both = hp.tl.diagnose(joined, trained.model, batch_key="study", markers=markers, n_simulated=12, copy=True)
    table = both.uns[KEY]["missing_types"]
    parts = {
        name: hp.tl.diagnose(bulk, trained.model, markers=markers, n_simulated=12, copy=True).uns[KEY]["missing_types"]
        for name, bulk in cohorts.items()
    }
    assert list(table.index) == ["ghost"] and table.loc["ghost", "genes"] == parts["near"].loc["ghost", "genes"]
    for name in ("score", "share", "fold"):
        mean = (10 * parts["near"].loc["ghost", name] + 6 * parts["far"].loc["ghost", name]) / 16
        assert table.loc["ghost", name] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_batches_that_are_found_by_their_genes_are_judged_apart(trained, cohorts):
    """A join filled half of the genes of one batch with zeros; named or not, it is a batch as in `deconvolve`."""
    bulk = ad.concat(cohorts, label="study")
    bulk.X[10:, ::2] = 0
    with pytest.warns(UserWarning, match="count as not measured"):
        found = hp.tl.diagnose(bulk, trained.model, n_simulated=12, copy=True)
        named = hp.tl.diagnose(bulk, trained.model, batch_key="study", n_simulated=12, copy=True)
    assert set(found.uns[KEY]["batches"]["n_samples"]) == {6, 10} and len(found.uns[KEY]["batches"]) == 2
    assert sorted(found.uns[KEY]["batches"]["n_genes"]) == sorted(named.uns[KEY]["batches"]["n_genes"]) == [150, 300]
    assert found.uns[KEY]["n_genes"] == 150  # that all measure
    columns = [column for column in found.obs if column.startswith(KEY)]
    pd.testing.assert_frame_equal(found.obs[columns], named.obs[columns], rtol=1e-4, atol=1e-6)


def test_a_skipped_sample_and_the_truth_keep_their_places(trained, joined):
    bulk = joined.copy()
    bulk.X[3] = 0
    with pytest.warns(UserWarning, match="no expression"):
        proportions = trained.model.deconvolve(bulk.copy(), batch_key="study", on_bad_sample="skip")
        bulk.obsm["truth"] = proportions.fillna(0.25)
        options = {"on_bad_sample": "skip", "truth_key": "truth", "n_simulated": 12}
        hp.tl.diagnose(bulk, trained.model, batch_key="study", **options)
    skipped = bulk.obs[f"{KEY}_residual"].isna().to_numpy()
    assert list(np.flatnonzero(skipped)) == [3] and "no expression" in bulk.obs[f"{KEY}_verdict"].iloc[3]
    assert bulk.uns[KEY]["evaluation"].loc["hpvade", "rmse"] < 1e-6 < bulk.uns[KEY]["evaluation"].loc["nnls", "rmse"]


def test_a_batch_key_that_is_not_there_changes_nothing(trained, joined, unchanged):
    with unchanged(joined), pytest.raises(KeyError, match="batch_key='plate' is not a column"):
        hp.tl.diagnose(joined, trained.model, batch_key="plate")


def test_survives_a_file(diagnosed, tmp_path):
    diagnosed.write_h5ad(tmp_path / "bulk.h5ad")
    back = ad.read_h5ad(tmp_path / "bulk.h5ad").uns[KEY]["batches"]
    pd.testing.assert_frame_equal(back, diagnosed.uns[KEY]["batches"], check_index_type=False)
