"""Ambient RNA, integration, deconvolution with a cleaned reference, speed: the figures of the clean-reference models.

    python benchmarks/ambient.py DATA_FOLDER [--only planted integration reference speed] [--seeds 3] [--epochs 100]

Prints markdown tables, medians over seeds. `planted`: ambient counts of known profile and share (5, 15 and 30 % in
three batches) are added to real cells; compared with doing nothing and with scvi.external.SCAR. `integration`:
scib-metrics on seven PBMC data sets, compared with SCVI of the same size and epochs (needs `pip install scib-metrics`).
`reference`: proportions of simulated bulk from a contaminated, a cleaned and the uncontaminated reference. `speed`:
seconds per epoch and peak memory, each model in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _cohorts import read_reference

import hpvade as hp

SCAR = scvi.external.SCAR  # noqa: TID251  a baseline, nothing is built on it
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def variable_genes(adata: ad.AnnData, n: int) -> ad.AnnData:
    """The genes with the highest ratio of variance to mean of counts per ten thousand."""
    X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).tocsr()
    mean = X.mean(axis=0).A1
    ratio = np.where(mean > 0.05, (X.multiply(X).mean(axis=0).A1 - mean**2) / np.maximum(mean, 1e-9), 0)
    adata = adata[:, np.sort(np.argsort(-ratio)[:n])].copy()
    return adata[adata.X.sum(axis=1).A1 > 20].copy()


def planted_cells(folder: Path, args, seed: int) -> ad.AnnData:
    adata = read_reference(folder, "ref_pbmc3k")
    adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)[: args.cells]].copy()
    return hp.datasets.plant_ambient(variable_genes(adata, args.genes), seed=seed)


def fit_ambient(observed: ad.AnnData, args, seed: int, batch: str = "batch") -> hp.AmbientRegularizedSCVI:
    scvi.settings.seed = seed
    hp.AmbientRegularizedSCVI.setup_anndata(observed, batch_key=batch)
    model = hp.AmbientRegularizedSCVI(observed)
    model.train(args.epochs, train_size=1.0, **QUIET)
    return model


def score(observed: ad.AnnData, clean: np.ndarray) -> dict[str, float]:
    """Of sums over the cells of a type: drop of genes without a native count in it, and native counts that stay."""
    native, before = observed.layers["native"].toarray(), observed.X.toarray()
    codes = observed.obs["cell_type"].cat.codes.to_numpy()
    absent_before = absent_after = kept = total = surplus = 0.0
    for code in np.unique(codes):
        own = codes == code
        if own.sum() < 20:  # with few cells a count of zero does not say that a gene is absent
            continue
        n, o, c = (matrix[own].sum(axis=0) for matrix in (native, before, clean))
        absent_before, absent_after = absent_before + o[n == 0].sum(), absent_after + c[n == 0].sum()
        kept, total, surplus = kept + np.minimum(c, n).sum(), total + n.sum(), surplus + np.maximum(c - n, 0).sum()
    return {"drop of absent": 1 - absent_after / absent_before, "native kept": kept / total, "surplus": surplus / total}


def planted(folder: Path, args) -> pd.DataFrame:
    rows = []
    for seed in range(args.seeds):
        observed = planted_cells(folder, args, seed)
        truth = observed.varm["ambient_profile"]
        model = fit_ambient(observed, args, seed)
        found = model.get_ambient_profile(normalize=True)
        r = np.median([np.corrcoef(found[b], truth[b])[0, 1] for b in truth])
        clean = model.get_clean_reference()
        order = clean.obs_names
        rows.append({"method": "AmbientRegularizedSCVI", "profile r": r, **score(observed[order], clean.X.toarray())})
        mean = {b: observed.X[(observed.obs["batch"] == b).to_numpy()].sum(axis=0).A1 for b in truth}
        r = np.median([np.corrcoef(mean[b], truth[b])[0, 1] for b in truth])
        rows.append({"method": "nothing (profile: mean of the batch)", "profile r": r})
        rows[-1] |= score(observed, observed.X.toarray())
        denoised = np.zeros(observed.shape)
        for b in truth:  # SCAR has one profile for all cells, so one model per batch
            own = (observed.obs["batch"] == b).to_numpy()
            part = ad.AnnData(observed.X[own].copy())
            scvi.settings.seed = seed
            SCAR.setup_anndata(part)
            scar = SCAR(part, ambient_profile=mean[b] / mean[b].sum())
            scar.train(args.epochs, **QUIET)
            denoised[own] = np.asarray(scar.get_denoised_counts())
        rows.append({"method": "scvi.external.SCAR, per batch", "profile r": r, **score(observed, denoised)})
    return pd.DataFrame(rows).groupby("method", sort=False).median()


def integration(folder: Path, args) -> pd.DataFrame:
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    rows = []
    for seed in range(args.seeds):
        adata = variable_genes(read_reference(folder, "sc_pbmc_7batches_computed_labels"), args.genes)
        adata.obs["batch"] = adata.obs["donor"].astype(str).astype("category")
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        reference = scvi.model.SCVI(adata, n_hidden=args.hidden, n_latent=args.latent)
        reference.train(args.epochs, train_size=1.0, **QUIET)
        adata.obsm["SCVI"] = reference.get_latent_representation()
        scvi.settings.seed = seed
        hp.AmbientRegularizedSCVI.setup_anndata(adata, batch_key="batch")
        model = hp.AmbientRegularizedSCVI(adata, n_hidden=args.hidden, n_latent=args.latent)
        model.train(args.epochs, train_size=1.0, **QUIET)
        adata.obsm["AmbientRegularizedSCVI"] = model.get_latent_representation()
        adata.obsm["X_pca"] = _pca(adata)
        adata.obsm["unintegrated"] = adata.obsm["X_pca"]
        keys = ["unintegrated", "SCVI", "AmbientRegularizedSCVI"]
        bench = Benchmarker(
            adata,
            "batch",
            "cell_type",
            keys,
            bio_conservation_metrics=BioConservation(nmi_ari_cluster_labels_leiden=False),
            batch_correction_metrics=BatchCorrection(),
            progress_bar=False,
        )
        bench.benchmark()
        table = bench.get_results(min_max_scale=False).loc[keys, ["Batch correction", "Bio conservation", "Total"]]
        rows.append(table.astype(float))
    return pd.concat(rows).groupby(level=0, sort=False).median()


def _pca(adata: ad.AnnData) -> np.ndarray:
    import scanpy as sc

    scratch = ad.AnnData(adata.X.copy())
    sc.pp.normalize_total(scratch, target_sum=1e4)
    sc.pp.log1p(scratch)
    sc.pp.pca(scratch, n_comps=30)
    return scratch.obsm["X_pca"]


def reference(folder: Path, args) -> pd.DataFrame:
    """RMSE of proportions of bulk simulated from the uncontaminated cells, so that all cost is the ambient RNA's."""
    rows = []
    for seed in range(args.seeds):
        observed = planted_cells(folder, args, seed)
        native = ad.AnnData(observed.layers["native"].copy(), obs=observed.obs.copy(), var=observed.var.copy())
        counts = native.obs["cell_type"].value_counts()
        keep = native.obs["cell_type"].isin(counts.index[counts >= 5]).to_numpy()
        observed, native = observed[keep].copy(), native[keep].copy()
        bulk = hp.pp.simulate_bulk(native, "cell_type", n_samples=50, n_cells=500, seed=seed)
        model = fit_ambient(observed, args, seed)
        clean = model.get_clean_reference()
        contaminated = ad.AnnData(observed.X.copy(), obs=observed.obs.copy(), var=observed.var.copy())
        for name, cells in {"uncontaminated": native, "contaminated": contaminated, "cleaned": clean}.items():
            cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).astype("category")
            scvi.settings.seed = seed
            hp.HPVADE.setup_anndata(cells, labels_key="cell_type")
            deconvolution = hp.HPVADE(cells, cell_size="umi")
            deconvolution.train(**QUIET)
            table = deconvolution.evaluate(bulk)
            for method in table.index:
                rows.append({"reference": name, "method": method, "rmse": table.loc[method, "rmse"]})
    found = pd.DataFrame(rows).groupby(["reference", "method"], sort=False)["rmse"].median().unstack()
    cost = found.loc["contaminated"] - found.loc["uncontaminated"]
    found.loc["share of the cost recovered"] = (found.loc["contaminated"] - found.loc["cleaned"]) / cost
    return found


def measure(folder: Path, args) -> None:
    """Train one model and print seconds per epoch and peak memory; run in a process of its own."""
    adata = variable_genes(read_reference(folder, "ref_kang_ctrl_5donors"), args.genes)
    cls = hp.AmbientRegularizedSCVI if args.measure == "AmbientRegularizedSCVI" else scvi.model.SCVI
    scvi.settings.seed = 0
    cls.setup_anndata(adata, batch_key="donor")
    model = cls(adata, n_hidden=args.hidden, n_latent=args.latent)
    model.train(1, train_size=1.0, **QUIET)
    start, used = time.perf_counter(), time.process_time()
    model.train(args.epochs, train_size=1.0, **QUIET)
    seconds = [(time.perf_counter() - start) / args.epochs, (time.process_time() - used) / args.epochs]
    print(*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def speed(folder: Path, args) -> pd.DataFrame:
    rows = []
    for _ in range(args.seeds):
        for name in ("SCVI", "AmbientRegularizedSCVI"):
            command = [sys.executable, __file__, str(folder), "--measure", name, "--epochs", "3"]
            command += ["--genes", str(args.genes), "--hidden", str(args.hidden), "--latent", str(args.latent)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]
            rows.append(
                {"model": name, **dict(zip(("s / epoch", "CPU s / epoch", "peak MB"), map(float, out), strict=True))}
            )
    found = pd.DataFrame(rows).groupby("model", sort=False).median()
    found["throughput / SCVI"] = found.loc["SCVI", "CPU s / epoch"] / found["CPU s / epoch"]
    found["memory / SCVI"] = found["peak MB"] / found.loc["SCVI", "peak MB"]
    return found


PARTS = {"planted": planted, "integration": integration, "reference": reference, "speed": speed}


def markdown(table: pd.DataFrame) -> str:
    table = table.round(3).reset_index()
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * table.shape[1]]
    lines += ["| " + " | ".join("-" if v != v else str(v) for v in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join(lines)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--cells", type=int, default=2700)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--latent", type=int, default=128)
    parser.add_argument("--measure", choices=["SCVI", "AmbientRegularizedSCVI"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.folder, args)
        return
    for name in args.only:
        start = time.perf_counter()
        print(f"\n### {name}\n\n{markdown(PARTS[name](args.folder, args))}", flush=True)
        print(
            f"\n({time.perf_counter() - start:.0f} s; {vars(args)})".replace(str(args.folder), "DATA_FOLDER"),
            flush=True,
        )


if __name__ == "__main__":
    main()
