"""IV-03: DIP, total correlation and MMD against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from hpvade.models.ivae._disentanglement import dip, mmd, posterior_covariance, total_correlation


def posteriors(n, covariance, noise, seed=0):
    """Means with this covariance, one standard deviation, and a sample of each posterior."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(torch.as_tensor(covariance, dtype=torch.float64))
    mean = torch.randn(n, len(root), generator=generator, dtype=torch.float64) @ root.T
    scale = torch.full_like(mean, noise)
    return mean + noise * torch.randn(mean.shape, generator=generator, dtype=torch.float64), mean, scale


def gaussian_tc(covariance):
    return 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])


def test_iv_03_dip_equals_numpy():
    generator = torch.Generator().manual_seed(0)
    mean, scale = torch.randn(64, 4, generator=generator), torch.rand(64, 4, generator=generator) + 0.1
    expected = np.cov(mean.numpy(), rowvar=False) + np.diag((scale.numpy() ** 2).mean(axis=0))
    np.testing.assert_allclose(posterior_covariance(mean, scale), expected, rtol=1e-5, atol=1e-6)
    off = expected - np.diag(np.diag(expected))
    value = 10 * ((np.diag(expected) - 1) ** 2).sum() + 5 * (off**2).sum()
    assert dip(mean, scale).item() == pytest.approx(value, rel=1e-5)


def test_iv_03_dip_equals_the_closed_form_of_a_gaussian():
    covariance = np.array([[0.8, 0.3], [0.3, 1.1]])
    _, mean, scale = posteriors(200_000, covariance, 0.5)
    expected = 10 * ((0.8 + 0.25 - 1) ** 2 + (1.1 + 0.25 - 1) ** 2) + 5 * 2 * 0.3**2
    assert dip(mean, scale).item() == pytest.approx(expected, rel=0.02)


def test_dip_off_diagonal_holds_covariances_only():
    """Adding the mean variance to every entry would give 1.03 here."""
    mean = torch.tensor([[1.0, 0.11], [-1.0, -0.11]]) / 2**0.5
    covariance = posterior_covariance(mean, torch.full((2, 2), 0.92**0.5))
    assert covariance[0, 1].item() == pytest.approx(0.11) and covariance[0, 0].item() == pytest.approx(1.92)


COVARIANCE = np.array([[1.0, 0.8, 0.2], [0.8, 1.0, 0.0], [0.2, 0.0, 0.5]])


@pytest.mark.parametrize("noise", [0.4, 0.8])
def test_iv_03_tc_equals_the_closed_form_of_a_gaussian(noise):
    """The aggregated posterior of Gaussian means with Gaussian posteriors is Gaussian."""
    values = [total_correlation(*posteriors(2000, COVARIANCE, noise, seed)).item() for seed in range(5)]
    expected = gaussian_tc(COVARIANCE + noise**2 * np.eye(3))
    error = np.std(values, ddof=1) / 5**0.5
    assert np.mean(values) == pytest.approx(expected, abs=3 * error + 0.02)
    assert expected > 0.15  # so that zero would not pass


def test_iv_03_tc_of_a_minibatch_uses_the_size_of_the_data():
    """Minibatches of 200 out of 2,000 cells: the same value, within the error of 200 posteriors."""
    noise = 0.8
    z, mean, scale = posteriors(2000, COVARIANCE, noise)
    batches = [total_correlation(z[i::10], mean[i::10], scale[i::10], 2000).item() for i in range(10)]
    assert np.mean(batches) == pytest.approx(gaussian_tc(COVARIANCE + noise**2 * np.eye(3)), abs=0.05)


def test_tc_against_a_loop_over_numbers():
    z, mean, scale = (t[:6] for t in posteriors(6, COVARIANCE, 0.7))
    n_cells, values = 100, []
    for n in range(6):
        weights = np.full(6, (n_cells - 1) / (n_cells * 5))
        weights[n] = 1 / n_cells
        each = np.exp(Normal(mean, scale).log_prob(z[n]).numpy())  # (posterior, dimension)
        values.append(np.log((weights * each.prod(axis=1)).sum()) - np.log(weights @ each).sum())
    assert total_correlation(z, mean, scale, n_cells).item() == pytest.approx(np.mean(values), abs=1e-10)


def test_tc_differs_from_minibatch_weighted_sampling_by_a_constant():
    """With N = B the weight 1/(NB) of every sum adds (D - 1) log N."""
    z, mean, scale = posteriors(50, COVARIANCE, 0.7)
    each, n = Normal(mean, scale).log_prob(z.unsqueeze(1)), math.log(50 * 50)
    plain = each.sum(dim=-1).logsumexp(dim=1) - n - (each.logsumexp(dim=1) - n).sum(dim=1)
    found = total_correlation(z, mean, scale, 50)
    assert (plain.mean() - found).item() == pytest.approx(2 * math.log(50), abs=1e-9)


def test_iv_03_tc_is_finite_at_50_dimensions():
    torch.manual_seed(0)
    mean, scale = 5 * torch.randn(128, 50), torch.full((128, 50), 0.05)
    z = (mean + scale * torch.randn(128, 50)).requires_grad_()
    value = total_correlation(z, mean, scale, 5000)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()
    # posteriors that are all alike have independent dimensions, whatever their number
    same = total_correlation(torch.randn(128, 50), torch.zeros(128, 50), torch.ones(128, 50), 5000)
    assert same.item() == pytest.approx(0, abs=1e-3)


def test_iv_03_mmd_tells_distributions_apart():
    torch.manual_seed(0)
    equal = [mmd(torch.randn(500, 10), torch.randn(500, 10)).item() for _ in range(10)]
    assert max(np.abs(equal)) < 0.01 and min(equal) < 0 < max(equal)  # unbiased: on both sides of zero
    assert mmd(torch.randn(500, 10), torch.randn(500, 10) + 1).item() > 0.05


def test_mmd_equals_the_closed_form_of_gaussians():
    """E k of two normals with variance v and distance m: (2D / (2D + s))^(D/2) exp(-m^2 / (2 (2D + s))), s = 2v."""
    torch.manual_seed(0)
    d, shift = 3, 1.5
    kernel = lambda m: (2 * d / (2 * d + 2)) ** (d / 2) * math.exp(-(m**2) / (2 * (2 * d + 2)))  # noqa: E731
    expected = 2 * kernel(0) - 2 * kernel(shift)
    p, q = torch.randn(3000, d), torch.randn(3000, d)
    q[:, 0] += shift
    assert mmd(p, q).item() == pytest.approx(expected, rel=0.1)


def test_mmd_equals_loops_without_the_diagonal():
    torch.manual_seed(0)
    p, q = torch.randn(5, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    k = lambda a, b: math.exp(-float(((a - b) ** 2).sum()) / 8)  # noqa: E731
    within = lambda s: np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])  # noqa: E731
    expected = within(p) + within(q) - 2 * np.mean([k(a, b) for a in p for b in q])
    assert mmd(p, q).item() == pytest.approx(expected, abs=1e-12)


def test_one_cell_gives_no_penalty_and_no_nan():
    z = torch.randn(1, 3, requires_grad=True)
    assert mmd(torch.randn(1, 3), z).item() == 0
    assert total_correlation(z, torch.zeros(1, 3), torch.ones(1, 3), 100).item() == pytest.approx(0, abs=1e-6)
    assert dip(z, torch.ones(1, 3)).item() == 0
