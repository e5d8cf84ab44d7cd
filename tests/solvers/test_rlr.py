"""Robust linear regression against a slow NumPy loop and SciPy's minimiser."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from hpvade.solvers import rlr


def problem(seed=0, n=5, n_genes=101, n_types=4):
    """An odd number of genes, so that the median is one of them; every tenth value is an outlier."""
    rng = np.random.default_rng(seed)
    signature = rng.gamma(0.5, 1, (n_genes, n_types)) * [1, 4, 2, 0.5]
    truth = rng.dirichlet(np.full(n_types, 3), n)
    bulk = truth @ signature.T + rng.normal(0, 0.05, (n, n_genes))
    bulk[rng.random(bulk.shape) < 0.1] += 3
    return truth, signature, bulk


def solve(bulk, signature, **options):
    return rlr(torch.from_numpy(bulk), torch.from_numpy(signature), **options).numpy()


def slow(y, signature, loss, steps=300):
    """One sample, by the textbook."""
    b = np.linalg.lstsq(signature, y, rcond=None)[0]
    for kind in ("huber", "bisquare")[: 1 if loss == "huber" else 2]:
        for _ in range(steps):
            residual = y - signature @ b
            u = np.abs(residual) / (1.4826 * np.median(np.abs(residual)))
            w = np.minimum(1, 1.345 / u) if kind == "huber" else np.where(u < 4.685, (1 - (u / 4.685) ** 2) ** 2, 0)
            root = np.sqrt(w)
            b = np.linalg.lstsq(root[:, None] * signature, root * y, rcond=None)[0]
    return b


def fractions(b):
    b = np.maximum(b, 0)
    return b / b.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("loss", ["huber", "bisquare"])
def test_equals_a_slow_loop(loss):
    _, signature, bulk = problem()
    expected = fractions(np.stack([slow(y, signature, loss) for y in bulk]))
    np.testing.assert_allclose(
        solve(bulk, signature, loss=loss, tolerance=1e-12, n_iterations=500), expected, atol=1e-8
    )
    np.testing.assert_allclose(solve(bulk, signature, loss=loss), expected, atol=1e-5)


def test_huber_minimises_its_loss_at_the_final_scale():
    _, signature, bulk = problem(1)
    found = solve(bulk, signature, tolerance=1e-12, n_iterations=500)
    for y, p in zip(bulk, found, strict=True):
        sigma = 1.4826 * np.median(np.abs(y - signature @ slow(y, signature, "huber")))
        fit = least_squares(
            lambda b, y=y: signature @ b - y,
            np.full(4, 0.25),
            loss="huber",
            f_scale=1.345 * sigma,
            xtol=1e-14,
            gtol=1e-12,
        )
        np.testing.assert_allclose(p, fractions(fit.x), atol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "bisquare"])
def test_outliers_harm_least_squares_much_more(loss):
    truth, signature, bulk = problem(2, n=30)
    least = fractions(np.linalg.lstsq(signature, bulk.T, rcond=None)[0].T)
    robust, plain = (np.sqrt(np.mean((x - truth) ** 2)) for x in (solve(bulk, signature, loss=loss), least))
    assert robust < 0.3 * plain


def test_negative_coefficients_are_clipped():
    _, signature, _ = problem(3)
    bulk = (signature @ [0.5, -0.2, 0.3, 0.4])[None]
    np.testing.assert_allclose(solve(bulk, signature), [[0.5 / 1.2, 0, 0.3 / 1.2, 0.4 / 1.2]], atol=1e-8)


def test_identical_types_share_and_do_not_fail():
    _, signature, _ = problem(4)
    signature[:, 3] = signature[:, 2]
    found = solve((signature @ [0.2, 0.3, 0.5, 0])[None], signature)
    np.testing.assert_allclose(found, [[0.2, 0.3, 0.25, 0.25]], atol=1e-6)


def test_a_wide_tuning_constant_is_least_squares():
    _, signature, bulk = problem(5)
    least = fractions(np.linalg.lstsq(signature, bulk.T, rcond=None)[0].T)
    np.testing.assert_allclose(solve(bulk, signature, tuning=1e6), least, atol=1e-6)
    np.testing.assert_allclose(solve(bulk, signature, loss="bisquare", tuning=1e6), least, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"loss": "cauchy"}, "loss='cauchy' is unknown.*'huber', 'bisquare'"), ({"tuning": 0}, "tuning=0"),
     ({"n_iterations": 0}, "n_iterations=0")],
)  # fmt: skip
def test_bad_options(options, message):
    _, signature, bulk = problem()
    with pytest.raises(ValueError, match=message):
        solve(bulk, signature, **options)
