import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hpvade.pl import agreement


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    index = [f"s{i}" for i in range(15)]
    truth = pd.DataFrame(rng.dirichlet([4, 2, 1, 1, 1], 15), index=index, columns=list("ABCDE"))
    return 0.6 * truth + 0.4 * rng.dirichlet(np.ones(5), 15), truth


def test_points_figures_and_identity_line(pair):
    prediction, truth = pair
    fig = agreement(prediction, truth=truth)
    assert [ax.get_title() for ax in fig.axes] == list("ABCDE")
    for ax, name in zip(fig.axes, truth, strict=True):
        p, t = prediction[name], truth[name]
        np.testing.assert_allclose(ax.collections[0].get_offsets(), np.column_stack([t, p]))
        (line,) = ax.lines
        assert (line.get_slope(), *line.get_xy1()) == (1, 0, 0)
        assert ax.get_xlim() == ax.get_ylim()
        text = ax.texts[0].get_text()
        assert f"r = {stats.pearsonr(p, t)[0]:.2f}" in text
        assert f"RMSE = {np.sqrt(np.mean((p - t) ** 2)):.3f}" in text
        assert f"bias = {np.mean(p - t):+.3f}" in text


def test_anndata_with_a_stored_mapping(pair):
    prediction, truth = pair
    bulk = ad.AnnData(np.ones((15, 1)), obs=pd.DataFrame(index=truth.index))
    bulk.obsm["hpvade_proportions"] = prediction
    bulk.obsm["flow"] = pd.DataFrame({"AB": truth["A"] + truth["B"], "CDE": truth[["C", "D", "E"]].sum(axis=1)})
    bulk.uns["flow_mapping"] = {"A": "AB", "B": "AB", "C": "CDE", "D": "CDE", "E": "CDE"}
    fig = agreement(bulk, truth_key="flow")
    expected = np.column_stack([bulk.obsm["flow"]["AB"], prediction["A"] + prediction["B"]])
    np.testing.assert_allclose(fig.axes[0].collections[0].get_offsets(), expected)
    with pytest.raises(KeyError, match="'proportions'"):
        agreement(bulk)


def test_undefined_r_is_a_dash(pair):
    _, truth = pair
    fig = agreement(truth * 0 + 0.2, truth=truth)
    assert all(ax.texts[0].get_text().startswith("r = -\n") for ax in fig.axes)


def test_figures_stay_clear_of_the_points():
    t = np.linspace(0.1, 0.5, 20)
    truth = pd.DataFrame({"A": t, "B": 1 - t}, index=[f"s{i}" for i in range(20)])
    above, below = agreement(pd.DataFrame({"A": t + 0.3, "B": 0.7 - t}, index=truth.index), truth=truth).axes
    for ax in (above, below):
        ax.figure.canvas.draw()
        box = ax.texts[0].get_window_extent()
        points = ax.transData.transform(ax.collections[0].get_offsets())
        assert not any(box.contains(*point) for point in points)


def test_given_axes(pair):
    prediction, truth = pair
    fig, axes = plt.subplots(2, 3)
    assert agreement(prediction, truth=truth, axes=axes) is fig
    assert axes[1, 1].get_title() == "E"
    with pytest.raises(ValueError, match="1 axes for 5 types"):
        agreement(prediction, truth=truth, axes=axes[0, :1])


def test_a_table_needs_its_truth(pair):
    with pytest.raises(ValueError, match="pass truth=DataFrame"):
        agreement(pair[0])
