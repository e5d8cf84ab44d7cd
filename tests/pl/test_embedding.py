import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import hpvade as hp


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.random((6, 2)), obsm={"X_ivae_bottleneck": rng.random((6, 2)), "X_ivae": rng.random((6, 3))})
    adata.var_names = ["CD3D", "LYZ"]
    adata.obs["type"] = ["B", "T", "B", "T", "T", "B"]
    adata.obs["type"] = adata.obs["type"].astype("category").cat.add_categories("unused")
    adata.obs["depth"] = np.arange(6.0)
    return adata


def drawn_by_name(ax):
    """Where cells are drawn, by the name that the legend gives their colour; rows in order."""
    (points,) = ax.collections
    offsets, shades = np.asarray(points.get_offsets()), [to_hex(shade) for shade in points.get_facecolor()]
    legend = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    colours = [to_hex(handle.get_color()) for handle in legend.legend_handles]
    return {
        name: np.unique(offsets[np.array(shades) == colour], axis=0)
        for name, colour in zip(names, colours, strict=True)
    }


def test_groups_lie_where_their_cells_are(adata):
    ax = hp.pl.embedding(adata, color="type", palette={"B": "red", "T": "blue"})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B", "T"]
    drawn = drawn_by_name(ax)
    assert list(drawn) == ["B", "T"]
    for name, offsets in drawn.items():
        expected = adata.obsm["X_ivae_bottleneck"][(adata.obs["type"] == name).to_numpy()]
        np.testing.assert_allclose(offsets, np.unique(expected, axis=0))
    assert tuple(ax.get_legend().legend_handles[0].get_color()) == (1, 0, 0, 1)
    assert ax.get_xlabel() == "ivae_bottleneck 0" and ax.get_ylabel() == "ivae_bottleneck 1"


def test_no_group_lies_over_another():
    """Cells of two groups at one place: each is on top about as often."""
    adata = ad.AnnData(np.ones((400, 1)), obsm={"X": np.zeros((400, 2))})
    adata.obs["type"] = ["first"] * 200 + ["second"] * 200
    (points,) = hp.pl.embedding(adata, "X", color="type", palette={"first": "red", "second": "blue"}).collections
    first = points.get_facecolor()[:, 0] == 1
    assert first.sum() == 200 and 80 < first[-200:].sum() < 120  # cells that are drawn last


def test_cells_without_a_group_are_not_drawn(adata):
    adata.obs["type"] = pd.Categorical(["B", None, "B", "T", "T", None])
    (points,) = hp.pl.embedding(adata, color="type").collections
    assert len(points.get_offsets()) == 4


@pytest.mark.parametrize(("color", "expected"), [("depth", np.arange(6.0)), ("LYZ", None)])
def test_numbers_and_genes_get_a_scale(adata, color, expected):
    ax = hp.pl.embedding(adata, color=color)
    np.testing.assert_allclose(ax.collections[0].get_array(), adata.X[:, 1] if expected is None else expected)
    assert len(ax.figure.axes) == 2 and ax.get_legend() is None


def test_three_axes_are_drawn_in_three_dimensions(adata):
    ax = hp.pl.embedding(adata, "X_ivae", color="type")
    assert ax.name == "3d" and ax.get_zlabel() == "ivae 2"
    flat = hp.pl.embedding(adata, "X_ivae", axes=(2, 0))
    np.testing.assert_allclose(flat.collections[0].get_offsets(), adata.obsm["X_ivae"][:, [2, 0]])


def test_draws_where_it_is_told(adata):
    _, ax = plt.subplots()
    assert hp.pl.embedding(adata, ax=ax) is ax


def test_what_is_not_there_is_named(adata):
    with pytest.raises(KeyError, match="no 'X_umap'.*X_ivae"):
        hp.pl.embedding(adata, "X_umap")
    with pytest.raises(KeyError, match="color='CD4' is neither"):
        hp.pl.embedding(adata, color="CD4")
    for axes in ((0,), (0, 2), (0, 1, 2)):
        with pytest.raises(ValueError, match="expected two or three of them"):
            hp.pl.embedding(adata, axes=axes)


def test_colours_that_scanpy_stored():
    adata = ad.AnnData(np.ones((4, 1)), obsm={"X": np.random.default_rng(0).random((4, 2))})
    adata.obs["type"] = pd.Categorical(["B", "T", "B", "T"], ["A", "B", "T"])  # no cell is A
    adata.uns["type_colors"] = ["red", "green", "blue"]
    ax = hp.pl.embedding(adata, "X", color="type")
    handles = ax.get_legend().legend_handles
    assert {one.get_label(): to_hex(one.get_color()) for one in handles} == {"B": to_hex("green"), "T": to_hex("blue")}
    assert set(map(to_hex, ax.collections[0].get_facecolor())) == {to_hex("green"), to_hex("blue")}
    ax = hp.pl.embedding(adata, "X", color="type", palette={"B": "black", "T": "red"})
    assert to_hex(ax.get_legend().legend_handles[0].get_color()) == to_hex("black")
