"""What training buys: accuracy after 0, 100 and 400 optimisation steps, beside `tl.solve`, NNLS and the constant.

    python benchmarks/training.py DATA_FOLDER [--steps 0 100 400] [--seeds 3] [--only hoek]

`network` is the answer of the network alone, `latent` the share of cells whose ten nearest neighbours in the latent
space are mostly of their type. Medians over seeds.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import scvi
from _cohorts import rows
from sklearn.neighbors import KNeighborsClassifier

import hpvade as hp
from hpvade.models.hpvade import _training

KEY = "hpvade_proportions"


def answer(row, prediction: str, bulk) -> tuple[float, float]:
    """Per-type r and RMSE."""
    table = hp.tl.evaluate(bulk, row.truth_key, mapping=row.mapping, prediction_key=prediction)
    return tuple(table.loc[prediction, ["per_type_r", "rmse"]])


def measure(row, steps: list[int], seed: int):
    """One record per number of steps, and one for `tl.solve`."""
    fractions = "rna" if row.truth_in_rna else "cell"
    options = {"input_type": row.input_type, "fractions": fractions}
    bulk = row.bulk.copy()
    if seed == 0:
        hp.tl.solve(bulk, row.adata, method="robust", labels_key="cell_type", sample_key="donor", device="cpu",
                    key_added="solved", **options)  # fmt: skip
        table = hp.tl.evaluate(bulk, row.truth_key, mapping=row.mapping, prediction_key="solved")
        for name, index in (("tl.solve", "solved"), ("NNLS", "nnls"), ("constant", "constant")):
            yield {
                "row": row.name,
                "model": name,
                "r": table.loc[index, "per_type_r"],
                "rmse": table.loc[index, "rmse"],
            }
    for n in steps:
        scvi.settings.seed = seed
        adata = row.adata.copy()
        hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
        model = hp.HPVADE(adata)
        _training._STEPS = n
        start = time.process_time()
        model.train(None if n else 0, accelerator="cpu", enable_progress_bar=False)
        cpu = time.process_time() - start
        record = {"row": row.name, "model": f"{n} steps", "cpu": cpu}
        model.deconvolve(bulk, **options)
        record["r"], record["rmse"] = answer(row, KEY, bulk)
        if n:
            model.deconvolve(bulk, refine=False, key_added="net", **options)
            record["network r"], record["network rmse"] = answer(row, "net", bulk)
            z, types = model.get_latent_representation(), adata.obs["cell_type"].to_numpy()
            train, held_out = model.train_indices, model.validation_indices
            near = KNeighborsClassifier(10).fit(z[train], types[train])
            record["latent"] = (near.predict(z[held_out]) == types[held_out]).mean()
        yield record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 400])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    records = [
        record
        for row in rows(args.folder, args.only)
        for seed in range(args.seeds)
        for record in measure(row, args.steps, seed)
    ]
    table = pd.DataFrame(records).groupby(["row", "model"], sort=False).median()
    print(table.round(3).to_string())
    solved = table.xs("tl.solve", level="model")["rmse"]
    for n in args.steps:
        found = table.xs(f"{n} steps", level="model")
        r, rmse, cpu = found["r"].median(), found["rmse"].median(), found["cpu"].median()
        ratio = found["rmse"] / solved
        print(
            f"{n} steps: RMSE over tl.solve's: median {ratio.median():.3f}, largest {ratio.max():.3f}; "
            f"median r {r:.3f}, RMSE {rmse:.4f}, CPU {cpu:.1f} s"
        )


if __name__ == "__main__":
    main()
