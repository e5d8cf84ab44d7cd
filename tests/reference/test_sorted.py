"""Sorted profiles at the scale of cells, against planted factors and published ratios."""

import numpy as np
import pytest

from hpvade.reference._cell_size import PUBLISHED
from hpvade.reference._sorted import rna_contents, to_scale_of_cells


def planted(n_shared=5, n_genes=2000, sd=0.7, seed=0):
    """Shared types in cells, sorted with a factor of each gene, the new type sorted, and in cells."""
    rng = np.random.default_rng(seed)
    cells = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_shared + 1))
    cells /= cells.sum(axis=0)
    profiles = 1e6 * cells * np.exp(sd * rng.standard_normal((n_genes, 1)))
    return cells[:, :-1], profiles[:, :-1], profiles[:, -1:], cells[:, -1]


@pytest.mark.parametrize(("n_shared", "most"), [(1, 0.65), (3, 0.35), (8, 0.2)])
def test_the_factor_is_taken_off_as_far_as_shared_types_show_it(n_shared, most):
    cells, profiles, new, truth = planted(n_shared)
    found = to_scale_of_cells(cells, profiles, new)
    np.testing.assert_allclose(found.shares.sum(axis=0), 1)
    expressed = truth > 2e-4

    def scatter(x):
        return np.std(np.log(x[expressed] / x.sum()) - np.log(truth[expressed]))

    assert scatter(found.shares[:, 0]) < most * scatter(new[:, 0])


def test_what_the_factor_leaves_is_measured():
    cells, profiles, new, _ = planted(8)
    rng = np.random.default_rng(1)
    apart = profiles * np.exp(0.4 * rng.standard_normal(profiles.shape))  # each type by itself
    alike, unlike = (to_scale_of_cells(cells, x, new).log_sd for x in (profiles, apart))
    assert alike < 0.15
    assert 0.25 < unlike < 0.5


def test_units_and_order_do_not_matter():
    cells, profiles, new, _ = planted()
    found = to_scale_of_cells(cells, profiles, new)
    again = to_scale_of_cells(7 * cells[:, ::-1], 1e-6 * profiles[:, ::-1], 3 * new)
    np.testing.assert_allclose(again.shares, found.shares)
    assert again.log_sd == pytest.approx(found.log_sd)


def test_rna_content_stands_to_the_others_as_in_the_tables():
    types, umi = ["B", "NK", "Mono"], np.array([2000.0, 2200.0, 5000.0])
    size, spread = rna_contents(types, umi, ["Neutrophil"], None)
    each = []
    for table in PUBLISHED.values():
        level = np.mean([np.log(table[t] / u) for t, u in zip(types, umi, strict=True)])
        each.append(np.log(table["Neutrophil"]) - level)
    assert size[0] == pytest.approx(np.exp(np.mean(each)))
    assert spread[0] == pytest.approx(np.std(each))
    size, spread = rna_contents(types, umi, ["X"], {"X": 10.0, "Mono": 20.0})
    assert size[0] == pytest.approx(2500) and spread[0] == 0


@pytest.mark.parametrize("given", [None, {"Zebra": 1.0}, {"B": 1.0}])
def test_a_type_without_rna_content_is_named(given):
    with pytest.raises(ValueError, match=r"no RNA content of Zebra.*rna_content=\{'Zebra'"):
        rna_contents(["B", "NK"], np.array([1.0, 2.0]), ["Zebra"], given)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
def test_sizes_are_positive(size):
    with pytest.raises(ValueError, match="above 0"):
        rna_contents(["B", "NK"], np.array([1.0, 2.0]), ["X"], {"X": size, "B": 1.0})
