"""Several studies as one reference: the mean of their answers beside each of them, and other ways to combine them.

    python benchmarks/studies.py DATA_FOLDER

The studies are sums of cells (`hpvade.pp.summarize`): PBMC 3k, Kang's controls and the seven batches with T and NK
cells relabelled by the anchor (`hpvade.pp.transfer_labels`; no truth of a cohort is used), the anchor's own cells, and
the sums of Hao et al. on all genes, whose counts per cell are the anchor's. `mean` is what `deconvolve` returns. The
others weigh studies by the inverse square of the regression's residual, by the inverse square of the distance from the
other studies, or take the median of each fraction. The last rows leave one study out.
"""

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _cohorts import read_reference

import hpvade as hp
from hpvade.evaluation import _metrics as metrics
from hpvade.models.hpvade._estimate import estimate

CELLS = {
    "pbmc3k": "ref_pbmc3k",
    "kang": "kang_ctrl_stim:ctrl",
    "7 batches": "sc_pbmc_7batches_computed_labels",
}
COHORTS = ("hoek", "finotello", "newman_full")
RELABELLED = ["CD4 T", "CD8 T", "NK"]
NAMES = {"CD4": "CD4 T", "CD8": "CD8 T"}  # classes of cohorts.json
TREG_SHARE = 0.07  # of CD4 T cells in blood: the anchor has as many of each type


def common(types: pd.Series, classes: dict[str, str]) -> pd.Series:
    """Types of the studies under one name; plasma cells stay apart from B cells, whose RNA is a fifth."""
    coarse = types.astype(str).map(lambda name: name if name == "Plasma cells" else classes.get(name, name))
    return coarse.replace(NAMES)


def studies(folder: Path, classes: dict[str, str]) -> dict[str, ad.AnnData]:
    """Sums of cells of every study."""
    anchor = hp.datasets.blood_anchor()
    fine = anchor.obs["cell_type_fine"].astype(str)
    anchor.obs["type"] = common(fine, classes)
    parts = {}
    for name, reference in CELLS.items():
        adata = read_reference(folder, reference)
        adata.obs["type"] = common(adata.obs["cell_type"], classes)
        hp.pp.transfer_labels(adata, anchor, labels_key="type", anchor_labels_key="type", types=RELABELLED)
        adata.obs["type"] = adata.obs["transferred_labels"].astype("str").where(adata.obs["transferred_labels"].notna())
        adata = adata[adata.obs["type"].notna() & (adata.obs["type"] != "nan")].copy()
        parts[name] = hp.pp.summarize(adata, "type", sample_key="donor")
    counts = anchor.obs["type"].value_counts()
    tregs = np.flatnonzero(fine == "Tregs")[round(TREG_SHARE * (fine == "T cells CD4 conv").sum()) :]
    keep = np.ones(anchor.n_obs, dtype=bool)
    keep[tregs] = False
    keep &= (anchor.obs["type"] != "ILC").to_numpy() & anchor.obs["type"].map(counts).gt(1).to_numpy()
    chosen = anchor[keep].copy()
    chosen.obs["donor"] = "hao"
    parts["hao cells"] = hp.pp.summarize(chosen, "type", sample_key="donor")
    parts["hao sums"] = hao_sums(folder, anchor, classes)
    for name, part in parts.items():
        part.obs["study"] = name
        part.obs["donor"] = name + ":" + part.obs["donor"].astype(str)
    return parts


def hao_sums(folder: Path, anchor: ad.AnnData, classes: dict[str, str]) -> ad.AnnData:
    """The published sums, as 1,000 cells of a type with the anchor's counts per cell; Tregs as in blood."""
    sums = ad.read_h5ad(folder / "sig_hao_sumcounts.h5ad")
    sums = sums[sums.obs["cell_type"].astype(str) != "ILC"].copy()
    size = pd.Series(np.asarray(anchor.X.sum(axis=1)).ravel(), anchor.obs_names)
    size = size.groupby(anchor.obs["cell_type_fine"].astype(str)).mean()
    names = sums.obs["cell_type"].astype(str).to_numpy()
    X = sums.X.toarray() if hasattr(sums.X, "toarray") else np.asarray(sums.X)
    shared = X[:, sums.var_names.isin(anchor.var_names)].sum(axis=1)
    n_cells = np.where(names == "Tregs", round(1000 * TREG_SHARE), 1000)
    X = X * (size[names].to_numpy() / shared * n_cells)[:, None]
    obs = pd.DataFrame({"type": common(pd.Series(names), classes).to_numpy(), "donor": "hao", "n_cells": n_cells})
    return ad.AnnData(X.astype(np.float32), obs=obs.set_axis(sums.obs_names), var=sums.var[[]])


def model_of(parts: dict[str, ad.AnnData]) -> hp.HPVADE:
    """A model of some studies on the union of their genes."""
    joined = ad.concat(list(parts.values()), join="outer", fill_value=0, index_unique="-", keys=list(parts))
    for column in ("type", "study", "donor"):
        joined.obs[column] = joined.obs[column].astype(str).astype("category")
    keys = {"sample_key": "donor", "n_cells_key": "n_cells"}
    hp.HPVADE.setup_anndata(joined, "type", study_key="study" if len(parts) > 1 else None, **keys)
    model = hp.HPVADE(joined)
    model.train(accelerator="cpu")
    return model


def combined(found, types: list[str]) -> dict[str, pd.DataFrame]:
    """Answers by study, and ways to make one of them."""
    cells = np.stack([study.cells.double().numpy() for study in found.studies])
    residual = np.stack([study.fit.residual.double().numpy() for study in found.studies])[:, :, None]
    apart = np.abs(cells - (cells.sum(axis=0) - cells) / (len(cells) - 1)).sum(axis=2, keepdims=True)
    ways = {
        "mean": cells.mean(axis=0),
        "by residual": np.average(cells, axis=0, weights=np.broadcast_to(residual**-2.0, cells.shape)),
        "by agreement": np.average(cells, axis=0, weights=np.broadcast_to((apart + 0.05) ** -2.0, cells.shape)),
        "median": np.median(cells, axis=0),
    }
    ways |= {f"{study.name} alone": one for study, one in zip(found.studies, cells, strict=True)}
    return {name: pd.DataFrame(x, columns=types) for name, x in ways.items()}


def mapping_of(types, entry: dict, classes: dict[str, str]) -> dict[str, str]:
    """Which column of the truth each type counts towards."""
    merge = entry.get("merge", {})
    columns = {merge.get(c, c): column for column, c in entry["truth"].items()}
    old = {new: old for old, new in NAMES.items()} | {"Plasma cells": "B"}
    found = {name: classes.get(old.get(name, name), old.get(name, name)) for name in types}
    return {name: columns[merge.get(c, c)] for name, c in found.items() if merge.get(c, c) in columns}


def score(table: pd.DataFrame, bulk: ad.AnnData, entry: dict, classes: dict[str, str]) -> str:
    """Per-type r and RMSE."""
    table = table.set_axis(bulk.obs_names)
    mapping = mapping_of(table.columns, entry, classes)
    predicted, truth = hp.tl.compare(table, bulk.obsm[entry["truth_key"]], mapping)
    predicted, truth = predicted.to_numpy(), truth.to_numpy()
    return f"{metrics.per_type_r(predicted, truth):.3f} / {metrics.rmse(predicted, truth):.3f}"


def coverage(model: hp.HPVADE, bulk: ad.AnnData, entry: dict, classes: dict[str, str], **options) -> str:
    """Share of the truth inside the 90 % intervals, and their mean width."""
    mapping = mapping_of(model.cell_types, entry, classes)
    table = model.get_proportion_intervals(bulk, mapping=mapping, **options)
    lower, upper = (table.xs(bound, axis=1, level="bound") for bound in ("lower", "upper"))
    truth = bulk.obsm[entry["truth_key"]][lower.columns]
    truth = truth.div(truth.sum(axis=1), axis=0)
    inside = ((truth >= lower) & (truth <= upper)).to_numpy().mean()
    return f"{inside:.2f} / {(upper - lower).to_numpy().mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    config = json.loads((folder / "cohorts.json").read_text())
    classes = config["classes"]
    cohorts = {
        name: (ad.read_h5ad(folder / f"{config['cohorts'][name]['bulk']}.h5ad"), config["cohorts"][name])
        for name in COHORTS
    }
    parts = studies(folder, classes)
    rows: dict[str, dict[str, str]] = {}
    intervals: dict[str, dict[str, str]] = {}
    shipped = {name: parts[name] for name in ("pbmc3k", "hao sums")}
    sets = {
        "all five": parts,
        "shipped two": shipped,
        "shipped two and hao cells": shipped | {"hao cells": parts["hao cells"]},
    }
    sets |= {f"without {name}": {k: v for k, v in parts.items() if k != name} for name in parts}
    for label, some in sets.items():
        model = model_of(some)
        for cohort, (bulk, entry) in cohorts.items():
            options = {"input_type": "log2" if entry.get("transform") == "exp2" else "auto"}
            found = estimate(model, bulk, **options)
            answers = combined(found, model.cell_types)
            intervals.setdefault(label, {})[cohort] = coverage(model, bulk, entry, classes, **options)
            for name, table in answers.items():
                if name == "mean" or label in list(sets)[:3]:
                    rows.setdefault(f"{label}: {name}", {})[cohort] = score(table, bulk, entry, classes)
            if label == "all five":
                copy = bulk.copy()
                model.deconvolve(copy, **options)
                nnls = copy.obsm["hpvade_proportions_nnls"].set_axis(range(bulk.n_obs))
                rows.setdefault("NNLS", {})[cohort] = score(nnls, bulk, entry, classes)
                truth = bulk.obsm[entry["truth_key"]][list(entry["truth"])]
                truth = truth.div(truth.sum(axis=1), axis=0).to_numpy()
                constant = np.broadcast_to(truth.mean(axis=0), truth.shape)
                rows.setdefault("constant", {})[cohort] = f"- / {metrics.rmse(constant, truth):.3f}"
    print("\nper-type r / RMSE\n")
    print(pd.DataFrame(rows).T.to_markdown())
    for name, part in parts.items():
        model = model_of({name: part})
        for cohort, (bulk, entry) in cohorts.items():
            options = {"input_type": "log2" if entry.get("transform") == "exp2" else "auto"}
            intervals.setdefault(f"{name} alone", {})[cohort] = coverage(model, bulk, entry, classes, **options)
    print("\n90 % intervals: coverage / mean width\n")
    print(pd.DataFrame(intervals).T.to_markdown())


if __name__ == "__main__":
    main()
