"""Means by context against NumPy and scikit-learn."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from hpvade.models.cycleae._context_data import Chunk, ContextDataModule
from hpvade.models.cycleae._context_means import context_means, log1p_cp10k


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
    for k, combination in enumerate(means.combinations):
        cells = (codes == combination).all(axis=1)
        additive = Y.mean(axis=0) + means.profiles[0][combination[0]]
        additive = additive + (means.profiles[1][combination[1]] if combination[1] >= 0 else 0)
        shrunk = (Y[cells].mean(axis=0) - additive) * cells.sum() / (cells.sum() + 10)
        np.testing.assert_allclose(means.residuals[k], shrunk, atol=1e-4)


def test_log1p_cp10k_keeps_empty_rows():
    X = sparse.csr_matrix([[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(log1p_cp10k(X).toarray(), [np.log1p([2500, 7500]), [0, 0]], rtol=1e-6)
