"""Folds of the reference: who is held out, and what the others say."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from hpvade.reference._folds import N_FOLDS, assign_folds, folds
from hpvade.reference._signature import sum_chunks


def folds_of(X, types, donors, cells, **options):
    """Folds of some cells, in chunks that do not cross them."""
    fold = np.zeros(len(types), dtype=int)
    fold[cells] = assign_folds(types[cells], donors[cells])
    chunks = sum_chunks(X, types, donors * N_FOLDS + fold, 3, np.random.default_rng(0), indices=cells)
    of = chunks.donors % N_FOLDS
    return list(folds(replace(chunks, donors=chunks.donors // N_FOLDS), of, **options))


@pytest.fixture
def reference():
    """600 cells of three types and four donors; type 2 has twice the counts in donor 3."""
    rng = np.random.default_rng(0)
    types, donors = rng.integers(3, size=600), rng.integers(4, size=600)
    mean = np.array([[9.0, 1, 1, 4], [1, 9, 1, 4], [1, 1, 9, 4]])[types]
    mean[(types == 2) & (donors == 3)] *= 2
    return sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), types, donors


def test_donors_are_held_out_whole_and_judged_by_the_others(reference):
    X, types, donors = reference
    found = folds_of(X, types, donors, np.arange(600), n_samples=20)
    assert len(found) == 4
    mean = np.array(
        [
            [X[(types == k) & (donors != d)].sum() / ((types == k) & (donors != d)).sum() for k in range(3)]
            for d in range(4)
        ]
    )
    own = np.array(
        [
            [X[(types == k) & (donors == d)].sum() / ((types == k) & (donors == d)).sum() for k in range(3)]
            for d in range(4)
        ]
    )
    expected = np.log(own / mean)
    got = np.array([fold.log_size for fold in found])
    order = [int(np.abs(got - row).sum(axis=1).argmin()) for row in expected]
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(got[order], expected, atol=1e-6)
    for fold in found:
        assert fold.judged.all()
        assert fold.bulk.shape == (20, 4) and fold.mean_counts.shape == (4, 3)
        np.testing.assert_allclose(fold.rna_proportions.sum(dim=1), 1, rtol=1e-5)


def test_bulk_is_made_of_held_out_cells(reference):
    """Gene 3 has counts in donor 2 alone: only that fold's bulk has them, and its signature has none."""
    X, types, donors = reference
    X = X.multiply((np.arange(4) != 3) | (donors == 2)[:, None]).tocsr()
    held_out = [fold for fold in folds_of(X, types, donors, np.arange(600)) if fold.bulk[:, 3].sum() > 0]
    assert len(held_out) == 1
    assert held_out[0].mean_counts[3].sum() == 0


@pytest.mark.parametrize("n_donors", [1, 2])
def test_few_donors_are_split_by_cells(reference, n_donors):
    X, types, donors = reference
    fold = assign_folds(types, donors % n_donors)
    for k in range(3):
        sizes = np.bincount(fold[types == k], minlength=5)
        assert sizes.max() - sizes.min() <= 1


def test_a_type_of_one_donor_is_not_judged(reference):
    X, types, donors = reference
    keep = np.flatnonzero((types != 1) | (donors == 0))
    found = folds_of(X, types, donors, keep)
    for fold in found:
        assert list(fold.judged) == [True, False, True]
        assert np.isnan(fold.log_size[1]) and (fold.mean_counts.sum(axis=0) > 0).all()


def test_donors_without_a_common_type_are_split_by_cells():
    types = np.repeat(np.arange(4), 50)
    assert (np.bincount(assign_folds(types, types)) == 40).all()


def test_other_cells_are_not_read(reference):
    X, types, donors = reference
    few = np.arange(300)
    spoilt = X.copy()
    spoilt[300:] = 1000
    a, b = (folds_of(x, types, donors, few)[0] for x in (X, spoilt))
    np.testing.assert_array_equal(a.bulk, b.bulk)
    np.testing.assert_array_equal(a.mean_counts, b.mean_counts)
