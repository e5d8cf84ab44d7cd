"""The table of `get_cell_type_expression` in memory, or in a zarr store that appears whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np

from ...io._atomic import install_folder, partial
from ...io._names import writable

_PLACES = {"X": "X", "expression": "layers/expression", "variance": "layers/variance"}  # in the format of AnnData
_ENCODING = {"encoding-type": "array", "encoding-version": "0.2.0"}


def refuse_existing(store) -> None:
    """Raise before any work when the store cannot be made."""
    if Path(store).exists():
        raise FileExistsError(f"store={str(store)!r} exists; expected a new folder. Remove it, or choose another name.")
    _zarr()


@contextmanager
def new_store(store) -> Iterator:
    """A zarr group to fill, in the place of `store` when the block ends without an error."""
    with partial(store) as work:
        yield _zarr().open_group(work, mode="w", zarr_format=getattr(ad.settings, "zarr_write_format", 2))
        install_folder(work, store, overwrite=False)


def create_arrays(shape: tuple[int, int], group, chunk_rows: int) -> dict:
    """Matrices of float32 to write rows to: NumPy's, or those of a zarr group with `chunk_rows` rows in a file."""
    if group is None:
        return {name: np.empty(shape, dtype=np.float32) for name in _PLACES}
    chunks = min(chunk_rows, shape[0]), shape[1]
    return {
        name: group.create_array(place, shape=shape, chunks=chunks, dtype="float32", attributes=_ENCODING)
        for name, place in _PLACES.items()
    }


def finish(group, table: ad.AnnData) -> None:
    """Write all of the table but its matrices, which are there."""
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    group["layers"].attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    for name in ("obs", "var"):
        ad.io.write_elem(group, name, getattr(table, name))
    for name in ("obsm", "obsp", "varp", "uns"):
        ad.io.write_elem(group, name, {})
    ad.io.write_elem(group, "varm", {key: writable(one) for key, one in table.varm.items()})
    _zarr().consolidate_metadata(group.store)


def open_arrays(store) -> dict:
    """The matrices of a finished store, to read."""
    group = _zarr().open_group(store, mode="r")
    return {name: group[place] for name, place in _PLACES.items()}


def _zarr():
    try:
        import zarr
    except ImportError:
        zarr = None
    if not hasattr(getattr(zarr, "Group", None), "create_array"):
        raise ImportError("Writing into a zarr store needs zarr 3 or newer: `pip install 'hpvade[dask]'`.")
    return zarr
