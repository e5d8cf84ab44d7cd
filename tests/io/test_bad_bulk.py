"""Bulk that cannot be read, every row of it named (section 7 of the specification and issue 2, HP-26)."""

import numpy as np
import pandas as pd
import pytest
from bulk_inputs import (
    COUNTS,
    ENSEMBL,
    GENES,
    SYMBOLS,
    TPM,
    VERSIONED,
    accept,
    bulk_of,
    fingerprint,
    linear,
    refuse,
    same,
)
from scipy import sparse

from hpvade.io._bulk import read_bulk

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
