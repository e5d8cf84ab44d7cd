"""The regression of `hp.tl.solve` with what it leaves: signature, markers, gene factor and residuals in NumPy."""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import torch

from hpvade import solvers
from hpvade.io._bulk import read_bulk
from hpvade.reference._cell_size import cell_sizes
from hpvade.reference._signature import gene_scores, reference_signature, sum_chunks

FLOOR = 5e-5  # c of the log residuals, as in `hpvade.solvers.robust`
MAX_DEPTH = 5e6


@dataclass
class Problem:
    """Bulk (samples x genes) and signature (genes x types) as shares, over the genes of the reference."""

    genes: pd.Index
    types: list[str]
    bulk: np.ndarray
    signature: np.ndarray
    mean_counts: np.ndarray
    sizes: np.ndarray
    present: np.ndarray
    depth: np.ndarray
    markers: np.ndarray
    samples: pd.Index


@dataclass
class Solved:
    """Fractions of RNA (samples x types), log gene factor (markers,), log residuals beside it (samples x markers)."""

    rna: np.ndarray
    factor: np.ndarray
    residual: np.ndarray


def problem(bulk: ad.AnnData, mean_counts: pd.DataFrame, input_type: str = "auto") -> Problem:
    """As `hp.tl.solve` poses it: genes by name, markers of pairs of types, pooled cell sizes."""
    aligned = read_bulk(bulk, mean_counts.index, input_type=input_type)
    values, counts, types = aligned.values, mean_counts.to_numpy(float), list(mean_counts.columns)
    total = values.sum(axis=1, keepdims=True)
    smallest = np.where(values > 0, values, np.inf).min(axis=1)
    share = counts / counts.sum(axis=0)
    allowed = aligned.present & (gene_scores(counts, mean_counts.index.to_numpy()) > 0)
    return Problem(
        mean_counts.index,
        types,
        values / total,
        share,
        counts,
        cell_sizes(types, counts.sum(axis=0), "pooled"),
        aligned.present,
        (total[:, 0] / smallest).clip(max=MAX_DEPTH),
        solvers.marker_genes(torch.from_numpy(share), torch.from_numpy(allowed)).numpy(),
        bulk.obs_names,
    )


def regress(of: Problem, genes: np.ndarray | None = None, prior: np.ndarray | None = None, **options) -> Solved:
    """`hpvade.solvers.robust`, on `genes` (the markers), the signature times exp(prior) (genes of the reference,)."""
    genes = of.markers if genes is None else genes
    bulk = of.bulk[:, genes]
    signature = of.signature[genes] if prior is None else of.signature[genes] * np.exp(prior[genes])[:, None]
    arrays = (torch.tensor(x, dtype=torch.float32) for x in (bulk, signature))
    depth = torch.tensor(of.depth, dtype=torch.float32)
    fit = solvers.robust(*arrays, **{"depth": depth} | options)
    rna, factor = fit.rna_proportions.double().numpy(), fit.gene_factor.double().numpy()
    fitted = rna @ (signature * np.exp(factor)[:, None]).T
    fitted *= (bulk.sum(axis=1) / fitted.sum(axis=1))[:, None]
    residual = np.log(bulk + FLOOR) - np.log(fitted + FLOOR)
    return Solved(rna, factor, residual - np.median(residual, axis=1, keepdims=True))


def cells(rna: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Fractions of cells from fractions of RNA."""
    fractions = rna / sizes
    return fractions / fractions.sum(axis=1, keepdims=True)


def baseline(of: Problem) -> np.ndarray:
    """Non-negative least squares on all shared genes, fractions of cells."""
    found = solvers.nnls(torch.tensor(of.bulk), torch.tensor(of.mean_counts * of.present[:, None])).numpy()
    return found / found.sum(axis=1, keepdims=True)


def profiles(adata: ad.AnnData, labels_key: str) -> pd.DataFrame:
    """Mean counts per cell (genes x types), averaged over `obs["donor"]` as the package does."""
    labels, donors = (
        adata.obs[key].astype("category").cat.remove_unused_categories().cat for key in (labels_key, "donor")
    )
    types = labels.categories.astype(str)
    codes = [x.codes.to_numpy().astype(int) for x in (labels, donors)]
    rng = np.random.default_rng(0)
    chunks = sum_chunks(adata.X, *codes, len(types), rng, chunk_size=adata.n_obs)
    return pd.DataFrame(reference_signature(chunks).mean_counts, adata.var_names, types)
