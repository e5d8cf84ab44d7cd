"""Closed forms of priors and divergences, elementwise on tensors."""

import math

import torch
from torch import Tensor

_HALF_LOG_2PIE = 0.5 * math.log(2 * math.pi * math.e)
_TINY = 1e-6  # a Gamma density with shape below one is infinite at zero


def softplus_inverse(x: Tensor) -> Tensor:
    """The y with softplus(y) = x, for positive `x`."""
    return x + torch.log(-torch.expm1(-x))


def lognormal_exponential_kl(mean: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
    r"""KL(LogNormal(m, s) || Exponential(r)), elementwise.

    The entropy of a log-normal is :math:`m + \log s + \tfrac12 \log 2\pi e`, its mean
    :math:`\exp(m + s^2/2)`.

    Examples
    --------
    >>> float(lognormal_exponential_kl(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(1.0))) > 0
    True
    """
    return rate * torch.exp(mean + scale.square() / 2) - torch.log(rate) - (mean + torch.log(scale) + _HALF_LOG_2PIE)


def dispersion_kl(mu: Tensor, log_sigma: Tensor, rate: Tensor, direction: str = "inverse_sqrt") -> Tensor:
    r"""KL of the posterior of a dispersion against its containment prior, elementwise.

    The posterior is :math:`\log\theta \sim N(\mu, \sigma^2)`; the prior is
    :math:`u \sim \mathrm{Exponential}(\lambda)` with :math:`u = \theta^{-1/2}`. Then
    :math:`u \sim \mathrm{LogNormal}(-\mu/2, \sigma/2)`, and the divergence is that of `u`: with the entropy of
    :math:`\log\theta` in its place it would be without lower bound.

    Parameters
    ----------
    mu, log_sigma
        Parameters of the posterior.
    rate
        :math:`\lambda`, broadcast against them.
    direction
        ``"inverse_sqrt"`` as above; ``"sqrt"`` for :math:`u = \theta^{1/2}`.

    Examples
    --------
    >>> import math
    >>> mu, rate = torch.tensor(math.log(9.0)), torch.tensor(3.0)
    >>> round(float(dispersion_kl(mu, torch.tensor(math.log(0.1)), rate)), 2)
    2.58
    """
    sign = {"inverse_sqrt": -1, "sqrt": 1}[direction]
    return lognormal_exponential_kl(sign * mu / 2, log_sigma.exp() / 2, rate)


def lognormal_kl(mean: Tensor, scale: Tensor, prior_mean, prior_scale) -> Tensor:
    """KL between two log-normal distributions, which is that of the normals of their logarithms, elementwise."""
    prior_scale = torch.as_tensor(prior_scale, dtype=mean.dtype, device=mean.device)
    ratio = (scale / prior_scale).square()
    return 0.5 * (ratio + ((mean - prior_mean) / prior_scale).square() - 1 - ratio.log())


def negative_log_gamma(x: Tensor, shape: float, rate: float | Tensor) -> Tensor:
    """Minus the log density of Gamma(shape, rate) at `x`, elementwise; `x` is taken as at least 1e-6.

    Examples
    --------
    >>> round(float(negative_log_gamma(torch.tensor(2.0), 1.0, 0.5)), 4)
    1.6931
    """
    x = x.clamp(min=_TINY)
    log_rate = rate.log() if isinstance(rate, Tensor) else math.log(rate)
    return rate * x - (shape - 1) * x.log() + math.lgamma(shape) - shape * log_rate
