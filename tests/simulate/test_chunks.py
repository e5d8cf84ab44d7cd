"""Chunk sums against NumPy group sums."""

import numpy as np
import pytest
from scipy import sparse

from hpvade.simulate import ChunkSums, assign_chunks, cells_as_chunks, merge_small_groups

RNG = np.random.default_rng(0)
cell_types, cell_donors = RNG.integers(0, 3, 200), RNG.integers(0, 4, 200)
cell_donors[cell_types == 2] %= 2  # not every donor has every type
COUNTS = RNG.poisson(1.0, (200, 6))


def assign(**kwargs):
    return assign_chunks(cell_types, cell_donors, np.random.default_rng(1), **kwargs)


@pytest.mark.parametrize("chunk_size", [1, 7, 10, 1000])
def test_chunks_partition_cells_by_type_and_donor(chunk_size):
    chunk = assign(chunk_size=chunk_size)
    size = np.bincount(chunk)
    assert size.min() > 0
    group = np.stack([cell_types, cell_donors], axis=1)
    of_chunk = []
    for c in range(len(size)):
        members = np.unique(group[chunk == c], axis=0)
        assert len(members) == 1
        of_chunk.append(tuple(members[0]))
    assert of_chunk == sorted(of_chunk)  # numbered by type, then donor
    for key in set(of_chunk):
        n_cells, sizes = (group == key).all(axis=1).sum(), size[[key == other for other in of_chunk]]
        assert len(sizes) == max(n_cells // chunk_size, 1)
        assert np.ptp(sizes) <= 1


def test_chunks_are_random():
    same, other = (assign_chunks(cell_types, cell_donors, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(assign(), same)
    assert (same != other).any()


@pytest.mark.parametrize("max_chunks", [12, 30, 49])
def test_max_chunks_is_respected(max_chunks):
    # one large group among small ones, whose single chunks also count
    types = np.r_[np.zeros(400, int), np.arange(1, 12)]
    n_chunks = assign_chunks(types, np.zeros_like(types), RNG, max_chunks=max_chunks).max() + 1
    assert max_chunks - 1 <= n_chunks <= max_chunks


def test_every_group_keeps_a_chunk_below_max_chunks():
    n_groups = len(np.unique(np.stack([cell_types, cell_donors]), axis=1).T)
    assert assign(max_chunks=1).max() + 1 == n_groups
    assert assign(chunk_size=1000, max_chunks=1).max() + 1 == n_groups  # one chunk each already


def groups(*codes):
    return np.unique(np.stack(codes), axis=1, return_inverse=True, return_counts=True)


def merged_by_hand(types, donors, within, max_groups):
    """The rule in plain words: bins of about `threshold` cells for the small groups of a type, smallest first."""
    keys, _, size = groups(types, within, donors)
    threshold, bins = 1, [[g] for g in range(len(size))]
    while len(bins) > max_groups:
        threshold *= 2
        bins = []
        for stratum in np.unique(keys[:2], axis=1).T:
            own = np.flatnonzero((stratum == keys[:2].T).all(axis=1))
            own = own[np.argsort(size[own], kind="stable")]
            small, begin = {}, 0
            for g in own[size[own] < threshold]:
                small.setdefault(begin // threshold, []).append(g)
                begin += size[g]
            bins += [*small.values(), *([g] for g in own[size[own] >= threshold])]
    return {tuple(keys[:2, members[0]]) + (keys[2, members[-1]],): sorted(keys[2, members]) for members in bins}


@pytest.mark.parametrize("max_groups", [60, 150, 400, 2000])
@pytest.mark.parametrize("strata", [1, 4])
def test_small_groups_of_a_type_are_merged(max_groups, strata):
    rng = np.random.default_rng(3)
    donors = rng.choice(200, 5000, p=rng.dirichlet(np.full(200, 0.3)))
    types, within = rng.integers(0, 10, 5000), donors % strata
    merged = merge_small_groups(types, donors, within, max_groups=max_groups)
    found = {
        (kind, stratum, donor): sorted(set(donors[(types == kind) & (within == stratum) & (merged == donor)]))
        for kind, stratum, donor in groups(types, within, merged)[0].T
    }
    expected = merged_by_hand(types, donors, within, max_groups)
    assert found == expected
    assert min(max_groups, 1100) / 4 < len(found) <= max_groups
    assert (merged == donors).all() == (max_groups == 2000)


def test_every_type_and_stratum_keeps_a_group():
    types, donors = np.arange(60) % 6, np.arange(60)
    merged = merge_small_groups(types, donors, donors % 2, max_groups=1)
    assert groups(types, merged)[0].shape[1] == 6  # the parity of the donor is that of the type here
    assert ((merged - donors) % 2 == 0).all()


@pytest.fixture(params=[np.asarray, sparse.csr_matrix], ids=["dense", "csr"])
def chunks(request):
    chunk = assign()
    first = np.unique(chunk, return_index=True)[1]
    counts = np.zeros((len(first), 6))
    np.add.at(counts, chunk, COUNTS)
    return ChunkSums(
        request.param(counts), cell_types[first], cell_donors[first], np.bincount(chunk), counts.sum(axis=1), n_types=4
    )


def test_groups_and_sums_by_donor(chunks):
    types, donors, n_cells, counts = chunks.sums_by_donor()
    keys = sorted(set(zip(cell_types.tolist(), cell_donors.tolist(), strict=True)))
    assert list(zip(types.tolist(), donors.tolist(), strict=True)) == keys
    for (kind, donor), n, total, start, length in zip(keys, n_cells, counts, *chunks.groups[2:], strict=True):
        cells = (cell_types == kind) & (cell_donors == donor)
        assert n == cells.sum()
        np.testing.assert_array_equal(total, COUNTS[cells].sum(axis=0))
        of_group = slice(start, start + length)
        assert (chunks.types[of_group] == kind).all() and (chunks.donors[of_group] == donor).all()
    assert chunks.groups[3].sum() == len(chunks.types)


@pytest.mark.parametrize("genes", [np.array([4, 0]), np.arange(6) % 2 == 0], ids=["index", "mask"])
def test_select_genes_keeps_totals(chunks, genes):
    chosen = chunks.select_genes(genes)
    dense = chunks.counts.toarray() if sparse.issparse(chunks.counts) else chunks.counts
    np.testing.assert_array_equal(chosen.counts, dense[:, genes])
    assert chosen.counts.dtype == np.float32 and chosen.counts.flags.c_contiguous
    np.testing.assert_array_equal(chosen.totals, dense.sum(axis=1))
    assert chosen.n_types == 4


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_cells_as_chunks_sorts_cells(kind):
    cells = cells_as_chunks(kind(COUNTS), cell_types, cell_donors, 3)
    order = sorted(range(200), key=lambda i: (cell_types[i], cell_donors[i]))
    np.testing.assert_array_equal(cells.counts.toarray(), COUNTS[order])
    np.testing.assert_array_equal(cells.types, cell_types[order])
    np.testing.assert_array_equal(cells.donors, cell_donors[order])
    np.testing.assert_array_equal(cells.totals, COUNTS[order].sum(axis=1))
    assert (cells.n_cells == 1).all()
