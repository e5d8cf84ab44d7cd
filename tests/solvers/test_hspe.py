"""The variance of log ratios against SciPy's minimiser over the simplex."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hpvade.solvers import hspe, nnls

OFFSET = 0.1


def problem(seed=0, n=5, n_genes=80, n_types=4, noise=0.4):
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_types))
    signature /= signature.sum(axis=0)
    truth = rng.dirichlet(np.ones(n_types), n)
    bulk = truth @ signature.T * rng.lognormal(0, noise, (n, n_genes))
    return truth, signature, bulk / bulk.sum(axis=1, keepdims=True)


def solve(bulk, signature, **options):
    return hspe(torch.from_numpy(bulk), torch.from_numpy(signature), **options).numpy()


def variance(p, y, signature):
    c = OFFSET / len(y)
    return np.var(np.log(y + c) - np.log(signature @ p + c))


@pytest.mark.parametrize("seed", range(3))
def test_no_point_of_the_simplex_is_better(seed):
    _, signature, bulk = problem(seed)
    found = solve(bulk, signature, tolerance=1e-10)
    rng = np.random.default_rng(seed)
    for y, p in zip(bulk, found, strict=True):
        best = min(
            minimize(
                variance,
                start,
                args=(y, signature),
                bounds=[(0, 1)] * 4,
                constraints={"type": "eq", "fun": lambda t: t.sum() - 1},
                options={"ftol": 1e-14, "maxiter": 500},
            ).fun
            for start in rng.dirichlet(np.ones(4), 6)
        )
        assert variance(p, y, signature) <= best * (1 + 1e-8)


def test_minimum_equals_scipy():
    _, signature, bulk = problem(4)
    found = solve(bulk, signature, tolerance=1e-10)
    for y, p in zip(bulk, found, strict=True):
        best = minimize(lambda t, y=y: variance(np.exp(t) / np.exp(t).sum(), y, signature), np.log(p + 1e-6), tol=1e-14)
        np.testing.assert_allclose(p, np.exp(best.x) / np.exp(best.x).sum(), atol=2e-4)


def test_more_starts_are_never_worse():
    rng = np.random.default_rng(5)
    signature = rng.lognormal(0, 2, (12, 5))
    signature /= signature.sum(axis=0)
    bulk = rng.lognormal(0, 2, (12, 12))  # unrelated: several local minima
    bulk /= bulk.sum(axis=1, keepdims=True)
    one, five = (solve(bulk, signature, n_starts=n) for n in (1, 5))
    losses = np.array([[variance(p, y, signature) for p in pair] for y, *pair in zip(bulk, one, five, strict=True)])
    assert (losses[:, 1] <= losses[:, 0] + 1e-9).all()


def test_errors_on_log_scale_call_for_it():
    truth, signature, bulk = problem(6, n=40, n_genes=300)
    plain = nnls(torch.from_numpy(bulk), torch.from_numpy(signature)).numpy()
    plain /= plain.sum(axis=1, keepdims=True)
    errors = [np.sqrt(np.mean((x - truth) ** 2)) for x in (solve(bulk, signature), plain)]
    assert errors[0] < 0.4 * errors[1]


@pytest.mark.parametrize(("options", "message"), [({"offset": 0}, "offset=0"), ({"n_starts": 0}, "n_starts=0")])
def test_bad_options(options, message):
    _, signature, bulk = problem()
    with pytest.raises(ValueError, match=message):
        solve(bulk, signature, **options)
