"""Does `hp.tl.diagnose` tell a missing type from another platform? Each type is withheld from the reference in turn.

    python benchmarks/verdict.py DATA_FOLDER [--only "PBMC 3k"]

Labels are repaired by the anchor; no truth enters. A sample is detected if `missing` names the withheld type (CD4 T and
CD8 T together: T), or if `unexplained` passes its limit. With the complete reference both are false alarms, but for
neutrophils in Finotello's samples, which have them, while no reference does.
"""

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
from labels import reference

import hpvade as hp
from hpvade.tl._verdict import UNEXPLAINED

REFERENCES = ("PBMC 3k, repaired", "Kang control, repaired", "7 batches, repaired", "Hao cells")
COHORTS = ("hoek", "finotello", "newman_full")
WITHHELD = {"-": [], "B": ["B"], "T": ["CD4 T", "CD8 T"], "CD4 T": ["CD4 T"], "CD8 T": ["CD8 T"]}
WITHHELD |= {"NK": ["NK"], "Mono": ["Mono"]}


def model_without(adata: ad.AnnData, types: list[str]) -> hp.HPVADE:
    adata = adata[~adata.obs["cell_type"].isin(types).to_numpy()].copy()
    hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor")
    model = hp.HPVADE(adata)
    model.train(max_epochs=0, accelerator="cpu")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="references whose name holds this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    config, rows = json.loads((arguments.folder / "cohorts.json").read_text())["cohorts"], []
    for name in REFERENCES:
        if arguments.only not in name:
            continue
        adata = hp.datasets.blood_anchor() if name == "Hao cells" else reference(arguments.folder, name)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        adata.obs["donor"] = adata.obs["donor"].astype(str) if "donor" in adata.obs else "one"
        models = {withheld: model_without(adata, types) for withheld, types in WITHHELD.items()}
        for cohort in COHORTS:
            bulk = ad.read_h5ad(arguments.folder / f"{config[cohort]['bulk']}.h5ad")
            scale = "log2" if config[cohort].get("transform") == "exp2" else "auto"
            for withheld, model in models.items():
                obs = hp.tl.diagnose(bulk, model, input_type=scale, copy=True).obs
                named = obs["hpvade_qc_missing"].str.split(", ")
                others = pd.Series([x for some in named for x in some if x and x != withheld]).value_counts()
                rows.append(
                    {
                        "reference": name,
                        "cohort": cohort,
                        "withheld": withheld,
                        "named": named.map(lambda some, w=withheld: w in some).mean() if withheld != "-" else None,
                        "named, though not withheld": ", ".join(f"{k} {n / len(obs):.0%}" for k, n in others.items()),
                        "unexplained": obs["hpvade_qc_unexplained"].median(),
                        "beyond its limit": (obs["hpvade_qc_unexplained"] > UNEXPLAINED).mean(),
                        "unknown beyond its limit": (obs["hpvade_qc_unknown"] > 0.2).mean(),
                        "percentile beyond its limit": (obs["hpvade_qc_percentile"] >= 99).mean(),
                    }
                )
    table = pd.DataFrame(rows)
    table["named"] = table["named"].map(lambda x: "-" if pd.isna(x) else f"{x:.0%}")
    for column in [name for name in table if name.endswith("its limit")]:
        table[column] = table[column].map("{:.0%}".format)
    print(table.to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
