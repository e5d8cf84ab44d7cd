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


def test_groups_lie_where_their_cells_are(adata):
    ax = hp.pl.embedding(adata, color="type", palette={"B": "red", "T": "blue"})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B", "T"]
    for drawn, name in zip(ax.collections, ["B", "T"], strict=True):
        expected = adata.obsm["X_ivae_bottleneck"][(adata.obs["type"] == name).to_numpy()]
        np.testing.assert_allclose(drawn.get_offsets(), expected)
    assert tuple(ax.collections[0].get_facecolor()[0]) == (1, 0, 0, 1)
    assert ax.get_xlabel() == "ivae_bottleneck 0" and ax.get_ylabel() == "ivae_bottleneck 1"


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
    drawn = {points.get_label(): to_hex(points.get_facecolor()[0]) for points in ax.collections}
    assert drawn == {"B": to_hex("green"), "T": to_hex("blue")}
    ax = hp.pl.embedding(adata, "X", color="type", palette={"B": "black", "T": "red"})
    assert to_hex(ax.collections[0].get_facecolor()[0]) == to_hex("black")
