import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import hpvade as hp


@pytest.fixture
def table():
    values = np.array([[0.5, -2.0, 1.0, 0.1], [0.0, 0.3, -0.2, 4.0]]).T
    return pd.DataFrame(values, index=["A", "B", "C", "D"], columns=["bottleneck_0", "bottleneck_1"])


def test_largest_of_both_signs_sorted(table):
    figure = hp.pl.loadings(table, n_genes=2)
    shown = [([label.get_text() for label in ax.get_yticklabels()], [bar.get_width() for bar in ax.patches])
             for ax in figure.axes]  # fmt: skip
    assert shown == [(["B", "C"], [-2.0, 1.0]), (["B", "D"], [0.3, 4.0])]
    assert figure.axes[0].get_title() == "bottleneck 0"


def test_given_axes(table):
    figure, axes = plt.subplots(1, 2)
    assert hp.pl.loadings(table, axes=axes) is figure
    with pytest.raises(ValueError, match="1 axes for 2 columns"):
        hp.pl.loadings(table, axes=[plt.subplots()[1]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_tables(table, value):
    table.iloc[0, 0] = value
    with pytest.raises(ValueError, match="expected finite loadings"):
        hp.pl.loadings(table)
    with pytest.raises(ValueError, match="expected finite loadings"):
        hp.pl.loadings(table.iloc[:0])
