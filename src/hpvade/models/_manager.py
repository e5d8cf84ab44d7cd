"""Registration: data that can be freed, which scvi-tools keeps in the class for good, and categories that occur."""

import contextlib
import copy
import warnings
import weakref
from collections.abc import Iterator

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager

from ..train._cells import CellManager
from ._new_cells import check_new_cells, fitting


class WeakManager(CellManager):
    """`CellManager` that does not keep its data alive; the model keeps its own, the user the rest.

    Categories that no cell has are not registered.
    """

    _data = None

    @property
    def adata(self) -> AnnData | MuData | None:
        """The registered data, or None before registration and after the data are gone."""
        return None if self._data is None else self._data()

    @adata.setter
    def adata(self, adata: AnnData | MuData | None) -> None:
        self._data = None if adata is None else weakref.ref(adata)

    def register_fields(self, adata: AnnData | MuData, source_registry: dict | None = None, **kwargs) -> None:
        """See scvi-tools; categories that no cell has are left out, and cells for a trained model are checked."""
        if source_registry is not None:
            check_new_cells(adata, self.fields)
        of_model = fitting(adata, source_registry) if source_registry else contextlib.nullcontext()
        with used_categories(adata), of_model, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* does not contain unnormalized count data")  # check_counts said more
            super().register_fields(adata, source_registry, **kwargs)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_data": self.adata}

    def __setstate__(self, state: dict) -> None:
        # a copy, in a worker process perhaps, where nobody else may keep the data
        self.__dict__.update(state | {"_kept": state["_data"]})
        self.adata = state["_data"]


def keeping(manager: WeakManager) -> WeakManager:
    """The same manager for one who holds it: it keeps its data."""
    return copy.copy(manager)


def weak(manager: AnnDataManager) -> AnnDataManager:
    """Make a manager let go of its data."""
    manager.__dict__.pop("_kept", None)
    if type(manager) is AnnDataManager:
        adata = manager.__dict__.pop("adata")
        manager.__class__ = WeakManager
        manager.adata = adata
    return manager


def forget_with(owner, store: dict, key: str) -> None:
    """Remove an entry of one of scvi-tools' stores when `owner` is freed: a model's, or a manager's whose data went."""
    weakref.finalize(owner, _forget, store, key).atexit = False


def _forget(store: dict, key: str) -> None:
    entry = store.get(key)
    if isinstance(entry, dict) or (entry is not None and entry.adata is None):  # else a copy has taken its place
        del store[key]


@contextlib.contextmanager
def used_categories(data: AnnData | MuData) -> Iterator[None]:
    """Take the categories that no cell has from all columns of `obs`; the columns are put back afterwards.

    Labels that were merged, declared, or cut off with a subset stay among a column's categories; a model would learn a
    type, a condition or a donor without cells.
    """
    parts, given = [data, *(data.mod.values() if isinstance(data, MuData) else ())], []
    try:
        for part in parts:
            for name, column in part.obs.items():
                if isinstance(column.dtype, pd.CategoricalDtype):
                    used = column.cat.remove_unused_categories()
                    if len(used.cat.categories) < len(column.cat.categories):
                        given.append((part, name, column))
                        part.obs[name] = used
        yield
    finally:
        for part, name, column in given:
            part.obs[name] = column
