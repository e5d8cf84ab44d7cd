"""Development cohorts and references as METHOD's table makes them, from a folder of h5ad files with `cohorts.json`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np


@dataclass
class Row:
    """One cohort with one reference."""

    cohort: str
    reference: str
    adata: ad.AnnData
    bulk: ad.AnnData
    mapping: dict[str, str]  # reference type -> truth column
    truth_key: str
    truth_in_rna: bool
    input_type: str

    @property
    def name(self) -> str:
        return f"{self.cohort} | {self.reference}"


def shipped() -> Row:
    """The data that the package ships, as `hpvade demo` uses them."""
    import hpvade as hp

    bulk = hp.datasets.pbmc_bulk()
    mapping = dict(bulk.uns["proportions_mapping"])
    return Row(
        "shipped Hoek", "shipped PBMC 3k", hp.datasets.pbmc_reference(), bulk, mapping, "proportions", False, "auto"
    )


def read_reference(folder: Path, name: str) -> ad.AnnData:
    """Reference ``name`` or ``name:condition``; only cells whose three computed labels agree, where there are such."""
    file, _, condition = name.partition(":")
    adata = ad.read_h5ad(folder / f"{file}.h5ad")
    keep = np.ones(adata.n_obs, dtype=bool)
    if condition:
        keep &= (adata.obs["condition"] == condition).to_numpy()
    if "label_agreement" in adata.obs:
        keep &= adata.obs["label_agreement"].astype(str).str.startswith("3").to_numpy()
    counts = adata.obs["cell_type"][keep].value_counts()
    keep &= adata.obs["cell_type"].isin(counts.index[counts >= 2]).to_numpy()
    adata = adata[keep].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
    adata.obs["donor"] = adata.obs["donor"].astype(str).astype("category")
    return adata


BLOOD = "all blood references"


def blood_reference(folder: Path, without: str | None = None) -> ad.AnnData:
    """The blood references, but one, on their shared genes and coarse types, data sets as batches."""
    config = json.loads((folder / "cohorts.json").read_text())
    parts = {}
    for name in config["cohorts"]["hoek"]["refs"]:
        if name == without:
            continue
        part = read_reference(folder, name)
        part.obs["cell_type"] = part.obs["cell_type"].astype(str).map(config["classes"])
        part.obs["donor"] = name + ":" + part.obs["donor"].astype(str)
        part.obs = part.obs[["cell_type", "donor"]]
        parts[name] = part
    adata = ad.concat(parts, label="dataset", index_unique=":")
    for column in adata.obs:
        adata.obs[column] = adata.obs[column].astype(str).astype("category")
    return adata


def rows(folder: Path, only: str = "", union: bool = False) -> Iterator[Row]:
    """Every development cohort with every suitable reference, or those whose name contains `only`.

    With `union`, also every blood cohort with all blood references at once.
    """
    config = json.loads((folder / "cohorts.json").read_text())
    for cohort, entry in config["cohorts"].items():
        merge = entry.get("merge", {})
        columns = {merge.get(c, c): column for column, c in entry["truth"].items()}
        for reference in [*entry["refs"], *([BLOOD] if union and len(entry["refs"]) > 1 else [])]:
            if only not in f"{cohort} | {reference}":
                continue
            bulk = ad.read_h5ad(folder / f"{entry['bulk']}.h5ad")
            adata = blood_reference(folder) if reference == BLOOD else read_reference(folder, reference)
            if "n_cells" in adata.obs:  # sums of cells: benchmarks/retina.py
                continue
            names = config["classes"] | {c: c for c in config["classes"].values()}
            classes = {t: names.get(t) for t in adata.obs["cell_type"].cat.categories}
            mapping = {t: columns[merge.get(c, c)] for t, c in classes.items() if merge.get(c, c) in columns}
            shared = adata.var_names.intersection(bulk.var_names, sort=False)
            if len(shared) < 0.5 * adata.n_vars:  # a small array: the model is trained on what both have
                adata = adata[:, shared].copy()
                adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
            yield Row(
                cohort,
                reference,
                adata,
                bulk,
                mapping,
                entry["truth_key"],
                "RNA" in entry.get("note", ""),
                "log2" if entry.get("transform") == "exp2" else "auto",
            )
