"""Cells as points: principal components, the labels of neighbours, and simulated doublets. Arrays in, arrays out."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..io._rows import iter_rows
from ._transfer import log_blocks, moments

MAX_CELLS = 20_000  # cells that anything is learned from; the others are only placed
_GENES, _COMPONENTS, _NEIGHBOURS = 2000, 50, 15
_ROUNDING = 1e-3  # of its mean: a gene that is the same in all cells


@dataclass(frozen=True, eq=False)
class CellSpace:
    """Principal components of standardised log1p cp10k, scaled so that the first has variance one."""

    columns: np.ndarray
    """Index of the genes, (genes,)."""
    mean: np.ndarray
    sd: np.ndarray
    """(genes,)."""
    axes: np.ndarray
    """(components x genes)."""

    def place(self, block: sparse.csr_matrix) -> np.ndarray:
        """Log1p cp10k of the chosen genes -> components."""
        values = np.clip((block.toarray() - self.mean) / self.sd, -10, 10)
        return values @ self.axes.T


def sample_cells(labels: np.ndarray, rng: np.random.Generator, n: int = MAX_CELLS) -> np.ndarray:
    """Whether a cell is among at most about `n`, drawn so that small types stay whole."""
    if len(labels) <= n:
        return np.ones(len(labels), dtype=bool)
    codes = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(codes)
    quota = n // len(sizes)
    while True:  # what small types leave goes to the others
        full = sizes <= quota
        free = n - sizes[full].sum()
        larger = free // max((~full).sum(), 1)
        if larger <= quota or full.all():
            break
        quota = larger
    chosen = np.zeros(len(labels), dtype=bool)
    for code in range(len(sizes)):
        at = np.flatnonzero(codes == code)
        chosen[rng.choice(at, min(quota, len(at)), replace=False)] = True
    return chosen


def embed(X, sample: np.ndarray) -> tuple[CellSpace, np.ndarray]:
    """Learn the space from the cells in `sample`, and place every cell: (cells x components)."""
    from sklearn.decomposition import PCA

    every, none = np.arange(X.shape[1]), np.zeros(int(sample.sum()), dtype=int)
    mean, sd = (x[0] for x in moments(X, every, sample, none))
    n_varying = int((sd > _ROUNDING * mean).sum())
    if n_varying < 2:
        raise ValueError(
            f"{n_varying} genes vary between the cells, so that nothing tells them apart; expected raw counts of many "
            "genes. Pass the layer that holds them."
        )
    columns = np.sort(np.argsort(-sd, kind="stable")[: min(_GENES, n_varying)])
    space = CellSpace(columns, mean[columns], sd[columns], np.eye(len(columns)))
    values = np.vstack([space.place(block) for _, block in log_blocks(X, columns, sample)])
    n = min(_COMPONENTS, len(columns) - 1, len(values) - 1)
    pca = PCA(n, svd_solver="arpack" if n < min(values.shape) else "full", random_state=0).fit(values)
    axes = pca.components_ / np.sqrt(pca.explained_variance_[0])
    space = CellSpace(columns, space.mean, space.sd, axes)
    points = np.vstack([space.place(block) for _, block in log_blocks(X, columns, np.ones(X.shape[0], dtype=bool))])
    return space, points


def neighbour_share(points: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Share of the 15 nearest cells that have the same label, (cells,)."""
    from sklearn.neighbors import NearestNeighbors

    k = min(_NEIGHBOURS, len(points) - 1)
    index = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)  # without the cell itself
    return (codes[index] == codes[:, None]).mean(axis=1)


def doublet_score(
    X, sample: np.ndarray, codes: np.ndarray, space: CellSpace, points: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Share of simulated doublets of two types around each cell of the sample, (sampled cells,), as Scrublet does it.

    One doublet per cell: the counts of two cells with different labels, added. 0.5 is what chance gives where both lie.
    """
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(seed)
    counts = sparse.vstack([block[sample[rows]] for rows, block in iter_rows(X)], format="csr")
    size = counts.sum(axis=1).A1
    counts = counts[:, space.columns]
    first = rng.permutation(len(codes))
    second = rng.permutation(len(codes))
    pairs = codes[first] != codes[second]
    first, second = first[pairs], second[pairs]
    if not len(first):
        return np.zeros(len(codes))
    both = sparse.diags(1e4 / (size[first] + size[second])) @ (counts[first] + counts[second])
    simulated = np.vstack(
        [space.place(sparse.csr_matrix(both[i : i + 2000].log1p())) for i in range(0, len(first), 2000)]
    )
    k = min(2 * _NEIGHBOURS, len(points) - 1)
    index = (
        NearestNeighbors(n_neighbors=k + 1)
        .fit(np.vstack([points, simulated]))
        .kneighbors(points, return_distance=False)
    )
    near = (index >= len(points)).sum(axis=1) / k
    prior = len(first) / (len(first) + len(points))
    odds = near / np.maximum(1 - near, 1 / k) * (1 - prior) / prior  # as if there were one simulated per real cell
    return odds / (1 + odds)
