"""Rows of any matrix an AnnData can hold, a block at a time, so that memory does not grow with cells."""

import sys
from collections.abc import Iterator

import h5py
import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

_DENSE_BLOCK = 2**25  # values of a dense block: 128 MB in float32
_CSC_BLOCKS = 16  # blocks of rows per pass over the columns of a CSC matrix


def iter_rows(X, chunk_rows: int = 4096, *, dense: bool = False) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Go over a matrix in blocks of rows, in order.

    Blocks are copies: changing one never changes `X`. Blocks of wide dense matrices are shorter than `chunk_rows`, so
    that one holds at most 2**25 values. A CSC matrix is passed over once per 16 blocks; a Dask array is computed
    once, one of its own row blocks at a time.

    Parameters
    ----------
    X
        Matrix (rows x columns) of numbers: NumPy array, SciPy sparse matrix or array, the sparse data sets of a backed
        AnnData, HDF5 or zarr data set, Dask array of dense or sparse blocks.
    chunk_rows
        Largest number of rows in a block.
    dense
        Yield NumPy arrays instead of CSR matrices.

    Yields
    ------
    rows
        Where the block lies in `X`.
    block
        float32, or float64 where float32 could not hold the values of the dtype of `X` (32- and 64-bit integers).
        CSR blocks have sorted indices and no duplicate entries.

    Raises
    ------
    TypeError
        The matrix is of another kind, or holds something else than numbers.
    ValueError
        The matrix does not have two dimensions, or `chunk_rows` is below one.

    Examples
    --------
    >>> import numpy as np
    >>> [(rows.start, rows.stop, block.nnz) for rows, block in iter_rows(np.eye(5), chunk_rows=2)]
    [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    """
    dtype = _check(X, chunk_rows)  # here and not in the generator: a wrong matrix fails at once
    return _convert(_blocks(X, chunk_rows, dense), dtype, dense)


def pick_matrix(adata, layer: str | None, name: str) -> tuple:
    """The matrix of `layer`, or `X` when None, and what to call it in messages."""
    if layer is None:
        if adata.X is None:
            raise ValueError(f"{name}.X is empty; expected counts. Pass layer= (one of {list(adata.layers)}).")
        return adata.X, f"{name}.X"
    if layer not in adata.layers:
        raise KeyError(f"layer {layer!r} is not in {name}.layers; found {list(adata.layers)}. layer=None takes X.")
    return adata.layers[layer], f"{name}.layers[{layer!r}]"


def refuse_bad_values(block, rows: slice, name: str, obs_names, var_names, *, negative: bool = False) -> None:
    """Raise ValueError that names the first value of a block that is NaN, infinite or, unless allowed, negative."""
    values = block.data if sparse.issparse(block) else block
    lowest = np.finfo(values.dtype).min if negative else 0
    if not values.size or (values.min() >= lowest and values.max() < np.inf):  # NaN fails both
        return
    bad = ~np.isfinite(values) | (values < lowest)
    if sparse.issparse(block):
        at = int(np.argmax(bad))
        row, column = int(np.searchsorted(block.indptr, at, side="right")) - 1, block.indices[at]
    else:
        row, column = np.unravel_index(np.argmax(bad), block.shape)
    value = block[row, column]
    kind = "NaN" if np.isnan(value) else "an infinite value" if np.isinf(value) else f"a negative value ({value:g})"
    raise ValueError(
        f"{name} holds {kind} at obs {str(obs_names[rows.start + row])!r}, var {str(var_names[column])!r}; "
        f"expected finite values{'' if negative else ' >= 0'}. Pass the layer that holds unscaled values, "
        "or correct or remove that entry."
    )


def is_integer(values: np.ndarray) -> np.ndarray:
    """Whether each value is a whole number, up to rounding errors of 1e-4 (relative below one)."""
    return np.abs(values - np.rint(values)) <= 1e-4 * np.minimum(np.abs(values), 1)


def _is(X, package: str, name: str) -> bool:
    """Whether `X` belongs to an optional package; if so, that package is loaded already."""
    return package in sys.modules and isinstance(X, getattr(sys.modules[package], name))


def _check(X, chunk_rows: int) -> np.dtype:
    known = isinstance(X, np.ndarray | h5py.Dataset | CSRDataset | CSCDataset) or sparse.issparse(X)
    if not (known or _is(X, "dask.array", "Array") or _is(X, "zarr", "Array")):
        raise TypeError(
            f"Cannot read rows of a {type(X).__module__}.{type(X).__qualname__}; expected a NumPy array, a SciPy "
            "sparse matrix, a backed (HDF5 or zarr) matrix or a Dask array."
        )
    if np.dtype(X.dtype).kind not in "biuf":
        raise TypeError(f"The matrix holds values of dtype {X.dtype}; expected integers or floats.")
    if len(X.shape) != 2:
        raise ValueError(f"Expected a matrix with two dimensions, found shape {X.shape}.")
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, found {chunk_rows}.")
    return np.dtype(np.float32 if np.result_type(X.dtype, np.float32) == np.float32 else np.float64)


def _blocks(X, chunk_rows: int, dense: bool) -> Iterator[tuple[slice, object]]:
    """Row blocks in whatever kind `X` holds them."""
    n_rows, n_columns = X.shape
    is_csc = isinstance(X, CSCDataset) or (sparse.issparse(X) and X.format == "csc")
    if dense or not (sparse.issparse(X) or isinstance(X, CSRDataset | CSCDataset)):
        chunk_rows = max(1, min(chunk_rows, _DENSE_BLOCK // max(1, n_columns)))
    if _is(X, "dask.array", "Array"):
        outer = ((size, X.blocks[i]) for i, size in enumerate(X.chunks[0]))
    elif is_csc:
        sizes = _sizes(n_rows, _CSC_BLOCKS * chunk_rows)
        outer = ((stop - start, _csc_rows(X, start, stop)) for start, stop in sizes)
    else:
        X = X.tocsr() if sparse.issparse(X) and X.format != "csr" else X
        outer = ((n_rows, X),)
    begin = 0
    for size, part in outer:
        part = part.compute() if hasattr(part, "compute") else part
        for start, stop in _sizes(size, chunk_rows):
            yield slice(begin + start, begin + stop), part[start:stop]
        begin += size


def _sizes(n: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, n)) for start in range(0, n, step))


def some_rows(X, start: int, stop: int):
    """Rows `start` to `stop` of a matrix that :func:`iter_rows` reads, in whatever kind it holds them."""
    return _csc_rows(X, start, stop) if isinstance(X, CSCDataset) else X[start:stop]


def _csc_rows(X, start: int, stop: int) -> sparse.csr_matrix:
    """Some rows of a CSC matrix; one on disk is read in blocks of columns, the only cheap way."""
    if sparse.issparse(X):
        return sparse.csr_matrix(X[start:stop])
    step = max(1, 2**24 // X.shape[0])
    return sparse.hstack([X[:, a:b][start:stop] for a, b in _sizes(X.shape[1], step)], format="csr")


def _convert(blocks, dtype: np.dtype, dense: bool) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    for rows, block in blocks:
        if dense:
            block = block.toarray() if sparse.issparse(block) else block
            yield rows, np.array(block, dtype=dtype)
            continue
        block = sparse.csr_matrix(block, dtype=dtype, copy=True)
        block.sum_duplicates()
        yield rows, block


def use_sparse_matrix(adata, layer: str | None) -> None:
    """Turn a SciPy sparse *array* of an AnnData, which scvi-tools cannot read, into the same matrix in CSR."""
    X = adata.X if layer is None else adata.layers[layer]
    if isinstance(X, sparse.sparray):
        if layer is None:
            adata.X = sparse.csr_matrix(X)
        else:
            adata.layers[layer] = sparse.csr_matrix(X)
