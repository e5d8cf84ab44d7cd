"""What every driver reads and writes; imports nothing but NumPy, pandas and AnnData."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import pandas as pd


@dataclass
class Input:
    """One row of the benchmark."""

    adata: ad.AnnData  # cells x genes, counts, labels in obs["cell_type"]
    bulk: pd.DataFrame  # samples x genes, linear, per million
    truth_in_rna: bool
    steps: int | None
    output: Path


def read() -> Input:
    """The row named on the command line: ``python run_PEER.py ROW_FOLDER OUTPUT.csv [--steps N]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    bulk = ad.read_h5ad(args.folder / "bulk.h5ad").to_df().astype(float)
    adata = ad.read_h5ad(args.folder / "reference.h5ad")
    options = json.loads((args.folder / "row.json").read_text())
    return Input(adata, bulk, options["truth_in_rna"], args.steps, args.output)


def write(row: Input, proportions: pd.DataFrame) -> None:
    """Samples x types, as the peer gave them."""
    proportions = pd.DataFrame(proportions)
    proportions.index = row.bulk.index
    proportions.to_csv(row.output)
