"""Row CV-15: folders of HDF5 batches as AnnData."""

import h5py
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade.models.cvae._h5_batches import H5Batches


@pytest.fixture
def folder(tmp_path):
    counts = np.random.default_rng(0).poisson(1, (7, 4)).astype(np.float32)
    genes = np.array(["a", "b", "c", "d"])
    for i, (rows, order) in enumerate(((slice(0, 4), [0, 1, 2, 3]), (slice(4, 7), [2, 0, 3, 1]))):
        with h5py.File(tmp_path / f"batch_{i}.h5", "w") as file:
            file["X"], file["genes"] = counts[rows][:, order], genes[order].tolist()
            file["cells"] = [f"c{j}" for j in range(7)][rows]
            file["obs/cell_type"] = ["B", "T", "B", "T", "B", "T", "B"][rows]
            file["obs/umi_count"] = counts[rows].sum(axis=1)
    return tmp_path, counts


def test_cv_15_one_table_in_the_order_of_the_first_file(folder):
    adata = hp.pp.read_h5_batches(folder[0])
    np.testing.assert_array_equal(adata.X.toarray(), folder[1])
    assert adata.X.format == "csr" and adata.X.dtype == np.float32
    assert adata.var_names.tolist() == list("abcd") and adata.obs_names.tolist() == [f"c{j}" for j in range(7)]
    assert adata.obs["cell_type"].tolist() == list("BTBTBTB") and adata.obs["cell_type"].dtype == "category"
    np.testing.assert_array_equal(adata.obs["umi_count"], folder[1].sum(axis=1))
    assert hp.pp.read_h5_batches(folder[0], max_cells_per_batch=2).obs_names.tolist() == ["c0", "c1", "c4", "c5"]


def test_cv_15_backed_reads_the_same_from_disk(folder, tmp_path):
    path = tmp_path / "cells.h5ad"
    backed = hp.pp.read_h5_batches(folder[0], backed=path)
    assert backed.isbacked
    np.testing.assert_array_equal(backed.X[:].toarray(), folder[1])
    pd.testing.assert_frame_equal(backed.obs, hp.pp.read_h5_batches(folder[0]).obs)
    with pytest.raises(ValueError, match="cells.h5ad exists"):
        hp.pp.read_h5_batches(folder[0], backed=path)


@pytest.mark.parametrize("backed", [None, "some.h5ad"])
def test_some_cells_and_genes_are_those_of_the_whole_table(folder, tmp_path, backed):
    part = hp.pp.read_h5_batches(folder[0], max_cells=5, genes=["d", "a"], backed=backed and tmp_path / backed)
    whole = hp.pp.read_h5_batches(folder[0])[:5, ["d", "a"]]
    np.testing.assert_array_equal(part.X[:].toarray(), whole.X.toarray())
    assert part.obs_names.tolist() == whole.obs_names.tolist() and part.var_names.tolist() == ["d", "a"]


def test_a_failed_read_leaves_no_file(folder, tmp_path):
    with h5py.File(folder[0] / "batch_1.h5", "a") as file:
        del file["genes"]
    with pytest.raises(KeyError, match="batch_1.h5"):
        hp.pp.read_h5_batches(folder[0], backed=tmp_path / "cells.h5ad")
    assert not list(tmp_path.glob("*cells.h5ad*"))


def test_an_error_while_writing_leaves_no_file(folder, tmp_path, monkeypatch):
    def blocks(self):
        yield np.ones((2, 4), dtype=np.float32)
        raise OSError("disk full")

    monkeypatch.setattr(H5Batches, "blocks", blocks)
    with pytest.raises(OSError, match="disk full"):
        hp.pp.read_h5_batches(folder[0], backed=tmp_path / "cells.h5ad")
    assert all(path.name.startswith("batch_") for path in tmp_path.iterdir())
