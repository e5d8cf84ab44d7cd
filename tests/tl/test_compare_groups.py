"""`tl.compare_groups` against scipy, planted differences, and users' mistakes."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import hpvade as hp

KEY = "hpvade_proportions"
TYPES = ["B", "CD4 T", "NK", "Mono"]


def cohort(n=10, fold=1.0, seed=0, width=None, zeros=0):
    """n against n samples; in group b the odds of B cells are `fold` as high."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([10, 40, 20, 30], 2 * n)
    p[n:, 0] *= fold
    p[:zeros, 0] = 0
    p /= p.sum(axis=1, keepdims=True)
    obs = pd.DataFrame({"group": ["a"] * n + ["b"] * n}, index=[f"s{i}" for i in range(2 * n)])
    bulk = ad.AnnData(obs=obs)
    bulk.obsm[KEY] = pd.DataFrame(p, obs.index, TYPES)
    if width is not None:
        bulk.obsm[f"{KEY}_lower"] = (bulk.obsm[KEY] - width / 2).clip(lower=0)
        bulk.obsm[f"{KEY}_upper"] = bulk.obsm[KEY] + width / 2
    return bulk


def clr(bulk):
    log = np.log(bulk.obsm[KEY])
    return log.sub(log.mean(axis=1), axis=0)


def test_without_uncertainty_it_is_the_t_test_of_centred_log_ratios():
    bulk = cohort(fold=2)
    found = hp.tl.compare_groups(bulk, "group", method="ols").set_index("type")
    ratio, p = clr(bulk), bulk.obsm[KEY]
    expected = stats.ttest_ind(ratio[10:], ratio[:10])
    np.testing.assert_allclose(found["p_value"], expected.pvalue)
    np.testing.assert_allclose(found["fdr"], stats.false_discovery_control(expected.pvalue))
    np.testing.assert_allclose(found["log2_ratio"], (ratio[10:].mean() - ratio[:10].mean()) / np.log(2))
    np.testing.assert_allclose(found["log2_upper"], expected.confidence_interval(0.95).high / np.log(2))
    np.testing.assert_allclose(found["difference"], p[10:].mean() - p[:10].mean())
    np.testing.assert_allclose(found["difference_lower"], stats.ttest_ind(p[10:], p[:10]).confidence_interval().low)
    np.testing.assert_allclose(found["mean_group"], p[10:].mean())
    assert found["platform_limit"].isna().all()


def test_narrow_intervals_change_nothing():
    exact = hp.tl.compare_groups(cohort(fold=2), "group", method="ols")
    narrow = hp.tl.compare_groups(cohort(fold=2, width=1e-6), "group")
    np.testing.assert_allclose(narrow["log2_ratio"], exact["log2_ratio"], rtol=1e-4)
    np.testing.assert_allclose(narrow["p_value"], exact["p_value"], rtol=1e-3)


def test_a_sample_with_a_wide_interval_counts_for_less():
    bulk = cohort(width=0.01)
    bulk.obsm[KEY].iloc[0] = [0.7, 0.1, 0.1, 0.1]  # far off, and it says so
    sharp = bulk.obsm[KEY].iloc[:1].to_numpy()
    bulk.obsm[f"{KEY}_lower"].iloc[0], bulk.obsm[f"{KEY}_upper"].iloc[0] = 0.0, 1.0
    loose = hp.tl.compare_groups(bulk, "group").set_index("type").loc["B", "log2_ratio"]
    bulk.obsm[f"{KEY}_lower"].iloc[:1], bulk.obsm[f"{KEY}_upper"].iloc[:1] = sharp - 0.005, sharp + 0.005
    trusted = hp.tl.compare_groups(bulk, "group").set_index("type").loc["B", "log2_ratio"]
    truth = hp.tl.compare_groups(cohort(), "group", method="ols").set_index("type").loc["B", "log2_ratio"]
    assert abs(loose - truth) < 0.5 * abs(trusted - truth)


def test_errors_of_the_level_leave_log_ratios():
    bulk = cohort(fold=2)
    other = bulk.copy()
    other.obsm[KEY] = (bulk.obsm[KEY] * [3, 1, 0.5, 1]).pipe(lambda p: p.div(p.sum(axis=1), axis=0))
    first, second = (hp.tl.compare_groups(one, "group", method="ols") for one in (bulk, other))
    for column in ("log2_ratio", "log2_lower", "p_value", "fdr"):
        np.testing.assert_allclose(first[column], second[column])
    assert not np.allclose(first["difference"], second["difference"])


def test_pairs_covariates_and_batches():
    bulk = cohort(fold=1.5)
    bulk.obs["subject"] = [f"p{i}" for i in range(10)] * 2
    bulk.obs["batch"] = [0, 1] * 10
    bulk.obs["age"] = np.random.default_rng(0).normal(50, 10, 20)
    ratio = clr(bulk)
    paired = hp.tl.compare_groups(bulk, "group", paired="subject", method="ols")
    np.testing.assert_allclose(paired["p_value"], stats.ttest_rel(ratio[10:], ratio[:10]).pvalue)
    adjusted = hp.tl.compare_groups(bulk, "group", covariates="age", batch_key="batch", method="ols")
    X = np.column_stack([np.ones(20), np.repeat([0, 1], 10), bulk.obs["age"], bulk.obs["batch"]])
    expected = np.linalg.lstsq(X, ratio.to_numpy(), rcond=None)[0][1]
    np.testing.assert_allclose(adjusted["log2_ratio"], expected / np.log(2))
    assert list(bulk.uns["compare_groups"]["params"]["adjusted_for"]) == ["age", "batch"]
    bulk.obs["batch"] = 0  # nothing to adjust for
    same = hp.tl.compare_groups(bulk, "group", batch_key="batch", method="ols")
    np.testing.assert_allclose(same["p_value"], stats.ttest_ind(ratio[10:], ratio[:10]).pvalue)


def test_more_than_two_groups():
    bulk = cohort(n=9, fold=2)
    bulk.obs["group"] = pd.Categorical(["u"] * 6 + ["v"] * 6 + ["w"] * 6, ["v", "w", "u"])
    found = hp.tl.compare_groups(bulk, "group", method="ols")
    assert list(found["group"][:2]) == ["w", "u"] and set(found["reference"]) == {"v"} and len(found) == 8
    ratio = clr(bulk)
    omnibus = [stats.f_oneway(*(ratio[t][i : i + 6] for i in (0, 6, 12))).pvalue for t in TYPES]
    np.testing.assert_allclose(found["p_omnibus"][::2], omnibus)
    np.testing.assert_allclose(found["fdr_omnibus"][1::2], stats.false_discovery_control(omnibus))
    np.testing.assert_allclose(found["fdr"], stats.false_discovery_control(found["p_value"]))
    u = found[(found["type"] == "B") & (found["group"] == "u")]
    np.testing.assert_allclose(u["difference"], bulk.obsm[KEY]["B"][:6].mean() - bulk.obsm[KEY]["B"][6:12].mean())


def test_a_planted_difference_is_found_and_the_others_are_not():
    found = hp.tl.compare_groups(cohort(n=40, fold=2, width=0.01, seed=3), "group", level=0.99).set_index("type")
    assert found.loc["B", "fdr"] < 1e-4
    # against the mean of four types, twice the odds are 3/4 of a doubling up, and 1/4 down for each other type
    assert found.loc["B", "log2_lower"] < 0.75 < found.loc["B", "log2_upper"]
    assert found.loc[["CD4 T", "NK", "Mono"], ["log2_lower", "log2_upper"]].sub(-0.25).prod(axis=1).lt(0).all()


def test_p_values_without_a_difference_are_even():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is found by chance
        found = [hp.tl.compare_groups(cohort(seed=s, width=0.08), "group")["p_value"] for s in range(100)]
    p = np.concatenate(found)
    assert stats.kstest(p[::4], "uniform").pvalue > 0.01
    assert (p < 0.1).mean() < 0.14


def test_zeros_stand_as_far_down_as_their_intervals():
    narrow, wide = (
        hp.tl.compare_groups(cohort(zeros=3, width=width), "group").set_index("type").loc["B", "log2_ratio"]
        for width in (0.001, 0.1)
    )
    assert narrow > wide > 0  # the zeros are in the reference group


def test_results_are_stored_and_survive_a_file(tmp_path):
    bulk = cohort(width=0.05)
    found = hp.tl.compare_groups(bulk, "group", key_added="mine")
    bulk.write_h5ad(tmp_path / "b.h5ad")
    read = ad.read_h5ad(tmp_path / "b.h5ad").uns["mine"]
    pd.testing.assert_frame_equal(
        read["results"].reset_index(drop=True), found, check_dtype=False, check_categorical=False
    )
    assert read["params"]["groupby"] == "group" and read["params"]["reference"] == "a"
    again = hp.tl.compare_groups(bulk, "group", key_added="mine")
    pd.testing.assert_frame_equal(again, found)


def test_remarks():
    with pytest.warns(UserWarning, match="no intervals .*count as exact"):
        hp.tl.compare_groups(cohort(), "group")
    bulk = cohort(fold=4, width=0.9)
    bulk.uns[KEY] = {"calibrated": False}
    bulk.obsm[f"{KEY}_lower"], bulk.obsm[f"{KEY}_upper"] = bulk.obsm[KEY] - 0.3, bulk.obsm[KEY] + 0.3
    with pytest.warns(UserWarning) as warned:
        found = hp.tl.compare_groups(bulk, "group")
    assert len(warned) == 1 and found.attrs["messages"] == list(bulk.uns["compare_groups"]["messages"])
    assert "batch_key" in found.attrs["messages"][0] and "not calibrated" in found.attrs["messages"][1]
    np.testing.assert_allclose(found["platform_limit"], 0.3 * np.sqrt(2))
    bulk.obs["batch"] = ["x", "y"] * 10
    bulk.uns[KEY] = {"calibrated": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hp.tl.compare_groups(bulk, "group", batch_key="batch").attrs["messages"]
        bulk.uns[KEY] = {"calibrated": False}
        null = hp.tl.compare_groups(cohort(width=0.3), "group")  # nothing found, nothing to warn of
    assert (null["fdr"] > 0.1).all()


def test_a_type_in_no_sample_has_no_answer():
    bulk = cohort()
    bulk.obsm[KEY]["Platelet"] = 0.0
    with pytest.warns(UserWarning, match="No sample has Platelet"):
        found = hp.tl.compare_groups(bulk, "group", method="ols").set_index("type")
    assert np.isnan(found.loc["Platelet", "p_value"]) and found.loc["Platelet", "difference"] == 0
    expected = hp.tl.compare_groups(cohort(), "group", method="ols")
    np.testing.assert_allclose(found.loc[TYPES, "fdr"], expected["fdr"])


def test_skipped_samples_are_left_out():
    bulk = cohort()
    bulk.obsm[KEY].iloc[3] = np.nan
    with pytest.warns(UserWarning, match="s3"):
        found = hp.tl.compare_groups(bulk, "group", method="ols")
    kept = cohort()[[i for i in range(20) if i != 3]].copy()
    np.testing.assert_allclose(found["p_value"], hp.tl.compare_groups(kept, "group", method="ols")["p_value"])


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"groupby": "none"}, KeyError, "no column 'none'; it has group"),
        ({"key": "none"}, KeyError, "no 'none'"),
        ({"method": "anova"}, ValueError, "method='anova'.*weighted, draws, ols, mixed"),
        ({"method": "mixed"}, ValueError, "paired="),
        ({"level": 1.0}, ValueError, "level=1.0"),
        ({"interval_level": 90}, ValueError, "interval_level=90"),
        ({"n_draws": 5}, ValueError, "n_draws=5"),
        ({"batch_key": "batch"}, ValueError, "confounded with batch"),
        ({"reference": "c"}, ValueError, "no group"),
        ({"groupby": "hole"}, ValueError, "NaN"),
        ({"key": "one"}, ValueError, "1 types"),
        ({"key": "negative"}, ValueError, "negative"),
    ],
)
def test_mistakes_are_named_and_change_nothing(options, error, reason, unchanged):
    bulk = cohort(width=0.1)
    bulk.obs["batch"], bulk.obs["hole"] = [1] * 10 + [2] * 10, ["a", "b", None, "a"] * 5
    bulk.obsm["one"], bulk.obsm["negative"] = bulk.obsm[KEY][["B"]], bulk.obsm[KEY] - 0.5
    with unchanged(bulk), pytest.raises(error, match=reason):
        hp.tl.compare_groups(bulk, **{"groupby": "group"} | options)


def test_groups_of_dates_are_groups():
    bulk = cohort(fold=2)
    bulk.obs["day"] = pd.to_datetime(["2020-01-01"] * 10 + ["2020-01-02"] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        found = hp.tl.compare_groups(bulk, "day", method="ols")
    np.testing.assert_allclose(found["p_value"], hp.tl.compare_groups(bulk, "group", method="ols")["p_value"])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"groupby": ["group"]}, TypeError, r"groupby has \['group'\]; expected names of columns"),
        ({"groupby": "group", "covariates": 3}, TypeError, "covariates has 3; expected names of columns"),
        ({"groupby": "group", "paired": ["group"]}, TypeError, "paired has"),
        ({"groupby": "group", "key_added": "a/b"}, ValueError, "a name without slashes"),
    ],
)
def test_arguments_of_another_kind(options, error, match):
    bulk = cohort()
    with pytest.raises(error, match=match):
        hp.tl.compare_groups(bulk, **options)
    assert not bulk.uns
