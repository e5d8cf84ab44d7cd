import numpy as np
import pandas as pd
import pytest

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
        ordered = table.sort_values((name, "median"))[name]
        segments = np.array(ax.collections[0].get_segments())
        np.testing.assert_allclose(segments[:, :, 1], ordered[["lower", "upper"]])
        np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 1], ordered["median"])
        assert [label.get_text() for label in ax.get_xticklabels()] == list(ordered.index)
    drawn = fig.axes[1].collections[2].get_offsets()[:, 1]
    np.testing.assert_allclose(drawn, truth.loc[table.sort_values(("B", "median")).index, "B"])


def test_missing_samples_do_not_count(table):
    truth = table.xs("median", axis=1, level=1).iloc[:2]
    assert intervals(table, truth).axes[0].get_title() == "A: 2 of 2"


def test_many_samples_have_no_names(table):
    many = pd.concat([table] * 10)
    assert not intervals(many).axes[0].get_xticklabels()


def test_bad_tables(table):
    with pytest.raises(ValueError, match="no table of intervals"):
        intervals(table["A"])
    with pytest.raises(ValueError, match="shares no type"):
        intervals(table, pd.DataFrame({"Z": [1.0]}, ["s0"]))
    with pytest.raises(ValueError, match="no sample"):
        intervals(table, pd.DataFrame({"A": [1.0]}, ["other"]))
