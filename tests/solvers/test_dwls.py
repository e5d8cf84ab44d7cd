"""Dampened weighted least squares against a slow loop over SciPy's NNLS and NumPy's least squares."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls as scipy_nnls

from hpvade.solvers import dwls, nnls
from hpvade.solvers._dwls import _exponent, _random_halves


def problem(seed=0, n=5, n_genes=150, n_types=4, noise=0.4):
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_types))
    signature /= signature.sum(axis=0)
    truth = rng.dirichlet(np.ones(n_types), n)
    bulk = truth @ signature.T * rng.lognormal(0, noise, (n, n_genes))
    return truth, signature, bulk / bulk.sum(axis=1, keepdims=True)


def fractions(b):
    return b / b.sum(axis=-1, keepdims=True)


def slow_exponent(y, signature, p, halves):
    weight = 1 / (signature @ p) ** 2
    weight /= weight.min()
    variances = []
    for j in range(int(np.ceil(np.log2(weight.max())))):
        bounded = np.minimum(weight, 2.0**j)
        fits = []
        for half in halves:
            root = np.sqrt(bounded[half])
            fits.append(fractions(np.linalg.lstsq(root[:, None] * signature[half], root * y[half], rcond=None)[0]))
        variances.append(np.var(fits, axis=0, ddof=1).mean())
    return int(np.argmin(variances))


def slow(y, signature, halves, tolerance):
    p = fractions(scipy_nnls(signature, y)[0])
    j = slow_exponent(y, signature, p, halves)
    while True:
        weight = 1 / (signature @ p) ** 2
        root = np.sqrt(np.minimum(weight, 2.0**j * weight.min()))
        new = (fractions(scipy_nnls(root[:, None] * signature, root * y)[0]) + 4 * p) / 5
        moved = np.abs(new - p).sum()
        p = new
        if moved < tolerance:
            return p


@pytest.mark.parametrize("tolerance", [0.01, 1e-8])
def test_equals_a_slow_loop(tolerance):
    _, signature, bulk = problem()
    halves = _random_halves(10, 150).numpy().astype(bool)
    expected = np.stack([slow(y, signature, halves, tolerance) for y in bulk])
    found = dwls(torch.from_numpy(bulk), torch.from_numpy(signature), n_subsamples=10, tolerance=tolerance)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_exponents_equal_a_slow_search():
    _, signature, bulk = problem(1, n=8)
    start = fractions(np.stack([scipy_nnls(signature, y)[0] for y in bulk]))
    halves = _random_halves(15, 150)
    found = _exponent(*(torch.from_numpy(x) for x in (bulk, signature, start)), halves)
    expected = [slow_exponent(y, signature, p, halves.numpy().astype(bool)) for y, p in zip(bulk, start, strict=True)]
    assert found.tolist() == expected
    assert len(set(expected)) > 1 or expected[0] > 0


def test_halves_are_halves_and_differ():
    halves = _random_halves(40, 31)
    assert (halves.sum(dim=1) == 15).all()
    assert len({tuple(row) for row in halves.tolist()}) == 40
    assert halves.sum(dim=0).min() > 8 and halves.sum(dim=0).max() < 32


def test_relative_errors_call_for_relative_weights():
    truth, signature, bulk = problem(2, n=40, n_genes=400)
    bulk, signature = torch.from_numpy(bulk), torch.from_numpy(signature)
    errors = [
        np.sqrt(np.mean((x - truth) ** 2))
        for x in (dwls(bulk, signature, n_subsamples=20).numpy(), fractions(nnls(bulk, signature).numpy()))
    ]
    assert errors[0] < 0.4 * errors[1]


def test_similar_types_do_not_fail():
    truth, signature, bulk = problem(3, noise=0.01)
    signature[:, 3] = signature[:, 2] * np.random.default_rng(0).lognormal(0, 1e-9, 150)
    found = dwls(torch.from_numpy(bulk), torch.from_numpy(signature), n_subsamples=10)
    assert found.isfinite().all()
    np.testing.assert_allclose(found.sum(dim=1), 1)


def test_bad_options():
    _, signature, bulk = problem(n_genes=7)
    bulk, signature = torch.from_numpy(bulk), torch.from_numpy(signature)
    with pytest.raises(ValueError, match="7 genes for 4 types; expected two genes per type"):
        dwls(bulk, signature)
    with pytest.raises(ValueError, match="n_subsamples=1; expected at least two"):
        dwls(bulk, signature[:, :3], n_subsamples=1)
