"""Native share of summed counts, against planted ambient counts."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import nbinom

from hpvade.models.ambient import _native_share
from hpvade.models.ambient._evidence import MOST
from hpvade.models.ambient._native_share import native_share

LEVELS = np.array([0.05, 0.15, 0.3])


def plant(levels=LEVELS, n_groups=6, n_genes=400, distortion=0.0, seed=0):
    """Sums of Poisson counts of groups that lack many genes, with ambient RNA of the groups' mean profile."""
    rng = np.random.default_rng(seed)
    expression = rng.gamma(0.5, 1.0, n_genes) * rng.lognormal(0, 0.5, (n_groups, n_genes))
    absent = rng.random((n_groups, n_genes)) < 0.5
    absent[:, absent.all(axis=0)] = False
    expression[absent] = 0
    expression /= expression.sum(axis=1, keepdims=True)
    totals = rng.integers(2e4, 1e5, (n_groups, len(levels)))
    profile = np.tile(expression.mean(axis=0), (len(levels), 1))
    native = rng.poisson(totals[..., None] * expression[:, None])
    ambient = rng.poisson((totals * levels / (1 - levels))[..., None] * profile)
    given = profile * rng.lognormal(0, distortion, profile.shape)
    given /= given.sum(axis=1, keepdims=True)
    counts = (native + ambient).astype(float)
    return SimpleNamespace(counts=counts, native=native, given=given, profile=profile, absent=absent)


def test_levels_and_native_counts_are_found():
    data = plant()
    found = native_share(data.counts, data.given)
    np.testing.assert_allclose(found.level, LEVELS, rtol=0.2)
    clean = found.share * data.counts
    lost = data.absent[:, None].repeat(3, axis=1)
    assert clean[lost].sum() < 0.1 * data.counts[lost].sum()
    np.testing.assert_allclose(clean[~lost].sum(), data.native.sum(), rtol=0.03)
    assert np.minimum(clean, data.native).sum() > 0.97 * data.native.sum()


def test_a_wrong_profile_is_corrected_where_groups_show_ambient_rna_alone():
    data = plant(distortion=0.3)
    found = native_share(data.counts, data.given)
    shown = data.absent.any(axis=0) & (data.profile[0] > 1e-4)

    def error(profile):
        return np.abs(np.log(profile / data.profile))[:, shown].mean(axis=1)

    corrected = found.ambient / found.ambient.sum(axis=1, keepdims=True)
    assert (error(corrected)[1:] < 0.5 * error(data.given)[1:]).all()
    lost = data.absent[:, None].repeat(3, axis=1)
    assert (found.share * data.counts)[lost].sum() < 0.1 * data.counts[lost].sum()


def test_nothing_is_removed_from_clean_counts_or_from_one_group():
    clean = plant(levels=np.zeros(2))
    found = native_share(clean.counts, clean.given)
    assert (found.level < 0.01).all() and (found.share * clean.counts).sum() > 0.99 * clean.counts.sum()
    one = clean.counts[:1]
    found = native_share(one, one[0] / one[0].sum(axis=1, keepdims=True))
    assert (found.share * one).sum() > 0.98 * one.sum()


def test_shares_are_shares_also_of_empty_groups_and_genes():
    data = plant(n_groups=3, n_genes=60)
    data.counts[1, 2], data.counts[:, :, 7] = 0, 0
    found = native_share(data.counts, data.given)
    assert ((found.share >= 0) & (found.share <= 1)).all() and ((found.level >= 0) & (found.level <= MOST)).all()
    found = native_share(np.zeros((2, 1, 5)), np.full((1, 5), 0.2))
    assert (found.level == 0).all() and np.isfinite(found.share).all()


def test_genes_may_come_in_any_order_and_in_blocks(monkeypatch):
    data = plant(n_groups=4, n_genes=120)
    found, order = native_share(data.counts, data.given), np.random.default_rng(1).permutation(120)
    permuted = native_share(data.counts[..., order], data.given[:, order])
    np.testing.assert_allclose(permuted.share, found.share[..., order], rtol=1e-6, atol=1e-9)
    monkeypatch.setattr(_native_share, "_BLOCK_VALUES", 1000)
    np.testing.assert_allclose(native_share(data.counts, data.given).share, found.share, rtol=1e-9)


@pytest.mark.parametrize("size", [0.7, 25.0])
def test_probabilities_are_those_of_scipy(size):
    x, mean = np.arange(9.0), np.linspace(0.2, 5, 9)
    found = _native_share._negative_binomial(x, mean, size)
    expected = nbinom.logpmf(x, size, size / (size + mean))
    constant = nbinom.logpmf(x, 3.0, 0.5) - _native_share._negative_binomial(x, 3.0, 3.0)
    np.testing.assert_allclose(found + constant, expected, rtol=1e-6)
