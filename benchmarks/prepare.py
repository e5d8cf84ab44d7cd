"""Does preparing the reference help on real bulk? As it is, prepared by a model family, and by the simple thing.

    python benchmarks/prepare.py DATA_FOLDER [--only rare context ambient] [--seeds 0 1 2] [--records FILE]

`rare`: PBMC 3k with repaired labels, 10 cells of one type left and at most 100 of the others. `context`: the stimulated
cells of Kang as reference, moved to the control condition. `ambient`: PBMC 3k with planted ambient RNA, and Kang's
controls, cleaned. Bulk: Hoek, Finotello and Newman with measured truth; proportions by the regression alone
(`hp.tl.solve`, for several studies `HPVADE.train(max_epochs=0)`, which is the same regression). RMSE over types, medians
over seeds, beside NNLS and the constant predictor that knows the mean of the truth. All rows of a case have the same
genes.
"""

import functools
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _records import Part, run
from ambient import variable_genes
from labels import reference
from scipy.optimize import nnls
from studies import mapping_of

import hpvade as hp
from hpvade.evaluation import _metrics as metrics
from hpvade.reference._shift import among, moments, rewritten, shrink_to, similarity_weights

COHORTS = ("hoek", "finotello", "newman_full")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
GENES, PER_TYPE, RARE, FILLED = 2000, 100, 10, 100


@functools.cache
def cohorts(folder: Path) -> dict:
    config = json.loads((folder / "cohorts.json").read_text())
    return {
        name: (
            ad.read_h5ad(folder / f"{config['cohorts'][name]['bulk']}.h5ad"),
            config["cohorts"][name],
            config["classes"],
        )
        for name in COHORTS
    }


def scores(
    folder: Path, name: str, adata: ad.AnnData, study_key: str | None = None, of: str | None = None
) -> list[dict]:
    """RMSE on every cohort; with `of`, also that of one type."""
    rows = []
    for cohort, (bulk, entry, classes) in cohorts(folder).items():
        scale = "log2" if entry.get("transform") == "exp2" else "auto"
        if study_key is None:
            done = hp.tl.solve(
                bulk, adata, labels_key="cell_type", sample_key="donor", input_type=scale, key_added="found", copy=True
            )
        else:
            hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor", study_key=study_key)
            model, done = hp.HPVADE(adata), bulk.copy()
            model.train(max_epochs=0, **QUIET)
            model.deconvolve(done, input_type=scale, key_added="found")
        row = {"cohort": cohort, "reference": name}
        for column, key in (("RMSE", "found"), ("NNLS", "found_nnls")):
            table = done.obsm[key]
            mapping = mapping_of(table.columns, entry, classes)
            predicted, truth = hp.tl.compare(table, bulk.obsm[entry["truth_key"]], mapping)
            row[column] = metrics.rmse(predicted.to_numpy(), truth.to_numpy())
            if of is not None and of.removesuffix(" T") in {name.removesuffix(" T") for name in truth.columns}:
                own = next(name for name in truth.columns if name.removesuffix(" T") == of.removesuffix(" T"))
                row[f"{column} of the type"] = metrics.rmse(predicted[[own]].to_numpy(), truth[[own]].to_numpy())
        truth = truth.to_numpy()
        row["constant"] = metrics.rmse(np.broadcast_to(truth.mean(axis=0), truth.shape), truth)
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------------ a rare type


@functools.cache
def blood(folder: Path, genes: int = GENES) -> ad.AnnData:
    adata = reference(folder, "PBMC 3k, repaired")
    adata = variable_genes(adata, genes)
    adata.obs = adata.obs[["cell_type", "donor"]].astype(str)
    return adata


def shrunk(adata: ad.AnnData, rare: str, prior: str, seed: int, limited: bool = True) -> ad.AnnData:
    """Fill the rare type with copies of its cells, moved so that their mean is the shrunk profile."""
    rng = np.random.default_rng(seed)
    types = sorted(set(adata.obs["cell_type"]))
    kind = np.array([types.index(name) for name in adata.obs["cell_type"]])
    k, found = types.index(rare), moments(adata.X, kind, len(types))
    others = np.arange(len(types)) != k
    if prior == "mixture":
        scale = 1 / np.sqrt(found.mean[k] + found.mean.mean(axis=0) + found.per_count[k] / found.n_cells[k])
        weights = nnls((found.mean[others] * scale).T, found.mean[k] * scale)[0]
        center = np.log1p(weights @ found.mean[others])
    else:
        weights = similarity_weights(found.log, 16.0)
        center = among(weights, found.n_cells > RARE)[k] @ found.log
    values, noise = found.log[[k]], found.log_variance[[k]]
    target = shrink_to(values, noise, center[None])
    if not limited:
        spread = np.maximum(((values - center) ** 2 - noise).mean(), 1e-6)
        target = values + noise / (noise + spread) * (center - values)
    own = np.flatnonzero(kind == k)
    copies = np.resize(own, FILLED)
    x = adata.X[copies].toarray()
    base = np.broadcast_to(values, x.shape)
    moved = rewritten(x, base, np.broadcast_to(target - values, x.shape), rng)
    new = ad.AnnData(moved, obs=adata.obs.iloc[copies].copy(), var=adata.var)
    new.obs_names = [f"new{i}" for i in range(FILLED)]
    return ad.concat({"a": adata[kind != k], "b": new}, index_unique="-")


def rare(folder: Path, kind: str, seed: int) -> list[dict]:
    adata, rng, chosen = blood(folder), np.random.default_rng(seed), []
    of = adata.obs["cell_type"].to_numpy()
    for name in np.unique(of):
        cells = np.flatnonzero(of == name)
        chosen.append(rng.permutation(cells)[: RARE if name == kind else PER_TYPE])
    thin = adata[np.concatenate(chosen)].copy()
    for column in thin.obs:
        thin.obs[column] = thin.obs[column].astype("category")
    scvi.settings.seed = seed
    fitted = thin.copy()
    hp.ConditionalVAE.setup_anndata(fitted, "cell_type")
    cvae = hp.ConditionalVAE(fitted)
    cvae.train(**QUIET)
    anchor = hp.datasets.blood_anchor()
    anchor = anchor[:, anchor.var_names.isin(thin.var_names)].copy()
    anchor.obs = anchor.obs[["cell_type"]].assign(donor="hao")
    both = ad.concat({"pbmc3k": thin, "hao": anchor}, join="outer", fill_value=0, label="study", index_unique="-")
    references = {
        "all its cells": (
            adata[
                np.concatenate(
                    [
                        *(c for c, n in zip(chosen, np.unique(of)) if n != kind),
                        rng.permutation(np.flatnonzero(of == kind))[:PER_TYPE],
                    ]
                )
            ].copy(),
            None,
        ),
        "as it is": (thin, None),
        "augment_reference": (cvae.augment_reference(min_cells=FILLED, seed=seed), None),
        "shrunk to a mixture": (shrunk(thin, kind, "mixture", seed), None),
        "shrunk to a mixture, no limit": (shrunk(thin, kind, "mixture", seed, limited=False), None),
        "shrunk to similar types": (shrunk(thin, kind, "similar", seed), None),
        "another study beside it (study_key)": (both, "study"),
    }
    return [row for name, (cells, key) in references.items() for row in scores(folder, name, cells, key, kind)]


def against(first: str):
    """Medians over seeds, and the change of RMSE from the first row in median and at worst."""

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        keys = ["case", "cohort", "seed"]
        start = rows[rows["reference"] == first].set_index(keys)["RMSE"]
        rows = rows.assign(change=rows["RMSE"] / start.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy() - 1)
        groups = rows.groupby(["case", "cohort", "reference"], sort=False)
        found = groups.median(numeric_only=True).drop(columns="seed")
        found["worst change"] = groups["change"].max()
        over = rows.groupby("reference", sort=False)["change"]
        whole = pd.DataFrame({"change": over.median(), "worst change": over.max()})
        whole.index = pd.MultiIndex.from_product([["all"], ["all"], whole.index], names=found.index.names)
        found["seeds"] = groups["seed"].nunique()
        return pd.concat([found, whole])

    return table


PARTS = {"rare": Part(["NK", "B", "CD8 T"], rare, against("as it is"))}

if __name__ == "__main__":
    run(__doc__, PARTS)
