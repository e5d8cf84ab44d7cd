from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..models.cvae._h5_batches import H5Batches


def read_h5_batches(
    folder: str | Path,
    *,
    obs_csv: str | Path | None = None,
    max_cells_per_batch: int | None = None,
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
    backed
        Name of an h5ad file to write, one batch in memory at a time; the AnnData returned then reads its counts from
        there, also in training. It must not exist.

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
        Files differ in their genes or hold a barcode twice; shapes disagree.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.pp.read_h5_batches("batches/", max_cells_per_batch=5000)  # doctest: +SKIP
    """
    if backed is not None and Path(backed).exists():
        raise ValueError(f"{backed} exists; expected the name of a new file.")
    cells = H5Batches(folder, obs_csv=obs_csv, max_cells_per_batch=max_cells_per_batch)
    obs = cells.obs.copy()
    for name in obs.select_dtypes(["object", "string"]):
        obs[name] = pd.Categorical(obs[name].astype(str))
    var = pd.DataFrame(index=pd.Index(cells.genes))
    try:
        blocks = (sparse.csr_matrix(block) for block in cells.blocks())
        if backed is None:
            return ad.AnnData(sparse.vstack(list(blocks), format="csr"), obs=obs, var=var)
        empty = sparse.csr_matrix((0, len(var)), dtype=np.float32)
        return _write_backed(Path(backed), blocks, empty, obs, var)
    finally:
        cells.close()


def _write_backed(path: Path, blocks, empty, obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
    """Append blocks of rows to the matrix of a new h5ad file, and open it."""
    import h5py

    from ..io._atomic import install_file, partial

    with partial(path) as part:
        with h5py.File(part, "w") as file:
            ad.io.write_elem(file, "X", empty)
            matrix = ad.io.sparse_dataset(file["X"])
            for block in blocks:
                matrix.append(block)
            ad.io.write_elem(file, "obs", obs)
            ad.io.write_elem(file, "var", var)
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        install_file(part, path)
    return ad.read_h5ad(path, backed="r")
