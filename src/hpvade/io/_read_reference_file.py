"""`hpvade.io.read_reference`: labelled cells from the files that people have."""

import re
import warnings
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.io import mmread

from .._keys import Keys
from .._text import warn
from ._annotation import match_rows, read_obs
from ._gene_map import add_up
from ._kinds import as_path, file_kind, read_any_cells, read_whole
from ._layout import lay_out


def read_reference(
    path: str | PathLike,
    obs: str | PathLike | pd.DataFrame | None = None,
    *,
    genes: Literal["auto", "rows", "columns"] = "auto",
) -> AnnData:
    r"""Read single cells, and join a table of their labels.

    Parameters
    ----------
    path
        An h5ad file or zarr folder; a 10x folder (matrix, features or genes, barcodes; also with a prefix, as GEO has
        them) or its ``matrix.mtx``; a 10x h5 file; or a table (csv, tsv, xlsx; gzipped or not) of cells and genes.
        ``"cells.h5mu/rna"`` is one modality of a MuData, with the columns that only the MuData's obs has.
    obs
        A table with one row per cell, or its file: cells are found in the column that holds most of their names.
    genes
        Whether genes are the rows or the columns of a table; told by their names by default.

    Returns
    -------
    Cells x genes; tables and 10x files in CSR with float32. Genes of one name in 10x files are added up. With `obs`,
    cells that the table lacks are left out, with a warning. ``uns["hpvade_read"]`` holds the ``file`` and ``notes``.

    Raises
    ------
    TypeError
        `path` is no name, such as a table in memory.
    FileNotFoundError
        There is no such file.
    ValueError
        The file cannot be read, or `obs` shares no cell with it or names a cell twice with different labels.

    Warns
    -----
    UserWarning
        Cells have no row in `obs`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "cells.csv").write_text("gene,c1,c2\nCD3E,3,0\nCD19,0,2\nACTB,9,8\n")
    ...     _ = Path(folder, "labels.csv").write_text("barcode,cell_type\nc2,B\nc1,T\n")
    ...     adata = read_reference(Path(folder, "cells.csv"), Path(folder, "labels.csv"))
    >>> adata.obs["cell_type"].tolist()
    ['T', 'B']
    """
    path = as_path(path)
    kind = file_kind(_folder_of_matrix(path))
    if kind in ("h5ad", "zarr", "mudata"):
        adata = read_whole(path, kind)
    elif kind in ("10x_h5", "10x_mtx"):
        adata = _read_10x(path, kind)
    elif kind == "folder":
        listed = ", ".join(sorted(file.name for file in path.iterdir())[:6]) or "nothing"
        raise ValueError(
            f"{path} is a folder with {listed}; expected a zarr folder, or matrix.mtx, features, barcodes."
        )
    else:
        layout = lay_out(read_any_cells(path, kind), path.name, path.stem, genes)
        values = sparse.csr_matrix(layout.values.astype(np.float32))
        adata = AnnData(values, obs=layout.obs, var=layout.var)
        adata.uns[Keys.READ] = {"file": path.name, "notes": layout.notes}
    return adata if obs is None else _with_obs(adata, obs)


def _folder_of_matrix(path: Path) -> Path:
    return path.parent if re.search(r"matrix\.mtx(\.gz)?$", path.name) and path.is_file() else path


def _read_10x(path: Path, kind: str) -> AnnData:
    import scanpy as sc

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            if kind == "10x_h5":
                adata = sc.read_10x_h5(path)
            else:
                folder, matrix = _folder_of_matrix(path), _matrix_in(path)
                prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", matrix.name)
                plain = matrix.suffix != ".gz" and (folder / f"{prefix}features.tsv").exists()
                read = _read_plain if plain else partial(sc.read_10x_mtx, make_unique=False)
                adata = read(folder, prefix=prefix or None)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as 10x {'h5' if kind == '10x_h5' else 'matrix, features and barcodes'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    notes = [f"10x {'h5' if kind == '10x_h5' else 'folder'}"]
    twice = int(adata.var_names.duplicated().sum())
    if twice:
        adata = add_up(adata, adata.var_names)
        notes.append(f"{twice} names of genes came again and were added up")
    adata.uns[Keys.READ] = {"file": path.name, "notes": notes}
    return adata


def _matrix_in(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*matrix.mtx*"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:4])
        raise ValueError(f"{len(found)} matrices ({names}); pass the path of the one to read.")
    return found[0]


def _read_plain(folder: Path, prefix: str | None) -> AnnData:
    """Uncompressed matrix, features and barcodes, as STARsolo writes them and scanpy does not read them."""
    matrix, features, barcodes = (
        folder / f"{prefix or ''}{name}" for name in ("matrix.mtx", "features.tsv", "barcodes.tsv")
    )
    X = sparse.csr_matrix(mmread(matrix)).T.tocsr()
    var = pd.read_csv(features, sep="\t", header=None, dtype=str, keep_default_na=False)
    cells = pd.read_csv(barcodes, sep="\t", header=None, dtype=str, keep_default_na=False)[0]
    if X.shape != (len(cells), len(var)):
        raise ValueError(
            f"the matrix has {X.shape[1]} x {X.shape[0]} values for {len(var)} features, {len(cells)} cells"
        )
    names = var[1] if var.shape[1] > 1 else var[0]
    adata = AnnData(X, pd.DataFrame(index=cells.tolist()), pd.DataFrame({"gene_ids": var[0].tolist()}, names.tolist()))
    if var.shape[1] > 2:
        return adata[:, (var[2] == "Gene Expression").to_numpy()].copy()
    return adata


def _with_obs(adata: AnnData, obs) -> AnnData:
    table = obs if isinstance(obs, pd.DataFrame) else read_obs(Path(obs))
    name = "obs" if isinstance(obs, pd.DataFrame) else Path(obs).name
    cells, keys, column, how = match_rows(adata.obs_names.astype(str), table, name)
    twice = keys[keys.duplicated(keep=False)]
    if len(twice) and (counted := int(twice.isin(cells).sum())):
        rows = table[keys.duplicated(keep=False) & keys.isin(cells)]
        if len(rows.drop_duplicates()) > keys[keys.duplicated() & keys.isin(cells)].nunique():
            raise ValueError(f"{name} has {counted} rows for cells named more than once, such as {twice[0]!r}.")
    first = ~keys.duplicated()
    rows = pd.Index(keys[first]).get_indexer(cells)
    found = rows >= 0
    if not found.all():
        warn(
            f"{(~found).sum()} of {len(cells)} cells have no row in {name}, such as {cells[~found][0]!r}; they are "
            "left out."
        )
    joined = table[first].iloc[rows[found]].drop(columns=[] if column is None else [column])
    joined.index = adata.obs_names[found]
    adata = adata[found].copy()
    for key in joined:
        adata.obs[key] = joined[key].astype("category") if joined[key].dtype == object else joined[key]
    note = (
        f"{found.sum()} of {len(cells)} cells joined to {name}{how}; {len(set(keys) - set(cells))} of its rows unused"
    )
    read = adata.uns.get(Keys.READ, {"file": "", "notes": []})
    adata.uns[Keys.READ] = {**read, "notes": [*read["notes"], note]}
    return adata
