"""What the model says about a cohort: platform distance, depth, priors, network and covariance on request."""

import numpy as np
import pandas as pd
import pytest
import torch

from hpvade.models.hpvade._estimate import (
    MAX_DEPTH,
    OTHER_PLATFORM,
    SAME_PLATFORM,
    estimate,
    platform_distance,
    to_shares,
    trust_in_published_sizes,
)
from hpvade.solvers import marker_genes


def test_platform_distance_is_the_planted_deviation():
    rng = np.random.default_rng(0)
    expected = rng.lognormal(0, 1, (40, 2000))
    for sd in (0.0, 0.3, 0.8):
        factor = np.exp(sd * rng.standard_normal(2000))
        bulk = expected * factor * rng.uniform(0.1, 10, (40, 1))  # depth does not matter
        found = platform_distance(torch.from_numpy(bulk), torch.from_numpy(expected))
        assert found == pytest.approx(sd, rel=0.1, abs=1e-4)


def test_platform_distance_ignores_what_only_single_samples_show():
    rng = np.random.default_rng(0)
    expected = rng.lognormal(0, 1, (101, 2000))
    bulk = expected * np.exp(rng.standard_normal((101, 2000)))
    assert platform_distance(torch.from_numpy(bulk), torch.from_numpy(expected)) < 0.2


def test_trust_in_published_sizes_is_a_ramp():
    middle = (SAME_PLATFORM + OTHER_PLATFORM) / 2
    points = [0.0, SAME_PLATFORM, middle, OTHER_PLATFORM, 3.0]
    assert [trust_in_published_sizes(d) for d in points] == pytest.approx([0, 0, 0.5, 1, 1])


def test_depth_of_counts_in_any_unit():
    """Totals in units of the smallest count, whatever counts were divided by; at most `MAX_DEPTH`."""
    counts = torch.tensor([[1.0, 0, 4], [2, 6, 0], [1, 3e7, 0]])
    expected = torch.tensor([5.0, 4.0, MAX_DEPTH])
    for factor in (1.0, 1e-6, 123.0):
        values = counts * factor
        total, depth = to_shares(values)
        assert torch.allclose(depth, expected)
        assert torch.allclose(total, factor * counts.sum(dim=1))
        assert torch.allclose(values, counts / counts.sum(dim=1, keepdim=True))  # in place


def test_a_strong_prior_decides_and_the_default_hardly_moves(trained):
    types = trained.model.cell_types
    prior = dict(zip(types, [0.7, 0.1, 0.1, 0.1], strict=True))
    free = trained.model.deconvolve(trained.bulk.copy(), prior_weight=0.0)
    default = trained.model.deconvolve(trained.bulk.copy())
    drawn = trained.model.deconvolve(trained.bulk.copy(), prior=prior, prior_weight=1e4)
    np.testing.assert_allclose(drawn, np.tile(list(prior.values()), (12, 1)), atol=0.02)
    assert float((default - free).abs().mean(axis=None)) < 0.03
    table = pd.DataFrame([prior] * 12, index=trained.bulk.obs_names)[types[::-1]]
    same = trained.model.deconvolve(trained.bulk.copy(), prior=table, prior_weight=1e4)
    pd.testing.assert_frame_equal(same, drawn)
    network = trained.model.deconvolve(trained.bulk.copy(), refine=False, fractions="rna")
    near = trained.model.deconvolve(trained.bulk.copy(), prior="network", prior_weight=1e4, fractions="rna")
    np.testing.assert_allclose(near, network, atol=0.02)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"prior": "flat"}, ValueError, "expected 'equal', 'network'"),
        ({"prior": [0.25] * 4}, TypeError, "prior is a list, which names no types"),
        ({"prior_weight": "1"}, ValueError, "prior_weight='1'; expected a number"),
        ({"prior": {"nobody": 1.0}}, ValueError, "nobody"),
        ({"prior_weight": -1}, ValueError, "at least 0"),
        ({"solver_kwargs": {"speed": 9}}, TypeError, "speed"),
    ],
)
def test_bad_priors_and_solver_options(trained, unchanged, change, error, match):
    with unchanged(trained.bulk), pytest.raises(error, match=match):
        trained.model.deconvolve(trained.bulk, **change)


def test_priors_with_repeated_rows(trained):
    """Refused with a sentence; where the rows are the samples, in order, names may repeat."""
    types, bulk = trained.model.cell_types, trained.bulk.copy()
    prior = pd.DataFrame(np.random.default_rng(0).dirichlet(np.ones(4), bulk.n_obs), bulk.obs_names, types)
    expected = trained.model.deconvolve(bulk.copy(), prior=prior)
    with pytest.raises(ValueError, match="prior has more than one row for some samples"):
        trained.model.deconvolve(bulk.copy(), prior=pd.concat([prior, prior]))
    with pytest.raises(ValueError, match="prior must name every type once"):
        trained.model.deconvolve(bulk.copy(), prior=prior[[*types, types[0]]])
    bulk.obs_names = prior.index = ["s", "s", *bulk.obs_names[2:]]
    found = trained.model.deconvolve(bulk, prior=prior)
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), atol=1e-6)


def test_priors_with_bad_values(trained):
    types = trained.model.cell_types
    for values, match in (([-1, 1, 1, 1], "negative"), ([0, 0, 0, 0], "row of zeros")):
        with pytest.raises(ValueError, match=match):
            trained.model.deconvolve(trained.bulk.copy(), prior=dict(zip(types, values, strict=True)))
    with pytest.raises(ValueError, match="prior lacks 11 samples"):
        one = pd.DataFrame([[0.25] * 4], index=trained.bulk.obs_names[:1], columns=types)
        trained.model.deconvolve(trained.bulk.copy(), prior=one)


def test_network_and_covariance_are_worked_out_where_they_are_asked_for(trained):
    model, bulk = trained.model, trained.bulk
    plain = estimate(model, bulk)
    assert plain.network is None and plain.fit.covariance is None
    asked = estimate(model, bulk, network=True, covariance=True)
    values = torch.from_numpy(asked.shares.cpu().numpy())
    torch.testing.assert_close(asked.network, model.module.predict(values, asked.present))
    assert asked.fit.covariance.shape == (bulk.n_obs, model.module.n_types, model.module.n_types)
    torch.testing.assert_close(asked.rna, plain.rna, rtol=0, atol=0)
    for options in ({"prior": "network"}, {"refine": False}):
        torch.testing.assert_close(estimate(model, bulk, **options).network, asked.network)


def test_markers_follow_signature_and_genes_present(trained):
    module = trained.model.module
    share = (module.signature() / module.signature().sum(dim=0)).detach()
    allowed = module.gene_score > 0
    fewer = allowed & (torch.arange(len(allowed)) % 3 > 0)
    other = share.flip(1) ** 1.5
    for signature, genes in ((share, allowed), (share, allowed), (share, fewer), (other, fewer), (share, allowed)):
        assert torch.equal(module._markers(signature, genes), marker_genes(signature, genes))
