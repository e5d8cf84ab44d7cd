"""Make the blood reference and the blood model that the package ships.

    python benchmarks/make_blood.py DATA_FOLDER

Sums of two studies of `benchmarks/studies.py`: PBMC 3k with T and NK cells relabelled by the anchor, and the sums of
Hao et al. on all genes. The anchor's own cells are some of Hao's on a quarter of the genes: as a study of their own
they would count twice. No bulk and no truth of a cohort enters.
"""

import argparse
import json
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scvi
from studies import studies

import hpvade as hp

SHIPPED = {"pbmc3k": "PBMC 3k", "hao sums": "Hao"}
TARGET = Path(hp.datasets.__file__).parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    parts = studies(folder, json.loads((folder / "cohorts.json").read_text())["classes"])
    chosen = {SHIPPED[name]: parts[name] for name in SHIPPED}
    joined = ad.concat(chosen, join="outer", fill_value=0, label="study", index_unique="|")
    joined.obs = joined.obs.rename(columns={"type": "cell_type"})[["study", "donor", "cell_type", "n_cells"]]
    joined.obs["n_cells"] = joined.obs["n_cells"].astype(int)
    joined.obs["donor"] = joined.obs["donor"].str.partition(":")[2]
    for column in ("study", "donor", "cell_type"):
        joined.obs[column] = joined.obs[column].astype(str).astype("category")
    joined.X = joined.X.astype(np.float32)
    joined.uns["source"] = (
        "10x Genomics PBMC 3k (CC BY 4.0); GSE164378 through ComputationalBiomedicineGroup/Rectangle (BSD-3)"
    )
    joined.write_h5ad(TARGET / "blood_reference.h5ad", compression="gzip", compression_opts=9)

    reference = hp.datasets.blood_reference()
    keys = {"sample_key": "donor", "study_key": "study", "n_cells_key": "n_cells"}
    hp.HPVADE.setup_anndata(reference, "cell_type", **keys)
    scvi.settings.seed = 0
    model = hp.HPVADE(reference, n_genes=200)  # sums train no network
    model.train(accelerator="cpu")
    shutil.rmtree(TARGET / "blood_model", ignore_errors=True)
    model.save(TARGET / "blood_model", save_anndata=False)


if __name__ == "__main__":
    main()
