import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import hpvade as hp
from hpvade.io._modalities import one_modality, split_path

CELLS = ["c1", "c2", "c3"]
TYPES = pd.Series(["B", "T", "NK"], CELLS, name="cell_type", dtype="category")


@pytest.fixture
def mdata() -> MuData:
    """RNA with its cells the other way round, and ATAC; types of the cells are in the MuData's obs alone."""
    rna = ad.AnnData(np.arange(6.0).reshape(3, 2), obs=pd.DataFrame({"donor": list("abc")}, index=CELLS))[::-1].copy()
    made = MuData({"rna": rna, "atac": ad.AnnData(np.ones((3, 4)), obs=pd.DataFrame(index=CELLS))})
    made.obs["cell_type"] = TYPES
    return made


def test_an_adata_stays_itself():
    adata = ad.AnnData(np.ones((2, 2)))
    for modality in (None, "rna"):  # the setup of a loaded model is repeated with the modality of its data
        with one_modality(adata, modality, ["cell_type"]) as found:
            assert found is adata


def test_columns_of_the_mudata_come_by_name_of_the_cell(mdata):
    with one_modality(mdata, "rna", ["cell_type", "donor", "absent", None]) as adata:
        assert adata is mdata["rna"]
    assert adata.obs["cell_type"].to_dict() == TYPES.to_dict()
    assert list(adata.obs_names) == CELLS[::-1] and list(adata.obs["donor"]) == list("cba")
    assert list(mdata["atac"].obs) == []


def test_after_an_error_the_modality_is_as_it_was(mdata):
    before = mdata["rna"].obs.copy()
    with pytest.raises(ZeroDivisionError), one_modality(mdata, "rna", ["cell_type"]):
        raise ZeroDivisionError
    pd.testing.assert_frame_equal(mdata["rna"].obs, before)


@pytest.mark.parametrize(
    ("spoil", "modality", "error", "message"),
    [
        (lambda m: m, None, TypeError, r"adata is a MuData of 'rna', 'atac'.*modality='rna', or mdata\['rna'\]"),
        (lambda m: m, "protein", KeyError, r"modality='protein' is not in mdata.mod; found \['rna', 'atac'\]"),
        (lambda m: m[:2], "rna", ValueError, "view of another MuData; run `mdata = mdata.copy"),
        (lambda m: [1], "rna", TypeError, "adata is a list; expected an AnnData"),
    ],
)
def test_what_is_no_modality_is_refused(mdata, spoil, modality, error, message):
    with pytest.raises(error, match=message), one_modality(spoil(mdata), modality):
        pass


# ---------------------------------------------------------------- files


@pytest.fixture(params=["h5mu", "zarr"])
def file(request, mdata, tmp_path):
    """A MuData on disk."""
    path = tmp_path / f"both.{request.param}"
    mdata.write(path) if request.param == "h5mu" else mdata.write_zarr(path)
    return path


@pytest.mark.parametrize("read", [hp.io.read_bulk, hp.io.read_reference])
def test_a_path_names_the_modality(file, mdata, read):
    found = read(file / "rna")
    np.testing.assert_array_equal(found.X, mdata["rna"].X)
    assert list(found.obs_names) == CELLS[::-1]
    assert list(found.obs) == ["donor", "cell_type"]  # not "rna:donor", which is the same column
    assert found.obs["cell_type"].astype(str).to_dict() == TYPES.to_dict()


@pytest.mark.parametrize("read", [hp.io.read_bulk, hp.io.read_reference])
def test_without_a_modality_the_paths_are_proposed(file, read):
    with pytest.raises(ValueError, match="is a MuData of "):
        read(file)
    with pytest.raises(ValueError, match="has no modality 'protein'; it is a MuData"):
        read(file / "protein")


def test_a_labels_table_is_joined_to_a_modality(file, tmp_path):
    pd.DataFrame({"barcode": CELLS, "sort": ["x", "y", "z"]}).to_csv(tmp_path / "labels.csv", index=False)
    found = hp.io.read_reference(file / "rna", tmp_path / "labels.csv")
    assert list(found.obs["sort"]) == ["z", "y", "x"]


def test_modalities_of_other_files_do_not_exist(tmp_path):
    (tmp_path / "table.csv").write_text("gene,a\nCD3E,1\n")
    for path in (tmp_path / "table.csv" / "rna", tmp_path / "absent.h5mu" / "rna"):
        with pytest.raises(FileNotFoundError, match="rna does not exist"):
            hp.io.read_bulk(path)
    assert split_path(tmp_path / "absent.h5mu" / "rna")[1] is None
