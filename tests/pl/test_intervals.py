import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from hpvade.pl import intervals


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    values = np.sort(rng.random((6, 3, 3)), axis=2)
    columns = pd.MultiIndex.from_product([list("ABC"), ["lower", "median", "upper"]], names=["type", "bound"])
    return pd.DataFrame(values.reshape(6, 9), [f"s{i}" for i in range(6)], columns)


def test_lines_points_and_count(table):
    truth = pd.DataFrame({"A": table["A", "median"], "B": table["B", "upper"] + 0.1})
    truth.loc["s0", "A"] = 2
    fig = intervals(table, truth)
    assert [ax.get_title() for ax in fig.axes] == ["A: 5 of 6", "B: 0 of 6", "C"]
    for ax, name in zip(fig.axes, "ABC", strict=True):
        ordered = table[name]
        segments = np.array(ax.collections[0].get_segments())
        np.testing.assert_allclose(segments[:, :, 1], ordered[["lower", "upper"]])
        np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 1], ordered["median"])
        assert [label.get_text() for label in ax.get_xticklabels()] == list(table.index)
    np.testing.assert_allclose(fig.axes[1].collections[2].get_offsets()[:, 1], truth["B"])


def test_one_order_for_all_panels(table):
    fig = intervals(table, order="B")
    names = list(table.sort_values(("B", "median")).index)
    for ax, name in zip(fig.axes, "ABC", strict=True):
        np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 1], table.loc[names, (name, "median")])
        assert [label.get_text() for label in ax.get_xticklabels()] == names
    with pytest.raises(KeyError, match="order='Z'.*A, B, C"):
        intervals(table, order="Z")


def test_names_stand_below_the_lowest_panels_only(table):
    upper, lower = intervals(table[["A", "B"]], ncols=1).axes
    assert {label.get_text() for label in upper.get_xticklabels()} == {""}
    assert [label.get_text() for label in lower.get_xticklabels()] == list(table.index)


def test_bulk_with_bounds_and_colours(table):
    bulk = ad.AnnData(obs=pd.DataFrame(index=table.index))
    bulk.obsm["p"] = table.xs("median", axis=1, level=1).assign(unknown=0.1)
    with pytest.raises(KeyError, match="no p_lower, p_upper: store the bounds"):
        intervals(bulk, key="p")
    for bound in ("lower", "upper"):
        bulk.obsm[f"p_{bound}"] = table.xs(bound, axis=1, level=1)
    bulk.obsm["truth"] = table.xs("upper", axis=1, level=1)
    bulk.uns["p_colors"] = ["red", "green", "blue"]
    fig = intervals(bulk, "truth", key="p")
    assert [ax.get_title() for ax in fig.axes] == ["A: 6 of 6", "B: 6 of 6", "C: 6 of 6"]  # no bounds of the unknown
    for ax, name, colour in zip(fig.axes, "ABC", ("red", "green", "blue"), strict=True):
        segments = np.array(ax.collections[0].get_segments())
        np.testing.assert_allclose(segments[:, :, 1], table[name][["lower", "upper"]])
        assert to_rgb(ax.collections[1].get_facecolor()[0]) == to_rgb(colour)
    palette = {"A": "black", "B": "red", "C": "red"}
    assert to_rgb(intervals(bulk, key="p", palette=palette).axes[0].collections[1].get_facecolor()[0]) == (0, 0, 0)


def test_missing_samples_do_not_count(table):
    truth = table.xs("median", axis=1, level=1).iloc[:2]
    assert intervals(table, truth).axes[0].get_title() == "A: 2 of 2"


def test_many_samples_have_no_names(table):
    many = pd.concat([table] * 10)
    fig = intervals(many)
    assert not fig.axes[0].get_xticklabels()
    assert fig.get_supxlabel() == "60 samples, in one order"


def test_bad_tables(table):
    with pytest.raises(ValueError, match="no table of intervals"):
        intervals(table["A"])
    with pytest.raises(ValueError, match="shares no type"):
        intervals(table, pd.DataFrame({"Z": [1.0]}, ["s0"]))
    with pytest.raises(ValueError, match="no sample"):
        intervals(table, pd.DataFrame({"A": [1.0]}, ["other"]))
