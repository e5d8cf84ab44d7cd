"""Test beds that no default was chosen on: studies as sources of pseudo-bulk, compositions, what platforms do to it."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

BLOOD = ["B", "CD4 T", "CD8 T", "NK", "Mono"]
USUAL = dict(zip(BLOOD, [0.1, 0.4, 0.2, 0.1, 0.2], strict=True))
DEPTH = 5e6
FEWEST = 10  # cells of a type that a source of bulk needs
_PROTEIN = {"CD19": "B", "CD14": "Mono", "CD56": "NK"}


def study(folder: Path, name: str) -> ad.AnnData:
    """A study with its own labels in `obs["cell_type"]`, classes in `obs["type"]`, and `obs["donor"]`.

    ``"file"``, ``"file:value"`` (of condition, batch, technology or donor) or ``"cite"``, typed by its proteins.
    """
    if name == "cite":
        adata = ad.read_h5ad(folder / "cite_pbmc_10x_2batches.h5ad")
        adata.obs["cell_type"], adata.obs["donor"] = _by_protein(adata.obsm["protein_expression"]), adata.obs["batch"]
        adata = adata[adata.obs["cell_type"] != ""].copy()
    else:
        file, _, value = name.partition(":")
        adata = ad.read_h5ad(folder / f"{file}.h5ad")
        if value:
            columns = [c for c in ("condition", "batch", "tech", "donor") if c in adata.obs]
            adata = adata[np.any([adata.obs[c].astype(str) == value for c in columns], axis=0)].copy()
        if "label_agreement" in adata.obs:
            adata = adata[adata.obs["label_agreement"].astype(str).str.startswith("3")].copy()
    coarse = "cell_type_coarse" if "cell_type_coarse" in adata.obs else "cell_type"
    adata.obs["type"] = adata.obs[coarse].astype(str)
    adata.obs = adata.obs[["cell_type", "type", "donor"]].astype(str)
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    return with_cells(adata, 5, "cell_type")


def with_cells(adata: ad.AnnData, n: int, key: str) -> ad.AnnData:
    """Without types of fewer than `n` cells."""
    counts = adata.obs[key].value_counts()
    return adata[adata.obs[key].isin(counts.index[counts >= n])].copy()


def _by_protein(protein: pd.DataFrame) -> np.ndarray:
    """Types of cells in which the proteins of one lineage stand out, "" for the others."""
    protein = protein.rename(columns=lambda c: c.split("_")[0])
    log = np.log1p(protein)
    high = {c: log[c] > (log[c].quantile(0.02) + log[c].quantile(0.98)) / 2 for c in protein}
    t = high["CD3"] & ~high["CD19"] & ~high["CD14"]
    named = {"CD4 T": t & high["CD4"] & ~high["CD8a"], "CD8 T": t & high["CD8a"] & ~high["CD4"]}
    named |= {kind: high[c] & ~high["CD3"] for c, kind in _PROTEIN.items()}
    table = pd.DataFrame(named)
    return np.where(table.sum(axis=1) == 1, table.idxmax(axis=1), "")


def sums(
    adata: ad.AnnData, fractions: pd.DataFrame, rng: np.random.Generator, n_cells: int = 500, key: str = "type"
) -> ad.AnnData:
    """Sums of cells; `obsm["truth"]` holds the fractions that were drawn."""
    pools = [np.flatnonzero(adata.obs[key] == kind) for kind in fractions]
    drawn = np.array([rng.multinomial(n_cells, p) for p in fractions.to_numpy()])
    chosen = [rng.multinomial(n, np.full(len(pool), 1 / len(pool))) for row in drawn
              for n, pool in zip(row, pools, strict=True)]  # fmt: skip
    weight = np.zeros((len(drawn), adata.n_obs), dtype=np.float32)
    weight[:, np.concatenate(pools)] = np.concatenate(chosen).reshape(len(drawn), -1)
    names = [f"s{i}" for i in range(len(drawn))]
    bulk = ad.AnnData(weight @ adata.X, pd.DataFrame(index=names), pd.DataFrame(index=adata.var_names))
    bulk.obsm["truth"] = pd.DataFrame(drawn / n_cells, names, list(fractions))
    return bulk


def composition(kind: str, types: list[str], n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Fractions of cells (samples x types): usual, flat, one type at 90 %, two that go together, one absent or rare."""
    k = len(types)
    centre = np.array([USUAL.get(t, 1 / k) for t in types])
    centre = centre / centre.sum()
    if kind == "usual":
        p = rng.dirichlet(2 * k * centre, n)
    elif kind == "flat":
        p = rng.dirichlet(np.ones(k), n)
    elif kind == "dominated":  # by the last type
        p = np.hstack([rng.dirichlet(np.ones(k - 1), n), np.full((n, 1), 9.0)]) / 10
    elif kind == "sorted":  # each sample by another type
        p = 0.1 * rng.dirichlet(np.ones(k), n) + 0.9 * np.eye(k)[np.arange(n) % k]
    elif kind == "correlated":
        p = rng.dirichlet(2 * k * centre, n)
        p[:, 1] = p[:, 0] * rng.lognormal(0, 0.1, n)
    elif kind == "alike":
        p = rng.dirichlet(400 * centre, n)
    else:  # absent or rare: the first type
        p = rng.dirichlet(2 * k * centre, n)
        p[:, 0] = (0 if kind == "absent" else 0.01) * p[:, 1:].sum(axis=1)
    return pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=types)


def reads(X: np.ndarray, rng: np.random.Generator, depth: float = DEPTH) -> np.ndarray:
    """Counts of a depth."""
    return rng.poisson(depth * X / X.sum(axis=1, keepdims=True)).astype(np.float32)


def tpm(X: np.ndarray) -> np.ndarray:
    return 1e6 * X / X.sum(axis=1, keepdims=True)


def lengths(folder: Path, genes: pd.Index) -> np.ndarray:
    """Of genes in kilobases, the median where unknown."""
    table = pd.read_csv(folder / "genes" / "genes_homo_sapiens.csv.gz").drop_duplicates("symbol").set_index("symbol")
    found = table["length"].reindex(genes)
    return found.fillna(found.median()).to_numpy() / 1000


def array(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log2 of an array: probes of their own affinity, compressed, above a background, quantile-normalised."""
    signal = tpm(X) ** 0.8 * rng.lognormal(0, 0.7, X.shape[1]) + rng.lognormal(2.5, 0.3, X.shape[1])
    signal *= rng.lognormal(0, 0.1, X.shape)
    ranks = signal.argsort(axis=1).argsort(axis=1)
    return np.log2(np.sort(signal, axis=1).mean(axis=0)[ranks])


def distortions(folder: Path) -> dict[str, Callable]:
    """What a platform makes of expected counts: functions of (samples x genes), genes, generator -> matrix, units."""

    def factor(sd: float) -> Callable:
        return lambda X, genes, rng: (reads(X * rng.lognormal(0, sd, X.shape[1]), rng), "auto")

    def of_length(power: float) -> Callable:
        return lambda X, genes, rng: (reads(X * lengths(folder, genes) ** power, rng), "auto")

    def logged(X, genes, rng):
        return np.log2(tpm(reads(X * rng.lognormal(0, 0.6, X.shape[1]), rng)) + 1), "log2"

    def rounded(X, genes, rng):
        return tpm(reads(X * rng.lognormal(0, 0.6, X.shape[1]), rng)).round(1), "auto"

    found = {"as it is": lambda X, genes, rng: (reads(X, rng), "auto")}
    found |= {f"gene factors, sd {sd}": factor(sd) for sd in (0.3, 0.6, 1.0)}
    found |= {"x length (full length)": of_length(1.0), "/ length (3' as TPM)": of_length(-1.0)}
    found |= {"TPM, one decimal": rounded, "log2(TPM + 1)": logged}
    found["array"] = lambda X, genes, rng: (array(reads(X, rng), rng), "log2")
    found |= {
        f"{depth:.0e} reads".replace("e+0", "e"): lambda X, genes, rng, depth=depth: (reads(X, rng, depth), "auto")
        for depth in (1e4, 1e5)
    }
    return found
