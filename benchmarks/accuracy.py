"""Accuracy on real bulk with measured truth: HPVADE (default, literal) beside NNLS and the constant predictor.

    python benchmarks/accuracy.py [DATA_FOLDER] [--seeds 5] [--only hoek] [--presets default spec] [--output FILE.csv]

DATA_FOLDER holds the development files and cohorts.json; without it the shipped data are used, as in `hpvade demo`.
Every row is a cohort with a reference; medians over seeds, with the range in brackets. `floor` is the r of METHOD
section 9's prototype (1,000 genes).
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from _cohorts import Row, rows, shipped

import hpvade as hp

FLOOR = {
    "hoek": {"ref_pbmc3k": 0.95, "kang_ctrl_stim:ctrl": 0.95, "sc_pbmc_7batches_computed_labels": 0.95},
    "finotello": {"ref_pbmc3k": 0.79, "kang_ctrl_stim:ctrl": 0.82, "sc_pbmc_7batches_computed_labels": 0.80},
    "newman": {"ref_pbmc3k": 0.70, "sc_pbmc_7batches_computed_labels": 0.72},
    "rnamix": {"sc_cellbench_lines": 0.97},
}
METRICS = ["per_type_r", "rmse", "rmse_skill", "ccc", "pooled_r"]


def fit(row: Row, preset: str, seed: int) -> hp.HPVADE:
    """A trained model."""
    scvi.settings.seed = seed
    adata = row.adata.copy()
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    model = hp.HPVADE(adata, preset=preset)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def score(row: Row, model: hp.HPVADE, **options) -> pd.DataFrame:
    """Metrics of the model, of NNLS and of the constant."""
    bulk = row.bulk.copy()
    fractions = "rna" if row.truth_in_rna else "cell"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gene overlap of each row
        model.deconvolve(bulk, input_type=row.input_type, fractions=fractions, **options)
        if row.truth_in_rna:
            sizes = model.get_signature_matrix().sum() if model.preset == "default" else 1.0
            nnls = bulk.obsm["hpvade_proportions_nnls"] * sizes
            bulk.obsm["hpvade_proportions_nnls"] = nnls.div(nnls.sum(axis=1), axis=0)
    table = hp.tl.evaluate(bulk, row.truth_key, mapping=row.mapping)
    return table.rename(index={"hpvade_proportions": model.preset}), bulk.uns["hpvade_proportions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--presets", nargs="+", default=["default", "spec"])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    records, models = [], {}
    for row in rows(args.folder, args.only) if args.folder else [shipped()]:
        for preset in args.presets:
            for seed in range(args.seeds):
                key = (row.reference, row.adata.n_vars, preset, seed)
                start = time.perf_counter()
                model = models[key] = models.get(key) or fit(row, preset, seed)
                table, how = score(row, model)
                for name, values in table.iterrows():
                    records.append({"row": row.name, "model": name, "seed": seed, **values[METRICS]})
                print(
                    f"{row.name} {preset} seed {seed}: r {table.loc[preset, 'per_type_r']:.3f} "
                    f"RMSE {table.loc[preset, 'rmse']:.3f} platform {how['platform_distance']:.2f} "
                    f"{time.perf_counter() - start:.0f} s",
                    flush=True,
                )
    results = pd.DataFrame(records).drop_duplicates(["row", "model", "seed"])
    if args.output:
        results.to_csv(args.output, index=False)
    grouped = results.groupby(["row", "model"], sort=False)[METRICS]
    low, mid, high = grouped.min(), grouped.median(), grouped.max()
    print("\nmedian over seeds [range]\n")
    print(
        "| row | model | per-type r | floor r | RMSE | RMSE skill | CCC | pooled r |\n|---|---|---|---|---|---|---|---|"
    )
    for name, model in mid.index:
        cohort, reference = name.split(" | ")
        cells = []
        for metric in METRICS:
            m, lo, hi = (t.loc[(name, model), metric] for t in (mid, low, high))
            spread = f" [{lo:.2f}, {hi:.2f}]" if hi - lo > 5e-3 else ""
            cells.append("-" if np.isnan(m) else f"{m:.3f}{spread}")
        floor = f"{FLOOR[cohort][reference]:.2f}" if model == "default" and cohort in FLOOR else ""
        print(f"| {cohort} x {reference} | {model} | {cells[0]} | {floor} | " + " | ".join(cells[1:]) + " |")


if __name__ == "__main__":
    main()
