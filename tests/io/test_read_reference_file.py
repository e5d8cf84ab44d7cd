import gzip

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import io as scipy_io
from scipy import sparse

import hpvade as hp

GENES = ["CD3E", "CD19", "ACTB", "CD3E"]
CELLS = ["AAAC-1", "AAAG-1", "AAAT-1"]
X = np.array([[3, 0, 9, 1], [0, 2, 8, 0], [1, 0, 7, 0]])
SUMMED = np.array([[4, 0, 9], [0, 2, 8], [1, 0, 7]])


@pytest.fixture(params=["v3", "v2", "geo", "starsolo"])
def folder(request, tmp_path):
    """A 10x folder of the newer or the older kind, with a prefix as in GEO, or as STARsolo writes it."""
    path = tmp_path / request.param
    path.mkdir()
    prefix = "GSM1_" if request.param == "geo" else ""
    ids = [f"ENSG{i:011d}" for i in range(4)]
    zipped, newer = request.param in ("v3", "geo"), request.param != "v2"
    features = "".join(
        f"{a}\t{b}{chr(9) + 'Gene Expression' if newer else ''}\n" for a, b in zip(ids, GENES, strict=True)
    )
    files = {"features.tsv" if newer else "genes.tsv": features, "barcodes.tsv": "\n".join(CELLS) + "\n"}
    scipy_io.mmwrite(path / f"{prefix}matrix.mtx", sparse.csc_matrix(X.T))
    for name, text in files.items():
        (path / f"{prefix}{name}").write_text(text)
    if zipped:
        for file in list(path.iterdir()):
            (path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    return path


def test_10x_folders(folder):
    adata = hp.io.read_reference(folder)
    assert list(adata.var_names) == ["CD3E", "CD19", "ACTB"] and list(adata.obs_names) == CELLS
    np.testing.assert_array_equal(adata.X.toarray(), SUMMED)
    assert adata.X.format == "csr" and "1 names of genes" in " ".join(adata.uns["hpvade_read"]["notes"])
    matrix = next(folder.glob("*matrix.mtx*"))
    np.testing.assert_array_equal(hp.io.read_reference(matrix).X.toarray(), SUMMED)


def test_a_10x_folder_that_lacks_a_file(folder):
    next(folder.glob("*barcodes*")).unlink()
    with pytest.raises(ValueError, match="cannot be read as 10x matrix, features and barcodes"):
        hp.io.read_reference(folder)


def test_10x_h5(tmp_path):
    with h5py.File(tmp_path / "ten.h5", "w") as file:
        group, m = file.create_group("matrix"), sparse.csc_matrix(X.T)
        group["data"], group["indices"], group["indptr"], group["shape"] = m.data, m.indices, m.indptr, m.shape
        group["barcodes"] = np.array(CELLS, "S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(4)], "S")
        features["name"], features["genome"] = np.array(GENES, "S"), np.array(["GRCh38"] * 4, "S")
        features["feature_type"] = np.array(["Gene Expression"] * 4, "S")
    adata = hp.io.read_reference(tmp_path / "ten.h5")
    np.testing.assert_array_equal(adata.X.toarray(), SUMMED)


@pytest.mark.parametrize("turned", [False, True])
def test_tables(turned, tmp_path):
    table = pd.DataFrame(X[:, :3], CELLS, GENES[:3])
    (table if turned else table.T).to_csv(tmp_path / "cells.csv.gz")
    adata = hp.io.read_reference(tmp_path / "cells.csv.gz")
    assert list(adata.obs_names) == CELLS and list(adata.var_names) == GENES[:3]
    np.testing.assert_array_equal(adata.X.toarray(), X[:, :3])
    assert adata.X.format == "csr" and adata.X.dtype == np.float32


def written(tmp_path, text, name="obs.csv"):
    AnnData(X[:, :3].astype("f4"), pd.DataFrame(index=CELLS), pd.DataFrame(index=GENES[:3])).write_h5ad(
        tmp_path / "r.h5ad"
    )
    (tmp_path / name).write_text(text)
    return tmp_path / "r.h5ad", tmp_path / name


@pytest.mark.parametrize(
    "text",
    [
        'barcode,cell_type,donor,score\nAAAT-1,B,d2,"0,5"\nAAAC-1,T,d1,1\nAAAG-1,T,d1,2\n',
        "cell_type\tbarcode\tdonor\tscore\nB\tAAAT\td2\t0.5\nT\tAAAC\td1\t1\nT\tAAAG\td1\t2\n",
        '"cell_type" "donor" "score"\n"AAAT-1" "B" "d2" 0.5\n"AAAC-1" "T" "d1" 1\n"AAAG-1" "T" "d1" 2\n',
    ],
)
def test_labels_are_joined_by_barcode(text, tmp_path):
    reference, obs = written(tmp_path, text)
    adata = hp.io.read_reference(reference, obs)
    assert adata.obs["cell_type"].tolist() == ["T", "T", "B"] and adata.obs["donor"].tolist() == ["d1", "d1", "d2"]
    np.testing.assert_array_equal(adata.obs["score"], [1, 2, 0.5])
    assert list(adata.obs_names) == CELLS
    assert "3 of 3 cells joined" in adata.uns["hpvade_read"]["notes"][-1]


def test_cells_without_labels_are_counted_and_left_out(tmp_path):
    reference, obs = written(tmp_path, "barcode,cell_type\nAAAC-1,T\nAAAG-1,B\nGGGG-1,B\n")
    with pytest.warns(UserWarning, match="1 of 3 cells have no row in obs.csv, such as 'AAAT-1'"):
        adata = hp.io.read_reference(reference, obs)
    assert list(adata.obs_names) == CELLS[:2]
    assert "1 of its rows unused" in adata.uns["hpvade_read"]["notes"][-1]
    table = pd.DataFrame({"cell_type": ["T", "B", "T"]}, index=CELLS)
    assert hp.io.read_reference(reference, table).obs["cell_type"].tolist() == ["T", "B", "T"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("barcode,cell_type\nGGGG-1,T\nGGGC-1,B\n", "share no name: cells are .*AAAC-1.*GGGG-1"),
        ("barcode,cell_type\nAAAC-1,T\nAAAC-1,B\nAAAG-1,B\n", "named more than once"),
        ("barcode,cell_type,cell_type\nAAAC-1,T,T\n", "'cell_type' more than once"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        hp.io.read_reference(*written(tmp_path, text))


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        hp.io.read_reference(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a zarr folder, or matrix\.mtx"):
        hp.io.read_reference(tmp_path / "empty")
