"""Codes of metadata columns in scvi's registry."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hpvade.models.cycleae._context_field import ContextField, codes_of, describe

OBS = pd.DataFrame({"a.b": ["y", "x", None, "x"], "n": [True, False, True, True]}, index=list("abcd"))


@pytest.mark.parametrize(("missing", "code"), [("category", 2), ("mask", -1)])
def test_codes_follow_the_sorted_categories_and_the_mode(missing, code):
    adata = ad.AnnData(np.ones((4, 1)), obs=OBS)
    field = ContextField(["a.b", "n"], missing)
    state = field.register_field(adata)
    assert state["categories"] == [["x", "y"], [False, True]]
    np.testing.assert_array_equal(adata.obsm["_scvi_context"], [[1, 1], [0, 0], [code, 1], [0, 1]])
    other = ad.AnnData(np.ones((1, 1)), obs=pd.DataFrame({"n": [False], "a.b": ["y"]}, index=["z"]))
    assert ContextField(["a.b", "n"], missing).transfer_field(state, other) is state
    np.testing.assert_array_equal(other.obsm["_scvi_context"], [[1, 0]])
    assert field.get_summary_stats(state) == {"n_context_fields": 2}
    assert field.view_state_registry(state).row_count == 2


def test_values_and_missing_ones_that_were_not_there_are_refused():
    state = describe(OBS.dropna(), ["a.b", "n"], "category")
    with pytest.raises(ValueError, match="'a.b' is missing for 1 of 4 cells, and the model has seen no such cell"):
        codes_of(OBS, state, "adata.obs")
    with pytest.raises(ValueError, match="'n' holds 'maybe'"):
        codes_of(pd.DataFrame({"a.b": ["x"], "n": ["maybe"]}), state, "adata.obs")


def test_reserved_names_are_refused():
    with pytest.raises(ValueError, match="cannot be called 'base'"):
        describe(OBS.rename(columns={"n": "base"}), ["base"], "category")
    with pytest.raises(ValueError, match="'<missing>', the name of missing values"):
        describe(pd.DataFrame({"n": ["<missing>", "x"]}), ["n"], "category")
