"""Expression by type: sums, flags, blocks, types that vary; its formulas are in test_profile_posterior.py."""

import anndata as ad
import numpy as np
import pytest

from hpvade.models.hpvade import _expression


def cube(table, layer=None):
    values = table.X if layer is None else table.layers[layer]
    return np.asarray(values, dtype=float).reshape(table.obs["sample"].nunique(), -1, table.n_vars)


def test_hp16_rows_of_a_sample_sum_to_its_fit(trained):
    table = trained.model.get_cell_type_expression(trained.bulk)
    assert table.obs_names[0] == f"{trained.bulk.obs_names[0]}|{trained.model.cell_types[0]}"
    observed = np.asarray(trained.bulk[:, table.var_names].X, dtype=float)
    fitted = cube(table).sum(axis=1)
    np.testing.assert_allclose(fitted.sum(axis=1), observed.sum(axis=1), rtol=0.15)
    correlation = [np.corrcoef(np.log(a + 10), np.log(b + 10))[0, 1] for a, b in zip(fitted, observed, strict=True)]
    assert min(correlation) > 0.98
    expected = trained.model.deconvolve(trained.bulk.copy())
    np.testing.assert_allclose(
        table.obs["proportion"].to_numpy().reshape(expected.shape), expected.to_numpy(), atol=1e-6
    )


def test_hp16_signature_of_every_type(trained):
    table = trained.model.get_cell_type_expression(trained.bulk)
    mean = cube(table, "expression").mean(axis=0).T
    reference = trained.model.get_signature_matrix(normalize="cpm").loc[table.var_names].to_numpy()
    for k in range(reference.shape[1]):
        assert np.corrcoef(np.log(mean[:, k] + 10), np.log(reference[:, k] + 10))[0, 1] > 0.95


def test_some_genes_have_the_values_they_have_among_all(trained):
    genes = list(trained.bulk.var_names[[40, 7, 200]])
    few = trained.model.get_cell_type_expression(trained.bulk, genes=genes)
    every = trained.model.get_cell_type_expression(trained.bulk)
    assert list(few.var_names) == genes
    for layer in ("expression", "variance"):
        np.testing.assert_allclose(few.layers[layer], every[:, genes].layers[layer], rtol=1e-5)


def test_flags_follow_the_threshold(trained):
    table = trained.model.get_cell_type_expression(trained.bulk, min_resolved=0.2)
    assert table.varm["is_resolved"].equals(table.varm["resolved"] >= 0.2)
    assert ((table.varm["resolved"] >= 0) & (table.varm["resolved"] <= 1)).all(axis=None)


def test_one_sample_keeps_the_reference_and_says_so(trained):
    with pytest.warns(UserWarning, match="One sample"):
        table = trained.model.get_cell_type_expression(trained.bulk[:1].copy())
    reference = trained.model.get_signature_matrix(normalize="cpm").loc[table.var_names].to_numpy()
    np.testing.assert_allclose(cube(table, "expression")[0].T, reference, rtol=1e-4)
    assert not table.varm["is_resolved"].to_numpy().any()


def test_names_that_repeat_are_refused(trained):
    bulk = trained.bulk.copy()
    bulk.obs_names = ["s"] * bulk.n_obs
    with pytest.raises(ValueError, match=r"obs_names has 's' more than once.*obs_names_make_unique"):
        trained.model.get_cell_type_expression(bulk)


def test_bulk_is_unchanged_and_bad_arguments_are_named(trained, literal, unchanged):
    with unchanged(trained.bulk):
        trained.model.get_cell_type_expression(trained.bulk)
        with pytest.raises(KeyError, match="nogene"):
            trained.model.get_cell_type_expression(trained.bulk, genes=["nogene"])
        with pytest.raises(ValueError, match="genes is empty"):
            trained.model.get_cell_type_expression(trained.bulk, genes=[])
        with pytest.raises(ValueError, match="min_resolved"):
            trained.model.get_cell_type_expression(trained.bulk, min_resolved=2)
    with pytest.raises(NotImplementedError, match="preset='default'"):
        literal.model.get_cell_type_expression(literal.bulk)


def assert_same_table(found, expected, rtol=1e-4):
    found = found.to_memory()
    assert found.obs[["sample", "cell_type"]].equals(expected.obs[["sample", "cell_type"]])
    np.testing.assert_array_equal(found.var_names, expected.var_names)
    np.testing.assert_allclose(found.obs["rna_proportion"], expected.obs["rna_proportion"], atol=1e-5)
    for layer in (None, "expression", "variance"):
        # proportions of a cohort in blocks agree to 1e-5, and what is made of them to that of the sample's largest
        a, b = cube(found, layer), cube(expected, layer)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * 1e-1 * b.max(), err_msg=str(layer))
    np.testing.assert_allclose(found.varm["resolved"], expected.varm["resolved"], atol=1e-4)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_expression, "_BLOCK_VALUES", 5000)


def test_blocks_change_nothing(trained, monkeypatch):
    expected = trained.model.get_cell_type_expression(trained.bulk)
    monkeypatch.setattr(_expression, "_BLOCK_VALUES", 1)  # one sample at a time
    found = trained.model.get_cell_type_expression(trained.bulk)
    for layer in ("expression", "variance"):
        np.testing.assert_allclose(found.layers[layer], expected.layers[layer], rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(found.X, expected.X, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_cohort_in_dask(trained, tmp_path, small_blocks, kind):
    da = pytest.importorskip("dask.array")
    from scipy import sparse

    X = da.from_array(np.asarray(trained.bulk.X), chunks=(13, 100))
    X = X.map_blocks(sparse.csr_matrix) if kind == "sparse" else X
    lazy = ad.AnnData(X, obs=trained.bulk.obs.copy(), var=trained.bulk.var.copy())
    expected = trained.model.get_cell_type_expression(trained.bulk)
    assert_same_table(trained.model.get_cell_type_expression(lazy), expected)
    if kind == "dense":
        found = trained.model.get_cell_type_expression(lazy, store=tmp_path / "x.zarr")
        assert_same_table(found, expected)
    with pytest.raises(ValueError, match="to_memory"):
        trained.model.get_cell_type_expression(lazy, input_type="log2")
