"""Simulated bulk as AnnData: every cell has a gene of its own, so that counts tell which cells were drawn."""

import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from hpvade.reference._simulate import simulate_from_cells

types, donors = np.repeat([0, 1, 2], 20), np.tile([0, 1], 30)
genes = pd.Index([f"cell_{i}" for i in range(60)])


def simulate(X=None, n_samples=30, **kwargs):
    X = sparse.eye(60, format="csr") if X is None else X
    return simulate_from_cells(X, types, donors, ["B", "NK", "T"], genes, n_samples, **kwargs)


def test_hp13_labels_are_those_of_the_cells_drawn():
    bulk = simulate(n_cells=40, seed=0)
    assert bulk.shape == (30, 60) and bulk.X.dtype == np.float32
    assert list(bulk.var_names) == list(genes) and list(bulk.obs_names[:2]) == ["simulated_0", "simulated_1"]
    expected = np.stack([bulk.X[:, types == k].sum(axis=1) for k in range(3)], axis=1) / 40
    for key in ("proportions", "rna_proportions"):
        assert list(bulk.obsm[key].columns) == ["B", "NK", "T"] and bulk.obsm[key].index.equals(bulk.obs_names)
        np.testing.assert_allclose(bulk.obsm[key], expected, rtol=1e-7)
    np.testing.assert_array_equal(bulk.X.sum(axis=1), 40)
    assert bulk.uns["units"] == "counts"


@pytest.mark.parametrize("kind", [np.asarray, sparse.csc_matrix, sparse.csr_array])
def test_kind_of_matrix_does_not_matter(kind):
    np.testing.assert_array_equal(simulate(kind(np.eye(60)), seed=1).X, simulate(seed=1).X)


def test_indices_choose_cells_and_types_without_cells_have_no_share():
    indices = np.flatnonzero((types != 1) & (np.arange(60) % 3 == 0))[::-1]
    bulk = simulate(indices=indices, seed=2)
    assert set(np.flatnonzero(bulk.X.sum(axis=0))) <= set(indices)
    assert (bulk.obsm["proportions"]["NK"] == 0).all()
    np.testing.assert_allclose(bulk.obsm["proportions"].sum(axis=1), 1)
    np.testing.assert_array_equal(bulk.X.sum(axis=1), 1000)


def test_seed_or_torch_seed_decides():
    np.testing.assert_array_equal(simulate(seed=3).X, simulate(seed=3).X)
    assert (simulate(seed=3).X != simulate(seed=4).X).any()
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(simulate().X)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_share_of_samples_without_some_types(share):
    labels = simulate(n_samples=400, n_cells=3000, alpha=10.0, sparse_share=share, seed=0).obsm["proportions"]
    assert (labels == 0).any(axis=1).mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_samples": 0}, "n_samples=0"),
        ({"n_cells": 0}, "n_cells=0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"sparse_share": 1.5}, "sparse is 1.5"),
        ({"sparse_share": -0.1}, "sparse is -0.1"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        simulate(**kwargs)


def test_memory_is_that_of_the_samples(tmp_path):
    """Cells of a file are added up as they are read, so that five times as many take little more."""
    peaks = []
    for n_cells in (20_000, 100_000):
        path = tmp_path / f"{n_cells}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("X", (n_cells, 300), "f4", chunks=(4096, 300), fillvalue=1)
            tracemalloc.start()
            one = np.zeros(n_cells, dtype=int)
            bulk = simulate_from_cells(file["X"], one, one, ["B"], pd.RangeIndex(300), 4, n_cells=50, seed=0)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        np.testing.assert_array_equal(bulk.X, 50)
    assert peaks[1] - peaks[0] < 80_000 * 300  # bytes: an eighth of what their values and places take
