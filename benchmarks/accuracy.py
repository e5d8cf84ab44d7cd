"""Accuracy on real bulk with measured truth: HPVADE (default, literal, ablated) beside NNLS and the constant predictor.

    python benchmarks/accuracy.py [DATA_FOLDER] [--seeds 5] [--only hoek] [--presets default spec] [--ablations]
                                  [--models FOLDER] [--output FILE.csv]
    python benchmarks/accuracy.py --join FILE.csv ...

DATA_FOLDER holds the development files and cohorts.json; without it the shipped data are used, as in `hpvade demo`.
Every row is a cohort with a reference; the blood cohorts also with all blood references at once. Medians over seeds,
with the range in brackets. `best floor` are the best r and the best RMSE of METHOD section 9's three columns. With
`--models`, trained models are kept in FOLDER and used again. Intervals are of 1,000 bootstrap draws of the samples.
`--join` prints the last table of several outputs together, one a cohort, say.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from _cohorts import BLOOD, Row, rows, shipped

import hpvade as hp
from hpvade.evaluation import _metrics as metrics
from hpvade.models.hpvade._scvi_module import HPVADEModule
from hpvade.tl import compare

BEST = {
    "hoek | ref_pbmc3k": (0.95, 0.074),
    "hoek | kang_ctrl_stim:ctrl": (0.95, 0.058),
    "hoek | sc_pbmc_7batches_computed_labels": (0.95, 0.131),
    "finotello | ref_pbmc3k": (0.79, 0.100),
    "finotello | kang_ctrl_stim:ctrl": (0.82, 0.099),
    "finotello | sc_pbmc_7batches_computed_labels": (0.80, 0.091),
    "newman | ref_pbmc3k": (0.70, 0.118),
    "newman | sc_pbmc_7batches_computed_labels": (0.72, 0.109),
    "rnamix | sc_cellbench_lines": (0.97, 0.077),
}
METRICS = ["per_type_r", "rmse", "rmse_skill", "ccc", "pooled_r"]
KEY = "hpvade_proportions"


def fit(row: Row, preset: str, seed: int, folder: Path | None = None) -> hp.HPVADE:
    """A trained model."""
    name = "".join(c if c.isalnum() else "_" for c in f"{row.reference}_{row.adata.n_vars}_{preset}_{seed}")
    if folder and (folder / name).exists():
        return hp.HPVADE.load(folder / name, accelerator="cpu")
    scvi.settings.seed = seed
    adata = row.adata.copy()
    batch_key = "dataset" if "dataset" in adata.obs and row.reference == BLOOD else None
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor", batch_key=batch_key)
    model = hp.HPVADE(adata, preset=preset)
    model.train(accelerator="cpu", enable_progress_bar=False)
    if folder:
        model.save(folder / name)
    return model


def score(row: Row, model: hp.HPVADE, **options) -> tuple[pd.DataFrame, object]:
    """Metrics of the model, of NNLS and of the constant; and the bulk with the answers."""
    bulk = row.bulk.copy()
    fractions = "rna" if row.truth_in_rna else "cell"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gene overlap of each row
        model.deconvolve(bulk, input_type=row.input_type, fractions=fractions, **options)
        if row.truth_in_rna:
            sizes = model.get_signature_matrix().sum() if model.preset == "default" else 1.0
            nnls = bulk.obsm[f"{KEY}_nnls"] * sizes
            bulk.obsm[f"{KEY}_nnls"] = nnls.div(nnls.sum(axis=1), axis=0)
    table = hp.tl.evaluate(bulk, row.truth_key, mapping=row.mapping)
    return table.rename(index={KEY: model.preset}), bulk


def ablations(row: Row, model: hp.HPVADE) -> dict[str, pd.Series]:
    """The default with one component changed at a time; no retraining."""
    changed = {
        "no gene weights": {"solver_kwargs": {"gene_weight": False}},
        "no gene factor": {"solver_kwargs": {"gene_factor": False}},
        "no prior": {"prior_weight": 0.0},
        "fused with the network": {"prior": "network"},
        "fused with the network, ten times the weight": {"prior": "network", "prior_weight": 1.0},
        "network alone": {"refine": False},
    }
    found = {name: score(row, model, **given)[0].iloc[0] for name, given in changed.items()}
    choose = HPVADEModule._markers

    def spread(module, signature, allowed):  # the genes that tell types apart best over all, as before 0.2
        cpm = signature * 1e6
        ranked = (cpm + 10).log().std(dim=1).masked_fill(~allowed, -1).argsort(descending=True)
        return ranked[: min(1000, int(allowed.sum()))].sort().values

    try:
        HPVADEModule._markers = spread
        found["1,000 genes by spread"] = score(row, model)[0].iloc[0]
    finally:
        HPVADEModule._markers = choose
    ratio, learned = model.module.size_ratio.clone(), model.module.log_change.data.clone()
    model.module.size_ratio.fill_(1.0)
    found["UMI cell sizes only"] = score(row, model)[0].iloc[0]
    model.module.size_ratio.copy_(ratio)
    model.module.log_change.data.zero_()
    found["signature not trained"] = score(row, model)[0].iloc[0]
    model.module.log_change.data.copy_(learned)
    return found


def bootstrap(row: Row, bulk, n_draws: int = 1000) -> tuple[str, str]:
    """95 % intervals of r and RMSE over samples."""
    predicted, truth = compare(bulk.obsm[KEY], bulk.obsm[row.truth_key], row.mapping, True)
    predicted, truth = predicted.to_numpy(), truth.to_numpy()
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(n_draws):
        chosen = rng.integers(len(truth), size=len(truth))
        draws.append(
            [metrics.per_type_r(predicted[chosen], truth[chosen]), metrics.rmse(predicted[chosen], truth[chosen])]
        )
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return f"{low[0]:.2f}-{high[0]:.2f}", f"{low[1]:.3f}-{high[1]:.3f}"


def cell(values: pd.Series) -> str:
    """Median and range over seeds."""
    m, lo, hi = values.median(), values.min(), values.max()
    return "-" if np.isnan(m) else f"{m:.3f}" + (f" [{lo:.2f}, {hi:.2f}]" if hi - lo > 5e-3 else "")


def show(results: pd.DataFrame, intervals: dict[str, tuple[str, str]]) -> None:
    print("\n| row | model | per-type r | best floor r | RMSE | best floor RMSE | RMSE skill | CCC | pooled r |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (name, model), part in results.groupby(["row", "model"], sort=False):
        r, rmse = (f"{x:.3f}" if model == "default" else "" for x in BEST.get(name, (np.nan, np.nan)))
        cells = [cell(part[metric]) for metric in METRICS]
        if model == "default" and name in intervals:
            cells[:2] = [f"{x} ({interval})" for x, interval in zip(cells[:2], intervals[name], strict=True)]
        line = [name.replace(" | ", " x "), model, cells[0], r, cells[1], rmse, *cells[2:]]
        print("| " + " | ".join(x.replace("nan", "") for x in line) + " |")


def summarise(results: pd.DataFrame) -> None:
    """Over METHOD's rows: medians against the floor and the constant, one line a model."""
    mid = results[results.row.isin(BEST)].groupby(["model", "row"], sort=False)[METRICS].median()
    best = pd.DataFrame(BEST, index=["r", "rmse"]).T
    print(
        "\n| model | rows | median r | median r - best floor | median RMSE / best floor | rows with skill > 0 "
        "| SD of CCC over seeds |"
    )
    print("|---|---|---|---|---|---|---|")
    spread = results[results.row.isin(BEST)].groupby(["model", "row"], sort=False)["ccc"].std(ddof=0)
    for model in mid.index.get_level_values("model").unique():
        part = mid.loc[model]
        floor = best.loc[part.index]
        r = part["per_type_r"].fillna(0)
        print(
            f"| {model} | {len(part)} | {r.median():.3f} | {(r - floor.r).median():+.3f} | "
            f"{(part.rmse / floor.rmse).median():.2f} | {(part.rmse_skill > 0).sum()} "
            f"| {spread.loc[model].median():.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--presets", nargs="+", default=["default", "spec"])
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--join", type=Path, nargs="+", help="outputs of earlier runs; nothing is run")
    args = parser.parse_args()
    if args.join:
        return summarise(pd.concat(map(pd.read_csv, args.join)))
    records, models, intervals = [], {}, {}
    for row in rows(args.folder, args.only, union=True) if args.folder else [shipped()]:
        if args.ablations and row.name not in BEST:  # their table is over these
            continue
        for preset in args.presets:
            for seed in range(args.seeds):
                key = (row.reference, row.adata.n_vars, preset, seed)
                start = time.perf_counter()
                model = models[key] = models.get(key) or fit(row, preset, seed, args.models)
                table, bulk = score(row, model)
                found = dict(table.iterrows())
                if args.ablations and preset == "default":
                    found |= ablations(row, model)
                if preset == "default" and seed == 0:
                    intervals[row.name] = bootstrap(row, bulk)
                for name, values in found.items():
                    records.append({"row": row.name, "model": name, "seed": seed, **values[METRICS]})
                print(
                    f"{row.name} {preset} seed {seed}: r {table.loc[preset, 'per_type_r']:.3f} "
                    f"RMSE {table.loc[preset, 'rmse']:.3f} platform {bulk.uns[KEY]['platform_distance']:.2f} "
                    f"{time.perf_counter() - start:.0f} s",
                    flush=True,
                )
    results = pd.DataFrame(records).drop_duplicates(["row", "model", "seed"])
    if args.output:
        results.to_csv(args.output, index=False)
    print("\nmedian over seeds [range over seeds] (95 % bootstrap over samples, first seed)")
    show(results, intervals)
    if args.folder:
        summarise(results)


if __name__ == "__main__":
    main()
