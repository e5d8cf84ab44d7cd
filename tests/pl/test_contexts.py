import numpy as np
import pandas as pd
import pytest

from hpvade import pl


@pytest.fixture
def influence():
    rows = {"base": (50, 40, 60), "sex": (2, 1, 4), "tissue": (5, 3, 6)}
    return pd.DataFrame(rows, index=["mean", "min", "max"]).T


@pytest.fixture
def effects():
    index = pd.MultiIndex.from_tuples([("base", "intercept"), ("sex", "f"), ("sex", "m")], names=["field", "category"])
    return pd.DataFrame([[9, 9, 9, 9], [1, -0.1, 0.2, 0], [-1, 0.1, -0.9, 0]], index=index, columns=list("ABCD"))


def test_bars_are_the_means_in_order_with_whiskers(influence):
    ax = pl.head_influence(influence)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["tissue", "sex"]
    assert [bar.get_height() for bar in ax.patches] == [5, 2]
    (whiskers,) = ax.collections
    np.testing.assert_allclose([segment[:, 1] for segment in whiskers.get_segments()], [[3, 6], [1, 4]])
    assert len(pl.head_influence(influence, base=True).patches) == 3
    with pytest.raises(KeyError, match="no column 'mean'"):
        pl.head_influence(influence.drop(columns="mean"))


def test_heat_map_holds_the_strongest_genes_on_a_symmetric_scale(effects):
    ax = pl.context_effects(effects, "sex", n_genes=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "C"]
    image = ax.images[0]
    np.testing.assert_allclose(image.get_array(), [[1, -1], [0.2, -0.9]])
    assert image.get_clim() == (-1, 1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["f", "m"]
    with pytest.raises(KeyError, match="no field 'age'; it has base, sex"):
        pl.context_effects(effects, "age")
    with pytest.raises(ValueError, match="n_genes is 0"):
        pl.context_effects(effects, "sex", n_genes=0)
