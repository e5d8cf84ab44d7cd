"""Simulated bulk from held-out donors, and how far real bulk lies from each reference's platform.

    python benchmarks/heldout.py DATA_FOLDER [--seeds 3]

For every reference the cells of the donors (with fewer than three: the cells) that training held out are mixed into
100 samples of 1,000 cells. The table shows HPVADE's network alone, HPVADE, NNLS and the constant predictor, medians
over seeds. `platform` is the distance that decides how far published cell sizes are trusted; no truth enters it.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import scvi
from _cohorts import read_reference

import hpvade as hp

REFERENCES = ["ref_pbmc3k", "kang_ctrl_stim:ctrl", "sc_pbmc_7batches_computed_labels", "ref_kang_ctrl_5donors"]
REAL = {"hoek": "bulk_hoek_gse64655", "finotello": "bulk_finotello_gse107572"}
METRICS = ["per_type_r", "rmse", "mae"]


def platform_distance(model: hp.HPVADE, bulk: ad.AnnData) -> float:
    bulk = bulk.copy()
    model.deconvolve(bulk)
    return bulk.uns["hpvade_proportions"]["platform_distance"]


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    records, distances = [], []
    for name in REFERENCES:
        for seed in range(args.seeds):
            adata = read_reference(args.folder, name)
            scvi.settings.seed = seed
            hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
            model = hp.HPVADE(adata)
            model.train(accelerator="cpu", enable_progress_bar=False)
            held_out = model.simulate_bulk(100, indices=model.validation_indices, seed=seed)
            table = model.evaluate(held_out)
            network = model.evaluate(held_out, refine=False)
            for label, row in (("network alone", network.iloc[0]), ("hpvade", table.iloc[0])):
                records.append({"reference": name, "model": label, **row[METRICS]})
            records += [{"reference": name, "model": m, **table.loc[m, METRICS]} for m in ("nnls", "constant")]
            distances.append({"reference": name, "bulk": "held-out", "platform": platform_distance(model, held_out)})
            if name != "ref_kang_ctrl_5donors":  # 2,511 filtered genes
                for cohort, file in REAL.items():
                    bulk = ad.read_h5ad(args.folder / f"{file}.h5ad")
                    distances.append({"reference": name, "bulk": cohort, "platform": platform_distance(model, bulk)})
    table = pd.DataFrame(records).groupby(["reference", "model"], sort=False).median()
    table["mae / constant"] = (
        table["mae"]
        / table.xs("constant", level="model")["mae"].reindex(table.index.get_level_values("reference")).to_numpy()
    )
    print(table.round(4).to_string(na_rep="-"))
    print()
    print(pd.DataFrame(distances).groupby(["reference", "bulk"], sort=False).median().unstack().round(2).to_string())


if __name__ == "__main__":
    main()
