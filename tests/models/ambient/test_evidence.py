"""Evidence of ambient RNA: planted floors are found with their share, cells that share all genes have none."""

import numpy as np
import pytest
from scipy import stats

from hpvade.models.ambient._evidence import ambient_share
from hpvade.models.ambient._likelihood import negative_binomial
from hpvade.models.ambient._native_share import native_share


def drawn(kind, share, seed, n_cells=900, n_genes=300, n_types=6):
    """Counts (types, batches = 1, genes) with ambient RNA of a share, and the profile of all counts."""
    rng = np.random.default_rng(seed)
    if kind == "own genes":
        owner = np.arange(n_genes) % (n_types * 3 // 2)
        profiles = rng.gamma(1.0, 1.0, (n_types, n_genes)) * (
            (owner == np.arange(n_types)[:, None]) | (owner >= n_types)
        )
    elif kind == "all genes":
        profiles = rng.gamma(1.0, 1.0, (n_types, n_genes))
    else:
        profiles = rng.gamma(1.0, 1.0, n_genes) * rng.lognormal(0, float(kind), (n_types, n_genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    total = 800 * rng.multinomial(n_cells, np.full(n_types, 1 / n_types))[:, None]
    native = rng.poisson(profiles * total)
    ambient = rng.poisson(profiles.mean(axis=0) * total * share / (1 - share))
    counts = (native + ambient)[:, None].astype(float)
    profile = counts.sum(axis=(0, 1))[None]
    return counts, profile / profile.sum(), ambient.sum() / counts.sum()


@pytest.mark.parametrize("kind", ["all genes", "0.3", "0.5", "1.0", "1.5", "own genes"])
@pytest.mark.parametrize("n_cells", [60, 900])
def test_clean_counts_are_left_alone(kind, n_cells):
    """Sixty cells are ten per type."""
    removed = []
    for seed in range(5):
        counts, profile, _ = drawn(kind, 0.0, seed, n_cells)
        split = native_share(counts, profile)
        removed.append(1 - (split.share * counts).sum() / counts.sum())
        assert split.lower[0] == 0 if split.level[0] == 0 else split.lower[0] <= split.level[0]
    assert np.median(removed) <= 0.02


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3, 0.4])
def test_a_planted_share_is_found(share):
    for seed in range(3):
        counts, profile, truth = drawn("own genes", share, seed)
        split = native_share(counts, profile)
        assert split.level[0] == pytest.approx(truth, rel=0.25)
        assert 0 < split.lower[0] <= split.level[0] <= split.upper[0] <= 0.5


def test_batches_are_judged_on_their_own():
    clean, dirty = (drawn("own genes", share, 1) for share in (0.0, 0.2))
    counts = np.concatenate([clean[0], dirty[0]], axis=1)
    split = native_share(counts, np.concatenate([clean[1], dirty[1]]))
    assert split.level[0] == 0 and (split.share[:, 0] == 1).all() and split.level[1] > 0.12


def test_without_counts_nothing_is_known():
    rng = np.random.default_rng(0)
    assert ambient_share(np.zeros((3, 5)), np.full((3, 5), 0.1), rng) == (0.0, 0.0, 0.5, False)


def test_likelihood_is_that_of_scipy():
    x, mean, size = np.array([0.0, 3, 10]), np.array([0.5, 2, 12]), 4.0
    expected = stats.nbinom.logpmf(x, size, size / (size + mean))
    constant = stats.nbinom.logpmf(x, size, 0.5) - negative_binomial(x, np.full(3, size), size)
    np.testing.assert_allclose(negative_binomial(x, mean, size) + constant, expected)
