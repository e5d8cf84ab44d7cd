"""Cells written to an h5ad file a block at a time, so that memory does not grow with them."""

from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from ._atomic import install_file, partial


def write_blocks(path: Path, blocks: Iterable[sparse.csr_matrix], obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
    """Append blocks of rows (cells x genes) to the matrix of a new h5ad file, CSR float32, and open it for reading.

    The file appears whole or not at all.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> obs, var = pd.DataFrame(index=["c1", "c2"]), pd.DataFrame(index=["a", "b", "c"])
    >>> with TemporaryDirectory() as folder:
    ...     blocks = (sparse.csr_matrix(np.full((1, 3), i, np.float32)) for i in (1, 2))
    ...     adata = write_blocks(Path(folder, "cells.h5ad"), blocks, obs, var)
    ...     values = adata.X[:].toarray().tolist()
    ...     adata.file.close()
    >>> values
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    with partial(path) as part:
        with h5py.File(part, "w") as file:
            ad.io.write_elem(file, "X", sparse.csr_matrix((0, len(var)), dtype=np.float32))
            matrix = ad.io.sparse_dataset(file["X"])
            for block in blocks:
                matrix.append(block)
            ad.io.write_elem(file, "obs", obs)
            ad.io.write_elem(file, "var", var)
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        install_file(part, path)
    return ad.read_h5ad(path, backed="r")
