"""ConditionalVAE on real stimulated and control blood cells: counterfactuals, labels, new cells, time.

    python benchmarks/conditional.py DATA_FOLDER [--seeds 0 1 2] [--only PART ...] [--cases CASE ...] [--records FILE]

Tables in markdown, medians over seeds. Counterfactuals: for each cell type the stimulated cells are held out, and
predicted from its control cells. Scores compare log1p of mean counts per 10,000, the mean taken before the logarithm;
`r` is that of the change from the observed control mean. Defaults throughout: nothing here is tuned per data set.
"""

import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from _records import Part, as_measured, medians, run
from ambient import variable_genes
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import hpvade as hp

KANG, CONTROL = "kang_2donors_ctrl_stim", "ref_kang_ctrl_5donors"
TYPES = ["B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "FCGR3A+ Monocytes"]
KEYS = {"perturbation_key": "condition", "control_category": "ctrl"}
OTHER_TYPES = ["B", "CD4 T", "CD8 T", "Mono", "NK"]  # with 40 cells or more in both conditions
OTHER, BACK = "other cells of the study", "stimulated to control"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def fit(adata: ad.AnnData, seed: int, **keys) -> hp.ConditionalVAE:
    scvi.settings.seed = seed
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", **KEYS | keys)
    model = hp.ConditionalVAE(adata)
    model.train(**QUIET)
    return model


def counterfactual(folder: Path, kind: str, seed: int) -> list[dict]:
    adata = ad.read_h5ad(folder / f"{KANG}.h5ad")
    of_type = (adata.obs["cell_type"] == kind).to_numpy()
    model = fit(adata[~(of_type & (adata.obs["condition"] == "stim").to_numpy())].copy(), seed)
    table = hp.tl.evaluate_perturbation(model, adata[of_type].copy())
    assert not table["in_reference"].any()
    return table[["predictor", "r", "rmse", "r2", "direction_accuracy"]].to_dict("records")


def others(folder: Path, case: str, seed: int) -> list[dict]:
    """Responses that nothing was decided on: other cells, labels and genes, or the way back to control."""
    what, kind = case.split(": ")
    keys = KEYS | ({"control_category": "stim"} if what == BACK else {})
    if what == BACK:
        adata = ad.read_h5ad(folder / f"{KANG}.h5ad")
    else:
        adata = ad.read_h5ad(folder / "kang_ctrl_stim.h5ad")
        adata = adata[~adata.obs["donor"].isin(["d101", "d107"]).to_numpy()].copy()
        adata.obs = (
            adata.obs[["cell_type_coarse", "condition"]].astype(str).set_axis(["cell_type", "condition"], axis=1)
        )
        of_type = adata.obs["cell_type"]
        adata = variable_genes(adata[of_type.isin(OTHER_TYPES).to_numpy()].copy(), 1000)
    held_out = (adata.obs["cell_type"] == kind).to_numpy()
    target = held_out & (adata.obs["condition"] != keys["control_category"]).to_numpy()
    model = fit(adata[~target].copy(), seed, **keys)
    table = hp.tl.evaluate_perturbation(model, adata[held_out].copy())
    assert not table["in_reference"].any()
    return table[["predictor", "r", "rmse", "r2", "direction_accuracy"]].assign(what=what, type=kind).to_dict("records")


def by_what(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over seeds by type, then their mean over the types of each set."""
    table = medians("what", "type", "predictor")(rows)
    mean = table.groupby(["what", "predictor"], sort=False).mean().reset_index().assign(type="mean over types")
    return pd.concat([table, mean.set_index(["what", "type", "predictor"])]).astype({"seeds": int})


def with_mean(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over seeds by type, and their mean over types."""
    by_type = medians("case", "predictor")(rows)
    mean = by_type.groupby("predictor", sort=False).mean()
    mean.index = pd.MultiIndex.from_product([["mean over types"], mean.index], names=by_type.index.names)
    return pd.concat([by_type, mean]).astype({"seeds": int})


def labels(folder: Path, file: str, seed: int) -> list[dict]:
    adata = ad.read_h5ad(folder / f"{file}.h5ad")
    held_out = np.random.default_rng(seed).random(adata.n_obs) < 0.2
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    model = fit(adata[~held_out].copy(), seed)
    X = adata.X.toarray()
    X = np.log1p(1e4 * X / X.sum(axis=1, keepdims=True))
    pca = PCA(50, random_state=seed).fit(X[~held_out])
    regression = LogisticRegression(max_iter=2000).fit(pca.transform(X[~held_out]), truth[~held_out])
    guesses = {
        "ConditionalVAE.predict": model.predict(adata[held_out].copy()).astype(str).to_numpy(),
        "logistic regression, 50 PCs": regression.predict(pca.transform(X[held_out])),
        "majority class": np.full(held_out.sum(), pd.Series(truth[~held_out]).mode()[0]),
    }
    return [{"predictor": name, "accuracy": (guess == truth[held_out]).mean()} for name, guess in guesses.items()]


def generation(folder: Path, file: str, seed: int) -> list[dict]:
    adata = ad.read_h5ad(folder / f"{file}.h5ad")
    held_out = np.random.default_rng(seed).random(adata.n_obs) < 0.3
    train = adata[~held_out].copy()
    pairs = adata.obs[["cell_type", "condition"]].drop_duplicates().astype(str)
    cells = fit(train, seed).generate(
        1000, labels=list(pairs["cell_type"]), perturbation=list(pairs["condition"]), seed=seed
    )
    rows = []
    for name, real in (("training cells", train), ("held-out cells", adata[held_out].copy())):
        table = hp.tl.evaluate_generation(cells, real, keys=["cell_type", "condition"])
        columns = ["median", "q90", "within_20_percent", "r", "real_halves"]
        means = table.groupby("statistic", sort=False)[columns].median().reset_index()
        rows += means.assign(against=name).to_dict("records")
    return rows


def speed(folder: Path, case: str, seed: int) -> list[dict]:
    adata = ad.read_h5ad(folder / f"{CONTROL}.h5ad")[:5000, :2000].copy()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    start, cpu = time.perf_counter(), time.process_time()
    model = fit(adata, seed)
    spent = {"seconds": time.perf_counter() - start, "CPU seconds": time.process_time() - cpu}
    row = {"cells": adata.n_obs, "genes": adata.n_vars, "threads": torch.get_num_threads()}
    return [row | {"epochs": len(model.history["train_loss"])} | spent]


PARTS = {
    "counterfactual": Part(TYPES, counterfactual, with_mean),
    "others": Part(
        [f"{OTHER}: {kind}" for kind in OTHER_TYPES] + [f"{BACK}: {kind}" for kind in TYPES], others, by_what
    ),
    "labels": Part([KANG], labels, medians("case", "predictor")),
    "generation": Part([KANG], generation, medians("against", "statistic")),
    "speed": Part(["defaults"], speed, as_measured, seeds=[0]),
}

if __name__ == "__main__":
    run(__doc__, PARTS)
