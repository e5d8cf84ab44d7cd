"""Minibatches of stored counts against the dense matrix they came from."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, AnnTorchDataset
from scvi.data.fields import CategoricalObsField, LayerField
from scvi.dataloaders import AnnDataLoader

import hpvade.train._cells as cells_module
from hpvade.io._rows import use_sparse_matrix
from hpvade.train._cells import CellManager, StoredCells, hold_cells

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(0.8, (37, 9))
LABELS = RNG.integers(0, 3, 37)
OBS = pd.DataFrame({"type": pd.Categorical.from_codes(LABELS, list("abc"))}, index=[f"c{i}" for i in range(37)])


def in_file(path, X):
    ad.AnnData(X, obs=OBS).write_h5ad(path / "x.h5ad")
    return ad.read_h5ad(path / "x.h5ad", backed="r")


def in_dask(X, kind=None):
    array = pytest.importorskip("dask.array").from_array(X, chunks=(10, -1))
    return ad.AnnData(array if kind is None else array.map_blocks(kind), obs=OBS.copy())


KINDS = {
    "backed csr": lambda path: in_file(path, sparse.csr_matrix(COUNTS)),
    "backed csc": lambda path: in_file(path, sparse.csc_matrix(COUNTS)),
    "backed dense": lambda path: in_file(path, COUNTS.astype(float)),
    "dask": lambda path: in_dask(COUNTS),
    "dask csr": lambda path: in_dask(COUNTS, sparse.csr_matrix),
    "dask csr_array": lambda path: in_dask(COUNTS, sparse.csr_array),
}


def managed(adata):
    fields = [LayerField(REGISTRY_KEYS.X_KEY, None), CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, "type")]
    manager = CellManager(fields=fields)
    use_sparse_matrix(adata, None)
    manager.register_fields(adata)
    return manager


@pytest.mark.parametrize(
    "indices", [[30, 2, 2, 17, 36, 0, 5], [4, 6, 5, 3, 8, 9, 9], range(37)], ids=["far", "near", "all"]
)
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_minibatches_are_the_cells_asked_for_in_their_order(tmp_path, kind, held, indices):
    manager = managed(KINDS[kind](tmp_path))
    loader = AnnDataLoader(manager, indices=np.array(indices), batch_size=3)
    batches = list(hold_cells(loader) if held else loader)
    counts = np.concatenate([batch[REGISTRY_KEYS.X_KEY] for batch in batches])
    labels = np.concatenate([batch[REGISTRY_KEYS.LABELS_KEY] for batch in batches])
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts, COUNTS[indices])
    np.testing.assert_array_equal(labels[:, 0], LABELS[indices])


@pytest.mark.parametrize("kind", KINDS)
def test_all_cells_and_single_ones(tmp_path, kind):
    dataset = managed(KINDS[kind](tmp_path)).create_torch_dataset()
    np.testing.assert_array_equal(dataset[np.arange(37)][REGISTRY_KEYS.X_KEY], COUNTS)
    np.testing.assert_array_equal(dataset[4:9][REGISTRY_KEYS.X_KEY], COUNTS[4:9])
    np.testing.assert_array_equal(dataset[4][REGISTRY_KEYS.X_KEY], COUNTS[4:5])
    assert set(dataset[4]) == {REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.LABELS_KEY}


def test_asked_for_keys_only(tmp_path):
    manager = managed(KINDS["backed csr"](tmp_path))
    for key in (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.LABELS_KEY):
        assert set(manager.create_torch_dataset(data_and_attributes=[key])[2]) == {key}


def test_held_cells_are_few_and_read_once(tmp_path, monkeypatch):
    def loader():
        return hold_cells(AnnDataLoader(manager, indices=np.array([5, 3, 5])))

    manager = managed(KINDS["dask csr"](tmp_path))
    dataset = loader().dataset.dataset
    assert isinstance(dataset, StoredCells) and dataset._held.shape == (2, 9)
    dataset._counts = None
    np.testing.assert_array_equal(dataset[[5, 3]][REGISTRY_KEYS.X_KEY], COUNTS[[5, 3]])
    monkeypatch.setattr(cells_module, "_HELD_VALUES", 17)
    assert loader().dataset.dataset._held is None
    assert hold_cells(None) is None


def test_cells_in_memory_are_left_to_scvi():
    dataset = managed(ad.AnnData(sparse.csr_matrix(COUNTS), obs=OBS.copy())).create_torch_dataset()
    assert type(dataset) is AnnTorchDataset
    assert issubclass(CellManager, AnnDataManager)
