"""Registration: what cannot be learnt from is refused with the remedy, and nothing is changed. Row CA-21."""

import numpy as np
import pytest
from scipy import sparse

import hpvade as hp


def entry(value):
    def change(adata):
        X = adata.X.toarray()
        X[3, 5] = value
        adata.X = sparse.csr_matrix(X)

    return change


def hole(adata):
    adata.obs["sex"] = adata.obs["sex"].astype(object).where(np.arange(adata.n_obs) != 4)


def number(adata):
    adata.obs["sex"] = np.arange(adata.n_obs) / 7


def duplicate(adata):
    adata.var_names = ["gene_0001", *adata.var_names[:-1]]


CASES = {
    "absent column": (["age"], {}, None, KeyError, "'age' is not a column of adata.obs; found 'cell_type'"),
    "absent batch": (["sex"], {"batch_key": "lane"}, None, KeyError, "'lane' is not a column"),
    "absent layer": (["sex"], {"layer": "raw"}, None, KeyError, "'raw' is not in adata.layers"),
    "missing": (["sex"], {"missing": "error"}, hole, ValueError, r"adata.obs\['sex'\] is missing for 1 of 200 cells"),
    "unknown mode": (["sex"], {"missing": "drop"}, None, ValueError, "missing='drop'; expected one of"),
    "measurement": (["sex"], {}, number, ValueError, r"200 different numbers.*pd.cut"),
    "twice": (["sex", "sex"], {}, None, ValueError, "'sex' is named twice"),
    "negative": (["sex"], {}, entry(-1), ValueError, "adata.X holds a negative value .* 'cell_3', var 'gene_0006'"),
    "NaN": (["sex"], {}, entry(np.nan), ValueError, "adata.X holds NaN at obs 'cell_3'"),
    "duplicate genes": (["sex"], {}, duplicate, ValueError, "gene names more than once"),
}


@pytest.mark.parametrize("case", CASES)
def test_ca_21_setup_refuses_and_changes_nothing(cells, unchanged, case):
    keys, options, change, error, message = CASES[case]
    adata = cells(n_cells=200, n_genes=60)
    if change is not None:
        change(adata)
    with unchanged(adata), pytest.raises(error, match=message):
        hp.CycleAE.setup_anndata(adata, keys, **options)


def test_a_field_with_one_category_is_skipped_and_none_left_refused(cells):
    adata = cells(n_cells=50, n_genes=30)
    adata.obs["lab"] = "here"
    with pytest.warns(UserWarning, match="field 'lab' is skipped: it has 1 category"):
        hp.CycleAE.setup_anndata(adata, ["lab", "sex"])
    assert hp.CycleAE(adata, n_latent=4).fields == ["sex"]
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError, match="has two categories"):
        hp.CycleAE.setup_anndata(adata, ["lab"])
