"""The fixed point against a slow loop, the read-by-read definition, and the maximum that it climbs to."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hpvade.solvers import instaprism


def problem(seed=0, n=4, n_genes=60, n_types=3):
    rng = np.random.default_rng(seed)
    signature = rng.gamma(0.5, 1, (n_genes, n_types)) * [1, 3, 0.5] + 1e-3
    truth = rng.dirichlet(np.full(n_types, 2), n)
    mean = truth @ signature.T
    return truth, signature, rng.poisson(500 * mean).astype(float)


def solve(bulk, signature, **options):
    return instaprism(torch.from_numpy(bulk), torch.from_numpy(signature), **options).numpy()


def test_equals_a_slow_loop():
    _, signature, bulk = problem()
    phi = signature / signature.sum(axis=0)
    found = solve(bulk, signature, tolerance=0, n_iterations=37)
    for y, p in zip(bulk, found, strict=True):
        theta = np.full(3, 1 / 3)
        for _ in range(37):
            reads = np.zeros(3)
            for g in range(60):  # reads of gene g are shared out by the types' expected reads
                reads += y[g] * theta * phi[g] / np.dot(theta, phi[g])
            theta = reads / reads.sum()
        expected = theta / signature.sum(axis=0)
        np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-10)


def test_reaches_the_maximum_of_the_likelihood():
    _, signature, bulk = problem(1)
    phi = signature / signature.sum(axis=0)
    found = solve(bulk, signature, tolerance=1e-13, n_iterations=100_000) * signature.sum(axis=0)
    for y, theta in zip(bulk, found / found.sum(axis=1, keepdims=True), strict=True):
        best = minimize(
            lambda t, y=y: -np.dot(y, np.log(phi @ t)) / y.sum(),
            np.full(3, 1 / 3),
            bounds=[(1e-12, 1)] * 3,
            constraints={"type": "eq", "fun": lambda t: t.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(theta, best.x, atol=2e-4)


def test_a_hundred_iterations_are_the_default_and_twice_the_types_when_more():
    _, signature, bulk = problem(2)
    np.testing.assert_array_equal(
        solve(bulk, signature, tolerance=0), solve(bulk, signature, tolerance=0, n_iterations=100)
    )
    rng = np.random.default_rng(0)
    many = rng.gamma(0.5, 1, (80, 55))
    bulk = rng.gamma(1, 1, (2, 80))
    np.testing.assert_array_equal(solve(bulk, many, tolerance=0), solve(bulk, many, tolerance=0, n_iterations=110))


def test_genes_that_no_type_expresses_are_left_out():
    _, signature, bulk = problem(3)
    expected = solve(bulk[:, 5:], signature[5:] / 1.0)
    signature = signature.copy()
    signature[:5] = 0
    np.testing.assert_allclose(solve(bulk, signature), expected, atol=1e-10)


@pytest.mark.parametrize("side", [0, 1])
def test_negative_values(side):
    _, *arrays = problem()
    arrays[1 - side][0, 0] = -1
    with pytest.raises(ValueError, match="negative values; expected numbers of reads"):
        solve(arrays[1], arrays[0])
