"""The unknown component against planted shares and profiles."""

import numpy as np
import pytest
import torch

from hpvade.solvers import marker_genes, robust, unknown_component


def cohort(seed=0, n=24, n_genes=1500, n_types=4, platform=0.0, most=0.4):
    """Signature of the known types, bulk with one more, the true fractions (unknown last), its profile."""
    rng = np.random.default_rng(seed)
    profiles = rng.lognormal(0, 1, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_types + 1))
    profiles /= profiles.sum(axis=0)
    share = rng.uniform(0, most, n)
    share[:4] = 0
    fractions = np.column_stack([rng.dirichlet(np.full(n_types, 2.0), n) * (1 - share)[:, None], share])
    bulk = fractions @ profiles.T * np.exp(platform * rng.standard_normal(n_genes))
    bulk = bulk * np.exp(0.05 * rng.standard_normal(bulk.shape))
    return profiles[:, :-1], bulk / bulk.sum(axis=1, keepdims=True), fractions, profiles[:, -1]


def rmse(x, y):
    return float(np.sqrt(np.mean((np.asarray(x) - y) ** 2)))


def closed(x):
    x = np.asarray(x)
    return x / x.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("platform", "gain"), [(0.0, 0.75), (0.5, 0.95)])
def test_planted_share_and_profile_are_found_and_the_known_types_gain(platform, gain):
    signature, bulk, fractions, profile = cohort(platform=platform)
    signature, bulk = torch.from_numpy(signature), torch.from_numpy(bulk)
    fit = unknown_component(bulk, signature)
    assert np.corrcoef(fit.unknown, fractions[:, -1])[0, 1] > 0.95
    assert fit.unknown[:4].max() < 0.05
    assert np.corrcoef(np.log(fit.profile + 1e-5), np.log(profile + 1e-5))[0, 1] > 0.7
    total = fit.rna_proportions.sum(dim=1) + fit.unknown
    np.testing.assert_allclose(total, 1, atol=1e-5)
    genes = marker_genes(signature)
    without = robust(bulk[:, genes], signature[genes]).rna_proportions
    truth = closed(fractions[:, :-1])
    assert rmse(closed(fit.rna_proportions), truth) < gain * rmse(without, truth)


def test_nothing_is_unknown_where_nothing_is_missing():
    signature, bulk, _, _ = cohort(most=0.0, platform=0.5)
    fit = unknown_component(torch.from_numpy(bulk), torch.from_numpy(signature))
    assert fit.unknown.mean() < 0.03


def test_large_cohorts_learn_the_profile_from_some_samples():
    signature, bulk, fractions, _ = cohort(n=60)
    fit = unknown_component(torch.from_numpy(bulk), torch.from_numpy(signature), n_samples=20)
    assert np.corrcoef(fit.unknown, fractions[:, -1])[0, 1] > 0.9


def test_too_few_samples():
    signature, bulk, _, _ = cohort(n=5)
    with pytest.raises(ValueError, match="found 5, expected at least 6"):
        unknown_component(torch.from_numpy(bulk), torch.from_numpy(signature))


def test_samples_without_unknown_are_solved_as_if_there_were_none():
    signature, bulk, _, _ = cohort()
    bulk, signature = torch.from_numpy(bulk), torch.from_numpy(signature)
    genes = marker_genes(signature)
    own = robust(bulk[:, genes], signature[genes]).rna_proportions
    other = torch.from_numpy(np.random.default_rng(3).dirichlet(np.ones(4), len(bulk))).float()
    for known, options in ((own, {}), (other, {"known": other})):
        for more in ({}, {"n_samples": 12}):
            fit = unknown_component(bulk, signature, **options, **more)
            none = fit.unknown == 0
            assert none.any() and not none.all()
            np.testing.assert_allclose(fit.rna_proportions[none], known[none], atol=1e-6)
    # and the answer goes over to the one with the unknown in proportion: a small share moves little
    among = fit.rna_proportions / (1 - fit.unknown[:, None])
    moved = (among - other).abs().amax(dim=1)
    assert (moved <= (fit.unknown / 0.05).clamp(max=1) + 1e-6).all()


@pytest.mark.parametrize("n_genes", [10, 24, 60])
def test_too_few_genes(n_genes):
    signature, bulk, _, _ = cohort(n_genes=n_genes)
    with pytest.raises(ValueError, match=r"found \d+, expected at least 20. Use more genes, or no unknown"):
        unknown_component(torch.from_numpy(bulk), torch.from_numpy(signature))


@pytest.mark.parametrize("seed", [1, 2])
def test_donors_that_move_many_genes_are_not_taken_for_a_type(seed):
    rng = np.random.default_rng(seed)
    profiles = rng.lognormal(0, 1, (1500, 1)) * rng.lognormal(0, 1, (1500, 4))
    missing = profiles.mean(axis=1)
    missing[rng.choice(1500, 100, replace=False)] *= 20
    profiles = np.column_stack([profiles, missing])
    profiles /= profiles.sum(axis=0)
    share = rng.uniform(0, 0.4, 40)
    share[:4] = 0
    fractions = np.column_stack([rng.dirichlet(np.full(4, 2.0), 40) * (1 - share)[:, None], share])
    donor = np.outer(np.arange(40) % 2, rng.uniform(-0.9, 0.9, 1500))  # every gene, markers of known types, too
    bulk = fractions @ profiles.T * np.exp(donor + 0.05 * rng.standard_normal((40, 1500)))
    bulk = torch.from_numpy(bulk / bulk.sum(axis=1, keepdims=True))
    fit = unknown_component(bulk, torch.from_numpy(profiles[:, :-1]))
    assert np.corrcoef(fit.unknown, share)[0, 1] > 0.9


def test_noise_is_no_unknown():
    for seed in range(3):
        signature, bulk, _, _ = cohort(seed, most=0.0, platform=0.5)
        bulk, signature = torch.from_numpy(bulk), torch.from_numpy(signature)
        assert not unknown_component(bulk, signature).unknown.any()
