"""CycleAE: planted effects, reconstruction against PCA, translated references on real cells, training time.

    python benchmarks/cycleae.py DATA_FOLDER [--seeds 3] [--only planted,kang,translate,time]

Prints markdown tables, medians over seeds. Planted data come from `hpvade.datasets.planted_contexts`; the folder holds
`kang_2donors_ctrl_stim.h5ad` (PBMC of two donors, control and stimulated with interferon beta, author labels).
"""

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import hpvade as hp

FIELDS = ["condition", "tissue", "sex"]
MODELS = {
    "CycleAE, signed": {"nonnegative": False},
    "CycleAE, defaults": {},
    "as published": {"start": "uniform", "head_scale": 0.0159, "published": True},
}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def markdown(table: pd.DataFrame, title: str) -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join([str(table.index.name or ""), *map(str, table.columns)]) + " |")
    print("|" + "---|" * (table.shape[1] + 1))
    for name, row in table.iterrows():
        cells = [f"{v:.3f}" if isinstance(v, float) and np.isfinite(v) else "-" if v != v else str(v) for v in row]
        print("| " + " | ".join([str(name), *cells]) + " |", flush=True)


def log1p(adata: ad.AnnData) -> np.ndarray:
    X = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    return np.log1p(1e4 * X / X.sum(axis=1, keepdims=True))


def fit(adata: ad.AnnData, keys: list[str], seed: int, published: bool = False, **options) -> hp.CycleAE:
    scvi.settings.seed = seed
    hp.CycleAE.setup_anndata(adata, keys)
    model = hp.CycleAE(adata, **options)
    model.train(loss_weights={"identity": 0, "effect": 0} if published else None, **QUIET)
    return model


def pca_error(X: np.ndarray, train: np.ndarray, held_out: np.ndarray, rank: int) -> float:
    pca = PCA(rank, random_state=0).fit(X[train])
    return float(np.mean((pca.inverse_transform(pca.transform(X[held_out])) - X[held_out]) ** 2))


def consistency(model: hp.CycleAE, adata: ad.AnnData, X: np.ndarray, field: str) -> float:
    """Held-out cells moved to their next category: how many does a classifier of its own see there?"""
    train, held_out, names = model.train_indices, model.validation_indices, model.categories[field]
    judge = LogisticRegression(max_iter=300).fit(X[train], adata.obs[field].iloc[train])
    code = {name: i for i, name in enumerate(names)}
    target = [names[(code[value] + 1) % len(names)] for value in adata.obs[field].iloc[held_out]]
    moved = model.get_counterfactual_expression(context={field: target}, indices=held_out)
    return float(np.mean(judge.predict(moved.to_numpy()) == target))


def planted(seeds: int) -> None:
    records = []
    for seed in range(seeds):
        adata = hp.datasets.planted_contexts(3000, 1000, seed=seed)
        X = log1p(adata)
        for name, options in MODELS.items():
            model = fit(adata, FIELDS, seed, **options)
            held_out, record = model.validation_indices, {"model": name}
            for field in FIELDS:
                truth = adata.varm[f"effect_{field}"].T
                change = [
                    model.get_counterfactual_expression(context={field: c}, indices=held_out).mean().to_numpy()
                    for c in truth.index
                ]
                record[f"r {field}"] = np.corrcoef(
                    np.ravel(change[1:] - change[0]), np.ravel(truth.to_numpy()[1:] - truth.to_numpy()[0])
                )[0, 1]
            record["cycle MSE"] = model.get_reconstruction_error(indices=held_out)["cycle_loss"]
            record["PCA-128 MSE"] = pca_error(X, model.train_indices, held_out, 128)
            predicted = model.predict_context(indices=held_out)
            accuracy = [
                np.mean(p.idxmax(axis=1) == adata.obs[f].iloc[held_out].astype(str)) for f, p in predicted.items()
            ]
            record["classifier accuracy"] = float(np.mean(accuracy))
            record["majority"] = float(
                np.mean([adata.obs[f].iloc[held_out].value_counts(normalize=True).max() for f in FIELDS])
            )
            record["target consistency"] = float(np.mean([consistency(model, adata, X, f) for f in FIELDS]))
            records.append(record)
        means = {"model": "difference of category means"}
        for field in FIELDS:
            truth = adata.varm[f"effect_{field}"].to_numpy().T
            found = pd.DataFrame(X).groupby(adata.obs[field].to_numpy()).mean().to_numpy()
            means[f"r {field}"] = np.corrcoef(np.ravel(found[1:] - found[0]), np.ravel(truth[1:] - truth[0]))[0, 1]
        records.append(means)
    table = pd.DataFrame(records).groupby("model", sort=False).median()
    markdown(table, "Planted data, 3,000 cells x 1,000 genes: recovered field effects, held-out error")


def kang(folder: Path, seeds: int) -> None:
    records = []
    for seed in range(seeds):
        adata = ad.read_h5ad(folder / "kang_2donors_ctrl_stim.h5ad")
        X = log1p(adata)
        for name, options in MODELS.items():
            model = fit(adata, ["condition", "cell_type", "donor"], seed, **options)
            held_out = model.validation_indices
            errors = model.get_reconstruction_error(indices=held_out)
            pca = pca_error(X, model.train_indices, held_out, 128)
            records.append(
                {"model": name, "own context MSE": errors["reconstruction_loss"]}
                | {"cycle MSE": errors["cycle_loss"], "PCA-128 MSE": pca}
            )
    table = pd.DataFrame(records).groupby("model", sort=False).median()
    markdown(table, "Real cells (Kang, 2 donors x 2 conditions), held-out error, log1p scale")


def mean_shift(reference: ad.AnnData, both: ad.AnnData, seed: int) -> ad.AnnData:
    """Baseline: add the type's mean difference of log1p expression, then round as CycleAE does."""
    result, X, size = reference.copy(), log1p(both), reference.X.sum(axis=1)
    values = log1p(reference)
    for kind in reference.obs["cell_type"].unique():
        of_type = (both.obs["cell_type"] == kind).to_numpy()
        means = [X[of_type & (both.obs["condition"] == c).to_numpy()].mean(axis=0) for c in ("ctrl", "stim")]
        values[(reference.obs["cell_type"] == kind).to_numpy()] += means[1] - means[0]
    values = np.expm1(np.maximum(values, 0))
    values *= np.asarray(size).reshape(-1, 1) / values.sum(axis=1, keepdims=True)
    result.X = np.floor(values + np.random.default_rng(seed).random(values.shape)).astype(np.float32)
    return result


def translate(folder: Path, seeds: int, donors: tuple[str, ...] = ("d107", "d101")) -> None:
    adata = ad.read_h5ad(folder / "kang_2donors_ctrl_stim.h5ad")
    records = []
    for test in donors:
        known = adata[adata.obs["donor"] != test].copy()
        control, stimulated = (known[known.obs["condition"] == c].copy() for c in ("ctrl", "stim"))
        held_out = adata[(adata.obs["donor"] == test) & (adata.obs["condition"] == "stim")].copy()
        for seed in range(seeds):
            bulk = hp.pp.simulate_bulk(held_out, "cell_type", 100, n_cells=500, seed=seed)
            model = fit(known.copy(), ["condition", "cell_type"], seed, nonnegative=False)
            references = {
                "control cells, untranslated": control.copy(),
                "control cells, type mean shift": mean_shift(control, known, seed),
                "control cells, CycleAE": model.translate_reference(control.copy(), to={"condition": "stim"}),
                "real stimulated cells": stimulated.copy(),
            }
            for name, reference in references.items():
                scvi.settings.seed = seed
                hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
                hpvade = hp.HPVADE(reference)
                hpvade.train(**QUIET)
                row = hpvade.evaluate(bulk).iloc[0]
                records.append({"bulk": test, "reference": name, "RMSE": row["rmse"], "per-type r": row["per_type_r"]})
            constant = hpvade.evaluate(bulk).loc["constant", "rmse"]
            records.append({"bulk": test, "reference": "constant predictor", "RMSE": constant})
    table = pd.DataFrame(records).groupby(["bulk", "reference"], sort=False).median()
    for test, part in table.groupby(level=0, sort=False):
        part = part.droplevel(0)
        part["change of RMSE"] = [f"{v:+.0%}" for v in part["RMSE"] / part["RMSE"].iloc[0] - 1]
        markdown(part, f"HPVADE on stimulated pseudo-bulk of donor {test}; reference of the other donor")


def speed() -> None:
    adata = hp.datasets.planted_contexts(5000, 2000, umi=5000)
    start = time.perf_counter()
    fit(adata, FIELDS, 0)
    print(
        f"\nTraining 5,000 cells x 2,000 genes, three fields, defaults: {time.perf_counter() - start:.0f} s", flush=True
    )


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="time,translate,planted,kang")
    parser.add_argument("--donors", default="d107,d101", help="test donors of the translation")
    args = parser.parse_args()
    parts = {
        "planted": lambda: planted(args.seeds),
        "kang": lambda: kang(args.folder, args.seeds),
        "translate": lambda: translate(args.folder, args.seeds, tuple(args.donors.split(","))),
        "time": speed,
    }
    for name in args.only.split(","):
        parts[name]()


if __name__ == "__main__":
    main()
