"""ConditionalVAE on real stimulated and control blood cells: counterfactuals, labels, new cells, rare types, time.

    python benchmarks/conditional.py DATA_FOLDER [--seeds 3] [--only counterfactual labels generation augment speed]

Every table is markdown, medians over seeds. Counterfactuals: for each cell type the stimulated cells are held out, and
predicted from its control cells. Scores compare log1p of mean counts per 10,000, the mean taken before the logarithm;
`r` is that of the change from the observed control mean. Defaults throughout: nothing here is tuned per data set.
"""

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi

import hpvade as hp

KANG = "kang_2donors_ctrl_stim"
KEYS = {"perturbation_key": "condition", "control_category": "ctrl"}


def fit(adata: ad.AnnData, seed: int, **keys) -> hp.ConditionalVAE:
    scvi.settings.seed = seed
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", **keys)
    model = hp.ConditionalVAE(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def counterfactual(folder: Path, seeds: int) -> pd.DataFrame:
    adata = ad.read_h5ad(folder / f"{KANG}.h5ad")
    tables = []
    for seed in range(seeds):
        for kind in adata.obs["cell_type"].cat.categories:
            pair = ((adata.obs["cell_type"] == kind) & (adata.obs["condition"] == "stim")).to_numpy()
            model = fit(adata[~pair].copy(), seed, **KEYS)
            whole = adata[(adata.obs["cell_type"] == kind).to_numpy()].copy()
            table = hp.tl.evaluate_perturbation(model, whole)
            assert not table["in_reference"].any()
            # the change that the model itself sees, without the observed control mean on both sides
            control = whole[(whole.obs["condition"] == "ctrl").to_numpy()].copy()
            own = [
                np.log1p(model.get_counterfactual_expression(control, perturbation=p, library_size=1e4).mean())
                for p in ("stim", "ctrl")
            ]
            truth = change(whole)
            table["r, decoded on both sides"] = np.nan
            table.loc[table["predictor"] == "model", "r, decoded on both sides"] = np.corrcoef(own[0] - own[1], truth)[
                0, 1
            ]
            tables.append(table.assign(seed=seed))
            print(f"<!-- counterfactual {kind} seed {seed} done -->", flush=True)
    table = pd.concat(tables)
    columns = ["r", "rmse", "r2", "direction_accuracy", "r, decoded on both sides"]
    by_type = table.groupby(["cell_type", "predictor"], sort=False)[columns].median()
    overall = by_type.groupby("predictor", sort=False).mean()
    overall.index = pd.MultiIndex.from_product([["mean over types"], overall.index], names=by_type.index.names)
    return pd.concat([by_type, overall])


def change(adata: ad.AnnData) -> np.ndarray:
    """Observed response: difference of log1p mean counts per 10,000."""
    X = adata.X.toarray().astype(float)
    X *= 1e4 / X.sum(axis=1, keepdims=True)
    stimulated = (adata.obs["condition"] == "stim").to_numpy()
    return np.log1p(X[stimulated].mean(axis=0)) - np.log1p(X[~stimulated].mean(axis=0))


def labels(folder: Path, seeds: int) -> pd.DataFrame:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    rows = []
    for file, keys in ((KANG, KEYS), ("ref_kang_ctrl_5donors", KEYS)):
        adata = ad.read_h5ad(folder / f"{file}.h5ad")
        for seed in range(seeds):
            held_out = np.random.default_rng(seed).random(adata.n_obs) < 0.2
            truth = adata.obs["cell_type"].astype(str).to_numpy()
            model = fit(adata[~held_out].copy(), seed, **keys)
            ours = model.predict(adata[held_out].copy()).astype(str).to_numpy()
            X = adata.X.toarray()
            X = np.log1p(1e4 * X / X.sum(axis=1, keepdims=True))
            pca = PCA(50, random_state=seed).fit(X[~held_out])
            regression = LogisticRegression(max_iter=2000).fit(pca.transform(X[~held_out]), truth[~held_out])
            majority = pd.Series(truth[~held_out]).mode()[0]
            guesses = {"ConditionalVAE.predict": ours, "majority class": np.full(held_out.sum(), majority)}
            guesses["logistic regression, 50 PCs"] = regression.predict(pca.transform(X[held_out]))
            for name, guess in guesses.items():
                rows.append({"data": file, "predictor": name, "accuracy": (guess == truth[held_out]).mean()})
            print(f"<!-- labels {file} seed {seed} done -->", flush=True)
    return pd.DataFrame(rows).groupby(["data", "predictor"], sort=False).median()


def generation(folder: Path, seeds: int) -> pd.DataFrame:
    tables = []
    for seed in range(seeds):
        adata = ad.read_h5ad(folder / f"{KANG}.h5ad")
        held_out = np.random.default_rng(seed).random(adata.n_obs) < 0.3
        train = adata[~held_out].copy()
        model = fit(train, seed, **KEYS)
        pairs = adata.obs[["cell_type", "condition"]].drop_duplicates().astype(str)
        cells = model.generate(1000, labels=list(pairs["cell_type"]), perturbation=list(pairs["condition"]), seed=seed)
        for name, real in (("training cells", train), ("held-out cells", adata[held_out].copy())):
            table = hp.tl.evaluate_generation(cells, real, keys=["cell_type", "condition"])
            tables.append(table.assign(against=name))
        print(f"<!-- generation seed {seed} done -->", flush=True)
    table = pd.concat(tables)
    columns = ["median", "q90", "within_20_percent", "r", "real_halves"]
    return table.groupby(["against", "statistic"], sort=False)[columns].median()


def augment(folder: Path, seeds: int, min_cells: int = 100) -> pd.DataFrame:
    """Leave 10 cells of one type in the reference, test on pseudo-bulk of cells that nobody saw."""
    rows = []
    for rare in ("NK cells", "B cells"):
        for seed in range(seeds):
            adata = ad.read_h5ad(folder / "ref_kang_ctrl_5donors.h5ad")
            rng = np.random.default_rng(seed)
            unseen = rng.random(adata.n_obs) < 0.5
            of_type = (adata.obs["cell_type"] == rare).to_numpy()
            keep = ~unseen & ~of_type
            keep[rng.choice(np.flatnonzero(~unseen & of_type), 10, replace=False)] = True
            reference = adata[keep].copy()
            scvi.settings.seed = seed
            bulk = hp.pp.simulate_bulk(
                adata[unseen].copy(), "cell_type", 100, n_cells=500, sample_key="donor", seed=seed
            )
            cvae = fit(reference.copy(), seed, experiment_key="donor", **KEYS)
            fuller = cvae.augment_reference(min_cells=min_cells, seed=seed)
            copies = np.concatenate(
                [
                    np.arange(reference.n_obs),
                    rng.choice(np.flatnonzero((reference.obs["cell_type"] == rare).to_numpy()), min_cells - 10),
                ]
            )
            repeated = reference[copies].copy()
            repeated.obs_names_make_unique()
            for name, cells in (("10 cells", reference), ("copies of the 10", repeated), ("augmented", fuller)):
                cells = cells.copy()
                scvi.settings.seed = seed
                hp.HPVADE.setup_anndata(cells, "cell_type", sample_key="donor")
                model = hp.HPVADE(cells)
                model.train(accelerator="cpu", enable_progress_bar=False)
                target = bulk.copy()
                model.deconvolve(target)
                truth, found = target.obsm["proportions"], target.obsm["hpvade_proportions"]
                error = found[rare] - truth[rare]
                rows.append(
                    {
                        "rare type": rare,
                        "reference": name,
                        "rmse": np.sqrt((error**2).mean()),
                        "mae": error.abs().mean(),
                        "r": np.corrcoef(found[rare], truth[rare])[0, 1],
                        "rmse of all types": np.sqrt(((found[truth.columns] - truth) ** 2).to_numpy().mean()),
                        "constant rmse": truth[rare].std(ddof=0),
                    }
                )
                nnls = target.obsm["hpvade_proportions_nnls"][rare] - truth[rare]
                rows[-1]["nnls rmse"] = np.sqrt((nnls**2).mean())
            print(f"<!-- augment {rare} seed {seed} done -->", flush=True)
    return pd.DataFrame(rows).groupby(["rare type", "reference"], sort=False).median()


def speed(folder: Path, seeds: int) -> pd.DataFrame:
    adata = ad.read_h5ad(folder / "ref_kang_ctrl_5donors.h5ad")[:5000, :2000].copy()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    start = time.perf_counter()
    model = fit(adata, 0, **KEYS)
    seconds = time.perf_counter() - start
    index = pd.Index([f"{adata.n_obs} cells x {adata.n_vars} genes"], name="data")
    return pd.DataFrame({"epochs": [len(model.history["train_loss"])], "seconds": [seconds]}, index=index)


PARTS = {
    "counterfactual": counterfactual,
    "labels": labels,
    "generation": generation,
    "augment": augment,
    "speed": speed,
}


def markdown(table: pd.DataFrame) -> str:
    table = table.reset_index()
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    for row in table.itertuples(index=False):
        lines.append(
            ["-" if value != value else f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    for name in args.only:
        print(f"## {name}\n\n{markdown(PARTS[name](args.folder, args.seeds))}\n", flush=True)


if __name__ == "__main__":
    main()
