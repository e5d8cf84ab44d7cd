import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from scvi.distributions import NegativeBinomial

from hpvade.nn._likelihood import nb_log_likelihood


def data(dtype=torch.float64, genes=40):
    generator = torch.Generator().manual_seed(0)
    theta = (2 * torch.randn(genes, generator=generator, dtype=dtype)).exp()
    mu = (2 * torch.randn(2, 6, genes, generator=generator, dtype=dtype)).exp()
    x = torch.poisson(3 * torch.rand(6, genes, generator=generator, dtype=dtype), generator=generator)
    return x, mu, theta


def test_iv_04_equals_scipy_on_counts():
    x, mu, theta = data()
    x[0] = 0
    p = theta / (theta + mu)
    expected = nbinom.logpmf(x.numpy(), theta.numpy(), p.numpy()).sum(axis=-1)
    np.testing.assert_allclose(nb_log_likelihood(x, mu, theta), expected, rtol=1e-6)


def test_single_precision_and_large_counts():
    x, mu, theta = data(torch.float32, genes=500)
    x[1] = x[1] * 1000
    expected = nbinom.logpmf(x, theta.numpy(), (theta / (theta + mu)).numpy()).sum(axis=-1)
    np.testing.assert_allclose(nb_log_likelihood(x, mu, theta), expected, rtol=1e-5)


def test_gradients_equal_those_of_scvi():
    x, mu, theta = data()
    found, expected = [], []
    for grads, value in (
        (found, lambda mu, theta: nb_log_likelihood(x, mu, theta)),
        (expected, lambda mu, theta: NegativeBinomial(mu=mu, theta=theta).log_prob(x).sum(dim=-1)),
    ):
        leaves = mu.clone().requires_grad_(), theta.clone().requires_grad_()
        grads += torch.autograd.grad(value(*leaves).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mean", [0.0, 1e-30])
def test_guard_keeps_a_mean_of_zero_finite(mean):
    value = nb_log_likelihood(torch.tensor([[0.0, 3.0]]), torch.full((1, 2), mean), torch.ones(2))
    assert value.isfinite().all() and value.item() < -50
