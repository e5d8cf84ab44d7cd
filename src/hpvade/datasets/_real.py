from importlib.resources import as_file, files

import anndata as ad
import numpy as np


def pbmc_reference() -> ad.AnnData:
    """Labelled single cells: 10x Genomics PBMC 3k, 2638 cells of one healthy donor x 16579 genes.

    Returns
    -------
    A new object at each call: raw UMI counts in ``X`` (CSR, float32 holding integers) and in ``obs``

    - ``cell_type``: B, CD4 T, CD8 T, DC, Mono, NK, Platelet
    - ``cell_type_fine``: the nine labels as published, which split CD4 T (naive, memory) and Mono (CD14+, FCGR3A+)
    - ``donor``: one value.

    ``uns`` holds accession, licence and provenance. The labels are annotated clusters, not measured identities.

    References
    ----------
    10x Genomics, *3k PBMCs from a Healthy Donor* (CC BY 4.0); labels of the Seurat tutorial through clustifyr (MIT).

    Examples
    --------
    >>> import hpvade as hp
    >>> hp.datasets.pbmc_reference().shape
    (2638, 16579)
    """
    return _read("pbmc3k.h5ad")


def blood_anchor() -> ad.AnnData:
    """Single cells whose labels were measured with surface proteins: 1336 PBMC x 6289 genes (Hao 2021, CITE-seq).

    Meant for :func:`hpvade.pp.transfer_labels` and :func:`hpvade.tl.check_labels`: the labels hold, CD4 and CD8 T cells
    above all. It is a poor reference of its own, because many marker genes are missing.

    Returns
    -------
    A new object at each call: raw UMI counts in ``X`` (CSR, float32 holding integers) and in ``obs``

    - ``cell_type``: B, CD4 T, CD8 T, DC, ILC, Mono, NK, Platelet, named as in :func:`pbmc_reference`
    - ``cell_type_fine``: eleven types; plasma cells, regulatory T cells and plasmacytoid DC have labels of their own
    - ``donor``: P1 to P8 for 268 cells, "unknown" for the others.

    ``uns`` holds accession, licence and provenance. Types are about equally frequent by choice, so their fractions say
    nothing about blood, and library sizes cover the 6289 genes only.

    References
    ----------
    Hao et al. 2021, *Integrated analysis of multimodal single-cell data*, Cell 184(13): 3573-3587 (GSE164378).

    Examples
    --------
    >>> import hpvade as hp
    >>> hp.datasets.blood_anchor().obs["cell_type"].value_counts()["CD8 T"]
    np.int64(150)
    """
    return _read("hao_anchor.h5ad")


def pbmc_bulk() -> ad.AnnData:
    """Bulk RNA-seq with measured truth: 8 PBMC samples x 19373 genes, two donors on four days (GSE64655).

    Returns
    -------
    A new object at each call, samples x genes, TPM in ``X`` (dense float32), with

    - ``obsm["proportions"]``: fractions of cells by flow cytometry (T, Mono, B, DC, NK) as published; rows sum to
      0.91-0.95, because the remaining cells were not measured
    - ``uns["proportions_mapping"]``: which types of :func:`pbmc_reference` add up to which column
    - ``obs``: ``sample``, ``donor``, ``day`` after influenza vaccination.

    ``uns`` holds units, accession, licence and provenance. With two donors, a correlation within one type is mostly a
    contrast of the two.

    References
    ----------
    Hoek et al. 2015, *A cell-based systems biology assessment of human blood to monitor immune responses after
    influenza vaccination*, PLoS ONE 10(2): e0118528.

    Examples
    --------
    >>> import hpvade as hp
    >>> bulk = hp.datasets.pbmc_bulk()
    >>> list(bulk.obsm["proportions"].columns)
    ['T', 'Mono', 'B', 'DC', 'NK']
    """
    return _read("hoek_gse64655.h5ad")


def _read(name: str) -> ad.AnnData:
    """Read a shipped file; counts are small integers on disk and float32 in memory."""
    with as_file(files(__package__) / "data" / name) as path:
        adata = ad.read_h5ad(path)
    adata.X = adata.X.astype(np.float32)
    return adata
