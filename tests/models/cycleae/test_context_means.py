"""Means by context against NumPy and scikit-learn."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from hpvade.models.cycleae._context_data import Chunk, ContextDataModule
from hpvade.models.cycleae._context_means import context_means, log1p_cp10k
from hpvade.reference._shift import shrink_to


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(2, size=200), rng.integers(-1, 3, size=200)], axis=1)
    X = sparse.csr_matrix(rng.poisson(2, (200, 12)).astype(np.float32))
    chunks = [Chunk("a", 120, lambda: X[:120]), Chunk("b", 80, lambda: X[120:])]
    module = ContextDataModule(chunks, codes)
    module.train_idx = np.sort(rng.permutation(200)[:150])
    return module, X


def test_profiles_residuals_and_variance_equal_numpy(data):
    module, X = data
    means = context_means(module, [2, 3], np.random.default_rng(0), log1p=True)
    train, codes = module.train_idx, module.codes[module.train_idx]
    counts = X.toarray()[train]
    Y = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    Z = np.concatenate([np.eye(2)[codes[:, 0]], np.where(codes[:, 1:] >= 0, np.eye(3)[codes[:, 1]], 0)], axis=1)
    ridge = Ridge(alpha=1.0).fit(Z, Y)
    for f, (a, b) in enumerate(((0, 2), (2, 5))):
        expected = ridge.coef_.T[a:b]
        weight = Z[:, a:b].sum(axis=0)
        expected = expected - weight @ expected / weight.sum()
        np.testing.assert_allclose(means.profiles[f], expected, atol=1e-4)
    np.testing.assert_allclose(means.variance, Y.var(axis=0).mean(), rtol=1e-4)
    np.testing.assert_allclose(means.sample, Y, rtol=1e-4)  # all cells fit into the sample
    np.testing.assert_array_equal(means.sample_codes, codes)
    raw, spread = [], []
    for combination in means.combinations:
        cells = (codes == combination).all(axis=1)
        additive = Y.mean(axis=0) + means.profiles[0][combination[0]]
        additive = additive + (means.profiles[1][combination[1]] if combination[1] >= 0 else 0)
        raw.append(Y[cells].mean(axis=0) - additive), spread.append(Y[cells].var(axis=0))
    raw, spread, n = np.array(raw), np.array(spread), means.n_cells[:, None]
    np.testing.assert_array_equal(means.n_cells, [(codes == c).all(axis=1).sum() for c in means.combinations])
    pooled = (n * spread).sum(axis=0) / (n - 1).sum()
    noise = (n * spread + 10 * pooled) / (n + 9) / n
    np.testing.assert_allclose(means.residuals, shrink_to(raw, noise, 0 * raw), atol=1e-3)
    kept = np.linalg.norm(means.residuals, axis=1) / np.linalg.norm(raw, axis=1)
    # nothing is planted: all residuals are noise, and few of them are kept
    assert (np.abs(means.residuals - raw) <= np.sqrt(noise) + 1e-3).all() and kept.mean() < 0.7


def test_levels_equal_numpy(data):
    """log1p of mean counts per 10,000, weighted least squares over combinations, residuals shrunk by their noise."""
    module, X = data
    means = context_means(module, [2, 3], np.random.default_rng(0), log1p=True)
    codes, counts = module.codes[module.train_idx], X.toarray()[module.train_idx].astype(float)
    size = counts.sum(axis=1, keepdims=True)
    rate, n = 1e4 * counts / size, means.n_cells
    cells = [(codes == combination).all(axis=1) for combination in means.combinations]
    mean = np.array([rate[c].mean(axis=0) for c in cells])
    per_count = np.array([(1e4 / size[c]).mean() for c in cells])[:, None]
    variance = np.array([rate[c].var(axis=0, ddof=1) for c in cells])
    noise = np.maximum(variance, mean * per_count) / n[:, None] / (1 + mean) ** 2
    a, b = means.combinations.T
    Z = np.concatenate([np.eye(2)[a], np.where(b[:, None] >= 0, np.eye(3)[b], 0)], axis=1)
    additive = Ridge(alpha=1.0).fit(Z, np.log1p(mean), sample_weight=n).predict(Z)
    residual = np.log1p(mean) - additive
    kept = shrink_to(residual, noise, 0 * residual)
    np.testing.assert_allclose(means.levels, additive + kept, atol=2e-3)
    share = np.linalg.norm(kept, axis=1) / np.linalg.norm(residual, axis=1)
    np.testing.assert_allclose(means.measured, share, atol=5e-3)
    assert context_means(module, [2, 3], np.random.default_rng(0), log1p=False).levels is None


def test_what_many_cells_say_is_kept():
    rng = np.random.default_rng(1)
    codes = np.stack([np.arange(4000) // 2 % 2, np.arange(4000) % 2], axis=1)
    mean = 5 + 4 * (codes[:, :1] == codes[:, 1:]) * (np.arange(12) < 6)  # of half of the genes, not additive
    X = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    module = ContextDataModule([Chunk("a", 4000, lambda: X)], codes)
    module.train_idx = np.arange(4000)
    means = context_means(module, [2, 2], np.random.default_rng(0), log1p=False)
    sign = np.where(means.combinations[:, :1] == means.combinations[:, 1:], 1, -1)
    np.testing.assert_allclose(means.residuals[:, :6], np.broadcast_to(2 * sign, (4, 6)), atol=0.25)
    assert (means.measured > 0.9).all()


def test_log1p_cp10k_keeps_empty_rows():
    X = sparse.csr_matrix([[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(log1p_cp10k(X).toarray(), [np.log1p([2500, 7500]), [0, 0]], rtol=1e-6)
