"""Reference summaries against hand-written NumPy."""

from functools import partial

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import hpvade.reference._signature as reference_module
from hpvade.io._rows import iter_rows
from hpvade.reference._signature import donor_variance, gene_scores, reference_signature, sum_chunks

RNG = np.random.default_rng(0)
N, N_TYPES = 300, 3
types, donors = RNG.integers(0, N_TYPES, N), RNG.integers(0, 3, N)
donors[(types == 2) & (donors == 1)] = 0  # donor 1 lacks type 2
rates = RNG.lognormal(0, 1, (N_TYPES, 20)) * np.array([[1], [2], [5]])
counts = RNG.poisson(rates[types] * RNG.lognormal(0, 0.3, (3, 20))[donors]).astype(np.float32)


def summed(X=counts, seed=0, **kwargs):
    return sum_chunks(X, types, donors, N_TYPES, np.random.default_rng(seed), **kwargs)


def test_sums_are_those_of_disjoint_cells_of_one_type_and_donor():
    one_hot = summed(np.eye(N, dtype=np.float32)).counts  # which cells each chunk holds
    np.testing.assert_array_equal(one_hot.sum(axis=0), 1)
    chunks = summed()
    np.testing.assert_array_equal(chunks.counts, one_hot @ counts)
    np.testing.assert_array_equal(chunks.n_cells, one_hot.sum(axis=1))
    np.testing.assert_array_equal(chunks.totals, (one_hot @ counts).sum(axis=1))
    for row, kind, donor in zip(one_hot, chunks.types, chunks.donors, strict=True):
        assert set(types[row > 0]) == {kind} and set(donors[row > 0]) == {donor}
    assert sorted(zip(chunks.types, chunks.donors, strict=True)) == list(zip(chunks.types, chunks.donors, strict=True))


def test_indices_choose_cells():
    indices = np.random.default_rng(1).permutation(N)[:120]
    one_hot = summed(np.eye(N, dtype=np.float32), indices=indices).counts
    np.testing.assert_array_equal(one_hot.sum(axis=0), np.isin(np.arange(N), indices))


def test_many_donors_are_merged_and_no_count_is_lost():
    many = np.random.default_rng(2).integers(0, 100, N)
    one_hot = sum_chunks(np.eye(N), types, many, N_TYPES, np.random.default_rng(0), within=many % 2, max_chunks=24)
    assert 10 < len(one_hot.types) <= 24
    np.testing.assert_array_equal(one_hot.counts.sum(axis=0), 1)
    for cells, kind, donor in zip(one_hot.counts > 0, one_hot.types, one_hot.donors, strict=True):
        assert set(types[cells]) == {kind} and set(many[cells] % 2) == {donor % 2}
    chunks = sum_chunks(counts, types, many, N_TYPES, np.random.default_rng(0), within=many % 2, max_chunks=24)
    np.testing.assert_array_equal(chunks.counts, one_hot.counts @ counts)
    exact = np.stack([counts[types == k].mean(axis=0) for k in range(N_TYPES)], axis=1)
    found = reference_signature(chunks).mean_counts
    assert np.corrcoef(np.log(found + 0.1).ravel(), np.log(exact + 0.1).ravel())[0, 1] > 0.99


def backed(path, X):
    ad.AnnData(X).write_h5ad(path / "x.h5ad")
    return ad.read_h5ad(path / "x.h5ad", backed="r").X


KINDS = {
    "csr": lambda path: sparse.csr_matrix(counts),
    "csc": lambda path: sparse.csc_array(counts),
    "backed dense": lambda path: backed(path, counts),
    "backed csr": lambda path: backed(path, sparse.csr_matrix(counts)),
    "backed csc": lambda path: backed(path, sparse.csc_matrix(counts)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_rows", [7, 4096])
def test_sums_do_not_depend_on_the_kind_of_matrix_or_its_blocks(kind, chunk_rows, tmp_path, monkeypatch):
    expected = summed()
    monkeypatch.setattr(reference_module, "iter_rows", partial(iter_rows, chunk_rows=chunk_rows))
    found = summed(KINDS[kind](tmp_path))
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.n_cells, expected.n_cells)


def test_hp11_one_donor_gives_plain_mean_counts():
    chunks = sum_chunks(counts, types, np.zeros(N, int), N_TYPES, np.random.default_rng(0))
    signature = reference_signature(chunks)
    expected = np.stack([counts[types == k].mean(axis=0) for k in range(N_TYPES)], axis=1)
    np.testing.assert_allclose(signature.mean_counts, expected, rtol=1e-5)
    np.testing.assert_allclose(signature.composition, np.bincount(types) / N)


def test_hp11_donors_are_averaged_with_shrinkage():
    """Profiles: equal weight per donor, shrunk with n / (n + 50). Sizes: log-linear fit of donor and type effects."""
    n_cells = np.array([[np.sum((types == k) & (donors == d)) for k in range(N_TYPES)] for d in range(3)])
    assert n_cells[1, 2] == 0 and np.sort(n_cells.ravel())[1] >= 5
    profiles, size = np.zeros((20, N_TYPES)), np.full((3, N_TYPES), np.nan)
    pooled_size = np.array([counts[types == k].sum() / np.sum(types == k) for k in range(N_TYPES)])
    for k in range(N_TYPES):
        pooled = counts[types == k].sum(axis=0)
        pooled = pooled / pooled.sum()
        of_donors = []
        for d in np.flatnonzero(n_cells[:, k]):
            own = counts[(types == k) & (donors == d)].sum(axis=0, dtype=float)
            size[d, k] = own.sum() / n_cells[d, k]
            weight = n_cells[d, k] / (n_cells[d, k] + 50)
            of_donors.append(weight * own / own.sum() + (1 - weight) * pooled)
        profiles[:, k] = np.mean(of_donors, axis=0)
    # rows: the pooled cells and every donor; columns: an effect per row, one per type
    sources = np.log(np.vstack([pooled_size, size]))
    row, column = np.nonzero(np.isfinite(sources))
    design = np.concatenate([np.eye(4)[row], np.eye(N_TYPES)[column]], axis=1)
    relative = np.exp(np.linalg.lstsq(design, sources[row, column], rcond=None)[0][4:])
    cells = np.bincount(types)
    relative *= (cells @ pooled_size) / (cells @ relative)  # the reference keeps its mean counts per cell
    found = reference_signature(summed())
    np.testing.assert_allclose(found.mean_counts, profiles * relative, rtol=1e-5)
    np.testing.assert_allclose(found.composition, cells / N)


def test_donors_with_few_cells_say_nothing_about_rna_content():
    """A donor with four cells of a type, ten times larger, moves its profile but not its size beyond pooling."""
    kinds, people = np.tile([0, 1], 100), np.repeat([0, 1], 100)
    X = np.tile([[4.0, 1.0], [1.0, 9.0]], (100, 1)).astype(np.float32)
    kinds, people = np.r_[kinds, [0] * 4, [1] * 4], np.r_[people, [2] * 8]
    extra = np.r_[np.tile([[40.0, 10.0]], (4, 1)), np.tile([[1.0, 9.0]], (4, 1))].astype(np.float32)
    few = reference_signature(sum_chunks(np.r_[X, extra], kinds, people, 2, np.random.default_rng(0)))
    size = few.mean_counts.sum(axis=0)
    pooled = np.r_[(100 * 5 + 4 * 50) / 104, 10.0]  # one of three sources, the other two say 5 : 10
    assert size[0] / size[1] == pytest.approx((pooled[0] / pooled[1] * 0.5 * 0.5) ** (1 / 3), rel=1e-6)


def test_gene_scores_equal_numpy_and_leave_uninformative_genes_out():
    left_out = "MT-CO1 RPL3 rps6 MRPL12 RPLP0 MALAT1 HBB HIST1H4C H2AC6 SNORD3A RNU1-1 XIST IGHV3-23 IGHD1-1 TRAV1-2"
    kept = "CD3E HBEGF IGHD TRADD RPS6KA1"  # also constant region and kinases that only share the prefix
    genes = np.array(f"{left_out} {kept}".split())
    expected = np.log(rates.T / rates.sum(axis=1) * 1e6 + 10).std(axis=1)
    expected[:15] = 0
    np.testing.assert_allclose(gene_scores(rates.T, genes), expected, rtol=1e-12)


def test_gene_scores_do_not_depend_on_rna_content():
    names = np.array([f"gene_{g}" for g in range(20)])
    np.testing.assert_allclose(gene_scores(rates.T * [1, 10, 0.1], names), gene_scores(rates.T, names), rtol=1e-12)


def test_donor_variance_equals_numpy_and_fills_types_that_one_donor_has():
    rng = np.random.default_rng(0)
    # type 0: donors 0, 1, 2 with 6, 8 and 3 cells; type 1: donors 0 and 1; type 2: donor 1 only
    sizes = {(0, 0): 6, (0, 1): 8, (0, 2): 3, (1, 0): 5, (1, 1): 7, (2, 1): 9}
    types, donors = (np.concatenate([np.full(n, key[i]) for key, n in sizes.items()]) for i in (0, 1))
    X = rng.poisson(3, (len(types), 10))
    chunks = sum_chunks(X, types, donors, 3, np.random.default_rng(1))
    found = donor_variance(chunks)

    def shares(k, d):
        total = X[(types == k) & (donors == d)].sum(axis=0)
        return total / total.sum()

    expected = [np.var([shares(k, d) for d in (0, 1)], axis=0, ddof=1) for k in (0, 1)]  # donor 2 has too few cells
    np.testing.assert_allclose(found[:, :2].T, expected)
    np.testing.assert_allclose(found[:, 2], np.mean(expected, axis=0))
    with pytest.raises(ValueError, match="no type has 5 cells or more from each of two donors.*sample_key"):
        donor_variance(sum_chunks(X, types, np.zeros_like(types), 3, np.random.default_rng(1)))
