from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import pandas as pd
from scipy import sparse

from ..io._backed import write_blocks
from ..models.cvae._h5_batches import H5Batches


def read_h5_batches(
    folder: str | Path,
    *,
    obs_csv: str | Path | None = None,
    max_cells_per_batch: int | None = None,
    max_cells: int | None = None,
    genes: Sequence[str] | None = None,
    backed: str | Path | None = None,
) -> ad.AnnData:
    """Read a folder of HDF5 files ``batch_*.h5`` into one AnnData.

    Every file holds `X` (cells x genes, counts), `genes`, `cells` (barcodes), and in the group `obs` values per cell:
    `gene_count`, `umi_count`, `SRX_accession`, `cell_type`, `perturbation`, and any others. Genes are aligned by name
    to the first file.

    Parameters
    ----------
    folder
        The folder.
    obs_csv
        Table with barcodes in its first column; its columns are added to `obs`, and replace those of the files.
    max_cells_per_batch
        Cells to take from each file, the first ones; all when None.
    max_cells
        Cells to take in all, the first ones; what comes after them is not read.
    genes
        Names of the genes to take, in that order; all when None.
    backed
        Name of an h5ad file to write, a block of cells in memory at a time; the AnnData returned then reads its counts
        from there, also in training. It must not exist.

    Returns
    -------
    Cells x genes, counts as CSR float32; text columns of `obs` are categories.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or no ``batch_*.h5`` in it.
    KeyError
        A file lacks `X`, `genes` or `cells`, or the table a cell.
    ValueError
        Files differ in their genes, lack some of those asked for, or hold a barcode twice; shapes disagree.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.pp.read_h5_batches("batches/", max_cells_per_batch=5000)  # doctest: +SKIP
    """
    if backed is not None and Path(backed).exists():
        raise ValueError(f"{backed} exists; expected the name of a new file.")
    cells = H5Batches(
        folder, obs_csv=obs_csv, max_cells_per_batch=max_cells_per_batch, max_cells=max_cells, genes=genes
    )
    obs = cells.obs.copy()
    for name in obs.select_dtypes(["object", "string"]):
        obs[name] = pd.Categorical(obs[name].astype(str))
    var = pd.DataFrame(index=pd.Index(cells.genes))
    try:
        blocks = (sparse.csr_matrix(block) for block in cells.blocks())
        if backed is None:
            return ad.AnnData(sparse.vstack(list(blocks), format="csr"), obs=obs, var=var)
        return write_blocks(Path(backed), blocks, obs, var)
    finally:
        cells.close()
