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
    ax = proportions(table(n=200), kind="bars")
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


def test_colours_that_scanpy_stores():
    bulk = ad.AnnData(np.ones((5, 1)), obs=pd.DataFrame(index=table().index))
    bulk.obsm["p"] = table()
    bulk.uns["p_colors"] = ["red", "green", "blue"]
    ax = proportions(bulk, "p")
    assert [bars[0].get_facecolor() for bars in ax.containers] == [to_rgba(c) for c in ("red", "green", "blue")]
    ax = proportions(bulk, "p", palette=["black"])
    assert ax.containers[0][0].get_facecolor() == to_rgba("black")


@pytest.fixture
def grouped():
    bulk = ad.AnnData(np.ones((9, 1)), obs=pd.DataFrame(index=table(9).index))
    bulk.obsm["hpvade_proportions"] = table(9)
    bulk.obs["group"] = pd.Categorical(["y", "x", "y"] * 3, ["unused", "y", "x"])
    return bulk


def test_kind_is_chosen_by_number_and_groups(grouped):
    assert proportions(table(60)).containers and not proportions(table(61)).containers
    assert len(proportions(table(61)).images) == 1
    assert proportions(grouped, groupby="group").patches
    assert proportions(grouped, groupby="group", kind="bars").containers


@pytest.mark.parametrize("kind", ["box", "strip"])
def test_points_of_every_type_and_group(grouped, kind):
    ax = proportions(grouped, groupby="group", kind=kind, palette={"y": "red", "x": "blue"})
    points = {c.get_label(): c for c in ax.collections if c.get_label() in ("x", "y")}
    p = table(9)
    for name, colour, rows in (("y", "red", [0, 2, 3, 5, 6, 8]), ("x", "blue", [1, 4, 7])):
        where = points[name].get_offsets()
        np.testing.assert_allclose(where[:, 0], p.iloc[rows].to_numpy().ravel())
        assert (np.round(where[:, 1]) == np.tile([0, 1, 2], len(rows))).all()  # in the row of their type
        assert to_rgb(points[name].get_facecolor()[0]) == to_rgb(colour)
    assert (points["y"].get_offsets()[:3, 1] < points["x"].get_offsets()[:3, 1]).all()  # first group above
    assert [label.get_text() for label in ax.get_yticklabels()] == ["t0", "t1", "t2"]
    assert ax.yaxis_inverted()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["y (6)", "x (3)"]


def test_boxes_are_quartiles(grouped):
    ax = proportions(grouped, groupby="group")
    part = table(9).iloc[[0, 2, 3, 5, 6, 8]]
    box = ax.patches[1].get_path().vertices  # of the second type in the first group
    np.testing.assert_allclose([box[:, 0].min(), box[:, 0].max()], part["t1"].quantile([0.25, 0.75]))
    medians = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "black"]
    np.testing.assert_allclose(medians[:3], part.median())


def test_groups_have_the_colours_of_obs(grouped):
    grouped.uns["group_colors"] = ["black", "red", "blue"]  # of unused, y and x
    ax = proportions(grouped, groupby="group", kind="strip")
    colours = {c.get_label(): to_rgb(c.get_facecolor()[0]) for c in ax.collections if c.get_label() in ("x", "y")}
    assert colours == {"y": to_rgb("red"), "x": to_rgb("blue")}


def test_heat_map_shows_every_value_with_its_name(grouped):
    ax = proportions(grouped, kind="heatmap")
    p = table(9)
    samples, types = ([label.get_text() for label in labels] for labels in (ax.get_xticklabels(), ax.get_yticklabels()))
    assert sorted(samples) == sorted(p.index)
    assert types == list(p.mean().sort_values(ascending=False).index)
    np.testing.assert_allclose(ax.images[0].get_array(), p.loc[samples, types].T)
    ordered = proportions(grouped, kind="heatmap", order=["s3", "s1", "s2"])
    assert [label.get_text() for label in ordered.get_xticklabels()] == ["s3", "s1", "s2"]


def test_heat_map_puts_similar_samples_side_by_side():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 80)
    p = pd.DataFrame(np.where(kind[:, None] == 1, [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]), columns=list("ABC"))
    ax = proportions(p + rng.uniform(0, 0.02, p.shape))
    row = np.asarray(ax.images[0].get_array())[0] > 0.4
    assert (np.diff(row.astype(int)) != 0).sum() == 1  # one change from one kind to the other
    assert ax.get_xlabel() == "80 samples, similar ones side by side" and not ax.get_xticklabels()
    assert len(ax.get_yticklabels()) == 3


def test_heat_map_keeps_groups_together(grouped):
    ax = proportions(grouped, groupby="group", kind="heatmap", palette=["red", "blue"])
    samples = [label.get_text() for label in ax.get_xticklabels()]
    assert set(samples[:6]) == {"s0", "s2", "s3", "s5", "s6", "s8"}
    bands = [(patch.get_x(), patch.get_width(), patch.get_facecolor()) for patch in ax.patches]
    assert bands == [(-0.5, 6, to_rgba("red")), (5.5, 3, to_rgba("blue"))]
    assert ax.get_ylim()[1] < -1.3  # the band is inside


@pytest.mark.parametrize("n", [2, 60, 61, 1000])
def test_names_of_types_are_legible_for_any_number_of_samples(n):
    ax = proportions(table(n, 20), kind="heatmap")
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(a.y0 >= b.y1 - 1 for a, b in zip(boxes, boxes[1:], strict=False))  # none overlap
    named = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(named) == (n if n <= 60 else 0)
    assert all(a.x1 <= b.x0 + 1 for a, b in zip(named, named[1:], strict=False))


def test_groups_that_cannot_be_drawn(grouped):
    with pytest.raises(KeyError, match="'none' is no column of obs; it has group"):
        proportions(grouped, groupby="none")
    with pytest.raises(ValueError, match="kind='box'.*pass groupby"):
        proportions(grouped, kind="box")
    with pytest.raises(ValueError, match="kind='pie'.*bars, heatmap, box, strip"):
        proportions(grouped, kind="pie")
    with pytest.raises(ValueError, match="pass the series"):
        proportions(table(), groupby="group")
    grouped.obs["group"] = [None, *["a", "b"] * 4]
    with pytest.raises(ValueError, match=r"missing \(NaN\) for 1 samples: s0"):
        proportions(grouped, groupby="group")


def test_skipped_samples_are_left_out_of_boxes_and_heat_maps(grouped):
    grouped.obsm["hpvade_proportions"].iloc[1] = np.nan
    for kind in ("box", "heatmap"):
        with pytest.warns(UserWarning, match="s1"):
            ax = proportions(grouped, groupby="group", kind=kind)
    assert len(ax.get_xticklabels()) == 8


def test_a_series_of_groups_for_a_table():
    ax = proportions(table(4), groupby=pd.Series(["a", "a", "b", "b"], [f"s{i}" for i in (3, 2, 1, 0)]), kind="strip")
    points = next(c for c in ax.collections if c.get_label() == "a").get_offsets()
    np.testing.assert_allclose(points[:, 0], table(4).loc[["s2", "s3"]].to_numpy().ravel())
