"""Folders of HDF5 batches of cells: headers first, genes aligned by name, rows read when they are asked for."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from torch.utils.data import Dataset

_REQUIRED = ("X", "genes", "cells")
_OBS = ("gene_count", "umi_count", "SRX_accession", "cell_type", "perturbation")


class H5Batches(Dataset):
    """Rows of all files ``batch_*.h5`` of a folder, in the order of their names, as one data set.

    Only headers are read at first. A file is opened once per process, so that workers of a DataLoader each have a
    handle of their own.

    Parameters
    ----------
    folder
        Folder with files of `X` (cells x genes), `genes`, `cells` and `obs/...`.
    obs_csv
        Table with the barcode in its first column and further columns of `obs`, which replace those of the files.
    max_cells_per_batch
        Cells read from each file, the first ones.
    max_cells
        Cells read in all, the first ones; files after them are not opened.
    genes
        Names of the genes to read, in that order; those of the first file when None.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or no ``batch_*.h5`` in it.
    KeyError
        A file lacks a required data set, or the table a cell.
    ValueError
        Files differ in their genes, or `X` in its shape from `genes` and `cells`; barcodes or genes occur twice; files
        lack some of the genes asked for.
    """

    def __init__(
        self,
        folder,
        *,
        obs_csv=None,
        max_cells_per_batch: int | None = None,
        max_cells: int | None = None,
        genes: Sequence[str] | None = None,
    ):
        folder = Path(folder)
        self.files = sorted(folder.glob("batch_*.h5"))
        if not self.files:
            what = "holds no file batch_*.h5" if folder.is_dir() else "does not exist"
            raise FileNotFoundError(f"{folder} {what}; expected HDF5 batches batch_*.h5.")
        for name, value in (("max_cells_per_batch", max_cells_per_batch), ("max_cells", max_cells)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; expected at least 1.")
        headers = _headers(self.files, max_cells_per_batch, max_cells)
        self.files = self.files[: len(headers)]
        first = headers[0][0]
        columns = [_align(first, found, path) for (found, _), path in zip(headers, self.files, strict=True)]
        chosen = np.arange(len(first)) if genes is None else _chosen(first, genes, folder)
        self.genes, self._columns = first[chosen], [of[chosen] for of in columns]
        self.obs = pd.concat([obs for _, obs in headers])
        if self.obs.index.has_duplicates:
            twice = self.obs.index[self.obs.index.duplicated()][0]
            raise ValueError(f"{folder} holds the cell {twice!r} more than once; expected unique barcodes.")
        if obs_csv is not None:
            self.obs = _with_table(self.obs, Path(obs_csv))
        missing = [name for name in self.obs if self.obs[name].isna().any()]
        if missing:
            raise KeyError(f"some files of {folder} lack obs/{missing[0]}, which others have; expected it in all.")
        self._ends = np.cumsum([len(obs) for _, obs in headers])
        self._handles: dict[int, h5py.File] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        """Counts (genes,) of one cell."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows) -> np.ndarray:
        """Counts (rows, genes) of several cells, in the order asked for."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), len(self.genes)), dtype=np.float32)
        of = np.searchsorted(self._ends, rows, side="right")
        for i in np.unique(of):
            here = np.flatnonzero(of == i)
            numbers, position = np.unique(rows[here] - (self._ends[i - 1] if i else 0), return_inverse=True)
            # one slice is much faster than a list of rows
            whole = len(numbers) == numbers[-1] - numbers[0] + 1
            values = self._file(i)["X"][slice(numbers[0], numbers[-1] + 1) if whole else numbers]
            out[here] = values[position][:, self._columns[i]]
        return out

    def blocks(self, n_rows: int = 2048) -> Iterator[np.ndarray]:
        """Yield the counts (cells, genes) in blocks of at most `n_rows` cells of one file."""
        for start, end in pairwise([0, *self._ends]):
            for first in range(start, end, n_rows):
                yield self.__getitems__(np.arange(first, min(first + n_rows, end)))

    def close(self) -> None:
        """Close the files of this process."""
        for handle in self._handles.values():
            handle.close()
        self._handles = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_handles": {}}  # a worker opens its own

    def _file(self, i: int) -> h5py.File:
        if i not in self._handles:
            self._handles[i] = h5py.File(self.files[i])
        return self._handles[i]


def _headers(files: list[Path], per_file: int | None, in_all: int | None) -> list[tuple[np.ndarray, pd.DataFrame]]:
    """Headers of the files that hold the first `in_all` cells."""
    headers, left = [], math.inf if in_all is None else in_all
    for path in files:
        if left <= 0:
            break
        most = min(left, math.inf if per_file is None else per_file)
        headers.append(_header(path, None if most == math.inf else int(most)))
        left -= len(headers[-1][1])
    return headers


def _header(path: Path, max_cells: int | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Genes of a file, and the `obs` of its cells."""
    try:
        file = h5py.File(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an HDF5 file: {error}.") from error
    with file:
        for name in _REQUIRED:
            if not isinstance(file.get(name), h5py.Dataset):
                raise KeyError(f"{path} has no data set {name!r}; found {list(file)}.")
        genes, cells = (np.asarray(file[name].asstr()[:], dtype=str) for name in ("genes", "cells"))
        if file["X"].shape != (len(cells), len(genes)):
            raise ValueError(
                f"{path}: X has shape {file['X'].shape}, expected {len(cells)} cells x {len(genes)} genes."
            )
        columns = {}
        for name in [*_OBS, *(name for name in file.get("obs", {}) if name not in _OBS)]:
            if name in file.get("obs", {}):
                values = file["obs"][name]
                columns[name] = values.asstr()[:max_cells] if values.dtype.kind in "OS" else values[:max_cells]
                if values.shape[0] != len(cells):
                    raise ValueError(f"{path}: obs/{name} has {values.shape[0]} values for {len(cells)} cells.")
    return genes, pd.DataFrame(columns, index=pd.Index(cells[:max_cells]))


def _align(genes: np.ndarray, found: np.ndarray, path: Path) -> np.ndarray:
    """Columns of a file in the order of `genes`."""
    for names, where in ((genes, "the first file"), (found, str(path))):
        if len(set(names)) < len(names):
            raise ValueError(f"{where} names a gene more than once; genes are aligned by name, expected unique ones.")
    if set(found) != set(genes):
        lacking, extra = sorted(set(genes) - set(found)), sorted(set(found) - set(genes))
        raise ValueError(
            f"{path} has other genes than the first file: {len(lacking)} are missing ({', '.join(lacking[:3])}), "
            f"{len(extra)} are new ({', '.join(extra[:3])})."
        )
    return pd.Index(found).get_indexer(genes)


def _chosen(known: np.ndarray, genes: Sequence[str], folder: Path) -> np.ndarray:
    """Where the genes asked for stand among the known ones."""
    genes = list(map(str, genes))
    if len(set(genes)) < len(genes):
        raise ValueError(f"{len(genes) - len(set(genes))} of the {len(genes)} genes asked for are named twice.")
    at = pd.Index(known).get_indexer(genes)
    if (at < 0).any():
        missing = [gene for gene, i in zip(genes, at, strict=True) if i < 0]
        raise ValueError(
            f"{len(missing)} of the {len(at)} genes asked for are not in {folder}, such as {', '.join(missing[:3])}."
        )
    return at


def _with_table(obs: pd.DataFrame, path: Path) -> pd.DataFrame:
    """`obs` with the columns of a table keyed by barcode."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a table of cells.")
    table = pd.read_csv(path, dtype={0: str}, index_col=0)
    table.index = table.index.astype(str)
    missing = obs.index.difference(table.index)
    if len(missing):
        raise KeyError(f"{path} lacks {len(missing)} of {len(obs)} cells, for example {list(missing[:3])}.")
    if table.index.has_duplicates:
        raise ValueError(f"{path} has the cell {table.index[table.index.duplicated()][0]!r} more than once.")
    table = table.loc[obs.index]
    return obs.drop(columns=obs.columns.intersection(table.columns)).join(table)
