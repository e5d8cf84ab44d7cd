import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hpvade import pl
from hpvade.pl import signatures


@pytest.fixture
def table():
    """Background genes, and two markers planted for each of three types that differ in RNA content."""
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 1.05, (20, 3))
    values[[0, 1], 0], values[[2, 3], 1], values[[4, 5], 2] = (90, 80), (70, 60), (50, 40)
    names = [f"{kind}{i}" for kind in "abc" for i in (1, 2)] + [f"g{i}" for i in range(14)]
    return pd.DataFrame(values * [1, 5, 0.2], index=names, columns=["A", "B", "C"])


def image(ax):
    return np.asarray(ax.images[0].get_array())


def rows(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_planted_markers_are_found_and_grouped_by_type(table):
    ax = signatures(table, n_genes=2)
    assert rows(ax) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "C"]
    np.testing.assert_array_equal(image(ax).argmax(axis=1), [0, 0, 1, 1, 2, 2])


def test_colours_are_z_scores_of_log1p_cp10k(table):
    ax = signatures(table, n_genes=2)
    expected = stats.zscore(np.log1p(1e4 * table / table.sum()).loc[rows(ax)], axis=1)
    np.testing.assert_allclose(image(ax), expected)
    low, high = ax.images[0].get_clim()
    assert low == -high == pytest.approx(-np.abs(expected).max())


def test_anndata_and_scale_free(table):
    adata = ad.AnnData(np.ones((2, 20)), var=pd.DataFrame(index=table.index))
    adata.varm["hpvade_signatures"] = table
    np.testing.assert_allclose(image(signatures(adata)), image(signatures(table * [10, 100, 0.1])))
    with pytest.raises(KeyError, match="no 'absent'"):
        signatures(adata, key="absent")


def test_gene_names_do_not_overlap():
    rng = np.random.default_rng(1)
    ax = signatures(pd.DataFrame(rng.lognormal(size=(500, 25)), index=[f"GENE{i}" for i in range(500)]))
    ax.figure.canvas.draw()
    boxes = sorted((label.get_window_extent() for label in ax.get_yticklabels()), key=lambda box: box.y0)
    assert len(boxes) == 125
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in zip(boxes[:-1], boxes[1:], strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[["A"]], "at least two types"),
        (lambda t: t - 10, "linear"),
        (lambda t: t * np.nan, "linear"),
        (lambda t: t.assign(B=0), "expressed in B"),
        (lambda t: t * 0 + 1, "No gene differs"),
    ],
)
def test_bad_signatures(table, change, message):
    with pytest.raises(ValueError, match=message):
        signatures(change(table))


def test_given_axes_and_alias(table):
    _, ax = plt.subplots()
    assert signatures(table, ax=ax) is ax
    assert pl.signature is pl.signatures
