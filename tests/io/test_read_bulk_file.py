import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

SYMBOLS = ["CD3E", "CD19", "ACTB", "MS4A1", "NKG7", "LYZ", "CD8A", "HLA-A"]
SAMPLES = ["s1", "s2", "s3"]
COUNTS = np.random.default_rng(0).poisson(3000, (8, 3)) + np.arange(8)[:, None]


def test_h5ad_and_zarr_are_read_as_they_are(tmp_path):
    bulk = ad.AnnData(COUNTS.T.astype("f4"), pd.DataFrame(index=SAMPLES), pd.DataFrame(index=SYMBOLS))
    bulk.layers["tpm"] = bulk.X * 2
    bulk.write_h5ad(tmp_path / "a.h5ad")
    bulk.write_h5ad(tmp_path / "mislabelled.csv")
    bulk.write_zarr(tmp_path / "a.zarr")
    for name in ("a.h5ad", "mislabelled.csv", "a.zarr"):
        found = hp.io.read_bulk(tmp_path / name)
        np.testing.assert_array_equal(found.X, bulk.X)
        np.testing.assert_array_equal(found.layers["tpm"], bulk.layers["tpm"])


def test_an_excel_sheet_with_its_damage(tmp_path):
    pytest.importorskip("openpyxl")
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Table 1: counts of three samples"])
    sheet.append([])
    sheet.append(["Gene", *SAMPLES])
    for name, row in zip(SYMBOLS, COUNTS, strict=True):
        sheet.append([name, *map(int, row)])
    sheet.append([pd.Timestamp("2024-09-07").to_pydatetime(), 1, 2, 3.5])
    other = book.create_sheet("other")
    for row in (["gene", "s1", "s2"], ["CD3E", 1, 2], ["CD19", 3, 4], ["ACTB", 5, 6]):
        other.append(row)
    book.save(tmp_path / "a.xlsx")
    bulk = hp.io.read_bulk(tmp_path / "a.xlsx")
    np.testing.assert_allclose(bulk.X, np.vstack([COUNTS, [1, 2, 3.5]]).T)
    assert list(bulk.var_names) == [*SYMBOLS, "2024-09-07"]
    notes = " ".join(bulk.uns["hpvade_read"]["notes"])
    assert "sheet 'Sheet'" in notes and "'other'" in notes
    np.testing.assert_array_equal(hp.io.read_bulk(tmp_path / "a.xlsx", sheet="other").X, [[1, 3, 5], [2, 4, 6]])
    with pytest.raises(ValueError, match="no sheet 'third'"):
        hp.io.read_bulk(tmp_path / "a.xlsx", sheet="third")
    (tmp_path / "a.csv").write_bytes((tmp_path / "a.xlsx").read_bytes())
    assert hp.io.read_bulk(tmp_path / "a.csv").shape == (3, 9)


def test_what_is_not_there_and_what_is_cells(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        hp.io.read_bulk(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is a folder with nothing"):
        hp.io.read_bulk(tmp_path / "empty")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "matrix.mtx").touch()
    with pytest.raises(ValueError, match="read_reference"):
        hp.io.read_bulk(tmp_path / "cells")
