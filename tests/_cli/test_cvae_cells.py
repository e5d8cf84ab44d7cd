"""Cells of ``hpvade cvae``: a block at a time, those asked for only, the same from memory and from disk."""

import anndata as ad
import h5py
import numpy as np
import pytest

from hpvade._cli import _cvae_cells
from hpvade._cli._errors import UsageError
from hpvade.models.cvae import _h5_batches

from . import test_cvae

SMALL, data = test_cvae.SMALL, test_cvae.data  # arguments, and the fixture of cells in both formats
SOURCES = ["batches", "cells.h5ad"]


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("largest", [0, 2**30])
def test_cells_and_genes_are_those_of_the_whole_table(data, tmp_path, monkeypatch, source, largest):
    monkeypatch.setattr(_cvae_cells, "_IN_MEMORY", largest)
    whole = ad.read_h5ad(data / "cells.h5ad")
    before = files_in(data)
    with _cvae_cells.cells(data / source, tmp_path / "a/b/run", data / "hvg.txt", max_cells=130) as adata:
        assert adata.isbacked == (largest == 0)
        assert adata.var_names.tolist() == [f"gene_{g:02d}" for g in range(23, 3, -1)]
        expected = whole[:130, adata.var_names]
        np.testing.assert_array_equal(adata.X[:].toarray(), expected.X.toarray())
        assert adata.obs_names.tolist() == expected.obs_names.tolist()
        assert adata.obs["cell_type"].astype(str).tolist() == expected.obs["cell_type"].tolist()
    assert files_in(tmp_path) == [] and files_in(data) == before


def test_rows_beyond_max_cells_are_not_read(data, tmp_path, monkeypatch):
    asked, original = [], _h5_batches.H5Batches.__getitems__
    monkeypatch.setattr(
        _h5_batches.H5Batches, "__getitems__", lambda self, rows: asked.extend(rows) or original(self, rows)
    )
    with _cvae_cells.cells(data / "batches", tmp_path / "run", None, max_cells=110) as adata:
        assert adata.n_obs == 110
    assert sorted(asked) == list(range(110))  # each once
    with h5py.File(data / "batches/batch_1.h5", "a") as file:
        kept = file["X"][10:].copy()
        file["X"][10:] = np.nan  # cells 110 on
    try:
        with _cvae_cells.cells(data / "batches", tmp_path / "run", None, max_cells=110) as adata:
            assert np.isfinite(adata.X.data).all()
    finally:
        with h5py.File(data / "batches/batch_1.h5", "a") as file:
            file["X"][10:] = kept


def test_an_error_leaves_nothing_behind(data, tmp_path):
    (tmp_path / "genes.txt").write_text("gene_00\nno_such\n")
    for source in SOURCES:
        cells = _cvae_cells.cells(data / source, tmp_path / "run", tmp_path / "genes.txt")
        with pytest.raises(UsageError, match="1 of the 2 genes of .*genes.txt are not in .*, such as no_such"), cells:
            pass
    (tmp_path / "bad.h5ad").write_bytes(b"no")
    cells = _cvae_cells.cells(tmp_path / "bad.h5ad", tmp_path / "run", None)
    with pytest.raises(ValueError, match="bad.h5ad cannot be read as an h5ad file"), cells:
        pass
    assert files_in(tmp_path) == ["bad.h5ad", "genes.txt"]


def test_training_and_answers_are_the_same_from_disk(run, data, tmp_path, monkeypatch):
    infer = ["--predict-cell-types", "--analyze-perturbations", "--analyze-latent", "--device", "cpu"]
    for name, largest in (("memory", 2**30), ("disk", 0)):
        monkeypatch.setattr(_cvae_cells, "_IN_MEMORY", largest)
        paths = ["--data-dir", data / "batches", "--output-dir"]
        run("cvae", "train", *paths, tmp_path / name / "run", "--n-epochs", 2, *SMALL)
        model = tmp_path / name / "run/best_model.pt"
        run("cvae", "infer", "--model-path", model, *paths, tmp_path / name / "out", *infer)
    folders = [tmp_path / name / "out" for name in ("memory", "disk")]
    for file in ("latent_representations.npy", "predicted_cell_types.npy"):
        np.testing.assert_array_equal(*(np.load(folder / file) for folder in folders))
    effects = [(folder / "perturbation_effects.json").read_text() for folder in folders]
    assert effects[0] == effects[1]
