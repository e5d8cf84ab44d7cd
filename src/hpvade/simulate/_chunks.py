"""Sums over small groups of cells: what mixtures are made of, at a size independent of the number of cells."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse


@dataclass(frozen=True, eq=False)
class ChunkSums:
    """Summed counts of disjoint groups of cells, each of one donor and one type, sorted by type, then donor.

    Attributes
    ----------
    counts
        (chunks x genes), dense or CSR; with chunks of one cell these are the cells themselves.
    types, donors
        int (chunks,): codes of type and donor.
    n_cells
        int (chunks,): cells per chunk.
    totals
        (chunks,): counts over all genes, also those that `select_genes` left out.
    n_types
        Number of types, also those without a chunk.
    """

    counts: np.ndarray | sparse.csr_matrix
    types: np.ndarray
    donors: np.ndarray
    n_cells: np.ndarray
    totals: np.ndarray
    n_types: int

    @cached_property
    def groups(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Type-donor groups in order: their types, donors, first chunk and number of chunks."""
        change = np.flatnonzero(np.diff(self.types, prepend=-1) | np.diff(self.donors, prepend=-1))
        length = np.diff(change, append=len(self.types))
        return self.types[change], self.donors[change], change, length

    def select_genes(self, genes: np.ndarray) -> "ChunkSums":
        """The same chunks on some genes (index or mask), as a dense float32 matrix; `totals` stay."""
        counts = self.counts[:, genes]
        counts = counts.toarray() if sparse.issparse(counts) else counts
        return ChunkSums(
            np.ascontiguousarray(counts, dtype=np.float32),
            self.types,
            self.donors,
            self.n_cells,
            self.totals,
            self.n_types,
        )

    def select_chunks(self, rows: np.ndarray) -> "ChunkSums":
        """Some of the chunks, on the same genes."""
        parts = (x[rows] for x in (self.counts, self.types, self.donors, self.n_cells, self.totals))
        return ChunkSums(*parts, self.n_types)

    def sums_by_donor(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Counts per type and donor: types (groups,), donors (groups,), cells (groups,), counts (groups x genes)."""
        types, donors, start, _ = self.groups
        n_chunks = len(self.types)
        # row g of the membership matrix has a one for each chunk of group g
        member = sparse.csr_matrix(
            (np.ones(n_chunks), np.arange(n_chunks), np.append(start, n_chunks)), shape=(len(start), n_chunks)
        )
        counts = member @ self.counts
        counts = counts.toarray() if sparse.issparse(counts) else counts
        return types, donors, np.add.reduceat(self.n_cells, start), counts


def merge_small_groups(
    types: np.ndarray, donors: np.ndarray, within: np.ndarray | None = None, *, max_groups: int = 2000
) -> np.ndarray:
    """Give the cells of small donors another donor's code, so that few type-donor groups are left.

    Groups with fewer cells than a threshold are merged with others of the same type, the smallest with the smallest,
    into groups of about as many cells; the threshold is the smallest power of two that leaves at most `max_groups`. A
    merged group takes the code of the largest donor in it. One per type and value of `within` is always left.

    Parameters
    ----------
    types, donors
        int codes (cells,).
    within
        int codes (cells,): cells with different ones are never merged.
    max_groups
        Upper bound on the number of groups.

    Returns
    -------
    int (cells,): `donors` where there are few groups, else the new codes.

    Examples
    --------
    >>> import numpy as np
    >>> merge_small_groups(np.zeros(6, int), np.array([0, 0, 0, 0, 1, 2]), max_groups=2)
    array([0, 0, 0, 0, 2, 2])
    """
    within = np.zeros_like(types) if within is None else within
    keys, of, size = np.unique(np.stack([types, within, donors]), axis=1, return_inverse=True, return_counts=True)
    if len(size) <= max_groups:
        return donors
    order = np.lexsort((size, keys[1], keys[0]))  # by type and stratum, then from small to large
    sorted_size, stratum = size[order], (np.diff(keys[:2, order], axis=1, prepend=-1) != 0).any(axis=0).cumsum() - 1
    n_groups, threshold = len(size), 1
    while n_groups > max_groups and threshold < 2 * len(types):
        threshold *= 2
        before = np.cumsum(sorted_size) - sorted_size
        before -= before[np.searchsorted(stratum, stratum)]  # cells of smaller groups of the same stratum
        small = sorted_size < threshold
        # small groups share bins of `threshold` cells, others keep one of their own
        start = np.diff(stratum, prepend=-1) != 0
        start |= ~small | (np.diff(before // threshold, prepend=-1) != 0)
        merged = start.cumsum() - 1
        n_groups = merged[-1] + 1
    last = np.append(np.flatnonzero(np.diff(merged)), len(merged) - 1)  # the largest group of each
    code = np.empty(len(size), dtype=donors.dtype)
    code[order] = keys[2, order][last][merged]
    return code[of.ravel()]


def assign_chunks(
    types: np.ndarray, donors: np.ndarray, rng: np.random.Generator, *, chunk_size: int = 10, max_chunks: int = 2000
) -> np.ndarray:
    """Split the cells of every type and donor at random into disjoint chunks of about `chunk_size` cells.

    Parameters
    ----------
    types, donors
        int codes (cells,).
    rng
        Source of randomness.
    chunk_size
        Cells per chunk; a group with fewer is one chunk.
    max_chunks
        Upper bound on the number of chunks, kept by making chunks larger, so that memory does not grow with cells;
        there is always one per group.

    Returns
    -------
    int (cells,): chunk of every cell; chunks are numbered by type, then donor.

    Examples
    --------
    >>> import numpy as np
    >>> assign_chunks(np.array([1, 0, 0]), np.zeros(3, int), np.random.default_rng(0), chunk_size=2)
    array([1, 0, 0])
    """
    order = np.lexsort((rng.random(len(types)), donors, types))
    sorted_types, sorted_donors = types[order], donors[order]
    new_group = (np.diff(sorted_types, prepend=-1) != 0) | (np.diff(sorted_donors, prepend=-1) != 0)
    start = np.flatnonzero(new_group)
    size = np.diff(start, append=len(types))
    n_chunks = np.maximum(size // chunk_size, 1)
    if n_chunks.sum() > max_chunks:
        extra = n_chunks - 1  # beyond the one that every group keeps
        n_chunks = 1 + extra * max(max_chunks - len(size), 0) // max(extra.sum(), 1)
    first = np.cumsum(n_chunks) - n_chunks
    group = np.cumsum(new_group) - 1
    within = np.arange(len(types)) - start[group]
    chunk = np.empty(len(types), dtype=np.int64)
    chunk[order] = first[group] + within * n_chunks[group] // size[group]
    return chunk


def cells_as_chunks(counts, types: np.ndarray, donors: np.ndarray, n_types: int) -> ChunkSums:
    """Every cell its own chunk: mixtures of it are exact sums of cells drawn with replacement."""
    order = np.lexsort((donors, types))
    counts = sparse.csr_matrix(counts)[order]
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return ChunkSums(counts, types[order], donors[order], np.ones(len(order), dtype=np.int64), totals, n_types)
