"""Differential expression: groups that are not there are named, in every family that offers it."""

import pytest

import hpvade as hp


@pytest.fixture(scope="module", params=["ambient", "cvae", "ivae"])
def model(request, families):
    made = families[request.param](hp.datasets.planted_contexts(90, 20, seed=0))
    made.train(1, accelerator="cpu", enable_progress_bar=False)
    return made


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "pass groupby="),
        ({"groupby": "absent"}, KeyError, r"'absent' is not a column of adata.obs; found \['cell_type'"),
        ({"groupby": "cell_type", "group1": "ghost"}, ValueError, "no cells of ghost; there are those of type_0"),
        ({"groupby": "cell_type", "group1": "type_0", "group2": "ghost"}, ValueError, "no cells of ghost"),
        ({"idx1": []}, ValueError, "idx1 selects no cells"),
        ({"idx1": "cell_type == 'ghost'"}, ValueError, "idx1 selects no cells"),
        ({"idx1": range(90)}, ValueError, "idx1 selects all cells of adata.obs; pass fewer, or idx2="),
    ],
)
def test_groups_that_are_not_there(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.differential_expression(**arguments)


def test_groups_are_compared_and_no_column_is_left(model):
    before = list(model.adata.obs)
    table = model.differential_expression(groupby="cell_type", group1="type_0", silent=True)
    assert set(table.index) == set(model.adata.var_names) and list(model.adata.obs) == before


def test_categories_without_cells_and_the_rest(model):
    """A category that no cell has is no group, and "rest" is all other cells."""
    model.adata.obs["kind"] = model.adata.obs["cell_type"].astype("category").cat.add_categories("ghost")
    try:
        table = model.differential_expression(groupby="kind", silent=True)
        assert set(table["group1"]) == set(model.adata.obs["cell_type"])
        one = {"groupby": "kind", "group1": "type_0", "silent": True}
        tables = [model.differential_expression(**one, group2=name) for name in (None, "rest")]
        assert list(tables[1]["comparison"].unique()) == ["type_0 vs Rest"] == list(tables[0]["comparison"].unique())
    finally:
        del model.adata.obs["kind"]


def test_no_column_is_left_after_an_error(model):
    before = list(model.adata.obs)
    with pytest.raises((TypeError, ValueError)):
        model.differential_expression(idx1=[0, 1], m_permutation="many", use_permutation=True, silent=True)
    assert list(model.adata.obs) == before
