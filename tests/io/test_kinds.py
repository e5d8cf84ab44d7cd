import io

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import hpvade as hp
from hpvade.io._kinds import file_kind, read_whole


def test_kinds_are_told_by_content(tmp_path):
    (tmp_path / "a.h5ad").write_text("gene,a\nCD3E,1\n")
    assert file_kind(tmp_path / "a.h5ad") == "text"
    AnnData(obs={"a": ["b"]}).write_h5ad(tmp_path / "a.csv")
    assert file_kind(tmp_path / "a.csv") == "h5ad"
    with h5py.File(tmp_path / "ten.h5", "w") as file:
        file.create_group("matrix")
    assert file_kind(tmp_path / "ten.h5") == "10x_h5"
    (tmp_path / "ten").mkdir()
    (tmp_path / "ten" / "GSM1_matrix.mtx.gz").touch()
    assert file_kind(tmp_path / "ten") == "10x_mtx"


@pytest.mark.parametrize("read", [hp.io.read_bulk, hp.io.read_reference])
@pytest.mark.parametrize(
    "what", [None, 3, pd.DataFrame({"CD3E": [1.0]}), io.StringIO("gene,s1"), ad.AnnData(np.ones((2, 2)))]
)
def test_what_names_no_file_is_named(read, what):
    with pytest.raises(TypeError, match=f"Got a {type(what).__name__}; expected the name of a file"):
        read(what)
    with pytest.raises(ValueError, match="https://example.org/x.csv is an address.*Download it first"):
        read("https://example.org/x.csv")


def test_files_of_a_pattern_are_read(tmp_path):
    for name in ("s1", "s2"):
        text = "Name\tLength\tEffectiveLength\tTPM\tNumReads\nCD3E\t9\t9\t600000\t6\nCD19\t9\t9\t400000\t4\n"
        (tmp_path / f"{name}.genes.sf").write_text(text)
    assert hp.io.read_bulk(tmp_path.glob("*.sf")).X.tolist() == [[600000.0, 400000.0]] * 2


def test_other_hdf5_files_are_named(tmp_path):
    with h5py.File(tmp_path / "a.loom", "w") as file:
        file.create_group("matrix")
        file.create_group("row_attrs")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("weights")
    with pytest.raises(ValueError, match="is a loom file"):
        file_kind(tmp_path / "a.loom")
    with pytest.raises(ValueError, match="neither an h5ad nor a 10x one; it holds weights"):
        file_kind(tmp_path / "b.h5")


def test_a_damaged_h5ad_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["X"] = [1, 2]
        file.create_group("obs")
        file.create_group("var")
    with pytest.raises(ValueError, match=r"a\.h5ad cannot be read as an h5ad file"):
        read_whole(tmp_path / "a.h5ad", "h5ad")
