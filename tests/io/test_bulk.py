"""Reading bulk: alignment by name (HP-15), units, and every row on bad bulk of section 7 and issue 2 (HP-26)."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.io._bulk import AlignedBulk, detect_units, read_bulk

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


# units


@pytest.mark.parametrize(
    ("X", "units"),
    [
        (COUNTS, "counts"),
        (COUNTS.astype(np.int64), "counts"),
        (np.zeros((2, 3)), "counts"),
        (TPM, "normalized"),
        (COUNTS + np.float32(0.37), "normalized"),
        (np.log1p(TPM), "log"),
        (np.log2(TPM + 1), "log"),
        (np.log10(TPM + 1), "log"),
        (np.log2(TPM + 0.5), "log"),
        (np.log1p(COUNTS), "log"),
    ],
)
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_units_of_small_matrices(X, units, make):
    assert detect_units(make(X)) == units


def transcriptome(n_genes=8000, n_samples=5, sd=2.3):
    rng = np.random.default_rng(8)
    X = rng.lognormal(0, sd, n_genes) * rng.lognormal(0, 0.3, (n_samples, n_genes))
    X[:, rng.random(n_genes) < 0.2] = 0
    return X / X.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_samples", [1, 5])
@pytest.mark.parametrize("total", [1.0, 100.0, 1e3, 1e4, 1e6, 1234.5])
def test_units_do_not_depend_on_the_total_of_linear_values(total, n_samples):
    X = transcriptome(n_samples=n_samples) * total
    assert detect_units(X) == "normalized" or (n_samples == 1 and total == 1234.5 and X.max() < 30)
    panel = X[:, np.argsort(X[0])[-50:]]  # few genes
    assert detect_units(panel) == "normalized" or panel.max() < 30


@pytest.mark.parametrize("n_samples", [1, 5])
@pytest.mark.parametrize(
    "log", [np.log1p, lambda x: np.log2(x + 1), lambda x: np.log10(x + 1), lambda x: np.log2(x + 1e-3)]
)
@pytest.mark.parametrize("total", [1e4, 1e6, 12345.6])
def test_logs_are_told_apart(total, log, n_samples):
    X = log(transcriptome(n_samples=n_samples) * total)
    assert detect_units(X) == "log"
    assert detect_units(X[:, :20]) == "log"


def test_quantile_normalised_arrays_are_logs():
    """Equal sums in all samples, as linear normalised values have, but a short tail."""
    values = np.sort(np.random.default_rng(0).gamma(6, 1.3, 3000) + 2).clip(max=15)
    X = np.stack([np.random.default_rng(seed).permutation(values) for seed in range(4)])
    np.testing.assert_allclose(X.sum(1), X[0].sum())
    assert detect_units(X) == "log"


def test_low_linear_transcriptomes_are_linear_by_their_tail():
    X = transcriptome(n_samples=5) * np.linspace(180, 220, 5)[:, None]
    X *= 25 / X.max()
    assert detect_units(X) == "normalized"


# alignment


def test_hp15_genes_are_aligned_by_name():
    order = np.random.default_rng(0).permutation(60)
    permuted = bulk_of(TPM[:, order], [f"GENE{i}" for i in order])
    straight, read = accept(bulk_of(TPM)), accept(permuted)
    assert read.values.dtype == np.float32 and read.values.shape == (6, 40)
    np.testing.assert_array_equal(read.values, TPM[:, :40])
    np.testing.assert_array_equal(straight.values, read.values)
    np.testing.assert_allclose(read.totals, TPM.sum(axis=1, dtype=float), rtol=1e-6)
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
    np.testing.assert_array_equal(read.values, COUNTS[:, :40])
    np.testing.assert_array_equal(read.totals, COUNTS.sum(1))
    assert read.input_type == "counts"
    layered = accept(bulk_of(np.log1p(TPM), counts=MATRICES[kind](COUNTS)), layer="counts")
    np.testing.assert_array_equal(layered.values, COUNTS[:, :40])


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_backed_bulk(tmp_path, make):
    bulk_of(make(TPM)).write_h5ad(tmp_path / "bulk.h5ad")
    bulk = ad.read_h5ad(tmp_path / "bulk.h5ad", backed="r")
    np.testing.assert_array_equal(read_bulk(bulk, GENES).values, TPM[:, :40])
    np.testing.assert_array_equal(read_bulk(bulk[2:4], GENES).values, TPM[2:4, :40])


def test_dask_bulk():
    dask_array = pytest.importorskip("dask.array")
    bulk = bulk_of(dask_array.from_array(TPM, chunks=(4, 17)))
    np.testing.assert_array_equal(read_bulk(bulk, GENES).values, TPM[:, :40])
    np.testing.assert_array_equal(read_bulk(bulk[1:5], GENES).values, TPM[1:5, :40])


def test_a_view_is_fine():
    view = bulk_of(TPM)[[4, 1]]
    read = accept(view)
    np.testing.assert_array_equal(read.values, TPM[[4, 1], :40])
    assert list(read.obs_names) == ["s4", "s1"] and view.is_view


def test_one_sample():
    np.testing.assert_array_equal(accept(bulk_of(TPM[:1])).values, TPM[:1, :40])


# units on request


@pytest.mark.parametrize("input_type", ["counts", "cpm", "tpm", "fpkm"])
def test_linear_units_are_taken_as_they_are(input_type):
    read = accept(bulk_of(TPM), input_type=input_type)
    np.testing.assert_array_equal(read.values, TPM[:, :40])
    assert read.input_type == input_type


def test_a_linear_unit_that_looks_logged_warns():
    bulk = bulk_of(np.log1p(TPM))
    with pytest.warns(UserWarning, match=r"looks log-transformed \(maximum 9\.308.*input_type='tpm'") as caught:
        read = read_bulk(bulk, GENES, input_type="tpm")
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(read.values, np.log1p(TPM)[:, :40])


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("input_type", "log", "linear"),
    [
        ("log1p", np.log1p, TPM),
        ("log2", lambda x: np.log2(x + 1), TPM),  # exact zeros: 2**x - 1
        ("log2", np.log2, TPM + 16),  # an array: 2**x
        ("log2", np.log2, TPM + 0.5),  # negative logs
    ],
)
def test_logs_are_undone_on_request(make, input_type, log, linear):
    read = accept(bulk_of(make(log(linear.astype(float)))), input_type=input_type)
    np.testing.assert_allclose(read.values, linear[:, :40], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(read.totals, linear.sum(axis=1), rtol=1e-5)
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
        np.testing.assert_allclose(read.values, expected[:, :40], rtol=1e-6)
        np.testing.assert_allclose(read.totals, expected.sum(axis=1), rtol=1e-6)
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
    with pytest.raises(TypeError, match="DataFrame; expected an AnnData"):
        read_bulk(pd.DataFrame(TPM), GENES)


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
    refuse(bulk_of(make(X)), ValueError, rf"bulk\.X holds .* at obs 's3', var 'GENE{gene}'")
    layered = bulk_of(TPM, raw=make(X))
    refuse(layered, ValueError, rf"bulk\.layers\['raw'\] holds .* at obs 's3', var 'GENE{gene}'", layer="raw")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_all_zero_sample_is_named(make):
    X = TPM.copy()
    X[4] = 0
    refuse(bulk_of(make(X)), ValueError, "1 samples with no expression at all: 's4'")
    refuse(bulk_of(make(np.log2(X + 1))), ValueError, "no expression at all: 's4'", input_type="log2")


def test_sample_without_any_model_gene_is_named():
    X = TPM.copy()
    X[2, :40] = 0
    refuse(bulk_of(X), ValueError, "no expression of any of the model's genes: 's2'")


def test_duplicate_gene_names():
    names = [f"GENE{i}" for i in range(60)]
    names[50:54] = ["GENE1", "GENE2", "GENE3", "GENE4"]
    refuse(bulk_of(TPM, names), ValueError, r"4 gene names more than once, such as \['GENE1', 'GENE2', 'GENE3'\]")


@pytest.mark.parametrize("missing", ["mean", "zero", "error"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.475])
def test_below_half_of_the_genes_is_an_error(share, missing):
    n = round(40 * share)
    names = [f"GENE{i}" for i in range(n)] + [f"other{i}" for i in range(60 - n)]
    words = rf"The bulk has {n} of the model's 40 genes \({share:.1%}\); at least 50% are needed.*identifiers"
    refuse(bulk_of(TPM, names), ValueError, words, missing=missing)


@pytest.mark.parametrize("missing", ["mean", "zero"])
@pytest.mark.parametrize("lost", [1, 20])
def test_missing_genes_warn_once(lost, missing):
    X, names = TPM[:, lost:], [f"GENE{i}" for i in range(lost, 60)]
    bulk = bulk_of(X, names)
    before = fingerprint(bulk)
    with pytest.warns(UserWarning) as caught:
        read = read_bulk(bulk, GENES, missing=missing)
    assert fingerprint(bulk) == before
    message = str(caught[0].message)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert f"missing are {lost} ({lost / 40:.1%}), such as {GENES[: min(lost, 3)]}" in message
    np.testing.assert_array_equal(read.present, np.arange(40) >= lost)
    np.testing.assert_array_equal(read.values[:, lost:], TPM[:, lost:40])
    assert not read.values[:, :lost].any() and read.overlap == (40 - lost) / 40


def test_missing_genes_can_be_an_error():
    refuse(bulk_of(TPM[:, :38]), ValueError, r"missing are 2 \(5.0%\), such as \['GENE38', 'GENE39'\]", missing="error")


def test_missing_genes_of_log2_stay_zero():
    with pytest.warns(UserWarning, match="missing are 2"):
        read = read_bulk(bulk_of(np.log2(TPM[:, :38] + 1)), GENES, input_type="log2")
    assert not read.values[:, 38:].any()


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
    np.testing.assert_array_equal(read_bulk(bulk, GENES).values, TPM[:, :40])


def test_a_panel_of_few_genes():
    refuse(bulk_of(TPM[:, :15]), ValueError, r"known, but they are few.*adata\.var_names\.isin\(bulk\.var_names\)")


@pytest.mark.parametrize("names", [SYMBOLS, ENSEMBL])
def test_genes_as_rows(names):
    transposed = bulk_of(TPM, names).T.copy()
    refuse(transposed, ValueError, r"transposed \(genes as rows\)\. Use bulk\.T")
    if names is SYMBOLS:
        np.testing.assert_array_equal(accept(transposed.T.copy()).values, TPM[:, :40])


def test_what_is_read_cannot_be_reassigned():
    read = accept(bulk_of(TPM))
    with pytest.raises(AttributeError):
        read.values = None
