import numpy as np
import pytest
from scipy import sparse

from hpvade.reference import _label_space as space


def cells(n=300, n_genes=200, seed=0):
    """Counts of three types with 40 genes each that are five times higher."""
    rng = np.random.default_rng(seed)
    profile = np.tile(rng.lognormal(0, 0.5, n_genes), (3, 1))
    for k in range(3):
        profile[k, 40 * k : 40 * k + 40] *= 5
    codes = np.arange(n) % 3
    return sparse.csr_matrix(rng.poisson(profile[codes]).astype(np.float32)), codes


def test_points_are_principal_components():
    X, _ = cells()
    _, points = space.embed(X, np.ones(300, dtype=bool))
    dense = X.toarray()
    log = np.log1p(dense / dense.sum(1, keepdims=True) * 1e4)
    z = np.clip((log - log.mean(0)) / log.std(0), -10, 10)
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    expected = u * s
    expected = expected / expected[:, 0].std(ddof=1)
    for k in range(2):  # signs are free
        assert abs(np.corrcoef(points[:, k], expected[:, k])[0, 1]) == pytest.approx(1, abs=1e-4)
        assert points[:, k].std(ddof=1) == pytest.approx(expected[:, k].std(ddof=1), rel=1e-3)


def test_cells_outside_the_sample_are_placed_by_the_same_axes():
    X, _ = cells()
    sample = np.arange(300) < 200
    learned, points = space.embed(X, sample)
    alone, inside = space.embed(X[:200], np.ones(200, dtype=bool))
    np.testing.assert_allclose(points[:200], inside, atol=1e-5)
    np.testing.assert_allclose(learned.axes, alone.axes, atol=1e-6)


def test_sample_keeps_small_types_whole():
    labels = np.repeat(["a", "b", "c"], [9000, 500, 40])
    chosen = space.sample_cells(labels, np.random.default_rng(0), 1000)
    assert {name: int(chosen[labels == name].sum()) for name in "abc"} == {"a": 480, "b": 480, "c": 40}
    assert space.sample_cells(labels, np.random.default_rng(0), 9540).all()


def test_neighbours_of_apart_and_of_mixed_labels():
    rng = np.random.default_rng(0)
    apart = np.vstack([rng.normal(0, 1, (100, 2)), rng.normal(50, 1, (100, 2))])
    codes = np.repeat([0, 1], 100)
    assert (space.neighbour_share(apart, codes) == 1).all()
    mixed = space.neighbour_share(rng.normal(size=(4000, 2)), rng.integers(0, 2, 4000))
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)
    assert (space.neighbour_share(np.zeros((40, 2)), np.zeros(40, dtype=int)) == 1).all()  # duplicates
    # of few cells the neighbours are all others
    np.testing.assert_allclose(space.neighbour_share(apart[:5], np.array([0, 0, 0, 1, 1])), [0.5] * 3 + [0.25] * 2)


def test_planted_doublets_are_found():
    X, codes = cells()
    rng = np.random.default_rng(1)
    first, second = rng.choice(np.flatnonzero(codes == 0), 15), rng.choice(np.flatnonzero(codes == 1), 15)
    X = sparse.vstack([X, X[first] + X[second]], format="csr")
    codes = np.concatenate([codes, np.zeros(15, dtype=int)])
    sample = np.ones(315, dtype=bool)
    learned, points = space.embed(X, sample)
    score = space.doublet_score(X, sample, codes, learned, points)
    assert np.median(score[300:]) > 0.9
    assert (score[:300] >= 0.9).mean() < 0.05
    assert (space.doublet_score(X, sample, codes * 0, learned, points) == 0).all()  # one type: none of two
