"""Every choice of the engine that was made on published labels, again with repaired ones: one change at a time.

    python benchmarks/ablation.py DATA_FOLDER [--only "PBMC 3k"] [--networks]

Labels are repaired by the anchor; models are those of `max_epochs=0`, with `--networks` of the default training, whose
answer and prior are then compared. The last rows of a reference's column are NNLS and the constant predictor.
"""

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from studies import NAMES, mapping_of
from verdict import COHORTS, REFERENCES, reference

import hpvade as hp
from hpvade.evaluation import _metrics as metrics
from hpvade.models.hpvade import _scvi_module as module_room
from hpvade.solvers import marker_genes

SIZES = ("umi", "epic", "quantiseq", "abis", None)
DECONVOLVE = {"prior weight 0": {"prior_weight": 0.0}, "prior weight 0.01": {"prior_weight": 0.01}}
DECONVOLVE |= {"prior weight 0.03": {"prior_weight": 0.03}, "prior weight 0.3": {"prior_weight": 0.3}}
DECONVOLVE |= {
    "prior weight 1": {"prior_weight": 1.0},
    "all genes weigh the same": {"solver_kwargs": {"gene_weight": False}},
    "gene weights of 5 samples": {"solver_kwargs": {"weight_samples": 5.0}},
    "no gene factor": {"solver_kwargs": {"gene_factor": False}},
    "factor penalty 0.3": {"solver_kwargs": {"factor_penalty": 0.3}},
    "factor penalty 3": {"solver_kwargs": {"factor_penalty": 3.0}},
}
GENES = {"10 genes a pair": 10, "50 genes a pair": 50, "100 genes a pair": 100}
NETWORKS = {"network as prior": {"prior": "network"}, "network alone": {"refine": False}}


def model_of(adata: ad.AnnData, cell_size: str | None = "pooled", steps: bool = False) -> hp.HPVADE:
    scvi.settings.seed = 0
    hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor")
    model = hp.HPVADE(adata, cell_size=cell_size)
    model.train(*([] if steps else [0]), accelerator="cpu", enable_progress_bar=False)
    return model


def answers(adata: ad.AnnData, bulk: ad.AnnData, input_type: str, networks: bool):
    """Names and tables of every variant; the default first."""
    model = model_of(adata, steps=networks)
    copy = bulk.copy()
    yield "default", model.deconvolve(copy, input_type=input_type)
    nnls = copy.obsm["hpvade_proportions_nnls"]
    for name, options in (NETWORKS if networks else DECONVOLVE).items():
        yield name, model.deconvolve(bulk.copy(), input_type=input_type, **options)
    if not networks:
        for size in SIZES:
            yield (
                f"cell size: {size or 'all equal'}",
                model_of(adata, size).deconvolve(bulk.copy(), input_type=input_type),
            )
        for name, n in GENES.items():
            module_room.marker_genes = partial(marker_genes, n_per_pair=n, n_total=20 * n)
            yield name, model_of(adata).deconvolve(bulk.copy(), input_type=input_type)
        module_room.marker_genes = marker_genes
    yield "NNLS", nnls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="references whose name holds this")
    parser.add_argument("--networks", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    config, rows = json.loads((arguments.folder / "cohorts.json").read_text()), []
    for name in REFERENCES:
        if arguments.only not in name:
            continue
        adata = hp.datasets.blood_anchor() if name == "Hao cells" else reference(arguments.folder, name)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace(NAMES)
        adata.obs["donor"] = adata.obs["donor"].astype(str) if "donor" in adata.obs else "one"
        for cohort in COHORTS:
            entry = config["cohorts"][cohort]
            bulk = ad.read_h5ad(arguments.folder / f"{entry['bulk']}.h5ad")
            scale = "log2" if entry.get("transform") == "exp2" else "auto"
            for variant, table in answers(adata.copy(), bulk, scale, arguments.networks):
                mapping = mapping_of(table.columns, entry, config["classes"])
                predicted, truth = hp.tl.compare(table, bulk.obsm[entry["truth_key"]], mapping)
                predicted, truth = predicted.to_numpy(), truth.to_numpy()
                found = {"r": metrics.per_type_r(predicted, truth), "rmse": metrics.rmse(predicted, truth)}
                rows.append({"variant": variant, "reference": name.split(",")[0], "cohort": cohort} | found)
            constant = metrics.rmse(np.broadcast_to(truth.mean(axis=0), truth.shape), truth)
            rows.append({"variant": "constant", "reference": name.split(",")[0], "cohort": cohort, "rmse": constant})
    table = pd.DataFrame(rows)
    text = table.assign(text=table["r"].map("{:.3f}".format) + " / " + table["rmse"].map("{:.3f}".format))
    wide = text.pivot_table("text", "variant", ["reference", "cohort"], aggfunc="first", sort=False)
    print(wide.set_axis([" ".join(pair) for pair in wide.columns], axis=1).to_markdown())


if __name__ == "__main__":
    main()
