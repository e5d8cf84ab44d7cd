"""Summaries of the Jacobian against torch.autograd."""

import pytest
import torch
from torch import nn

from hpvade.models.ambient._jacobian import jacobian_summary


@pytest.fixture
def case():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 11), nn.Softplus())
    z, context, weights = torch.randn(7, 3), torch.randn(7, 2), torch.rand(7, 11)
    return (lambda z, c: network(torch.cat([z, c], dim=-1))), z, context, weights


@pytest.mark.parametrize("method", ["h2b", "jacfwd"])
def test_rv_12_summary_equals_autograd(case, method):
    function, z, context, weights = case
    blocks = [slice(0, 2), slice(2, 3)]
    attribution, norm = jacobian_summary(function, z, context, weights, blocks, method)
    for n in range(7):
        J = torch.autograd.functional.jacobian(lambda row, n=n: weights[n] * function(row, context[n]), z[n])
        torch.testing.assert_close(attribution[n], J.abs().mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm[n], torch.stack([J[:, b].norm() for b in blocks]), rtol=1e-5, atol=1e-6)


def test_unknown_method(case):
    function, z, context, weights = case
    with pytest.raises(ValueError, match="method='fd' is unknown; expected 'h2b' or 'jacfwd'"):
        jacobian_summary(function, z, context, weights, [slice(0, 3)], "fd")
