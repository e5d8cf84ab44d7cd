"""Where do the defaults give confidently wrong answers? Beds that no default was chosen on, all with exact truth.

    python benchmarks/stress.py DATA_FOLDER [--parts studies platform cohort composition reference real]
                                [--prior-weight W] [--seed 0] [--all] [--output FILE.csv]

One table: medians of each part, and the cases that fail. The first r and RMSE are those of the defaults of HPVADE with
no network trained, `solve` those of tl.solve(method="robust"); r is the Fisher mean over types of the correlation over
samples, undefined ones count as 0. `cover`: share of the truth inside the 90 % intervals. `flagged`, `said`: share of
samples that tl.diagnose flags, and what it says of the cohort. `fails`: loses to NNLS, or to the constant (which knows
the truth's mean); intervals cover less than 75 %; silent on a wrong answer (RMSE above the constant's or .1); false
alarm, something said of a right answer (RMSE below .05, r above .95).
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _beds import PARTS, Case
from _records import markdown

import hpvade as hp
from hpvade.evaluation import _metrics as metrics

TAGS = {  # how a message of the cohort begins or goes on: its name
    "There is one sample": "one sample", "The bulk has genes with": "genes", "are nearly proportional": "proportional",
    "ill-conditioned": "condition", "unusually far": "far", "of the gene factor looks like": "factor",
    "have much expression": "unexplained", "All samples are alike": "alike",
    "The mean composition is far": "drift", "express markers of": "missing", "cannot be told apart here": "merge",
    "leaves open how much": "open", "answers unlike": "study", "found at a part of": "few cells",
}  # fmt: skip
KEY = "hpvade_proportions"


def train(adata: ad.AnnData, seed: int) -> hp.HPVADE:
    scvi.settings.seed, adata = seed, adata.copy()  # the reference's folds of cells are drawn
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    model = hp.HPVADE(adata)
    model.train(max_epochs=0, accelerator="cpu", enable_progress_bar=False)
    return model


def measure(case: Case, model: hp.HPVADE) -> dict:
    """One row of the table."""
    judged = slice(None) if case.judged is None else case.judged
    bulk, fractions = case.bulk.copy(), "rna" if case.in_rna else "cell"
    model.deconvolve(bulk, fractions=fractions, **case.options)
    hp.tl.solve(
        bulk,
        case.reference,
        labels_key="cell_type",
        sample_key="donor",
        fractions=fractions,
        device="cpu",
        **case.options,
    )
    tables = {"": bulk.obsm[KEY], "solve ": bulk.obsm["robust_proportions"], "NNLS ": bulk.obsm[f"{KEY}_nnls"]}
    record = {"part": case.part, "case": case.name, "n": bulk.n_obs}
    for name, table in tables.items():
        found, truth = (x.to_numpy()[judged] for x in hp.tl.compare(table, bulk.obsm[case.truth], case.mapping))
        several = len(truth) > 1
        record[f"{name}r"] = metrics.per_type_r(found, truth) if several else np.nan
        record[f"{name}RMSE"] = metrics.rmse(found, truth)
    record["constant RMSE"] = metrics.rmse(metrics.constant(truth), truth) if several else np.nan
    bounds = model.get_proportion_intervals(bulk, mapping=case.mapping, fractions=fractions, **case.options)
    groups = list(hp.tl.compare(table, bulk.obsm[case.truth], case.mapping)[1])
    low, high = (bounds.xs(b, axis=1, level=1)[groups].to_numpy()[judged] for b in ("lower", "upper"))
    record |= {"cover": ((truth >= low - 1e-9) & (truth <= high + 1e-9)).mean(), "width": (high - low).mean()}
    reading = {k: v for k, v in case.options.items() if k != "batch_key"}
    hp.tl.diagnose(bulk, model, **reading)
    messages = [
        next((tag for key, tag in TAGS.items() if key in text), text[:40]) for text in bulk.uns["hpvade_qc"]["messages"]
    ]
    flagged = bulk.obs["hpvade_qc_flagged"].to_numpy()[judged].mean()
    record["platform"] = bulk.uns[KEY]["platform_distance"]
    record["flagged"] = flagged
    record["said"] = ", ".join(dict.fromkeys(messages))
    return record | {"fails": ", ".join(failures(record))}


def failures(row: dict) -> Iterator[str]:
    if row["RMSE"] > row["NNLS RMSE"] or row["r"] < row["NNLS r"] - 0.02:
        yield "NNLS"
    if row["RMSE"] > row["constant RMSE"]:
        yield "constant"
    if row["cover"] < 0.75:
        yield "cover"
    said = row["said"] or row["flagged"] >= 0.5
    wrong = row["RMSE"] > min(np.nan_to_num(row["constant RMSE"], nan=1), 0.1)
    if wrong and not said:
        yield "silent"
    if said and row["RMSE"] < 0.05 and not row["r"] < 0.95:
        yield "false alarm"


def set_prior_weight(weight: float) -> None:
    """Another weight of the prior in everything that is asked here."""
    from hpvade.models.hpvade import _estimate, _intervals

    _estimate.PRIOR_WEIGHT = _intervals.PRIOR_WEIGHT = weight
    _estimate.estimates.__wrapped__.__kwdefaults__["prior_weight"] = weight
    _estimate.estimate_shares.__wrapped__.__kwdefaults__["anchor_weight"] = weight
    hp.HPVADE.deconvolve.__kwdefaults__["prior_weight"] = weight


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--prior-weight", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--all", action="store_true", help="print the cases without a failure, too")
    parser.add_argument("--output", type=Path, help="CSV file of all cases")
    args = parser.parse_args()
    if args.prior_weight is not None:
        set_prior_weight(args.prior_weight)
    records, models = [], {}
    for part in args.parts:
        for case in PARTS[part](args.folder, args.seed):
            if args.only not in case.name:
                continue
            if id(case.reference) not in models:  # the reference is kept beside its model, so that its id stays its own
                models[id(case.reference)] = case.reference, train(case.reference, args.seed)
            records.append(measure(case, models[id(case.reference)][1]))
        models.clear()
    table = pd.DataFrame(records)
    if args.output:
        table.to_csv(args.output, index=False)
    print(markdown(shown(table, whole=args.all)))


def shown(table: pd.DataFrame, whole: bool) -> pd.DataFrame:
    """Medians and counts of every part, and the cases that fail in more than a needless message; all with `whole`."""
    parts = table.groupby("part", sort=False)
    medians = parts.median(numeric_only=True).assign(case=[f"**{part}**, {len(found)} cases" for part, found in parts])
    counts = [found["fails"].str.split(", ").explode().replace("", np.nan).value_counts() for _, found in parts]
    medians["fails"] = [", ".join(f"{name} {n}" for name, n in count.items()) for count in counts]
    medians["said"] = ""
    blocks = []
    for part, found in parts:
        listed = found if whole else found[~found["fails"].isin(["", "false alarm"])]
        blocks += [medians.loc[[part]], listed]
    return pd.concat(blocks, ignore_index=True)[[c for c in table if c != "part"]].set_index("case").astype({"n": int})


if __name__ == "__main__":
    main()
