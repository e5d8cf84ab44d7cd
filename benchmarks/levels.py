"""What shrinkage within lineages and few-shot calibration change on blood with measured composition.

    python benchmarks/levels.py DATA_FOLDER [--seeds 2] [--only hoek] [--draws 20] [--models FOLDER]

Shrinkage: r and RMSE of `deconvolve_hierarchy(shrink=False / True)` with the automatic tree. Calibration: RMSE on the
samples that were *not* used, before and after `calibrate` with five of them, median over random draws; `refused` counts
the draws in which the five did not agree. It uses the truth, so its figures compare with no other table. FOLDER holds
models of accuracy.py; others are trained.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _cohorts import Row, rows
from accuracy import fit

import hpvade as hp

KEYS = {"hpvade_proportions": "off", "hpvade_hierarchy_type": "on"}


def shrinkage(row: Row, model: hp.HPVADE) -> dict[str, float]:
    """r and RMSE without and with shrinkage."""
    bulk = row.bulk.copy()
    model.deconvolve(bulk, input_type=row.input_type)
    model.deconvolve_hierarchy(bulk, shrink=True, input_type=row.input_type)
    table = hp.tl.evaluate(bulk, row.truth_key, prediction_key=list(KEYS), mapping=row.mapping)
    return {f"{metric} {KEYS[key]}": table.loc[key, metric] for metric in ("per_type_r", "rmse") for key in KEYS}


def calibration(row: Row, model: hp.HPVADE, draws: int) -> dict[str, float]:
    """RMSE on the samples that were not used, before and after calibration with five."""
    rng, truth = np.random.default_rng(0), row.bulk.obsm[row.truth_key]
    plain = model.deconvolve(row.bulk.copy(), input_type=row.input_type)
    found, refused = [], 0
    for _ in range(draws):
        used = truth.index[np.sort(rng.choice(len(truth), 5, replace=False))]
        rest = truth.index.difference(used)
        try:
            model.calibrate(row.bulk, truth.loc[used], mapping=row.mapping, input_type=row.input_type)
        except ValueError:
            refused += 1
        after = model.deconvolve(row.bulk.copy(), input_type=row.input_type)
        model.remove_calibration()
        pairs = (hp.tl.compare(table.loc[rest], truth.loc[rest], row.mapping) for table in (plain, after))
        errors = [np.sqrt(((a - b) ** 2).mean(axis=None)) for a, b in pairs]
        measured = hp.tl.compare(plain, truth, row.mapping)[1]
        constant = np.sqrt(((measured.loc[rest] - measured.loc[used].mean()) ** 2).mean(axis=None))
        found.append([*errors, constant])
    before, after, constant = np.median(found, axis=0)
    return {"rmse before": before, "rmse after": after, "mean of the five": constant, "refused": refused / draws}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--models", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the gene overlap of each row
    records = []
    for row in rows(args.folder, args.only):
        if row.truth_in_rna:
            continue
        for seed in range(args.seeds):
            model = fit(row, "default", seed, args.models)
            record = {"row": row.name} | shrinkage(row, model) | calibration(row, model, args.draws)
            records.append(record)
            print(f"{row.name} seed {seed}: { {k: round(v, 3) for k, v in record.items() if k != 'row'} }", flush=True)
    table = pd.DataFrame(records).groupby("row", sort=False).median()
    table.loc["median"] = table.median()
    print("\nmedian over seeds\n\n| row | " + " | ".join(table.columns) + " |\n" + "|---" * (table.shape[1] + 1) + "|")
    for name, values in table.iterrows():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
