"""Penalties on the aggregated posterior of a variational autoencoder: DIP, total correlation, MMD."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal


def dip(mean: Tensor, scale: Tensor) -> Tensor:
    r"""Distance of the covariance of the aggregated posterior from the identity (DIP-VAE-II).

    .. math::

        10 \sum_d (C_{dd} - 1)^2 + 5 \sum_{d \ne e} C_{de}^2, \qquad
        C = \mathrm{Cov}(\mu) + \mathrm{diag}\big(\overline{\sigma^2}\big)

    Parameters
    ----------
    mean, scale
        Means and standard deviations of the posteriors, (B, D). The covariance of the means is the unbiased one; it
        is zero for one cell.

    Returns
    -------
    Scalar.

    References
    ----------
    Kumar, Sattigeri, Balakrishnan: Variational inference of disentangled latent concepts from unlabeled observations
    (ICLR 2018).

    Examples
    --------
    >>> import torch
    >>> dip(torch.zeros(4, 3), torch.ones(4, 3))
    tensor(0.)
    """
    covariance = posterior_covariance(mean, scale)
    diagonal = covariance.diagonal()
    off_diagonal = covariance - torch.diag(diagonal)
    return 10 * (diagonal - 1).square().sum() + 5 * off_diagonal.square().sum()


def posterior_covariance(mean: Tensor, scale: Tensor) -> Tensor:
    """Covariance (D, D) of the aggregated posterior: of the means, plus the mean variances on the diagonal."""
    centred = mean - mean.mean(dim=0)
    covariance = centred.T @ centred / max(len(mean) - 1, 1)
    return covariance + torch.diag(scale.square().mean(dim=0))


def total_correlation(z: Tensor, mean: Tensor, scale: Tensor, n_cells: int | None = None) -> Tensor:
    r"""Total correlation of the aggregated posterior, estimated from a minibatch.

    The mean over cells of :math:`\log q(z) - \sum_d \log q(z_d)`, where each density is a weighted mean of posteriors,
    :math:`q(z_n) \approx \sum_m w_{nm}\, q(z_n \mid x_m)`, added up by ``logsumexp``. The weights count the data set
    of N cells and not the minibatch of B: :math:`1/N` for the cell's own posterior, which is sure to be in the
    minibatch, and :math:`(N-1)/(N(B-1))` for each other one. They sum to one, so that the value itself is right. The
    single weight :math:`1/(NB)` of minibatch-weighted sampling adds about :math:`(D-1) \log N` to it.

    Parameters
    ----------
    z
        One sample of each posterior, (B, D).
    mean, scale
        Means and standard deviations of the posteriors, (B, D).
    n_cells
        Cells in the data set, N; the minibatch is all when None.

    Returns
    -------
    Scalar; zero for independent dimensions, and for one cell.

    References
    ----------
    Chen, Li, Grosse, Duvenaud: Isolating sources of disentanglement in variational autoencoders (NeurIPS 2018).

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(8, 3)
    >>> total_correlation(z, torch.zeros(8, 3), torch.ones(8, 3)).abs() < 1e-5
    tensor(True)
    """
    batch = len(z)
    cells = max(batch, n_cells or batch)
    weights = torch.full((batch, batch), -math.log(cells), dtype=z.dtype, device=z.device)
    if batch > 1:
        other = math.log((cells - 1) / (cells * (batch - 1)))
        weights = torch.where(torch.eye(batch, dtype=torch.bool, device=z.device), weights, other)
    else:
        weights = torch.zeros_like(weights)  # the only posterior there is
    each = Normal(mean, scale, validate_args=False).log_prob(z.unsqueeze(1))  # (sample, posterior, dimension)
    joint = (weights + each.sum(dim=-1)).logsumexp(dim=1)
    marginals = (weights.unsqueeze(-1) + each).logsumexp(dim=1)
    return (joint - marginals.sum(dim=1)).mean()


def mmd(p: Tensor, q: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy between two samples (InfoVAE), unbiased.

    .. math::

        E\,k(p, p') - 2\, E\,k(p, q) + E\,k(q, q'), \qquad k(a, b) = \exp\big(-|a - b|^2 / (4D)\big)

    Parameters
    ----------
    p, q
        Samples (n, D) and (m, D). Pairs of a point with itself are left out.

    Returns
    -------
    Scalar; about zero, and possibly below, for two samples of one distribution. Zero when a sample has one point.

    References
    ----------
    Gretton et al.: A kernel two-sample test (JMLR 2012), lemma 6. Zhao, Song, Ermon: InfoVAE (AAAI 2019).

    Examples
    --------
    >>> import torch
    >>> p = torch.tensor([[0.0], [2.0]])
    >>> mmd(p, p)  # exp(-1) - (1 + exp(-1)) + exp(-1)
    tensor(-0.6321)
    """
    if min(len(p), len(q)) < 2:
        return (p.sum() + q.sum()) * 0
    return _kernel_mean(p, p, skip_diagonal=True) - 2 * _kernel_mean(p, q) + _kernel_mean(q, q, skip_diagonal=True)


def _kernel_mean(a: Tensor, b: Tensor, *, skip_diagonal: bool = False) -> Tensor:
    distance = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2 * a @ b.T
    kernel = torch.exp(-distance.clamp(min=0) / (4 * a.shape[1]))
    if not skip_diagonal:
        return kernel.mean()
    return (kernel.sum() - kernel.diagonal().sum()) / (len(a) * (len(a) - 1))
