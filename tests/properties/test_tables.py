"""Tables and arrays: `tl.compare`, `tl.layout` and the summaries, on whatever a user's table holds."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from property_inputs import COUNTS, finite, refuse

import hpvade as hp

NAMES = ["a", "b", "c/d", " e ", "β", "", "1"]
NUMBERS = [0.0, 0.1, 0.5, 1.0, 2.0, -1.0, 1e-320, 1e300, np.nan, np.inf]


@st.composite
def tables(draw, values=NUMBERS):
    n, k = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    rows, columns = (draw(st.lists(st.sampled_from(NAMES), min_size=m, max_size=m)) for m in (n, k))
    cells = draw(st.lists(st.sampled_from(values), min_size=n * k, max_size=n * k))
    return pd.DataFrame(np.array(cells, dtype=float).reshape(n, k), index=rows, columns=columns)


def tried(what, function, *tables):
    before = [table.copy() for table in tables]
    found = error = None
    try:
        with np.errstate(all="raise", under="ignore"):
            found = function()
    except Exception as caught:  # noqa: BLE001
        error = caught
        refuse(error, what)
    COUNTS["refused" if error else "answered"] += 1
    for table, old in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(table, old)
    return found


@given(tables(), tables(), st.sampled_from([None, {"a": "b"}, {"x": "y"}, {}]), st.booleans())
def test_compare(prediction, truth, mapping, renormalize):
    def compare():
        return hp.tl.compare(prediction, truth, mapping, renormalize)

    found = tried("compare", compare, prediction, truth)
    if found is not None:
        ours, theirs = found
        assert list(ours.index) == list(theirs.index) and list(ours.columns) == list(theirs.columns)
        finite(ours.to_numpy(), "prediction")


@given(tables([0.0, 1.0, 2.5, -3.0, 1e30, np.nan, np.inf]), st.sampled_from(["pca", "umap", "tsne", "x"]))
def test_layout(table, method):
    found = tried("layout", lambda: hp.tl.layout(table.to_numpy(), "pca" if method in ("umap", "tsne") else method))
    if found is not None:
        assert found.shape == (len(table), 2)
        finite(found, "layout")


@given(tables(), st.sampled_from(["a", "absent", ["a", "b"]]))
def test_summaries(table, by):
    table = table.loc[:, ~table.columns.duplicated()]
    tried("stratified_summary", lambda: hp.tl.stratified_summary(table, by), table)
    tried("summarize_neighbourhoods", lambda: hp.tl.summarize_neighbourhoods(table), table)
