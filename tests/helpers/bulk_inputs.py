"""Bulk of planted values, read with nothing said or refused with nothing changed."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.io._bulk import AlignedBulk, read_bulk

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


SYMBOLS = [f"GENE{i}" for i in range(60)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(60)]
VERSIONED = [f"{name}.{i % 9 + 1}" for i, name in enumerate(ENSEMBL)]
