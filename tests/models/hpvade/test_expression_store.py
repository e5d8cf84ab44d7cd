"""Expression by type in a zarr store: the same table, whole or not there."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from hpvade.io._names import named
from hpvade.models.hpvade import _expression, _expression_store

pytest.importorskip("zarr")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_expression, "_BLOCK_VALUES", 5000)


def test_a_store_holds_the_table(trained, tmp_path, unchanged):
    expected = trained.model.get_cell_type_expression(trained.bulk)
    with unchanged(trained.bulk):
        found = trained.model.get_cell_type_expression(trained.bulk, store=tmp_path / "x.zarr")
    assert not isinstance(found.X, np.ndarray)
    kind = trained.model.cell_types[1]
    of_kind = found[found.obs["cell_type"] == kind].layers["expression"]  # a slice reads what it needs
    np.testing.assert_array_equal(of_kind, expected[expected.obs["cell_type"] == kind].layers["expression"])
    for table in (found.to_memory(), ad.read_zarr(tmp_path / "x.zarr")):
        np.testing.assert_array_equal(table.X, expected.X)
        for layer in ("expression", "variance"):
            np.testing.assert_array_equal(table.layers[layer], expected.layers[layer])
        assert table.obs.equals(expected.obs)
        for key in ("resolved", "is_resolved"):
            assert table.varm[key].equals(expected.varm[key])
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]


def test_a_store_is_new_and_whole_or_not_there(trained, tmp_path, monkeypatch):
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(FileExistsError, match="there.zarr.*Remove it"):
        trained.model.get_cell_type_expression(trained.bulk, store=tmp_path / "there.zarr")
    calls, whole = [], _expression.posterior

    def breaks(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(_expression, "posterior", breaks)
    with pytest.raises(KeyboardInterrupt):
        trained.model.get_cell_type_expression(trained.bulk, store=tmp_path / "x.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["there.zarr"]


def test_names_that_zarr_cannot_hold(tmp_path):
    table = AnnData(np.zeros((2, 1)), var=pd.DataFrame(index=["g"]))
    table.varm["resolved"] = pd.DataFrame([[0.5, 1.0]], index=["g"], columns=["T/NK", "B"])
    with _expression_store.new_store(tmp_path / "x.zarr") as group:
        _expression_store.create_arrays(table.shape, group, 1)
        _expression_store.finish(group, table)
    assert named(ad.read_zarr(tmp_path / "x.zarr").varm["resolved"]).equals(table.varm["resolved"])
