import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import hpvade as hp


def bulk(names, values=None):
    values = np.arange(1.0, 2 * len(names) + 1).reshape(2, -1) if values is None else values
    return AnnData(values, pd.DataFrame(index=["s1", "s2"]), pd.DataFrame(index=list(names)))


@pytest.mark.parametrize(
    ("name", "symbol", "how"),
    [
        ("CD3E", "CD3E", "symbol"),
        ("ENSG00000198851", "CD3E", "ensembl"),
        ("ENSG00000198851.10", "CD3E", "ensembl"),
        ("MARCH5", "MARCHF5", "previous"),
        ("TMEM173", "STING1", "previous"),
        ("CD3E|ENSG00000198851", "CD3E", "decorated"),
        ("ENSG00000198851_CD3E", "CD3E", "decorated"),
        ("ENSG00000198851.10|OTTHUMG1|CD3E", "CD3E", "decorated"),
        ("CD3E|916", "CD3E", "decorated"),
        ("CD3E (916)", "CD3E", "decorated"),
        ("hg19_CD3E", "CD3E", "decorated"),
        ("GRCh38_CD3E", "CD3E", "decorated"),
        ("HLA.A", "HLA-A", "decorated"),
    ],
)
def test_every_kind_of_name(name, symbol, how):
    mapped = hp.pp.map_genes(bulk([name, "ACTB", "MS4A1"]))
    assert list(mapped.var_names) == [symbol, "ACTB", "MS4A1"]
    assert mapped.var["original_name"].tolist() == [name, "ACTB", "MS4A1"] and mapped.var_names.name is None
    assert mapped.uns["hpvade_gene_map"]["how"].get(how)
    np.testing.assert_array_equal(mapped.X, bulk([name, "ACTB", "MS4A1"]).X)


def test_a_table_and_a_model_do_as_well():
    class Model:
        def get_var_names(self):
            return np.array(["ENSG00000198851.10", "CD19"])

    given = bulk(["CD3E", "CD19"])
    for one in (given, given.to_df()):
        mapped = hp.pp.map_genes(one, Model())
        assert list(mapped.var_names) == ["ENSG00000198851.10", "CD19"]
        np.testing.assert_array_equal(mapped.X, given.X)
    with pytest.raises(TypeError, match="to is a NoneType; expected 'symbol', 'ensembl', the reference"):
        hp.pp.map_genes(given, None)
    with pytest.raises(TypeError, match="expected an AnnData or a DataFrame"):
        hp.pp.map_genes(None)


def test_unknown_names_stay(unchanged):
    data = bulk(["CD3E", "RP11-206L10.2", "my spike", "ERCC-00002"])
    with unchanged(data):
        mapped = hp.pp.map_genes(data)
    assert list(mapped.var_names) == list(data.var_names)
    assert mapped.uns["hpvade_gene_map"]["share"] == 0.25


@pytest.mark.parametrize(
    "date", ["7-Sep", "07-Sep", "Sep-07", "Sep-7", "2024-09-07", "2024-09-07 00:00:00", "7. Sep", "7-sept"]
)
def test_dates_become_the_gene_they_were(date):
    with pytest.warns(UserWarning, match="Excel turned 1 names"):
        mapped = hp.pp.map_genes(bulk([date, "CD3E", "ACTB"]))
    assert mapped.var_names[0] == "SEPTIN7"
    assert mapped.uns["hpvade_gene_map"]["repaired"] == [f"{date}: SEPTIN7"]


def test_dates_of_two_genes_stay_and_are_listed():
    with pytest.warns(UserWarning, match="without a single gene that fits: 1-Mar"):
        mapped = hp.pp.map_genes(bulk(["1-Mar", "CD3E", "ACTB"]))  # MARCHF1 and MTARC1
    assert mapped.var_names[0] == "1-Mar"
    assert mapped.uns["hpvade_gene_map"]["unclear"] == ["1-Mar"]


def test_names_of_one_gene_are_added_up():
    data = bulk(["SEPT7", "CD3E", "SEPTIN7", "ENSG00000122545"])
    data.layers["twice"] = 2 * data.X
    mapped = hp.pp.map_genes(data)
    assert list(mapped.var_names) == ["SEPTIN7", "CD3E"]
    np.testing.assert_array_equal(mapped.X, [[1 + 3 + 4, 2], [5 + 7 + 8, 6]])
    np.testing.assert_array_equal(mapped.layers["twice"], 2 * mapped.X)
    assert mapped.uns["hpvade_gene_map"]["summed"] == 2
    first = hp.pp.map_genes(data, duplicates="first")
    np.testing.assert_array_equal(first.X, data.X[:, :2])
    with pytest.raises(ValueError, match="2 names become.*SEPTIN7"):
        hp.pp.map_genes(data, duplicates="error")
    data.X = sparse.csr_matrix(data.X)
    np.testing.assert_array_equal(hp.pp.map_genes(data).X.toarray(), mapped.X)


def test_logs_are_not_added_up():
    data = bulk(["SEPT7", "CD3E", "SEPTIN7"], np.array([[1.5, 2.5, 0.25], [3.5, 0.75, 2.25]]))
    with pytest.raises(ValueError, match="logs cannot be added up"):
        hp.pp.map_genes(data)


def test_the_spelling_of_the_reference_is_met():
    reference = bulk(["SEPT7", "MARCH5", "CD3E", "CD19"])
    mapped = hp.pp.map_genes(bulk(["SEPTIN7", "ENSG00000198265.1", "ENSG00000198851", "MARCHF5", "LYZ"]), reference)
    assert list(mapped.var_names)[:4] == ["SEPT7", "ENSG00000198265.1", "CD3E", "MARCH5"]
    assert mapped.uns["hpvade_gene_map"]["share"] == 0.75
    to_ids = hp.pp.map_genes(bulk(["CD3E", "SEPT7", "LYZ"]), ["ENSG00000198851.3", "ENSG00000122545.7"])
    assert list(to_ids.var_names) == ["ENSG00000198851.3", "ENSG00000122545.7", "LYZ"]


def test_a_reference_with_both_names_of_a_gene_takes_each_as_it_is():
    mapped = hp.pp.map_genes(bulk(["SEPT7", "SEPTIN7", "ENSG00000122545"]), ["SEPT7", "SEPTIN7", "CD3E"])
    assert list(mapped.var_names) == ["SEPT7", "SEPTIN7"]
    np.testing.assert_array_equal(mapped.X, [[1, 2 + 3], [4, 5 + 6]])


def test_ensembl_ids():
    mapped = hp.pp.map_genes(bulk(["CD3E", "ENSG00000122545.7", "CD19"]), "ensembl")
    assert list(mapped.var_names) == ["ENSG00000198851", "ENSG00000122545", "ENSG00000177455"]


def test_species_are_told_apart_and_never_mapped_onto_each_other():
    mouse = ["Cd3e", "Cd19", "Actb", "Ms4a1", "ENSMUSG00000069516"]
    mapped = hp.pp.map_genes(bulk(mouse))
    assert mapped.uns["hpvade_gene_map"]["species"] == "mouse"
    assert list(mapped.var_names) == ["Cd3e", "Cd19", "Actb", "Ms4a1", "Lyz2"]
    human = ["CD3E", "CD19", "ACTB", "MS4A1", "LYZ"]
    with pytest.raises(ValueError, match="are mouse ones, and the names to translate to are human ones"):
        hp.pp.map_genes(bulk(mouse), human)
    with pytest.raises(ValueError, match="two species"):
        hp.pp.map_genes(bulk([*mouse, *human]))
    with pytest.raises(ValueError, match="no genes of human or mouse"):
        hp.pp.map_genes(bulk(["x1", "x2", "x3"]))


@pytest.mark.parametrize("options", [{"to": "entrez"}, {"species": "rat"}, {"duplicates": "mean"}])
def test_unknown_options(options):
    with pytest.raises(ValueError, match="expected"):
        hp.pp.map_genes(bulk(["CD3E", "CD19"]), **options)


def test_versioned_ensembl_ids_meet_a_reference_of_old_symbols():
    from hpvade.io._gene_map import find_genes, gene_table

    reference = hp.datasets.pbmc_reference()
    symbol = find_genes(reference.var_names, "human")["symbol"]
    table = gene_table("human")["symbol"]
    known = table[table.isin(set(symbol.dropna())) & ~table.duplicated(keep=False)]
    data = bulk([f"{name}.1" for name in known.index])
    mapped = hp.pp.map_genes(data, reference)
    # four of five symbols of 2013 have a gene today; nearly all of these are met
    assert mapped.var_names.isin(reference.var_names).sum() > 0.98 * len(known)
    assert mapped.uns["hpvade_gene_map"]["share"] > 0.8
