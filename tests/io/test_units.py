"""Counts, linear values or logs: of the matrix, and of every sample among others."""

import numpy as np
import pytest
from scipy import sparse

from hpvade.io._units import Scan, detect_units

RNG = np.random.default_rng(3)
TPM = RNG.lognormal(1, 2.5, size=(6, 60)).astype(np.float32)
TPM[:, 5] = 0
TPM[0, 0] = 5000.5
COUNTS = RNG.poisson(TPM).astype(np.float32)


@pytest.mark.parametrize(
    ("X", "units"),
    [
        (COUNTS, "counts"),
        (COUNTS.astype(np.int64), "counts"),
        (np.zeros((2, 3)), "counts"),
        (TPM, "normalized"),
        (COUNTS + np.float32(0.37), "normalized"),
        (np.log1p(TPM), "log"),
        (np.log2(TPM + 1), "log"),
        (np.log10(TPM + 1), "log"),
        (np.log2(TPM + 0.5), "log"),
        (np.log1p(COUNTS), "log"),
    ],
)
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_units_of_small_matrices(X, units, make):
    assert detect_units(make(X)) == units


def transcriptome(n_genes=8000, n_samples=5, sd=2.3):
    rng = np.random.default_rng(8)
    X = rng.lognormal(0, sd, n_genes) * rng.lognormal(0, 0.3, (n_samples, n_genes))
    X[:, rng.random(n_genes) < 0.2] = 0
    return X / X.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_samples", [1, 5])
@pytest.mark.parametrize("total", [1.0, 100.0, 1e3, 1e4, 1e6, 1234.5])
def test_units_do_not_depend_on_the_total_of_linear_values(total, n_samples):
    X = transcriptome(n_samples=n_samples) * total
    assert detect_units(X) == "normalized" or (n_samples == 1 and total == 1234.5 and X.max() < 30)
    panel = X[:, np.argsort(X[0])[-50:]]  # few genes
    assert detect_units(panel) == "normalized" or panel.max() < 30


@pytest.mark.parametrize("n_samples", [1, 5])
@pytest.mark.parametrize(
    "log", [np.log1p, lambda x: np.log2(x + 1), lambda x: np.log10(x + 1), lambda x: np.log2(x + 1e-3)]
)
@pytest.mark.parametrize("total", [1e4, 1e6, 12345.6])
def test_logs_are_told_apart(total, log, n_samples):
    X = log(transcriptome(n_samples=n_samples) * total)
    assert detect_units(X) == "log"
    assert detect_units(X[:, :20]) == "log"


def test_quantile_normalised_arrays_are_logs():
    """Equal sums in all samples, as linear normalised values have, but a short tail."""
    values = np.sort(np.random.default_rng(0).gamma(6, 1.3, 3000) + 2).clip(max=15)
    X = np.stack([np.random.default_rng(seed).permutation(values) for seed in range(4)])
    np.testing.assert_allclose(X.sum(1), X[0].sum())
    assert detect_units(X) == "log"


def test_low_linear_transcriptomes_are_linear_by_their_tail():
    X = transcriptome(n_samples=5) * np.linspace(180, 220, 5)[:, None]
    X *= 25 / X.max()
    assert detect_units(X) == "normalized"


@pytest.mark.parametrize("factor", [1e-9, 1e-6, 1e-4, 0.37])
def test_scaled_counts_are_linear(factor):
    X = np.random.default_rng(0).poisson(transcriptome() * 1e5) * factor
    assert detect_units(X) == "normalized"


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize("total", [1e4, 1e6])
def test_rounded_logs_are_no_scaled_counts(total, digits):
    X = np.round(np.log2(transcriptome() * total + 1), digits)
    assert detect_units(X) == "log"


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(x + 1), lambda x: np.log10(x + 1)])
@pytest.mark.parametrize("total", [1e4, 1e6])
@pytest.mark.parametrize("n_genes", [60, 8000])
def test_logged_samples_are_told_from_linear_ones(log, total, n_genes):
    X = transcriptome(n_samples=12) * 1e6
    X = X[:, np.argsort(-X[0])[:n_genes]]
    X[[2, 7, 8]] = log(X[[2, 7, 8]] / X[[2, 7, 8]].sum(axis=1, keepdims=True) * total)
    scan = Scan(12)
    scan.add(slice(0, 12), X)
    np.testing.assert_array_equal(np.flatnonzero(scan.logged_among_linear()), [2, 7, 8])


def test_low_linear_samples_are_not_taken_for_logs():
    """Samples of another total, scaled so that their largest value is below 30."""
    X = transcriptome(n_samples=12) * 1e6
    X[[1, 5]] *= 20 / X[[1, 5]].max(axis=1, keepdims=True)
    scan = Scan(12)
    scan.add(slice(0, 12), X)
    assert not scan.logged_among_linear().any()
