"""Does preparing the reference help on real bulk? As it is, prepared by a model family, and by the simple thing.

    python benchmarks/prepare.py DATA_FOLDER [--only PART ...] [--seeds 0 1 2] [--records FILE]

`rare`, `augment`: PBMC 3k with repaired labels, 10 cells of one type left and at most 100 of the others. `context`: the
stimulated cells of Kang as reference, moved to the control condition. `ambient`: PBMC 3k with planted ambient RNA, and
Kang's controls, cleaned without a network. `trained`: whether the networks of `HPVADE` change the answer. Bulk: Hoek,
Finotello and Newman with measured truth, solved by regression (`hp.tl.solve`, for several studies
`HPVADE.train(max_epochs=0)`, which is the same regression). RMSE over types, medians over seeds, beside NNLS and the
constant predictor that knows the mean of the truth. All rows of a case have the same genes.
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
from hpvade.models.ambient._native_share import native_share
from hpvade.models.ambient._profile import refine_profile
from hpvade.reference._shift import among, moments, rewritten, shrink_to, similarity_weights, whole

COHORTS = ("hoek", "finotello", "newman_full")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
GENES, PER_TYPE, RARE, FILLED = 2000, 100, 10, 100


@functools.cache
def cohorts(folder: Path) -> dict:
    config = json.loads((folder / "cohorts.json").read_text())
    entries = {name: config["cohorts"][name] for name in COHORTS}
    return {k: (ad.read_h5ad(folder / f"{of['bulk']}.h5ad"), of, config["classes"]) for k, of in entries.items()}


def scores(
    folder: Path,
    name: str,
    adata: ad.AnnData,
    study_key: str | None = None,
    of: str = "",
    model: hp.HPVADE | None = None,
) -> list[dict]:
    """RMSE on every cohort; with `of`, also that of one type; of `hp.tl.solve`, several studies, or of a `model`."""
    rows = []
    if study_key is not None:
        hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor", study_key=study_key)
        model = hp.HPVADE(adata)
        model.train(max_epochs=0, **QUIET)
    for cohort, (bulk, entry, classes) in cohorts(folder).items():
        scale = "log2" if entry.get("transform") == "exp2" else "auto"
        if model is None:
            done = hp.tl.solve(
                bulk, adata, labels_key="cell_type", sample_key="donor", input_type=scale, key_added="found", copy=True
            )
        else:
            done = bulk.copy()
            model.deconvolve(done, input_type=scale, key_added="found")
        row = {"cohort": cohort, "reference": name}
        for column, key in (("RMSE", "found"), ("NNLS", "found_nnls")):
            table = done.obsm[key]
            mapping = mapping_of(table.columns, entry, classes)
            predicted, truth = hp.tl.compare(table, bulk.obsm[entry["truth_key"]], mapping)
            row[column] = metrics.rmse(predicted.to_numpy(), truth.to_numpy())
            if own := [name for name in truth.columns if name.removesuffix(" T") == of.removesuffix(" T")]:
                row[f"{column} of the type"] = metrics.rmse(predicted[own].to_numpy(), truth[own].to_numpy())
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


def shrunk(adata: ad.AnnData, rare: str, prior: str, seed: int) -> ad.AnnData:
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
    target = values if prior == "itself" else shrink_to(values, noise, center[None])
    own = np.flatnonzero(kind == k)
    copies = np.resize(own, FILLED)
    x = adata.X[copies].toarray()
    base, change = (np.broadcast_to(of, x.shape) for of in (values, target - values))
    moved = whole(x, rng) if prior == "itself" else rewritten(x, base, change, rng)
    new = ad.AnnData(moved, obs=adata.obs.iloc[copies].copy(), var=adata.var)
    new.obs_names = [f"new{i}" for i in range(FILLED)]
    return ad.concat({"a": adata[kind != k], "b": new}, index_unique="-")


def thinned(folder: Path, kind: str, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Cells before and after all but ten of one type are taken away."""
    adata, rng = blood(folder), np.random.default_rng(seed)
    of = adata.obs["cell_type"].to_numpy()
    chosen = {name: rng.permutation(np.flatnonzero(of == name))[:PER_TYPE] for name in np.unique(of)}
    full = adata[np.concatenate(list(chosen.values()))].copy()
    chosen[kind] = chosen[kind][:RARE]
    return full, adata[np.concatenate(list(chosen.values()))].copy()


def rare(folder: Path, kind: str, seed: int) -> list[dict]:
    full, thin = thinned(folder, kind, seed)
    anchor = hp.datasets.blood_anchor()
    anchor = anchor[:, anchor.var_names.isin(thin.var_names)].copy()
    anchor.obs = anchor.obs[["cell_type"]].assign(donor="hao")
    both = ad.concat({"pbmc3k": thin, "hao": anchor}, join="outer", fill_value=0, label="study", index_unique="-")
    references = {
        "as it is": (thin, None),
        "copies of its cells": (shrunk(thin, kind, "itself", seed), None),
        "shrunk to a mixture": (shrunk(thin, kind, "mixture", seed), None),
        "shrunk to similar types": (shrunk(thin, kind, "similar", seed), None),
        "another study beside it (study_key)": (both, "study"),
        "all its cells": (full, None),
    }
    return [row for name, (cells, key) in references.items() for row in scores(folder, name, cells, key, kind)]


def augment(folder: Path, kind: str, seed: int) -> list[dict]:
    thin = thinned(folder, kind, seed)[1]
    scvi.settings.seed = seed
    fitted = thin.copy()
    hp.ConditionalVAE.setup_anndata(fitted, "cell_type")
    cvae = hp.ConditionalVAE(fitted)
    cvae.train(**QUIET)
    references = {"as it is": thin, "augment_reference": cvae.augment_reference(min_cells=FILLED, seed=seed)}
    return [row for name, cells in references.items() for row in scores(folder, name, cells, of=kind)]


def against(first: str):
    """Medians over draws, and the change of RMSE from the first row in median and at worst."""

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        keys = ["case", "cohort", "seed"]
        start = rows[rows["reference"] == first].set_index(keys)["RMSE"]
        rows = rows.assign(change=rows["RMSE"] / start.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy() - 1)
        groups = rows.groupby(["case", "cohort", "reference"], sort=False)
        found = groups[["RMSE", "NNLS", "constant"]].median()
        found["change"] = groups["change"].median().map("{:+.0%}".format)
        found["worst draw"] = groups["change"].max().map("{:+.0%}".format)
        return found.assign(draws=groups["seed"].nunique())

    return table


# ------------------------------------------------------------------------------------------ another context, ambient


def as_reference(adata: ad.AnnData) -> ad.AnnData:
    """Types with five cells or more, as text."""
    of = adata.obs["cell_type"].astype(str)
    kept = adata[of.isin(of.value_counts()[lambda n: n >= 5].index).to_numpy()].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].astype(str)
    kept.obs["donor"] = kept.obs["donor"].astype(str) if "donor" in kept.obs else "one"
    return kept


def context(folder: Path, case: str, seed: int) -> list[dict]:
    """Stimulated cells as reference for bulk that is not; half of the control cells, or ten of a type, are known."""
    adata = ad.read_h5ad(folder / "kang_ctrl_stim.h5ad")
    adata.obs["cell_type"] = adata.obs["cell_type_coarse"].astype(str)
    adata.obs = adata.obs[["cell_type", "condition"]].astype(str)
    adata = variable_genes(adata, GENES)
    rng, control = np.random.default_rng(seed), (adata.obs["condition"] == "ctrl").to_numpy()
    keep = ~control
    for kind in adata.obs["cell_type"].unique():
        cells = rng.permutation(np.flatnonzero(control & (adata.obs["cell_type"] == kind).to_numpy()))
        keep[cells[: 10 if case == CONTEXTS[0] else len(cells) // 2]] = True
    known = adata[keep].copy()
    cells = known.obs.groupby("cell_type")["condition"].value_counts().unstack(fill_value=0).min(axis=1)
    known = as_reference(known[known.obs["cell_type"].isin(cells.index[cells >= 5]).to_numpy()])
    stimulated = known[known.obs["condition"] == "stim"].copy()
    scvi.settings.seed = seed
    fitted = known.copy()
    hp.CycleAE.setup_anndata(fitted, ["condition", "cell_type"])
    cycle = hp.CycleAE(fitted)
    cycle.train(**QUIET)
    references = {
        "as it is": stimulated,
        "CycleAE.translate_reference": cycle.translate_reference(stimulated, to={"condition": "ctrl"}, seed=seed),
        "pp.shift_context": hp.pp.shift_context(known, "condition", "ctrl", "cell_type", seed=seed),
        "the control cells alone": known[known.obs["condition"] == "ctrl"].copy(),
    }
    return [row for name, cells in references.items() for row in scores(folder, name, as_reference(cells))]


def subtracted(observed: ad.AnnData, seed: int) -> ad.AnnData:
    """Subtract the given profile of each batch from its types, as much as leaves one gene in twenty below zero."""
    X, clean = observed.X.toarray(), np.zeros(observed.shape)
    of = observed.obs["cell_type"].astype(str).to_numpy()
    for batch, profile in observed.varm["ambient_profile"].items():
        groups = [(observed.obs["batch"] == batch).to_numpy() & (of == kind) for kind in np.unique(of)]
        sums = np.array([X[cells].sum(axis=0) for cells in groups])
        expected = sums.sum(axis=1, keepdims=True) * profile.to_numpy()
        level = np.quantile((sums / np.maximum(expected, 1e-9))[expected > 5], 0.05).clip(max=1)
        for cells, total, soup in zip(groups, sums, expected, strict=True):
            clean[cells] = X[cells] * ((total - level * soup).clip(min=0) / np.maximum(total, 1))
    result = observed.copy()
    result.X = whole(clean, np.random.default_rng(seed))
    return result


def split(observed: ad.AnnData, seed: int, profile: pd.DataFrame | None = None) -> ad.AnnData:
    """What `get_clean_reference` does with labels, without a network: it finds the profile from the batch's mean."""
    X, kind = observed.X.toarray(), pd.factorize(observed.obs["cell_type"].astype(str))[0]
    batch, names = pd.factorize(observed.obs["batch"].astype(str))
    sums = np.zeros((kind.max() + 1, batch.max() + 1, observed.n_vars))
    np.add.at(sums, (kind, batch), X)
    if profile is None:
        rates = X / X.sum(axis=1, keepdims=True)  # the model's profile starts at their mean, and hardly leaves it
        start = np.stack([rates[batch == b].mean(axis=0) for b in range(len(names))])
        cells = pd.crosstab(kind, batch).to_numpy()
        ambient_profile = refine_profile(sums, start, cells)
    else:
        ambient_profile = profile[list(names)].to_numpy().T
    found = native_share(sums, ambient_profile, (X, kind * (batch.max() + 1) + batch))
    result = observed.copy()
    result.X = whole(X * found.share[kind, batch], np.random.default_rng(seed))
    return result


def ambient(folder: Path, case: str, seed: int) -> list[dict]:
    """Cells with planted ambient RNA (5, 15 and 30 %), and Kang's controls, in which none was planted."""
    if case == CLEANED[0]:
        cells = blood(folder, 1000)
        cells = cells[np.random.default_rng(seed).permutation(cells.n_obs)[:1000]].copy()
        observed = hp.datasets.plant_ambient(cells, seed=seed)
        native = observed.copy()
        native.X = native.layers["native"].copy()
        given = observed.varm["ambient_profile"]
        references = {"as it is": observed, "split, given profile": split(observed, seed, given)}
        references["given profile subtracted"] = subtracted(observed, seed)
        references["without planted RNA"] = native
    else:
        observed = ad.read_h5ad(folder / "kang_ctrl_stim.h5ad")
        observed = variable_genes(observed[observed.obs["condition"] == "ctrl"].copy(), 1000)
        observed.obs["cell_type"], observed.obs["batch"] = observed.obs["cell_type_coarse"].astype(str), "one"
        references = {"as it is": observed}
    references["split, found profile"] = split(observed, seed)
    return [row for name, cells in references.items() for row in scores(folder, name, as_reference(cells))]


def trained(folder: Path, case: str, seed: int) -> list[dict]:
    """The regression beside `HPVADE` with its networks trained by default, on references as they are."""
    if case == NETWORKS[0]:
        cells = thinned(folder, "NK", seed)[1]
    elif case == NETWORKS[1]:
        cells = ad.read_h5ad(folder / "kang_ctrl_stim.h5ad")
        cells = cells[np.random.default_rng(seed).permutation(cells.n_obs)[:1000]]
        cells.obs["cell_type"] = cells.obs["cell_type_coarse"]
        cells = as_reference(variable_genes(cells[cells.obs["condition"] == "stim"].copy(), GENES))
    else:
        cells = blood(folder, 1000)
        cells = cells[np.random.default_rng(seed).permutation(cells.n_obs)[:1000]].copy()
        cells = as_reference(hp.datasets.plant_ambient(cells, seed=seed))
    rows = scores(folder, "regression", cells)
    scvi.settings.seed = seed
    hp.HPVADE.setup_anndata(cells, "cell_type", sample_key="donor")
    model = hp.HPVADE(cells)
    model.train(**QUIET)
    return [
        {"cohort": row["cohort"], "regression": row["RMSE"], "HPVADE": own["RMSE"], "constant": row["constant"]}
        | {"largest difference": abs(own["RMSE"] - row["RMSE"])}
        for row, own in zip(rows, scores(folder, "HPVADE", cells, model=model), strict=True)
    ]


def with_largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over draws, but the largest difference."""
    groups = rows.groupby(["case", "cohort"], sort=False)
    found = groups[["regression", "HPVADE", "constant"]].median()
    found["largest difference"] = groups["largest difference"].max().map("{:.4f}".format)
    return found.assign(draws=groups["seed"].nunique())


NETWORKS = ["ten NK cells", "stimulated cells", "planted ambient RNA"]
CONTEXTS, CLEANED = ["ten control cells per type", "half of the control cells"], ["PBMC 3k, planted", "Kang control"]
RARE_TYPES = ["NK", "B", "CD8 T"]
PARTS = {
    "rare": Part(RARE_TYPES, rare, against("as it is")),
    "augment": Part(RARE_TYPES, augment, against("as it is")),
    "context": Part(CONTEXTS, context, against("as it is")),
    "ambient": Part(CLEANED, ambient, against("as it is")),
    "trained": Part(NETWORKS, trained, with_largest),
}

if __name__ == "__main__":
    run(__doc__, PARTS)
