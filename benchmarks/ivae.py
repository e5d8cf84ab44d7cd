"""IVAE's figures: what the bottleneck keeps, whether the penalties are right, how long training takes.

    python benchmarks/ivae.py [DATA_FOLDER] [--seeds 0 1 2] [--only PART ...] [--cases CASE ...] [--records FILE]

Quality: accuracy of 15 nearest neighbours (5-fold) for the cell type, on the shipped PBMC 3k and, from DATA_FOLDER, on
the control cells of Kang 2018 and on Hao 2021 (types by protein), 1,000 variable genes each; early stopping; medians
over seeds. Baselines: PCA of log1p counts per 10,000, UMAP of ten such components, and random projections
of the latent vectors (median of 20). Stability: the same axis under other seeds, as trained and as given. Penalties:
estimates from samples against the closed form of a Gaussian. Speed: defaults.
Tables are in markdown.
"""

import time
from functools import cache
from itertools import combinations
from pathlib import Path
from unittest import mock

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from _records import Part, as_measured, run
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import hpvade as hp
from hpvade._keys import Keys
from hpvade.models.ivae import _model
from hpvade.models.ivae._disentanglement import dip, total_correlation

FILES = {"Kang control": "kang_ctrl_stim", "Hao": "ref_hao_pbmc"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def cells(folder: Path | None, case: str, n_genes: int = 1000) -> ad.AnnData:
    """Counts of the most variable genes; cells that keep none of them are left out."""
    adata = hp.datasets.pbmc_reference() if case == "PBMC 3k" else ad.read_h5ad(folder / f"{FILES[case]}.h5ad")
    if case == "Kang control":
        adata = adata[adata.obs["condition"] == "ctrl"].copy()
    logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes)
    adata = adata[:, logged.var["highly_variable"]].copy()
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


def knn(embedding: np.ndarray, labels: np.ndarray) -> float:
    return cross_val_score(KNeighborsClassifier(15), embedding, labels, cv=5).mean()


def train(adata: ad.AnnData, seed: int, *, early_stopping: bool = False, **options) -> hp.IVAE:
    scvi.settings.seed = seed
    hp.IVAE.setup_anndata(adata, labels_key="cell_type")
    model = hp.IVAE(adata, **options)
    model.train(early_stopping=early_stopping, **QUIET)
    return model


@cache
def trained(folder: Path | None, case: str, seed: int) -> tuple[hp.IVAE, dict[str, np.ndarray]]:
    """A model, and its embeddings along the axes that training had left."""
    before, order = {}, _model.order_axes

    def look_first(model: hp.IVAE) -> None:
        before.update(model.get_embeddings())
        order(model)

    with mock.patch.object(_model, "order_axes", look_first):
        return train(cells(folder, case), seed, early_stopping=True), before


def quality(folder: Path | None, case: str, seed: int) -> list[dict]:
    model, before = trained(folder, case, seed)
    adata, rng = model.adata, np.random.default_rng(seed)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    logged = np.log1p(1e4 * adata.X.toarray() / np.asarray(adata.X.sum(axis=1)).reshape(-1, 1))
    latent, components = model.get_latent_representation(), PCA(10, random_state=seed).fit_transform(logged)
    neighbours = ad.AnnData(obsm={"X_pca": components})
    sc.pp.neighbors(neighbours, use_rep="X_pca", random_state=seed)
    sc.tl.umap(neighbours, random_state=seed)
    metrics = model.get_metrics(seed=seed)
    scores = {
        "bottleneck, 2 axes": knn(model.get_bottleneck_representation(), labels),
        "the same before its axes are turned": knn(before[Keys.IVAE_BOTTLENECK], labels),
        "PCA, 2 axes": knn(components[:, :2], labels),
        "UMAP of 10 components, 2 axes": knn(neighbours.obsm["X_umap"], labels),
        "random projection of the latent, 2 axes": np.median(
            [knn(latent @ rng.normal(size=(latent.shape[1], 2)), labels) for _ in range(20)]
        ),
        "latent, 10 axes": knn(latent, labels),
        "PCA, 10 axes": knn(components, labels),
        "majority": pd.Series(labels).value_counts(normalize=True).iloc[0],
        "ARI of the latent": metrics["ARI"],
        "P_C of the latent": metrics["P_C"],
    }
    return [{"what": name, "value": value} for name, value in scores.items()]


def side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby(["what", "case"], sort=False)["value"].median().unstack("case")


def stability(folder: Path | None, case: str, seed: int) -> list[dict]:
    """Correlation of the same axis, sign included, between models of three seeds; 1 is the same picture."""
    rows = []
    for one, two in combinations(range(3), 2):
        (a, a_before), (b, b_before) = (trained(folder, case, of) for of in (one, two))
        a_now, b_now = a.get_embeddings(), b.get_embeddings()
        expressed = np.asarray(a.adata.X.mean(axis=0)).ravel() > 0.1
        pairs = {"loadings": [model.get_loadings().to_numpy()[expressed] for model in (a, b)]}
        for name, key in {"bottleneck": Keys.IVAE_BOTTLENECK, "latent": Keys.IVAE}.items():
            pairs |= {f"{name}, as trained": (a_before[key], b_before[key]), name: (a_now[key], b_now[key])}
        for name, (x, y) in pairs.items():
            r = np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]
            rows += [{"what": f"{name}, axis {i + 1}", "value": r[i, i]} for i in range(2)]
            if name == "latent":
                match = np.abs(r)[linear_sum_assignment(-np.abs(r))]
                rows += [{"what": "latent, mean over 10 axes", "value": r.diagonal().mean()}]
                rows += [{"what": "latent, mean over the best match of axes and signs", "value": match.mean()}]
    return rows


def penalties(folder: Path | None, axes: str, seed: int) -> list[dict]:
    """Posteriors whose aggregate is N(0, S): means N(0, S - v I), variances v."""
    d, rho, noise = int(axes), {2: 0.45, 3: 0.4, 5: 0.3}[int(axes)], 0.5
    covariance = np.full((d, d), rho) + (1 - rho) * np.eye(d)
    root = np.linalg.cholesky(covariance - noise * np.eye(d))
    rng = np.random.default_rng(seed)
    mean = torch.as_tensor(rng.normal(size=(2000, d)) @ root.T)
    scale = torch.full_like(mean, noise**0.5)
    z = mean + scale * torch.as_tensor(rng.normal(size=(2000, d)))
    exact = {"tc": -0.5 * np.linalg.slogdet(covariance)[1], "dip": 5 * d * (d - 1) * rho**2}
    found = {"tc": float(total_correlation(z, mean, scale)), "dip": float(dip(mean, scale))}
    return [{"term": name, "closed form": exact[name], "estimate": found[name]} for name in exact]


def against_closed_form(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.rename(columns={"case": "axes"}).groupby(["term", "axes"])
    return groups[["closed form", "estimate"]].median().assign(**{"spread over seeds": groups["estimate"].agg(np.ptp)})


def speed(folder: Path | None, case: str, seed: int) -> list[dict]:
    adata, _ = hp.datasets.planted_cohort(n_types=8, n_genes=2000, n_cells=5000, n_samples=2, seed=0)
    start, cpu = time.perf_counter(), time.process_time()
    model = train(adata, seed)
    spent = {"seconds": time.perf_counter() - start, "CPU seconds": time.process_time() - cpu}
    row = {"cells": adata.n_obs, "genes": adata.n_vars, "threads": torch.get_num_threads()}
    return [row | {"epochs": len(model.history["train_loss"])} | spent]


PARTS = {
    "quality": Part(["PBMC 3k", *FILES], quality, side_by_side),
    "stability": Part(["PBMC 3k", *FILES], stability, side_by_side, seeds=[0]),
    "penalties": Part(["2", "3", "5"], penalties, against_closed_form),
    "speed": Part(["defaults"], speed, as_measured, seeds=[0]),
}

if __name__ == "__main__":
    run(__doc__, PARTS)
