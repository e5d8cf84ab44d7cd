"""Reading bulk: alignment by name (HP-15), units, and every row on bad bulk of section 7 and issue 2 (HP-26)."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.io._bulk import MAX_DEPTH, AlignedBulk, _smallest_above_zero, read_bulk

GENES = [f"GENE{i}" for i in range(40)]
RNG = np.random.default_rng(3)
TPM = RNG.lognormal(1, 2.5, size=(6, 60)).astype(np.float32)
TPM[:, 5] = 0
TPM[0, 0] = 5000.5
COUNTS = RNG.poisson(TPM).astype(np.float32)


def bulk_of(X, var_names=None, **layers):
    names = [f"GENE{i}" for i in range(X.shape[1])] if var_names is None else var_names
    obs = pd.DataFrame({"age": range(X.shape[0])}, index=[f"s{i}" for i in range(X.shape[0])])
    return ad.AnnData(X, obs=obs, var=pd.DataFrame(index=pd.Index(names)), layers=layers, uns={"kept": [1]})


def fingerprint(bulk):
    def plain(matrix):
        parts = (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (np.asarray(matrix),)
        return type(matrix).__name__, str(matrix.dtype), *(part.tobytes() for part in parts)

    matrices = [plain(bulk.X), *(plain(bulk.layers[key]) for key in bulk.layers)]
    return matrices, bulk.obs.to_dict(), bulk.var.to_dict("list"), list(bulk.var_names), str(bulk.uns), bulk.is_view


def linear(read: AlignedBulk) -> np.ndarray:
    """What was read, in the bulk's units."""
    assert read.shares.dtype == np.float32
    return read.shares * read.total[:, None]


def same(read: AlignedBulk, expected) -> None:
    np.testing.assert_allclose(linear(read), expected, rtol=1e-6)


def refuse(bulk, error, words, genes=GENES, **kwargs):
    """The call raises and leaves `bulk` as it was."""
    before = fingerprint(bulk)
    with pytest.raises(error, match=words):
        read_bulk(bulk, genes, **kwargs)
    assert fingerprint(bulk) == before


def accept(bulk, genes=GENES, **kwargs) -> AlignedBulk:
    """The call is silent and leaves `bulk` as it was."""
    before = fingerprint(bulk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_bulk(bulk, genes, **kwargs)
    assert fingerprint(bulk) == before
    return read


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


# bad input


def test_not_an_anndata():
    with pytest.raises(TypeError, match="list; expected an AnnData or a DataFrame"):
        read_bulk(TPM.tolist(), GENES)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"input_type": "TPM"}, "input_type='TPM' is not known; expected one of 'auto', 'counts', 'cpm'"),
        ({"missing": "drop"}, "missing='drop' is not known; expected one of 'mean', 'zero', 'error'"),
    ],
)
def test_unknown_options(option, words):
    refuse(bulk_of(TPM), ValueError, words, **option)


def test_absent_layer():
    refuse(bulk_of(TPM, tpm=TPM), KeyError, r"layer 'counts'.*bulk\.layers.*\['tpm'\]", layer="counts")


@pytest.mark.parametrize("shape", [(0, 60), (6, 0)])
def test_no_samples_or_genes(shape):
    refuse(bulk_of(TPM[: shape[0], : shape[1]]), ValueError, f"empty: {shape[0]} samples x {shape[1]} genes")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("gene", [7, 55])  # 55: not a gene of the model
@pytest.mark.parametrize("value", [-1.5, np.nan, np.inf])
def test_negative_nan_infinite(make, gene, value):
    X = TPM.copy()
    X[3, gene] = value
    words = rf"bulk\.X has 1 of 6 samples that cannot be used: 's3' \(.* at var 'GENE{gene}'\)"
    refuse(bulk_of(make(X)), ValueError, words)
    layered = bulk_of(TPM, raw=make(X))
    refuse(layered, ValueError, rf"bulk\.layers\['raw'\] has 1 .*'s3' \(.* at var 'GENE{gene}'\)", layer="raw")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_all_zero_sample_is_named(make):
    X = TPM.copy()
    X[4] = 0
    refuse(bulk_of(make(X)), ValueError, r"1 of 6 samples that cannot be used: 's4' \(no expression at all\)")
    refuse(bulk_of(make(np.log2(X + 1))), ValueError, r"'s4' \(no expression at all\)", input_type="log2")


def test_sample_without_any_model_gene_is_named():
    X = TPM.copy()
    X[2, :40] = 0
    refuse(bulk_of(X), ValueError, r"'s2' \(no expression of any of the model's genes\)")


def test_duplicate_gene_names():
    names = [f"GENE{i}" for i in range(60)]
    names[50:54] = ["GENE1", "GENE2", "GENE3", "GENE4"]
    refuse(bulk_of(TPM, names), ValueError, r"4 gene names more than once, such as \['GENE1', 'GENE2', 'GENE3'\]")


@pytest.mark.parametrize("missing", ["mean", "zero", "error"])
def test_no_gene_of_the_model_is_an_error(missing):
    words = r"The bulk has 0 of the model's 40 genes \(0\.0%\).*identifiers"
    refuse(bulk_of(TPM, [f"other{i}" for i in range(60)]), ValueError, words, missing=missing)


@pytest.mark.parametrize("missing", ["mean", "zero"])
@pytest.mark.parametrize("lost", [1, 20, 39])
def test_missing_genes_are_not_present(lost, missing):
    read = accept(bulk_of(TPM[:, lost:], [f"GENE{i}" for i in range(lost, 60)]), missing=missing)
    np.testing.assert_array_equal(read.present, np.arange(40) >= lost)
    np.testing.assert_allclose(linear(read)[:, lost:], TPM[:, lost:40], rtol=1e-6)
    assert not read.shares[:, :lost].any() and read.overlap == (40 - lost) / 40


def test_missing_genes_can_be_an_error():
    refuse(bulk_of(TPM[:, :38]), ValueError, r"missing are 2 \(5.0%\), such as \['GENE38', 'GENE39'\]", missing="error")


def test_missing_genes_of_log2_stay_zero():
    assert not accept(bulk_of(np.log2(TPM[:, :38] + 1)), input_type="log2").shares[:, 38:].any()


SYMBOLS = [f"GENE{i}" for i in range(60)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(60)]
VERSIONED = [f"{name}.{i % 9 + 1}" for i, name in enumerate(ENSEMBL)]


@pytest.mark.parametrize(
    ("names", "genes", "words"),
    [
        (ENSEMBL, SYMBOLS, "The bulk has Ensembl ids, the model gene symbols"),
        (VERSIONED, SYMBOLS, "The bulk has Ensembl ids, the model gene symbols"),
        (SYMBOLS, ENSEMBL, "The model has Ensembl ids, the bulk gene symbols"),
        (VERSIONED, ENSEMBL, "only in their version suffix"),
        (ENSEMBL, VERSIONED, "only in their version suffix"),
        ([name.capitalize() for name in SYMBOLS], SYMBOLS, "upper and lower case.*mouse"),
        ([str(i + 1000) for i in range(60)], SYMBOLS, "The bulk's names are numbers"),
    ],
)
def test_mixed_up_identifiers_are_explained(names, genes, words):
    refuse(bulk_of(TPM, names), ValueError, words, genes=genes[:40])


def test_symbols_in_another_column_are_found():
    bulk = bulk_of(TPM, ENSEMBL)
    bulk.var["gene_name"] = pd.Categorical(SYMBOLS)
    refuse(bulk, ValueError, r"`bulk\.var_names = bulk\.var\['gene_name'\]\.astype\(str\)`")
    bulk.var_names = bulk.var["gene_name"].astype(str)  # the advice
    same(read_bulk(bulk, GENES), TPM[:, :40])


@pytest.mark.parametrize("names", [SYMBOLS, ENSEMBL])
def test_genes_as_rows(names):
    transposed = bulk_of(TPM, names).T.copy()
    refuse(transposed, ValueError, r"transposed \(genes as rows\)\. Use bulk\.T")
    if names is SYMBOLS:
        same(accept(transposed.T.copy()), TPM[:, :40])


def test_what_is_read_cannot_be_reassigned():
    read = accept(bulk_of(TPM))
    with pytest.raises(AttributeError):
        read.shares = None


# samples that cannot be used


def spoiled():
    """Six samples, four of them bad in different ways, and what to say of them."""
    X = TPM.copy()
    X[1, 7], X[2, 55], X[4] = np.nan, -2.0, 0
    X[5, :40] = 0
    return X, {
        "s1": "NaN at var 'GENE7'",
        "s2": "a negative value (-2) at var 'GENE55'",
        "s4": "no expression at all",
        "s5": "no expression of any of the model's genes",
    }


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_all_bad_samples_are_named_or_skipped(make):
    X, reasons = spoiled()
    bulk = bulk_of(make(X))
    words = "bulk.X has 4 of 6 samples that cannot be used: " + ", ".join(f"'{k}' ({v})" for k, v in reasons.items())
    with pytest.raises(ValueError) as error:
        read_bulk(bulk, GENES)
    assert str(error.value).startswith(words + ".") and "on_bad_sample='skip'" in str(error.value)
    before = fingerprint(bulk)
    with pytest.warns(UserWarning) as caught:
        read = read_bulk(bulk, GENES, on_bad_sample="skip")
    assert fingerprint(bulk) == before
    assert len(caught) == 1 and str(caught[0].message).startswith(words) and caught[0].filename == __file__
    assert read.skipped == reasons and list(read.obs_names) == ["s0", "s3"]
    np.testing.assert_array_equal(read.usable, [True, False, False, True, False, False])
    same(read, TPM[[0, 3], :40])
    np.testing.assert_array_equal(read.shares, accept(bulk_of(TPM)).shares[[0, 3]])


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.0])
def test_no_usable_sample_is_an_error_either_way(value):
    for on_bad_sample in ("raise", "skip"):
        X = np.full((3, 60), value)
        refuse(bulk_of(X), ValueError, "3 of 3 samples that cannot be used: 's0'.*", on_bad_sample=on_bad_sample)


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(x + 1), lambda x: np.log1p(x / x.sum() * 1e4)])
@pytest.mark.parametrize("linear_values", [COUNTS, TPM])
def test_logged_samples_among_linear_ones_are_named_and_skipped(log, linear_values):
    X = linear_values.astype(float)
    X[[1, 4]] = log(X[1]), log(X[4])
    for on_bad_sample in ("raise", "skip"):
        with pytest.warns(
            UserWarning, match=r"2 of 6 samples.*'s1' \(looks log-transformed \(maximum.*'s4'.*input_type"
        ):
            read = read_bulk(bulk_of(X), GENES, on_bad_sample=on_bad_sample)
        assert list(read.skipped) == ["s1", "s4"] and read.input_type in ("counts", "normalized")
        same(read, linear_values[[0, 2, 3, 5], :40])
    with pytest.warns(UserWarning, match="2 samples that look log-transformed among linear ones.*'s1', 's4'"):
        read = read_bulk(bulk_of(X), GENES, input_type="tpm")
    assert read.usable.all()


def test_linear_samples_among_logs_are_named():
    X = np.log2(TPM.astype(float) + 1)
    X[3] = TPM[3]
    refuse(bulk_of(X), ValueError, r"1 of 6 .*'s3' \(a maximum of .*too large for a logarithm\)", input_type="log2")
    with pytest.warns(UserWarning, match="'s3'"):
        read = read_bulk(bulk_of(X), GENES, input_type="log2", on_bad_sample="skip")
    np.testing.assert_allclose(linear(read), TPM[[0, 1, 2, 4, 5], :40], rtol=1e-4, atol=1e-5)


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
