"""Every classical solver of `hp.tl.solve` on real bulk with measured truth, beside the constant predictor.

    python benchmarks/solvers.py DATA_FOLDER [--only hoek] [--genes N] [--output benchmarks/RESULTS_solvers.md]

DATA_FOLDER holds the development files and cohorts.json; without it the shipped data are used. Every row is a cohort
with a reference; the solvers are deterministic, so there are no seeds. Seconds are processor time of the whole call:
reading the reference, aligning the bulk, the baseline that each call adds, the solver. A method that a reference does
not allow has no row, and the reason is printed.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from _cohorts import Row, rows, shipped

import hpvade as hp

VARIANTS = {
    "nnls, all genes": {"method": "nnls", "genes": None},
    "nnls": {"method": "nnls"},
    "rlr": {"method": "rlr"},
    "rlr, bisquare": {"method": "rlr", "loss": "bisquare"},
    "dwls": {"method": "dwls"},
    "music": {"method": "music"},
    "music, all genes": {"method": "music", "genes": None},
    "hspe": {"method": "hspe"},
    "instaprism": {"method": "instaprism"},
    "instaprism, all genes": {"method": "instaprism", "genes": None},
    "robust": {"method": "robust"},
    "robust, no gene factor": {"method": "robust", "gene_factor": False},
}
HEADER = "| row | method | per-type r | RMSE | RMSE skill | CCC | s |\n|---|---|---|---|---|---|---|"
METRICS = ["per_type_r", "rmse", "rmse_skill", "ccc", "seconds"]


def scores(row: Row, genes: int | str) -> Iterator[dict]:
    """One record per method, then the constant."""
    fractions = "rna" if row.truth_in_rna else "cell"
    reading = {"labels_key": "cell_type", "sample_key": "donor", "input_type": row.input_type, "device": "cpu"}
    constant = None
    for name, options in VARIANTS.items():
        bulk, start = row.bulk.copy(), time.process_time()
        try:
            hp.tl.solve(
                bulk, row.adata, key_added="solved", fractions=fractions, **reading | {"genes": genes} | options
            )
        except ValueError as error:
            print(f"{row.name}: no {name}: {error}", flush=True)
            continue
        seconds = time.process_time() - start
        table = hp.tl.evaluate(bulk, row.truth_key, prediction_key="solved", mapping=row.mapping)
        constant = table.loc["constant"]
        yield {"row": row.name, "method": name, "seconds": seconds, **table.loc["solved"]}
    yield {"row": row.name, "method": "constant", **constant}


def line(name: str, method: str, values: pd.Series) -> str:
    """One line of the table."""
    cells = [
        "-" if pd.isna(value) else f"{value:.1f}" if metric == "seconds" else f"{value:.3f}"
        for metric, value in values.reindex(METRICS).items()
    ]
    return f"| {name.replace(' | ', ' x ')} | {method} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--genes", type=int, help="as many of largest spread; the markers of pairs when left out")
    parser.add_argument("--output", type=Path, help="markdown file for the tables")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the gene overlap of each row
    records, lines = [], [HEADER]
    print(HEADER)
    for row in rows(args.folder, args.only) if args.folder else [shipped()]:
        for record in scores(row, args.genes or "markers"):
            records.append(record)
            lines.append(line(record["row"], record["method"], pd.Series(record)))
            print(lines[-1], flush=True)
    results = pd.DataFrame(records)
    everywhere = results.groupby("method")["row"].nunique() == results["row"].nunique()
    lines += ["", "Medians over the rows:", "", HEADER]
    for method in results["method"].unique():
        of_method = results[results["method"] == method]
        name = "all rows" if everywhere[method] else f"{of_method['row'].nunique()} rows"
        lines.append(line(name, method, of_method[METRICS].median()))
    print("\n".join(lines[lines.index("Medians over the rows:") :]))
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
