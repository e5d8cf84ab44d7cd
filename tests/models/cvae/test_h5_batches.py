"""Row CV-15: folders of HDF5 batches."""

import h5py
import numpy as np
import pandas as pd
import pytest
from torch.utils.data import DataLoader

from hpvade.models.cvae._h5_batches import H5Batches

GENES = [f"g{i}" for i in range(6)]


def write(path, counts, genes=GENES, cells=None, **obs):
    with h5py.File(path, "w") as file:
        file["X"] = counts
        file["genes"] = list(genes)
        file["cells"] = [f"{path.stem}-{i}" for i in range(len(counts))] if cells is None else cells
        for name, values in obs.items():
            file[f"obs/{name}"] = values


@pytest.fixture
def folder(tmp_path):
    """Two files of 5 and 4 cells, the second with its genes reversed; and the counts in the order of the first."""
    counts = np.random.default_rng(0).poisson(3, (9, 6)).astype(np.float32)
    write(tmp_path / "batch_0.h5", counts[:5], umi_count=counts[:5].sum(axis=1), SRX_accession=["SRX1"] * 5)
    write(
        tmp_path / "batch_1.h5",
        counts[5:, ::-1],
        GENES[::-1],
        umi_count=counts[5:].sum(axis=1),
        SRX_accession=["SRX2"] * 4,
    )
    (tmp_path / "notes.txt").write_text("not a batch")
    return tmp_path, counts


def test_cv_15_genes_are_aligned_by_name(folder):
    cells = H5Batches(folder[0])
    assert len(cells) == 9 and list(cells.genes) == GENES
    np.testing.assert_array_equal(np.stack([cells[i] for i in range(9)]), folder[1])
    np.testing.assert_array_equal(cells.__getitems__([8, 0, 3, 3, 6]), folder[1][[8, 0, 3, 3, 6]])
    assert cells.obs["SRX_accession"].tolist() == ["SRX1"] * 5 + ["SRX2"] * 4
    np.testing.assert_array_equal(cells.obs["umi_count"], folder[1].sum(axis=1))
    np.testing.assert_array_equal(np.concatenate(list(cells.blocks())), folder[1])


def test_cv_15_workers_read_the_same_rows(folder):
    cells = H5Batches(folder[0])
    cells[0]  # an open handle must not travel to the workers
    loader = DataLoader(cells, batch_size=4, num_workers=2, collate_fn=np.asarray)
    np.testing.assert_array_equal(np.concatenate(list(loader)), folder[1])


def test_files_are_opened_once_per_process(folder, monkeypatch):
    cells, opened = H5Batches(folder[0]), []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, *args: opened.append(path) or original(path, *args))
    for i in (0, 7, 1, 8, 2):
        cells[i]
    assert len(opened) == 2
    cells.close()


def test_cv_15_cap_per_file(folder):
    cells = H5Batches(folder[0], max_cells_per_batch=2)
    np.testing.assert_array_equal(cells.__getitems__(range(4)), folder[1][[0, 1, 5, 6]])
    assert cells.obs.index.tolist() == ["batch_0-0", "batch_0-1", "batch_1-0", "batch_1-1"]
    with pytest.raises(ValueError, match="max_cells_per_batch=0"):
        H5Batches(folder[0], max_cells_per_batch=0)


def test_only_the_files_of_the_first_cells_are_opened(folder, monkeypatch):
    opened, original = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, *args: opened.append(path.name) or original(path, *args))
    cells = H5Batches(folder[0], max_cells=5)
    assert cells.obs.index.tolist() == [f"batch_0-{i}" for i in range(5)]
    np.testing.assert_array_equal(np.concatenate(list(cells.blocks())), folder[1][:5])
    assert set(opened) == {"batch_0.h5"}
    both = H5Batches(folder[0], max_cells=6, max_cells_per_batch=4)
    np.testing.assert_array_equal(both.__getitems__(range(len(both))), folder[1][[0, 1, 2, 3, 5, 6]])
    with pytest.raises(ValueError, match="max_cells=0"):
        H5Batches(folder[0], max_cells=0)


def test_genes_are_chosen_in_the_order_asked_for(folder):
    cells = H5Batches(folder[0], genes=["g4", "g1"])
    assert cells.genes.tolist() == ["g4", "g1"]
    np.testing.assert_array_equal(cells.__getitems__(range(9)), folder[1][:, [4, 1]])
    with pytest.raises(ValueError, match="2 of the 3 genes asked for are not in .*, such as x, y"):
        H5Batches(folder[0], genes=["x", "g1", "y"])
    with pytest.raises(ValueError, match="1 of the 2 genes asked for are named twice"):
        H5Batches(folder[0], genes=["g1", "g1"])


def test_blocks_are_no_longer_than_asked_for(folder):
    blocks = list(H5Batches(folder[0]).blocks(3))
    assert [len(block) for block in blocks] == [3, 2, 3, 1]  # five cells and four
    np.testing.assert_array_equal(np.concatenate(blocks), folder[1])


def test_table_of_cells_is_joined_by_barcode(folder, tmp_path):
    names = H5Batches(folder[0]).obs.index
    table = pd.DataFrame({"SRX_accession": "new", "cell_type": range(9)}, index=names)[::-1]
    table.to_csv(tmp_path / "obs.csv")
    obs = H5Batches(folder[0], obs_csv=tmp_path / "obs.csv").obs
    assert obs["cell_type"].tolist() == list(range(9)) and set(obs["SRX_accession"]) == {"new"}
    table.iloc[2:].to_csv(tmp_path / "obs.csv")
    with pytest.raises(KeyError, match="obs.csv lacks 2 of 9 cells, for example .*batch_1-2"):
        H5Batches(folder[0], obs_csv=tmp_path / "obs.csv")
    with pytest.raises(FileNotFoundError, match="no.csv"):
        H5Batches(folder[0], obs_csv=tmp_path / "no.csv")


@pytest.mark.parametrize("name", ["X", "genes", "cells"])
def test_cv_15_files_without_a_data_set_are_refused(folder, name):
    """Without gene names the order is unknown, so the file is refused and not read as if it were right."""
    with h5py.File(folder[0] / "batch_1.h5", "a") as file:
        del file[name]
    with pytest.raises(KeyError, match=f"batch_1.h5 has no data set '{name}'"):
        H5Batches(folder[0])


def test_cv_21_bad_folders_and_files(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no file batch_"):
        H5Batches(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        H5Batches(tmp_path / "nowhere")
    write(folder[0] / "batch_2.h5", np.ones((2, 6)), [*GENES[:5], "other"])
    with pytest.raises(ValueError, match=r"batch_2.h5 has other genes.*1 are missing \(g5\), 1 are new \(other\)"):
        H5Batches(folder[0])
    write(folder[0] / "batch_2.h5", np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"batch_2.h5: X has shape \(2, 5\)"):
        H5Batches(folder[0])
    write(folder[0] / "batch_2.h5", np.ones((2, 6)), umi_count=[1.0])
    with pytest.raises(ValueError, match="obs/umi_count has 1 values for 2 cells"):
        H5Batches(folder[0])
    write(folder[0] / "batch_2.h5", np.ones((2, 6)), umi_count=[1.0, 1.0])
    with pytest.raises(KeyError, match="SRX_accession"):
        H5Batches(folder[0])
    write(folder[0] / "batch_2.h5", np.ones((1, 6)), cells=["batch_0-1"], umi_count=[1.0], SRX_accession=["a"])
    with pytest.raises(ValueError, match="'batch_0-1' more than once"):
        H5Batches(folder[0])
    (folder[0] / "batch_2.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="batch_2.h5 cannot be read"):
        H5Batches(folder[0])
