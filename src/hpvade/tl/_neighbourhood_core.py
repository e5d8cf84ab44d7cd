"""Correlation of cells with their neighbours, on arrays: masks of a graph, per-cell metrics, isolation, composite."""

import numpy as np
from scipy import sparse

_MIN_STD = 1e-6
_BINS = np.linspace(-1, 1, 51)


def neighbour_masks(
    W: sparse.csr_matrix, library: np.ndarray, dataset: np.ndarray | None, technical: dict[str, np.ndarray]
) -> dict[str, sparse.csr_matrix]:
    """Split the edges of a graph by where the two cells come from.

    Parameters
    ----------
    W
        Weights (cells x cells); the diagonal is dropped.
    library, dataset
        int codes (cells,), -1 for a missing value; `dataset` may be None.
    technical
        More such codes by name.

    Returns
    -------
    By mask, the weights of its edges. Edges of a cell with a missing value are in none of the masks of that covariate.
    """
    W = sparse.csr_matrix(W, dtype=float, copy=True)
    W.setdiag(0)
    W.eliminate_zeros()
    rows, columns = np.repeat(np.arange(W.shape[0]), np.diff(W.indptr)), W.indices

    def compare(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = (codes[rows] >= 0) & (codes[columns] >= 0)
        same = codes[rows] == codes[columns]
        return known & same, known & ~same

    same_library, between = compare(library)
    keep = {"same_library": same_library, "between_libraries": between}
    if dataset is not None:
        same_dataset, other_dataset = compare(dataset)
        keep |= {"cross_library": between & same_dataset, "cross_dataset": other_dataset}
    differs = np.zeros(len(rows), dtype=bool)
    for name, codes in technical.items():
        keep[f"within_{name}"], keep[f"between_{name}"] = compare(codes)
        differs |= keep[f"between_{name}"]
    if technical:
        keep["cross_technical"] = differs
    masks = {"all_neighbours": W}
    for name, kept in keep.items():
        mask = W.copy()
        mask.data = np.where(kept, W.data, 0.0)
        mask.eliminate_zeros()
        masks[name] = mask
    return masks


def standardised(profiles: np.ndarray) -> np.ndarray:
    """Rows centred and scaled to length one; NaN where the standard deviation is below 1e-6."""
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1)
    norm = np.linalg.norm(centred, axis=1)
    return centred / np.where(deviation < _MIN_STD, np.nan, norm)[:, None]


def average_correlation(profiles: np.ndarray, mask: sparse.csr_matrix) -> np.ndarray:
    """Pearson correlation over genes of each cell with the weighted mean of its neighbours (cells,); NaN without."""
    weight = mask.sum(axis=1).A1
    mean = (mask @ profiles) / np.where(weight > 0, weight, np.nan)[:, None]
    return np.einsum("ng,ng->n", standardised(profiles), standardised(mean))


def pairwise_summary(profiles: np.ndarray, mask: sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Mean, median, weighted mean and median, standard deviation and its ratio to the mean, of pairwise correlations.

    Each (cells,), NaN for a cell without a neighbour that has a correlation.
    """
    names = ("mean", "median", "weighted_mean", "weighted_median", "std", "cv")
    out = {name: np.full(mask.shape[0], np.nan) for name in names}
    unit = standardised(profiles)
    for n in range(mask.shape[0]):
        span = slice(mask.indptr[n], mask.indptr[n + 1])
        r, w = unit[mask.indices[span]] @ unit[n], mask.data[span]
        known = np.isfinite(r)
        r, w = r[known], w[known]
        if not len(r):
            continue
        order = np.argsort(r)
        half = np.cumsum(w[order]) >= w.sum() / 2
        mean, std = r.mean(), r.std()
        values = (mean, np.median(r), w @ r / w.sum(), r[order][half.argmax()], std)
        for name, value in zip(names, (*values, std / mean if abs(mean) > _MIN_STD else np.nan), strict=True):
            out[name][n] = value
    return out


def qualifying_share(
    library: np.ndarray, dataset: np.ndarray | None, technical: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Share of the other cells that would fall into each mask, for each cell (cells,); NaN where a value is missing."""
    n = len(library)

    def size(codes: np.ndarray) -> np.ndarray:
        counts = np.bincount(codes[codes >= 0], minlength=1)
        return np.where(codes >= 0, counts[np.maximum(codes, 0)], np.nan).astype(float)

    own, shares, others = size(library), {}, max(n - 1, 1)
    shares["same_library"], shares["between_libraries"] = (own - 1) / others, (n - own) / others
    if dataset is not None:
        shares["cross_library"] = (size(dataset) - own) / others
        shares["cross_dataset"] = (n - size(dataset)) / others
    for name, codes in technical.items():
        shares[f"within_{name}"], shares[f"between_{name}"] = (size(codes) - 1) / others, (n - size(codes)) / others
    return shares


def isolation(share: np.ndarray, n_neighbours: np.ndarray, n_in_mask: np.ndarray) -> tuple[float, float]:
    """Observed and expected share of cells without a neighbour in a mask; expected is the mean of (1 - p)^k."""
    known = np.isfinite(share)
    if not known.any():
        return np.nan, np.nan
    return float((n_in_mask[known] == 0).mean()), float(((1 - share[known]) ** n_neighbours[known]).mean())


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the bin-wise minima of two histograms of 50 bins on [-1, 1]; NaN when one is empty."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return np.nan
    heights = [np.histogram(np.clip(x, -1, 1), _BINS)[0] / len(x) for x in (a, b)]
    return float(np.minimum(*heights).sum())


def weighted_mean(parts: dict[float, float] | list[tuple[float, float]]) -> float:
    """Mean of (weight, value) pairs over the values that are not NaN; NaN without any.

    Examples
    --------
    >>> weighted_mean([(0.5, 1.0), (0.5, float("nan"))])
    1.0
    """
    known = [(weight, value) for weight, value in parts if np.isfinite(value)]
    total = sum(weight for weight, _ in known)
    return float(sum(weight * value for weight, value in known) / total) if known else np.nan


def random_graph(W: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Graph with the same number of neighbours and the same weights for every cell, neighbours drawn at random."""
    W = sparse.csr_matrix(W, copy=True)
    n = W.shape[0]
    indices = np.empty(W.nnz, dtype=np.int64)
    for row in range(n):
        span = slice(W.indptr[row], W.indptr[row + 1])
        drawn = rng.choice(n - 1, span.stop - span.start, replace=False)
        indices[span] = drawn + (drawn >= row)  # never the cell itself
    graph = sparse.csr_matrix((W.data, indices, W.indptr), shape=W.shape)
    graph.sort_indices()
    return graph
