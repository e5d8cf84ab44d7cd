"""Every fit against scipy, closed forms, or draws made one by one."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from hpvade.tl._group_design import design
from hpvade.tl._group_fit import between_samples, effects

RNG = np.random.default_rng(0)
Y = RNG.normal(size=12) + np.repeat([0, 1.0], 6)
OBS = pd.DataFrame({"group": ["a"] * 6 + ["b"] * 6, "subject": [f"p{i}" for i in range(6)] * 2})
OBS["late"] = ["a"] * 8 + ["b"] * 4
OBS["third"] = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
NONE = np.zeros(12)


def plan(groupby="group", covariates=(), paired=None, reference=None, mixed=False, obs=OBS):
    return design(obs, groupby, list(covariates), paired, reference, mixed)


def test_least_squares_is_the_t_test():
    found = effects(Y, NONE, plan(), "ols", 0.95)
    expected = stats.ttest_ind(Y[6:], Y[:6])
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.p_value, [expected.pvalue])
    np.testing.assert_allclose([found.lower[0], found.upper[0]], [interval.low, interval.high])
    np.testing.assert_allclose(found.estimate, Y[6:].mean() - Y[:6].mean())
    np.testing.assert_allclose(found.p_omnibus, expected.pvalue)


def test_pairs_are_the_paired_t_test():
    found = effects(Y, NONE, plan(paired="subject"), "ols", 0.95)
    np.testing.assert_allclose(found.p_value, [stats.ttest_rel(Y[6:], Y[:6]).pvalue])


def test_three_groups_are_the_analysis_of_variance():
    found = effects(Y, NONE, plan("third"), "ols", 0.95)
    np.testing.assert_allclose(found.p_omnibus, stats.f_oneway(Y[:4], Y[4:8], Y[8:]).pvalue)
    np.testing.assert_allclose(found.estimate, [Y[4:8].mean() - Y[:4].mean(), Y[8:].mean() - Y[:4].mean()])


def test_equal_variances_weigh_like_none():
    ols = effects(Y, NONE, plan(), "ols", 0.9)
    for variance in (0.01, 5.0):  # below and above the scatter of the samples
        weighted = effects(Y, np.full(12, variance), plan(), "weighted", 0.9)
        np.testing.assert_allclose(
            [weighted.estimate, weighted.lower, weighted.p_value], [ols.estimate, ols.lower, ols.p_value]
        )


def test_variance_between_samples():
    X = plan().matrix
    rss = ((Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]) ** 2).sum()
    np.testing.assert_allclose(between_samples(Y, np.full(12, 0.02), X), rss / 10 - 0.02, rtol=1e-6)
    assert between_samples(Y, np.full(12, 9.0), X) < 1e-6
    variance = RNG.uniform(0.01, 0.3, 12)
    tau2 = between_samples(Y, variance, X)
    w = 1 / (tau2 + variance)
    means = [np.average(Y[s], weights=w[s]) for s in (slice(0, 6), slice(6, 12))]
    np.testing.assert_allclose((w * (Y - np.repeat(means, 6)) ** 2).sum(), 10)  # the equation of Paule and Mandel


def test_weights_are_those_of_the_inverse_variances():
    variance = np.tile([0.01, 1.0, 4.0], 4)
    found = effects(Y, variance, plan(), "weighted", 0.95)
    w = 1 / (between_samples(Y, variance, plan().matrix) + variance)
    np.testing.assert_allclose(found.estimate[0], np.average(Y[6:], weights=w[6:]) - np.average(Y[:6], weights=w[:6]))


def test_errors_are_those_of_residuals_whatever_the_weights():
    wild = np.exp(np.random.default_rng(2).normal(0, 2, 12))  # says nothing of the true scatter
    found = effects(Y, wild, plan(), "weighted", 0.95)
    fit = sm.WLS(Y, plan().matrix, 1 / (between_samples(Y, wild, plan().matrix) + wild)).fit(cov_type="HC2")
    np.testing.assert_allclose(found.p_value[0], 2 * stats.t.sf(abs(fit.tvalues[1]), 10))
    # with equal weights, the t test of unequal variances
    unequal = effects(Y, np.full(12, 0.1), plan("late"), "weighted", 0.95)
    late, early = Y[8:], Y[:8]
    statistic = stats.ttest_ind(late, early, equal_var=False).statistic
    np.testing.assert_allclose(unequal.p_value[0], 2 * stats.t.sf(abs(statistic), 10))


def test_subjects_without_a_partner_say_nothing():
    obs = OBS.assign(subject=[f"p{i}" for i in range(6)] + [f"p{i}" for i in range(5)] + ["alone"])
    found = effects(Y, NONE + 0.1, plan(paired="subject", obs=obs), "weighted", 0.95)
    np.testing.assert_allclose(found.p_value[0], stats.ttest_rel(Y[6:11], Y[:5]).pvalue)


def test_draws_are_combined_by_rubins_rules():
    variance = RNG.uniform(0.1, 0.5, 12)
    found = effects(Y, variance, plan(), "draws", 0.95)
    drawn = Y + np.sqrt(variance) * np.random.default_rng(1).normal(size=(20_000, 12))
    estimates = drawn[:, 6:].mean(axis=1) - drawn[:, :6].mean(axis=1)
    within = (drawn[:, 6:].var(axis=1, ddof=1) + drawn[:, :6].var(axis=1, ddof=1)) / 6
    total = within.mean() + estimates.var(ddof=1)
    np.testing.assert_allclose(found.estimate, Y[6:].mean() - Y[:6].mean())
    reach = stats.t.ppf(0.975, 10) * np.sqrt(total)
    np.testing.assert_allclose(found.upper - found.estimate, reach, rtol=0.02)


def test_mixed_with_balanced_pairs_is_the_paired_estimate_and_error():
    y = Y + np.tile(3 * RNG.normal(size=6), 2)  # subjects differ
    found = effects(y, NONE, plan(paired="subject", mixed=True), "mixed", 0.95)
    paired = stats.ttest_rel(y[6:], y[:6])
    np.testing.assert_allclose(found.estimate, (y[6:] - y[:6]).mean(), rtol=1e-6)
    t = found.estimate[0] / ((found.upper - found.lower)[0] / 2 / stats.t.ppf(0.975, 4))
    np.testing.assert_allclose(t, paired.statistic, rtol=1e-2)


def test_a_covariate_is_adjusted_for():
    age = np.linspace(20, 60, 12)
    y = 0.1 * age + np.repeat([0, 2.0], 6) + 1e-3 * RNG.normal(size=12)
    found = effects(y, NONE, plan(covariates=["age"], obs=OBS.assign(age=age)), "ols", 0.95)
    np.testing.assert_allclose(found.estimate, 2, atol=0.01)


@pytest.mark.parametrize("method", ["ols", "weighted", "draws"])
def test_constant_values_do_not_differ(method):
    found = effects(np.full(12, 0.25), np.full(12, 0.1), plan(), method, 0.95)
    assert found.p_value[0] == 1 and found.estimate[0] == 0 and found.p_omnibus == 1
