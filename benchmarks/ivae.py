"""IVAE's figures: what the bottleneck keeps, whether the penalties are right, how long training takes.

    python benchmarks/ivae.py [DATA_FOLDER] [--seeds 3] [--genes 1000] [--only quality|penalties|speed]

Quality: accuracy of 15 nearest neighbours (5-fold) for the cell type in two axes, on the shipped PBMC 3k and, with
DATA_FOLDER, on the control cells of Kang 2018; medians over seeds. Baselines: PCA of log1p counts per 10,000 to two
axes, random projections of the latent vectors (median of 20), and the untrained map that `irecon=0` leaves.
Penalties: estimates from samples against the closed form of a Gaussian. Speed: defaults, 5,000 cells x 2,000 genes.
Tables are in markdown.
"""

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import hpvade as hp
from hpvade.nn._disentanglement import dip, total_correlation

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def variable_genes(adata: ad.AnnData, n: int) -> ad.AnnData:
    """The `n` most variable genes, in raw counts; cells that keep none of them are left out."""
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=n)
    adata = adata[:, logged.var["highly_variable"]].copy()
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


def knn(embedding: np.ndarray, labels: np.ndarray) -> float:
    return cross_val_score(KNeighborsClassifier(15), embedding, labels, cv=5).mean()


def train(adata: ad.AnnData, seed: int, **options) -> hp.IVAE:
    scvi.settings.seed = seed
    hp.IVAE.setup_anndata(adata, labels_key="cell_type")
    model = hp.IVAE(adata, **options)
    model.train(**QUIET)
    return model


def quality(adata: ad.AnnData, name: str, seeds: int) -> pd.DataFrame:
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    logged = np.log1p(1e4 * adata.X.toarray() / np.asarray(adata.X.sum(axis=1)).reshape(-1, 1))
    records = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        model = train(adata, seed)
        latent = model.get_latent_representation()
        without = train(adata, seed, irecon=0.0)
        with torch.inference_mode():
            raw = without.module.vae.latent_encoder(torch.as_tensor(without.get_latent_representation())).numpy()
        random = [knn(latent @ rng.normal(size=(latent.shape[1], 2)), labels) for _ in range(20)]
        metrics = model.get_metrics(seed=seed)
        records.append(
            {
                "bottleneck (2)": knn(model.get_bottleneck_representation(), labels),
                "PCA (2)": knn(PCA(2, random_state=seed).fit_transform(logged), labels),
                "random projection (2)": np.median(random),
                "irecon=0, untrained (2)": knn(raw, labels),
                "latent (10)": knn(latent, labels),
                "PCA (10)": knn(PCA(10, random_state=seed).fit_transform(logged), labels),
                "majority": pd.Series(labels).value_counts(normalize=True).iloc[0],
                "ARI of the latent": metrics["ARI"],
                "P_C of the latent": metrics["P_C"],
            }
        )
    return pd.DataFrame(records).median().rename(f"{name} ({adata.n_obs} x {adata.n_vars})").to_frame()


def penalties(seeds: int) -> pd.DataFrame:
    """Posteriors whose aggregate is N(0, S): means N(0, S - v I), variances v."""
    records = []
    for d, rho in ((2, 0.45), (3, 0.4), (5, 0.3)):
        covariance = np.full((d, d), rho) + (1 - rho) * np.eye(d)
        noise = 0.5
        root = np.linalg.cholesky(covariance - noise * np.eye(d))
        found = {"tc": [], "dip": []}
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            mean = torch.as_tensor(rng.normal(size=(2000, d)) @ root.T)
            scale = torch.full_like(mean, noise**0.5)
            z = mean + scale * torch.as_tensor(rng.normal(size=(2000, d)))
            found["tc"].append(float(total_correlation(z, mean, scale)))
            found["dip"].append(float(dip(mean, scale)))
        exact = {"tc": -0.5 * np.linalg.slogdet(covariance)[1], "dip": 5 * d * (d - 1) * rho**2}
        for name, values in found.items():
            row = {"term": name, "axes": d, "closed form": exact[name], "estimate": np.median(values)}
            records.append(row | {"spread over seeds": np.ptp(values)})
    return pd.DataFrame(records).set_index("term")


def speed() -> pd.DataFrame:
    adata, _ = hp.datasets.planted_cohort(n_types=8, n_genes=2000, n_cells=5000, n_samples=2, seed=0)
    wall, cpu = time.perf_counter(), time.process_time()
    model = train(adata, 0)
    row = {"wall s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
    row |= {"threads": torch.get_num_threads(), "epochs": len(model.history["train_loss"])}
    return pd.DataFrame([row], index=["5,000 cells x 2,000 genes"])


def markdown(table: pd.DataFrame) -> str:
    rows = [["", *map(str, table.columns)], ["---"] * (table.shape[1] + 1)]
    for name, values in table.iterrows():
        rows.append([str(name), *(f"{value:.3f}".rstrip("0").rstrip(".") for value in values)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--only", choices=["quality", "penalties", "speed"])
    args = parser.parse_args()
    if args.only in (None, "penalties"):
        print(f"\n{markdown(penalties(args.seeds))}\n", flush=True)
    if args.only in (None, "quality"):
        print(
            f"\n{markdown(quality(variable_genes(hp.datasets.pbmc_reference(), args.genes), 'PBMC 3k', args.seeds))}\n",
            flush=True,
        )
        if args.folder is not None:
            kang = ad.read_h5ad(args.folder / "kang_ctrl_stim.h5ad")
            kang = variable_genes(kang[kang.obs["condition"] == "ctrl"].copy(), args.genes)
            print(f"\n{markdown(quality(kang, 'Kang control', args.seeds))}\n", flush=True)
    if args.only in (None, "speed"):
        print(f"\n{markdown(speed())}\n", flush=True)


if __name__ == "__main__":
    main()
