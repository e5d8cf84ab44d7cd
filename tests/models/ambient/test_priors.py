"""Closed forms of priors against torch's distributions and Monte Carlo."""

import math

import pytest
import torch
from torch.distributions import Exponential, Gamma, LogNormal, Normal, kl_divergence

from hpvade.models.ambient._priors import (
    dispersion_kl,
    lognormal_exponential_kl,
    lognormal_kl,
    negative_log_gamma,
    softplus_inverse,
)

LOG_SIGMA = torch.tensor(math.log(0.1))


@pytest.mark.parametrize(("theta", "expected"), [(9.0, 2.578), (1e3, 4.03), (1e4, 5.11), (1e6, 7.39)])
def test_rv_04_dispersion_kl_at_the_four_values(theta, expected):
    found = dispersion_kl(torch.tensor(math.log(theta)), LOG_SIGMA, torch.tensor(3.0))
    assert found.item() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("direction", ["inverse_sqrt", "sqrt"])
def test_rv_04_dispersion_kl_is_never_negative_and_least_where_the_means_agree(direction):
    mu, rate = torch.linspace(-12, 14, 2601), 3.0
    for sigma in (0.05, 0.3, 1.0, 2.0):
        kl = dispersion_kl(mu, torch.tensor(math.log(sigma)), torch.tensor(rate), direction)
        assert (kl >= 0).all()
        best, sign = mu[kl.argmin()].item(), -1 if direction == "inverse_sqrt" else 1
        mean_u = math.exp(sign * best / 2 + sigma**2 / 8)
        assert mean_u == pytest.approx(1 / rate, rel=0.02)


@pytest.mark.parametrize("direction", ["inverse_sqrt", "sqrt"])
@pytest.mark.parametrize(("mu", "sigma", "rate"), [(2.2, 0.1, 3.0), (-1.0, 0.8, 0.7), (5.0, 0.4, 10.0)])
def test_rv_04_dispersion_kl_equals_monte_carlo(direction, mu, sigma, rate):
    torch.manual_seed(0)
    power = -0.5 if direction == "inverse_sqrt" else 0.5
    theta = (mu + sigma * torch.randn(200_000, dtype=torch.float64)).exp()
    u = theta**power
    log_ratio = LogNormal(power * mu, sigma / 2).log_prob(u) - Exponential(rate).log_prob(u)
    found = dispersion_kl(torch.tensor(mu), torch.tensor(math.log(sigma)), torch.tensor(rate), direction).item()
    assert abs(found - log_ratio.mean().item()) < 3 * log_ratio.std().item() / math.sqrt(len(u))


def test_rv_19_kl_of_the_library_weight_equals_monte_carlo():
    torch.manual_seed(0)
    mean, scale, rate = 0.3, 0.4, 1.0
    w = LogNormal(mean, scale).sample((200_000,)).double()
    log_ratio = LogNormal(mean, scale).log_prob(w) - Exponential(rate).log_prob(w)
    found = lognormal_exponential_kl(torch.tensor(mean), torch.tensor(scale), torch.tensor(rate)).item()
    assert abs(found - log_ratio.mean().item()) < 3 * log_ratio.std().item() / math.sqrt(len(w))


def test_lognormal_kl_is_that_of_the_normals():
    a, b = Normal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])), Normal(torch.tensor(-0.2), torch.tensor(0.9))
    torch.testing.assert_close(lognormal_kl(a.loc, a.scale, -0.2, 0.9), kl_divergence(a, b))


def test_negative_log_gamma_is_minus_the_density():
    x = torch.tensor([0.01, 0.5, 3.0])
    torch.testing.assert_close(negative_log_gamma(x, 2.5, 4.0), -Gamma(2.5, 4.0).log_prob(x))


def test_negative_log_gamma_is_finite_at_zero():
    assert negative_log_gamma(torch.zeros(1), 0.2, 1.0).isfinite().all()


def test_softplus_inverse_inverts():
    x = torch.tensor([1e-3, 0.5, 3.0, 30.0])
    torch.testing.assert_close(torch.nn.functional.softplus(softplus_inverse(x)), x)
