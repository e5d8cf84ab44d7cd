"""A DataFrame is bulk, too: the same answers as its AnnData, and nothing to write to."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

from hpvade.io._frames import as_bulk

TABLE = pd.DataFrame({"CD3E": [1.0, 2.5], "MS4A1": [3.0, 0.0]}, index=["s1", "s2"])


def test_an_anndata_is_itself():
    bulk = ad.AnnData(np.ones((2, 2)))
    assert as_bulk(bulk) is bulk


@pytest.mark.parametrize(
    "table",
    [TABLE, TABLE.astype("Float64"), TABLE.astype("float32"), TABLE.round().astype(int), TABLE.round().astype("Int64")],
    ids=["float64", "Float64", "float32", "int", "Int64"],
)
def test_a_table_keeps_values_and_names(table):
    before = table.copy()
    bulk = as_bulk(table)
    np.testing.assert_array_equal(bulk.X, table.to_numpy(dtype=float))
    assert list(bulk.obs_names) == ["s1", "s2"] and list(bulk.var_names) == ["CD3E", "MS4A1"]
    pd.testing.assert_frame_equal(table, before)


def test_numbers_among_objects_are_numbers():
    mixed = TABLE.T.assign(biotype="protein_coding").T.drop("biotype")  # every column now holds objects
    assert set(mixed.dtypes.astype(str)) == {"object"}
    np.testing.assert_array_equal(as_bulk(mixed).X, TABLE.to_numpy(dtype=float))
    with pytest.raises(ValueError, match=r"written as text; .*`table\.astype\(float\)`"):
        as_bulk(TABLE.astype(str))


def test_missing_values_stay_missing():
    table = TABLE.astype("Float64")
    table.iloc[0, 0] = pd.NA
    np.testing.assert_array_equal(np.isnan(as_bulk(table).X), [[True, False], [False, False]])


def test_numbers_as_names_become_text():
    assert list(as_bulk(TABLE.reset_index(drop=True)).obs_names) == ["0", "1"]


def test_gene_names_in_a_column_are_pointed_at():
    table = TABLE.T.rename_axis("gene_id").reset_index()
    with pytest.raises(ValueError, match=r"'gene_id' hold no numbers.*table\.set_index\('gene_id'\)\.T"):
        as_bulk(table)
    pd.testing.assert_frame_equal(table.set_index("gene_id").T, TABLE, check_names=False)  # the cure is one


def test_a_mudata_is_refused_with_its_modalities():
    mdata = MuData({"rna": ad.AnnData(np.ones((2, 3))), "atac": ad.AnnData(np.ones((2, 4)))})
    with pytest.raises(
        TypeError, match=r"bulk is a MuData of 'rna', 'atac'; expected one of them\. Pass mdata\['rna'\]"
    ):
        as_bulk(mdata)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="ndarray; expected an AnnData or a DataFrame"):
        as_bulk(np.ones((2, 2)))


def test_a_path_is_to_be_read_first(tmp_path):
    for path in ("bulk.tsv", tmp_path / "bulk.tsv"):
        with pytest.raises(TypeError, match="expected an AnnData or a DataFrame. Read the file first, with hp.io.read"):
            as_bulk(path)
