"""CycleAE: planted effects, reconstruction against PCA, translated references on real cells, training time.

    python benchmarks/cycleae.py [DATA_FOLDER] [--seeds 0 1 2] [--only PART ...] [--cases CASE ...] [--records FILE]

Tables in markdown, medians over seeds. Planted data come from `hpvade.datasets.planted_contexts`; the folder holds
`kang_2donors_ctrl_stim.h5ad` (PBMC of two donors, control and stimulated with interferon beta, author labels).
Few target cells: CycleAE learns from all control and few stimulated cells of one donor; that donor's control cells, as
they are or moved, are the reference for pseudo-bulk of the stimulated cells of the other donor.
"""

import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from _records import Part, as_measured, medians, run
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import hpvade as hp

FIELDS = ["condition", "tissue", "sex"]
MODELS = {
    "CycleAE, defaults": {},
    "CycleAE, non-negative": {"nonnegative": True},
    "as published": {"start": "uniform", "head_scale": 0.0159, "published": True},
}
DONORS = ["d107", "d101"]
SHIFTS = ["control cells, untranslated", "type mean shift", "pp.shift_context", "CycleAE", "the target cells alone"]
MEANS = "difference of category means"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def log1p(adata: ad.AnnData) -> np.ndarray:
    X = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    return np.log1p(1e4 * X / X.sum(axis=1, keepdims=True))


def fit(adata: ad.AnnData, keys: list[str], seed: int, published: bool = False, **options) -> hp.CycleAE:
    scvi.settings.seed = seed
    hp.CycleAE.setup_anndata(adata, keys)
    model = hp.CycleAE(adata, **options)
    as_published = {"loss_weights": {"identity": 0, "effect": 0}, "learning_rate": 1e-4}
    model.train(**QUIET, **(as_published if published else {}))
    return model


def errors(model: hp.CycleAE, X: np.ndarray) -> dict[str, float]:
    """Mean squared errors on held-out cells, beside PCA of the same rank on the same training cells."""
    held_out = model.validation_indices
    found = model.get_reconstruction_error(indices=held_out)
    pca = PCA(128, random_state=0).fit(X[model.train_indices])
    error = np.mean((pca.inverse_transform(pca.transform(X[held_out])) - X[held_out]) ** 2)
    return {
        "own context": found["reconstruction_loss"],
        "there and back": found["cycle_loss"],
        "PCA, 128": float(error),
        "variance": float(X[held_out].var(axis=0).mean()),
    }


def consistency(model: hp.CycleAE, adata: ad.AnnData, X: np.ndarray, field: str) -> float:
    """Held-out cells moved to their next category: how many does a classifier of its own see there?"""
    train, held_out, names = model.train_indices, model.validation_indices, model.categories[field]
    judge = LogisticRegression(max_iter=300).fit(X[train], adata.obs[field].iloc[train])
    code = {name: i for i, name in enumerate(names)}
    target = [names[(code[value] + 1) % len(names)] for value in adata.obs[field].iloc[held_out]]
    moved = model.get_counterfactual_expression(context={field: target}, indices=held_out)
    return float(np.mean(judge.predict(moved.to_numpy()) == target))


def planted(folder: Path | None, name: str, seed: int) -> list[dict]:
    """2,000 cells x 500 genes: effects on log expression, recovered as differences of log1p expression."""
    adata = hp.datasets.planted_contexts(2000, 500, seed=seed)
    X, record = log1p(adata), {}
    model = None if name == MEANS else fit(adata, FIELDS, seed, **MODELS[name])
    for field in FIELDS:
        truth = adata.varm[f"effect_{field}"].to_numpy().T
        if model is None:
            change = pd.DataFrame(X).groupby(adata.obs[field].to_numpy()).mean().to_numpy()
        else:
            held_out = model.validation_indices
            change = np.stack(
                [
                    model.get_counterfactual_expression(context={field: c}, indices=held_out).mean()
                    for c in adata.varm[f"effect_{field}"]
                ]
            )
        record[f"r {field}"] = np.corrcoef(np.ravel(change[1:] - change[0]), np.ravel(truth[1:] - truth[0]))[0, 1]
    if model is None:
        return [record]
    predicted = model.predict_context(indices=held_out)
    obs = adata.obs.iloc[held_out]
    record |= errors(model, X)
    record["classifier accuracy"] = np.mean(
        [(p.idxmax(axis=1) == obs[f].astype(str)).mean() for f, p in predicted.items()]
    )
    record["majority"] = np.mean([obs[f].value_counts(normalize=True).max() for f in FIELDS])
    record["target consistency"] = np.mean([consistency(model, adata, X, f) for f in FIELDS])
    return [record]


def kang(folder: Path, name: str, seed: int) -> list[dict]:
    adata = ad.read_h5ad(folder / "kang_2donors_ctrl_stim.h5ad")
    model = fit(adata, ["condition", "cell_type", "donor"], seed, **MODELS[name])
    return [errors(model, log1p(adata))]


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


def few(folder: Path, case: str, seed: int) -> list[dict]:
    """Few target cells per type: profiles against those of the other donor, and errors of deconvolving that donor."""
    donor, n = case.split(", ")
    adata = ad.read_h5ad(folder / "kang_2donors_ctrl_stim.h5ad")
    known = adata[adata.obs["donor"] != donor].copy()
    rng, stim = np.random.default_rng(seed), (known.obs["condition"] == "stim").to_numpy()
    keep = ~stim
    for kind in known.obs["cell_type"].unique():
        cells = rng.permutation(np.flatnonzero(stim & (known.obs["cell_type"] == kind).to_numpy()))
        keep[cells if n == "all" else cells[: int(n)]] = True
    known = known[keep].copy()
    control = known[known.obs["condition"] == "ctrl"].copy()
    unseen = adata[(adata.obs["donor"] == donor) & (adata.obs["condition"] == "stim")].copy()
    bulk = hp.pp.simulate_bulk(unseen, "cell_type", 100, n_cells=500, seed=seed)
    references = {
        SHIFTS[0]: lambda: control,
        SHIFTS[1]: lambda: mean_shift(control, known, seed),
        SHIFTS[2]: lambda: hp.pp.shift_context(known, "condition", "stim", "cell_type", seed=seed),
        SHIFTS[3]: lambda: fit(known.copy(), ["condition", "cell_type"], seed).translate_reference(
            control, to={"condition": "stim"}, seed=seed
        ),
        SHIFTS[4]: lambda: known[known.obs["condition"] == "stim"].copy(),
    }
    rows = []
    for name, make in references.items():
        reference = make()
        errors = []
        for kind in unseen.obs["cell_type"].unique():
            means = [expected(a[(a.obs["cell_type"] == kind).to_numpy()]) for a in (reference, unseen)]
            errors.append(means[0] - means[1])
        scvi.settings.seed = seed
        hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
        model = hp.HPVADE(reference)
        model.train(max_epochs=0, **QUIET)
        table = model.evaluate(bulk)
        row = {"profile RMSE": np.sqrt(np.mean(np.square(errors))), "RMSE": table.iloc[0]["rmse"]}
        row |= {"per-type r": table.iloc[0]["per_type_r"], "RMSE of the constant": table.loc["constant", "rmse"]}
        rows.append({"bulk of": donor, "target cells per type": n, "reference": name} | row)
    return rows


def expected(adata: ad.AnnData) -> np.ndarray:
    """log1p of mean counts per 10,000, the mean taken before the logarithm."""
    X = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    return np.log1p((1e4 * X / X.sum(axis=1, keepdims=True)).mean(axis=0))


def speed(folder: Path | None, case: str, seed: int) -> list[dict]:
    adata = hp.datasets.planted_contexts(5000, 2000, umi=5000)
    start, cpu = time.perf_counter(), time.process_time()
    fit(adata, FIELDS, seed)
    spent = {"seconds": time.perf_counter() - start, "CPU seconds": time.process_time() - cpu}
    row = {"cells": adata.n_obs, "genes": adata.n_vars, "fields": len(FIELDS), "threads": torch.get_num_threads()}
    return [row | spent]


PARTS = {
    "planted": Part([*MODELS, MEANS], planted, medians("case")),
    "kang": Part([*MODELS], kang, medians("case")),
    "few": Part(
        [f"{d}, {n}" for d in DONORS for n in (10, 30, "all")],
        few,
        medians("bulk of", "target cells per type", "reference"),
    ),
    "speed": Part(["defaults"], speed, as_measured, seeds=[0]),
}

if __name__ == "__main__":
    run(__doc__, PARTS)
