"""The reference, summarised in one pass: chunk sums, signatures, RNA content, informative genes."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..io._rows import iter_rows
from ..simulate import ChunkSums, assign_chunks, merge_small_groups
from ._cell_size import pool_sizes

_SHRINKAGE_CELLS = 50
_MIN_CELLS = 5
# Genes whose level says more about the protocol or the cell's state than about its type (METHOD: filter from
# profiles, keep in depth): mitochondrial, ribosomal, haemoglobin, histone, small RNA, sex-linked, variable segments.
_UNINFORMATIVE = re.compile(
    r"^(MT-.*|(?!RPS6K)M?RP[LS]\d.*|RPLP\d.*|RPSA.*|MALAT1|NEAT1|XIST|HB[ABDEGMQZ]\d?|HIST\d.*|H[1-4]-?\d.*"
    r"|H2[AB][A-Z]?\d.*|SNOR.*|SCARNA\d.*|RN[U7].*|(IG[HKL]|TR[ABDG])([VJ].*|D\d.*))$",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class Signature:
    """Expression of every type in the reference.

    Attributes
    ----------
    mean_counts
        (genes x types): mean counts per cell; columns keep the type's RNA content.
    composition
        (types,): fractions of cells in the reference.
    """

    mean_counts: np.ndarray
    composition: np.ndarray


def sum_chunks(
    X,
    types: np.ndarray,
    donors: np.ndarray,
    n_types: int,
    rng: np.random.Generator,
    *,
    indices: np.ndarray | None = None,
    within: np.ndarray | None = None,
    chunk_size: int = 10,
    max_chunks: int = 2000,
    also: Callable[[slice, sparse.csr_matrix], None] | None = None,
    n_cells: np.ndarray | None = None,
) -> ChunkSums:
    """Sum the counts of random disjoint groups of cells, each of one donor and type, in one pass over the rows.

    Memory holds the sums and one block of rows, whatever the number of cells and donors: where types x donors are more
    than `max_chunks`, the smallest donors of a type are merged (`hpvade.simulate.merge_small_groups`).

    Parameters
    ----------
    X
        (cells x genes), any kind of matrix that `iter_rows` reads.
    types, donors
        int codes (cells,).
    n_types
        Number of types.
    rng
        Source of randomness for the grouping.
    indices
        Cells to use; all when None.
    within
        int codes (cells,): donors are never merged across them.
    chunk_size, max_chunks
        See `hpvade.simulate.assign_chunks`.
    also
        Called with every block of rows, for what else one pass over the rows can tell.
    n_cells
        Cells in each row (rows,), where rows are sums of cells.
    """
    indices = np.arange(len(types)) if indices is None else np.sort(indices)
    types, donors = types[indices], donors[indices]
    donors = merge_small_groups(types, donors, None if within is None else within[indices], max_groups=max_chunks)
    chunk = np.full(X.shape[0], -1)
    chunk[indices] = assign_chunks(types, donors, rng, chunk_size=chunk_size, max_chunks=max_chunks)
    n_chunks = chunk.max() + 1
    counts = np.zeros((n_chunks, X.shape[1]), dtype=np.float32)
    for rows, block in iter_rows(X):
        if also is not None:
            also(rows, block)
        of = np.repeat(chunk[rows], np.diff(block.indptr))
        used = slice(None) if (chunk[rows] >= 0).all() else of >= 0
        place = of[used] * X.shape[1] + block.indices[used]
        np.add.at(counts.reshape(-1), place, block.data[used].astype(np.float32, copy=False))
    first = np.zeros(n_chunks, dtype=np.int64)
    first[chunk[indices]] = np.arange(len(indices))
    return ChunkSums(
        counts,
        types[first],
        donors[first],
        np.bincount(chunk[indices], None if n_cells is None else n_cells[indices], n_chunks).astype(np.int64),
        counts.sum(axis=1, dtype=np.float64),
        n_types,
    )


def reference_signature(chunks: ChunkSums) -> Signature:
    """Donor-averaged mean counts per cell of every type.

    Relative profiles are averaged over donors with equal weight, each shrunk to the type's pooled profile with weight
    cells / (cells + 50). RNA content is compared within donors: least squares of log counts per cell on donor and
    type, over donors with five cells of the type. With one donor the columns are the plain mean counts.
    """
    types, donors, n_cells, counts = chunks.sums_by_donor()
    n_types, n_genes = chunks.n_types, counts.shape[1]
    profile, pooled_size = np.zeros((n_genes, n_types)), np.zeros(n_types)
    cells = np.bincount(types, weights=n_cells, minlength=n_types)
    for k in range(n_types):
        rows = types == k
        pooled = counts[rows].sum(axis=0)
        pooled_size[k] = pooled.sum() / cells[k]
        pooled = pooled / pooled.sum()
        weight = (n_cells[rows] / (n_cells[rows] + _SHRINKAGE_CELLS))[:, None]
        own = counts[rows] / np.maximum(counts[rows].sum(axis=1, keepdims=True), 1)
        profile[:, k] = (weight * own + (1 - weight) * pooled).mean(axis=0)
    size = np.full((donors.max() + 1, n_types), np.nan)
    enough = n_cells >= _MIN_CELLS
    size[donors[enough], types[enough]] = (counts.sum(axis=1) / n_cells)[enough]
    size = size[np.isfinite(size).sum(axis=1) > 1]
    relative = pool_sizes([pooled_size, *size]) if len(size) > 1 else pooled_size
    relative = relative * (cells @ pooled_size) / (cells @ relative)
    return Signature(profile * relative, cells / cells.sum())


def gene_scores(mean_counts: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """How much genes (genes,) tell types apart: standard deviation over types of log(CPM + 10); 0 for genes left out.

    Left out are genes that vary with protocol or state more than with type (mitochondrial, ribosomal, haemoglobin,
    histone, small RNA, sex-linked, variable segments of immune receptors), known by human symbol in any case.
    """
    cpm = mean_counts / mean_counts.sum(axis=0) * 1e6
    score = np.log(cpm + 10).std(axis=1)
    return np.where([_UNINFORMATIVE.match(str(gene)) is None for gene in genes], score, 0.0)


def donor_variance(chunks: ChunkSums) -> np.ndarray:
    """Variance between donors of the relative profile of every type, (genes x types); relative as in shares of RNA.

    Over donors with five cells of the type or more. A type that fewer than two donors have takes the mean variance of
    the other types.

    Raises
    ------
    ValueError
        If no type has two such donors.
    """
    types, _, n_cells, counts = chunks.sums_by_donor()
    variance = np.full((counts.shape[1], chunks.n_types), np.nan)
    for k in range(chunks.n_types):
        own = counts[(types == k) & (n_cells >= _MIN_CELLS)].astype(np.float64)
        if len(own) > 1:
            variance[:, k] = (own / own.sum(axis=1, keepdims=True)).var(axis=0, ddof=1)
    known = np.isfinite(variance).all(axis=0)
    if not known.any():
        raise ValueError(
            f"no type has {_MIN_CELLS} cells or more from each of two donors; the variance between donors needs that. "
            "Pass the column of donors as sample_key, or use a method that does without it."
        )
    return np.where(known, variance, variance[:, known].mean(axis=1, keepdims=True))
