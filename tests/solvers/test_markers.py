"""Marker genes of pairs of types against a loop in NumPy."""

import numpy as np
import pytest
import torch

from hpvade.solvers import marker_genes


def signature(seed=0, n_genes=300, n_types=4):
    x = np.random.default_rng(seed).lognormal(0, 1.5, (n_genes, n_types))
    return x / x.sum(axis=0)


def expected(x, allowed, n, floor=5e-5, low=0.3):
    level, chosen = np.log(x + floor), set()
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            ratio = np.where(allowed, level[:, i] - level[:, j], -np.inf)
            chosen |= {g for g in np.argsort(-ratio, kind="stable")[:n] if ratio[g] > low}
    return sorted(chosen)


@pytest.mark.parametrize("n", [3, 10])
def test_every_ordered_pair_chooses_its_best_genes(n):
    x = signature()
    allowed = np.random.default_rng(1).random(len(x)) < 0.7
    found = marker_genes(torch.from_numpy(x), torch.from_numpy(allowed), n_per_pair=n, n_total=0)
    assert found.tolist() == expected(x, allowed, n)


def test_few_types_choose_more_genes_per_pair():
    x = signature(n_types=2)
    assert marker_genes(torch.from_numpy(x), n_total=100).tolist() == expected(x, np.ones(300, bool), 50)


def test_similar_types_keep_their_genes():
    """The pair that differs in ten genes only has them all, beside a type that differs in every gene."""
    x = signature(n_types=2)
    x = np.column_stack([x, x[:, 1]])
    x[:10, 2] *= 3
    assert set(range(10)) <= set(marker_genes(torch.from_numpy(x), n_per_pair=12, n_total=0, floor=1e-9).tolist())


def test_genes_below_the_floor_do_not_count():
    x = signature()
    x[:50] *= 1e-6
    assert marker_genes(torch.from_numpy(x)).min() >= 50


def test_most_genes_bounds_the_number_by_rank():
    x = torch.from_numpy(signature())
    few = marker_genes(x, n_per_pair=25, n_total=0, max_genes=40)
    assert len(few) == 40
    assert set(few.tolist()) <= set(marker_genes(x, n_per_pair=25, n_total=0).tolist())
    assert set(marker_genes(x, n_per_pair=2, n_total=0).tolist()) <= set(few.tolist())


def test_types_that_are_all_alike():
    with pytest.raises(ValueError, match="no gene separates any two types"):
        marker_genes(torch.full((20, 3), 0.05))


@pytest.mark.parametrize("n", [1, 5, 20])
def test_of_equal_ratios_the_first_genes_are_chosen(n):
    x = np.random.default_rng(2).integers(0, 3, (60, 5)) / 60.0
    allowed = np.random.default_rng(3).random(60) < 0.8
    found = marker_genes(torch.from_numpy(x), torch.from_numpy(allowed), n_per_pair=n, n_total=0)
    assert found.tolist() == expected(x, allowed, n)


@pytest.mark.parametrize("n_allowed", [0, 1, 4])
def test_few_genes_to_choose_from(n_allowed):
    x, allowed = signature(), np.arange(300) < n_allowed
    genes = expected(x, allowed, 25)
    if genes:
        assert marker_genes(torch.from_numpy(x), torch.from_numpy(allowed)).tolist() == genes
    else:
        with pytest.raises(ValueError, match="no gene separates any two types"):
            marker_genes(torch.from_numpy(x), torch.from_numpy(allowed))


@pytest.mark.parametrize("n", [1, 5, 20])
def test_of_equal_ratios_the_first_genes_are_taken(n):
    """Few cells: most counts are 0 or 1, and whole groups of genes have one ratio, also across the last place."""
    x = np.random.default_rng(3).poisson(0.4, (200, 7)).astype(float)
    x[:40] *= np.arange(1, 8)  # others are not equal
    x /= x.sum(axis=0)
    found = marker_genes(torch.from_numpy(x), n_per_pair=n, n_total=0)
    assert found.tolist() == expected(x, np.ones(200, bool), n)
