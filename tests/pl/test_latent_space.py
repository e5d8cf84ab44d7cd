"""Row CV-13: pictures of the latent space."""

import numpy as np
import pandas as pd
import pytest

from hpvade.pl import latent_space
from hpvade.tl import layout

from .test_embedding import drawn_by_name


def cells(n, seed=0):
    rng = np.random.default_rng(seed)
    groups = pd.DataFrame({"cell_type": rng.choice(["B", "T"], n), "perturbation": rng.choice(["control", "drug"], n)})
    return rng.normal(size=(n, 5)) + 5 * (groups["cell_type"] == "B").to_numpy()[:, None], groups


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_cv_13_every_cell_is_drawn_at_its_place_in_two_panels(method):
    z, groups = cells(30)
    figure = latent_space(z, groups, method=method)
    points = layout(z, method)
    assert [axes.get_title() for axes in figure.axes] == ["cell_type", "perturbation"]
    for axes, column in zip(figure.axes, groups, strict=True):
        drawn = drawn_by_name(axes)
        assert set(drawn) == set(groups[column])
        for name, offsets in drawn.items():
            expected = np.unique(points[(groups[column] == name).to_numpy()], axis=0)
            np.testing.assert_allclose(offsets, expected, rtol=1e-5)
    assert figure.axes[0].get_xlabel() == {"pca": "PC 1", "tsne": "t-SNE 1", "umap": "UMAP 1"}[method]


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_cv_13_two_thousand_cells(method, tmp_path):
    z, groups = cells(2000)
    latent_space(z, groups, method=method).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_rows_must_agree():
    z, groups = cells(30)
    with pytest.raises(ValueError, match=r"\(29, 2\) for 30 cells"):
        latent_space(z, groups[:29])
