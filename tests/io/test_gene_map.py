import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from hpvade.io._gene_map import add_up, date_genes, find_genes, find_species, gene_likeness, gene_table, match_genes


def test_the_tables_hold_known_genes():
    human, mouse = gene_table("human"), gene_table("mouse")
    assert len(human) == 42756 and len(mouse) == 56408
    assert human.loc["ENSG00000198851", "symbol"] == "CD3E" and mouse.loc["ENSMUSG00000032093", "symbol"] == "Cd3e"
    assert human.index.is_unique and (human["length"] > 0).all() and (mouse["length"] > 0).all()


def test_a_symbol_is_itself_and_an_alias_never_hides_one():
    human = gene_table("human")["symbol"]
    found = find_genes(human, "human")
    assert (found["symbol"].to_numpy() == human.to_numpy()).all() and set(found["how"]) == {"symbol"}
    by_id = find_genes(human.index + ".3", "human")
    assert (by_id["symbol"].to_numpy() == human.to_numpy()).all() and set(by_id["how"]) == {"ensembl"}


@pytest.mark.parametrize(
    ("name", "genes"),
    [
        ("7-Sep", ["SEPTIN7"]),
        ("3-Mar", ["MARCHF3"]),
        ("1-Mar", ["MARCHF1", "MTARC1"]),
        ("15-Sep", ["SELENOF"]),
        ("2020-09-07", ["SEPTIN7"]),
        ("7. Mrz", ["MARCHF7"]),
        ("32-Sep", None),
        ("CD3E", None),
        ("7-Foo", None),
        ("HLA-A", None),
        ("NKX2-1", None),
    ],
)
def test_dates(name, genes):
    assert date_genes(name, "human") == genes


def test_no_symbol_looks_like_a_date():
    for species in ("human", "mouse"):
        assert not [name for name in gene_table(species)["symbol"] if date_genes(name, species) is not None]


def test_dates_of_a_mouse():
    assert date_genes("7-Sep", "mouse") == ["Septin7"] and date_genes("5-Mar", "mouse") == ["Marchf5"]


def test_species():
    human, mouse = (gene_table(species)["symbol"] for species in ("human", "mouse"))
    assert find_species(human) == find_species(human.index) == "human"
    assert find_species(mouse) == find_species(mouse.index + ".2") == "mouse"
    assert find_species([*human[:2000], *mouse[:2000]]) == "mixed"
    assert find_species(["7-Sep", "5-Mar", "6-Sep", "CD3E"]) == "human"
    assert find_species(["gene_1", "gene_2"]) is find_species([]) is None


def test_samples_do_not_look_like_genes():
    assert gene_likeness(["patient_1", "GSM123456", "SRR1234567", "ctrl_2"]) == 0
    assert gene_likeness(["CD3E", "CD19", "gene_7", "ENSDARG00000000001"]) == 0.75
    assert gene_likeness([]) == 0


def test_names_meet_by_the_gene():
    found = match_genes(pd.Index(["SEPTIN7", "CD3E", "ENSG00000177455.4", "LYZ"]), pd.Index(["SEPT7", "CD19"]), "human")
    assert found["name"].tolist()[:3:2] == ["SEPT7", "CD19"] and found["name"].isna().tolist() == [
        False,
        True,
        False,
        True,
    ]
    both = match_genes(pd.Index(["ENSG00000122545"]), pd.Index(["SEPT7", "SEPTIN7"]), "human")
    assert both["name"].tolist() == ["SEPTIN7"]  # the current symbol before a previous one


def test_columns_are_added_up_by_name():
    adata = AnnData(np.arange(8.0).reshape(2, 4), layers={"a": sparse.csr_matrix(np.arange(8.0).reshape(2, 4))})
    adata.obsm["p"] = pd.DataFrame({"B": [0.5, 1.0]}, index=adata.obs_names)
    out = add_up(adata, pd.Index(["x", "y", "x", "z"]))
    assert list(out.var_names) == ["x", "y", "z"]
    np.testing.assert_array_equal(out.X, [[2, 1, 3], [10, 5, 7]])
    np.testing.assert_array_equal(out.layers["a"].toarray(), out.X)
    assert out.obsm["p"].equals(adata.obsm["p"]) and out.X.dtype == adata.X.dtype


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_a_file_is_added_up_without_being_loaded(tmp_path, kind):
    """Many genes of few names: the peak of memory is that of blocks, far below the file's matrix."""
    counts = np.random.default_rng(0).poisson(1.0, (40_000, 300)).astype(np.float32)
    matrix = counts if kind == "dense" else sparse.csr_matrix(counts).asformat(kind)
    AnnData(matrix, obs=pd.DataFrame({"kind": "a"}, index=map(str, range(40_000)))).write_h5ad(tmp_path / "a.h5ad")
    names = pd.Index(["x", "y", "z"] * 100)
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    size = matrix.nbytes if kind == "dense" else matrix.data.nbytes + matrix.indices.nbytes
    tracemalloc.start()
    try:
        out = add_up(backed, names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        backed.file.close()
    if kind != "csc":  # of which 16 blocks are read at once
        assert peak < 0.75 * size, peak / size
    expected = np.stack([counts[:, i::3].sum(axis=1) for i in range(3)], axis=1)
    found = out.X.toarray() if kind != "dense" else out.X
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32 and out.obs["kind"].eq("a").all() and not out.isbacked


def test_a_file_whose_names_are_unique_is_renamed(tmp_path):
    AnnData(sparse.csr_matrix(np.eye(3))).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    out = add_up(backed, pd.Index(["x", "y", "z"]))
    backed.file.close()
    np.testing.assert_array_equal(out.X.toarray(), np.eye(3))
    assert list(out.var_names) == ["x", "y", "z"]
