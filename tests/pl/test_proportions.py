import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba

from hpvade.pl import proportions


def table(n=5, k=3):
    values = np.random.default_rng(0).dirichlet(np.ones(k), n)
    return pd.DataFrame(values, index=[f"s{i}" for i in range(n)], columns=[f"t{i}" for i in range(k)])


def heights(ax):
    return np.array([[bar.get_height() for bar in bars] for bars in ax.containers]).T


def test_bars_are_the_values_stacked():
    p = table()
    ax = proportions(p)
    np.testing.assert_allclose(heights(ax), p)
    bottoms = np.array([[bar.get_y() for bar in bars] for bars in ax.containers]).T
    np.testing.assert_allclose(bottoms, p.cumsum(axis=1) - p, atol=1e-12)
    assert [label.get_text() for label in ax.get_xticklabels()] == p.index.tolist()
    # the legend reads from top to bottom like the bars
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["t2", "t1", "t0"]


def test_anndata_and_key():
    bulk = ad.AnnData(np.ones((5, 1)), obs=pd.DataFrame(index=table().index))
    bulk.obsm["hpvade_proportions"], bulk.obsm["other"] = table(), table().iloc[:, ::-1]
    np.testing.assert_allclose(heights(proportions(bulk)), table())
    np.testing.assert_allclose(heights(proportions(bulk, "other")), table().iloc[:, ::-1])
    with pytest.raises(KeyError, match="no 'absent'"):
        proportions(bulk, "absent")


def test_order_by_type_or_by_sample():
    p = table()
    assert np.all(np.diff(heights(proportions(p, order="t1"))[:, 1]) <= 0)
    np.testing.assert_allclose(heights(proportions(p, order=["s3", "s1"])), p.loc[["s3", "s1"]])
    with pytest.raises(KeyError, match="'t9'"):
        proportions(p, order="t9")
    with pytest.raises(KeyError, match="s9"):
        proportions(p, order=["s9"])


def test_palette():
    ax = proportions(table(), palette={"t0": "red", "t1": "green", "t2": "blue"})
    assert [bars[0].get_facecolor() for bars in ax.containers] == [to_rgba(c) for c in ("red", "green", "blue")]
    with pytest.raises(KeyError, match="t2"):
        proportions(table(), palette={"t0": "red", "t1": "green"})


def test_default_styles_are_all_different():
    ax = proportions(table(k=30))
    styles = {(to_rgb(bars[0].get_facecolor()), bars[0].get_hatch()) for bars in ax.containers}
    assert len(styles) == 30


def test_many_samples_lose_their_names_but_not_their_number():
    ax = proportions(table(n=200))
    assert len(ax.get_xticks()) == 0
    assert ax.get_xlabel() == "200 samples"
    top = ax.collections[1].get_paths()[0].vertices  # of the second type: as wide as the samples, as high as both
    assert (top[:, 0].min(), top[:, 0].max()) == (-0.5, 199.5)
    stacked = table(n=200).iloc[:, :2].sum(axis=1)
    np.testing.assert_allclose(top[:, 1].max(), stacked.max())


def test_legend_lies_outside_the_bars_and_inside_the_figure():
    ax = proportions(table(n=12, k=9).rename(columns={"t0": "a type with quite a long name"}))
    fig = ax.figure
    fig.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= ax.get_window_extent().x1
    assert legend.x1 <= fig.bbox.x1
    assert legend.y0 >= fig.bbox.y0


def test_draws_into_given_axes():
    _, ax = plt.subplots()
    assert proportions(table(), ax=ax) is ax
