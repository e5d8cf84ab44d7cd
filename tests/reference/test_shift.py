"""Moments against NumPy; shrinkage against closed forms and planted responses."""

import numpy as np
import pytest
from scipy import sparse

from hpvade.reference import _shift


def test_moments_are_those_of_numpy():
    rng = np.random.default_rng(0)
    X = rng.poisson(2.0, (60, 7)).astype(np.float32)
    codes = rng.integers(-1, 2, 60)
    X[codes == 1, 3] = 0
    for kind in (X, sparse.csr_matrix(X), sparse.csc_matrix(X)):
        found = _shift.moments(kind, codes, 3)
        for k in range(2):
            P = 1e4 * X[codes == k] / X[codes == k].sum(axis=1, keepdims=True).astype(float)
            np.testing.assert_allclose(found.mean[k], P.mean(axis=0))
            np.testing.assert_allclose(found.variance[k], P.var(axis=0, ddof=1), atol=1e-6)
            assert found.n_cells[k] == (codes == k).sum()
            assert found.per_count[k] == pytest.approx((1e4 / X[codes == k].sum(axis=1)).mean())
        assert found.n_cells[2] == 0 and np.isinf(found.log_variance[2]).all()
        assert (found.log_variance[1] > 0).all()  # a gene without counts has an error, too


def test_the_variance_of_the_log_is_that_of_repeated_draws():
    rng = np.random.default_rng(1)
    mean = np.array([0.2, 1.0, 5.0, 40.0])  # counts of cells with 1,000 counts and more
    logs, said = [], []
    for _ in range(400):
        counts = rng.poisson(np.tile(mean, (50, 1)))
        X = np.column_stack([counts, 1000 - counts.sum(axis=1)])
        moments = _shift.moments(X, np.zeros(50, int), 1)
        logs.append(moments.log[0, :4]), said.append(moments.log_variance[0, :4])
    np.testing.assert_allclose(np.mean(said, axis=0), np.var(logs, axis=0), rtol=0.25)


def test_weights():
    profiles = np.array([[1.0, 2, 3, 5], [1, 2, 4, 5], [4, 2, 1, 0]])
    found = _shift.similarity_weights(profiles, 2.0)
    r = np.corrcoef(profiles)
    assert found[0, 1] / found[0, 2] == pytest.approx(np.exp(2 * (r[0, 1] - r[0, 2])))
    assert (np.diag(found) == 0).all()
    only = _shift.among(found, np.array([True, False, True]))
    assert only[0].tolist() == [0, 0, 1] and only[1].tolist() == pytest.approx(found[1].tolist())
    np.testing.assert_allclose(only.sum(axis=1), 1)
    assert _shift.similarity_weights(profiles[:1]).tolist() == [[0.0]]


def test_sharpness_is_chosen_by_the_measured_types():
    rng = np.random.default_rng(2)
    lineages = rng.normal(size=(2, 200))
    profiles = np.repeat(lineages, 3, axis=0) + 0.3 * rng.normal(size=(6, 200))
    response = np.repeat(rng.normal(size=(2, 200)), 3, axis=0) + 0.05 * rng.normal(size=(6, 200))
    everyone = np.ones(6, dtype=bool)
    assert _shift.choose_sharpness(response, everyone, profiles) >= 8.0  # relatives alone
    common = np.tile(rng.normal(size=200), (6, 1)) + rng.normal(size=(6, 200))
    assert _shift.choose_sharpness(common, everyone, profiles) == 0.0  # the more, the better
    assert _shift.choose_sharpness(response, np.arange(6) < 2, profiles) == 4.0


def planted(rng, n_types=6, n_genes=2000, spread=0.2, noise=0.4):
    common = rng.normal(size=n_genes)
    truth = common + spread * rng.normal(size=(n_types, n_genes))
    return truth, truth + noise * rng.normal(size=truth.shape), np.full(truth.shape, noise**2)


def test_shrinking_is_better_than_both_and_near_the_best():
    rng = np.random.default_rng(3)
    truth, values, variance = planted(rng)
    weights = _shift.similarity_weights(np.ones((6, 3)) + rng.normal(size=(6, 3)) * 1e-9, 0.0)
    found = _shift.shrink(values, variance, weights)

    def error(x):
        return ((x - truth) ** 2).mean()

    assert error(found) < 0.6 * error(values) and error(found) < error(weights @ values)
    between = 0.2**2 + (weights**2 @ variance) + 0.2**2 * (weights**2).sum(axis=1, keepdims=True)
    share = between / (between + variance)
    best = weights @ values + share * (values - weights @ values)
    assert error(found) < 1.3 * error(best)  # what the limit of one standard error costs


def test_a_gene_of_one_type_keeps_its_answer():
    truth, values, variance = planted(np.random.default_rng(4), noise=0.1)
    values[0, 0] += 8.0
    found = _shift.shrink(values, variance, _shift.similarity_weights(values, 0.0))
    assert abs(found[0, 0] - values[0, 0]) <= 0.1 + 1e-9  # one standard error


def test_what_was_not_measured_comes_from_the_relatives():
    truth, values, variance = planted(np.random.default_rng(5))
    values[2], variance[2] = 0, np.inf
    measured = np.arange(6) != 2
    weights = _shift.among(_shift.similarity_weights(truth, 0.0), measured)
    found = _shift.shrink(values, variance, weights)
    np.testing.assert_allclose(found[2], values[measured].mean(axis=0))
    other = np.zeros_like(values)
    np.testing.assert_array_equal(_shift.shrink(values, variance, weights, other)[2], 0)
    alone = _shift.shrink(values[:1], variance[:1], np.zeros((1, 1)))
    np.testing.assert_array_equal(alone, values[:1])  # no relatives: as measured
