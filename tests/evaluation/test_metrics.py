import numpy as np
import pytest
from scipy import stats

from hpvade.evaluation import _metrics as metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([4, 2, 1, 0.5], 30)
    return 0.7 * truth + 0.3 * rng.dirichlet(np.ones(4), 30), truth


def test_pearson_equals_scipy_along_every_axis(pair):
    p, t = pair
    np.testing.assert_allclose(metrics.pearson(p, t), [stats.pearsonr(p[:, k], t[:, k])[0] for k in range(4)])
    np.testing.assert_allclose(metrics.pearson(p, t, axis=1), [stats.pearsonr(p[i], t[i])[0] for i in range(30)])
    assert metrics.pooled_r(p, t) == pytest.approx(stats.pearsonr(p.ravel(), t.ravel())[0])
    assert metrics.sample_r(p, t) == pytest.approx(np.mean([stats.pearsonr(p[i], t[i])[0] for i in range(30)]))


def test_per_type_r_is_fishers_mean(pair):
    p, t = pair
    r = [stats.pearsonr(p[:, k], t[:, k])[0] for k in range(4)]
    assert metrics.per_type_r(p, t) == pytest.approx(np.tanh(np.mean(np.arctanh(r))))


def test_undefined_r_counts_as_zero_but_all_undefined_is_nan(pair):
    p, t = pair
    p = p.copy()
    p[:, 1] = 0.1 + 1e-17 * np.arange(30)  # constant up to rounding
    t = t.copy()
    t[:, 2] = 0.0
    r = metrics.pearson(p, t)
    np.testing.assert_array_equal(np.isnan(r), [False, True, True, False])
    assert metrics.per_type_r(p, t) == pytest.approx(np.tanh((np.arctanh(r[0]) + np.arctanh(r[3])) / 4))
    assert np.isnan(metrics.per_type_r(metrics.constant(t), t))
    assert np.isnan(metrics.sample_r(np.full_like(t, 0.25), t))


def test_perfect_prediction_is_finite_and_one(pair):
    _, t = pair
    assert metrics.per_type_r(t, t) == pytest.approx(1, abs=1e-8)
    assert metrics.per_type_r(-t, t) == pytest.approx(-1, abs=1e-8)
    assert metrics.ccc(t, t) == pytest.approx(1)
    assert metrics.rmse_skill(t, t) == 1


def test_ccc_equals_lins_formula_with_biased_variances(pair):
    p, t = pair
    for axis, a, b in [(None, p.ravel(), t.ravel()), (0, p[:, 2], t[:, 2])]:
        cov = np.cov(a, b, bias=True)
        oracle = 2 * cov[0, 1] / (cov[0, 0] + cov[1, 1] + (a.mean() - b.mean()) ** 2)
        found = metrics.ccc(p, t, axis=axis)
        assert (found if axis is None else found[2]) == pytest.approx(oracle)
    assert np.isnan(metrics.ccc(np.ones((3, 2)), np.ones((3, 2))))


def test_errors_by_hand():
    p, t = np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([[0.4, 0.6], [0.6, 0.4]])
    assert metrics.mae(p, t) == pytest.approx(0.25)
    assert metrics.rmse(p, t) == pytest.approx(np.sqrt((0.01 + 0.01 + 0.16 + 0.16) / 4))
    np.testing.assert_allclose(metrics.bias(p, t), [-0.15, 0.15])
    np.testing.assert_allclose(metrics.rmse(p, t, axis=0), np.sqrt([0.085, 0.085]))
    # the constant predicts 0.5, 0.5 and is off by 0.1 everywhere
    assert metrics.rmse_skill(p, t) == pytest.approx(1 - np.sqrt(0.085) / 0.1)
    assert metrics.rmse_skill(metrics.constant(t), t) == pytest.approx(0)
    assert np.isnan(metrics.rmse_skill(p, t[[0, 0]]))
