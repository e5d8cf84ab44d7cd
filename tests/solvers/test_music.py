"""MuSiC-like weights against a slow loop over SciPy's NNLS."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls as scipy_nnls

from hpvade.solvers import music, nnls


def problem(seed=0, n=6, n_genes=150, n_types=4):
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, n_types)) * [300, 1000, 500, 800]
    # a fifth of the genes differ twofold and more between donors
    spread = np.where(rng.random(n_genes) < 0.2, 1.0, 0.05)[:, None] * np.ones(n_types)
    truth = rng.dirichlet(np.ones(n_types), n)
    own = signature * np.exp(spread * rng.standard_normal((n, n_genes, n_types)))
    return truth, signature, (spread * signature) ** 2, np.einsum("nk,ngk->ng", truth, own)


def solve(*arrays, **options):
    return music(*(torch.from_numpy(x) for x in arrays), **options).numpy()


def slow(y, signature, variance, nu, tolerance):
    y = 100 * y / y.sum()
    b = scipy_nnls(signature, y)[0]
    while True:
        weight = 1 / (nu + (y - signature @ b) ** 2 + variance @ b**2)
        root = np.sqrt(weight)
        new = scipy_nnls(root[:, None] * signature, root * y)[0]
        moved = np.abs(new / new.sum() - b / b.sum()).sum()
        b = new
        if moved < tolerance:
            return b / b.sum()


@pytest.mark.parametrize("options", [{"nu": 1e-4, "tolerance": 0.01}, {"nu": 1e-2, "tolerance": 1e-6}])
def test_equals_a_slow_loop(options):
    _, signature, variance, bulk = problem()
    expected = np.stack([slow(y, signature, variance, **options) for y in bulk])
    np.testing.assert_allclose(solve(bulk, signature, variance, **options), expected, atol=1e-6)


def test_genes_on_which_donors_differ_count_less():
    truth, signature, variance, bulk = problem(1, n=40)
    weighted = solve(bulk, signature, variance)
    plain = nnls(torch.from_numpy(bulk), torch.from_numpy(signature)).numpy()
    errors = [np.sqrt(np.mean((x / x.sum(axis=1, keepdims=True) - truth) ** 2)) for x in (weighted, plain)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:, :2], r"variance has shape \(150, 2\); expected that of the signature, \(150, 4\)"),
        (lambda v: -v, "variance holds negative, NaN or infinite values; it needs two donors"),
        (lambda v: v * np.nan, "variance holds negative, NaN or infinite values; it needs two donors"),
    ],
)
def test_bad_variance(change, message):
    _, signature, variance, bulk = problem()
    with pytest.raises(ValueError, match=message):
        solve(bulk, signature, change(variance))


def test_bad_nu():
    _, signature, variance, bulk = problem()
    with pytest.raises(ValueError, match="nu=0"):
        solve(bulk, signature, variance, nu=0)
