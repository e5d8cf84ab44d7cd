"""Every row on bad references of spec/hp_vade.md, section 7, and issue 2; each leaves the AnnData as it was (HP-26)."""

import re
import tracemalloc
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.reference._checks import check_cells, check_column, check_reference, check_signature

TYPES = np.array(["B", "CD4 T", "Mono"] * 8)


def reference(X=None, labels=TYPES, **layers):
    rng = np.random.default_rng(1)
    n = len(labels)
    X = rng.poisson(2.0, size=(n, 9)).astype(np.float32) + np.eye(n, 9, dtype=np.float32) + 1 if X is None else X
    obs = pd.DataFrame({"cell_type": labels, "donor": ["d1", "d2"] * (n // 2)}, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(X.shape[1])])
    return ad.AnnData(X, obs=obs, var=var, layers=layers, uns={"kept": [1]})


def test_whether_a_gene_was_seen_is_no_count():
    with pytest.raises(TypeError, match=r"adata\.X holds True and False.*Pass the layer with the values"):
        check_reference(reference(np.ones((24, 9), dtype=bool)), "cell_type")
    seen = (np.random.default_rng(0).random((24, 200)) < 0.5).astype(np.float32)
    with pytest.warns(UserWarning, match="holds no count above 1"):
        check_reference(reference(seen), "cell_type")
    seen[3, 7] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_reference(reference(seen), "cell_type")


def test_objects_are_refused_with_the_cure():
    objects = reference(np.ones((24, 9)).astype(object))
    with pytest.raises(TypeError, match=r"adata\.X = adata\.X\.astype\(float\)"):
        check_reference(objects, "cell_type")
    objects.X = objects.X.astype(float)  # the cure is one
    check_reference(objects, "cell_type")


def test_a_list_is_no_name_of_a_column():
    with pytest.raises(KeyError, match=r"labels_key=\['cell_type'\] is not a column of adata.obs; found 'cell_type'"):
        check_reference(reference(), ["cell_type"])


def fingerprint(adata):
    def plain(matrix):
        if sparse.issparse(matrix):
            return (
                type(matrix).__name__,
                str(matrix.dtype),
                *(part.tobytes() for part in (matrix.data, matrix.indices, matrix.indptr)),
            )
        return type(matrix).__name__, str(matrix.dtype), np.asarray(matrix).tobytes()

    matrices = [plain(adata.X), *(plain(adata.layers[key]) for key in adata.layers)]
    return matrices, adata.obs.to_dict(), list(adata.var_names), str(adata.uns), adata.is_view, list(adata.obs.dtypes)


def refuse(adata, error, words, **kwargs):
    """The call raises and leaves `adata` as it was."""
    before = fingerprint(adata)
    with pytest.raises(error, match=words):
        check_reference(adata, **({"labels_key": "cell_type"} | kwargs))
    assert fingerprint(adata) == before


def accept(adata, **kwargs):
    """The call is silent and leaves `adata` as it was."""
    before = fingerprint(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_reference(adata, "cell_type", **kwargs) is None
    assert fingerprint(adata) == before


MATRICES = {
    "int64": lambda X: X.astype(int),
    "int32": lambda X: X.astype(np.int32),
    "uint16": lambda X: X.astype(np.uint16),
    "float32": lambda X: X,
    "float64": lambda X: X.astype(float),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": lambda X: sparse.csc_array(X.astype(int)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_good_references_pass_unchanged(kind):
    X = reference().X
    accept(reference(MATRICES[kind](X)), batch_key="donor", sample_key="donor")
    accept(reference(np.log1p(X), counts=MATRICES[kind](X)), layer="counts")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_backed(tmp_path, make):
    reference(make(reference().X)).write_h5ad(tmp_path / "good.h5ad")
    bad = reference().X
    bad[20, 4] = -1
    reference(make(bad)).write_h5ad(tmp_path / "bad.h5ad")
    before = (tmp_path / "bad.h5ad").read_bytes()
    check_reference(ad.read_h5ad(tmp_path / "good.h5ad", backed="r"), "cell_type")
    adata = ad.read_h5ad(tmp_path / "bad.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"adata\.X holds a negative value \(-1\) at obs 'c20', var 'g4'"):
        check_reference(adata, "cell_type")
    with pytest.raises(ValueError, match=r"adata = adata\.to_memory\(\)"):
        check_reference(adata[:5], "cell_type")
    adata.file.close()
    assert (tmp_path / "bad.h5ad").read_bytes() == before


@pytest.mark.parametrize("block", [np.asarray, sparse.csr_matrix])
def test_dask(block):
    dask_array = pytest.importorskip("dask.array")
    X = reference().X
    check_reference(reference(dask_array.from_array(X, chunks=(5, -1)).map_blocks(block)), "cell_type")
    X[20, 4] = np.nan
    with pytest.raises(ValueError, match="NaN at obs 'c20', var 'g4'"):
        check_reference(reference(dask_array.from_array(X, chunks=(5, -1)).map_blocks(block)), "cell_type")


def test_not_an_anndata():
    with pytest.raises(TypeError, match="DataFrame; expected an AnnData"):
        check_reference(pd.DataFrame(), "cell_type")


def test_view():
    refuse(reference()[:12], ValueError, r"view of another AnnData.*`adata = adata\.copy\(\)`")
    accept(reference()[:12].copy())


@pytest.mark.parametrize("shape", [(0, 9), (24, 0)])
def test_empty(shape):
    refuse(reference()[: shape[0], : shape[1]].copy(), ValueError, f"empty: {shape[0]} cells x {shape[1]} genes")


def test_no_matrix_at_all():
    adata = reference(counts=reference().X)
    del adata.X
    with pytest.raises(ValueError, match=r"adata\.X is empty.*counts"):
        check_reference(adata, "cell_type")
    check_reference(adata, "cell_type", layer="counts")


@pytest.mark.parametrize("argument", ["labels_key", "batch_key", "sample_key"])
def test_absent_column(argument):
    refuse(reference(), KeyError, f"{argument}='celltype'.*'cell_type', 'donor'", **{argument: "celltype"})


@pytest.mark.parametrize("value", [np.nan, None, "", " ", "nan", "None", "<NA>"])
@pytest.mark.parametrize("dtype", [object, "category"])
def test_nan_labels(value, dtype):
    labels = TYPES.astype(object)
    labels[[7, 11]] = value
    words = r"adata\.obs\['cell_type'\] is missing .* for 2 of 24 cells, the first is 'c7'"
    refuse(reference(labels=pd.array(labels, dtype=dtype)), ValueError, words)


@pytest.mark.parametrize("value", [np.nan, "", "nan", "None"])
def test_the_cure_for_missing_labels_works(value):
    """Text that means nothing is not NaN: what the message says to run leaves none of either kind."""
    labels = TYPES.astype(object)
    labels[[7, 11]] = value, np.nan
    adata = reference(labels=pd.array(labels, dtype=object))
    with pytest.raises(ValueError) as error:
        check_reference(adata, "cell_type")
    cure = re.search(r"Remove them with `adata = (.*)` or fill", str(error.value))[1]
    cured = eval(cure, {"adata": adata})
    assert cured.n_obs == adata.n_obs - 2
    check_reference(cured, "cell_type")


def test_nan_donor():
    adata = reference()
    adata.obs.loc["c3", "donor"] = np.nan
    refuse(adata, ValueError, r"obs\['donor'\] is missing .* 1 of 24 cells, the first is 'c3'", sample_key="donor")
    accept(adata)


def test_a_batch_may_be_called_none():
    adata = reference()
    adata.obs["treatment"] = ["none", "drug"] * 12
    accept(adata, batch_key="treatment")


def test_one_type():
    refuse(reference(labels=np.full(24, "B")), ValueError, "only one type, 'B'")


def test_type_with_one_cell():
    labels = TYPES.astype(object)
    labels[5] = "pDC"
    refuse(reference(labels=labels), ValueError, r"1 types with fewer than 2 cells: 'pDC' \(1 cell\)")


def test_unused_categories_are_ignored():
    accept(reference(labels=pd.Categorical(TYPES, categories=["B", "b", "CD4 T", "Mono", "pDC", "CD4"])))


def test_labels_may_be_numbers():
    accept(reference(labels=np.array([0, 1, 2] * 8)))


@pytest.mark.parametrize("other", ["b cell ", "B CELL", "B  cell"])
def test_duplicate_type_names(other):
    labels = np.array(["B cell", other, "Mono"] * 8, dtype=object)
    refuse(reference(labels=labels), ValueError, f"duplicate type names.*'{other}'|duplicate type names.*'B cell'")


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("T cells", "CD4 T cells"),
        ("T cell", "CD4+ T-cells"),
        ("B", "B_memory"),
        ("Mono", "FCGR3A+ Mono"),
        ("monocytes", "Classical Monocyte"),
    ],
)
def test_nested_type_names_warn(small, large):
    adata = reference(labels=np.array([small, large, "Platelet"] * 8))
    before = fingerprint(adata)
    with pytest.warns(UserWarning) as caught:
        check_reference(adata, "cell_type")
    assert len(caught) == 1 and f"{large!r} of {small!r}" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert fingerprint(adata) == before


@pytest.mark.parametrize(
    "labels",
    [
        ["Naive CD4 T", "Memory CD4 T", "CD14+ Mono", "B", "CD8 T", "FCGR3A+ Mono", "NK", "DC", "Platelet"],
        ["CD16- Mono", "CD16+ classical Mono", "pDC", "DC", "NKT", "T"],
        ["CD4 T cells", "CD8 T cells", "NK cells", "Dendritic cells"],
        ["0,0", "0,1", "1", "2"],  # clusters of clusters
        ["0.0", "1.0", "2.0", "10.0"],
        ["7", "C7", "0", "C0_7"],
    ],
)
def test_sibling_type_names_are_silent(labels):
    accept(reference(labels=np.array(labels * 2 * (1 + len(labels) % 2))))


def test_absent_layer():
    refuse(reference(raw=reference().X), KeyError, r"layer 'counts'.*\['raw'\]", layer="counts")


@pytest.mark.parametrize("kind", ["float32", "float64", "csr", "csc", "csr_array"])
@pytest.mark.parametrize(
    ("value", "words"), [(-1, r"a negative value \(-1\)"), (np.nan, "NaN"), (np.inf, "an infinite value")]
)
def test_negative_nan_infinite(kind, value, words):
    X = reference().X
    X[13, 5], X[14, 2] = value, value
    where = "at obs 'c13', var 'g5'"
    refuse(reference(MATRICES[kind](X)), ValueError, rf"adata\.X holds {words} {where}")
    layered = reference(counts=MATRICES[kind](X))
    refuse(layered, ValueError, rf"adata\.layers\['counts'\] holds {words} {where}", layer="counts")
    if words == "NaN":
        refuse(
            layered,
            ValueError,
            r"an outer join leaves is avoided by anndata\.concat\(\.\.\., fill_value=0\)",
            layer="counts",
        )


def test_only_zeros():
    refuse(reference(np.zeros((24, 9))), ValueError, "holds only zeros")
    refuse(reference(sparse.csr_matrix((24, 9))), ValueError, "holds only zeros")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_cells_without_counts(make):
    X = reference().X
    X[[4, 9]] = 0
    refuse(reference(make(X)), ValueError, r"2 cells without any count, the first is 'c4'.*filter_cells")
    refuse(reference(c=make(X)), ValueError, r"adata\[np\.asarray\(adata\.layers\['c'\]\.sum\(axis=1\)\)", layer="c")
    adata = reference(c=X)
    adata = adata[np.asarray(adata.layers["c"].sum(axis=1)).ravel() > 0].copy()  # the advice
    accept(adata, layer="c")


def test_duplicate_gene_names():
    adata = reference()
    adata.var_names = ["a", "a", "b", "b", "c", "c", "d", "d", "e"]
    refuse(adata, ValueError, r"4 gene names more than once, such as \['a', 'b', 'c'\]")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_logged_reference_is_refused(make):
    refuse(reference(make(np.log1p(reference().X))), ValueError, r"looks log-transformed.*maximum is .*layer='counts'")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_non_integer_counts_warn_and_name_the_layer(make):
    X = make(reference().X * 10.5)
    adata = reference(soupx=X)
    before = fingerprint(adata)
    with pytest.warns(UserWarning, match=r"adata\.layers\['soupx'\] holds values that are not integers"):
        check_reference(adata, "cell_type", layer="soupx")
    assert fingerprint(adata) == before


def test_cells_without_labels():
    adata = reference()
    check_cells(adata, columns={"batch_key": "donor", "labels_key": None})
    with pytest.raises(KeyError, match="size_factor_key='size' is not a column"):
        check_cells(adata, columns={"size_factor_key": "size"})
    with pytest.raises(KeyError, match="layer 'raw'"):
        check_cells(adata, layer="raw")
    logged = reference(np.log1p(reference().X))
    with pytest.raises(ValueError, match="looks log-transformed"):
        check_cells(logged)
    with pytest.warns(UserWarning, match="adata.X holds values that are not integers"):
        check_cells(logged, logged="warning")


def test_memory_does_not_grow_with_cells():
    """240 MB in float32, of which blocks of 4 MB are in memory one at a time."""
    dask_array = pytest.importorskip("dask.array")
    X = dask_array.ones((60_000, 1_000), chunks=(1_000, -1), dtype=np.float32)
    adata = reference(X, labels=np.array(["B", "T"] * 30_000))
    tracemalloc.start()
    check_reference(adata, "cell_type")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


SIGNATURE = pd.DataFrame({"B": [1.0, 0.0, 2.0], "T": [0.0, 3.0, 1.0]}, index=["MS4A1", "CD3E", "ACTB"])


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (SIGNATURE[["B"]], "3 genes x 1 types; expected .* two types or more"),
        (SIGNATURE.iloc[:0], "0 genes x 2 types"),
        (SIGNATURE.set_axis(["B", "B"], axis=1), r"names types more than once, such as \['B'\]"),
        (SIGNATURE.set_axis(["CD3E", "CD3E", "ACTB"]), r"names genes more than once, such as \['CD3E'\]"),
        (SIGNATURE.reset_index(names="gene"), r"columns \['gene'\] hold no numbers. Gene names belong in the index"),
        (SIGNATURE.replace(3.0, np.nan), "holds nan for gene 'CD3E' in 'T'; expected finite values >= 0"),
        (SIGNATURE.replace(2.0, np.inf), "holds inf for gene 'ACTB' in 'B'"),
        (SIGNATURE.replace(2.0, -1.0), "holds -1 for gene 'ACTB' in 'B'"),
        (SIGNATURE.assign(B=0), r"no expression for \['B'\]. Remove such types"),
    ],
)
def test_bad_signatures(signature, message):
    with pytest.raises(ValueError, match=message):
        check_signature(signature)


def test_a_good_signature_passes():
    assert check_signature(SIGNATURE) is None
    assert check_signature(SIGNATURE.astype(int)) is None


def test_a_column_of_text_and_numbers_is_refused():
    obs = pd.DataFrame({"cell_type": np.array(["B", 3, "B", 3], dtype=object)}, index=list("abcd"))
    for found in (obs, obs.astype("category")):
        with pytest.raises(ValueError, match=r"holds text and numbers.*astype\(str\)"):
            check_column(found, "labels_key", "cell_type")
    check_column(obs.astype(str), "labels_key", "cell_type")
