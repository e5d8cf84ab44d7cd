from importlib.resources import files
from pathlib import Path

import anndata as ad

from ._real import _read


def blood_reference() -> ad.AnnData:
    """Blood from two studies, as sums of cells: 17 rows x the union of their genes.

    For :meth:`hpvade.HPVADE.setup_anndata` with ``study_key="study"``, ``sample_key="donor"`` and
    ``n_cells_key="n_cells"``.

    Returns
    -------
    A new object at each call: sums of UMI counts in ``X`` (CSR, float32), zero for genes that a study lacks, and in
    ``obs``

    - ``cell_type``: B, CD4 T, CD8 T, DC, Mono, NK, Plasma cells, Platelet
    - ``study``: PBMC 3k, with T and NK cells relabelled by :func:`blood_anchor`; and Hao, the published sums of Hao et
      al. on all genes, which carry the anchor's counts per cell
    - ``donor`` and ``n_cells``, the cells in each row (nominal for the published sums).

    References
    ----------
    10x Genomics, *3k PBMCs from a Healthy Donor* (CC BY 4.0); Hao et al., Cell 184 (2021), GSE164378. The data card
    says how it was made.

    Examples
    --------
    >>> import hpvade as hp
    >>> sorted(hp.datasets.blood_reference().obs["study"].unique())
    ['Hao', 'PBMC 3k']
    """
    return _read("blood_reference.h5ad")


def blood_model() -> Path:
    """Folder of a model made of :func:`blood_reference`, for :meth:`hpvade.HPVADE.load`.

    It deconvolves bulk of blood mononuclear cells without a reference of your own; whole blood has neutrophils, which
    no single-cell study here has. It has no networks.

    Examples
    --------
    >>> import hpvade as hp
    >>> model = hp.HPVADE.load(hp.datasets.blood_model(), accelerator="cpu")
    >>> model.deconvolve(hp.datasets.pbmc_bulk()).shape
    (8, 8)
    """
    return Path(str(files("hpvade") / "datasets" / "data" / "blood_model"))
