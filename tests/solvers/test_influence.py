"""Covariances of means of estimates: NumPy by hand, and repeated draws."""

import numpy as np
import pytest
import torch

from hpvade.solvers import _influence, robust
from hpvade.solvers._influence import Influence, covariance_of_mean


def random_influence(seed, n=3, genes=20, types=4):
    g = torch.Generator().manual_seed(seed)
    return Influence(
        torch.randn(n, genes, generator=g),
        torch.rand(genes, types, generator=g),
        torch.randn(n, types, types, generator=g, dtype=torch.float64),
    )


def test_mean_of_estimates_with_other_genes_by_hand():
    """Var of the mean of inverse @ sum_g profile_g score_g z_g with one standard normal z per gene name."""
    parts = [(random_influence(0), torch.arange(0, 20)), (random_influence(1), torch.arange(5, 25))]
    effect = np.zeros((3, 4, 25))
    for one, genes in parts:
        own = one.inverse.numpy() @ (one.profile.T.numpy()[None] * one.score.numpy()[:, None, :])
        effect[:, :, genes.numpy()] += own / 2
    np.testing.assert_allclose(covariance_of_mean(parts), effect @ effect.transpose(0, 2, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(covariance_of_mean(parts, torch.tensor([2])), covariance_of_mean(parts)[2:], rtol=1e-5)


def test_the_same_estimate_twice_is_no_surer():
    one, genes = random_influence(0), torch.arange(20)
    np.testing.assert_allclose(covariance_of_mean([(one, genes)] * 3), one.covariance(one), rtol=1e-5)


def test_covariance_of_the_mean_of_two_references_is_that_of_repeated_draws():
    """Two references that err by factors of their own, one bulk platform: 300 draws of all factors."""
    rng = np.random.default_rng(0)
    signature = rng.lognormal(0, 1.5, (600, 3))
    signature /= signature.sum(axis=0)
    rna = np.array([0.2, 0.3, 0.5])
    means, claimed = [], []
    options = {"gene_factor": False, "gene_weight": False, "covariance": True}
    for _ in range(300):
        bulk = torch.from_numpy((signature @ rna) * np.exp(0.3 * rng.standard_normal(600)))[None]
        parts, found = [], []
        for _ in range(2):
            own = torch.from_numpy(signature * np.exp(0.3 * rng.standard_normal((600, 1))))
            fit = robust(bulk / bulk.sum(), own, depth=torch.tensor([1e9]), **options)
            parts.append((fit.influence, torch.arange(600)))
            found.append(fit.rna_proportions[0].double())
        means.append(torch.stack(found).mean(dim=0).numpy())
        centre = torch.eye(3, dtype=torch.float64) - found[0][:, None]
        claimed.append(np.diag(centre @ covariance_of_mean(parts)[0] @ centre.T))
    ratio = np.sqrt(np.mean(claimed, axis=0)) / np.std(means, axis=0)
    assert (np.abs(ratio - 1) < 0.15).all(), ratio


@pytest.mark.parametrize("most", [1, 16, 90, 10**6])
def test_products_in_blocks_of_genes_are_the_sums_over_all(most, monkeypatch):
    monkeypatch.setattr(_influence, "_PAIRS", most)
    g = torch.Generator().manual_seed(0)
    weight, left, right = (torch.rand(shape, generator=g) for shape in ((3, 20), (20, 4), (20, 5)))
    found = _influence.weighted_products(weight, left, right)
    np.testing.assert_allclose(found, torch.einsum("ng,gi,gj->nij", weight, left, right), rtol=1e-6)
