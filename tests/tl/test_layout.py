import numpy as np
import pytest

from hpvade.tl import layout


@pytest.fixture
def groups():
    """Two groups far apart in 6 dimensions; the mask of the first."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6))
    x[:30] += 12
    return x, np.arange(60) < 30


def test_pca_equals_numpy(groups):
    x, _ = groups
    centred = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(layout(x)), np.abs(u[:, :2] * s[:2]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_groups_stay_apart_and_pictures_repeat(groups, method):
    x, first = groups
    points = layout(x, method)
    assert points.shape == (60, 2)
    np.testing.assert_array_equal(layout(x, method), points)
    centres = [points[part].mean(axis=0) for part in (first, ~first)]
    spread = max(points[part].std() for part in (first, ~first))
    assert np.linalg.norm(centres[0] - centres[1]) > spread


def test_bad_input():
    x = np.zeros((10, 3))
    for change, said in ((x[:3], r"\(3, 3\)"), (x[:, :1], r"\(10, 1\)"), (x * np.nan, "not finite")):
        with pytest.raises(ValueError, match=said):
            layout(change)
    with pytest.raises(ValueError, match="method='mds'"):
        layout(x, "mds")
