"""Statistics from which the regularised models start, against plain NumPy on the dense matrix."""

import numpy as np
import pytest
from scipy import sparse

from hpvade.train._count_statistics import (
    dispersion_start,
    library_statistics,
    mean_normalised,
    row_totals,
    top_normalised,
)


@pytest.fixture
def counts():
    X = np.random.default_rng(0).poisson(2.0, (60, 9)).astype(np.float32)
    X[3] = 0
    return X


def test_totals(counts):
    np.testing.assert_array_equal(row_totals(sparse.csr_matrix(counts)), counts.sum(1))


def test_library_statistics_by_group_without_empty_cells(counts):
    totals, groups = counts.sum(1), np.arange(60) % 3
    means, variances = library_statistics(totals, groups, 4)
    for group in range(3):
        logs = np.log(totals[(groups == group) & (totals > 0)])
        assert means[group] == pytest.approx(logs.mean()) and variances[group] == pytest.approx(logs.var())
    assert means[3] == pytest.approx(np.log(totals[totals > 0]).mean())


def test_mean_normalised_by_category(counts):
    totals, codes = counts.sum(1), np.arange(60) % 2
    found = mean_normalised(sparse.csr_matrix(counts), totals, codes, 3)
    kept = totals > 0
    scaled = counts[kept] / totals[kept][:, None] * totals[kept].mean()
    for code in range(2):
        np.testing.assert_allclose(found[:, code], scaled[codes[kept] == code].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], scaled.mean(0), rtol=1e-5)


def test_top_normalised(counts):
    X = np.tile(counts, (5, 1))  # 300 cells: the top 3
    totals = X.sum(1)
    scaled = X / np.maximum(totals, 1)[:, None] * totals[totals > 0].mean()
    np.testing.assert_allclose(top_normalised(sparse.csr_matrix(X), totals), np.sort(scaled, 0)[-3:].mean(0), rtol=1e-5)


def test_rv_15_dispersion_start_equals_the_formula(counts):
    totals = counts.sum(1)
    kept = totals > 0
    m, v, c = counts[kept].mean(0), counts[kept].var(0), totals[kept].var() / totals[kept].mean() ** 2
    technical = np.maximum(0.2 * (v - m - m**2 * c) / (1 + c), 1e-10)
    found = dispersion_start(sparse.csr_matrix(counts), totals, bio_frac=0.8, theta_min=0.5, theta_max=50)
    np.testing.assert_allclose(found, np.clip(m**2 / technical, 0.5, 50), rtol=1e-4)
