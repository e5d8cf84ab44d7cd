"""Reading bulk: alignment by name (HP-15), units on request, numbers at the edge."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from bulk_inputs import (
    COUNTS,
    ENSEMBL,
    GENES,
    TPM,
    accept,
    bulk_of,
    linear,
    refuse,
    same,
)
from scipy import sparse

from hpvade.io._bulk import MAX_DEPTH, _smallest_above_zero, read_bulk

# alignment


def test_hp15_genes_are_aligned_by_name():
    order = np.random.default_rng(0).permutation(60)
    permuted = bulk_of(TPM[:, order], [f"GENE{i}" for i in order])
    straight, read = accept(bulk_of(TPM)), accept(permuted)
    assert read.shares.shape == (6, 40)
    same(read, TPM[:, :40])
    np.testing.assert_array_equal(straight.shares, read.shares)
    np.testing.assert_allclose(read.shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(read.total, TPM[:, :40].sum(axis=1, dtype=float), rtol=1e-6)
    assert read.present.all() and read.overlap == 1 and read.input_type == "normalized"
    assert list(read.obs_names) == [f"s{i}" for i in range(6)]


MATRICES = {
    "dense": np.asarray,
    "float64": lambda X: X.astype(float),
    "int": lambda X: X.astype(int),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
}


@pytest.mark.parametrize("kind", MATRICES)
def test_every_kind_of_matrix(kind):
    read = accept(bulk_of(MATRICES[kind](COUNTS)))
    same(read, COUNTS[:, :40])
    assert read.input_type == "counts"
    layered = accept(bulk_of(np.log1p(TPM), counts=MATRICES[kind](COUNTS)), layer="counts")
    same(layered, COUNTS[:, :40])


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_backed_bulk(tmp_path, make):
    bulk_of(make(TPM)).write_h5ad(tmp_path / "bulk.h5ad")
    bulk = ad.read_h5ad(tmp_path / "bulk.h5ad", backed="r")
    same(read_bulk(bulk, GENES), TPM[:, :40])
    same(read_bulk(bulk[2:4], GENES), TPM[2:4, :40])


def test_dask_bulk():
    dask_array = pytest.importorskip("dask.array")
    bulk = bulk_of(dask_array.from_array(TPM, chunks=(4, 17)))
    same(read_bulk(bulk, GENES), TPM[:, :40])
    same(read_bulk(bulk[1:5], GENES), TPM[1:5, :40])


def test_a_view_is_fine():
    view = bulk_of(TPM)[[4, 1]]
    read = accept(view)
    same(read, TPM[[4, 1], :40])
    assert list(read.obs_names) == ["s4", "s1"] and view.is_view


def test_one_sample():
    same(accept(bulk_of(TPM[:1])), TPM[:1, :40])


# units on request


@pytest.mark.parametrize("input_type", ["counts", "cpm", "tpm", "fpkm"])
def test_linear_units_are_taken_as_they_are(input_type):
    read = accept(bulk_of(TPM), input_type=input_type)
    same(read, TPM[:, :40])
    assert read.input_type == input_type


def test_a_linear_unit_that_looks_logged_warns():
    bulk = bulk_of(np.log1p(TPM))
    with pytest.warns(UserWarning, match=r"looks log-transformed \(maximum 9\.308.*input_type='tpm'") as caught:
        read = read_bulk(bulk, GENES, input_type="tpm")
    assert caught[0].filename == __file__
    same(read, np.log1p(TPM)[:, :40])


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("input_type", "log", "expected"),
    [
        ("log1p", np.log1p, TPM),
        ("log2", lambda x: np.log2(x + 1), TPM),  # exact zeros: 2**x - 1
        ("log2", np.log2, TPM + 16),  # an array: 2**x
        ("log2", np.log2, TPM + 0.5),  # negative logs
    ],
)
def test_logs_are_undone_on_request(make, input_type, log, expected):
    read = accept(bulk_of(make(log(expected.astype(float)))), input_type=input_type)
    np.testing.assert_allclose(linear(read), expected[:, :40], rtol=1e-4, atol=1e-5)
    assert read.input_type == input_type


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(x + 1)])
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_logged_bulk_is_refused_with_the_way_out(log, make):
    X = log(TPM)
    words = rf"bulk\.X looks log-transformed: maximum {X.max():.4g}, minimum 0.*input_type='log1p'.*input_type='log2'"
    refuse(bulk_of(make(X)), ValueError, words)


def test_linear_values_are_not_exponentiated():
    for input_type in ("log1p", "log2"):
        refuse(bulk_of(TPM), ValueError, "too large for a logarithm", input_type=input_type)


def test_gene_lengths_divide_counts():
    lengths = np.random.default_rng(5).integers(300, 9000, 60)
    bulk = bulk_of(sparse.csr_matrix(COUNTS))
    bulk.var["bp"] = lengths
    expected = COUNTS / (lengths / 1e3)
    for input_type in ("auto", "counts"):
        read = accept(bulk, input_type=input_type, gene_length_key="bp")
        same(read, expected[:, :40])
        assert read.input_type == "counts"


@pytest.mark.parametrize("value", [0, -5, np.nan, np.inf, "long"])
def test_unusable_gene_lengths(value):
    bulk = bulk_of(COUNTS)
    bulk.var["bp"] = pd.Series([1000] * 60, index=bulk.var_names, dtype=object)
    bulk.var.loc["GENE7", "bp"] = value
    words = r"bulk\.var\['bp'\] has no usable length for 1 of 60 genes, the first is 'GENE7'"
    refuse(bulk, ValueError, words, gene_length_key="bp")


def test_gene_lengths_apply_to_counts_only():
    bulk = bulk_of(TPM)
    bulk.var["bp"] = 1000
    refuse(bulk, KeyError, r"gene_length_key='length'.*\['bp'\]", gene_length_key="length")
    refuse(bulk, ValueError, "applies to counts, but input_type='tpm'", gene_length_key="bp", input_type="tpm")
    refuse(bulk, ValueError, "applies to counts, but bulk.X holds values that are not", gene_length_key="bp")


# numbers at the edge


@pytest.mark.parametrize("factor", [1e-12, 1e-7, 1e-3, 1.0, 1e5, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [2]])
def test_a_constant_per_sample_changes_nothing(factor, dtype, rows):
    X = COUNTS.astype(dtype)
    X[rows] *= dtype(factor)
    expected, read = accept(bulk_of(COUNTS)), accept(bulk_of(X))
    np.testing.assert_allclose(read.shares, expected.shares, rtol=1e-5)
    np.testing.assert_allclose(read.depth, expected.depth, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "factor"), [(np.float32, 1e32), (np.float64, 1e200), (np.float64, 1e-200), (np.float32, 1e-40)]
)
def test_values_beyond_float32_are_refused_by_name(dtype, factor):
    X = COUNTS.astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        X[2] = (X[2].astype(float) * factor).astype(dtype)
    if not np.isfinite(X).all():
        X[2] = np.where(np.isinf(X[2]), np.finfo(dtype).max, X[2])
    refuse(bulk_of(X), ValueError, r"1 of 6 .*'s2' \(a maximum of .*outside of 1e-30 to 1e\+30; rescale it\)")


def test_subnormal_values_beside_others_are_as_good_as_zero():
    X = COUNTS.copy()
    X[:, 7] = 1e-42
    np.testing.assert_allclose(accept(bulk_of(X)).shares[:, 7], 0, atol=1e-40)


def test_one_read():
    X = COUNTS.copy()
    X[3] = 0
    X[3, 11] = 1
    read = accept(bulk_of(X))
    assert read.depth[3] == 1 and read.total[3] == 1
    np.testing.assert_array_equal(read.shares[3], np.eye(40)[11])


def test_depth_is_the_total_in_the_smallest_count():
    X = np.array([[1.0, 0, 4], [2, 6, 0], [1, 3e7, 0]])
    read = accept(bulk_of(X), [f"GENE{i}" for i in range(3)])
    np.testing.assert_allclose(read.depth, [5, 4, MAX_DEPTH])


@pytest.mark.parametrize("dtype", ["string", "string[pyarrow]"])
def test_names_of_any_dtype(dtype):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    bulk = bulk_of(TPM)
    bulk.var_names, bulk.obs_names = bulk.var_names.astype(dtype), bulk.obs_names.astype(dtype)
    for genes in (GENES, pd.Index(GENES).astype(dtype)):
        same(read_bulk(bulk, genes), TPM[:, :40])
    with pytest.raises(ValueError, match="The model has Ensembl ids, the bulk gene symbols"):
        read_bulk(bulk, pd.Index(ENSEMBL[:40]).astype(dtype))


def test_infinities_of_both_signs_are_refused_without_a_warning():
    X = np.ones((2, 3), dtype=np.float32)
    X[0, :2] = np.inf, -np.inf
    bulk = ad.AnnData(X, var=pd.DataFrame(index=list("abc")))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(ValueError, match="1 of 2 samples that cannot be used"):
            read_bulk(bulk, list("abc"))


def test_smallest_value_above_zero_of_every_row():
    rng = np.random.default_rng(0)
    values = (rng.random((150, 40)) * (rng.random((150, 40)) < 0.3)).astype(np.float32)
    values[np.arange(150), rng.integers(40, size=150)] = 10.0 ** rng.uniform(-30, 30, 150)
    values[3, 0] = -0.0
    expected = np.where(values > 0, values, np.inf).min(axis=1)
    np.testing.assert_array_equal(_smallest_above_zero(values), expected)
