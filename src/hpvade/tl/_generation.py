from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from .._text import check_adata
from ..evaluation._metrics import pearson
from ..io._rows import iter_rows, pick_matrix, refuse_bad_values


def evaluate_generation(
    generated: AnnData, real: AnnData, *, keys: list[str] | None = None, min_mean: float = 0.1, min_cells: int = 20
) -> pd.DataFrame:
    """Compare generated with real cells: mean count and share of zeros of every gene, per condition.

    Parameters
    ----------
    generated, real
        Counts, cells x genes, of the same genes in the same order.
    keys
        Columns of `obs` that make a condition; those of `generated` that `real` has too when None.
    min_mean
        Genes with a lower mean count in the real cells of a condition are not compared.
    min_cells
        Conditions with fewer real cells are left out: their means are too uncertain to compare with.

    Returns
    -------
    One row per condition and statistic (``"mean"``, ``"zero fraction"``) : the `median` and 90th percentile
    (`q90`) over genes of the relative error, the share of genes `within_20_percent`, the correlation `r`, and the
    `median` that two random halves of the real cells differ by, `real_halves`, which no generator can beat.

    Raises
    ------
    ValueError
        The genes differ, or no condition has enough cells.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> counts = np.random.default_rng(0).poisson(2.0, (80, 5)).astype("float32")
    >>> cells = anndata.AnnData(counts, obs=pd.DataFrame({"type": ["B"] * 80}, index=[f"c{i}" for i in range(80)]))
    >>> evaluate_generation(cells, cells)["median"].tolist()
    [0.0, 0.0]
    """
    for name, adata in (("generated", generated), ("real", real)):
        check_adata(adata, name)
    if not np.array_equal(generated.var_names, real.var_names):
        raise ValueError(
            f"generated has {generated.n_vars} genes, real {real.n_vars}, or in another order; expected the same: "
            "`real = real[:, generated.var_names]`."
        )
    keys = [key for key in generated.obs if key in real.obs] if keys is None else list(keys)
    for name, adata in (("generated", generated), ("real", real)):
        if absent := [key for key in keys if key not in adata.obs]:
            raise KeyError(f"keys names {absent}, which are no columns of {name}.obs; found {list(adata.obs)}.")
        X, name = pick_matrix(adata, None, name)
        for rows, block in iter_rows(X):
            refuse_bad_values(block, rows, name, adata.obs_names, adata.var_names)
    if not keys:
        raise ValueError("there are no keys; expected columns of obs that both sides have. Name one that tells groups.")
    ours, theirs = (_conditions(adata, keys) for adata in (generated, real))
    n_real = pd.Series(theirs).value_counts()
    least = max(min_cells, 2)  # halves of the real cells are compared
    compared = [condition for condition in dict.fromkeys(ours) if n_real.get(condition, 0) >= least]
    half = np.zeros(real.n_obs, dtype=np.int64)
    rng, rows = np.random.default_rng(0), []
    for condition in compared:
        half[theirs == condition] = rng.permutation(n_real[condition]) < n_real[condition] // 2
    index = pd.Index(compared)
    made = _Sums.of(generated, index.get_indexer(ours), len(index))
    code = index.get_indexer(theirs)
    halved = _Sums.of(real, np.where(code < 0, -1, 2 * code + half), 2 * len(index))
    for i, condition in enumerate(compared):
        a, b, parts = made[[i]], halved[[2 * i, 2 * i + 1]], (halved[[2 * i + 1]], halved[[2 * i]])
        genes = b.mean() >= min_mean
        if not genes.any():
            continue
        about = dict(zip(keys, condition.split("\x1f"), strict=True))
        for name, statistic in (("mean", _Sums.mean), ("zero fraction", _Sums.zeros)):
            truth = statistic(b)[genes]
            error = _relative(statistic(a)[genes], truth)
            halves = _relative(*(statistic(part)[genes] for part in parts))
            rows.append(
                about
                | {
                    "statistic": name,
                    "median": float(np.median(error)),
                    "q90": float(np.quantile(error, 0.9)),
                    "within_20_percent": float((error <= 0.2).mean()),
                    "r": pearson(statistic(a)[genes], truth),
                    "real_halves": float(np.median(halves)),
                    "n_real": int(n_real[condition]),
                }
            )
    if not rows:
        raise ValueError(
            f"no condition of {keys} has {min_cells} real cells, and genes with a mean of {min_mean:g}. Lower "
            "min_cells or min_mean, or compare other cells."
        )
    return pd.DataFrame(rows)


def _conditions(adata: AnnData, keys: list[str]) -> np.ndarray:
    return adata.obs[keys].astype(str).agg("\x1f".join, axis=1).to_numpy()


@dataclass(frozen=True, eq=False)
class _Sums:
    """Counts, and counts above zero, added up over groups of cells (groups x genes); cells in each group (groups,)."""

    counts: np.ndarray
    positive: np.ndarray
    n_cells: np.ndarray

    @classmethod
    def of(cls, adata: AnnData, group: np.ndarray, n_groups: int) -> "_Sums":
        """One pass over the cells; those with a negative group are left out."""
        counts, positive = np.zeros((2, n_groups, adata.n_vars))
        for rows, block in iter_rows(adata.X):
            used = np.flatnonzero(group[rows] >= 0)
            member = sparse.csr_matrix((np.ones(len(used)), (group[rows][used], used)), (n_groups, block.shape[0]))
            counts += (member @ block).toarray()
            positive += (member @ (block > 0)).toarray()
        return cls(counts, positive, np.bincount(group[group >= 0], minlength=n_groups))

    def __getitem__(self, groups: list[int]) -> "_Sums":
        return _Sums(self.counts[groups], self.positive[groups], self.n_cells[groups])

    def mean(self) -> np.ndarray:
        return self.counts.sum(axis=0) / self.n_cells.sum()

    def zeros(self) -> np.ndarray:
        return (self.n_cells.sum() - self.positive.sum(axis=0)) / self.n_cells.sum()


def _relative(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative error; shares of zeros below one percent are compared as one percent."""
    return np.abs(found - truth) / np.maximum(np.abs(truth), 0.01)
