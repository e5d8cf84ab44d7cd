import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import hpvade as hp
from hpvade.pl import groups


@pytest.fixture
def table():
    made = pd.DataFrame(
        {
            "type": ["A", "B", "C"],
            "group": "ill",
            "reference": "ctrl",
            "log2_ratio": [0.2, -1.0, 2.0],
            "fdr": [0.6, 0.08, 0.0004],
        }
    )
    return made.assign(log2_lower=made["log2_ratio"] - 0.5, log2_upper=made["log2_ratio"] + 0.3)


def rows(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_estimates_intervals_and_fdr_of_every_type(table):
    ax = groups(table, palette=["red"])
    assert rows(ax) == ["C", "B", "A"] and ax.yaxis_inverted()  # the surest on top
    lines, points = ax.collections
    order = {name: i for i, name in enumerate(rows(ax))}
    y = table["type"].map(order)
    np.testing.assert_allclose(points.get_offsets(), np.column_stack([table["log2_ratio"], y]))
    segments = np.array(lines.get_segments())
    np.testing.assert_allclose(segments[:, :, 0], table[["log2_lower", "log2_upper"]])
    assert [to_hex(c) for c in points.get_facecolors()] == ["#ffffff", "#ff0000", "#ff0000"]
    said = {round(text.get_position()[1], 6): text.get_text() for text in ax.texts if text.get_text() != "FDR"}
    assert said[order["C"]] == "4e-04" and said[order["B"]] == "0.080" and said[order["A"]] == "0.60"
    assert "of ill to ctrl" in ax.get_xlabel()


def test_alpha_and_own_order(table):
    ax = groups(table, alpha=0.01, sort=False)
    assert rows(ax) == ["A", "B", "C"]
    assert [to_hex(c) == "#ffffff" for c in ax.collections[1].get_facecolors()] == [True, True, False]


def test_groups_of_a_bulk_have_their_colours():
    rng = np.random.default_rng(0)
    bulk = ad.AnnData(obs=pd.DataFrame({"g": list("abc") * 6}, index=[f"s{i}" for i in range(18)]))
    bulk.obsm["hpvade_proportions"] = pd.DataFrame(rng.dirichlet([5, 5, 5], 18), bulk.obs_names, list("XYZ"))
    found = hp.tl.compare_groups(bulk, "g", method="ols")
    bulk.uns["g_colors"] = ["black", "red", "blue"]
    ax = groups(bulk)
    b, c = ax.collections[1], ax.collections[3]
    assert {to_hex(x) for x in b.get_edgecolors()} == {"#ff0000"}
    assert {to_hex(x) for x in c.get_edgecolors()} == {"#0000ff"}
    np.testing.assert_allclose(b.get_offsets()[:, 0], found.loc[found["group"] == "b", "log2_ratio"])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b", "c"]
    assert (b.get_offsets()[:, 1] < c.get_offsets()[:, 1]).sum() >= 2 and "to a" in ax.get_xlabel()
    # without stored colours, those that pl.proportions gives the same groups
    del bulk.uns["g_colors"]
    strips = hp.pl.proportions(bulk, groupby="g", kind="strip")
    points = {p.get_label(): to_hex(p.get_facecolor()[0]) for p in strips.collections if p.get_label() in "abc"}
    ax = groups(bulk)
    assert [to_hex(ax.collections[i].get_edgecolors()[0]) for i in (1, 3)] == [points["b"], points["c"]]


def test_what_cannot_be_drawn(table):
    with pytest.raises(KeyError, match=r"no 'mine'. Run hpvade.tl.compare_groups\(bulk, groupby, key_added='mine'\)"):
        groups(ad.AnnData(np.ones((1, 1))), "mine")
    with pytest.raises(KeyError, match="no column fdr"):
        groups(table.drop(columns="fdr"))
    with pytest.raises(ValueError, match="alpha=1"):
        groups(table, alpha=1)
    with pytest.raises(ValueError, match="No type has an answer"):
        groups(table.assign(fdr=np.nan))
    assert rows(groups(table.assign(fdr=[0.5, np.nan, 0.1]))) == ["C", "A"]
