"""Rows of any matrix an AnnData can hold, a block at a time, so that memory does not grow with cells."""

import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain

import h5py
import numpy as np
import pandas as pd
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

_DENSE_BLOCK = 2**25  # values of a dense block: 128 MB in float32
_LARGEST = 1e18  # of a row's sum: its square is a float32 still
_SMALLEST = 1e-18
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


def read_rows(X, indices: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """Some rows of a matrix, in memory, in the order of `indices`; blocks without such rows are not read.

    Parameters
    ----------
    X
        Matrix (rows x columns) of any kind that `iter_rows` reads.
    indices
        Numbers of rows from 0; the same one may occur twice.

    Returns
    -------
    CSR when the blocks of `X` are sparse, else a NumPy array; dtypes as in `iter_rows`.

    Raises
    ------
    TypeError, ValueError
        As `iter_rows`.

    Examples
    --------
    >>> import numpy as np
    >>> read_rows(np.eye(3), [2, 0, 2])
    array([[0., 0., 1.],
           [1., 0., 0.],
           [0., 0., 1.]])
    """
    dtype, wanted = _check(X, 1), np.zeros(X.shape[0], dtype=bool)
    wanted[indices] = True
    place = np.cumsum(wanted)[indices] - 1
    blocks = (block[wanted[rows]] for rows, block in _blocks(X, 4096, False, wanted))
    first = next(blocks, sparse.csr_matrix((0, X.shape[1]), dtype=dtype))
    if not sparse.issparse(first):
        return np.concatenate([first, *blocks]).astype(dtype, copy=False)[place]
    found = stack_rows(chain([first], blocks), X.shape[1], dtype)
    return found if np.array_equal(place, np.arange(found.shape[0])) else found[place]


def stack_rows(blocks: Iterator, n_columns: int, dtype: np.dtype) -> sparse.csr_matrix:
    """Stack sparse blocks in arrays that grow in place: SciPy's `vstack` needs twice the memory of the result."""
    data, columns, lengths, end = np.empty(0, dtype), np.empty(0, np.int32), [np.zeros(1, np.int64)], 0
    for block in blocks:
        block = sparse.csr_matrix(block)
        begin, end = end, end + block.nnz
        if end > len(data):
            for array in (data, columns):
                array.resize(end + end // 8, refcheck=False)
        data[begin:end], columns[begin:end] = block.data, block.indices
        lengths.append(np.diff(block.indptr))
    for array in (data, columns):
        array.resize(end, refcheck=False)
    indptr = np.concatenate(lengths).cumsum()
    found = sparse.csr_matrix((data, columns, indptr), shape=(len(indptr) - 1, n_columns))
    found.sum_duplicates()
    return found


def pick_matrix(adata, layer: str | None, name: str) -> tuple:
    """The matrix of `layer`, or `X` when None, and what to call it in messages."""
    if layer is None:
        if adata.X is None:
            raise ValueError(f"{name}.X is empty; expected counts. Pass layer= (one of {list(adata.layers)}).")
        return _of_numbers(adata.X, f"{name}.X")
    if layer not in adata.layers:
        raise KeyError(f"layer {layer!r} is not in {name}.layers; found {list(adata.layers)}. layer=None takes X.")
    return _of_numbers(adata.layers[layer], f"{name}.layers[{layer!r}]")


def _of_numbers(X, name: str) -> tuple:
    if X.dtype == bool:
        raise TypeError(
            f"{name} holds True and False, whether a gene was seen; expected how often. Pass the layer with the values."
        )
    if X.dtype == object:
        raise TypeError(f"{name} holds Python objects; expected numbers. Convert it: `{name} = {name}.astype(float)`.")
    return X, name


def refuse_bad_values(block, rows: slice, name: str, obs_names, var_names, *, negative: bool = False) -> None:
    """Raise ValueError that names the first value of a block that is NaN, infinite or, unless allowed, negative."""
    values = block.data if sparse.issparse(block) else block
    lowest = np.finfo(values.dtype).min if negative else 0
    if not values.size:
        return
    largest = float(values.max())
    if values.min() >= lowest and (largest > _SMALLEST or largest <= 0) and largest * block.shape[1] < _LARGEST:
        return  # NaN fails both
    if np.isfinite(values).all() and (values >= lowest).all():
        return _refuse_extremes(block, largest, rows, name, obs_names)
    bad = ~np.isfinite(values) | (values < lowest)
    if sparse.issparse(block):
        at = int(np.argmax(bad))
        row, column = int(np.searchsorted(block.indptr, at, side="right")) - 1, block.indices[at]
    else:
        row, column = np.unravel_index(np.argmax(bad), block.shape)
    value = block[row, column]
    kind = "NaN" if np.isnan(value) else "an infinite value" if np.isinf(value) else f"a negative value ({value:g})"
    joined = " NaN that an outer join leaves is avoided by anndata.concat(..., fill_value=0)." * bool(np.isnan(value))
    raise ValueError(
        f"{name} holds {kind} at obs {str(obs_names[rows.start + row])!r}, var {str(var_names[column])!r}; "
        f"expected finite values{'' if negative else ' >= 0'}. Pass the layer that holds unscaled values, "
        f"or correct or remove that entry.{joined}"
    )


def _refuse_extremes(block, largest: float, rows: slice, name: str, obs_names) -> None:
    """Raise ValueError where the sum of a row, or all values, are beyond what networks can compute with."""
    if 0 < largest <= _SMALLEST:
        raise ValueError(
            f"{name} holds no value above {largest:.3g}, which is nothing in float32; expected counts. Pass the layer "
            "that holds them, or multiply all values by one number."
        )
    with np.errstate(over="ignore"):
        sums = np.asarray(np.abs(block).astype(np.float64).sum(axis=1)).ravel()
    if sums.max() > _LARGEST:
        raise ValueError(
            f"{name} sums to {sums.max():.3g} at obs {str(obs_names[rows.start + sums.argmax()])!r}; expected "
            f"counts, up to {_LARGEST:.0e}, which float32 can square. Pass the layer that holds them, or divide all "
            "values by one number."
        )


def is_integer(values: np.ndarray) -> np.ndarray:
    """Whether each value is a whole number, up to rounding errors of 1e-4 (relative below one)."""
    return np.abs(values - np.rint(values)) <= 1e-4 * np.minimum(np.abs(values), 1)


def is_dask(X) -> bool:
    """Whether `X` is a Dask array."""
    return _is(X, "dask.array", "Array")


def on_disk(X) -> bool:
    """Whether rows of `X` have to be read or computed before use."""
    return not (isinstance(X, np.ndarray) or sparse.issparse(X))


def _is(X, package: str, name: str) -> bool:
    """Whether `X` belongs to an optional package; if so, that package is loaded already."""
    return package in sys.modules and isinstance(X, getattr(sys.modules[package], name))


def _check(X, chunk_rows: int) -> np.dtype:
    known = isinstance(X, np.ndarray | h5py.Dataset | CSRDataset | CSCDataset) or sparse.issparse(X)
    if not (known or is_dask(X) or _is(X, "zarr", "Array")):
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


def _blocks(X, chunk_rows: int, dense: bool, wanted: np.ndarray | None = None) -> Iterator[tuple[slice, object]]:
    """Row blocks in whatever kind `X` holds them; with a mask of rows, only blocks with one of them."""
    n_rows, n_columns = X.shape
    is_csc = isinstance(X, CSCDataset) or (sparse.issparse(X) and X.format == "csc")
    if dense or not (sparse.issparse(X) or isinstance(X, CSRDataset | CSCDataset)):
        chunk_rows = max(1, min(chunk_rows, _DENSE_BLOCK // max(1, n_columns)))
    if is_dask(X):
        outer = ((size, X.blocks[i].compute) for i, size in enumerate(X.chunks[0]))
    elif is_csc:
        sizes = _sizes(n_rows, _CSC_BLOCKS * chunk_rows)
        outer = ((stop - start, partial(_csc_rows, X, start, stop)) for start, stop in sizes)
    else:
        X = X.tocsr() if sparse.issparse(X) and X.format != "csr" else X
        outer = ((n_rows, lambda: X),)
    begin = 0
    for size, read in outer:
        wants = [wanted is None or wanted[begin + a : begin + b].any() for a, b in _sizes(size, chunk_rows)]
        part = read() if any(wants) else None
        for (start, stop), wants_block in zip(_sizes(size, chunk_rows), wants, strict=True):
            if wants_block:
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
        X = sparse.csr_matrix(X)
    elif is_dask(X) and isinstance(X._meta, sparse.sparray):
        X = X.map_blocks(sparse.csr_matrix)
    else:
        return
    if layer is None:
        adata.X = X
    else:
        adata.layers[layer] = X


def in_memory(table) -> pd.DataFrame:
    """`obs` or `var` of an AnnData as a DataFrame; that of `anndata.experimental.read_lazy` is read."""
    return table if isinstance(table, pd.DataFrame) else table.to_memory()


def load_obs(adata) -> None:
    """Read `adata.obs` into memory, where scvi-tools can write to it; the matrix stays where it is."""
    if not isinstance(adata.obs, pd.DataFrame):
        adata.obs = in_memory(adata.obs)
