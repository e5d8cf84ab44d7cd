"""Minibatches of cells wherever the counts lie: what scvi-tools reads wrongly or slowly from disk and Dask."""

import numpy as np
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, AnnTorchDataset
from torch.utils.data import DataLoader, Dataset, Subset

from ..io._rows import is_dask, on_disk, read_rows

_HELD_VALUES = 2**31  # values of cells, zeros included, that are kept in memory: 1 GB with one in sixteen above zero
_NEAR = 4  # so many times as many rows are read in one piece sooner than the ones asked for one by one


class CellManager(AnnDataManager):
    """`scvi.data.AnnDataManager` whose minibatches are the same for counts in memory, on disk and in Dask arrays."""

    def create_torch_dataset(self, indices=None, data_and_attributes=None, load_sparse_tensor: bool = False) -> Dataset:
        """Data set of some cells, in the order of `indices`; see scvi-tools."""
        if not self._is_read_otherwise():
            return super().create_torch_dataset(indices, data_and_attributes, load_sparse_tensor)
        dataset = StoredCells(self, data_and_attributes)
        return dataset if indices is None else Subset(dataset, np.arange(len(dataset))[indices])

    def _is_read_otherwise(self) -> bool:
        """Whether scvi-tools would give the counts slowly, in the order of a file, or column by column (CSC)."""
        if REGISTRY_KEYS.X_KEY not in self.data_registry:  # a MuData has counts of several names
            return self.adata.isbacked
        counts = self.get_from_registry(REGISTRY_KEYS.X_KEY)
        return on_disk(counts) or _is_csc(counts) or self.adata.isbacked


def hold_cells(loader: DataLoader | None) -> DataLoader | None:
    """Have a loader read its cells once, now, if they are on disk, in a Dask array or in CSC, and not too many.

    For minibatches in random order, whose scattered reads cost more than one pass over all cells.
    """
    subset = getattr(loader, "dataset", None)
    if isinstance(subset, Subset) and isinstance(subset.dataset, StoredCells):
        subset.dataset.hold(subset.indices)
    return loader


class StoredCells(AnnTorchDataset):
    """`scvi.data.AnnTorchDataset` of counts that are on disk, in a Dask array, in CSC, or a layer of backed data.

    Cells come in the order that is asked for, as dense float32 counts, from blocks of any kind.
    """

    def __init__(self, manager: AnnDataManager, getitem_tensors=None):
        super().__init__(manager, getitem_tensors)
        others = {key: kind for key, kind in self.keys_and_dtypes.items() if key != REGISTRY_KEYS.X_KEY}
        self._others = AnnTorchDataset(manager, others)
        one = REGISTRY_KEYS.X_KEY in manager.data_registry
        self._counts = manager.get_from_registry(REGISTRY_KEYS.X_KEY) if one else None
        self._cells = self._held = None

    def hold(self, cells: np.ndarray) -> None:
        """Keep these cells in memory, if they are few."""
        if self._counts is None or not (on_disk(self._counts) or _is_csc(self._counts)):
            return
        cells = np.unique(cells)
        if len(cells) * self._counts.shape[1] <= _HELD_VALUES:
            self._cells, self._held = cells, read_rows(self._counts, cells)

    def __getitem__(self, indexes) -> dict[str, np.ndarray]:
        """Fetch cells."""
        cells, back = np.unique(np.atleast_1d(np.arange(len(self))[indexes]), return_inverse=True)
        found = {key: value[back] for key, value in self._others[cells].items()}  # sorted: scvi sorts backed data
        if REGISTRY_KEYS.X_KEY in self.keys_and_dtypes:
            counts = self._read(cells)
            counts = counts.toarray() if sparse.issparse(counts) else counts
            found[REGISTRY_KEYS.X_KEY] = np.ascontiguousarray(counts[back], dtype=np.float32)
        return found

    def _read(self, cells: np.ndarray):
        if self._held is not None:
            return self._held[np.searchsorted(self._cells, cells)]
        first, last = cells[0], cells[-1] + 1
        near = last - first <= _NEAR * len(cells)
        counts = self._counts[first:last] if near else self._counts[cells]
        counts = counts.compute() if is_dask(counts) else counts
        return counts[cells - first] if near else counts


def _is_csc(X) -> bool:
    return sparse.issparse(X) and X.format == "csc"
