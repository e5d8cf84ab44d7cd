"""Row blocks of every kind of matrix against the dense matrix they came from."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.io._rows import in_memory, is_integer, iter_rows, load_obs, read_rows, refuse_bad_values

COUNTS = np.random.default_rng(0).poisson(0.7, size=(23, 11))
COUNTS[4] = 0
COUNTS[3, 2] = 2**24 + 1  # the first integer that float32 cannot hold


def backed(tmp_path, X):
    ad.AnnData(X).write_h5ad(tmp_path / "x.h5ad")
    return ad.read_h5ad(tmp_path / "x.h5ad", backed="r").X


def hdf5(tmp_path, X):
    return h5py.File(tmp_path / "x.h5", "w").create_dataset("X", data=X)


def in_zarr(tmp_path, X):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=X.shape, dtype=X.dtype, chunks=(5, 4))
    array[:] = X
    return array


def in_dask(X, block, columns=-1):
    dask_array = pytest.importorskip("dask.array")
    array = dask_array.from_array(X, chunks=(7, columns))
    return array.map_blocks(block) if block else array


KINDS = {
    "int64": lambda path: COUNTS,
    "int32": lambda path: COUNTS.astype(np.int32),
    "float64": lambda path: COUNTS.astype(float),
    "fortran": lambda path: np.asfortranarray(COUNTS),
    "csr_matrix": lambda path: sparse.csr_matrix(COUNTS),
    "csc_matrix": lambda path: sparse.csc_matrix(COUNTS),
    "coo_matrix": lambda path: sparse.coo_matrix(COUNTS),
    "csr_array": lambda path: sparse.csr_array(COUNTS),
    "csc_array": lambda path: sparse.csc_array(COUNTS.astype(float)),
    "backed dense": lambda path: backed(path, COUNTS.astype(float)),
    "backed csr": lambda path: backed(path, sparse.csr_matrix(COUNTS)),
    "backed csc": lambda path: backed(path, sparse.csc_matrix(COUNTS)),
    "hdf5": lambda path: hdf5(path, COUNTS),
    "zarr": lambda path: in_zarr(path, COUNTS),
    "dask": lambda path: in_dask(COUNTS, None),
    "dask two-way": lambda path: in_dask(COUNTS, None, columns=3),
    "dask csr": lambda path: in_dask(COUNTS, sparse.csr_matrix),
    "dask csr two-way": lambda path: in_dask(COUNTS, sparse.csr_matrix, columns=3),
    "dask csc": lambda path: in_dask(COUNTS, sparse.csc_matrix),
    "dask csr_array": lambda path: in_dask(COUNTS, sparse.csr_array),
    "view": lambda path: ad.AnnData(np.vstack([COUNTS, COUNTS]))[:23].X,
    "sparse view": lambda path: ad.AnnData(sparse.csr_matrix(np.vstack([COUNTS, COUNTS])))[:23].X,
}


@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_the_matrix(tmp_path, kind, chunk_rows):
    X, seen = KINDS[kind](tmp_path), 0
    for rows, block in iter_rows(X, chunk_rows):
        assert type(block) is sparse.csr_matrix and block.dtype == np.float64 and block.has_canonical_format
        assert rows.start == seen and 0 < rows.stop - rows.start <= chunk_rows
        np.testing.assert_array_equal(block.toarray(), COUNTS[rows])
        seen = rows.stop
    assert seen == len(COUNTS)
    dense = [block for _, block in iter_rows(X, chunk_rows, dense=True)]
    assert all(type(block) is np.ndarray for block in dense)
    np.testing.assert_array_equal(np.vstack(dense), COUNTS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_in_the_order_asked_for(tmp_path, kind):
    X = KINDS[kind](tmp_path)
    for indices in ([20, 3, 3, 4, 0, 22], np.arange(23)[::-1], [9], np.zeros(0, dtype=int)):
        found = read_rows(X, indices)
        assert found.dtype == np.float64 and (type(found) is np.ndarray or type(found) is sparse.csr_matrix)
        found = found.toarray() if sparse.issparse(found) else found
        np.testing.assert_array_equal(found, COUNTS[indices])


def test_blocks_without_wanted_rows_are_not_read():
    dask_array = pytest.importorskip("dask.array")
    read = []

    def note(block, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return block

    X = dask_array.from_array(COUNTS, chunks=(5, -1)).map_blocks(note, meta=COUNTS[:0])
    np.testing.assert_array_equal(read_rows(X, [21, 6]), COUNTS[[21, 6]])
    assert read == [1, 4]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_lazily_read_tables_are_those_of_the_file(tmp_path, suffix):
    pytest.importorskip("xarray")
    obs = pd.DataFrame({"type": pd.Categorical(list("abab")), "n": [1.5, 2, 3, 4]}, index=list("wxyz"))
    adata = ad.AnnData(COUNTS[:4], obs=obs)
    getattr(adata, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    lazy = ad.experimental.read_lazy(tmp_path / f"x.{suffix}")
    pd.testing.assert_frame_equal(in_memory(lazy.obs), obs, check_names=False)
    assert in_memory(obs) is obs
    load_obs(lazy)
    pd.testing.assert_frame_equal(lazy.obs, obs, check_names=False)
    assert not isinstance(lazy.X, np.ndarray)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float16, np.float32, ">f4"])
def test_small_dtypes_become_float32(dtype):
    ((_, block),) = iter_rows(np.array([[0, 1], [1, 0]], dtype=dtype))
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block.toarray(), [[0, 1], [1, 0]])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("make", [np.array, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_blocks_are_copies(make, dense):
    X = make(np.arange(6.0).reshape(3, 2))
    for _, block in iter_rows(X, dense=dense):
        block[:] = 7 if dense else block * 7
        if not dense:
            block.data[:] = 7
    np.testing.assert_array_equal(X.toarray() if sparse.issparse(X) else X, np.arange(6.0).reshape(3, 2))


def test_duplicate_entries_are_added_in_the_copy_only():
    X = sparse.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1]), np.array([0, 3])), shape=(1, 2))
    ((_, block),) = iter_rows(X)
    np.testing.assert_array_equal(block.toarray(), [[2, 5]])
    np.testing.assert_array_equal(X.data, [1, 2, 4])


def test_wide_dense_blocks_stay_small():
    X = np.broadcast_to(np.float32(0), (3, 2**24))  # one value in memory
    assert [rows.stop for rows, _ in iter_rows(X)] == [2, 3]


def test_each_dask_block_is_computed_once():
    dask_array = pytest.importorskip("dask.array")
    calls = []
    X = dask_array.from_array(COUNTS, chunks=(7, -1)).map_blocks(
        lambda block: calls.append(len(block)) or block, meta=COUNTS[:0, :0]
    )
    calls.clear()
    for _ in iter_rows(X, chunk_rows=2):
        pass
    assert calls == [7, 7, 7, 2]


def test_no_rows_no_blocks():
    assert list(iter_rows(np.zeros((0, 3)))) == []
    assert list(iter_rows(sparse.csc_matrix((0, 3)))) == []


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        ([[1, 2]], TypeError, "builtins.list"),
        (None, TypeError, "NoneType"),
        (np.array([["a"]]), TypeError, "dtype <U1"),
        (np.ones((1, 1), dtype=complex), TypeError, "complex128"),
        (np.ones(3), ValueError, r"shape \(3,\)"),
    ],
)
def test_unknown_matrices_are_refused_at_once(X, error, words):
    with pytest.raises(error, match=words):
        iter_rows(X)


def test_chunk_rows_below_one_is_refused():
    with pytest.raises(ValueError, match="chunk_rows"):
        iter_rows(COUNTS, 0)


@pytest.mark.parametrize("make", [np.array, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (-2.5, r"negative value \(-2.5\)")],
)
def test_bad_values_are_named(make, value, kind):
    block = COUNTS.astype(float)
    block[5, 3], block[7, 0] = value, value
    obs_names, var_names = [f"o{i}" for i in range(40)], [f"g{i}" for i in range(11)]
    with pytest.raises(ValueError, match=rf"^M holds .*{kind}.* at obs 'o15', var 'g3'"):
        refuse_bad_values(make(block), slice(10, 33), "M", obs_names, var_names)
    refuse_bad_values(make(COUNTS), slice(0, 23), "M", obs_names, var_names)


def test_negative_values_can_be_allowed():
    refuse_bad_values(np.array([[-3.0]]), slice(0, 1), "M", ["o"], ["g"], negative=True)
    with pytest.raises(ValueError, match="infinite"):
        refuse_bad_values(np.array([[-np.inf]]), slice(0, 1), "M", ["o"], ["g"], negative=True)


def test_whole_numbers():
    values = np.array([0, 1, 2.99999, 1e6, 3.01, 1e-6, 0.5])
    np.testing.assert_array_equal(is_integer(values), [True, True, True, True, False, False, False])
