"""Composition priors against the moments of their distributions."""

import numpy as np
import pytest
from scipy.special import digamma, xlogy
from scipy.stats import kstest

from hpvade.simulate import TRAINING_PRIOR, sample_proportions


def draw(n=20_000, n_types=4, seed=0, **kwargs):
    return sample_proportions(n, n_types, np.random.default_rng(seed), **kwargs)


def entropy(proportions):
    return -xlogy(proportions, proportions).sum(axis=1)


@pytest.mark.parametrize("prior", [{name: 1.0} for name in TRAINING_PRIOR] + [TRAINING_PRIOR, None])
@pytest.mark.parametrize("n_types", [1, 2, 7])
@pytest.mark.parametrize("alpha", [1e-5, 1.0, 50.0])
def test_rows_are_compositions(prior, n_types, alpha):
    proportions = draw(300, n_types, alpha=alpha, prior=prior)
    assert proportions.shape == (300, n_types)
    assert proportions.min() >= 0
    np.testing.assert_allclose(proportions.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_dirichlet_moments(alpha):
    proportions = draw(alpha=alpha)
    mean = 1 / 4
    np.testing.assert_allclose(proportions.mean(axis=0), mean, rtol=0.03)
    np.testing.assert_allclose(proportions.var(axis=0), mean * (1 - mean) / (4 * alpha + 1), rtol=0.05)


def test_sparse_has_exact_zeros_and_every_number_of_types():
    proportions = draw(prior={"sparse": 1.0})
    kept = np.bincount((proportions > 0).sum(axis=1), minlength=5) / len(proportions)
    np.testing.assert_allclose(kept, [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=0.015)
    np.testing.assert_allclose((proportions > 0).mean(axis=0), 0.5, atol=0.015)


def test_rare_share_is_log_uniform_in_any_type():
    proportions = draw(alpha=1000.0, prior={"rare": 1.0})  # the other types are near a third each
    rare = proportions.min(axis=1)
    assert rare.min() >= 1e-4 and rare.max() <= 0.1
    assert kstest((np.log10(rare) + 4) / 3, "uniform").pvalue > 0.01
    np.testing.assert_allclose(np.bincount(proportions.argmin(axis=1)) / len(rare), 0.25, atol=0.015)


def test_reference_prior_moments():
    centre = np.array([0.5, 0.3, 0.2, 0.0])
    proportions = draw(prior={"reference": 1.0}, reference=centre)
    mean = np.maximum(centre, 1e-3) / 1.001
    np.testing.assert_allclose(proportions.mean(axis=0)[:3], mean[:3], rtol=0.02)
    assert 0 < proportions[:, 3].mean() < 3e-3
    # Dirichlet variance m (1 - m) / (c + 1), averaged over the log-uniform total concentration c
    shrink = (np.log(100 / 101) - np.log(5 / 6)) / np.log(100 / 5)
    np.testing.assert_allclose(proportions.var(axis=0)[:3], (mean * (1 - mean) * shrink)[:3], rtol=0.05)


def test_reference_prior_is_even_without_a_reference():
    np.testing.assert_allclose(draw(prior={"reference": 1.0}).mean(axis=0), 0.25, rtol=0.03)


def test_shares_of_priors_are_scaled_to_one():
    zeros = (draw(prior={"dirichlet": 6, "sparse": 2}) == 0).any(axis=1)
    assert zeros.mean() == pytest.approx(0.25, abs=0.01)


def test_tiny_concentration_gives_one_type_alone():
    proportions = draw(4000, alpha=1e-8)
    assert (proportions.max(axis=1) > 0.999).all()
    np.testing.assert_allclose(proportions.mean(axis=0), 0.25, atol=0.03)


def test_hp25_alpha_and_sparse_set_the_label_entropy():
    for alpha in (0.1, 1.0, 10.0):
        expected = digamma(4 * alpha + 1) - digamma(alpha + 1)
        assert entropy(draw(alpha=alpha)).mean() == pytest.approx(expected, rel=0.02)
    # k of the four types, k = 1, 2, 3 equally often
    expected = np.mean([digamma(k + 1) - digamma(2) for k in (1, 2, 3)])
    assert entropy(draw(prior={"sparse": 1.0})).mean() == pytest.approx(expected, rel=0.02)


def test_same_seed_same_compositions():
    first, again, other = (draw(50, prior=TRAINING_PRIOR, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prior": {"flat": 1.0}}, r"unknown composition prior \['flat'\]"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": np.nan}, "alpha is nan"),
        ({"prior": {"dirichlet": -1.0, "sparse": 2.0}}, "non-negative"),
        ({"prior": {"dirichlet": 0.0}}, "not all zero"),
        ({"prior": {}}, "not all zero"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        draw(5, **kwargs)
