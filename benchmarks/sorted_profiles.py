"""Types from sorted bulk in a reference of cells: given back in place of their cells, and neutrophils.

    python benchmarks/sorted_profiles.py DATA_FOLDER

The reference is `hpvade.datasets.blood_reference` on the genes of `sig_bluecode_sorted34` (sorted bulk of BLUEPRINT and
ENCODE, which is not shipped). `cells`: as it is. `without`: the cells of one type are left out. `sorted`: its sorted
profile is added (`hpvade.pp.add_sorted_profiles`), brought to the cells' scale by the other types. Scores are those of
cohorts with measured truth, over the types that the truth counts, CD4 and CD8 T together where it has T cells only;
a cell holds r over samples and bias of the type in question, RMSE over all types, and coverage (mean width) of the 90 %
intervals of the type. Nothing is random.
"""

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import hpvade as hp

COHORTS = ("hoek", "finotello", "newman_full")
NAMES = {
    "Mature.neutrophil": "Neutrophil",
    "B.cell.naive": "B",
    "B.cell.memory": "B",
    "Monocyte.CD14": "Mono",
    "NK.cell.CD56": "NK",
    "T.Cell.CD4": "CD4 T",
    "T.cell.CD4.memory": "CD4 T",
    "T.cell.CD8.memory": "CD8 T",
}
KEYS = {"sample_key": "donor", "study_key": "study", "n_cells_key": "n_cells"}


def model_of(reference: ad.AnnData) -> hp.HPVADE:
    hp.HPVADE.setup_anndata(reference, "cell_type", **KEYS)
    model = hp.HPVADE(reference)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def without(reference: ad.AnnData, name: str) -> ad.AnnData:
    left = reference[reference.obs["cell_type"] != name].copy()
    left.obs["cell_type"] = left.obs["cell_type"].astype(str).astype("category")
    return left


def truth_and_mapping(bulk: ad.AnnData, entry: dict, name: str, neutrophils: bool) -> tuple[pd.DataFrame, dict, str]:
    """Truth closed to one, which column each type counts towards, and the column of the type in question."""
    merge = entry.get("merge", {})
    columns = {merge.get(c, c): column for column, c in entry["truth"].items()}
    classes = {"CD4 T": "CD4", "CD8 T": "CD8", "Plasma cells": "B"}
    types = ["B", "Plasma cells", "CD4 T", "CD8 T", "NK", "Mono"]
    found = {t: merge.get(classes.get(t, t), classes.get(t, t)) for t in types}
    mapping = {t: columns[c] for t, c in found.items() if c in columns}
    if neutrophils:
        mapping["Neutrophil"] = "Neutrophil"
    truth = bulk.obsm[entry["truth_key"]][list(dict.fromkeys(mapping.values()))]
    return truth.div(truth.sum(axis=1), axis=0), mapping, mapping[name]


def closed(table: pd.DataFrame, mapping: dict[str, str], truth: pd.DataFrame) -> pd.DataFrame:
    """Fractions summed into the truth's columns, rows that sum to one; equal where the solver found none of them."""
    found = table[list(mapping)].T.groupby(mapping).sum().T.reindex(columns=truth.columns, fill_value=0.0)
    return found.div(found.sum(axis=1), axis=0).fillna(1 / len(truth.columns))


def units(entry: dict) -> str:
    return "log2" if entry.get("transform") == "exp2" else "auto"


def score(model: hp.HPVADE, bulk: ad.AnnData, entry: dict, name: str, neutrophils: bool = False) -> str:
    truth, mapping, column = truth_and_mapping(bulk, entry, name, neutrophils)
    options = {"input_type": units(entry)}
    table = model.deconvolve(bulk, baseline=False, **options)
    known = {t: c for t, c in mapping.items() if t in table}
    found = closed(table, known, truth)
    r = np.corrcoef(found[column], truth[column])[0, 1] if found[column].std() > 0 else np.nan
    bounds = model.get_proportion_intervals(bulk, mapping=known, **options)
    inside, width = "-", "-"
    if column in known.values():
        upper, lower = bounds[column, "upper"], bounds[column, "lower"]
        inside, width = f"{((truth[column] >= lower) & (truth[column] <= upper)).mean():.2f}", (upper - lower).mean()
        width = f"{width:.2f}"
    rmse = np.sqrt(np.square(found - truth).to_numpy().mean())
    return f"{r:.2f} / {(found[column] - truth[column]).mean():+.3f} / {rmse:.4f} / {inside} ({width})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    config = json.loads((folder / "cohorts.json").read_text())["cohorts"]
    cohorts = {name: (ad.read_h5ad(folder / f"{config[name]['bulk']}.h5ad"), config[name]) for name in COHORTS}
    profiles, whole = ad.read_h5ad(folder / "sig_bluecode_sorted34.h5ad"), hp.datasets.blood_reference()
    reference = whole[:, whole.var_names.isin(profiles.var_names)].copy()
    add = {"labels_key": "cell_type", "mapping": NAMES, **KEYS}
    everything, rows = model_of(reference), {}
    for name in ("B", "NK", "Mono", "CD8 T"):
        left = without(reference, name)
        given_back = hp.pp.add_sorted_profiles(left, profiles, [name], **add)
        models = {"cells": everything, "without": model_of(left), "sorted": model_of(given_back)}
        for how, model in models.items():
            rows[name, how] = {cohort: score(model, *of, name) for cohort, of in cohorts.items()}
    with_neutrophils = model_of(hp.pp.add_sorted_profiles(reference, profiles, ["Neutrophil"], **add))
    models = {"without, all genes": model_of(whole), "without": everything, "sorted": with_neutrophils}
    for how, model in models.items():
        rows["Neutrophil", how] = {"finotello": score(model, *cohorts["finotello"], "Neutrophil", neutrophils=True)}
    table = pd.DataFrame(rows).T.rename_axis(["type", "reference"]).fillna("")
    print(table[list(COHORTS)].reset_index().to_markdown(index=False, disable_numparse=True))
    floors = {"constant": {}, "NNLS": {}}
    for cohort, (bulk, entry) in cohorts.items():
        truth, mapping, _ = truth_and_mapping(bulk, entry, "B", neutrophils=False)
        everything.deconvolve(bulk, input_type=units(entry))
        found = closed(bulk.obsm["hpvade_proportions_nnls"], mapping, truth)
        for name, error in {"constant": truth - truth.mean(), "NNLS": truth - found}.items():
            floors[name][cohort] = round(float(np.sqrt(np.square(error).to_numpy().mean())), 4)
    print("\nRMSE of the constant predictor and of NNLS with the cells of all types:", floors)


if __name__ == "__main__":
    main()
